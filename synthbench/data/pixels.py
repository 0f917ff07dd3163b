"""Encoded bytes to uint8 RGB and back. Everything that reads a face from outside comes through `decode` and `fit`."""

from __future__ import annotations

import io
import re
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
from PIL import Image, ImageOps

from synthbench.system import cores
from synthbench.types import UserError

T = TypeVar("T")
R = TypeVar("R")

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff", ".gif")
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF", "GIF")  # PIL goes by content, and would start Ghostscript for a face.png of EPS
MAGIC = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"BM": "bmp"}  # how files begin that are passed on as they are
MAX_SIDE = 4096  # pixels of a square image; photographs of the same area may have another shape
MAX_SCANS = 100  # of a progressive JPEG, each of which costs a pass over all pixels; encoders write about ten
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))  # x, y, steps of a PNG's passes
MAX_BYTES = 64 * 2**20  # one encoded image: a BMP of the largest that `pixels` reads; more than this in an archive is a bomb
FILLER = b"\xaa\x55" * 256  # no marker
MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")  # of a JPEG's segment; those in between stand among pixels
Z_RLE = 3  # zlib strategy: on faces at 112 px smaller and faster than the default at level 1


class Damaged(UserError):
    """One image cannot be had from its file; those beside it may be whole. The message names it."""


warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `opened` has a lower limit, and refuses


def opened(file: Path | IO[bytes]) -> Image.Image:
    """The image in `file`, its header read and its pixels not: the one door to PIL's decoders, for FORMATS of at most MAX_SIDE² pixels.

    Raises ValueError, which says what is wrong, or what PIL raises on a damaged header.
    """
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise ValueError(f"the bytes are not an image of a kind read here: {', '.join(FORMATS)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"it claims more than {MAX_SIDE:,} x {MAX_SIDE:,} pixels") from None
    if image.width * image.height > MAX_SIDE**2:
        raise ValueError(f"it claims {image.width:,} x {image.height:,} pixels, more than {MAX_SIDE:,} x {MAX_SIDE:,}")
    return image


def decode(data: bytes, where: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB of any image of FORMATS: grey, palette, CMYK, alpha (on black), 16 bits, EXIF rotation.

    PIL is used for JPEG too: torchvision.io gives the same pixels (2,000 LFW files, not one differs), and PNG is what takes the time.
    Raises Damaged naming `where` (file, record or row) when the image is cut short, too large, or is none.
    """
    try:
        with opened(io.BytesIO(data)) as image:
            if image.format in ("JPEG", "MPO") and data.count(b"\xff\xda") > MAX_SCANS:  # a marker, which pixels cannot look like
                raise ValueError(f"a JPEG of more than {MAX_SCANS} scans")
            image.load()
            if (image.format == "PNG" and _short(data, image)) or (image.format == "JPEG" and _cut(data, image)):
                raise ValueError("its data end before the last row")
            if image.format in ("JPEG", "MPO") and _lacks_scans(data):
                raise ValueError("a JPEG that lacks scans: it would be blurred, or grey")
            upright = ImageOps.exif_transpose(image)
            return np.array(_rgb(upright), dtype=np.uint8)
    except Exception as error:  # PIL's decoders raise a dozen kinds on damaged input
        reason = str(error)[:200] or type(error).__name__
        raise Damaged(f"{where}: the image cannot be decoded ({reason}; {len(data)} bytes). Replace it or take it out") from None


def passes(data: bytes) -> bool:
    """Whether an image file is written to other layouts as it is; what few programs read becomes PNG there."""
    return data.startswith(tuple(MAGIC))


def _short(data: bytes, image: Image.Image) -> bool:
    """Whether the rows of a PNG end too early, which PIL shows as black rows without a word. An honest black border is counted through."""
    if not image.info.get("interlace") and image.crop((0, image.height - 1, image.width, image.height)).getbbox(alpha_only=False):
        return False
    at, packed = 8, []
    while at + 8 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        packed += [data[at + 8 : at + 8 + length]] if kind == b"IDAT" else []
        at += 12 + length
    bits = data[24] * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[data[25]]  # of a pixel, as the header says
    passes = ADAM7 if data[28] else ((0, 0, 1, 1),)
    sizes = [(-((x - image.width) // across), -((y - image.height) // down)) for x, y, across, down in passes]
    wanted = sum(height * (1 + (width * bits + 7) // 8) for width, height in sizes if width > 0)
    return len(zlib.decompressobj().decompress(b"".join(packed), wanted)) < wanted


def _cut(data: bytes, image: Image.Image) -> bool:
    """Whether the pixels of a JPEG end before its end marker, which libjpeg goes over in silence: it repeats the last colour.

    Then bytes put before the marker would be decoded into what lacks; behind the last pixel nobody looks at them. Tried where the last
    corner has one colour, or there are several scans.
    """
    end, (width, height) = data.rfind(b"\xff\xd9"), image.size
    corner = image.crop((max(0, width - 4), max(0, height - 4), width, height))
    if end < 0 or not (image.info.get("progressive") or len(corner.getcolors() or ()) == 1):
        return False
    try:
        with opened(io.BytesIO(data[:end] + FILLER + data[end:])) as other:
            other.load()
            return other.tobytes() != image.tobytes()
    except (OSError, ValueError):
        return True


def _lacks_scans(data: bytes) -> bool:
    """Whether a JPEG that was decoded never sends some of its coefficients, or some of their bits: libjpeg takes them for zero in silence.

    One scan of each component is enough; a progressive one sends all 64 coefficients of each, first bits first, down to the last.
    """
    left: dict[int, list[int]] = {}  # by component: how many bits of each coefficient are still to come
    at, progressive = 2, False
    while (found := MARKER.search(data, at)) and (kind := found[1][0]) != 0xD9:
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
        body = data[found.end() + 2 : at]
        if kind in (0xC0, 0xC1, 0xC2, 0xC9, 0xCA):
            progressive = kind in (0xC2, 0xCA)
            left = {component: [16] * (64 if progressive else 1) for component in body[6::3]}
        elif kind == 0xDA:
            first, last, bits = body[-3:] if progressive else (0, 0, 0)
            for component in body[1:-3:2]:
                for number in range(first, last + 1):
                    if not bits >> 4 or bits >> 4 == left[component][number]:
                        left[component][number] = bits & 15
    return any(map(any, left.values()))


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
