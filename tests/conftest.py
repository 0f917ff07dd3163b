"""For all tests: one thread (they are small, and runners are shared), Ctrl-C that works, and nobody's registered data."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fake_protocol import write_protocol

if TYPE_CHECKING:
    import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
os.environ.pop("COLUMNS", None)  # pytest-xdist sets it; tables of tests are as in a log, which has no width
signal.signal(signal.SIGINT, signal.default_int_handler)  # a runner in the background ignores it, and so would the commands under test


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are cores: some tests wait for processes of their own."""
    from synthbench.system import cores

    return cores() + 1


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder: Path = tmp_path_factory.getbasetemp() / "nothing-registered"
    monkeypatch.setenv("SYNTHBENCH_DATA", str(folder))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


@pytest.fixture
def unrounded(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Call it for the number of different images painted so far, as they were before they were rounded.

    A network that hardly learnt paints near-grey, and on some processors two of its images round to the same bytes.
    """
    from synthbench.diffusion import process

    seen: set[bytes] = set()
    rounded = process.to_uint8

    def watched(x: torch.Tensor) -> torch.Tensor:
        seen.update(image.float().cpu().numpy().tobytes() for image in x)
        return rounded(x)

    monkeypatch.setattr(process, "to_uint8", watched)
    return lambda: len(seen)
