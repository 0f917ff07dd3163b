"""Pixel operations that augmentation is made of: colours, blurs, JPEG, a perspective warp, RandAugment's set."""

from __future__ import annotations

import io
import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from synthbench.data import pixels
from synthbench.device import send

CORNERS = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])  # (x, y) of an image: its sides are at -1 and 1
GREY = (0.299, 0.587, 0.114)  # luma, ITU-R 601, as PIL and torchvision
OPERATIONS = (  # of RandAugment: torchvision's set
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "colour", "contrast"),
    *("sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)


def on(tensor: Tensor, like: Tensor) -> Tensor:
    """The CPU tensor `tensor` on the device of `like`, without waiting."""
    return send(tensor, like.device)


def put(images: Tensor, rows: Tensor, new: Tensor) -> Tensor:
    """`images` with `rows` (on the CPU) replaced."""
    return images.index_copy(0, on(rows, images), new)


def grey(images: Tensor) -> Tensor:
    return sum(weight * images[:, i : i + 1] for i, weight in enumerate(GREY))  # type: ignore[return-value]


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    return (images * factor).clamp(0, 1)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    mean = grey(images).mean((2, 3), keepdim=True)
    return (mean + factor * (images - mean)).clamp(0, 1)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    flat = grey(images)
    return (flat + factor * (images - flat)).clamp(0, 1)


def shift_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Hue by `turn` of the colour circle in HSV. Channel n of a colour is v - v s max(0, min(k, 4 - k, 1)), k = (n + 6 h) mod 6."""
    value, low = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    chroma = value - low
    red, green, blue = images.unbind(1)
    span = chroma.squeeze(1).clamp(min=1e-12)
    top = images.argmax(1)
    hue = torch.where(
        top == 0, (green - blue) / span, torch.where(top == 1, 2 + (blue - red) / span, 4 + (red - green) / span)
    )  # in sixths
    hue = hue.unsqueeze(1) + 6 * turn
    place = torch.tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1)
    k = (on(place, images) + hue) % 6
    return (value - chroma * torch.minimum(torch.minimum(k, 4 - k), torch.ones_like(k)).clamp(min=0)).clamp(0, 1)


def gaussian(sigma: Tensor, full: int) -> Tensor:
    """(B, full, full) blur of `sigma` (B,) px along one axis, to be applied as rows @ image @ columns^T; beyond the edge is nothing."""
    apart = torch.arange(full) - torch.arange(full)[:, None]
    weight = torch.exp(-0.5 * (apart / sigma[:, None, None]) ** 2)
    return weight / weight.sum(2, keepdim=True)


def line(length: Tensor, angle: Tensor, reach: int) -> Tensor:
    """(B, 2 reach + 1, 2 reach + 1) mean along a line through the middle, `length` (B,) px long, a pixel wide, with soft edges."""
    place = torch.arange(-reach, reach + 1).float()
    y, x = place[:, None], place[None]
    c, s = angle.cos()[:, None, None], angle.sin()[:, None, None]
    along, across = (x * c + y * s).abs(), (y * c - x * s).abs()
    weight = ((length[:, None, None] + 1) / 2 - along).clamp(0, 1) * (1 - across).clamp(min=0)
    return weight / weight.sum((1, 2), keepdim=True)


def filtered(images: Tensor, kernels: Tensor) -> Tensor:
    """Every image (B, 3, R, R) with its own kernel (B, K, K); the edge pixel is held."""
    count, channels = images.shape[:2]
    reach = kernels.shape[-1] // 2
    padded = F.pad(images, [reach] * 4, mode="replicate").flatten(0, 1)[None]
    weight = kernels.to(images.dtype).repeat_interleave(channels, 0)[:, None]
    return F.conv2d(padded, weight, groups=count * channels)[0].unflatten(0, (count, channels)).clamp(0, 1)


def jpeg(images: Tensor, quality: list[int]) -> Tensor:
    """float (B, 3, R, R) in [0, 1] -> the same after JPEG at each image's quality."""
    back = np.empty((len(images), *images.shape[2:], 3), np.uint8)
    for i, (image, q) in enumerate(zip((images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy(), quality)):
        Image.fromarray(image).save(file := io.BytesIO(), "JPEG", quality=q)
        back[i] = np.asarray(pixels.opened(file))
    return torch.from_numpy(back).permute(0, 3, 1, 2).to(images.device, images.dtype) / 255


def warp(images: Tensor, corners: Tensor) -> Tensor:
    """The quadrangle `corners` (B, 4, 2) of each image, in the order of CORNERS, spread over all of it; bilinear, the edge is held."""
    full = images.shape[-1]
    x, y = on(CORNERS, corners).to(corners.dtype).unbind(1)
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    u, v = corners.unbind(2)
    to_x = torch.stack([*(item.expand_as(u) for item in (x, y, one, zero, zero, zero)), -x * u, -y * u], -1)
    to_y = torch.stack([*(item.expand_as(u) for item in (zero, zero, zero, x, y, one)), -x * v, -y * v], -1)
    h = torch.linalg.solve(torch.cat([to_x, to_y], 1), torch.cat([u, v], 1))  # (B, 8): eight entries of the homography, the ninth is 1
    matrix = torch.cat([h, torch.ones_like(h[:, :1])], 1).view(-1, 3, 3)
    place = (torch.arange(full, device=corners.device) + 0.5) * (2 / full) - 1
    points = torch.stack([place.expand(full, full), place[:, None].expand(full, full), torch.ones_like(place).expand(full, full)], -1)
    seen = points.to(matrix).flatten(0, 1) @ matrix.transpose(1, 2)
    grid = (seen[..., :2] / seen[..., 2:]).view(-1, full, full, 2)
    return F.grid_sample(images, grid.to(images.dtype), mode="bilinear", padding_mode="border", align_corners=False)


def operate(pixels: Tensor, operation: str, strength: float) -> Tensor:
    """One RandAugment operation on uint8 (B, 3, R, R); `strength` in [-1, 1], its sign used where the operation has two directions."""
    from torchvision.transforms.v2 import functional as tv

    side, size = pixels.shape[-1], abs(strength)

    def affine(
        turn: float = 0.0, x: float = 0.0, y: float = 0.0, shear: tuple[float, float] = (0.0, 0.0), centre: list[float] | None = None
    ) -> Tensor:
        return tv.affine(pixels, angle=turn, translate=[x, y], scale=1.0, shear=list(shear), center=centre)

    match operation:
        case "shear_x":
            return affine(shear=(math.degrees(math.atan(0.3 * strength)), 0.0), centre=[0, 0])
        case "shear_y":
            return affine(shear=(0.0, math.degrees(math.atan(0.3 * strength))), centre=[0, 0])
        case "translate_x":
            return affine(x=int(150 / 331 * side * strength))
        case "translate_y":
            return affine(y=int(150 / 331 * side * strength))
        case "rotate":
            return tv.rotate(pixels, 30.0 * strength)
        case "brightness":
            return tv.adjust_brightness(pixels, 1 + 0.9 * strength)
        case "colour":
            return tv.adjust_saturation(pixels, 1 + 0.9 * strength)
        case "contrast":
            return tv.adjust_contrast(pixels, 1 + 0.9 * strength)
        case "sharpness":
            return tv.adjust_sharpness(pixels, 1 + 0.9 * strength)
        case "posterize":
            return tv.posterize(pixels, 8 - round(4 * size))
        case "solarize":
            return tv.solarize(pixels, 255.0 * (1 - size))
        case "autocontrast":
            return tv.autocontrast(pixels)
    return tv.equalize(pixels)
