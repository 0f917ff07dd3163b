"""What a sweep shows: the scores of its points with intervals, a statement computed from them, table.csv, sweep.json and the figure."""

from __future__ import annotations

import contextlib
import csv
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from synthbench import console
from synthbench.results import comparison
from synthbench.results.comparison import AVG, Entry
from synthbench.results.record import SHORT, Result, values
from synthbench.store import content_key, write_json, writing
from synthbench.sweep import figure, trials
from synthbench.sweep.design import Design, label, show
from synthbench.sweep.shape import Joint, joint
from synthbench.sweep.statement import Point, statement
from synthbench.types import UserError

CELL = ("value", "sampling_stderr", "seed_std", "low", "high", "n")
CENTRE = "similarity/centre/mean"  # of a set that records a similarity, though none was asked for: groups of the real set
EXTRA = (
    ("similarity/realised/mean", "similarity realised"),
    (CENTRE, "similarity to centre"),
    ("separability/intra_class_similarity", "intra-class sim."),
    ("separability/d_prime", "d'"),
    ("gap_to_real/points", "gap to real"),
)


def mean(result: Result, metric: str) -> float:
    """Over the seeds. Raises UserError when it was not measured."""
    found = [score["value"] for score in values(result, metric)]
    if not found:
        reasons = {skip["reason"] for skip in result["skipped"] if skip["metric"] in metric}
        raise UserError(f"run {result['run']} has no {metric}" + "".join(f": {reason}" for reason in reasons))
    return statistics.fmean(found)


def benchmarks(result: Result) -> list[str]:
    """The sets that AVG is the mean of, in their order."""
    parts = [score["metric"].split("/") for score in result["scores"]]
    return list(dict.fromkeys(part[1] for part in parts if part[0] == "verification" and part[2:] == ["accuracy"] and part[1] != "avg"))


def write(made: Design, study: trials.Study, confirmed: Sequence[tuple[dict[str, Any], Result]]) -> dict[str, Any]:
    """Collect the points and write sweep.json, table.csv and the figure; answers sweep.json. Called after every point."""
    points, entries = _points(made, study)
    names = next((benchmarks(entry.result) for entry in entries if entry), [])
    again = [_confirmation(made, chosen, result) for chosen, result in confirmed]
    done = [i for i, point in enumerate(points) if point["state"] == "complete"]
    best = max(done, key=lambda i: points[i]["scores"][AVG]["value"], default=None)
    if again:
        highest = max(again, key=lambda row: row["scores"][AVG]["value"])["values"]
        best = next(i for i in done if points[i]["values"] == highest)
    seen = [Point(points[i]["values"], points[i]["scores"][AVG]) for i in done]
    given_up = sum(point["state"] == "pruned" for point in points)
    found = {
        "sweep": made.name,
        "generator": made.generator,
        "volume": made.volume,
        "protocol": made.protocol.name,
        "title": made.protocol.title,
        "seeds": list(range(made.request.seeds)),
        "parameters": [axis.path for axis in made.axes],
        "sampler": made.request.sampler,
        "points": points,
        "best": best,
        "confirmed": again,
        "unfinished": made.size - len([point for point in points if point["state"] != "failed"]),
        "statement": statement(seen, _joint([entries[i] for i in done], names), again, made.size - given_up, made.request)
        + _pruned(given_up)
        + _same_images(entries),
        "command": console.command_line(),
    }
    if done:
        figure.draw(found, names, _real(entries), made.folder)
    _csv(made, points, names)
    write_json(made.folder / "sweep.json", found)
    return found


def _points(made: Design, study: trials.Study) -> tuple[list[dict[str, Any]], list[Entry | None]]:
    """The points that were begun, in the order of the grid or of their trials, and what is known of each."""
    whole = trials.whole(made, study)
    ended = {trials.key(trial): trial for trial in trials.trials(study, trials.FAIL, trials.PRUNED, trials.COMPLETE)}
    ended |= whole
    order = [content_key({"values": point}) for point in made.points] or list(ended)
    points: list[dict[str, Any]] = []
    entries: list[Entry | None] = []
    for trial in (ended[name] for name in order if name in ended):
        chosen, result = trial.user_attrs.get("values"), trials.result_of(made, trial)
        if not chosen or (trial.state == trials.FAIL and "error" not in trial.user_attrs):
            continue  # cut short; it is in the queue again
        state = "pruned" if trial.state == trials.PRUNED else "complete" if trials.key(trial) in whole else "failed"
        entry = comparison.entry(made.store, result, label(chosen)) if result and state == "complete" else None
        point = {"values": chosen, "runs": [entry.run] if entry else [], "state": state, "scores": _scores(made, entry) if entry else {}}
        if state == "failed":
            point["error"] = trial.user_attrs.get("error", f"run {trial.user_attrs.get('run')} is missing or not whole")
        if state == "pruned":
            point["validation"] = trial.user_attrs["validation"]
        points.append(point)
        entries.append(entry)
    return points, entries


def _scores(made: Design, entry: Entry) -> dict[str, Any]:
    """Every metric of a run, with its errors."""
    names, found = benchmarks(entry.result), {}
    for metric in dict.fromkeys(score["metric"] for score in entry.result["scores"]):
        if cell := comparison.cell(made.store, entry, metric, names):
            found[metric] = {name: cell[name] for name in CELL}
    if "similarity/realised/mean" not in found:
        from synthbench.data.faces import open_faces

        with contextlib.suppress(UserError, OSError):
            column = open_faces(entry.result["artifacts"]["faces"]).columns.get("similarity")
            if column is not None:
                found[CENTRE] = {**dict.fromkeys(CELL), "value": float(np.nanmean(column)), "n": 1}
    return found


def _confirmation(made: Design, chosen: dict[str, Any], result: Result) -> dict[str, Any]:
    """A confirmed point. `fresh` is its AVG over the seeds that did not choose it, or all when the volume is another."""
    entry = comparison.entry(made.store, result, label(chosen))
    same = result["volume"] == made.volume
    fresh = [score["value"] for score in values(result, AVG) if not same or score["seed"] >= made.request.seeds]
    row = {"values": chosen, "runs": [entry.run], "volume": result["volume"], "seeds": result["seeds"], "scores": _scores(made, entry)}
    return {**row, "fresh": statistics.fmean(fresh) if fresh else None, "fresh_seeds": len(fresh)}


def _joint(entries: Sequence[Entry | None], names: Sequence[str]) -> Joint | None:
    """The points together, for tests; None when the per-pair results of one are gone."""
    if not entries or not all(entry and entry.own for entry in entries):
        return None
    tables = [[entry.table(name) for name in names] for entry in entries if entry]
    return joint(tables, [entry.seeds(AVG) for entry in entries if entry])


def _pruned(count: int) -> str:
    """Says that points were given up: no test was made on them."""
    return (
        f" {count} point{'s were' if count > 1 else ' was'} given up while training, by validation accuracy, and not tested."
        if count
        else ""
    )


def _same_images(entries: Sequence[Entry | None]) -> str:
    """Says which points gave the same images, bit for bit: a setting that the generator does not heed."""
    found: dict[str, list[str]] = {}
    for entry in entries:
        if entry and (digest := entry.result.get("digests", {}).get("faces")):
            found.setdefault(digest, []).append(entry.label)
    return "".join(f" The images of {' and '.join(same)} are the same." for same in found.values() if len(same) > 1)


def _real(entries: Sequence[Entry | None]) -> float | None:
    """AVG of the real baseline."""
    base = next((entry.result["baseline"] for entry in entries if entry and entry.result["baseline"]), None)
    found = [score["value"] for score in values(base, AVG)] if base else []
    return statistics.fmean(found) if found else None


# -------------------------------------------------------------------------------------------------------------- tables


def _csv(made: Design, points: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    """One line per point and metric shown; of a point that was given up, its last validation accuracy."""
    with writing(made.folder / "table.csv") as tmp, open(tmp, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*(axis.path for axis in made.axes), "state", "run", "metric", *CELL])
        for point in points:
            head = [*(show(point["values"][axis.path]) for axis in made.axes), point["state"], *(point["runs"] or [""])]
            for metric in (*(f"verification/{name}/accuracy" for name in names), AVG, *(metric for metric, _ in EXTRA)):
                if cell := point["scores"].get(metric):
                    rows.writerow([*head, metric, *("" if cell[part] is None else cell[part] for part in CELL)])
            if point["state"] == "pruned":
                rows.writerow([*head, "validation/accuracy", point["validation"]["accuracy"]])


def print_table(sweep: dict[str, Any]) -> None:
    """The points on stdout, the best one marked."""
    measured = dict.fromkeys(metric for point in sweep["points"] for metric in point["scores"])
    sets = [metric for metric in measured if metric.startswith("verification/") and metric.endswith("/accuracy") and metric != AVG]
    metrics = [(AVG, "AVG %", 2), *((metric, SHORT.get(metric.split("/")[1], metric.split("/")[1]), 1) for metric in sets)]
    metrics += [(metric, title, 2) for metric, title in EXTRA]
    metrics = [item for item in metrics if item[0] in measured]
    rows, pruned = [], any(point["state"] == "pruned" for point in sweep["points"])
    for number, point in enumerate(sweep["points"]):
        cells = [_text(point["scores"].get(metric), digits, metric == AVG) for metric, _, digits in metrics]
        mark = " *" if number == sweep["best"] else "" if point["state"] == "complete" else f" ({point['state']})"
        rows.append([", ".join(show(value) for value in point["values"].values()) + mark, *cells, *([_seen(point)] if pruned else [])])
    heading = ", ".join(name.rpartition(".")[2] for name in sweep["parameters"])
    title = f"{sweep['generator']} {sweep['volume']}, {sweep['protocol']}: {sweep['title']}"
    console.table(title, [heading, *(name for _, name, _ in metrics), *(["validation when given up"] if pruned else [])], rows)


def _seen(point: dict[str, Any]) -> str:
    """`55.2 % at epoch 3 of 8`, of a point that was given up."""
    if point["state"] != "pruned":
        return ""
    last = point["validation"]
    where = f" of seed {last['seed']}" if last["seed"] else ""
    return f"{last['accuracy']:.1f} % at epoch {last['epoch']} of {last['epochs']}{where}"


def _text(cell: dict[str, Any] | None, digits: int, interval: bool) -> str:
    if cell is None:
        return "-"
    text = f"{cell['value']:.{digits}f}"
    return f"{text} [{cell['low']:.1f}, {cell['high']:.1f}]" if interval and cell["low"] is not None else text
