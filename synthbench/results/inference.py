"""Is the difference real? Intervals, paired tests and what a design can detect, as plain functions.

A recognizer of seed s is right or wrong about pair p of a benchmark: a table (S, P) of 0 and 1. Both seeds and pairs are samples, and every
seed meets the same pairs (a crossed design): y_sp = mean + seed_s + pair_p + rest_sp. So pair errors do not average out over seeds, and the
spread of seeds says nothing about the pairs; both enter an interval:

    Var(mean) = Var_seeds(y_s.) / S  +  Var_pairs(y_.p) / P  -  Var(rest) / (S P)

where the last term is in both others and counts once (Searle, Casella, McCulloch, Variance Components, 1992; Owen, The pigeonhole
bootstrap, 2007, for why resampling pairs alone is not enough). Pairs are many and seeds few: the quantile is Cochran's, the mean of the
normal one and of Student's t for the seeds, weighted by their variances. Satterthwaite's shorter intervals cover 87 % with two seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

LEVEL = 0.95  # of every interval
ALPHA = 0.05  # of every test, two-sided
POWER = 0.8  # at which a difference counts as detectable
DRAWS = 2000  # of a bootstrap


@dataclass(frozen=True)
class Error:
    """How wrong a mean may be: two variances, and how well the second is known."""

    sampling: float  # variance of the mean from its pairs, images or classes
    seeds: float = 0.0  # variance of the mean from its seeds; 0 for one seed, where it is not known
    freedom: float = np.inf  # degrees of freedom of `seeds`

    @property
    def stderr(self) -> float:
        return float(np.sqrt(self.sampling + self.seeds))

    def quantile(self, probability: float) -> float:
        """Of the mean in units of `stderr` (Cochran)."""
        normal = float(special.ndtri(probability))
        if self.seeds == 0:
            return normal
        student = float(special.stdtrit(self.freedom, probability))
        return (self.sampling * normal + self.seeds * student) / (self.sampling + self.seeds)

    def around(self, value: float, level: float = LEVEL) -> tuple[float, float]:
        """The interval (low, high)."""
        half = self.quantile(0.5 + level / 2) * self.stderr
        return value - half, value + half

    def p(self, value: float) -> float:
        """Two-sided p of `value` where zero is true; 1 for no difference, 0 for a difference without any error."""
        if self.stderr == 0:
            return float(value == 0)
        ratio = abs(value) / self.stderr
        normal, student = 2 * float(special.ndtr(-ratio)), 2 * float(special.stdtr(self.freedom, -ratio))
        if self.seeds == 0 or self.sampling == 0 or student - normal < 1e-12:
            return student if self.seeds else normal
        # the level at which the interval touches zero lies between those of the two distributions
        return float(optimize.brentq(lambda p: self.quantile(1 - p / 2) - ratio, max(normal, 1e-15), student))


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, with its two errors apart and the interval that holds both."""

    value: float
    sampling_stderr: float | None  # over pairs, images or classes; of the mean over the seeds
    seed_std: float | None  # standard deviation between seeds; None for one seed
    low: float | None
    high: float | None
    n: int  # seeds
    error: Error | None  # None: one seed, and no sampling error is known


def spread(*seeds: Sequence[float]) -> tuple[float, float]:
    """Variance of a sum of means over `seeds`, sets of at least two independent scores, and its degrees of freedom (Welch)."""
    parts = [(float(np.var(scores, ddof=1)) / len(scores), len(scores) - 1) for scores in seeds]
    total, wobble = sum(variance for variance, _ in parts), sum(variance**2 / freedom for variance, freedom in parts)
    return total, total**2 / wobble if wobble > 0 else float(min(freedom for _, freedom in parts))


def combine(sampling: float, *seeds: Sequence[float], shared: float = 0.0) -> Error:
    """The error of a mean over seeds: `sampling`, its variance from pairs; `seeds`, one or two sets of scores, one score a seed.

    `shared`: variance that is in both. Where a set has one seed, its spread is not known, and the sampling error alone is returned.
    """
    if min(map(len, seeds)) < 2:
        return Error(sampling)
    return Error(max(sampling - shared, 0.0), *spread(*seeds))


def interval(seeds: Sequence[float], sampling_stderr: float | None, level: float = LEVEL) -> tuple[float, float] | tuple[None, None]:
    """(low, high) of the mean of `seeds` (S,), the score of each seed, whose sampling error is `sampling_stderr`.

    Conservative when the sampling error of each seed is its own (generated images): it is then in the spread of the seeds too.
    (None, None) when neither error is known: one seed and no sampling error.
    """
    error = estimate(seeds, sampling_stderr).error
    return error.around(float(np.mean(seeds)), level) if error else (None, None)


def estimate(seeds: Sequence[float], sampling_stderr: float | None) -> Estimate:
    """Of a score whose units are not at hand: `seeds` (S,) its values, `sampling_stderr` the error of one of them."""
    error = combine((sampling_stderr or 0.0) ** 2, seeds) if sampling_stderr is not None or len(seeds) > 1 else None
    return _estimate(seeds, sampling_stderr, error)


def _estimate(seeds: Sequence[float], sampling_stderr: float | None, error: Error | None) -> Estimate:
    value, std = float(np.mean(seeds)), float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None
    low, high = error.around(value) if error else (None, None)
    return Estimate(value, sampling_stderr, std, low, high, len(seeds), error)


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
    arrays = [np.asarray(table, float) for table in tables]
    seeds = 100 * np.mean([table.mean(1) for table in arrays], axis=0) if values is None else values
    pairs = float(sum(100**2 * table.mean(0).var(ddof=1) / table.shape[1] for table in arrays)) / len(arrays) ** 2
    shared = sum(100**2 * rest_variance(table) for table in arrays) / len(arrays) ** 2
    return _estimate(seeds, float(np.sqrt(pairs)), combine(pairs, seeds, shared=shared))


@dataclass(frozen=True)
class Difference:
    """A - B over the same pairs, in percentage points."""

    points: float
    low: float
    high: float
    p: float  # two-sided
    error: Error
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
        seeds = [100 * np.mean([table.mean(1) for table in tables], axis=0) for tables in (tables_a, tables_b)]
    else:
        seeds = [np.asarray(scores, float) for scores in values]
    shared = sum(100**2 * rest_variance(table) for table in (*tables_a, *tables_b)) / count**2
    points = float(seeds[0].mean() - seeds[1].mean())
    return _difference(points, combine(sampling, *seeds, shared=shared), float(np.sqrt(sampling)))


def _difference(points: float, error: Error, sampling_stderr: float) -> Difference:
    return Difference(points, *error.around(points), error.p(points), error, sampling_stderr)


def unpaired(a: Sequence[float], b: Sequence[float], sampling_a: float | None, sampling_b: float | None) -> Difference | None:
    """A - B of a score whose units differ (images of one set and of another): the scores of their seeds, and sampling errors of one score.

    None when the error of either is not known.
    """
    if any(stderr is None and len(seeds) < 2 for seeds, stderr in ((a, sampling_a), (b, sampling_b))):
        return None
    sampling = (sampling_a or 0.0) ** 2 + (sampling_b or 0.0) ** 2
    return _difference(float(np.mean(a) - np.mean(b)), combine(sampling, a, b), float(np.sqrt(sampling)))


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


def detectable(error: Error, comparisons: int = 1, alpha: float = ALPHA, power: float = POWER) -> float:
    """The smallest true difference that a two-sided test with this error finds with probability `power`.

    `comparisons`: the size of the table; the level is alpha / comparisons, that of Holm's first step.
    """
    return (error.quantile(1 - alpha / comparisons / 2) + error.quantile(power)) * error.stderr


def rank_ranges(count: int, better: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """Best and worst rank of each of `count` rows; `better` holds (i, j) where i was shown to be better than j."""
    return [(1 + sum((j, i) in better for j in range(count)), count - sum((i, j) in better for j in range(count))) for i in range(count)]
