"""Training a recognizer on a set of labelled faces by a frozen recipe. The caller owns the loop:

    for step in recognition.train(faces, load_recipe("cemiface"), seed=0, device=device, out=folder):
        console.progress(step)

The last checkpoint is the result; no test set is looked at.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from synthbench import config
from synthbench.config import Settings
from synthbench.device import autocast, compiled, ready, send
from synthbench.models.encoder import build, save_encoder
from synthbench.recognition.augment import Augmentation, augment
from synthbench.recognition.margin import Head
from synthbench.seeds import derive, torch_generator
from synthbench.training import loop
from synthbench.training.crew import at_work, summed
from synthbench.training.sync import synchronised
from synthbench.types import UserError

if TYPE_CHECKING:
    from synthbench.data.faces import FaceSet

REPORT = 20  # steps between two looks at the loss, at most: a look makes a GPU wait
LOOK = 1.0  # seconds after which one is taken earlier


class Backbone(Settings):
    """iresnet: arcface_torch's network; irse: that of TFace, AdaFace and CVLface; small: for 32-64 px on a CPU."""

    family: Literal["iresnet", "irse", "small"] = "irse"
    depth: Literal[18, 34, 50, 100, 200] = 50  # not of `small`
    se: bool = False  # squeeze-excitation on the residual of every block; not of `small`
    width: int = Field(default=32, ge=4)  # channels of `small` in its last stage but two
    blocks: tuple[int, int, int] = (1, 2, 2)  # residual blocks of `small` in its last three stages

    @model_validator(mode="after")
    def _exists(self) -> Backbone:
        if self.family == "irse" and self.depth == 200:
            raise ValueError("irse has no depth 200; use family iresnet")
        return self

    def architecture(self, dropout: float) -> dict[str, Any]:
        own = {"width": self.width, "blocks": list(self.blocks)} if self.family == "small" else {"depth": self.depth, "se": self.se}
        return {"family": self.family, **own, "dropout": dropout}


class Recipe(Settings):
    """Frozen training settings of a recognizer. Epochs count from 0; a drop at 26 acts after 26 whole epochs."""

    name: str = "unnamed"
    backbone: Backbone = Backbone()
    dim: int = Field(512, ge=2)  # of the embedding
    dropout: float = Field(0.0, ge=0, lt=1)  # before the last Linear

    head: Literal["cosface", "arcface", "adaface"] = "cosface"
    margin: float = Field(0.4, ge=0)
    scale: float = Field(64.0, gt=0)
    gradient: Literal["straight_through", "exact"] = "straight_through"  # of arcface and adaface
    h: float = 0.333  # adaface: concentration of the norm statistic
    t_alpha: float = 0.01  # adaface: rate of its running mean and deviation

    epochs: int = Field(40, ge=1)
    batch_size: int = Field(512, ge=2)  # images per step, over all devices; smaller sets are one batch
    lr: float = Field(0.1, gt=0)  # of SGD, at `batch_size`
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    decay_norm: bool = True  # also on the weights of batch norm
    schedule: Literal["steps", "polynomial", "cosine"] = "steps"
    drops: tuple[float, ...] = ()  # steps: epochs after which lr is multiplied by 0.1
    power: float = 1.0  # polynomial: lr (1 - progress)^power
    warmup: float = Field(0.0, ge=0)  # epochs of linear warm-up
    clip: float | None = None  # largest gradient norm of the backbone
    precision: Literal["bf16", "fp32"] = "bf16"  # of the backbone on a GPU; a CPU works in fp32, and so does the head
    augmentation: tuple[Augmentation, ...] = ()

    def lr_at(self, step: int, per_epoch: int) -> float:
        """Learning rate of step number `step` (from 0)."""
        epoch = step / per_epoch
        if epoch < self.warmup:
            return self.lr * (step + 1) / (self.warmup * per_epoch)
        if self.schedule == "steps":
            return self.lr * 0.1 ** sum(epoch >= drop for drop in self.drops)
        progress = (epoch - self.warmup) / (self.epochs - self.warmup)
        if self.schedule == "polynomial":
            return self.lr * (1 - progress) ** self.power
        return self.lr * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class Step:
    """A look at a training; every epoch ends with one. `number` steps of `total` are done; `loss` is the mean since the last look."""

    number: int
    total: int
    loss: float
    lr: float
    images_per_second: float
    waiting: float  # share of the time spent waiting for data
    backbone: nn.Module = field(repr=False)  # as it is now, in training


def load_recipe(name: str) -> Recipe:
    """The preset called `name`, or the recipe in a YAML file. Raises UserError with file and line, or with the presets there are."""
    path = config.config_path("recipes", name)
    return config.build(Recipe, config.Layer({"name": path.stem}), config.read_layer(path))


def train(faces: FaceSet, recipe: Recipe, *, seed: int, device: torch.device, out: Path, teacher: Tensor | None = None) -> Iterator[Step]:
    """Train on `faces` and leave weights.safetensors and encoder.json in `out`; yields a Step about once a second.

    Processes that work together take a share of every batch each; batch norm and AdaFace's statistics see the whole of it.

    teacher (N, dim): unit embeddings of `faces` by another network, which are learnt instead of labels, see `distillation`.

    Continues from out/checkpoint.pt to the very same weights as without the interruption (on the same device). Weights, order, dropout
    and augmentation depend on `seed`, `recipe` and `faces` only. Raises UserError for a set that cannot be trained on and for a loss
    that is not finite.
    """
    if teacher is None:
        check(faces)
    out.mkdir(parents=True, exist_ok=True)
    batch = min(recipe.batch_size, len(faces))
    per_epoch = len(faces) // batch
    total = recipe.epochs * per_epoch
    backbone, head, optimizer = setup(faces, recipe, seed, device)
    told = [] if teacher is None else [hashlib.sha256(teacher.numpy().tobytes()).hexdigest()]
    fingerprint = hashlib.sha256(json.dumps([recipe.model_dump(mode="json"), seed, faces.digest, *told]).encode()).hexdigest()
    state: dict[str, loop.Stateful] = {"backbone": backbone, "head": head, "optimizer": optimizer}
    start = loop.restore(out / "checkpoint.pt", state, fingerprint)
    prepared(backbone, device).train(), head.train()

    losses = torch.zeros(REPORT, device=device)
    norms = torch.zeros(REPORT, device=device)
    since = saved = time.monotonic()
    waited, done, every = 0.0, start, loop.EVERY
    with ThreadPoolExecutor(1) as reader:
        upcoming = reader.submit(read, faces, seed, start, batch, per_epoch)
        for step in range(start, total):
            before = time.monotonic()
            images, labels = upcoming.result()
            waited += time.monotonic() - before
            if step + 1 < total:
                upcoming = reader.submit(read, faces, seed, step + 1, batch, per_epoch)
            lr = recipe.lr_at(step, per_epoch)
            criterion: Criterion = softmax_loss
            rows = batch_rows(faces, seed, step, batch, per_epoch)[at_work().part(batch)]
            if teacher is not None:
                criterion = distillation(send(teacher[rows], device))
            elif faces.mixed:
                second, weight = (send(torch.as_tensor(faces.columns[name][rows]), device) for name in ("label2", "weight"))
                criterion = mixed_loss(second, weight.float())
            loss, norm = update(backbone, head, optimizer, images, labels, recipe, lr, seed, step, device, criterion)
            losses[step - done], norms[step - done] = loss, norm
            count = step + 1 - done  # steps since the last look
            if count == REPORT or time.monotonic() - since > LOOK or (step + 1) % per_epoch == 0:
                fresh = losses[:count].cpu()
                refuse_non_finite(fresh, norms[:count].cpu(), done, recipe, per_epoch)
                now = time.monotonic()
                if now - saved > every and step + 1 < total and not at_work().rank:
                    every = loop.save(out / "checkpoint.pt", step + 1, state, fingerprint)
                    saved = time.monotonic()
                speed, waiting = count * batch / (now - since), waited / (now - since)
                yield Step(step + 1, total, fresh.mean().item(), lr, speed, waiting, backbone)
                since, waited, done = time.monotonic(), 0.0, step + 1

    spec = {
        "name": f"recognizer, recipe {recipe.name}",
        "architecture": recipe.backbone.architecture(recipe.dropout),
        "resolution": faces.resolution,
        "dim": recipe.dim,
        "recipe": recipe.model_dump(mode="json"),
        "trained_on": {"digest": faces.digest, "images": len(faces), "identities": faces.identities},
        "seed": seed,
    }
    save_encoder(backbone, out, spec)
    (out / "checkpoint.pt").unlink(missing_ok=True)


def prepared(backbone: nn.Module, device: torch.device) -> nn.Module:
    """`backbone`, compiled where that pays; where several processes train it, with batch norm over all of them instead."""
    return compiled(backbone, device) if at_work().size == 1 else synchronised(backbone, device)


def check(faces: FaceSet) -> None:
    labels = torch.as_tensor(faces.identity)
    if len(labels) == 0:
        raise UserError("the training set holds no image")
    if labels.min() < 0 or labels.max() >= faces.identities:
        raise UserError(
            f"labels of the training set run from {labels.min()} to {labels.max()}, but there are {faces.identities} identities: "
            f"labels must lie in 0..{faces.identities - 1}"
        )
    if len(labels.unique()) < 2:
        raise UserError("all images of the training set have the same label; a recognizer needs at least two identities")
    if faces.mixed:
        second, weight = torch.as_tensor(faces.columns["label2"]), torch.as_tensor(faces.columns["weight"])
        if second.min() < 0 or second.max() >= faces.identities or not bool(((weight >= 0) & (weight <= 1)).all()):
            raise UserError(
                f"soft labels of the training set: label2 runs from {second.min()} to {second.max()} and must lie in "
                f"0..{faces.identities - 1}, weight from {weight.min()} to {weight.max()} and must lie in 0..1"
            )


def setup(
    faces: FaceSet, recipe: Recipe, seed: int, device: torch.device, more_classes: int = 0
) -> tuple[nn.Module, Head, torch.optim.SGD]:
    """Backbone, head and optimizer as they are before the first step. more_classes: of the head, beside the identities of `faces`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "init"))
        backbone = build(recipe.backbone.architecture(recipe.dropout), faces.resolution, recipe.dim)
        classes = faces.identities + more_classes
        head = Head(recipe.head, recipe.dim, classes, recipe.scale, recipe.margin, recipe.gradient, recipe.h, recipe.t_alpha)
    backbone, head = ready(backbone, device), head.to(device)
    norm = {id(p) for m in backbone.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for p in m.parameters()}
    everything = [p for p in (*backbone.parameters(), *head.parameters()) if p.requires_grad]
    plain = [p for p in everything if recipe.decay_norm or id(p) not in norm]
    free = [p for p in everything if not recipe.decay_norm and id(p) in norm]
    groups = [{"params": plain, "weight_decay": recipe.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return backbone, head, torch.optim.SGD([g for g in groups if g["params"]], lr=recipe.lr, momentum=recipe.momentum)


def read(faces: FaceSet, seed: int, step: int, batch: int, per_epoch: int) -> tuple[Tensor, Tensor]:
    """Images (B, 3, R, R) uint8 and labels (B,) int64 of a step: a part of the permutation of its epoch; what is left over is dropped."""
    rows = batch_rows(faces, seed, step, batch, per_epoch)
    images = faces.images(rows)
    if images.shape[1:] != (3, faces.resolution, faces.resolution):
        raise UserError(f"the training set says {faces.resolution} px, but its images are {tuple(images.shape[1:])}")
    return images, torch.as_tensor(faces.identity[rows])


def batch_rows(faces: FaceSet, seed: int, step: int, batch: int, per_epoch: int) -> np.ndarray:
    epoch, place = divmod(step, per_epoch)
    return order(len(faces), seed, epoch)[place * batch : (place + 1) * batch].numpy()


@lru_cache(maxsize=2)
def order(count: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(count, generator=torch_generator(seed, "epoch", epoch))


Criterion = Callable[[Head, Tensor, Tensor], Tensor]  # (head, embeddings (B, D), labels (B,)) -> a scalar


def softmax_loss(head: Head, embedding: Tensor, label: Tensor) -> Tensor:
    return F.cross_entropy(head(embedding, label), label)


def distillation(wanted: Tensor) -> Criterion:
    """For images whose embeddings by a teacher are `wanted` (B, D), unit: scale x (1 - cos), whoever is on them.

    After the angular distillation of ShrinkTeaNet (Duong et al. 2019, arXiv 1905.10620): the direction of an embedding is what verifies.
    """

    def criterion(head: Head, embedding: Tensor, label: Tensor) -> Tensor:
        return head.scale * (1 - F.cosine_similarity(embedding.float(), wanted)).mean()

    return criterion


def mixed_loss(second: Tensor, weight: Tensor) -> Criterion:
    """For images of two identities, the second of which is `second` (B,) int64 and the share of the first `weight` (B,).

    As SynFace's public code does it (arXiv 2108.07960): o = w A(f, a) + (1 - w) A(f, b) with A the logits that have the margin at one
    label, and the loss w CE(o, a) + (1 - w) CE(o, b), the cross entropy of o to the soft label. With w = 1 it is `softmax_loss`.
    """

    def criterion(head: Head, embedding: Tensor, label: Tensor) -> Tensor:
        logits = head(embedding, label, second, weight)
        first, other = (F.cross_entropy(logits, name, reduction="none") for name in (label, second))
        return (weight * first + (1 - weight) * other).mean()

    return criterion


def update(
    backbone: nn.Module,
    head: Head,
    optimizer: torch.optim.SGD,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    lr: float,
    seed: int,
    step: int,
    device: torch.device,
    criterion: Criterion = softmax_loss,
) -> tuple[Tensor, Tensor]:
    """One step of SGD; loss and gradient norm of the backbone, still on the device.

    Of processes that work together each takes a share of the images, and all end with the same weights, see `prepared`. `criterion` is
    given that share. All of them augment the whole batch, so that an image is the same whoever has it; dropout is each one's own.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    crew, count = at_work(), len(images)
    own = crew.part(count)
    x = augment(send(images, device), recipe.augmentation, torch_generator(seed, "augment", step))[own]
    x = x.contiguous(memory_format=torch.channels_last)
    if recipe.dropout:  # nn.Dropout draws from the global stream; setting it each step makes a resumed training the same
        whose = (crew.rank,) if crew.rank else ()
        torch.manual_seed(derive(seed, "dropout", step, *whose))
    with autocast(device, recipe.precision):
        embedding = backbone(x)
    loss = criterion(head, embedding, send(labels[own], device)) * (len(x) / count)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if crew.size > 1:
        loss = loss.detach()[None]
        summed([loss, *(p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None)])
        loss = loss[0]
    norm = nn.utils.clip_grad_norm_([p for p in backbone.parameters() if p.requires_grad], recipe.clip or math.inf)
    optimizer.step()
    return loss.detach(), norm


def refuse_non_finite(losses: Tensor, norms: Tensor, first: int, recipe: Recipe, per_epoch: int) -> None:
    """Stop with a diagnosis when a loss of the steps `first`, `first` + 1, ... is not finite."""
    bad = (~losses.isfinite()).nonzero().flatten()
    if not len(bad):
        return
    i = int(bad[0])
    step = first + i
    before = f"{norms[i - 1]:.3g}" if i else "not known"
    raise UserError(
        f"the loss became {losses[i]:.3g} at step {step} (epoch {step // per_epoch}), lr {recipe.lr_at(step, per_epoch):.3g}, gradient "
        f"norm of the step before {before}. Likely causes: lr {recipe.lr:g} too high for batch {recipe.batch_size} (try a tenth, or "
        f"warmup: 1), no gradient clipping (clip: {recipe.clip}; try 5), or images that carry no signal. Checkpoints hold good steps only"
    )
