"""Images of a set that cannot be decoded: which they are, and the set without them for who chose that (`skip_damaged`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from synthbench import console
from synthbench.data import pixels
from synthbench.data.labelled import Source
from synthbench.store import read_json, write_json
from synthbench.types import Progress

FILE = "damaged.json"  # in the folder of what was made without them: {"set": path, "of": images tried, "images": why, by row}
SHOWN = 3  # in a message
KEPT = 100  # in run.json; FILE has all


def find(source: Source, rows: np.ndarray, progress: Progress = lambda done, total: None) -> dict[int, str]:
    """Row -> what is wrong, of those of `rows` (in any order) that cannot be decoded; bytes are read here, decoded on every core."""

    def look(item: tuple[int, bytes | str]) -> tuple[int, str]:
        row, data = item
        if isinstance(data, str):
            return row, data
        try:
            pixels.decode(data, source.where(row))
        except pixels.Damaged as error:
            return row, str(error).removesuffix(". Replace it or take it out")
        return row, ""

    found: dict[int, str] = {}
    for done, (row, why) in enumerate(pixels.in_threads(look, _bytes(source, np.sort(rows))), 1):
        progress(done, len(rows))
        found |= {row: why} if why else {}
    return found


def _bytes(source: Source, rows: np.ndarray) -> Iterator[tuple[int, bytes | str]]:
    """The bytes of each row, or why there are none: an entry of a zip may be cut, and its neighbour whole."""
    for row in rows.tolist():
        try:
            yield row, source.encoded(row)
        except pixels.Damaged as error:
            yield row, str(error)


def without(source: Source, rows: np.ndarray, folder: Path, progress: Progress) -> np.ndarray:
    """Those of `rows` that can be decoded. What is left out is said, and kept as FILE in `folder`, for a build that goes on there.

    Every image is decoded once more for this, which is little beside writing it. A set that was mended is another set, of another digest:
    all of it is read again.
    """
    what = {"set": str(source.path), "of": len(rows)}
    kept = read_json(folder / FILE)
    if isinstance(kept, dict) and isinstance(kept.get("images"), dict) and what.items() <= kept.items():
        found = {int(row): str(why) for row, why in kept["images"].items()}
    else:
        found = find(source, rows, progress)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILE, {**what, "images": {str(row): why for row, why in found.items()}})
    if found:
        some = "; ".join(list(found.values())[:SHOWN])
        console.warn(f"{source.path}: {len(found):,} of {len(rows):,} images are damaged and left out: {some}; all are in {folder / FILE}")
    return rows[~np.isin(rows, list(found))]


def told(folder: Path) -> dict[str, Any] | None:
    """What was left out of the set made in `folder`, for run.json; None where nobody chose to."""
    kept = read_json(folder / FILE)
    if not (isinstance(kept, dict) and isinstance(kept.get("images"), dict)):
        return None
    images = [str(why) for why in kept["images"].values()]
    return {"damaged": len(images), "of": kept.get("of"), "images": images[:KEPT]}
