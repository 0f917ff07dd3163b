"""Leakage beside its chance level: how often the judge takes an image for a person of the real set, and how often it does so of strangers.

A judge that takes many strangers for somebody cannot tell who has leaked: beyond LIMIT there is no number, only the reason.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

SHARE = "leakage/image_to_image/share_above"
STRANGERS = "leakage/held_out/image_to_image/share_above"  # people of the benchmarks
OTHERS = "leakage/baseline/image_to_image/share_above"  # real people among the other real people: where no stranger was searched for
ALARM = "leakage/identities_with_a_leaked_image"  # has no chance level, so no table shows it
TITLE = "leak, images % (chance)"
LIMIT = 0.01

Result = Mapping[str, Any]  # of which only the scores are read


def _scores(result: Result, metric: str) -> list[Mapping[str, Any]]:
    return [score for score in result["scores"] if score["metric"] == metric]


def _strangers(result: Result) -> list[Mapping[str, Any]]:
    return _scores(result, STRANGERS) or _scores(result, OTHERS)


def _mean(numbers: Sequence[float]) -> float | None:
    return statistics.fmean(numbers) if numbers else None


def _error(scores: Sequence[Mapping[str, Any]]) -> float | None:
    """Mean sampling error: the seeds are searched for in the same images."""
    return _mean([score["stderr"] for score in scores if score["stderr"] is not None])


def chance(result: Result) -> float | None:
    """The share of strangers' images that are taken for a person of the real set, mean over seeds; None when that was not measured."""
    return _mean([score["value"] for score in _strangers(result)])


def beside(cell: Mapping[str, Any] | None, level: float | None) -> dict[str, Any] | None:
    """The cell of SHARE with its `chance`. No value where chance exceeds LIMIT; no cell where it is not known."""
    if not cell or level is None:
        return None
    told = level <= LIMIT and cell["value"] is not None
    return {**cell, "chance": level} | ({} if told else dict.fromkeys(("value", "sampling_stderr", "seed_std", "low", "high")))


def text(result: Result) -> str:
    """`0.4 ±0.1 (0.1)`: images taken for a person of the real set, in percent, and strangers' images that are; `-` where not told."""
    scores, level = _scores(result, SHARE), chance(result)
    if not scores or level is None or level > LIMIT:
        return "-"
    error = _error(scores)
    share = 100 * statistics.fmean(score["value"] for score in scores)
    return f"{share:.1f}" + ("" if error is None else f" ±{100 * error:.1f}") + f" ({100 * level:.1f})"


def exceeds(result: Result) -> bool:
    """Whether more images are taken for a person of the real set than strangers' images are, beyond the errors of both."""
    from synthbench.results import inference

    ours, theirs = _scores(result, SHARE), _strangers(result)
    one, other = ([score["value"] for score in scores] for scores in (ours, theirs))
    found = inference.unpaired(one, other, _error(ours), _error(theirs))
    return found is not None and found.points > 0 and found.p < inference.ALPHA


def notes(rows: Sequence[tuple[str, Result]]) -> list[str]:
    """What the column says, in words; or why it says nothing. `rows`: labels and results, of which some may have no leakage."""
    known = {label: (result, level) for label, result in rows if _scores(result, SHARE) and (level := chance(result)) is not None}
    told = {label: result for label, (result, level) in known.items() if level <= LIMIT}
    found = []
    if told:
        more = [label for label, result in told.items() if exceeds(result)]
        who = f"more than strangers': {', '.join(more)}" if more else "no more than strangers'"
        found.append(f"leak: images that the judge takes for a person of the real set, in brackets strangers' images that it does; {who}")
    if untold := {label: level for label, (_, level) in known.items() if label not in told}:
        whose = "" if len(untold) == len(known) else f" of {', '.join(untold)}"
        share = 100 * statistics.fmean(untold.values())
        found.append(f"leakage{whose} cannot be told: the judge takes {share:.1f} % of strangers for a person of the real set")
    return found
