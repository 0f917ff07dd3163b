"""Identities as points on the hypersphere of embeddings: new ones drawn at random, and images of one spread around it (IDperturb).

For generators that are conditioned on the direction of a face embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from synthbench import console
from synthbench.inquiries import BLOCK, choose
from synthbench.seeds import torch_generator
from synthbench.store import write_json, writing
from synthbench.types import Context, UserError


def enroll(count: int, threshold: float, tries: int, context: Context) -> None:
    """Write `count` directions drawn uniformly into context.out: codes.safetensors (count, dim), unit vectors, and enroll.json.

    Candidates come in a fixed order and each is kept when its cosine to all kept before is below `threshold`, so the first k of n are the
    same k. There are no inquiry images. Raises UserError when of tries x count candidates too few fit.
    """
    dim, limit = context.encoder.dim, -(-tries * count // BLOCK) * BLOCK
    kept, n, tried = torch.empty(count, dim), 0, 0
    while n < count and tried < limit:
        draw = torch_generator(context.seed, "direction", tried // BLOCK)
        unit = F.normalize(torch.randn(BLOCK, dim, generator=draw), dim=1)
        chosen = choose(unit, kept[:n], threshold, count - n)
        kept[n : n + len(chosen)] = unit[chosen]
        n += len(chosen)
        tried += BLOCK if n < count else int(chosen[-1]) + 1
        context.progress(n, count)
    if n < count:
        raise UserError(
            f"enroll.source uniform: of {tried:,} directions in {dim} dimensions {n:,} fit with every two below cosine {threshold}, but "
            f"{count:,} identities are wanted. Ask for a volume of at most {n:,} identities, or raise enroll.threshold or enroll.tries"
        )
    console.note(f"directions: {tried:,} tried, {n:,} kept (pairwise cosine below {threshold})")
    with writing(context.out / "codes.safetensors") as temporary:
        save_file({"codes": kept}, temporary)
    write_json(context.out / "enroll.json", {"source": "uniform", "tried": tried, "kept": n, "threshold": threshold})


def half(cosine: float) -> float:
    """Cosine of half the angle whose cosine is given."""
    return ((1 + max(-1.0, min(1.0, cosine))) / 2) ** 0.5


def perturb(unit: Tensor, lowest: float, draws: Sequence[torch.Generator]) -> Tensor:
    """IDperturb (arXiv 2602.18831): unit vectors (B, dim) turned by a random angle in a random direction, on the CPU.

    cos(theta) v + sin(theta) u with u a random unit vector orthogonal to v and cos(theta) uniform in [lowest, 1]; one stream per row.
    With lowest = half(cosine to the nearest other identity), or more, an image stays nearer to its own identity than to any other. That
    cosine is at most the threshold with which identities were enrolled, a bound that holds however many more are enrolled.
    """
    cosine = torch.stack([torch.rand(1, generator=draw) for draw in draws]) * (1 - lowest) + lowest  # (B, 1)
    noise = torch.stack([torch.randn(unit.shape[1], generator=draw) for draw in draws])
    sideways = F.normalize(noise - (noise * unit).sum(1, keepdim=True) * unit, dim=1)
    return cosine * unit + (1 - cosine.square()).clamp(min=0).sqrt() * sideways
