"""Requested against realised similarity: scipy's Spearman, simulated errors, and the matching of images to inquiries."""

import numpy as np
import pytest
import scipy.stats
from fake_subject import Faces, by_name, clusters, context, subject

from synthbench.evaluators.similarity import Similarity, SimilarityConfig, spearman, spearman_stderr
from synthbench.types import Skipped, UserError


def made(people=10, seed=0, slope=0.2):
    """Identities with one image for each m of a grid; similarity rises with m and differs by identity."""
    random = np.random.default_rng(seed)
    m = np.tile(np.linspace(-1, 1, 5), people)
    identity = np.repeat(np.arange(people), 5)
    similarity = 0.4 + slope * m + 0.05 * random.normal(size=people)[identity] + 0.03 * random.normal(size=len(m))
    return identity, m.astype(np.float32), similarity.astype(np.float32)


def test_spearman_is_scipys():
    random = np.random.default_rng(0)
    x, y = random.integers(0, 5, 300), random.normal(size=300)
    assert spearman(x, y + x) == pytest.approx(scipy.stats.spearmanr(x, y + x).statistic, abs=1e-12)
    assert np.isnan(spearman(x, np.zeros(300)))


def test_error_is_that_of_repeated_draws():
    values, errors = [], []
    for seed in range(100):
        identity, m, similarity = made(people=30, seed=seed, slope=0.05)
        values.append(spearman(m, similarity))
        errors.append(spearman_stderr(m, similarity, identity, np.random.default_rng(seed), 100))
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.3)


def test_evaluator(tmp_path):
    identity, m, similarity = made()
    x, _ = clusters(10, 5)
    inquiries, numbers = clusters(12, 1, seed=3)  # two more inquiries than identities, as in a smaller volume
    faces = Faces(identity, {"m": m, "similarity": similarity})
    seen = subject(faces, x, inquiries=Faces(numbers), inquiry_embeddings=inquiries)
    scores, skipped = by_name(Similarity(SimilarityConfig()).evaluate(seen, context(tmp_path)))
    assert not skipped
    rho = scores["similarity/requested_vs_realised/spearman"]
    assert rho.value == pytest.approx(scipy.stats.spearmanr(m, similarity).statistic, abs=1e-6) and rho.stderr > 0
    assert scores["similarity/requested_vs_realised/spearman_over_grid"].value == pytest.approx(1)
    assert scores["similarity/at_m/0.5"].value == pytest.approx(similarity[m == 0.5].mean()) and scores["similarity/at_m/0.5"].n == 10
    assert scores["similarity/realised/mean"].value == pytest.approx(similarity.mean(), abs=1e-6)
    judged = [x[i] @ inquiries[identity[i]] for i in range(len(x))]
    assert scores["similarity/judge/mean"].value == pytest.approx(np.mean(judged), abs=1e-6)
    assert scores["similarity/judge/std"].value == pytest.approx(np.std(judged), abs=1e-6)
    assert "similarity/judge/requested_vs_realised/spearman" in scores


def test_photographs_are_left_out(tmp_path):
    identity, m, similarity = made()
    real = np.zeros(len(m))
    real[::5], similarity[::5] = 1, 1.0  # the inquiries themselves
    faces = Faces(identity, {"m": m, "similarity": similarity, "real": real})
    scores, _ = by_name(Similarity(SimilarityConfig()).evaluate(subject(faces, None), context(tmp_path)))
    assert scores["similarity/realised/mean"].n == 40 and "similarity/at_m/-1" not in scores
    faces.columns["real"][:] = 1
    with pytest.raises(Skipped, match="photograph"):
        Similarity(SimilarityConfig()).evaluate(subject(faces, None), context(tmp_path))


def test_identities_are_matched_by_number(tmp_path):
    """A set of the identities 3 and 7 only: its labels are dense, its names are the numbers of the inquiries."""
    x, identity = clusters(2, 4)
    inquiries, numbers = clusters(9, 1, seed=3)
    seen = subject(Faces(identity, names=["3", "7"]), x, inquiries=Faces(numbers), inquiry_embeddings=inquiries)
    scores, _ = by_name(Similarity(SimilarityConfig()).evaluate(seen, context(tmp_path)))
    expected = [x[i] @ inquiries[[3, 7][identity[i]]] for i in range(8)]
    assert scores["similarity/judge/mean"].value == pytest.approx(np.mean(expected), abs=1e-6)
    seen.faces.names = ["Ann", "Bob"]
    _, skipped = by_name(Similarity(SimilarityConfig()).evaluate(seen, context(tmp_path)))
    assert "not numbered" in skipped["similarity/judge/mean"]


def test_what_is_absent_is_skipped(tmp_path):
    identity, m, similarity = made()
    run = Similarity(SimilarityConfig()).evaluate
    scores, skipped = by_name(run(subject(Faces(identity), None), context(tmp_path)))
    assert not scores
    assert "no column similarity" in skipped["similarity/requested_vs_realised/spearman"]
    assert "no inquiries" in skipped["similarity/judge/mean"]
    one = Faces(identity, {"m": np.full(50, 0.2), "similarity": similarity})
    scores, skipped = by_name(run(subject(one, None), context(tmp_path)))
    assert "0.2 for every image" in skipped["similarity/requested_vs_realised/spearman"] and "similarity/realised/mean" in scores
    constant = Faces(identity, {"m": m, "similarity": np.ones(50)})
    assert "same similarity" in by_name(run(subject(constant, None), context(tmp_path)))[1]["similarity/requested_vs_realised/spearman"]
    free = Faces(np.arange(100), {"m": np.linspace(0, 1, 100), "similarity": np.linspace(0, 1, 100)})
    scores, skipped = by_name(run(subject(free, None), context(tmp_path)))
    assert scores["similarity/requested_vs_realised/spearman"].value == pytest.approx(1) and "100 values" in skipped["similarity/at_m"]
    similarity[3] = np.nan
    with pytest.raises(UserError, match="not finite"):
        run(subject(Faces(identity, {"similarity": similarity}), None), context(tmp_path))
