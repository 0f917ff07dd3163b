"""The denoiser of CemiFace and DCFace: the ADM UNet (Dhariwal & Nichol, arXiv 2105.05233) on diffusers' residual blocks.

Conditions enter the attention layers only, as extra keys and values in front of the image's own (one joint softmax; CemiFace, arXiv
2409.18876, Eq. 8). They come from ONE projection shared by all attention layers, so they are computed once per image, not once per step.
The default shape is DCFace's network at 112 px: 93.56 M parameters and 38.4 GMAC per forward pass.
"""

from __future__ import annotations

import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from synthbench.config import Settings
from synthbench.device import fp32
from synthbench.models.attention import attended, split, zero
from synthbench.models.size import count
from synthbench.types import UserError


class Shape(Settings):
    """The shape of the UNet. Defaults: DCFace's, which CemiFace keeps."""

    channels: int = Field(128, ge=1, description="channels of level 0; the time embedding has 4 times as many")
    multipliers: tuple[PositiveInt, ...] = Field(
        (1, 1, 2, 2, 4, 4), min_length=1, description="channels of each level, in units of `channels`"
    )
    layers: int = Field(1, ge=1, description="residual blocks per level on the way down; one more on the way up")
    attention_levels: tuple[int, ...] = Field((4,), description="levels with attention; the middle always has it")
    attention_width: int = Field(512, ge=1, description="width of queries, keys and values in every attention layer")
    head_width: int = Field(64, ge=1, description="channels per attention head")
    groups: int = Field(32, ge=1, description="groups of GroupNorm")
    skip_downsample_level: int = Field(4, ge=-1, description="level whose halving is left out, because 7 px cannot be halved; -1: none")
    patch: int = Field(1, ge=1, description="pixel-unshuffle factor in front, undone at the end; 1 in the papers")

    @model_validator(mode="after")
    def _levels(self) -> Shape:
        if unknown := [level for level in self.attention_levels if not 0 <= level < len(self.multipliers)]:
            raise ValueError(f"attention_levels has {unknown[0]}; the levels are 0 to {len(self.multipliers) - 1}, one per multiplier")
        if wrong := [self.channels * n for n in self.multipliers if self.channels * n % self.groups]:
            raise ValueError(f"{wrong[0]} channels of a level are not a multiple of groups {self.groups}")
        if self.attention_width % self.head_width:
            raise ValueError(f"attention_width {self.attention_width} is not a multiple of head_width {self.head_width}")
        return self


TINY = {"channels": 16, "multipliers": [1, 2], "attention_levels": [1], "attention_width": 16, "head_width": 8, "groups": 4,
        "skip_downsample_level": -1, "patch": 2}  # fmt: skip  # for the `tiny` settings of generators


class Attention(nn.Module):
    """Self-attention over the pixels with the condition's keys and values in front (ADM's attention block; Eq. 8)."""

    def __init__(self, channels: int, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, channels, eps=1e-5)
        self.qkv = nn.Linear(channels, 3 * width)
        self.out = nn.Linear(width, channels)
        zero(self.out)

    def forward(self, x: Tensor, context: tuple[Tensor, Tensor] | None) -> Tensor:
        """x (B, C, h, w); context: keys and values, each (B, heads, tokens, width / heads)."""
        b, c, h, w = x.shape
        pixels = self.norm(x).flatten(2).transpose(1, 2)  # (B, h w, C)
        q, k, v = (split(y, self.heads) for y in self.qkv(pixels).chunk(3, dim=2))
        if context is not None:
            k = torch.cat([context[0], k], dim=2)
            v = torch.cat([context[1], v], dim=2)
        y = self.out(attended(q, k, v))
        return x + y.view(b, h, w, c).permute(0, 3, 1, 2)


class UNet(nn.Module):
    """x (B, 3, R, R), t (B,) or (1,) -> (B, out_channels, R, R). With fresh weights the output is exactly zero.

    context_width: width of the condition's tokens; 0 for an unconditional network.
    Raises UserError when the resolution cannot be halved as often as the shape asks.
    """

    def __init__(self, shape: Shape, resolution: int, context_width: int, out_channels: int = 3) -> None:
        super().__init__()
        self.shape = shape
        widths = [shape.channels * m for m in shape.multipliers]
        halvings = [level for level in range(len(widths) - 1) if level != shape.skip_downsample_level]
        unit = shape.patch * 2 ** len(halvings)
        if resolution % unit:
            raise UserError(
                f"the UNet halves {resolution} px {len(halvings)} times after patches of {shape.patch} px; "
                f"use a resolution that is a multiple of {unit}, or another train.unet.multipliers or train.unet.patch"
            )
        self.heads = shape.attention_width // shape.head_width
        time_width = 4 * shape.channels

        def residual(inside: int, outside: int, up: bool = False, down: bool = False) -> ResnetBlock2D:
            block = ResnetBlock2D(
                in_channels=inside,
                out_channels=outside,
                temb_channels=time_width,
                groups=shape.groups,
                eps=1e-5,
                time_embedding_norm="scale_shift",
                up=up,
                down=down,
            )
            zero(block.conv2)
            return block

        def attention(width: int, here: bool) -> nn.Module | None:
            return Attention(width, shape.attention_width, self.heads, shape.groups) if here else None

        self.time = Timesteps(shape.channels, flip_sin_to_cos=True, downscale_freq_shift=0)  # [cos | sin], longest period 10 000
        self.embed = TimestepEmbedding(shape.channels, time_width)
        self.context = nn.Linear(context_width, 2 * shape.attention_width) if context_width else None
        self.stem = nn.Conv2d(3 * shape.patch**2, widths[0], 3, padding=1)

        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, width = [widths[0]], widths[0]
        for level, outside in enumerate(widths):
            for _ in range(shape.layers):
                self.down.append(Block(residual(width, outside), attention(outside, level in shape.attention_levels)))
                width = outside
                skips.append(width)
            if level < len(widths) - 1:
                self.down.append(Block(residual(width, width, down=level in halvings), None))
                skips.append(width)
        self.middle = nn.ModuleList(
            [Block(residual(width, width), attention(width, True)), Block(residual(width, width), None)],
        )
        for level, outside in reversed(list(enumerate(widths))):
            for _ in range(shape.layers + 1):
                self.up.append(Block(residual(width + skips.pop(), outside), attention(outside, level in shape.attention_levels)))
                width = outside
            if level > 0:
                self.up.append(Block(residual(width, width, up=level - 1 in halvings), None, skip=False))
        self.norm = nn.GroupNorm(shape.groups, width, eps=1e-5)
        self.out = nn.Conv2d(width, out_channels * shape.patch**2, 3, padding=1)
        zero(self.out)

    def condition(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, n, context_width) -> keys and values for every attention layer, each (B, heads, n, head_width)."""
        if self.context is None:
            raise ValueError("this UNet was built without a condition")
        b, n, _ = tokens.shape
        keys, values = self.context(tokens).view(b, n, self.heads, 2, -1).permute(3, 0, 2, 1, 4)
        return keys, values

    def forward(self, x: Tensor, t: Tensor, context: tuple[Tensor, Tensor] | None = None, extra: Tensor | None = None) -> Tensor:
        """`context` is what `condition` answered. `extra` (B, 4 channels) is added to the time embedding (DCFace's identity)."""
        emb = self.embed(self.time(t).to(x.dtype))
        if extra is not None:
            emb = emb + extra
        if self.shape.patch > 1:
            x = F.pixel_unshuffle(x, self.shape.patch)
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        skips = [x]
        for block in self.down:
            x = block(x, emb, context)
            skips.append(x)
        for block in self.middle:
            x = block(x, emb, context)
        for block in self.up:
            x = block(torch.cat([x, skips.pop()], dim=1) if block.skip else x, emb, context)
        with fp32(x.device):  # the rounding of bf16 is noise, which sampling divides by sqrt(abar)
            x = self.out(F.silu(self.norm(x.float())))
        return F.pixel_shuffle(x, self.shape.patch) if self.shape.patch > 1 else x


class Block(nn.Module):
    """A residual block and, where the level has it, attention. `skip`: takes the encoder's output of the same level too."""

    def __init__(self, residual: ResnetBlock2D, attention: nn.Module | None, skip: bool = True) -> None:
        super().__init__()
        self.residual, self.attention, self.skip = residual, attention, skip

    def forward(self, x: Tensor, emb: Tensor, context: tuple[Tensor, Tensor] | None) -> Tensor:
        x = self.residual(x, emb)
        return x if self.attention is None else self.attention(x, context)


def cost(shape: Shape, resolution: int, context_width: int = 512, tokens: int = 2, out_channels: int = 3) -> tuple[int, int]:
    """(parameters, multiply-accumulates of one forward pass of one image), counted without allocating the network."""
    with torch.device("meta"):
        unet = UNet(shape, resolution, context_width, out_channels)
        x = torch.empty(1, 3, resolution, resolution)
        context = unet.condition(torch.empty(1, tokens, context_width)) if context_width else None
        return count(unet, x, torch.empty(1), context)
