"""Runs that are whole enough to be passed on: networks that never learnt score noise, by the evaluators that score others."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from fake_pages import ARCHITECTURE, Maker, noise

from synthbench.config import Settings
from synthbench.data.pairs import PairSet, save_pairs
from synthbench.data.shards import ShardWriter
from synthbench.evaluators.gap import GapToReal
from synthbench.evaluators.groups import Groups, GroupsConfig
from synthbench.evaluators.verification import Verification, VerificationConfig
from synthbench.models.encoder import build, load_encoder, save_encoder
from synthbench.pipeline.steps import faces_step, run_evaluators
from synthbench.plugin import Context, Subject
from synthbench.protocol import WorldFaces
from synthbench.results import comparison
from synthbench.store import Store, read_json, write_json
from synthbench.types import FaceBatch

PAIRS = {"pairs-a": 60, "pairs-b": 240}  # the second within two groups
WORLD = {"world": "train", "identities": 6, "images": 6, "seed": 0}
RECIPE = {"name": "demo", "epochs": 8}
EVALUATORS = {
    "verification": {"flip": True, "folds": 10, "far": [0.1], "untrained": 2},
    "gap_to_real": {},
    "groups": {"folds": 10, "sets": {}, "draws": 20},
}
RED, BLUE = (255, 0, 0), (0, 0, 255)  # photographs, and what a generator made


def benchmarks(names) -> list[PairSet]:
    made = []
    for number, name in enumerate(names):
        count = PAIRS.get(name, 60)
        rows = np.arange(count)
        about = {"group": rows // 2 % 2, "groups": ("a", "b")} if count > 200 else {}
        made.append(PairSet.from_arrays(name, noise(2 * count, number), 2 * rows, 2 * rows + 1, rows % 2 == 0, **about))
    return made


def write_network(folder: Path, seed: int, number: int = 0) -> None:
    torch.manual_seed(seed)
    spec = {"architecture": ARCHITECTURE, "resolution": 32, "dim": 16, "recipe": RECIPE, "seed": number}
    save_encoder(build({**ARCHITECTURE, "dropout": 0.0}, 32, 16), folder, spec)


def write_faces(folder: Path, photographs: int | None) -> None:
    """Six people of ten images, of each the first `photographs` red, the others blue; None: all are blue, and no column says so."""
    identity = torch.arange(6).repeat_interleave(10)
    real = torch.arange(60) % 10 < (photographs or 0)
    colours = torch.where(real[:, None], torch.tensor(RED), torch.tensor(BLUE)).to(torch.uint8)
    writer = ShardWriter(folder)
    columns = {} if photographs is None else {"real": real.to(torch.int64)}
    writer.write(FaceBatch(colours[:, :, None, None].expand(-1, -1, 32, 32).contiguous(), identity, columns))
    writer.finish()
    from synthbench.data.faces import open_faces

    open_faces(folder)


def score(folder: Path, network: Path, pairs: list[PairSet], baseline: Path | None, seed: int, networks: Path | None) -> None:
    evaluators = {
        "verification": Verification(VerificationConfig(**EVALUATORS["verification"])),
        "gap_to_real": GapToReal(Settings()),
        "groups": Groups(GroupsConfig(**EVALUATORS["groups"])),
    }
    untrained = (lambda number: load_encoder(networks / str(number))) if networks else None
    subject = Subject(None, None, None, recognizer=load_encoder(network), benchmarks=pairs, baseline=baseline, untrained=untrained)
    run_evaluators(evaluators, subject, Context(folder, seed, 32, torch.device("cpu"), None, None), lambda done, total: None)


def make(
    root: Path, generator: str = "maker", seeds: int = 1, protocol: str = "tiny", names=tuple(PAIRS), photographs: int | None = None,
    told: str = "", resolution: int = 32, real: str = "embedded world, 6 people", tag: int = 1,
) -> dict:  # fmt: skip
    """A run of `generator` with its baseline, or of the real set itself; returns its result."""
    maker, pairs, own = Maker(root), benchmarks(names), generator != "real"
    plain = re.sub(r"[^\w.-]", "_", generator)
    real_key = faces_step(Store(root), resolution, "real", WorldFaces(**WORLD)).stage.key
    maker.stage("real", real_key, real, lambda f: write_faces(f, None))
    bench = f"bench-{'-'.join(names)}"
    maker.stage("benchmarks", bench, "pairs", lambda f: [save_pairs(one, f / one.name) for one in pairs])
    for number in range(2):
        write_network(root / "networks" / str(number), 100 + number)
    faces_real = maker.stage("generate", "faces-real", "real", lambda f: write_faces(f, None))
    found: dict[str, list[dict]] = {"own": [], "real": []}
    for seed in range(seeds):
        net = maker.stage("recognizer", f"net-real-{seed}", "real", lambda f, seed=seed: write_network(f, 50 + seed, seed))
        key = f"scores-real-{bench}-{seed}"
        base = maker.stage("evaluate", key, "real", lambda f, seed=seed, net=net: score(f, net, pairs, None, seed, root / "networks"))
        found["real"] += [{**one, "seed": seed} for one in read_json(base / "scores.json")["scores"]]
        if own:
            who = f"{plain}-{tag}-{seed}"
            faces = maker.stage("generate", f"faces-{who}", generator, lambda f: write_faces(f, photographs))
            net = maker.stage("recognizer", f"net-{who}", generator, lambda f, seed=seed: write_network(f, tag + 10 * seed, seed))
            key = f"scores-{who}-{bench}"
            place = maker.stage("evaluate", key, generator, lambda f, s=seed, n=net, b=base: score(f, n, pairs, b, s, None))
            found["own"] += [{**one, "seed": seed} for one in read_json(place / "scores.json")["scores"]]
    size = {"generator": "real", "volume": "all", "protocol": protocol, "seeds": list(range(seeds)), "scores": found["real"]}
    about = {
        "name": protocol, "version": 1, "title": "a world of noise", "resolution": resolution, "volume": "6x10", "real": WORLD,
        "encoder": {"recipe": "demo", "seed": 1, "faces": None}, "judge": {"recipe": "demo", "seed": 2, "faces": None},
        "recipe": "demo", "benchmarks": list(names), "evaluators": EVALUATORS,
    }  # fmt: skip
    name = f"{plain}-{protocol}-{tag}"
    folder = root / "results" / name
    result = {
        "run": name, "generator": generator, "volume": "6x10" if own else "all", "protocol": protocol, "title": "a world of noise",
        "seeds": list(range(seeds)), "scores": found["own" if own else "real"], "skipped": [], "stages": maker.rows,
        "artifacts": {"folder": str(folder), "faces": str(faces if own else faces_real)}, "baseline": size if own else None,
        "settings": {"sample": {"note": "<b>&</b>"}}, "config": {"protocol": about, "recipes": {"demo": RECIPE}},
        "traits": {"licence": "MIT", "paper": "P", "new_identities": own, "real_photographs": told if own else "all", "pretrained": ""},
        "digests": {"faces": "f00"}, "cost": {"wall_seconds": 1.0, "device": "cpu", "images_per_second": 5.0}, "synthbench": "0.1",
        "command": f"synthbench run {generator} --runs {root}",
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "run.json", result)
    return result


def make_comparison(root: Path, results: list[dict], name: str = "both") -> None:
    made = comparison.compare(Store(root), results, name, results[0]["run"], f"synthbench compare --runs {root}")
    (root / "comparisons" / name).mkdir(parents=True, exist_ok=True)
    write_json(root / "comparisons" / name / "comparison.json", made)


# ------------------------------------------------------------------------------------------------------------ by hand


def contents(path: Path | io.BytesIO) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def rewritten(path: Path, out: Path, change: Callable[[dict[str, bytes]], None], digests: bool = True) -> Path:
    """A copy of a bundle with its files changed by hand; with `digests` bundle.json says what they are now."""
    files = contents(path)
    change(files)
    return write(files, out, digests)


def write(files: dict[str, bytes], out: Path, digests: bool = True) -> Path:
    if digests:
        about = json.loads(files["bundle.json"])
        about["files"] = {name: sha256(data).hexdigest() for name, data in files.items() if name != "bundle.json"}
        files["bundle.json"] = json.dumps(about).encode()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out


def arrays(data: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(data)) as file:
        return {name: file[name] for name in file}


def packed(arrays: dict[str, np.ndarray]) -> bytes:
    np.savez_compressed(out := io.BytesIO(), **arrays)
    return out.getvalue()
