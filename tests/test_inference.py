"""Intervals cover, tests keep their level, and every closed form agrees with a slower way to the same number."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from synthbench.results import inference


def crossed(random, seeds, pairs, seed_sd, pair_sd, rest_sd, mean=0.8, pair=None):
    """A table (S, P) of shares in 0..1, not of 0 and 1: the variances are then known exactly."""
    pair = random.normal(0, pair_sd, pairs) if pair is None else pair
    return mean + random.normal(0, seed_sd, (seeds, 1)) + pair + random.normal(0, rest_sd, (seeds, pairs))


def right_or_wrong(random, seeds, pairs, skill, seed_sd=0.0, pair=None):
    """0 and 1 by a logistic model: skill of the generator, of the seed, of the pair."""
    pair = random.normal(0, 2, pairs) if pair is None else pair
    return random.random((seeds, pairs)) < 1 / (1 + np.exp(-(skill + random.normal(0, seed_sd, (seeds, 1)) + pair)))


@pytest.mark.parametrize(("seeds", "sds"), [(1, (0, 0.1, 0.2)), (3, (0.01, 0.1, 0.2)), (3, (0.05, 0.1, 0.2)), (5, (0.01, 0.3, 0.1))])
def test_the_interval_of_an_accuracy_covers(seeds, sds):
    random = np.random.default_rng(0)
    found = [inference.accuracy([crossed(random, seeds, 200, *sds), crossed(random, seeds, 100, *sds)]) for _ in range(1000)]
    covered = np.mean([each.low < 80 < each.high for each in found])
    assert 0.93 < covered < 0.985


def test_the_interval_covers_with_right_and_wrong_and_three_seeds():
    random = np.random.default_rng(1)
    truth = 100 * np.mean(right_or_wrong(random, 4000, 500, 1.0, 0.15))
    found = [inference.accuracy([right_or_wrong(random, 3, 400, 1.0, 0.15)]) for _ in range(1000)]
    assert 0.93 < np.mean([each.low < truth < each.high for each in found]) < 0.985


def test_pairs_alone_do_not_cover_which_is_why_seeds_enter():
    random = np.random.default_rng(2)
    found = [inference.accuracy([crossed(random, 3, 400, 0.02, 0.1, 0.1)]) for _ in range(500)]
    pairs_only = [abs(each.value - 80) < 1.96 * each.sampling_stderr for each in found]
    assert np.mean(pairs_only) < 0.7
    assert np.mean([each.low < 80 < each.high for each in found]) > 0.93


@pytest.mark.parametrize("seeds", [1, 3])
def test_differences_of_equal_generators_are_found_at_the_level_of_the_test_and_intervals_cover(seeds):
    random = np.random.default_rng(3)
    false, covered, rounds = 0, 0, 300
    for _ in range(rounds):
        pair = random.normal(0, 0.2, 300)  # the same pairs for both
        sd = 0.02 if seeds > 1 else 0.0
        a, b = (crossed(random, seeds, 300, sd, 0, 0.2, mean, pair) for mean in (0.80, 0.80))
        found = inference.difference([a], [b], random, draws=200)
        false += found.p < 0.05
        covered += found.low < 0 < found.high
    assert 0.01 <= false / rounds <= 0.08
    assert 0.925 <= covered / rounds <= 0.99


def test_the_detectable_difference_is_found_with_the_power_it_says():
    random = np.random.default_rng(4)
    pair = random.normal(0, 0.2, 400)

    def trial(gain: float) -> inference.Difference:
        a, b = (crossed(random, 4, 400, 0.02, 0, 0.3, mean, pair) for mean in (0.8 + gain / 100, 0.8))
        return inference.difference([a], [b], random, draws=200)

    errors = [trial(0.0).error for _ in range(100)]
    typical = inference.Error(*(float(np.mean([getattr(e, part) for e in errors])) for part in ("sampling", "seeds", "freedom")))
    size = inference.detectable(typical)
    assert np.mean([trial(size).p < 0.05 for _ in range(300)]) == pytest.approx(0.8, abs=0.07)


def test_more_comparisons_need_a_larger_difference():
    pairs, seeds = inference.Error(1.0), inference.Error(0.5, 0.5, 2.0)
    assert inference.detectable(pairs) == pytest.approx(1.95996 + 0.84162, abs=1e-4)
    assert inference.detectable(pairs, 10) > inference.detectable(pairs)
    assert inference.detectable(seeds) > inference.detectable(pairs)


def test_the_bootstrap_by_counts_is_the_bootstrap_by_rows():
    random = np.random.default_rng(5)
    values = random.choice([-1, -0.5, 0, 0, 0, 0.5, 1], 120)
    fast = inference.bootstrap_means(values, 20_000, random)
    slow = values[random.integers(0, 120, (20_000, 120))].mean(1)
    assert fast.mean() == pytest.approx(slow.mean(), abs=2e-3) and fast.std() == pytest.approx(slow.std(), rel=0.03)
    assert stats.ks_2samp(fast, slow).pvalue > 1e-3 or abs(np.quantile(fast, 0.9) - np.quantile(slow, 0.9)) < 0.01
    assert fast.std() == pytest.approx(values.std() / np.sqrt(120), rel=0.03)


def test_pairs_are_drawn_together_for_both_runs_and_for_all_seeds():
    random = np.random.default_rng(6)
    pair = random.normal(0, 2, 500)
    a = right_or_wrong(random, 3, 500, 1.2, pair=pair)
    b = right_or_wrong(random, 3, 500, 1.0, pair=pair)
    found = inference.difference([a], [b], random, draws=20_000)
    rows = random.integers(0, 500, (4000, 500))
    brute = 100 * (a[:, rows].mean((0, 2)) - b[:, rows].mean((0, 2)))
    assert found.points == pytest.approx(100 * (a.mean() - b.mean()))
    assert found.sampling_stderr == pytest.approx(brute.std(), rel=0.05)
    unpaired = np.hypot(*(inference.accuracy([x]).sampling_stderr for x in (a, b)))
    assert found.sampling_stderr < 0.75 * unpaired


def test_the_rest_is_counted_once():
    random = np.random.default_rng(7)
    table = crossed(random, 4, 2000, 0.0, 0.1, 0.3)
    assert inference.rest_variance(table) == pytest.approx(0.09 / 8000, rel=0.05)
    found = inference.accuracy([table])
    expected = 100 * np.sqrt(0.1**2 / 2000 + 0.3**2 / 8000)
    assert found.error.stderr == pytest.approx(expected, rel=0.25)
    assert inference.rest_variance(table[:1]) == 0


def test_a_run_against_itself():
    a = np.random.default_rng(8).random((3, 100)) < 0.8
    found = inference.difference([a], [a], np.random.default_rng(0))
    assert (found.points, found.sampling_stderr) == (0, 0) and found.p == 1 and found.low <= 0 <= found.high
    one = inference.difference([a[:1]], [a[:1]], np.random.default_rng(0))
    assert (one.low, one.high, one.p) == (0, 0, 1)


def test_different_numbers_of_seeds_can_be_compared():
    random = np.random.default_rng(9)
    a, b = right_or_wrong(random, 3, 200, 1.0), right_or_wrong(random, 1, 200, 1.0)
    found = inference.difference([a], [b], random)
    assert found.error.seeds == 0 and found.error.stderr == pytest.approx(found.sampling_stderr)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 5), (3, 3), (2, 9), (40, 61), (1, 0)])
def test_mcnemar_is_the_binomial_test(b, c):
    assert inference.mcnemar(b, c, mid=False) == pytest.approx(stats.binomtest(b, b + c).pvalue if b + c else 1.0)
    assert inference.mcnemar(b, c) == inference.mcnemar(c, b)
    if b != c:
        brute = 2 * sum(stats.binom.pmf(k, b + c, 0.5) for k in range(min(b, c))) + stats.binom.pmf(min(b, c), b + c, 0.5)
        assert inference.mcnemar(b, c) == pytest.approx(brute)


def test_mid_p_keeps_its_level_on_average_over_all_tables():
    n = 30
    level = sum(stats.binom.pmf(k, n, 0.5) for k in range(n + 1) if inference.mcnemar(k, n - k) <= 0.05)
    exact = sum(stats.binom.pmf(k, n, 0.5) for k in range(n + 1) if inference.mcnemar(k, n - k, mid=False) <= 0.05)
    assert exact <= level <= 0.055


def test_discordant_pairs_of_one_seed_and_of_several():
    a = np.array([[1, 1, 0, 0]], bool)
    b = np.array([[1, 0, 1, 0]], bool)
    assert inference.discordant(a, b) == (1, 1)
    three = np.array([[1, 1, 0, 0], [1, 1, 0, 1], [1, 0, 0, 0]], bool)
    assert inference.discordant(three, b) == (2, 1)  # pairs 1 and 3 for it, pair 2 against it
    thirds = np.array([[1], [0], [0]], bool)
    assert inference.discordant(thirds, thirds[::-1]) == (0, 0)


def test_holm_by_hand():
    assert inference.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert inference.holm([0.5, 0.6]) == [1.0, 1.0]
    assert inference.holm([]) == []


def test_holm_is_the_closed_test_of_bonferroni():
    """Holm rejects H_i iff Bonferroni rejects every intersection that holds H_i: tried on all of them."""
    p = [0.001, 0.02, 0.011, 0.2, 0.013]
    for i, adjusted in enumerate(inference.holm(p)):
        sets = [s for size in range(1, 6) for s in itertools.combinations(range(5), size) if i in s]
        assert adjusted == pytest.approx(min(1.0, max(len(s) * min(p[j] for j in s) for s in sets)))


def test_interval_of_scores_without_their_units():
    assert inference.interval([80.0], None) == (None, None)
    low, high = inference.interval([80.0], 1.0)
    assert (low, high) == pytest.approx((80 - 1.95996, 80 + 1.95996), abs=1e-4)
    values = [79.0, 80.0, 81.0]
    low, high = inference.interval(values, None)
    expected = stats.t.interval(0.95, 2, loc=80, scale=1 / np.sqrt(3))
    assert (low, high) == pytest.approx(expected)
    wide = inference.interval(values, 0.5)
    assert high - low < wide[1] - wide[0] < high - low + 2 * 1.96 * 0.5
    assert inference.estimate(values, 0.5).seed_std == pytest.approx(1.0)


def test_scores_of_other_units_are_compared_by_welch():
    a, b = [0.50, 0.52, 0.55], [0.60, 0.61, 0.66]
    found = inference.unpaired(a, b, None, None)
    welch = stats.ttest_ind(a, b, equal_var=False)
    assert found.p == pytest.approx(welch.pvalue) and found.error.freedom == pytest.approx(welch.df)
    assert (found.low, found.high) == pytest.approx(welch.confidence_interval())
    assert inference.unpaired([1.0], b, None, None) is None
    one = inference.unpaired([1.0], [2.0], 0.3, 0.4)
    assert one.error.stderr == pytest.approx(0.5) and one.p == pytest.approx(2 * stats.norm.sf(2))


@pytest.mark.parametrize("error", [inference.Error(1.0), inference.Error(0.5, 2.0, 2.0), inference.Error(0.0, 1.0, 3.0)])
def test_p_and_interval_say_the_same(error):
    for level in (0.5, 0.9, 0.95, 0.999):
        half = error.around(0.0, level)[1]
        assert error.p(half) == pytest.approx(1 - level, rel=1e-6)
    assert error.p(0.0) == 1 and inference.Error(0.0).p(1.0) == 0 and inference.Error(0.0).p(0.0) == 1
    assert 0 <= error.p(60.0) < 1e-2


@pytest.mark.parametrize("ratio", [0.3, 10.0])
def test_two_seeds_cover_too(ratio):
    """Cochran's quantile where Satterthwaite's covers 87 %: 1 from pairs, `ratio` from two seeds."""
    random = np.random.default_rng(10)
    scores = random.normal(0, np.sqrt(2 * ratio), (1500, 2))
    miss = random.normal(0, 1, 1500)
    covered = [low - m < 0 < high - m for pair, m in zip(scores, miss) for low, high in [inference.interval(list(pair), 1.0)]]
    assert 0.935 < np.mean(covered) < 0.99


def test_ranks_are_ranges_until_the_data_can_tell():
    assert inference.rank_ranges(3, set()) == [(1, 3)] * 3
    assert inference.rank_ranges(3, {(0, 1), (0, 2), (1, 2)}) == [(1, 1), (2, 2), (3, 3)]
    assert inference.rank_ranges(3, {(0, 2)}) == [(1, 2), (1, 3), (2, 3)]
