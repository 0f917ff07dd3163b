"""Damage and ill will, from outside: what was broken is made again or named, and a wrong result is never called cached."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from test_cli import RUN, synthbench  # noqa: F401

from synthbench.data import readers, sources
from synthbench.pipeline import run
from synthbench.pipeline.request import Order, read
from synthbench.results import record


@pytest.fixture
def runs(synthbench, here: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A runs folder `r` with one finished run, made once and copied."""
    made = tmp_path_factory.getbasetemp() / "attacked"
    if not made.exists():
        assert synthbench(*RUN, "--runs", str(made)).code == 0
    shutil.copytree(made, here / "r")
    return here / "r"


def test_of_four_commands_at_once_none_fails(here: Path) -> None:
    """One builds, the others wait; all of them draw samples.png and write run.json in the end."""
    words = [sys.executable, "-m", "synthbench", *RUN, "--runs", "r", "--json"]
    started = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    told = [process.communicate(timeout=600) for process in started]
    assert [process.returncode for process in started] == [0] * 4, [err for _, err in told]
    results = [json.loads(out) for out, _ in told]
    assert all(result["scores"] == results[0]["scores"] for result in results)
    built = [stage["name"] for result in results for stage in result["stages"] if stage["seconds"]]
    assert built and len(list((here / "r").glob("results/*/run.json"))) == 1 and not list((here / "r").rglob("*.tmp"))


RESULT = "results/procedural-*/run.json"


@pytest.mark.parametrize(
    ("damaged", "stages"),
    [
        ("stages/benchmarks/*/*/images.u8", {"benchmarks"}),
        ("stages/benchmarks/*/*/pairs.npz", {"benchmarks"}),
        ("stages/judge/*/weights.safetensors", {"judge"}),
        ("stages/judge/*/encoder.json", {"judge"}),
        ("stages/generate/*/packed.u8", {"generate"}),
        ("stages/generate/*/index.json", {"generate"}),
        ("stages/generate/*/manifest.json", {"generate"}),
        ("stages/evaluate/*/scores.json", {"evaluate"}),
        (RESULT, set()),
        ("results/procedural-*/samples.png", set()),
        ("requests/*.json", set()),
    ],
)
def test_what_was_overwritten_is_made_again(synthbench, here: Path, runs: Path, damaged: str, stages: set[str]) -> None:  # noqa: F811
    """Zeros of the right length: what a power cut may leave of a file."""
    whole = json.loads(next(runs.glob(RESULT)).read_text())
    files = list(runs.glob(damaged))
    assert files
    for path in files:
        path.write_bytes(bytes(path.stat().st_size)) if path.suffix != ".png" else path.unlink()
    call = (*RUN, "--runs", "r", "--json")
    again = synthbench(*call)
    assert again.code == 0, again.err
    result = json.loads(again.out)
    assert result["scores"] == whole["scores"]
    assert {stage["name"] for stage in result["stages"] if stage["state"] != "cached"} == stages
    assert all(path.stat().st_size for path in files) and read_text_of(runs) == whole["scores"]


@pytest.mark.parametrize("side", ["scores", "baseline", "skipped"])
def test_a_score_that_is_not_that_of_its_stage_is_no_answer(synthbench, here: Path, runs: Path, side: str) -> None:  # noqa: F811
    """The oracle is the file as it was: run.json alone is changed, the stages are whole."""
    path = next(runs.glob(RESULT))
    whole = json.loads(path.read_text())
    changed = json.loads(path.read_text())
    if side == "skipped":
        changed["skipped"] = [{"metric": "verification", "reason": "not measured"}]
    else:
        (changed["baseline"] if side == "baseline" else changed)["scores"][0]["value"] = 99.9
    path.write_text(json.dumps(changed))
    again = synthbench(*RUN, "--runs", "r", "--json")
    assert again.code == 0, again.err
    found = json.loads(again.out)
    assert {key: found[key] for key in ("scores", "baseline", "skipped")} == {key: whole[key] for key in ("scores", "baseline", "skipped")}
    assert {stage["state"] for stage in found["stages"]} == {"cached"} and read_text_of(runs) == whole["scores"]


@pytest.mark.parametrize(
    ("key", "value"), [("run", "../x"), ("run", "/x"), ("faces", "/etc"), ("faces", "ROOT/../x"), ("stage", "../../x"), ("stage", "a/b")]
)
def test_a_result_names_nothing_outside_its_runs_folder(runs: Path, key: str, value: str) -> None:
    path = next(runs.glob(RESULT))
    result = json.loads(path.read_text())
    value = value.replace("ROOT", str(runs))
    if key == "run":
        result["run"] = value
    elif key == "faces":
        result["artifacts"] = {"faces": value}
    else:
        result["stages"][0]["key"] = value
    assert record.read_run(path)
    path.write_text(json.dumps(result))
    assert record.read_run(path) is None


def read_text_of(runs: Path) -> list:
    return json.loads(next(runs.glob(RESULT)).read_text())["scores"]


def test_a_runs_folder_that_moved_is_complete(synthbench, here: Path, runs: Path) -> None:  # noqa: F811
    """Its run.json names the old place."""
    runs.rename(here / "elsewhere")
    again = json.loads(synthbench(*RUN, "--runs", "elsewhere", "--json").out)
    assert {stage["state"] for stage in again["stages"]} == {"cached"}
    assert Path(again["artifacts"]["samples"]).parent.parent.parent == here / "elsewhere"
    assert synthbench("export", "latest", "--to", "imagefolder", "-o", "out", "--runs", "elsewhere").code == 0
    assert len(list((here / "out").rglob("*.png"))) == 24
    assert json.loads(synthbench("show", "latest", "--runs", "elsewhere", "--json").out)["artifacts"] == again["artifacts"]


def test_a_damaged_result_is_not_shown(synthbench, runs: Path) -> None:  # noqa: F811
    path = next(runs.glob(RESULT))
    path.write_text(path.read_text()[:-20])
    shown = synthbench("show", path.parent.name, "--runs", "r")
    assert (shown.code, shown.out) == (2, "") and "run.json is not a whole result; run the command that made it again" in shown.err


def test_a_published_set_is_read_again_only_when_it_has_changed(synthbench, here: Path, runs: Path, monkeypatch) -> None:  # noqa: F811
    assert synthbench("export", "latest", "--to", "imagefolder", "-o", "set", "--runs", "r").code == 0
    call = ("run", "folder", *RUN[2:], "--set", "sample.path=set", "--runs", "r", "--json")
    first = synthbench(*call)
    assert first.code == 0, first.err
    with monkeypatch.context() as patch:
        patch.setattr(readers, "file_digest", None)  # nothing is hashed, and no job is made
        patch.setattr(Order, "job", None)
        again = synthbench(*call)
    assert json.loads(again.out)["scores"] == json.loads(first.out)["scores"]
    one, other = sorted((here / "set").rglob("*.png"))[:2]
    one.write_bytes(other.read_bytes())  # in place: no folder has a new time
    planned = json.loads(synthbench(*call, "--dry-run").out)["stages"]
    assert {stage["name"] for stage in planned if stage["state"] == "run"} == {"generate", "recognizer", "evaluate"}


def test_registered_data_that_changed_are_another_request(here: Path, monkeypatch) -> None:
    monkeypatch.setenv("SYNTHBENCH_DATA", str(here / "data"))
    for person in range(2):
        (here / "set" / str(person)).mkdir(parents=True)
        Image.new("RGB", (8, 8), (person, 0, 0)).save(here / "set" / str(person) / "0.png")
    sources.add("own", here / "set", kind="faces")
    request = run.Request("real", here / "r", protocol="tiny.yaml")
    before = read(request).key
    assert read(request).key == before
    (here / "set" / "2").mkdir()
    assert read(request).key != before
