"""Fairness in tables: how far the accuracies of groups of people lie apart, and in brackets how far those of groups at random do."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

Result = Mapping[str, Any]  # of which only the scores are read
TITLES = {"std": "std by group (chance)", "skewed_error_ratio": "SER (chance)", "fmr_ratio": "FMR ratio (chance)"}
NOTE = (
    "std by group: of the groups' accuracies, in points; SER: errors of the worst group over those of the best, each with a threshold of "
    "its own; FMR ratio: false matches of the worst over those of the best at one threshold for all; in brackets what groups at random have"
)


def metrics(results: Iterable[Result]) -> dict[str, str]:
    """Title by metric of what was measured of each set of groups."""
    found = dict.fromkeys(score["metric"] for result in results for score in result["scores"] if score["metric"].startswith("groups/"))
    parts = {metric: metric.split("/") for metric in found}
    several = len({part[1] for part in parts.values()}) > 1
    return {
        metric: (f"{part[1]}: " if several else "") + TITLES[part[2]]
        for metric, part in parts.items()
        if len(part) == 3 and part[2] in TITLES
    }


def sets(result: Result) -> dict[str, list[str]]:
    """The groups that have numbers, by the name of their set."""
    found: dict[str, list[str]] = {}
    for score in result["scores"]:
        kind, name, *rest = score["metric"].split("/")
        if kind == "groups" and rest[:1] == ["accuracy"]:
            found.setdefault(name, []).append(rest[1])
    return found


def beside(cell: Mapping[str, Any], result: Result, metric: str) -> dict[str, Any]:
    """The cell with its `chance`, where it has one."""
    level = chance(result, metric)
    return dict(cell) if level is None else {**cell, "chance": level}


def chance(result: Result, metric: str) -> float | None:
    """What groups at random have, mean over seeds; None for a metric that is not of groups, or where it is not known."""
    kind, _, rest = metric.partition("/")
    name, _, measure = rest.partition("/")
    levels = [score["value"] for score in result["scores"] if score["metric"] == f"{kind}/{name}/by_chance/{measure}"]
    return statistics.fmean(levels) if kind == "groups" and levels else None
