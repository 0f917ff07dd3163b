"""WebDataset: tar files of `key.jpg` with `key.cls` or `key.json` beside it; or a tar of an image folder. Nothing is extracted."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from synthbench.data import columns, pixels, walk
from synthbench.data.labelled import Source, by_name, in_split
from synthbench.types import UserError

MAX_TEXT = 1 << 20  # bytes of a .cls or .json


class Member(NamedTuple):
    file: int
    name: str
    offset: int
    size: int


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted(file for file in folder.glob(pattern) if file.is_file())


def read_webdataset(
    path: Path, reading: Mapping[str, str] | None = None, by_folder: Callable[[Path, list[str]], tuple[np.ndarray, list[str]]] | None = None
) -> Source:
    """One .tar, or a folder of them; `reading` may name `column` (a key of the .json, or cls) and `split`.

    by_folder: (path, names of images) -> (labels, names), for a tar that has neither .cls nor .json.
    """
    wishes = reading or {}
    every = [path] if path.is_file() else next((f for p in ("*.tar", "**/*.tar") if (f := _files(path, p))), [])
    files, read, doubts = in_split(path, every, wishes.get("split"))
    handles = [open(file, "rb") for file in files]  # noqa: SIM115 - as long as the Source

    def content(member: Member) -> bytes:
        if not 0 <= member.size <= pixels.MAX_BYTES or not 0 <= member.offset < 2**63:
            raise pixels.Damaged(f"{files[member.file]}, {member.name}: {member.size:,} bytes at {member.offset:,} is no image of a face")
        handles[member.file].seek(member.offset)
        return handles[member.file].read(member.size)

    images: dict[str, Member] = {}
    about: dict[str, dict[str, Any]] = {}
    for member in _members(files):
        key, ending = _split(member)
        if f".{ending}" in pixels.SUFFIXES:
            if key in images:
                raise UserError(f"{files[member.file]}: two images of {member.name}; which of them is meant cannot be told")
            images[key] = member
        elif ending in ("cls", "json"):
            about.setdefault(key, {}).update(_facts(content(member), ending, f"{files[member.file]}, {member.name}"))
    if not images:
        raise UserError(f"{path}: no images (looked for {', '.join(pixels.SUFFIXES)})")
    members = list(images.values())
    chosen = {"split": wishes["split"]} if "split" in wishes else {}
    if about:
        rows = [about.get(key, {}) for key in images]
        column, label, names, more = _labels(rows, wishes.get("column"), str(path))
        read, doubts = [f"column {column}", *read], [*more, *doubts]
        if "column" in wishes:
            chosen["column"] = wishes["column"]
    else:
        if "column" in wishes or by_folder is None:
            raise UserError(f"{path}: its images have neither .cls nor .json beside them, so there is no column to choose")
        order = np.argsort([member.name for member in members], kind="stable")
        members = [members[int(row)] for row in order]
        label, names = by_folder(path, [member.name for member in members])
    return Source(
        path,
        "webdataset",
        label,
        names,
        lambda row: content(members[row]),
        lambda row: f"{files[members[row].file]}, {members[row].name}",
        read=tuple(read),
        doubts=tuple(doubts),
        reading=chosen,
    )


def _members(files: Sequence[Path]) -> Iterator[Member]:
    for number, path in enumerate(files):
        try:
            with tarfile.open(path, "r:") as tar:
                while (member := tar.next()) is not None:
                    tar.members = []  # type: ignore[attr-defined]  # of a million they would fill the memory
                    if member.isreg() and not any(part.startswith(".") for part in member.name.removeprefix("./").split("/")):
                        yield Member(number, member.name.removeprefix("./"), member.offset_data, member.size)
        except (tarfile.TarError, OSError, EOFError) as error:
            raise UserError(f"{path}: not a whole .tar, or a compressed one ({error}); unpack it, or fetch it again") from None


def _split(member: Member) -> tuple[str, str]:
    """(file and key, ending) of `folder/0001.seg.png`: what comes before and after the first dot of the last part."""
    folder, _, last = member.name.rpartition("/")
    key, _, ending = last.partition(".")
    return f"{member.file}:{folder}/{key}", ending.lower()


def _facts(content: bytes, ending: str, where: str) -> dict[str, Any]:
    try:
        if len(content) > MAX_TEXT:
            raise ValueError("too long")
        text = content.decode("utf-8")
        if ending == "cls":
            return {"cls": int(text) if text.strip().lstrip("-").isdecimal() else text.strip()}
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: cannot be read ({error})") from None
    if not isinstance(found, dict):
        return {"json": found}
    return {name: value for name, value in found.items() if isinstance(value, (int, str)) and not isinstance(value, bool)}


def _labels(rows: list[dict[str, Any]], wish: str | None, where: str) -> tuple[str, np.ndarray, list[str], list[str]]:
    """(column, labels, names, doubts) of what is said beside the images; `name` names the people where it goes with the column."""
    common = [name for name in rows[0] if all(name in row for row in rows)]
    values = {name: [row[name] for row in rows] for name in common if len({type(row[name]) for row in rows}) == 1}
    if not values:
        raise UserError(f"{where}: no .cls and no field of a .json is there for every image")
    soft = [] if "label2" not in values else ["the soft labels (label2, weight) are not read; an image of two people counts as the first"]
    distinct = {name: len(set(some)) for name, some in values.items() if name not in ("label2", "sample")}
    column, doubts = columns.choose(distinct, len(rows), wish, where)
    label, names = by_name(values[column])
    if called := dict(zip(values[column], values.get("name", []))):
        together = len(set(zip(values[column], values["name"]))) == len(called) == len(set(called.values()))
        names = [walk.readable(str(called[value])) for value in sorted(called)] if together else names
    return column, label, names, [*doubts, *soft]
