"""Columns that only some protocols have: how far groups lie apart, who is in the set, template sets; in brackets what chance has."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

Result = Mapping[str, Any]  # of which only the scores are read
GROUPS = {"std": "std by group (chance)", "skewed_error_ratio": "SER (chance)", "fmr_ratio": "FMR ratio (chance)"}
DEMOGRAPHICS = {"distance": "shares off real % (chance)"}
TEMPLATES = {
    "rank_1": "rank-1 % (chance)",
    "tpir_at_fpir_1e-1": "TPIR@FPIR 0.1 % (chance)",
    "tpir_at_fpir_1e-2": "TPIR@FPIR 0.01 % (chance)",
    "tar_at_far_1e-4": "TAR@FAR 1e-4 %",
}
NOTES = {
    "groups": "std by group: of the groups' accuracies, in points; SER: errors of the worst group over those of the best, each with a "
    "threshold of its own; FMR ratio: false matches of the worst over those of the best at one threshold for all; in brackets what groups "
    "at random have",
    "demographics": "shares off real: people in a hundred who would have to be of another group for the set to have the real set's shares; "
    "in brackets what as many people drawn from the real set are off; near is to repeat the real set, fair or not, so none is best",
    "templates": "rank-1: people who come first of a gallery; TPIR: who do so above the threshold that 1 in 10 or in 100 strangers reach; "
    "TAR: pairs of templates of one person accepted where 1 in 10,000 impostors is; ± over people",
}


def metrics(results: Iterable[Result]) -> dict[str, str]:
    """Title by metric of what was measured of each set of groups, attribute of people and template set."""
    found = dict.fromkeys(score["metric"] for result in results for score in result["scores"])
    titles: dict[str, str] = {}
    for kind, known in (("groups", GROUPS), ("demographics", DEMOGRAPHICS), ("templates", TEMPLATES)):
        parts = {metric: metric.split("/") for metric in found if metric.startswith(f"{kind}/")}
        several = len({part[1] for part in parts.values()}) > 1
        shown = {metric: part for metric, part in parts.items() if len(part) == 3 and part[2] in known}
        titles |= {metric: (f"{part[1]}: " if several else "") + known[part[2]] for metric, part in shown.items()}
    return titles


def notes(shown: Iterable[str]) -> list[str]:
    """What a reader must know of the metrics `shown`."""
    kinds = {metric.partition("/")[0] for metric in shown}
    return [note for kind, note in NOTES.items() if kind in kinds]


def people(results: Iterable[Result]) -> dict[str, str]:
    """Title by metric of the shares of people in each group."""
    found = dict.fromkeys(score["metric"] for result in results for score in result["scores"])
    parts = {metric: metric.split("/") for metric in found if metric.startswith("demographics/")}
    return {metric: f"{part[1]}: {part[3]}" for metric, part in parts.items() if len(part) == 4 and part[2] == "identities"}


def higher_is_better(metric: str) -> bool | None:
    return None if metric.startswith("demographics/") else not metric.startswith("groups/")


def sets(result: Result) -> dict[str, list[str]]:
    """The groups that have numbers, by the name of their set."""
    found: dict[str, list[str]] = {}
    for score in result["scores"]:
        kind, name, *rest = score["metric"].split("/")
        if kind == "groups" and rest[:1] == ["accuracy"]:
            found.setdefault(name, []).append(rest[1])
    return found


def searched(result: Result) -> dict[str, list[str]]:
    """What was measured of each template set, by its name."""
    found: dict[str, list[str]] = {}
    for score in result["scores"]:
        kind, name, *rest = score["metric"].split("/")
        if kind == "templates" and len(rest) == 1:
            found.setdefault(name, []).append(rest[0])
    return {name: list(dict.fromkeys(measures)) for name, measures in found.items()}


def words(measure: str) -> str:
    """`TAR at FAR 1e-4` of tar_at_far_1e-4."""
    kind, _, rest = measure.partition("_")
    return (
        f"{kind.upper()} {rest.replace('_', ' ').replace('far', 'FAR').replace('fpir', 'FPIR')}"
        if "_at_" in measure
        else measure.replace("_", " ")
    )


def beside(cell: Mapping[str, Any], result: Result, metric: str) -> dict[str, Any]:
    """The cell with its `chance`, where it has one."""
    level = chance(result, metric)
    return dict(cell) if level is None else {**cell, "chance": level}


def chance(result: Result, metric: str) -> float | None:
    """What groups at random have, or one who guesses, mean over seeds; None for another metric, or where it is not known."""
    kind, _, rest = metric.partition("/")
    name, _, measure = rest.partition("/")
    if kind not in NOTES or measure.startswith("tar_"):  # whose chance is in its name
        return None
    levels = [score["value"] for score in result["scores"] if score["metric"] == f"{kind}/{name}/by_chance/{measure}"]
    return statistics.fmean(levels) if levels else None
