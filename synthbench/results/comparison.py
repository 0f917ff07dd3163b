"""Results to one comparison: cells with their errors, paired differences, ties, ranks, costs. Pure: reads run folders, runs nothing.

<runs>/comparisons/<name>/comparison.json is what this makes; reports, tables and MLflow read only that.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from synthbench.evaluators.gap import same_pairs
from synthbench.evaluators.pairs import PairResults, open_results
from synthbench.results import further, inference, leak, lookup, published, scorecard, tables
from synthbench.results.comparable import cost, foreign, keys, labels, sides
from synthbench.results.record import SHORT, UNTRAINED, Result, floor, values
from synthbench.seeds import numpy_generator
from synthbench.store import Store

AVG, GAP = "verification/avg/accuracy", "gap_to_real/points"
PHOTOGRAPHS = "leakage/real_photographs"


@dataclass(frozen=True)
class Column:
    """A column of the table. `higher_is_better` None: neither is, as for similarity within an identity."""

    metric: str
    title: str
    unit: str = ""
    digits: int = 2
    higher_is_better: bool | None = None
    scale: float = 1.0
    group: str = "data"  # accuracy, data or cost


MEASURED = (
    Column("fd/judge/frechet", "FD (judge)", "", 3, False),
    Column("fd/inception_pytorch-fid/frechet", "FID", "", 2, False),
    Column("fd/dinov2-large/frechet", "FD (DINOv2)", "", 1, False),
    Column("separability/intra_class_similarity", "intra-class sim."),
    Column("separability/d_prime", "d'", "", 2, True),
    Column(leak.SHARE, leak.TITLE, "%", 1, None, 100),
    Column(PHOTOGRAPHS, "real photographs", "%", 1, None, 100),
)
COSTS = (
    Column("cost/images", "images", "", 0, group="cost"),
    Column("cost/copies", "+ copies", "", 0, group="cost"),
    Column("cost/hours", "hours per seed", "", 2, group="cost"),
    Column("cost/images_per_second", "img/s", "", 1, group="cost"),
    Column("cost/disk_bytes", "disk per seed", "MB", 0, scale=1e-6, group="cost"),
)


MARKS = {"best": False, "tied": False}


@dataclass
class Entry:
    """A run on its way into a table."""

    result: Result
    label: str
    own: list[dict[str, PairResults]] = field(default_factory=list)  # per seed: what happened to each pair, by benchmark
    real: list[dict[str, PairResults]] = field(default_factory=list)  # the same of the real baseline; empty for the real run

    @property
    def run(self) -> str:
        return str(self.result["run"])

    def table(self, benchmark: str, real: bool = False) -> np.ndarray:
        """Right or wrong, (seeds, pairs)."""
        return np.stack([found[benchmark].correct for found in (self.real if real else self.own)])

    def seeds(self, metric: str) -> list[float]:
        return [score["value"] for score in values(self.result, metric)]

    def stderr(self, metric: str) -> float | None:
        """Mean over seeds: the seeds meet the same pairs, so their errors do not average out."""
        errors = [score["stderr"] for score in values(self.result, metric) if score["stderr"] is not None]
        return statistics.fmean(errors) if errors else None


def entry(store: Store, result: Result, label: str) -> Entry:
    """A result with its per-pair results. Without them (stages deleted) its row has no paired differences."""
    made = Entry(result, label)
    for side, found in (("own", made.own), ("real", made.real)):
        for key in keys(sides(result)[side], "evaluate"):
            if pairs := open_results(store.stage("evaluate", key).folder / "pairs"):
                found.append(pairs)
    complete = len(result["seeds"])
    made.own, made.real = (found if len(found) == complete else [] for found in (made.own, made.real))
    return made


# ------------------------------------------------------------------------------------------------------- the comparison


def compare(store: Store, results: Sequence[Result], name: str, baseline: str, command: str, papers: bool = True) -> dict[str, Any]:
    """The comparison of runs that may be compared. `baseline`: the name of one of them."""
    entries = [entry(store, result, label) for result, label in zip(results, labels(results))]
    return side_by_side(entries, dict.fromkeys((item.run for item in entries), store), name, baseline, command, papers)


def side_by_side(
    entries: Sequence[Entry], stores: Mapping[str, Store], name: str, baseline: str, command: str, papers: bool = True
) -> dict[str, Any]:
    """As `compare`, of runs that need not lie in one runs folder: `stores` has that of each."""
    first = entries[0].result
    benchmarks = _benchmarks(first)
    whole = [item for item in entries if item.own]
    for item in whole[1:]:
        same_pairs(whole[0].own[0], item.own[0])
    found = differences(entries, benchmarks)
    apart = further.metrics(item.result for item in entries)
    columns = _columns(benchmarks, apart, further.people(item.result for item in entries))
    cells = {item.run: {column.metric: cell(stores[item.run], item, column.metric, benchmarks) for column in columns} for item in entries}
    pictured = {item.run: lookup.photographs(stores[item.run], item.result) for item in entries}
    counted = any(cells[item.run][PHOTOGRAPHS] for item in entries)
    for item in entries:
        if counted and not pictured[item.run]:  # its generator has none; the real set of the embedded world is rendered
            cells[item.run][PHOTOGRAPHS] = _as_cell(inference.estimate([0.0], None)) | {"low": 0.0, "high": 0.0}
    columns = [column for column in columns if any(cells[item.run][column.metric] for item in entries)]
    for column in columns:
        _mark(column, entries, cells, found)
    rows = [
        {
            "run": item.run,
            "label": item.label,
            "generator": item.result["generator"],
            "volume": item.result["volume"],
            "seeds": len(item.result["seeds"]),
            "rank": rank,
            "cells": {column.metric: cells[item.run][column.metric] for column in columns},
            "learnt_from": item.result.get("learnt_from", {}),
            "parts": item.result.get("parts", {}),
            "traits": {} if foreign(item.result) else item.result.get("traits", {}) | {"real_photographs": pictured[item.run]},
            "cost": cost(stores[item.run], item.result),
            "scorecard": scorecard.scorecard(item.result, pictured[item.run]),
        }
        for item, rank in zip(entries, ranks(entries, found))
    ]
    volumes = list(dict.fromkeys(item.result["volume"] for item in entries if item.result["volume"] not in ("all", ""))) or ["all"]
    detectable, notes = _notes(entries, found)
    notes += [*leak.notes([(item.label, item.result) for item in entries]), *further.notes(apart)]
    return {
        "comparison": name,
        "protocol": first["protocol"],
        "title": first.get("title", ""),
        "volume": volumes[0] if len(volumes) == 1 else "several",
        "seeds": sorted({seed for item in entries for seed in item.result["seeds"]}),
        "runs": [item.run for item in entries],
        "baseline": baseline,
        "floor": floor_row([item.result for item in entries], [column.metric for column in columns]),
        "columns": [vars(column) for column in columns],
        "rows": rows,
        "differences": tables.oriented(found, baseline),
        "detectable_points": detectable,
        "notes": notes,
        "skipped": _skipped(entries),
        "published": published.beside(volumes, benchmarks, _resolution(first)) if papers else [],
        "command": command,
    }


def _resolution(result: Result) -> int:
    """Of the images that were measured; an older run.json does not say it, and counts as full size."""
    return int(result.get("config", {}).get("protocol", {}).get("resolution", published.FULL))


def _benchmarks(result: Result) -> list[str]:
    parts = [score["metric"].split("/") for score in result["scores"]]
    names = [part[1] for part in parts if part[0] == "verification" and part[2:] == ["accuracy"]]
    return [name for name in dict.fromkeys(names) if name != "avg"]


def _columns(benchmarks: Sequence[str], apart: Mapping[str, str], people: Mapping[str, str]) -> list[Column]:
    each = [Column(f"verification/{name}/accuracy", SHORT.get(name, name), "%", 1, True, group="accuracy") for name in benchmarks]
    average = [Column(AVG, "AVG", "%", 2, True, group="accuracy"), Column(GAP, "gap to real", "points", 2, False, group="accuracy")]
    groups = [Column(metric, title, higher_is_better=further.higher_is_better(metric)) for metric, title in apart.items()]
    shares = [Column(metric, title, "%", 1, group="people") for metric, title in people.items()]
    return [*each, *average, *groups, *shares, *MEASURED, *COSTS]


def cell(store: Store, item: Entry, metric: str, benchmarks: Sequence[str]) -> dict[str, Any] | None:
    """Value, errors and interval of one metric of one run; None when it was not measured."""
    if metric.startswith("cost/"):
        value = cost(store, item.result)[metric.removeprefix("cost/")]
        return None if value is None else {**dict.fromkeys(("sampling_stderr", "seed_std", "low", "high")), "value": value, "n": 1} | MARKS
    seeds = item.seeds(metric)
    if not seeds:
        return None
    names = benchmarks if metric in (AVG, GAP) else [metric.split("/")[1]]
    if metric.startswith("verification/") and item.own:
        found = inference.accuracy([item.table(name) for name in names], seeds)
    elif metric == GAP and item.own and item.real:
        real, own = ([item.table(name, side) for name in names] for side in (True, False))
        scores = [100 * statistics.fmean(seed[name].fold_accuracies().mean() for name in names) for seed in item.real]
        gap = inference.difference(real, own, numpy_generator(0, "gap", item.run), (scores, item.seeds(AVG)))
        std = statistics.stdev(seeds) if len(seeds) > 1 else None
        found = inference.Estimate(gap.points, gap.sampling_stderr, std, gap.low, gap.high, len(seeds), gap.error)
    else:
        found = inference.estimate(seeds, item.stderr(metric))
    made = further.beside(_as_cell(found), item.result, metric)
    return leak.beside(made, leak.chance(item.result)) if metric == leak.SHARE else made


def differences(entries: Sequence[Entry], benchmarks: Sequence[str]) -> list[dict[str, Any]]:
    """A - B of every two runs with per-pair results, in AVG and on every benchmark; p adjusted by Holm over the table."""
    averages: list[dict[str, Any]] = []
    single: list[dict[str, Any]] = []
    for a, b in itertools.combinations([item for item in entries if item.own], 2):
        for name in ("avg", *benchmarks):
            metric, names = f"verification/{name}/accuracy", benchmarks if name == "avg" else [name]
            ours, theirs = ([item.table(each) for each in names] for item in (a, b))
            random = numpy_generator(0, "compare", a.run, b.run, metric)
            found = inference.difference(ours, theirs, random, (a.seeds(metric), b.seeds(metric)))
            row = {"a": a.run, "b": b.run, "metric": metric, "points": found.points, "low": found.low, "high": found.high, "p": found.p}
            row |= {"sampling_stderr": found.sampling_stderr, "stderr": found.error.stderr, "error": found.error}
            if name != "avg":
                row["mcnemar_p"] = inference.mcnemar(*inference.discordant(ours[0], theirs[0]))
            (averages if name == "avg" else single).append(row)
    for family in (averages, single):
        for kind in ("p", "mcnemar_p"):
            if all(kind in row for row in family):
                for row, adjusted in zip(family, inference.holm([row[kind] for row in family])):
                    row["p_holm" if kind == "p" else "mcnemar_p_holm"] = adjusted
    return averages + single


def rivals(entries: Sequence[Entry]) -> list[Entry]:
    """The rows that compete for the best mark: not the real set, which they are measured against, nor networks trained elsewhere."""
    return [item for item in entries if item.result["generator"] != "real" and not foreign(item.result)]


def _as_cell(found: inference.Estimate) -> dict[str, Any]:
    return {key: value for key, value in vars(found).items() if key != "error"} | MARKS


def floor_row(results: Sequence[Result], metrics: Sequence[str]) -> dict[str, Any] | None:
    """The row of a recognizer that learnt nothing: all runs beside one real baseline have the same. None where it was not measured."""
    cells = {}
    for metric in metrics:
        scores = [score for result in results for score in values(result, floor(metric))]
        if scores:
            cells[metric] = _as_cell(inference.estimate([scores[0]["value"]], scores[0]["stderr"]))
    return {"label": UNTRAINED, "run": "", "generator": "", "volume": "", "cells": cells} if cells else None


def _mark(column: Column, entries: Sequence[Entry], cells: dict[str, Any], found: Sequence[dict[str, Any]]) -> None:
    """Mark the best of a column, and the others that the data cannot tell from it (`tied` None: without an error nothing was tested)."""
    competing = [item for item in rivals(entries) if cells[item.run][column.metric]]
    if len(competing) < 2 or column.higher_is_better is None:
        return
    sign = 1 if column.higher_is_better else -1
    best = max(competing, key=lambda item: sign * cells[item.run][column.metric]["value"])
    if column.group == "accuracy":
        metric = AVG if column.metric == GAP else column.metric
        p = {frozenset((row["a"], row["b"])): row["p_holm"] for row in found if row["metric"] == metric}
    else:  # all pairs of the column, because the best was chosen by looking
        tests = {frozenset((a.run, b.run)): _unpaired(a, b, column.metric) for a, b in itertools.combinations(competing, 2)}
        known = {pair: test.p for pair, test in tests.items() if test}
        p = dict(zip(known, inference.holm(list(known.values()))))
    for item in competing:
        if item is not best:
            value = p.get(frozenset((best.run, item.run)))
            cells[item.run][column.metric]["tied"] = None if value is None else value >= inference.ALPHA
            cells[best.run][column.metric]["best"] |= value is not None  # the highest of numbers without an error is no finding


def _unpaired(a: Entry, b: Entry, metric: str) -> inference.Difference | None:
    return inference.unpaired(a.seeds(metric), b.seeds(metric), a.stderr(metric), b.stderr(metric))


def ranks(entries: Sequence[Entry], found: Sequence[dict[str, Any]]) -> list[list[int] | None]:
    """Best and worst possible rank in AVG of each row among the generators; None for the real set, and where one has a single seed."""
    competing = rivals(entries)
    place = {item.run: i for i, item in enumerate(competing)}
    if len(competing) < 2 or any(len(item.result["seeds"]) < 2 for item in competing):
        return [None] * len(entries)
    better = set()
    for row in found:
        if row["metric"] == AVG and {row["a"], row["b"]} <= place.keys() and row["p_holm"] < inference.ALPHA:
            pair = (place[row["a"]], place[row["b"]])
            better.add(pair if row["points"] > 0 else pair[::-1])
    ranges = inference.rank_ranges(len(competing), better)
    return [list(ranges[place[item.run]]) if item.run in place else None for item in entries]


# -------------------------------------------------------------------------------------------------------------- notes


def _notes(entries: Sequence[Entry], found: list[dict[str, Any]]) -> tuple[float | None, list[str]]:
    """The smallest detectable difference, and what a reader must know. Takes the errors out of the differences."""
    averages = [row["error"] for row in found if row["metric"] == AVG]
    for row in found:
        del row["error"]
    notes, counts = [], sorted({len(item.result["seeds"]) for item in entries})
    if counts[0] == 1:
        who = "" if counts == [1] else " (" + ", ".join(item.label for item in entries if len(item.result["seeds"]) == 1) + ")"
        notes.append(
            f"n = 1 seed{who}: the spread between seeds is not known, so differences are between these networks and no ranks are given"
        )
    elif counts[0] == 2:
        notes.append("two seeds say little about the spread between seeds, which makes the intervals wide; take three or more")
    detectable = None
    if averages:
        typical = inference.Error(*(statistics.fmean(getattr(error, part) for error in averages) for part in ("sampling", "seeds")))
        freedom = [error.freedom for error in averages if error.seeds]
        typical = inference.Error(typical.sampling, typical.seeds, statistics.median(freedom) if freedom else np.inf)
        detectable = inference.detectable(typical, len(averages))
        seeds = f"{counts[0]} seed{'s' * (counts[0] > 1)}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
        least = "at least " if counts[0] == 1 else ""
        notes.append(
            f"this design ({seeds}, {len(averages)} comparison{'s' * (len(averages) > 1)}) finds a true difference in AVG of {least}"
            f"{detectable:.2f} points with probability {inference.POWER:.0%} (level {inference.ALPHA:.0%} after Holm)"
        )
    if elsewhere := [item.label for item in entries if foreign(item.result)]:
        notes.append(f"networks trained elsewhere, by other recipes, which compete with no generator: {', '.join(elsewhere)}")
    if bare := [item.label for item in entries if not item.own]:
        notes.append(f"without paired differences, for lack of per-pair results: {', '.join(bare)}")
    devices = dict.fromkeys(str(item.result["cost"].get("device")) for item in entries if item.result.get("cost"))
    notes.append(
        f"hours and disk are of one seed, without what all runs share (real set, encoder, judge, benchmarks); on {', '.join(devices)}"
    )
    return detectable, notes


def _skipped(entries: Sequence[Entry]) -> list[str]:
    """Why a column, or a row's cell of it, is empty."""
    reasons: dict[str, list[str]] = {}
    measured = {column.metric for column in MEASURED}
    for item in entries:
        for skip in (skip for skip in item.result["skipped"] if skip["metric"] in measured):
            reasons.setdefault(f"{skip['metric']}: {skip['reason']}", []).append(item.label)
    return [f"skipped for {'all' if len(rows) == len(entries) else ', '.join(rows)}: {what}" for what, rows in reasons.items()]
