"""The denoiser of IDiff-Face (Boutros et al., ICCV 2023): a UNet whose attention blocks also look at a context vector.

Every attention block makes its own tokens from the context: Linear c -> tokens x c, then self-attention of the pixels, cross-attention to
the tokens, and a feed-forward layer. Time enters the residual blocks as scale and shift (AdaGN). The default shape is the published
network on 3 x 32 x 32 latents: 216,341,187 parameters with the projection from 512 to 256 components that stands before it.
"""

from __future__ import annotations

import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from synthbench.config import Settings
from synthbench.device import fp32
from synthbench.models.attention import attended, split, zero
from synthbench.types import UserError


class Shape(Settings):
    """The shape of the UNet. Defaults: the paper's."""

    channels: int = Field(96, ge=1, description="channels of level 0; the time embedding has 4 times as many")
    multipliers: tuple[PositiveInt, ...] = Field((1, 2, 4, 8), min_length=1, description="channels of each level, in units of `channels`")
    layers: int = Field(2, ge=1, description="residual blocks per level on the way down; one more on the way up")
    attention_levels: tuple[int, ...] = Field((1, 2, 3), description="levels with attention; the middle always has it")
    head_width: int = Field(32, ge=1, description="channels per attention head")
    groups: int = Field(32, ge=1, description="groups of GroupNorm")
    components: int = Field(256, ge=1, description="width of the projected context")
    tokens: int = Field(32, ge=1, description="that each attention block makes of the context")

    @model_validator(mode="after")
    def _fit(self) -> Shape:
        if unknown := [level for level in self.attention_levels if not 0 <= level < len(self.multipliers)]:
            raise ValueError(f"attention_levels has {unknown[0]}; the levels are 0 to {len(self.multipliers) - 1}, one per multiplier")
        if self.channels % self.groups or self.components % self.groups:
            raise ValueError(f"channels {self.channels} and components {self.components} must be multiples of groups {self.groups}")
        if self.channels % self.head_width:
            raise ValueError(f"channels {self.channels} is not a multiple of head_width {self.head_width}")
        return self


class ContextUNet(nn.Module):
    """x (B, C, h, w), t (B,) or (1,), context (B, components) -> (B, C, h, w). With fresh weights the output is exactly zero.

    Raises UserError when `side`, h and w, cannot be halved as often as the shape asks.
    """

    def __init__(self, shape: Shape, side: int, channels: int) -> None:
        super().__init__()
        unit = 2 ** (len(shape.multipliers) - 1)
        if side % unit:
            raise UserError(
                f"the UNet halves its {side} x {side} latents {len(shape.multipliers) - 1} times; {side} is not a multiple of {unit}. "
                "Change train.pixels, train.autoencoder.channels or train.unet.multipliers"
            )
        widths = [shape.channels * m for m in shape.multipliers]
        time_width = 4 * shape.channels

        def block(inside: int, outside: int, attends: bool) -> Block:
            return Block(Residual(inside, outside, time_width, shape.groups), Transformer(outside, shape) if attends else None)

        self.time = Timesteps(shape.channels, flip_sin_to_cos=True, downscale_freq_shift=0)  # [cos | sin], longest period 10 000
        self.embed = TimestepEmbedding(shape.channels, time_width)
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, width = [widths[0]], widths[0]
        for level, outside in enumerate(widths):
            for _ in range(shape.layers):
                self.down.append(block(width, outside, level in shape.attention_levels))
                width = outside
                skips.append(width)
            if level < len(widths) - 1:
                self.down.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                skips.append(width)
        self.middle = nn.ModuleList([block(width, width, True), block(width, width, False)])
        for level in reversed(range(len(widths))):
            for number in range(shape.layers + 1):
                outside = widths[max(0, level - 1)] if number == shape.layers else widths[level]  # the last one narrows
                self.up.append(block(width + skips.pop(), outside, level in shape.attention_levels))
                width = outside
            if level > 0:
                self.up.append(nn.ConvTranspose2d(width, width, 4, stride=2, padding=1))
        self.norm = nn.GroupNorm(shape.groups, width)
        self.out = nn.Conv2d(width, channels, 3, padding=1)
        zero(self.out)

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        emb = F.silu(self.embed(self.time(t).to(x.dtype)))
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        skips = [x]
        for layer in self.down:
            x = layer(x, emb, context) if isinstance(layer, Block) else layer(x)
            skips.append(x)
        for layer in self.middle:
            x = layer(x, emb, context)
        for layer in self.up:
            x = layer(torch.cat([x, skips.pop()], dim=1), emb, context) if isinstance(layer, Block) else layer(x)
        with fp32(x.device):  # the rounding of bf16 is noise, which sampling divides by sqrt(abar)
            return self.out(F.silu(self.norm(x.float())))


class Block(nn.Module):
    """A residual block and, where the level has it, attention."""

    def __init__(self, residual: Residual, attention: Transformer | None) -> None:
        super().__init__()
        self.residual, self.attention = residual, attention

    def forward(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        x = self.residual(x, emb)
        return x if self.attention is None else self.attention(x, context)


class Residual(nn.Module):
    """norm, conv, norm scaled and shifted by the time (AdaGN), conv."""

    def __init__(self, inside: int, outside: int, time_width: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(groups, inside), nn.GroupNorm(groups, outside)
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1)
        self.time = nn.Linear(time_width, outside)
        self.scale, self.shift = nn.Linear(outside, outside), nn.Linear(outside, outside)
        self.shortcut = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()
        zero(self.conv2)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        time = self.time(emb)
        h = self.norm2(self.conv1(F.silu(self.norm1(x))))
        h = (1 + self.scale(time)[:, :, None, None]) * h + self.shift(time)[:, :, None, None]
        return self.shortcut(x) + self.conv2(F.silu(h))


class Transformer(nn.Module):
    """Self-attention, cross-attention to tokens made of the context, feed-forward; one norm for all three, as published."""

    def __init__(self, width: int, shape: Shape) -> None:
        super().__init__()
        components, self.tokens = shape.components, shape.tokens
        self.make_tokens = nn.Linear(components, self.tokens * components)
        self.token_norm = nn.GroupNorm(shape.groups, components)
        self.norm = nn.GroupNorm(shape.groups, width)
        self.inside, self.outside = nn.Linear(width, width), nn.Linear(width, width)
        self.itself = Attention(width, width, width // shape.head_width)
        self.cross = Attention(width, components, width // shape.head_width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        zero(self.outside)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x (B, C, h, w); context (B, components)."""
        b, c, h, w = x.shape
        tokens = normed(self.token_norm, self.make_tokens(context).view(b, self.tokens, -1))
        y = self.inside(x.flatten(2).transpose(1, 2))  # (B, h w, C)
        own = normed(self.norm, y)
        y = y + self.itself(own, own)
        y = y + self.cross(normed(self.norm, y), tokens)
        y = y + self.feed(normed(self.norm, y))
        return x + self.outside(y).view(b, h, w, c).permute(0, 3, 1, 2)


class Attention(nn.Module):
    """Queries from x (B, n, width), keys and values from source (B, m, source_width)."""

    def __init__(self, width: int, source_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key, self.value = nn.Linear(source_width, width), nn.Linear(source_width, width)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        return self.out(attended(*(split(y, self.heads) for y in (self.query(x), self.key(source), self.value(source)))))


def normed(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """GroupNorm of (B, n, C), whose channels are last."""
    return norm(x.transpose(1, 2)).transpose(1, 2)
