"""Perturbations that are learnt: a flow proposes in which direction other images of the same person lie (FaceFlow-style).

IDperturb turns the embedding of an identity in any direction; the images of one person lie in few. FaceFlow (2026) learns them from pairs
of embeddings of one person. That much is published; the rest is ours. A small network carries IDperturb's random direction u at an
embedding v to one that images of the person of v take (flow matching, Lipman et al., arXiv 2210.02747), told v and the cosine to it. The
cosine itself is drawn from those of the pairs that are as alike as is asked for. The network learns from the protocol's real set, in
seconds on a CPU, when a set is generated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synthbench import console
from synthbench.data.faces import FaceSet
from synthbench.identities import hypersphere
from synthbench.models.encoder import Encoder, fill, raw_embeddings, read_tensors
from synthbench.plugin import Context
from synthbench.seeds import derive, torch_generator
from synthbench.training import crew, loop
from synthbench.types import Slot, UserError

FOLDER = "flow"  # in the folder of the generate stage
IMAGES = 20_000  # of the real set that are embedded, at most, whole people
TRAINING = loop.Optimization(
    steps=600, batch_size=256, lr=2e-3, lr_schedule="cosine", warmup=20, weight_decay=0.0, max_norm=1.0, ema_limit=0.99
)
WIDTH = 256  # of a hidden layer
STEPS = 8  # of the midpoint rule from a random direction to a proposed one
QUANTILES = 1001  # of the cosines of pairs that are kept
Turn = Callable[[Tensor, Sequence[Slot]], Tensor]  # codes (B, dim) of slots -> what is told of them (B, dim), on the CPU


def turning(directions: hypersphere.Directions, lowest: float | hypersphere.Bounds, encoder: Encoder | None, context: Context) -> Turn:
    """What is told of an identity in each slot: its code, turned in `directions`.

    lowest: of the cosine to the code; 1: the very code. encoder: of the embeddings that the codes are, for a flow, which is learnt here.
    """
    if directions == "flow":
        assert encoder is not None and isinstance(lowest, float)
        network, least = learnt(encoder, context), lowest
        return lambda codes, slots: network.turned(codes, [torch_generator(context.seed, "perturb", *slot) for slot in slots], least)

    def turn(codes: Tensor, slots: Sequence[Slot]) -> Tensor:
        bound = lowest if isinstance(lowest, float) else lowest([slot.identity for slot in slots])
        return hypersphere.perturb(codes, slots, bound, context.seed)

    return turn


# --------------------------------------------------------------------------------------------------------------- network


class Flow(nn.Module):
    """Directions at unit vectors (B, dim): estimates where the path ends that a direction is on.

    The paths are x_t = (1 - t) x_0 + t x_1 from a random direction to that of another image, both of length sqrt(dim), and the velocity at
    x is (x_1 - x) / (1 - t): optimal transport in arXiv 2210.02747, Eq. 21, with sigma_min = 0. The network estimates x_1 and not that, so
    that directions in which no image lies need no room in it.
    cosines: a buffer (QUANTILES,), of pairs, from the lowest to the highest.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.enter = nn.Linear(2 * dim + 6, WIDTH)
        self.between = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.leave = nn.Linear(WIDTH, dim)
        self.register_buffer("cosines", torch.zeros(QUANTILES))
        self.cosines: Tensor

    def forward(self, x: Tensor, t: Tensor, unit: Tensor, cosine: Tensor) -> Tensor:
        """x (B, dim) at t (B,) of its path, at `unit` (B, dim), where the image has `cosine` (B,) to it -> x_1 (B, dim)."""
        angle = torch.pi * t[:, None]
        waves = [t[:, None], angle.sin(), angle.cos(), (2 * angle).sin(), (2 * angle).cos()]
        hidden = F.silu(self.enter(torch.cat([x, unit * unit.shape[1] ** 0.5, cosine[:, None], *waves], 1)))
        for layer in self.between:
            hidden = hidden + F.silu(layer(hidden))
        return across(self.leave(hidden), unit)

    def directions(self, unit: Tensor, cosine: Tensor, noise: Tensor) -> Tensor:
        """Unit directions (B, dim) orthogonal to `unit` (B, dim), from `noise` (B, dim), normally distributed."""
        x = start(noise, unit)
        for step in range(STEPS):
            t, half = torch.full_like(cosine, step / STEPS), 0.5 / STEPS
            middle = x + half * self._velocity(x, t, unit, cosine)
            x = x + 2 * half * self._velocity(middle, t + half, unit, cosine)
        return F.normalize(x, dim=1)

    def _velocity(self, x: Tensor, t: Tensor, unit: Tensor, cosine: Tensor) -> Tensor:
        return (self(x, t, unit, cosine) - x) / (1 - t[:, None])

    @torch.inference_mode()
    def turned(self, codes: Tensor, draws: Sequence[torch.Generator], lowest: float) -> Tensor:
        """Codes (B, dim) of any length, each turned to where another image of the person may lie; its length stays. Float32, on the CPU.

        The cosine is drawn from those of the pairs that have `lowest` at least; it is `lowest` where none has. In double precision:
        the last bits of a product of matrices depend on the neighbours of a slot, and are rounded away.
        """
        first, last = int(torch.searchsorted(self.cosines, lowest).clamp(max=QUANTILES - 1)), QUANTILES - 1
        quantile = first + (last - first) * torch.stack([torch.rand((), generator=draw) for draw in draws]).double()
        noise = torch.stack([torch.randn(codes.shape[1], generator=draw) for draw in draws]).double()
        low = quantile.long().clamp(max=last - 1)
        cosine = torch.lerp(self.cosines[low], self.cosines[low + 1], quantile - low).clamp(min=lowest)
        length = codes.double().norm(dim=1, keepdim=True)
        unit = codes.double() / length
        sideways = self.directions(unit, cosine, noise)
        return (length * (cosine[:, None] * unit + (1 - cosine.square()).clamp(min=0).sqrt()[:, None] * sideways)).float()


def across(x: Tensor, unit: Tensor) -> Tensor:
    """The part of x (B, dim) that is orthogonal to `unit` (B, dim)."""
    return x - (x * unit).sum(1, keepdim=True) * unit


def start(noise: Tensor, unit: Tensor) -> Tensor:
    """IDperturb's random directions at `unit`, of length sqrt(dim)."""
    return F.normalize(across(noise, unit), dim=1) * unit.shape[1] ** 0.5


# -------------------------------------------------------------------------------------------------------------- training


class Batch(NamedTuple):
    """What one step sees: unit, another (B, dim), embeddings of one person; t (B,); noise (B, dim)."""

    unit: Tensor
    another: Tensor
    t: Tensor
    noise: Tensor


def objective(network: Flow, batch: Batch) -> loop.Losses:
    """Flow matching: the squared error of x_1, the direction in which the other image lies."""
    unit, another, t, noise = batch
    cosine, width = (unit * another).sum(1), unit.shape[1] ** 0.5
    x1 = F.normalize(across(another, unit), dim=1) * width
    x = torch.lerp(start(noise, unit), x1, t[:, None])
    return {"loss": (network(x, t, unit, cosine) - x1).square().mean()}


def partners(person: Tensor) -> Callable[[Tensor, torch.Generator], Tensor]:
    """For rows (B,) of images of `person` (N,), ascending: of each another image of the same person, all others equally often."""
    counts = torch.unique_consecutive(person, return_counts=True)[1]
    size, first = counts.repeat_interleave(counts), (counts.cumsum(0) - counts).repeat_interleave(counts)

    def drawn(rows: Tensor, draw: torch.Generator) -> Tensor:
        ahead = (torch.rand(len(rows), generator=draw) * (size[rows] - 1)).long() + 1
        return first[rows] + (rows - first[rows] + ahead) % size[rows]

    return drawn


def learn(unit: Tensor, person: Tensor, context: Context) -> Flow:
    """The flow of unit embeddings (N, dim) of images of `person` (N,), in ascending order, at least two of each; into context.out."""
    torch.manual_seed(derive(context.seed, "weights"))
    network, other = Flow(unit.shape[1]), partners(person)

    def batch(step: loop.Step) -> Batch:
        rows, draw = torch.from_numpy(step.rows), step.draw
        another = unit[other(rows, draw)]
        return Batch(unit[rows], another, torch.rand(len(rows), generator=draw), torch.randn(another.shape, generator=draw))

    everybody, draw = torch.arange(len(unit)), torch_generator(context.seed, "cosines")
    cosine = torch.cat([(unit * unit[other(everybody, draw)]).sum(1) for _ in range(-(-QUANTILES * 10 // len(unit)))])
    network.cosines.copy_(torch.quantile(cosine, torch.linspace(0, 1, QUANTILES)).clamp(-1, 1))
    average = loop.fit(network, batch, lambda part: objective(network, part), TRAINING, len(unit), context, "the flow of sample.directions")
    loop.finish(average, context.out / "weights.safetensors")
    return average  # type: ignore[return-value]


def learnt(encoder: Encoder, context: Context) -> Flow:
    """The flow of the real set's embeddings by `encoder`, in double precision on the CPU. It is learnt once, into `flow/` of context.out.

    Processes that make a set together take that of the first. Raises UserError when no two images of the real set are of one person.
    """
    network, tensors, at_work = Flow(encoder.dim).double(), None, crew.at_work()
    if at_work.rank == 0:
        with crew.alone():
            weights = context.out / FOLDER / "weights.safetensors"
            if not loop.finished(weights):
                weights.parent.mkdir(parents=True, exist_ok=True)
                console.note("sample.directions=flow: learning how the real set's people vary")
                rows = chosen(context.faces)
                unit = F.normalize(torch.from_numpy(raw_embeddings(encoder, context.faces, rows=rows)).float(), dim=1)
                apart = replace(context, out=weights.parent, seed=derive(context.seed, FOLDER), device=torch.device("cpu"))
                learn(unit, torch.from_numpy(context.faces.identity[rows]), replace(apart, progress=lambda done, total: None))
            fill(network, tensors := read_tensors(weights), weights)
    if at_work.size > 1:
        network.load_state_dict(crew.told(tensors))
    return network.eval().requires_grad_(False)


def chosen(faces: FaceSet) -> np.ndarray:
    """Rows of whole people with two images or more, person by person: all, or evenly so many that they have about IMAGES images."""
    people, counts = np.unique(faces.identity, return_counts=True)
    people = people[(counts > 1) & (people >= 0)]
    if not len(people):
        raise UserError(
            "sample.directions=flow learns from pairs of images of one person, but in the real set no person has two. Give another set, "
            "or set sample.directions=any"
        )
    order = np.argsort(faces.identity, kind="stable")
    order = order[np.isin(faces.identity[order], people)]
    if len(order) > IMAGES:
        some = people[np.unique(np.linspace(0, len(people) - 1, max(2, len(people) * IMAGES // len(order))).round().astype(np.int64))]
        order = order[np.isin(faces.identity[order], some)]
    return order
