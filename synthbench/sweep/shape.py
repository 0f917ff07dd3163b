"""The shape of a curve of accuracies over a setting: does it have an optimum inside, does it rise or fall, or can nothing be told?

Points of a curve are recognizers tested on the same pairs, each with its own seeds. What is asked of them are contrasts: weighted sums of
their accuracies. The pair error of a contrast follows from the covariance of the points over the pairs they share. The spread of seeds is
taken to be the same at every point and pooled, as in an analysis of variance, for the few seeds of one point hardly tell it; it adds up
over points, although seeds of one number share their generator where only sampling is swept: that makes the intervals wider, not
narrower. inference.py has the model of seeds and pairs, and the difference of two runs that stand alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from synthbench.results.inference import ALPHA, Difference, Error, detectable, holm, rest_variance


@dataclass(frozen=True)
class Joint:
    """Accuracies of G points and how they vary together, in percentage points."""

    values: np.ndarray  # (G,) means over seeds and benchmarks
    sampling: np.ndarray  # (G, G) covariance of the means over pairs
    shared: np.ndarray  # (G,) the part of each that the spread of its seeds holds too
    seeds: np.ndarray  # (G,) variance of each mean from its seeds, pooled; zero where any point has one seed
    freedom: float  # degrees of freedom of the pooled spread

    def error(self, w: np.ndarray) -> Error:
        """Of the contrast with weights w (G,)."""
        sampling = max(0.0, float(w @ self.sampling @ w))
        if not self.freedom:
            return Error(sampling)
        return Error(max(sampling - float(w**2 @ self.shared), 0.0), float(w**2 @ self.seeds), self.freedom)

    def contrast(self, w: np.ndarray) -> Difference:
        """sum_g w_g value_g for weights w (G,) that add up to zero, with its interval and p."""
        points, error = round(float(w @ self.values), 9), self.error(w)  # of equal points exactly 0, and p 1: not that of a rounding error
        return Difference(points, *error.around(points), error.p(points), error, max(0.0, float(w @ self.sampling @ w)) ** 0.5)

    def difference(self, i: int, j: int) -> Difference:
        """Point i minus point j."""
        one = np.eye(len(self.values))
        return self.contrast(one[i] - one[j])


def joint(points: Sequence[Sequence[np.ndarray]], values: Sequence[Sequence[float]]) -> Joint:
    """From right or wrong of G points: `points[g][k]` (S_g, P_k) for each benchmark k, and `values[g]` (S_g,) the printed scores."""
    benchmarks = len(points[0])
    sampling = np.zeros((len(points), len(points)))
    for k in range(benchmarks):
        means = np.stack([np.mean(tables[k], axis=0, dtype=float) for tables in points])  # (G, P_k)
        sampling += 100**2 * np.atleast_2d(np.cov(means)) / means.shape[1] / benchmarks**2
    shared = [sum(100**2 * rest_variance(np.asarray(table, float)) for table in tables) / benchmarks**2 for tables in points]
    sizes = np.array([len(seeds) for seeds in values])
    freedom = int((sizes - 1).sum()) if sizes.min() > 1 else 0
    pooled = sum(float(np.var(seeds)) * len(seeds) for seeds in values) / freedom if freedom else 0.0
    return Joint(np.array([float(np.mean(seeds)) for seeds in values]), sampling, np.array(shared), pooled / sizes, freedom)


@dataclass(frozen=True)
class Shape:
    """What a curve over ascending x shows. `kind`: interior optimum, interior minimum, rising, falling, flat."""

    kind: str
    best: int  # the highest point
    beaten: list[int]  # interior points that are better (or, for a minimum, worse) than both ends, tested
    p: float  # of the claim, adjusted; for flat, of the nearest claim
    over_ends: tuple[Difference, Difference]  # the best interior point (of those tested better) minus the first and the last point
    interior: int  # which one that is
    trend: Difference  # slope from end to end of the straight line through all points
    bend: Difference  # coefficient of the quadratic fit, x scaled to -1..1; negative for an inverted U
    fit_p: float  # Lind-Mehlum: that the quadratic fit rises at one end and falls at the other
    vertex: tuple[float, float, float] | None  # where the quadratic fit is extreme, with its interval within the range (Fieller)
    with_best: list[int]  # points not told apart from the highest
    detectable: float  # true difference between two points that these tests would have found with probability 80 %


def shape(x: Sequence[float], curve: Joint) -> Shape:
    """Judge a curve with at least three points; `x` strictly ascending.

    An interior point is the optimum when it is better than the first point and better than the last, which takes both tests
    (intersection-union: the larger p counts). There are as many chances as interior points, and one more claim is made, that the straight
    line through all points has a slope; Holm over all of these. A minimum is the same with the sign turned. Beside it stands the quadratic
    fit with the test of Lind and Mehlum (2010), which uses all points but believes in a parabola; it decides nothing.
    """
    at, count = np.asarray(x, float), len(x)
    first, last = 0, count - 1
    inside = range(1, last)
    against = {i: (curve.difference(i, first), curve.difference(i, last)) for i in inside}
    lines = _lines(at)
    trend = curve.contrast(lines[0])
    claims = [max(a.p, b.p) if a.points * b.points > 0 else 1.0 for a, b in against.values()]
    adjusted = holm([*claims, trend.p])
    shown = {sign: [i for i, p in zip(inside, adjusted) if p < ALPHA and sign * against[i][0].points > 0] for sign in (1, -1)}
    best = int(np.argmax(curve.values))
    top = max(shown[1] or inside, key=lambda i: float(curve.values[i]))
    if shown[1]:
        kind, p, beaten = "interior optimum", min(adjusted[i - 1] for i in shown[1]), shown[1]
    elif shown[-1]:
        kind, p, beaten = "interior minimum", min(adjusted[i - 1] for i in shown[-1]), shown[-1]
    elif adjusted[-1] < ALPHA:
        kind, p, beaten = "rising" if trend.points > 0 else "falling", adjusted[-1], []
    else:
        kind, p, beaten = "flat", min(adjusted), []
    bend, fit_p, vertex = _parabola(at, curve, lines)
    others = [i for i in range(count) if i != best]
    apart = holm([curve.difference(best, i).p for i in others])
    worst = max((pair[end].error for pair in against.values() for end in (0, 1)), key=lambda error: error.stderr)
    return Shape(
        kind, best, beaten, p, against[top], top, trend, bend, fit_p, vertex,
        [i for i, value in zip(others, apart) if value >= ALPHA], detectable(worst, len(adjusted)),
    )  # fmt: skip


def scaled(x: np.ndarray) -> np.ndarray:
    """x with its range as -1..1."""
    return 2 * (x - x[0]) / (x[-1] - x[0]) - 1


def _lines(x: np.ndarray) -> np.ndarray:
    """Weights (3, G): rise of the fitted straight line from end to end; linear and quadratic coefficient of the fitted parabola."""
    z, count = scaled(x), len(x)
    straight = np.linalg.pinv(np.stack([np.ones(count), z], 1))[1]
    parabola = np.linalg.pinv(np.stack([np.ones(count), z, z**2], 1))
    return np.stack([2 * straight, parabola[1], parabola[2]])


def _parabola(x: np.ndarray, curve: Joint, lines: np.ndarray) -> tuple[Difference, float, tuple[float, float, float] | None]:
    """Bend, Lind and Mehlum's p, and the extreme with its Fieller interval: where a slope of zero cannot be refused."""
    _, linear, quadratic = lines
    bend = curve.contrast(quadratic)
    left, right = (curve.contrast(linear + 2 * end * quadratic) for end in (-1.0, 1.0))
    sign = -float(np.sign(bend.points))  # 1 for an inverted U, which rises at the left end and falls at the right one
    one_sided = [item.p / 2 if item.points * wanted > 0 else 1 - item.p / 2 for item, wanted in ((left, sign), (right, -sign))]
    grid = np.linspace(-1, 1, 101)
    slopes = [linear + 2 * v * quadratic for v in grid]
    ranges = [curve.error(w).around(float(w @ curve.values)) for w in slopes]
    possible = grid[[low <= 0 <= high for low, high in ranges]]
    middle = float(-(linear @ curve.values) / (2 * bend.points)) if bend.points else np.inf
    if not len(possible) or not -1 <= middle <= 1:
        return bend, max(one_sided), None

    def back(v: float) -> float:
        return float(x[0] + (v + 1) / 2 * (x[-1] - x[0]))

    return bend, max(one_sided), (back(middle), back(possible[0]), back(possible[-1]))
