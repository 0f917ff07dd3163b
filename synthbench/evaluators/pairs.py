"""What happened to each pair of a benchmark: the threshold by folds, TAR at FAR, and the results on disk that comparisons are made from."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from synthbench.store import read_json, writing
from synthbench.types import Score, UserError

THRESHOLDS = np.arange(0, 4, 0.01)


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


def fold_of(pairs: int, folds: int = 10) -> np.ndarray:
    """Fold (P,) of each pair: contiguous blocks, the first P mod `folds` of them one longer."""
    return np.repeat(np.arange(folds), [len(part) for part in np.array_split(np.arange(pairs), folds)])


def kfold(distance: np.ndarray, same: np.ndarray, folds: int = 10, fold: np.ndarray | None = None) -> PairResults:
    """Predict each pair with the threshold that is most accurate on the other folds; `same` iff distance < threshold.

    fold: (P,) of each pair, where the folds are not the blocks of `fold_of`.
    Counts for all thresholds come from two sorts per fold; the result is the same to the bit as that of the published loop.
    """
    fold = fold_of(len(same), folds) if fold is None else fold
    right = np.empty((folds, len(THRESHOLDS)), np.int64)  # correct pairs of each fold at each threshold
    for number in range(folds):
        genuine = np.sort(distance[(fold == number) & same])
        impostor = np.sort(distance[(fold == number) & ~same])
        right[number] = np.searchsorted(genuine, THRESHOLDS, "left") + len(impostor) - np.searchsorted(impostor, THRESHOLDS, "left")
    # accuracy on the other folds: they hold equally many pairs for every threshold, so the largest count is the first best accuracy
    best = THRESHOLDS[(right.sum(0) - right).argmax(1)]
    threshold = best[fold]
    return PairResults(distance, same, fold, threshold, (distance < threshold) == same)


def tar_at_far(distance: np.ndarray, same: np.ndarray, far: float) -> float:
    """Share of genuine pairs below the largest threshold whose FAR does not exceed `far`. Exact: no grid, no interpolation."""
    impostor = np.sort(distance[~same])
    allowed = int(np.floor(far * len(impostor) + 1e-9))
    return float((distance[same] < impostor[allowed]).mean()) if allowed < len(impostor) else 1.0


def far_name(far: float) -> str:
    """0.001 -> 1e-3."""
    mantissa, exponent = f"{far:.6e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


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


def open_floor(path: Path) -> list[Score]:
    """What the real baseline says of networks that learnt nothing; empty where it measured none. Raises UserError for a damaged file."""
    try:
        return [Score(**score) for score in read_json(path) or ()]
    except TypeError as error:
        raise UserError(f"{path} is damaged ({error}); run the same command with --force evaluate") from None
