"""What is tried before anything is trained: do the protocol's networks see the faces that they are shown? Nothing here stops a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from synthbench.models.encoder import Encoder


def colours(folder: Path, networks: dict[str, Encoder]) -> None:
    """Try the public `networks` on 50 genuine and 50 impostor pairs of photographs in `folder`: are their colours as declared?"""
    from synthbench.data.pairs import open_pairs
    from synthbench.models.checkpoints import check_colour

    pairs = open_pairs(folder)
    rows = np.concatenate([np.flatnonzero(pairs.same)[:50], np.flatnonzero(~pairs.same)[:50]])
    left, right = (pairs.images.images(side[rows]) for side in (pairs.left, pairs.right))
    for network in networks.values():
        check_colour(network, left, right, torch.from_numpy(pairs.same[rows]))
