"""For notebooks: what `synthbench run` left behind, as pandas tables and data sets. Reads only; nothing here runs or writes anything.

import synthbench
synthbench.load_runs("runs").sort_values("verification/avg/accuracy")
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from synthbench import console
from synthbench.results.comparable import cost
from synthbench.results import lookup
from synthbench.results.record import Result, read_run
from synthbench.store import Store

if TYPE_CHECKING:
    from synthbench.data.faces import FaceSet

Folder = str | os.PathLike[str]


def load_runs(runs: Folder | None = None) -> pd.DataFrame:
    """One row per run in the folder `runs` (None: $SYNTHBENCH_RUNS, else ./runs), oldest first, indexed by run.

    Columns: generator, volume, protocol, seeds (how many), hours (of one seed), settings as `settings.sample.m`, and every metric by its
    name, averaged over the seeds, in its own unit. Runs that are not whole are named in a warning and left out.
    """
    store, rows = _store(runs), []
    for path in sorted((store.root / "results").glob("*/run.json"), key=lambda path: path.stat().st_mtime):
        result = read_run(path)
        if result is None:
            console.warn(f"{path} is not a whole result; skipped")
        else:
            rows.append(_row(store, result))
    return pd.DataFrame(rows, columns=None if rows else ["run"]).set_index("run")


def _row(store: Store, result: Result) -> dict[str, Any]:
    scores = pd.DataFrame(result["scores"])
    about = {key: result[key] for key in ("run", "generator", "volume", "protocol")}
    about |= {"seeds": len(result["seeds"]), "hours": cost(store, result)["hours"]}
    settings = pd.json_normalize(result.get("settings", {})).add_prefix("settings.").iloc[0].to_dict() if result.get("settings") else {}
    return about | settings | scores.groupby("metric", sort=False)["value"].mean().to_dict()


def load_scores(run: str, runs: Folder | None = None) -> pd.DataFrame:
    """Every score of a run and of its real baseline: generator, seed, metric, value, stderr (sampling error), n, higher_is_better.

    `run`: its name, the beginning of it, or `latest`. Raises UserError when there is no such run, or it is not whole.
    """
    result = _result(_store(runs), run)
    rows = [{"generator": result["generator"], **score} for score in result["scores"]]
    if result["baseline"]:
        rows += [{"generator": "real", **score} for score in result["baseline"]["scores"]]
    return pd.DataFrame(rows)[["generator", "seed", "metric", "value", "stderr", "n", "higher_is_better"]]


def open_dataset(run: str, runs: Folder | None = None) -> FaceSet:
    """The generated faces of the first seed of a run: `faces.images(rows)` uint8 RGB (B, 3, R, R), `faces.identity`, `faces.columns`."""
    from synthbench.data.faces import open_faces

    return open_faces(Path(_result(_store(runs), run)["artifacts"]["faces"]))


def _store(runs: Folder | None) -> Store:
    return Store(Path(runs or os.environ.get("SYNTHBENCH_RUNS") or "runs").absolute())


def _result(store: Store, run: str) -> Result:
    return lookup.find_run(store, run)
