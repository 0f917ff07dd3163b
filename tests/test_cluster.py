"""Stages on a cluster of Ray: each once, in an order that can be, wherever machines die, with the scores that one machine has."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import synthbench
from synthbench import reproduce
from synthbench.cli.app import cli
from synthbench.pipeline import cluster
from synthbench.pipeline.cluster import Task
from synthbench.pipeline.request import Request, read
from synthbench.pipeline.steps import Step, execute
from synthbench.reproduce import rows
from synthbench.reproduce.definition import find
from synthbench.store import Store
from synthbench.types import UserError

SMALL = """
generators:
  cemiface:
    train: {steps: 40, batch_size: 6, unet: {channels: 16, multipliers: [1, 2], attention_levels: [1], attention_width: 16,
            head_width: 8, groups: 4, skip_downsample_level: -1, patch: 2}}
    enroll: {threshold: 1.0}
    sample: {steps: 2}
"""
ROWS = ("real", "cemiface")


@pytest.fixture
def small(here: Path) -> Path:
    """The protocol tiny.yaml with a CemiFace of seconds."""
    path = here / "tiny.yaml"
    path.write_text(path.read_text() + SMALL)
    return here


def requests(runs: Path, seeds: int = 2) -> list[Request]:
    return [Request(name, runs, None if name == "real" else "6x8", "tiny.yaml", seeds=seeds) for name in ROWS]


def compare(runs: str, *words: str) -> list[str]:
    own = ["compare", *ROWS, "--volume", "6x8", "--protocol", "tiny.yaml", "--no-tracking", "--runs", runs]
    return [sys.executable, "-m", "synthbench", *own, *words]


def test_stages_that_rows_share_are_in_the_graph_once_and_come_after_what_they_need(small: Path) -> None:
    asked = requests(small / "runs")
    tasks = cluster.graph(asked)
    every = {step.stage.folder for request in asked for step in read(request).steps}
    assert tasks.keys() == every  # nothing is cached
    assert len([folder for folder in tasks if folder.parent.name == "real"]) == 1  # of all rows and both seeds
    assert len([folder for folder in tasks if folder.parent.name == "recognizer"]) == 2 * len(ROWS)
    done: set[Path] = set()
    order = cluster.turns(tasks)
    while order.is_active():
        turn = order.get_ready()
        assert turn and all(tasks[folder].step.needs or folder.parent.name in ("real", "judge-faces", "benchmarks") for folder in turn)
        assert all(set(tasks[folder].step.needs) <= done for folder in turn)
        order.done(*turn)
        done |= set(turn)
    assert done == every


def test_what_a_stage_needs_is_what_its_key_names(small: Path) -> None:
    """Every folder whose stage enters a key, by itself or by one before it, is waited for; `evaluate` has the longest list."""
    steps = {step.stage.folder: step for step in read(requests(small / "runs")[1]).stages[0]}

    def before(folder: Path) -> set[Path]:
        found = set(steps[folder].needs)
        return found.union(*(before(other) for other in found))

    last = list(steps)[-1]
    assert last.parent.name == "evaluate" and before(last) == set(steps) - {last}


def test_words_that_are_no_cluster_are_refused(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="write here, ray, or ray://HOST:PORT"):
        cluster.build(lambda: requests(small / "runs"), "slurm")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'synthbench\[ray\]'"):
        cluster.build(lambda: requests(small / "runs"), "ray")
    with pytest.raises(UserError, match="--force and --on exclude"):
        cluster.graph([Request("real", small / "runs", protocol="tiny.yaml", force=("evaluate",))])


def test_a_task_tells_how_far_it_is_and_leaves_nothing_of_it(tmp_path: Path) -> None:
    stage = Store(tmp_path).stage("train", "k")
    seen: list[str] = []

    def build(folder: Path, progress: Any) -> None:
        for done in (0, 43, 100):  # the first is written; the others come within seconds of it
            progress(done, 100)
            seen.append(cluster.under_way([Task(Request("cemiface", tmp_path), step)]))

    step = Step(stage, "cemiface: on the real set", build)
    assert cluster.under_way([Task(Request("cemiface", tmp_path), step)]) == ""
    execute([cluster._telling(step)], Store(tmp_path))
    assert seen == ["  train cemiface 0 %"] * 3 and stage.state == "cached"
    assert [path.name for path in stage.folder.parent.iterdir() if "progress" in path.name] == []
    for number, text in enumerate(('{"done": 43, "total": 100}', '{"done": 1, "total": 0}', "[]", '{"done": "x"}', "")):
        told = Step(Store(tmp_path).stage("train", f"told{number}"), "six people", build)
        cluster._said(told).write_text(text)
        assert cluster.under_way([Task(Request("cemiface", tmp_path), told)]) == ("  train 43 %" if not number else "")


def test_a_reproduction_gives_the_cluster_what_it_would_build_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def build(asked: Any, where: str) -> None:
        given.extend((asked(), where))
        raise UserError("far enough")

    monkeypatch.setattr(cluster, "build", build)
    words = ["reproduce", "cemiface/similarity-groups", "--scale", "demo", "--runs", str(tmp_path), "--on", "ray"]
    assert str(CliRunner().invoke(cli, words).exception) == "far enough"
    asked, where = given
    made = rows.items(find("cemiface/similarity-groups")[1], reproduce.Request("", tmp_path, "demo"), tmp_path / "x")
    assert where == "ray" and cluster.graph(asked).keys() == {step.stage.folder for item in made for step in item.steps}
    images = cluster.graph(reproduce.requests(reproduce.Request("cemiface/samples-over-m", tmp_path, "demo")))
    count = Counter(folder.parent.name for folder in images)
    assert (count["train"], count["generate"], count["recognizer"], count["evaluate"]) == (1, 9, 0, 0)


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A real cluster of Ray, whose first machine works not at all; more are added by the test."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    soon = {"health_check_period_ms": 500, "health_check_failure_threshold": 3, "health_check_initial_delay_ms": 500}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": soon})
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    try:
        yield made
    finally:
        made.shutdown()


def refused(folder: str) -> str:
    """The last line of a command that may not begin, and did nothing."""
    done = subprocess.run(compare(folder, "--on", "ray"), capture_output=True, text=True, timeout=500)
    assert done.returncode == 2 and not list(Path(folder).glob("stages/*/*")), done.stderr
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.slow
def test_a_machine_with_another_synthbench_is_named(small: Path, machines: Any) -> None:
    other = small / "other" / "synthbench"
    shutil.copytree(Path(synthbench.__file__).parent, other, ignore=shutil.ignore_patterns("__pycache__"))
    with open(other / "seeds.py", "a") as file:
        file.write("# changed\n")
    machines.add_node(num_cpus=1, env_vars={"PYTHONPATH": str(other.parent)})
    said = refused("runs")
    assert said.startswith(f"error: machine {platform.node()} has other software: synthbench {synthbench.__version__} with code")
    assert said.endswith("Results would depend on where a stage is built")


@pytest.mark.slow
def test_a_machine_with_another_runs_folder_is_named(small: Path, machines: Any) -> None:
    """Another machine that has the path, and something else there: a raylet in a mount namespace of its own."""
    runs = small / "runs"
    runs.mkdir()
    apart = ["unshare", "--mount", "--map-root-user", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(runs)]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody have mounts of their own")
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={machines.address}", "--num-cpus=1", "--block"]
    machine = subprocess.Popen([*apart, *start], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        machines.wait_for_nodes(timeout=300)
        end = time.monotonic() + 300
        while len(machines.global_state.node_table()) < 2 and time.monotonic() < end:
            time.sleep(0.5)
        said = refused("runs")
    finally:
        os.killpg(machine.pid, signal.SIGTERM)
        machine.wait(60)
    assert said == (
        f"error: machine {platform.node()} has another {runs}: what is written here is not there. --runs must be a folder that all share"
    )


@pytest.mark.slow
def test_a_machine_dies_in_a_training_and_the_scores_are_those_of_one_machine(
    small: Path, machines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = len(cluster.graph(requests(Path("many").absolute(), seeds=1)))
    nodes = [machines.add_node(num_cpus=1) for _ in range(2)]
    working = subprocess.Popen(compare("many", "--on", "ray"), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    end = time.monotonic() + 500
    while not list(Path("many").glob("stages/train/*/metrics.jsonl")) and time.monotonic() < end:
        time.sleep(0.05)
    folder = next(Path("many").glob("stages/train/*/metrics.jsonl")).parent
    pid = folder.with_name(folder.name + ".holder").read_text().split()[1]
    status = Path(f"/proc/{pid}/status").read_text()
    parent = int(next(line for line in status.splitlines() if line.startswith("PPid")).split()[1])
    (dead,) = [node for node in nodes if node.all_processes["raylet"][0].process.pid == parent]
    machines.remove_node(dead, allow_graceful=False)
    machines.add_node(num_cpus=1)
    said = working.communicate(timeout=500)[1]
    assert working.returncode == 0, said
    assert f"{count} stages, 3 machines" in said and f"{count} of {count}" in said
    monkeypatch.delenv("RAY_ADDRESS")
    subprocess.run(compare("one"), check=True, capture_output=True)
    many, one = (
        {path.parent.name: json.loads(path.read_text())["scores"] for path in Path(runs).glob("results/*/run.json")}
        for runs in ("many", "one")
    )
    assert many == one and len(one) == len(ROWS)
    sizes = [{path.relative_to(runs).parent for path in Path(runs).glob("stages/*/*/manifest.json")} for runs in ("many", "one")]
    assert sizes[0] == sizes[1]
