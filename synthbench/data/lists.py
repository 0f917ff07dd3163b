"""A list that says who is on each image: CelebA's identity_CelebA.txt, or any file of `image label` lines."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from synthbench.data import columns, pixels, walk
from synthbench.data.labelled import by_name
from synthbench.store import parse_json
from synthbench.types import UserError

Line = tuple[int, list[str]]  # number of the line, fields
CELEBA_HQ = "CelebA-HQ-to-CelebA-mapping.txt"  # comes with CelebA-HQ, whose images are numbered anew: idx, orig_idx, orig_file


def read_text(path: Path) -> str:
    """The text of a list, UTF-8 with a byte-order mark or without, else Latin-1. Raises UserError."""
    data = walk.content(path)
    if b"\0" in data:
        raise UserError(f"{path}: not a text file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def lines_of(path: Path) -> list[Line]:
    """The fields of each line, cut at tabs, commas or semicolons where most lines have them, else at spaces.

    Empty lines and those that begin with # are left out.
    """
    rows = read_text(path).splitlines()
    full = sum(bool(row.strip()) for row in rows)
    mark = next((mark for mark in ("\t", ",", ";") if 2 * sum(mark in row for row in rows) > full), None)
    found = []
    for number, row in enumerate(rows, 1):
        if not row.strip() or row.startswith("#"):
            continue
        cut = next(csv.reader(io.StringIO(row), delimiter=mark)) if mark else row.split()
        found.append((number, [field.strip() for field in cut]))
    return found


def is_image(field: str) -> bool:
    return field.lower().endswith(pixels.SUFFIXES)


def plain(name: str) -> str:
    """An image's name as lists are compared by it."""
    return unicodedata.normalize("NFC", name.replace("\\", "/").removeprefix("./"))


def table_of(path: Path, wish: str | None = None) -> tuple[list[Line], list[str], list[str]]:
    """(lines of image and label, what was chosen, doubts) of a list.

    Of several columns the headings tell which has the identities; without headings, a first that numbers the lines is left out (im2rec's
    .lst). Raises UserError where it cannot be told.
    """
    lines = _of_json(path) if path.suffix.lower() == ".jsonl" else lines_of(path)
    head: list[str] = []
    if lines and not any(is_image(field) for field in lines[0][1]):
        head, lines = lines[0][1], lines[1:]  # headings, or CelebA's count
    if not lines:
        raise UserError(f"{path}: no lines of `image label`")
    width = len(lines[0][1])
    if any(len(fields) != width for _, fields in lines) or width < 3:
        return lines, [], []
    image = next(place for place, field in enumerate(lines[0][1]) if is_image(field)) if any(map(is_image, lines[0][1])) else 0
    others = {place: [fields[place] for _, fields in lines] for place in range(width) if place != image}
    if len(head) == width:
        distinct = {head[place]: len(set(values)) for place, values in others.items()}
        column, doubts = columns.choose(distinct, len(lines), wish, str(path))
        return [(number, [fields[image], fields[head.index(column)]]) for number, fields in lines], [f"column {column}"], doubts
    numbered = image > 0 and any(others[0] == [str(n + first) for n in range(len(lines))] for first in (0, 1))
    return [(number, fields[1:]) for number, fields in lines] if width == 3 and numbered and len(lines) > 1 else lines, [], []


def _of_json(path: Path) -> list[Line]:
    """Headings and lines of Hugging Face's metadata.jsonl."""
    found: list[Line] = []
    for number, text in enumerate(read_text(path).splitlines(), 1):
        try:
            about = parse_json(text) if text.strip() else None
        except ValueError as error:
            raise UserError(f"{path}, line {number}: cannot be read ({error})") from None
        if isinstance(about, dict):
            known = {key: str(value) for key, value in about.items() if isinstance(value, (str, int))}
            found += [] if found else [(0, list(known))]
            found.append((number, [known.get(key, "") for key in found[0][1]]))
    return found


def read_labels(
    path: Path, files: Sequence[str], images: Path, wish: str | None = None
) -> tuple[np.ndarray, np.ndarray, list[str], list[str], list[str]]:
    """(rows of `files` that the list names, (N,) labels, names, what was chosen, doubts). `files` are relative names with `/`.

    A line names an image as the folder does, or by the end of its name where only one image has it. Raises UserError with the line.
    """
    if path.name == CELEBA_HQ:
        raise UserError(
            f"{path} tells images of CelebA, not who is on them; give CelebA's --labels identity_CelebA.txt, and put it in {images}"
        )
    lines, read, doubts = table_of(path, wish)
    if wish and not read:
        raise UserError(f"{path}: it has no headings to choose column {wish!r} by")
    told = [(number, *_cut(fields, f"{path}, line {number}")) for number, fields in lines]
    at = {plain(name): row for row, name in enumerate(files)}
    ends: dict[str, int] = {}
    for name, row in at.items():
        end = name.rpartition("/")[2]
        ends[end] = -1 if end in ends else row  # -1: of several
    if (images / CELEBA_HQ).is_file() and not any(image.rpartition("/")[2] in ends for _, image, _ in told):
        at = ends = _in_celeba(images / CELEBA_HQ, files)
        read = [*read, f"images by {CELEBA_HQ}"]
    label: dict[int, str] = {}
    absent: list[str] = []
    for number, image, who in told:
        found = at.get(image, ends.get(image.rpartition("/")[2]))
        if found == -1:
            raise UserError(f"{path}, line {number}: several images are called {image.rpartition('/')[2]}; give their folders too")
        if found is None:
            absent.append(image)
        elif label.setdefault(found, who) != who:
            raise UserError(f"{path}, line {number}: {image} is {who} here and {label[found]} before")
    if not label:
        hint = f". CelebA-HQ is numbered anew: its {CELEBA_HQ} belongs into the folder" if re.fullmatch(r"\d{6}\.jpg", absent[0]) else ""
        raise UserError(f"{path}: none of its {len(lines):,} images, such as {absent[0]}, is in {images}, which has {files[0]}{hint}")
    rows = np.array(sorted(label), np.int64)
    dense, names = by_name(_values([label[row] for row in rows.tolist()]))
    if absent:
        doubts.append(f"{len(absent):,} images of {path.name} are not there, such as {absent[0]}")
    if len(rows) < len(files):
        doubts.append(f"{len(files) - len(rows):,} images are not in {path.name} and are left out")
    return rows, dense, names, read, doubts


def _in_celeba(path: Path, files: Sequence[str]) -> dict[str, int]:
    """Name in CelebA -> row of `files`, by the list `path` of CelebA-HQ's numbers. What has no number (masks) or another one is left out.

    Raises UserError for lines of another kind, and for two files that are one image.
    """
    original: dict[int, str] = {}
    for number, fields in lines_of(path):
        if fields[:1] == ["idx"]:
            continue
        if len(fields) != 3 or not re.fullmatch("[0-9]{1,9}", fields[0]) or not is_image(fields[2]):
            raise UserError(f"{path}, line {number}: {' '.join(fields)[:80]!r} is not `idx orig_idx orig_file`")
        original[int(fields[0])] = plain(fields[2])
    found: dict[str, int] = {}
    for row, name in enumerate(files):
        stem = name.rpartition("/")[2].rpartition(".")[0]
        if not re.fullmatch("[0-9]{1,9}", stem) or int(stem) not in original:
            continue
        of = original[int(stem)]
        if found.setdefault(of, row) != row:
            raise UserError(f"{path.parent}: {files[found[of]]} and {name} are both CelebA's {of}; take one away")
    return found


def _cut(fields: Sequence[str], where: str) -> tuple[str, str]:
    """(image, label) of a line, whichever comes first; a name may have spaces."""
    last = next((i for i in range(len(fields) - 1, -1, -1) if is_image(fields[i])), None)
    if last is None or len(fields) < 2:
        raise UserError(f"{where}: {' '.join(fields)[:80]!r} is not `image label`")
    if len(fields) == 2:
        return plain(fields[last]), fields[1 - last]
    if last == len(fields) - 2:  # spaces in the name
        return plain(" ".join(fields[: last + 1])), fields[-1]
    raise UserError(f"{where}: {len(fields)} fields, {' '.join(fields)[:80]!r}; a line is `image label`, and no more")


def _values(labels: list[str]) -> list[str] | list[int]:
    """As numbers where all of them are, so that 10 comes after 9, and none is written in two ways."""
    numbers = all(text.isascii() and text.isdecimal() and len(text) < 19 for text in labels)
    return [int(text) for text in labels] if numbers and len({int(t) for t in labels}) == len(set(labels)) else labels
