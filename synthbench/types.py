"""The words of the project as plain data. Nothing here knows torch, a file format or a generator."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import torch


class UserError(Exception):
    """Something the user can mend. The message says what, where and what to do; it is shown without a traceback."""

    exit_code = 2


class DataMissing(UserError):
    """A file that synthbench may not ship or fetch. The message names the file, its licence and where to ask."""

    exit_code = 3


class Skipped(Exception):
    """An evaluator lacks an input; the message is the reason shown to the user.

    Raised when nothing can be measured; put among the returned scores, with the name of the `metric`, when only a part cannot.
    """

    def __init__(self, reason: str, metric: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.metric = metric


class Slot(NamedTuple):
    """The address of one synthetic image."""

    identity: int
    sample: int


@dataclass(frozen=True)
class Volume:
    """How many slots: `blocks` of (identities, images per identity), laid end to end. No blocks: all that there is."""

    name: str
    blocks: tuple[tuple[int, int], ...]

    NAMED = {
        "0.5M": ((10_000, 50),),
        "1.0M": ((20_000, 50),),
        "1.2M": ((20_000, 50), (40_000, 5)),  # DCFace and CemiFace, Table 6
        "all": (),
    }

    @classmethod
    def parse(cls, text: str) -> Volume:
        """`0.5M`, `1M`, `1.2M`, `all`, `200x20` (also with ×, *, spaces) or `20000x50+40000x5`."""
        name = {"1M": "1.0M", "500K": "0.5M", ".5M": "0.5M"}.get(text.strip().upper(), text.strip())
        name = next((known for known in cls.NAMED if known.lower() == name.lower()), name)
        if name in cls.NAMED:
            return cls(name, cls.NAMED[name])
        parts = [re.fullmatch(r"([0-9][0-9_,]{0,18})\s*[xX×*]\s*([0-9][0-9_,]{0,18})", part.strip()) for part in name.split("+")]
        if not all(parts):
            raise UserError(
                f"volume {text!r} is not understood. Use one of {', '.join(cls.NAMED)}, or identities x images, "
                "such as 200x20 or 20000x50+40000x5"
            )
        numbers = [[int(re.sub("[_,]", "", n)) for n in part.groups()] for part in parts if part]
        blocks = tuple((ids, images) for ids, images in numbers)
        if any(n < 1 for block in blocks for n in block):
            raise UserError(f"volume {text!r} has an empty block; both numbers must be at least 1")
        return cls("+".join(f"{ids}x{images}" for ids, images in blocks), blocks)

    @property
    def identities(self) -> int:
        return sum(ids for ids, _ in self.blocks)

    @property
    def images(self) -> int:
        return sum(ids * images for ids, images in self.blocks)

    def slots(self) -> Iterator[Slot]:
        """Every slot, identity by identity. A larger volume with the same images per identity starts with these."""
        first = 0
        for ids, images in self.blocks:
            for identity in range(first, first + ids):
                for sample in range(images):
                    yield Slot(identity, sample)
            first += ids

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<volume {self.name}: {self.images:,} images of {self.identities:,} identities>" if self.blocks else "<volume all>"


class Groups(NamedTuple):
    """Which group each of N images is in, of those of one attribute of people."""

    names: tuple[str, ...]
    number: np.ndarray  # (N,) int64, which of `names`


@dataclass(frozen=True)
class FaceBatch:
    """Labelled faces on their way from a generator to disk."""

    images: torch.Tensor  # (B, 3, H, W) uint8 RGB, aligned to the ArcFace template scaled to H
    identity: torch.Tensor  # (B,) int64
    columns: Mapping[str, torch.Tensor] = field(default_factory=dict)  # numbers per image, each (B,): m, similarity, real, label2, weight


@dataclass(frozen=True)
class Score:
    """One measured number. `stderr` is the sampling error over the `n` units (pairs, images, classes) it was measured on."""

    metric: str  # for example verification/lfw/accuracy
    value: float
    stderr: float | None
    n: int
    higher_is_better: bool


Progress = Callable[[int, int], None]  # (done, total)
