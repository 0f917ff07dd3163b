"""kill -9 at random moments: python -m tests.fuzz.kill --kills 200 --seed 0. What is continued must end as what was never disturbed."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from random import Random

if __package__ != "fuzz":  # python -m tests.fuzz.kill
    sys.path.insert(0, str(Path(__file__).parents[1]))

from test_kill import PROTOCOL, RECIPE

from fuzz import ours
from fuzz.harness import warm

WHERE = ("--protocol", "tiny.yaml", "--no-tracking", "--device", "cpu", "--runs", "r", "--json")
JOBS: dict[str, tuple[str, ...]] = {
    "run procedural": ("run", "procedural", *WHERE),
    "run cemiface": ("run", "cemiface", *WHERE),
    "run digiface": ("run", "digiface", *WHERE),
    "sweep of cemiface": ("sweep", "m", "--values", "-1,1", *WHERE),
}
TOLD = ("scores", "digests", "baseline", "skipped")  # of a run
SWEPT = ("points", "best", "statement")


class Job:
    """A command, and what it leaves when nobody disturbs it."""

    def __init__(self, name: str, root: Path) -> None:
        self.name, self.words, self.folder = name, JOBS[name], root / "here"
        self.clear()
        began = time.monotonic()
        code, out = self.run(None)
        if code:
            raise SystemExit(f"{name} ended with {code}: {(self.folder / 'err').read_text()[-2000:]}")
        self.took, self.wanted, self.files = time.monotonic() - began, self.result(out), self.left()
        self.clear()

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        (self.folder / "recipe.yaml").write_text(RECIPE)
        (self.folder / "tiny.yaml").write_text(PROTOCOL.replace("RECIPE", "recipe.yaml"))

    def run(self, seconds: float | None) -> tuple[int, str]:
        """(exit status, stdout) in a child; it is killed after so many seconds, and the status is then negative."""
        child = os.fork()
        if child == 0:
            code = 70
            try:
                os.chdir(self.folder)
                os.environ |= {"SYNTHBENCH_DATA": str(self.folder / "data"), "SYNTHBENCH_THREADS": "1"}
                os.dup2(os.open("err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
                from synthbench.training import loop

                loop.EVERY = 0.0  # checkpoints as often as possible, so that a kill leaves something to go on from
                code, out = ours.command(*self.words)
                (self.folder / "out").write_text(out)
            except BaseException as error:
                print(f"{error}", file=sys.stderr, flush=True)
            finally:
                os._exit(code)
        end = None if seconds is None else time.monotonic() + seconds
        while (found := os.waitpid(child, os.WNOHANG))[0] == 0:
            if end is not None and time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
                end = None
            time.sleep(0.002)
        code = os.waitstatus_to_exitcode(found[1])
        return code, (self.folder / "out").read_text() if code == 0 else ""

    def result(self, out: str) -> dict:
        found = json.loads(out)
        found = {name: found[name] for name in (*TOLD, *SWEPT) if name in found}
        return json.loads(json.dumps(found).replace(str(self.folder), ""))

    def left(self) -> int:
        """How many files lie in the runs folder, locks apart, and temporary files outside stages, which go when they are an hour old."""
        files = [path.relative_to(self.folder / "r") for path in (self.folder / "r").rglob("*") if path.is_file()]
        return sum(path.suffix != ".lock" and (path.suffix != ".tmp" or path.parts[0] == "stages") for path in files)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.kill", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="over all jobs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=list(JOBS), help="a job; repeatable")
    chosen = parser.parse_args()
    warm(["runs"])
    root, wrong, names = Path(tempfile.mkdtemp(prefix="kill-")), 0, chosen.only or list(JOBS)
    for name in names:
        job, random = Job(name, root), Random(f"{chosen.seed} {name}")
        kills = ends = since = 0
        stages: dict[str, int] = {}
        while kills < chosen.kills // len(names) or since:
            last = kills >= chosen.kills // len(names)
            code, out = job.run(None if last else random.uniform(0.02, 1.0) * job.took / random.choice((1, 2, 4)))
            if code == -signal.SIGKILL:
                kills, since = kills + 1, since + 1
                for folder in (job.folder / "r" / "stages").glob("*/*"):
                    if folder.is_dir() and not (folder / "manifest.json").exists():
                        stages[folder.parent.name] = stages.get(folder.parent.name, 0) + 1
                continue
            ends += 1
            differs = [part for part, value in job.wanted.items() if code or job.result(out)[part] != value]
            if code or differs or job.left() > job.files:
                wrong += 1
                print(f"{name}: status {code} after {since} kills, differs in {differs}, {job.left()} files where {job.files} are wanted; "
                      f"{(job.folder / 'err').read_text()[-1500:]}", flush=True)  # fmt: skip
            since = 0
            job.clear()
        print(f"{name}: {kills} kills, {ends} ends, undisturbed {job.took:.0f} s; begun when killed: {stages}", flush=True)
    print("all ends were equal" if not wrong else f"{wrong} ends were not")
    shutil.rmtree(root)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
