"""Locks, and a machine without POSIX."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from synthbench import system

HOLD = "import sys, time; from pathlib import Path; from synthbench import system; lock = system.take(Path(sys.argv[1])); "
HOLD += "print('held', flush=True); time.sleep(60)"


@contextlib.contextmanager
def held_elsewhere(path: Path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout and process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


def test_one_has_a_lock_until_it_dies_and_what_the_file_holds_means_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    path.write_text("pid 1 on another machine")  # as earlier versions left it
    with held_elsewhere(path) as process:
        assert system.take(path) is None
        process.kill()
        process.wait(10)
        lock = system.take(path)
        assert lock is not None
        with lock:
            assert system.take(path) is None  # nor twice by one process
        with system.locked(path):
            pass


def test_who_waits_says_so_once_and_then_has_its_turn(tmp_path: Path) -> None:
    told: list[bool] = []
    with held_elsewhere(tmp_path / "a.lock") as process:
        end = threading.Timer(0.3, process.kill)

        def wait() -> None:
            told.append(process.poll() is None)
            end.start()

        with system.locked(tmp_path / "a.lock", wait):
            assert process.wait(10) and told == [True]
    with system.locked(tmp_path / "a.lock", wait):
        assert told == [True]


@pytest.mark.skipif(not hasattr(os, "setuid") or os.getuid() != 0, reason="only root can become somebody who may not write")
def test_a_folder_that_cannot_be_written_is_an_error_and_not_a_wait() -> None:
    code = """
import os, sys
from pathlib import Path
from synthbench import system
os.setuid(65534)
try:
    system.take(Path(sys.argv[1]))
except PermissionError as error:
    print(error.filename, error.strerror)
"""
    with tempfile.TemporaryDirectory() as folder:  # pytest's are closed to others
        Path(folder).chmod(0o755)
        done = subprocess.run([sys.executable, "-c", code, f"{folder}/a.lock"], capture_output=True, text=True, timeout=60)
        assert done.stdout.split() == [f"{folder}/a.lock", "Permission", "denied"], done.stderr
        assert not list(Path(folder).iterdir())


def test_a_dead_process_does_not_live() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert system.lives(os.getpid()) and not system.lives(process.pid)


@pytest.mark.slow
def test_everything_can_be_imported_and_a_stage_built_without_posix(tmp_path: Path) -> None:
    """As on Windows: no fcntl, no names of `os` and `signal` that only POSIX has."""
    code = """
import importlib, os, pkgutil, signal, sys, warnings
from pathlib import Path

POSIX = ("fcntl", "pwd", "grp", "resource", "termios")

def imported():
    import synthbench
    for module in pkgutil.walk_packages(synthbench.__path__, "synthbench."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

imported()  # other people's packages may know better where they are
for name in list(sys.modules):
    if name.split(".")[0] in (*POSIX, "filelock", "synthbench"):
        del sys.modules[name]
sys.modules.update(dict.fromkeys(POSIX))
for name in ("sched_getaffinity", "uname", "getuid", "killpg"):
    delattr(os, name)
del signal.SIGKILL
warnings.simplefilter("ignore")  # filelock's, that it has nothing better here than files that are there or not
imported()
from synthbench.device import set_threads
from synthbench.store import Store
set_threads()
with Store(Path(sys.argv[1])).stage("train", "k").building() as facts:
    assert facts is not None
assert Store(Path(sys.argv[1])).stage("train", "k").state == "cached"
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout == "fine\n", done.stderr
