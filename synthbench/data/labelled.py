"""N labelled images somewhere, as every reader gives them: who is on each, and its bytes when asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from synthbench.data import pixels
from synthbench.types import UserError

SPLIT = re.compile(r"(?:^|[/_.=-])(train|training|test|testing|val|valid|validation|dev|eval)(?=[/_.-])", re.IGNORECASE)


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


def by_name(labels: Sequence[Any] | np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Dense labels and names, in the order of the labels: numbers as numbers, text as text."""
    values, dense = np.unique(np.asarray(labels), return_inverse=True)
    return dense.astype(np.int64), [str(value) for value in values]
