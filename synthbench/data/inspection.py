"""What is this? A look at a set of faces before anything is made of it: people, sizes, colours, images that are there twice, a page."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from synthbench import console
from synthbench.data import looking, pixels, walk
from synthbench.data.labelled import Source
from synthbench.store import writing
from synthbench.types import UserError

MOST = 20_000  # images that are decoded; of more an even sample
SHEET = (8, 6)  # people, images of each
SHOWN = 3  # examples
ALIKE = 10  # bits of 256 by which the hashes of one picture may differ: two people's differ in 60 and more
WARM = 1.02  # skin has more red than blue: in every face set that is stored RGB the means differ by more than this factor


@dataclass
class Found:
    """What a set holds. Lists are (name, name) of images, as a message would name them."""

    path: Path
    kind: str
    images: int
    people: int
    each: tuple[int, int, int]  # fewest, median, most images of a person; zeros without labels
    alone: int  # people with a single image
    looked: int  # images that were decoded
    sizes: dict[str, int] = field(default_factory=dict)  # "112 x 112" -> images, most first
    damaged: list[str] = field(default_factory=list)
    grey: int = 0
    red_to_blue: float = 1.0  # mean of the red channel over that of the blue one, of what is not grey
    same: list[tuple[str, str]] = field(default_factory=list)  # byte for byte
    alike: list[tuple[str, str]] = field(default_factory=list)  # the same picture in other bytes
    across: int = 0  # pairs of `same` and `alike` whose images belong to two people


def inspect(source: Source) -> Found:
    """Look into a set of faces."""
    counts = np.bincount(source.label) if source.names else np.zeros(1, np.int64)
    each = (int(counts.min()), int(np.median(counts)), int(counts.max()))
    rows = np.unique(np.linspace(0, len(source) - 1, min(len(source), MOST)).astype(np.int64))
    found = Found(source.path, source.kind, len(source), len(source.names), each, int((counts == 1).sum()), len(rows))
    sizes: Counter[str] = Counter()
    colours: list[np.ndarray] = []
    files: dict[bytes, int] = {}  # digest -> first row
    pictures = Pictures()
    with console.progress("look") as progress:
        for done, (row, look) in enumerate(zip(rows.tolist(), _looks(source, rows)), 1):
            progress(done, len(rows))
            if isinstance(look, str):
                found.damaged.append(look)
                continue
            sizes[look.size] += 1
            found.grey += look.grey
            colours += [] if look.grey else [look.mean]
            twin = files.setdefault(look.digest, row)
            near = pictures.before(look.hash, row)
            other, into = (twin, found.same) if twin != row else (near, found.alike)
            if other != row:
                into.append((source.called(other), source.called(row)))
                found.across += bool(source.names) and bool(source.label[other] != source.label[row])
    found.sizes = dict(sizes.most_common())
    if colours:
        red, _, blue = np.mean(colours, axis=0)
        found.red_to_blue = float(red / max(blue, 1e-9))
    return found


@dataclass(frozen=True)
class _Look:
    size: str
    grey: bool
    mean: np.ndarray  # (3,) of red, green, blue
    digest: bytes
    hash: bytes  # much the same for the same picture in other bytes or of another size; empty for one without contrast


def _looks(source: Source, rows: np.ndarray) -> Iterator[_Look | str]:
    """A look at each of `rows`; bytes are read here, one after the other, decoded on every core."""
    return pixels.in_threads(lambda item: _look(item[0], source.where(item[1])), zip(source.stream(rows), rows.tolist()))


def _look(data: bytes, where: str) -> _Look | str:
    """An image, or why it is none."""
    try:
        image = pixels.decode(data, where)
    except UserError as error:
        return str(error)
    height, width = image.shape[:2]
    grey = bool((image[..., 0] == image[..., 2]).all() and (image[..., 0] == image[..., 1]).all())
    return _Look(f"{width} x {height}", grey, image.mean((0, 1)), hashlib.sha256(data).digest(), difference_hash(image))


def difference_hash(image: np.ndarray, side: int = 16) -> bytes:
    """256 bits of (H, W, 3) uint8: is a pixel of the picture at 17 x 16, in grey, darker than its right neighbour (dHash)?

    Steps of up to two grey levels count as none, so that another compression changes few bits; empty for a picture that has few steps.
    """
    small = np.asarray(Image.fromarray(image).convert("L").resize((side + 1, side), Image.Resampling.BOX), np.int16)
    step = np.diff(small, axis=1)
    return np.packbits(step > 2).tobytes() if (np.abs(step) > 2).mean() > 0.2 else b""


class Pictures:
    """Finds a picture shown before whose hash differs in at most ALIKE bits. Of more than seven bits some are missed."""

    def __init__(self) -> None:
        self.bands: dict[tuple[int, bytes], tuple[bytes, int]] = {}

    def before(self, hash: bytes, row: int) -> int:
        """The row of such a picture, else `row`, which is remembered."""
        width = len(hash) // 8
        keys = [(band, hash[band * width : (band + 1) * width]) for band in range(8)] if hash else []
        for key in keys:
            other, earlier = self.bands.setdefault(key, (hash, row))
            if earlier != row and (int.from_bytes(hash, "big") ^ int.from_bytes(other, "big")).bit_count() <= ALIKE:
                return earlier
        return row


def lines(found: Found) -> list[str]:
    """What was found, for people: facts first, then what is to be looked after."""
    low, middle, high = found.each
    half = f", half of them have {middle:,} or fewer" if low < high else ""
    labels = (
        f"{console.counted(found.images, 'image')} of {found.people:,} people ({console.between(low, high)} each{half})"
        if found.people
        else f"{found.images:,} images without labels that tell people apart"
    )
    sample = f", of {found.looked:,} of them" if found.looked < found.images else ""
    said = [f"{found.path}: {found.kind}, {labels}", f"sizes{sample}: {_listed(found.sizes)}"]
    if found.looked > len(found.damaged) + found.grey:
        said.append(f"colours: red is {found.red_to_blue:.2f} times blue on average, {found.grey:,} images are grey")
    if found.people and found.alone:
        said.append(f"{found.alone:,} people have one image: they are somebody to tell apart from, and nobody to recognize")
    if found.red_to_blue < 1 / WARM:
        said.append("LOOK: more blue than red, which no skin has: the images seem to be stored BGR")
    if len(found.sizes) > 1:
        said.append("LOOK: sizes differ, so the faces are hardly aligned alike")
    elif found.sizes and (size := next(iter(found.sizes)).split(" x ")) and size[0] != size[1]:
        said.append("LOOK: the images are not square: aligned faces are (112 x 112); they would be cropped at the centre")
    elif found.sizes and int(size[0]) > looking.ALIGNED:
        said.append(f"LOOK: {looking.ARCFACE}, and these are larger: if they are not aligned, `synthbench data align`")
    for what, pairs in (("are the same file", found.same), ("seem to show the same picture", found.alike)):
        if pairs:
            some = "; ".join(f"{one} = {other}" for one, other in pairs[:SHOWN])
            said.append(f"LOOK: {len(pairs):,} images {what} as another: {some}{'; ...' * (len(pairs) > SHOWN)}")
    if found.across:
        said.append(f"LOOK: {found.across:,} of them are filed under two people")
    if found.damaged:
        said.append(f"LOOK: {console.counted(len(found.damaged), 'image')} cannot be decoded: {'; '.join(found.damaged[:SHOWN])}")
    return said


def _listed(counts: dict[str, int], most: int = 4) -> str:
    parts = [f"{size} ({count:,})" if len(counts) > 1 else size for size, count in list(counts.items())[:most]]
    return ", ".join(parts) + (f" and {len(counts) - most} more" if len(counts) > most else "")


def as_json(found: Found) -> dict[str, Any]:
    return {**vars(found), "path": str(found.path), "each": list(found.each), "same": len(found.same), "alike": len(found.alike)}


# --------------------------------------------------------------------------------------------------------------- a sheet


def sheet(source: Source, out: Path) -> None:
    """An HTML page in one file with some images of some people: what a table of numbers does not show."""
    people, most = SHEET
    if source.names:
        chosen = np.unique(np.linspace(0, len(source.names) - 1, min(people, len(source.names))).astype(int))
        rows = {source.names[who]: np.flatnonzero(source.label == who)[:most] for who in chosen}
    else:
        every = np.unique(np.linspace(0, len(source) - 1, min(people * most, len(source))).astype(int))
        rows = {str(number): part for number, part in enumerate(np.array_split(every, max(1, len(every) // most)))}
    body = "".join(f"<tr><th>{escape(name)}</th>{''.join(_cells(source, some))}</tr>" for name, some in rows.items())
    title = escape(f"{walk.readable(source.path.name)}: {len(source):,} images")
    style = "body{font:14px sans-serif;margin:1rem}th{text-align:left;padding-right:1em}img{width:112px;image-rendering:pixelated}"
    with writing(out) as temporary:
        temporary.write_text(
            f'<!doctype html><meta charset="utf-8"><title>{title}</title><style>{style}</style><h1>{title}</h1><table>{body}</table>',
            "utf-8",
        )


def _cells(source: Source, rows: Iterable[int]) -> Iterable[str]:
    for row in rows:
        try:
            data = base64.b64encode(pixels.encode(source.image(int(row)))).decode()
            yield f'<td><img src="data:image/png;base64,{data}" alt="{escape(source.where(int(row)))}"></td>'
        except UserError:
            yield "<td>damaged</td>"
