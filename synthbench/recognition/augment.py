"""Augmentation of whole batches on the training device.

Images are float (B, 3, R, R) in [0, 1]; every class is one augmentation with its probability and ranges, and keeps the shape.
Random numbers are drawn per image on the CPU from one generator, so that a batch is the same on every device, and so that
choosing the images to touch never makes a GPU wait; masks and matrices are made of them where the images are.

Resizing is written as a matrix per image and axis (out = rows @ image @ columns^T), so that every image of a batch can have its own size
and its own kernel in two batched products.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field
from torch import Tensor

from synthbench.config import Settings
from synthbench.recognition import distort
from synthbench.recognition.distort import OPERATIONS, brightness, contrast, grey, on, operate, put, saturation, shift_hue


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if not 0 < pair[0] <= pair[1]:
        raise ValueError("a range is [low, high] with 0 < low <= high")
    return pair


def _share(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[1] > 1:
        raise ValueError("a share is at most 1")
    return pair


Range = Annotated[tuple[float, float], AfterValidator(_ascending)]
Share = Annotated[Range, AfterValidator(_share)]
Probability = Annotated[float, Field(ge=0, le=1)]
METHODS = ("nearest", "bilinear", "area", "bicubic", "lanczos")


class Flip(Settings):
    """Mirror left and right."""

    name: Literal["flip"] = "flip"
    p: Probability = 0.5

    def __call__(self, images: Tensor, random: torch.Generator) -> Tensor:
        touched = torch.rand(len(images), generator=random) < self.p
        return torch.where(on(touched, images)[:, None, None, None], images.flip(3), images)


class BlackOutside(Settings):
    """AdaFace's crop: a random window stays where it is, everything outside becomes black (Kim et al. 2022, section 4.1 and code)."""

    name: Literal["black_outside"] = "black_outside"
    p: Probability = 0.2
    scale: Share = (0.2, 1.0)  # share of the area
    ratio: Range = (3 / 4, 4 / 3)  # width / height

    def __call__(self, images: Tensor, random: torch.Generator) -> Tensor:
        touched = torch.rand(len(images), generator=random) < self.p
        inside = in_window(on(windows(len(images), images.shape[-1], self.scale, self.ratio, random), images), images.shape[-1])
        return images * (inside | ~on(touched, images)[:, None, None]).unsqueeze(1)


class LowResolution(Settings):
    """AdaFace's low resolution: shrink to a share of the side and back, each with a random kernel of cv2, no antialiasing."""

    name: Literal["low_resolution"] = "low_resolution"
    p: Probability = 0.2
    side: Share = (0.2, 1.0)

    def __call__(self, images: Tensor, random: torch.Generator) -> Tensor:
        full = images.shape[-1]
        draw = torch.rand(len(images), 2, generator=random)
        kernels = torch.randint(len(METHODS), (len(images), 2), generator=random)
        rows = (draw[:, 0] < self.p).nonzero().flatten()
        if not len(rows):
            return images
        small = ((self.side[0] + draw[rows, 1] * (self.side[1] - self.side[0])) * full).long().clamp(1, full)
        matrices = torch.zeros(len(rows), full, full)
        for i, (size, (down, up)) in enumerate(zip(small.tolist(), kernels[rows].tolist())):
            matrices[i] = resize_matrix(size, full, METHODS[up]) @ resize_matrix(full, size, METHODS[down])
        matrices = on(matrices, images)
        return put(images, rows, apply_matrices(images[on(rows, images)], matrices, matrices).clamp(0, 1))


class ColourJitter(Settings):
    """Brightness, contrast, saturation and hue in random order, as torchvision's ColorJitter."""

    name: Literal["colour_jitter"] = "colour_jitter"
    p: Probability = 1.0
    brightness: float = Field(0.0, ge=0)  # factor from [max(0, 1 - x), 1 + x]
    contrast: float = Field(0.0, ge=0)
    saturation: float = Field(0.0, ge=0)
    hue: float = Field(0.0, ge=0, le=0.5)  # shift in turns of the colour circle from [-x, x]

    def __call__(self, images: Tensor, random: torch.Generator) -> Tensor:
        count = len(images)
        draw = torch.rand(count, 5, generator=random)
        order = torch.rand(count, 4, generator=random).argsort(1)
        strengths = torch.tensor([self.brightness, self.contrast, self.saturation])
        low = (1 - strengths).clamp(min=0)
        factors = torch.cat([low + draw[:, :3] * (1 + strengths - low), (2 * draw[:, 3:4] - 1) * self.hue], 1)
        used = torch.tensor([*(strengths > 0).tolist(), self.hue > 0])
        for turn in range(4):
            for kind, adjust in enumerate((brightness, contrast, saturation, shift_hue)):
                rows = ((order[:, turn] == kind) & (draw[:, 4] < self.p) & used[kind]).nonzero().flatten()
                if len(rows):
                    there = on(rows, images)
                    images = put(images, rows, adjust(images[there], on(factors[rows, kind], images)[:, None, None, None]))
        return images


class ResizedCrop(Settings):
    """A random window enlarged to the full image, bilinear, as torchvision's RandomResizedCrop."""

    name: Literal["resized_crop"] = "resized_crop"
    p: Probability = 1.0
    scale: Share = (0.9, 1.0)
    ratio: Range = (3 / 4, 4 / 3)

    def __call__(self, images: Tensor, random: torch.Generator) -> Tensor:
        full = images.shape[-1]
        touched = torch.rand(len(images), generator=random) < self.p
        boxes = windows(len(images), full, self.scale, self.ratio, random)
        boxes = torch.where(touched[:, None], boxes, torch.tensor([0, 0, full, full]))
        top, left, height, width = on(boxes, images).unbind(1)
        return apply_matrices(images, crop_matrices(top, height, full), crop_matrices(left, width, full))


class Erase(Settings):
    """A random rectangle becomes one colour (Zhong et al. 2020); `fill` 0.5 is zero after normalisation."""

    name: Literal["erase"] = "erase"
    p: Probability = 0.5
    scale: Share = (0.02, 0.33)
    ratio: Range = (0.3, 3.3)
    fill: Probability = 0.5

    def __call__(self, images: Tensor, random: torch.Generator) -> Tensor:
        touched = torch.rand(len(images), generator=random) < self.p
        inside = in_window(on(windows(len(images), images.shape[-1], self.scale, self.ratio, random), images), images.shape[-1])
        return images.masked_fill((inside & on(touched, images)[:, None, None]).unsqueeze(1), self.fill)


class Noise(Settings):
    """Gaussian noise of a random strength per image, clipped to [0, 1].

    A network trained with it has gradients that look like faces instead of grain (Kaur, Cohen, Lipton, arXiv 1910.08640).
    """

    name: Literal["noise"] = "noise"
    p: Probability = 0.5
    std: Share = (0.01, 0.2)  # standard deviation, uniform in this range

    def __call__(self, images: Tensor, random: torch.Generator) -> Tensor:
        draw = torch.rand(len(images), 2, generator=random)
        std = torch.where(draw[:, 0] < self.p, self.std[0] + draw[:, 1] * (self.std[1] - self.std[0]), 0)
        grain = torch.randn(images.shape, generator=random)
        return (images + on(std, images)[:, None, None, None] * on(grain, images)).clamp(0, 1)


class RandAugment(Settings):
    """`operations` random operations of one strength (Cubuk et al. 2020; torchvision's set; IDiff-Face: 4 at strength 16 of 30)."""

    name: Literal["rand_augment"] = "rand_augment"
    operations: int = Field(4, ge=1)
    magnitude: int = Field(16, ge=0, le=30)

    def __call__(self, images: Tensor, random: torch.Generator) -> Tensor:
        choice = torch.randint(len(OPERATIONS), (len(images), self.operations), generator=random)
        sign = torch.randint(2, choice.shape, generator=random) * 2 - 1
        pixels = (images * 255).round().to(torch.uint8)
        for turn in range(self.operations):
            for kind, operation in enumerate(OPERATIONS):
                for direction in (-1, 1):
                    rows = ((choice[:, turn] == kind) & (sign[:, turn] == direction)).nonzero().flatten()
                    if len(rows) and operation != "identity":
                        there = on(rows, pixels)
                        pixels = put(pixels, rows, operate(pixels[there], operation, direction * self.magnitude / 30))
        return pixels.to(images.dtype) / 255


class Blur(Settings):
    """Gaussian blur of a random width."""

    name: Literal["blur"] = "blur"
    p: Probability = 0.05
    sigma: Range = (0.5, 2.0)  # px of a 112 px image

    def __call__(self, images: Tensor, random: torch.Generator) -> Tensor:
        draw, full = torch.rand(len(images), 2, generator=random), images.shape[-1]
        rows = (draw[:, 0] < self.p).nonzero().flatten()
        sigma = (self.sigma[0] + draw[rows, 1] * (self.sigma[1] - self.sigma[0])) * full / 112
        matrices = on(distort.gaussian(sigma, full), images)
        return put(images, rows, apply_matrices(images[on(rows, images)], matrices, matrices)) if len(rows) else images


class MotionBlur(Settings):
    """The mean along a line of random length and direction."""

    name: Literal["motion_blur"] = "motion_blur"
    p: Probability = 0.05
    length: Range = (3.0, 9.0)  # px of a 112 px image

    def __call__(self, images: Tensor, random: torch.Generator) -> Tensor:
        draw, scale = torch.rand(len(images), 3, generator=random), images.shape[-1] / 112
        rows = (draw[:, 0] < self.p).nonzero().flatten()
        length = (self.length[0] + draw[rows, 1] * (self.length[1] - self.length[0])) * scale
        lines = distort.line(length, draw[rows, 2] * math.pi, math.ceil(self.length[1] * scale / 2) + 1)
        return put(images, rows, distort.filtered(images[on(rows, images)], on(lines, images))) if len(rows) else images


class Greyscale(Settings):
    """Colour taken away."""

    name: Literal["greyscale"] = "greyscale"
    p: Probability = 0.01

    def __call__(self, images: Tensor, random: torch.Generator) -> Tensor:
        touched = torch.rand(len(images), generator=random) < self.p
        return torch.where(on(touched, images)[:, None, None, None], grey(images).expand_as(images), images)


class Jpeg(Settings):
    """Compressed and read again, on the CPU, so that a GPU waits for the few images that are touched."""

    name: Literal["jpeg"] = "jpeg"
    p: Probability = 0.05
    quality: tuple[int, int] = (30, 90)

    def __call__(self, images: Tensor, random: torch.Generator) -> Tensor:
        draw = torch.rand(len(images), 2, generator=random)
        rows = (draw[:, 0] < self.p).nonzero().flatten()
        quality = (self.quality[0] + draw[rows, 1] * (self.quality[1] - self.quality[0])).round().long().tolist()
        return put(images, rows, distort.jpeg(images[on(rows, images)], quality)) if len(rows) else images


class Warp(Settings):
    """The four corners of the window that is seen move: scaled, turned, shifted, with `aspect_p` stretched, and each jittered by itself."""

    name: Literal["warp"] = "warp"
    p: Probability = 1.0
    scale: Range = (0.9, 1.1)
    turn: float = Field(10.0, ge=0)  # degrees, either way
    shift: float = Field(0.05, ge=0)  # shares of the side, either way
    aspect_p: Probability = 0.1
    aspect: Range = (0.85, 1.18)  # width / height
    corner: float = Field(0.05, ge=0, lt=0.5)  # shares of the side, either way

    def __call__(self, images: Tensor, random: torch.Generator) -> Tensor:
        draw = torch.rand(len(images), 7, generator=random)
        jitter = (torch.rand(len(images), 4, 2, generator=random) * 2 - 1) * self.corner * 2  # the side is 2 long here
        touched = (draw[:, 0] < self.p)[:, None, None]
        zoom = self.scale[0] + draw[:, 1] * (self.scale[1] - self.scale[0])
        low, high = math.log(self.aspect[0]), math.log(self.aspect[1])
        stretch = torch.where(draw[:, 5] < self.aspect_p, torch.exp(0.5 * (low + draw[:, 6] * (high - low))), 1.0)
        angle = (2 * draw[:, 2] - 1) * math.radians(self.turn)
        corners = distort.CORNERS / torch.stack([zoom * stretch, zoom / stretch], 1)[:, None]
        c, s = angle.cos(), angle.sin()
        corners = corners @ torch.stack([torch.stack([c, s], 1), torch.stack([-s, c], 1)], 1)
        corners = corners + (2 * draw[:, None, 3:5] - 1) * self.shift * 2 + jitter
        return distort.warp(images, on(torch.where(touched, corners, distort.CORNERS), images))


Augmentation = Annotated[
    Flip
    | BlackOutside
    | LowResolution
    | ColourJitter
    | ResizedCrop
    | Erase
    | Noise
    | RandAugment
    | Blur
    | MotionBlur
    | Greyscale
    | Jpeg
    | Warp,
    Field(discriminator="name"),
]


def augment(images: Tensor, steps: tuple[Augmentation, ...], random: torch.Generator) -> Tensor:
    """uint8 (B, 3, R, R) -> float32 in [-1, 1], after `steps` in order."""
    x = images.float().div_(255)
    for step in steps:
        x = step(x, random)
    return x * 2 - 1


def windows(count: int, full: int, scale: tuple[float, float], ratio: tuple[float, float], random: torch.Generator) -> Tensor:
    """(count, 4) int64 rows of top, left, height, width: torchvision's RandomResizedCrop, ten tries, then the whole image."""
    draw = torch.rand(count, 10, 4, generator=random)
    area = (scale[0] + draw[..., 0] * (scale[1] - scale[0])) * full * full
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + draw[..., 1] * (high - low))
    width, height = torch.sqrt(area * aspect).round().long(), torch.sqrt(area / aspect).round().long()
    fits = (width >= 1) & (width <= full) & (height >= 1) & (height <= full)
    first = torch.where(fits.any(1), fits.int().argmax(1), 0)
    pick = torch.arange(count), first
    width, height, draw = width[pick], height[pick], draw[pick]
    whole = ~fits.any(1)
    width, height = torch.where(whole, full, width), torch.where(whole, full, height)
    top = (draw[:, 2] * (full - height + 1)).long()
    left = (draw[:, 3] * (full - width + 1)).long()
    return torch.stack([top, left, height, width], 1)


def in_window(boxes: Tensor, full: int) -> Tensor:
    """(B, full, full) bool: inside the window of each image."""
    place = torch.arange(full, device=boxes.device)
    top, left, height, width = (boxes[:, i, None] for i in range(4))
    rows = (place >= top) & (place < top + height)
    columns = (place >= left) & (place < left + width)
    return rows[:, :, None] & columns[:, None, :]


def crop_matrices(start: Tensor, length: Tensor, full: int) -> Tensor:
    """(B, full, full): bilinear enlargement of [start, start + length) to `full`, edges held."""
    place = torch.arange(full, device=start.device)
    source = (place + 0.5) * length[:, None] / full - 0.5
    source = source.clamp(min=0).minimum((length[:, None] - 1).float()) + start[:, None]  # (B, full), in pixels of the original
    return (1 - (source[..., None] - place).abs()).clamp(min=0)


def resize_matrix(before: int, after: int, method: str) -> Tensor:
    """(after, before) weights of a resize without antialiasing, half-pixel centres: cv2's and F.interpolate's kernels."""
    if method == "nearest":
        return F.one_hot((torch.arange(after) * before / after).long().clamp(max=before - 1), before).float()
    if method == "area":
        return F.adaptive_avg_pool1d(torch.eye(before), after).T.contiguous()
    source = (torch.arange(after) + 0.5) * before / after - 0.5
    reach = {"bilinear": 1, "bicubic": 2, "lanczos": 4}[method]
    if method == "bilinear":
        source = source.clamp(min=0)
    taps = source.floor().long()[:, None] + torch.arange(1 - reach, reach + 1)  # (after, 2 reach)
    weight = kernel((source[:, None] - taps).abs(), method)
    weight = weight / weight.sum(1, keepdim=True)
    return torch.zeros(after, before).scatter_add_(1, taps.clamp(0, before - 1), weight)  # beyond the edge: the edge pixel


def kernel(x: Tensor, method: str) -> Tensor:
    if method == "bilinear":
        return (1 - x).clamp(min=0)
    if method == "lanczos":
        return torch.where(x < 4, torch.sinc(x) * torch.sinc(x / 4), 0.0)
    a = -0.75  # cubic convolution (Keys 1981) with the constant of cv2 and F.interpolate
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))


def apply_matrices(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows[b] @ images[b, c] @ columns[b]^T for every image and channel."""
    return (rows.unsqueeze(1) @ images @ columns.unsqueeze(1).transpose(2, 3)).contiguous(memory_format=torch.channels_last)
