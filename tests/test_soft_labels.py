"""Images of two identities: the loss they are learnt with, their way to disk and back, and what evaluators make of them."""

import csv

import numpy as np
import pytest
import torch
from fake_subject import Faces, by_name, clusters, context, subject
from torch.nn import functional as F

from synthbench.data.export import export_faces
from synthbench.data.faces import FaceSet, ShardWriter, open_faces, read_source
from synthbench.evaluators.leakage import Leakage, LeakageConfig
from synthbench.evaluators.separability import Separability, SeparabilityConfig
from synthbench.evaluators.similarity import Similarity, SimilarityConfig
from synthbench.models.encoder import load_encoder
from synthbench.recognition import trainer
from synthbench.recognition.margin import Head
from synthbench.recognition.trainer import Backbone, Recipe
from synthbench.types import FaceBatch, Skipped, UserError

B, C, D = 12, 7, 5
SECOND = torch.tensor([1, 0, 2, 2, 4, 3, 0, 1, 2, 3, 4, 5])
WEIGHT = torch.linspace(0, 1, B)


def batch(kind):
    torch.manual_seed(0)
    head = Head(kind, D, C, scale=16, margin=0.3).eval()
    head.weight.data.normal_()
    return head, torch.randn(B, D) * 20, torch.arange(B) % C


@pytest.mark.parametrize("kind", ["cosface", "arcface", "adaface"])
def test_the_loss_is_that_of_synface(kind):
    """o = w A(f, a) + (1 - w) A(f, b); w CE(o, a) + (1 - w) CE(o, b), image by image."""
    head, embedding, first = batch(kind)
    expected = []
    for i in range(B):
        w, a, b = WEIGHT[i], first[i], SECOND[i]
        o = w * head(embedding[i : i + 1], a[None]) + (1 - w) * head(embedding[i : i + 1], b[None])
        expected.append(w * F.cross_entropy(o, a[None]) + (1 - w) * F.cross_entropy(o, b[None]))
    found = trainer.mixed_loss(SECOND, WEIGHT)(head, embedding, first)
    torch.testing.assert_close(found, torch.stack(expected).mean(), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("kind", ["cosface", "arcface", "adaface"])
def test_an_unmixed_image_has_the_usual_loss(kind):
    head, embedding, first = batch(kind)
    usual = trainer.softmax_loss(head, embedding, first)
    whole = torch.ones(B)
    torch.testing.assert_close(trainer.mixed_loss(SECOND, whole)(head, embedding, first), usual)
    torch.testing.assert_close(trainer.mixed_loss(first, WEIGHT)(head, embedding, first), usual)  # mixed with itself
    torch.testing.assert_close(trainer.mixed_loss(first, whole - 1)(head, embedding, SECOND), usual)  # wholly the second


def test_adaface_sees_the_norms_of_a_batch_once():
    head, embedding, first = batch("adaface")
    other, *_ = batch("adaface")
    head.train()(embedding, first, SECOND, WEIGHT)
    other.train()(embedding, first)
    assert head.norm_mean == other.norm_mean and head.norm_std == other.norm_std


def painted(people=4, each=6, seed=0):
    """Pixels (N, 3, 16, 16) of `people` patterns and of their mixtures, and the labels."""
    random = np.random.default_rng(seed)
    pattern = random.integers(0, 256, (people, 3, 16, 16))
    first, second = np.repeat(np.arange(people), each), random.integers(0, people, people * each)
    weight = np.tile([1.0, 1.0, 0.75, 0.5, 0.25, 0.0], people)[: len(first)].astype(np.float32)
    share = weight[:, None, None, None]
    pixels = share * pattern[first] + (1 - share) * pattern[second] + random.normal(0, 8, (len(first), 3, 16, 16))
    return torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)), first, second, weight


RECIPE = Recipe(backbone=Backbone(family="small", width=8), dim=16, scale=16.0, margin=0.2, epochs=8, batch_size=12, lr=0.05)


def train(faces, out, recipe=RECIPE):
    list(trainer.train(faces, recipe, seed=0, device=torch.device("cpu"), out=out))
    return (out / "weights.safetensors").read_bytes()


def test_the_recognizer_learns_them(tmp_path):
    """The first label is nonsense and has no share, the second is the truth."""
    pixels, truth, _, weight = painted()
    nonsense = np.random.default_rng(1).permutation(truth)
    keep = weight == 1
    pixels, truth, nonsense = pixels[torch.from_numpy(keep)].repeat(3, 1, 1, 1), np.tile(truth[keep], 3), np.tile(nonsense[keep], 3)
    faces = FaceSet.from_arrays(pixels, nonsense, columns={"label2": truth, "weight": np.zeros(len(truth))})
    train(faces, tmp_path)
    z = load_encoder(tmp_path).embed(pixels)
    for label, apart in ((truth, True), (nonsense, False)):
        same = label[:, None] == label
        assert bool((z @ z.T)[same].mean() > (z @ z.T)[~same].mean() + 0.8) is apart


def test_without_the_columns_nothing_changes():
    pixels, first, _, _ = painted()
    plain = FaceSet.from_arrays(pixels, first, columns={"m": np.zeros(len(first))})
    assert not plain.mixed and plain.whole.all()
    assert plain.digest == FaceSet.from_arrays(pixels, first).digest
    assert FaceSet.from_arrays(pixels, first, columns={"label2": first, "weight": np.ones(len(first))}).digest != plain.digest


def test_shards_and_packed_sets_keep_them(tmp_path):
    """Labels that are not dense become 0..n-1 together."""
    pixels, first, second, weight = painted()
    writer = ShardWriter(tmp_path / "set", rows_per_shard=10)
    columns = {"label2": torch.from_numpy(second * 5 + 3), "weight": torch.from_numpy(weight)}
    writer.write(FaceBatch(pixels, torch.from_numpy(first * 5 + 3), columns))
    writer.finish()
    faces = open_faces(tmp_path / "set")
    assert faces.identity.tolist() == first.tolist() and faces.columns["label2"].tolist() == second.tolist()
    assert faces.columns["weight"].tolist() == weight.tolist() and faces.whole.tolist() == (weight == 1).tolist()
    assert faces.digest == FaceSet.from_arrays(pixels, first, columns={"label2": second, "weight": weight}).digest
    assert "soft labels" in " ".join(read_source(tmp_path / "set").doubts)  # as somebody's published set it has one label per image


def test_export_carries_them(tmp_path):
    pixels, first, second, weight = painted()
    faces = FaceSet.from_arrays(pixels, first, columns={"label2": second, "weight": weight}, names=["ann", "bo", "cy", "di"])
    for form in ("imagefolder", "rec"):
        export_faces(faces, form, tmp_path / form)
        with open(tmp_path / form / "soft_labels.csv", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [float(row["weight"]) for row in rows] == weight.tolist()
        names = faces.names if form == "imagefolder" else ["0", "1", "2", "3"]
        assert [row["label2"] for row in rows] == [names[label] for label in second]
        assert rows[7]["image"] == ("bo/00001.png" if form == "imagefolder" else "8")
    assert (tmp_path / "imagefolder" / "bo" / "00001.png").is_file()
    export_faces(FaceSet.from_arrays(pixels, first), "imagefolder", tmp_path / "plain")
    assert not (tmp_path / "plain" / "soft_labels.csv").exists()


def test_mistakes(tmp_path):
    pixels, first, second, weight = painted()
    with pytest.raises(UserError, match="label2 names identity 9"):
        FaceSet.from_arrays(pixels, first, columns={"label2": np.where(second == 1, 9, second), "weight": weight})
    with pytest.raises(UserError, match="one of them is missing"):
        FaceSet.from_arrays(pixels, first, columns={"weight": weight})
    with pytest.raises(UserError, match=r"weight from 0\.0 to 2\.0"):
        train(FaceSet.from_arrays(pixels, first, columns={"label2": second, "weight": weight * 2}), tmp_path)


# ---------------------------------------------------------------------------------------------------------------- evaluators

REAL, REAL_IDENTITY = clusters(20, 8, seed=5)


def halves():
    """Fifteen people with six whole images each, and as many mixtures, which lie between two people."""
    x, identity = clusters(15, 6)
    partner = (identity + 1) % 15
    between = x + x[np.searchsorted(identity, partner)]
    between /= np.linalg.norm(between, axis=1, keepdims=True)
    columns = {"label2": np.r_[identity, partner], "weight": np.r_[np.ones(90), np.full(90, 0.5)]}
    return x, identity, np.r_[x, between].astype(np.float32), np.r_[identity, identity], columns


def measured(evaluator, x, identity, columns, tmp_path):
    real = Faces(REAL_IDENTITY, names=[str(i) for i in range(20)])
    return by_name(evaluator.evaluate(subject(Faces(identity, columns), x, real, REAL), context(tmp_path)))[0]


def test_separability_leaves_mixtures_out(tmp_path):
    x, identity, everything, labels, columns = halves()
    separability = Separability(SeparabilityConfig())
    without = measured(separability, x, identity, None, tmp_path)
    assert measured(separability, everything, labels, columns, tmp_path) == without
    blind = measured(separability, everything, labels, None, tmp_path)
    assert blind["separability/genuine/mean"].value < without["separability/genuine/mean"].value


def test_leakage_searches_every_image_but_makes_centres_of_whole_ones(tmp_path):
    x, identity, everything, labels, columns = halves()
    leakage = Leakage(LeakageConfig(fmr=1e-2))
    without, found = measured(leakage, x, identity, None, tmp_path), measured(leakage, everything, labels, columns, tmp_path)
    assert found["leakage/centre_to_centre/mean_best_cosine"] == without["leakage/centre_to_centre/mean_best_cosine"]
    assert found["leakage/image_to_image/mean_best_cosine"].n == 2 * without["leakage/image_to_image/mean_best_cosine"].n
    columns["weight"][:6] = 0.5  # person 0 has no whole image any more
    found = measured(leakage, everything, labels, columns, tmp_path)
    assert found["leakage/centre_to_centre/mean_best_cosine"].n == 14
    with np.load(tmp_path / "leakage.npz") as file:
        assert file["real_identity"][0] == -1 and np.isnan(file["cosine"][0]) and not np.isnan(file["image_cosine"][0])


def test_similarity_leaves_mixtures_out(tmp_path):
    _, _, everything, labels, columns = halves()
    columns["similarity"] = np.r_[np.full(90, 0.8), np.full(90, 0.1)]
    found = measured(Similarity(SimilarityConfig()), everything, labels, columns, tmp_path)
    assert found["similarity/realised/mean"].n == 90 and found["similarity/realised/mean"].value == pytest.approx(0.8)


def test_a_set_of_mixtures_alone_has_no_classes(tmp_path):
    x, identity, *_ = halves()
    columns = {"label2": identity, "weight": np.full(90, 0.5)}
    with pytest.raises(Skipped, match="mixture of two identities"):
        measured(Separability(SeparabilityConfig()), x, identity, columns, tmp_path)
