"""Does the similarity factor work: the m asked for against the similarity to the inquiry that came out.

Realised similarity is the column `similarity` (cosine to the inquiry in the generator's own space E_id) and, where the inquiries are
there, the same measured by the judge, which the generator never saw. Rows marked `real` (photographs put into the set) are left out, and
images of two people (soft labels), which resemble no single inquiry.
Standard errors: images of one identity share an inquiry, so identities are the independent units.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field
from scipy.stats import rankdata

from synthbench.config import Settings
from synthbench.evaluators.statistics import bootstrap_weights, clustered_stderr
from synthbench.models.embeddings import require_finite
from synthbench.plugin import Context, Evaluator, Subject
from synthbench.seeds import numpy_generator
from synthbench.types import Score, Skipped

LISTED = 64  # values of m that get a score of their own at most; a continuous m has none


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation with mid-ranks for ties; NaN when one of them is constant."""
    a, b = rankdata(x), rankdata(y)
    a, b = a - a.mean(), b - b.mean()
    length = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / length) if length > 0 else float("nan")


def spearman_stderr(x: np.ndarray, y: np.ndarray, cluster: np.ndarray, random: np.random.Generator, draws: int) -> float | None:
    """Bootstrap over clusters with the ranks of the whole sample; None for one cluster."""
    _, index = np.unique(cluster, return_inverse=True)
    groups = int(index.max()) + 1
    if groups < 2:
        return None
    a, b = rankdata(x) / len(x), rankdata(y) / len(y)
    sums = np.stack([np.bincount(index, weights=w, minlength=groups) for w in (np.ones_like(a), a, b, a * a, b * b, a * b)], 1)
    n, sa, sb, saa, sbb, sab = (bootstrap_weights(groups, draws, random) @ sums).T
    covariance, variance_a, variance_b = sab / n - sa * sb / n**2, saa / n - (sa / n) ** 2, sbb / n - (sb / n) ** 2
    good = (variance_a > 1e-12) & (variance_b > 1e-12)
    values = covariance[good] / np.sqrt(variance_a[good] * variance_b[good])
    return float(values.std(ddof=1)) if len(values) > 1 else None


class SimilarityConfig(Settings):
    draws: int = Field(200, ge=2)  # of the bootstrap over identities


class Similarity(Evaluator[SimilarityConfig]):
    """Requested against realised similarity to the inquiry."""

    Config = SimilarityConfig
    version = 1

    def evaluate(self, subject: Subject, context: Context) -> list[Score | Skipped]:
        columns = subject.faces.columns
        made = subject.faces.whole & subject.faces.made
        if not made.any():
            raise Skipped("every image of the set is a photograph of a real person, or a mixture; none was asked to resemble an inquiry")
        identity = subject.faces.identity[made]
        m = columns["m"][made].astype(np.float64) if "m" in columns else None
        random = numpy_generator(context.seed, "similarity")
        scores: list[Score | Skipped] = []
        if "similarity" in columns:
            realised = columns["similarity"][made].astype(np.float64)
            require_finite(realised, "column similarity of the set")
            scores += self.describe("similarity/realised", realised, identity, "similarity", m, random)
        else:
            scores.append(Skipped("the set records no column similarity", "similarity/requested_vs_realised/spearman"))
        try:
            judged = judge_similarity(subject, made)
        except Skipped as reason:
            return [*scores, Skipped(str(reason), "similarity/judge/mean")]
        return scores + self.describe("similarity/judge", judged, identity, "similarity/judge", m, random)

    def describe(
        self, prefix: str, realised: np.ndarray, identity: np.ndarray, root: str, m: np.ndarray | None, random: np.random.Generator
    ) -> list[Score | Skipped]:
        """Mean, spread and dependence on m of one similarity. All higher is better, though the best m is known to lie between."""
        n = len(realised)
        scores: list[Score | Skipped] = [
            Score(f"{prefix}/mean", float(realised.mean()), clustered_stderr(realised, identity), n, True),
            Score(f"{prefix}/std", float(realised.std()), None, n, False),
        ]
        name = f"{root}/requested_vs_realised/spearman"
        if m is None:
            return [*scores, Skipped("the set records no column m: nothing was requested", name)]
        asked = np.isfinite(m)
        m, realised, identity = m[asked], realised[asked], identity[asked]
        values = np.unique(m)
        if len(values) < 2:
            one = f"m is {values[0]:g} for every image" if len(values) else "no image has an m"
            return [*scores, Skipped(f"{one}: nothing to correlate", name)]
        rho = spearman(m, realised)
        if np.isnan(rho):
            return [*scores, Skipped("every image has the same similarity: nothing to correlate", name)]
        scores.append(Score(name, rho, spearman_stderr(m, realised, identity, random, self.config.draws), len(m), True))
        if len(values) > LISTED:
            return [*scores, Skipped(f"m takes {len(values):,} values: no table per value", f"{root}/at_m")]
        means = []
        for value in values:
            at, people = realised[m == value], identity[m == value]
            means.append(at.mean())
            scores.append(Score(f"{root}/at_m/{value:g}", float(at.mean()), clustered_stderr(at, people), len(at), True))
        if len(values) > 2:
            scores.append(Score(f"{name}_over_grid", spearman(values, np.array(means)), None, len(values), True))
        return scores


def judge_similarity(subject: Subject, made: np.ndarray) -> np.ndarray:
    """Cosine (N,) of each chosen image to its inquiry by the judge. Raises Skipped when images and inquiries cannot be matched."""
    inquiries = subject.embeddings("inquiries")  # raises Skipped when there are none
    assert subject.inquiries is not None
    names = subject.faces.names  # of a generated set: the number of the slot's identity, which is the number of the inquiry
    row_of = {int(number): row for row, number in enumerate(subject.inquiries.identity)}
    if len(row_of) != len(inquiries):
        raise Skipped("an identity has several inquiries")
    if not all(name.isdigit() and int(name) in row_of for name in names):
        raise Skipped("the identities of the set are not numbered like the inquiries")
    rows = np.array([row_of[int(name)] for name in names])[subject.faces.identity[made]]
    return np.einsum("nd,nd->n", subject.embeddings("faces")[made], inquiries[rows]).astype(np.float64)
