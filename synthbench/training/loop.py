"""What trainings share: the loop, the gradient of a batch in parts, and checkpoints from which a killed training goes on unharmed."""

from __future__ import annotations

import json
import math
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from synthbench.config import Settings
from synthbench.device import ABREAST, alone, autocast, compiled, ready, send, side_by_side
from synthbench.files import require_itself
from synthbench.models.encoder import save_weights
from synthbench.plugin import Context
from synthbench.seeds import numpy_generator, torch_generator
from synthbench.store import append, is_number, json_lines, writing
from synthbench.training.crew import ALONE, at_work, summed
from synthbench.training.ema import EMA
from synthbench.training.muon import Muon, is_matrix
from synthbench.types import UserError

if TYPE_CHECKING:
    from synthbench.data.faces import FaceSet

EVERY = 30.0  # seconds between two checkpoints
CHEAP = 0.6  # seconds to write one; one that takes longer is written as much more rarely, so that a fiftieth of the time goes into them
LOG_EVERY = 20  # steps between lines of metrics.jsonl
SMALL = 10_000_000  # parameters below which one thread updates them (as fast as two with 2.2 M; beyond that a guess)
LOOKS = 10  # of `watch`, evenly over a training
PART = 64  # images that go through a network at once on a GPU: fills an H100 at 112 px, and leaves room (see models/memory.py)

Batch = TypeVar("Batch", bound=tuple[Tensor, ...])
Beta = Annotated[float, Field(ge=0, lt=1)]
Warmup = Annotated[int | Annotated[float, Field(lt=1)], Field(ge=0, description="steps; below 1: share of the training")]
LrSchedule = Literal["constant", "cosine", "restarts"]
Losses = dict[str, Tensor]  # "loss" and its parts: scalars, each a line of the log

# -------------------------------------------------------------------------------------------------------------- the loop


class Optimization(Settings):
    """The part of a generator's `train` settings that says how its network is optimized."""

    late: ClassVar[tuple[str, ...]] = ("optimizer",)
    epochs: float = Field(10, gt=0)
    steps: int = Field(0, ge=0, description="0: epochs x images / batch_size")
    batch_size: int = Field(160, ge=1)
    lr: float = Field(1e-4, gt=0)
    lr_schedule: LrSchedule = "constant"
    warmup: Warmup = 0
    optimizer: Literal["adamw", "muon"] = Field("adamw", description="muon (ours): for matrices and convolutions; AdamW for the rest")
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    weight_decay: float = Field(0.01, ge=0)
    max_norm: float = Field(0.0, ge=0, description="gradients are clipped to this length; 0: not")
    ema_limit: float = Field(0.9999, ge=0, lt=1, description="highest decay of the weight average (DCFace)")
    precision: Literal["bf16", "fp32"] = Field("bf16", description="bf16 only where the device is CUDA")


class Unlabelled(Settings):
    """The part of the `train` settings of a generator that needs no labels, and so may learn from any photographs."""

    late: ClassVar[tuple[str, ...]] = ("faces", "skip_damaged")
    faces: tuple[str, ...] = Field(
        ("real",), min_length=1, description="sets learnt from: real, the protocol's real set, and registered sets of faces"
    )
    skip_damaged: bool = Field(False, description="leave out images of those that cannot be decoded; else the first of them ends the run")

    @field_validator("faces")
    @classmethod
    def _names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("a set is named twice")
        if paths := [name for name in names if "/" in name or "\\" in name]:
            raise ValueError(f"a set is named, not its path: `synthbench data add NAME {paths[0]} --kind faces`, then NAME here")
        return names


class Step(NamedTuple):
    """What a step may look at: it depends on the seed and the number of the step alone."""

    number: int  # from 0
    total: int
    rows: np.ndarray  # (batch_size,) images of the training set, in an order that is new in every epoch
    draw: torch.Generator  # on the CPU


def run(
    update: Callable[[Step], Losses],
    state: Mapping[str, Stateful],
    settings: Optimization,
    images: int,
    context: Context,
    who: str,
    out: Path | None = None,
    advice: str = "Lower train.lr, set train.max_norm=1 or train.precision=fp32",
) -> None:
    """Call `update` for every step of a training on `images` images; it does the step and answers its losses.

    `state` is all that a step changes: it is saved to checkpoint.pt about every half minute, and a killed training goes on from there to
    the same weights. Losses go to metrics.jsonl. Both lie in `out`, by default context.out; `finish` deletes the checkpoint once the
    weights are saved. Raises UserError with `advice` when a loss is not finite.
    """
    out = out or context.out
    log, checkpoint, first_process = out / "metrics.jsonl", out / "checkpoint.pt", at_work().rank == 0
    size, total = plan(settings, images)
    first = restore(checkpoint, state)
    cut_log(log, first)
    order, epoch = np.empty(0, np.int64), -1
    began = saved = time.monotonic()
    every = EVERY
    for step in range(first, total):
        if step * size // images != epoch:
            epoch = step * size // images
            order = np.concatenate([numpy_generator(context.seed, "order", e).permutation(images) for e in (epoch, epoch + 1)])
        start = step * size - epoch * images
        losses = update(Step(step, total, order[start : start + size], torch_generator(context.seed, "step", step)))
        done = step + 1
        context.progress(done, total)
        keep = first_process and time.monotonic() - saved > every
        if done % LOG_EVERY == 0 or done == total or keep:
            line = {name: round(value.item(), 6) for name, value in losses.items()}
            if not np.isfinite(list(line.values())).all():
                said = ", ".join(f"{name} {value}" for name, value in line.items())
                raise UserError(f"the training of {who} went wrong at step {done}: {said}. {advice}")
            rate = (done - first) * size / max(time.monotonic() - began, 1e-9)
            append(log, json.dumps({"step": done, **line, "images_per_second": round(rate, 1)}) + "\n")
        if keep and done < total:
            every = save(checkpoint, done, state)
            saved = time.monotonic()


def plan(settings: Optimization, images: int) -> tuple[int, int]:
    """(images of a step, steps) of a training on `images` images."""
    size = min(settings.batch_size, images)
    return size, settings.steps or max(1, round(settings.epochs * images / size))


class Learner:
    """A network that learns: its optimizers, the schedule of their learning rate, clipping, and the average of its weights."""

    def __init__(self, network: nn.Module, settings: Optimization, device: torch.device) -> None:
        self.network = ready(network, device)
        self.average = EMA(network, settings.ema_limit)
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.settings, self.device = settings, device
        self.small = sum(parameter.numel() for parameter in self.parameters) < SMALL
        matrices = [parameter for parameter in self.parameters if settings.optimizer == "muon" and is_matrix(parameter)]
        others = [parameter for parameter in self.parameters if not any(parameter is matrix for matrix in matrices)]
        adam = torch.optim.AdamW(others, settings.lr, settings.betas, weight_decay=settings.weight_decay, fused=True)
        self.optimizers: dict[str, torch.optim.Optimizer] = {"optimizer": adam}
        if matrices:
            self.optimizers["muon"] = Muon(matrices, settings.lr, weight_decay=settings.weight_decay)

    def learn(self, objective: Callable[[Batch], Losses], batch: Batch, step: Step, whole: bool = False) -> Losses:
        """One step on `batch`; see `gradients`."""
        settings = self.settings
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * lr_factor(settings.lr_schedule, settings.warmup, step.number, step.total)
        losses = gradients(objective, batch, self.parameters, settings.precision, whole)
        with alone(self.device) if self.small else nullcontext():
            if settings.max_norm:
                nn.utils.clip_grad_norm_(self.parameters, settings.max_norm)
            self.optimizers["optimizer"].step()
        if "muon" in self.optimizers:
            self.optimizers["muon"].step()  # has two threads of its own
        with alone(self.device) if self.small else nullcontext():
            self.average.update(self.network)
        return losses

    @property
    def state(self) -> dict[str, Stateful]:
        return {"network": self.network, "average": self.average, **self.optimizers}


def fit(
    network: nn.Module,
    batch: Callable[[Step], Batch],
    objective: Callable[[Batch], Losses],
    settings: Optimization,
    images: int,
    context: Context,
    who: str,
    out: Path | None = None,
    whole: bool = False,
    watch: Callable[[nn.Module], Losses] | None = None,
) -> nn.Module:
    """Train one network on a `batch`, on any device, for every step; see `run` and `gradients`. Answers the average of its weights.

    The network's forward pass is compiled, see `device.compiled`.
    watch: shown that average about LOOKS times in the training; what it answers joins the losses of the step in the log.
    """
    learner = Learner(network, settings, context.device)
    compiled(network, context.device)

    def update(step: Step) -> Losses:
        rows = batch(step)
        losses = learner.learn(objective, type(rows)(*(send(tensor, context.device) for tensor in rows)), step, whole)
        done, every = step.number + 1, LOG_EVERY * max(1, round(step.total / LOOKS / LOG_EVERY))
        return losses | watch(learner.average.model) if watch and (done % every == 0 or done == step.total) else losses

    run(update, learner.state, settings, images, context, who, out)
    return learner.average.model


def lr_factor(schedule: LrSchedule, warmup: float, step: int, total: int) -> float:
    """Factor on the learning rate at `step` of `total`: linear warm-up over `warmup` steps (a share of all below 1), then the schedule.

    `cosine`: half a cosine to zero; `restarts`: four of them, each twice as long as the one before (SGDR, 1608.03983).
    """
    warmup = round(warmup * total) if warmup < 1 else warmup
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    if schedule == "restarts":
        done = 1 + 15 * done  # the four begin at 1, 2, 4 and 8
        done = done / 2 ** int(math.log2(done)) - 1
    return 1.0 if schedule == "constant" else 0.5 * (1 + math.cos(math.pi * done))


# ---------------------------------------------------------------------------------------------------------------- batches


def pictures(faces: FaceSet, rows: np.ndarray, flip: bool, draw: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images `rows` of `faces` as (B, 3, R, R) in [-1, 1] on `device`, and which of them are turned over, see `mirror`."""
    turned = mirror(len(rows), flip, draw)
    return mirrored(plain(faces, rows, device), turned), turned


def plain(faces: FaceSet, rows: np.ndarray, device: torch.device) -> Tensor:
    """Images `rows` of `faces` as (B, 3, R, R) in [-1, 1] on `device`."""
    return send(faces.images(rows), device).float() / 127.5 - 1


def mirror(count: int, flip: bool, draw: torch.Generator) -> Tensor:
    """(count,) bool: which images are turned over, every second one by chance; without `flip` none."""
    return (torch.rand(count, generator=draw) < 0.5) & flip


def mirrored(x: Tensor, mirror: Tensor) -> Tensor:
    """x (B, C, H, W) with the images of `mirror` (B,) bool turned over."""
    return torch.where(send(mirror, x.device)[:, None, None, None], x.flip(3), x)


# ------------------------------------------------------------------------------------------------------------- gradients


def gradients(
    objective: Callable[[Batch], Losses], batch: Batch, parameters: Sequence[nn.Parameter], precision: str, whole: bool = False
) -> Losses:
    """Set `grad` of `parameters` for the loss of `batch`, a named tuple of tensors with one row per image.

    objective: batch -> {"loss": its mean over the images, and what else is worth a line in the log}, scalars; answered detached.
    The batch goes through in parts, see `parts`; `whole` forbids it. Processes that work on a stage together take a share of the batch
    each, and all have the gradient of the whole: equal to that of one process up to the order of a sum.
    """
    size, device, crew = len(batch[0]), batch[0].device, ALONE if whole else at_work()
    if size < crew.size:
        raise UserError(f"a batch of {size} images cannot be divided among {crew.size} processes; use fewer --devices")
    own = crew.part(size)
    share = own.stop - own.start
    count = 1 if whole else parts(share, device)

    def work(part: slice) -> tuple[Sequence[Tensor], Losses]:
        rows = type(batch)(*(tensor[part] for tensor in batch))
        weight = len(rows[0]) / size
        with autocast(device, precision):
            losses = objective(rows)
        found = torch.autograd.grad(losses["loss"] * weight, parameters)
        return found, {name: value.detach() * weight for name, value in losses.items()}

    total: Losses = {}
    cuts = [slice(own.start + share * i // count, own.start + share * (i + 1) // count) for i in range(count)]
    for number, (found, losses) in enumerate(side_by_side(work, cuts, device)):
        for parameter, gradient in zip(parameters, found, strict=True):
            parameter.grad = gradient if number == 0 or parameter.grad is None else parameter.grad.add_(gradient)
        total = {name: value + total.get(name, 0) for name, value in losses.items()}
    if crew.size > 1:
        told = torch.stack([value.float() for value in total.values()])
        summed([*(parameter.grad for parameter in parameters if parameter.grad is not None), told])
        total = dict(zip(total, told, strict=True))
    return total


def parts(size: int, device: torch.device) -> int:
    """Into how many parts a batch of `size` images is cut, the same on every machine: on a CPU two, which work side by side; elsewhere
    parts of at most PART images one after the other, so that memory holds what backwards needs of one part only."""
    return min(ABREAST, size) if device.type == "cpu" else -(-size // PART)


# ----------------------------------------------------------------------------------------------------------- checkpoints


class Stateful(Protocol):
    """A network, an optimizer, an EMA: anything whose state is a dict of tensors and plain data."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any, /) -> Any: ...


def save(path: Path, step: int, parts: Mapping[str, Stateful], fingerprint: str = "") -> float:
    """Write the state of `parts` after `step` steps to `path`, and answer after how many seconds to do so again.

    fingerprint: says what is being trained.
    """
    began = time.monotonic()
    state = {"step": step, "fingerprint": fingerprint} | {name: part.state_dict() for name, part in parts.items()}
    with writing(path) as temporary:
        torch.save(state, temporary)
    return EVERY * max(1.0, (time.monotonic() - began) / CHEAP)


def restore(path: Path, parts: Mapping[str, Stateful], fingerprint: str = "") -> int:
    """Load `path` into `parts` if it is there; the number of steps done.

    Raises UserError for a damaged file and for the state of another training.
    """
    if not path.exists():
        return 0
    try:
        if not path.is_file():  # a pipe would be waited for
            raise ValueError("it is no file")
        require_itself(path)
        with zipfile.ZipFile(path) as archive:  # torch compares no checksums
            if odd := archive.testzip():
                raise ValueError(f"{odd} is not as it was written")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["fingerprint"] == fingerprint:
            for name, part in parts.items():
                before = _settings(part)
                part.load_state_dict(state[name])
                _require_fit(part, before)
            if type(state["step"]) is not int or state["step"] < 0:
                raise ValueError("its number of steps is none")
            return state["step"]
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UserError(f"{path} is damaged ({error}); delete it to start afresh") from None
    raise UserError(f"{path} belongs to a training with another recipe, seed or set; delete it to start afresh")


def _settings(part: Stateful) -> list[dict[str, Any]]:
    """What an optimizer was made with; its rate of learning changes."""
    groups = part.param_groups if isinstance(part, torch.optim.Optimizer) else []
    return [{name: value for name, value in group.items() if name not in ("params", "lr")} for group in groups]


def _require_fit(part: Stateful, before: list[dict[str, Any]]) -> None:
    """Raises ValueError for what an optimizer or an average would load without a word, and fail of later or go on from otherwise.

    The settings of an optimizer are those `before`, its state is of the shapes of its parameters, and of a parameter that has one (others
    never had a gradient) all is there that is kept of any.
    """
    if isinstance(part, EMA) and (type(part.updates) is not int or part.updates < 0):
        raise ValueError("an average of no number of updates")
    if not isinstance(part, torch.optim.Optimizer):
        return
    if _settings(part) != before or not all(isinstance(group["lr"], float | int) for group in part.param_groups):
        raise ValueError("an optimizer of other settings")
    keeps = any(group.get("betas") or group.get("momentum") for group in before)
    names = {name for kept in part.state.values() for name in kept}
    if any(kept.keys() != names or (keeps and None in kept.values()) for kept in part.state.values()):
        raise ValueError("an optimizer that lacks a part of its state")
    for parameter, kept in part.state.items():
        if not all(value is None or (isinstance(value, Tensor) and value.shape in (parameter.shape, ())) for value in kept.values()):
            raise ValueError("the state of an optimizer is of another network")
        if not float(kept.get("step", 1)) >= 1:  # torch makes a tensor of any number, and divides by what follows from it
            raise ValueError("an optimizer of no number of steps")


def cut_log(path: Path, step: int) -> None:
    """Drop the lines of metrics.jsonl that come after `step`, and a torn last one."""
    if path.exists():
        lines = (line for line in json_lines(path) if is_number(line.get("step")) and line["step"] <= step)
        with writing(path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


def finish(module: nn.Module, weights: Path, *scratch: str) -> None:
    """Save `weights`, then delete what is not needed any more, see `finished`."""
    save_weights(module, weights)
    finished(weights, *scratch)


def finished(weights: Path, *scratch: str) -> bool:
    """Whether `weights` are there; then the checkpoint and the `scratch` files beside them, which a kill may have left, are deleted."""
    if not weights.exists():
        return False
    for name in ("checkpoint.pt", *scratch):
        (weights.parent / name).unlink(missing_ok=True)
    return True
