"""A compact StyleGAN2 (Karras et al., arXiv 1912.04958) with the label conditions of StyleGAN2-ADA (arXiv 2006.06676), and its losses.

Mapping network, modulated convolutions with per-pixel noise, skip generator, residual discriminator with minibatch deviation, projection
of the label (Miyato & Koyama, arXiv 1802.05637). Layers have the sizes of stylegan2-ada-pytorch and an equalised learning rate: weights
are N(0, 1) and scaled when they are used. Enlarging is the paper's: a transposed convolution, then the filter [1, 3, 3, 1], with zeros
beyond the edge. Bilinear enlargement before the convolution is the same inside, but four times the work, and slow where CUDA is asked to be
deterministic.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from synthbench.config import Settings

LEAK, GAIN = 0.2, math.sqrt(2)  # of leaky ReLU; the gain keeps the variance, and is put on the weights in front, which are fewer


class Shape(Settings):
    """The shape of both networks. Defaults: those of stylegan2-ada-pytorch's configuration `auto` at 64 to 256 px."""

    channel_base: int = Field(16384, ge=1, description="channels of the layers at side r: channel_base / r, at most channel_max")
    channel_max: int = Field(512, ge=1)
    latent: int = Field(512, ge=1, description="width of w, of label embeddings and of the projection")
    mapping_layers: int = Field(2, ge=1, description="layers of the mapping network")
    mapping_rate: float = Field(0.01, gt=0, description="factor on the learning rate of mapping networks")
    label_layers: int = Field(8, ge=1, description="layers from a label's embedding to its projection in the discriminator")
    noise: bool = Field(True, description="random numbers for every pixel; off: a picture depends on w alone")
    group: int = Field(4, ge=1, description="images per group of the minibatch deviation")

    def channels(self, side: int) -> int:
        return max(1, min(self.channel_base // side, self.channel_max))


def side_for(resolution: int) -> int:
    """The power of two, at least 8, in which faces of `resolution` pixels are painted: 128 for 112."""
    return max(8, 1 << (resolution - 1).bit_length())


def normalized(x: Tensor) -> Tensor:
    """Rows (B, D) with second moment 1."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def fit(images: Tensor, side: int) -> Tensor:
    """Float images (B, 3, r, r) resized to `side` where they have another size."""
    if images.shape[-1] == side:
        return images
    return F.interpolate(images, (side, side), mode="bilinear", align_corners=False, antialias=images.shape[-1] > side)


def smoothing(channels: int, gain: float = 1.0) -> Tensor:
    """(channels, 1, 4, 4): the filter [1, 3, 3, 1] in both directions, with sum `gain`: 4 where three of four pixels are zeros."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return (gain * taps[:, None] * taps).expand(channels, 1, 4, 4).contiguous()


class Linear(nn.Module):
    """A dense layer with equalised learning rate, times `rate`, and leaky ReLU if `leaky`; the bias starts at `start`."""

    def __init__(self, inputs: int, outputs: int, start: float = 0.0, rate: float = 1.0, leaky: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), start / rate))
        act = GAIN if leaky else 1.0
        self.leaky, self.gain, self.rate = leaky, act * rate / math.sqrt(inputs), act * rate

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weight * self.gain, self.bias * self.rate)
        return F.leaky_relu(x, LEAK) if self.leaky else x


class Conv(nn.Module):
    """A convolution with equalised learning rate, and leaky ReLU if `leaky`; `down` filters with [1, 3, 3, 1] and halves."""

    kernel: Tensor

    def __init__(self, inputs: int, outputs: int, size: int, down: bool = False, leaky: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, size, size))
        self.bias = nn.Parameter(torch.zeros(outputs)) if leaky else None
        self.gain, self.down = (GAIN if leaky else 1.0) / math.sqrt(inputs * size * size), down
        if down:
            self.register_buffer("kernel", smoothing(inputs), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        size = self.weight.shape[2]
        if self.down and size == 1:  # filter and halve in one
            x = F.conv2d(x, self.kernel, stride=2, padding=1, groups=x.shape[1])
        elif self.down:
            x = F.conv2d(x, self.kernel, padding=2, groups=x.shape[1])  # one row more, which the next convolution takes off
        stride, padding = (2, 0) if self.down and size > 1 else (1, size // 2)
        x = F.conv2d(x, self.weight * self.gain, None if self.bias is None else self.bias * GAIN, stride, padding)
        return x if self.bias is None else F.leaky_relu(x, LEAK)


# -------------------------------------------------------------------------------------------------------------- generator


class Mapping(nn.Module):
    """z (B, inputs), and a label's row of `embed` with `classes`, to w (B, latent). inputs 0: from the label alone."""

    def __init__(self, inputs: int, classes: int, shape: Shape, layers: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(classes, shape.latent) if classes else None  # starts as N(0, 1)
        widths = [inputs + (shape.latent if classes else 0)] + [shape.latent] * layers
        self.layers = nn.ModuleList(Linear(a, b, rate=shape.mapping_rate, leaky=True) for a, b in pairwise(widths))

    def forward(self, z: Tensor | None, label: Tensor | None = None) -> Tensor:
        parts = [] if z is None else [normalized(z)]
        if self.embed is not None:
            parts.append(normalized(self.embed(label)))
        x = torch.cat(parts, 1)
        for layer in self.layers:
            x = layer(x)
        return x


class StyledConv(nn.Module):
    """A 3 x 3 convolution whose input channels are scaled by a style of w, its output brought back to variance 1, noise, leaky ReLU."""

    kernel: Tensor

    def __init__(self, inputs: int, outputs: int, latent: int, up: bool, noise: bool) -> None:
        super().__init__()
        self.affine = Linear(latent, inputs, start=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.strength = nn.Parameter(torch.zeros(())) if noise else None
        self.up = up
        if up:
            self.register_buffer("kernel", smoothing(outputs, 4), persistent=False)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        """x (B, inputs, s, s), w (B, latent), noise (B, 1, s', s'), if any -> (B, outputs, s', s')."""
        style = self.affine(w)
        norm = GAIN * (style.square() @ self.weight.square().sum((2, 3)).T + 1e-8).rsqrt()  # (B, outputs): demodulation
        x = x * style[:, :, None, None]
        if self.up:  # (flipped, because what is transposed runs backwards)
            x = F.conv_transpose2d(x, self.weight.flip(2, 3).transpose(0, 1), stride=2)  # 2 s + 1
            x = F.conv2d(x, self.kernel, padding=1, groups=len(self.kernel))
        else:
            x = F.conv2d(x, self.weight, padding=1)
        shift = (self.bias * GAIN)[:, None, None]
        if self.strength is not None:
            shift = shift + noise * (self.strength * GAIN)
        return F.leaky_relu(torch.addcmul(shift, x, norm[:, :, None, None]), LEAK)


class ToRGB(nn.Module):
    def __init__(self, inputs: int, outputs: int, latent: int) -> None:
        super().__init__()
        self.affine = Linear(latent, inputs, start=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = self.affine(w) / math.sqrt(x.shape[1])
        return F.conv2d(x * style[:, :, None, None], self.weight, self.bias)


class Painter(nn.Module):
    """The generator: codes (B, inputs), with `classes` labels (B,), noise (B, noise_size) -> images (B, 3, side, side) about [-1, 1]."""

    path_mean: Tensor
    kernel: Tensor

    def __init__(self, shape: Shape, side: int, inputs: int, classes: int = 0) -> None:
        super().__init__()
        self.sides = [4 << i for i in range(side.bit_length() - 2)]
        self.mapping = Mapping(inputs, classes, shape, shape.mapping_layers)
        self.const = nn.Parameter(torch.randn(shape.channels(4), 4, 4))
        self.register_buffer("path_mean", torch.zeros(()))  # of the path length, while training
        self.register_buffer("kernel", smoothing(3, 4), persistent=False)
        self.noise, self.convs, self.to_rgb = shape.noise, nn.ModuleList(), nn.ModuleList()
        before = shape.channels(4)
        for size in self.sides:
            channels = shape.channels(size)
            if size > 4:
                self.convs.append(StyledConv(before, channels, shape.latent, up=True, noise=shape.noise))
            self.convs.append(StyledConv(channels, channels, shape.latent, up=False, noise=shape.noise))
            self.to_rgb.append(ToRGB(channels, 3, shape.latent))
            before = channels

    @property
    def noise_size(self) -> int:
        """Numbers of noise per image: one per pixel of every convolution."""
        return self.noise * sum(size * size * (1 if size == 4 else 2) for size in self.sides)

    @property
    def layers(self) -> int:
        """How many w a picture takes: one for each convolution, and the next one's for colours."""
        return len(self.convs) + 1

    def forward(self, z: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor:
        return self.paint(self.styles(z, label), noise)

    def styles(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """w (B, layers, latent), the same for every layer."""
        return self.mapping(z, label)[:, None].expand(-1, self.layers, -1)

    def paint(self, w: Tensor, noise: Tensor) -> Tensor:
        """w (B, layers, latent), one for each layer."""
        x = self.const.repeat(len(w), 1, 1, 1)
        image: Tensor | None = None
        number = used = 0
        for size, to_rgb in zip(self.sides, self.to_rgb):
            for _ in range(1 if size == 4 else 2):
                count = self.noise * size * size
                grain = noise[:, used : used + count].unflatten(1, (1, size, size)) if count else noise
                x = self.convs[number](x, w[:, number], grain)
                number, used = number + 1, used + count
            colours = to_rgb(x, w[:, number])
            image = colours if image is None else colours + F.conv_transpose2d(image, self.kernel, stride=2, padding=1, groups=3)
        assert image is not None
        return image


# ---------------------------------------------------------------------------------------------------------- discriminator


class Critic(nn.Module):
    """The discriminator: images (B, 3, side, side), with `classes` labels (B,) -> logits (B,).

    With labels the logit is h . e(label) / sqrt(latent), the projection of StyleGAN2-ADA. Images of a batch are compared with each other
    in groups of `shape.group`, or of as many as divide the batch.
    """

    def __init__(self, shape: Shape, side: int, classes: int = 0) -> None:
        super().__init__()
        self.shape = shape
        sides = [side >> i for i in range(side.bit_length() - 3)]  # down to 8
        self.from_rgb = Conv(3, shape.channels(sides[0]), 1)
        self.first, self.second, self.skip = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for size in sides:
            channels, after = shape.channels(size), shape.channels(size // 2)
            self.first.append(Conv(channels, channels, 3))
            self.second.append(Conv(channels, after, 3, down=True))
            self.skip.append(Conv(channels, after, 1, down=True, leaky=False))
        last = shape.channels(4)
        self.last = Conv(last + 1, last, 3)
        self.dense = Linear(last * 16, last, leaky=True)
        self.out = Linear(last, shape.latent if classes else 1)
        self.label = Mapping(0, classes, shape, shape.label_layers) if classes else None

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        x = self.from_rgb(x)
        for first, second, skip in zip(self.first, self.second, self.skip):
            x = (second(first(x)) + skip(x)) * math.sqrt(0.5)
        x = self.last(torch.cat([x, deviation(x, self.shape.group)], 1))
        h = self.out(self.dense(x.flatten(1)))
        if self.label is None:
            return h[:, 0]
        return (h * self.label(None, label)).sum(1) / math.sqrt(h.shape[1])


def deviation(x: Tensor, group: int) -> Tensor:
    """(B, 1, s, s): the standard deviation over a group of images, averaged over pixels and channels, in every pixel (1710.10196).

    A group has as many images as divide B, `group` at most; all of them when B is prime.
    """
    count = next((n for n in range(min(group, len(x)), 1, -1) if len(x) % n == 0), len(x))
    parts = x.reshape(count, -1, *x.shape[1:])  # every (B / count)-th image is one group
    found = ((parts - parts.mean(0)).square().mean(0) + 1e-8).sqrt().mean((1, 2, 3))  # (B / count,)
    return found.repeat(count)[:, None, None, None].expand(-1, 1, *x.shape[2:])


# ------------------------------------------------------------------------------------------------------------------ losses


def critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Logistic loss of the discriminator, from logits (B,) of real and painted images."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def painter_loss(fake: Tensor) -> Tensor:
    """Non-saturating logistic loss of the generator."""
    return F.softplus(-fake).mean()


def r1(logits: Tensor, images: Tensor) -> Tensor:
    """Mean squared length of the gradient of the logits (B,) with respect to real images (Mescheder et al. 2018); times gamma / 2."""
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()


def path_lengths(images: Tensor, w: Tensor, draw: Tensor) -> Tensor:
    """(B,) lengths of J^T y for images painted from w (B, layers, latent) and normal draws y like the images (StyleGAN2, section 3.2)."""
    (gradient,) = torch.autograd.grad((images * draw).sum() / math.sqrt(images[0, 0].numel()), w, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()
