"""What is asked of the operating system, alike on Linux, macOS and Windows: locks, cores, and whether a process lives."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import AcquireReturnProxy, FileLock, Timeout

DEVICES = "SYNTHBENCH_DEVICES"  # how many processes build a stage together; --devices sets it
BATCH = "SYNTHBENCH_BATCH"  # images sampled at a time on a GPU; --batch sets it
COMPILE = "SYNTHBENCH_COMPILE"  # auto or off: whether networks are compiled, see device.compiled; --compile sets it


def take(path: Path) -> AcquireReturnProxy | None:
    """The lock `path`, held until the block of `with` ends; None when somebody else has it.

    The system lets go when the process dies, however it dies. What the file holds means nothing.
    """
    try:
        return FileLock(path).acquire(blocking=False)
    except Timeout:
        return None


@contextmanager
def locked(path: Path, wait: Callable[[], None] = lambda: None, every: float = 0.05) -> Iterator[None]:
    """One process at a time, see `take`. `wait` is called once when another one has the lock; looked at again `every` so many seconds."""
    lock = take(path)
    if lock is None:
        wait()
        lock = FileLock(path).acquire(poll_interval=every)
    with lock:
        yield


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def launched() -> tuple[int, int, int]:
    """(rank of this process, number of processes, its number on this machine) under torch's launcher, torchrun; (0, 1, 0) without."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # schedulers of clusters set the others too
        return 0, 1, 0
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"])


def processes() -> int:
    """How many work together, or would, where a command is only planned."""
    wish = os.environ.get(DEVICES, "")
    return max(launched()[1], int(wish) if wish.isdigit() else 1)


def lives(pid: int) -> bool:
    """Whether a process of this machine lives. On Windows, where asking would end it, always true."""
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)  # asks, does nothing to it
    except ProcessLookupError:
        return False
    except PermissionError:  # it belongs to another user
        pass
    return True
