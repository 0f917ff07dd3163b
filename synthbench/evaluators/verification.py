"""1:1 verification by the public 10-fold protocol (InsightFace `eval/verification.py`), and exact TAR at fixed FAR.

Embeddings of the image and its mirror are summed raw, then normalised; squared distance; thresholds 0, 0.01, ... 3.99; folds are ten
contiguous blocks; the threshold that is best on nine folds (the smallest of equals) scores the tenth. Accuracies are in percent.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from synthbench.config import Settings
from synthbench.evaluators.pairs import PairResults, far_name, kfold, open_floor, tar_at_far
from synthbench.evaluators.statistics import mean_stderr
from synthbench.models.embeddings import require_finite
from synthbench.models.encoder import raw_embeddings
from synthbench.plugin import Context, Evaluator, Subject
from synthbench.seeds import numpy_generator
from synthbench.store import write_json
from synthbench.types import Progress, Score, Skipped, UserError

if TYPE_CHECKING:
    from synthbench.data.pairs import PairSet
    from synthbench.models.encoder import Encoder

FLOOR = "untrained.json"


def tar_stderr(distance: np.ndarray, same: np.ndarray, far: float, random: np.random.Generator, draws: int = 200) -> float:
    """Bootstrap over genuine and impostor pairs, so that the error of the threshold counts too."""
    genuine, impostor = distance[same], distance[~same]
    mask = np.arange(len(same)) < len(genuine)
    values = [
        tar_at_far(np.concatenate([random.choice(genuine, len(genuine)), random.choice(impostor, len(impostor))]), mask, far)
        for _ in range(draws)
    ]
    return float(np.std(values, ddof=1))


def combine(*views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit embeddings (N, D) of the sum of the views' raw ones, and the mean norm (N,) of the raw ones (published as XNorm)."""
    total = np.sum(views, axis=0)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    return total / np.where(length == 0, 1, length), np.linalg.norm(views, axis=2).mean(0)


def pair_distances(embeddings: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.square(embeddings[left] - embeddings[right]).sum(1)


class VerificationConfig(Settings):
    flip: bool = True  # add the mirror image's embedding, as the public protocol does
    folds: int = Field(10, ge=2)
    far: tuple[float, ...] = (1e-2, 1e-3)  # false accept rates of the exact TAR; each needs at least 10 / FAR impostor pairs
    untrained: int = Field(3, ge=0, description="networks that learnt nothing, for the floor below all accuracies; 0: no floor")


class Verification(Evaluator[VerificationConfig]):
    """How well the recognizer tells pairs of strangers' photographs apart. Writes pairs/<benchmark>.npz.

    The floor, untrained/<benchmark>/accuracy, is what networks of its shape reach that learnt nothing. It is measured with the real
    baseline (untrained.json; untrained/<network>/<benchmark>.npz) and the same for all runs beside that.
    """

    Config = VerificationConfig
    version = 2  # 2: the floor

    def evaluate(self, subject: Subject, context: Context) -> list[Score | Skipped]:
        if subject.recognizer is None:
            raise Skipped("there is no recognizer: none was trained on this set")
        if not subject.benchmarks:
            raise Skipped("the protocol has no benchmarks, or their files are not registered; see `synthbench data status`")
        scores: list[Score | Skipped] = []
        accuracies: list[Score] = []
        for benchmark in subject.benchmarks:
            results, norms = self.tried(subject.recognizer, benchmark, subject.progress)
            results.save(context.out / "pairs", benchmark.name)
            random = numpy_generator(context.seed, "verification", benchmark.name)
            found = describe(benchmark.name, results, norms, self.config.far, random)
            scores += found
            accuracies += [s for s in found if isinstance(s, Score) and s.metric.endswith("/accuracy")]
        return [*scores, average(accuracies), *self.floor(subject, context)]

    def tried(
        self, recognizer: Encoder, benchmark: PairSet, progress: Progress = lambda done, total: None
    ) -> tuple[PairResults, np.ndarray]:
        """What happened to each pair, and the norms (N,) of the raw embeddings."""
        mirrors = (False, True) if self.config.flip else (False,)
        embeddings, norms = combine(*[raw_embeddings(recognizer, benchmark.images, mirror, progress=progress) for mirror in mirrors])
        require_finite(embeddings, f"embeddings of the benchmark {benchmark.name} by the recognizer")
        distance = pair_distances(embeddings, benchmark.left, benchmark.right)
        results = kfold(distance, check(benchmark, self.config.folds), folds=self.config.folds)
        return replace(results, digest=benchmark.digest), norms

    def floor(self, subject: Subject, context: Context) -> list[Score]:
        """Accuracy of the recognizer before it learnt anything, a mean over initial weights; where there is a baseline, what that has."""
        if subject.baseline:
            return open_floor(subject.baseline / FLOOR)
        scores: list[Score] = []
        if subject.untrained and self.config.untrained:
            networks = [subject.untrained(seed) for seed in range(self.config.untrained)]
            for benchmark in subject.benchmarks:
                found = [self.tried(network, benchmark)[0] for network in networks]
                for number, results in enumerate(found):
                    results.save(context.out / "untrained" / str(number), benchmark.name)
                scores.append(untrained(benchmark.name, found))
            scores.append(average(scores, "untrained"))
        write_json(context.out / FLOOR, [vars(score) for score in scores])
        return scores


def check(benchmark: PairSet, folds: int) -> np.ndarray:
    """`same` (P,) of a benchmark on which the protocol is defined; UserError when it is not."""
    same = np.asarray(benchmark.same, bool)
    if len(same) < folds:
        raise UserError(f"benchmark {benchmark.name} has {len(same)} pairs, fewer than its {folds} folds")
    if same.all() or not same.any():
        raise UserError(
            f"all {len(same):,} pairs of benchmark {benchmark.name} are {'genuine' if same.all() else 'impostors'}; check its labels"
        )
    return same


def describe(
    name: str, results: PairResults, norms: np.ndarray, fars: tuple[float, ...], random: np.random.Generator
) -> list[Score | Skipped]:
    """Scores of one benchmark, accuracy first."""
    n, share = len(results.same), float(results.correct.mean())
    accuracies = results.fold_accuracies()
    scores: list[Score | Skipped] = [
        # the mean over folds, as published; equal to the share of correct pairs when the folds are of one size
        Score(f"verification/{name}/accuracy", 100 * float(accuracies.mean()), 100 * float(np.sqrt(share * (1 - share) / n)), n, True),
        Score(f"verification/{name}/fold_std", 100 * float(accuracies.std()), None, len(accuracies), False),
        Score(f"verification/{name}/xnorm", float(norms.mean()), mean_stderr(norms), len(norms), True),
    ]
    genuine_share = np.bincount(results.fold, weights=results.same) / np.bincount(results.fold)
    unbalanced = int((np.abs(genuine_share - 0.5) > 0.05).sum())
    if unbalanced:
        warnings.warn(
            f"benchmark {name}: {unbalanced} of {len(accuracies)} folds do not hold half genuine pairs "
            f"({genuine_share.min():.0%} to {genuine_share.max():.0%}); its accuracy is not comparable with published ones",
            stacklevel=2,
        )
        scores.append(Score(f"verification/{name}/unbalanced_folds", unbalanced, None, len(accuracies), False))
    impostors = int((~results.same).sum())
    for far in fars:
        metric = f"verification/{name}/tar_at_far_{far_name(far)}"
        if impostors * far < 10 - 1e-9:
            scores.append(
                Skipped(f"{impostors:,} impostor pairs are too few for a false accept rate of {far:g}: 10 / FAR are needed", metric)
            )
            continue
        value = tar_at_far(results.distance, results.same, far)
        scores.append(Score(metric, 100 * value, 100 * tar_stderr(results.distance, results.same, far, random), n - impostors, True))
    return scores


def untrained(name: str, found: Sequence[PairResults]) -> Score:
    """Accuracy of networks that learnt nothing on one benchmark, the mean over them."""
    accuracy = float(np.mean([results.fold_accuracies().mean() for results in found]))
    # the networks meet the same pairs, so their errors are taken on the mean of what happened to each pair
    stderr = mean_stderr(np.mean([results.correct for results in found], axis=0))
    return Score(f"untrained/{name}/accuracy", 100 * accuracy, 100 * (stderr or 0), len(found[0].same), True)


def average(accuracies: list[Score], kind: str = "verification") -> Score:
    """Unweighted mean over benchmarks; their sampling errors are independent."""
    k = len(accuracies)
    stderr = float(np.sqrt(sum((score.stderr or 0) ** 2 for score in accuracies))) / k
    return Score(f"{kind}/avg/accuracy", sum(score.value for score in accuracies) / k, stderr, sum(s.n for s in accuracies), True)
