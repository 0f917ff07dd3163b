"""A case in a child process: what it may use and touch is limited, and what it did is told."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from synthbench.types import UserError

CPU = 10  # seconds of computing
WALL = 40.0  # seconds by the clock: a case may wait for a busy machine, not for ever
MEMORY = 2 * 2**30  # bytes in use at the worst moment, with all that is imported
ROOM = 6 * 2**30  # bytes of address space beyond what is imported: less than a case could do harm with
PROGRAMS = (
    "gs",
    "sh",
    "bash",
    "cmd",
    "python",
    "python3",
    "git",
    "open",
    "xdg-open",
    "convert",
    "dcraw",
    "cjpeg",
    "djpeg",
    "xv",
    "display",
)
FAILURES = ("traceback", "hang", "crash", "memory", "wrote", "started")


@dataclass(frozen=True)
class Outcome:
    """answered, refused (in a sentence), or one of FAILURES."""

    kind: str
    said: str = ""
    seconds: float = 0.0  # of computing
    peak: int = 0  # bytes

    @property
    def failed(self) -> bool:
        return self.kind in FAILURES


class Cage:
    """A folder with `case`, which a case may write to, and all around it things that must stay as they are."""

    def __init__(self, root: Path) -> None:
        self.root, self.case = root, root / "case"
        self.outside, self.marks = root / "outside", root / "marks"
        for folder in (self.outside / "deep", self.marks, root / "bin"):
            folder.mkdir(parents=True, exist_ok=True)
        for name in ("victim", "victim.png", "deep/victim", "manifest.json", "run.json", "packed.u8"):
            (self.outside / name).write_text(f"{name}: who changes this is caught")
        for name in PROGRAMS:
            program = root / "bin" / name
            program.write_text(f"#!/bin/sh\n: > {self.marks}/{name}\n")
            program.chmod(0o755)
        self.before = self._state()

    def clear(self) -> Path:
        """A fresh folder for a case."""
        shutil.rmtree(self.case, ignore_errors=True)
        (self.case / "tmp").mkdir(parents=True)
        return self.case

    def _state(self) -> dict[str, tuple[int, int] | None]:
        """All that lies around the case, with size and time; of folders neither: a look into them is no change."""
        found: dict[str, tuple[int, int] | None] = {}
        for top in sorted(entry for entry in os.listdir(self.root) if entry not in ("case", "base", "runs.jsonl")):
            for folder, folders, files in os.walk(self.root / top):
                found |= dict.fromkeys((os.path.join(folder, name) for name in folders), None)
                for name in files:
                    stat = os.lstat(os.path.join(folder, name))
                    found[os.path.join(folder, name)] = stat.st_size, stat.st_mtime_ns
        return found

    def run(self, read: Callable[[], object], work: int = 0) -> Outcome:
        """Call `read` in a child. `work`: seconds that it may compute besides: a run may train anew what was damaged."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _inside(read, self, writing, CPU + work)  # does not come back
        os.close(writing)
        told, late = _listen(reading, WALL + 6 * work)
        if late:
            os.kill(child, signal.SIGKILL)
        _, status, usage = os.wait4(child, 0)
        seconds, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
        kind, _, said = told.partition("\n")
        code = os.waitstatus_to_exitcode(status)
        if late or code in (-signal.SIGXCPU, -signal.SIGKILL):
            kind, said = "hang", f"more than {CPU + work} s of computing or {WALL + 6 * work:.0f} s by the clock"
        elif code != 0 or not kind:
            kind, said = "crash", f"exit status {code} {said}"
        elif peak > MEMORY:
            kind, said = "memory", f"{peak / 2**30:.1f} GiB; {said}"
        if marks := os.listdir(self.marks):
            kind, said = "started", ", ".join(marks)
            for name in marks:
                (self.marks / name).unlink()
        elif (now := self._state()) != self.before:
            kind, said = "wrote", ", ".join(sorted(name for name in {*now, *self.before} if now.get(name) != self.before.get(name)))
            self.before = now
        return Outcome(kind, said, seconds, peak)


def _listen(pipe: int, wall: float) -> tuple[str, bool]:
    """What the child says until it closes the pipe, and whether it was too late."""
    parts, end = [], time.monotonic() + wall
    with contextlib.closing(os.fdopen(pipe, "rb", buffering=0)) as file:
        while (left := end - time.monotonic()) > 0:
            if select.select([file], [], [], left)[0]:
                if not (part := file.read(1 << 16)):
                    return b"".join(parts).decode("utf-8", "replace"), False
                parts.append(part)
    return "", True


def _inside(read: Callable[[], object], cage: Cage, pipe: int, seconds: int) -> None:
    import resource

    said = b""
    try:
        null = os.open(os.devnull, os.O_RDWR)
        out = os.open(cage.case / "output", os.O_WRONLY | os.O_CREAT, 0o644)
        for old, new in ((0, null), (1, out), (2, out)):
            os.dup2(new, old)
        os.environ |= {"PATH": str(cage.root / "bin"), "TMPDIR": str(cage.case / "tmp"), "HOME": str(cage.case / "tmp")}
        os.environ |= {"SYNTHBENCH_DATA": str(cage.case / "data"), "SYNTHBENCH_THREADS": "1"}
        import tempfile

        tempfile.tempdir = str(cage.case / "tmp")
        os.chdir(cage.case)
        pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
        if pages:
            resource.setrlimit(resource.RLIMIT_AS, (pages + ROOM, pages + ROOM))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 2))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sys.addaudithook(_no_program)
        read()
        said = b"answered\n"
    except UserError as error:
        said = b"refused\n" + str(error).encode("utf-8", "backslashreplace")
    except Started as error:
        said = b"started\n" + str(error).encode("utf-8", "backslashreplace")
    except BaseException:
        said = b"traceback\n" + traceback.format_exc().encode("utf-8", "backslashreplace")[-4000:]
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        os.write(pipe, said)
        os._exit(0)


class Started(BaseException):
    """A case tried to start a program."""


def _no_program(event: str, arguments: tuple[object, ...]) -> None:
    if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "pty.spawn"):
        if event == "subprocess.Popen" and arguments[0] == sys.executable and "limits.answer()" in str(arguments[1]):
            return  # looks into a network, under limits of its own
        if event == "subprocess.Popen" and arguments[1] == ["uname", "-p"]:
            return  # `doctor` says what machine this is; Python asks so
        raise Started(f"{event} {arguments!r:.300}")
