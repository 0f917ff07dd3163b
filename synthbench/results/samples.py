"""What a generated set looks like: how large it is, in words, and samples.png."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synthbench.store import writing

if TYPE_CHECKING:
    from synthbench.data.faces import FaceSet

PEOPLE, ACROSS = 8, 8  # rows and columns of samples.png, inquiries not counted
GAP, LINE = 4, 18  # pixels between images, and of a line of text


def size(faces: FaceSet, volume: str = "all") -> str:
    """`200x20 + 1,000 copies`; of volume `all` what that is: `300x20`, or `503 people, 8,421 images` where people have unequal numbers."""
    own = faces.columns.get("sample", np.zeros(len(faces))) >= 0
    each = np.bincount(faces.identity[own & (faces.identity >= 0)], minlength=faces.identities)
    if volume != "all":
        text = volume
    elif len(each) and each.min() == each.max() and each.sum() == own.sum():
        text = f"{len(each)}x{each[0]}"
    else:
        text = f"{faces.identities:,} people, {own.sum():,} images"
    copies = int((~own).sum())
    return text + (f" + {copies:,} copies" if copies else "")


def draw(path: Path, title: str, faces: FaceSet, inquiries: FaceSet | None) -> None:
    """Eight identities x (the inquiry, if there is one, and eight images), with what was asked of each and what came out."""
    import torch

    rows, told = [], []
    m, similar = (faces.columns.get(name) for name in ("m", "similarity"))
    for identity in range(min(PEOPLE, faces.identities)):
        chosen = faces.shown(identity)[:ACROSS]
        images = faces.images(chosen)
        rows.append(torch.cat([inquiries.images([identity]), images]) if inquiries else images)
        told.append(["inquiry"] * bool(inquiries) + [_told(m, similar, int(row)) for row in chosen])
    lines = [title, "One person in each row" + ("; first column: the inquiry" if inquiries else "") + "."]
    if similar is not None:
        asked = "m, the similarity asked for, and " if m is not None else ""
        whom = "the inquiry" if inquiries else "the identity"
        lines.append(f"Below each image: {asked}its similarity to {whom}, by the encoder.")
    grid(rows, path, lines, told if similar is not None or inquiries else ())


def _told(m: np.ndarray | None, similar: np.ndarray | None, row: int) -> str:
    """`m 0.5: 0.71`, as far as it is known."""
    known = [value[row] if value is not None and np.isfinite(value[row]) else None for value in (m, similar)]
    asked = "" if known[0] is None else f"m {known[0]:.2f}".rstrip("0").rstrip(".")
    return ": ".join(part for part in (asked, "" if known[1] is None else f"{known[1]:.2f}") if part)


def grid(rows: Sequence[Any], path: Path, lines: Sequence[str] = (), told: Sequence[Sequence[str]] = (), height: int = 96) -> None:
    """Images (each row a (N, 3, R, R) uint8 tensor) as one PNG, each `height` pixels high, under `lines`; `told[row][i]` below an image."""
    from PIL import Image, ImageDraw, ImageFont

    font, head = ImageFont.load_default(13), LINE * len(lines) + GAP * bool(lines)
    down, across = height + GAP + LINE * bool(told), height + GAP
    wide = max([max(map(len, rows)) * across, *(round(font.getlength(line)) + 2 * GAP for line in lines)])
    sheet = Image.new("RGB", (wide, head + len(rows) * down), "white")
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        pen.text((GAP, GAP + LINE * number), line, "black", font)
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            place = (x * across, head + y * down)
            sheet.paste(Image.fromarray(image.permute(1, 2, 0).numpy()).resize((height, height), Image.Resampling.BICUBIC), place)
            if told:
                pen.text((place[0] + height / 2, place[1] + height + 1), told[y][x], "black", font, anchor="ma")
    with writing(path) as tmp:
        sheet.save(tmp, "PNG")
