"""Statistics of similarity scores in plain numpy: pairs, error rates, thresholds, standard errors.

Scores are cosines of unit vectors, higher is more alike; a pair is accepted when its score reaches the threshold.
"""

from __future__ import annotations

import numpy as np

from synthbench.types import Skipped

BINS = np.linspace(-1.0, 1.0, 2001)  # fixed edges, 0.001 wide: histograms of different sets can be laid over one another


def genuine_pairs(identity: np.ndarray, cap: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows (P,), (P,) of all pairs of images of one person, or `cap` of them drawn uniformly with replacement."""
    order = np.argsort(identity, kind="stable")
    _, first, count = np.unique(identity[order], return_index=True, return_counts=True)
    count = count.astype(np.int64)
    pairs = count * (count - 1) // 2
    end = np.cumsum(pairs)
    total = int(end[-1]) if len(end) else 0
    index = np.arange(total) if total <= cap else random.integers(0, total, cap)
    group = np.searchsorted(end, index, side="right")
    index = index - (end[group] - pairs[group])  # number of the pair within its person: (1,0), (2,0), (2,1), (3,0), ...
    high = ((1 + np.sqrt(1 + 8 * index.astype(np.float64))) / 2).astype(np.int64)
    high -= high * (high - 1) // 2 > index  # the square root may round up or down by one
    high += high * (high + 1) // 2 <= index
    low = index - high * (high - 1) // 2
    return order[first[group] + high], order[first[group] + low]


def impostor_pairs(identity: np.ndarray, cap: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows (P,), (P,) of all pairs of images of two people, or `cap` of them drawn uniformly with replacement."""
    n = len(identity)
    order = np.argsort(identity, kind="stable")
    _, first, count = np.unique(identity[order], return_index=True, return_counts=True)
    ends = np.cumsum(count.astype(np.int64) * (n - count))  # ordered pairs by the person of the first image
    total = int(ends[-1]) // 2 if len(ends) else 0
    if total <= cap and n <= 5000:
        a, b = np.triu_indices(n, 1)
        keep = identity[a] != identity[b]
        return a[keep], b[keep]
    group = np.searchsorted(ends, random.integers(0, ends[-1], cap), side="right")
    a = first[group] + random.integers(0, count[group])
    b = random.integers(0, n - count[group])
    b += np.where(b >= first[group], count[group], 0)  # step over the first image's own person
    return order[a], order[b]


def pair_cosines(
    embeddings: np.ndarray, left: np.ndarray, right: np.ndarray, others: np.ndarray | None = None, chunk: int = 65_536
) -> np.ndarray:
    """Cosines (P,) float32 of rows `left` of unit `embeddings` with rows `right` of `others` (None: of the same), in chunks."""
    others = embeddings if others is None else others
    out = np.empty(len(left), np.float32)
    for start in range(0, len(left), chunk):
        part = slice(start, start + chunk)
        out[part] = np.einsum("nd,nd->n", embeddings[left[part]], others[right[part]])
    return out.clip(-1, 1)


# Error rates


def error_rates(genuine: np.ndarray, impostor: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds (T,) ascending, false match rate and false non-match rate (T,) at each: every distinct score, then infinity."""
    thresholds = np.append(np.unique(np.concatenate([genuine, impostor])), np.inf)
    fmr = 1 - np.searchsorted(np.sort(impostor), thresholds, "left") / len(impostor)
    fnmr = np.searchsorted(np.sort(genuine), thresholds, "left") / len(genuine)
    return thresholds, fmr, fnmr


def equal_error_rate(genuine: np.ndarray, impostor: np.ndarray) -> float:
    """Where FMR = FNMR, on the straight line between the two neighbouring points of the ROC."""
    _, fmr, fnmr = error_rates(genuine, impostor)
    return _crossing(fmr, fnmr)


def _crossing(fmr: np.ndarray, fnmr: np.ndarray) -> float:
    after = int(np.argmax(fnmr >= fmr))  # the last point has FNMR 1 and FMR 0
    if after == 0:
        return float((fmr[0] + fnmr[0]) / 2)
    gap_before, gap_after = fmr[after - 1] - fnmr[after - 1], fnmr[after] - fmr[after]
    share = gap_before / (gap_before + gap_after)
    return float(fmr[after - 1] + share * (fmr[after] - fmr[after - 1]))


def fnmr_at_fmr(genuine: np.ndarray, impostor: np.ndarray, fmr: float) -> float:
    """FNMR at the lowest threshold whose FMR does not exceed `fmr`: an exact step function, nothing interpolated."""
    allowed = int(np.floor(fmr * len(impostor) + 1e-9))
    worst = np.sort(impostor)[::-1]
    if allowed >= len(impostor):
        return 0.0
    return float((genuine <= worst[allowed]).mean())  # the threshold lies just above the first impostor that is one too many


def d_prime(genuine: np.ndarray, impostor: np.ndarray) -> float:
    """|mean_g - mean_i| / sqrt((var_g + var_i) / 2); NaN when both variances are zero."""
    return float(np.sqrt(2 * fisher(genuine, impostor)))


def fisher(genuine: np.ndarray, impostor: np.ndarray) -> float:
    """Fisher discriminant ratio (mean_g - mean_i)^2 / (var_g + var_i); NaN when both variances are zero."""
    genuine, impostor = genuine.astype(np.float64), impostor.astype(np.float64)
    spread = genuine.var() + impostor.var()
    return float((genuine.mean() - impostor.mean()) ** 2 / spread) if spread > 1e-12 else float("nan")


def calibrate(impostor: np.ndarray, fmr: float, events: int = 10) -> tuple[float, float]:
    """Threshold and false match rate it was set for. The rate is raised to `events` / N when N impostors cannot resolve `fmr`.

    Scores above the threshold (strictly) are matches; their share among the impostors is at most the rate. Raises Skipped when not even
    a rate of 0.1 can be resolved.
    """
    if len(impostor) < 10 * events:
        raise Skipped(f"{len(impostor)} comparisons between different real people are too few to set a threshold; {10 * events} are needed")
    reachable = max(fmr, events / len(impostor))
    allowed = int(np.floor(reachable * len(impostor) + 1e-9))
    worst = np.sort(impostor)[::-1]
    return float(worst[min(allowed, len(worst) - 1)]), reachable


# Standard errors


def mean_stderr(values: np.ndarray) -> float | None:
    """Standard error of the mean of independent values; None for fewer than two."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


def clustered_stderr(values: np.ndarray, cluster: np.ndarray) -> float | None:
    """Standard error of the mean of `values` (N,) that are dependent within clusters (images of one person); None for one cluster.

    sqrt(G / (G - 1) sum_g (sum_{i in g} (x_i - mean))^2) / N, the usual cluster-robust form.
    """
    _, index = np.unique(cluster, return_inverse=True)
    groups = int(index.max()) + 1
    if groups < 2:
        return None
    total = np.bincount(index, weights=values - values.mean())
    return float(np.sqrt(groups / (groups - 1) * (total**2).sum()) / len(values))


def bootstrap_weights(identities: int, draws: int, random: np.random.Generator) -> np.ndarray:
    """Weights (draws, identities) float64 of a bootstrap that draws whole people with replacement."""
    return random.multinomial(identities, np.full(identities, 1 / identities), size=draws).astype(np.float64)


def separation_stderr(
    genuine: np.ndarray,
    genuine_identity: np.ndarray,
    impostor: np.ndarray,
    impostor_identity: tuple[np.ndarray, np.ndarray],
    identities: int,
    random: np.random.Generator,
    draws: int = 100,
) -> dict[str, float]:
    """Bootstrap over people of genuine/impostor mean and std, EER, d' and FDR; scores binned 0.001 wide (the errors need no more).

    A pair weighs as often as its people were drawn: w_a for a genuine pair, w_a w_b for an impostor pair. One draw gives all values.
    Empty for fewer than 5 identities, which are too few to resample.
    """
    if identities < 5:
        return {}
    middle = (BINS[:-1] + BINS[1:]) / 2
    bin_g = np.searchsorted(BINS, genuine, "right").clip(1, len(middle)) - 1
    bin_i = np.searchsorted(BINS, impostor, "right").clip(1, len(middle)) - 1
    values: dict[str, list[float]] = {}
    for weight in bootstrap_weights(identities, draws, random):
        hist_g = np.bincount(bin_g, weights=weight[genuine_identity], minlength=len(middle))
        hist_i = np.bincount(bin_i, weights=weight[impostor_identity[0]] * weight[impostor_identity[1]], minlength=len(middle))
        if not hist_g.sum() or not hist_i.sum():
            continue
        hist_g, hist_i = hist_g / hist_g.sum(), hist_i / hist_i.sum()
        mean_g, mean_i = hist_g @ middle, hist_i @ middle
        var_g, var_i = hist_g @ (middle - mean_g) ** 2, hist_i @ (middle - mean_i) ** 2
        ratio = (mean_g - mean_i) ** 2 / max(var_g + var_i, 1e-14)
        fnmr = np.append(0, np.cumsum(hist_g))
        fmr = np.append(1, 1 - np.cumsum(hist_i))
        one = {
            "genuine/mean": mean_g,
            "genuine/std": np.sqrt(var_g),
            "impostor/mean": mean_i,
            "impostor/std": np.sqrt(var_i),
            "eer": _crossing(fmr, fnmr),
            "d_prime": np.sqrt(2 * ratio),
            "fdr": ratio,
        }
        for name, value in one.items():
            values.setdefault(name, []).append(float(value))
    return {name: float(np.std(draw, ddof=1)) for name, draw in values.items() if len(draw) > 1}
