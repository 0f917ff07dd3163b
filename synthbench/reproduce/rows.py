"""The rows of a reproduction become requests to `run`; what they would take; what cannot be run, and why."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from synthbench import console, registry
from synthbench.config import Layer, config_path, merge, read_layer
from synthbench.data import sources
from synthbench.pipeline import plan, run
from synthbench.pipeline.steps import Step
from synthbench.protocol import load_protocol
from synthbench.reproduce.definition import Part, Row, Table, find, tables
from synthbench.store import Store, writing
from synthbench.types import UserError

SCALES = ("demo", "full")


@dataclass(frozen=True)
class Request:
    """The command line of `synthbench reproduce`, as given."""

    name: str
    runs: Path
    scale: str | None = None
    protocol: str | None = None
    volume: str | None = None
    seeds: int = 1
    device: str = "auto"
    tracking: bool = True


@dataclass
class Item:
    """A row on its way: what will be run, or why not; then what came out."""

    row: Row
    label: str
    request: run.Request | None = None
    steps: list[Step] = field(default_factory=list)
    reason: UserError | None = None
    run: str = ""
    cells: Mapping[str, Any] = field(default_factory=dict)


def default_scale() -> str:
    """As `run` chooses its protocol: full when the data of protocol `paper` are registered."""
    return "full" if run.choose_protocol(None)[0].name == "paper" else "demo"


def items(table: Table, request: Request, folder: Path) -> list[Item]:
    """Every row, planned. Protocols that rows change are written into `folder`."""
    scale: Part = getattr(table, str(request.scale))
    measured = not table.sweep and any(column.metric.startswith("verification/") for column in table.columns)
    found: list[Item] = []
    for row in table.rows:
        part: Part | str = getattr(row, str(request.scale))
        generator = row.generator or table.generator
        why = obstacle(row, table, str(request.scale))
        if why or isinstance(part, str):
            found.append(Item(row, row.label, reason=UserError(why)))
            continue
        settings = {**table.settings, **scale.settings, **row.settings, **part.settings} | ({table.sweep: row.value} if table.sweep else {})
        planned = part.volume or scale.volume
        other = f", at {request.volume}" if planned and request.volume not in (None, planned) and generator != "real" else ""
        made = Item(row, (part.label or row.label) + other)
        try:
            protocol = changed(request.protocol or scale.protocol, {**scale.change, **part.change}, folder)
            volume = None if generator == "real" else request.volume or planned
            wish = run.Request(
                generator, request.runs, volume, protocol, request.seeds, texts(settings), device=request.device, tracking=request.tracking
            )
            real = replace(wish, generator="real", volume=None, settings=())
            first = all(not item.request or item.request.protocol != protocol for item in found)
            if first and measured and generator != "real":  # the real baseline is measured anyway
                label = f"real under {Path(protocol).stem}" if part.change else "real"
                found.append(Item(Row(label=label), label, real, steps(real, False)))
            made.request, made.steps = wish, steps(wish, table.images_only)
        except UserError as error:
            made.request, made.reason = None, error
        found.append(made)
    return found


def obstacle(row: Row, table: Table, scale: str) -> str:
    """Why no synthbench of today can run a row at a scale; empty when it can, given the data."""
    part, generator = getattr(row, scale), row.generator or table.generator
    known = generator in registry.names("generator")
    return row.missing or (part if isinstance(part, str) else "" if known else f"synthbench has no generator {generator} yet")


def texts(settings: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(f"{name}={json.dumps(value)}" for name, value in settings.items())


def steps(wish: run.Request, images_only: bool) -> list[Step]:
    """The stages of a row. Raises UserError when it cannot be run, DataMissing when that is for lack of data."""
    protocol, _ = run.choose_protocol(wish.protocol)
    job = run.make_job(wish, Store(wish.runs.absolute()), protocol)
    if images_only:
        return [job.real, *job.network_steps("encoder", protocol.encoder), *job.generator_steps(0)]
    return run.stages(job, wish.seeds)


def changed(base: str, change: dict[str, Any], folder: Path) -> str:
    """The protocol `base`, or where something changes, the path of a protocol of its own with a name that says what."""
    if not change:
        return base
    leaves = [f"{key.rpartition('.')[2]}-{value}" for key, value in _flat(change)]
    data, word = dict(read_layer(config_path("protocols", base)).data), re.sub(r"[^A-Za-z0-9.-]", "-", "-".join(leaves)).lower()
    if "recipe" in change:
        old = config_path("recipes", data["recipe"])
        recipe = merge((read_layer(old), Layer(change["recipe"]))).data
        change = {**change, "recipe": str(_write(folder / "recipes" / f"{old.stem}-{word}.yaml", recipe))}
    data |= {**change, "name": f"{data['name']}-{word}", "title": f"{data['title']}; {', '.join(leaves)}"}
    return str(_write(folder / "protocols" / f"{data['name']}.yaml", data))


def _flat(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs = [(f"{prefix}{key}", value) for key, value in data.items()]
    return [leaf for key, value in pairs for leaf in (_flat(value, f"{key}.") if isinstance(value, dict) else [(key, value)])]


def _write(path: Path, data: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as tmp:
        tmp.write_text(yaml.safe_dump(data, sort_keys=False), "utf-8")
    return path.absolute()


# ---------------------------------------------------------------------------------------------------------------- costs


def listing(runs: Path, scales: Sequence[str], seeds: int = 1) -> None:
    """`--list`: everything there is, with what it would take, on stdout."""
    rows = []
    for name, table in sorted(tables().items(), key=lambda item: place(item[1])):
        for scale in scales:
            head, about = [f"{name}, {scale}"], [table.content, table.camera_ready, table.v1]
            absent = [source for source in load_protocol(getattr(table, scale).protocol).sources() if not sources.registered(source)]
            if absent:
                runs_of = sum(not obstacle(row, table, scale) for row in table.rows)
                rows.append([*head, str(runs_of), "unknown", "unknown", f"needs {', '.join(absent)}", *about])
                continue
            with tempfile.TemporaryDirectory() as folder:
                made = items(table, Request(name, runs, scale, seeds=seeds), Path(folder))
            count, todo, took = work(made, Store(runs.absolute()))
            closed = sum(item.reason is not None for item in made)
            remark = f"{closed} of {len(table.rows)} rows cannot be run" if closed else ""
            rows.append([*head, str(count), todo, took, remark, *about])
    header = ["name, scale", "runs", "stages to do", "time", "remark", "shows", "camera-ready", "v1"]
    console.table("reproductions", header, rows, sentences=("time", "remark", "shows"), breaks=("remark",))


def place(table: Table) -> tuple[bool, int]:
    """Where it stands in the paper: tables by their number, then figures."""
    kind, number = table.camera_ready.split(", ")[0].split(" ")
    return kind != "table", int(number)


def work(made: Sequence[Item], store: Store) -> tuple[int, str, str]:
    """(runs, stages to do of how many, time), stages that runs share once."""
    stages = {step.stage.folder: step for item in made for step in item.steps}
    todo = [step for step in stages.values() if step.stage.state != "cached"]
    known = [plan.estimate(step, store) for step in todo]
    unknown = sum(seconds is None for seconds in known)
    time = console.duration(sum(filter(None, known))) + (f" and {unknown} stages of unknown length" if unknown else "")
    time = "unknown" if unknown and unknown == len(todo) else time
    return sum(item.request is not None for item in made), f"{len(todo)} of {len(stages)}", time


def plan_only(request: Request) -> None:
    """`--dry-run`: every row with what it would take, or why it is skipped."""
    name, table = find(request.name)
    request = replace(request, scale=request.scale or default_scale())
    with tempfile.TemporaryDirectory() as folder:
        made = items(table, request, Path(folder))
    store, rows = Store(request.runs.absolute()), []
    for item in made:
        _, todo, time = work([item], store)
        rows.append([item.label, *(("skipped", "", str(item.reason)) if item.reason else ("run", todo, time))])
    header = ["row", "state", "stages to do", "time, or why not"]
    console.table(f"{name}, {request.scale} scale: {table.content}", header, rows, sentences=header[-1:])
    count, todo, time = work(made, store)
    console.note(f"{count} runs; {todo} stages to do, those that rows share once; time: {time}")
