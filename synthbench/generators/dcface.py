"""DCFace: Synthetic Face Generation with Dual Condition Diffusion Model (Kim, Liu, Jain, Liu, CVPR 2023), arXiv 2304.07060.

Two stages. An unconditional diffusion model paints people who do not exist; a second one repaints each of them in the styles of many
photographs. It is told who, by an encoder of the ID image, and how, by statistics of the style image's early features in a grid of
patches, which hold light, pose and quality but little of the person. In training both images are of the same person, so labels are needed.
Where paper and official code disagree, the code is followed; its two slips in the style statistics and in the noise are options or mended.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from synthbench.config import Settings
from synthbench.device import autocast, send
from synthbench.diffusion import denoising, heed, process
from synthbench.identities import inquiries, sampling, unconditional
from synthbench.models.encoder import CODES, Encoder, build, frozen, raw_codes, read_tensors
from synthbench.models.patch_style import Statistic, StyleEncoder, waves
from synthbench.models.unet import TINY, UNet
from synthbench.plugin import Context, Traits
from synthbench.seeds import derive, numpy_generator, torch_generator
from synthbench.store import writing
from synthbench.training import loop
from synthbench.types import FaceBatch, Slot, UserError

# ---------------------------------------------------------------------------------------------------------------- config


FirstStage = unconditional.Train


class Train(unconditional.Train):
    batch_size: int = Field(256, ge=1)
    width: int = Field(512, ge=1, description="width of the condition's tokens")
    grid: int = Field(5, ge=1, description="k: style statistics of k x k patches and of the whole (1, 3, 5 score 79.3, 85.8, 89.0 AVG)")
    statistic: Statistic = Field("official", description="beside E[x]: E[x] - E[x^2] (the code) or the variance")
    style_dropout: float = Field(0.3, ge=0, lt=1, description="share of the style features that training leaves out")
    identity_encoder: Literal["tuned", "frozen"] = Field(
        "tuned", description="is E_id, which starts as the protocol's encoder, trained too"
    )
    identity_weight: float = Field(0.05, ge=0, description="lambda of L_ID")
    identity_every: int = Field(1, ge=1, description="L_ID on every n-th image of a batch; on a CPU the encoder is the dearest part")
    clip_x0: bool = Field(True, description="clip the estimate of x_0 to [-1, 1] before the encoder")
    near: int = Field(4, ge=2, description="the ID image is one of so many images of the person, those nearest to its centre")
    trim: float = Field(
        0.1, ge=0, lt=1, description="share of a person's images, those farthest from its centre, that are not style images"
    )
    unconditional: FirstStage | None = Field(FirstStage(epochs=20), description="the first stage; null: not trained")


class Enroll(inquiries.NewPeople):
    novelty: float = Field(0.3, ge=-1, le=1, description="highest cosine of an ID image to the centre of a person of the real set; 1: any")


class Sample(denoising.Sample):
    style: Literal["matched", "random"] = Field("matched", description="style images of the people most like the ID image, or of anybody")
    match: float = Field(
        0.1, gt=0, le=1, description="share of the real people that are most like it (the paper: of its gender and ethnicity)"
    )
    steps: int = Field(50, ge=1, description="DDIM steps (the paper says 200 intervals, the code 50)")
    eta: float = Field(1.0, ge=0, le=1, description="1: the code's default; 0: deterministic")
    clip_x0: bool = True
    copies: int = Field(
        5, ge=0, description="copies of the ID image added to every identity (oversampling); column `real` is 1 where it is a photograph"
    )


class Config(Settings):
    train: Train = Train()
    enroll: Enroll = Enroll()
    sample: Sample = Sample()

    @model_validator(mode="after")
    def _together(self) -> Config:
        denoising.refuse_steps(self.sample, self.train)
        inquiries.refuse_model(self.enroll, self.train.unconditional)
        if self.enroll.source == "real" and self.enroll.novelty < 1:
            raise ValueError("people of the real set resemble themselves: set enroll.novelty=1, or another enroll.source")
        return self


# --------------------------------------------------------------------------------------------------------------- network


class Denoiser(nn.Module):
    """The UNet with its two conditions. ID and style make tokens for its attention layers; the ID also joins the time embedding."""

    def __init__(self, train: Train, resolution: int, encoder: Encoder) -> None:
        super().__init__()
        self.E_id = copy.deepcopy(encoder).requires_grad_(train.identity_encoder == "tuned")  # its batch norms stay in eval mode
        with torch.no_grad():
            maps = encoder.maps(torch.zeros(1, 3, resolution, resolution, device=encoder.device))
        fine, coarse = maps[0].shape, maps[-1].shape
        self.fit_code, self.fit_map = fitted(encoder.dim, train.width), fitted(coarse[1], train.width)
        self.position = nn.Parameter(waves(1 + coarse[2] * coarse[3], train.width))
        self.scale = nn.Parameter(torch.tensor(0.001))
        self.to_time = fitted(train.width, 4 * train.unet.channels)
        self.E_sty = StyleEncoder(fine[1], fine[2], train.width, train.grid, train.statistic, train.style_dropout)
        self.unet = UNet(train.unet, resolution, train.width)

    def condition(self, x_id: Tensor, style: Tensor, keep: Tensor | None = None) -> Condition:
        """From ID images (B, 3, R, R) in [-1, 1] and early features of style images: once per image, whatever the number of steps."""
        last = self.E_id.maps(x_id)[-1]
        who = self.fit_code(self.E_id.head(last)) + self.position[0]
        places = self.fit_map(last.flatten(2).transpose(1, 2)) + self.position[1:]  # (B, h w, width)
        tokens = torch.cat([places, self.E_sty(style, keep)], dim=1)
        return Condition(self.unet.condition(tokens), self.to_time(self.scale * who))

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.unet(x, t, condition.tokens, condition.identity)


class Condition(NamedTuple):
    """What the UNet is told: keys and values of all tokens, and (B, 4 channels) to add to the time embedding."""

    tokens: tuple[Tensor, Tensor]
    identity: Tensor


def fitted(inside: int, outside: int) -> nn.Module:
    """From one width to another; nothing where they are the same, as at the paper's size."""
    return nn.Identity() if inside == outside else nn.Linear(inside, outside)


# ------------------------------------------------------------------------------------------------------------------ loss


def identity_loss(reached: Tensor, who: Tensor, style: Tensor, gamma: Tensor) -> Tensor:
    """L_ID, a scalar: gamma_t (1 - cos(F(x0), F(x_id))) + (1 - gamma_t) (1 - cos(F(x0), F(x_sty))) with gamma_t = t / T, averaged.

    Embeddings (B, dim), gamma (B,). Near t = T the estimate is drawn to the ID image, near t = 0 to the image it is made from.
    """
    to_id, to_style = (F.cosine_similarity(reached.float(), other.float()) for other in (who, style))
    return (gamma * (1 - to_id) + (1 - gamma) * (1 - to_style)).mean()


# ------------------------------------------------------------------------------------------------------------- generator


class DCFace(inquiries.ByInquiry[Config]):
    """New people in the styles of real photographs: a diffusion model with two conditions, sampled with DDIM."""

    Config = Config
    version = 2  # 2: style tokens have the scale of training, `trim` also for few images, column `real` is 0 for made ID images
    traits = Traits(
        paper="DCFace: Synthetic Face Generation with Dual Condition Diffusion Model, arXiv 2304.07060",
        licence="the authors' repository names none; this is an independent implementation",
        trains=True,
        enrolls=True,
        needs_labels=True,
        real_photographs="none with enroll.source unconditional or world; else the ID image of each identity, `sample.copies` times",
        pretrained="the protocol's encoder",
    )
    tiny = {
        "train": {"steps": 6, "batch_size": 8, "width": 16, "grid": 2, "unet": TINY,
                  "unconditional": {"steps": 4, "batch_size": 8, "unet": TINY}},
        "enroll": {"source": "unconditional", "threshold": 1.0, "novelty": 1.0, "sampler": {"steps": 2}},
        "sample": {"steps": 2, "copies": 1},
    }  # fmt: skip

    def networks(self, resolution: int, dim: int) -> dict[str, tuple[nn.Module, tuple[Any, ...]]]:
        """With an IR-50 as encoder."""
        settings = self.config.train
        encoder = Encoder(build({"family": "irse", "depth": 50}, resolution, dim), resolution=resolution, dim=dim)
        image, t = torch.empty(1, 3, resolution, resolution), torch.empty(1)
        denoiser = Denoiser(settings, resolution, encoder)
        tokens = torch.empty(1, len(denoiser.position) - 1 + len(denoiser.E_sty.position), settings.width)
        condition = Condition(denoiser.unet.condition(tokens), torch.empty(1, 4 * settings.unet.channels))
        found: dict[str, tuple[nn.Module, tuple[Any, ...]]] = {"denoiser": (denoiser, (image, t, condition))}
        if settings.unconditional:
            found["unconditional"] = (UNet(settings.unconditional.unet, resolution, 0), (image, t))
        return found

    def train(self, context: Context) -> None:
        train(self.config.train, context)

    def enroll(self, count: int, context: Context) -> None:
        """ID images that resemble neither each other nor a person of the real set."""
        centres, limit = read_tensors(context.inputs["train"] / "centres.safetensors")["centres"], self.config.enroll.novelty
        inquiries.enroll(count, self.config.enroll, context, None if limit == 1 else lambda unit: (unit @ centres.T).amax(1) < limit)

    def generate(self, slots: Sequence[Slot], context: Context) -> Iterator[FaceBatch]:
        """Columns: sample, style (row of the style image in the real set), similarity (to the ID image under the encoder), real."""
        settings, sample = self.config.train, self.config.sample
        encoder, (codes, inquired) = context.encoder, inquiries.load(context.inputs["enroll"])
        assert inquired is not None  # `enroll` wrote them
        centres = read_tensors(context.inputs["train"] / "centres.safetensors")["centres"]
        denoiser = frozen(Denoiser(settings, context.resolution, encoder), context.inputs["train"] / "weights.safetensors", context.device)
        bank = StyleBank(context.faces.identity, F.normalize(codes, dim=1), centres, sample, context.seed)

        def make(some: list[Slot]) -> tuple[Tensor, dict[str, Tensor]]:
            who, rows = [slot.identity for slot in some], np.array([bank.row(slot) for slot in some])
            x_id, x_sty = (
                send(images, context.device).float() / 127.5 - 1 for images in (inquired.images(who), context.faces.images(rows))
            )
            noise = sampling.noise(some, (3, context.resolution, context.resolution), context)
            with torch.inference_mode(), autocast(context.device, sample.precision):
                condition = denoiser.condition(x_id, encoder.maps(x_sty, 1)[0])
                x = denoising.painted(lambda x, t: denoiser(x, t, condition).float(), noise, settings, sample, sample.clip_x0)
                images = process.to_uint8(x)
                return images, {"style": torch.from_numpy(rows), "similarity": sampling.similarity(encoder, images, codes[who])}

        yield from sampling.generate(make, slots, context, ("style", "similarity"), inquired, self.config.enroll.photographs)


class StyleBank:
    """Which image of the real set gives a slot its style; a matter of the slot alone."""

    def __init__(self, identity: np.ndarray, who: Tensor, centres: Tensor, sample: Sample, seed: int) -> None:
        """identity (N,) of the real images; who, centres: unit embeddings of the ID images and of the real people."""
        self.rows = np.argsort(identity, kind="stable")  # person by person
        self.first = np.searchsorted(identity[self.rows], np.arange(len(centres) + 1))
        self.who, self.centres, self.seed = who, centres, seed
        self.people = len(centres) if sample.style == "random" else max(1, round(sample.match * len(centres)))
        self.alike = functools.lru_cache(1024)(self._alike)

    def row(self, slot: Slot) -> int:
        draw = numpy_generator(self.seed, "style", *slot)
        if self.people == len(self.centres):
            return int(draw.integers(len(self.rows)))  # every image alike
        person = int(self.alike(slot.identity)[draw.integers(self.people)])
        return int(self.rows[draw.integers(self.first[person], self.first[person + 1])])

    def _alike(self, identity: int) -> Tensor:
        """The real people most like an ID image, the most alike first."""
        return (self.centres @ self.who[identity]).topk(self.people).indices


# -------------------------------------------------------------------------------------------------------------- training

SETTLE = 256  # style images from which the batch norm's statistics are taken


def train(settings: Train, context: Context) -> None:
    """Both stages. Writes weights.safetensors (averaged), centres.safetensors (of real people) and metrics.jsonl into context.out; resumes.

    Raises UserError for an encoder without gradients or feature maps, and for a set in which nobody has two images.
    """
    weights = context.out / "weights.safetensors"
    if loop.finished(weights, CODES):
        return
    faces, encoder, device = context.faces, context.encoder, context.device
    encoder.need_gradients("DCFace")
    Denoiser(settings, context.resolution, encoder)  # what does not fit is refused before anything is trained
    usable = np.flatnonzero(np.bincount(faces.identity, minlength=1)[faces.identity] > 1) if faces.identities else np.empty(0, np.int64)
    if not len(usable):
        raise UserError("nobody in the real set has two images, and DCFace learns from pairs of images of one person: give a labelled set")
    if settings.unconditional:
        unconditional.train(settings.unconditional, context)
    parted = denoising.people(faces.identity, settings.held_out, context.seed)
    parted = parted._replace(learnt=np.intersect1d(usable, parted.learnt), held_out=np.intersect1d(usable, parted.held_out))
    codes = raw_codes(encoder, faces, settings.flip, context.out / CODES, context.progress)
    people = People(F.normalize(codes[0], dim=1), faces.identity)
    torch.manual_seed(derive(context.seed, "weights"))
    denoiser = Denoiser(settings, context.resolution, encoder).eval()  # the one part that has a mode is told by `keep`

    def batch(step: loop.Step) -> Batch:
        images, vectors = [], []
        for rows in people.pairs(parted.learnt[step.rows], settings.near, settings.trim, step.draw):
            x, mirror = loop.pictures(faces, rows, settings.flip, step.draw, device)
            images.append(x)
            vectors.append(codes[mirror.long(), torch.from_numpy(rows)])
        drawn = denoising.drawn(settings, len(x), x.shape[1:], step.draw)
        keep = denoiser.E_sty.keep(len(x), step.draw, device)
        return Batch(images[0], images[1], keep, vectors[0], vectors[1], *drawn)

    def loss(part: Batch) -> loop.Losses:
        return objective(denoiser, encoder, part, settings)

    def show(rows: np.ndarray) -> heed.Shown:
        style, own = people.pairs(rows, settings.near, settings.trim, torch_generator(context.seed, "heed pairs"))
        return heed.Shown(loop.plain(faces, style, device), loop.plain(faces, own, device))

    def restored(network: nn.Module, x: Tensor, t: Tensor, shown: heed.Shown) -> Tensor:
        keep = network.E_sty.keep(len(x), torch_generator(context.seed, "heed keep"), device)  # type: ignore[operator, union-attr]
        return network(x, t, network.condition(shown.told, encoder.maps(shown.x0, 1)[0], keep))  # type: ignore[operator]

    heeding = heed.Heed(parted, show, restored, settings, context.seed)
    average: Denoiser = loop.fit(denoiser, batch, loss, settings, len(parted.learnt), context, "DCFace", watch=heeding)  # type: ignore[assignment]
    some = parted.learnt[np.linspace(0, len(parted.learnt) - 1, SETTLE).astype(np.int64)]
    with torch.no_grad():
        features = encoder.maps(loop.plain(faces, some, device), 1)[0]
        average.E_sty.settle(features, average.E_sty.keep(SETTLE, torch_generator(context.seed, "settle"), device))
    heeding.tell("DCFace")
    with writing(context.out / "centres.safetensors") as temporary:
        save_file({"centres": people.centres}, temporary)
    loop.finish(average, weights, CODES)


class People:
    """The images of the real set, person by person, and in each the one most like the centre first."""

    def __init__(self, unit: Tensor, identity: np.ndarray) -> None:
        """unit (N, dim): the embeddings; identity (N,) from 0."""
        label = torch.from_numpy(identity)
        self.centres = F.normalize(torch.zeros(int(label.max()) + 1, unit.shape[1]).index_add_(0, label, unit), dim=1)
        similarity = (unit * self.centres[label]).sum(1).numpy()
        self.rows = np.lexsort((-similarity, identity))
        self.identity, self.count = identity, np.bincount(identity)
        self.first = np.cumsum(self.count) - self.count
        self.rank = np.empty_like(self.rows)
        self.rank[self.rows] = np.arange(len(identity)) - self.first[identity[self.rows]]

    def pairs(self, rows: np.ndarray, near: int, trim: float, draw: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(style image, ID image) of the same person for each of `rows`, which are the style images except for outliers.

        An outlier, one of the share `trim` of a person's images that are farthest from its centre, is replaced by a random one that is
        none. The ID image is one of the `near` nearest to the centre, but not the style image itself.
        """
        first, count = self.first[self.identity[rows]], self.count[self.identity[rows]]
        chance = torch.rand(2, len(rows), generator=draw).double().numpy()
        below = np.ceil(trim * (count - 1) - 1e-9).astype(np.int64)  # the quantile `trim`
        inside = count - np.where(count > 2, below, 0)  # two are equally far from their centre
        rank = np.where(self.rank[rows] < inside, self.rank[rows], (chance[0] * inside).astype(np.int64))
        near_by = np.minimum(near, count)
        others = near_by - (rank < near_by)
        choice = (chance[1] * others).astype(np.int64)
        choice += (choice >= rank) & (rank < near_by)
        return self.rows[first + rank], self.rows[first + choice]


class Batch(NamedTuple):
    """What one step sees. x0 is the image to restore and the one of the style; images (B, 3, R, R), codes (B, dim) raw, t and abar (B,)."""

    x0: Tensor
    x_id: Tensor
    keep: Tensor  # what dropout leaves of the style features, (B, C, side, side) bool
    style: Tensor  # F(x_sty)
    who: Tensor  # F(x_id)
    t: Tensor
    abar: Tensor
    noise: Tensor


def objective(denoiser: Denoiser, encoder: Encoder, batch: Batch, settings: Train) -> dict[str, Tensor]:
    """L_MSE + lambda L_ID and its parts, scalars: loss, mse, identity_loss, and the cosine of the estimates of x_0 to the ID image."""
    x0, x_id, keep, style, who, t, abar, noise = batch
    with torch.no_grad():
        features = encoder.maps(x0, 1)[0]
    x_t = process.add_noise(x0, noise, abar)
    output = denoiser(x_t, t, denoiser.condition(x_id, features, keep)).float()
    mse = denoising.squared_error(output, x0, noise, abar, settings)
    if not settings.identity_weight:
        return {"loss": mse, "mse": mse}
    estimate = process.estimate(output, x_t, abar, settings.prediction).x0
    if settings.clip_x0:
        estimate = estimate.clamp(-1, 1)
    some = slice(None, None, settings.identity_every)
    reached = encoder(estimate[some])
    matching = identity_loss(reached, who[some], style[some], t[some] / settings.T)
    similarity = F.cosine_similarity(reached.float(), who[some].float()).mean()
    return {"loss": mse + settings.identity_weight * matching, "mse": mse, "identity_loss": matching, "similarity": similarity}
