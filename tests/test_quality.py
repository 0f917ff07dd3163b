"""Quality: norms and SER-FIQ by hand, the share that is poor, a registered network, and accuracy against the share of pairs kept."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import fake_subject
import numpy as np
import pytest
import torch
from fake_subject import Faces, Projection, context, subject
from torch import nn

from synthbench.config import Layer, build
from synthbench.data.pairs import PairSet
from synthbench.evaluators import quality
from synthbench.evaluators.pairs import kfold
from synthbench.evaluators.quality import Quality, QualityConfig
from synthbench.models.encoder import Encoder
from synthbench.types import UserError


def by_name(results):
    scores, reasons = fake_subject.by_name(list(results))
    return scores | reasons


def pixels(count, seed=0, contrast=1.0):
    drawn = np.random.default_rng(seed).normal(128, 40 * contrast, (count, 3, 8, 8)).clip(0, 255)
    return torch.from_numpy(drawn.astype(np.uint8))


def config(**settings):
    return Quality(build(QualityConfig, Layer(settings)))


class Dropping(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.drop, self.line = nn.Dropout(p), nn.Linear(3 * 8 * 8, 6)

    def forward(self, x):
        return self.line(self.drop(x.flatten(1)))


def test_norms_of_the_set_stand_beside_those_of_the_real_one(tmp_path):
    real, faint = Faces(np.repeat(range(20), 5), pixels=pixels(100)), Faces(np.repeat(range(20), 5), pixels=pixels(100, 1, contrast=0.6))
    judge = Projection(3 * 8 * 8)
    found = by_name(config().evaluate(subject(faint, None, real, None, judge=judge), context(tmp_path)))
    own, other = (judge(faces.pixels.float() / 127.5 - 1).norm(dim=1).double().numpy() for faces in (faint, real))
    assert found["quality/norm/mean"].value == pytest.approx(own.mean(), rel=1e-6)
    assert found["quality/norm/real_mean"].value == pytest.approx(other.mean(), rel=1e-6)
    assert (
        found["quality/norm/poor"].value == pytest.approx(100 * (own < np.quantile(other, 0.05)).mean())
        and found["quality/norm/poor"].value > 50
    )
    people = other.reshape(20, 5).mean(1)  # as many images of each: the mean of all is the mean of theirs
    assert found["quality/norm/real_mean"].stderr == pytest.approx(people.std(ddof=1) / 20**0.5, rel=1e-6)
    same = by_name(config().evaluate(subject(real, None, real, None, judge=judge), context(tmp_path)))
    assert same["quality/norm/poor"].value == pytest.approx(5)
    assert "no dropout" in same["quality/ser_fiq/mean"] and "no quality network" in same["quality/fiqa/mean"]
    assert "`verification` must run before" in same["quality/discard/norm"]


def test_ser_fiq_is_by_the_distances_of_embeddings_under_dropout(tmp_path, monkeypatch):
    faces = Faces(np.repeat(range(5), 4), pixels=pixels(20))
    network = Encoder(Dropping(0.5), resolution=8, dim=6)
    drawn = []
    embedded = quality.raw_embeddings
    monkeypatch.setattr(quality, "raw_embeddings", lambda *of, **how: drawn.append(embedded(*of, **how)) or drawn[-1])
    seen = subject(faces, None, judge=Projection(3 * 8 * 8), recognizer=network)
    found = by_name(config(rounds=3).evaluate(seen, context(tmp_path)))
    rounds = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in drawn if x.shape == (20, 6)][:3]  # of the real set, the same faces
    apart = [np.mean([np.linalg.norm(a[i] - b[i]) for a, b in itertools.combinations(rounds, 2)]) for i in range(20)]
    assert found["quality/ser_fiq/real_mean"].value == pytest.approx(np.mean([2 / (1 + np.exp(d)) for d in apart]), rel=1e-6)
    assert 0.3 < found["quality/ser_fiq/mean"].value < 0.99
    assert not any(module.training for module in network.net.modules())
    again = by_name(config(rounds=3).evaluate(seen, context(tmp_path)))
    assert again["quality/ser_fiq/mean"] == found["quality/ser_fiq/mean"]


def test_a_registered_network_gives_its_number_and_one_with_more_is_refused(tmp_path, monkeypatch):
    faces = Faces(np.repeat(range(10), 4), pixels=pixels(40))
    entry = SimpleNamespace(name="cr-fiqa", path="x", options={"colour": "rgb"}, digest="d")
    monkeypatch.setattr(quality, "find", lambda *of: entry)
    monkeypatch.setattr(quality, "registered", lambda name: True)
    network = SimpleNamespace(dim=1, device=torch.device("cpu"))
    monkeypatch.setattr("synthbench.models.checkpoints.load_checkpoint", lambda *of, **how: Bright(network.dim))
    made = config(network="cr-fiqa")
    assert made.sources() == {"fiqa": "d"}
    found = by_name(made.evaluate(subject(faces, None, judge=Projection(3 * 8 * 8)), context(tmp_path)))
    assert found["quality/fiqa/mean"].value == pytest.approx((faces.pixels.float() / 127.5 - 1).mean((1, 2, 3)).mean().item(), abs=1e-6)
    network.dim = 2
    with pytest.raises(UserError, match="gives 2 numbers an image; quality is one"):
        list(made.evaluate(subject(faces, None, judge=Projection(3 * 8 * 8)), context(tmp_path)))


class Bright:
    device = torch.device("cpu")

    def __init__(self, dim):
        self.dim = dim

    def __call__(self, x):
        return x.mean((1, 2, 3))[:, None]


def test_what_is_kept_are_the_pairs_of_the_best_worse_image(tmp_path):
    images = pixels(80, 2)
    left, right, same = np.arange(40), np.arange(40, 80), np.arange(40) % 2 == 0
    benchmark = PairSet.from_arrays("b", images, left, right, same)
    recognizer = Projection(3 * 8 * 8)
    results = kfold(np.random.default_rng(0).uniform(0, 4, 40), same)
    results.save(tmp_path / "pairs", "b")
    faces = Faces(np.repeat(range(10), 4), pixels=pixels(40))
    seen = subject(faces, None, judge=Projection(3 * 8 * 8), recognizer=recognizer, benchmarks=[benchmark])
    seen.recognizer.modules = lambda: iter(())
    found = by_name(config(kept=(0.5,)).evaluate(seen, context(tmp_path)))
    norms = recognizer(images.float() / 127.5 - 1).norm(dim=1).numpy()
    worth = [min(norms[i], norms[i + 40]) for i in range(40)]
    best = sorted(range(40), key=lambda i: -worth[i])[:20]
    assert found["quality/discard/norm/accuracy_of_50"].value == pytest.approx(100 * np.mean([results.correct[i] for i in best]))
    assert found["quality/discard/norm/accuracy_of_50"].n == 20
    assert found["quality/discard/norm/accuracy_of_100"].value == pytest.approx(100 * results.correct.mean())
