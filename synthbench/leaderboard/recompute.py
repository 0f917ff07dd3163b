"""Scores made again from what happened to each pair, by the functions that made them first. Only distances and labels are believed: what
was said of folds, thresholds, right and wrong is replaced by what follows."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from synthbench.config import Layer, Settings, build
from synthbench.data.pairs import PairSet
from synthbench.evaluators.gap import GapToReal
from synthbench.evaluators.groups import Groups, GroupsConfig
from synthbench.evaluators.pairs import kfold, open_results
from synthbench.evaluators.verification import VerificationConfig, average, check, describe, untrained
from synthbench.plugin import Context, Evaluator, Subject
from synthbench.results import shapes
from synthbench.results.record import Result
from synthbench.seeds import numpy_generator
from synthbench.store import read_json
from synthbench.types import Score, Skipped, UserError

KINDS = ("verification", "untrained", "gap_to_real", "groups")  # of scores that follow from pairs: how their names begin
NORM = "/xnorm"  # the end of the one that does not: the length of embeddings
MOST = {"folds": 100, "far": 10, "draws": 2_000}  # of settings, which cost time here: more than anybody takes


@dataclass(frozen=True)
class Rules:
    """The settings of the evaluators that look at pairs."""

    verification: VerificationConfig
    groups: GroupsConfig | None


def rules(result: Result) -> Rules:
    """Those of a run. Raises UserError for settings that are none, or ask for more than MOST."""
    evaluators = ((result.get("config") or {}).get("protocol") or {}).get("evaluators", {})
    verification = build(VerificationConfig, Layer(dict(evaluators.get("verification", {}))))
    groups = build(GroupsConfig, Layer(dict(evaluators["groups"]))) if "groups" in evaluators else None
    asked = {"folds": verification.folds, "far": len(verification.far), "draws": groups.draws if groups else 0}
    for name, number in asked.items():
        if number > MOST[name]:
            raise UserError(f"{result['run']}: the setting {name} asks for {number:,}; here at most {MOST[name]:,} are made again")
    return Rules(verification, groups)


def benchmarks(folder: Path) -> dict[str, PairSet]:
    """The benchmarks of the stage in `folder` by name: labels and groups, without images. Raises UserError when one is not whole."""
    nothing: Any = None
    found = {}
    for path in sorted(folder.glob("*/pairs.json")):
        about, name = read_json(path), path.parent.name
        if not shapes.whole("pairs", about) or about["name"] != name or not path.with_suffix(".npz").is_file():
            raise UserError(f"the benchmark {name} is not whole")
        with np.load(path.with_suffix(".npz"), allow_pickle=False) as table:
            left, right, same = (table[part] for part in ("left", "right", "same"))
            group, groups = table["group"] if "group" in table else np.empty(0, np.int64), tuple(about.get("groups", ()))
        if bool(groups) != bool(len(group)) or not np.isin(group, range(len(groups))).all():
            raise UserError(f"the groups of the benchmark {name} are not those of its pairs")
        found[name] = PairSet(name, nothing, left, right, same, digest=about["digest"], group=group, groups=groups)
    return found


def settle(folder: Path, sets: dict[str, PairSet], folds: int) -> Iterator[str]:
    """Let everything in the evaluation in `folder` follow from distances and labels; yields what was said otherwise.

    Raises UserError for distances that are none, and pairs on which accuracy is not defined.
    """
    for place in (folder / "pairs", *sorted(folder.glob("untrained/*"))):
        for name, said in open_results(place).items():
            if not (np.isfinite(said.distance).all() and said.distance.min() >= 0 and said.distance.max() < 4.01):
                raise UserError(f"{name}: a squared distance of unit vectors lies between 0 and 4")
            pairs = sets.get(name)
            if pairs is None or len(pairs) != len(said.same):
                raise UserError(f"{name}: there are results of {len(said.same):,} pairs, and no benchmark of so many")
            if not np.array_equal(pairs.same, said.same) or pairs.digest != said.digest:
                yield f"pairs of {name}"
            same = check(replace(pairs, same=said.same), folds)
            results = replace(kfold(said.distance, same, folds), digest=said.digest)
            if not (np.array_equal(results.correct, said.correct) and np.array_equal(results.fold, said.fold)):
                yield f"right and wrong of {name}"
            results.save(place, name)


def scores(folder: Path, baseline: Path | None, sets: Iterable[PairSet], rules: Rules, seed: int) -> dict[str, Score]:
    """The scores by metric of the evaluation in `folder`, which is settled, beside that of the real set in `baseline`."""
    nothing: Any = None
    pairs = open_results(folder / "pairs")
    found: list[Any] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that folds are unbalanced, which is a score too
        for name, results in pairs.items():
            random = numpy_generator(seed, "verification", name)
            found += describe(name, results, np.ones(2), rules.verification.far, random)
    accuracies = [score for score in found if isinstance(score, Score) and score.metric.endswith("/accuracy")]
    networks = [open_results(place) for place in sorted((baseline or folder).glob("untrained/*"))]
    floors = [untrained(name, [network[name] for network in networks]) for name in pairs if networks and all(name in n for n in networks)]
    found += [*floors, *(average(part, kind) for part, kind in ((accuracies, "verification"), (floors, "untrained")) if part)]
    subject = Subject(nothing, nothing, nothing, benchmarks=list(sets), baseline=baseline)
    context = Context(folder, seed, 0, nothing, nothing, nothing)
    evaluators: list[Evaluator[Any]] = [GapToReal(Settings()), *([Groups(rules.groups)] if rules.groups else [])]
    for evaluator in evaluators:
        with contextlib.suppress(Skipped):
            found += evaluator.evaluate(subject, context)
    return {score.metric: score for score in found if isinstance(score, Score) and not score.metric.endswith(NORM)}
