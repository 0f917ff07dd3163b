"""What a plan says: which stages, how long by which source, how much disk, what is lacking. Nothing here is timed."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from synthbench.cli.app import cli
from synthbench.config import parse_set
from synthbench.generators.procedural import Procedural
from synthbench.pipeline import cost, plan, rates, run
from synthbench.pipeline.cost import Cost
from synthbench.pipeline.job import Job
from synthbench.pipeline.request import Order
from synthbench.pipeline.steps import Step
from synthbench.plugin import Context, Traits
from synthbench.protocol import load_protocol
from synthbench.store import MANIFEST, Store, write_json
from synthbench.types import DataMissing, Slot, UserError, Volume


def job(name: str, volume: str, folder: Path, *settings: str, protocol: str = "demo") -> Job:
    return Job(Store(folder), load_protocol(protocol), name, Volume.parse(volume), torch.device("cpu"), parse_set(settings))


def seen(store: Store, label: str, rate: float, amount: float = 1000.0, **facts: object) -> None:
    """An earlier stage, as its manifest tells it."""
    folder = store.root / "stages" / "train" / f"key{len(list((store.root / 'stages').glob('*/*')))}"
    folder.mkdir(parents=True)
    plain = {"host": platform.node(), "label": label, "unit": "GFLOP", "amount": amount, "seconds": rate * amount, "finished": folder.name}
    write_json(folder / MANIFEST, {**plain, **facts})


def step(store: Store, label: str, amount: float = 1000.0, unit: str = "GFLOP", name: str = "train") -> Step:
    return Step(store.stage(name, "wanted"), "", lambda folder, progress: None, label, lambda: Cost(amount, unit))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    known = {"known 32 cpu": 2.0, "other 32 cpu": 1.0, "third 32 cpu": 1.0, "render 32": 0.1}
    monkeypatch.setattr(rates, "shipped", lambda: {"seconds": known, "speed": {"cpu": 10, "cuda": {"H100": 1000, "other": 100}}})
    return Store(tmp_path / "runs")


# ------------------------------------------------------------------------------------------------------------------- rates


def test_on_a_fresh_machine_times_are_by_reference_or_by_arithmetic_and_say_so(store: Store) -> None:
    fresh = rates.Rates(store)
    assert fresh.seconds(step(store, "known 32 cpu")) == (2000.0, "reference")
    assert fresh.seconds(step(store, "new 32 cpu")) == (100.0, "arithmetic")  # 1000 GFLOP at 10 GFLOP/s
    assert fresh.seconds(step(store, "render 64", 5, "images")) == (pytest.approx(2.0), "arithmetic")  # four times the area
    assert fresh.seconds(step(store, "own thing", 5, "images")) == (None, "unknown")
    assert fresh.seconds(step(store, "known 32 cpu", 0)) == (None, "unknown")


def test_a_gpu_is_reckoned_by_its_name() -> None:
    shipped = {word: rates.speed("cuda", name) for word, name in (("H100", "NVIDIA H100 80GB HBM3"), ("other", "Unheard of"))}
    assert shipped == {word: rates.shipped()["speed"]["cuda"][word] for word in shipped}
    # the audit of an H100: 320 to 400 images/s in training, three passes of 76.7 GFLOP each
    assert 320 * 3 * 76.7 * 0.8 < shipped["H100"] < 400 * 3 * 76.7 * 1.2


@pytest.mark.parametrize("before", [0, 1, 2, 4])
def test_one_slow_run_does_not_move_an_estimate_ninefold(store: Store, before: int) -> None:
    for label in ("known 32 cpu", "new 32 cpu"):
        for _ in range(before):
            seen(store, label, 2.0)
    for label in ("known 32 cpu", "new 32 cpu")[: 2 if before else 1]:
        seen(store, label, 18.0)
        seconds, source = rates.Rates(store).seconds(step(store, label))
        assert source == "measured" and seconds is not None and seconds <= (2000 if before else 6000) * 1.001


def test_a_machine_that_is_slow_throughout_is_known_as_such(store: Store) -> None:
    seen(store, "other 32 cpu", 3.0)
    assert rates.Rates(store).seconds(step(store, "known 32 cpu")) == (2000.0, "reference")  # one run may have been slow
    seen(store, "third 32 cpu", 3.0)
    assert rates.Rates(store).seconds(step(store, "known 32 cpu")) == (6000.0, "scaled")
    for _ in range(3):
        seen(store, "known 32 cpu", 5.0)
    assert rates.Rates(store).seconds(step(store, "known 32 cpu")) == (5000.0, "measured")


def test_a_tiny_run_does_not_spoil_the_estimate_of_a_large_one(store: Store) -> None:
    seen(store, "known 32 cpu", 500.0, amount=1)  # all preparation
    seen(store, "new 32 cpu", 500.0, amount=1)
    assert rates.Rates(store).seconds(step(store, "known 32 cpu")) == (2000.0, "reference")
    assert rates.Rates(store).seconds(step(store, "new 32 cpu")) == (100.0, "arithmetic")
    assert rates.Rates(store).seconds(step(store, "known 32 cpu", 2))[1] == "measured"  # of a tiny one it does tell


def test_only_whole_builds_of_this_machine_are_looked_at(store: Store) -> None:
    seen(store, "new 32 cpu", 7.0, host="elsewhere")
    seen(store, "new 32 cpu", 7.0, unit="images")  # of an older synthbench
    seen(store, "new 32 cpu", 7.0, amount=0)
    for number, text in enumerate(("[]", "{}", "", "null")):
        (store.root / "stages" / "train" / f"damaged{number}").mkdir()
        (store.root / "stages" / "train" / f"damaged{number}" / MANIFEST).write_text(text)
    assert rates.Rates(store).seconds(step(store, "new 32 cpu")) == (100.0, "arithmetic")


def test_the_work_of_a_training_is_in_its_steps(tmp_path: Path) -> None:
    def train(*settings: str) -> Step:
        return next(step for step in job("cemiface", "20x4", tmp_path, *settings).generator_steps(0) if step.stage.name == "train")

    full, tiny, other = train(), train("train.steps=5"), train("train.similarity_weight=0.3")
    assert full.label == tiny.label == other.label
    steps = load_protocol("demo").generators["cemiface"]["train"]["steps"]
    assert full.cost.amount == pytest.approx(steps / 5 * tiny.cost.amount) and other.cost == full.cost
    # benchmarks/bench_unet.py: 0.0778 GMAC a forward pass; steps of 32 images, three passes each
    assert full.cost.amount == pytest.approx(steps * 32 * 3 * 2 * 0.0778, rel=0.01)
    assert full.cost.disk == pytest.approx(1.48e6 * 4, rel=0.03)  # 1.5 M parameters, not 400 MB


def test_what_is_begun_takes_the_rest_and_what_begins_again_takes_all(store: Store) -> None:
    for name, left in (("train", 1500.0), ("enroll", 2000.0)):
        begun = step(store, "known 32 cpu", name=name)
        begun.stage.folder.mkdir(parents=True)
        (begun.stage.folder / "checkpoint.pt").write_text("half")
        last = (begun.stage.folder / "checkpoint.pt").stat().st_mtime
        write_json(begun.stage.folder.with_name("wanted.leg.json"), {"before": 300.0, "start": last - 200})
        (planned,) = plan.look([begun], store)
        assert (planned.state, planned.seconds) == ("resume", pytest.approx(left))


# -------------------------------------------------------------------------------------------------------- which stages


def test_until_and_force_show_what_the_run_would_do(tmp_path: Path) -> None:
    wired, lacking = plan.wire(job("cemiface", "20x4", tmp_path), 2)
    assert not lacking
    steps, again = plan.wanted(wired.values(), "train", ("real",))
    names = [step.stage.name for step in steps]
    assert names.count("train") == 2 and "enroll" not in names and names.count("real") == 1
    assert [step.stage.name for step in again] == ["real"]
    assert not {"recognizer", "evaluate", "generate"} & set(names)  # those of the real baseline are not needed before evaluate
    names = [step.stage.name for step in plan.wanted(wired.values(), "recognizer", ())[0]]
    assert names.count("recognizer") == 2 and "evaluate" not in names
    assert [step.stage.name for step in plan.wanted(wired.values(), "evaluate", ())[0]].count("evaluate") == 4
    for last, force, said in (
        ("nonsense", (), "--until nonsense: this run has no such stage"),
        (None, ("nonsense",), "--force nonsense: this run has no such stage"),
        ("real", ("train",), "--force train: the run stops before it, --until real"),
    ):
        with pytest.raises(UserError, match=said):
            plan.wanted(wired.values(), last, force)
    with pytest.raises(UserError, match="--until train: this run has no such stage"):
        plan.wanted(plan.wire(job("procedural", "20x4", tmp_path), 1)[0].values(), "train", ())
    for seeds in (0, -1, 1000):
        with pytest.raises(UserError, match=f"--seeds {seeds}: must be between 1 and 100"):
            plan.wire(job("procedural", "20x4", tmp_path), seeds)


def test_a_forced_stage_is_to_do_and_those_after_it_are_not(store: Store) -> None:
    one, two = (
        Step(store.stage(name, "k"), name, lambda folder, progress: None, "known 32 cpu", lambda: Cost(10, "GFLOP")) for name in "ab"
    )
    for made in (one, two):
        with made.stage.building() as facts:
            assert facts is not None
            (made.stage.folder / "x").write_text("12345")
    planned = plan.look([one, two], store, [one])
    assert [(item.state, item.forced, item.source) for item in planned] == [("run", True, "reference"), ("cached", False, "took")]
    assert planned[1].disk == 5 and plan.total(planned).todo == 1


def test_missing_data_is_named_at_once_and_the_plan_is_shown(tmp_path: Path) -> None:
    call = ["run", "cemiface", "--protocol", "paper", "--runs", str(tmp_path / "r")]
    shown = CliRunner().invoke(cli, [*call, "--dry-run", "--json"])
    assert isinstance(shown.exception, DataMissing) and shown.exception.exit_code == 3
    told = json.loads(shown.stdout)
    names = [*load_protocol("paper").sources(), "webface4m-1shot"]
    assert {item["name"] for item in told["missing"]} == set(names) and len(names) == 9
    assert [row["name"] for row in told["stages"]][-3:] == ["generate", "recognizer", "evaluate"] and told["total"]["unknown"] == 0
    started = CliRunner().invoke(cli, call)
    for error in (shown.exception, started.exception):
        assert isinstance(error, DataMissing)
        assert all(f"synthbench data add {name} PATH" in str(error) for name in names)
    assert not (tmp_path / "r").exists()


def test_a_protocol_with_data_of_the_users_own_lists_them_too_and_a_slip_is_a_slip(tmp_path: Path) -> None:
    _, lacking = plan.wire(job("cemiface", "20x4", tmp_path, protocol="photos"), 1)
    assert set(lacking) == {"celeba-subset", "aaf", "lfw", "lfw-unpaired", "mobilefacenet", "edgeface-xxs"}
    assert lacking["edgeface-xxs"].command == "synthbench data add edgeface-xxs PATH --kind weights --colour rgb|bgr"
    with pytest.raises(UserError, match="no data or weights are called 'casia-webfase'"):
        plan.wire(job("cemiface", "20x4", tmp_path, "enroll.source=casia-webfase"), 1)


# --------------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "1 s"), (40, "40 s"), (100, "2 min"), (840, "14 min"), (7200, "2.0 h"), (1e5, "28 h"), (1e6, "12 days")]
)
def test_roughly(seconds: float, said: str) -> None:
    assert plan.roughly(seconds) == said


def test_a_run_says_first_how_long_it_takes_and_by_what(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    steps = [step(store, "known 32 cpu", 100, name="train"), step(store, "new 32 cpu", 600, name="generate")]
    plan.announce(plan.look(steps, store), "this")
    said = capsys.readouterr().err
    assert said.startswith(
        "this: 2 of 2 stages to do, about 4 min (estimate: 3 min by reference rates of a 2-core CPU, 60 s by arithmetic)"
    )
    assert "most of it train 3 min and generate 60 s" in said and said.endswith("the same command continues\n")


def test_every_shipped_generator_has_a_time_on_a_fresh_machine(tmp_path: Path) -> None:
    for name in ("procedural", "cemiface", "dcface", "vigface", "idiffface", "vec2face", "sface", "synface", "digiface"):
        steps = job(name, "200x20", tmp_path).steps(0)
        planned = plan.look(steps, Store(tmp_path))
        assert {item.source for item in planned} == {"reference"}, name
        assert 60 < plan.total(planned).seconds < 3600, name


def test_networks_that_cannot_be_counted_stop_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = job("sface", "20x4", tmp_path, "train.code=17")
    monkeypatch.setattr(type(made.generator), "networks", lambda self, resolution, dim: 1 / 0)
    assert cost.networks(made.generator, made.protocol) == {}
    assert made.generator_steps(0)[0].cost == Cost(6000)


def test_a_plan_of_what_is_answered_needs_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    with store.stage("real", "k").building() as facts:
        assert facts is not None
        facts["work"] = "faces"
    known = {"generator": "real", "volume": "all", "stages": [{"name": "real", "key": "k"}]}
    monkeypatch.setattr(run.record, "remembered", lambda store, key: known)
    monkeypatch.setattr(Order, "job", None)
    run.plan(run.Request("real", tmp_path, protocol="demo"))
    assert "real @ all: everything is cached" in capsys.readouterr().out


def test_a_short_name_is_written_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run.plan(run.Request("procedural", tmp_path, "20x4", "demo", settings=("difficulty=0.5",)))
    said = capsys.readouterr().err
    assert "--set difficulty: taken for sample.difficulty\n" in said and said.count("taken for") == 1


@pytest.mark.parametrize(("new", "images"), [(True, 0), (False, 6000)])
def test_a_set_that_is_not_here_has_no_size(new: bool, images: int) -> None:
    """What shows the real set, or a part of it, has that set's size; of another one that cannot be opened nobody knows it."""

    class Finite(Procedural):
        traits = Traits(finite=True, new_identities=new)

        def slots(self, volume: Volume, context: Context) -> list[Slot]:
            raise DataMissing("not registered")

    assert cost.made(Finite(Procedural.Config()), Volume.parse("all"), 6000) == images
