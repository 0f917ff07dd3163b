"""Per-pair verification results on disk: what paired comparisons are made from."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from synthbench.store import writing
from synthbench.types import UserError


@dataclass(frozen=True)
class PairResults:
    """What happened to each of the P pairs of one benchmark."""

    distance: np.ndarray  # (P,) float64 squared Euclidean distance of unit embeddings, 0..4
    same: np.ndarray  # (P,) bool
    fold: np.ndarray  # (P,) int64
    threshold: np.ndarray  # (P,) float64, chosen on the other folds; predicted same iff distance < threshold
    correct: np.ndarray  # (P,) bool
    digest: str = ""  # of the benchmark

    def fold_accuracies(self) -> np.ndarray:
        """Accuracy (K,) of each fold, 0..1."""
        return np.bincount(self.fold, weights=self.correct) / np.bincount(self.fold)

    def save(self, folder: Path, benchmark: str) -> None:
        """Write <folder>/<benchmark>.npz."""
        folder.mkdir(parents=True, exist_ok=True)
        with writing(folder / f"{benchmark}.npz") as tmp, open(tmp, "wb") as file:
            np.savez_compressed(file, **{name: np.asarray(value) for name, value in vars(self).items()})  # type: ignore[arg-type]


def open_results(folder: Path) -> dict[str, PairResults]:
    """Results by benchmark name of every .npz in `folder`; empty when there is none. Raises UserError for a file that is not ours."""
    found = {}
    for path in sorted(folder.glob("*.npz")):
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in PairResults.__dataclass_fields__}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} does not hold verification results ({error}). Delete its folder and run again") from error
        found[path.stem] = PairResults(**{**arrays, "digest": str(arrays["digest"])})
    return found
