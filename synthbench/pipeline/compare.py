"""`synthbench compare`: rows named by the user become runs, what is missing is run, and the comparison is written and printed."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthbench import console, registry
from synthbench.config import config_names, did_you_mean
from synthbench.data.sources import Lacking
from synthbench.pipeline import default_protocol, facts, parts, run, simulated
from synthbench.pipeline import plan as plans
from synthbench.pipeline.request import Order, added_up, read
from synthbench.pipeline.steps import Step
from synthbench.protocol import load_protocol
from synthbench.results import comparable, lookup, record, shapes
from synthbench.results.record import Result
from synthbench.store import Store, content_key, is_name, read_json, write_json
from synthbench.types import UserError

Comparison = dict[str, Any]
Row = Result | run.Request  # a run that is there, or what to ask `run` for
ROWS = ("run", "sweep", "evaluation")  # kinds of what is there that can be rows


@dataclass(frozen=True)
class Request:
    """The command line of `synthbench compare`, as given."""

    names: tuple[str, ...]
    runs: Path
    volume: str | None = None
    protocol: str | None = None
    seeds: int | None = None
    baseline: str | None = None
    name: str | None = None
    papers: bool = True
    force_incomparable: bool = False
    teachers: bool = False
    device: str = "auto"
    tracking: bool = True


def compare(request: Request) -> list[Comparison]:
    """Run what is missing and write <runs>/comparisons/<name>/comparison.json; one comparison, or with `force_incomparable` several.

    Raises UserError for names that are nothing, and for runs that may not be compared, with the fields that differ.
    """
    store = Store(request.runs.absolute())
    if request.name and not re.fullmatch(r"\w[\w.+-]*", request.name, re.ASCII):
        raise UserError(f"--name {request.name!r}: use letters, digits and . _ + - only, none of . + - first; it names a folder")
    rows = wanted(request, store)
    if not request.force_incomparable:
        refuse_early(rows)
    announce(rows, store)
    done = [row if isinstance(row, dict) else run.run(row) for row in rows]
    if request.teachers:
        from synthbench.pipeline import evaluation

        protocol = request.protocol or str(next(result["protocol"] for result in done if result))
        done += evaluation.teachers(protocol, request.runs, request.device)
    found = comparable.groups({result["run"]: result for result in done if result}.values())
    if len(found) > 1 and not request.force_incomparable:
        raise UserError(refusal(found))
    return [_compare(request, store, group, i if len(found) > 1 else 0) for i, group in enumerate(found, 1)]


def requests(request: Request) -> list[run.Request]:
    """The runs of a comparison that are asked for by generator."""
    return [row for row in wanted(request, Store(request.runs.absolute())) if isinstance(row, run.Request)]


def plan(request: Request, as_json: bool = False, on: simulated.Machines | None = None) -> None:
    """`--dry-run`: the rows, and the stages of all of them, once each; on machines, when. Raises DataMissing at the end, when data are
    lacking."""
    store = Store(request.runs.absolute())
    rows = wanted(request, store)
    orders = {row: read(row) for row in rows if isinstance(row, run.Request)}
    steps, lacking = _stages(list(orders.values()))
    if not request.force_incomparable:
        refuse_early(rows)
    planned = plans.look(steps, store, device=simulated.device(on))
    title = f"comparison of {len(rows)} runs"
    told = [_about(row, None if isinstance(row, dict) else orders[row]) for row in rows]
    if as_json:
        print(json.dumps({"rows": told, **simulated.plain(planned, lacking, on)}))
    else:
        lines = [(about["name"], about["state"], about["volume"] or "", str(about["seeds"])) for about in told]
        console.table("rows", ("row", "state", "volume", "seeds"), lines)
        simulated.show(planned, title, on)
    if lacking:
        raise plans.refusal(lacking, title)


def _about(row: Row, order: Order | None) -> dict[str, Any]:
    if isinstance(row, dict):
        return {"name": row["run"], "state": "there", "volume": row["volume"], "seeds": len(row["seeds"])}
    state = "cached" if order and all(step.stage.state == "cached" for step in order.steps) else "run"
    return {"name": " ".join((row.generator, *row.settings)), "state": state, "volume": row.volume, "seeds": row.seeds}


# ----------------------------------------------------------------------------------------------------------- which runs


def wanted(request: Request, store: Store) -> list[Row]:
    """The rows that the names stand for. A generator may carry settings: "cemiface sample.m=0"."""
    if request.seeds is not None:
        plans.require_seeds(request.seeds)
    if not request.names:
        return _everything(request, store)
    found: list[Result | tuple[str, tuple[str, ...]]] = []
    for name in request.names:
        generator, *settings = _words(name)
        if parts.is_generator(generator) or (len(parts.summands(generator)) > 1 and not _known(store, name)):
            found.append((generator, tuple(settings)))
        else:
            found += _made(store, name)
    there = [item for item in found if isinstance(item, dict)]
    protocol, seeds = request.protocol or _protocol(there), request.seeds or max((len(item["seeds"]) for item in there), default=1)
    for item in found:
        if not isinstance(item, dict) and protocol == "demo" and not request.protocol:  # that of the runs beside it
            asked = added_up(run.Request(item[0], request.runs, settings=item[1]))
            default_protocol.demo_for(asked.generator, asked.settings, request.volume)
    return [
        item
        if isinstance(item, dict)
        else run.Request(
            generator=item[0],
            runs=request.runs,
            volume=None if item[0] == "real" else request.volume,  # the real set is what it is
            protocol=protocol,
            seeds=seeds,
            settings=item[1],
            device=request.device,
            tracking=request.tracking,
        )
        for item in found
    ]


def _words(name: str) -> list[str]:
    try:
        words = shlex.split(name)
    except ValueError as error:
        raise UserError(f"{name!r}: {error}") from None
    if not words:
        raise UserError("an empty name; give generators, runs or sweeps")
    return words


def _made(store: Store, name: str) -> list[Result]:
    """A run, or the runs of a sweep."""
    if name != "latest" and not _known(store, name):
        known = [item.name for item in lookup.everything(store, ROWS)]
        quoted = '; settings stand with their generator in one pair of quotes: "cemiface sample.m=0"' if "=" in name else ""
        hint = quoted or registry.hint(name, [*registry.names("generator"), *known])
        raise UserError(f"{name!r} is no generator, and no run, sweep or evaluation in {store.root}{hint}")
    item = lookup.find(store, name, ROWS)
    return _sweep(store, item.name) if item.kind == "sweep" else [lookup.read(item)]


def _known(store: Store, name: str) -> bool:
    """Whether something that may be a row begins so."""
    return any(name and item.name.startswith(name) for item in lookup.everything(store, ROWS))


def _sweep(store: Store, name: str) -> list[Result]:
    """The runs of the complete points; what is missing or damaged is named and left out."""
    path = store.root / "sweeps" / name / "sweep.json"
    sweep = read_json(path)
    if not shapes.whole("sweep", sweep):
        console.warn(f"{path} is not a whole sweep; skipped. The command that made it mends it")
        return []
    points = sweep["points"]
    names = [run_name for point in points if point.get("state") == "complete" for run_name in point.get("runs", ())]
    found = [(name, record.read_run(store.root / "results" / name / "run.json") if is_name(name) else None) for name in names]
    for run_name, result in found:
        if result is None:
            console.warn(f"sweep {name}: run {run_name} is missing or not whole; skipped")
    return [result for _, result in found if result]


def _everything(request: Request, store: Store) -> list[Row]:
    """All whole runs that may be compared with the latest, or with the latest of `--protocol`."""
    paths = sorted((store.root / "results").glob("*/run.json"), key=lambda path: path.stat().st_mtime)
    found = []
    for path in paths:
        result = record.read_run(path)
        if result is None:
            console.warn(f"{path} is not a whole result; skipped")
        else:
            found.append(result)
    if request.protocol:
        name = load_protocol(request.protocol).name
        found = [result for result in found if result["protocol"] == name]
    if not found:
        raise UserError(f"no runs in {store.root}; name generators to run, such as: synthbench compare real procedural cemiface")
    for result in found:
        if fields := comparable.differing(result, found[-1]):
            console.note(f"left out, as its {', '.join(fields)} differs from that of the latest run: {result['run']}")
    return [result for result in found if not comparable.differing(result, found[-1])]


def _protocol(there: Sequence[Result]) -> str | None:
    """The protocol of the runs that are there, for those that are not; None when they have none in common, or one of a file."""
    names = {result["protocol"] for result in there}
    return names.pop() if len(names) == 1 and names <= set(config_names("protocols")) else None


# ------------------------------------------------------------------------------------------------------------- running


def announce(rows: Sequence[Row], store: Store) -> None:
    """Say what will be run, before it is. Raises DataMissing with all that is lacking for any row."""
    missing = [order for row in rows if isinstance(row, run.Request) and not (order := read(row)).answer()]
    steps, lacking = _stages(missing)
    title = f"to run: {', '.join(dict.fromkeys(order.request.generator for order in missing))}"
    if lacking:
        raise plans.refusal(lacking, title)
    plans.announce(plans.look(steps, store), title)


def _stages(orders: Sequence[Order]) -> tuple[list[Step], dict[str, Lacking]]:
    """(the stages of all rows, those that they share once, the data that any of them lacks)."""
    return plans.once(order.steps for order in orders), {name: item for order in orders for name, item in order.lacking.items()}


def refuse_early(rows: Sequence[Row]) -> None:
    """Before anything is run: raises UserError when what would come could not be compared with what is there."""
    if len({isinstance(row, dict) for row in rows}) > 1:  # what is asked for in one command is measured alike
        found = comparable.groups([row if isinstance(row, dict) else facts.expected(read(row)) for row in rows])
        if len(found) > 1:
            raise UserError(refusal(found))


def refusal(found: Sequence[Sequence[Result]]) -> str:
    """Why the first runs of the groups may not be compared."""
    first = found[0][0]
    lines = []
    for group in found[1:]:
        fields = comparable.differing(first, group[0])
        parts = [f"{name} ({one[:60]} there, {other[:60]} here)" for name, (one, other) in fields.items()]
        lines.append(f"  {group[0]['run']} differs from {first['run']} in {'; '.join(parts)}")
    return "these runs were measured differently, so their numbers may not be set side by side:\n" + "\n".join(
        [*lines, "Run them under one protocol, or print them apart with --force-incomparable"]
    )


def _compare(request: Request, store: Store, group: Sequence[Result], number: int) -> Comparison:
    from synthbench.results import comparison

    base = baseline(request.baseline, group)
    name = request.name or default_name(group, base)
    name += f"-{number}" if number and request.name else ""
    made = comparison.compare(store, group, name, base, console.command_line(), request.papers)
    path = store.root / "comparisons" / name / "comparison.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    before = read_json(path)
    before = before if shapes.whole("comparison", before) else {}
    write_json(path, made)
    if request.tracking and before != {**read_json(path), "command": before.get("command")}:  # only what is new is mirrored
        from synthbench.tracking import mirror

        mirror.mirror_group(store, path)
    return made


def baseline(wish: str | None, group: Sequence[Result]) -> str:
    """The run that others are compared with: the one asked for by run, generator or label, else the real set, else the first."""
    names = dict(zip(comparable.labels(group), group))
    if wish is None:
        return str(next((result["run"] for result in group if result["generator"] == "real"), group[0]["run"]))
    found = [result for label, result in names.items() if wish in (label, result["generator"]) or result["run"].startswith(wish)]
    if len(found) != 1:
        problem = "stands for several rows" if found else "is none of the rows"
        raise UserError(f"--baseline {wish!r} {problem}: {', '.join(names)}" + did_you_mean(wish, names))
    return str(found[0]["run"])


def default_name(group: Sequence[Result], base: str) -> str:
    """Tells what is compared, and the same runs have the same name."""
    generators = "+".join(dict.fromkeys(result["generator"] for result in group))[:60]
    key = content_key({"runs": [result["run"] for result in group], "baseline": base})[:8]
    return re.sub(r"[^A-Za-z0-9.+_-]", "_", f"{generators}-{group[0]['protocol']}-{key}")
