"""The seven requirements of a synthetic set ("Beyond Real Faces", arXiv 2510.17372), by what is measured here, beside the real set's own.

Nothing is added up: there is no total. What a protocol does not measure has the reason in the number's place.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass

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
)


def scorecard(result: Result, photographs: str = "unknown") -> list[dict[str, str]]:
    """The lines of a run, plain; empty for a network that was trained elsewhere, which has no set.

    photographs: which of its images are photographs of real people, see `lookup.photographs`; "" for none.
    """
    return [] if "weights" in result else [asdict(line) for line in _lines(result, photographs)]


def _lines(result: Result, photographs: str) -> Iterator[Line]:
    real = result.get("baseline") or {}
    yield _leakage(result)
    for requirement, measure, metric, digits, factor in MEASURES:
        yield Line(requirement, measure, _told(result, metric, digits, factor), _of_real(real, metric, digits, factor))
    yield Line("scale", "identities x images", str(result.get("size", result["volume"])), str(real.get("size", "")))
    requirement = "ethical sourcing"
    share = _told(result, "leakage/real_photographs", 1, 100.0) if photographs else "0 (its generator has none)"
    yield Line(requirement, "photographs of real people in the set, %", share, "")
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


def _bias(result: Result, real: Result) -> Iterator[Line]:
    shown = {metric: title for metric, title in further.metrics([result]).items() if metric.startswith(("groups/", "demographics/"))}
    for metric, title in shown.items():
        yield Line("bias mitigation", title, _told(result, metric, 2, 1.0), _of_real(real, metric, 2, 1.0))
    if not shown:
        why = "not measured: the protocol has no evaluator `groups` (demo-hard has)"
        yield Line("bias mitigation", "accuracy by group of people", why, "")


def _reliability(result: Result, real: Result) -> Iterator[Line]:
    """How much of the benchmark lies between a network that learnt nothing and the real set, and what it can tell apart."""
    requirement, base = "benchmark reliability", real or result
    floors, tops, seeds = _seeds(result, floor(AVG)), _seeds(base, AVG), _seeds(result, AVG)
    if not floors or not tops:
        yield Line(requirement, "AVG %: untrained network to real set", _reason(result, "verification"), "")
        return
    lowest, highest = statistics.fmean(floors), statistics.fmean(tops)
    yield Line(requirement, "AVG %: untrained network to real set", f"{lowest:.1f} to {highest:.1f}", "")
    if error := _error(result, AVG):
        share = inference.detectable(inference.Error(2 * error**2)) / (highest - lowest) if highest > lowest else float("inf")
        told = "least difference in AVG of two such sets that is found 4 times in 5, of that span"
        yield Line(requirement, told, f"{100 * share:.0f} %" + (", seeds not counted" if len(seeds) == 1 else ""), "")
    yield Line(requirement, "seeds", str(len(seeds)), "")


def _told(result: Result, metric: str, digits: int, factor: float) -> str:
    """`0.59 [0.58, 0.61]`, with `(chance)` where there is one; the reason where it was not measured. None of them can be below 0."""
    found = _seeds(result, metric)
    if not found:
        return _reason(result, metric)
    low, high = inference.interval(found, _error(result, metric))
    interval = "" if low is None or high is None else f" [{number(factor * max(low, 0.0), digits)}, {number(factor * high, digits)}]"
    level = further.chance(result, metric)
    return number(factor * statistics.fmean(found), digits) + interval + ("" if level is None else f" ({number(level, digits)})")


def _of_real(real: Result, metric: str, digits: int, factor: float) -> str:
    return _told(real, metric, digits, factor) if real and values(real, metric) else ""


def _reason(result: Result, metric: str) -> str:
    why = [skip["reason"] for skip in result.get("skipped", ()) if metric.startswith(skip["metric"]) or skip["metric"].startswith(metric)]
    return f"not measured: {why[0]}" if why else "not measured under this protocol"


def _seeds(result: Result, metric: str) -> list[float]:
    return [score["value"] for score in values(result, metric)]


def _error(result: Result, metric: str) -> float | None:
    found = [score["stderr"] for score in values(result, metric) if score["stderr"] is not None]
    return statistics.fmean(found) if found else None
