"""Is the ranking the recipe's? Rank correlation of the same generators under several recipes, and which differences all of them find.

Kendall's tau over generators: 1 where every pair of them is in the same order under both recipes, -1 where none is, 0 by chance. Its
interval is a bootstrap over pairs of images, drawn together for all generators and recipes as all meet the same pairs, and over seeds where
there are several. Noise alone makes two rankings differ: `same_recipe` is the tau that one recipe has with itself on other pairs and seeds.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from synthbench.results import inference
from synthbench.results.comparison import AVG, Entry, entry, rivals
from synthbench.results.record import Result
from synthbench.seeds import numpy_generator
from synthbench.store import Store
from synthbench.types import UserError

DRAWS = 1000
LEAST = 3  # generators; two have one order or the other

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
        "rows": [str(row["label"]) for row in next(iter(comparisons.values()))["rows"] if row["generator"] != "real"],
        "averages": {recipe: [float(np.mean(item.seeds(AVG))) for item in rows] for recipe, rows in entries.items()},
        "agreement": pairs,
    }


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
