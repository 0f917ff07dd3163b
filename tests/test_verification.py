"""The 10-fold protocol against a straightforward loop, exact TAR against counting, and reality: public encoders on LFW."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_subject import Faces, Projection, by_name, context, subject

from synthbench.evaluators.pairs import kfold, open_results
from synthbench.evaluators.verification import (
    Verification,
    VerificationConfig,
    average,
    combine,
    far_name,
    pair_distances,
    raw_embeddings,
    tar_at_far,
)
from synthbench.types import Score, Skipped, UserError

DATA = Path(os.environ.get("SYNTHBENCH_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def loop(distance, same, folds=10):
    """The protocol as its text says it: every threshold, every fold, one at a time."""
    thresholds = np.arange(0, 4, 0.01)
    sizes = [len(same) // folds + (i < len(same) % folds) for i in range(folds)]
    accuracies, chosen, start = [], [], 0
    for size in sizes:
        test = np.zeros(len(same), bool)
        test[start : start + size] = True
        start += size
        best, best_accuracy = None, -1.0
        for threshold in thresholds:
            accuracy = float(((distance[~test] < threshold) == same[~test]).sum()) / (~test).sum()
            if accuracy > best_accuracy:  # strictly: the first of equals
                best, best_accuracy = threshold, accuracy
        chosen.append(best)
        accuracies.append(float(((distance[test] < best) == same[test]).sum()) / size)
    return np.array(accuracies), np.array(chosen)


def pairs(n, seed, ties=False):
    random = np.random.default_rng(seed)
    same = np.tile(np.repeat([True, False], 15), n // 30 + 1)[:n]
    distance = np.where(same, random.normal(1.1, 0.35, n), random.normal(1.7, 0.25, n)).clip(0, 4)
    return (np.round(distance, 2) if ties else distance), same


@pytest.mark.parametrize(("n", "ties"), [(600, False), (603, True), (700, False), (607, True)])
def test_kfold_is_the_loop_to_the_bit(n, ties):
    distance, same = pairs(n, seed=n, ties=ties)
    accuracies, thresholds = loop(distance, same)
    results = kfold(distance, same)
    assert results.fold_accuracies().tolist() == accuracies.tolist()
    assert results.fold_accuracies().mean() == accuracies.mean()
    assert results.fold_accuracies().std() == accuracies.std()
    assert [results.threshold[results.fold == k][0] for k in range(10)] == thresholds.tolist()


@pytest.mark.parametrize("n", [6000, 6003, 7000])
def test_kfold_is_the_loop_at_published_sizes(n):
    distance, same = pairs(n, seed=1)
    accuracies, _ = loop(distance, same)
    assert kfold(distance, same).fold_accuracies().tolist() == accuracies.tolist()


def test_threshold_is_strict():
    same = np.tile([True, False], 10)
    results = kfold(np.where(same, 0.5, 0.6), same)
    assert results.correct.all()
    assert (results.threshold > 0.5).all() and (results.threshold <= 0.6 + 1e-12).all()


def test_tar_at_far_is_counting():
    random = np.random.default_rng(0)
    same = np.arange(2000) % 2 == 0
    distance = np.round(np.where(same, random.normal(1.0, 0.4, 2000), random.normal(1.7, 0.3, 2000)), 2)
    for far in (0.0, 0.01, 0.1, 1.0):
        best = 0.0
        for threshold in [*np.unique(distance), np.inf]:
            if (distance[~same] < threshold).mean() <= far:
                best = max(best, (distance[same] < threshold).mean())
        assert tar_at_far(distance, same, far) == best
    assert (far_name(1e-3), far_name(0.01), far_name(0.025)) == ("1e-3", "1e-2", "2.5e-2")


def test_average_is_unweighted_and_combines_errors():
    scores = [Score("a", 90, 0.3, 6000, True), Score("b", 80, 0.4, 7000, True)]
    combined = average(scores)
    assert (combined.value, combined.n) == (85, 13000)
    assert combined.stderr == pytest.approx(0.25)


def benchmark(n=400, seed=0, name="toy"):
    """Pairs of noisy images of n people; genuine and impostor in turn."""
    random = torch.Generator().manual_seed(seed)
    people = torch.randint(0, 256, (n, 3, 8, 8), generator=random)
    noise = torch.randint(-60, 61, (2 * n, 3, 8, 8), generator=random)
    same = np.arange(n) % 2 == 0
    owner = np.stack([np.arange(n), np.where(same, np.arange(n), (np.arange(n) + 1) % n)], 1).ravel()
    pixels = (people[owner] + noise).clamp(0, 255).to(torch.uint8)
    rows = np.arange(2 * n)
    faces = Faces(np.zeros(2 * n), pixels=pixels)
    return SimpleNamespace(name=name, images=faces, left=rows[::2], right=rows[1::2], same=same, digest="d" + name)


def test_evaluator_writes_pairs_and_scores(tmp_path):
    sets = [benchmark(), benchmark(seed=1, name="other")]
    seen = subject(Faces([0, 1]), None, recognizer=Projection(192), benchmarks=sets)
    scores, skipped = by_name(Verification(VerificationConfig()).evaluate(seen, context(tmp_path)))
    stored = open_results(tmp_path / "pairs")
    accuracy = scores["verification/toy/accuracy"]
    assert accuracy.value == pytest.approx(100 * stored["toy"].correct.mean())
    assert 70 < accuracy.value < 100 and accuracy.n == 400
    p = accuracy.value / 100
    assert accuracy.stderr == pytest.approx(100 * np.sqrt(p * (1 - p) / 400))
    assert scores["verification/avg/accuracy"].value == pytest.approx((accuracy.value + scores["verification/other/accuracy"].value) / 2)
    assert stored["toy"].digest == "dtoy"
    assert "200 impostor pairs" in skipped["verification/toy/tar_at_far_1e-3"]
    assert list((tmp_path / "pairs").glob("*.tmp")) == []


def test_floor_is_the_mean_over_networks_and_others_have_the_baselines(tmp_path):
    sets = [benchmark(), benchmark(seed=1, name="other")]
    asked: list[int] = []

    def network(seed):  # of seed 0: the recognizer; of seed 1: blind, so that every pair looks the same
        asked.append(seed)
        made = Projection(192)
        made.weight = made.weight * (seed == 0)
        return made

    seen = subject(Faces([0, 1]), None, recognizer=Projection(192), benchmarks=sets, untrained=network)
    (tmp_path / "real").mkdir()
    evaluator = Verification(VerificationConfig(untrained=2))
    scores, _ = by_name(evaluator.evaluate(seen, context(tmp_path / "real")))
    trained = scores["verification/toy/accuracy"]
    assert asked == [0, 1]
    assert scores["untrained/toy/accuracy"].value == pytest.approx((trained.value + 50) / 2)
    stored = open_results(tmp_path / "real" / "pairs")["toy"]
    right = (stored.correct + kfold(np.zeros(400), stored.same).correct.astype(int)) / 2
    assert scores["untrained/toy/accuracy"].stderr == pytest.approx(100 * right.std(ddof=1) / 20)
    both = [scores[f"untrained/{name}/accuracy"].value for name in ("toy", "other")]
    assert scores["untrained/avg/accuracy"].value == pytest.approx(np.mean(both))
    seen = subject(Faces([0, 1]), None, recognizer=Projection(192), benchmarks=sets, untrained=network, baseline=tmp_path / "real")
    (tmp_path / "own").mkdir()
    found, _ = by_name(evaluator.evaluate(seen, context(tmp_path / "own")))
    assert asked == [0, 1] and not (tmp_path / "own" / "untrained.json").exists()
    assert {name: score for name, score in found.items() if name.startswith("untrained")} == {
        name: score for name, score in scores.items() if name.startswith("untrained")
    }


def test_flip_sums_raw_embeddings():
    pixels = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    encoder = Projection(192)
    faces = Faces(np.zeros(5), pixels=pixels)
    embeddings, norms = combine(*[raw_embeddings(encoder, faces, mirror, batch_size=2) for mirror in (False, True)])
    x = pixels.float() / 127.5 - 1
    raw = [encoder(x).double().numpy(), encoder(x.flip(3)).double().numpy()]
    total = raw[0] + raw[1]
    np.testing.assert_allclose(embeddings, total / np.linalg.norm(total, axis=1, keepdims=True), atol=1e-6)
    assert norms.mean() == pytest.approx(np.linalg.norm(np.concatenate(raw), axis=1).mean(), rel=1e-6)


def test_sorted_pairs_are_warned_about(tmp_path):
    bad = benchmark()
    order = np.argsort(bad.same, kind="stable")
    bad.left, bad.right, bad.same = bad.left[order], bad.right[order], bad.same[order]
    seen = subject(Faces([0, 1]), None, recognizer=Projection(192), benchmarks=[bad])
    with pytest.warns(UserWarning, match="do not hold half genuine pairs"):
        scores, _ = by_name(Verification(VerificationConfig()).evaluate(seen, context(tmp_path)))
    assert scores["verification/toy/unbalanced_folds"].value == 10


def test_bad_input(tmp_path):
    run = Verification(VerificationConfig()).evaluate
    with pytest.raises(Skipped, match="no recognizer"):
        run(subject(Faces([0, 1]), None), context(tmp_path))
    with pytest.raises(Skipped, match="no benchmarks"):
        run(subject(Faces([0, 1]), None, recognizer=Projection(192)), context(tmp_path))
    broken = Projection(192)
    broken.weight[:] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        run(subject(Faces([0, 1]), None, recognizer=broken, benchmarks=[benchmark()]), context(tmp_path))
    lonely = benchmark()
    lonely.same = np.ones(400, bool)
    with pytest.raises(UserError, match="all 400 pairs"):
        run(subject(Faces([0, 1]), None, recognizer=Projection(192), benchmarks=[lonely]), context(tmp_path))
    collapsed = Projection(192)
    collapsed.weight[:] = 0
    scores, _ = by_name(run(subject(Faces([0, 1]), None, recognizer=collapsed, benchmarks=[benchmark()]), context(tmp_path)))
    assert scores["verification/toy/accuracy"].value == 50 and scores["verification/toy/xnorm"].value == 0


@pytest.mark.reality
@pytest.mark.skipif(not (DATA / "lfw_112.zip").exists(), reason=f"LFW and public encoders are not in {DATA}")
@pytest.mark.parametrize(
    ("model", "plain", "mirrored"),
    [
        ("y1_mfn.onnx", ("99.283", "0.606"), ("99.367", "0.526")),
        ("edgeface_xxs_q.onnx", ("99.517", "0.263"), ("99.483", "0.252")),
    ],
)
def test_public_encoders_on_lfw(model, plain, mirrored):
    """MANIFEST.md's reference measurements, to the last digit printed: mean and standard deviation over folds."""
    from synthbench.data.pairs import read_pair_list
    from synthbench.models.checkpoints import load_checkpoint

    encoder = load_checkpoint(DATA / "models" / model, colour="rgb")
    lfw = read_pair_list(DATA / "lfw_pairs.txt", DATA / "lfw_112.zip", 112)
    original, mirror = raw_embeddings(encoder, lfw.images), raw_embeddings(encoder, lfw.images, mirror=True)
    for views, expected in (([original], plain), ([original, mirror], mirrored)):
        embeddings, _ = combine(*views)
        accuracies = kfold(pair_distances(embeddings, lfw.left, lfw.right), lfw.same).fold_accuracies()
        assert (f"{100 * accuracies.mean():.3f}", f"{100 * accuracies.std():.3f}") == expected
