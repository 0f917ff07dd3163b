"""DCFace's style encoder (arXiv 2304.07060): statistics of early face features in a grid of patches, as tokens.

Mean and spread of features hold light, contrast, colour and sharpness, as in style transfer; the grid tells where: pose and expression.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synthbench.types import UserError

Statistic = Literal["official", "variance"]


class StyleEncoder(nn.Module):
    """E_sty: early features (B, C, s, s) of the frozen encoder -> (B, 1 + k k, width), a token for the whole image and for each patch."""

    def __init__(self, channels: int, side: int, width: int, grid: int, statistic: Statistic, dropout: float) -> None:
        super().__init__()
        if side < grid:
            raise UserError(f"train.grid {grid} is finer than the encoder's first feature map, {side} x {side}; use at most {side}")
        self.grid, self.statistic, self.dropout = grid, statistic, dropout
        self.channels, self.side = channels, side // grid * grid  # 55 of 56 at 112 px for 5 x 5
        self.mix = nn.Sequential(nn.PReLU(), nn.Conv2d(channels, width, 1))
        self.norm = nn.BatchNorm2d(width)
        self.weight = nn.Parameter(torch.full((width, 2), 0.5))
        self.position = nn.Parameter(waves(1 + grid**2, width))
        self.last = nn.LayerNorm(width)

    def keep(self, count: int, draw: torch.Generator, device: torch.device) -> Tensor:
        """What dropout leaves of the features of `count` images in training, (count, C, side, side) bool; drawn on the device."""
        generator = torch.Generator(device).manual_seed(int(torch.randint(2**62, (1,), generator=draw)))
        shape = (count, self.channels, self.side, self.side)
        return torch.rand(shape, generator=generator, device=device) >= self.dropout

    def forward(self, features: Tensor, keep: Tensor | None = None) -> Tensor:
        """keep: in training, from `keep`; the batch norm then uses the statistics of the batch, without it those of `settle`."""
        x, norm = self.mixed(features, keep), self.norm
        given = (None, None) if keep is not None else (norm.running_mean, norm.running_var)
        x = F.batch_norm(x, *given, norm.weight, norm.bias, keep is not None, eps=norm.eps)
        return self.last((statistics(x.float(), self.grid, self.statistic) * self.weight).sum(-1) + self.position)

    def mixed(self, features: Tensor, keep: Tensor | None) -> Tensor:
        x = F.interpolate(features, (self.side, self.side))
        return self.mix(x if keep is None else x * keep / (1 - self.dropout))

    @torch.no_grad()
    def settle(self, features: Tensor, keep: Tensor) -> None:
        """Take the batch norm's mean and variance from `features`, with dropout as in training, which makes the variance larger.

        Once, after training: they then fit the averaged weights.
        """
        variance, mean = torch.var_mean(self.mixed(features, keep), (0, 2, 3))
        self.norm.running_mean.copy_(mean)  # type: ignore[union-attr]
        self.norm.running_var.copy_(variance)  # type: ignore[union-attr]


def statistics(x: Tensor, k: int, statistic: Statistic) -> Tensor:
    """(B, C, s, s) -> (B, 1 + k k, C, 2): E[x] and `statistic` of the whole and of each patch, row by row. s is a multiple of k."""
    pooled = [
        torch.cat([values.mean((2, 3))[:, None], F.avg_pool2d(values, x.shape[-1] // k).flatten(2).transpose(1, 2)], dim=1)
        for values in (x, x.square())
    ]
    mean, square = pooled
    return torch.stack([mean, mean - square if statistic == "official" else square - mean.square()], dim=-1)


def waves(count: int, width: int) -> Tensor:
    """(count, width): sines and cosines of the position (Vaswani et al., 1706.03762, section 3.5) less 0.5, where positions start."""
    rate = 10_000 ** (-torch.arange(0, width, 2) / width)
    angle = torch.arange(count)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)[:, :width] - 0.5
