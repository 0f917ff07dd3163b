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
# Checkpoints as often as possible, so that a kill in the middle leaves something to continue from.
DRIVER = """
import synthbench.recognition.trainer, synthbench.generators.cemiface
from synthbench.training import loop
loop.EVERY = 0.0
from synthbench.cli import main
main()
"""


def command(folder: Path, runs: str) -> list[str]:
    run = [
        "run",
        "cemiface",
        "--protocol",
        str(folder / "tiny.yaml"),
        "--runs",
        str(folder / runs),
        "--no-tracking",
        "--json",
        "--device",
        "cpu",
    ]
    return [sys.executable, "-c", DRIVER, *run]


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
    env = environment(tmp_path)
    calm = subprocess.run(command(tmp_path, "calm"), env=env, capture_output=True, text=True, timeout=600)
    assert calm.returncode == 0, calm.stderr

    killed: set[Path] = set()
    for _ in range(40):
        process = subprocess.Popen(command(tmp_path, "killed"), env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while process.poll() is None:
            stage = begun(tmp_path / "killed", killed)
            if stage is not None:
                time.sleep(0.03 * (len(killed) % 3))  # at the start, and a little later
                process.send_signal(signal.SIGKILL)
                killed.add(stage)
                break
            time.sleep(0.002)
        out, err = process.communicate()
        if process.returncode != -signal.SIGKILL:
            break
    assert process.returncode == 0, err
    assert {folder.parent.name for folder in killed} >= {"train", "recognizer", "generate"}, killed

    one, other = json.loads(calm.stdout), json.loads(out)
    assert one["scores"] == other["scores"]
    assert one["digests"] == other["digests"]
    assert one["digests"]["faces"]
