"""The Python API reads what runs left behind, and the notebook that uses it runs from top to bottom."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_runs import make_run

import synthbench
from synthbench.data.shards import ShardWriter
from synthbench.pipeline import compare
from synthbench.types import FaceBatch, UserError

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
    with pytest.raises(AttributeError, match="load_run"):
        synthbench.load_run  # noqa: B018


def test_the_package_stays_light():
    code = "import sys, synthbench; print('pandas' in sys.modules); synthbench.load_runs; print('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\nTrue\n"


def test_the_notebook_runs(runs, monkeypatch, capsys):
    """Its cells in order, in one namespace: what a kernel does with plain Python."""
    import matplotlib

    matplotlib.use("Agg")
    compare.compare(compare.Request((), runs, tracking=False))
    monkeypatch.setenv("SYNTHBENCH_RUNS", str(runs))
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*.json")}
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))
    assert notebook["nbformat"] == 4 and not any(cell.get("outputs") for cell in notebook["cells"])
    names: dict = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), str(NOTEBOOK), "exec"), names)
    told = capsys.readouterr().out
    assert "6 images of 3 identities" in told and "points" in told
    assert before == {path: path.stat().st_mtime_ns for path in before}  # it only reads
