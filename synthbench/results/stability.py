"""Is the ranking the recipe's, or the judge's? Rank correlation of the same generators under several, and which differences all find.

Kendall's tau over generators: 1 where every pair of them is in the same order under both recipes, -1 where none is, 0 by chance. Its
interval is a bootstrap over pairs of images, drawn together for all generators and recipes as all meet the same pairs, and over seeds where
there are several. Noise alone makes two rankings differ: `same_recipe` is the tau that one recipe has with itself on other pairs and seeds.
A judge changes no accuracy, but what is told of the sets; those scores are drawn anew by their errors, as if each were independent.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from synthbench.results import inference
from synthbench.results.comparison import AVG, Entry, entry, rivals
from synthbench.results.record import COLUMNS, Result
from synthbench.seeds import numpy_generator
from synthbench.store import Store
from synthbench.types import UserError

DRAWS = 1000
LEAST = 3  # generators; two have one order or the other
JUDGED = {metric: title for title, metric, _, _ in COLUMNS if metric.startswith(("fd/judge", "separability/"))}  # what is the judge's

Tables = Sequence[Sequence[np.ndarray]]  # [generator][benchmark] right or wrong (S, P)


def tau(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Kendall's tau (...) over the last axis of `a` and `b`, (..., G); a pair that is equal in one counts for neither order."""
    one, other = np.triu_indices(a.shape[-1], 1)
    return np.asarray((np.sign(a[..., one] - a[..., other]) * np.sign(b[..., one] - b[..., other])).mean(-1))


def drawn(tables: Tables, weights: Sequence[np.ndarray], random: np.random.Generator) -> np.ndarray:
    """AVG (draws, G) of each generator, 0..1, on pairs drawn `weights[benchmark]` (draws, P) times, and on seeds drawn anew."""
    found = []
    for own in tables:
        seeds = sum(weight @ np.asarray(table, float).T / table.shape[1] for weight, table in zip(weights, own)) / len(own)  # (draws, S)
        chosen = random.integers(0, seeds.shape[1], seeds.shape)
        found.append(np.take_along_axis(seeds, chosen, 1).mean(1))
    return np.stack(found, 1)


def agreement(a: Tables, b: Tables, random: np.random.Generator, draws: int = DRAWS) -> dict[str, float]:
    """tau between two recipes with its interval, and the tau of each with itself that noise leaves, a mean of both."""
    sizes = [table.shape[1] for table in a[0]]

    def again() -> list[np.ndarray]:
        return [random.multinomial(size, np.full(size, 1 / size), size=draws).astype(np.float32) for size in sizes]

    weights = again()
    found = tau(drawn(a, weights, random), drawn(b, weights, random))
    low, high = np.quantile(found, [0.5 - inference.LEVEL / 2, 0.5 + inference.LEVEL / 2])
    itself = [tau(drawn(tables, weights, random), drawn(tables, again(), random)).mean() for tables in (a, b)]
    value = tau(*(np.array([np.mean([table.mean() for table in own]) for own in tables]) for tables in (a, b)))
    return {"tau": float(value), "low": float(low), "high": float(high), "same_recipe": float(np.mean(itself))}


def stability(store: Store, results: Mapping[str, Sequence[Result]], comparisons: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Of the same rows under each recipe, by its name. Raises UserError with fewer than three generators, or without per-pair results."""
    entries: dict[str, list[Entry]] = {recipe: rivals([entry(store, result, "") for result in rows]) for recipe, rows in results.items()}
    first = next(iter(entries.values()))
    if len(first) < LEAST:
        raise UserError(f"{len(first)} generators make no ranking; give {LEAST} or more with --recipes, besides real")
    if any(not item.own for rows in entries.values() for item in rows):
        raise UserError(
            "the results of single pairs are gone (stages deleted), so rankings cannot be compared; run it with --force evaluate"
        )
    names = list(first[0].own[0])
    tables = {recipe: [[item.table(name) for name in names] for item in rows] for recipe, rows in entries.items()}
    pairs = []
    for one, other in itertools.combinations(results, 2):
        random = numpy_generator(0, "stability", one, other)
        found = agreement(tables[one], tables[other], random)
        pairs.append({"a": one, "b": other, **found, "generators": len(first), **compared(comparisons[one], comparisons[other])})
    return {
        "recipes": list(results),
        "rows": _rows(comparisons),
        "averages": {recipe: [float(np.mean(item.seeds(AVG))) for item in rows] for recipe, rows in entries.items()},
        "agreement": pairs,
    }


def _rows(comparisons: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [str(row["label"]) for row in next(iter(comparisons.values()))["rows"] if row["generator"] != "real"]


def judged(store: Store, results: Mapping[str, Sequence[Result]], comparisons: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Of the same rows under each judge, by its name. Raises UserError when no score of a judge is known of three generators."""
    entries = {judge: rivals([entry(store, result, "") for result in rows]) for judge, rows in results.items()}
    scores: dict[str, dict[str, list[float | None]]] = {}
    pairs = []
    for metric, title in JUDGED.items():
        known = {judge: [_known(item, metric) for item in rows] for judge, rows in entries.items()}
        if any(len([one for one in row if one]) < LEAST for row in known.values()):
            continue
        scores[title] = {judge: [one[0] if one else None for one in row] for judge, row in known.items()}
        for one, other in itertools.combinations(results, 2):
            both = np.array([(*a, *b) for a, b in zip(known[one], known[other]) if a and b]).T  # value and error, by one and by the other
            if both.size and both.shape[1] >= LEAST:
                found = accord(both[:2], both[2:], numpy_generator(0, "judges", metric, one, other))
                pairs.append({"a": one, "b": other, "score": title, "generators": both.shape[1], **found})
    if not pairs:
        raise UserError(f"no score of the judges ({', '.join(JUDGED.values())}) is known of {LEAST} generators; the reports say why")
    return {"judges": list(results), "rows": _rows(comparisons), "scores": scores, "agreement": pairs}


def _known(item: Entry, metric: str) -> tuple[float, float] | None:
    """A score, mean over seeds, and its error; nan where none is known."""
    if not (seeds := item.seeds(metric)):
        return None
    found = inference.estimate(seeds, item.stderr(metric))
    return found.value, found.error.stderr if found.error else np.nan


def accord(a: np.ndarray, b: np.ndarray, random: np.random.Generator, draws: int = DRAWS) -> dict[str, float | None]:
    """tau of scores and errors (2, G) by two judges with its interval, and the tau of each with itself that noise leaves, a mean.

    Without interval and the latter where an error is not known, nan.
    """
    value = float(tau(a[0], b[0]))
    if np.isnan([a[1], b[1]]).any():
        return {"tau": value, "low": None, "high": None, "same_judge": None}

    def again(scores: np.ndarray) -> np.ndarray:
        return random.normal(scores[0], scores[1], (draws, scores.shape[1]))

    low, high = np.quantile(tau(again(a), again(b)), [0.5 - inference.LEVEL / 2, 0.5 + inference.LEVEL / 2])
    itself = [tau(again(scores), again(scores)).mean() for scores in (a, b)]
    return {"tau": value, "low": float(low), "high": float(high), "same_judge": float(np.mean(itself))}


def compared(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """How many differences in AVG are found (p < 0.05 after Holm) by both in one order, and by one alone; which in opposite orders."""
    signs = [_signs(comparison) for comparison in (a, b)]
    both = [(pair, signs[0][pair], signs[1][pair]) for pair in signs[0] if pair in signs[1]]
    opposite = [pair for pair, one, other in both if one * other < 0]
    return {
        "pairs": len(both),
        "survive": sum(one * other > 0 for _, one, other in both),
        "only_a": sum(bool(one) and not other for _, one, other in both),
        "only_b": sum(bool(other) and not one for _, one, other in both),
        "opposite": [f"{first}, {second}" for first, second in opposite],
    }


def _signs(comparison: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    """By two generators, in the order of the table: 1 where the first was shown to be better, -1 worse, 0 neither."""
    labels = {row["run"]: (place, str(row["label"])) for place, row in enumerate(comparison["rows"]) if row["generator"] != "real"}
    found = {}
    for row in comparison["differences"]:
        if row["metric"] == AVG and row["a"] in labels and row["b"] in labels:
            sign = int(np.sign(row["points"])) if row["p_holm"] < inference.ALPHA else 0
            one, other = labels[row["a"]], labels[row["b"]]
            found[(one[1], other[1]) if one < other else (other[1], one[1])] = sign if one < other else -sign
    return found
