"""Exhaustive nearest-neighbour search in chunks: exact, no index structure, memory bounded whatever the sets' sizes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from synthbench.device import exact


def _tensor(array: np.ndarray, device: torch.device | str) -> torch.Tensor:
    return torch.as_tensor(np.ascontiguousarray(array, dtype=np.float32)).to(device)


def cosine_blocks(
    queries: np.ndarray, gallery: np.ndarray, device: torch.device | str = "cpu", rows: int = 1024, columns: int = 65_536
) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """(query rows, gallery rows, cosines) blocks of unit vectors (N, D) x (M, D), all gallery blocks of a query block in a row."""
    for start in range(0, len(queries), rows):
        part = _tensor(queries[start : start + rows], device)
        for first in range(0, len(gallery), columns):
            other = _tensor(gallery[first : first + columns], device)
            yield slice(start, start + len(part)), slice(first, first + len(other)), part @ other.T


def nearest(
    queries: np.ndarray,
    gallery: np.ndarray,
    device: torch.device | str = "cpu",
    query_label: np.ndarray | None = None,
    gallery_label: np.ndarray | None = None,
    rows: int = 1024,
) -> tuple[np.ndarray, np.ndarray]:
    """Highest cosine (N,) and its gallery row (N,) for each query; entries with the query's own label are passed over.

    A query without any candidate gets cosine -inf and row -1.
    """
    best = np.full(len(queries), -np.inf, np.float32)
    where = np.full(len(queries), -1, np.int64)
    for q, g, cosine in cosine_blocks(queries, gallery, device, rows):
        if query_label is not None and gallery_label is not None:
            own = torch.as_tensor(query_label[q])[:, None] == torch.as_tensor(gallery_label[g])[None]
            cosine.masked_fill_(own.to(cosine.device), -torch.inf)
        value, index = (out.cpu().numpy() for out in cosine.max(1))
        better = value > best[q]
        best[q] = np.where(better, value, best[q])
        where[q] = np.where(better, index + g.start, where[q])
    return best, where


def squared_distances(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(N, M) squared Euclidean distances of float64 features; float64 because x.x + y.y - 2 x.y cancels."""
    return ((x * x).sum(1)[:, None] + (y * y).sum(1)[None] - 2 * x @ y.T).clamp_(min=0)


def kth_neighbour(features: np.ndarray, k: int, device: torch.device | str = "cpu", rows: int = 1024) -> np.ndarray:
    """Squared distance (N,) of each row to its k-th nearest other row (itself not counted)."""
    everything = torch.as_tensor(np.asarray(features, np.float64), device=exact(device))
    out = []
    for start in range(0, len(features), rows):
        distance = squared_distances(everything[start : start + rows], everything)
        own = torch.arange(start, start + len(distance), device=distance.device)
        distance[torch.arange(len(distance), device=distance.device), own] = torch.inf
        out.append(distance.kthvalue(k, dim=1).values.cpu().numpy())
    return np.concatenate(out)
