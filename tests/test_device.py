"""What a device lacks is computed elsewhere, and several are shared out. No GPU is needed: the text of the package is read."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from synthbench import device
from synthbench.device import exact

PACKAGE = Path(__file__).parents[1] / "synthbench"
EARLY = r"\.double\(\)\.(cpu|to)\(|float64\)?, device=device|dtype=torch\.float64\)\.item|to\(device, torch\.float64"


def test_64_bits_are_computed_where_they_are_known() -> None:
    assert exact("mps").type == "cpu" and exact("cuda:1") == torch.device("cuda:1") and exact(torch.device("cpu")).type == "cpu"


def test_no_tensor_becomes_64_bits_before_it_is_back_on_the_cpu() -> None:
    """mps raises a TypeError for float64, so `.double().cpu()` ends a run in its last stage."""
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(
                r"\.double\(\)\.(cpu|to)\(|float64\)?, device=device|dtype=torch\.float64\)\.item|to\(device, torch\.float64", line
            ):
                wrong.append(f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}")
    assert not [line for line in wrong if "fidelity" not in line]
    assert all("device = exact(device)" in (PACKAGE / line.partition(":")[0]).read_text() for line in wrong)


def test_processes_side_by_side_share_the_gpus(monkeypatch):
    assert device.shared_out("auto", 3) == "auto"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [device.shared_out("auto", number) for number in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert device.shared_out("cuda", 1) == "cuda:1"
    assert [device.shared_out(wish, 1) for wish in ("cpu", "cuda:0", "mps")] == ["cpu", "cuda:0", "mps"]  # as asked
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert device.shared_out("auto", 1) == "auto"
