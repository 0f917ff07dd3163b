"""Fairness: how the recognizer does in groups of people, with a threshold of each group's own, and with one threshold for all.

Papers with RFW print the first: every group is a benchmark by itself, with the mean of the accuracies, their standard deviation (ddof 1)
and the skewed error ratio, max(1 - accuracy) / min(1 - accuracy). In use there is one threshold, and what is unfair shows there: the shared
threshold of a fold is the best on the other folds of all groups together, and FMR and FNMR are each group's at it.
Groups that are alike differ too, by the pairs that they happen to have; `by_chance/` says by how much: the median over pairs dealt out to
the groups at random, each fold keeping its genuine and impostor pairs. Accuracies and rates are in percent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field, field_validator

from synthbench.config import Settings, did_you_mean
from synthbench.evaluators.pairs import PairResults, fold_of, kfold, open_results
from synthbench.evaluators.statistics import mean_stderr
from synthbench.plugin import Context, Evaluator, Subject
from synthbench.seeds import numpy_generator
from synthbench.types import Score, Skipped, UserError

LEAST = 50  # genuine pairs of a group, and impostors: with fewer, the error of an accuracy nears five points


@dataclass(frozen=True)
class Grouped:
    """The pairs of all groups of one kind, group by group."""

    name: str
    groups: tuple[str, ...]
    group: np.ndarray  # (P,) int64, which of `groups`
    distance: np.ndarray  # (P,) float64
    same: np.ndarray  # (P,) bool
    fold: np.ndarray  # (P,) int64: within each group contiguous blocks

    @classmethod
    def of(cls, name: str, parts: Mapping[str, tuple[np.ndarray, np.ndarray]], folds: int) -> Grouped:
        """From distance and same of each group."""
        group = np.repeat(np.arange(len(parts)), [len(same) for _, same in parts.values()])
        distance, same = (np.concatenate(arrays) for arrays in zip(*parts.values()))
        fold = np.concatenate([fold_of(len(same), folds) for _, same in parts.values()])
        return cls(name, tuple(parts), group, distance, same, fold)

    def accuracies(self, group: np.ndarray) -> np.ndarray:
        """Accuracy (G,), the mean over folds, of the groups that `group` (P,) makes, each with thresholds of its own."""
        found = []
        for number in range(len(self.groups)):
            own = group == number
            found.append(kfold(self.distance[own], self.same[own], self.folds, self.fold[own]).fold_accuracies().mean())
        return np.array(found)

    @property
    def folds(self) -> int:
        return int(self.fold.max()) + 1

    def shared(self) -> PairResults:
        """What happened to each pair at the threshold that is best on the other folds of all groups together."""
        return kfold(self.distance, self.same, self.folds, self.fold)

    def accuracies_of(self, results: PairResults, group: np.ndarray) -> np.ndarray:
        """Accuracy (G,), the mean over folds, of the groups that `group` makes, from what happened to each pair."""
        count, right = (np.zeros((len(self.groups), self.folds)) for _ in range(2))
        np.add.at(count, (group, self.fold), 1)
        np.add.at(right, (group, self.fold), results.correct)
        return (right / count).mean(1)

    def wrong(self, results: PairResults, group: np.ndarray, same: bool) -> np.ndarray:
        """Share (G,) of the genuine pairs, or of the impostors, that were taken for the other, of the groups that `group` makes."""
        own = self.same == same
        return np.bincount(group[own], ~results.correct[own]) / np.bincount(group[own])

    def dealt(self, random: np.random.Generator) -> np.ndarray:
        """Groups (P,) at random, with as many genuine and impostor pairs in every fold of each as there are."""
        stratum = 2 * self.fold + self.same
        dealt = np.empty_like(self.group)
        dealt[np.lexsort((random.random(len(stratum)), stratum))] = self.group[np.argsort(stratum, kind="stable")]
        return dealt


def deviation(accuracies: np.ndarray) -> float:
    """Standard deviation over groups, as in papers with RFW (ddof 1)."""
    return float(accuracies.std(ddof=1))


def ratio(shares: np.ndarray) -> float:
    """The largest over the smallest of what went wrong in each group; infinite where in one nothing did."""
    return float(shares.max() / shares.min()) if shares.min() > 1e-12 else float("inf")


def skewed_error_ratio(accuracies: np.ndarray) -> float:
    """max(1 - accuracy) / min(1 - accuracy) of accuracies 0..1."""
    return ratio(1 - accuracies)


class GroupsConfig(Settings):
    folds: int = Field(10, ge=2, le=LEAST)
    sets: dict[str, dict[str, str]] = Field({}, description="name: {group: benchmark, ...}, where each group is a benchmark, as in RFW")
    draws: int = Field(200, ge=20, description="of the errors over pairs, and of groups at random")

    @field_validator("sets")
    @classmethod
    def _each_a_benchmark(cls, sets: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
        for name, members in sets.items():
            if odd := [word for word in (name, *members) if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", word)]:
                raise ValueError(f"{odd[0]!r} cannot be a name: letters, digits and . + - _ may be in it")
            if len(members) < 2:
                raise ValueError(f"{name} has {len(members)} group; two are the least")
            if len(set(members.values())) < len(members):
                raise ValueError(f"a benchmark is two groups of {name}")
        return sets


class Groups(Evaluator[GroupsConfig]):
    """Accuracy by group of people, how far groups lie apart, and false matches and non-matches of each at one threshold for all."""

    Config = GroupsConfig
    version = 1

    def check(self, benchmarks: Sequence[str]) -> None:
        for name, members in self.config.sets.items():
            if name in benchmarks:
                raise UserError(f"evaluators.groups.sets: {name} is a benchmark; give the set of groups another name")
            for member in members.values():
                if member not in benchmarks:
                    hint = did_you_mean(member, benchmarks, show_all=True)
                    raise UserError(f"evaluators.groups.sets.{name}: {member!r} is none of the protocol's benchmarks{hint}")

    def evaluate(self, subject: Subject, context: Context) -> list[Score | Skipped]:
        if not self.config.sets and not any(benchmark.groups for benchmark in subject.benchmarks):
            raise Skipped("no benchmark tells groups of people: no pairs carry one, and the setting `sets` names none")
        scores: list[Score | Skipped] = []
        tested = self.parts(subject, context.out / "pairs")
        floors = [self.parts(subject, folder) for folder in sorted((subject.baseline or context.out).glob("untrained/*"))]
        for name, parts in tested.items():
            found, kept = self.large_enough(name, parts)
            scores += found
            if len(kept) < 2:
                scores.append(Skipped("fewer than two groups have enough pairs, so there is nothing to compare", f"groups/{name}/std"))
                continue
            grouped = Grouped.of(name, {group: parts[group] for group in kept}, self.config.folds)
            scores += self.scores(grouped, numpy_generator(context.seed, "groups", name))
            scores += [floor(name, group, [one[name][group] for one in floors], self.config.folds) for group in kept if floors]
        return scores

    def parts(self, subject: Subject, folder: Path) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
        """Distance and same of the pairs of each group, of each set of groups, from the results of verification in `folder`."""
        results = open_results(folder)
        found: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
        wanted = [benchmark.name for benchmark in subject.benchmarks if benchmark.groups]
        wanted += [member for members in self.config.sets.values() for member in members.values()]
        if lacking := sorted(set(wanted) - set(results)):
            raise Skipped(f"there are no results of {', '.join(lacking)}; the evaluator `verification` must run before this one")
        for benchmark in subject.benchmarks:
            if benchmark.groups:
                own, rows = results[benchmark.name], [benchmark.group == number for number in range(len(benchmark.groups))]
                found[benchmark.name] = {group: (own.distance[row], own.same[row]) for group, row in zip(benchmark.groups, rows)}
        for name, members in self.config.sets.items():
            found[name] = {group: (results[member].distance, results[member].same) for group, member in members.items()}
        return found

    def large_enough(self, name: str, parts: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> tuple[list[Skipped], list[str]]:
        """The groups that have LEAST pairs of either kind, and why the others have no number."""
        skipped, kept = [], []
        for group, (_, same) in parts.items():
            genuine = int(same.sum())
            if min(genuine, len(same) - genuine) < LEAST:
                why = (
                    f"group {group} of {name} has {genuine:,} genuine pairs and {len(same) - genuine:,} of impostors; {LEAST} of each are "
                )
                skipped.append(Skipped(f"{why}the least, so it has no number and is in no mean", f"groups/{name}/accuracy/{group}"))
            else:
                kept.append(group)
        return skipped, kept

    def scores(self, grouped: Grouped, random: np.random.Generator) -> list[Score | Skipped]:
        name, own, results = f"groups/{grouped.name}", grouped.group, grouped.shared()
        deals = [grouped.dealt(random) for _ in range(self.config.draws)]
        scores: list[Score | Skipped] = []
        for kind, measured in (("", grouped.accuracies), ("shared_", lambda group: grouped.accuracies_of(results, group))):
            size, values, by_chance = np.bincount(own), measured(own), [measured(deal) for deal in deals]
            scores += each(f"{name}/{kind}accuracy", grouped, values, size, True)
            error = np.sqrt((values * (1 - values) / size).sum()) / len(size)
            scores.append(Score(f"{name}/{kind}mean", 100 * float(values.mean()), 100 * float(error), len(own), True))
            scores += apart(name, f"{kind}std", deviation, grouped, values, size, by_chance, random, 100.0)
            scores += apart(name, f"{kind}skewed_error_ratio", skewed_error_ratio, grouped, values, size, by_chance, random)
        for metric, same in (("fmr", False), ("fnmr", True)):
            size, values = np.bincount(own[grouped.same == same]), grouped.wrong(results, own, same)
            scores += each(f"{name}/{metric}", grouped, values, size, False)
            by_chance = [grouped.wrong(results, deal, same) for deal in deals]
            scores += apart(name, f"{metric}_ratio", ratio, grouped, values, size, by_chance, random)
        return scores


def each(metric: str, grouped: Grouped, values: np.ndarray, size: np.ndarray, higher_is_better: bool) -> list[Score]:
    """The share of every group, in percent, with the error of a share of `size` pairs."""
    errors = np.sqrt(values * (1 - values) / size)
    rows = zip(grouped.groups, values.tolist(), errors.tolist(), size.tolist())
    return [Score(f"{metric}/{group}", 100 * value, 100 * error, n, higher_is_better) for group, value, error, n in rows]


def apart(
    name: str,
    metric: str,
    measure: Callable[[np.ndarray], float],
    grouped: Grouped,
    values: np.ndarray,
    size: np.ndarray,
    by_chance: Sequence[np.ndarray],
    random: np.random.Generator,
    scale: float = 1.0,
) -> list[Score | Skipped]:
    """How far the shares `values` (G,) of `size` pairs each lie apart, and the median of how far those of groups at random do."""
    value, level = measure(values), float(np.median([measure(row) for row in by_chance]))
    if not np.isfinite(value):
        which = grouped.groups[int(values.argmax() if measure is skewed_error_ratio else values.argmin())]
        return [Skipped(f"group {which} has no wrong pair, so nothing can be divided by its errors", f"{name}/{metric}")]
    spread = np.array([measure(row) for row in random.binomial(size, values, (len(by_chance), len(size))) / size])
    # a resample without a wrong pair has no ratio; where that happens the ratio has no error either
    stderr = scale * float(spread.std(ddof=1)) if np.isfinite(spread).all() else None
    scores: list[Score | Skipped] = [Score(f"{name}/{metric}", scale * value, stderr, int(size.sum()), False)]
    return scores + ([Score(f"{name}/by_chance/{metric}", scale * level, None, len(by_chance), False)] if np.isfinite(level) else [])


def floor(name: str, group: str, parts: Sequence[tuple[np.ndarray, np.ndarray]], folds: int) -> Score:
    """Accuracy of a group by networks that learnt nothing, the mean over them: a group may look alike to any network."""
    found = [kfold(*part, folds) for part in parts]
    accuracy = float(np.mean([results.fold_accuracies().mean() for results in found]))
    stderr = mean_stderr(np.mean([results.correct for results in found], axis=0))  # the networks meet the same pairs
    return Score(f"groups/{name}/untrained_accuracy/{group}", 100 * accuracy, 100 * (stderr or 0), len(parts[0][1]), True)
