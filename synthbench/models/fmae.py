"""The feature masked autoencoder of Vec2Face (Wu et al., ICLR 2025, arXiv 2409.02979) and its discriminator.

A face-recognition feature is spread over a grid of rows, some rows are masked, a transformer fills them in, and convolutions paint the
image from the rows. No pixels enter the network. Widths and details are those of the authors' code, which is derived from MAGE.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from synthbench.config import Settings
from synthbench.device import fp32
from synthbench.models.attention import attended
from synthbench.types import UserError


class Shape(Settings):
    """The shape of the network. Defaults: the base model of Vec2Face, 7 x 7 rows at 112 px."""

    width: int = Field(768, ge=1, description="of a row")
    depth: int = Field(12, ge=1, description="blocks of the encoder")
    heads: int = Field(12, ge=1)
    decoder_depth: int = Field(8, ge=1)
    decoder_heads: int = Field(16, ge=1)
    mlp_ratio: float = Field(4.0, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1, description="of attention weights, projections and hidden units")
    latent: int = Field(256, ge=1, description="channels of the map that the image is painted from")
    channels: int = Field(128, ge=1, description="of the image decoder at full size")
    multipliers: tuple[PositiveInt, ...] = Field(
        (1, 1, 2, 2, 4),
        min_length=1,
        description="of the levels, in units of `channels`, fine to coarse; each level halves the last",
    )
    blocks: int = Field(2, ge=1, description="residual blocks of a level")
    groups: int = Field(32, ge=1, description="groups of GroupNorm")

    @model_validator(mode="after")
    def _divisible(self) -> Shape:
        for name, heads in (("heads", self.heads), ("decoder_heads", self.decoder_heads)):
            if self.width % heads:
                raise ValueError(f"width {self.width} is not a multiple of {name} {heads}")
        if self.channels % self.groups:
            raise ValueError(f"channels {self.channels} is not a multiple of groups {self.groups}")
        return self


class Mask(Settings):
    """Share of rows masked: a normal distribution cut to low..high. The first `low` of them do not even enter the encoder."""

    low: float = Field(0.5, ge=0, le=1)
    high: float = Field(1.0, ge=0, le=1)
    mean: float = 0.75
    std: float = Field(0.25, gt=0)

    @model_validator(mode="after")
    def _range(self) -> Mask:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self

    def ratio(self, uniform: Tensor) -> Tensor:
        """The ratio at quantiles `uniform` in [0, 1)."""
        low, high = (torch.special.ndtr(torch.tensor((end - self.mean) / self.std)) for end in (self.low, self.high))
        return (self.mean + self.std * torch.special.ndtri(low + uniform * (high - low))).clamp(self.low, self.high)


class Dropout:
    """Zeros from a stream of its own, so that they depend on the step alone and not on which thread works first. No seed: none."""

    def __init__(self, p: float, seed: int | None, device: torch.device) -> None:
        self.p = p if seed is not None else 0.0
        self.stream = torch.Generator(device).manual_seed(seed) if seed is not None and p else None

    def __call__(self, x: Tensor) -> Tensor:
        if self.stream is None:
            return x
        return x * (torch.rand(x.shape, generator=self.stream, device=x.device) >= self.p) / (1 - self.p)


class Block(nn.Module):
    """A pre-norm transformer block; attention in fp32, as in the authors' code."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.hidden = nn.Linear(width, int(width * mlp_ratio))
        self.back = nn.Linear(int(width * mlp_ratio), width)

    def forward(self, x: Tensor, drop: Dropout) -> Tensor:
        b, n, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        with fp32(x.device):
            q, k, v = q.float(), k.float(), v.float()
            if drop.stream is None:  # torch's own, in which an image does not round by its neighbours
                y = attended(q, k, v)
            else:
                weights = (q @ k.transpose(2, 3) / math.sqrt(width / self.heads)).softmax(-1)
                y = (drop(weights) @ v).transpose(1, 2).reshape(b, n, width)
        x = x + drop(self.out(y))
        return x + drop(self.back(drop(F.gelu(self.hidden(self.norm2(x))))))


class FeatureMAE(nn.Module):
    """Features (B, dim), un-normalised, to images.

    scale: a buffer; features are divided by it, so that an element has the spread it has in the paper.
    norm: a buffer; mean length of the features of the training set, for AttrOP.
    Raises UserError when the resolution cannot be halved as often as the shape asks.
    """

    def __init__(self, shape: Shape, resolution: int, dim: int) -> None:
        super().__init__()
        unit = 2 ** (len(shape.multipliers) - 1)
        if resolution % unit:
            raise UserError(
                f"fMAE paints {resolution} px by doubling its grid of rows {len(shape.multipliers) - 1} times; "
                f"use a resolution that is a multiple of {unit}, or other train.network.multipliers"
            )
        self.side, self.p = resolution // unit, shape.dropout
        self.rows, width = self.side**2, shape.width
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("norm", torch.ones(()))
        self.scale: Tensor
        self.norm: Tensor
        self.embed = nn.Linear(dim, width)
        self.expand = nn.Linear(1, self.rows)
        self.places = nn.ParameterList(torch.zeros(1, 1 + self.rows, width) for _ in range(2))
        self.enter, self.encoded, self.decoded = (nn.LayerNorm(width, eps=1e-6) for _ in range(3))
        self.encoder = nn.ModuleList(Block(width, shape.heads, shape.mlp_ratio) for _ in range(shape.depth))
        self.between = nn.Linear(width, width)
        self.decoder = nn.ModuleList(Block(width, shape.decoder_heads, shape.mlp_ratio) for _ in range(shape.decoder_depth))
        self.latent = nn.Linear(width, shape.latent)
        self.painter = Painter(shape)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for place in self.places:
            nn.init.normal_(place, std=0.02)

    def forward(self, feature: Tensor, scores: Tensor, ratio: Tensor, low: float, seed: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """-> (images (B, 3, R, R), not clipped; decoder tokens (B, 1 + rows, width); their targets, detached).

        scores (B, rows): the rows with the lowest are masked, `ratio` (B,) of them; the first `low` of them are left out of the encoder.
        seed: of dropout; None outside training.
        """
        drop = Dropout(self.p, seed, feature.device)
        e = self.embed(feature / self.scale)[:, None]  # (B, 1, width)
        rows = self.expand(e.transpose(1, 2)).transpose(1, 2)  # every scalar of e through one Linear(1, rows)
        target = torch.cat([e, rows], 1).detach()

        order = scores.argsort(1)
        masked = order.argsort(1) < (ratio * self.rows - 1e-4).ceil()[:, None]
        kept = order[:, math.ceil(low * self.rows - 1e-4) :, None].expand(-1, -1, e.shape[2])
        filled = torch.where(masked[:, :, None], e, rows)  # no mask token: a masked row is e
        x = drop(self.enter(torch.cat([e, filled], 1) + self.places[0]))
        x = torch.cat([x[:, :1], x[:, 1:].gather(1, kept)], 1)
        for block in self.encoder:
            x = block(x, drop)
        x = self.between(self.encoded(x))

        first = x[:, :1]  # position 0 fills what was masked
        rows = first.expand(-1, self.rows, -1).scatter(1, kept, x[:, 1:])
        x = torch.cat([first, torch.where(masked[:, :, None], first, rows)], 1) + self.places[1]
        for block in self.decoder:
            x = block(x, drop)
        tokens = self.decoded(x)
        grid = self.latent(tokens[:, 1:]).unflatten(1, (self.side, self.side)).permute(0, 3, 1, 2)
        return self.painter(grid), tokens, target


def masks(streams: Sequence[torch.Generator], rows: int, mask: Mask, device: torch.device) -> tuple[Tensor, Tensor, float]:
    """(scores (B, rows), ratio (B,), low) of a mask for each stream."""
    ratio = mask.ratio(torch.stack([torch.rand((), generator=stream) for stream in streams]))
    return torch.stack([torch.rand(rows, generator=stream) for stream in streams]).to(device), ratio.to(device), mask.low


def paint(network: FeatureMAE, vectors: Tensor, scores: Tensor, ratio: Tensor, low: float) -> Tensor:
    """(B, 3, R, R) in [-1, 1]."""
    return network(vectors, scores, ratio, low)[0].float().clamp(-1, 1)


class Painter(nn.Module):
    """A map (B, latent, side, side) to images: VQGAN's decoder without attention."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        widths = [shape.channels * m for m in reversed(shape.multipliers)]  # coarse to fine
        residual: dict[str, Any] = {"temb_channels": None, "groups": shape.groups, "eps": 1e-6}  # GroupNorm, swish, conv, twice
        layers: list[nn.Module] = [nn.Conv2d(shape.latent, widths[0], 3, padding=1)]
        layers += [ResnetBlock2D(in_channels=widths[0], out_channels=widths[0], **residual) for _ in range(2)]
        for level, (before, width) in enumerate(zip([widths[0], *widths], widths)):
            if level:
                layers += [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(before, before, 3, padding=1)]
            layers += [
                ResnetBlock2D(in_channels=width if block else before, out_channels=width, **residual) for block in range(shape.blocks)
            ]
        layers += [nn.GroupNorm(shape.groups, widths[-1], eps=1e-6), nn.SiLU()]
        self.layers = nn.ModuleList(layers)
        self.last = nn.Conv2d(widths[-1], 3, 3, padding=1)  # linear; clip to [-1, 1] when sampling

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, None) if isinstance(layer, ResnetBlock2D) else layer(x)
        return self.last(x)


class Discriminator(nn.Module):
    """Images (B, 3, R, R) -> logits of patches (B, 1, h, w). The border of the last convolution is ours, for faces below 32 px."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        kernels = {3: channels // 2, 7: channels // 4, 15: channels // 4}
        self.stem = nn.ModuleList(nn.Conv2d(3, width, size, padding=size // 2) for size, width in kernels.items())
        layers: list[nn.Module] = []
        for width in (2 * channels, 4 * channels, 8 * channels):
            layers += [nn.Conv2d(width // 2, width, 4, stride=2, padding=1), nn.LeakyReLU(0.1), nn.GroupNorm(8, width), Residual(width)]
        layers += [nn.Conv2d(8 * channels, 8 * channels, 1), nn.LeakyReLU(0.1), nn.Conv2d(8 * channels, 1, 4, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(F.leaky_relu(torch.cat([conv(x) for conv in self.stem], 1), 0.1))


class Residual(nn.Module):
    """The discriminator's: norm, leaky ReLU and one convolution, added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(8, width), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(F.leaky_relu(self.norm(x), 0.1))


def adaptive(image: Tensor, fooled: Tensor, last: Tensor) -> Tensor:
    """VQGAN's weight of the adversarial term: |d image / d last| / (|d fooled / d last| + 1e-4), over the last layer's weights."""
    lengths = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (image, fooled)]
    return (lengths[0] / (lengths[1] + 1e-4)).clamp(0, 1e4).detach()
