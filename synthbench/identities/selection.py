"""Images of sets that are there, chosen and numbered anew: what a mixed set and a cleaned one share. Nothing is painted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from synthbench.data.faces import FaceSet
from synthbench.data.finite import slots_of
from synthbench.data.joined import Joined
from synthbench.identities.sampling import with_copies
from synthbench.types import FaceBatch, Slot, Volume


class Selection:
    """The images of `sets` with other identities.

    people: for each set, the identity (P,) that each of its people becomes; -1: that person is left out.
    kept: (N,) bool over the images of all sets, one set after the other: those that may stay; None: all.
    An image of two people (soft label) stays with both of them. Copies of inquiries (`sample` below 0) go with the images of their
    identity, and no volume counts them. Where an identity has images of several sets, these take turns, each as its share allows.
    """

    def __init__(self, sets: Sequence[FaceSet], people: Sequence[np.ndarray], kept: np.ndarray | None = None) -> None:
        self._faces = Joined({str(number): faces for number, faces in enumerate(sets)})
        self._part = np.repeat(np.arange(len(sets)), [len(faces) for faces in sets])
        identity = np.concatenate([new[faces.identity] for new, faces in zip(people, sets)])
        self._columns = _columns(sets, people, identity) | {"part": self._part}
        good = identity >= 0 if kept is None else (identity >= 0) & kept
        if "label2" in self._columns:
            good &= self._columns["label2"] >= 0
        copies = np.concatenate([faces.columns.get("sample", np.zeros(len(faces))) < 0 for faces in sets])
        size = max(int(new.max(initial=-1)) for new in people) + 1
        self._images, self.counts = self._ordered(np.flatnonzero(good & ~copies), identity, size)
        self._copies, self.copied = self._ordered(np.flatnonzero(good & copies), identity, size)

    def _ordered(self, rows: np.ndarray, identity: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """(`rows`, identity by identity, how many each of the `size` identities has)."""
        whose = identity[rows]
        return rows[np.lexsort((turns(whose, self._part[rows]), whose))], np.bincount(whose, minlength=size)

    def slots(self, volume: Volume, what: str) -> list[Slot]:
        """The slots of `volume`, with the copies of the inquiries of its people. Raises UserError, of `what`, when there are too few."""
        return with_copies(slots_of(volume, self.counts, what), self.copied)

    def batches(self, slots: Sequence[Slot], size: int) -> Iterator[FaceBatch]:
        """The faces of `slots`. Columns: those of the sets, and `part`, the number of the set that an image is from."""
        first, copies = (np.cumsum(counts) - counts for counts in (self.counts, self.copied))
        for start in range(0, len(slots), size):
            identity, sample = np.array(slots[start : start + size]).T
            rows = np.empty(len(identity), np.int64)
            rows[sample >= 0] = self._images[(first[identity] + sample)[sample >= 0]]
            rows[sample < 0] = self._copies[(copies[identity] - 1 - sample)[sample < 0]]
            columns = {name: torch.from_numpy(values[rows]) for name, values in self._columns.items()}
            yield FaceBatch(self._faces.images(rows), torch.from_numpy(identity), {**columns, "sample": torch.from_numpy(sample)})


def turns(group: np.ndarray, part: np.ndarray) -> np.ndarray:
    """When (N,) each comes in its group, from 0 to 1, so that every beginning of a group has its parts in the shares of the whole.

    The k-th of n that a part has in a group comes at (k + 1/2) / n: no part is ever more than half an item off what is due at that time.
    """
    key = group * (part.max(initial=0) + 1) + part
    order = np.argsort(key, kind="stable")
    _, first, count = np.unique(key[order], return_index=True, return_counts=True)
    found = np.empty(len(group))
    found[order] = (np.arange(len(group)) - np.repeat(first, count) + 0.5) / np.repeat(count, count)
    return found


def _columns(sets: Sequence[FaceSet], people: Sequence[np.ndarray], identity: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of all sets. Where one has a column that another lacks: nobody (-1), an image of one person (weight 1), unknown (nan)."""
    found = {}
    for name in dict.fromkeys(name for faces in sets for name in faces.columns):
        absent = {"weight": 1.0, "real": -1, "real_identity": -1}.get(name, np.nan)
        found[name] = np.concatenate([faces.columns.get(name, np.full(len(faces), absent)) for faces in sets])
    if "label2" in found:
        own = [new[faces.columns["label2"]] if faces.mixed else new[faces.identity] for new, faces in zip(people, sets)]
        found["label2"] = np.concatenate(own)
    return found
