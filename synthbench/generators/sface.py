"""SFace: Privacy-friendly and Accurate Face Recognition using Synthetic Data (Boutros, Huber, Siebke, Rieber, Damer, IJCB 2022).

arXiv 2206.10520. A class-conditional StyleGAN2-ADA learns the identities of a labelled set; a synthetic person is a real label, painted
from fresh codes. Nobody new is made: the identities are those of the real set, which is why leakage must be read with care. Networks and
losses are in models/gan.py, the steps in adversarial.py. "SFace-style": without the adaptive augmentation of what the discriminator sees,
and without the detector that aligns the painted faces, which are aligned as the real ones are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from synthbench.config import Settings
from synthbench.diffusion import process
from synthbench.identities import sampling
from synthbench.models import gan
from synthbench.models.encoder import frozen
from synthbench.plugin import Context, Generator, Traits
from synthbench.seeds import derive, torch_generator
from synthbench.training import adversarial, loop
from synthbench.types import FaceBatch, Slot, UserError, Volume

CASIA = 10_572  # identities of the set that the paper learns from; what `networks` is counted for

# ---------------------------------------------------------------------------------------------------------------- config


class Train(adversarial.Adversarial):
    code: int = Field(512, ge=1, description="width of z")


class Config(Settings):
    train: Train = Train()  # sampling has no setting: psi of the truncation trick is 1


# ------------------------------------------------------------------------------------------------------------- generator


class SFace(Generator[Config]):
    """SFace-style: the people of the real set painted anew by a class-conditional GAN (StyleGAN2 with label projection)."""

    Config = Config
    version = 2  # 2: enlarging as in StyleGAN2 at the edge too
    traits = Traits(
        paper="SFace: Privacy-friendly and Accurate Face Recognition using Synthetic Data, arXiv 2206.10520",
        licence="an independent implementation; StyleGAN2-ADA's code, which is not free for commerce, is not used",
        trains=True,
        undivided=adversarial.UNDIVIDED,
        encoder=False,
        needs_labels=True,
        new_identities=False,
    )
    tiny = {
        "train": {
            "steps": 6, "batch_size": 8, "code": 8, "path_length": 2.0, "style_mixing": 0.9,
            "shape": {"channel_base": 128, "channel_max": 16, "latent": 16, "label_layers": 1},
        }
    }  # fmt: skip

    def networks(self, resolution: int, dim: int) -> dict[str, tuple[nn.Module, tuple[Any, ...]]]:
        painter, critic = build(self.config.train, resolution, CASIA)
        label = torch.zeros(1, dtype=torch.int64)
        side = gan.side_for(resolution)
        return {
            "generator": (painter, (torch.empty(1, self.config.train.code), torch.empty(1, painter.noise_size), label)),
            "discriminator": (critic, (torch.empty(1, 3, side, side), label)),
        }

    def train(self, context: Context) -> None:
        train(self.config.train, context)

    def check(self, volume: Volume, people: int | None) -> None:
        if people is not None and volume.identities > people:
            raise UserError(
                f"SFace paints the people of its training set: volume {volume} asks for {volume.identities:,} identities, but the real set "
                f"has {people:,}. Ask for --volume {people}x{max(images for _, images in volume.blocks)} or less"
            )

    def names(self, context: Context) -> Sequence[str]:
        return context.faces.names

    def generate(self, slots: Sequence[Slot], context: Context) -> Iterator[FaceBatch]:
        """Columns: sample, real_identity (the label of the real set, which is the identity)."""
        settings = self.config.train
        painter, _ = build(settings, context.resolution, context.faces.identities)
        frozen(painter, context.inputs["train"] / "weights.safetensors", context.device)

        def make(some: list[Slot]) -> tuple[Tensor, dict[str, Tensor]]:
            label = torch.tensor([slot.identity for slot in some])
            streams = [torch_generator(context.seed, "image", *slot) for slot in some]
            z, noise = (
                torch.stack([torch.randn(width, generator=stream) for stream in streams]).to(context.device)
                for width in (settings.code, painter.noise_size)
            )
            with torch.inference_mode():
                images = painter(z, noise, label.to(context.device))
            return process.to_uint8(gan.fit(images, context.resolution)), {"real_identity": label}

        yield from sampling.generate(make, slots, context, ("real_identity",))


# -------------------------------------------------------------------------------------------------------------- training


def build(settings: Train, resolution: int, classes: int) -> tuple[gan.Painter, gan.Critic]:
    side = gan.side_for(resolution)
    return gan.Painter(settings.shape, side, settings.code, classes), gan.Critic(settings.shape, side, classes)


def train(settings: Train, context: Context) -> None:
    """Writes weights.safetensors (the averaged generator) and metrics.jsonl into context.out; resumes."""
    weights = context.out / "weights.safetensors"
    if loop.finished(weights):
        return
    faces = context.faces
    torch.manual_seed(derive(context.seed, "weights"))
    painter, critic = build(settings, context.resolution, faces.identities)
    rivals = adversarial.Rivals(painter, critic, settings, context.device)
    side = gan.side_for(context.resolution)

    def update(step: loop.Step) -> loop.Losses:
        return rivals.update(adversarial.draw(faces, step, painter, side, settings.code, settings), step)

    loop.run(update, rivals.state, settings, len(faces), context, "SFace")
    loop.finish(rivals.generator.average.model, weights)
