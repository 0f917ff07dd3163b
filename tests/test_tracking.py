"""The MLflow mirror: what is logged, once only, and that its failures harm nothing."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from synthbench.store import Store, write_json
from synthbench.tracking import client as mlflow_client
from synthbench.tracking import mirror, server
from synthbench.types import UserError

mlflow = pytest.importorskip("mlflow")


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def stage(store: Store, name: str, key: str, files: dict[str, str] | None = None, **facts) -> dict:
    """A finished stage on disk; returns its row of the result."""
    made = store.stage(name, key)
    with made.building() as manifest:
        manifest.update({"work": f"work of {name}", "label": f"{name} 32 cpu", "amount": 10, **facts})
        for path, text in (files or {}).items():
            (made.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (made.folder / path).write_text(text)
    return {"name": name, "key": key, "state": "run", "seconds": 1.0}


def make(root: Path, seeds: int = 1) -> tuple[Store, dict]:
    """A runs folder with one result of a generator with a baseline."""
    store = Store(root)
    log = "".join(json.dumps({"step": i, "loss": 1 / (i + 1)}) + "\n" for i in [*range(2500), 2499]) + '{"step": 25'
    rows = [
        stage(store, "real", "real0", digest="r" * 64),
        stage(store, "benchmarks", "bench0", {"world-mixed/pairs.json": json.dumps({"digest": "b" * 64})}),
        stage(store, "generate", "base-generate"),
    ]
    for seed in range(seeds):
        rows.append(stage(store, "recognizer", f"base-recognizer{seed}"))
        rows.append(stage(store, "evaluate", f"base-evaluate{seed}"))
        rows.append(stage(store, "train", f"train{seed}", {"metrics.jsonl": log}))
        rows.append(stage(store, "generate", f"generate{seed}", digest="f" * 64))
        rows.append(stage(store, "recognizer", f"recognizer{seed}"))
        rows.append(stage(store, "evaluate", f"evaluate{seed}"))
    scores = [
        {"metric": "verification/world-mixed/accuracy", "value": 90.0, "stderr": 0.5, "n": 100, "higher_is_better": True},
        {"metric": "verification/avg/accuracy", "value": 88.5, "stderr": 0.2, "n": 100, "higher_is_better": True},
        {"metric": "leakage/image_to_image/share_above", "value": 0.02, "stderr": 0.01, "n": 100, "higher_is_better": False},
        {"metric": "leakage/held_out/image_to_image/share_above", "value": 0.005, "stderr": None, "n": 100, "higher_is_better": False},
        {"metric": "gap_to_real/points", "value": 4.25, "stderr": None, "n": 100, "higher_is_better": False},
        {"metric": "verification/world-mixed/tar@far=1e-4 (%)", "value": 50.0, "stderr": None, "n": 100, "higher_is_better": True},
    ]
    result = {
        "run": "cemiface-20x4-demo-12345678",
        "generator": "cemiface",
        "volume": "20x4",
        "protocol": "demo",
        "title": "the embedded world",
        "seeds": list(range(seeds)),
        "scores": [{**score, "seed": seed} for seed in range(seeds) for score in scores],
        "skipped": [],
        "stages": rows,
        "artifacts": {},
        "baseline": {"generator": "real", "volume": "all", "protocol": "demo", "seeds": list(range(seeds)), "scores": []},
        "settings": {"train": {"lr": 1e-4, "note": "x" * 7000}, "sample": {"m": [-1, 1]}, **{f"s{i}": i for i in range(120)}},
        "traits": {"finite": False},
        "digests": {"faces": None},
        "cost": {"wall_seconds": 12.0, "device": "cpu", "images_per_second": 9.0},
        "synthbench": "0.1",
        "command": "synthbench run cemiface",
    }
    folder = root / "results" / result["run"]
    folder.mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(folder / "samples.png")
    write_json(folder / "run.json", result)
    return store, result


def runs_of(root: Path, experiment: str) -> list:
    client = mlflow.MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory) -> tuple[Store, dict]:
    """Two seeds, mirrored three times over."""
    store, result = make(tmp_path_factory.mktemp("runs"), seeds=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with mlflow_client.opened(store.root):
            shutil.copy(store.root / "mlflow.db", store.root / "empty.db")
        mirror.add(store, result)
        mirror.add(store, result)
        assert mirror.synchronise(store) == 0
    return store, result


@pytest.fixture
def ready(mirrored, tmp_path) -> tuple[Store, dict]:
    """A result, and an empty MLflow database: a copy, because a new one takes seconds."""
    store, result = make(tmp_path)
    shutil.copy(mirrored[0].root / "empty.db", tmp_path / "mlflow.db")
    return store, result


def test_one_run_for_each_seed_with_tags_params_metrics_and_artifacts(mirrored):
    store, result = mirrored
    runs = {run.data.tags["synthbench.seed"]: run for run in runs_of(store.root, "synthbench")}
    assert len(runs_of(store.root, "synthbench")) == 2 and set(runs) == {"0", "1"}
    tags, params, metrics = runs["1"].data.tags, runs["1"].data.params, runs["1"].data.metrics
    assert runs["1"].info.run_name == "cemiface-20x4-demo-12345678-seed1" and runs["1"].info.status == "FINISHED"
    assert tags["synthbench.stage.recognizer"] == "recognizer1"  # its own, not the baseline's
    assert tags["synthbench.stage.generate"] == "generate1" and tags["synthbench.stage.real"] == "real0"
    assert runs["0"].data.tags["synthbench.stage.evaluate"] == "evaluate0"
    assert {"synthbench.host", "synthbench.pid", "synthbench.version", "synthbench.kind", "synthbench.torch"} <= set(tags)
    assert params["settings.train.lr"] == "0.0001" and params["settings.sample.m"] == "[-1, 1]" and params["settings.s119"] == "119"
    assert len(params["settings.train.note"]) == 6000
    assert (metrics["leak"], metrics["leak_chance"]) == (0.02, 0.005)  # a share and that of strangers, beside each other
    assert metrics["AVG"] == 88.5 and metrics["gap to real"] == 4.25 and metrics["verification/world-mixed/accuracy/stderr"] == 0.5
    assert metrics["verification/world-mixed/tar_far_1e-4 ___"] == 50.0
    assert metrics["cpu_hours"] >= 0 and "gpu_hours" not in metrics and "gap_to_real/points/stderr" not in metrics
    client = mlflow.MlflowClient(f"sqlite:///{store.root / 'mlflow.db'}")
    paths = {item.path for item in client.list_artifacts(runs["1"].info.run_id)}
    assert {"run.json", "samples.png", "images"} <= paths
    saved = store.root / "mlflow-artifacts" / "synthbench" / runs["1"].info.run_id / "artifacts" / "run.json"
    assert json.loads(saved.read_text()) == result


def test_data_and_recognizer_are_linked_to_the_scores(mirrored):
    store, _ = mirrored
    run = runs_of(store.root, "synthbench")[0]
    inputs = {item.dataset.name: (item.dataset.digest, item.tags[0].value) for item in run.inputs.dataset_inputs}
    assert inputs == {
        "generated faces": ("f" * 32, "training"),
        "real faces": ("r" * 32, "reference"),
        "world-mixed": ("b" * 32, "evaluation"),
    }
    client = mlflow.MlflowClient(f"sqlite:///{store.root / 'mlflow.db'}")
    models = client.search_logged_models([run.info.experiment_id])
    assert len(models) == 2 and {model.model_type for model in models} == {"recognizer"}
    own = next(model for model in models if model.source_run_id == run.info.run_id)
    found = {metric.key: metric for metric in own.metrics}
    assert found["verification/world-mixed/accuracy"].dataset_digest == "b" * 32
    assert found["verification/avg/accuracy"].value == 88.5 and found["verification/avg/accuracy"].dataset_name is None


def test_each_build_of_a_stage_is_one_run_with_its_curve(mirrored):
    store, result = mirrored
    runs = runs_of(store.root, "synthbench-stages")
    assert sorted(run.data.tags["synthbench.key"] for run in runs) == sorted(row["key"] for row in result["stages"])
    train = next(run for run in runs if run.data.tags["synthbench.key"] == "train0")
    assert train.data.params["work"] == "work of train" and train.data.params["amount"] == "10" and "seconds" in train.data.metrics
    client = mlflow.MlflowClient(f"sqlite:///{store.root / 'mlflow.db'}")
    curve = client.get_metric_history(train.info.run_id, "loss")
    steps = [point.step for point in curve]
    assert len(set(steps)) == len(steps) <= mirror.POINTS and steps[0] == 0 and steps[-1] == 2499
    assert all(point.value == 1 / (point.step + 1) for point in curve)


def test_a_stage_built_again_is_another_run_and_changed_scores_too(ready, tmp_path):
    store, result = ready
    mirror.add(store, result)
    manifest = store.stage("train", "train0").manifest()
    write_json(store.stage("train", "train0").folder / "manifest.json", {**manifest, "finished": "2030-01-01T00:00:00Z"})
    result["scores"][0]["value"] = 91.0
    mirror.add(store, result)
    assert len(runs_of(tmp_path, "synthbench")) == 2
    assert len(runs_of(tmp_path, "synthbench-stages")) == len(result["stages"]) + 1


def test_a_lost_mirror_is_made_again_from_files(ready, tmp_path):
    store, result = ready
    assert mirror.synchronise(store) == 1
    assert len(runs_of(tmp_path, "synthbench-stages")) == len(result["stages"])
    assert mirror.synchronise(store) == 0
    assert mirror.synchronise(Store(tmp_path / "empty")) == 0


def test_a_run_of_a_dead_process_is_killed_and_mirrored_again(ready, tmp_path):
    store, result = ready
    with mlflow_client.opened(tmp_path) as client:
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        tags = {"synthbench.run": result["run"], "synthbench.seed": "0", "synthbench.host": platform.node()}
        where = mlflow_client.experiment(client, "synthbench")
        client.create_run(where, tags={**tags, "synthbench.pid": str(dead.pid)})
        client.create_run(where, tags={**tags, "synthbench.pid": str(os.getpid())})
    mirror.add(store, result)
    assert sorted(run.info.status for run in runs_of(tmp_path, "synthbench")) == ["FINISHED", "KILLED", "RUNNING"]


def test_a_mirror_that_fails_half_way_warns_once_and_is_completed_later(ready, tmp_path, monkeypatch, capsys):
    store, result = ready
    with monkeypatch.context() as patch:
        patch.setattr(mlflow_client, "log_model", lambda *_: 1 / 0)
        mirror.add(store, result)
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1 and "ZeroDivisionError" in warning and f"synthbench sync --runs {tmp_path}" in warning
    assert mirror.synchronise(store) == 1
    assert sorted(run.info.status for run in runs_of(tmp_path, "synthbench")) == ["FAILED", "FINISHED"]
    assert "MLFLOW_TRACKING_URI" not in os.environ


@pytest.mark.parametrize(
    "uri",
    ["sqlite:////proc/no/mlflow.db", "http://127.0.0.1:9", "postgresql://me:secret@127.0.0.1:9/x", "nonsense://x", "./mlruns"],
)
def test_a_store_that_cannot_be_used_is_a_warning(tmp_path, monkeypatch, capsys, uri):
    store, result = make(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    start = time.monotonic()
    mirror.add(store, result)
    warning = capsys.readouterr().err
    assert "not mirrored to MLflow" in warning and "secret" not in warning and len(warning) < 800
    assert time.monotonic() - start < 15
    assert os.environ["MLFLOW_TRACKING_URI"] == uri
    with pytest.raises(UserError, match="cannot be used"):
        mirror.synchronise(store)


def test_without_mlflow_or_without_room_the_run_is_unharmed(tmp_path, monkeypatch, capsys):
    store, result = make(tmp_path)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "mlflow", None)
        mirror.add(store, result)
    assert "not mirrored" in capsys.readouterr().err
    (tmp_path / "mlflow.db").write_text("this is no database")
    mirror.add(store, result)
    assert "not mirrored" in capsys.readouterr().err


CHILD = "import sys; from pathlib import Path; from synthbench.tracking import client\nwith client.opened(Path(sys.argv[1])): pass"


@pytest.mark.slow
def test_processes_that_create_the_database_together(tmp_path):
    children = [subprocess.Popen([sys.executable, "-c", CHILD, tmp_path], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [child.communicate(timeout=120)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0, 0] and said == ["", "", ""]  # and quietly
    assert runs_of(tmp_path, "synthbench") == []


def test_names_that_mlflow_refuses_are_mended():
    assert mlflow_client.allowed("verification/lfw/accuracy") == "verification/lfw/accuracy"
    assert mlflow_client.allowed("/a//b/../é@") == "a/b/_/__"
    assert [metric.key for metric in mlflow_client.metrics({"a": 1, "b": math.nan, "c": math.inf, "d": None, "e": "x"}, 0)] == ["a"]


def test_imports_of_the_module_are_light():
    code = "import sys, synthbench.tracking; sys.exit('mlflow' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_ui_refuses_a_port_in_use(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="--port"):
            server.serve("sqlite://", tmp_path, taken.getsockname()[1], lambda: "/")
    with pytest.raises(UserError, match="--port"):
        server.serve("sqlite://", tmp_path, 70_000, lambda: "/")


@pytest.mark.slow
def test_ui_answers_shows_the_runs_and_ends_with_ctrl_c(mirrored):
    store, _ = mirrored
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = "import sys; from pathlib import Path; from synthbench.tracking import mirror; mirror.ui(Path(sys.argv[1]), int(sys.argv[2]))"
    child = subprocess.Popen([sys.executable, "-c", code, store.root, str(port)], stderr=subprocess.PIPE, text=True)
    try:
        assert "starting" in child.stderr.readline()
        link = child.stderr.readline().split()[0]
        experiment = runs_of(store.root, "synthbench")[0].info.experiment_id
        page = f"/#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey=synthbench"
        assert link == f"http://127.0.0.1:{port}{page}"
        ask = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get?experiment_id={experiment}"
        with urllib.request.urlopen(ask, timeout=30) as about:
            tags = {tag["key"]: tag["value"] for tag in json.loads(about.read())["experiment"]["tags"]}
        assert {"metrics.`AVG`", "metrics.`gap to real`", "attributes.`Description`"} <= set(
            json.loads(tags["mlflow.sharedViewState.synthbench"])["selectedColumns"]
        )
        base = f"http://127.0.0.1:{port}"
        with urllib.request.urlopen(base + "/", timeout=30) as page:
            assert page.status == 200 and b"<html" in page.read()
        run = runs_of(store.root, "synthbench")[0].info.run_id
        with urllib.request.urlopen(f"{base}/get-artifact?path=samples.png&run_uuid={run}", timeout=30) as picture:
            assert picture.read(4) == b"\x89PNG"
    finally:
        child.send_signal(signal.SIGINT)
        rest = child.communicate(timeout=30)[1]
    assert child.returncode == 0 and "stopped" in rest
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))  # nobody is left on it


# --------------------------------------------------------------------------------------------- comparisons and sweeps


def write_group(root: Path, value: float = 80.0) -> Path:
    """A comparison of two rows, of which the first is the best."""
    cell = {"value": value, "sampling_stderr": 0.5, "seed_std": None, "low": 79.0, "high": 81.0, "n": 1, "best": True, "tied": False}
    about = {"volume": "20x4", "seeds": 1}
    one = {"run": "one-1", **about, "label": "one 20x4", "generator": "one", "cells": {"verification/avg/accuracy": cell}}
    two = {"run": "two-2", **about, "label": "two m=[0, 1]", "generator": "two", "cells": {"verification/avg/accuracy": None}}
    folder = root / "comparisons" / "mine"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.csv").write_text("a,b\n")
    data = {"comparison": "mine", "protocol": "demo", "volume": "20x4", "seeds": [0], "runs": ["one-1", "two-2"], "baseline": "one-1"}
    data |= {"columns": [{"metric": "verification/avg/accuracy", "title": "AVG"}], "rows": [one, two], "differences": []}
    data |= {"detectable_points": 1.5, "command": "synthbench"}
    write_json(folder / "comparison.json", data)
    return folder / "comparison.json"


def test_a_comparison_is_a_parent_with_its_best_row_s_numbers_and_a_child_per_row(ready):
    store, _ = ready
    path = write_group(store.root)
    mirror.mirror_group(store, path)
    runs = {run.info.run_name: run for run in runs_of(store.root, "synthbench")}
    assert set(runs) == {"mine", "one 20x4", "two m=[0, 1]"}
    parent, child = runs["mine"], runs["one 20x4"]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id and parent.data.tags["synthbench.kind"] == "comparison"
    assert parent.data.metrics["verification/avg/accuracy"] == 80 and parent.data.metrics["detectable_points"] == 1.5
    assert child.data.metrics["verification/avg/accuracy/low"] == 79 and not runs["two m=[0, 1]"].data.metrics
    client = mlflow.MlflowClient(f"sqlite:///{store.root / 'mlflow.db'}")
    assert {item.path for item in client.list_artifacts(parent.info.run_id)} == {"comparison.json", "table.csv"}


def test_a_comparison_is_logged_once_and_replaced_when_it_changed(ready):
    store, _ = ready
    mirror.mirror_group(store, write_group(store.root))
    mirror.mirror_group(store, write_group(store.root))
    assert len(runs_of(store.root, "synthbench")) == 3
    mirror.mirror_group(store, write_group(store.root, 85.0))
    assert len(runs_of(store.root, "synthbench")) == 3
    (parent,) = (run for run in runs_of(store.root, "synthbench") if run.info.run_name == "mine")
    assert parent.data.metrics["verification/avg/accuracy"] == 85


def test_sync_logs_comparisons_and_sweeps_and_leaves_out_what_is_damaged(ready):
    store, _ = ready
    shutil.rmtree(store.root / "results")
    write_group(store.root)
    points = [
        {"values": {"sample.m": 0.0}, "runs": ["r0"], "state": "complete", "scores": {"verification/avg/accuracy": {"value": 70.0}}},
        {"values": {"sample.m": 1.0}, "runs": [], "state": "failed", "scores": {}},
    ]
    about = {"generator": "cemiface", "volume": "20x4", "protocol": "demo", "seeds": [0], "parameters": ["sample.m"]}
    for name, data in (("m", {"sweep": "m", **about, "points": points, "best": 0, "statement": "flat"}), ("bad", {"sweep": "other"})):
        (store.root / "sweeps" / name).mkdir(parents=True)
        write_json(store.root / "sweeps" / name / "sweep.json", data)
    (store.root / "comparisons" / "half").mkdir()
    (store.root / "comparisons" / "half" / "comparison.json").write_text("{")
    assert mirror.synchronise(store) == 2 and mirror.synchronise(store) == 0
    runs = {run.info.run_name: run for run in runs_of(store.root, "synthbench")}
    assert {"m", "m=0.0", "m=1.0", "mine"} <= set(runs) and "bad" not in runs
    assert runs["m"].data.metrics["verification/avg/accuracy"] == 70 and runs["m"].data.params["statement"] == "flat"
    assert runs["m=1.0"].data.tags["synthbench.state"] == "failed"


def test_a_failure_to_log_a_comparison_is_a_warning(tmp_path, monkeypatch, capsys):
    path = write_group(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    mirror.mirror_group(Store(tmp_path), path)
    assert "not mirrored to MLflow" in capsys.readouterr().err and path.is_file()


def test_a_folder_whose_name_cannot_be_in_a_uri(tmp_path, capsys):
    """SQLAlchemy would open another file, in a folder that MLflow makes for it."""
    store = Store(tmp_path / "50% off?")
    result = {"run": "r", "cost": {"device": "cpu"}}
    mirror.add(store, result)
    assert "not mirrored to MLflow" in capsys.readouterr().err
    (store.root / "results" / "r").mkdir(parents=True)
    (store.root / "results" / "r" / "run.json").write_text("{}")
    with pytest.raises(UserError, match="no database in a folder with % or"):
        mirror.synchronise(store)
    assert [path.name for path in tmp_path.iterdir()] == ["50% off?"]
