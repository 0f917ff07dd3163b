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
UNET = "{channels: 8, multipliers: [1, 2], attention_levels: [1], attention_width: 16, head_width: 8, groups: 4, skip_downsample_level: -1}"
SHORT = "steps: 30, batch_size: 6, precision: fp32"
ADVERSARIAL = "shape: {channel_base: 128, channel_max: 16, latent: 16, label_layers: 1}"
SMALL = f"""
  dcface:
    train: {{unet: {UNET}, {SHORT}, width: 10, grid: 2, unconditional: {{unet: {UNET}, {SHORT}}}}}
    enroll: {{threshold: 1, novelty: 1, sampler: {{steps: 2}}}}
    sample: {{steps: 2, copies: 1}}
  idiffface:
    train:
      autoencoder: {{channels: [8, 16], layers: 1, latents: 4, groups: 4, warmup: 0, {SHORT}}}
      unet: {{channels: 8, multipliers: [1, 2], layers: 1, attention_levels: [1], head_width: 4, groups: 4, components: 8, tokens: 3}}
      pixels: 0
      steps: 30
      batch_size: 6
      precision: fp32
    sample: {{steps: 2}}
  vigface:
    train:
      recognizer: {{backbone: {{family: small, width: 8}}, dim: 16, margin: 0.2, scale: 16, epochs: 12, batch_size: 12, schedule: cosine}}
      virtual: 20
      collapse: 1
      vit: {{width: 16, depth: 2, heads: 2, patch: 4}}
      steps: 30
      batch_size: 6
      precision: fp32
    sample: {{steps: 2}}
  vec2face:
    train: {{perceptual: encoder, discriminator_channels: 8, {SHORT},
             network: {{width: 16, depth: 1, heads: 2, decoder_depth: 1, decoder_heads: 2, latent: 8, channels: 8, multipliers: [1, 2, 2],
                       blocks: 1, groups: 4}}}}
    enroll: {{threshold: 1, attrop_steps: 2}}
  sface:
    train: {{{ADVERSARIAL}, code: 8, {SHORT}}}
  synface:
    train: {{{ADVERSARIAL}, identity: 4, attributes: 3, {SHORT}}}
"""
MADE = ("procedural", "cemiface", "digiface", "dcface", "idiffface", "vigface", "vec2face", "sface", "synface")
THRESHOLDS = (  # of fifteen comparisons between six people no rate can be told
    *("--set", "sample.image_fmr=null", "--set", "sample.image_cosine=-1"),
    *("--set", "sample.people_fmr=null", "--set", "sample.people_cosine=0.999"),
)
JOBS: dict[str, tuple[str, ...]] = {
    **{f"run {name}": ("run", name, *WHERE) for name in MADE},
    "run union": ("run", "union", "--volume", "all", "--set", "sample.parts=[procedural, digiface]", *WHERE),
    "run cleaned": ("run", "cleaned", "--volume", "all", "--set", "sample.of=procedural@4x4", *THRESHOLDS, *WHERE),
    "sweep of cemiface": ("sweep", "m", "--values", "-1,1", *WHERE),
    "ledger of a sweep": ("sweep", "m", "--values", "-1,-0.5,0,0.5,1", *WHERE),  # its points are there: what is killed is the sweep itself
}
TOLD = ("scores", "digests", "baseline", "skipped")  # of a run
SWEPT = ("points", "best", "statement")


class Job:
    """A command, and what it leaves when nobody disturbs it."""

    def __init__(self, name: str, root: Path) -> None:
        self.name, self.words, self.folder, self.before = name, JOBS[name], root / "here", root / "before"
        shutil.rmtree(self.before, ignore_errors=True)
        self.undisturbed()
        if name.startswith("ledger"):
            shutil.rmtree(self.folder / "r" / "sweeps")
            shutil.move(self.folder / "r", self.before)
            self.undisturbed()
        self.clear()

    def undisturbed(self) -> None:
        self.clear()
        began = time.monotonic()
        code, out = self.run(None)
        if code:
            raise SystemExit(f"{self.name} ended with {code}: {(self.folder / 'err').read_text()[-2000:]}")
        self.took, self.wanted, self.files = time.monotonic() - began, self.result(out), self.left()

    def clear(self) -> None:
        """The folder as it is before the command; the runs that are there, if any."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        if self.before.exists():
            shutil.copytree(self.before, self.folder / "r")
        (self.folder / "recipe.yaml").write_text(RECIPE)
        (self.folder / "tiny.yaml").write_text(PROTOCOL.replace("RECIPE", "recipe.yaml") + SMALL)

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

    def left(self) -> set[str]:
        """The files of the runs folder, locks apart, and temporary files outside stages, which go when they are an hour old."""
        files = [path.relative_to(self.folder / "r") for path in (self.folder / "r").rglob("*") if path.is_file()]
        return {str(path) for path in files if path.suffix != ".lock" and (path.suffix != ".tmp" or path.parts[0] == "stages")}


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
            if code or differs or len(left := job.left()) > len(job.files):
                wrong += 1
                more = "" if code or differs else f", left over {sorted(left - job.files)}"
                print(f"{name}: status {code} after {since} kills, differs in {differs}{more}; {(job.folder / 'err').read_text()[-1500:]}",
                      flush=True)  # fmt: skip
            since = 0
            job.clear()
        print(f"{name}: {kills} kills, {ends} ends, undisturbed {job.took:.0f} s; begun when killed: {stages}", flush=True)
    print("all ends were equal" if not wrong else f"{wrong} ends were not")
    shutil.rmtree(root)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
