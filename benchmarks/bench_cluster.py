"""Schedules of pipeline/cluster.py with a stand-in that sleeps, on a local Ray that believes to have many machines or GPUs.

python benchmarks/bench_cluster.py gpus 1 4 16 64        # N GPUs: N stages, again N, and 4N; about 0.8 GB of memory for each of N
python benchmarks/bench_cluster.py driver 64 256 1024    # no Ray: what the driver itself does for 4N stages, and what the store can take
python benchmarks/bench_cluster.py schedule 4            # N machines: a comparison as --dry-run --on ray foretells it, and as it goes

The first N stages wait for N processes that import torch, on the cores that are here; the others find them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from synthbench.pipeline import cluster, run
from synthbench.pipeline.request import Request
from synthbench.store import Store
from synthbench.system import cores

SLEEPER = '''
import time
import torch
from synthbench.config import Settings
from synthbench.plugin import Generator, Traits
from synthbench.types import FaceBatch

class Train(Settings):
    steps: int = 10
    batch_size: int = 1

class Enroll(Settings):
    seconds: float = 0.5  # an identity

class Sample(Settings):
    seconds: float = 0.5  # an image
    number: int = 0  # tells one stage from another

class Config(Settings):
    train: Train = Train()
    enroll: Enroll = Enroll()
    sample: Sample = Sample()

class Sleeper(Generator[Config]):
    """Sleeps, a second for a step."""
    Config = Config
    traits = Traits(encoder=False, trains=True, enrolls=True, finite=False)

    def networks(self, resolution, dim):
        return {"painter": (torch.nn.Linear(64, 64), (torch.empty(1, 64),))}  # so that it takes a GPU

    def train(self, context):
        time.sleep(self.config.train.steps)
        (context.out / "weights.txt").write_text("none")

    def enroll(self, count, context):
        time.sleep(count * self.config.enroll.seconds)
        (context.out / "codes.txt").write_text("none")

    def generate(self, slots, context):
        time.sleep(len(slots) * self.config.sample.seconds)
        noise = torch.randint(256, (len(slots), 3, context.resolution, context.resolution), dtype=torch.uint8)
        yield FaceBatch(noise, torch.tensor([slot.identity for slot in slots]))
'''
RECIPE = "{backbone: {family: small, width: 8}, dim: 16, epochs: 1, batch_size: 8, precision: fp32}"
PROTOCOL = """
{name: sleep, version: 1, title: nobody learns, resolution: 16, volume: 2x2, real: {world: train, identities: 4, images: 4},
encoder: {recipe: recipe.yaml, seed: 1}, judge: {recipe: recipe.yaml, seed: 2, faces: {world: judge, identities: 4, images: 4}},
recipe: recipe.yaml, benchmarks: [world-mixed], evaluators: {verification: {}, gap_to_real: {}}}
"""


def prepared(folder: Path) -> None:
    for name, text in (("sleeper.py", SLEEPER), ("recipe.yaml", RECIPE), ("sleep.yaml", PROTOCOL)):
        (folder / name).write_text(text)
    os.chdir(folder)


def several(count: int, gpus: int) -> Any:
    """A local Ray of `count` machines with the cores of this one, and a first one with so many GPUs, which are none."""
    from ray.cluster_utils import Cluster

    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": gpus, "num_gpus": gpus, "include_dashboard": False})
    for _ in range(count):
        machines.add_node(num_cpus=cores())
    os.environ["RAY_ADDRESS"] = machines.address
    return machines


# ---------------------------------------------------------------------------------------------------------------- N GPUs


def requests(count: int, seconds: float) -> list[Request]:
    """`count` stages before which nothing is to be done that is not there already."""
    own = [(f"sample.seconds={seconds / 4}", "enroll.seconds=0", "train.steps=1", f"sample.number={number}") for number in range(count)]
    asked = {"volume": "2x2", "protocol": "sleep.yaml", "until": "generate", "device": "cpu", "tracking": False}
    return [Request("sleeper.py", Path("runs").absolute(), settings=settings, **asked) for settings in own]  # type: ignore[arg-type]


def measured(gpus: int, seconds: float) -> None:
    """N stages by processes that are still to be started, then N and 4N by those that are there."""
    machines = several(0, gpus)
    try:
        with cluster._cluster("ray") as ray:
            run.run(requests(1, 0.0)[0])
            asked = requests(6 * gpus, seconds)
            cluster._introduced(ray, Store(asked[0].runs))
            for waves, some, what in ((1, asked[:gpus], "first"), (1, asked[gpus : 2 * gpus], "again"), (4, asked[2 * gpus :], "again")):
                tasks = cluster.graph(some)
                start = time.monotonic()
                cluster._work(ray, tasks)
                took = time.monotonic() - start
                print(
                    f"{gpus:4} GPUs, {what}, {len(tasks):4} stages of {seconds:g} s: {took:6.1f} s, "
                    f"efficiency {waves * seconds / took:4.0%}, {took / waves - seconds:5.2f} s a wave on top",
                    flush=True,
                )
    finally:
        machines.shutdown()
        del os.environ["RAY_ADDRESS"]


# ------------------------------------------------------------------------------------------------------------ without Ray


class Instant:
    """Stands in for ray: every task is done at once, so that what is left is the driver's own work."""

    exceptions = SimpleNamespace(RayTaskError=ZeroDivisionError, RayError=ZeroDivisionError)

    def __init__(self, gpus: int) -> None:
        self.gpus = gpus

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 64.0, "GPU": 8.0}}] * max(1, self.gpus // 8)

    def remote(self, function: Any) -> Any:
        return SimpleNamespace(options=lambda **words: SimpleNamespace(remote=lambda *arguments: object()))

    def wait(self, waiting: list[Any], **words: Any) -> tuple[list[Any], list[Any]]:
        return waiting[:1], waiting[1:]

    def get(self, reference: Any) -> tuple[str, str, float]:
        return "", "nowhere", 0.0


def driven(gpus: int) -> None:
    """What the driver does for 4N stages."""
    run.run(requests(1, 0.0)[0])
    asked, start = requests(4 * gpus, 1.0), time.monotonic()
    tasks = cluster.graph(asked)
    read, start = time.monotonic() - start, time.monotonic()
    cluster._work(Instant(gpus), tasks)
    gave = time.monotonic() - start
    print(
        f"{gpus:4} GPUs  {len(tasks):5} stages: reading the requests {read:6.1f} s ({1e3 * read / len(tasks):5.1f} ms each), "
        f"giving out and hearing {gave:6.2f} s ({1e3 * gave / len(tasks):5.2f} ms each)",
        flush=True,
    )


def stored(count: int = 300) -> None:
    """What the store takes for a stage of one small file, on this disk."""
    with tempfile.TemporaryDirectory() as text:
        store = Store(Path(text))
        stages = [store.stage("generate", f"{number:020d}") for number in range(count)]
        for name, work in (("publishing a stage (lock, folder, manifest)", publish), ("asking for the state of one that is there", state)):
            start = time.monotonic()
            for stage in stages:
                work(stage)
            print(f"store: {name}: {count / (time.monotonic() - start):,.0f} a second", flush=True)


def publish(stage: Any) -> None:
    with stage.building() as facts:
        (stage.folder / "x").write_text("x")
        facts["work"] = ""


def state(stage: Any) -> None:
    assert stage.state == "cached"


# ---------------------------------------------------------------------------------------------------------- a comparison


def compare(runs: str, seeds: int, rows: list[str], *words: str) -> subprocess.Popen[str]:
    call = [sys.executable, "-m", "synthbench", "compare", "real", *rows, "--volume", "6x6", "--protocol", "sleep.yaml", "--no-tracking"]
    call += ["--seeds", str(seeds), "--runs", runs, "--on", "ray", *words]
    own = {**os.environ, "SYNTHBENCH_THREADS": "1", "SYNTHBENCH_QUIET": ""}
    return subprocess.Popen(call, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=own)


def went(runs: str, seeds: int, rows: list[str]) -> tuple[float, int]:
    """(seconds from the first stage given out to the last one done, stages) of a comparison on the Ray that is there."""
    working, begun, ended, stages = compare(runs, seeds, rows), 0.0, 0.0, 0
    assert working.stderr
    for line in working.stderr:
        print(f"  {line}", end="", file=sys.stderr, flush=True)
        if line.startswith("on ray: "):
            begun, stages = time.monotonic(), int(line.split()[2])
        if line.startswith(f"{stages} of {stages},"):
            ended = time.monotonic()
    assert not working.wait()
    return ended - begun, stages


def foretold(machines: int) -> None:
    """A small comparison for its rates, then one of four rows and three seeds: planned by these rates, and done."""
    there = several(machines, 0)
    rows = [f"sleeper.py train.steps={steps}" for steps in (20, 30, 45, 60)]
    try:
        took, stages = went("first", 1, rows[:1])
        print(f"for the rates: {stages} stages in {took:.1f} s")
        for path in Path("first").glob("stages/*/*/manifest.json"):  # what it took, and nothing of what it made
            (place := Path("second", *path.parts[1:3], f"rates-{path.parent.name}")).mkdir(parents=True)
            (place / path.name).write_bytes(path.read_bytes())
        plan, _ = compare("second", 3, rows, "--dry-run", "--cluster", f"{machines}x0", "--format", "json").communicate()
        made = json.loads(plan)["schedule"]
        took, stages = went("second", 3, rows)
        print(
            f"{machines} machines, {stages} stages, {made['abreast']} at a time: planned {made['makespan']:.1f} s "
            f"(limit: {made['limit']}), took {took:.1f} s, the plan is {100 * (made['makespan'] / took - 1):+.1f} % off"
        )
    finally:
        there.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["gpus", "driver", "schedule"])
    parser.add_argument("numbers", type=int, nargs="+")
    parser.add_argument("--sleep", type=float, default=20.0, help="seconds of a stage of `gpus`")
    options = parser.parse_args()
    os.environ["SYNTHBENCH_QUIET"] = "1"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if options.what == "driver":
        stored()
    for number in options.numbers:
        with tempfile.TemporaryDirectory() as folder:
            prepared(Path(folder))
            if options.what == "gpus":
                measured(number, options.sleep)
            elif options.what == "driver":
                driven(number)
            else:
                foretold(number)
            os.chdir("/")


if __name__ == "__main__":
    main()
