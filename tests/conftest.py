"""For all tests: one thread (they are small, and runners are shared), and nobody's registered data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder: Path = tmp_path_factory.getbasetemp() / "nothing-registered"
    monkeypatch.setenv("SYNTHBENCH_DATA", str(folder))
