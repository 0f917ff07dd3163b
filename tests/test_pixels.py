"""Images from outside are data: nothing is started for them, nothing huge is made room for, and half of one is not taken for whole."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import struct
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from synthbench.data import pixels
from synthbench.types import UserError

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n0 0 8 8 rectfill\n%%EOF\n"
FACE = np.random.default_rng(0).integers(1, 256, (16, 24, 3), dtype=np.uint8)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes, colour: int = 2, interlaced: int = 0, depth: int = 8) -> bytes:
    """By the specification, in one IDAT of `rows` (a filter byte, then a row; and so on)."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def saved(format: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(FACE).save(out, format, **options)
    return out.getvalue()


@pytest.mark.skipif(sys.platform == "win32", reason="the canary is a shell script")
def test_no_program_is_started_for_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = tmp_path / "bin" / "gs"
    canary.parent.mkdir()
    canary.write_text(f"#!/bin/sh\n: > {tmp_path}/called\n")
    canary.chmod(0o755)
    monkeypatch.setenv("PATH", str(canary.parent))
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # not looked for yet
    with Image.open(io.BytesIO(EPS)) as image, contextlib.suppress(OSError):
        image.load()
    assert (tmp_path / "called").exists()  # the canary sings: PIL left alone does start it
    (tmp_path / "called").unlink()
    with pytest.raises(UserError, match=r"face\.png: .* \(the bytes are not an image of a kind read here: JPEG, PNG"):
        pixels.decode(EPS, "face.png")
    assert not (tmp_path / "called").exists()


def test_formats_that_are_read_and_those_that_are_not() -> None:
    for format in ("PNG", "BMP", "PPM", "TIFF"):
        assert np.array_equal(pixels.decode(saved(format), "x"), FACE)
    assert np.array_equal(pixels.decode(saved("WEBP", lossless=True), "x"), FACE)
    for format in ("JPEG", "GIF", "MPO"):
        assert pixels.decode(saved(format), "x").shape == FACE.shape
    for format in ("ICO", "PCX", "SGI", "TGA", "JPEG2000"):
        with pytest.raises(UserError, match="not an image of a kind read here"):
            pixels.decode(saved(format), "x")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("width", "height"), [(40_000, 40_000), (10_000, 10_000), (4097, 4096)])
def test_an_image_that_claims_too_much_is_refused_before_it_is_made_room_for(width: int, height: int) -> None:
    data = png(width, height, bytes(100))
    assert len(data) < 130
    tracemalloc.start()
    with pytest.raises(UserError, match=r"bomb\.png: .*it claims .*4,096 x 4,096"):
        pixels.decode(data, "bomb.png")
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()
    assert pixels.opened(io.BytesIO(png(4096, 4096, b""))).size == (4096, 4096)


def test_a_jpeg_of_hundreds_of_scans_is_refused() -> None:
    data = saved("JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    assert data.count(b"\xff\xda") < 20 and pixels.decode(data, "x").shape == FACE.shape
    with pytest.raises(UserError, match="a JPEG of more than 100 scans"):
        pixels.decode(data[:last] + data[last:-2] * 200 + data[-2:], "x")


@pytest.mark.parametrize("interlaced", [0, 1])
@pytest.mark.parametrize(("colour", "depth", "bits"), [(2, 8, 24), (0, 8, 8), (6, 8, 32), (0, 16, 16), (0, 1, 1), (4, 8, 16)])
def test_a_png_whose_rows_end_early_is_damaged(colour: int, depth: int, bits: int, interlaced: int) -> None:
    """Black rows that are there are none that are lacking."""
    sizes = [(5, 7)] if not interlaced else [(1, 1), (1, 1), (2, 1), (1, 2), (3, 2), (2, 4), (5, 3)]  # Adam7, of 5 x 7 pixels
    rows = [bytes(1) + b"\xff" * -(-width * bits // 8) for width, height in sizes for _ in range(height)]
    for whole in (rows, [*rows[:1], *(bytes(len(row)) for row in rows[1:])]):
        found = pixels.decode(png(5, 7, b"".join(whole), colour, interlaced, depth), "x")
        assert found.shape == (7, 5, 3) and found[0, 0].tolist() == [255] * 3
        for kept in (1, len(rows) // 2, len(rows) - 1):
            with pytest.raises(UserError, match=r"half\.png: .*its data end before the last row"):
                pixels.decode(png(5, 7, b"".join(whole[:kept]), colour, interlaced, depth), "half.png")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "WEBP", "PPM", "TIFF"])
def test_an_image_cut_short_is_damaged(format: str) -> None:
    data = saved(format)
    with pytest.raises(UserError, match="cannot be decoded"):
        pixels.decode(data[: len(data) // 2], "x")


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"quality": 20}, {"progressive": True}, {"restart_marker_blocks": 2}])
def test_a_jpeg_that_was_cut_and_given_an_end_is_damaged(options: dict) -> None:
    """Black borders and white corners that are there are none that are lacking."""
    for border in (None, 0, 255):
        picture = np.random.default_rng(3).integers(0, 256, (40, 56, 3), dtype=np.uint8)
        if border is not None:
            picture[20:], picture[:, 40:] = border, border
        Image.fromarray(picture).save(out := io.BytesIO(), "JPEG", **options)
        data = out.getvalue()
        assert pixels.decode(data, "x").shape == picture.shape
        scan = data.index(b"\xff\xda") + 40
        for at in ((scan + len(data)) // 2, scan):
            with pytest.raises(UserError, match=r"half\.jpg: .*(its data end before the last row|lacks scans)"):
                pixels.decode(data[:at] + b"\xff\xd9", "half.jpg")


def segments(data: bytes) -> list[bytes]:
    """A JPEG of PIL's, cut before each scan and before the end marker."""
    starts = [0, *(found.start() for found in re.finditer(rb"\xff\xda", data)), data.rindex(b"\xff\xd9"), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(starts)]


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_progressive_jpeg_that_lacks_a_scan_is_damaged(mode: str) -> None:
    """libjpeg shows it without a word, blurred where a late one lacks; what stands between two scans belongs to the later one."""
    Image.fromarray(FACE).convert(mode).save(out := io.BytesIO(), "JPEG", progressive=True)
    head, *scans, end = segments(out.getvalue())
    assert len(scans) > 4
    pixels.decode(out.getvalue(), "whole")
    for lost in range(len(scans)):
        data = b"".join([head, *scans[:lost], *scans[lost + 1 :], end])
        with pytest.raises(UserError):
            pixels.decode(data, "x")
    with pytest.raises(UserError, match="lacks scans"):
        pixels.decode(b"".join([head, *scans[:-1], end]), "x")


def test_a_jpeg_of_one_scan_for_each_colour_lacks_none_or_is_damaged() -> None:
    """Written as such by hand: the scan of a grey JPEG is that of the first component of one in colour."""
    Image.fromarray(FACE).convert("L").save(out := io.BytesIO(), "JPEG")
    head, scan, end = segments(out.getvalue())
    start = head.index(b"\xff\xc0")
    frame = b"\xff\xc0\0\x11" + head[start + 4 : start + 9] + b"\3" + b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    head = head[:start] + frame + head[start + 13 :]
    scans = [scan[:5] + bytes([number]) + scan[6:] for number in (1, 2, 3)]
    assert pixels.decode(head + b"".join(scans) + end, "x").shape == FACE.shape
    with pytest.raises(UserError, match="lacks scans: it would be blurred, or grey"):
        pixels.decode(head + scans[0] + end, "x")
