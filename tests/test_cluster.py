"""Stages on a cluster of Ray: each once, in an order that can be, wherever machines die, with the scores that one machine has."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from synthbench.pipeline import cluster
from synthbench.pipeline.request import Request, read
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


@pytest.mark.slow
def test_a_machine_dies_in_a_training_and_the_scores_are_those_of_one_machine(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    soon = {"health_check_period_ms": 500, "health_check_failure_threshold": 3, "health_check_initial_delay_ms": 500}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": soon}
    count = len(cluster.graph(requests(Path("many").absolute(), seeds=1)))
    machines = Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = [machines.add_node(num_cpus=1) for _ in range(2)]
        monkeypatch.setenv("RAY_ADDRESS", machines.address)
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
        said = working.communicate(timeout=300)[1]
        assert working.returncode == 0, said
    finally:
        machines.shutdown()
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
