"""The seven requirements of a synthetic set ("Beyond Real Faces", arXiv 2510.17372), by what is measured here, beside the real set's own.

Nothing is added up: there is no total. What a protocol does not measure has the reason in the number's place.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from synthbench.results import further, inference, leak
from synthbench.results.record import Result, floor, values
from synthbench.results.tables import learnt_from, number

AVG = "verification/avg/accuracy"


@dataclass(frozen=True)
class Line:
    """One measure of one requirement."""

    requirement: str
    measure: str
    value: str  # with its 95 % interval; or why there is none
    real: str  # the same of the real set; empty where that has none


MEASURES = (  # requirement, measure, metric, digits, factor
    ("intra-class variability", "similarity of images of one identity, judge", "separability/intra_class_similarity", 2, 1.0),
    ("intra-class variability", "share of the real set's variety that is covered (recall), judge", "fd/judge/recall", 2, 1.0),
    ("identity separability", "d' of genuine and impostor pairs, judge", "separability/d_prime", 2, 1.0),
    ("identity separability", "equal error rate of the set's own identities, %, judge", "separability/eer", 1, 100.0),
    ("ethical sourcing", "photographs of real people in the set, %", "leakage/real_photographs", 1, 100.0),
)


def scorecard(result: Result) -> list[dict[str, str]]:
    """The lines of a run, plain; empty for a network that was trained elsewhere, which has no set."""
    return [] if "weights" in result else [asdict(line) for line in _lines(result)]


def _lines(result: Result) -> Iterator[Line]:
    real = result.get("baseline") or {}
    yield _leakage(result)
    for requirement, measure, metric, digits, factor in MEASURES[:4]:
        yield Line(requirement, measure, _told(result, metric, digits, factor), _of_real(real, metric, digits, factor))
    yield Line("scale", "identities x images", str(result.get("size", result["volume"])), str(real.get("size", "")))
    requirement, measure, metric, digits, factor = MEASURES[4]
    yield Line(requirement, measure, _told(result, metric, digits, factor), "")
    yield Line(requirement, "learnt from", learnt_from(result), "")
    yield Line(requirement, "networks it needs", result["traits"].get("pretrained") or "none", "")
    yield from _bias(result, real)
    yield from _reliability(result, real)


def _leakage(result: Result) -> Line:
    measure, level = "images taken for a person of the real set, % (strangers' images that are)", leak.chance(result)
    text = leak.text(result)
    if text == "-" and level is not None:
        text = f"cannot be told: the judge takes {100 * level:.1f} % of strangers for one"
    return Line("identity leakage prevention", measure, text if text != "-" else _reason(result, "leakage"), "")


def _bias(result: Result, real: Mapping[str, Any]) -> Iterator[Line]:
    shown = {metric: title for metric, title in further.metrics([result]).items() if metric.startswith("groups/")}
    for metric, title in shown.items():
        yield Line("bias mitigation", title, _told(result, metric, 2, 1.0), _of_real(real, metric, 2, 1.0))
    if not shown:
        why = "not measured: the protocol has no evaluator `groups` (demo-hard has)"
        yield Line("bias mitigation", "accuracy by group of people", why, "")


def _reliability(result: Result, real: Mapping[str, Any]) -> Iterator[Line]:
    """How much of the benchmark lies between a network that learnt nothing and the real set, and what it can tell apart."""
    requirement, base = "benchmark reliability", real or result
    lowest, highest = (_mean(item, metric) for item, metric in ((result, floor(AVG)), (base, AVG)))
    if lowest is None or highest is None:
        yield Line(requirement, "AVG %: untrained network to real set", _reason(result, "verification"), "")
        return
    yield Line(requirement, "AVG %: untrained network to real set", f"{lowest:.1f} to {highest:.1f}", "")
    seeds = [score["value"] for score in values(result, AVG)]
    error = _error(result, AVG)
    if error:
        share = inference.detectable(inference.Error(2 * error**2)) / (highest - lowest) if highest > lowest else float("inf")
        told = "least difference in AVG of two such sets that is found 4 times in 5, of that span"
        yield Line(requirement, told, f"{100 * share:.0f} %" + (", seeds not counted" if len(seeds) == 1 else ""), "")
    yield Line(requirement, "seeds", str(len(seeds)), "")


def _told(result: Mapping[str, Any], metric: str, digits: int, factor: float) -> str:
    """`0.59 [0.58, 0.61]`, with `(chance)` where there is one; the reason where it was not measured. None of them can be below 0."""
    found = [score["value"] for score in result["scores"] if score["metric"] == metric]
    if not found:
        return _reason(result, metric)
    low, high = inference.interval(found, _error(result, metric))
    interval = "" if low is None or high is None else f" [{number(factor * max(low, 0.0), digits)}, {number(factor * high, digits)}]"
    level = further.chance(result, metric)
    return number(factor * statistics.fmean(found), digits) + interval + ("" if level is None else f" ({number(level, digits)})")


def _of_real(real: Mapping[str, Any], metric: str, digits: int, factor: float) -> str:
    """Of the real set; nothing for its distance to itself, which is no measurement."""
    there = real and not metric.startswith("fd/") and any(score["metric"] == metric for score in real["scores"])
    return _told(real, metric, digits, factor) if there else ""


def _reason(result: Mapping[str, Any], metric: str) -> str:
    why = [skip["reason"] for skip in result.get("skipped", ()) if metric.startswith(skip["metric"]) or skip["metric"].startswith(metric)]
    return f"not measured: {why[0]}" if why else "not measured under this protocol"


def _mean(result: Mapping[str, Any], metric: str) -> float | None:
    found = [score["value"] for score in result["scores"] if score["metric"] == metric]
    return statistics.fmean(found) if found else None


def _error(result: Mapping[str, Any], metric: str) -> float | None:
    found = [score["stderr"] for score in result["scores"] if score["metric"] == metric and score["stderr"] is not None]
    return statistics.fmean(found) if found else None
