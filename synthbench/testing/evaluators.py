"""The contract of an evaluator: plain finite numbers with an n, the same every time, or a reason."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthbench import registry
from synthbench.config import Layer, build
from synthbench.testing.declarations import check_class
from synthbench.testing.world import Trial, full_subject, rendered, tiny_encoder, verify
from synthbench.types import Score, Skipped

if TYPE_CHECKING:
    from synthbench.plugin import Subject

METRIC = re.compile(r"[a-z0-9_]+(/[A-Za-z0-9_.:+-]+)+")


def check_evaluator(name: str, settings: Layer, root: Path) -> Iterator[str]:
    kind = registry.load("evaluator", name)
    yield check_class(kind, name)
    faces = rendered("train")
    evaluator = kind(build(kind.Config, settings))
    trial = Trial(evaluator, registry.short_name(name), root, faces, tiny_encoder(faces, 0))
    subject = full_subject(trial)
    runs = [evaluate(trial, replace(subject, _embeddings={}), f"evaluate-{i}") for i in range(2)]
    for before, after in zip(*runs):
        if before != after:
            raise trial.fault(f"evaluated twice, it finds {before} and {after}; draw what is random from seeds.derive(context.seed, ...)")
    if len(runs[0]) != len(runs[1]):
        raise trial.fault(f"evaluated twice, it finds {len(runs[0])} and {len(runs[1])} scores")
    found = [item for item in runs[0] if isinstance(item, Score)]
    groups = ", ".join(sorted({item.metric.rpartition("/")[0] for item in found}))
    yield f"{len(found)} scores ({groups}), {len(runs[0]) - len(found)} skipped with a reason; the same when evaluated again"
    evaluate(trial, replace(subject, recognizer=None, benchmarks=[], inquiries=None, baseline=None, _embeddings={}), "evaluate-bare")
    yield "without recognizer, benchmarks, inquiries and baseline: scores or a reason"
    yield "nothing was written outside context.out"


def evaluate(trial: Trial, subject: Subject, out: str) -> list[Any]:
    """Scores and (reason, metric) of what was skipped, each checked."""
    context = trial.context(out)
    if trial.name != "verification" and subject.benchmarks:
        verify(subject, context)  # it runs first in every protocol, and others read its results
    with trial.confined(context):
        try:
            found = trial.again().evaluate(subject, context)
        except Skipped as reason:
            found = [reason]
    names = [item.metric for item in found if isinstance(item, Score)]
    for item in found:
        if isinstance(item, Skipped):
            if not str(item):
                raise trial.fault("skips without a reason")
            continue
        if not isinstance(item, Score):
            raise trial.fault(f"returns {type(item).__name__}; it must return Score and Skipped")
        _check_score(trial, item, names)
    return [(str(item), item.metric) if isinstance(item, Skipped) else item for item in found]


def _check_score(trial: Trial, score: Score, names: list[str]) -> None:
    try:
        json.dumps(vars(score), allow_nan=False)
    except (ValueError, TypeError) as error:
        raise trial.fault(f"{score.metric}: {vars(score)} is not plain finite numbers ({error}); skip what cannot be measured") from None
    if not METRIC.fullmatch(score.metric) or names.count(score.metric) > 1:
        raise trial.fault(f"metric {score.metric!r} must be unique and look like group/name, such as verification/lfw/accuracy")
    if not isinstance(score.n, int) or score.n < 1 or not (score.stderr is None or score.stderr >= 0):
        raise trial.fault(f"{score.metric}: n = {score.n!r}, stderr = {score.stderr!r}; n counts what was measured")
