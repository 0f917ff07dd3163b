"""The Context of a generator under test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from synthbench.data.faces import FaceSet
from synthbench.models.encoder import Encoder
from synthbench.plugin import Context


def context(out: Path, faces: FaceSet, encoder: Encoder | None = None, **more: Any) -> Context:
    """`out` is made; `more`: inputs, batch_size, progress."""
    out.mkdir(parents=True, exist_ok=True)
    return Context(out, 3, faces.resolution, torch.device("cpu"), faces, encoder, **more)  # type: ignore[arg-type]
