"""Comparisons and sweeps in MLflow: a parent run with a child per row or point. Entered through tracking.py.

The parent carries the numbers of its best child, because a collapsed parent is all that a list of runs shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from synthbench.results import shapes
from synthbench.store import content_key, read_json
from synthbench.tracking import client as mlflow_client
from synthbench.tracking.client import RESULTS

if TYPE_CHECKING:
    from mlflow import MlflowClient

KINDS = {"comparison": "comparisons", "sweep": "sweeps"}  # kind -> folder below runs; <folder>/<name>/<kind>.json
SHORT = {mlflow_client.AVG: "verification/avg/accuracy", mlflow_client.GAP: "gap_to_real/points"}
ARTIFACTS = (".json", ".html", ".md", ".tex", ".csv", ".png", ".svg")
PARTS = {"": "value", "/sampling_stderr": "sampling_stderr", "/seed_std": "seed_std", "/low": "low", "/high": "high", "/chance": "chance"}


class Child(NamedTuple):
    name: str
    params: dict[str, Any]
    cells: Mapping[str, Any]  # metric -> {"value", "sampling_stderr", ...} or None
    state: str = "complete"


def paths(root: Path) -> list[Path]:
    """The files of all comparisons and sweeps below the runs folder, oldest first."""
    found = [path for kind, folder in KINDS.items() for path in (root / folder).glob(f"*/{kind}.json")]
    return sorted(found, key=lambda path: path.stat().st_mtime)


def log_group(client: MlflowClient, path: Path) -> bool:
    """Log the comparison.json or sweep.json in `path`, in place of an earlier log of it; False when it is there as it is, or not whole."""
    kind, data = path.stem, read_json(path)
    if not shapes.whole(kind, data) or data[kind] != path.parent.name:
        return False
    files = sorted(item for item in path.parent.iterdir() if item.is_file() and item.suffix in ARTIFACTS)
    content = {key: value for key, value in data.items() if key != "command"}
    digest = content_key({"content": content, "files": {item.name: item.stat().st_size for item in files if item != path}})
    tags = {"kind": kind, kind: data[kind]}
    if mlflow_client.known(client, RESULTS, {**tags, "digest": digest}):
        return False
    _forget(client, kind, data[kind])
    children, best = _comparison(data) if kind == "comparison" else _sweep(data)
    end = path.stat().st_mtime
    with mlflow_client.new_run(client, RESULTS, data[kind], end, end, {**tags, "digest": digest}) as parent:
        about = {key: data.get(key) for key in ("protocol", "title", "volume", "seeds", "runs", "baseline", "generator", "parameters")}
        about |= {key: data.get(key) for key in ("sampler", "statement", "command")} | {"best": best.name if best else None}
        own = {"detectable_points": data.get("detectable_points")} | (_numbers(best) if best else {})
        client.set_tag(parent, mlflow_client.NOTE, _description(kind, data, best))
        mlflow_client.log(client, parent, {k: v for k, v in about.items() if v is not None}, mlflow_client.metrics(own, end))
        for item in files:
            client.log_artifact(parent, str(item))
        for child in children:
            labels = {"kind": f"{kind}-row", kind: data[kind], "state": child.state, "run": child.params.get("run")}
            with mlflow_client.new_run(client, RESULTS, child.name, end, end, labels) as run:
                client.set_tag(run, "mlflow.parentRunId", parent)
                mlflow_client.log(client, run, child.params, mlflow_client.metrics(_numbers(child), end))
    return True


def _forget(client: MlflowClient, kind: str, name: str) -> None:
    """Delete the parent and the children of an earlier state: a list shows each comparison once."""
    where, wanted = [mlflow_client.experiment(client, RESULTS)], f"tags.`synthbench.{kind}` = '{name}'"
    for run in client.search_runs(where, wanted, max_results=10_000):
        client.delete_run(run.info.run_id)


def _comparison(data: Mapping[str, Any]) -> tuple[list[Child], Child | None]:
    rows = data["rows"]
    about = ("run", "label", "generator", "volume", "seeds", "rank")
    children = [Child(row["label"], {key: row.get(key) for key in about}, row["cells"]) for row in rows]
    average = "verification/avg/accuracy"
    best = [child for child, row in zip(children, rows) if (row["cells"].get(average) or {}).get("best")]
    rivals = [child for child, row in zip(children, rows) if row["generator"] != "real" and row["cells"].get(average)]
    return children, next(iter(best or (rivals if len(rivals) == 1 else [])), None)


def _sweep(data: Mapping[str, Any]) -> tuple[list[Child], Child | None]:
    children = []
    for point in data["points"]:
        name = ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in point["values"].items())
        runs = point.get("runs") or []
        children.append(Child(name, {**point["values"], "run": ", ".join(runs)}, point.get("scores") or {}, point["state"]))
    best = data.get("best")
    return children, children[best] if isinstance(best, int) and best < len(children) else None


def _description(kind: str, data: Mapping[str, Any], best: Child | None) -> str:
    """A line about a comparison or a sweep."""
    rows = ", ".join(str(row["label"]) for row in data.get("rows", ()))
    shown = f"the numbers are those of {best.name}, the best row. " if best else ""
    return str(data.get("statement") or f"{kind} of {rows}; {shown}{data.get('title', '')}")[:2000]


def _numbers(child: Child) -> dict[str, Any]:
    short = {name: child.cells[metric]["value"] for name, metric in SHORT.items() if child.cells.get(metric)}
    return {**short, **dict(_parts(child.cells))}


def _parts(cells: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for metric, cell in cells.items():
        for ending, part in PARTS.items():
            if cell and cell.get(part) is not None:
                yield metric + ending, cell[part]
