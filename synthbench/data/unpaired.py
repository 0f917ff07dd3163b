"""The people of a set who are in no pair of a benchmark: inquiries, or a training set, that the benchmark has not seen."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NamedTuple

from synthbench.data.pairs import find_images, parse_pair_list
from synthbench.data.readers import list_folder, list_zip, strip_top
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
    find = find_images(images)
    names = list_folder(images) if images.is_dir() else sorted(list_zip(images)[1])
    top = strip_top(names)
    person = {name: name.split("/", top)[-1].rpartition("/")[0] for name in names}
    free = [name for name in names if person[name] not in paired]
    kept, everyone = {person[name] for name in free}, set(person.values())
    if not kept or len(kept) == len(everyone):
        who = "everybody" if not kept else "nobody"
        raise UserError(f"{who} in {images} is in a pair of {pairs}; are these the images that the list is about?")
    with writing(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in free:
            # an entry without the time of day: with it the same command would give another digest, and so other keys
            plain = name.split("/", top)[-1]
            archive.writestr(zipfile.ZipInfo(plain), find[plain.rsplit(".", 1)[0]]())
    return Kept(len(kept), len(free), len(everyone) - len(kept))
