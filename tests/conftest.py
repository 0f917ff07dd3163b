"""For all tests: one thread (they are small, and runners are shared), Ctrl-C that works, and nobody's registered data."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_protocol import write_protocol

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
signal.signal(signal.SIGINT, signal.default_int_handler)  # a runner in the background ignores it, and so would the commands under test


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder: Path = tmp_path_factory.getbasetemp() / "nothing-registered"
    monkeypatch.setenv("SYNTHBENCH_DATA", str(folder))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with the protocol tiny.yaml."""
    import torch

    write_protocol(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SYNTHBENCH_THREADS", "1")
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)
