"""Runs folders without any training: results, stages and per-pair results of recognizers of known skill."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from synthbench.evaluators.pairs import PairResults, fold_of
from synthbench.store import Store, write_json

BENCHMARKS = ("world-mixed", "world-profile")


def outcome(benchmark: str, skill: float, seed: int, who: str, pairs: int) -> PairResults:
    """Right or wrong by a logistic model: pairs are as hard for everybody; the seed moves the skill by 0.05."""
    digits = [ord(mark) for mark in benchmark]
    hard = np.random.default_rng(digits).normal(0, 2, pairs)
    random = np.random.default_rng([*digits, seed, *[ord(mark) for mark in who]])
    correct = random.random(pairs) < 1 / (1 + np.exp(-(skill + random.normal(0, 0.05) + hard)))
    same = np.arange(pairs) % 2 == 0
    distance = np.where(correct == same, 0.5, 1.5)
    return PairResults(distance, same, fold_of(pairs), np.full(pairs, 1.0), correct, f"digest of {benchmark}")


def stage(store: Store, name: str, key: str, pairs: dict[str, PairResults] | None = None, **facts) -> dict:
    """A finished stage on disk (made once); returns its row."""
    made = store.stage(name, key)
    with made.building() as manifest:
        if manifest is not None:
            manifest.update({"work": f"work of {name}", "label": name, "amount": 10, **facts})
            for benchmark, results in (pairs or {}).items():
                results.save(made.folder / "pairs", benchmark)
    return {"name": name, "key": key, "state": "run", "seconds": 1.0}


def evaluation(who: str, skill: float, seed: int, real: float | None, pairs: int) -> tuple[dict[str, PairResults], list[dict]]:
    """Per-pair results and scores of one seed; `real`: the skill of the baseline, for the gap."""
    found = {name: outcome(name, skill, seed, who, pairs) for name in BENCHMARKS}
    accuracy = {name: 100 * float(each.fold_accuracies().mean()) for name, each in found.items()}
    scores = [score(f"verification/{name}/accuracy", value, 1.0, seed) for name, value in accuracy.items()]
    average = sum(accuracy.values()) / len(accuracy)
    scores.append(score("verification/avg/accuracy", average, 0.7, seed))
    if real is not None:
        base = [100 * float(outcome(name, real, seed, "real", pairs).fold_accuracies().mean()) for name in BENCHMARKS]
        scores.append(score("gap_to_real/points", sum(base) / len(base) - average, 0.6, seed, False))
        scores.append(score("fd/judge/frechet", 2 - skill + 0.01 * seed, 0.01, seed, False))
        scores.append(score("leakage/real_photographs", 0.2, None, seed, False))
    return found, scores


def score(metric: str, value: float, stderr: float | None, seed: int, higher: bool = True) -> dict:
    return {"metric": metric, "value": value, "stderr": stderr, "n": 100, "seed": seed, "higher_is_better": higher}


def config(epochs: int = 8, judge_seed: int = 2, folds: int = 10, encoder_seed: int = 1) -> dict:
    """What a run.json says was held fixed."""
    networks = {"encoder": {"recipe": "demo", "seed": encoder_seed, "faces": None}, "judge": {"recipe": "demo", "seed": judge_seed}}
    protocol = {"name": "demo", "recipe": "demo", **networks, "evaluators": {"verification": {"folds": folds}}}
    return {"protocol": protocol, "recipes": {"demo": {"name": "demo", "epochs": epochs}}}


def make_run(
    root: Path, generator: str = "cemiface", skill: float = 1.0, seeds: int = 2, protocol: str = "demo", judge: str = "judge0",
    recipe: str = "", settings: dict | None = None, pairs: int = 200, tag: str = "", real: float = 2.0, config: dict | None = None,
) -> dict:  # fmt: skip
    """A run of `generator` with its real baseline, or the real run itself, under <root>; returns its result."""
    store, volume = Store(root), "all" if generator == "real" else "20x4"
    who = generator + tag
    rows = [stage(store, "real", "real0"), stage(store, "judge", judge), stage(store, "benchmarks", "bench0")]
    rows.append(stage(store, "generate", "generate-real", images_per_second=9.0))
    scores, base_scores = [], []
    for seed in range(seeds):
        base_pairs, base = evaluation("real", real, seed, None, pairs)
        rows.append(stage(store, "recognizer", f"recognizer-real{recipe}{seed}"))
        rows.append(stage(store, "evaluate", f"evaluate-real{recipe}{judge}{seed}", base_pairs))
        base_scores += base
        if generator != "real":
            found, own = evaluation(who, skill, seed, real, pairs)
            rows.append(stage(store, "generate", f"generate-{who}{seed}", images_per_second=5.0, images=25))
            rows.append(stage(store, "recognizer", f"recognizer-{who}{recipe}{seed}"))
            rows.append(stage(store, "evaluate", f"evaluate-{who}{recipe}{judge}{seed}", found))
            scores += own
    run = f"{generator}-{volume}-{protocol}-{tag or 'abc'}{recipe}{seeds}"
    baseline = {"generator": "real", "volume": "all", "protocol": protocol, "seeds": list(range(seeds)), "scores": base_scores}
    faces = store.stage("generate", "generate-real" if generator == "real" else f"generate-{who}0").folder
    result = {
        "run": run,
        "generator": generator,
        "volume": volume,
        "protocol": protocol,
        "title": f"the title of {protocol}",
        "seeds": list(range(seeds)),
        "scores": base_scores if generator == "real" else scores,
        "skipped": [],
        "stages": rows,
        "artifacts": {"folder": str(root / "results" / run), "samples": str(root / "results" / run / "samples.png"), "faces": str(faces)},
        "baseline": None if generator == "real" else baseline,
        "settings": settings or {},
        "traits": {"licence": "MIT", "new_identities": generator != "real", "real_photographs": "", "pretrained": ""},
        "digests": {"faces": "f", "benchmarks": "bench0", "real": "real0"},
        "cost": {"wall_seconds": 12.0, "device": "cpu", "images_per_second": 9.0},
        "synthbench": "0.1",
        "command": f"synthbench run {generator}",
        **({"config": config} if config else {}),
    }
    (root / "results" / run).mkdir(parents=True, exist_ok=True)
    write_json(root / "results" / run / "run.json", result)
    return result
