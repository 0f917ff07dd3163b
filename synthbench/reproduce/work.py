"""Doing what is missing of a reproduction, by `sweep`, `compare` and `run`: nothing is trained or generated here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from synthbench import console, sweep
from synthbench.pipeline import compare, run
from synthbench.pipeline import plan as plans
from synthbench.pipeline.steps import execute
from synthbench.reproduce import page
from synthbench.reproduce.definition import Table, find
from synthbench.reproduce.rows import Item, Request, default_scale, items, obstacle, work
from synthbench.store import Store, write_json
from synthbench.types import DataMissing, UserError


def reproduce(request: Request) -> dict[str, Any]:
    """Run what is missing; write <runs>/reproductions/<name>-<scale>/ with reproduction.json, the table and a page; answers the first.

    Raises UserError when no row can be run (DataMissing when that is for lack of data).
    """
    name, table, request, folder = _asked(request)
    store = Store(request.runs.absolute())
    made = items(table, request, folder)
    ready = [item for item in made if item.request]
    if all(item.row not in table.rows for item in ready):  # nothing, or real baselines alone
        # the first is one that the user can mend, by registering data if need be
        closed = [(not isinstance(item.reason, DataMissing), obstacle(item.row, table, str(request.scale)), item.reason) for item in made]
        reason = min((row for row in closed if row[2]), key=lambda row: row[:2])[2]
        assert reason
        title = f"no row of {name} can be run at {request.scale} scale"
        lacking = {name: item for row in made for name, item in row.lacking.items()}
        raise plans.refusal(lacking, f"{title}: it") if lacking else type(reason)(f"{title}: {reason}")
    for item in made:
        if item.reason:
            console.note(f"skipped, {item.label}: {item.reason}")
    console.note(f"{name}, {request.scale} scale: {len(ready)} runs; {work(ready, store)}")
    groups: list[Path] = []
    if table.images_only:
        for item in ready:
            assert item.request
            execute(item.steps, store, run.leading(item.request))
    elif table.sweep:
        groups = [_sweep(table, ready, store)]
    else:
        groups = _compare(ready, store, folder.name)
    found = {"folder": folder.name} | page.record(name, table, request, made, groups, console.command_line())
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "reproduction.json", found)
    page.write(found, table, made, groups, store, folder)
    return found


def requests(request: Request) -> list[run.Request]:
    """The runs of all rows that can be run; where only images are wanted, as far as these."""
    _, table, request, folder = _asked(request)
    found = [item.request for item in items(table, request, folder) if item.request]
    return [replace(one, until="generate") for one in found] if table.images_only else found


def _asked(request: Request) -> tuple[str, Table, Request, Path]:
    """(the name in full, the table, the request with its scale, where it is kept). Raises UserError."""
    plans.require_seeds(request.seeds)
    name, table = find(request.name)
    request = replace(request, scale=request.scale or default_scale(request))
    return name, table, request, request.runs.absolute() / "reproductions" / f"{name.replace('/', '-')}-{request.scale}"


def _sweep(table: Table, ready: Sequence[Item], store: Store) -> Path:
    """The rows as points of one sweep; answers its folder."""
    first = ready[0].request
    assert first
    common = tuple(text for text in first.settings if not text.startswith(f"{table.sweep}="))
    values = ",".join(json.dumps(item.row.value) for item in ready)
    alike = {name: getattr(first, name) for name in ("volume", "protocol", "seeds", "device", "tracking")}
    swept = sweep.sweep(sweep.Request((table.sweep,), first.runs, first.generator, (values,), settings=common, **alike))
    for item in ready:
        for point in swept["points"]:
            if point["values"][table.sweep] == item.row.value and point["state"] == "complete":
                item.run, item.cells = point["runs"][0], point["scores"]
        if not item.run:
            item.reason = UserError("this point of the sweep failed; the sweep's table says why")
    return store.root / "sweeps" / str(swept["sweep"])


def _compare(ready: Sequence[Item], store: Store, name: str) -> list[Path]:
    """The rows as comparisons, one for each set of rows that may be compared; answers their folders. A row that fails is named."""
    for item in ready:
        assert item.request
        try:
            item.run = (run.run(item.request) or {}).get("run", "")
        except UserError as error:
            item.reason = error
            console.warn(f"{item.label}: {error}")
    done = tuple(dict.fromkeys(item.run for item in ready if item.run))
    if not done:
        raise ready[0].reason or UserError(f"no row of {name} could be run")
    wish, tracking = ready[0].request, all(item.request and item.request.tracking for item in ready)
    assert wish
    found = compare.compare(compare.Request(done, wish.runs, name=name, papers=False, force_incomparable=True, tracking=tracking))
    cells = {row["run"]: row["cells"] for comparison in found for row in comparison["rows"]}
    for item in ready:
        item.cells = cells.get(item.run, {})
    return [store.root / "comparisons" / str(comparison["comparison"]) for comparison in found]
