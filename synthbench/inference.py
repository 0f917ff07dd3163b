"""Is the difference real? Intervals, paired tests and what a design can detect, as plain functions.

A recognizer of seed s is right or wrong about pair p of a benchmark: a table (S, P) of 0 and 1. Both seeds and pairs are samples, and every
seed meets the same pairs (a crossed design): y_sp = mean + seed_s + pair_p + rest_sp. So pair errors do not average out over seeds, and the
spread of seeds says nothing about the pairs; both enter an interval:

    Var(mean) = Var_seeds(y_s.) / S  +  Var_pairs(y_.p) / P  -  Var(rest) / (S P)

where the last term is in both others and counts once (Searle, Casella, McCulloch, Variance Components, 1992; Owen, The pigeonhole
bootstrap, 2007, for why resampling pairs alone is not enough). Degrees of freedom are Satterthwaite's, S - 1 for the seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95  # of every interval
ALPHA = 0.05  # of every test, two-sided
POWER = 0.8  # at which a difference counts as detectable
DRAWS = 2000  # of a bootstrap


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, with its two errors apart and the interval that holds both."""

    value: float
    sampling_stderr: float | None  # over pairs, images or classes; of the mean over the seeds
    seed_std: float | None  # standard deviation between seeds; None for one seed
    low: float | None
    high: float | None
    n: int  # seeds
    stderr: float | None = None  # of the value, both errors together
    freedom: float = np.inf  # degrees of freedom of stderr


def combine(sampling: float, seeds: Sequence[float], shared: float = 0.0) -> tuple[float, float]:
    """Standard error and degrees of freedom of a mean over `seeds` (S,) whose units have the sampling variance `sampling`.

    `shared`: the variance that is in both parts. With one seed only the sampling error is known, and it alone is returned.
    """
    count = len(seeds)
    between = float(np.var(seeds, ddof=1)) / count if count > 1 else 0.0
    return _total(sampling, [(between, count - 1)], shared)


def _total(sampling: float, between: Sequence[tuple[float, int]], shared: float) -> tuple[float, float]:
    """`between`: (variance, degrees of freedom) of each set of seeds."""
    spread = sum(variance for variance, _ in between)
    total = max(sampling + spread - shared, sampling, spread)
    wobble = sum(variance**2 / freedom for variance, freedom in between if variance > 0 and freedom > 0)
    return float(np.sqrt(total)), total**2 / wobble if wobble > 0 else np.inf


def interval(seeds: Sequence[float], sampling_stderr: float | None, level: float = LEVEL) -> tuple[float, float] | tuple[None, None]:
    """(low, high) of the mean of `seeds` (S,), the score of each seed, whose sampling error is `sampling_stderr`.

    Conservative when the sampling error of each seed is its own (generated images): it is then in the spread of the seeds too.
    (None, None) when neither error is known: one seed and no sampling error.
    """
    if sampling_stderr is None and len(seeds) < 2:
        return None, None
    stderr, freedom = combine((sampling_stderr or 0.0) ** 2, seeds)
    return around(float(np.mean(seeds)), stderr, freedom, level)


def around(value: float, stderr: float, freedom: float, level: float = LEVEL) -> tuple[float, float]:
    """(low, high) by Student's t."""
    half = float(stats.t.ppf(0.5 + level / 2, freedom)) * stderr
    return value - half, value + half


def estimate(seeds: Sequence[float], sampling_stderr: float | None) -> Estimate:
    """Of a score whose units are not at hand: `seeds` (S,) its values, `sampling_stderr` the error of one of them."""
    low, high = interval(seeds, sampling_stderr)
    stderr, freedom = combine((sampling_stderr or 0.0) ** 2, seeds) if low is not None else (None, np.inf)
    std = float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None
    return Estimate(float(np.mean(seeds)), sampling_stderr, std, low, high, len(seeds), stderr, freedom)


# ------------------------------------------------------------------------------------------------- tables of seeds x pairs


def bootstrap_means(values: np.ndarray, draws: int, random: np.random.Generator) -> np.ndarray:
    """Means (draws,) of P values drawn with replacement from `values` (P,).

    The values are few (differences of shares of seeds), so how often each is drawn is one multinomial: the same distribution, much faster.
    """
    distinct, counts = np.unique(values, return_counts=True)
    return random.multinomial(len(values), counts / len(values), size=draws) @ distinct / len(values)


def rest_variance(table: np.ndarray) -> float:
    """Var(rest) / (S P) of `table` (S, P): what neither its seed nor its pair explains. Zero for one seed, where it is in the pairs."""
    seeds, pairs = table.shape
    if seeds < 2 or pairs < 2:
        return 0.0
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    return float((rest**2).sum() / ((seeds - 1) * (pairs - 1)) / (seeds * pairs))


def accuracy(tables: Sequence[np.ndarray], values: Sequence[float] | None = None) -> Estimate:
    """The mean over benchmarks of `tables`, each (S, P_k) right or wrong, in percent. `values` (S,): the printed scores of the seeds."""
    return _estimate([np.asarray(table, float) for table in tables], values)


def _estimate(tables: Sequence[np.ndarray], values: Sequence[float] | None) -> Estimate:
    count = len(tables)
    seeds = [100 * float(np.mean([table[s].mean() for table in tables])) for s in range(len(tables[0]))] if values is None else list(values)
    pairs = sum(100**2 * table.mean(0).var(ddof=1) / table.shape[1] for table in tables) / count**2
    shared = sum(100**2 * rest_variance(table) for table in tables) / count**2
    stderr, freedom = combine(float(pairs), seeds, shared)
    value, std = float(np.mean(seeds)), float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None
    return Estimate(value, float(np.sqrt(pairs)), std, *around(value, stderr, freedom), len(seeds), stderr, freedom)


@dataclass(frozen=True)
class Difference:
    """A - B over the same pairs, in percentage points."""

    points: float
    low: float
    high: float
    p: float  # two-sided
    stderr: float
    freedom: float
    sampling_stderr: float  # of the points, over pairs alone


def difference(
    a: Sequence[np.ndarray],
    b: Sequence[np.ndarray],
    random: np.random.Generator,
    values: tuple[Sequence[float], Sequence[float]] | None = None,
    draws: int = DRAWS,
) -> Difference:
    """Mean over benchmarks of A minus that of B: `a`, `b` hold for each benchmark right or wrong, (S_a, P_k) and (S_b, P_k).

    The pair error is a paired bootstrap: pairs are drawn together for both and for all seeds. Seeds are independent between A and B (seed 0
    of one has nothing in common with seed 0 of the other but its number), so their spread enters as in Welch's test. `values`: the printed
    scores of the seeds of A and B. With one seed of either, the pair error is the whole error: the claim is about these two networks.
    """
    tables_a, tables_b = ([np.asarray(table, float) for table in tables] for tables in (a, b))
    count = len(tables_a)
    drawn = np.zeros(draws)
    for one, other in zip(tables_a, tables_b, strict=True):
        drawn += 100 * bootstrap_means(one.mean(0) - other.mean(0), draws, random) / count
    sampling = float(np.var(drawn, ddof=1))
    if values is None:
        values = tuple(100 * np.mean([table.mean(1) for table in tables], axis=0) for tables in (tables_a, tables_b))  # type: ignore[assignment]
    assert values is not None
    points = float(np.mean(values[0]) - np.mean(values[1]))
    between, shared = [], 0.0
    if min(len(values[0]), len(values[1])) > 1:
        between = [(float(np.var(seeds, ddof=1)) / len(seeds), len(seeds) - 1) for seeds in values]
        shared = sum(100**2 * rest_variance(table) for table in (*tables_a, *tables_b)) / count**2
    stderr, freedom = _total(sampling, between, shared)
    return Difference(points, *around(points, stderr, freedom), p_value(points, stderr, freedom), stderr, freedom, float(np.sqrt(sampling)))


def unpaired(a: Estimate, b: Estimate) -> Difference | None:
    """A - B of two scores whose units differ (Welch). None when the error of either is not known."""
    if a.stderr is None or b.stderr is None:
        return None
    between = [(x.stderr**2, x.freedom) for x in (a, b)]  # type: ignore[operator]
    total = sum(variance for variance, _ in between)
    wobble = sum(variance**2 / freedom for variance, freedom in between)
    stderr, freedom = float(np.sqrt(total)), total**2 / wobble if wobble > 0 else np.inf
    points = a.value - b.value
    sampling = float(np.hypot(a.sampling_stderr or 0.0, b.sampling_stderr or 0.0))
    return Difference(points, *around(points, stderr, freedom), p_value(points, stderr, freedom), stderr, freedom, sampling)


def p_value(points: float, stderr: float, freedom: float) -> float:
    """Two-sided, by Student's t; 1 for no difference, 0 for a difference without any error."""
    if stderr == 0:
        return float(points == 0)
    return float(2 * stats.t.sf(abs(points) / stderr, freedom))


# -------------------------------------------------------------------------------------------------------------- tests


def mcnemar(only_a: int, only_b: int, mid: bool = True) -> float:
    """Two-sided p of McNemar's test: `only_a` pairs that only A has right, `only_b` that only B has.

    Exact binomial, or mid-p, which counts the observed outcome half: the exact test is conservative (Fagerland, Lydersen, Laake, The
    McNemar test for binary matched-pairs data, 2013).
    """
    n, fewer = only_a + only_b, min(only_a, only_b)
    if n == 0:
        return 1.0
    half = float(stats.binom.pmf(fewer, n, 0.5)) if mid else 0.0  # of both tails
    return min(1.0, 2 * float(stats.binom.cdf(fewer, n, 0.5)) - half)


def discordant(a: np.ndarray, b: np.ndarray) -> tuple[int, int]:
    """Pairs that A (S_a, P) is right about in a larger share of its seeds than B (S_b, P), and the opposite; for McNemar's test.

    With one seed each: pairs that only A, only B has right. With more it is a sign test over pairs: valid although the seeds meet the same
    pairs, and about these networks; what other seeds would do is in `difference`.
    """
    net = np.mean(a, axis=0, dtype=float) - np.mean(b, axis=0, dtype=float)
    return int((net > 1e-9).sum()), int((net < -1e-9).sum())


def holm(p: Sequence[float]) -> list[float]:
    """p values adjusted for their number, in their order (Holm, A simple sequentially rejective multiple test procedure, 1979)."""
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(np.argsort(p, kind="stable")):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted


def detectable(stderr: float, freedom: float, comparisons: int = 1, alpha: float = ALPHA, power: float = POWER) -> float:
    """The smallest true difference that a two-sided test with this standard error finds with probability `power`.

    `comparisons`: the size of the table; the level is alpha / comparisons, that of Holm's first step.
    """
    level = 1 - alpha / comparisons / 2
    return float((stats.t.ppf(level, freedom) + stats.t.ppf(power, freedom)) * stderr)


def rank_ranges(count: int, better: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """Best and worst rank of each of `count` rows; `better` holds (i, j) where i was shown to be better than j."""
    return [(1 + sum((j, i) in better for j in range(count)), count - sum((i, j) in better for j in range(count))) for i in range(count)]
