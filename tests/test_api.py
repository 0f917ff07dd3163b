"""The Python API reads what runs left behind, and the notebook that uses it runs from top to bottom."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_runs import make_run

import synthbench
from synthbench import api
from synthbench.cli.app import cli
from synthbench.config import parse_set
from synthbench.data.shards import ShardWriter
from synthbench.models.encoder import Encoder, build
from synthbench.pipeline import compare
from synthbench.protocol import load_protocol
from synthbench.types import FaceBatch, UserError, Volume

NOTEBOOK = Path(__file__).parents[1] / "examples" / "explore.ipynb"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    import torch

    root = tmp_path_factory.mktemp("runs")
    make_run(root, "real", 2.0)
    result = make_run(root, "cemiface", 1.0, settings={"sample": {"m": [0, 0.5], "steps": 5}})
    writer = ShardWriter(Path(result["artifacts"]["faces"]))
    identity = torch.arange(6) // 2
    writer.write(FaceBatch((40 * identity).to(torch.uint8)[:, None, None, None].expand(6, 3, 16, 16).contiguous(), identity))
    writer.finish()
    (root / "results" / "half").mkdir()
    (root / "results" / "half" / "run.json").write_text("{")
    return root


def test_runs_are_rows(runs, capsys):
    table = synthbench.load_runs(runs)
    assert list(table.generator) == ["real", "cemiface"] and list(table.seeds) == [2, 2]
    run = table.iloc[1]
    assert run["settings.sample.m"] == [0, 0.5] and run["settings.sample.steps"] == 5
    scores = synthbench.load_scores(run.name, runs)
    own = scores[(scores.generator == "cemiface") & (scores.metric == "verification/avg/accuracy")]
    assert len(own) == 2 and run["verification/avg/accuracy"] == pytest.approx(own.value.mean())
    assert "half/run.json is not a whole result" in capsys.readouterr().err


def test_scores_hold_the_baseline_too(runs):
    scores = synthbench.load_scores("cemiface", runs)  # the beginning of its name
    assert set(scores.generator) == {"cemiface", "real"} and set(scores.seed) == {0, 1}
    assert list(scores.columns) == ["generator", "seed", "metric", "value", "stderr", "n", "higher_is_better"]
    assert set(synthbench.load_scores("real", runs).generator) == {"real"}


def test_a_dataset_opens(runs):
    faces = synthbench.open_dataset("cemiface", runs)
    assert len(faces) == 6 and faces.identities == 3
    assert np.array_equal(faces.images([4]).numpy(), np.full((1, 3, 16, 16), 80, np.uint8))


def test_wrong_names_are_answered(runs, tmp_path):
    with pytest.raises(UserError, match="no run 'nobody'"):
        synthbench.load_scores("nobody", runs)
    with pytest.raises(UserError, match="not a whole result"):
        synthbench.load_scores("half", runs)
    assert len(synthbench.load_runs(tmp_path)) == 0
    for read in (synthbench.load_runs, lambda runs: synthbench.load_scores("latest", runs)):
        with pytest.raises(UserError, match=r"there is no runs folder .*nowhere"):
            read(tmp_path / "nowhere")
    with pytest.raises(AttributeError, match="load_run"):
        synthbench.load_run  # noqa: B018


def test_the_package_stays_light():
    code = "import sys, synthbench; print('pandas' in sys.modules); synthbench.load_runs; print('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\nTrue\n"


def test_what_there_is_can_be_seen():
    assert {"run", "compare", "load_runs", "load_scores", "open_dataset", "__version__"} <= set(dir(synthbench))
    signature = inspect.signature(synthbench.run)
    options = {option.name for option in cli.commands["run"].params if option.expose_value}
    renamed = {"settings", "tracking"}  # --set, --no-tracking
    of_commands = {"no_tracking", "dry_run", "cluster", "as_json", "devices"}  # a notebook is one process
    assert set(signature.parameters) >= (options - of_commands) | renamed


def test_run_and_compare_from_python(here, capsys):
    """The same as the command lines: one answers from what the other made."""
    made = synthbench.run("procedural", protocol="tiny.yaml", settings={"sample": {"difficulty": 0.5}}, runs="r", tracking=False)
    assert made["settings"] == {"sample": {"difficulty": 0.5}} and made["volume"] == "6x4"
    assert re.fullmatch(r"<run procedural-6x4-tiny-\w{8}: procedural 6x4, protocol tiny, 1 seed, AVG .* %>", repr(made))
    assert json.loads(json.dumps(made)) == made
    again = synthbench.run("procedural", protocol="tiny.yaml", settings=["sample.difficulty=0.5"], runs="r", tracking=False)
    assert again["scores"] == made["scores"] and {stage["state"] for stage in again["stages"]} == {"cached"}
    compared = synthbench.compare("real", "procedural sample.difficulty=0.5", protocol="tiny.yaml", runs="r", tracking=False)
    assert [row["run"] for row in compared["rows"]][1] == made["run"] and repr(compared).startswith("<comparison ")
    assert set(synthbench.load_scores("latest", "r").generator) == {"procedural", "real"}  # the run that was asked for, not the baseline
    assert "latest is run procedural-6x4-tiny-" in capsys.readouterr().err
    stopped = synthbench.run("procedural", protocol="tiny.yaml", runs="r", until="real", tracking=False)
    assert stopped == {"run": None, "until": "real"} and repr(stopped) == "<stopped after real>"
    with pytest.raises(UserError, match="unknown generator 'procedual'"):
        synthbench.run("procedual", protocol="tiny.yaml", runs="r")


def test_settings_are_those_of_the_command_line():
    given = {
        "sample.m": [0, 0.5],
        "train": {"lr": 1e-4, "unet": {"patch": 2}},
        "enroll": {"source": "real"},
        "sample": {"w": np.float32(2)},
    }
    assert parse_set(api._texts(given)).data == {
        "sample": {"m": [0, 0.5], "w": 2.0},
        "train": {"lr": 1e-4, "unet": {"patch": 2}},
        "enroll": {"source": "real"},
    }


def test_values_say_in_a_line_what_they_are(runs):
    faces = synthbench.open_dataset("cemiface", runs)
    assert repr(faces) == "<faces: 6 images of 3 identities, 16 px>"
    assert repr(Volume.parse("200x20")) == "<volume 200x20: 4,000 images of 200 identities>"
    assert repr(load_protocol("demo")).startswith("<protocol demo 3: the embedded world") and "\n" not in repr(load_protocol("paper"))
    encoder = Encoder(build({"family": "small", "width": 8, "blocks": [0, 0, 0], "dropout": 0.0}, 32, 16), resolution=32, dim=16, name="e")
    assert re.fullmatch(r"<encoder e: 32 px to 16 numbers, [\d.]+ M parameters, on cpu>", repr(encoder))


@pytest.mark.parametrize("place", [NOTEBOOK.parent, NOTEBOOK.parents[1]])
def test_the_notebook_runs(runs, place, monkeypatch, capsys):
    """Its cells in order, in one namespace: what a kernel does with plain Python; from its own folder, and from above."""
    import matplotlib

    matplotlib.use("Agg")
    compare.compare(compare.Request((), runs, tracking=False))
    monkeypatch.setenv("SYNTHBENCH_RUNS", str(runs))
    monkeypatch.setenv("SYNTHBENCH_QUIET", "")  # which the notebook sets for itself
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*.json")}
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))
    assert notebook["nbformat"] == 4
    monkeypatch.chdir(place)
    names: dict = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), str(NOTEBOOK), "exec"), names)
    told = capsys.readouterr().out
    assert repr(names["faces"]).startswith("<faces: 6 images of 3 identities") and "points" in told
    assert before == {path: path.stat().st_mtime_ns for path in before}  # it only reads


def test_the_notebook_ships_with_small_outputs_of_no_machine():
    """jupyter nbconvert --to notebook --execute --inplace explore.ipynb, in examples/ without a runs folder."""
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] and cell["execution_count"] for cell in code) and NOTEBOOK.stat().st_size < 250_000
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    texts = json.dumps([{**output, "data": {k: v for k, v in output.get("data", {}).items() if k != "image/png"}} for output in outputs])
    assert not re.search(r"(?<![\w.])/(root|home|work|tmp|mnt|Users)/\w", texts)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2


def test_the_notebooks_protocol_is_small():
    protocol = load_protocol(str(NOTEBOOK.parent / "small.yaml"))
    assert not protocol.sources() and Volume.parse(protocol.volume).images <= 300
