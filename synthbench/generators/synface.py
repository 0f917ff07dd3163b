"""SynFace: Face Recognition with Synthetic Data (Qiu, Yu, Gong, Li, Liu, Tao, ICCV 2021), "SynFace-style (no 3DMM)".

arXiv 2108.07960. A GAN whose codes are split into identity and everything else paints new people, and identities are mixed: an image is
painted from phi a_1 + (1 - phi) a_2, the identity codes of two people, and has the label phi of the first and 1 - phi of the second.

The paper's GAN is DiscoFaceGAN (arXiv 2004.11660), whose identity code is that of a 3D morphable model, kept by a loss that compares a
painted face with the rendering of its code through a face recognition network. There is no morphable model here: the identity code are
the principal components of the encoder's embeddings of the real set, whitened, and the same loss compares a painted face with the
embedding that its code stands for. Networks and losses of the GAN are in models/gan.py, the steps in adversarial.py. Domain mixup, which
mixes real photographs into the training of the recognizer, belongs to a recipe and is not here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from synthbench.config import Settings
from synthbench.diffusion import process
from synthbench.identities import sampling
from synthbench.models import gan
from synthbench.models.encoder import CODES, frozen, raw_codes
from synthbench.plugin import Context, Generator, Traits
from synthbench.seeds import derive, torch_generator
from synthbench.training import adversarial, loop
from synthbench.types import FaceBatch, Slot, UserError

GRID = 20  # phi is a multiple of 1 / 20
REACH = 32  # a partner is one of so many identities before: it must be there in every volume that has the identity
MANY = 4096  # codes whose mean w is the centre of truncation

# ---------------------------------------------------------------------------------------------------------------- config


class Train(adversarial.Adversarial, loop.Unlabelled):
    identity: int = Field(160, ge=1, description="numbers of the identity code (DiscoFaceGAN: 160 coefficients)")
    attributes: int = Field(126, ge=1, description="numbers of the other code (expression 64, light 27, pose 3, free noise 32)")
    identity_weight: float = Field(3.0, ge=0, description="of the identity loss")
    identity_floor: float = Field(0.3, ge=0, le=2, description="cosine distance below which the identity loss asks for no more")

    r1: float = Field(10.0, ge=0, description="gamma of R1 (DiscoFaceGAN)")
    path_length: float = Field(0.0, ge=0, description="weight of the path length penalty; StyleGAN, the base of DiscoFaceGAN, has none")
    style_mixing: float = Field(0.0, ge=0, le=1, description="share of the images painted from two attribute codes")


class Sample(Settings):
    mixed: float = Field(1.0, ge=0, le=1, description="share of the images whose identity is mixed with another; 0: no identity mixup")
    truncation: float = Field(0.7, ge=0, le=1, description="w is drawn towards the mean by this, in the first layers; 1: not")
    truncated_layers: int = Field(8, ge=0, description="how many")


class Config(Settings):
    train: Train = Train()
    sample: Sample = Sample()


# --------------------------------------------------------------------------------------------------------- identity codes


class Basis(nn.Module):
    """Identity codes (B, K), N(0, I) over the real set, and the unit embeddings (B, dim) that they stand for: whitened PCA."""

    mean: Tensor
    axes: Tensor

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("axes", torch.zeros(width, dim))  # rows as long as the deviation along them

    def fit(self, embeddings: Tensor) -> None:
        """From unit embeddings (N, dim), N > K."""
        self.mean.copy_(embeddings.mean(0))
        value, vector = torch.linalg.eigh(torch.cov(embeddings.T.cpu().double()))
        width = len(self.axes)
        self.axes.copy_((vector[:, -width:] * value[-width:].clamp(min=0).sqrt()).T.flip(0))

    def forward(self, code: Tensor) -> Tensor:
        return F.normalize(self.mean + code @ self.axes, dim=1)


def identity_loss(embedding: Tensor, wanted: Tensor, floor: float) -> Tensor:
    """DiscoFaceGAN's: the cosine distance, where it is above `floor`; (B, dim) both, answers a scalar."""
    distance = 1 - (F.normalize(embedding.float(), dim=1) * wanted).sum(1)
    return distance.clamp(min=floor).mean()


# ----------------------------------------------------------------------------------------------------------------- mixup


class Mix(NamedTuple):
    """Which two identities an image shows, and the share phi of the first."""

    second: int
    share: float


def mix(slot: Slot, mixed: float, seed: int) -> Mix:
    """The soft label of a slot: phi on the grid 0, 0.05, ..., 1, the other identity among the REACH before. Not mixed: itself and 1.

    The paper takes any other identity. Here a slot must mean the same in every volume, so its partner is a smaller number; identity 0 has
    none and is never mixed.
    """
    stream = torch_generator(seed, "mix", *slot)
    chance = float(torch.rand((), generator=stream))
    steps = int(torch.randint(GRID + 1, (), generator=stream))
    back = 1 + int(torch.randint(max(1, min(REACH, slot.identity)), (), generator=stream))
    if slot.identity == 0 or chance >= mixed or steps == GRID:
        return Mix(slot.identity, 1.0)
    return Mix(slot.identity - back, steps / GRID)


def identity_code(identity: int, width: int, seed: int) -> Tensor:
    """(K,) a new person: a draw of the codes' distribution."""
    return torch.randn(width, generator=torch_generator(seed, "identity", identity))


# ------------------------------------------------------------------------------------------------------------- generator


class SynFace(Generator[Config]):
    """SynFace-style (no 3DMM): a GAN with separate identity and attribute codes, identities mixed, soft labels."""

    Config = Config
    version = 2  # 2: enlarging as in StyleGAN2 at the edge too
    traits = Traits(
        paper="SynFace: Face Recognition with Synthetic Data, arXiv 2108.07960 (its GAN: DiscoFaceGAN, arXiv 2004.11660)",
        licence="an independent implementation; the code of SynFace and of DiscoFaceGAN is not used",
        trains=True,
        undivided=adversarial.UNDIVIDED,
        pretrained="the protocol's encoder, in place of the morphable model and of the paper's face recognition network",
    )
    tiny = {
        "train": {
            "steps": 6, "batch_size": 8, "identity": 6, "attributes": 4,
            "shape": {"channel_base": 128, "channel_max": 16, "latent": 16, "label_layers": 1},
        },
        "sample": {"mixed": 0.7},
    }  # fmt: skip

    def networks(self, resolution: int, dim: int) -> dict[str, tuple[nn.Module, tuple[Any, ...]]]:
        settings = self.config.train
        painter, critic = build(settings, resolution)
        side = gan.side_for(resolution)
        code = torch.empty(1, settings.identity + settings.attributes)
        return {
            "generator": (painter, (code, torch.empty(1, painter.noise_size))),
            "discriminator": (critic, (torch.empty(1, 3, side, side),)),
        }

    def train(self, context: Context) -> None:
        train(self.config.train, context)

    def generate(self, slots: Sequence[Slot], context: Context) -> Iterator[FaceBatch]:
        """Columns: sample, label2 (the identity mixed in), weight (share of the first identity; 1: not mixed)."""
        settings, sample = self.config.train, self.config.sample
        painter, _ = build(settings, context.resolution)
        frozen(painter, context.inputs["train"] / "weights.safetensors", context.device)
        centre = mean_style(painter, settings, context)

        def make(some: list[Slot]) -> tuple[Tensor, dict[str, Tensor]]:
            mixes = [mix(slot, sample.mixed, context.seed) for slot in some]
            codes = []
            for slot, (second, share) in zip(some, mixes):
                one, two = (identity_code(identity, settings.identity, context.seed) for identity in (slot.identity, second))
                codes.append(share * one + (1 - share) * two)
            streams = [torch_generator(context.seed, "image", *slot) for slot in some]
            others, noise = (
                torch.stack([torch.randn(width, generator=stream) for stream in streams])
                for width in (settings.attributes, painter.noise_size)
            )
            z = torch.cat([torch.stack(codes), others], 1).to(context.device)
            with torch.inference_mode():
                w = painter.styles(z)
                near = torch.arange(painter.layers, device=w.device) < sample.truncated_layers
                w = torch.where(near[:, None], centre + sample.truncation * (w - centre), w)
                images = painter.paint(w, noise.to(context.device))
            columns = {
                "label2": torch.tensor([item.second for item in mixes]),
                "weight": torch.tensor([item.share for item in mixes]),
            }
            return process.to_uint8(gan.fit(images, context.resolution)), columns

        yield from sampling.generate(make, slots, context, ("label2", "weight"))


def mean_style(painter: gan.Painter, settings: Train, context: Context) -> Tensor:
    """(latent,) the mean w."""
    codes = torch.randn(MANY, settings.identity + settings.attributes, generator=torch_generator(0, "mean style"))
    with torch.inference_mode():
        return painter.mapping(codes.to(context.device)).mean(0)


# -------------------------------------------------------------------------------------------------------------- training


def build(settings: Train, resolution: int) -> tuple[gan.Painter, gan.Critic]:
    side = gan.side_for(resolution)
    return gan.Painter(settings.shape, side, settings.identity + settings.attributes), gan.Critic(settings.shape, side)


def train(settings: Train, context: Context) -> None:
    """Writes weights.safetensors (the averaged generator) and metrics.jsonl into context.out; resumes. Raises UserError, see `fitted`."""
    weights = context.out / "weights.safetensors"
    if loop.finished(weights, CODES):
        return
    faces, encoder = context.faces, context.encoder
    basis = fitted(settings, context)
    torch.manual_seed(derive(context.seed, "weights"))
    painter, critic = build(settings, context.resolution)
    rivals = adversarial.Rivals(painter, critic, settings, context.device)
    side, width = gan.side_for(context.resolution), settings.identity

    def update(step: loop.Step) -> loop.Losses:
        batch = adversarial.draw(faces, step, painter, side, width + settings.attributes, settings)
        batch.other[:, :width] = batch.z[:, :width]  # style mixing mixes attributes
        return rivals.update(batch, step, keep)

    def keep(images: Tensor, batch: adversarial.Batch) -> loop.Losses:
        """The painted face is the person of its identity code, whatever the other code is."""
        if not settings.identity_weight:
            return {}
        loss = identity_loss(encoder(gan.fit(images, context.resolution)), basis(batch.z[:, :width]), settings.identity_floor)
        return {"identity_loss": settings.identity_weight * loss}

    loop.run(update, rivals.state, settings, len(faces), context, "SynFace")
    loop.finish(rivals.generator.average.model, weights, CODES)


def fitted(settings: Train, context: Context) -> Basis:
    """The identity codes of the real set. Raises UserError for an encoder without gradients, or too narrow, and for too few faces."""
    faces, encoder, width = context.faces, context.encoder, settings.identity
    encoder.need_gradients("SynFace")
    if width > encoder.dim:
        raise UserError(
            f"train.identity is {width}, but an embedding by {encoder.name} has {encoder.dim} numbers: the code of an identity is made of "
            f"its principal components. Set train.identity={encoder.dim} or less, or take a wider encoder"
        )
    if len(faces) <= width:
        raise UserError(f"{len(faces)} faces have no {width} principal components; give more faces or set train.identity lower")
    codes = raw_codes(encoder, faces, settings.flip, context.out / CODES, context.progress)
    basis = Basis(encoder.dim, width)
    basis.fit(F.normalize(codes.flatten(0, 1), dim=1))
    return basis.to(context.device)
