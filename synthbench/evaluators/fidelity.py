"""How close the distribution of the set is to that of the real photographs: Fréchet distance, KID, precision/recall/density/coverage.

Always in the judge's feature space, and in those of pytorch-fid's Inception and of DINOv2 when their weights are registered. Both sets
enter with the same number of images (a seeded subset), which is the score's n: all these numbers depend on it, and on the network, so
compare only metrics of one name and one n.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from synthbench.config import Settings
from synthbench.data.sources import find, registered
from synthbench.device import exact
from synthbench.evaluators import dinov2
from synthbench.evaluators.inception import Inception, pooled_features
from synthbench.evaluators.neighbours import kth_neighbour, squared_distances
from synthbench.evaluators.statistics import clustered_stderr
from synthbench.models.embeddings import require_finite
from synthbench.plugin import Context, Evaluator, Subject
from synthbench.seeds import numpy_generator
from synthbench.types import DataMissing, Score, Skipped

# Fréchet distance


def moments(features: np.ndarray, chunk: int = 8192) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and unbiased covariance (D, D) in float64, streamed around the first chunk's mean."""
    shift = features[:chunk].astype(np.float64).mean(0)
    total, outer = np.zeros_like(shift), np.zeros((len(shift), len(shift)))
    for start in range(0, len(features), chunk):
        part = features[start : start + chunk].astype(np.float64) - shift
        total += part.sum(0)
        outer += part.T @ part
    n = len(features)
    return shift + total / n, (outer - np.outer(total, total) / n) / (n - 1)


def root(matrix: np.ndarray, power: float = 0.5) -> np.ndarray:
    """Symmetric power of a positive semi-definite matrix; directions without variance stay zero, also for negative powers."""
    value, vector = np.linalg.eigh(matrix)
    keep = value > value.max(initial=0) * len(value) * np.finfo(np.float64).eps
    return (vector[:, keep] * value[keep] ** power) @ vector[:, keep].T


def frechet(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """|mean1 - mean2|^2 + tr(cov1 + cov2 - 2 (cov1 cov2)^(1/2)) (Dowson & Landau 1982; Heusel et al. 2017) by symmetric eigenvalues."""
    half = root(cov1)
    cross = np.sqrt(np.linalg.eigvalsh(half @ cov2 @ half).clip(0)).sum()
    return max(0.0, float(((mean1 - mean2) ** 2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * cross))


def frechet_distance(
    real: np.ndarray, fake: np.ndarray, real_people: np.ndarray | None = None, fake_people: np.ndarray | None = None
) -> tuple[float, float | None]:
    """Fréchet distance of two samples (N, D), (M, D) and its first-order sampling error.

    The derivative with respect to a covariance is I - T, T the optimal map to the other Gaussian; its value at each image is that image's
    influence, and the influences of one person's images are summed. The error leaves out the bias, which is of order D/N. None when a set
    has no more images than dimensions: the maps then do not exist.
    """
    (mean1, cov1), (mean2, cov2) = moments(real), moments(fake)
    value = frechet(mean1, cov1, mean2, cov2)
    dim = len(mean1)
    if min(len(real), len(fake)) <= dim:
        return value, None
    half, inverse = root(cov1), root(cov1, -0.5)
    middle = half @ cov2 @ half
    to_fake = inverse @ root(middle) @ inverse
    to_real = half @ root(middle, -0.5) @ half
    variance = 0.0
    for features, people, mean, step, transport in (
        (real, real_people, mean1, mean1 - mean2, to_fake),
        (fake, fake_people, mean2, mean2 - mean1, to_real),
    ):
        centred = features.astype(np.float64) - mean
        influence = 2 * centred @ step + ((centred @ (np.eye(dim) - transport)) * centred).sum(1)
        stderr = clustered_stderr(influence, np.arange(len(features)) if people is None else people)
        if stderr is None:
            return value, None
        variance += stderr**2
    return value, float(np.sqrt(variance))


# Kernel distance


def mmd(x: np.ndarray, y: np.ndarray, of_x: np.ndarray, of_y: np.ndarray, rows: int = 1024) -> np.ndarray:
    """Unbiased squared MMD (S,) with the kernel (x.y / D + 1)^3 (Binkowski et al. 2018, KID), of S subsets of x (N, D) and y (M, D).

    of_x (S, N), of_y (S, M): 1 for the members of a subset, else 0. Subsets overlap, so the kernel is computed once for all of them.
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    dim, n, m = x.shape[1], of_x.sum(1), of_y.sum(1)

    def total(a: np.ndarray, b: np.ndarray, of_a: np.ndarray, of_b: np.ndarray) -> np.ndarray:
        result = np.zeros(len(of_a))
        for part in (slice(first, first + rows) for first in range(0, len(a), rows)):
            base = a[part] @ b.T / dim + 1
            result += (of_a[:, part] @ (base * base * base) * of_b).sum(1)  # ten times as fast as ** 3
        return result

    def itself(a: np.ndarray, of_a: np.ndarray) -> np.ndarray:
        return total(a, a, of_a, of_a) - of_a @ (np.square(a).sum(1) / dim + 1) ** 3

    return itself(x, of_x) / (n * (n - 1)) + itself(y, of_y) / (m * (m - 1)) - 2 * total(x, y, of_x, of_y) / (n * m)


def kid(real: np.ndarray, fake: np.ndarray, random: np.random.Generator, subsets: int = 100, size: int = 1000) -> tuple[float, float]:
    """Mean over random subsets and its standard error, for two samples of one size N; a subset has min(`size`, N / 2) images.

    Subsets overlap, so their spread over sqrt(subsets) would be too small: the error is spread * sqrt(size / (N - size)), the delete-d
    jackknife (Shao & Wu 1989). It takes images for independent.
    """
    n = min(len(real), len(fake))
    size = min(size, n // 2)
    of_real, of_fake = np.zeros((subsets, len(real))), np.zeros((subsets, len(fake)))
    for row in range(subsets):
        for members in (of_real[row], of_fake[row]):
            members[random.choice(len(members), size, replace=False)] = 1
    values = mmd(real, fake, of_real, of_fake)
    return float(np.mean(values)), float(np.std(values, ddof=1) * np.sqrt(size / (n - size)))


# Manifolds


def prdc(real: np.ndarray, fake: np.ndarray, k: int = 5, device: torch.device | str = "cpu", rows: int = 1024) -> dict[str, np.ndarray]:
    """Precision, recall, density, coverage (Naeem et al. 2020), as one value per image: averaging gives the number.

    A ball reaches to the k-th nearest neighbour in its own set, itself not counted; inside is strict. Precision and density (M,) have a
    value per fake, recall and coverage (N,) per real.
    """
    device = exact(device)
    ball_real = torch.as_tensor(kth_neighbour(real, k, device), device=device)
    ball_fake = torch.as_tensor(kth_neighbour(fake, k, device), device=device)
    x = torch.as_tensor(np.asarray(real, np.float64), device=device)
    y = torch.as_tensor(np.asarray(fake, np.float64), device=device)
    in_real = torch.zeros(len(y), dtype=torch.int64, device=device)  # how many real balls hold each fake
    recall, coverage = [], []
    for start in range(0, len(x), rows):
        distance = squared_distances(x[start : start + rows], y)
        inside = distance < ball_real[start : start + rows, None]
        in_real += inside.sum(0)
        coverage.append(inside.any(1))
        recall.append((distance < ball_fake[None]).any(1))
    return {
        "precision": (in_real > 0).cpu().double().numpy(),
        "recall": torch.cat(recall).cpu().double().numpy(),
        "density": in_real.cpu().double().numpy() / k,
        "coverage": torch.cat(coverage).cpu().double().numpy(),
    }


class FidelityConfig(Settings):
    images: int = Field(10_000, ge=4)  # of each set; papers on synthetic faces print FID on 10,000 against 10,000
    subsets: int = Field(100, ge=2)  # of KID
    subset_size: int = Field(1000, ge=2)
    neighbours: int = Field(5, ge=1)  # k of precision, recall, density, coverage
    allow_small: bool = False  # compute the Fréchet distance of Inception and DINOv2 from fewer images than dimensions (2,048; 1,024)


class Fidelity(Evaluator[FidelityConfig]):
    """Distances between the set, without copies of its inquiries, and the real training set, as sets of features."""

    Config = FidelityConfig
    version = 2  # 2: without copies of inquiries

    def sources(self) -> dict[str, str]:
        known = {"inception": "inception-fid", "dinov2": dinov2.NAME}
        return {what: find(name).digest for what, name in known.items() if registered(name)}

    def evaluate(self, subject: Subject, context: Context) -> list[Score | Skipped]:
        measured = np.flatnonzero(subject.measured())
        n = min(len(measured), len(subject.real), self.config.images)
        if n < 4:
            raise Skipped(f"{n} images are too few to speak of a distribution")
        random = numpy_generator(context.seed, "fidelity")
        real_rows = np.sort(random.choice(len(subject.real), n, replace=False))
        rows = measured[np.sort(random.choice(len(measured), n, replace=False))]
        people = subject.real.identity[real_rows], subject.faces.identity[rows]
        judged = subject.embeddings("real")[real_rows], subject.embeddings("faces")[rows]
        scores = self.compare("fd/judge", judged, people, context)
        for name, find_network in (("fd/inception_pytorch-fid", find_inception), (f"fd/{dinov2.NAME}", dinov2.find_dinov2)):
            try:
                network = find_network()
            except Skipped as reason:
                scores += [Skipped(str(reason), f"{name}/frechet"), Skipped(str(reason), f"{name}/kid")]
                continue
            features = (
                pooled_features(network, subject.real, real_rows, context.device),
                pooled_features(network, subject.faces, rows, context.device),
            )
            scores += self.compare(name, features, people, context)
        return scores

    def compare(
        self, name: str, features: tuple[np.ndarray, np.ndarray], people: tuple[np.ndarray, np.ndarray], context: Context
    ) -> list[Score | Skipped]:
        """All scores in one feature space; features and people (N,) of real and generated images."""
        (real, fake), (real_people, fake_people) = features, people
        require_finite(real, f"{name}: features of the real images")
        require_finite(fake, f"{name}: features of the images")
        config, n, dim = self.config, len(real), real.shape[1]
        scores: list[Score | Skipped] = []
        if n <= dim and name != "fd/judge" and not config.allow_small:
            reason = f"{n:,} images give no covariance in {dim:,} dimensions; the setting allow_small of fidelity computes it all the same"
            scores.append(Skipped(reason, f"{name}/frechet"))
        else:
            value, stderr = frechet_distance(real, fake, real_people, fake_people)
            scores.append(Score(f"{name}/frechet", value, stderr, n, False))
        random = numpy_generator(context.seed, "kid", name)
        # KID divides x.y by D, made for features with entries near one; unit vectors are brought to that scale: (cosine + 1)^3
        scale = np.sqrt(dim) if name == "fd/judge" else 1
        value, stderr = kid(real * scale, fake * scale, random, config.subsets, config.subset_size)
        scores.append(Score(f"{name}/kid", value, stderr, n, False))
        if n <= config.neighbours:
            return [*scores, Skipped(f"{n} images are too few for {config.neighbours} neighbours", f"{name}/precision")]
        for measure, values in prdc(real, fake, config.neighbours, context.device).items():
            owner = real_people if measure in ("recall", "coverage") else fake_people
            scores.append(Score(f"{name}/{measure}", float(values.mean()), clustered_stderr(values, owner), n, True))
        return scores


def find_inception() -> Inception:
    """The registered network. Raises Skipped when its weights are not there."""
    try:
        entry = find("inception-fid")
    except DataMissing as missing:
        raise Skipped(str(missing)) from missing
    return Inception(Path(entry.path))
