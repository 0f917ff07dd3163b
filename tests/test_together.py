"""Several processes on one stage: the same images bit for bit, the same gradients up to the order of a sum, and what is killed goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from synthbench import registry
from synthbench.data.faces import open_faces
from synthbench.models.unet import TINY
from synthbench.pipeline import divided
from synthbench.training import crew
from synthbench.types import FaceBatch, Slot

SMALL = (*(f"train.unet.{name}={value}" for name, value in TINY.items()), "train.steps=6", "train.batch_size=6")
CEMIFACE = (
    "cemiface",
    "--volume",
    "6x100",
    *(word for setting in (*SMALL, "sample.steps=2", "enroll.threshold=1") for word in ("--set", setting)),
)


def command(runs: str, *words: str, processes: int = 1, torchrun: bool = False) -> list[str]:
    start = (
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        if torchrun
        else [sys.executable]
    )
    devices = ["--devices", str(processes)] if processes > 1 and not torchrun else []
    return [*start, "-m", "synthbench", "run", *words, "--protocol", "tiny.yaml", "--no-tracking", "--runs", runs, *devices]


def pids(runs: str) -> list[int]:
    """Those of commands with this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            if f"--runs\0{runs}\0".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def run(runs: str, *words: str, processes: int = 1, torchrun: bool = False) -> str:
    done = subprocess.run(command(runs, *words, processes=processes, torchrun=torchrun), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def only(runs: str, stage: str) -> Path:
    """The folder of the one stage of that name."""
    (manifest,) = Path(runs, "stages", stage).glob("*/manifest.json")
    return manifest.parent


def test_a_share_of_the_rows_is_each_ones_own() -> None:
    for count, size in ((7, 3), (2, 2), (100, 8)):
        rows = [row for rank in range(size) for row in range(count)[crew.Crew(rank, size).part(count)]]
        assert rows == list(range(count))


def test_alone_a_set_is_made_as_before() -> None:
    asked: list[int] = []

    def generate(slots: object) -> object:
        asked.extend(slot.identity for slot in slots)  # type: ignore[attr-defined]
        yield "as it comes"

    assert list(divided.faces(generate, [Slot(i, 0) for i in range(5)], 2)) == ["as it comes"]  # type: ignore[arg-type]
    assert asked == [2, 3, 4]


def test_faces_are_cut_and_joined_in_their_order() -> None:
    from collections import deque

    def batch(first: int, count: int) -> FaceBatch:
        number = torch.arange(first, first + count)
        return FaceBatch(number[:, None, None, None].to(torch.uint8), number, {"sample": number * 10})

    queue = deque([batch(0, 3), batch(3, 4)])
    assert divided._first(queue, 8) is None
    one = divided._first(queue, 5)
    assert one and one.identity.tolist() == [0, 1, 2, 3, 4] and one.columns["sample"].tolist() == [0, 10, 20, 30, 40]
    other = divided._first(queue, 2)
    assert other and other.identity.tolist() == [5, 6] and other.images.flatten().tolist() == [5, 6] and not queue


@pytest.mark.slow
def test_one_process_two_that_are_killed_and_three_that_go_on_make_the_same_set(here: Path) -> None:
    """Weights are made once, by one process, so that only the painting is divided."""
    run("one", *CEMIFACE, "--until", "generate")
    shutil.copytree("one", "more")
    shutil.rmtree("more/stages/generate")
    killed = command("more", *CEMIFACE, "--until", "generate", processes=2)
    worker = subprocess.Popen(killed, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not list(Path("more").glob("stages/generate/*/part-00000.parquet")) and time.monotonic() < end:
        time.sleep(0.02)
    for pid in pids("more"):  # the launcher and all others
        os.kill(pid, signal.SIGKILL)
    worker.wait()
    assert not list(Path("more").glob("stages/generate/*/manifest.json"))
    run("more", *CEMIFACE, "--until", "generate", processes=3, torchrun=True)
    one, more = open_faces(only("one", "generate")), open_faces(only("more", "generate"))
    assert more.digest == one.digest and len(one) == 630  # 30 of them copies
    assert np.array_equal(more.images(slice(None)).numpy(), one.images(slice(None)).numpy())
    assert all(np.array_equal(more.columns[name], values, equal_nan=True) for name, values in one.columns.items())
    assert json.loads((only("more", "generate") / "manifest.json").read_text())["processes"] == 3


def divisible() -> set[str]:
    """The generators, without presets, whose training may be divided."""
    found = {name: registry.load("generator", name).traits for name in registry.names("generator")}
    return {registry.plugin_name(name) for name, traits in found.items() if traits.trains and not traits.undivided}


@pytest.mark.slow
@pytest.mark.parametrize(
    "names", [["cemiface"], pytest.param(sorted(divisible() - {"cemiface"}), marks=pytest.mark.long)], ids=["one", "all"]
)
def test_two_processes_have_the_gradients_of_one(tmp_path: Path, names: list[str]) -> None:
    """Of generators that may be divided, and of recognizers: statistics of batch norm and of AdaFace are those of the whole batch."""
    work, launcher = str(Path(__file__).with_name("crew_work.py")), (sys.executable, "-m", "torch.distributed.run", "--standalone")
    subprocess.run([sys.executable, work, tmp_path / "one", *names], check=True, capture_output=True)
    subprocess.run([*launcher, "--nproc-per-node", "2", work, tmp_path / "two", *names], check=True, capture_output=True)
    one, first, second = (
        load_file(tmp_path / name) for name in ("one/found-0.safetensors", "two/found-0.safetensors", "two/found-1.safetensors")
    )
    assert one.keys() == first.keys() == second.keys()
    assert [name for name in one if not torch.equal(first[name], second[name])] == []  # the same bits in both
    for name, value in one.items():
        scale = max(float(value.double().norm()), 1e-2)  # biases before a batch norm have no gradient but rounding
        assert float((first[name].double() - value.double()).norm()) < 1e-4 * scale, name
    assert {name.split()[0] for name in one} - {"cosface", "adaface"} == set(names)


def test_a_whole_run_by_two_processes(here: Path) -> None:
    few = (*CEMIFACE, "--volume", "6x8")
    said = run("two", *few, processes=2)
    assert "one of 2 processes" in said and "cemiface 6x8" in said
    built = {path.parent.parent.name: json.loads(path.read_text()) for path in Path("two").glob("stages/*/*/manifest.json")}
    assert {name for name, manifest in built.items() if manifest.get("processes") == 2} == {
        "encoder",
        "judge",
        "train",
        "generate",
        "recognizer",
    }
    assert not list(Path("two").glob("stages/*/*/checkpoint.pt"))
    assert not list(Path("two/processes").iterdir())
    assert "answered from the cache" in run("two", *few)  # the same question, however many answer it


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--devices", "1000"), "must be between 1 and"),
        (("--devices", "0"), "must be between 1 and"),
        (("--devices", "2", "--set", "sample.m=5"), "sample.m"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(here: Path, words: tuple[str, ...], said: str) -> None:
    done = subprocess.run(command("runs", "cemiface", *words), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1


def test_a_plan_reckons_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from synthbench.pipeline import plan
    from synthbench.pipeline.cost import Cost
    from synthbench.pipeline.steps import Step
    from synthbench.store import Store

    store = Store(tmp_path)
    counted = partial(Cost, 80_000, "GFLOP")
    steps = [
        Step(store.stage(name, f"{i:020x}"), name, lambda folder, progress: None, f"{name} {device}", counted, divided=divided)
        for i, (name, device, divided) in enumerate([("train", "cuda", True), ("enroll", "cuda", False), ("generate", "cpu", True)])
    ]
    alone = [item.seconds for item in plan.look(steps, store)]
    monkeypatch.setenv("SYNTHBENCH_DEVICES", "8")
    found = [item.seconds for item in plan.look(steps, store)]
    assert all(alone) and found == [alone[0] / 8, alone[1], alone[2]]  # type: ignore[operator]


def test_devices_and_jobs_exclude_each_other() -> None:
    words = [sys.executable, "-m", "synthbench", "sweep", "m", "--devices", "2", "--jobs", "2"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "Leave one of the two out" in done.stderr


@pytest.mark.slow
def test_when_a_process_dies_all_end(here: Path) -> None:
    long = (*CEMIFACE, "--set", "train.steps=3000", "--until", "train")
    worker = subprocess.Popen(command("runs", *long, processes=2), stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not list(Path("runs").glob("stages/train/*/metrics.jsonl")) and time.monotonic() < end:
        time.sleep(0.02)
    followers = [pid for pid in pids("runs") if b"RANK=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")]
    os.kill(followers[0], signal.SIGKILL)
    said = worker.communicate(timeout=60)[1]
    assert worker.returncode and "Traceback" not in said
    assert "nothing is lost" in said.lower()
