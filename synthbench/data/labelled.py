"""N labelled images somewhere, as every reader gives them: who is on each, and its bytes when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synthbench.data import pixels


@dataclass(frozen=True)
class Source:
    """N labelled images somewhere. `for name, image in source` reads them one after the other; `image(row)` any of them."""

    path: Path
    kind: str  # folder, zip, rec, parquet, lmdb
    label: np.ndarray  # (N,) int64, index into names; all -1, and no names, for photographs without labels
    names: list[str]
    encoded: Callable[[int], bytes]  # row -> the bytes of its image file
    where: Callable[[int], str]  # row -> how to name it in a message

    def __len__(self) -> int:
        return len(self.label)

    def image(self, row: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        return pixels.decode(self.encoded(row), self.where(row))

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        for row in range(len(self)):
            yield self.names[self.label[row]] if self.names else "", self.image(row)


def by_name(labels: Sequence[Any] | np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Dense labels and names, in the order of the labels: numbers as numbers, text as text."""
    values, dense = np.unique(np.asarray(labels), return_inverse=True)
    return dense.astype(np.int64), [str(value) for value in values]
