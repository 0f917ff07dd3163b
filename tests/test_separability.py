"""Genuine/impostor statistics and class measures against loops and closed forms."""

import itertools

import numpy as np
import pytest
from fake_subject import Faces, by_name, clusters, context, subject

from synthbench.evaluators.neighbours import nearest
from synthbench.evaluators.separability import (
    Separability,
    SeparabilityConfig,
    class_similarity,
    intra_class_recall,
    overlap_area,
    unique_literal,
    unique_packing,
    vendi,
)
from synthbench.evaluators.statistics import (
    calibrate,
    clustered_stderr,
    d_prime,
    equal_error_rate,
    fisher,
    fnmr_at_fmr,
    genuine_pairs,
    impostor_pairs,
)
from synthbench.models.embeddings import class_centres, unit
from synthbench.types import Skipped


def test_all_pairs_when_they_fit():
    identity = np.array([2, 0, 1, 0, 2, 2, 0, 1, 3, 2])
    every = list(itertools.combinations(range(len(identity)), 2))
    for pairs, same in ((genuine_pairs, True), (impostor_pairs, False)):
        a, b = pairs(identity, 1000, np.random.default_rng(0))
        expected = [p for p in every if (identity[p[0]] == identity[p[1]]) == same]
        assert sorted(map(tuple, np.sort(np.stack([a, b], 1)).tolist())) == expected


def test_drawn_pairs_are_uniform():
    identity = np.array([0] * 2 + [1] * 5 + [2] * 9)
    for pairs, same in ((genuine_pairs, True), (impostor_pairs, False)):
        possible = [p for p in itertools.combinations(range(16), 2) if (identity[p[0]] == identity[p[1]]) == same]
        cap = len(possible) - 1  # one short of all: draws
        drawn = [pairs(identity, cap, np.random.default_rng(seed)) for seed in range(600)]
        rows = np.sort(np.concatenate([np.stack(pair, 1) for pair in drawn]))
        found, counts = np.unique(rows, axis=0, return_counts=True)
        assert list(map(tuple, found.tolist())) == possible
        expected = len(rows) / len(possible)
        assert ((counts - expected) ** 2 / expected).sum() < len(possible) + 5 * np.sqrt(2 * len(possible))  # chi square


def test_triangular_numbering_at_scale():
    identity = np.zeros(1000, np.int64)
    a, b = genuine_pairs(identity, 5_000_000, np.random.default_rng(0))
    assert len(a) == 1000 * 999 // 2 and (a > b).all() and len(np.unique(a * 1000 + b)) == len(a)


def test_error_rates_are_counting():
    random = np.random.default_rng(0)
    genuine, impostor = np.round(random.normal(0.5, 0.2, 300), 2), np.round(random.normal(0.1, 0.15, 900), 2)
    # EER: where the two step functions cross, by walking over a fine grid
    grid = np.arange(-1, 1, 0.001) + 0.0005
    fmr = np.array([(impostor >= t).mean() for t in grid])
    fnmr = np.array([(genuine < t).mean() for t in grid])
    nearest_point = np.abs(fmr - fnmr).argmin()
    assert equal_error_rate(genuine, impostor) == pytest.approx((fmr + fnmr)[nearest_point] / 2, abs=0.01)
    for rate in (0.01, 0.1):
        best = min((genuine < t).mean() for t in [*np.unique(np.append(genuine, impostor)), np.inf] if (impostor >= t).mean() <= rate)
        assert fnmr_at_fmr(genuine, impostor, rate) == pytest.approx(best)
    assert equal_error_rate(np.ones(5), np.zeros(5)) == 0
    assert equal_error_rate(np.zeros(5), np.ones(5)) == 1
    assert equal_error_rate(np.full(5, 0.3), np.full(7, 0.3)) == pytest.approx(0.5)
    normal = np.random.default_rng(1).normal(size=(2, 200_000))
    from scipy.stats import norm

    assert equal_error_rate(normal[0] + 2, normal[1]) == pytest.approx(norm.cdf(-1), abs=2e-3)
    assert d_prime(normal[0] + 2, normal[1]) == pytest.approx(2, abs=0.02)
    assert fisher(normal[0] + 2, normal[1]) == pytest.approx(2, abs=0.03)  # d' = sqrt(2 FDR)
    assert np.isnan(d_prime(np.ones(3), np.ones(3)))


def test_calibrate():
    impostor = np.random.default_rng(0).random(10_000)
    threshold, fmr = calibrate(impostor, 1e-2)
    assert (impostor > threshold).sum() == 100 and fmr == 1e-2
    threshold, fmr = calibrate(impostor, 1e-6)  # 10,000 impostors resolve 1e-3
    assert (impostor > threshold).sum() == 10 and fmr == 1e-3
    with pytest.raises(Skipped, match="too few"):
        calibrate(impostor[:99], 1e-4)


def test_clustered_error():
    random = np.random.default_rng(0)
    means = []
    for _ in range(500):
        cluster = np.repeat(np.arange(40), 10)
        means.append((random.normal(size=40)[cluster] + 0.5 * random.normal(size=400)).mean())
    values = random.normal(size=40)[cluster] + 0.5 * random.normal(size=400)
    assert clustered_stderr(values, cluster) == pytest.approx(np.std(means), rel=0.3)
    single = random.normal(size=50)
    assert clustered_stderr(single, np.arange(50)) == pytest.approx(single.std(ddof=1) / np.sqrt(50))
    assert clustered_stderr(single, np.zeros(50)) is None


def test_centres_and_class_similarity():
    x, identity = clusters(7, 5)
    order = np.random.default_rng(0).permutation(len(x))
    x, identity = x[order], identity[order]
    total, count = class_centres(x, identity, 8, chunk=9)
    for c in range(7):
        members = x[identity == c].astype(np.float64)
        np.testing.assert_allclose(total[c], members.sum(0), atol=1e-12)
        pairs = [members[i] @ members[j] for i in range(5) for j in range(5) if i != j]
        assert class_similarity(total, count)[c] == pytest.approx(np.mean(pairs), abs=1e-6)
    assert count.tolist() == [5] * 7 + [0] and np.isnan(class_similarity(total, count)[7])


def test_uniqueness_literal_and_packing_differ():
    angle = np.deg2rad([0, 40, 80, 200])  # neighbours 40 degrees apart are alike: cos 0.77 > 0.7; 80 are not
    centres = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    assert unique_literal(centres, 0.7).tolist() == [True, False, False, True]  # 80 has 40 before it
    assert unique_packing(centres, 0.7).tolist() == [True, False, True, True]  # 40 was not kept
    random = unit(np.random.default_rng(0).normal(size=(1300, 4))).astype(np.float32)
    kept = []
    for i, centre in enumerate(random):
        if all(centre @ random[j] <= 0.6 for j in kept):
            kept.append(i)
    assert np.flatnonzero(unique_packing(random, 0.6)).tolist() == kept
    literal = [not (random[:i] @ random[i] > 0.9).any() for i in range(1300)]
    assert unique_literal(random, 0.9, rows=100).tolist() == literal


def test_nearest_is_exhaustive():
    random = np.random.default_rng(0)
    a, b = unit(random.normal(size=(50, 6))).astype(np.float32), unit(random.normal(size=(70, 6))).astype(np.float32)
    label_a, label_b = random.integers(0, 5, 50), random.integers(0, 5, 70)
    cosine = a @ b.T
    best, row = nearest(a, b, rows=16)
    assert (row == cosine.argmax(1)).all() and np.allclose(best, cosine.max(1), atol=1e-6)
    cosine[label_a[:, None] == label_b[None]] = -np.inf
    assert (nearest(a, b, "cpu", label_a, label_b, rows=16)[1] == cosine.argmax(1)).all()
    assert nearest(a[:1], a[:1], "cpu", np.zeros(1), np.zeros(1))[1].tolist() == [-1]


def test_vendi_overlap_recall():
    assert vendi(np.eye(6)) == pytest.approx(6)
    assert vendi(np.tile(np.eye(6)[0], (9, 1))) == pytest.approx(1)
    assert vendi(np.repeat(np.eye(3), 4, axis=0)) == pytest.approx(3)
    x = np.random.default_rng(0).random(1000)
    assert overlap_area(x, x) == pytest.approx(1) and overlap_area(x, x - 1) < 0.01
    line = np.arange(8.0)[:, None]
    assert intra_class_recall(np.array([[0.5], [7.9], [100.0]]), line, k=2) == pytest.approx(2 / 3)


def brute(x, identity, r):
    """Class measures image by image."""
    people = np.unique(identity)
    centre = {c: unit(x[identity == c].astype(np.float64).sum(0)) for c in people}
    own = np.array([x[i] @ centre[identity[i]] for i in range(len(x))])
    other = np.array([max(x[i] @ centre[c] for c in people if c != identity[i]) for i in range(len(x))])
    rest = [x[(identity == identity[i]) & (np.arange(len(x)) != i)].astype(np.float64).sum(0) for i in range(len(x))]
    strict = np.array([x[i] @ unit(rest[i]) for i in range(len(x))])
    close = [centre[a] @ centre[b] for a, b in itertools.combinations(people, 2)]
    mean = lambda v: np.mean([v[identity == c].mean() for c in people])  # noqa: E731
    return {
        "c_intra": mean((own > r).astype(float)),
        "inter_class_separability": mean(own - other),
        "closer_to_other": (other > strict).mean(),
        "intra_noise/calibrated": (own <= r).mean(),
        "intra_noise/published": (own <= 0.3).mean(),
        "inter_noise/calibrated": np.mean(np.array(close) > r),
        "inter_noise/published": np.mean(np.array(close) > 0.7),
        "nearest_other_centre": np.mean([max(centre[a] @ centre[b] for b in people if b != a) for a in people]),
    }


def test_evaluator_is_the_loop(tmp_path):
    x, identity = clusters(12, 6, dim=6, spread=0.35)
    real, real_identity = clusters(15, 6, dim=6, spread=0.3, seed=1)
    seen = subject(Faces(identity), x, Faces(real_identity), real)
    scores, skipped = by_name(Separability(SeparabilityConfig(fmr=0.01)).evaluate(seen, context(tmp_path)))
    r = scores["separability/threshold"].value
    impostors = [real[a] @ real[b] for a, b in itertools.combinations(range(90), 2) if real_identity[a] != real_identity[b]]
    assert np.mean(np.array(impostors) > r) == pytest.approx(0.01, abs=1e-3)
    for name, expected in brute(x, identity, r).items():
        assert scores[f"separability/{name}"].value == pytest.approx(expected, abs=1e-5), name
    genuine = [x[a] @ x[b] for a, b in itertools.combinations(range(72), 2) if identity[a] == identity[b]]
    impostor = [x[a] @ x[b] for a, b in itertools.combinations(range(72), 2) if identity[a] != identity[b]]
    assert scores["separability/genuine/mean"].value == pytest.approx(np.mean(genuine), abs=1e-6)
    assert scores["separability/impostor/std"].value == pytest.approx(np.std(impostor), abs=1e-6)
    assert scores["separability/eer"].value == pytest.approx(equal_error_rate(np.array(genuine), np.array(impostor)), abs=1e-4)
    assert scores["separability/genuine/mean"].n == len(genuine) and scores["separability/impostor/mean"].n == len(impostor)
    assert all(scores[f"separability/{name}"].stderr > 0 for name in ("eer", "d_prime", "fdr", "genuine/mean", "c_intra"))
    assert "real_identity" in skipped["separability/d_intra/judge"]
    with np.load(tmp_path / "separability.npz") as file:
        assert file["genuine"].sum() == len(genuine) and file["real_impostor"].sum() == len(impostors) and len(file["edges"]) == 2001


def test_bootstrap_error_is_that_of_repeated_draws(tmp_path):
    values, errors = [], []
    for seed in range(40):
        x, identity = clusters(30, 5, dim=8, spread=0.3, seed=seed)
        run = Separability(SeparabilityConfig(vendi_classes=0, draws=60)).evaluate
        scores, _ = by_name(run(subject(Faces(identity), x), context(tmp_path)))
        values.append([scores[f"separability/{name}"].value for name in ("eer", "genuine/mean", "impostor/mean", "d_prime")])
        errors.append([scores[f"separability/{name}"].stderr for name in ("eer", "genuine/mean", "impostor/mean", "d_prime")])
    ratio = np.mean(errors, 0) / np.std(values, 0)
    assert ratio[[0, 1, 3]] == pytest.approx(1, abs=0.35)
    # cosines of random directions tell nothing about either person alone (a degenerate U-statistic): the bootstrap errs to the safe side
    assert 0.8 < ratio[2] < 1.9


def test_separable_and_inseparable(tmp_path):
    run = Separability(SeparabilityConfig()).evaluate
    apart, _ = by_name(run(subject(Faces(np.repeat(np.arange(30), 4)), np.repeat(np.eye(30), 4, axis=0)), context(tmp_path)))
    assert apart["separability/eer"].value == 0 and apart["separability/u_class/packing"].value == 1
    assert apart["separability/diversity"].value == pytest.approx(0) and apart["separability/vendi"].value == pytest.approx(1)
    same = np.tile(np.eye(8)[0], (40, 1))
    alike, skipped = by_name(run(subject(Faces(np.repeat(np.arange(10), 4)), same), context(tmp_path)))
    assert alike["separability/eer"].value == pytest.approx(0.5)
    assert "undefined" in skipped["separability/d_prime"] and "undefined" in skipped["separability/fdr"]


def test_degenerate_sets(tmp_path):
    run = Separability(SeparabilityConfig()).evaluate
    with pytest.raises(Skipped, match="single identity"):
        run(subject(Faces([0, 0, 0]), np.eye(3)), context(tmp_path))
    x, identity = clusters(20, 1)
    scores, skipped = by_name(run(subject(Faces(identity), x), context(tmp_path)))
    for name in ("eer", "d_prime", "c_intra", "closer_to_other", "diversity", "vendi"):
        assert f"separability/{name}" in skipped and f"separability/{name}" not in scores
    x, identity = clusters(2, 3)
    scores, skipped = by_name(run(subject(Faces(identity), x), context(tmp_path)))
    assert "too few to set a threshold" in skipped["separability/threshold"]
    assert scores["separability/eer"].stderr is None  # two identities cannot be resampled
    assert "separability/c_intra" not in scores
    scores, _ = by_name(Separability(SeparabilityConfig(threshold=0.3)).evaluate(subject(Faces(identity), x), context(tmp_path)))
    assert scores["separability/c_intra"].value == 1


def with_copies(made: int, copies: int, people: int = 20):
    """Clusters, as they are and with `copies` identical embeddings of every person's inquiry beside its `made` images."""
    x, identity = clusters(people, made)
    inquiry, _ = clusters(people, 1, seed=3)
    both = np.concatenate([x, np.repeat(inquiry, copies, axis=0)])
    label = np.concatenate([identity, np.repeat(np.arange(people), copies)])
    sample = np.concatenate([np.tile(np.arange(made), people), np.full(people * copies, -1)])
    return (Faces(identity), x), (Faces(label, {"sample": sample}), both)


def test_copies_of_inquiries_change_no_statistic(tmp_path):
    run = Separability(SeparabilityConfig()).evaluate
    real, real_embeddings = (lambda x, identity: (Faces(identity), x))(*clusters(20, 4, seed=9))
    plain, copied = (by_name(run(subject(*each, real, real_embeddings), context(tmp_path))) for each in with_copies(4, 5))
    assert plain == copied
    x, identity = clusters(20, 4)  # a set of photographs is measured as it is
    photographs = Faces(identity, {"real": np.ones(80), "sample": np.full(80, -1)})
    assert by_name(run(subject(photographs, x, real, real_embeddings), context(tmp_path))) == plain
