"""A runs folder with everything a report shows, made of noise in a second: a run with its baseline, a comparison, a sweep."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from fake_runs import config, score

from synthbench.data.pairs import PairSet, save_pairs
from synthbench.data.shards import ShardWriter
from synthbench.evaluators.pairs import kfold
from synthbench.models.encoder import build, save_encoder
from synthbench.store import Store, write_json
from synthbench.types import FaceBatch

BENCHMARKS = ("world-mixed", "world-profile")
ARCHITECTURE = {"family": "small", "width": 8, "blocks": [0, 0, 0]}
NASTY = 'cemi"><script>alert(1)</script>|_&%'


def noise(count: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


class Maker:
    """Stages on disk, and the rows of `stages` that name them."""

    def __init__(self, root: Path) -> None:
        self.store, self.rows = Store(root), []

    def stage(self, name: str, key: str, work: str, fill=lambda folder: None, **facts) -> Path:
        made = self.store.stage(name, key)
        with made.building() as manifest:
            if manifest is not None:
                fill(made.folder)
                manifest.update({"work": work, **facts})
        self.rows.append({"name": name, "key": key, "state": "run", "seconds": 1.0})
        return made.folder


def write_faces(folder: Path, people: int, images: int, seed: int, **columns) -> None:
    identity = torch.arange(people).repeat_interleave(images)
    writer = ShardWriter(folder)
    writer.write(FaceBatch(noise(len(identity), seed), identity, {name: torch.as_tensor(values) for name, values in columns.items()}))
    writer.finish()
    from synthbench.data.faces import open_faces

    open_faces(folder)


def write_benchmarks(folder: Path, names) -> None:
    for number, name in enumerate(names):
        rows = np.arange(40)
        save_pairs(PairSet.from_arrays(name, noise(80, number), 2 * rows, 2 * rows + 1, rows % 2 == 0, title=name), folder / name)


def write_evaluation(folder: Path, seed: int, skill: float, names, leaks: bool) -> None:
    random = np.random.default_rng(seed)
    same = np.arange(40) % 2 == 0
    for name in names:
        kfold(np.clip(random.normal(np.where(same, 1.5 - skill, 1.5), 0.3), 0, 4), same).save(folder / "pairs", name)
    edges = np.round(np.arange(-1000, 1001) / 1000, 3)
    counts = {
        name: np.histogram(random.normal(mean, 0.2, 3000), edges)[0]
        for name, mean in (("genuine", 0.4), ("impostor", 0.0), ("real_genuine", 0.6), ("real_impostor", 0.0))
    }
    np.savez(folder / "separability.npz", edges=edges, **counts)
    if leaks:
        np.savez(folder / "leakage.npz", image=np.array([0, 5]), real_image=np.array([1, 2]), image_cosine=np.array([0.5, 0.9]),
                 real_name=np.array(["a<b", "7"]))  # fmt: skip


def write_network(folder: Path) -> None:
    torch.manual_seed(0)
    spec = {"architecture": ARCHITECTURE, "resolution": 32, "dim": 16, "recipe": {"name": "demo", "epochs": 8}, "seed": 0}
    save_encoder(build({**ARCHITECTURE, "dropout": 0.0}, 32, 16), folder, spec)
    lines = [json.dumps({"step": step, "loss": 9.0 / (step + 1), "images_per_second": 100.0}) for step in range(5)]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 9, "lo']), "utf-8")  # cut short by a kill


def make(root: Path, m=(-1.0, 0.0, 1.0), tag: str = "a", generator: str = "cemiface", real: str = "embedded world, 6 people",
         benchmarks=BENCHMARKS, skill: float = 0.6) -> dict:  # fmt: skip
    """A run of one seed of CemiFace at the similarities `m`, with its baseline; returns its result."""
    maker = Maker(root)
    people, images = 6, 6
    asked = np.resize(np.float32(m), people * images)
    maker.stage("real", "real0" + tag[1:], real, lambda f: write_faces(f, people, images, 1))
    maker.stage("judge", "judge0", "recipe demo", write_network)
    maker.stage("benchmarks", "bench0" + tag[1:], ", ".join(benchmarks), lambda f: write_benchmarks(f, benchmarks))
    maker.stage("generate", "facesreal" + tag[1:], "real: all", lambda f: write_faces(f, people, images, 1, real=np.ones(36, np.uint8)))
    maker.stage("recognizer", "netreal", "real: recipe demo", write_network)
    maker.stage("evaluate", "scoresreal" + tag[1:], "real: verification", lambda f: write_evaluation(f, 0, 1.0, benchmarks, False))
    maker.stage("train", "train0", "cemiface: on the real set", write_network)
    maker.stage("enroll", "enroll0", "cemiface: 6", lambda f: write_faces(f / "inquiries", people, 1, 2))
    columns = {"m": asked, "similarity": asked / 4 + 0.4, "real": np.zeros(36, np.uint8)}
    faces = maker.stage("generate", f"faces{tag}", "cemiface: 36", lambda f: write_faces(f, people, images, 3, **columns), images=36,
                        images_per_second=5.0)  # fmt: skip
    maker.stage("recognizer", f"net{tag}", "cemiface: recipe demo", write_network)
    maker.stage("evaluate", f"scores{tag}", "cemiface: verification", lambda f: write_evaluation(f, 1, skill, benchmarks, True))
    scores, base = [], []
    for list_, better in ((scores, 0.0), (base, 9.0)):
        list_ += [score(f"verification/{name}/accuracy", 70 + better + 10 * skill, 2.0, 0) for name in benchmarks]
        list_.append(score("verification/avg/accuracy", 70 + better + 10 * skill, 1.0, 0))
    scores.append(score("gap_to_real/points", 9.0, 1.2, 0, False))
    scores += [score(f"similarity/at_m/{value:g}", value / 4 + 0.4, 0.01, 0) for value in m]
    name = f"cemiface-6x6-demo-{tag}"
    result = {
        "run": name, "generator": generator, "volume": "6x6", "protocol": "demo", "title": "a world of noise", "seeds": [0],
        "scores": scores, "skipped": [{"metric": "fd/x", "reason": "not registered"}], "stages": maker.rows,
        "artifacts": {"faces": str(faces)},
        "baseline": {"generator": "real", "volume": "all", "protocol": "demo", "seeds": [0], "scores": base},
        "config": config(), "settings": {"train": {"lr": 0.1, "note": "<b>&</b>"}, "sample": {"m": list(m)}},
        "traits": {"licence": "MIT", "paper": "P", "new_identities": True, "real_photographs": ""},
        "digests": {"faces": "f00", "benchmarks": "bench0", "real": "real0"},
        "cost": {"wall_seconds": 12.0, "device": "cpu", "images_per_second": 5.0},
        "synthbench": "0.1", "command": "synthbench run cemiface",
    }  # fmt: skip
    (root / "results" / name).mkdir(parents=True, exist_ok=True)
    write_json(root / "results" / name / "run.json", result)
    return result


def make_many(root: Path, rows: int = 9) -> None:
    """A comparison of `rows` runs that differ in name only."""
    from synthbench.results import comparison

    found = []
    for i in range(rows):
        result = make(root, (-1.0, 0.0, 1.0), "a")
        result |= {"generator": f"maker{i}", "run": f"maker{i}-6x6-demo-a", "config": None if i else config()}
        (root / "results" / result["run"]).mkdir()
        write_json(root / "results" / result["run"] / "run.json", result)
        found.append(result)
    made = comparison.compare(Store(root), found, "many", found[0]["run"], "synthbench compare")
    (root / "comparisons" / "many").mkdir(parents=True)
    write_json(root / "comparisons" / "many" / "comparison.json", made)


def make_all(root: Path) -> None:
    """Two runs, a comparison of them, and a sweep over m."""
    from synthbench.results import comparison

    results = [make(root, (m,), tag, skill=skill) for m, tag, skill in ((0.0, "a", 0.6), (1.0, "b", 0.2))]
    made = comparison.compare(Store(root), results, "a-and-b", results[0]["run"], "synthbench compare a b")
    folder = root / "comparisons" / "a-and-b"
    folder.mkdir(parents=True)
    write_json(folder / "comparison.json", made)
    names = [column["metric"] for column in made["columns"]]
    points = [
        {
            "values": {"sample.m": m},
            "runs": [row["run"]],
            "state": "complete",
            "scores": {n: row["cells"][n] for n in names if row["cells"][n]},
        }
        for m, row in zip((0.0, 1.0), made["rows"])
    ]
    points.append({"values": {"sample.m": 0.5}, "runs": [], "state": "failed", "scores": {}, "error": "no disk"})
    found = {name: made[name] for name in ("protocol", "title", "volume", "seeds")}
    found |= {"sweep": "m-sweep", "generator": "cemiface", "parameters": ["sample.m"], "sampler": "grid", "points": points, "best": 0}
    folder = root / "sweeps" / "m-sweep"
    folder.mkdir(parents=True)
    write_json(folder / "sweep.json", {**found, "confirmed": [], "statement": "AVG falls with m.", "command": "synthbench sweep m"})
