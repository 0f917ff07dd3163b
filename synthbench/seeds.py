"""Named, independent random streams: what is drawn depends on what it is for, never on the order of drawing."""

from __future__ import annotations

import hashlib
from operator import index
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called `names`, e.g. ``derive(seed, "image", identity, sample)``.

    SHA-256 of the unambiguous text form, so that streams stay independent and the same on every machine. Whole numbers of NumPy
    and torch mean what Python's mean.
    """
    text = "/".join(f"str:{name}" if isinstance(name, str) else f"int:{index(name)}" for name in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def torch_generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator for the stream; noise is drawn on the CPU so that every device sees the same numbers."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *names))


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    import numpy as np

    return np.random.default_rng(derive(seed, *names))
