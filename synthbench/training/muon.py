"""Muon: momentum whose every matrix is made orthogonal (Jordan 2024; with AdamW's step length as in Liu et al., arXiv 2502.16982, Eq. 4).

torch has it for matrices alone; here a convolution (out, in, h, w) counts as the matrix (out, in h w), which a UNet is made of.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

QUINTIC = (3.4445, -4.7750, 2.0315)  # of Newton and Schulz's iteration: singular values go to 0.7..1.2 in five steps, which is near enough
LEAST = 16  # rows and columns that make a matrix: what is smaller is left to AdamW


class Muon(torch.optim.Optimizer):
    """Steps of `lr` x 0.2 sqrt(longer side), so that an entry moves as far as under AdamW with the same `lr`."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if (gradient := parameter.grad) is None:
                    continue
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                momentum.lerp_(gradient, 1 - group["momentum"])
                ahead = torch.lerp(gradient, momentum, group["momentum"])  # Nesterov's
                update = orthogonal(ahead.flatten(1)).view_as(ahead)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * 0.2 * max(ahead.flatten(1).shape) ** 0.5)


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """About U V' of matrix = U S V' (rows, columns), by products alone.

    Every step multiplies x by a polynomial of its Gram matrix x x'. All of these commute, so they are multiplied with each other first,
    which is small where x is wide, and with x once: less than half of the work for a convolution.
    """
    a, b, c = QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).contiguous()
    x = x / (x.norm() + 1e-7)
    gram, product = x @ x.T, None
    for step in range(steps):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        product = factor if product is None else factor @ product
        if step < steps - 1:
            gram = factor @ gram @ factor
    x = product @ x
    return x.T if tall else x


def is_matrix(parameter: Tensor) -> bool:
    return parameter.ndim > 1 and min(parameter.flatten(1).shape) >= LEAST
