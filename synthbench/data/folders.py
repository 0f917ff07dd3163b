"""Who is on the images of an image folder, zip or tar: what the folders that they lie in say."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from synthbench.data import walk
from synthbench.types import UserError

SHOWN = 3  # examples in a message
LEVELS = {"upper": 0, "lower": 1}  # of two folders above an image, which is the person: --column


def strip_top(files: Sequence[str]) -> int:
    """1 when all files lie under one extra top folder (top/identity/image), else 0."""
    return int(len(files) > 0 and all(name.count("/") >= 2 for name in files) and len({name.split("/", 1)[0] for name in files}) == 1)


def people(path: Path, files: Sequence[str], wish: str | None) -> tuple[np.ndarray, list[str], dict[str, Any]]:
    """((N,) labels, names, what was chosen as fields of a Source) of images in <identity>/<image>, perhaps below one folder more.

    wish: of LEVELS, for images two folders deep. Loose images have no labels. Raises UserError for images at several depths, and where two
    folders might be the person.
    """
    if all("/" not in name for name in files):
        if wish:
            raise UserError(f"{path}: its images lie in no folders, so there is no --column to choose")
        return np.full(len(files), -1, np.int64), [], {}
    top = strip_top(files)
    below = [name.split("/")[top:-1] for name in files]
    if len(below[0]) == 2 and all(len(folders) == 2 for folders in below):
        return _two_deep(path, below, wish)
    if wish:
        raise UserError(f"{path}: --column {wish}: its images do not lie two folders deep")
    if wrong := [name for name, folders in zip(files, below) if len(folders) != 1]:
        raise UserError(
            f"{path}: {len(wrong)} of {len(files)} images are not in <identity>/<image>, such as {', '.join(wrong[:SHOWN])}. "
            "One folder per identity is expected, side by side. Photographs without labels are a set of their own: all loose, no folder"
        )
    if _numbered(files):
        said = "folders of a thousand numbers each, which are nobody"
        return np.full(len(files), -1, np.int64), [], {"read": (said,), "reading": {"unlabelled": "folders of numbers"}}
    return *_named(path, [walk.readable(folders[0]) for folders in below]), {}


def _two_deep(path: Path, below: Sequence[Sequence[str]], wish: str | None) -> tuple[np.ndarray, list[str], dict[str, Any]]:
    if wish not in LEVELS:
        example = "/".join(below[0])
        raise UserError(
            f"{path}: its images lie two folders deep ({example}/...); either may be the person: --column upper takes {below[0][0]} for "
            f"one (person/video/image), --column lower {below[0][1]} (group/person/image)"
        )
    names = [walk.readable(folders[0] if wish == "upper" else "/".join(folders)) for folders in below]
    return *_named(path, names), {"read": (f"{wish} folder",), "reading": {"column": wish}}


def _numbered(files: Sequence[str]) -> bool:
    """FFHQ's folders: 00000/00017.png, 61000/61999.png; a folder has the images of the thousand numbers from its own on."""
    folders = set()
    for name in files:
        *_, folder, image = name.split("/")
        stem = image.partition(".")[0]
        if not (folder.isdecimal() and stem.isdecimal() and int(stem) // 1000 * 1000 == int(folder)):
            return False
        folders.add(folder)
    return len(folders) > 1


def _named(path: Path, folders: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    names = sorted(set(folders))
    seen: dict[str, str] = {}
    for name in names:
        plain = unicodedata.normalize("NFC", name).casefold().strip()
        if plain in seen:
            raise UserError(f"{path}: the identities {seen[plain]!r} and {name!r} would be one on other systems; rename one of them")
        seen[plain] = name
    number = {name: label for label, name in enumerate(names)}
    return np.array([number[folder] for folder in folders], np.int64), names
