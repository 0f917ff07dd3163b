"""Identities as points on the hypersphere of embeddings: new ones drawn at random, and images of one spread around it (IDperturb).

For generators that are conditioned on the direction of a face embedding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from synthbench import console
from synthbench.identities.inquiries import BLOCK, choose, save
from synthbench.models.encoder import read_tensors
from synthbench.plugin import Context
from synthbench.seeds import torch_generator
from synthbench.types import Slot, UserError

BOUND: float = Field(  # the setting sample.perturb
    1.0,
    ge=0,
    le=1,
    description="IDperturb: lowest cosine of what is told to the identity, half the angle of enroll.threshold at most; 1: off",
)
Directions = Literal["any", "flow"]
DIRECTIONS: Directions = Field(  # the setting sample.directions
    "any",
    description="in which sample.perturb turns; flow: those of images of one person, learnt on the real set, with the cosines of these "
    "from sample.perturb on, as it is given (FaceFlow-style)",
)
COMPARED = 1024  # vectors compared at a time
Draw = Callable[[torch.Generator], Tensor]  # (BLOCK, dim) vectors of any length


def enroll(
    count: int, threshold: float, tries: int, context: Context, dim: int | None = None, draw: Draw | None = None, source: str = "uniform"
) -> None:
    """Write `count` directions into context.out: codes.safetensors (count, dim), unit vectors, and enroll.json.

    They are drawn uniformly in the `dim` of the encoder, or by `draw`, which `source` names in messages.
    Candidates come in a fixed order and each is kept when its cosine to all kept before is below `threshold`, so the first k of n are the
    same k. There are no inquiry images. Raises UserError when of tries x count candidates too few fit.
    """
    dim, limit = dim or context.encoder.dim, -(-tries * count // BLOCK) * BLOCK
    kept, n, tried = torch.empty(count, dim), 0, 0
    while n < count and tried < limit:
        stream = torch_generator(context.seed, "direction", tried // BLOCK)
        unit = F.normalize(draw(stream) if draw else torch.randn(BLOCK, dim, generator=stream), dim=1)
        chosen = choose(unit, kept[:n], threshold, count - n)
        kept[n : n + len(chosen)] = unit[chosen]
        n += len(chosen)
        tried += BLOCK if n < count else int(chosen[-1]) + 1
        context.progress(n, count)
    if n < count:
        raise UserError(
            f"enroll.source {source}: of {tried:,} directions in {dim} dimensions {n:,} fit with every two below cosine {threshold}, but "
            f"{count:,} identities are wanted. Ask for a volume of at most {n:,} identities, or raise enroll.threshold or enroll.tries"
        )
    console.note(f"directions: {tried:,} tried, {n:,} kept (pairwise cosine below {threshold})")
    save(kept, context.out, source=source, tried=tried, kept=n, threshold=threshold)


def lowest(lb: float, threshold: float, directions: Directions = "any") -> float:
    """Lowest cosine of a perturbed embedding to its identity: `lb`, raised to half the angle between the nearest two identities.

    IDperturb takes each identity's own nearest other, which changes when more are enrolled, and with it every image. `threshold`, the
    highest cosine with which identities are enrolled, is never below that and does not change. Raises ValueError when it is 1.
    Along directions of a flow, which are rarely those to another identity, it is `lb` itself. Raises ValueError when that turns nothing.
    """
    if directions == "flow":
        if lb == 1:
            raise ValueError(
                "sample.directions=flow turns nothing while sample.perturb is 1: set the lowest cosine, such as sample.perturb=0.6"
            )
        return lb
    if lb < 1 and threshold >= 1:
        raise ValueError("sample.perturb keeps an image nearer to its identity than to others: set enroll.threshold below 1, such as 0.3")
    return max(lb, ((1 + threshold) / 2) ** 0.5)  # cosine of half an angle


class Bounds:
    """IDperturb's lowest cosines to unit codes (n, D): half the angle to the nearest other prototype, however many codes are enrolled."""

    def __init__(self, codes: Tensor, prototypes: Path, lowest: float) -> None:
        """lowest: of all; 1: IDperturb is off, and the file `prototypes` (n + k, D) is not looked at."""
        self.codes, self.lowest = codes, lowest
        self.prototypes = read_tensors(prototypes)["prototypes"] if lowest < 1 else codes
        self.bound = functools.cache(self._bound)

    def __call__(self, identities: Sequence[int]) -> Tensor:
        return torch.tensor([self.bound(identity) for identity in identities])

    def _bound(self, identity: int) -> float:
        if self.lowest == 1:
            return 1.0
        cosine = self.prototypes @ self.codes[identity]
        nearest = cosine[cosine <= 1 - 1e-6].max()  # other than the code itself
        return float(((1 + nearest) / 2).sqrt().clamp(min=self.lowest))


def perturb(codes: Tensor, slots: Sequence[Slot], lowest: float | Tensor, seed: int) -> Tensor:
    """IDperturb (arXiv 2602.18831): the identities' embeddings (B, dim), each turned as its slot says; on the CPU.

    lowest: of the cosine to the identity; one, or (B,). 1 is off: the very codes.
    """
    bounds = torch.as_tensor(lowest).expand(len(codes)).tolist()
    if min(bounds) == 1:
        return codes
    streams = (torch_generator(seed, "perturb", *slot) for slot in slots)
    return torch.stack([turned(*each) for each in zip(codes, bounds, streams, strict=True)])


def turned(code: Tensor, lowest: float, draw: torch.Generator) -> Tensor:
    """An embedding (dim,) turned in a random direction by a random angle, whose cosine is uniform in [lowest, 1]; its length stays.

    v becomes cos(theta) v + sin(theta) u, with u a random unit vector orthogonal to v.
    """
    cosine = lowest + (1 - lowest) * torch.rand((), generator=draw)
    length = code.norm()
    unit = code / length
    noise = torch.randn(code.shape, generator=draw)
    sideways = F.normalize(noise - (noise @ unit) * unit, dim=0)
    return length * (cosine * unit + (1 - cosine.square()).sqrt() * sideways)


class Cosines(NamedTuple):
    mean: float
    std: float
    highest: float


def cosines(a: Tensor, b: Tensor, same: bool = False) -> Cosines:
    """Of unit vectors (n, D) and (m, D), all pairs; `same`: b is a, and a vector is not compared with itself."""
    total, squares, highest = 0.0, 0.0, -1.0
    for first in range(0, len(a), COMPARED):
        found = a[first : first + COMPARED] @ b.T
        if same:
            found.diagonal(first).fill_(-1)
        highest = max(highest, found.max().item())
        if same:
            found.diagonal(first).fill_(0)
        total += found.sum(1).cpu().double().sum().item()
        squares += found.square_().sum(1).cpu().double().sum().item()
    count = len(a) * (len(b) - same)
    return Cosines(total / count, max(0.0, squares / count - (total / count) ** 2) ** 0.5, highest)
