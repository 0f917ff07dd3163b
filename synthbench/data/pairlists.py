"""Lists of pairs, as they are in circulation: LFW's pairs.txt, lines of two images, a truth and perhaps a group, or an image a line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from synthbench.data.lists import is_image, lines_of, plain
from synthbench.types import UserError

TRUTHS = {"1": True, "0": False, "-1": False, "true": True, "false": False, "1.0": True, "0.0": False, "-1.0": False}
FORMS = (
    "`name i j`, `name i name j`, `image image truth` (1 or 0, 1 or -1, True or False), the same with a group of people behind it on every "
    "line, or one `image truth` a line, two lines a pair"
)


@dataclass(frozen=True)
class PairLine:
    line: int
    left: str  # image without its ending: Name/Name_0001
    right: str
    same: bool
    group: str = ""  # of people, where the list says it


def parse_pair_list(path: Path | str) -> list[PairLine]:
    """The pairs of a list in one of FORMS, cut at tabs, commas or spaces; a header of LFW is checked, headings of columns are left out.

    Raises UserError with the line for one of another form, and where the forms are mixed or a truth is not of the list's kind.
    """
    path = Path(path)
    lines = lines_of(path)
    expected = None
    if lines and len(lines[0][1]) <= 2 and all(re.fullmatch("[0-9]{1,9}", part) for part in lines[0][1]):
        fields = lines.pop(0)[1]
        expected = 2 * int(fields[-1]) * (int(fields[0]) if len(fields) == 2 else 1)  # folds x (same + different)
    elif len(lines) > 1 and 1 < len(lines[0][1]) == len(lines[1][1]) and not _tells(lines[0][1]) and _tells(lines[1][1]):
        lines.pop(0)  # headings
    groups = [fields[3] for _, fields in lines if _has_group(fields)]
    if len(groups) == len(lines):
        lines = [(number, fields[:3]) for number, fields in lines]
    if lines and all(len(fields) == 2 and is_image(fields[0]) and fields[1].lower() in TRUTHS for _, fields in lines):
        found = _consecutive(lines, path)
    else:
        found = [_line(number, fields, path) for number, fields in lines]
    if not found:
        raise UserError(f"{path}: no pairs")
    if expected not in (None, len(found)):
        raise UserError(f"{path}: the header promises {expected} pairs, the file has {len(found)}. It was cut short or edited")
    _require_one_kind(lines, path)
    if not groups:
        return found
    if odd := next((line.line for line, group in zip(found, groups) if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", group)), 0):
        raise UserError(f"{path}, line {odd}: the group of people, the last on the line, must be a word of letters, digits and . + - _")
    return [replace(line, group=group) for line, group in zip(found, groups)]


def _has_group(fields: Sequence[str]) -> bool:
    return len(fields) == 4 and all(map(is_image, fields[:2])) and fields[2].lower() in TRUTHS and bool(fields[3])


def _tells(fields: Sequence[str]) -> bool:
    """Has it what every line of a pair has: an image, a number, a truth?"""
    return any(is_image(field) or field.lower() in TRUTHS or _is_number(field) for field in fields)


def _is_number(text: str) -> bool:
    return re.fullmatch("[0-9]{1,9}", text) is not None


def _line(number: int, fields: list[str], path: Path) -> PairLine:
    while fields and not fields[-1]:
        fields = fields[:-1]  # Kaggle's pairs.csv has an empty fourth field
    pair = _of_images(fields) or _of_people(fields)
    if pair is None:
        raise UserError(f"{path}, line {number}: {chr(9).join(fields)[:80]!r} is none of {FORMS}")
    return PairLine(number, *pair)


def _of_images(fields: list[str]) -> tuple[str, str, bool] | None:
    """Two images, and before or behind them whether they are the same; names may lack their endings, as long as they are no numbers."""
    if len(fields) != 3:
        return None
    for truth, images in ((fields[2], fields[:2]), (fields[0], fields[1:])):
        if truth.lower() in TRUTHS and not any(_is_number(name) for name in images):
            left, right = (image_key(name) for name in images)
            return left, right, TRUTHS[truth.lower()]
    return None


def _of_people(fields: list[str]) -> tuple[str, str, bool] | None:
    """LFW's own: `name i j`, `name i name j`; the numbers may be written with zeros, or as names of files."""
    if len(fields) == 3 and (left := _image(*fields[:2])) and (right := _image(fields[0], fields[2])):
        return left, right, True
    if len(fields) == 4 and (left := _image(*fields[:2])) and (right := _image(*fields[2:])):
        return left, right, False
    return None


def _image(person: str, which: str) -> str:
    """`Name/Name_0001` of a name, and 1, 0001 or Name_0001.jpg; empty when it is neither."""
    if _is_number(which):
        return plain(f"{person}/{person}_{int(which):04d}")
    return plain(f"{person}/{image_key(which)}") if is_image(which) and not is_image(person) else ""


def image_key(name: str) -> str:
    """The name of an image without its ending, as pairs name it."""
    name = plain(name)
    return name.rpartition(".")[0] if is_image(name) else name


def _consecutive(lines: list[tuple[int, list[str]]], path: Path) -> list[PairLine]:
    if len(lines) % 2:
        raise UserError(f"{path}: {len(lines)} lines of `image truth`; two of them are a pair, so one is missing")
    found = []
    for (number, left), (_, right) in zip(lines[::2], lines[1::2]):
        if left[1].lower() != right[1].lower():
            raise UserError(f"{path}, line {number}: this line and the next are a pair, but one says {left[1]} and the other {right[1]}")
        found.append(PairLine(number, image_key(left[0]), image_key(right[0]), TRUTHS[left[1].lower()]))
    return found


def _require_one_kind(lines: list[tuple[int, list[str]]], path: Path) -> None:
    """0 and -1 in one list, or labels that are not 0 and 1 only: what they mean cannot be told."""
    said = {field.lower().removesuffix(".0") for _, fields in lines for field in (fields[0], fields[-1]) if field.lower() in TRUTHS}
    if {"0", "-1"} <= said and any(is_image(fields[-1]) or is_image(fields[0]) for _, fields in lines):
        raise UserError(f"{path}: it has truths 0 and -1; both mean different people, and a list has one of them")
