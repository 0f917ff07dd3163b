"""Gap-to-Real in every published form. Positive means: worse than the recognizer trained on real photographs.

| metric | formula | used by |
| --- | --- | --- |
| gap_to_real/points | REAL - SYN, percentage points | CemiFace |
| gap_to_real/relative_to_synthetic | 100 (REAL - SYN) / SYN | DCFace main Table 4, VIGFace |
| gap_to_real/relative_to_real | 100 (REAL - SYN) / REAL | DCFace supplement Table 1 |

Standard errors are paired: both recognizers saw the same pairs, so the difference is taken pair by pair (delta method for the ratios).
"""

from __future__ import annotations

import numpy as np

from synthbench.config import Settings
from synthbench.evaluators.pairs import PairResults, open_results
from synthbench.plugin import Context, Evaluator, Subject
from synthbench.types import Score, Skipped, UserError


def gap_points(real: float, synthetic: float) -> float:
    """REAL - SYN in the unit of both."""
    return real - synthetic


def gap_relative_to_synthetic(real: float, synthetic: float) -> float:
    """100 (REAL - SYN) / SYN, in percent."""
    return 100 * (real - synthetic) / synthetic


def gap_relative_to_real(real: float, synthetic: float) -> float:
    """100 (REAL - SYN) / REAL, in percent."""
    return 100 * (real - synthetic) / real


def same_pairs(real: dict[str, PairResults], synthetic: dict[str, PairResults]) -> None:
    """Raise UserError unless both recognizers were tested on the same benchmarks, pair by pair."""
    if set(real) != set(synthetic):
        only = ", ".join(sorted(set(real) ^ set(synthetic)))
        raise UserError(f"the real baseline and this run were not tested on the same benchmarks; only one of them has: {only}")
    for name, ours in synthetic.items():
        theirs = real[name]
        if not np.array_equal(ours.same, theirs.same) or not np.array_equal(ours.fold, theirs.fold) or ours.digest != theirs.digest:
            raise UserError(
                f"benchmark {name} is not the same set of pairs in the real baseline and in this run "
                f"({len(theirs.same):,} pairs {theirs.digest[:12]} and {len(ours.same):,} pairs {ours.digest[:12]}); "
                "run the real baseline again with this protocol"
            )


def accuracy(results: PairResults) -> float:
    """In percent, as verification prints it."""
    return 100 * float(results.fold_accuracies().mean())


def paired_stderr(real: list[PairResults], synthetic: list[PairResults], weight_real: float, weight_synthetic: float) -> float:
    """Standard error of weight_real * AVG_real + weight_synthetic * AVG_synthetic over the same pairs, both in percent."""
    variance = 0.0
    for r, s in zip(real, synthetic, strict=True):
        per_pair = 100 * (weight_real * r.correct + weight_synthetic * s.correct)
        variance += per_pair.var() / len(per_pair) / len(real) ** 2
    return float(np.sqrt(variance))


class GapToReal(Evaluator[Settings]):
    """The distance to the run of the real set under the same protocol and seed."""

    version = 1

    def evaluate(self, subject: Subject, context: Context) -> list[Score | Skipped]:
        if subject.baseline is None:
            raise Skipped("no real baseline to compare with: this is the run of the real set itself, or that run is missing")
        synthetic = open_results(context.out / "pairs")
        real = open_results(subject.baseline / "pairs")
        if not synthetic:
            raise Skipped("this run has no verification results; the evaluator `verification` must run before this one")
        if not real:
            raise Skipped("the real baseline has no verification results")
        same_pairs(real, synthetic)
        scores: list[Score | Skipped] = list(gaps("gap_to_real", list(real.values()), [synthetic[name] for name in real]))
        for name in real:
            value = gap_points(accuracy(real[name]), accuracy(synthetic[name]))
            stderr = paired_stderr([real[name]], [synthetic[name]], 1, -1)
            scores.append(Score(f"gap_to_real/{name}/points", value, stderr, len(real[name].same), False))
        return scores


def gaps(prefix: str, real: list[PairResults], synthetic: list[PairResults]) -> list[Score | Skipped]:
    """The three gaps of the unweighted mean over benchmarks, points first."""
    r = float(np.mean([accuracy(results) for results in real]))
    s = float(np.mean([accuracy(results) for results in synthetic]))
    n = sum(len(results.same) for results in real)
    scores: list[Score | Skipped] = [Score(f"{prefix}/points", gap_points(r, s), paired_stderr(real, synthetic, 1, -1), n, False)]
    for name, formula, base, weights in (
        ("relative_to_synthetic", gap_relative_to_synthetic, s, (100 / max(s, 1e-9), -100 * r / max(s, 1e-9) ** 2)),
        ("relative_to_real", gap_relative_to_real, r, (100 * s / max(r, 1e-9) ** 2, -100 / max(r, 1e-9))),
    ):
        if base == 0:
            scores.append(Skipped("an accuracy of zero has no relative gap", f"{prefix}/{name}"))
            continue
        scores.append(Score(f"{prefix}/{name}", formula(r, s), paired_stderr(real, synthetic, *weights), n, False))
    return scores
