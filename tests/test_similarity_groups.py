"""Groups of the real set by similarity to the identity's centre: against a brute-force ranking."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from synthbench.config import Layer, build
from synthbench.data.faces import FaceSet
from synthbench.generators.similarity_groups import GroupsConfig, SimilarityGroups, group_of, to_centre
from synthbench.plugin import Context
from synthbench.types import UserError, Volume


class Lookup:
    """An encoder whose embedding of an image is in a table, by its first pixel."""

    dim = 16

    def __init__(self, table: np.ndarray) -> None:
        self.table = table

    def embed_all(self, images, flip=False, progress=None) -> np.ndarray:
        return self.table[images.images(slice(0, len(images)))[:, 0, 0, 0].numpy()]


def real_set(counts=(7, 5, 3, 10), seed: int = 0) -> tuple[FaceSet, np.ndarray]:
    """Faces, mixed up, and their unit embeddings (N, 16)."""
    random = np.random.default_rng(seed)
    identity = random.permutation(np.repeat(np.arange(len(counts)), counts))
    spread = random.uniform(0.2, 2, (len(identity), 1))
    x = random.normal(size=(len(counts), 16))[identity] + spread * random.normal(size=(len(identity), 16))
    images = np.zeros((len(identity), 8, 8, 3), np.uint8)
    images[:, :, :, 0] = np.arange(len(identity))[:, None, None]
    return FaceSet.from_arrays(images, identity), (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def context(out: Path, faces: FaceSet, embeddings: np.ndarray) -> Context:
    out.mkdir(exist_ok=True)
    return Context(out, 0, 8, torch.device("cpu"), faces, Lookup(embeddings), {"enroll": out}, batch_size=4)


def generator(**sample) -> SimilarityGroups:
    return SimilarityGroups(build(GroupsConfig, Layer({"sample": sample})))


def chosen(made: SimilarityGroups, where: Context, volume: str = "all") -> tuple[list[int], list[float]]:
    """Rows of the real set, and similarities, in the order of the slots."""
    slots = made.slots(Volume.parse(volume), where)
    batches = list(made.generate(slots, where))
    assert [label for batch in batches for label in batch.identity.tolist()] == [slot.identity for slot in slots]
    assert all((batch.columns["real"] == 1).all() for batch in batches)
    rows = [int(image[0, 0, 0]) for batch in batches for image in batch.images]
    return rows, [value for batch in batches for value in batch.columns["similarity"].tolist()]


def test_similarity_to_the_centre() -> None:
    faces, x = real_set()
    found = to_centre(x, faces.identity)
    for row in range(len(faces)):
        centre = x[faces.identity == faces.identity[row]].mean(0)
        assert found[row] == pytest.approx(x[row] @ centre / np.linalg.norm(centre), abs=1e-6)


@pytest.mark.parametrize("divide", ["identity", "set"])
def test_groups_are_a_division_of_the_set_by_rank(tmp_path: Path, divide: str) -> None:
    faces, x = real_set()
    where = context(tmp_path, faces, x)
    generator().enroll(0, where)
    similarity = to_centre(x, faces.identity)
    groups = [chosen(generator(group=group, groups=3, divide=divide), where) for group in (1, 2, 3)]
    assert sorted(row for rows, _ in groups for row in rows) == list(range(len(faces)))
    for rows, values in groups:
        assert values == pytest.approx(similarity[rows])
    for (rows, _), (lower, _) in itertools.pairwise(groups):
        for identity in range(faces.identities) if divide == "identity" else [None]:
            mine = [similarity[row] for row in rows if identity in (None, faces.identity[row])]
            below = [similarity[row] for row in lower if identity in (None, faces.identity[row])]
            assert not mine or not below or min(mine) >= max(below)
            assert abs(len(mine) - len(below)) <= 1


def test_groups_are_of_one_size_though_identities_do_not_divide() -> None:
    random = np.random.default_rng(0)
    identity = np.repeat(np.arange(1000), random.integers(1, 60, 1000))
    group = group_of(random.normal(size=len(identity)), identity, 5)
    sizes = np.bincount(group, minlength=6)[1:]
    assert group.min() == 1 and np.ptp(sizes) < 0.02 * sizes.mean()
    per_identity = np.stack([np.bincount(identity[group == k], minlength=1000) for k in range(1, 6)])
    assert np.ptp(per_identity, axis=0).max() == 1


def test_volumes_and_mistakes(tmp_path: Path) -> None:
    faces, x = real_set()
    where = context(tmp_path, faces, x)
    generator().enroll(0, where)
    first = generator(group=1, groups=2)
    assert len(chosen(first, where, "2x3")[0]) == 6
    assert chosen(first, where, "2x2")[0] == [row for i, row in enumerate(chosen(first, where, "2x3")[0]) if i % 3 < 2]
    with pytest.raises(UserError, match="group 1 of 2 of the real set has"):
        chosen(first, where, "4x5")
    with pytest.raises(UserError, match="group 3 of 2 groups"):
        generator(group=3, groups=2)
    with pytest.raises(UserError, match="group 19 of 200 of the real set is empty"):
        generator(group=19, groups=200).slots(Volume.parse("all"), where)
