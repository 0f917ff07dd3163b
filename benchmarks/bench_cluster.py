"""How stages spread over a cluster: a stand-in that sleeps, on a local Ray that believes to have N GPUs, through pipeline/cluster.py.

python benchmarks/bench_cluster.py --gpus 1,4,16,64 --sleep 20       # memory: about 0.3 GB for each of N
python benchmarks/bench_cluster.py --planned 64,256,1024             # no Ray: the driver's own work, and what the store can take

For each N: N stages, and 4N. A first wave waits for N processes that import torch (on the cores that are here), later ones find them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from synthbench import console
from synthbench.pipeline import cluster, run
from synthbench.pipeline.request import Request
from synthbench.store import Store

SLEEPER = '''
import time
import torch
from pydantic import Field
from synthbench.config import Settings
from synthbench.plugin import Generator, Traits
from synthbench.types import FaceBatch

class Sample(Settings):
    seconds: float = Field(1.0, description="slept")
    number: int = Field(0, description="tells one stage from another")

class Config(Settings):
    sample: Sample = Sample()

class Sleeper(Generator[Config]):
    """Sleeps."""
    Config = Config
    traits = Traits(encoder=False, finite=False)

    def networks(self, resolution, dim):
        return {"painter": (torch.nn.Linear(1, 1), (torch.empty(1, 1),))}  # so that it takes a GPU

    def generate(self, slots, context):
        time.sleep(self.config.sample.seconds)
        size = context.resolution
        yield FaceBatch(torch.zeros(len(slots), 3, size, size, dtype=torch.uint8), torch.tensor([slot.identity for slot in slots]))
'''
RECIPE = "{backbone: {family: small, width: 8}, dim: 16, epochs: 1, batch_size: 8, precision: fp32}"
PROTOCOL = """
{name: sleep, version: 1, title: nobody learns, resolution: 16, volume: 2x2, real: {world: train, identities: 2, images: 2},
encoder: {recipe: recipe.yaml, seed: 1}, judge: {recipe: recipe.yaml, seed: 2, faces: {world: judge, identities: 2, images: 2}},
recipe: recipe.yaml, benchmarks: [world-mixed], evaluators: {verification: {}}}
"""


def requests(folder: Path, count: int, seconds: float) -> list[Request]:
    """`count` stages that nothing but what is there already stands before."""
    own = [(f"sample.seconds={seconds}", f"sample.number={number}") for number in range(count)]
    asked = {"volume": "2x2", "protocol": str(folder / "sleep.yaml"), "until": "generate", "device": "cpu", "tracking": False}
    return [Request(str(folder / "sleeper.py"), folder / "runs", settings=settings, **asked) for settings in own]  # type: ignore[arg-type]


def prepared(folder: Path) -> None:
    """The files, and the stages that all others need."""
    for name, text in (("sleeper.py", SLEEPER), ("recipe.yaml", RECIPE), ("sleep.yaml", PROTOCOL)):
        (folder / name).write_text(text)
    os.chdir(folder)
    run.run(requests(folder, 1, 0.0)[0])


def measured(gpus: int, seconds: float) -> None:
    """N and 4N stages on N GPUs."""
    from ray.cluster_utils import Cluster

    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": gpus, "num_gpus": gpus, "include_dashboard": False})
    os.environ["RAY_ADDRESS"] = machines.address
    try:
        for waves in (1, 4):
            with tempfile.TemporaryDirectory() as text:
                prepared(Path(text))
                ends: list[float] = []
                begun = time.monotonic()
                console.note = lambda said, begun=begun, ends=ends: ends.append(
                    time.monotonic() - begun
                )  # the driver says when one is done
                cluster.build(lambda folder=Path(text), waves=waves: requests(folder, waves * gpus, seconds), "ray")
                first, *done = ends
                told(gpus, waves, seconds, first, done)
    finally:
        machines.shutdown()
        del os.environ["RAY_ADDRESS"]


def told(gpus: int, waves: int, seconds: float, first: float, done: list[float]) -> None:
    """`first`: seconds until the first stage was given out; `done`: until each was."""
    total = done[-1] - first
    line = f"{gpus:4} GPUs  {waves * gpus:4} stages of {seconds:g} s: {total:6.1f} s, efficiency {waves * seconds / total:4.0%}"
    line += f", {first:5.1f} s before"
    if waves > 1:  # from the end of the first wave on, per GPU and stage
        later = (done[-1] - done[gpus - 1]) / (waves - 1)
        line += f"; after the first wave {later:5.1f} s a wave: efficiency {seconds / later:4.0%}, {later - seconds:5.2f} s a stage on top"
    print(line, flush=True)


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


def planned(gpus: int, seconds: float) -> None:
    """What the driver does for 4N stages, and the schedule that comes of it."""
    with tempfile.TemporaryDirectory() as text:
        folder, count = Path(text), 4 * gpus
        prepared(folder)
        asked = requests(folder, count, seconds)
        start = time.monotonic()
        tasks = cluster.graph(asked)
        read = time.monotonic() - start
        console.note = lambda said: None
        start = time.monotonic()
        cluster._work(Instant(gpus), tasks)
        gave = time.monotonic() - start
    print(
        f"{gpus:4} GPUs  {count:5} stages: reading the requests {read:6.1f} s ({1e3 * read / count:5.1f} ms each), "
        f"giving out and hearing {gave:6.2f} s ({1e3 * gave / count:5.2f} ms each)",
        flush=True,
    )


def stored(count: int = 300) -> None:
    """What the store takes for a stage of one small file, on this disk."""
    with tempfile.TemporaryDirectory() as text:
        store = Store(Path(text))
        stages = [store.stage("generate", f"{number:020d}") for number in range(count)]
        for name, work in (("publishing (lock, folder, manifest)", publish), ("asking for the state of one that is there", state)):
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


def numbers(text: str) -> Iterator[int]:
    yield from (int(part) for part in text.split(",") if part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", default="", help="numbers of GPUs to measure with")
    parser.add_argument("--planned", default="", help="numbers of GPUs to plan for, without Ray")
    parser.add_argument("--sleep", type=float, default=20.0)
    options = parser.parse_args()
    os.environ["SYNTHBENCH_QUIET"] = "1"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    note = console.note
    if options.planned:
        stored()
    for gpus in numbers(options.planned):
        planned(gpus, options.sleep)
        console.note = note
    for gpus in numbers(options.gpus):
        measured(gpus, options.sleep)
        console.note = note


if __name__ == "__main__":
    main()
