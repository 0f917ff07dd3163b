"""MLflow's side of the mirror, and its traps. The only file that imports mlflow (two seconds: only inside functions).

The tracking store is <runs>/mlflow.db with artifacts in <runs>/mlflow-artifacts, unless MLFLOW_TRACKING_URI names another.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import platform
import posixpath
import re
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from synthbench.system import lives, locked
from synthbench.types import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

RESULTS, STAGES = "synthbench", "synthbench-stages"  # experiments
AVG, GAP = "AVG", "gap to real"  # metrics of every run and comparison, for the list of runs
NOTE = "mlflow.note.content"  # the tag that MLflow shows as description
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # a server that is down is noticed in seconds, not in minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds
}


def place(root: Path) -> str:
    """The tracking URI for the runs folder `root`. Raises UserError when its name cannot be part of one."""
    if wish := os.environ.get("MLFLOW_TRACKING_URI"):
        return wish
    if {"%", "?"} & set(str(root)):  # SQLAlchemy would take them for escapes and a query; quoted, MLflow makes folders of those names
        raise UserError(f"{root}: MLflow opens no database in a folder with % or ? in its name; rename it, or set MLFLOW_TRACKING_URI")
    return f"sqlite:///{root / 'mlflow.db'}"


def without_password(text: str) -> str:
    return re.sub(r"://[^/@\s]*@", "://***@", text)


def reason(error: Exception) -> str:
    """The first line of an error; SQLAlchemy and requests write pages."""
    lines = str(error).strip().splitlines() or ["no message"]
    return without_password(f"{type(error).__name__}: {lines[0]}")[:300]


@contextlib.contextmanager
def opened(root: Path) -> Iterator[MlflowClient]:
    """A client of a store that is there, has the two experiments, and is written by one process at a time.

    The lock also makes searching for an earlier mirror and logging a new one a single act.
    """
    root.mkdir(parents=True, exist_ok=True)
    uri, wish = place(root), os.environ.get("MLFLOW_TRACKING_URI")
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with locked(root / "mlflow.lock"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*noload", module="mlflow")  # SQLAlchemy 2.1 about MLflow 3
        import mlflow
        from mlflow.store.db import utils

        logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"].upper())
        utils.MAX_RETRY_COUNT = 2  # ten, its own choice, take over three minutes when a database cannot be opened
        os.environ["MLFLOW_TRACKING_URI"] = uri  # for create_external_model; set_tracking_uri could not be undone
        try:
            if not wish and not (root / "mlflow.db").exists():
                _create_database(root / "mlflow.db")
            client = mlflow.MlflowClient(uri)
            for name in (RESULTS, STAGES):
                if client.get_experiment_by_name(name) is None:
                    client.create_experiment(name, artifact_location=None if wish else (root / "mlflow-artifacts" / name).as_uri())
            _end_dead_runs(client)
            yield client
        finally:
            os.environ.pop("MLFLOW_TRACKING_URI", None)
            if wish:
                os.environ["MLFLOW_TRACKING_URI"] = wish


def _create_database(path: Path) -> None:
    """A new SQLite database, by rename: two processes that migrate one file destroy it (mlflow#4123), and so does a kill."""
    import mlflow
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def unsynced(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous = OFF")  # the migrations take 2 s instead of 6; there is nothing to lose yet

    for leftover in path.parent.glob(f"{path.name}.*.tmp*"):
        leftover.unlink()
    tmp = path.with_name(f"{path.name}.{time.time_ns()}.tmp")  # MLflow keeps stores by name for the life of the process
    event.listen(Engine, "connect", unsynced)
    try:
        mlflow.MlflowClient(f"sqlite:///{tmp}")
    finally:
        event.remove(Engine, "connect", unsynced)
    with open(tmp, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(tmp, path)


def _end_dead_runs(client: MlflowClient) -> None:
    """MLflow leaves the runs of a killed process RUNNING for ever."""
    ours = f"attributes.status = 'RUNNING' and tags.`synthbench.host` = '{platform.node()}'"
    for run in client.search_runs([experiment(client, RESULTS), experiment(client, STAGES)], ours):
        if not lives(int(run.data.tags["synthbench.pid"])):
            client.set_terminated(run.info.run_id, "KILLED")


def experiment(client: MlflowClient, name: str) -> str:
    """The id of an experiment."""
    found = client.get_experiment_by_name(name)
    assert found is not None
    return str(found.experiment_id)


def runs_page(client: MlflowClient) -> str:
    """The address of the list of runs, with the columns that a reader looks for: MLflow's own choice has neither scores nor descriptions.

    The choice is a "shared view" of MLflow, a tag of the experiment that the address names.
    """
    where, tag = experiment(client, RESULTS), "mlflow.sharedViewState.synthbench"
    columns = ["attributes.`Description`", *(f"metrics.`{name}`" for name in (AVG, GAP)), "attributes.`Created`"]
    client.set_experiment_tag(where, tag, json.dumps({"selectedColumns": columns}))
    return f"/#/experiments/{where}/runs?workflowType=machine_learning&viewStateShareKey=synthbench"


# -------------------------------------------------------------------------------------------------------------- runs


def known(client: MlflowClient, where: str, tags: Mapping[str, Any]) -> bool:
    """Whether the experiment called `where` has a finished run with these tags."""
    wanted = " and ".join(f"tags.`synthbench.{name}` = '{value}'" for name, value in tags.items())
    return bool(client.search_runs([experiment(client, where)], f"attributes.status = 'FINISHED' and {wanted}", max_results=1))


@contextlib.contextmanager
def new_run(client: MlflowClient, where: str, name: str, start: float, end: float, tags: Mapping[str, Any]) -> Iterator[str]:
    """The id of a new run in the experiment called `where`, FINISHED only if the block ends well. Times in seconds since 1970."""
    about = {f"synthbench.{key}": str(value) for key, value in {**tags, "host": platform.node(), "pid": os.getpid()}.items()}
    run = client.create_run(experiment(client, where), start_time=int(start * 1000), tags=about, run_name=name).info.run_id
    try:
        yield run
    except BaseException:
        with contextlib.suppress(Exception):
            client.set_terminated(run, "FAILED")
        raise
    client.set_terminated(run, "FINISHED", end_time=int(end * 1000))


def metrics(found: Mapping[str, Any], when: float, step: int = 0, **links: Any) -> list[Metric]:
    """The finite numbers of `found`. `when`: seconds since 1970. `links`: model_id, dataset_name, dataset_digest."""
    from mlflow.entities import Metric

    numbers = {name: value for name, value in found.items() if isinstance(value, (int, float)) and math.isfinite(value)}
    return [Metric(allowed(name), float(value), int(when * 1000), step, **links) for name, value in numbers.items()]


def log(client: MlflowClient, run: str, params: Mapping[str, Any], numbers: list[Metric]) -> None:
    """Parameters (nested ones as `a.b`) and metrics, in batches of the size that MLflow takes."""
    from mlflow.entities import Param

    entries = [Param(allowed(name), (value if isinstance(value, str) else json.dumps(value))[:6000]) for name, value in _flat(params)]
    while entries or numbers:
        client.log_batch(run, params=entries[:100], metrics=numbers[:900])  # 100 parameters and 1000 of both
        entries, numbers = entries[100:], numbers[900:]


def _flat(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def allowed(name: str) -> str:
    """`name` with only what MLflow takes in the names of metrics and parameters."""
    return posixpath.normpath(re.sub(r"[^\w\-. :/]|\.\.", "_", name, flags=re.ASCII).strip("/"))[:250]


class Data(NamedTuple):
    """A set of images, as MLflow shows it."""

    name: str
    digest: str
    folder: Path
    context: str  # training, evaluation, ...


def log_inputs(client: MlflowClient, run: str, sets: Iterable[Data]) -> None:
    """Name the data of a run."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = []
    for data in sets:
        entity = Dataset(data.name, data.digest, source_type="local", source=json.dumps({"uri": str(data.folder)}))
        inputs.append(DatasetInput(entity, [InputTag("mlflow.data.context", data.context)]))
    client.log_inputs(run, inputs)


def log_model(client: MlflowClient, run: str, name: str, folder: Path, about: Mapping[str, Any]) -> str:
    """The id of an external model: MLflow knows it and its scores, and can register it; the weights stay in `folder`."""
    import mlflow

    model = mlflow.create_external_model(
        name=re.sub(r"[/:.%\"']", "_", name),
        source_run_id=run,
        tags={"synthbench.folder": str(folder)},
        params={key: str(value) for key, value in about.items()},
        model_type="recognizer",
        experiment_id=experiment(client, RESULTS),
    )
    return str(model.model_id)


def log_picture(client: MlflowClient, run: str, path: Path) -> None:
    """A PNG, as an artifact and in MLflow's image grid."""
    from synthbench.data import pixels

    client.log_artifact(run, str(path))
    with pixels.opened(path) as image:
        client.log_image(run, image, key=path.stem, step=0)
