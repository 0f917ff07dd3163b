"""The machine and what is registered on it: `synthbench doctor`, `synthbench data overlap`."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from importlib import metadata
from pathlib import Path

from synthbench import __version__, console
from synthbench.data import sources
from synthbench.store import Store
from synthbench.types import UserError


def overlap(a: str, b: str | None, judge: str, threshold: float, device: str, runs: Path) -> list[tuple[str, str, str]]:
    """(name in a, name in b, cosine) of people whose centres are more alike than `threshold` under the registered weights `judge`."""
    from synthbench.data.faces import open_faces
    from synthbench.device import pick_device
    from synthbench.evaluators.leakage import shared_people
    from synthbench.pipeline.steps import execute, import_step, public_network

    store = Store(runs.absolute())
    network = public_network(judge).to(pick_device(device)[0])
    steps = [import_step(store, network.resolution, "overlap", _people(name)) for name in (a, b) if name]
    execute(steps, store)
    sets = [open_faces(step.stage.folder) for step in steps]
    with console.progress("overlap") as progress:
        found = shared_people(sets[0], sets[1] if b else None, network, threshold, progress)
    return [(one, other, f"{cosine:.3f}") for one, other, cosine in found]


def _people(name: str) -> sources.Entry:
    """A registered set with a person per image: faces, or the images of a pair list. A .bin does not say who is on its images."""
    entry = sources.find(name)
    if entry.kind == "faces" or "pairs" in entry.options:
        return entry
    what = "a .bin, which does not say who is on its images" if entry.kind == "pairs" else entry.kind
    raise UserError(f"{name} is {what}; people can be compared in sets of faces, and in benchmarks given as images with a list of pairs")


def doctor(runs: Path) -> list[tuple[str, str]]:
    """Name and finding, for a bug report."""
    from synthbench.device import pick_device

    facts = [("synthbench", __version__), ("python", platform.python_version()), ("system", platform.platform())]
    for package in ("torch", "torchvision", "diffusers", "mlflow", "optuna", "pandas", "scipy", "pytorch-fid", "rich"):
        facts.append((package, metadata.version(package)))
    for package, why in (
        ("onnx2torch", "ONNX encoders"),
        ("onnxruntime", "ONNX encoders"),
        ("lmdb", "LMDB sets"),
        ("pynvml", "GPU metrics"),
        ("transformers", "text encoders of published weights"),
    ):
        facts.append((package, "installed" if importlib.util.find_spec(package) else f"not installed (only needed for {why})"))
    facts.append(("device", pick_device("auto")[1]))
    place = _existing(runs)
    state = "" if os.access(place, os.W_OK) else ", but it cannot be written: take another folder with --runs"
    facts.append(("runs", f"{runs.absolute()}, {console.size(shutil.disk_usage(place).free)} free{state}"))
    states = [row["state"] for row in sources.status()]
    facts.append(("data", ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))))
    return facts


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return folder if folder.exists() else _existing(folder.parent)
