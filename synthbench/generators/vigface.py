"""VIGFace: Virtual Identity Generation for Privacy-Free Face Recognition (Kim, Sagong, Nam, Cho, Kim, ICCV 2025).

arXiv 2403.08277; defaults are those of version 1, and options say where the ICCV version (v3) differs. A recognizer is trained with more
classes than there are people: each virtual class has a prototype and no image, only embeddings made around the prototype. A diffusion
model then learns to paint faces from the embeddings of the real images, and is asked for the virtual prototypes. Labels are needed, other
networks are not: the protocol's encoder is never looked at. The authors published no code, and some formulas are reconstructed from the
text; what is not certain is marked "open".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from synthbench import console
from synthbench.config import Settings
from synthbench.device import autocast, send
from synthbench.diffusion import denoising, heed, process
from synthbench.identities import flow, hypersphere, inquiries, sampling
from synthbench.models.encoder import CODES, Encoder, frozen, load_encoder, raw_codes, read_tensors, save_encoder
from synthbench.models.vit import Shape, ViT
from synthbench.plugin import Context, Generator, Traits
from synthbench.recognition import trainer
from synthbench.recognition.augment import Augmentation, Flip
from synthbench.recognition.margin import Head
from synthbench.seeds import derive, torch_generator
from synthbench.store import write_json, writing
from synthbench.training import crew, loop
from synthbench.types import FaceBatch, Progress, Slot, UserError, Volume

# ---------------------------------------------------------------------------------------------------------------- config


class Recognizer(trainer.Recipe):
    """Stage 1. Defaults: the paper's settings for CASIA-WebFace."""

    name: str = "vigface"
    backbone: trainer.Backbone = trainer.Backbone(family="iresnet", depth=50)
    head: Literal["arcface"] = "arcface"
    margin: float = Field(0.5, ge=0)
    scale: float = Field(30.0, gt=0)
    drops: tuple[float, ...] = (24, 30, 36)
    augmentation: tuple[Augmentation, ...] = (Flip(),)  # open


class Train(denoising.Train):
    recognizer: Recognizer = Recognizer()
    virtual: int = Field(60_000, ge=2, description="k: virtual prototypes, and so the most identities that can be generated")
    virtual_batch: Literal["equal", "proportional"] = Field(
        "equal", description="virtual embeddings of a step: as many as real ones, or (v3) k / n times as many"
    )
    sigma_decay: float = Field(0.9, ge=0, lt=1, description="alpha of Eq. 7")
    collapse: float = Field(0.9, gt=0, le=1, description="ours: stop after stage 1 when two virtual prototypes have this cosine")
    vit: Shape = Shape()
    condition: Literal["image", "prototype"] = Field(
        "image", description="the embedding of each image (v1), or its person's prototype (v3)"
    )
    drop: float = Field(0.1, ge=0, lt=1, description="share of images whose condition is set to zero, for guidance")
    feature_weight: float = Field(
        0.05, ge=0, description="open: lambda of Eq. 8, not published, which sums over pixels: 3 R^2 times this, for here they are averaged"
    )
    feature_every: int = Field(1, ge=1, description="the feature distance on every n-th image of a batch; on a CPU the recognizer is dear")
    clip_x0: bool = Field(True, description="open: clip the estimate of x_0 to [-1, 1] before the recognizer")
    schedule: process.Schedule = "cosine"
    prediction: process.Prediction = Field("x0", description="x0 (v1) or v (v3)")
    weighting: process.Weighting = Field("plain", description="of the squared error; plain: that of Eq. 8")
    steps: int = Field(5_000_000, ge=0, description="0: epochs x images / batch_size")
    batch_size: int = Field(512, ge=1)


class Enroll(Settings):
    prototypes: Literal["virtual", "real", "random"] = Field(
        "virtual", description="virtual; real: more images of the people of the training set (augmentation); random: directions, a control"
    )


class Sample(denoising.Sample):
    late = ("directions",)

    guidance: float = Field(2.5, ge=0, description="w of Eq. 9; the paper's best: 2.5 for virtual prototypes, 0.5 for real ones, 4 in v3")
    steps: int = Field(100, ge=1, description="DDIM steps")
    eta: float = Field(0.0, ge=0, le=1, description="0 is deterministic")
    clip_x0: bool = True
    perturb: float = Field(1.0, ge=0, le=1, description="IDperturb: lowest cosine of what is told to the prototype; 1: off")
    directions: hypersphere.Directions = hypersphere.DIRECTIONS


class Config(Settings):
    train: Train = Train()
    enroll: Enroll = Enroll()
    sample: Sample = Sample()

    @model_validator(mode="after")
    def _steps(self) -> Config:
        denoising.refuse_steps(self.sample, self.train)
        hypersphere.lowest(self.sample.perturb, 0.0, self.sample.directions)
        return self


# --------------------------------------------------------------------------------------- stage 1: people who do not exist


def deviation(embedding: Tensor, prototype: Tensor) -> Tensor:
    """sigma of Eq. 6, (D,): how far unit embeddings (B, D) are from the unit prototypes of their people, component by component.

    Open: the length of a prototype is free in ArcFace, so both are compared on the unit sphere.
    """
    return (F.normalize(embedding, dim=1) - F.normalize(prototype, dim=1)).square().mean(0).sqrt()


def virtual_embeddings(prototype: Tensor, sigma: Tensor, z: Tensor) -> Tensor:
    """Eq. 5: w + z sigma with z ~ N(0, I), on the scale of unit prototypes; all (B, D), sigma (D,). Open: the gradient goes to w too."""
    return F.normalize(prototype, dim=1) + z * sigma


def joint_loss(head: Head, sigma: Tensor, embedding: Tensor, label: Tensor, chosen: Tensor, z: Tensor) -> Tensor:
    """ArcFace over all n + k prototypes and over real embeddings and virtual ones, Eqs. 3 and 4, a scalar.

    chosen (b,): classes of the virtual embeddings, n .. n + k - 1; z (b, D). Nothing virtual hangs on the backbone: `embedding` enters
    its own rows only, and sigma is a constant.
    """
    made = virtual_embeddings(head.weight[chosen], sigma, z)
    return F.cross_entropy(head(torch.cat([embedding, made]), both := torch.cat([label, chosen])), both)


def stage1_loss(head: Head, sigma: Tensor, embedding: Tensor, label: Tensor, chosen: Tensor, z: Tensor, decay: float) -> Tensor:
    """`joint_loss` after Eq. 7, sigma <- decay sigma + (1 - decay) (that of the batch), in place."""
    now = deviation(embedding.detach(), head.weight.detach()[label])
    sigma.copy_(sigma.lerp(now, 1 - decay))
    return joint_loss(head, sigma, embedding, label, chosen, z)


def train_recognizer(settings: Train, context: Context) -> tuple[Encoder, Tensor]:
    """Stage 1: the frozen recognizer, and the unit prototypes (n + k, D), real ones first. Writes into context.out; resumes."""
    out, faces, recipe, device = context.out, context.faces, settings.recognizer, context.device
    out.mkdir(exist_ok=True)
    if not (out / "encoder.json").exists():
        real, size = faces.identities, min(recipe.batch_size, len(faces))
        per_epoch = len(faces) // size
        count = size if settings.virtual_batch == "equal" else max(1, round(size * settings.virtual / real))
        backbone, head, optimizer = trainer.setup(faces, recipe, context.seed, device, settings.virtual)
        head.register_buffer("sigma", torch.zeros(recipe.dim, device=device))  # part of the head, so that it is in its checkpoint
        sigma = head.get_buffer("sigma")
        backbone.train(), head.train()

        def update(step: loop.Step) -> loop.Losses:
            chosen = torch.randint(real, real + settings.virtual, (count,), generator=step.draw)
            z = torch.randn(count, recipe.dim, generator=step.draw)

            def criterion(head: Head, embedding: Tensor, label: Tensor) -> Tensor:
                decay = settings.sigma_decay if step.number else 0.0
                return stage1_loss(head, sigma, embedding, label, send(chosen, device), send(z, device), decay)

            images, labels = faces.images(step.rows), torch.from_numpy(faces.identity[step.rows])
            lr = recipe.lr_at(step.number, per_epoch)
            loss, _ = trainer.update(backbone, head, optimizer, images, labels, recipe, lr, context.seed, step.number, device, criterion)
            return {"loss": loss, "sigma": sigma.norm()}

        plan = loop.Optimization(steps=recipe.epochs * per_epoch, batch_size=size)
        advice = "Lower train.recognizer.lr, or set train.recognizer.warmup=1, train.recognizer.clip=5"
        state: dict[str, loop.Stateful] = {"backbone": backbone, "head": head, "optimizer": optimizer}
        loop.run(update, state, plan, len(faces), context, "VIGFace's recognizer", advice=advice)
        with writing(out / "prototypes.safetensors") as temporary:
            save_file({"prototypes": F.normalize(head.weight.detach(), dim=1).cpu()}, temporary)
        architecture = {"architecture": recipe.backbone.architecture(recipe.dropout), "resolution": faces.resolution, "dim": recipe.dim}
        save_encoder(backbone, out, {"name": "VIGFace's recognizer", **architecture})
        (out / "checkpoint.pt").unlink(missing_ok=True)
    prototypes = read_tensors(out / "prototypes.safetensors")["prototypes"]
    return load_encoder(out, device), prototypes


def check_prototypes(prototypes: Tensor, real: int, limit: float, path: Path) -> None:
    """Say how the prototypes lie and write it to `path`. Raises UserError when virtual ones have collapsed.

    The paper, 10,000 real and 60,000 virtual in 512 dimensions, mean (std): R-R .009 (.140), R-V .000 (.044), V-V .010 (.109).
    """
    r, v = prototypes[:real], prototypes[real:]
    found = {
        "real-real": hypersphere.cosines(r, r, True),
        "real-virtual": hypersphere.cosines(r, v),
        "virtual-virtual": hypersphere.cosines(v, v, True),
    }
    write_json(path, {name: pair._asdict() for name, pair in found.items()})
    said = "; ".join(f"{name} {pair.mean:.3f} ({pair.std:.3f}), highest {pair.highest:.2f}" for name, pair in found.items())
    console.note(f"cosines between prototypes, mean (std): {said}")
    if (highest := found["virtual-virtual"].highest) >= limit:
        raise UserError(
            f"the virtual prototypes of VIGFace's stage 1 collapsed: two of {len(v):,} have cosine {highest:.2f}, the limit train.collapse "
            f"is {limit}; so alike, they are one person. Train stage 1 longer (more train.recognizer.epochs), make room for them "
            "(a larger train.recognizer.dim, a smaller train.virtual), or raise train.collapse; each trains stage 1 again"
        )


# ------------------------------------------------------------------------------------------------ stage 2: network and loss


def condition(code: Tensor) -> Tensor:
    """What the network is told of an embedding or prototype (B, D): its direction, with elements of variance 1. Open. Zeros mean nobody."""
    return F.normalize(code, dim=1) * code.shape[1] ** 0.5


class Batch(NamedTuple):
    """What one step sees. x0, noise (B, 3, R, R); code (B, D), an embedding or a prototype; told, t, abar (B,)."""

    x0: Tensor
    code: Tensor
    told: Tensor  # 0 where the condition is dropped
    t: Tensor
    abar: Tensor
    noise: Tensor


def objective(denoiser: ViT, recognizer: Encoder, batch: Batch, settings: Train) -> dict[str, Tensor]:
    """Eq. 8, ||x_0 - x_0'||^2 + lambda ||f(x_0) - f(x_0')||^2 on unit embeddings (v3: the prototype for f(x_0)), and its parts, scalars."""
    x0, code, told, t, abar, noise = batch
    x_t = process.add_noise(x0, noise, abar)
    output = denoiser(x_t, t, condition(code) * told[:, None]).float()
    mse = denoising.squared_error(output, x0, noise, abar, settings)
    if not settings.feature_weight:
        return {"loss": mse, "mse": mse}
    estimate = process.estimate(output, x_t, abar, settings.prediction).x0
    if settings.clip_x0:
        estimate = estimate.clamp(-1, 1)
    some = slice(None, None, settings.feature_every)
    reached = F.normalize(recognizer(estimate[some]).float(), dim=1)
    distance = (reached - F.normalize(code[some], dim=1)).square().sum(1).mean()
    return {"loss": mse + settings.feature_weight * distance, "mse": mse, "feature_distance": distance}


# ------------------------------------------------------------------------------------------------------------- generator


class VIGFace(Generator[Config]):
    """Faces of virtual people: prototypes learnt beside the real ones, painted by a diffusion transformer."""

    Config = Config
    version = 2  # 2: positions of the transformer start from sines
    traits = Traits(
        paper="VIGFace: Virtual Identity Generation for Privacy-Free Face Recognition, arXiv 2403.08277",
        licence="paper CC BY 4.0; this is an independent implementation",
        trains=True,
        encoder=False,
        enrolls=True,
        needs_labels=True,
    )
    tiny = {
        "train": {
            "steps": 6, "batch_size": 8, "virtual": 8, "collapse": 1.0, "vit": {"width": 16, "depth": 2, "heads": 2, "patch": 8},
            "recognizer": {"backbone": {"family": "small", "width": 8}, "dim": 16, "epochs": 1, "batch_size": 12},
        },
        "sample": {"steps": 2},
    }  # fmt: skip

    def about(self, config: Any) -> Traits:
        return replace(self.traits, new_identities=config.enroll.prototypes != "real")

    def networks(self, resolution: int, dim: int) -> dict[str, tuple[nn.Module, tuple[Any, ...]]]:
        width, x = self.config.train.recognizer.dim, torch.empty(1, 3, resolution, resolution)
        return {"denoiser": (ViT(self.config.train.vit, resolution, width), (x, torch.empty(1), torch.empty(1, width)))}

    def check(self, volume: Volume, people: int | None) -> None:
        kind = self.config.enroll.prototypes
        there = {"virtual": self.config.train.virtual, "real": people}.get(kind)
        if there is not None and volume.identities > there:
            more = "raise train.virtual, which trains again" if kind == "virtual" else "set enroll.prototypes=virtual"
            raise UserError(
                f"VIGFace has {there:,} {kind} prototypes, but {volume.identities:,} identities are wanted. Ask for a volume of at most "
                f"{there:,} identities, or {more}"
            )

    def train(self, context: Context) -> None:
        train(self.config.train, context)

    def enroll(self, count: int, context: Context) -> None:
        """The first `count` prototypes, in the order in which they were trained. There are no inquiries: nobody has a photograph."""
        trained = read_tensors(context.inputs["train"] / "recognizer" / "prototypes.safetensors")["prototypes"]
        virtual, kind = self.config.train.virtual, self.config.enroll.prototypes
        if kind == "random":
            draws = [torch.randn(trained.shape[1], generator=torch_generator(context.seed, "direction", i)) for i in range(count)]
            found = F.normalize(torch.stack(draws), dim=1)
        else:
            found = trained[-virtual:] if kind == "virtual" else trained[:-virtual]
        inquiries.save(found[:count], context.out, prototypes=kind, trained=len(found), kept=count)
        context.progress(count, count)

    def generate(self, slots: Sequence[Slot], context: Context) -> Iterator[FaceBatch]:
        """Columns: sample, similarity (realised cosine to the prototype under stage 1's recognizer); real_identity of real prototypes."""
        settings, sample, folder = self.config.train, self.config.sample, context.inputs["train"]
        codes = read_tensors(context.inputs["enroll"] / "codes.safetensors")["codes"]
        recognizer = load_encoder(folder / "recognizer", context.device)
        denoiser = ViT(settings.vit, context.resolution, recognizer.dim)
        frozen(denoiser, folder / "diffusion" / "weights.safetensors", context.device)
        prototypes = folder / "recognizer" / "prototypes.safetensors"
        lowest = sample.perturb if sample.directions == "flow" else hypersphere.Bounds(codes, prototypes, sample.perturb)
        turned = flow.turning(sample.directions, lowest, recognizer, context)

        def make(some: list[Slot]) -> tuple[Tensor, dict[str, Tensor]]:
            who = [slot.identity for slot in some]
            noise = sampling.noise(some, (3, context.resolution, context.resolution), context)
            told = condition(turned(codes[who], some).to(context.device))

            def network(x: Tensor, t: Tensor) -> Tensor:
                if sample.guidance == 0:
                    return denoiser(x, t, told).float()
                knowing, blind = denoiser(torch.cat([x, x]), t, torch.cat([told, torch.zeros_like(told)])).float().chunk(2)
                return process.guided(knowing, blind, sample.guidance)  # Eq. 9

            with torch.inference_mode(), autocast(context.device, sample.precision):
                images = process.to_uint8(denoising.painted(network, noise, settings, sample, sample.clip_x0))
                reached = (recognizer.embed(images) * codes[who].to(context.device)).sum(1)
            return images, {"similarity": reached, "real_identity": torch.tensor(who)}

        real = () if self.traits.new_identities else ("real_identity",)
        yield from sampling.generate(make, slots, context, ("similarity", *real))


# -------------------------------------------------------------------------------------------------------------- training


def train(settings: Train, context: Context) -> None:
    """Both stages. Writes recognizer/ (the encoder and prototypes.safetensors) and diffusion/weights.safetensors; resumes in either.

    Raises UserError for images without labels and for virtual prototypes that collapsed.
    """
    faces = context.faces
    trainer.check(faces)
    recipe = settings.recognizer
    with torch.device("meta"):  # a shape that cannot be is refused before stage 1
        ViT(settings.vit, context.resolution, recipe.dim)
    first = recipe.epochs * (len(faces) // min(recipe.batch_size, len(faces)))
    total = first + loop.plan(settings, len(faces))[1]

    def counted(before: int) -> Progress:
        return lambda done, _: context.progress(before + done, total)

    folder = context.out / "recognizer"
    stage1 = replace(context, out=folder, seed=derive(context.seed, "recognizer"), progress=counted(0))
    with crew.alone():  # its virtual embeddings and its sigma are of a whole batch
        recognizer, prototypes = train_recognizer(settings, stage1)
    check_prototypes(prototypes, faces.identities, settings.collapse, context.out / "prototypes.json")
    train_diffusion(settings, replace(context, out=context.out / "diffusion", progress=counted(first)), recognizer, prototypes)


def train_diffusion(settings: Train, context: Context, recognizer: Encoder, prototypes: Tensor) -> None:
    """Stage 2. Writes weights.safetensors (the averaged weights) and metrics.jsonl into context.out; resumes."""
    faces, out = context.faces, context.out
    if loop.finished(out / "weights.safetensors", CODES):
        return
    out.mkdir(exist_ok=True)
    images = settings.condition == "image"
    codes = raw_codes(recognizer, faces, settings.flip, out / CODES) if images else prototypes
    people = denoising.people(faces.identity, settings.held_out, context.seed)
    torch.manual_seed(derive(context.seed, "weights"))
    denoiser = ViT(settings.vit, context.resolution, recognizer.dim).eval()  # nothing in it depends on the mode

    def batch(step: loop.Step) -> Batch:
        rows = people.learnt[step.rows]
        x0, mirror = loop.pictures(faces, rows, settings.flip, step.draw, context.device)
        told = (torch.rand(len(x0), generator=step.draw) >= settings.drop).float()
        code = codes[mirror.long(), torch.from_numpy(rows)] if images else codes[torch.from_numpy(faces.identity[rows])]
        return Batch(x0, code, told, *denoising.drawn(settings, len(x0), x0.shape[1:], step.draw))

    def loss(part: Batch) -> loop.Losses:
        return objective(denoiser, recognizer, part, settings)

    def show(rows: np.ndarray) -> heed.Shown:
        code = codes[0, torch.from_numpy(rows)] if images else codes[torch.from_numpy(faces.identity[rows])]
        return heed.Shown(loop.plain(faces, rows, context.device), send(code, context.device))

    def restored(network: nn.Module, x: Tensor, t: Tensor, shown: heed.Shown) -> Tensor:
        return network(x, t, condition(shown.told))

    heeding = heed.Heed(people, show, restored, settings, context.seed)
    average = loop.fit(denoiser, batch, loss, settings, len(people.learnt), context, "VIGFace", watch=heeding)
    heeding.tell("VIGFace")
    loop.finish(average, out / "weights.safetensors", CODES)
