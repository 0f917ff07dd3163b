"""A third-party generator in one file: eigenfaces (Turk and Pentland, 1991). Copy it and put your own in its place.

    synthbench test examples/my_generator.py                            does it keep the contract?
    synthbench run examples/my_generator.py --set sample.variation=0.2  how good are recognizers trained on it?

A face is the mean face plus a weighted sum of components. An identity is one draw of weights; its images lie around that draw.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file

from synthbench.config import Settings
from synthbench.plugin import Context, Generator, Traits
from synthbench.seeds import torch_generator
from synthbench.types import FaceBatch, Slot


class Train(Settings):  # changing one of these trains again
    faces: int = Field(1000, ge=2, description="real faces that are looked at, evenly chosen")
    components: int = Field(80, ge=1, description="fewer when there are fewer faces")


class Sample(Settings):  # changing one of these only generates again
    variation: float = Field(0.3, ge=0, le=1, description="share of an image's variance that is its own, not its identity's")


class Config(Settings):  # the names of the parts are fixed: train, enroll, sample
    train: Train = Train()
    sample: Sample = Sample()


class Eigenfaces(Generator[Config]):
    """Faces as weighted sums of principal components; the simplest generator that learns from the real set."""

    Config = Config  # the class of `self.config`
    version = 1  # raise it when the same settings give other images: keys change, and nothing old is taken for new
    traits = Traits(paper="Turk and Pentland 1991", licence="MIT", trains=True)  # trains: there is a train stage
    tiny = {"train": {"faces": 32, "components": 8}}  # what `synthbench test` uses; here even the defaults would do

    def train(self, context: Context) -> None:
        rows = torch.linspace(0, len(context.faces) - 1, min(self.config.train.faces, len(context.faces))).long()
        parts = []
        for some in rows.split(256):  # a real set may be larger than memory: never read it whole
            parts.append(context.faces.images(some).flatten(1).float())  # (B, 3, R, R) uint8 -> (B, 3 R R)
            context.progress(sum(map(len, parts)), len(rows) + 1)  # so that a run can be watched and stopped
        x = torch.cat(parts)
        mean = x.mean(0)
        _, scale, components = torch.linalg.svd(x - mean, full_matrices=False)  # scale / sqrt(N): standard deviations
        kept = min(self.config.train.components, len(rows) - 1)
        basis = components[:kept].T * scale[:kept] / len(rows) ** 0.5  # (3 R R, K): weights are standard normal
        path = context.out / "weights.safetensors"  # write here and nowhere else
        save_file({"mean": mean, "basis": basis.contiguous()}, f"{path}.tmp")
        os.replace(f"{path}.tmp", path)  # whole, or not there: a stage that is killed is run again on the same folder
        context.progress(len(rows) + 1, len(rows) + 1)

    def generate(self, slots: Sequence[Slot], context: Context) -> Iterator[FaceBatch]:
        weights = load_file(context.inputs["train"] / "weights.safetensors")
        mean, basis, shape = weights["mean"], weights["basis"], (3, context.resolution, context.resolution)
        share = self.config.sample.variation
        for start in range(0, len(slots), context.batch_size):  # batches of any size, in the order of the slots
            batch, images = slots[start : start + context.batch_size], []
            for slot in batch:
                # Every stream is named after what it is for, so an image depends on the seed and its slot, not on its neighbours.
                person = torch.randn(basis.shape[1], generator=torch_generator(context.seed, "identity", slot.identity))
                own = torch.randn(basis.shape[1], generator=torch_generator(context.seed, "image", slot.identity, slot.sample))
                code = (1 - share) ** 0.5 * person + share**0.5 * own
                images.append((mean + basis @ code).round().clamp(0, 255).to(torch.uint8).view(shape))  # one by one: no batch, no rounding
            yield FaceBatch(torch.stack(images), torch.tensor([slot.identity for slot in batch]))
