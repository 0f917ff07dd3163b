"""Vision transformers as denoisers: U-ViT (Bao et al., arXiv 2209.12152) and DiT (Peebles & Xie, 2212.09748), both told by AdaLN.

A token is a patch of pixels. Time and condition are summed to one vector y, and every block hears of it through
AdaLN(h, y) = y_s LN(h) + y_b, with y_s and y_b linear in y (U-ViT, section 3.1; VIGFace, 2403.08277). U-ViT joins each block of its second
half with one of the first, by concatenation and a linear layer, and ends in a convolution; DiT scales every branch by a third projection
that starts at zero (adaLN-Zero). In its own paper U-ViT takes the time as a token instead: without the AdaLN the sizes are that paper's.
"""

from __future__ import annotations

from typing import Literal

import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from synthbench.config import Settings
from synthbench.device import fp32
from synthbench.models.attention import attended, split, zero
from synthbench.types import UserError

FREQUENCIES = 256  # width of the sinusoids of t (DiT)


class Shape(Settings):
    """The shape of the transformer. Defaults: U-ViT-B of VIGFace."""

    kind: Literal["uvit", "dit"] = Field("uvit", description="uvit: long skips; dit: adaLN-Zero")
    width: int = Field(768, ge=4, description="of a token; the MLP has 4 times as many")
    depth: int = Field(12, ge=2, description="blocks; uvit has one more, in the middle")
    heads: int = Field(12, ge=1, description="attention heads; their number divides the width")
    patch: int = Field(4, ge=1, description="side of a patch in pixels")


class Attention(nn.Module):
    """Self-attention over all tokens (B, n, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(attended(*(split(y, self.heads) for y in self.qkv(x).chunk(3, dim=2))))


class Block(nn.Module):
    """Attention and MLP, each behind AdaLN and added to what came in.

    gate: scale both branches by linear functions of y that start at zero (DiT). long: takes the tokens of an earlier block too (U-ViT).
    """

    def __init__(self, width: int, heads: int, gate: bool = False, long: bool = False) -> None:
        super().__init__()
        self.gate = gate
        self.join = nn.Linear(2 * width, width) if long else None
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))
        self.adaln = nn.Linear(width, (6 if gate else 4) * width)
        zero(self.adaln)

    def forward(self, x: Tensor, y: Tensor, earlier: Tensor | None = None) -> Tensor:
        """x, earlier (B, n, width); y (B, width)."""
        if self.join is not None and earlier is not None:
            x = self.join(torch.cat([x, earlier], dim=2))
        scale1, shift1, scale2, shift2, *gates = self.adaln(y)[:, None].chunk(6 if self.gate else 4, dim=2)
        attended = self.attention(adaln(self.norm(x), scale1, shift1))
        x = x + (gates[0] * attended if gates else attended)
        changed = self.mlp(adaln(self.norm(x), scale2, shift2))
        return x + (gates[1] * changed if gates else changed)


class ViT(nn.Module):
    """x (B, channels, R, R), t (B,) or (1,), condition (B, condition_width) -> (B, channels, R, R). Fresh weights answer exactly zero.

    Raises UserError for a resolution that is not a multiple of the patch, and for a width or depth that cannot be split.
    """

    def __init__(self, shape: Shape, resolution: int, condition_width: int, channels: int = 3) -> None:
        super().__init__()
        if resolution % shape.patch:
            raise UserError(f"{resolution} px cannot be cut into patches of {shape.patch} px; choose another patch")
        if shape.width % (4 * shape.heads):
            raise UserError(f"width {shape.width} of the transformer must be a multiple of 4 x heads, which is {4 * shape.heads}")
        if shape.kind == "uvit" and shape.depth % 2:
            raise UserError(f"depth {shape.depth} of a uvit is odd; its blocks come in pairs, around one in the middle")
        width, side, inside = shape.width, resolution // shape.patch, channels * shape.patch**2
        self.patch = shape.patch
        self.time = Timesteps(FREQUENCIES, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.embed = TimestepEmbedding(FREQUENCIES, width)
        self.condition = nn.Linear(condition_width, width)
        self.stem = nn.Linear(inside, width)
        self.place: Tensor
        place = places(side, width)[None]
        if shape.kind == "uvit":
            self.place = nn.Parameter(place)  # learned; U-ViT starts from noise of 0.02, too faint to be seen for hundreds of steps
        else:
            self.register_buffer("place", place, persistent=False)
        paired = shape.depth // 2 if shape.kind == "uvit" else 0
        self.first = nn.ModuleList(Block(width, shape.heads) for _ in range(paired))
        self.middle = nn.ModuleList(Block(width, shape.heads, gate=not paired) for _ in range(1 if paired else shape.depth))
        self.last = nn.ModuleList(Block(width, shape.heads, long=True) for _ in range(paired))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.adaln = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, inside)
        self.smooth = nn.Conv2d(channels, channels, 3, padding=1) if paired else None  # against seams between patches
        zero(self.adaln)
        zero(self.smooth or self.out)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        side = x.shape[-1] // self.patch
        y = F.silu(self.embed(self.time(t).to(x.dtype)) + self.condition(condition))
        x = self.stem(patchify(x, self.patch)) + self.place
        skips: list[Tensor] = []
        for block in self.first:
            x = block(x, y)
            skips.append(x)
        for block in self.middle:
            x = block(x, y)
        for block in self.last:
            x = block(x, y, skips.pop())
        with fp32(x.device):  # the rounding of bf16 is noise, which sampling divides by sqrt(abar) where it is v or epsilon
            scale, shift = self.adaln(y.float())[:, None].chunk(2, dim=2)
            x = unpatchify(self.out(adaln(self.norm(x.float()), scale, shift)), self.patch, side)
            return x if self.smooth is None else self.smooth(x)


def adaln(normed: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """y_s LN(h) + y_b; y_s = 1 + scale, so that projections that start at zero leave a plain LN."""
    return normed * (1 + scale) + shift


def patchify(x: Tensor, patch: int) -> Tensor:
    """(B, C, R, R) -> (B, (R / patch)^2, C patch^2), row by row."""
    return F.pixel_unshuffle(x, patch).flatten(2).transpose(1, 2)


def unpatchify(tokens: Tensor, patch: int, side: int) -> Tensor:
    """(B, side^2, C patch^2) -> (B, C, side patch, side patch)."""
    return F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (side, side)), patch)


def places(side: int, width: int) -> Tensor:
    """Fixed positions (side^2, width): sines and cosines of the row, then of the column (MAE, DiT)."""
    frequency = 10_000.0 ** (-torch.arange(width // 4) / (width // 4))
    angle = torch.arange(side)[:, None] * frequency
    one = torch.cat([angle.sin(), angle.cos()], dim=1)  # (side, width / 2)
    return torch.cat([one.repeat_interleave(side, 0), one.repeat(side, 1)], dim=1)
