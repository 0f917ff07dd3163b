"""Somebody's published set as a generator, so that it is trained on and scored under the same protocol."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from synthbench import console
from synthbench.config import Settings
from synthbench.data import sources
from synthbench.data.catalogue import Entry
from synthbench.data.faces import chosen_rows, read_images
from synthbench.data.finite import rows_of, slots_of
from synthbench.data.labelled import Source
from synthbench.plugin import Context, Generator, Traits
from synthbench.types import FaceBatch, Slot, UserError, Volume


class Sample(Settings):
    path: str = Field(
        default="",
        description="image folder, zip, .rec, .parquet, WebDataset or LMDB with an identity per image, or a registered name",
    )
    exclude: tuple[str, ...] = Field(default=(), description="identities left out, by their name in the set")


class FolderConfig(Settings):
    sample: Sample = Sample()


class Folder(Generator[FolderConfig]):
    """A labelled set on disk; images that are not square are cropped, all are resized to the protocol's resolution."""

    Config = FolderConfig
    traits = Traits(paper="any published set", licence="that of the set", real_photographs="unknown", finite=True)

    def sources(self, resolution: int) -> dict[str, str]:
        return {"folder": sources.digest_of(self._found)}

    def slots(self, volume: Volume, context: Context) -> list[Slot]:
        return slots_of(volume, np.bincount(self._identity), f"{self._source.path} ({self._source.kind})")

    def generate(self, slots: Sequence[Slot], context: Context) -> Iterator[FaceBatch]:
        for doubt in self._source.doubts:
            console.warn(f"{self._source.path}: {doubt}")
        batches = [(part, self._rows[places]) for part, places in rows_of(slots, self._identity, context.batch_size)]
        images = iter(read_images(self._source, np.concatenate([rows for _, rows in batches]) if batches else [], context.resolution))
        for part, _ in batches:
            stacked = np.stack([next(images)[0] for _ in part])
            yield FaceBatch(torch.from_numpy(stacked).permute(0, 3, 1, 2), torch.tensor([slot.identity for slot in part]))

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
    def _rows(self) -> np.ndarray:
        return chosen_rows(self._source, self.config.sample.exclude)

    @functools.cached_property
    def _identity(self) -> np.ndarray:
        """(N,) dense identity of each of `_rows`."""
        return np.unique(self._source.label[self._rows], return_inverse=True)[1]
