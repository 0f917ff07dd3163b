"""The people of a set who are in no pair of a benchmark: inquiries, or a training set, that the benchmark has not seen."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NamedTuple

from synthbench.data.lists import plain
from synthbench.data.pairlists import parse_pair_list
from synthbench.data.readers import read_source
from synthbench.store import writing
from synthbench.types import UserError


class Kept(NamedTuple):
    people: int
    images: int
    left_out: int  # people in pairs


def copy_unpaired(images: Path, pairs: Path, out: Path) -> Kept:
    """Write the images of `images` (folder or zip, <identity>/<image>) whose identity is in no pair of the list `pairs` into the zip `out`.

    Raises UserError when `out` exists, for a list or images that cannot be read, and when nobody or everybody is in a pair.
    """
    if out.exists():
        raise UserError(f"{out} is there already; delete it or give another name")
    if out.suffix.lower() != ".zip":
        raise UserError(f"{out} must end in .zip")
    paired = {image.rpartition("/")[0] for line in parse_pair_list(pairs) for image in (line.left, line.right)}
    source = read_source(images)
    if source.kind not in ("folder", "zip") or not source.names:
        raise UserError(f"{images}: a folder or zip with one folder per person is needed; who is in a pair is known by the names of those")
    free = [row for row, label in enumerate(source.label) if plain(source.names[label]) not in paired]
    kept, everyone = {source.names[source.label[row]] for row in free}, source.names
    if not kept or len(kept) == len(everyone):
        who = "everybody" if not kept else "nobody"
        raise UserError(f"{who} in {images} is in a pair of {pairs}; are these the images that the list is about?")
    with writing(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for row in free:  # entries without the time of day: with it the same command would give another digest, and so other keys
            entry = zipfile.ZipInfo(f"{source.names[source.label[row]]}/{Path(source.where(row)).name}")
            archive.writestr(entry, source.encoded(row))
    return Kept(len(kept), len(free), len(everyone) - len(kept))
