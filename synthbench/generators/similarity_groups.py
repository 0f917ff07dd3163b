"""Part of the real set, by how alike its images are to their identity: the study that CemiFace starts from (its Table 1).

Sun et al., arXiv 2409.18876: CASIA-WebFace divided into five groups of about 100,000 images by the cosine of each image to the centre
of its identity; a recognizer trained on the middle group was the best. Here the images of an identity, from the most alike to the least,
are dealt to the groups in equal parts, so that every group has the same identities and as many images, and only the similarity differs.
Differs from the paper: its centres are the weights that a classifier (AdaFace) learnt for its identities, here they are mean embeddings, so
that any encoder will do; and it seems to divide the whole set, which is `divide: set`, where one identity may lie in group 1 and another in
group 5. What we have of the paper does not say so outright.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from synthbench.config import Settings
from synthbench.data.finite import slots_of
from synthbench.plugin import Context, Generator, Traits
from synthbench.store import writing
from synthbench.types import FaceBatch, Slot, UserError, Volume


class Enroll(Settings):
    flip: bool = Field(True, description="embed the sum of image and mirror image")


class Sample(Settings):
    group: int = Field(1, ge=1, description="1: the images most like their identity's centre; `groups`: the least")
    groups: int = Field(5, ge=1, description="number of groups (paper: 5)")
    divide: Literal["identity", "set"] = Field("identity", description="equal parts of each identity, or of the whole set")

    @model_validator(mode="after")
    def _there(self) -> Sample:
        if self.group > self.groups:
            raise ValueError(f"group {self.group} of {self.groups} groups")
        return self


class GroupsConfig(Settings):
    enroll: Enroll = Enroll()
    sample: Sample = Sample()


class SimilarityGroups(Generator[GroupsConfig]):
    """The images of the real set that are in one group of similarity to their identity's centre, by the protocol's encoder."""

    Config = GroupsConfig
    version = 1
    traits = Traits(
        paper="the study in CemiFace, arXiv 2409.18876, Table 1",
        licence="that of the real set",
        enrolls=True,
        needs_labels=True,
        new_identities=False,
        real_photographs="all",
        pretrained="the protocol's encoder",
        finite=True,
    )

    def enroll(self, count: int, context: Context) -> None:
        """The similarity of every image to its centre, once for all groups: similarity.npy (N,) float32."""
        found = context.encoder.embed_all(context.faces, flip=self.config.enroll.flip, progress=context.progress)
        similarity = to_centre(found, context.faces.identity)
        with writing(context.out / "similarity.npy") as temporary, open(temporary, "wb") as file:
            np.save(file, similarity)

    def names(self, context: Context) -> Sequence[str]:
        return context.faces.names

    def slots(self, volume: Volume, context: Context) -> list[Slot]:
        """Sample k of an identity is its k-th image in the group, from the most alike on."""
        identity = context.faces.identity[self._rows(context)]
        group = f"group {self.config.sample.group} of {self.config.sample.groups} of the real set"
        if not len(identity):
            raise UserError(f"{group} is empty: no identity has that many images")
        return slots_of(volume, np.bincount(identity, minlength=context.faces.identities), group)

    def generate(self, slots: Sequence[Slot], context: Context) -> Iterator[FaceBatch]:
        """Columns: similarity (cosine to the centre), real (1)."""
        similarity, rows = self._similarity(context), self._rows(context)
        first = np.searchsorted(context.faces.identity[rows], np.arange(context.faces.identities))
        for start in range(0, len(slots), context.batch_size):
            part = slots[start : start + context.batch_size]
            chosen = rows[[first[slot.identity] + slot.sample for slot in part]]
            columns = {"similarity": torch.from_numpy(similarity[chosen]), "real": torch.ones(len(part), dtype=torch.int64)}
            yield FaceBatch(context.faces.images(chosen), torch.tensor([slot.identity for slot in part]), columns)

    def _similarity(self, context: Context) -> np.ndarray:
        return np.load(context.inputs["enroll"] / "similarity.npy", allow_pickle=False)

    def _rows(self, context: Context) -> np.ndarray:
        """Rows of the group, identity by identity, the most alike first."""
        sample = self.config.sample
        similarity, identity = self._similarity(context), context.faces.identity
        group = group_of(similarity, identity if sample.divide == "identity" else np.zeros_like(identity), sample.groups)
        order = np.lexsort((-similarity, identity))
        return order[group[order] == sample.group]


def to_centre(embeddings: np.ndarray, identity: np.ndarray) -> np.ndarray:
    """Cosine (N,) float32 of unit embeddings (N, D) to the normalised mean of their identity."""
    total = np.zeros((int(identity.max()) + 1, embeddings.shape[1]))
    np.add.at(total, identity, embeddings)
    total /= np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)
    return np.einsum("nd,nd->n", embeddings, total[identity]).astype(np.float32)


def group_of(similarity: np.ndarray, identity: np.ndarray, groups: int) -> np.ndarray:
    """Group (N,) from 1 (most alike) to `groups` of each image: equal parts of every identity's images, ranked.

    What does not divide evenly goes to other groups for every identity, so that all groups are of one size in the end: of n images of
    identity i, group k ends before rank floor((k n + i mod groups) / groups).
    """
    order = np.lexsort((-similarity, identity))
    _, first, count = np.unique(identity[order], return_index=True, return_counts=True)
    rank = np.arange(len(order)) - np.repeat(first, count)
    size, turn = np.repeat(count, count), np.repeat(np.arange(len(count)) % groups, count)
    group = np.empty(len(order), np.int64)
    group[order] = sum((rank >= (k * size + turn) // groups).astype(np.int64) for k in range(1, groups)) + 1
    return group
