"""For all tests: one thread (they are small, and runners are shared), Ctrl-C that works, and nobody's registered data."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
signal.signal(signal.SIGINT, signal.default_int_handler)  # a runner in the background ignores it, and so would the commands under test


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder: Path = tmp_path_factory.getbasetemp() / "nothing-registered"
    monkeypatch.setenv("SYNTHBENCH_DATA", str(folder))
