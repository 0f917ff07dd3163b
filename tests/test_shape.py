"""The shape of a curve: contrasts against the two-point difference, and verdicts on curves whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from synthbench.results import inference
from synthbench.sweep import shape as curves


def simulate(means, seeds: int, pairs: int = 800, benchmarks: int = 3, seed_std: float = 0.01, random_seed: int = 0):
    """Right or wrong of recognizers with the accuracies `means` (0..1): pairs have a difficulty, seeds a skill of their own."""
    random = np.random.default_rng(random_seed)
    hard = [random.normal(size=pairs) for _ in range(benchmarks)]
    points, values = [], []
    for mean in means:
        skill = random.normal(scale=seed_std, size=seeds)
        tables = []
        for difficulty in hard:
            # a pair is right when (its difficulty + luck of the network) / sqrt 2 is below the quantile of the accuracy
            luck = random.normal(size=(seeds, pairs))
            limit = inference.special.ndtri(np.clip(mean + skill, 0.01, 0.99))[:, None]
            tables.append((difficulty + luck) / np.sqrt(2) < limit)
        points.append(tables)
        values.append(100 * np.mean([table.mean(1) for table in tables], axis=0))
    return points, values


def test_a_contrast_of_two_points_with_one_seed_is_their_paired_difference() -> None:
    points, values = simulate([0.8, 0.85], 1)
    found = curves.joint(points, values).difference(0, 1)
    expected = inference.difference(points[0], points[1], np.random.default_rng(0), draws=20_000)
    assert found.points == pytest.approx(expected.points)
    assert found.error.stderr == pytest.approx(expected.error.stderr, rel=0.03)
    assert found.error.seeds == 0


def test_with_seeds_the_pooled_spread_of_two_points_is_that_of_welch() -> None:
    points, values = simulate([0.8, 0.85], 4, seed_std=0.03)
    found = curves.joint(points, values).difference(0, 1)
    expected = inference.difference(points[0], points[1], np.random.default_rng(0), values=tuple(values), draws=20_000)
    assert found.error.seeds == pytest.approx(expected.error.seeds)
    assert found.error.stderr == pytest.approx(expected.error.stderr, rel=0.03)
    assert found.error.freedom == 6 >= expected.error.freedom


def test_points_with_the_same_answers_show_nothing() -> None:
    """A setting that the generator does not heed: no difference, though no error either."""
    points, values = simulate([0.7], 1)
    x = np.linspace(-1, 1, 21)
    found = curves.shape(x, curves.joint(points * 21, values * 21))
    assert found.kind == "flat" and found.p == 1 and found.trend.points == 0


def test_pair_covariance_by_brute_force() -> None:
    """The variance of a contrast of three points is that of its value pair by pair."""
    points, values = simulate([0.7, 0.8, 0.75], 2, pairs=200)
    weights = np.array([0.5, -1.5, 1.0])
    each = [sum(w * tables[k].mean(0) for w, tables in zip(weights, points)) for k in range(3)]
    variance = sum((100 / 3) ** 2 * v.var(ddof=1) / len(v) for v in each)
    assert curves.joint(points, values).contrast(weights).sampling_stderr == pytest.approx(np.sqrt(variance))


def test_the_parabola_is_that_of_polyfit() -> None:
    x = np.array([-1, -0.5, 0.1, 0.4, 1])
    points, values = simulate([0.7, 0.8, 0.86, 0.84, 0.75], 1)
    found = curves.shape(x, curves.joint(points, values))
    a, b, _ = np.polyfit(x, [float(np.mean(v)) for v in values], 2)
    assert found.bend.points == pytest.approx(a)
    assert found.vertex[0] == pytest.approx(-b / (2 * a))
    assert found.vertex[1] < found.vertex[0] < found.vertex[2]
    slope, _ = np.polyfit(x, [float(np.mean(v)) for v in values], 1)
    assert found.trend.points == pytest.approx(2 * slope)


X = np.linspace(-1, 1, 9)


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize(
    ("means", "kind"),
    [
        (0.85 - 0.1 * X**2, "interior optimum"),
        (0.75 + 0.1 * X**2, "interior minimum"),
        (0.8 + 0.08 * X, "rising"),
        (0.8 - 0.08 * X, "falling"),
        (0.8 + 0.05 * np.tanh(3 * X), "rising"),  # a plateau at one end is no optimum
        (0.8 + 0 * X, "flat"),
    ],
)
def test_known_shapes(means, kind: str, seeds: int) -> None:
    points, values = simulate(means, seeds, seed_std=0.01 if seeds > 1 else 0.0)  # one seed: the claim is about these networks
    found = curves.shape(X, curves.joint(points, values))
    assert found.kind == kind
    assert (found.p < 0.05) == (kind != "flat")
    if kind == "interior optimum":
        assert 4 in found.beaten and 4 in [found.best, *found.with_best]
        assert found.over_ends[0].low > 0 and found.over_ends[1].low > 0
        assert found.fit_p < 0.001 and found.vertex[1] < 0 < found.vertex[2]
    if kind == "rising":
        assert found.vertex is None or found.fit_p > 0.01


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_flat_curve_and_a_plateau_are_seldom_taken_for_an_optimum(seeds: int) -> None:
    """The level of the claim by simulation: at most 5 % for a flat curve, and for one whose right end is as good as its inside."""
    for means in (np.full(9, 0.8), np.where(X < -0.9, 0.7, 0.8)):
        wrong = sum(
            curves.shape(X, curves.joint(*simulate(means, seeds, 300, 2, 0.02 if seeds > 1 else 0.0, number))).kind == "interior optimum"
            for number in range(60)
        )
        assert wrong <= 7  # binomial(60, 0.05): 7 or fewer with probability 0.99


def test_one_point_stands_out_between_two_ends() -> None:
    points, values = simulate([0.7, 0.8, 0.7], 1)
    found = curves.shape([0, 1, 2], curves.joint(points, values))
    assert found.kind == "interior optimum" and found.interior == found.best == 1
