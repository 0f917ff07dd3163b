"""Fresh processes: a child forked from a process in which torch ran threads may die of it, on newer Pythons at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

READY = """
print("ready", flush=True)
input()
"""  # a script says and waits so between its imports and its work


def started(script: str, *words: object) -> subprocess.Popen[str]:
    """A Python that runs `script` with `words`, its input and output at pipes."""
    command = [sys.executable, "-c", script, *map(str, words)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ready(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    """The process once it has come to READY."""
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


def at_once(script: str, each: Sequence[Sequence[object]]) -> list[str]:
    """What processes print that run `script`, one for the words of `each`, all let go from its READY at the same moment."""
    processes = [started(script, *words) for words in each]
    for process in processes:
        ready(process)
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    told = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return told
