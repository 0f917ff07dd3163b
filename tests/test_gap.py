"""Gap-to-Real against the published tables, paired errors against simulation."""

import numpy as np
import pytest
from fake_subject import Faces, by_name, context, subject

from synthbench.config import Settings
from synthbench.evaluators.gap import GapToReal, gap_points, gap_relative_to_real, gap_relative_to_synthetic, paired_stderr
from synthbench.evaluators.pairs import PairResults, fold_of
from synthbench.types import Skipped, UserError


def test_published_gaps():
    # CemiFace Table 6: REAL - SYN, 94.26 = CASIA
    assert round(gap_points(94.26, 92.30), 2) == 1.96
    assert round(gap_points(94.26, 93.22), 2) == 1.04
    # DCFace main Table 4: (REAL - SYN) / SYN, 94.62 = CASIA
    assert round(gap_relative_to_synthetic(94.62, 89.56), 2) == 5.65
    assert round(gap_relative_to_synthetic(94.62, 74.75), 2) == 26.58
    assert round(gap_relative_to_synthetic(94.62, 91.21), 2) == 3.74
    # VIGFace v1 GR, 92.77 = CASIA
    for synthetic, printed in ((68.10, 36.2), (87.67, 5.8), (91.29, 1.6), (92.77, 0.0)):
        assert round(gap_relative_to_synthetic(92.77, synthetic), 1) == printed
    # DCFace supplement Table 1: (REAL - SYN) / REAL
    assert round(gap_relative_to_real(94.62, 86.37), 2) == 8.72
    assert gap_relative_to_real(94.62, 91.21) == pytest.approx(3.61, abs=0.01)  # printed 3.61, of unrounded means
    assert round(gap_relative_to_real(94.62, 92.67), 2) == 2.06


def results(correct, digest="d"):
    n = len(correct)
    same = np.arange(n) % 2 == 0
    return PairResults(np.ones(n), same, fold_of(n), np.ones(n), np.asarray(correct, bool), digest)


def store(folder, seed=0, digest="d", n=600, right=0.9):
    random = np.random.default_rng(seed)
    for name in ("lfw", "cplfw"):
        results(random.random(n) < right, digest).save(folder / "pairs", name)


def test_evaluator(tmp_path):
    store(tmp_path / "own", seed=0, right=0.85)
    store(tmp_path / "real", seed=1, right=0.95)
    seen = subject(Faces([0, 1]), None, baseline=tmp_path / "real")
    scores, skipped = by_name(GapToReal(Settings()).evaluate(seen, context(tmp_path / "own")))
    assert not skipped
    assert next(iter(scores)) == "gap_to_real/points"  # the primary number first
    parts = [scores[f"gap_to_real/{name}/points"] for name in ("lfw", "cplfw")]
    assert scores["gap_to_real/points"].value == pytest.approx(np.mean([part.value for part in parts]))
    assert scores["gap_to_real/points"].stderr == pytest.approx(np.hypot(parts[0].stderr, parts[1].stderr) / 2)
    assert 5 < scores["gap_to_real/points"].value < 15 and not scores["gap_to_real/points"].higher_is_better
    assert scores["gap_to_real/relative_to_synthetic"].value > scores["gap_to_real/relative_to_real"].value > 0


def test_the_same_run_has_no_gap_and_no_error(tmp_path):
    store(tmp_path)
    seen = subject(Faces([0, 1]), None, baseline=tmp_path)
    scores, _ = by_name(GapToReal(Settings()).evaluate(seen, context(tmp_path)))
    assert all(score.value == 0 for score in scores.values())
    assert scores["gap_to_real/points"].stderr == 0


def test_paired_error_is_that_of_repeated_draws():
    random = np.random.default_rng(0)
    difficulty = random.random((4000, 500))  # the same pair is hard for both recognizers
    real, synthetic = difficulty < 0.95, difficulty + 0.05 * random.normal(size=difficulty.shape) < 0.85
    for weights, gap in (
        ((1, -1), lambda r, s: 100 * (r - s)),
        (None, lambda r, s: 100 * (r - s) / s),
    ):
        r, s = real.mean(1), synthetic.mean(1)
        if weights is None:
            weights = (100 / (100 * s.mean()), -100 * r.mean() / (100 * s.mean() ** 2))
        expected = gap(r, s).std()
        found = np.mean([paired_stderr([results(a)], [results(b)], *weights) for a, b in zip(real[:200], synthetic[:200])])
        assert found == pytest.approx(expected, rel=0.05)


def test_bad_input(tmp_path):
    run = GapToReal(Settings()).evaluate
    with pytest.raises(Skipped, match="no real baseline"):
        run(subject(Faces([0, 1]), None), context(tmp_path))
    with pytest.raises(Skipped, match="must run before"):
        run(subject(Faces([0, 1]), None, baseline=tmp_path / "real"), context(tmp_path / "own"))
    store(tmp_path / "own")
    with pytest.raises(Skipped, match="baseline has no"):
        run(subject(Faces([0, 1]), None, baseline=tmp_path / "real"), context(tmp_path / "own"))
    store(tmp_path / "real", digest="another file")
    with pytest.raises(UserError, match="not the same set of pairs"):
        run(subject(Faces([0, 1]), None, baseline=tmp_path / "real"), context(tmp_path / "own"))
    store(tmp_path / "real")
    results(np.ones(600)).save(tmp_path / "real" / "pairs", "agedb")
    with pytest.raises(UserError, match="agedb"):
        run(subject(Faces([0, 1]), None, baseline=tmp_path / "real"), context(tmp_path / "own"))
    (tmp_path / "own" / "pairs" / "lfw.npz").write_bytes(b"not a zip")
    with pytest.raises(UserError, match="does not hold verification results"):
        run(subject(Faces([0, 1]), None, baseline=tmp_path / "real"), context(tmp_path / "own"))
