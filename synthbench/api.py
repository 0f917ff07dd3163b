"""For notebooks: `synthbench run` and `synthbench compare` as functions, and what they left behind as pandas tables and data sets.

import synthbench
synthbench.run("cemiface", settings={"sample.m": 0.5})
synthbench.load_runs().sort_values("verification/avg/accuracy")
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from synthbench.inventory import listing
from synthbench.results import lookup
from synthbench.results.comparable import cost
from synthbench.results.record import Result
from synthbench.store import Store
from synthbench.types import UserError

if TYPE_CHECKING:
    from synthbench.data.faces import FaceSet

Folder = str | os.PathLike[str]


class Answer(dict[str, Any]):
    """A result as plain data, which says in a line what it is; print(dict(answer)) shows all of it."""

    def __repr__(self) -> str:
        if "comparison" in self:
            return f"<comparison {self['comparison']}: {', '.join(row['label'] for row in self['rows'])}>"
        return f"<run {self['run']}: {lookup.run_line(self)}>" if self.get("run") else f"<stopped after {self.get('until')}>"


def run(
    generator: str,
    *,
    volume: str | None = None,
    protocol: str | None = None,
    seeds: int = 1,
    settings: Mapping[str, Any] | Sequence[str] = (),
    until: str | None = None,
    force: Sequence[str] = (),
    device: str = "auto",
    on: str = "here",
    tracking: bool = True,
    runs: Folder | None = None,
) -> Answer:
    """`synthbench run`: do what is missing, and answer the result (the JSON of the command).

    generator: name, .py or .yaml file. settings: {"sample.m": 0.5} or {"sample": {"m": 0.5}}, or texts as of --set. The others are the
    options of the command. Raises UserError, or DataMissing, where the command would end with a message.
    """
    from synthbench.pipeline import cluster
    from synthbench.pipeline import run as pipeline

    place = _folder(runs)
    request = pipeline.Request(generator, place, volume, protocol, seeds, _texts(settings), until, tuple(force), device, tracking)
    cluster.build(lambda: [request], on)
    result = pipeline.run(request)
    if result is None:
        return Answer(run=None, until=until)
    lookup.asked(Store(place), "run", result["run"])
    return Answer(result)


def compare(
    *names: str,
    volume: str | None = None,
    protocol: str | None = None,
    seeds: int | None = None,
    baseline: str | None = None,
    name: str | None = None,
    papers: bool = True,
    device: str = "auto",
    on: str = "here",
    tracking: bool = True,
    runs: Folder | None = None,
) -> Answer:
    """`synthbench compare`: run what is missing, and answer the comparison (comparison.json). Without names: of all runs.

    names: generators ("cemiface sample.m=0" has settings), runs or sweeps. Raises UserError for runs that were measured differently.
    """
    from synthbench.pipeline import cluster
    from synthbench.pipeline import compare as pipeline

    place = _folder(runs)
    request = pipeline.Request(
        names, place, volume, protocol, seeds, baseline, name, papers, force_incomparable=False, device=device, tracking=tracking
    )
    cluster.build(lambda: pipeline.requests(request), on)
    found = pipeline.compare(request)[0]
    lookup.asked(Store(place), "comparison", found["comparison"])
    return Answer(found)


def load_runs(runs: Folder | None = None) -> pd.DataFrame:
    """One row per run in the folder `runs` (None: $SYNTHBENCH_RUNS, else ./runs), oldest first, indexed by run.

    Columns: generator, volume, protocol, seeds (how many), hours (of one seed), settings as `settings.sample.m`, and every metric by its
    name, averaged over the seeds, in its own unit. Runs that are not whole are named in a warning and left out. Raises UserError when there
    is no such folder.
    """
    store = _store(runs)
    rows = [_row(store, result) for result in listing.results(store.root)]
    return pd.DataFrame(rows, columns=None if rows else ["run"]).set_index("run")


def _row(store: Store, result: Result) -> dict[str, Any]:
    scores = pd.DataFrame(result["scores"])
    about = {key: result[key] for key in ("run", "generator", "volume", "protocol")}
    about |= {"seeds": len(result["seeds"]), "hours": cost(store, result)["hours"]}
    settings = pd.json_normalize(result.get("settings", {})).add_prefix("settings.").iloc[0].to_dict() if result.get("settings") else {}
    return about | settings | scores.groupby("metric", sort=False)["value"].mean().to_dict()


def load_scores(run: str, runs: Folder | None = None) -> pd.DataFrame:
    """Every score of a run and of its real baseline: generator, seed, metric, value, stderr (sampling error), n, higher_is_better.

    `run`: its name, the beginning of it, or `latest`: the last that was asked for by itself. Raises UserError when there is no such run,
    more than one, or it is not whole.
    """
    result = lookup.find_run(_store(runs), run)
    rows = [{"generator": result["generator"], **score} for score in result["scores"]]
    if result["baseline"]:
        rows += [{"generator": "real", **score} for score in result["baseline"]["scores"]]
    return pd.DataFrame(rows)[["generator", "seed", "metric", "value", "stderr", "n", "higher_is_better"]]


def open_dataset(run: str, runs: Folder | None = None) -> FaceSet:
    """The generated faces of the first seed of a run: `faces.images(rows)` uint8 RGB (B, 3, R, R), `faces.identity`, `faces.columns`."""
    from synthbench.data.faces import open_faces

    return open_faces(Path(lookup.find_run(_store(runs), run)["artifacts"]["faces"]))


def _folder(runs: Folder | None) -> Path:
    return Path(runs or os.environ.get("SYNTHBENCH_RUNS") or "runs").absolute()


def _store(runs: Folder | None) -> Store:
    """To read from. A folder that is not there is a typing error, or another working directory than was thought."""
    place = _folder(runs)
    if not place.is_dir():
        raise UserError(f"there is no runs folder {place}; give the one that `synthbench run` wrote, or set SYNTHBENCH_RUNS")
    return Store(place)


def _texts(settings: Mapping[str, Any] | Sequence[str], above: str = "") -> tuple[str, ...]:
    """Settings as `--set` has them."""
    if not isinstance(settings, Mapping):
        return tuple(settings)
    found: list[str] = []
    for name, value in settings.items():
        if isinstance(value, Mapping) and value and "." not in f"{above}{name}":  # a part: train, enroll, sample
            found += _texts(value, f"{name}.")
        else:
            value = value.item() if hasattr(value, "item") else value  # a number of NumPy
            text = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")
            found.append(f"{above}{name}={text}")
    return tuple(found)
