"""IDiff-Face: Synthetic-based Face Recognition through Fizzy Identity-Conditioned Diffusion Models (Boutros et al., ICCV 2023).

arXiv 2308.04995. A latent diffusion model is told an identity, the unit embedding of a face. Partial dropout of the projected components
of that embedding (CPD) keeps it from painting one face only per identity. New identities are random directions, or the embeddings of
faces that do not exist (two-stage). No labels. Samplers on top, all off by default: classifier-free guidance with a learnt empty context
(UIFace, ICLR 2025), a push away from another identity (NegFaceDiff, ICCVW 2025) whose weight may change linearly on the way (NegFaceDiff's
ramps; AdaptDiff, arXiv 2603.29569, changes it too, by a rule we do not know), and IDperturb (arXiv 2602.18831), or in its place a learnt
perturbation (identities/flow.py). Left out: UIFace's two stages of sampling with injected attention, and of NegFaceDiff's the median and
farthest identities.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from synthbench.config import Settings
from synthbench.device import autocast, send
from synthbench.diffusion import autoencoder, denoising, heed, process
from synthbench.diffusion.autoencoder import Autoencoder
from synthbench.diffusion.autoencoder import Train as AutoencoderTrain
from synthbench.identities import flow, hypersphere, inquiries, sampling, unconditional
from synthbench.identities.unconditional import Train as UnconditionalTrain
from synthbench.models.context_unet import ContextUNet, Shape
from synthbench.models.encoder import CODES, frozen, raw_codes
from synthbench.plugin import Context, Traits
from synthbench.seeds import derive
from synthbench.training import loop
from synthbench.types import FaceBatch, Slot, UserError

FOLDER = "autoencoder"  # in the folder of the train stage

# ---------------------------------------------------------------------------------------------------------------- config


class Train(denoising.Train, loop.Unlabelled):
    autoencoder: AutoencoderTrain = AutoencoderTrain()
    pixels: int = Field(128, ge=0, description="side of the images that are encoded; 0: the protocol's resolution")
    unet: Shape = Shape()
    cpd: float = Field(0.25, ge=0, lt=1, description="share of the context's components that are dropped in training (CPD25, CPD50)")
    empty: float = Field(
        0.0, ge=0, lt=1, description="share of images trained with the learnt empty context, for sample.guidance (UIFace: 0.2)"
    )
    steps: int = Field(150_000, ge=0, description="0: epochs x images / batch_size")
    batch_size: int = Field(512, ge=1)
    lr_schedule: loop.LrSchedule = "restarts"
    weight_decay: float = Field(0.0, ge=0)
    unconditional: UnconditionalTrain | None = Field(None, description="the first of two stages: a model of faces; null: none")


class Enroll(inquiries.NewPeople):
    source: str = Field("uniform", description="uniform: directions on the hypersphere | unconditional | world | real | a source | a path")
    threshold: float = Field(1.0, ge=-1, le=1, description="highest cosine between two identities; the paper has no limit")


class Sample(denoising.Sample):
    late = ("guidance_ramp", "directions")

    steps: int = Field(1000, ge=1, description="1000 with eta 1: ancestral sampling; ADMIS, UIFace and IDperturb take 50")
    guidance: float = Field(0.0, ge=0, description="w of classifier-free guidance, (1 + w) conditional - w other")
    against: Literal["empty", "nearest", "random"] = Field(
        "empty", description="other: the empty context, or the nearest or a random identity enrolled before (NegFaceDiff)"
    )
    guidance_ramp: Literal["none", "early", "late"] = Field(
        "none",
        description="w on the way from noise to image: the same; from w down to 0 (early); from 0 up to w (late)",
    )
    perturb: float = hypersphere.BOUND
    directions: hypersphere.Directions = hypersphere.DIRECTIONS
    copies: int = Field(0, ge=0, description="copies of the inquiry added to every identity (ADMIS: 5), where there are inquiries")


class Config(Settings):
    train: Train = Train()
    enroll: Enroll = Enroll()
    sample: Sample = Sample()

    @model_validator(mode="after")
    def _fit(self) -> Config:
        train, sample = self.train, self.sample
        denoising.refuse_steps(sample, train)
        if sample.guidance and sample.against == "empty" and not train.empty:
            raise ValueError("sample.guidance against the empty context needs one that was learnt: set train.empty=0.2")
        hypersphere.lowest(sample.perturb, self.enroll.threshold, sample.directions)
        if sample.copies and self.enroll.source == "uniform":
            raise ValueError("sample.copies needs inquiries to copy, and enroll.source uniform has none")
        inquiries.refuse_model(self.enroll, train.unconditional)
        return self


# --------------------------------------------------------------------------------------------------------------- network


class Denoiser(nn.Module):
    """The UNet of latents, with the projection of the embedding to components before it."""

    def __init__(self, train: Train, side: int, dim: int) -> None:
        super().__init__()
        self.cpd = train.cpd
        self.project = nn.Linear(dim, train.unet.components)  # as it is made by default: components are small until the tokens' GroupNorm
        self.empty = nn.Parameter(torch.randn(train.unet.components)) if train.empty else None
        self.unet = ContextUNet(train.unet, side, train.autoencoder.latents)

    def context(self, code: Tensor, absent: Tensor | None = None, drop: Tensor | None = None) -> Tensor:
        """Components (B, components) of embeddings (B, dim) of any length.

        In training only: absent (B,) bool replaces the context by the empty one, and drop (B, components), uniform in [0, 1), decides which
        components are dropped (CPD); the others grow, so that the mean stays.
        """
        components = self.project(F.normalize(code, dim=1))
        if absent is not None and self.empty is not None:
            components = torch.where(absent[:, None], self.empty, components)
        if drop is not None:
            components = components * (drop >= self.cpd) / (1 - self.cpd)
        return components

    def forward(self, z: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return self.unet(z, t, context)


# ------------------------------------------------------------------------------------------------------------- generator


class IDiffFace(inquiries.ByInquiry[Config]):
    """Faces of an identity vector: latent diffusion with partial dropout of the context; IDperturb and guidance as options."""

    Config = Config
    version = 2  # 2: the projection starts as in the authors' code
    traits = Traits(
        paper="IDiff-Face: Synthetic-based Face Recognition through Fizzy Identity-Conditioned Diffusion Models, arXiv 2308.04995",
        licence="the authors' code is CC BY-NC-SA 4.0; this is an independent implementation",
        trains=True,
        enrolls=True,
        real_photographs="the inquiry of each identity, `sample.copies` times (column `real`), when inquiries are photographs",
        pretrained="the protocol's encoder; the autoencoder is trained here, without the LPIPS and discriminator of the paper's",
    )
    tiny = {
        "train": {
            "steps": 4,
            "batch_size": 8,
            "pixels": 0,
            "autoencoder": {"steps": 4, "batch_size": 8, "channels": [8, 16], "layers": 1, "groups": 4},
            "unet": {"channels": 8, "multipliers": [1, 2], "layers": 1, "attention_levels": [1], "head_width": 8, "groups": 4,
                     "components": 16, "tokens": 8},
        },
        "enroll": {"threshold": 1.0},
        "sample": {"steps": 2},
    }  # fmt: skip

    def sources(self, resolution: int) -> dict[str, str]:
        return {} if self.config.enroll.source == "uniform" else super().sources(resolution)

    def networks(self, resolution: int, dim: int) -> dict[str, tuple[nn.Module, tuple[Any, ...]]]:
        train, pixels = self.config.train, self.config.train.pixels or resolution
        painter = Autoencoder(train.autoencoder)
        denoiser = Denoiser(train, pixels // painter.factor, dim)
        latents = torch.empty(1, train.autoencoder.latents, *[pixels // painter.factor] * 2)
        return {
            "denoiser": (denoiser, (latents, torch.empty(1), denoiser.context(torch.empty(1, dim)))),
            "autoencoder": (painter, (torch.empty(1, 3, pixels, pixels),)),
        }

    def train(self, context: Context) -> None:
        train(self.config.train, context)

    def enroll(self, count: int, context: Context) -> None:
        settings = self.config.enroll
        if settings.source == "uniform":
            hypersphere.enroll(count, settings.threshold, settings.tries, context)
        else:
            super().enroll(count, context)

    def generate(self, slots: Sequence[Slot], context: Context) -> Iterator[FaceBatch]:
        """Columns: sample, similarity (cosine to the identity under the encoder); with inquiries real."""
        settings, sample = self.config.train, self.config.sample
        known = inquiries.load(context.inputs["enroll"])
        encoder, device, folder = context.encoder, context.device, context.inputs["train"]
        painter = autoencoder.load(settings.autoencoder, folder / FOLDER, device)
        side = (settings.pixels or context.resolution) // painter.factor
        denoiser = frozen(Denoiser(settings, side, encoder.dim), folder / "weights.safetensors", device)
        lowest = hypersphere.lowest(sample.perturb, self.config.enroll.threshold, sample.directions)
        turned = flow.turning(sample.directions, lowest, encoder, context)

        def make(some: list[Slot]) -> tuple[Tensor, dict[str, Tensor]]:
            own = known.codes[[slot.identity for slot in some]]
            told = turned(own, some)
            noise = sampling.noise(some, (settings.autoencoder.latents, side, side), context)
            with torch.inference_mode(), autocast(device, sample.precision):
                towards = contexts(denoiser, told.to(device))
                away = opposite(denoiser, sample, known.codes, some, context) if sample.guidance else None

                def network(z: Tensor, t: Tensor) -> Tensor:
                    output = denoiser(z, t, towards).float()
                    if away is None:
                        return output
                    return process.guided(output, denoiser(z, t, away).float(), weight(sample, t, settings.T))

                z = denoising.painted(network, noise, settings, sample, clip_x0=False)
                images = process.to_uint8(autoencoder.resized(painter.decode(z).float(), context.resolution))
                return images, {"similarity": sampling.similarity(encoder, images, own)}

        yield from sampling.generate(make, slots, context, ("similarity",), known.faces, self.config.enroll.photographs)


def weight(sample: Sample, t: Tensor, steps: int) -> float | Tensor:
    """w of guidance at `t` (B,), from 0 for the image to `steps` - 1 for noise: linear in t where it has a ramp."""
    if sample.guidance_ramp == "none":
        return sample.guidance
    share = t.view(-1, 1, 1, 1).float() / (steps - 1)
    return sample.guidance * (share if sample.guidance_ramp == "early" else 1 - share)


def opposite(denoiser: Denoiser, sample: Sample, codes: Tensor, slots: list[Slot], context: Context) -> Tensor:
    """What guidance pushes away from: components (B, components). Only identities before one's own count, as these never change."""
    device = context.device
    if sample.against == "empty":
        assert denoiser.empty is not None  # Config sees to it
        return denoiser.empty.expand(len(slots), -1)
    if len(codes) < 2:
        raise UserError(f"sample.against {sample.against} needs at least two identities")
    unit = F.normalize(codes, dim=1)

    def other(identity: int) -> int:
        if identity == 0:
            return 1
        if sample.against == "random":
            return derive(context.seed, "against", identity) % identity
        return int((unit[:identity] @ unit[identity]).argmax())

    return contexts(denoiser, codes[[other(slot.identity) for slot in slots]].to(device))


def contexts(denoiser: Denoiser, codes: Tensor) -> Tensor:
    """`denoiser.context` of each row by itself: the last bits of a small matrix product depend on where in it a row stands."""
    return torch.cat([denoiser.context(code[None]) for code in codes])


# -------------------------------------------------------------------------------------------------------------- training


def train(settings: Train, context: Context) -> None:
    """The autoencoder, then the denoiser of its latents. Writes weights.safetensors, autoencoder/ and metrics.jsonl; resumes."""
    weights = context.out / "weights.safetensors"
    if loop.finished(weights, CODES):
        return
    faces, encoder, device = context.faces, context.encoder, context.device
    pixels = settings.pixels or context.resolution
    side = pixels // 2 ** (len(settings.autoencoder.channels) - 1)
    with torch.device("meta"):  # a side that cannot be halved is refused before anything is trained
        Denoiser(settings, side, encoder.dim)
    autoencoder.train(settings.autoencoder, pixels, context, context.out / FOLDER)
    if settings.unconditional is not None:
        unconditional.train(settings.unconditional, context)
    painter = autoencoder.load(settings.autoencoder, context.out / FOLDER, device)
    people = denoising.people(faces.identity, settings.held_out, context.seed)
    codes = raw_codes(encoder, faces, settings.flip, context.out / CODES, context.progress)
    torch.manual_seed(derive(context.seed, "weights"))
    denoiser = Denoiser(settings, side, encoder.dim).eval()  # nothing in it depends on the mode: what is dropped comes with the batch

    def batch(step: loop.Step) -> Batch:
        rows, size, draw = people.learnt[step.rows], len(step.rows), step.draw
        mirror = loop.mirror(size, settings.flip, draw)
        drawn = denoising.drawn(settings, size, (settings.autoencoder.latents, side, side), draw)
        absent = torch.rand(size, generator=draw) < settings.empty
        drop = torch.rand(size, settings.unet.components, generator=draw)
        x = loop.mirrored(autoencoder.fitted(send(faces.images(rows), device), pixels), mirror)
        code = codes[mirror.long(), torch.from_numpy(rows)]
        return Batch(x, code, *drawn, absent, drop)

    def loss(part: Batch) -> loop.Losses:
        return objective(denoiser, painter, part, settings)

    def show(rows: np.ndarray) -> heed.Shown:
        with torch.no_grad():
            z = painter.encode(autoencoder.fitted(send(faces.images(rows), device), pixels))
        return heed.Shown(z, send(codes[0, torch.from_numpy(rows)], device))

    def restored(network: nn.Module, z: Tensor, t: Tensor, shown: heed.Shown) -> Tensor:
        return network(z, t, network.context(shown.told))  # type: ignore[operator]

    heeding = heed.Heed(people, show, restored, settings, context.seed)
    average = loop.fit(denoiser, batch, loss, settings, len(people.learnt), context, "IDiff-Face", watch=heeding)
    heeding.tell("IDiff-Face")
    loop.finish(average, weights, CODES)


class Batch(NamedTuple):
    """What one step sees. x (B, 3, P, P); code (B, dim); t, abar, absent (B,); noise like the latents; drop (B, components)."""

    x: Tensor
    code: Tensor
    t: Tensor
    abar: Tensor
    noise: Tensor
    absent: Tensor
    drop: Tensor


def objective(denoiser: Denoiser, painter: Autoencoder, batch: Batch, settings: Train) -> dict[str, Tensor]:
    """The weighted squared error of what the network predicts about the latents."""
    x, code, t, abar, noise, absent, drop = batch
    with torch.no_grad():
        z = painter.encode(x)
    z_t = process.add_noise(z, noise, abar)
    output = denoiser(z_t, t, denoiser.context(code, absent, drop)).float()
    return {"loss": denoising.squared_error(output, z, noise, abar, settings)}
