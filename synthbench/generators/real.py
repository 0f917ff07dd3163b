"""The real training set as a generator: the baseline that every synthetic set is held against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from synthbench import console
from synthbench.config import Settings
from synthbench.data.finite import rows_of, slots_of, taken
from synthbench.plugin import Context, Generator, Traits
from synthbench.types import FaceBatch, Groups, Slot, Volume


class RealConfig(Settings):
    """Nothing to set."""


class Real(Generator[RealConfig]):
    """The photographs (or rendered people) of the protocol's real set, as they are."""

    Config = RealConfig
    traits = Traits(paper="baseline", licence="that of the real set", new_identities=False, real_photographs="all", finite=True)

    def names(self, context: Context) -> Sequence[str]:
        return context.faces.names

    def slots(self, volume: Volume, context: Context) -> list[Slot]:
        """`all`, or the first identities that have enough images; sample k is the k-th image of the identity."""
        counts = np.bincount(context.faces.identity, minlength=context.faces.identities)
        slots = slots_of(volume, counts, "the real set")
        if said := taken(slots, counts):
            console.note(f"the real set: {said}")
        return slots

    def known(self, volume: Volume, context: Context) -> Mapping[str, Groups]:
        if not context.faces.known:
            return {}
        identity = context.faces.identity
        slots = slots_of(volume, np.bincount(identity, minlength=context.faces.identities), "the real set")
        ((_, rows),) = rows_of(slots, identity, len(slots))
        return {name: Groups(found.names, found.number[rows]) for name, found in context.faces.known.items()}

    def generate(self, slots: Sequence[Slot], context: Context) -> Iterator[FaceBatch]:
        for part, rows in rows_of(slots, context.faces.identity, context.batch_size):
            identity = torch.tensor([slot.identity for slot in part])
            yield FaceBatch(context.faces.images(rows), identity, {"real": torch.ones(len(part), dtype=torch.int64)})
