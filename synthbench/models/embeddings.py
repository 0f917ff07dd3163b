"""Plain numpy on embeddings (N, D): whole, of length one, the centres of classes."""

from __future__ import annotations

import numpy as np

from synthbench.types import UserError


def require_finite(values: np.ndarray, what: str) -> None:
    """Raise UserError when `values` (N, ...) holds NaN or infinity; nothing may be averaged over them."""
    good = np.isfinite(values).reshape(len(values), -1).all(1)
    if not good.all():
        raise UserError(
            f"{what}: {int((~good).sum()):,} of {len(good):,} rows are not finite, the first is row {int(np.argmin(good))}. "
            "The network that computed them is broken or diverged; check its weights"
        )


# Pairs


def class_centres(embeddings: np.ndarray, identity: np.ndarray, classes: int, chunk: int = 65_536) -> tuple[np.ndarray, np.ndarray]:
    """Sums (C, D) float64 of the unit embeddings of each class, and the images (C,) of each. The centre is the normalised sum."""
    total = np.zeros((classes, embeddings.shape[1]))
    for start in range(0, len(embeddings), chunk):
        part = identity[start : start + chunk]
        order = np.argsort(part, kind="stable")
        labels, first = np.unique(part[order], return_index=True)
        total[labels] += np.add.reduceat(embeddings[start : start + chunk][order].astype(np.float64), first)
    return total, np.bincount(identity, minlength=classes)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length one; a zero row stays zero."""
    norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(norm == 0, 1, norm)
