"""What a curve says, in sentences with their numbers: nothing is claimed that a test does not show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from synthbench.results.comparison import AVG
from synthbench.results.inference import ALPHA, Difference, holm
from synthbench.results.tables import stated
from synthbench.sweep.design import Request, label
from synthbench.sweep.shape import Joint, Shape, shape


@dataclass(frozen=True)
class Point:
    """A finished point: its values, and its AVG with errors."""

    values: dict[str, Any]
    cell: dict[str, Any]


def statement(points: Sequence[Point], curve: Joint | None, confirmed: Sequence[dict[str, Any]], size: int, request: Request) -> str:
    """The curve of `points`, of `size` that there will be; `curve` holds the same points for tests, None when they cannot be tested."""
    if not points:
        return "Nothing is finished yet."
    parts = []
    if len(points) < size:
        parts.append(f"So far, with {len(points)} of {size} points done:")
    xs = positions([point.values for point in points])
    if curve is None:
        parts.append("Nothing can be tested, for the per-pair results of some points are gone.")
    elif len(points) == 1:
        parts.append(f"One point, {label(points[0].values)}: AVG {_value(points[0])}.")
    elif xs and len(points) > 2:
        order = sorted(range(len(points)), key=lambda i: xs[i])
        parts.append(_curve([points[i] for i in order], shape([xs[i] for i in order], _ordered(curve, order))))
    else:
        parts.append(_choices(points, curve))
    if request.seeds == 1:
        parts.append("n = 1 seed: the spread between seeds is not known, so this is about these networks only.")
    else:
        parts.append(f"n = {request.seeds} seeds; intervals are 95 %, of pairs and seeds.")
    if request.sampler != "grid":
        parts.append(f"{request.sampler} chose the points by their scores, so the highest flatters; --confirm measures it afresh.")
    parts += [_confirmed(row) for row in confirmed]
    return " ".join(parts)


def positions(values: Sequence[dict[str, Any]]) -> list[float] | None:
    """Where the points stand on one axis of numbers, all different; None when there is no such axis."""
    if any(len(point) != 1 for point in values):
        return None
    found = [next(iter(point.values())) for point in values]
    if any(isinstance(x, bool) or not isinstance(x, (int, float)) for x in found) or len(set(found)) < len(found):
        return None
    return [float(x) for x in found]


def _ordered(curve: Joint, order: Sequence[int]) -> Joint:
    i = list(order)
    return Joint(curve.values[i], curve.sampling[i][:, i], curve.shared[i], curve.seeds[i], curve.freedom)


def _curve(points: Sequence[Point], found: Shape) -> str:
    """`points` ascending."""
    name = next(iter(points[0].values)).rpartition(".")[2]
    first, last, top, best = points[0], points[-1], points[found.interior], points[found.best]
    claims = len(points) - 1
    test = f"({stated(found.p)} after Holm over {claims} claims)"
    over = f"{_points(found.over_ends[0])} over {label(first.values)} and {_points(found.over_ends[1])} over {label(last.values)}"
    rival = found.over_ends[0] if first.cell["value"] > last.cell["value"] else found.over_ends[1]
    better_end = first if first.cell["value"] > last.cell["value"] else last
    extreme = ""
    if found.vertex:
        middle, low, high = found.vertex
        what = "highest" if found.bend.points < 0 else "lowest"
        extreme = f" A parabola through all points is {what} at {name} = {middle:.2g} [{low:.2g}, {high:.2g}]"
        extreme += f", and turns within the range with {stated(found.fit_p)} (Lind and Mehlum)."
    ties = [label(points[i].values) for i in found.with_best]
    tied = f" Not told apart from the highest: {', '.join(ties)}." if ties else ""
    if found.kind == "interior optimum":
        several = f" ({len(found.beaten)} inner points are better than both ends)" if len(found.beaten) > 1 else ""
        text = f"AVG has an interior optimum over {name}{several}: {label(top.values)} has {_value(top)}, {over} {test}."
        return text + tied + extreme
    if found.kind == "interior minimum":
        worst = points[min(found.beaten, key=lambda i: points[i].cell["value"])]
        return f"AVG is lower inside than at both ends of {name}, lowest at {label(worst.values)} with {_value(worst)} {test}.{extreme}"
    highest = f"The highest is {label(best.values)} with {_value(best)}."
    inner = f"The best inner point, {label(top.values)}, is {_points(rival)} over the better end, {label(better_end.values)}."
    if found.kind in ("rising", "falling"):
        line = f"{found.trend.points:+.2f} points [{found.trend.low:+.2f}, {found.trend.high:+.2f}]"
        text = f"AVG is {found.kind} with {name}: a straight line goes {line} from {label(first.values)} to {label(last.values)} {test}"
        return f"{text}; an interior optimum is not shown. {highest} {inner}{tied}{extreme}"
    return (
        f"No dependence of AVG on {name} is shown: no inner point is better than both ends, and no slope is found "
        f"(smallest {stated(found.p)} after Holm over {claims} claims). A true difference of {found.detectable:.1f} points from an end "
        f"would have been found with probability 80 %. {highest} {inner}{extreme}"
    )


def _choices(points: Sequence[Point], curve: Joint) -> str:
    """Points without an order: the highest, and which of the others cannot be told from it."""
    best = max(range(len(points)), key=lambda i: points[i].cell["value"])
    others = [i for i in range(len(points)) if i != best]
    found = [curve.difference(best, i) for i in others]
    adjusted = holm([item.p for item in found])
    tied = [label(points[i].values) for i, p in zip(others, adjusted) if p >= ALPHA]
    second = max(others, key=lambda i: points[i].cell["value"])
    ahead = curve.difference(best, second)
    text = f"The highest of {len(points)} is {label(points[best].values)} with AVG {_value(points[best])}, "
    text += f"{_points(ahead)} over the next, {label(points[second].values)}."
    if not tied:
        return text + f" It is better than every other (largest {stated(max(adjusted))} after Holm)."
    if len(tied) == len(others):
        return text + f" No point can be told from it (smallest {stated(min(adjusted))} after Holm)."
    return text + f" Not told apart from it: {', '.join(tied)}."


def _confirmed(row: dict[str, Any]) -> str:
    cell = row["scores"][AVG]
    of_new = (
        f"; {row['fresh']:.2f} % over the {row['fresh_seeds']} new runs, which had no part in choosing it" if row["fresh_seeds"] else ""
    )
    value = _value(Point(row["values"], cell))
    return f"Confirmed at {row['volume']} with {len(row['seeds'])} seeds: {label(row['values'])} has {value}{of_new}."


def _value(point: Point) -> str:
    cell = point.cell
    return f"{cell['value']:.2f} %" + (f" [{cell['low']:.2f}, {cell['high']:.2f}]" if cell["low"] is not None else "")


def _points(found: Difference) -> str:
    return f"{found.points:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"
