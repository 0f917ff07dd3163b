"""What other protocols asked of a run's recognizers stands in its report, behind a fold."""

from __future__ import annotations

import yaml
from click.testing import CliRunner

from synthbench.cli.app import cli
from synthbench.report.blocks import Fold, Text
from synthbench.report.data import open_run
from synthbench.report.elsewhere import elsewhere
from synthbench.results import lookup
from synthbench.store import Store


def made(store: Store, *words: str) -> str:
    """The name of the run."""
    before = {item.name for item in lookup.everything(store, ("run",))}
    CliRunner().invoke(cli, ["run", *words, "--runs", "runs", "--no-tracking", "--volume", "4x3"], catch_exceptions=False)
    (name,) = {item.name for item in lookup.everything(store, ("run",))} - before
    return name


def test_the_same_recognizers_under_another_protocol(here):
    store = Store(here / "runs")
    harder = {"extends": "tiny.yaml", "name": "tiny-hard", "benchmarks": ["world-mixed", "world-profile"]}
    (here / "hard.yaml").write_text(yaml.safe_dump(harder))
    plain = made(store, "procedural", "--protocol", "tiny.yaml")
    hard = made(store, "procedural", "--protocol", "hard.yaml")
    other = made(store, "procedural", "--protocol", "hard.yaml", "--set", "sample.difficulty=2")
    (fold,) = elsewhere(open_run(store, plain, "procedural"))
    assert isinstance(fold, Fold) and fold.title.startswith("Protocol tiny-hard: ")
    table = fold.blocks[0].comparison
    assert table["rows"][-1]["run"] == hard
    assert "verification/world-profile/accuracy" in {column["metric"] for column in table["columns"]}
    (back,) = elsewhere(open_run(store, hard, "procedural"))
    assert isinstance(back, Fold) and back.title.startswith("Protocol tiny: ")
    assert not list(elsewhere(open_run(store, other, "procedural")))  # of another set
    page = CliRunner().invoke(cli, ["report", plain, "--runs", "runs", "-o", "page"], catch_exceptions=False)
    assert page.exit_code == 0 and "<summary>Protocol tiny-hard: " in (here / "page" / "report.html").read_text()


def test_a_demo_says_where_harder_questions_are(here):
    store = Store(here / "runs")
    run = open_run(store, made(store, "procedural", "--protocol", "tiny.yaml"), "procedural")
    assert not list(elsewhere(run))
    run.result["protocol"] = "demo"
    (text,) = elsewhere(run)
    assert isinstance(text, Text) and "--protocol demo-hard" in text.text
