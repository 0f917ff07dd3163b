"""Sweeps: words to settings and values; resumed, shared and damaged studies; one training for a sweep over sampling."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import optuna
import pytest
from fake_protocol import write_protocol

from synthbench import sweep
from synthbench.config import Layer
from synthbench.data.faces import open_faces
from synthbench.generators.cemiface import CemiFace
from synthbench.pipeline import run
from synthbench.pipeline.run import run as real_run
from synthbench.protocol import load_protocol
from synthbench.results import comparable
from synthbench.results.comparison import Entry
from synthbench.store import read_json
from synthbench.sweep import curve, settings, statement, trials, work
from synthbench.sweep.shape import joint
from synthbench.types import UserError

PLUGIN = '''
"""A generator that trains."""
import os, time, torch
from synthbench.config import Settings
from synthbench.plugin import Generator, Traits
from synthbench.seeds import torch_generator
from synthbench.types import FaceBatch

class Train(Settings):
    similarity_weight: float = 0.05
    steps: int = 2

class Sample(Settings):
    m: float | tuple[float, ...] = 0.0
    steps: int = 3
    spread: str = "wide"

class Config(Settings):
    train: Train = Train()
    sample: Sample = Sample()

class Mine(Generator[Config]):
    """Colour and noise."""
    Config = Config
    traits = Traits(trains=True)

    def train(self, context):
        (context.out / "weights").write_text(str(self.config.train.steps))

    def generate(self, slots, context):
        m = self.config.sample.m
        if m == 0.666:
            raise RuntimeError("this value breaks it")
        while os.path.exists("hold") and m == 0.5:
            time.sleep(0.05)
        r = context.resolution
        for slot in slots:
            noise = torch.randn(1, 3, r, r, generator=torch_generator(context.seed, "image", *slot))
            image = 128 + 20 * slot.identity + 30 * noise
            yield FaceBatch(image.clamp(0, 255).to(torch.uint8), torch.tensor([slot.identity]))
'''


@pytest.fixture
def here(here: Path) -> Path:
    """A working directory with protocol tiny.yaml and plugin mine.py."""
    (here / "mine.py").write_text(PLUGIN)
    return here


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stages of the real run, made once: they are part of every run of the protocol."""
    folder = tmp_path_factory.mktemp("prepared")
    write_protocol(folder)
    before = Path.cwd()
    os.chdir(folder)
    real_run(run.Request("real", Path("runs"), protocol="tiny.yaml", tracking=False))
    os.chdir(before)
    return folder / "runs"


def request(**options) -> sweep.Request:
    about = {"parameters": ("m",), "runs": Path("runs"), "generator": "mine.py", "protocol": "tiny.yaml", "tracking": False}
    return sweep.Request(**{**about, **options})


def journal(made: dict) -> list:
    path = f"runs/sweeps/{made['sweep']}/study.journal"
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(path))
    return optuna.load_study(study_name=made["sweep"], storage=storage).trials


class Fabricated:
    """In place of `run.run`: results at once, AVG by a formula of the settings. `calls`: the requests.

    `learns`: validation accuracy after a share of the training, by a formula of the settings and the share.
    """

    def __init__(self, root: Path, formula, learns=None) -> None:
        self.root, self.formula, self.learns, self.calls = root, formula, learns, []

    def __call__(self, wish, watch=None):
        self.calls.append(wish)
        values = {key: json.loads(value) for key, _, value in (text.partition("=") for text in wish.settings)}
        for seed, epoch in itertools.product(range(wish.seeds), (1, 2, 3, 4)) if watch else ():
            watch(seed, epoch, self.learns(values, epoch / 4))
        found = self.formula(values)
        if isinstance(found, Exception):
            raise found
        name = f"r{abs(hash((wish.settings, wish.seeds, wish.volume)))}"
        scores = [
            {
                "metric": f"verification/{part}/accuracy",
                "value": found + seed,
                "stderr": 1.0,
                "n": 100,
                "higher_is_better": True,
                "seed": seed,
            }
            for seed in range(wish.seeds)
            for part in ("world-mixed", "avg")
        ]
        stages = [{"name": "evaluate", "key": f"{name}-{i}", "state": "run", "seconds": 0} for i in range(wish.seeds)]
        folder = self.root / "results" / name
        folder.mkdir(parents=True, exist_ok=True)
        result = {
            "run": name, "generator": "mine", "volume": wish.volume or "6x4", "protocol": "tiny", "seeds": list(range(wish.seeds)),
            "scores": scores, "skipped": [], "stages": stages, "baseline": None,
            "artifacts": {"folder": str(folder), "samples": str(folder / "samples.png"), "faces": str(folder / "faces")},
        }  # fmt: skip
        (folder / "run.json").write_text(json.dumps(result))
        return result


@pytest.fixture
def fabricated(here: Path, monkeypatch: pytest.MonkeyPatch):
    def make(formula, learns=None) -> Fabricated:
        made = Fabricated(here / "runs", formula, learns)
        monkeypatch.setattr(work.run, "run", made)
        return made

    return make


# ---------------------------------------------------------------------------------------------------- settings and values


@pytest.mark.parametrize(
    ("word", "path"),
    [("m", "sample.m"), ("lambda", "train.similarity_weight"), ("sample.steps", "sample.steps"), ("unet.channels", "train.unet.channels")],
)
def test_a_word_finds_its_setting(word: str, path: str) -> None:
    assert settings.resolve(word, CemiFace.Config, "cemiface") == path


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("steps", "ambiguous: train.steps, sample.steps"),
        ("similarity_wieght", "did you mean train.similarity_weight"),
        ("speed", "cemiface has no setting 'speed'; it has [0-9]+ in train, enroll, sample: synthbench show cemiface$"),
        ("train", "no setting 'train'"),
    ],
)
def test_a_word_that_is_no_setting_lists_the_candidates(word: str, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        settings.resolve(word, CemiFace.Config, "cemiface")


def axes(words, values=(), ranges=(), search=False):
    return settings.read_axes(words, values, ranges, search, CemiFace.Config, "cemiface")


def test_values() -> None:
    assert axes(["m"], ["0, .5,-1e-1"])[0].values == (0, 0.5, -0.1)
    assert axes(["m"], ["0,-0.1:0.1,[0, 0.5]"])[0].values == (0, {"low": -0.1, "high": 0.1}, [0, 0.5])
    assert axes(["m"], (), ["-1:1:0.5"])[0].values == (-1, -0.5, 0, 0.5, 1)
    assert axes(["m"], (), ["0:1:0.1"])[0].values == (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
    assert axes(["norm"], ["squared,batch"])[0].values == ("squared", "batch")
    both = axes(["m", "sample.steps"], ["sample.steps=5,10"], ["m=0:1:1"])
    assert [axis.values for axis in both] == [(0, 1), (5, 10)]
    assert [axis.values for axis in axes(["m", "sample.steps"], ["0,1", "5,10"])] == [(0, 1), (5, 10)]
    m, weight = axes(["m", "lambda"])
    assert len(m.values) == 9 and m.values[:2] == (1.0, 0.75) and m.values[4] == 0 and weight.values == (0.01, 0.05, 0.1, 0.5)
    ends = axes(["m"], (), ["-1:1"], search=True)[0]
    assert (ends.low, ends.high, ends.values) == (-1, 1, ())


@pytest.mark.parametrize(
    ("words", "values", "ranges", "message"),
    [
        (["eta"], (), (), "say which values sample.eta takes"),
        (["m"], [""], (), "no values"),
        (["m"], ["[1"], (), "expected values divided by commas"),
        (["m"], ["0,1", "2"], (), "given twice"),
        (["m"], ["0"], ["0:1:1"], "given twice"),
        (["m"], (), ["1:0:0.1"], "must be below"),
        (["m"], (), ["0:1:0"], "step above 0"),
        (["m"], (), ["0:1"], "a grid needs a step, such as 0:1:0.1"),
        (["m"], (), ["a:b:c"], "expected a:b:step"),
        (["m"], (), ["0:inf:1"], "expected a:b:step"),
        (["m"], (), ["0:1:1e-9"], "1,000,000,001 values"),
        (["m", "eta"], ["0,1"], (), "say whose values these are: --values m=0,1"),
        (["m"], ["eta=0,1"], (), "sample.eta is not swept here"),
        (["m", "sample.m"], (), (), "named twice"),
    ],
)
def test_values_that_are_refused(words, values, ranges, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("+", r"\+")):
        axes(words, values, ranges)


def test_points_are_checked_and_written_as_the_config_writes_them() -> None:
    protocol = load_protocol("demo")
    found, points = settings.canonical(axes(["m"], ["0,0.0,-0.1:0.1"]), "cemiface", protocol, Layer())
    assert points == [{"sample.m": 0.0}, {"sample.m": {"low": -0.1, "high": 0.1}}] and len(found[0].values) == 2
    assert settings.texts(points[1]) == ('sample.m={"low": -0.1, "high": 0.1}',)
    with pytest.raises(UserError, match=r"--values 0,7: sample.m = 7: m is a cosine similarity"):
        settings.canonical(axes(["m"], ["0,7"]), "cemiface", protocol, Layer())
    with pytest.raises(UserError, match=r"--range 10:5000:10: .*sample.steps 5000 is more than|sample.steps"):
        settings.canonical(axes(["sample.steps"], (), ["10:5000:10"]), "cemiface", protocol, Layer())


# -------------------------------------------------------------------------------------------------------------- for real


def test_a_sweep_over_m_trains_the_generator_once(here: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(prepared, here / "runs")
    states: dict[str, list[str]] = {}

    def spied(wish, watch=None):
        result = real_run(wish, watch)
        for row in result["stages"]:
            states.setdefault(row["name"], []).append(row["state"])
        return result

    monkeypatch.setattr(work.run, "run", spied)
    made = sweep.sweep(request(values=("0,0.5,1",)))
    assert states["train"] == ["run", "cached", "cached"]
    assert states["generate"].count("run") == 3
    assert [point["values"] for point in made["points"]] == [{"sample.m": 0.0}, {"sample.m": 0.5}, {"sample.m": 1.0}]
    assert {point["state"] for point in made["points"]} == {"complete"} and made["unfinished"] == 0
    assert len([path for path in (here / "runs/stages/train").iterdir() if path.is_dir()]) == 1
    folder = here / "runs/sweeps" / made["sweep"]
    assert read_json(folder / "sweep.json") == made
    assert (folder / "curve.png").stat().st_size > 10_000 and "<svg" in (folder / "curve.svg").read_text()
    assert len((folder / "table.csv").read_text().splitlines()) == 1 + 3 * 5  # one benchmark, AVG, gap, two of separability
    cell = made["points"][0]["scores"]["verification/avg/accuracy"]
    assert cell["low"] < cell["value"] < cell["high"] and cell["n"] == 1 and cell["seed_std"] is None
    assert "n = 1 seed" in made["statement"]

    states.clear()
    again = sweep.sweep(request(values=("0,0.5,1",)))
    assert states == {} and again["points"] == made["points"]  # finished points are not asked for again
    assert [trial.state.name for trial in journal(made)] == ["COMPLETE"] * 3
    weights = sweep.sweep(request(parameters=("lambda",), values=("0.1,0.2",)))
    assert states["train"] == ["run", "run"] and weights["sweep"] != made["sweep"]


@pytest.mark.slow
def test_killed_in_the_middle_it_continues(here: Path, prepared: Path) -> None:
    """kill -9 while a point is worked on: Optuna's dead trial is told FAIL, its point done again, finished ones are kept."""
    shutil.copytree(prepared, here / "runs")
    command = "from synthbench.cli import main; main()"
    words = ["sweep", "m", "--generator", "mine.py", "--values", "0,0.5,1", "--protocol", "tiny.yaml", "--no-tracking"]
    (here / "hold").touch()
    process = subprocess.Popen([sys.executable, "-c", command, *words], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        lines = iter(process.stderr.readline, "")
        assert any("m = 0.5" in line for line in lines)  # it holds there, until it is killed
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    (here / "hold").unlink()
    before = read_json(next((here / "runs/sweeps").glob("*/sweep.json")))
    assert len(before["points"]) == 1 and before["unfinished"] == 2 and before["statement"].startswith("So far, with 1 of 3")
    assert [trial.state.name for trial in journal(before)] == ["COMPLETE", "RUNNING", "WAITING"]
    made = sweep.sweep(request(values=("0,0.5,1",)))
    assert made["sweep"] == before["sweep"]
    assert [trial.state.name for trial in journal(made)] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert [point["state"] for point in made["points"]] == ["complete"] * 3
    assert made["points"][0] == before["points"][0]


# ----------------------------------------------------------------------------------------------------------- the ledger


def test_a_point_that_fails_is_named_and_tried_again_by_the_next_command(fabricated, capsys) -> None:
    answers = {0.0: 80.0, 0.5: RuntimeError("this value breaks it"), 1.0: 82.0}
    calls = fabricated(lambda values: answers[values["sample.m"]]).calls
    made = sweep.sweep(request(values=("0,0.5,1",)))
    assert [point["state"] for point in made["points"]] == ["complete", "failed", "complete"]
    assert made["points"][1]["error"] == "RuntimeError: this value breaks it" and made["best"] == 2
    log = next(Path("runs/sweeps").glob("*/trials/*.log")).read_text()
    assert "Traceback" in log and "m = 0.5 failed: RuntimeError: this value breaks it" in capsys.readouterr().err
    assert len(calls) == 3
    answers[0.5] = 90.0
    made = sweep.sweep(request(values=("0,0.5,1",)))
    assert len(calls) == 4 and made["best"] == 1 and made["unfinished"] == 0


def test_when_nothing_works_the_reason_is_told(fabricated) -> None:
    fabricated(lambda values: UserError("the images carry no signal"))
    with pytest.raises(UserError, match="no point was finished; the first failed with: the images carry no signal"):
        sweep.sweep(request(values=("0,1",)))


def test_ctrl_c_puts_the_point_back(fabricated, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = fabricated(lambda values: 80.0)

    def stop(wish, watch=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(work.run, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        sweep.sweep(request(values=("0,1",)))
    monkeypatch.setattr(work.run, "run", fake)
    made = sweep.sweep(request(values=("0,1",)))
    assert [trial.state.name for trial in journal(made)] == ["FAIL", "COMPLETE", "COMPLETE"]


def test_a_run_that_is_lost_is_named_and_made_again(fabricated, capsys) -> None:
    calls = fabricated(lambda values: 80.0 + values["sample.m"]).calls
    made = sweep.sweep(request(values=("0,1",)))
    lost = made["points"][1]["runs"][0]
    Path(f"runs/results/{lost}/run.json").write_text('{"run": "half')
    made = sweep.sweep(request(values=("0,1",)))
    assert f"run {lost} of m = 1 is missing or not whole" in capsys.readouterr().err
    assert len(calls) == 3 and [point["state"] for point in made["points"]] == ["complete"] * 2


@pytest.mark.parametrize("damage", ["garbage\n", '{"op_code": 99}\n', "[1]\n", '{"op_code"\n{}\n'])
def test_a_damaged_journal_is_set_aside_and_named(fabricated, capsys, damage: str) -> None:
    fabricated(lambda values: 80.0)
    made = sweep.sweep(request(values=("0,1",)))
    path = Path(f"runs/sweeps/{made['sweep']}/study.journal")
    path.write_text(path.read_text()[:400] + damage + damage)
    again = sweep.sweep(request(values=("0,1",)))
    assert "is damaged" in capsys.readouterr().err and [point["state"] for point in again["points"]] == ["complete"] * 2
    assert list(path.parent.glob("study.journal.damaged-*"))


def test_a_journal_cut_short_by_a_kill_is_mended(fabricated) -> None:
    fabricated(lambda values: 80.0)
    made = sweep.sweep(request(values=("0,1",)))
    path = Path(f"runs/sweeps/{made['sweep']}/study.journal")
    path.write_bytes(path.read_bytes()[:-7])
    assert [point["state"] for point in sweep.sweep(request(values=("0,1",)))["points"]] == ["complete"] * 2
    assert [point["state"] for point in sweep.sweep(request(values=("0,1",)))["points"]] == ["complete"] * 2
    assert not list(path.parent.glob("study.journal.damaged-*"))


def test_a_name_belongs_to_one_design(fabricated) -> None:
    fabricated(lambda values: 80.0)
    sweep.sweep(request(values=("0,1",), name="mine"))
    with pytest.raises(UserError, match="sweep mine was begun with other axes, seeds; take another --name"):
        sweep.sweep(request(values=("0,0.5,1",), name="mine", seeds=2))
    with pytest.raises(UserError, match="it names a folder"):
        sweep.sweep(request(values=("0,1",), name="../mine"))
    with pytest.raises(UserError, match=r"sample.m is swept and also given by --set"):
        sweep.sweep(request(values=("0,1",), settings=("sample.m=1",)))


def test_two_settings_make_a_grid(fabricated) -> None:
    calls = fabricated(lambda values: 80.0 + values["sample.m"] - values["sample.steps"]).calls
    made = sweep.sweep(request(parameters=("m", "sample.steps"), values=("m=0,1", "sample.steps=2,4")))
    assert [tuple(point["values"].values()) for point in made["points"]] == [(0, 2), (0, 4), (1, 2), (1, 4)]
    assert made["best"] == 2 and calls[0].settings == ("sample.m=0.0", "sample.steps=2")
    assert next(trial.params for trial in journal(made)) == {"sample.m": 0.0, "sample.steps": 2}


@pytest.mark.parametrize("sampler", ["tpe", pytest.param("gp", marks=pytest.mark.slow)])
def test_a_search_finds_the_top_and_continues(fabricated, sampler: str) -> None:
    calls = fabricated(lambda values: 80.0 - 10 * (values["sample.m"] - 0.3) ** 2).calls
    made = sweep.sweep(request(ranges=("-1:1",), sampler=sampler, trials=4))
    assert len(made["points"]) == len(calls) == 4
    made = sweep.sweep(request(ranges=("-1:1",), sampler=sampler, trials=12))
    assert len(calls) == 12 and made["unfinished"] == 0
    best = made["points"][made["best"]]["values"]["sample.m"]
    assert abs(best - 0.3) < 0.3
    assert f"{sampler} chose the points by their scores" in made["statement"]
    assert len({point["values"]["sample.m"] for point in made["points"]}) == 12


PRUNED = {"values": ("0,0.25,0.5,0.75,1",), "prune": True}


def learns(values, share):
    """m = 0.75 learns nothing, m = 1 most."""
    return {0.75: 50.0, 1.0: 60 + 30 * share}.get(values["sample.m"], 60 + 20 * share)


def test_a_point_that_learns_nothing_is_given_up_and_the_best_is_not(fabricated, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(trials, "_epochs", lambda made: 4)
    calls = fabricated(lambda values: 80.0 + values["sample.m"], learns).calls
    made = sweep.sweep(request(**PRUNED, seeds=2))
    assert [point["state"] for point in made["points"]] == ["complete", "complete", "complete", "pruned", "complete"] and made["best"] == 4
    lost = made["points"][3]
    assert lost["scores"] == {} and lost["runs"] == [] and lost["validation"] == {"accuracy": 50, "seed": 0, "epoch": 1, "epochs": 4}
    assert "1 point was given up while training, by validation accuracy" in made["statement"] and "So far" not in made["statement"]
    assert made["unfinished"] == 0 and "m = 0.75: given up, validation accuracy 50.0 % after 1 of 4 epochs" in capsys.readouterr().err
    sweep.print_table(made)
    assert "50.0 % at epoch 1 of 4" in capsys.readouterr().out
    folder = Path("runs/sweeps") / made["sweep"]
    assert [line for line in (folder / "table.csv").read_text().splitlines() if "pruned" in line] == [
        "0.75,pruned,,validation/accuracy,50.0"
    ]
    assert "given up: last validation" in (folder / "curve.svg").read_text()
    found = journal(made)
    assert found[0].intermediate_values == {seed * 4 + epoch: 60 + 5 * epoch for seed in (0, 1) for epoch in (1, 2, 3, 4)}
    assert len(calls) == 5 and sweep.sweep(request(**PRUNED, seeds=2))["points"] == made["points"] and len(calls) == 5


def test_nothing_is_given_up_before_some_points_are_finished_nor_at_the_end(fabricated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "_epochs", lambda made: 4)
    fabricated(lambda values: 80.0, lambda values, share: 60 - 10 * (share == 1) * values["sample.m"])
    made = sweep.sweep(request(**PRUNED))  # worse at the last epoch only, when there is nothing left to save
    assert {point["state"] for point in made["points"]} == {"complete"}
    fabricated(lambda values: 80.0, lambda values, share: 60 - values["sample.steps"])
    made = sweep.sweep(request(parameters=("sample.steps",), values=("1,2,3",), prune=True))
    assert [point["state"] for point in made["points"]] == ["complete", "complete", "pruned"]


def test_pruning_needs_people_that_the_recognizer_does_not_know(here: Path) -> None:
    with pytest.raises(UserError, match="--prune: similarity_groups shows the people of the real set"):
        sweep.sweep(request(parameters=("group",), values=("1,2",), generator="similarity_groups", prune=True))
    with pytest.raises(UserError, match="--prune: cemiface shows the people of the real set"):
        sweep.sweep(request(generator="cemiface", settings=("enroll.source=real",), values=("0,1",), prune=True))


def test_a_point_that_was_given_up_is_finished_later_as_if_nothing_had_been(here: Path, prepared: Path) -> None:
    """The same keys, the same weights; and a training that was stopped tells the same accuracies again."""
    for name in ("runs", "quiet"):
        shutil.copytree(prepared, here / name)
    told: list[tuple[int, int, float]] = []

    def watch(*news) -> None:
        told.append(news)
        if len(told) == 1:
            raise trials.Pruned("enough")

    wish = run.Request("mine.py", Path("runs"), protocol="tiny.yaml", tracking=False)
    with pytest.raises(trials.Pruned):
        real_run(wish, watch)
    stopped = next(path.parent for path in Path("runs/stages/recognizer").glob("*/validation.json"))
    assert not (stopped / "manifest.json").exists()
    watched = real_run(wish, watch)
    assert [news[:2] for news in told] == [(0, 1), (0, 1), (0, 2)] and told[0] == told[1]
    quiet = real_run(dataclasses.replace(wish, runs=Path("quiet")))
    assert [row["key"] for row in watched["stages"]] == [row["key"] for row in quiet["stages"]]
    assert watched["scores"] == quiet["scores"]
    same = [Path(name) / "stages/recognizer" / stopped.name / "weights.safetensors" for name in ("runs", "quiet")]
    assert same[0].read_bytes() == same[1].read_bytes()
    assert real_run(wish, watch)["scores"] == watched["scores"] and len(told) == 3  # cached: there is nothing to tell


def test_the_best_points_are_confirmed_with_more_seeds(fabricated) -> None:
    calls = fabricated(lambda values: 80.0 + values["sample.m"]).calls
    made = sweep.sweep(request(values=("0,0.5,1",), confirm=2, confirm_seeds=4))
    assert [row["values"]["sample.m"] for row in made["confirmed"]] == [1, 0.5]
    assert [wish.seeds for wish in calls] == [1, 1, 1, 4, 4] and made["best"] == 2
    assert made["confirmed"][0]["fresh"] == pytest.approx(81 + 2)  # the mean of seeds 1, 2, 3
    assert "83.00 % over the 3 new runs, which had no part in choosing it" in made["statement"]
    larger = sweep.sweep(request(values=("0,0.5,1",), confirm=1, confirm_volume="8x3"))
    assert larger["confirmed"][0]["volume"] == "8x3" and larger["confirmed"][0]["seeds"] == [0, 1, 2]


def test_a_trial_of_a_living_process_is_left_alone(here: Path, fabricated) -> None:
    fabricated(lambda values: 80.0)
    made = sweep.design(request(values=("0,1",)))
    made.begin()
    study = trials.open_study(made)
    trials.fill(made, study, time.time())
    trial, lock = trials.begin(made, study)
    trials.bury(made, study)
    assert trials.busy(made, study) == 1 and study.trials[trial.number].state.name == "RUNNING"
    lock.lock.release()  # what the system does when a process dies
    trials.bury(made, study)
    assert study.trials[trial.number].state.name == "FAIL" and trials.busy(made, study) == 0
    assert [study.trials[i].state.name for i in range(3)] == ["FAIL", "WAITING", "WAITING"]


@pytest.mark.long
def test_several_processes_share_the_points(here: Path, prepared: Path) -> None:
    shutil.copytree(prepared, here / "runs")
    made = sweep.sweep(request(values=("0,0.25,1",), jobs=2))
    assert [point["state"] for point in made["points"]] == ["complete"] * 3
    found = journal(made)
    assert [trial.state.name for trial in found] == ["COMPLETE"] * 3
    assert len({trial.user_attrs["pid"] for trial in found}) == 2 and os.getpid() not in {trial.user_attrs["pid"] for trial in found}
    assert len([path for path in (here / "runs/stages/train").iterdir() if path.is_dir()]) == 1


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, here: Path) -> str:
    """The URL of a database. PostgreSQL needs a server: SYNTHBENCH_TEST_POSTGRESQL=postgresql://user:password@host/database."""
    if request.param == "sqlite":
        return "sqlite:///study.db"
    return trials.with_driver(os.environ.get("SYNTHBENCH_TEST_POSTGRESQL") or pytest.skip("SYNTHBENCH_TEST_POSTGRESQL names no server"))


def test_a_database_holds_the_study(fabricated, database: str) -> None:
    calls = fabricated(lambda values: 80.0 + values["sample.m"]).calls
    wish = request(values=("0,0.5,1",), storage=database, name=f"test-{uuid.uuid4().hex}")
    made = sweep.design(wish)
    made.begin()
    study = trials.open_study(made)
    try:
        trials.fill(made, study, time.time())
        with trials.begin(made, study)[1]:
            pass  # as when a process dies
        swept = sweep.sweep(wish)
        assert [trial.state.name for trial in study.get_trials()] == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
        assert sweep.sweep(wish)["points"] == swept["points"] and len(calls) == 3
        assert not list(made.folder.glob("study.journal*"))
    finally:
        optuna.delete_study(study_name=made.name, storage=database)


@pytest.mark.slow
def test_several_processes_share_a_database(here: Path, prepared: Path, database: str) -> None:
    shutil.copytree(prepared, here / "runs")
    name = f"test-{uuid.uuid4().hex}"
    try:
        made = sweep.sweep(request(values=("0,0.25,1",), jobs=2, storage=database, name=name))
        found = optuna.load_study(study_name=name, storage=database).trials
        assert [trial.state.name for trial in found] == ["COMPLETE"] * 3 and os.getpid() not in {item.user_attrs["pid"] for item in found}
        assert [point["state"] for point in made["points"]] == ["complete"] * 3
    finally:
        optuna.delete_study(study_name=name, storage=database)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense://user:secret@host/db", r"--storage nonsense://\*\*\*@host/db cannot be used"),
        ("sqlite:///no/such/folder/study.db", "cannot be used: .*unable to open database file"),
        ("postgresql+absent://user:se/cr@et@host/db?password=secret", r"--storage postgresql\+absent://\*\*\*@host/db\?password=\*\*\* "),
    ],
)
def test_a_database_that_cannot_be_used(fabricated, url: str, message: str) -> None:
    fabricated(lambda values: 80.0)
    with pytest.raises(UserError, match=message) as found:
        sweep.sweep(request(values=("0,1",), storage=url))
    assert "secret" not in str(found.value) and "se/cr" not in str(found.value)


def test_a_database_that_stops_answering_is_named(fabricated) -> None:
    def drop(values):
        Path("study.db").write_bytes(b"")
        return 80.0

    fabricated(drop)
    with pytest.raises(
        UserError, match=r"--storage sqlite:///study.db does not answer any more: .*no such table.*The same command goes on"
    ):
        sweep.sweep(request(values=("0,1",), storage="sqlite:///study.db"))


def test_a_missing_driver_is_named(fabricated, monkeypatch: pytest.MonkeyPatch) -> None:
    fabricated(lambda values: 80.0)
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(UserError, match=r"driver is not installed \(for PostgreSQL: .*-m pip install 'synthbench\[postgresql\]'\)"):
        sweep.sweep(request(values=("0,1",), storage="postgres://user:secret@host/db"))


# ------------------------------------------------------------------------------------------------------------ statements


def said(means, xs=None, seeds: int = 3, name: str = "sample.m") -> str:
    from test_shape import simulate

    found = joint(*simulate(means, seeds, seed_std=0.005 if seeds > 1 else 0.0))
    xs = np.linspace(-1, 1, len(means)) if xs is None else xs
    values = [{name: x if isinstance(x, (dict, str)) else float(x)} for x in xs]
    cells = [{"value": float(value), "low": float(value) - 1, "high": float(value) + 1} for value in found.values]
    points = [statement.Point(*pair) for pair in zip(values, cells)]
    return statement.statement(points, found, [], len(points), request(seeds=seeds))


def test_what_curves_say() -> None:
    x = np.linspace(-1, 1, 9)
    inverted = said(0.85 - 0.1 * x**2)
    assert inverted.startswith("AVG has an interior optimum over m") and "n = 3 seeds" in inverted and "A parabola" in inverted
    assert " over m = -1 and +" in inverted and "Holm over 8 claims" in inverted
    rising = said(0.8 + 0.08 * x)
    assert rising.startswith("AVG is rising with m") and "an interior optimum is not shown" in rising
    flat = said(0.8 + 0 * x)
    assert flat.startswith("No dependence of AVG on m is shown") and "would have been found with probability 80 %" in flat
    assert "about these networks only" in said(0.8 + 0 * x, seeds=1)


def test_points_in_any_order_say_the_same() -> None:
    x = np.array([1, -1, 0, 0.5, -0.5])
    text = said(0.85 - 0.1 * x**2, x)
    assert text.startswith("AVG has an interior optimum over m (3 inner points are better than both ends): m = 0 has")


def test_what_choices_say() -> None:
    mixed = [0.0, {"low": -0.1, "high": 0.1}, "wide"]
    text = said([0.9, 0.7, 0.6], mixed)
    assert text.startswith("The highest of 3 is m = 0 with AVG") and "over the next, m = -0.1:0.1. It is better than every other" in text
    assert "No point can be told from it" in said([0.8, 0.8, 0.8], mixed)
    assert said([0.9, 0.7], [0, 1]).startswith("The highest of 2 is m = 0")
    assert said([0.9], [0]).startswith("One point, m = 0: AVG")


def test_benchmarks_and_means_of_a_result() -> None:
    rows = [("lfw", 0, 90.0), ("cfp", 0, 80.0), ("avg", 0, 85.0), ("lfw", 1, 92.0), ("cfp", 1, 82.0), ("avg", 1, 87.0)]
    result = {
        "run": "r",
        "generator": "g",
        "volume": "2x2",
        "skipped": [],
        "scores": [{"metric": f"verification/{n}/accuracy", "seed": s, "value": v} for n, s, v in rows],
    }
    assert curve.benchmarks(result) == ["lfw", "cfp"]
    assert curve.mean(result, "verification/avg/accuracy") == 86
    with pytest.raises(UserError, match="run r has no fd/judge"):
        curve.mean(result, "fd/judge")


def test_the_command_on_record_has_no_password(fabricated, monkeypatch: pytest.MonkeyPatch) -> None:
    fabricated(lambda values: 80.0)
    monkeypatch.setattr(sys, "argv", ["synthbench", "sweep", "m", "--storage", "postgresql://me:secret@host/db"])
    made = sweep.sweep(request(values=("0,1",)))
    assert made["command"] == "synthbench sweep m --storage 'postgresql://***@host/db'"
    assert not [path for path in Path("runs").rglob("*") if path.is_file() and b"secret" in path.read_bytes()]


def test_points_with_the_same_images_are_named() -> None:
    made = [Entry({"run": name, "digests": {"faces": digest}}, name) for name, digest in (("m = 0", "a"), ("m = 1", "b"), ("m = 2", "b"))]
    assert curve._same_images([*made, None]) == " The images of m = 1 and m = 2 are the same."
    assert curve._same_images(made[:2]) == ""


def test_a_finite_generator_is_recorded_with_its_own_images(here: Path, prepared: Path) -> None:
    """Its stages come before those of the real baseline, whose images must not be taken for its own."""
    shutil.copytree(prepared, here / "runs")
    result = real_run(
        run.Request("similarity_groups", Path("runs"), protocol="tiny.yaml", settings=("sample.groups=2",), seeds=2, tracking=False)
    )
    faces = open_faces(result["artifacts"]["faces"])
    assert len(faces) == 12 and faces.digest == result["digests"]["faces"] and faces.columns["similarity"].min() > -1
    assert [row["state"] for row in result["stages"] if row["name"] == "enroll"] == ["run"]  # once for both seeds
    own = comparable.sides(result)["own"]
    assert [row["name"] for row in own] == ["enroll", "generate", "recognizer", "evaluate", "recognizer", "evaluate"]
