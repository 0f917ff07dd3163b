"""A network from elsewhere is looked into by another process first, which may use so much time and memory and no more.

An ONNX graph is a program: it can ask for any memory and never end. The process that looks into it is what it takes along.
Memory is limited on Linux; elsewhere time alone.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from synthbench import console
from synthbench.types import UserError

SECONDS = 180  # of computing: a large network is converted and run on two images in a tenth of it
WAITING = 4  # times as long by the clock, for busy machines, and for a process that waits
MEMORY = 4 * 2**30  # bytes besides what is imported, and
LARGEST = 16 * 2**30  # bytes of a file
COPIES = 6  # times the size of the file: bytes, tensors, network, what runs it
AT_ONCE = "import sys; sys.path[:] = {path!r}; from synthbench.models import limits; limits.answer()"


def limited(function: Callable[..., None], path: Path, *, seconds: int = 0, memory: int = 0, silent: bool = False, **options: Any) -> None:
    """Call `function(path, **options)` in another process and raise the UserError that it raises; what it notes is passed on, unless
    `silent`.

    function: of a module; options: plain data. seconds, memory: instead of SECONDS, MEMORY.
    Raises UserError too when that process takes more than it may, or dies.
    """
    if (size := path.stat().st_size) > LARGEST:
        raise UserError(f"{path}: a network of {console.size(size)} is not looked into; {console.size(LARGEST)} are the most")
    seconds, memory = seconds or SECONDS, (memory or MEMORY) + COPIES * size
    call = (function.__module__, function.__qualname__, str(path), options, seconds, memory)
    try:
        done = subprocess.run(
            [sys.executable, "-c", AT_ONCE.format(path=sys.path)],
            input=json.dumps(call).encode(),
            capture_output=True,
            timeout=WAITING * seconds,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        late = done.returncode == -getattr(signal, "SIGXCPU", 0)
    except subprocess.TimeoutExpired:
        late = True
    if late:
        raise UserError(f"{path}: to load this network and run it on two images takes more than {seconds} s; it is refused")
    code, _, noted = done.stdout.decode("utf-8", "replace").partition("\n")
    if done.returncode or code not in ("0", "2"):
        how = f"signal {signal.Signals(-done.returncode).name}" if done.returncode < 0 else f"exit status {done.returncode}"
        last = (done.stderr.decode("utf-8", "replace").strip().splitlines() or [""])[-1][:200]
        raise UserError(
            f"{path}: the process that looked into this network died of it ({how}{f'; {last}' if last else ''}): it is damaged, or asks "
            f"for more memory than {console.size(memory)}. It is refused"
        )
    if code == "2":
        raise UserError(noted.removesuffix("\n"))
    if not silent:
        sys.stderr.write(noted)


def answer() -> None:
    """In that process: what was asked on stdin is done, and told on stdout."""
    call = json.loads(sys.stdin.buffer.read())
    told = os.dup(1)
    os.dup2(2, 1)  # libraries may print what they like
    os.write(told, within(*call))


def within(module: str, name: str, path: str, options: dict[str, Any], seconds: int, memory: int) -> bytes:
    """Call a function in this process, which is limited from now on: `0`, a line end and what was noted, or `2` and an error."""
    before, sys.stderr = sys.stderr, io.StringIO()
    code, said = 2, f"{path}: this network asks for more memory than {console.size(memory)}; it is refused"
    try:
        _limit(seconds, memory)
        getattr(importlib.import_module(module), name)(Path(path), **options)
        code, said = 0, sys.stderr.getvalue()
    except UserError as error:
        said = str(error)
    except MemoryError:
        pass
    finally:
        sys.stderr = before
    return f"{code}\n{said}".encode("utf-8", "backslashreplace")


def _limit(seconds: int, memory: int) -> None:
    """So many seconds of computing on one core, and bytes of address space besides what is there already."""
    import torch

    torch.set_num_threads(1)  # each thread reserves its own
    try:
        import resource
    except ImportError:  # Windows
        return
    _lower(resource.RLIMIT_CPU, seconds)
    if sys.platform == "linux":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _lower(resource.RLIMIT_AS, used + memory)


def _lower(what: int, limit: int) -> None:
    """Lower a limit; one that is lower already, as batch systems have them, stays."""
    import resource

    soft, hard = resource.getrlimit(what)
    resource.setrlimit(what, (min([limit, *(there for there in (soft, hard) if there != resource.RLIM_INFINITY)]), hard))
