"""The rows of a reproduction become requests to `run`; what they would take; what cannot be run, and why."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from synthbench import console, registry
from synthbench.config import Layer, config_path, merge, read_layer
from synthbench.data import sources
from synthbench.data.sources import Lacking
from synthbench.pipeline import default_protocol, rates, run, simulated
from synthbench.pipeline import plan as plans
from synthbench.pipeline.request import read
from synthbench.pipeline.steps import Step
from synthbench.protocol import load_protocol, missing, read_protocol
from synthbench.reproduce.definition import Part, Row, Table, find, tables
from synthbench.store import Store, writing
from synthbench.types import DataMissing, UserError

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
    lacking: Mapping[str, Lacking] = field(default_factory=dict)
    reason: UserError | None = None
    run: str = ""
    cells: Mapping[str, Any] = field(default_factory=dict)


def default_scale(request: Request) -> str:
    """As `run` chooses its protocol: full when the data of protocol `paper` are registered. Raises UserError where neither can be meant."""
    lacks = missing(load_protocol("paper"))
    if lacks and not request.protocol and (why := default_protocol.large(request.volume, load_protocol("demo"))):
        raise UserError(
            f"{why}, so say at which scale; demo, which is taken else, is hardly meant:\n"
            "  --scale demo: rendered faces, encoder, judge and benchmarks; at this volume hours or days\n"
            f"  --scale full: as published; lacks {', '.join(lacks)} (synthbench data status --protocol paper)"
        )
    return "demo" if lacks else "full"


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
                found.append(_closed(Item(Row(label=label), label, real, *steps(real, False))))
            made.request, (made.steps, made.lacking) = wish, steps(wish, table.images_only)
            _closed(made)
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


def _closed(item: Item) -> Item:
    """A row that lacks data is not run, and its plan is known all the same."""
    if item.lacking:
        item.request, item.reason = None, DataMissing(f"needs {', '.join(item.lacking)}")
    return item


def steps(wish: run.Request, images_only: bool) -> tuple[list[Step], dict[str, Lacking]]:
    """The stages of a row, and the data that it lacks. Raises UserError when it cannot be run."""
    order = read(wish)
    if not images_only:
        return order.steps, order.lacking
    job, protocol = order.job, order.protocol
    with sources.standing_in(protocol.sources()) as lacking:
        return [job.real, *job.network_steps("encoder", protocol.encoder), *job.generator_steps(0)], lacking


def changed(base: str, change: dict[str, Any], folder: Path) -> str:
    """The protocol `base`, or where something changes, the path of a protocol of its own with a name that says what."""
    if not change:
        return base
    leaves = [f"{key.rpartition('.')[2]}-{value}" for key, value in _flat(change)]
    data, word = dict(read_protocol(base).data), re.sub(r"[^A-Za-z0-9.-]", "-", "-".join(leaves)).lower()
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


def listing(runs: Path, scales: Sequence[str], seeds: int = 1, as_json: bool = False) -> None:
    """`--list`: everything there is, with what it would take, on stdout."""
    store, known = Store(runs.absolute()), []
    for name, table in sorted(tables().items(), key=lambda item: place(item[1])):
        for scale in scales:
            with tempfile.TemporaryDirectory() as folder:
                made = items(table, Request(name, runs, scale, seeds=seeds), Path(folder))
                total = work(made, store)  # while the protocols and recipes of the rows are there
            lacking = {name: item for row in made for name, item in row.lacking.items()}
            closed = sum(item.reason is not None and not item.lacking for item in made)
            remarks = [f"needs {', '.join(lacking)}"] if lacking else []
            remarks += [f"{closed} of {len(table.rows)} rows cannot be run"] if closed else []
            about = {"name": name, "shows": table.content, "camera_ready": table.camera_ready, "v1": table.v1, "scale": scale}
            known.append(about | {"runs": _runs(made), **asdict(total), "missing": list(lacking), "remark": "; ".join(remarks)})
    if as_json:
        print(json.dumps(known))
        return
    said = ("remark", "shows", "camera_ready", "v1")
    rows = [
        [
            f"{row['name']}, {row['scale']}",
            str(row["runs"]),
            f"{row['todo']} of {row['stages']}",
            _time(row),
            *(str(row[key]) for key in said),
        ]
        for row in known
    ]
    header = ["name, scale", "runs", "stages to do", "time", "remark", "shows", "camera-ready", "v1"]
    console.table("reproductions", header, rows, sentences=("time", "remark", "shows"), breaks=("remark",))


def _runs(made: Sequence[Item]) -> int:
    """Rows that can be run, or could with the data that they lack."""
    return sum(item.request is not None or bool(item.lacking) for item in made)


def _time(row: Mapping[str, Any]) -> str:
    if not row["todo"]:
        return "cached"
    if row["unknown"] == row["todo"]:
        return "unknown"
    return f"about {plans.roughly(row['seconds'])}" + (
        f" and {console.counted(row['unknown'], 'stage')} of unknown length" if row["unknown"] else ""
    )


def place(table: Table) -> tuple[bool, int]:
    """Where it stands in the paper: tables by their number, then figures."""
    kind, number = table.camera_ready.split(", ")[0].split(" ")
    return kind != "table", int(number)


def work(made: Sequence[Item], store: Store) -> plans.Total:
    """What rows come to, stages that they share once."""
    return plans.total(_look(made, store))


def _look(made: Sequence[Item], store: Store, device: rates.Device | None = None) -> list[plans.Planned]:
    return plans.look(plans.once(item.steps for item in made), store, device=device)


def plan_only(request: Request, as_json: bool = False, on: simulated.Machines | None = None) -> None:
    """`--dry-run`: every row with what it would take, or why it is skipped; on machines, when. Raises DataMissing at the end, when data are
    lacking."""
    plans.require_seeds(request.seeds)
    name, table = find(request.name)
    request = replace(request, scale=request.scale or default_scale(request))
    with tempfile.TemporaryDirectory() as folder:
        made, store = items(table, request, Path(folder)), Store(request.runs.absolute())
        device = simulated.device(on)
        totals, planned = [asdict(plans.total(_look([item], store, device))) for item in made], _look(made, store, device)
        sum_ = plans.total(planned)
    title = f"{name}, {request.scale} scale"
    lacking = {name: item for row in made for name, item in row.lacking.items()}
    states = ["lacks data" if item.lacking else "skipped" if item.reason else "run" for item in made]
    rows = list(zip(made, states, totals))
    if as_json:
        lines = [{"row": item.label, "state": state, "reason": str(item.reason or ""), **total} for item, state, total in rows]
        said = {"name": name, "scale": request.scale, "rows": lines, "runs": _runs(made), "total": asdict(sum_)}
        timed = {"schedule": simulated.plain(planned, lacking, on)["schedule"]} if on else {}
        print(json.dumps(said | {"missing": [asdict(item) for item in lacking.values()]} | timed))
    else:
        cells = [
            [item.label, state, *(("", str(item.reason)) if state == "skipped" else (f"{row['todo']} of {row['stages']}", _time(row)))]
            for item, state, row in rows
        ]
        header = ["row", "state", "stages to do", "time, or why not"]
        console.table(f"{title}: {table.content}", header, cells, sentences=header[-1:])
        console.note(f"{_runs(made)} runs; {sum_}, those that rows share once")
        if on:
            simulated.show(planned, "stages, those that rows share once", on)
    if lacking:
        raise plans.refusal(lacking, title)
