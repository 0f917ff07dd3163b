"""People of the embedded world as a generator: the easiest opponent, and a check of the whole chain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from pydantic import Field

from synthbench.config import Settings
from synthbench.plugin import Context, Generator, Traits
from synthbench.types import FaceBatch, Groups, Slot, Volume
from synthbench.world import attributes, renderer


class Sample(Settings):
    difficulty: float = Field(
        1.0, ge=0, le=2, description="factor on the spread of pose, light, expression and age; 1: as in the training set"
    )


class Config(Settings):
    sample: Sample = Sample()


class Procedural(Generator[Config]):
    """New people drawn from the distribution of the world itself; nothing is learnt, so this is what a perfect generator would make."""

    Config = Config
    traits = Traits(licence="MIT", new_identities=True, finite=False)

    def known(self, volume: Volume, context: Context) -> Mapping[str, Groups]:
        identity, sample = torch.tensor(self.slots(volume, context)).unbind(1)
        scene = renderer.nuisance("generator", identity, sample, context.seed, difficulty=self.config.sample.difficulty)
        return attributes.groups(renderer.people_of("generator", identity, context.seed), scene)

    def generate(self, slots: Sequence[Slot], context: Context) -> Iterator[FaceBatch]:
        for start in range(0, len(slots), 256):
            identity, sample = torch.tensor(slots[start : start + 256]).unbind(1)
            images = renderer.faces(
                "generator", identity, sample, context.resolution, context.seed, difficulty=self.config.sample.difficulty
            )
            yield FaceBatch(images, identity)
