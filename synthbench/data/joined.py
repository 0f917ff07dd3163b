"""Several sets of faces as one, without copying a pixel: what a generator learns from when that is more than the real set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from synthbench.data.faces import FaceSet


class Joined(FaceSet):
    """The sets one after the other. A person of one is nobody of another: names of all but the first begin with that of their set.

    Labelled only when every set tells at least two people apart; else nobody has a label, lest those of some be taken for those of all.
    Columns are left out.
    """

    def __init__(self, parts: Mapping[str, FaceSet]) -> None:
        sets = list(parts.values())
        if wrong := {faces.resolution for faces in sets} - {sets[0].resolution}:
            raise ValueError(f"sets of {sets[0].resolution} and {wrong.pop()} pixels cannot be joined")
        identity, names = np.full(sum(map(len, sets)), -1, np.int64), []
        if all(faces.identities > 1 for faces in sets):
            before = np.cumsum([0, *(faces.identities for faces in sets)])
            identity = np.concatenate([faces.identity + start for faces, start in zip(sets, before)])
            prefixes = ["", *(f"{name}/" for name in list(parts)[1:])]
            names = [prefix + name for faces, prefix in zip(sets, prefixes) for name in faces.names]
        digest = hashlib.sha256("\n".join(faces.digest for faces in sets).encode() + identity.astype("<i8").tobytes())
        super().__init__(sets[0]._images[:0], identity, names, {}, digest.hexdigest())
        self.sets, self._starts = sets, np.cumsum([0, *map(len, sets)])

    def images(self, rows: slice | Sequence[int] | np.ndarray | torch.Tensor) -> torch.Tensor:
        if isinstance(rows, slice):
            chosen = np.arange(len(self))[rows]
        else:
            chosen = np.asarray(rows)
            chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
            chosen = np.where(chosen < 0, chosen + len(self), chosen)
        if len(chosen) and not 0 <= chosen.min() <= chosen.max() < len(self):
            raise IndexError(f"rows {chosen.min()} to {chosen.max()} of {len(self)}")
        found = np.empty((len(chosen), self.resolution, self.resolution, 3), np.uint8)
        of = np.searchsorted(self._starts, chosen, "right") - 1
        for number, faces in enumerate(self.sets):
            own = of == number
            found[own] = faces.images(chosen[own] - self._starts[number]).permute(0, 2, 3, 1).numpy()
        return torch.from_numpy(found).permute(0, 3, 1, 2)
