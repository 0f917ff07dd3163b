"""How well the identities of the set keep together and apart, in the judge's embedding space (cosines of unit embeddings).

Formulas: genuine/impostor statistics as in IDiff-Face and NegFaceDiff (EER, FMR100, FMR1000, d', FDR); C_intra and U_class of DCFace
(section 4); consistency and separability of VIGFace (Eqs. 10, 13-14); intra- and inter-class noise of Vec2Face (supplement A.3).
A class centre is the normalised mean of normalised embeddings and includes the image it is compared with, unless said otherwise.
Published thresholds belong to other networks (0.3: AdaFace IR-101 WebFace4M), so by default the threshold is calibrated: the cosine that
a share `fmr` of the real set's impostor pairs exceeds under this judge. It is printed as separability/threshold.
Images of two people (soft labels) are left out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from synthbench.config import Settings
from synthbench.evaluators.neighbours import cosine_blocks, nearest
from synthbench.evaluators.statistics import (
    BINS,
    calibrate,
    clustered_stderr,
    d_prime,
    equal_error_rate,
    fisher,
    fnmr_at_fmr,
    genuine_pairs,
    impostor_pairs,
    mean_stderr,
    pair_cosines,
    separation_stderr,
)
from synthbench.models.embeddings import class_centres, unit
from synthbench.plugin import Context, Evaluator, Subject
from synthbench.seeds import numpy_generator
from synthbench.store import writing
from synthbench.types import Score, Skipped


def unique_literal(centres: np.ndarray, r: float, device: torch.device | str = "cpu", rows: int = 1024) -> np.ndarray:
    """(C,) bool: no earlier centre is more alike than r. DCFace Eq. 12 as printed, and Vec2Face's script."""
    unique = np.ones(len(centres), bool)
    for q, g, cosine in cosine_blocks(centres, centres, device, rows):
        if g.start >= q.stop:
            continue
        earlier = torch.arange(g.start, g.stop)[None] < torch.arange(q.start, q.stop)[:, None]
        unique[q] &= ~((cosine > r) & earlier.to(cosine.device)).any(1).cpu().numpy()
    return unique


def unique_packing(centres: np.ndarray, r: float) -> np.ndarray:
    """(C,) bool: no earlier *kept* centre is more alike than r. Sequential r-ball packing, DCFace's text."""
    unique = np.zeros(len(centres), bool)
    for start in range(0, len(centres), 512):
        block = centres[start : start + 512]
        free = (block @ centres[:start][unique[:start]].T <= r).all(1)  # of all kept centres before the block
        within = block @ block.T > r
        for i in np.flatnonzero(free):
            unique[start + i] = not (within[i, :i] & unique[start : start + i]).any()
    return unique


def class_similarity(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Mean cosine over the pairs of each class (VIGFace Eq. 10), from the sums (C, D) of unit embeddings; NaN for a single image."""
    squared = (total**2).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 1, (squared - count) / (count * (count - 1.0)), np.nan)


def vendi(embeddings: np.ndarray) -> float:
    """Effective number of different images: exp of the entropy of the eigenvalues of K/n, K the cosines (Friedman & Dieng 2023)."""
    value = np.linalg.eigvalsh(embeddings.astype(np.float64) @ embeddings.T.astype(np.float64) / len(embeddings))
    value = value[value > 1e-12]
    return float(np.exp(-(value * np.log(value)).sum()))


def class_means(values: np.ndarray, identity: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Mean (C,) of per-image values over each class that has images."""
    return np.bincount(identity, weights=values, minlength=len(count)) / np.maximum(count, 1)


def histogram(values: np.ndarray) -> np.ndarray:
    return np.histogram(values, BINS)[0]


def overlap_area(first: np.ndarray, second: np.ndarray) -> float:
    """Integral of min(p, q) of two score samples over bins 0.01 wide (Vec2Face): 0 apart, 1 identical."""
    p, q = (np.histogram(values, BINS[::10])[0] / len(values) for values in (first, second))
    return float(np.minimum(p, q).sum())


class Pairs:
    """Genuine and impostor cosines of one labelled set, and whose they are."""

    def __init__(self, embeddings: np.ndarray, identity: np.ndarray, cap: int, random: np.random.Generator) -> None:
        left, right = genuine_pairs(identity, cap, random)
        self.genuine, self.genuine_identity = pair_cosines(embeddings, left, right), identity[left]
        left, right = impostor_pairs(identity, cap, random)
        self.impostor, self.impostor_identity = pair_cosines(embeddings, left, right), (identity[left], identity[right])


class SeparabilityConfig(Settings):
    threshold: float | None = Field(None, ge=-1, le=1)  # cosine r; None: calibrated on the real set's impostors at `fmr`
    fmr: float = Field(1e-3, gt=0, lt=1)
    pairs: int = Field(1_000_000, ge=1)  # genuine and impostor pairs at most, each
    vendi_classes: int = Field(1_000, ge=0)  # identities of which the effective number of images is computed
    draws: int = Field(100, ge=2)  # of the bootstrap over identities


class Separability(Evaluator[SeparabilityConfig]):
    """Genuine/impostor separation, consistency, diversity, uniqueness and label noise. Writes separability.npz (histograms)."""

    Config = SeparabilityConfig
    version = 2  # 2: without copies of inquiries

    def evaluate(self, subject: Subject, context: Context) -> list[Score | Skipped]:
        config = self.config
        embeddings, identity, identities = subject.classes()
        random = numpy_generator(context.seed, "separability")
        pairs = Pairs(embeddings, identity, config.pairs, random)
        real = Pairs(subject.embeddings("real"), subject.real.identity, config.pairs, numpy_generator(context.seed, "separability", "real"))
        save_histograms(context.out / "separability.npz", pairs, real)
        total, count = class_centres(embeddings, identity, identities)
        scores = separation(pairs, real, identities, config.draws, random)
        r = config.threshold
        if r is not None:
            scores.append(Score("separability/threshold", r, None, 0, False))  # n = 0: given, not measured
        else:
            try:
                r, fmr = calibrate(real.impostor, config.fmr)
                scores.append(Score("separability/threshold", r, None, len(real.impostor), False))
                scores.append(Score("separability/threshold_fmr", fmr, None, len(real.impostor), False))
            except Skipped as reason:
                scores.append(Skipped(str(reason), "separability/threshold"))
        scores += classes(embeddings, identity, total, count, r, context.device)
        scores += diversity(embeddings, identity, total, count, config.vendi_classes, random)
        scores.append(self.intra_recall(subject, context))
        return scores

    def intra_recall(self, subject: Subject, context: Context) -> Score | Skipped:
        """DCFace's D_intra, but in the judge's space; needs real images of the same people: the column `real_identity` names them."""
        if "real_identity" not in subject.faces.columns:
            return Skipped("no real images of the same identities: the set records no column real_identity", "separability/d_intra/judge")
        shown = subject.faces.columns["real_identity"].astype(np.int64)
        own, k = np.where(subject.faces.whole & subject.measured(), shown, -1), 5
        fake, real = subject.embeddings("faces"), subject.embeddings("real")
        values = []
        for person in np.unique(own[own >= 0]):
            ours, theirs = fake[own == person], real[subject.real.identity == person]
            if len(ours) > k and len(theirs):
                values.append(intra_class_recall(theirs, ours, k))
        if not values:
            return Skipped(f"no identity has more than {k} images and a real image of the same person", "separability/d_intra/judge")
        recalls = np.array(values)
        return Score("separability/d_intra/judge", float(recalls.mean()), mean_stderr(recalls), len(recalls), True)


def intra_class_recall(real: np.ndarray, fake: np.ndarray, k: int = 5) -> float:
    """Share of the real images of one person inside a ball to the k-th neighbour of one of the generated ones (DCFace, D_intra)."""
    distance = np.square(fake[:, None].astype(np.float64) - fake[None]).sum(2)
    radius = np.sort(distance, axis=1)[:, k]  # column 0 is the image itself
    return float((np.square(real[:, None].astype(np.float64) - fake[None]).sum(2) < radius[None]).any(1).mean())


def separation(pairs: Pairs, real: Pairs, identities: int, draws: int, random: np.random.Generator) -> list[Score | Skipped]:
    """What the two score distributions say. Standard errors: bootstrap over identities."""
    genuine, impostor = pairs.genuine, pairs.impostor
    if not len(genuine):
        reason = "no identity has two images, so there are no genuine pairs"
        scores: list[Score | Skipped] = [Skipped(reason, f"separability/{name}") for name in ("genuine/mean", "eer", "d_prime", "fdr")]
        return [*scores, Score("separability/impostor/mean", float(impostor.mean(dtype=np.float64)), None, len(impostor), False)]
    stderr_of = separation_stderr(genuine, pairs.genuine_identity, impostor, pairs.impostor_identity, identities, random, draws)
    values = [
        ("genuine/mean", float(genuine.mean(dtype=np.float64)), len(genuine), True),
        ("genuine/std", float(genuine.std(dtype=np.float64)), len(genuine), False),
        ("impostor/mean", float(impostor.mean(dtype=np.float64)), len(impostor), False),
        ("impostor/std", float(impostor.std(dtype=np.float64)), len(impostor), False),
        ("eer", equal_error_rate(genuine, impostor), len(genuine) + len(impostor), False),
        ("d_prime", d_prime(genuine, impostor), len(genuine) + len(impostor), True),
        ("fdr", fisher(genuine, impostor), len(genuine) + len(impostor), True),
        ("overlap", overlap_area(genuine, impostor), len(genuine) + len(impostor), False),
    ]
    scores = []
    for name, value, n, higher in values:
        if np.isnan(value):
            scores.append(Skipped("all genuine and all impostor cosines are equal: the ratio is undefined", f"separability/{name}"))
        else:
            scores.append(Score(f"separability/{name}", value, stderr_of.get(name), n, higher))
    for name, fmr in (("fnmr_at_fmr_1e-2", 1e-2), ("fnmr_at_fmr_1e-3", 1e-3)):
        if len(impostor) * fmr < 10:
            reason = f"{len(impostor):,} impostor pairs are too few for a false match rate of {fmr:g}"
            scores.append(Skipped(reason, f"separability/{name}"))
        else:
            scores.append(Score(f"separability/{name}", fnmr_at_fmr(genuine, impostor, fmr), None, len(genuine), False))
    if len(real.genuine) and len(real.impostor):
        # VIGFace's IoU of histograms = overlap / (2 - overlap) for two normalised histograms: likeness to real, not separability
        for name, ours, theirs in (("genuine", genuine, real.genuine), ("impostor", impostor, real.impostor)):
            area = overlap_area(ours, theirs)
            scores.append(Score(f"separability/iou_with_real/{name}", area / (2 - area), None, len(ours), True))
    return scores


def classes(
    embeddings: np.ndarray, identity: np.ndarray, total: np.ndarray, count: np.ndarray, r: float | None, device: torch.device
) -> list[Score | Skipped]:
    """Statistics of images against centres and of centres against each other; r: the threshold, None when there is none."""
    centres = unit(total).astype(np.float32)
    own = pair_cosines(embeddings, np.arange(len(embeddings)), identity, centres)
    strict = leave_one_out(embeddings, identity, total)
    other, _ = nearest(embeddings, centres, device, identity, np.arange(len(centres)))
    neighbour, _ = nearest(centres, centres, device, np.arange(len(centres)), np.arange(len(centres)))
    several = count[identity] > 1
    present = np.flatnonzero(count > 0)
    pairs = len(present) * (len(present) - 1) // 2
    scores: list[Score | Skipped] = [
        mean_score("inter_class_separability", class_means(own - other, identity, count)[present], True),  # VIGFace S_k
        mean_score("nearest_other_centre", neighbour[present], False),
    ]
    single = "every identity has a single image, which is its own centre"
    if several.any():
        closer = (other > strict)[several].astype(np.float64)  # own centre without the image itself
        stderr = clustered_stderr(closer, identity[several])
        scores.append(Score("separability/closer_to_other", float(closer.mean()), stderr, len(closer), False))
    else:
        scores.append(Skipped(single, "separability/closer_to_other"))
    for suffix, intra, inter in (("calibrated", r, r), ("published", 0.3, 0.7)):
        if intra is None or inter is None:
            continue
        if several.any():
            noisy = (own <= intra)[several].astype(np.float64)
            stderr = clustered_stderr(noisy, identity[several])
            scores.append(Score(f"separability/intra_noise/{suffix}", float(noisy.mean()), stderr, len(noisy), False))
        else:
            scores.append(Skipped(single, f"separability/intra_noise/{suffix}"))
        close = close_centres(centres[present], inter, device)
        scores.append(Score(f"separability/inter_noise/{suffix}", close / pairs, None, pairs, False))
    if r is None:
        return scores
    if several.any():
        consistent = class_means((own > r).astype(np.float64), identity, count)[count > 1]
        scores.append(mean_score("c_intra", consistent, True))
    else:
        scores.append(Skipped(single, "separability/c_intra"))
    for name, unique in (("literal", unique_literal(centres[present], r, device)), ("packing", unique_packing(centres[present], r))):
        scores.append(Score(f"separability/u_class/{name}", float(unique.mean()), None, len(unique), True))
    return scores


def leave_one_out(embeddings: np.ndarray, identity: np.ndarray, total: np.ndarray, chunk: int = 65_536) -> np.ndarray:
    """Cosine (N,) of each image with its class centre, itself left out; 0 for a class of one."""
    out = np.empty(len(embeddings), np.float32)
    for start in range(0, len(embeddings), chunk):
        part = embeddings[start : start + chunk]
        out[start : start + chunk] = np.einsum("nd,nd->n", part, unit(total[identity[start : start + chunk]] - part))
    return out


def close_centres(centres: np.ndarray, r: float, device: torch.device) -> int:
    """Pairs of centres more alike than r."""
    count = sum(int((cosine > r).sum()) for _, _, cosine in cosine_blocks(centres, centres, device))
    own = int((np.einsum("nd,nd->n", centres, centres) > r).sum())
    return (count - own) // 2


def diversity(
    embeddings: np.ndarray, identity: np.ndarray, total: np.ndarray, count: np.ndarray, limit: int, random: np.random.Generator
) -> list[Score | Skipped]:
    """How different the images of one identity are to the judge. Too little teaches nothing, too much is another person."""
    similarity = class_similarity(total, count)[count > 1]
    if not len(similarity):
        reason = "every identity has a single image"
        return [Skipped(reason, f"separability/{name}") for name in ("intra_class_similarity", "diversity", "vendi")]
    scores: list[Score | Skipped] = [
        mean_score("intra_class_similarity", similarity, True),  # VIGFace consistency
        mean_score("diversity", 1 - similarity, True),  # mean cosine distance within a class
    ]
    chosen = np.flatnonzero(count > 1)
    if len(chosen) > limit:
        chosen = np.sort(random.choice(chosen, limit, replace=False))
    if len(chosen):
        order = np.argsort(identity, kind="stable")
        start = np.concatenate([[0], np.cumsum(count)])
        scores.append(mean_score("vendi", np.array([vendi(embeddings[order[start[c] : start[c + 1]]]) for c in chosen]), True))
    return scores


def mean_score(name: str, values: np.ndarray, higher_is_better: bool) -> Score:
    """Mean over classes, with the standard error of independent classes."""
    return Score(f"separability/{name}", float(values.mean(dtype=np.float64)), mean_stderr(values), len(values), higher_is_better)


def save_histograms(path: Path, pairs: Pairs, real: Pairs) -> None:
    """edges (2001,) and counts (2000,) of genuine, impostor, real_genuine, real_impostor cosines."""
    arrays = {"genuine": pairs.genuine, "impostor": pairs.impostor, "real_genuine": real.genuine, "real_impostor": real.impostor}
    with writing(path) as tmp, open(tmp, "wb") as file:
        np.savez_compressed(file, edges=BINS, **{name: histogram(values) for name, values in arrays.items()})  # type: ignore[arg-type]
