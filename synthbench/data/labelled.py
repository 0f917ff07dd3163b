"""N labelled images somewhere, as every reader gives them: who is on each, and its bytes when asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from synthbench.data import pixels, walk
from synthbench.types import UserError

SPLITS = ("train", "test", "val", "validation", "training", "testing", "valid", "dev", "eval")
SPLIT = re.compile(rf"(?:^|[/_.=-])({'|'.join(sorted(SPLITS, key=len, reverse=True))})(?=[/_.-])", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """N labelled images somewhere. `for name, image in source` reads them one after the other; `image(row)` any of them."""

    path: Path
    kind: str  # folder, zip, rec, parquet, arrow, webdataset, lmdb
    label: np.ndarray  # (N,) int64, index into names; all -1, and no names, for photographs without labels
    names: list[str]
    encoded: Callable[[int], bytes]  # row -> the bytes of its image file
    where: Callable[[int], str]  # row -> how to name it in a message
    ordered: Callable[[np.ndarray], Iterator[bytes]] | None = None  # rows -> their bytes; where it is quicker than one by one
    read: tuple[str, ...] = ()  # what was chosen, for people: "column person_id", "split train"
    doubts: tuple[str, ...] = ()  # what may have been meant otherwise, in sentences without a full stop
    reading: Mapping[str, str] = field(default_factory=dict)  # what was chosen, where it is not what has always been: part of the digest

    def __len__(self) -> int:
        return len(self.label)

    def image(self, row: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        return pixels.decode(self.encoded(row), self.where(row))

    def called(self, row: int) -> str:
        """The name of an image inside its set, as `where` has it."""
        return self.where(row).removeprefix(str(self.path)).lstrip(", /")

    def stream(self, rows: np.ndarray) -> Iterator[bytes]:
        """The bytes of `rows`, in that order."""
        return self.ordered(rows) if self.ordered else (self.encoded(int(row)) for row in rows)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        for row in range(len(self)):
            yield self.names[self.label[row]] if self.names else "", self.image(row)


def in_split(path: Path, files: Sequence[Path], wish: str | None) -> tuple[list[Path], list[str], list[str]]:
    """(those of `files` below `path` that are in the split `wish`, what was chosen, doubts); without a wish all of them.

    The split of a file is told by its name: data/train-00000-of-00002.parquet, default/test/0000.parquet. A folder may be wished too.
    """
    names = [file.relative_to(path).as_posix() if file != path else file.name for file in files]
    split = [found.group(1) if (found := SPLIT.search(name)) else "" for name in names]
    rest = [re.sub("^[0-9]+$", "", SPLIT.sub("", name).rpartition("/")[0]) for name in names]  # the folders that are no split
    there = sorted({*split, *rest} - {""})
    if wish:
        chosen = [file for file, own, folder in zip(files, split, rest) if wish in (own, folder)]
        if not chosen:
            raise UserError(f"{path}: no split {wish!r}; there is {', '.join(there) or 'none: the names of the files tell no splits'}")
        return chosen, [f"split {wish}"], []
    doubts = []
    for kind, several in (("splits", set(split)), ("folders", set(rest))):
        if len(several) > 1:
            shown = ", ".join(sorted(name or "(none)" for name in several))
            doubts.append(f"the {kind} {shown} are read as one set; --split NAME reads one of them")
    told = sorted({name for name in split if name})
    return list(files), [f"{'splits' if len(told) > 1 else 'split'} {' and '.join(told)}"] if told else [], doubts


def in_split_folder(path: Path, files: Sequence[str], wish: str | None) -> tuple[list[int], int, dict[str, Any]]:
    """(rows of `files` that are read, folders above the people, what is said of it as fields of a Source) of an image folder or zip.

    Where every image lies in a folder that is called like a split (train/anna/1.jpg, test/ben/2.jpg, perhaps in one folder together), that
    is one: nobody is called train. Read is the split `wish`, else train. Raises UserError where there is no such split, and no train.
    """
    parts = [name.split("/")[:-1] for name in files]
    first = {own[0] if own else "" for own in parts}
    level = int(len(first) == 1 and not first & {"", *SPLITS})
    found = [own[level] if len(own) > level else "" for own in parts]
    there = sorted(set(found))
    if not there or not all(name.lower() in SPLITS for name in there):
        if wish:
            raise UserError(f"{path}: no split {wish!r}; its folders are not called like splits ({', '.join(SPLITS[:4])}, ...)")
        return list(range(len(files))), 0, {}
    chosen = wish or next((name for name in there if len(there) == 1 or name.lower() in ("train", "training")), "")
    if chosen not in there:
        raise UserError(f"{path}: there is no split {wish or 'train'!r} but {', '.join(there)}; say --split NAME")
    rest = ", ".join(f"{name} ({found.count(name):,} images)" for name in there if name != chosen)
    doubts = (f"left out is what lies in {rest}, --split NAME reads that",) if rest and not wish else ()
    how = {"split": chosen} if rest or wish else {}
    return (
        [row for row, name in enumerate(found) if name == chosen],
        level + 1,
        {"read": (f"split {chosen}",), "doubts": doubts, "reading": how},
    )


def by_name(labels: Sequence[Any] | np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Dense labels and names, in the order of the labels: numbers as numbers, text as text."""
    values, dense = np.unique(np.asarray(labels), return_inverse=True)
    return dense.astype(np.int64), [walk.readable(str(value)) for value in values]
