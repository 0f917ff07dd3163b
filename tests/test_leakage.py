"""The search for real people in a synthetic set: planted leaks are found, strangers are not, thresholds are what they say."""

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_subject import Faces, Projection, by_name, clusters, context, subject
from PIL import Image

from synthbench.data import sources
from synthbench.data.faces import open_faces
from synthbench.evaluators.leakage import Leakage, LeakageConfig, overlap, real_impostors, shared_people
from synthbench.inventory import machine
from synthbench.models.embeddings import class_centres, unit
from synthbench.pipeline.steps import execute, import_step
from synthbench.store import Store
from synthbench.types import UserError

DIRECTIONS = np.linalg.qr(np.random.default_rng(0).normal(size=(64, 64)))[0]
FAMILY = np.where(np.arange(30) < 6, 0.8, 0)[:, None] * DIRECTIONS[63]  # six relatives set the thresholds: strangers stay below


def around(centres, images, seed, spread=0.05):
    """Unit embeddings, `images` around each centre, and their identity."""
    identity = np.repeat(np.arange(len(centres)), images)
    x = unit(centres)[identity] + spread * np.random.default_rng(seed).normal(size=(len(identity), 64))
    return unit(x).astype(np.float32), identity


REAL, REAL_IDENTITY = around(DIRECTIONS[:30] + FAMILY, 6, seed=1)
NAMES = [f"person {i}" for i in range(30)]


def run(tmp_path, x, identity, columns=None, config=None, **others):
    seen = subject(Faces(identity, columns), x, Faces(REAL_IDENTITY, names=NAMES), REAL, **others)
    return by_name(Leakage(config or LeakageConfig(fmr=1e-3)).evaluate(seen, context(tmp_path)))


def test_planted_leaks_are_found(tmp_path):
    centres = DIRECTIONS[40:50].copy()
    centres[4] = DIRECTIONS[17]  # synthetic identity 4 is the real person 17
    x, identity = around(centres, 5, seed=2)
    scores, _ = run(tmp_path, x, identity)
    for way in ("image_to_image", "image_to_centre", "centre_to_centre"):
        assert scores[f"leakage/{way}/share_above"].value == pytest.approx(0.1), way
    assert scores["leakage/identities_with_a_leaked_image"].value == pytest.approx(0.1)
    assert scores["leakage/centre_to_centre/share_above"].n == 10
    with np.load(tmp_path / "leakage.npz") as file:
        assert file["real_name"][4] == "person 17" and file["cosine"].argmax() == 4
        assert REAL_IDENTITY[file["real_image"][4]] == 17 and identity[file["image"][4]] == 4
        assert file["image_cosine"][4] == pytest.approx(REAL[file["real_image"][4]] @ x[file["image"][4]], abs=1e-6)


def test_what_was_learnt_besides_the_real_set_is_searched_too(tmp_path):
    """Ten people who are in neither set but one: he is among the other photographs that the generator learnt from."""
    x, identity = around(DIRECTIONS[40:50], 5, seed=2)
    without, _ = run(tmp_path, x, identity)
    others = around(DIRECTIONS[[44, 55, 56]], 2, seed=3)[0]  # 44 is synthetic identity 4
    seen = subject(Faces(identity), x, Faces(REAL_IDENTITY, names=NAMES), REAL, also_learnt=Faces([0, 1, 2, 3, 4, 5]))
    seen._embeddings["also_learnt"] = others
    scores, _ = by_name(Leakage(LeakageConfig(fmr=1e-3)).evaluate(seen, context(tmp_path)))
    new = {name for name in scores if "also_learnt" in name}
    assert new == {f"leakage/also_learnt/image_to_image/{what}" for what in ("share_above", "mean_best_cosine")}
    assert scores["leakage/also_learnt/image_to_image/share_above"].value == pytest.approx(0.1)
    assert scores["leakage/also_learnt/image_to_image/mean_best_cosine"].value == pytest.approx(
        float((x @ others.T).max(1).mean()), abs=1e-6
    )
    assert {name: score for name, score in scores.items() if name not in new} == without


def test_the_real_set_itself_leaks_entirely(tmp_path):
    scores, skipped = run(tmp_path, REAL, REAL_IDENTITY)
    assert scores["leakage/image_to_image/share_above"].value == 1
    assert scores["leakage/image_to_image/mean_best_cosine"].value == pytest.approx(1)
    assert scores["leakage/baseline/image_to_image/share_above"].value < 0.5  # other people do not look like that
    assert "no column real" in skipped["leakage/real_photographs"]
    assert "no benchmark" in skipped["leakage/held_out/image_to_image/share_above"]


def test_searches_are_the_loop(tmp_path):
    x, identity = around(DIRECTIONS[20:26] + DIRECTIONS[40:46], 4, seed=5)
    scores, _ = run(tmp_path, x, identity)
    centres, real_centres = (unit(class_centres(e, i, n)[0]) for e, i, n in ((x, identity, 6), (REAL, REAL_IDENTITY, 30)))
    threshold = scores["leakage/image_to_image/threshold"].value
    assert scores["leakage/image_to_image/share_above"].value == pytest.approx(np.mean([max(REAL @ e) > threshold for e in x]))
    assert scores["leakage/centre_to_centre/mean_best_cosine"].value == pytest.approx((centres @ real_centres.T).max(1).mean(), abs=1e-6)
    others = [max(REAL[j] @ e for j in range(len(REAL)) if REAL_IDENTITY[j] != who) for e, who in zip(REAL, REAL_IDENTITY)]
    assert scores["leakage/baseline/image_to_image/mean_best_cosine"].value == pytest.approx(np.mean(others), abs=1e-6)


def test_impostors_of_each_way_are_all_of_them():
    centres = unit(class_centres(REAL, REAL_IDENTITY, 30)[0]).astype(np.float32)
    found = real_impostors(REAL, REAL_IDENTITY, centres, 1_000_000, np.random.default_rng(0))
    pairs = itertools.combinations(range(180), 2)
    expected = {
        "image_to_image": [REAL[a] @ REAL[b] for a, b in pairs if REAL_IDENTITY[a] != REAL_IDENTITY[b]],
        "image_to_centre": [REAL[i] @ centres[c] for i in range(180) for c in range(30) if c != REAL_IDENTITY[i]],
        "centre_to_centre": [centres[a] @ centres[b] for a, b in itertools.combinations(range(30), 2)],
    }
    for way, cosines in expected.items():
        np.testing.assert_allclose(np.sort(found[way]), np.sort(cosines), atol=1e-6)
    drawn = real_impostors(REAL, REAL_IDENTITY, centres, 400, np.random.default_rng(0))
    assert {way: len(cosines) for way, cosines in drawn.items()} == dict.fromkeys(expected, 400)


def test_photographs_are_counted_and_not_searched_for(tmp_path):
    x, identity = around(DIRECTIONS[40:50], 5, seed=2)
    real = (np.arange(50) % 5 == 0).astype(np.float32)
    x[real == 1] = REAL[:10]
    scores, _ = run(tmp_path, x, identity, {"real": real})
    assert scores["leakage/real_photographs"].value == pytest.approx(0.2)
    assert scores["leakage/image_to_image/share_above"].n == 40 and scores["leakage/image_to_image/share_above"].value == 0
    scores, skipped = run(tmp_path, x, identity, {"real": np.ones(50)})
    assert scores["leakage/real_photographs"].value == 1 and "no synthetic image" in skipped["leakage"]
    scores, skipped = run(tmp_path, x, identity, {"real": np.where(real == 1, 1, -1)})  # of a part of a union nobody knows
    assert "of 40 of 50 images the set does not say" in skipped["leakage/real_photographs"]
    assert scores["leakage/image_to_image/share_above"].n == 40


def test_held_out_people(tmp_path):
    pixels = torch.randint(0, 256, (40, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    judge = Projection(192)
    real = judge.embed_all(Faces(np.arange(40), pixels=pixels))
    held_out = SimpleNamespace(images=Faces(np.zeros(40), pixels=pixels.flip(0)))
    seen = subject(Faces(np.arange(40)), real, judge=judge, benchmarks=[held_out])
    scores, _ = by_name(Leakage(LeakageConfig(held_out=30)).evaluate(seen, context(tmp_path)))
    assert scores["leakage/held_out/image_to_image/share_above"].n == 30
    assert scores["leakage/held_out/image_to_image/mean_best_cosine"].value == pytest.approx(1, abs=1e-5)  # they are the same photographs


def test_small_real_sets_have_no_threshold(tmp_path):
    x, identity = clusters(3, 2)
    scores, skipped = by_name(Leakage(LeakageConfig()).evaluate(subject(Faces(identity), x), context(tmp_path)))
    assert "too few to set a threshold" in skipped["leakage/centre_to_centre/threshold"]
    assert "leakage/centre_to_centre/share_above" in skipped and "leakage/centre_to_centre/mean_best_cosine" in scores
    seen = subject(Faces(identity), x, Faces([0, 0]), x[:2])
    assert "single identity" in by_name(Leakage(LeakageConfig()).evaluate(seen, context(tmp_path)))[1]["leakage"]


def test_overlap_and_shared_people():
    a, b = np.eye(5), np.stack([np.eye(5)[3], unit(np.array([0, 1, 0.4, 0, 0]))])
    assert [(i, j) for i, j, _ in overlap(a, b, 0.5)] == [(3, 0), (1, 1)]
    assert [(i, j) for i, j, _ in overlap(np.concatenate([a, b]), None, 0.5)] == [(3, 5), (1, 6)]
    pixels = torch.randint(0, 256, (6, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    judge = Projection(192)
    left = Faces([0, 0, 1, 2], names=["Ann", "Bob", "Cid"], pixels=pixels[[0, 0, 1, 2]])
    right = Faces([0, 1], names=["X", "Y"], pixels=pixels[[4, 1]])
    assert [match[:2] for match in shared_people(left, right, judge, 0.99)] == [("Bob", "Y")]
    assert shared_people(left, None, judge, 0.99) == []
    judge.weight[:] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        shared_people(left, right, judge, 0.5)


def test_people_of_a_benchmark_can_be_compared_when_its_list_names_them(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNTHBENCH_DATA", str(tmp_path / "registry"))
    for person in range(4):
        for number in (1, 2):
            path = tmp_path / "images" / f"P{person}" / f"P{person}_{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (50 * person, 9, number)).save(path)
    (tmp_path / "pairs.txt").write_text("P0\t1\t2\nP0\t1\tP1\t1\n")
    sources.add("own", tmp_path / "images", kind="pairs", pairs=tmp_path / "pairs.txt")
    step = import_step(Store(tmp_path / "runs"), 8, "overlap", machine._people("own"))
    execute([step], Store(tmp_path / "runs"))
    assert open_faces(step.stage.folder).names == ["P0", "P1", "P2", "P3"]
    entry = dataclasses.replace(sources.find("own"), options={})
    monkeypatch.setattr(sources, "find", lambda name: entry)
    with pytest.raises(UserError, match=r"own is a \.bin, which does not say who is on its images"):
        machine._people("own")
