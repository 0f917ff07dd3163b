"""What one GPU does at the size of the papers, in at most eight minutes, as one JSON object on stdout.

python benchmarks/gpu.py > gpu.json              # on the GPU: CemiFace, recognizer, embeddings at 112 px, and the demo from start to end
python benchmarks/gpu.py --tiny --device cpu     # the same in seconds, at 32 px and with tiny networks, without the demo

Images are made-up pixels: rates do not depend on what they show. A part that fails says why, and the others go on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synthbench import __version__
from synthbench.config import Layer
from synthbench.data.faces import FaceSet
from synthbench.device import peak_memory, pick_device, set_threads
from synthbench.inventory.cards import configured
from synthbench.models.encoder import Encoder, build
from synthbench.plugin import Context, Generator
from synthbench.recognition import trainer
from synthbench.system import COMPILE
from synthbench.types import Slot

GOALS = {"training": 500.0, "generation": 140.0, "recognizer": 4500.0}  # images per second on one H100
Part = Callable[[], dict[str, Any]]


class Bench:
    """One device and one size, and the stages of CemiFace at that size."""

    def __init__(self, device: torch.device, tiny: bool, folder: Path) -> None:
        self.device, self.folder, self.tiny = device, folder, tiny
        self.resolution, self.images, people = (32, 64, 16) if tiny else (112, 4096, 512)
        random = np.random.default_rng(0)
        pixels = random.integers(0, 256, (self.images, self.resolution, self.resolution, 3), dtype=np.uint8)
        self.faces = FaceSet.from_arrays(pixels, np.arange(self.images) % people)
        shape = {"family": "small", "width": 8, "blocks": [1, 1, 1]} if tiny else {"family": "irse", "depth": 50, "se": False}
        dim = 16 if tiny else 512
        network = build({**shape, "dropout": 0.0}, self.resolution, dim)
        self.encoder = Encoder(network, resolution=self.resolution, dim=dim, name="random weights").to(device)
        self.generator = self.cemiface()

    def cemiface(self) -> Generator[Any]:
        """The paper's settings, for a few steps."""
        shipped = configured("cemiface")
        steps = 12 if self.tiny else 40
        changes: dict[str, Any] = {"train": {"steps": steps}, "enroll": {"threshold": 1.0}, "sample": {"copies": 0}}
        if self.tiny:
            changes = {name: {**type(shipped).tiny.get(name, {}), **part} for name, part in changes.items()}
        plain = shipped.config.model_dump(mode="json")
        return type(shipped)(type(shipped.config).model_validate(Layer(plain).data | {k: plain[k] | v for k, v in changes.items()}))

    def context(self, name: str, **more: Any) -> Context:
        out = self.folder / name
        out.mkdir(parents=True, exist_ok=True)
        return Context(out, 0, self.resolution, self.device, self.faces, self.encoder, **more)

    def training(self, name: str) -> dict[str, Any]:
        clock = Clock(self.device)
        self.generator.train(self.context(name, progress=clock))
        size = min(self.generator.config.train.batch_size, self.images)
        return clock.found(size * self.generator.config.train.steps) | {"batch": size}

    def generation(self, trained: str) -> dict[str, Any]:
        enroll = self.context("enroll")
        if not (enroll.out / "inquiries").exists():
            self.generator.enroll(8, replace(enroll, inputs={"train": self.folder / trained}))
        context = self.context("generate", inputs={"train": self.folder / trained, "enroll": enroll.out})
        batches = 3 if self.tiny else 6
        slots = [Slot(i % 8, i // 8) for i in range(batches * context.batch_size)]
        clock, done = Clock(self.device), 0
        for batch in self.generator.generate(slots, context):
            done += len(batch.images)
            clock(done, len(slots))
        return clock.found(len(slots)) | {"batch": context.batch_size, "steps": self.generator.config.sample.steps}

    def recognizer(self, name: str) -> dict[str, Any]:
        recipe = trainer.load_recipe("demo" if self.tiny else "cemiface")
        recipe = recipe.model_copy(update={"epochs": 4, **({"batch_size": 16} if self.tiny else {})})
        looks = list(trainer.train(self.faces, recipe, seed=0, device=self.device, out=self.folder / name))
        settled = looks[len(looks) // 2 :]
        found = {"images_per_second": float(np.median([look.images_per_second for look in settled])), "batch": recipe.batch_size}
        return found | {"waiting": float(np.mean([look.waiting for look in settled])), "peak_gb": peak_memory(self.device) / 1e9}

    def embedding(self) -> dict[str, Any]:
        self.encoder.embed_all(self.faces)
        begun = time.monotonic()
        self.encoder.embed_all(self.faces)
        return {"images_per_second": self.images / (time.monotonic() - begun)}


class Clock:
    """Seconds between calls of `progress`; the first half is warming up, compiling included."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seen = device, list[tuple[float, int, int]]()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def __call__(self, done: int, total: int) -> None:
        if self.seen and (done < self.seen[-1][1] or total != self.seen[-1][2]):
            self.seen.clear()  # of what came before: embeddings
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.seen.append((time.monotonic(), done, total))

    def found(self, images: int) -> dict[str, Any]:
        settled = self.seen[len(self.seen) // 2 :]
        (begun, first, total), (ended, last, _) = settled[0], settled[-1]
        rate = (last - first) / total * images / max(ended - begun, 1e-9)
        return {"images_per_second": rate, "peak_gb": peak_memory(self.device) / 1e9}


def demo(device: str) -> dict[str, Any]:
    """`synthbench run cemiface` on the embedded world, from nothing to its scores."""
    with tempfile.TemporaryDirectory() as runs:
        begun = time.monotonic()
        command = [
            sys.executable,
            "-m",
            "synthbench",
            "run",
            "cemiface",
            "--protocol",
            "demo",
            "--device",
            device,
            "--runs",
            runs,
            "--json",
        ]
        done = subprocess.run([*command, "--no-tracking"], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        result = json.loads(done.stdout)
    stages = [{key: stage[key] for key in ("name", "seconds")} for stage in result["stages"]]
    return {"seconds": time.monotonic() - begun, "stages": stages, "scores": result["scores"]}


@contextlib.contextmanager
def compiling(wish: str) -> Any:
    os.environ[COMPILE] = wish
    try:
        yield
    finally:
        del os.environ[COMPILE]


def parts(bench: Bench, device: str, tiny: bool) -> dict[str, Part]:
    def training(compiled: str, deterministic: bool = True) -> dict[str, Any]:
        torch.use_deterministic_algorithms(deterministic and bench.device.type == "cuda", warn_only=True)
        with compiling(compiled):
            return bench.training(f"train-{compiled}-{deterministic}")

    def generation(compiled: str) -> dict[str, Any]:
        with compiling(compiled):
            return bench.generation("train-off-True")

    def recognizer(compiled: str) -> dict[str, Any]:
        with compiling(compiled):
            return bench.recognizer(f"recognizer-{compiled}")

    found: dict[str, Part] = {}
    for how, wish in (("eager", "off"), ("compiled", "auto")):
        found[f"training, {how}"] = lambda wish=wish: training(wish)
        found[f"generation, {how}"] = lambda wish=wish: generation(wish)
        found[f"recognizer, {how}"] = lambda wish=wish: recognizer(wish)
    found["training, compiled, not deterministic"] = lambda: training("auto", False)
    found["embedding"] = bench.embedding
    return found if tiny else {**found, "demo": lambda: demo(device)}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--seconds", type=float, default=450.0, help="no part is begun after so many")
    options = parser.parse_args(arguments)
    set_threads()
    device, why = pick_device(options.device)
    began, found = time.monotonic(), dict[str, Any]()
    found["machine"] = {"device": why, "python": platform.python_version(), "torch": torch.__version__, "synthbench": __version__}
    found["machine"] |= {"cuda": torch.version.cuda, "threads": torch.get_num_threads(), "tiny": options.tiny}
    with tempfile.TemporaryDirectory() as folder:
        for name, part in parts(Bench(device, options.tiny, Path(folder)), options.device, options.tiny).items():
            start = time.monotonic()
            if start - began > options.seconds:
                found[name] = {"left out": f"{options.seconds:.0f} seconds were over"}
                continue
            try:
                found[name] = part()
            except Exception as error:
                found[name] = {"error": f"{type(error).__name__}: {error}"}
            found[name]["took"] = time.monotonic() - start
            print(f"{name}: {found[name]}", file=sys.stderr)
    for name, goal in GOALS.items():
        rate = max((found[f"{name}, {how}"].get("images_per_second", 0.0) for how in ("eager", "compiled")), default=0.0)
        found.setdefault("goals", {})[name] = {"goal": goal, "reached": rate, "share": rate / goal}
    return found


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
