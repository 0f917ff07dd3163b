"""Muon: momentum whose every matrix is made orthogonal (Jordan 2024; with AdamW's step length as in Liu et al., arXiv 2502.16982, Eq. 4).

torch has it for matrices alone; here a convolution (out, in, h, w) counts as the matrix (out, in h w), which a UNet is made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from synthbench.device import ABREAST, side_by_side

QUINTIC = (3.4445, -4.7750, 2.0315)  # of Newton and Schulz's iteration: singular values go to 0.7..1.2 in five steps, which is near enough
LEAST = 16  # rows and columns that make a matrix: what is smaller is left to AdamW


class Muon(torch.optim.Optimizer):
    """Steps of `lr` x 0.2 sqrt(longer side), so that an entry moves as far as under AdamW with the same `lr`."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            moved.sort(key=lambda parameter: sorted(as_matrix(parameter).shape))
            if moved:
                shares = [moved[i::ABREAST] for i in range(ABREAST)]  # alike in work
                list(side_by_side(partial(self._move, group=group), shares, moved[0].device))

    @torch.no_grad()
    def _move(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        if not parameters:
            return
        gradients = [gradient for parameter in parameters if (gradient := parameter.grad) is not None]
        momenta = [self.state[parameter].setdefault("momentum", torch.zeros_like(parameter)) for parameter in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov's
        for parameter, update in zip(parameters, orthogonal([as_matrix(each) for each in ahead]), strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(from_matrix(update, parameter), alpha=-group["lr"] * 0.2 * max(update.shape) ** 0.5)


def as_matrix(parameter: Tensor) -> Tensor:
    """A convolution (out, in, h, w) as (out, h w in), without a copy where it is in channels_last layout; a matrix as itself."""
    return parameter.movedim(1, -1).flatten(1)


def from_matrix(matrix: Tensor, like: Tensor) -> Tensor:
    return matrix.unflatten(1, (*like.shape[2:], -1)).movedim(-1, 1)


def orthogonal(matrices: Sequence[Tensor]) -> list[Tensor]:
    """About U V' of every matrix = U S V' (rows, columns), by products alone.

    Newton and Schulz's iteration multiplies x by polynomials of its Gram matrix x x'. All of these commute, so they are multiplied with
    each other first, which is small where x is wide, and with x once: less than half of the work for a convolution. Gram matrices of one
    size go through the iteration together. A tall x is multiplied from its other side, with polynomials of x' x.
    """
    tall = [matrix.shape[0] > matrix.shape[1] for matrix in matrices]
    sizes: dict[int, list[int]] = {}
    for i, matrix in enumerate(matrices):
        sizes.setdefault(min(matrix.shape), []).append(i)
    found: dict[int, Tensor] = {}
    for same in sizes.values():
        gram = torch.stack([matrices[i].T @ matrices[i] if tall[i] else matrices[i] @ matrices[i].T for i in same])
        length = gram.diagonal(dim1=1, dim2=2).sum(1).sqrt()[:, None, None] + 1e-7  # of x, which is worked on as x / length
        for i, product in zip(same, polynomial(gram / length.square()) / length, strict=True):
            found[i] = matrices[i] @ product if tall[i] else product @ matrices[i]
    return [found[i] for i in range(len(matrices))]


def polynomial(gram: Tensor, steps: int = 5) -> Tensor:
    """What `steps` steps multiply the matrices by whose Gram matrices are `gram` (B, n, n)."""
    a, b, c = QUINTIC

    def factor(gram: Tensor) -> Tensor:
        found = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        found.diagonal(dim1=1, dim2=2).add_(a)
        return found

    product = step = factor(gram)
    for _ in range(steps - 1):
        gram = step @ gram @ step
        step = factor(gram)
        product = step @ product
    return product


def is_matrix(parameter: Tensor) -> bool:
    return parameter.ndim > 1 and min(parameter.flatten(1).shape) >= LEAST
