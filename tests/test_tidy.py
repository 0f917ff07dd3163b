"""Deleting: what something needs stays, what is being built is locked, and nobody is surprised."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import fake_pages
import pytest

from synthbench.cli import app
from synthbench.results import lookup, record, tidy
from synthbench.store import Store, write_json
from synthbench.types import UserError


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs, a comparison and a sweep of them, and a stage that nothing needs."""
    fake_pages.make_all(tmp_path)
    maker = fake_pages.Maker(tmp_path)
    maker.stage("generate", "old", "dcface: 36", lambda folder: (folder / "part").write_bytes(b"x" * 5000))
    return tmp_path


def command(monkeypatch: pytest.MonkeyPatch, runs: Path, *words: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(sys, "argv", ["synthbench", "runs", *words, "--runs", str(runs)])
    return app._guarded()


def folders(runs: Path) -> set[str]:
    return {f"{path.parent.name}/{path.name}" for path in (runs / "stages").glob("*/*") if path.is_dir()}


def test_only_what_nothing_needs_is_pruned(runs: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    before = folders(runs)
    assert command(monkeypatch, runs, "prune", "--dry-run") == 0 and folders(runs) == before
    told = capsys.readouterr().out
    assert "dcface: 36" in told and "5 kB" in told and "recognizer" not in told
    assert command(monkeypatch, runs, "prune") == 2 and folders(runs) == before  # nobody there to say yes
    assert "nothing was deleted" in capsys.readouterr().err
    assert command(monkeypatch, runs, "prune", "--yes") == 0
    assert before - folders(runs) == {"generate/old"}
    assert command(monkeypatch, runs, "prune") == 0 and "nothing to delete" in capsys.readouterr().err


def test_a_stage_that_is_being_built_stays(runs: Path) -> None:
    store = Store(runs)
    found = tidy.spare(store)
    with store.stage("generate", "old").locked():
        assert tidy.at_work(store) == ["generate"]
        assert tidy.prune(store, found) == (0, 0)
    assert tidy.at_work(store) == [] and "generate/old" in folders(runs)
    assert tidy.prune(store, found)[0] == 1


def test_what_was_begun_stays_until_it_is_given_up(runs: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    store = Store(runs)
    record.begin(store, "abc", [store.stage("generate", "old"), store.stage("recognizer", "not yet")])
    assert tidy.spare(store) == [] and record.remembered(store, "abc") is None
    assert command(monkeypatch, runs, "prune", "--yes") == 0 and "generate/old" in folders(runs)
    assert "1 command that did not end" in capsys.readouterr().err
    with store.stage("generate", "old").locked():
        assert command(monkeypatch, runs, "prune", "--unfinished", "--yes") == 2
    assert command(monkeypatch, runs, "prune", "--unfinished", "--yes") == 0
    assert "generate/old" not in folders(runs) and not list((runs / "requests").iterdir())


def test_the_note_becomes_the_answer(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record.begin(store, "abc", [store.stage("real", "k")])
    record.end(store, "abc", "a-run", remembered=True)
    assert list(tidy.plans(store)) == [] and (tmp_path / "requests/abc.json").is_file()
    record.begin(store, "abc", [store.stage("real", "k")])
    record.end(store, "abc", "a-run", remembered=False)
    assert not (tmp_path / "requests/abc.json").exists()


def test_what_a_result_that_is_not_whole_needs_is_not_known(runs: Path) -> None:
    (runs / "results/cemiface-6x6-demo-a/run.json").write_text("{")
    with pytest.raises(UserError, match=r"not a whole result.*which stages it needs is not known"):
        tidy.spare(Store(runs))


def test_a_run_goes_only_with_what_shows_it(runs: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    run = "cemiface-6x6-demo-a"
    assert command(monkeypatch, runs, "rm", run, "--yes") == 2
    assert f"comparison a-and-b needs {run}" in capsys.readouterr().err
    assert command(monkeypatch, runs, "rm", run, "a-and-b", "m-sweep", "--dry-run") == 0
    assert (runs / "results" / run).is_dir()
    stages = folders(runs)
    assert command(monkeypatch, runs, "rm", run, "a-and-b", "m-sweep", "--yes") == 0
    left = [path.name for place in ("results", "comparisons", "sweeps") for path in (runs / place).iterdir()]
    assert left == ["cemiface-6x6-demo-b"] and folders(runs) == stages
    spare = {item.stage.key for item in tidy.spare(Store(runs))}
    assert {"old", "facesa", "scoresa"} <= spare and not spare & {"facesb", "scoresb", "real0", "judge0"}


def test_a_comparison_that_is_not_whole_still_needs_its_runs(tmp_path: Path) -> None:
    """As another version wrote it, with a field that this one misses: what it names is not deleted."""
    folder = tmp_path / "comparisons" / "old"
    folder.mkdir(parents=True)
    write_json(folder / "comparison.json", {"rows": [{"run": "one"}, "no row"], "confirmed": [{"runs": ["two", 3]}]})
    (group,) = lookup.everything(Store(tmp_path), ("comparison",))
    assert tidy._runs_of(group) == {"one", "two"}
