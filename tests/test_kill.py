"""kill -9 in every stage, run again: the same images and the same scores as a run that was never disturbed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from synthbench.system import lives

PROTOCOL = """
name: tiny
version: 1
title: a world for one test
resolution: 32
volume: 4x4
real: {world: train, identities: 6, images: 6}
encoder: {recipe: RECIPE, seed: 1}
judge: {recipe: RECIPE, seed: 2, faces: {world: judge, identities: 6, images: 6}}
recipe: RECIPE
benchmarks: [world-mixed]
evaluators: {verification: {}, gap_to_real: {}, separability: {}, similarity: {}, fidelity: {}}
generators:
  cemiface:
    train:
      unet: {channels: 16, multipliers: [1, 2], attention_levels: [1], attention_width: 32, head_width: 16, groups: 8, patch: 4,
             skip_downsample_level: -1}
      steps: 60
      batch_size: 8
      precision: fp32
    enroll: {source: world, threshold: 1}
    sample: {m: [-1, 0, 1], steps: 4, copies: 1}
"""
RECIPE = """
backbone: {family: small, width: 8}
dim: 16
head: cosface
margin: 0.1
scale: 16
epochs: 12
batch_size: 12
lr: 0.05
precision: fp32
"""
# Checkpoints as often as possible, so that a kill in the middle leaves something to continue from. Everything is imported once: each line
# of the input is the arguments of a command, which a fork of this process runs; told are its number, then how it ended.
DRIVER = """
import json, os, sys
import synthbench.recognition.trainer, synthbench.generators.cemiface, synthbench.pipeline.run, synthbench.models.encoder
from synthbench.training import loop
from synthbench.cli import main
loop.EVERY = 0.0
for line in sys.stdin:
    words, out = json.loads(line)
    child = os.fork()
    if not child:
        os.dup2(os.open(out, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 1)
        sys.argv = ["synthbench", *words]
        try:
            main()
        except SystemExit as end:
            sys.stdout.flush()
            os._exit(end.code or 0)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def words(folder: Path, runs: str) -> list[str]:
    """The arguments of the command."""
    where = ["--protocol", str(folder / "tiny.yaml"), "--runs", str(folder / runs)]
    return ["run", "cemiface", *where, "--no-tracking", "--json", "--device", "cpu"]


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "SYNTHBENCH_THREADS": "1", "SYNTHBENCH_DATA": str(folder / "data")}


ALIKE = ("encoder", "judge", "judge-faces")  # built as recognizer and real are, in which it is killed


def begun(runs: Path, known: set[Path]) -> Path | None:
    """A stage that has written something, is not finished, and was not killed before."""
    for folder in (runs / "stages").glob("*/*"):
        if folder in known or folder.parent.name in ALIKE or not folder.is_dir():
            continue
        if not (folder / "manifest.json").exists() and any(folder.iterdir()):
            return folder
    return None


@pytest.mark.slow
def test_killed_everywhere(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "tiny.yaml").write_text(PROTOCOL.replace("RECIPE", str(tmp_path / "recipe.yaml")))
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER], env=environment(tmp_path), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdin and driver.stdout

        def started(runs: str) -> int:
            """The number of the process that runs the command."""
            driver.stdin.write(json.dumps([words(tmp_path, runs), str(tmp_path / f"{runs}.json")]) + "\n")
            driver.stdin.flush()
            return int(driver.stdout.readline())

        def ended() -> int:
            return int(driver.stdout.readline())

        started("calm")
        assert ended() == 0
        killed: set[Path] = set()
        for _ in range(40):
            process, before = started("killed"), len(killed)
            while len(killed) == before and lives(process):
                stage = begun(tmp_path / "killed", killed)
                if stage is not None:
                    time.sleep(0.03 * (len(killed) % 3))  # at the start, and a little later
                    os.kill(process, signal.SIGKILL)
                    killed.add(stage)
                time.sleep(0.002)
            if (end := ended()) != -signal.SIGKILL:
                break
        assert end == 0
    assert {folder.parent.name for folder in killed} >= {"train", "recognizer", "generate"}, killed

    one, other = (json.loads((tmp_path / f"{runs}.json").read_text()) for runs in ("calm", "killed"))
    assert one["scores"] == other["scores"]
    assert one["digests"] == other["digests"]
    assert one["digests"]["faces"]
