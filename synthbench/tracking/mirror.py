"""What MLflow shows of the runs folder. Files are the truth: a mirror that failed or was lost is made again by `synthbench sync`.

experiment synthbench          a run per (generator, volume, protocol, seed): settings, scores, data, samples, the recognizer;
                               a parent run with children per comparison and sweep
experiment synthbench-stages   a run per stage that was built: cost and training curves; result runs name their stages in tags
"""

from __future__ import annotations

import contextlib
import platform
import re
import subprocess
import time
from calendar import timegm
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthbench import console
from synthbench.results import leak
from synthbench.results.comparable import sides
from synthbench.results.record import Result, cell, read_run, training_log
from synthbench.store import Store, content_key, is_number, json_lines, read_json
from synthbench.tracking import client as mlflow_client
from synthbench.tracking.client import RESULTS, STAGES, Data
from synthbench.types import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

POINTS = 1000  # of a curve; a longer one is thinned


def add(store: Store, result: Result) -> None:
    """Log a complete result and its stages to MLflow. Never raises: a failure is a warning, and the run is unharmed."""
    try:
        with mlflow_client.opened(store.root) as client:
            _mirror(client, store, result, _system(result))
    except Exception as error:
        console.warn(
            f"not mirrored to MLflow ({mlflow_client.reason(error)}). The result is unharmed, in {store.root / 'results' / result['run']}; "
            f"to mirror it later: synthbench sync --runs {store.root}"
        )


def mirror_group(store: Store, path: Path) -> None:
    """Log a comparison.json or sweep.json as a parent run with children. Never raises, as `mirror`."""
    from synthbench.tracking import groups as mlflow_groups

    try:
        with mlflow_client.opened(store.root) as client:
            mlflow_groups.log_group(client, path)
    except Exception as error:
        console.warn(
            f"not mirrored to MLflow ({mlflow_client.reason(error)}). {path} is unharmed; "
            f"to mirror it later: synthbench sync --runs {store.root}"
        )


def synchronise(store: Store) -> int:
    """Mirror the results in the runs folder that MLflow does not have, and comparisons and sweeps. Returns how many runs were added.

    Raises UserError when MLflow cannot be written.
    """
    from synthbench.tracking import groups as mlflow_groups

    paths = sorted((store.root / "results").glob("*/run.json"), key=lambda path: path.stat().st_mtime)
    groups = mlflow_groups.paths(store.root)
    if not paths and not groups:
        return 0
    with _explained(store.root), mlflow_client.opened(store.root) as client:
        new = sum(_mirror(client, store, result, {}) for result in map(read_run, paths) if result)
        return new + sum(mlflow_groups.log_group(client, path) for path in groups)


@contextlib.contextmanager
def _explained(runs: Path) -> Any:
    try:
        yield
    except Exception as error:
        where = mlflow_client.without_password(mlflow_client.place(runs))
        ours = where.startswith("sqlite") and not isinstance(error, OSError)
        hint = f". If {runs / 'mlflow.db'} is damaged, delete it: synthbench sync makes it again" if ours else ""
        raise UserError(f"MLflow at {where} cannot be used: {mlflow_client.reason(error)}{hint}") from None


def ui(runs: Path, port: int) -> None:
    """Serve MLflow on loopback until Ctrl-C, and print the link that opens on the runs: its own front page shows none.

    Raises UserError when the port is taken or the server dies. Where MLFLOW_TRACKING_URI is a server, only its link is printed.
    """
    from synthbench.tracking import server

    if not (runs / "results").is_dir():
        console.note(f"there are no runs in {runs} yet")

    def page() -> str:
        with _explained(runs), mlflow_client.opened(runs) as client:
            return mlflow_client.runs_page(client)

    uri = mlflow_client.place(runs)
    if uri.startswith("http"):
        console.note(mlflow_client.without_password(uri).rstrip("/") + page())
    else:
        if uri != f"sqlite:///{runs / 'mlflow.db'}" or not (runs / "mlflow.db").is_file():
            page()  # two processes that create one database destroy it
        server.serve(uri, runs, port, page)


# ----------------------------------------------------------------------------------------------------------- results


def _mirror(client: MlflowClient, store: Store, result: Result, system: dict[str, str]) -> int:
    """Log what MLflow does not have of a result; returns the number of its seeds that were new.

    `system`: tags of the machine that made the result; empty when it is not known any more.
    """
    for row in result["stages"]:
        _mirror_stage(client, store, row, system if row["state"] != "cached" else {})
    new = 0
    for seed, stages in _stages_of_seeds(result).items():
        scores = [score for score in result["scores"] if score["seed"] == seed]
        tags = {"run": result["run"], "seed": seed, "digest": content_key({"scores": scores})}
        if not mlflow_client.known(client, RESULTS, tags):
            _mirror_seed(client, store, result, stages, scores, {**tags, **system})
            new += 1
    return new


def _stages_of_seeds(result: Result) -> dict[int, dict[str, str]]:
    """Stage name -> key, for each seed. The rows go seed by seed, each closed by its `evaluate`, with shared stages named once."""
    closing = 2 if result["baseline"] else 1  # the baseline's evaluate comes before the run's own
    seeds, seen = iter(result["seeds"]), 0
    found = sides(result)
    others = {row["key"] for row in (*found["real"], *found["parts"])}
    current: dict[str, str] = {}
    stages: dict[int, dict[str, str]] = {}
    for row in result["stages"]:
        if row["key"] not in others:
            current[row["name"]] = row["key"]
        if row["name"] == "evaluate":
            seen += 1
            if seen % closing == 0:
                stages[next(seeds)] = dict(current)
    return stages


def _mirror_seed(
    client: MlflowClient, store: Store, result: Result, stages: dict[str, str], scores: list[Any], tags: dict[str, Any]
) -> None:
    manifests = {name: store.stage(name, key).manifest() or {} for name, key in stages.items()}
    name, end, cost = f"{result['run']}-seed{tags['seed']}", _finished(manifests["evaluate"]), result["cost"]
    about = {"generator": result["generator"], "volume": result["volume"], "protocol": result["protocol"], "seed": tags["seed"]}
    tags = {**tags, **about, "kind": "result", "version": result["synthbench"], **{f"stage.{item}": key for item, key in stages.items()}}
    with mlflow_client.new_run(client, RESULTS, name, end - cost["wall_seconds"], end, tags) as run:
        sets = _data(store, stages, manifests, scores)
        mlflow_client.log_inputs(client, run, sets.values())
        folder, recipe = store.stage("recognizer", stages["recognizer"]).folder, manifests["recognizer"].get("work", "")
        model = mlflow_client.log_model(client, run, f"recognizer-{name}", folder, {**about, "recipe": recipe})
        numbers = [number for score in scores for number in _numbers(score, end, sets, model)]
        values = {score["metric"]: score["value"] for score in scores}
        chance = leak.chance({"scores": scores})
        short = {
            mlflow_client.AVG: values.get("verification/avg/accuracy"),
            mlflow_client.GAP: values.get("gap_to_real/points"),
            "leak": values.get(leak.SHARE) if chance is not None and chance <= leak.LIMIT else None,
            "leak_chance": chance,
            "images_per_second": manifests["generate"].get("images_per_second"),
            # of the run's stages, whenever they were built
            "cpu_hours" if cost["device"] == "cpu" else "gpu_hours": sum(item.get("seconds", 0) for item in manifests.values()) / 3600,
        }
        more = {key: result[key] for key in ("title", "settings", "traits", "digests", "command")}
        mlflow_client.log(client, run, {**about, **more}, numbers + mlflow_client.metrics(short, end))
        client.set_tag(run, mlflow_client.NOTE, _description(result, scores))
        client.log_dict(run, result, "run.json")
        samples = store.root / "results" / result["run"] / "samples.png"
        if samples.is_file():
            mlflow_client.log_picture(client, run, samples)


def _description(result: Result, scores: list[Any]) -> str:
    """A line about a run of one seed."""
    one = {**result, "scores": scores}
    found = [
        f"{name} {text}{unit}"
        for name, metric, unit in (("AVG", "verification/avg/accuracy", " %"), ("gap to real", "gap_to_real/points", " points"))
        if (text := cell(one, metric)) != "-"
    ]
    about = f"{result['generator']} {result['volume']}, protocol {result['protocol']}"
    return f"{about}: {', '.join(found)}. {result['title']}" if found else f"{about}. {result['title']}"


def _data(store: Store, stages: dict[str, str], manifests: dict[str, Any], scores: list[Any]) -> dict[str, Data]:
    """`faces` (generated), `real`, and the benchmarks by name. MLflow takes digests of up to 36 characters."""
    generate, real, benchmarks = (store.stage(name, stages[name]) for name in ("generate", "real", "benchmarks"))
    sets = {
        "faces": Data("generated faces", (manifests["generate"].get("digest") or generate.key)[:32], generate.folder, "training"),
        "real": Data("real faces", (manifests["real"].get("digest") or real.key)[:32], real.folder, "reference"),
    }
    for score in scores:
        match = re.fullmatch(r"verification/(.+)/accuracy", score["metric"])
        if match and match[1] != "avg":
            folder = benchmarks.folder / match[1]
            about = read_json(folder / "pairs.json")
            digest = about.get("digest") if isinstance(about, dict) else None
            sets[match[1]] = Data(match[1], str(digest or benchmarks.key)[:32], folder, "evaluation")
    return sets


def _numbers(score: dict[str, Any], end: float, sets: dict[str, Data], model: str) -> list[Metric]:
    """A score and its error, tied to what they were measured on: the recognizer and a benchmark, or the generated faces."""
    group, _, rest = score["metric"].partition("/")
    data: Data | None = sets["faces"]
    links: dict[str, Any] = {}
    if group in ("verification", "gap_to_real"):
        links["model_id"] = model
        data = sets.get(rest.partition("/")[0])  # none for a mean over benchmarks
    if data:
        links |= {"dataset_name": data.name, "dataset_digest": data.digest}
    return mlflow_client.metrics({score["metric"]: score["value"], f"{score['metric']}/stderr": score["stderr"]}, end, **links)


# ------------------------------------------------------------------------------------------------------------ stages


def _mirror_stage(client: MlflowClient, store: Store, row: dict[str, Any], system: dict[str, str]) -> None:
    """One stage run, unless this build of the stage is in MLflow. A stage that an interrupted run built is logged here too."""
    stage = store.stage(row["name"], row["key"])
    manifest = stage.manifest()
    tags = {"key": stage.key, "built": manifest and manifest["finished"]}
    if not manifest or mlflow_client.known(client, STAGES, tags):
        return
    end = _finished(manifest)
    tags |= {"kind": "stage", "stage": stage.name, "version": manifest["synthbench"], **system}
    with mlflow_client.new_run(client, STAGES, f"{stage.name}-{stage.key[:8]}", end - manifest["seconds"], end, tags) as run:
        facts = {name: value for name, value in manifest.items() if name not in ("files", "samples")}
        facts["bytes"] = sum(manifest["files"].values())
        cost = {name: manifest.get(name) for name in ("seconds", "images_per_second")}
        mlflow_client.log(client, run, facts, mlflow_client.metrics(cost, end) + _curves(training_log(stage.folder), end))


def _curves(path: Path, end: float) -> list[Metric]:
    """The lines {"step": n, NAME: value, ...} of a log. A resumed stage repeats steps: the last of each counts."""
    lines: dict[int, dict[str, Any]] = {}
    for line in json_lines(path):
        if is_number(line.get("step")):
            lines[int(line.pop("step"))] = line
    steps = sorted(lines)
    kept = steps[:: max(1, -(-len(steps) // POINTS))]
    kept[-1:] = steps[-1:]
    return [number for step in kept for number in mlflow_client.metrics(lines[step], end, step)]


# ------------------------------------------------------------------------------------------------------------- facts


def _finished(manifest: dict[str, Any]) -> float:
    """When a stage was finished, in seconds since 1970."""
    return timegm(time.strptime(manifest["finished"], "%Y-%m-%dT%H:%M:%SZ"))


def _system(result: Result) -> dict[str, str]:
    """Tags of the machine and the software that this process is."""
    import torch

    from synthbench.device import pick_device

    facts = {"device": pick_device(result["cost"]["device"])[1], "python": platform.python_version(), "torch": torch.__version__}
    package = Path(__file__).parents[1]
    if (package.parent / ".git").exists():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = ["git", "-C", str(package), "rev-parse", "HEAD"]
            facts["git"] = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return facts
