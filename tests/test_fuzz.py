"""Damaged and hostile files, a hundred of them (`python -m tests.fuzz`: thousands), and the cage that watches them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("cases run in forked children whose memory is read from /proc", allow_module_level=True)

from fuzz import cage, foreign, ours

from synthbench.types import UserError

DEAR = {"onnx, spawned", "runs"}  # they need minutes before the first case


def test_a_hundred_damaged_files(tmp_path: Path) -> None:
    readers = [name for name in (*foreign.READERS, *ours.READERS) if name not in DEAR]
    words = [
        sys.executable,
        "-m",
        "fuzz",
        "--cases",
        "110",
        "--seed",
        "1",
        "--root",
        str(tmp_path),
        *(f"--only={name}" for name in readers),
    ]
    done = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def refuse(root: Path) -> None:
    raise UserError("no")


def write_outside(root: Path) -> None:
    (root / "outside" / "new").write_text("x")


def delete_outside(root: Path) -> None:
    (root / "outside" / "victim").unlink()


def change_outside(root: Path) -> None:
    (root / "outside" / "victim").write_text("other")


def spin(root: Path) -> None:
    while True:
        pass


def take_memory(root: Path) -> None:
    bytearray(b"x") * 2**29


@pytest.mark.parametrize(
    ("read", "kind"),
    [
        (lambda root: 1, "answered"),
        (refuse, "refused"),
        (lambda root: 1 / 0, "traceback"),
        (spin, "hang"),
        (lambda root: os.abort(), "crash"),
        (take_memory, "memory"),
        (write_outside, "wrote"),
        (delete_outside, "wrote"),
        (change_outside, "wrote"),
        (lambda root: subprocess.run(["gs"]), "started"),
        (lambda root: os.execvp("gs", ["gs"]), "started"),
    ],
)
def test_the_cage_notices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object], kind: str) -> None:
    monkeypatch.setattr(cage, "CPU", 2)
    kept = cage.Cage(tmp_path)
    kept.clear()
    monkeypatch.setattr(cage, "MEMORY", kept.run(lambda: None).peak + 2**27)  # beside what all the tests before hold in this process
    outcome = kept.run(lambda: read(tmp_path))
    assert outcome.kind == kind, outcome
    assert outcome.failed == (kind not in ("answered", "refused"))
    kept.clear()
    assert kept.run(lambda: None).kind == "answered"


def test_a_program_started_by_a_library_is_noticed(tmp_path: Path) -> None:
    """What does not go through Python: the canary on PATH is started instead, and leaves a mark."""
    import ctypes

    kept = cage.Cage(tmp_path)
    kept.clear()
    outcome = kept.run(lambda: ctypes.CDLL(None).system(b"gs -x"))
    assert (outcome.kind, outcome.said) == ("started", "gs")
