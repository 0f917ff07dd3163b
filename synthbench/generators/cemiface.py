"""CemiFace: Center-based Semi-hard Synthetic Face Generation for Face Recognition (Sun, Song, Patras, Tzimiropoulos, NeurIPS 2024).

arXiv 2409.18876; equation numbers are those of version 2, with version 1 in brackets where it differs. A diffusion model is told an
identity, the embedding of an inquiry image, and a similarity m. It learns to paint faces whose embedding has cosine m to the inquiry, so
that a training set can sit at a chosen distance from its class centres, neither too easy nor wrong. No labels and no image pairs: in
training every image is its own inquiry (Alg. 1). The paper leaves open points; each is a field of Train or Sample, marked "open".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from synthbench.config import Settings
from synthbench.device import autocast, send
from synthbench.diffusion import denoising, heed, process
from synthbench.identities import flow, hypersphere, inquiries, sampling
from synthbench.models.encoder import CODES, Encoder, frozen, raw_codes
from synthbench.models.unet import TINY, Shape, UNet
from synthbench.plugin import Context, Traits
from synthbench.seeds import derive
from synthbench.training import loop
from synthbench.types import FaceBatch, Slot

# ---------------------------------------------------------------------------------------------------------------- config


class Train(denoising.Train, loop.Unlabelled):
    unet: Shape = Shape()
    tokens: Literal["separate", "joined"] = Field("separate", description="open: cat(C_id, C_sim) as two tokens, or one of twice the width")
    embedding: Literal["unit", "raw"] = Field("unit", description="open: C_id with length 1, or as the encoder gives it (DCFace)")
    m_low: float = Field(-1.0, ge=-1, le=1, description="similarities seen in training, from")
    m_high: float = Field(1.0, ge=-1, le=1, description="to")
    m_interval: float = Field(0.04, ge=0, le=2, description="in steps of this; 0: any number between (the paper warns against it)")
    similarity_weight: float = Field(0.05, ge=0, description="lambda of Eq. 13 [12]")
    similarity_every: int = Field(1, ge=1, description="L_SimMat on every n-th image of a batch; on a CPU the encoder is the dearest part")
    similarity_noise: float = Field(
        0.0, ge=0, le=1, description="std of noise on what E_id sees in L_SimMat, against grain that only it sees"
    )
    distance: Literal["cosine", "euclidean"] = Field("cosine", description="similarity is the cosine, or 1 - the distance of unit vectors")
    norm: Literal["absolute", "squared", "batch"] = Field("absolute", description="open: |1 - cos|, its square, or the norm over the batch")
    clip_x0: bool = Field(True, description="open: clip the estimate of x_0 to [-1, 1] before the encoder (DCFace)")
    per_image: bool = Field(True, description="open: t and m for each image, or one for the batch")
    empty: float = Field(0.0, ge=0, lt=1, description="ours: share of images without an inquiry, for sample.guidance; the paper has none")

    @model_validator(mode="after")
    def _range(self) -> Train:
        if self.m_low > self.m_high:
            raise ValueError(f"m_low {self.m_low} is above m_high {self.m_high}")
        return self


class Interval(Settings):
    low: float
    high: float


class Sample(denoising.Sample):
    late = ("directions",)
    m: float | tuple[float, ...] | Interval = Field(0.0, description="similarity wanted: a number, a list taken in turn, or {low, high}")
    steps: int = Field(20, ge=1, description="DDIM steps")
    eta: float = Field(1.0, ge=0, le=1, description="open: 1 as in DCFace's code; 0 is deterministic")
    clip_x0: bool = True
    guidance: float = Field(0.0, ge=0, description="ours: w of classifier-free guidance, (1 + w) with the inquiry - w without")
    perturb: float = hypersphere.BOUND
    directions: hypersphere.Directions = hypersphere.DIRECTIONS
    copies: int = Field(
        5, ge=0, description="copies of the inquiry added to every identity (oversampling); column `real` is 1 where it is a photograph"
    )

    @field_validator("m")
    @classmethod
    def _within(cls, m: float | tuple[float, ...] | Interval) -> float | tuple[float, ...] | Interval:
        values = (m.low, m.high) if isinstance(m, Interval) else m if isinstance(m, tuple) else (m,)
        wrong = [value for value in values if not -1 <= value <= 1]
        if wrong:
            raise ValueError(f"m is a cosine similarity; {wrong[0]} is outside [-1, 1]")
        if not values or (isinstance(m, Interval) and m.low > m.high):
            raise ValueError("m must be a number, a list of at least one, or {low: a, high: b} with a <= b")
        return m


class Config(Settings):
    train: Train = Train()
    enroll: inquiries.Inquiries = inquiries.Inquiries()
    sample: Sample = Sample()

    @model_validator(mode="after")
    def _fit(self) -> Config:
        denoising.refuse_steps(self.sample, self.train)
        if self.sample.guidance and not self.train.empty:
            raise ValueError("sample.guidance needs a network that was also trained without inquiries: set train.empty=0.1")
        hypersphere.lowest(self.sample.perturb, self.enroll.threshold, self.sample.directions)
        return self


# --------------------------------------------------------------------------------------------------------------- network


class Denoiser(nn.Module):
    """The UNet with its two conditions: C_att = F2(cat(C_id, F1(m))), Eqs. 5-7. F2 is `unet.context`."""

    def __init__(self, train: Train, resolution: int, dim: int) -> None:
        super().__init__()
        self.tokens, self.embedding = train.tokens, train.embedding
        self.F1 = nn.Linear(1, dim)
        self.unet = UNet(train.unet, resolution, dim if train.tokens == "separate" else 2 * dim)

    def condition(self, code: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values from raw embeddings (B, dim) and similarities (B,): once per image, whatever the number of steps.

        A code of zeros is no inquiry.
        """
        identity = F.normalize(code, dim=1) if self.embedding == "unit" else code
        both = torch.stack([identity, self.F1(m[:, None])], dim=1)  # (B, 2, dim)
        return self.unet.condition(both if self.tokens == "separate" else both.flatten(1)[:, None])

    def forward(self, x: Tensor, t: Tensor, condition: tuple[Tensor, Tensor]) -> Tensor:
        return self.unet(x, t, condition)


# ------------------------------------------------------------------------------------------------------------------ loss


def similarity(a: Tensor, b: Tensor, distance: str) -> Tensor:
    """(B,) in [-1, 1] between embeddings (B, dim): the cosine, or 1 minus the Euclidean distance of the unit vectors (0..2)."""
    a, b = F.normalize(a.float(), dim=1), F.normalize(b.float(), dim=1)
    return (a * b).sum(1) if distance == "cosine" else 1 - (a - b).norm(dim=1)


def similarity_loss(reached: Tensor, m: Tensor, gamma: Tensor, norm: str = "absolute") -> Tensor:
    """L_SimMat = (1 - gamma_t) L_rec + gamma_t L_sim with gamma_t = t / T, Eqs. 9-12 [8-11]; all (B,), answers a scalar.

    L_rec = ||1 - cos||, L_sim = ||m - cos||: near t = 0 the identity is restored, near t = T the estimate sits at similarity m.
    """
    rec, sim = 1 - reached, m - reached
    if norm == "batch":
        return ((1 - gamma) * rec).norm() + (gamma * sim).norm()
    if norm == "squared":
        return ((1 - gamma) * rec.square() + gamma * sim.square()).mean()
    return ((1 - gamma) * rec.abs() + gamma * sim.abs()).mean()


# ------------------------------------------------------------------------------------------------------------- generator


class CemiFace(inquiries.ByInquiry[Config]):
    """Faces at a chosen similarity m to an inquiry: a conditional diffusion model, sampled with DDIM."""

    Config = Config
    version = 2  # 2: column `real` is 0 for rendered inquiries
    traits = Traits(
        paper="CemiFace: Center-based Semi-hard Synthetic Face Generation for Face Recognition, arXiv 2409.18876",
        licence="paper CC BY 4.0; this is an independent implementation",
        trains=True,
        enrolls=True,
        real_photographs="the inquiry of each identity, `sample.copies` times (column `real`), when inquiries are photographs",
        pretrained="the protocol's encoder",
    )
    tiny = {
        "train": {"steps": 6, "batch_size": 8, "unet": TINY},
        "enroll": {"threshold": 1.0},
        "sample": {"steps": 2, "copies": 1},
    }

    def networks(self, resolution: int, dim: int) -> dict[str, tuple[nn.Module, tuple[Any, ...]]]:
        denoiser = Denoiser(self.config.train, resolution, dim)
        condition = denoiser.condition(torch.empty(1, dim), torch.empty(1))
        return {"denoiser": (denoiser, (torch.empty(1, 3, resolution, resolution), torch.empty(1), condition))}

    def train(self, context: Context) -> None:
        train(self.config.train, context)

    def generate(self, slots: Sequence[Slot], context: Context) -> Iterator[FaceBatch]:
        """Columns: sample, m (requested; nan for copies), similarity (realised cosine to the inquiry under the encoder), real."""
        settings, sample = self.config.train, self.config.sample
        known = inquiries.load(context.inputs["enroll"])
        encoder = context.encoder
        denoiser = Denoiser(settings, context.resolution, encoder.dim)
        frozen(denoiser, context.inputs["train"] / "weights.safetensors", context.device)
        lowest = hypersphere.lowest(sample.perturb, self.config.enroll.threshold, sample.directions)
        turned = flow.turning(sample.directions, lowest, encoder, context)

        def make(some: list[Slot]) -> tuple[Tensor, dict[str, Tensor]]:
            wanted = torch.tensor([requested(sample.m, slot, context.seed) for slot in some])
            codes = known.codes[[slot.identity for slot in some]]
            told = turned(codes, some)
            noise = sampling.noise(some, (3, context.resolution, context.resolution), context)
            with torch.inference_mode(), autocast(context.device, sample.precision):
                condition = denoiser.condition(told.to(context.device), wanted.to(context.device))
                nobody = denoiser.condition(0 * told.to(context.device), wanted.to(context.device)) if sample.guidance else None

                def network(x: Tensor, t: Tensor) -> Tensor:
                    output = denoiser(x, t, condition).float()
                    return output if nobody is None else process.guided(output, denoiser(x, t, nobody).float(), sample.guidance)

                images = process.to_uint8(denoising.painted(network, noise, settings, sample, sample.clip_x0))
                return images, {"m": wanted, "similarity": sampling.similarity(encoder, images, codes)}

        yield from sampling.generate(make, slots, context, ("m", "similarity"), known.faces, self.config.enroll.photographs)


def requested(m: float | tuple[float, ...] | Interval, slot: Slot, seed: int) -> float:
    """The similarity asked for in a slot. Of a list: in turn. Of an interval: spread evenly over each identity's samples."""
    if isinstance(m, tuple):
        return m[slot.sample % len(m)]
    if isinstance(m, Interval):
        start = derive(seed, "m", slot.identity) / 2**63
        return m.low + (m.high - m.low) * ((start + slot.sample * 0.6180339887498949) % 1)  # golden ratio: any number of samples is even
    return m


# -------------------------------------------------------------------------------------------------------------- training


def train(settings: Train, context: Context) -> None:
    """Alg. 1. Writes weights.safetensors (the averaged weights, F1 and F2 included) and metrics.jsonl into context.out; resumes."""
    weights = context.out / "weights.safetensors"
    if loop.finished(weights, CODES):
        return
    faces, encoder, device = context.faces, context.encoder, context.device
    if settings.similarity_weight:
        encoder.need_gradients("CemiFace")
    codes = raw_codes(encoder, faces, settings.flip, context.out / CODES, context.progress)
    people, abar = denoising.people(faces.identity, settings.held_out, context.seed), settings.signal
    torch.manual_seed(derive(context.seed, "weights"))
    denoiser = Denoiser(settings, context.resolution, encoder.dim).eval()  # nothing in it depends on the mode

    def batch(step: loop.Step) -> Batch:
        rows, size, draw = people.learnt[step.rows], len(step.rows), step.draw
        x0, mirror = loop.pictures(faces, rows, settings.flip, draw, device)
        t = process.sample_times(size, settings.T, draw, settings.times)
        m = sample_m(size, settings, draw)
        if not settings.per_image:
            t, m = t[:1].expand(size), m[:1].expand(size)
        noise = torch.randn(size, 3, context.resolution, context.resolution, generator=draw)
        told = (torch.rand(size, generator=draw) >= settings.empty).float() if settings.empty else torch.ones(size)
        grain = torch.randn(noise.shape, generator=draw) * settings.similarity_noise if settings.similarity_noise else torch.zeros(size)
        return Batch(x0, codes[mirror.long(), torch.from_numpy(rows)], told, m, t, abar[t], noise, grain)

    def loss(part: Batch) -> loop.Losses:
        return objective(denoiser, encoder, part, settings)

    def show(rows: np.ndarray) -> heed.Shown:
        return heed.Shown(loop.plain(faces, rows, device), send(codes[0, torch.from_numpy(rows)], device))

    def restored(network: nn.Module, x: Tensor, t: Tensor, shown: heed.Shown) -> Tensor:
        return network(x, t, network.condition(shown.told, torch.full_like(shown.told[:, 0], settings.m_high)))  # type: ignore[operator]

    heeding, whole = heed.Heed(people, show, restored, settings, context.seed), settings.norm == "batch"
    average = loop.fit(denoiser, batch, loss, settings, len(people.learnt), context, "CemiFace", whole=whole, watch=heeding)
    heeding.tell("CemiFace")
    loop.finish(average, weights, CODES)


class Batch(NamedTuple):
    """What one step sees. x0, noise, grain (B, 3, R, R); code (B, dim) raw; told, m, t, abar (B,)."""

    x0: Tensor
    code: Tensor
    told: Tensor  # 0 where there is no inquiry, and so no similarity to it
    m: Tensor
    t: Tensor
    abar: Tensor
    noise: Tensor
    grain: Tensor  # added to what E_id sees; (B,) zeros when there is none


def objective(denoiser: Denoiser, encoder: Encoder, batch: Batch, settings: Train) -> dict[str, Tensor]:
    """The loss of Eq. 13 [12] and its parts, scalars: loss, mse, similarity_loss, and the similarity reached by the estimates of x_0."""
    x0, code, told, m, t, abar, noise, grain = batch
    x_t = process.add_noise(x0, noise, abar)  # Eq. 4
    output = denoiser(x_t, t, denoiser.condition(code * told[:, None], m)).float()
    mse = denoising.squared_error(output, x0, noise, abar, settings)  # L_MSE
    if not settings.similarity_weight:
        return {"loss": mse, "mse": mse}
    estimate = process.estimate(output, x_t, abar, settings.prediction).x0
    if settings.clip_x0:
        estimate = estimate.clamp(-1, 1)
    if settings.similarity_noise:
        estimate = estimate + grain
    some = slice(None, None, settings.similarity_every)
    reached = similarity(encoder(estimate[some]), code[some], settings.distance)
    seen, wanted = (torch.where(told[some] > 0, value, 1.0) for value in (reached, m[some]))  # nothing to learn where both are 1
    matching = similarity_loss(seen, wanted, t[some] / settings.T, settings.norm)
    loss = mse + settings.similarity_weight * matching
    return {"loss": loss, "mse": mse, "similarity_loss": matching, "similarity": reached.mean()}


def sample_m(count: int, settings: Train, draw: torch.Generator) -> Tensor:
    """(count,) similarities from the grid m_low, m_low + m_interval, ..., m_high."""
    span = settings.m_high - settings.m_low
    if settings.m_interval == 0:
        return settings.m_low + span * torch.rand(count, generator=draw)
    points = int(span / settings.m_interval + 1e-6) + 1
    return settings.m_low + settings.m_interval * torch.randint(points, (count,), generator=draw).float()
