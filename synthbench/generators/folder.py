"""Somebody's published set as a generator, so that it is trained on and scored under the same protocol."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from synthbench import console
from synthbench.config import Settings
from synthbench.data import damage, sources
from synthbench.data.catalogue import Entry
from synthbench.data.faces import chosen_rows, enough, read_images
from synthbench.data.finite import Repeats, rows_of, slots_of, taken
from synthbench.data.labelled import Source
from synthbench.data.pixels import Damaged
from synthbench.plugin import Context, Generator, Traits
from synthbench.types import FaceBatch, Slot, UserError, Volume


class Sample(Settings):
    late = ("skip_damaged",)

    path: str = Field(
        default="",
        description="image folder, zip, .rec, .parquet, WebDataset or LMDB with an identity per image, or a registered name",
    )
    exclude: tuple[str, ...] = Field(default=(), description="identities left out, by their name in the set")
    skip_damaged: bool = Field(default=False, description="leave out images that cannot be decoded; else the first of them ends the run")


class FolderConfig(Settings):
    sample: Sample = Sample()


class Folder(Generator[FolderConfig]):
    """A labelled set on disk; images that are not square are cropped, all are resized to the protocol's resolution."""

    Config = FolderConfig
    traits = Traits(paper="any published set", licence="that of the set", real_photographs="unknown", finite=True)

    def sources(self, resolution: int) -> dict[str, str]:
        return {"folder": sources.digest_of(self._found)}

    def names(self, context: Context) -> Sequence[str]:
        names = self._source.names
        return [names[label] for label in np.unique(self._source.label[self._rows_in(context)])]

    def slots(self, volume: Volume, context: Context) -> list[Slot]:
        """Damaged images count until it is known which they are: a plan, which has no context, decodes nothing."""
        counts = np.bincount(self._identity(self._rows_in(context) if context else self._rows))
        slots = slots_of(volume, counts, f"{self._source.path} ({self._source.kind})")
        if context and (said := taken(slots, counts)):
            console.note(f"{self._source.path}: {said}")
        return slots

    def generate(self, slots: Sequence[Slot], context: Context) -> Iterator[FaceBatch]:
        for doubt in self._source.doubts:
            console.warn(f"{self._source.path}: {doubt}")
        kept = self._rows_in(context)
        batches = [(part, kept[places]) for part, places in rows_of(slots, self._identity(kept), context.batch_size)]
        repeats, whole = Repeats(), self._source
        seen = replace(whole, ordered=lambda rows: repeats.passing(whole.stream(rows), (whole.called(int(row)) for row in rows)))
        images = iter(read_images(seen, np.concatenate([rows for _, rows in batches]) if batches else [], context.resolution))
        for part, _ in batches:
            try:
                stacked = np.stack([next(images)[0] for _ in part])
            except Damaged as error:
                raise UserError(f"{error}; or have what is damaged left out, --set sample.skip_damaged=true") from None
            yield FaceBatch(torch.from_numpy(stacked).permute(0, 3, 1, 2), torch.tensor([slot.identity for slot in part]))
        if repeats.found:  # which are taken is part of no key, so that they stay, and are told
            one, other = repeats.found[0]
            console.warn(
                f"{whole.path}: {len(repeats.found):,} of the images that were taken are there twice, byte for byte, as {other} = {one}. "
                "They count twice. Take them out of the set if they should not"
            )

    @functools.cached_property
    def _found(self) -> Entry | Path:
        path = self.config.sample.path
        if not path:
            raise UserError("say which set: --set sample.path=DIR (image folder, zip, .rec, .parquet, WebDataset or LMDB)")
        registered = path in (*sources.CATALOGUE, *sources.names_registered()) and not Path(path).exists()
        return sources.find(path, "faces") if registered else Path(path)

    @functools.cached_property
    def _source(self) -> Source:
        return sources.open_set(self._found)

    @functools.cached_property
    def _whole(self) -> dict[Path, np.ndarray]:
        """Folder of a stage -> what `_rows_in` found for it."""
        return {}

    @functools.cached_property
    def _rows(self) -> np.ndarray:
        return chosen_rows(self._source, self.config.sample.exclude)

    def _rows_in(self, context: Context) -> np.ndarray:
        """The rows that the stage of `context` shows. Which are damaged follows from the bytes: the setting is key enough."""
        if not self.config.sample.skip_damaged:
            return self._rows
        if context.out not in self._whole:
            self._whole[context.out] = enough(self._source, damage.without(self._source, self._rows, context.out, context.progress))
        return self._whole[context.out]

    def _identity(self, rows: np.ndarray) -> np.ndarray:
        """Dense identity of each of `rows`."""
        return np.unique(self._source.label[rows], return_inverse=True)[1]
