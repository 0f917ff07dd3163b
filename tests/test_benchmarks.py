"""The script that a GPU is given runs in small on the CPU, every part of it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu():
    spec = importlib.util.spec_from_file_location("gpu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_part_runs_in_small(gpu):
    found = json.loads(json.dumps(gpu.main(["--tiny", "--device", "cpu"])))
    rated = {name: part for name, part in found.items() if name not in ("machine", "goals")}
    assert {name.partition(",")[0] for name in rated} == {"training", "generation", "recognizer", "embedding"}
    assert not [part["error"] for part in rated.values() if "error" in part]
    assert all(part["images_per_second"] > 0 for part in rated.values())
    assert found["goals"].keys() == gpu.GOALS.keys() and found["machine"]["tiny"]


def test_a_part_that_fails_stops_no_other_and_time_that_is_over_is_told(gpu, monkeypatch):
    monkeypatch.setattr(gpu.Bench, "training", lambda self, name: 1 / 0)
    found = gpu.main(["--tiny", "--device", "cpu"])
    assert found["training, eager"]["error"].startswith("ZeroDivisionError") and found["embedding"]["images_per_second"] > 0
    assert found["goals"]["training"]["reached"] == 0
    late = gpu.main(["--tiny", "--device", "cpu", "--seconds", "-1"])
    assert "were over" in late["embedding"]["left out"]
