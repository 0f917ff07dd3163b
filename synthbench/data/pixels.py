"""Encoded bytes to uint8 RGB and back. Everything that reads a face from outside comes through `decode` and `fit`."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps

from synthbench.system import cores
from synthbench.types import UserError

T = TypeVar("T")
R = TypeVar("R")

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff", ".gif")
Z_RLE = 3  # zlib strategy: on faces at 112 px smaller and faster than the default at level 1


def decode(data: bytes, where: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB of any image PIL reads: grey, palette, CMYK, alpha (on black), 16 bits, EXIF rotation.

    PIL is used for JPEG too: torchvision.io gives the same pixels (2,000 LFW files, not one differs), and PNG is what takes the time.
    Raises UserError naming `where` (file, record or row) when the image is cut short or is none.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            return np.array(_rgb(upright), dtype=np.uint8)
    except Exception as error:  # PIL's decoders raise a dozen kinds on damaged input
        reason = "the bytes are not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error) or type(error).__name__
        raise UserError(f"{where}: the image cannot be decoded ({reason}; {len(data)} bytes). Replace it or take it out") from None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # 16-bit grey; PIL's own conversion clips at 255
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))  # black, as the border of an aligned face
        return Image.alpha_composite(black, rgba).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    return image.convert("RGB")


def fit(image: np.ndarray, resolution: int) -> np.ndarray:
    """(R, R, 3): the short side becomes `resolution`, the long side is cropped at the centre. Bicubic, antialiased when it shrinks."""
    height, width = image.shape[:2]
    if height == width == resolution:
        return image
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(Image.fromarray(image).resize((resolution, resolution), Image.Resampling.BICUBIC, box=box))


def encode(image: np.ndarray, format: str = "png", quality: int = 95) -> bytes:
    """PNG (lossless; zlib level 1 costs 4 % in size against level 6 and takes a third of the time) or JPEG (4:4:4) of (H, W, 3) uint8."""
    out = io.BytesIO()
    if format == "png":
        Image.fromarray(image).save(out, "PNG", compress_level=1, compress_type=Z_RLE)
    else:
        Image.fromarray(image).save(out, "JPEG", quality=quality, subsampling=0)
    return out.getvalue()


def in_threads(function: Callable[[T], R], items: Iterable[T], window: int = 256, group: int = 8) -> Iterator[R]:
    """`function` over `items`, in order, on every core, with at most `window` results waiting: PIL works outside the interpreter lock.

    A thread takes a `group` at a time: handing over a face of 32 px costs as much as decoding it.
    """
    items = iter(items)
    with ThreadPoolExecutor(min(cores(), 16)) as pool:
        while chunk := list(islice(items, window)):
            groups = (chunk[first : first + group] for first in range(0, len(chunk), group))
            for done in pool.map(lambda some: [function(item) for item in some], groups):
                yield from done
