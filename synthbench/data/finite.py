"""Slots of a set that has a fixed number of images: the real set, or a published one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from synthbench.types import Slot, UserError, Volume


def slots_of(volume: Volume, counts: np.ndarray, what: str) -> list[Slot]:
    """The slots of `volume` in a finite set with `counts[identity]` images: per block the first identities, not yet used, that have enough.

    A larger volume with the same images per identity starts with the slots of a smaller one. Raises UserError when there are too few.
    """
    if not volume.blocks:
        return [Slot(identity, sample) for identity, count in enumerate(counts) for sample in range(count)]
    free = np.ones(len(counts), bool)
    slots: list[Slot] = []
    for ids, images in volume.blocks:
        chosen = np.flatnonzero(free & (counts >= images))[:ids]
        if len(chosen) < ids:
            raise UserError(
                f"volume {volume} asks for {ids} identities x {images} images, but {what} has {len(chosen)} that large: "
                f"{int(counts.sum())} images of {len(counts)} identities, {int(counts.min())} to {int(counts.max())} each. "
                "Use --volume all, or ask for less"
            )
        free[chosen] = False
        slots += [Slot(int(identity), sample) for identity in chosen for sample in range(images)]
    return slots


def taken(slots: Sequence[Slot], counts: np.ndarray) -> str:
    """`150 of 165 images are taken, ...` of a set with `counts[identity]` images; empty where that is all of them."""
    people, used = len(counts), len({slot.identity for slot in slots})
    if len(slots) == counts.sum():
        return ""
    whole = f"{used:,} of {people:,} identities" if used < people else "each identity"
    return (
        f"{len(slots):,} of {int(counts.sum()):,} images are taken, the first of {whole} in the order of the set (of a folder: of names); "
        f"{int(counts.sum()) - len(slots):,} are left out"
    )


class Repeats:
    """Looks at the bytes of images as they pass, for those that are there twice."""

    def __init__(self) -> None:
        self.first: dict[bytes, str] = {}  # digest -> name
        self.found: list[tuple[str, str]] = []

    def passing(self, images: Iterable[bytes], names: Iterable[str]) -> Iterator[bytes]:
        for data, name in zip(images, names):
            twin = self.first.setdefault(hashlib.sha256(data).digest()[:16], name)
            self.found += [(twin, name)] if twin != name else []
            yield data


def rows_of(slots: Sequence[Slot], identity: np.ndarray, batch_size: int) -> Iterator[tuple[Sequence[Slot], np.ndarray]]:
    """Slots in batches with the rows where a set with labels `identity` (N,) has them."""
    order = np.argsort(identity, kind="stable")
    first = np.searchsorted(identity[order], np.arange(int(identity.max()) + 1))
    for start in range(0, len(slots), batch_size):
        part = slots[start : start + batch_size]
        yield part, np.array([order[first[slot.identity] + slot.sample] for slot in part])
