"""Damaged and hostile files, a hundred of them (`python -m tests.fuzz`: thousands), and the cage that watches them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("cases run in forked children whose memory is read from /proc", allow_module_level=True)

from fuzz import foreign, ours

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


CAGED = """
import ctypes, json, os, subprocess, sys
from pathlib import Path
from fuzz import cage
from synthbench.types import UserError

def refuse(root):
    raise UserError("no")

def spin(root):
    while True:
        pass

READS = {
    "nothing": lambda root: 1,
    "refuse": refuse,
    "fault": lambda root: 1 / 0,
    "spin": spin,
    "abort": lambda root: os.abort(),
    "memory": lambda root: bytearray(b"x") * 2**29,
    "write": lambda root: (root / "outside" / "new").write_text("x"),
    "delete": lambda root: (root / "outside" / "victim").unlink(),
    "change": lambda root: (root / "outside" / "victim.png").write_text("other"),
    "program": lambda root: subprocess.run(["gs"]),
    "become": lambda root: os.execvp("gs", ["gs"]),
    "library": lambda root: ctypes.CDLL(None).system(b"gs -x"),  # not through Python: the canary on PATH is started, and leaves a mark
}
cage.CPU, root, found = 2, Path(sys.argv[1]), {}
kept = cage.Cage(root)
kept.clear()
cage.MEMORY = kept.run(lambda: None).peak + 2**27
for name, read in READS.items():
    outcome = kept.run(lambda: read(root))
    kept.clear()
    found[name] = outcome.kind, outcome.said, outcome.failed, kept.run(lambda: None).kind
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def caged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    """What the cage told of each read, and of a harmless one after it: in a fresh process, as its children are forks of that."""
    words = [sys.executable, "-c", CAGED, str(tmp_path_factory.mktemp("cage"))]
    done = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("read", "kind"),
    [
        ("nothing", "answered"),
        ("refuse", "refused"),
        ("fault", "traceback"),
        ("spin", "hang"),
        ("abort", "crash"),
        ("memory", "memory"),
        ("write", "wrote"),
        ("delete", "wrote"),
        ("change", "wrote"),
        ("program", "started"),
        ("become", "started"),
        ("library", "started"),
    ],
)
def test_the_cage_notices(caged: dict[str, list], read: str, kind: str) -> None:
    found, said, failed, after = caged[read]
    assert (found, failed, after) == (kind, kind not in ("answered", "refused"), "answered"), said
    assert read != "library" or said == "gs"
