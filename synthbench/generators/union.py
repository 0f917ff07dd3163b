"""Several sets as one: real and synthetic images mixed, or synthetic sets fused.

What is asked in DigiFace-1M (arXiv 2210.02579: real images added to synthetic ones), AugGen (arXiv 2503.11544: synthetic ones added to
real ones) and in the fusion of two synthetic sets (arXiv 2507.16790). A part is trained, enrolled and generated as if it were run alone,
and shared with the run that does so; here its images are only read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from synthbench import console
from synthbench.config import Settings
from synthbench.identities.selection import Selection, turns
from synthbench.plugin import Context, Generator, Traits
from synthbench.types import FaceBatch, Slot, UserError, Volume


class Sample(Settings):
    parts: tuple[str, ...] = Field(
        (), description="generators, runs, registered sets or paths; with @VOLUME, and settings behind: [real@100x20, 'cemiface m=0']"
    )
    identities: Literal["apart", "joined"] = Field(
        "apart", description="joined: people of different parts who have one name are one person"
    )


class Config(Settings):
    sample: Sample = Sample()


class Union(Generator[Config]):
    """Several sets as one: real and synthetic, or synthetic ones of several generators."""

    Config = Config
    traits = Traits(
        paper="mixed sets as in DigiFace-1M, arXiv 2210.02579, and AugGen, arXiv 2503.11544",
        licence="that of its parts",
        real_photographs="those of its parts",
        finite=True,
    )
    tiny = {"sample": {"parts": ["real", "procedural"]}}

    def parts(self) -> Sequence[str]:
        return self.config.sample.parts

    def check(self, volume: Volume, people: int | None) -> None:
        named = self.config.sample.parts
        if len(named) < 2:
            raise UserError("say which sets, two or more: --set 'sample.parts=[real, cemiface]'; or in a name, real+cemiface")
        if twice := [text for text in named if named.count(text) > 1]:
            raise UserError(f"sample.parts names {twice[0]!r} twice; its images would be two people's")

    def names(self, context: Context) -> Sequence[str]:
        called, people = self._people(context)
        return [called[person] for person in np.unique(people, return_index=True)[1]]

    def slots(self, volume: Volume, context: Context) -> list[Slot]:
        """People take turns, each part as its share allows, so that a smaller volume has the same shares."""
        return self._selection(context).slots(volume, "the parts together")

    def generate(self, slots: Sequence[Slot], context: Context) -> Iterator[FaceBatch]:
        yield from self._selection(context).batches(slots, context.batch_size)

    def _selection(self, context: Context) -> Selection:
        sizes = [faces.identities for faces in context.parts]
        return Selection(context.parts, np.split(self._people(context)[1], np.cumsum(sizes)[:-1]))

    def _people(self, context: Context) -> tuple[list[str], np.ndarray]:
        """Of the people of all parts, one part after the other: what they are called, and who they become."""
        part = np.repeat(np.arange(len(context.parts)), [faces.identities for faces in context.parts])
        called = [name for faces in context.parts for name in faces.names]
        joined = self.config.sample.identities == "joined"
        number: dict[object, int] = {}
        people = np.empty(len(part), np.int64)
        for person in np.lexsort((part, turns(np.zeros_like(part), part))):
            people[person] = number.setdefault(called[person] if joined else person, len(number))
        if joined and len(number) == len(part):
            console.once(console.warn, "sample.identities joined: no two parts have a person of one name, so all stay apart")
        return called, people
