"""`synthbench evaluate`: a recognizer of a run scores as in the run, by whatever name it goes; what is no network is told in a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from synthbench.data import sources
from synthbench.pipeline import compare, evaluation, run
from synthbench.pipeline.evaluation import Request
from synthbench.results import lookup, published, record, tables, terminal, tidy
from synthbench.store import Store
from synthbench.types import UserError

AVG = "verification/avg/accuracy"


@pytest.fixture
def made(here: Path) -> dict:
    result = run.run(run.Request("procedural", Path("runs"), "4x3", "tiny.yaml", tracking=False))
    assert result
    return result


def weights(result: dict) -> Path:
    """Where the run's own recognizer lies."""
    (key,) = [row["key"] for row in result["stages"] if row["name"] == "recognizer"][1:]
    return Store(Path("runs").absolute()).stage("recognizer", key).folder


def value(result: dict, metric: str = AVG) -> float:
    return record.values(result, metric)[0]["value"]


def test_a_run_its_folder_and_a_registered_copy_score_as_the_run_did(
    made: dict, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNTHBENCH_DATA", "registry")
    sources.add("mine", weights(made), "weights", colour="rgb")
    capsys.readouterr()
    names = (made["run"], str(weights(made)), "mine")
    results = evaluation.evaluate(Request(names, Path("runs"), protocol="tiny.yaml"))
    said = capsys.readouterr().err
    assert said.count("evaluate: done") == 1  # the three are one network
    for result in results:
        assert value(result) == value(made) and result["protocol"] == "tiny"
        kept = {score["metric"]: score["value"] for score in result["scores"]}
        assert kept == {score["metric"]: score["value"] for score in made["scores"] if score["metric"].startswith("verification/")}
    assert json.loads((Path("runs/evaluations") / results[0]["run"] / "evaluation.json").read_text())["scores"] == results[0]["scores"]
    terminal.show_evaluations(results)
    shown = capsys.readouterr().out
    assert shown.count(f"{value(made):.2f}") == 3 and "norm" in shown and "AVG" not in shown  # of one benchmark it says nothing new
    evaluation.evaluate(Request((made["run"],), Path("runs"), protocol="tiny.yaml"))
    assert "evaluate: done" not in capsys.readouterr().err


def test_a_network_from_elsewhere_is_a_row_of_a_comparison_and_no_rival(made: dict, capsys: pytest.CaptureFixture[str]) -> None:
    other = run.run(run.Request("real", Path("runs"), None, "tiny.yaml", tracking=False))
    assert other
    (foreign,) = evaluation.evaluate(Request((str(weights(made)),), Path("runs"), protocol="tiny.yaml"))
    names = (made["run"], foreign["run"][:-3])
    (comparison,) = compare.compare(compare.Request(names, Path("runs"), tracking=False))
    rows = {row["run"]: row for row in comparison["rows"]}
    cell = rows[foreign["run"]]["cells"][AVG]
    assert cell["value"] == value(made) and not cell["best"] and rows[foreign["run"]]["traits"] == {}
    (difference,) = [row for row in comparison["differences"] if row["metric"] == AVG]
    assert difference["points"] == 0
    assert any("trained elsewhere" in note for note in comparison["notes"])
    terminal.show(comparison)
    assert rows[foreign["run"]]["label"] in capsys.readouterr().out
    store = Store(Path("runs").absolute())
    assert not {spare.stage.key for spare in tidy.spare(store)} & {row["key"] for row in foreign["stages"]}
    with pytest.raises(UserError, match=r"needs .*weights"):
        tidy.check_free(store, [lookup.find(store, foreign["run"], ("evaluation",))])


def test_what_the_protocol_lends_is_a_row_and_so_is_who_taught_it(made: dict, capsys: pytest.CaptureFixture[str]) -> None:
    """ "Why not use what the teacher saw?": E_id on the benchmarks of the generators that it was lent to."""
    asked = compare.Request((made["run"],), Path("runs"), protocol="tiny.yaml", teachers=True, tracking=False)
    hint = "encoder of protocol tiny is not trained in runs yet: synthbench run cemiface --protocol tiny.yaml --until encoder --runs runs"
    with pytest.raises(UserError, match=hint):
        compare.compare(asked)  # `procedural` looks at no encoder, so nobody has made it
    run.run(run.Request("cemiface", Path("runs"), "4x3", "tiny.yaml", until="encoder", tracking=False))
    (found,) = compare.compare(asked)
    first, teacher = found["rows"]
    assert teacher["label"] == "encoder of tiny" and not teacher["traits"] and teacher["cells"][AVG]["value"] > 0
    with pytest.raises(UserError, match="the judge of a protocol needs --protocol NAME"):
        evaluation.evaluate(Request(("judge",), Path("runs")))
    judge, encoder = evaluation.evaluate(Request(("judge", "encoder"), Path("runs"), protocol="tiny.yaml"))
    assert judge["weights"]["digests"] != encoder["weights"]["digests"]
    assert "learnt_from" in first
    capsys.readouterr()
    terminal.show(found)
    shown = capsys.readouterr()
    assert "encoder of tiny" in shown.out and "learnt from" in shown.out and "on cpu, None" not in shown.out + shown.err


def test_what_a_generator_learnt_from_is_told() -> None:
    row = {"learnt_from": {"real": 6143, "aaf": 10544}, "traits": {"needs_labels": False}}
    assert tables.learnt_from(row) == "6,143 images of real and 10,544 images of aaf, without labels"
    assert tables.learnt_from({"learnt_from": {"real": 5}, "traits": {"needs_labels": True}}) == "5 images of real, with labels"
    assert tables.learnt_from({"traits": {}}) == "nothing"


def test_without_a_protocol_images_are_of_the_networks_own_size(made: dict) -> None:
    (result,) = evaluation.evaluate(Request((str(weights(made)),), Path("runs"), ("world-profile",)))
    assert result["protocol"] == "own-size" and result["weights"]["resolution"] == 16 and result["benchmarks"] == ["world-profile"]
    folded = evaluation.evaluate(Request((str(weights(made)),), Path("runs"), ("world-profile",), settings=("folds=5",)))[0]
    assert record.values(folded, "verification/world-profile/fold_std")[0]["n"] == 5
    with pytest.raises(UserError, match="measured differently"):
        compare.compare(compare.Request((result["run"], made["run"]), Path("runs"), tracking=False))


def test_what_cannot_be_scored_is_told_in_a_line(made: dict, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no benchmark is registered"):
        evaluation.evaluate(Request((str(weights(made)),), Path("runs")))
    with pytest.raises(UserError, match="no file, no registered weights and no run"):  # the slip of the pen first
        evaluation.evaluate(Request(("nothing",), Path("runs")))
    for text, said in (("nothing", "no file, no registered weights and no run"), (made["run"][:4] + "x", "did you mean|no file")):
        with pytest.raises(UserError, match=said):
            evaluation.evaluate(Request((text,), Path("runs"), ("world-mixed",)))
    with pytest.raises(UserError, match="has no benchmark 'world-mix'"):
        evaluation.evaluate(Request((str(weights(made)),), Path("runs"), ("world-mix",)))
    torch.save({"a": torch.zeros(2)}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="colour"):
        evaluation.evaluate(Request((str(tmp_path / "x.pt"),), Path("runs"), ("world-mixed",)))
    with pytest.raises(UserError, match="no architecture known here"):
        evaluation.evaluate(Request((str(tmp_path / "x.pt"),), Path("runs"), ("world-mixed",), colour="rgb"))


def test_published_numbers_stand_beside_images_of_their_size_only() -> None:
    assert published.beside(["0.5M"], ["lfw"], 112) and not published.beside(["0.5M"], ["lfw"], 32)
