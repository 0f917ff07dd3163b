"""The schedule of a cluster that is not there: by hand for small graphs, by bounds that every such schedule keeps for large ones."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from synthbench.cli.app import cli
from synthbench.pipeline import cluster, plan, rates, simulated
from synthbench.pipeline.cost import Cost
from synthbench.pipeline.request import Request
from synthbench.pipeline.simulated import Machines, longest, machines, simulate
from synthbench.pipeline.steps import Step
from synthbench.store import Store
from synthbench.types import UserError

Graph = dict[str, tuple[str, ...]]


def ends(seconds: dict[str, float], needs: Graph, abreast: int) -> dict[str, float]:
    return {name: begin + seconds[name] for name, begin in simulate(seconds, needs, abreast).items()}


# ------------------------------------------------------------------------------------------------------------- by hand


def test_a_chain_takes_the_sum_on_any_number_of_machines() -> None:
    seconds, needs = {"a": 3.0, "b": 1.0, "c": 2.0}, {"a": (), "b": ("a",), "c": ("b",)}
    for abreast in (1, 2, 100):
        assert ends(seconds, needs, abreast) == {"a": 3, "b": 4, "c": 6}
    assert longest(seconds, needs) == ["a", "b", "c"]


def test_a_fork_waits_for_the_longer_arm() -> None:
    seconds = {"a": 1.0, "left": 5.0, "right": 2.0, "join": 1.0}
    needs = {"a": (), "left": ("a",), "right": ("a",), "join": ("left", "right")}
    assert ends(seconds, needs, 2) == {"a": 1, "left": 6, "right": 3, "join": 7}
    assert ends(seconds, needs, 1) == {"a": 1, "left": 6, "right": 8, "join": 9}
    assert longest(seconds, needs) == ["a", "left", "join"]


def test_more_stages_than_gpus_wait_in_the_order_of_the_graph() -> None:
    """Five of 4, 3, 2, 2, 1 s on two GPUs: the third begins when the second ends, at 3; the fourth at 4, the fifth at 5."""
    seconds = dict(zip("abcde", (4.0, 3.0, 2.0, 2.0, 1.0)))
    assert simulate(seconds, dict.fromkeys(seconds, ()), 2) == {"a": 0, "b": 0, "c": 3, "d": 4, "e": 5}


def test_a_stage_that_becomes_ready_goes_behind_those_that_wait() -> None:
    """As tasks that Ray was given earlier: `late` needs `a`, and `c` waited before that."""
    seconds, needs = {"a": 1.0, "late": 1.0, "b": 5.0, "c": 1.0}, {"a": (), "late": ("a",), "b": (), "c": ()}
    assert simulate(seconds, needs, 2) == {"a": 0, "b": 0, "c": 1, "late": 2}


def test_nothing_takes_no_time() -> None:
    assert simulate({}, {}, 4) == {} and longest({}, {}) == []


# ----------------------------------------------------------------------------------------------------------- by bounds


@pytest.mark.parametrize("seed", range(30))
def test_no_schedule_is_better_than_it_can_be_or_worse_than_graham_allows(seed: int) -> None:
    draw = random.Random(seed)
    count, abreast = draw.randint(1, 60), draw.randint(1, 12)
    names = [f"s{i}" for i in range(count)]
    needs = {name: tuple(draw.sample(names[:i], min(i, draw.randint(0, 3)))) for i, name in enumerate(names)}
    seconds = {name: draw.choice((0.0, 1.0, draw.uniform(0, 10))) for name in names}
    order = draw.sample(names, count)  # which of those that may begin comes first says nothing of the bounds
    found = ends({name: seconds[name] for name in order}, needs, abreast)
    begins = {name: found[name] - seconds[name] for name in names}
    path = longest(seconds, needs)
    span, work, last = sum(seconds[name] for name in path), sum(seconds.values()), max(found.values())
    assert found.keys() == set(names) and all(other in needs[name] for other, name in itertools.pairwise(path))
    assert all(begins[name] >= found[other] - 1e-9 for name in names for other in needs[name])
    for moment in begins.values():  # never more at a time than there are GPUs
        assert sum(begins[name] <= moment + 1e-9 < found[name] for name in names) <= abreast
    assert max(span, work / abreast) - 1e-9 <= last <= work / abreast + (1 - 1 / abreast) * span + 1e-9  # Graham, 1969
    assert max(ends(seconds, needs, count).values()) == pytest.approx(span)
    assert max(ends(seconds, needs, 1).values()) == pytest.approx(work)


# ------------------------------------------------------------------------------------------------------------- machines


def test_what_a_cluster_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machines("4x8:h100") == Machines(4, 8, "H100") and machines("4x8").abreast == 32
    assert str(machines("4x8:h100")) == "4 machines with 8 GPUs each (H100)" and str(machines("1x1")) == "1 machine with 1 GPU"
    monkeypatch.setattr(simulated, "cores", lambda: 6)
    for threads, abreast in (("", 2), ("4", 2), ("2", 6), ("1", 12), ("9", 2)):  # as cluster.py: a stage takes all cores, or as many
        monkeypatch.setenv("SYNTHBENCH_THREADS", threads)
        assert machines("2x0").abreast == abreast


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("32", "write machines x GPUs"),
        ("4x", "write machines x GPUs"),
        ("-1x8", "write machines x GPUs"),
        ("4x8:", "write machines x GPUs"),
        ("4x8x2", "write machines x GPUs"),
        ("99999999999x8", "write machines x GPUs"),
        ("0x8", "there must be a machine"),
        ("4x8:voodoo", "known are H200, H100"),
        ("2x0:h100", "machines without GPUs, and the name of one"),
    ],
)
def test_what_is_no_cluster_is_refused(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        machines(text)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--cluster", "4x8"), "give it with --dry-run --on ray"),
        (("--cluster", "4x8", "--on", "ray"), "give it with --dry-run --on ray"),
        (("--cluster", "4x8", "--dry-run"), "give it with --dry-run --on ray"),
        (("--cluster", "4x8", "--dry-run", "--on", "ray", "--devices", "2"), "--devices gives a stage several here"),
    ],
)
def test_a_cluster_is_for_plans_alone(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    for command in (
        ("run", "real"),
        ("compare", "real"),
        ("sweep", "m"),
        ("study", "similarity-groups"),
        ("reproduce", "cemiface/table-6"),
    ):
        result = CliRunner().invoke(cli, [*command, "--protocol", "demo", "--runs", str(tmp_path / "r"), *words])
        assert isinstance(result.exception, UserError) and said in str(result.exception)
    assert not (tmp_path / "r").exists()


# ------------------------------------------------------------------------------------------------------ stages and rates


def step(store: Store, name: str, amount: float, unit: str = "GFLOP", needs: tuple[Step, ...] = (), kind: str = "train") -> Step:
    label = f"{kind} known 32" + (" cpu" if unit == "GFLOP" else "")
    before = tuple(other.stage.folder for other in needs)
    return Step(store.stage(kind, name), f"work {name}", lambda folder, progress: None, label, lambda: Cost(amount, unit), needs=before)


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[plan.Planned]:
    """Faces of 100 s, two trainings of 3,600 s and 1,800 s on an H100, and one of unknown length after the first."""
    known = {"seconds": {"real known 32": 1.0}, "speed": {"cpu": 1, "cuda": {"H100": 1000, "other": 100}}}
    monkeypatch.setattr(rates, "shipped", lambda: known)
    store = Store(tmp_path / "runs")
    faces = step(store, "f", 100, "images", kind="real")
    long, short = (step(store, name, amount, needs=(faces,)) for name, amount in (("long", 3.6e6), ("short", 1.8e6)))
    unknown = step(store, "unknown", 0, needs=(long,), kind="evaluate")
    return plan.look([faces, long, short, unknown], store, device=Machines(1, 2, "H100").device)


def test_hours_idle_and_limit_are_those_of_the_schedule(planned: list[plan.Planned]) -> None:
    """Two GPUs: 100 s of faces on no GPU, then 3,600 s beside 1,800 s. One GPU: 100 + 3,600 + 1,800 s."""
    two, one = (simulated.schedule(planned, Machines(1, gpus, "H100")) for gpus in (2, 1))
    assert [item.source for item in planned] == ["reference", "arithmetic", "arithmetic", "unknown"]
    assert (two.makespan, two.least, two.used, two.held) == (3700, 3700, 5400, 7400)
    assert two.idle == pytest.approx(2000 / 7400) and two.limit == "critical path"
    assert (one.makespan, one.limit, one.idle) == (5500, "machines", pytest.approx(100 / 5500))
    assert [made.step.stage.key for made in one.unknown] == ["unknown"]
    told = simulated.plain(planned, {}, Machines(1, 2, "H100"))["schedule"]
    assert told["makespan"] == 3700 and told["hours"] == pytest.approx(7400 / 3600) and told["lower_bound"] is True
    assert [(row["name"], row["begins"]) for row in told["critical_path"]][:2] == [("real", 0), ("train", 100)]


def test_what_is_said_fits_a_terminal_and_says_where_it_is_from(
    planned: list[plan.Planned], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    simulated.show(planned, "this", Machines(1, 2, "H100"))
    said = capsys.readouterr()
    title, *lines = said.out.splitlines()
    assert "1.5 h by arithmetic" in title and all(len(line) <= 80 for line in lines)
    assert "simulated, on 1 machine with 2 GPUs (H100)" in said.out and "at least 62 min" in said.out and "27 %" in said.out
    assert "networks at 1,000 GFLOP/s (H100)" in said.err and "a lower bound: evaluate (work unknown)" in said.err


def test_a_gpu_that_is_not_here_is_not_reckoned_by_what_was_measured_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "runs")
    slow = rates.Seen("train known 32 cuda", "GFLOP", 1000.0, 7.0, "")
    monkeypatch.setattr(Store, "seen", lambda self: iter([slow]))
    monkeypatch.setattr("synthbench.device.gpu_name", lambda: "NVIDIA A100-SXM4-80GB")
    made = step(store, "x", 1000.0)
    assert rates.Rates(store, Machines(1, 1, "A100").device).seconds(made) == (7000.0, "measured")
    assert rates.Rates(store, Machines(1, 1).device).seconds(made) == (7000.0, "measured")
    assert rates.Rates(store, Machines(1, 1, "H100").device).seconds(made) == (
        pytest.approx(1000 / rates.speed("cuda", "H100")),
        "arithmetic",
    )
    assert rates.Rates(store, Machines(1, 0).device).seconds(made)[0] == pytest.approx(1000 / rates.speed("cpu"))


def test_the_stages_of_a_schedule_are_those_that_a_cluster_would_build(here: Path) -> None:
    words = ["compare", "real", "procedural", "--volume", "6x8", "--protocol", "tiny.yaml", "--seeds", "2", "--runs", "runs"]
    result = CliRunner().invoke(cli, [*words, "--dry-run", "--on", "ray", "--cluster", "2x2", "--format", "json"], catch_exceptions=False)
    told = json.loads(result.stdout)
    asked = [Request(name, Path("runs"), None if name == "real" else "6x8", "tiny.yaml", seeds=2) for name in ("real", "procedural")]
    assert {row["key"] for row in told["stages"]} == {task.step.stage.key for task in cluster.graph(asked).values()}
    assert told["schedule"]["machines"] == {"count": 2, "gpus": 2, "gpu": ""} and told["schedule"]["abreast"] == 4
    assert told["schedule"]["critical_path"][-1]["name"] == "evaluate" and not Path("runs").exists()


def test_run_sweep_and_reproduce_plan_for_machines(here: Path) -> None:
    on = ["--dry-run", "--on", "ray", "--cluster", "2x2:h100", "--runs", "runs"]
    for words in (
        ["run", "procedural", "--volume", "6x8", "--protocol", "tiny.yaml"],
        ["sweep", "difficulty", "--generator", "procedural", "--values", "0,1", "--volume", "6x8", "--protocol", "tiny.yaml"],
        ["reproduce", "cemiface/samples-over-m", "--scale", "demo"],
    ):
        shown = CliRunner().invoke(cli, [*words, *on], catch_exceptions=False).stdout
        assert "simulated, on 2 machines with 2 GPUs each (H100)" in shown and "critical path" in shown
        told = json.loads(CliRunner().invoke(cli, [*words, *on, "--json"], catch_exceptions=False).stdout)
        assert told["schedule"]["makespan"] > 0
    forced = CliRunner().invoke(cli, ["run", "real", "--protocol", "tiny.yaml", *on, "--force", "real"])
    assert "--force and --on exclude" in str(forced.exception)
    search = ["sweep", "m", "--sampler", "tpe", "--range", "0:1", "--protocol", "demo"]
    assert "points of tpe follow from one another" in str(CliRunner().invoke(cli, [*search, *on]).exception)
