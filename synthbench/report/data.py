"""What a report reads: result files, the stages they name, and nothing else. Keys and names in those files are untrusted.

A stage is found by its name and key below the runs folder; the absolute paths in a run.json are not followed, so that folders can move.
"""

from __future__ import annotations

import functools
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from synthbench import console
from synthbench.evaluators.pairs import PairResults, open_results
from synthbench.protocol import ShippedNetwork
from synthbench.results import further, leak, lookup
from synthbench.results.comparable import labels, sides
from synthbench.results.comparison import floor_row
from synthbench.results.inference import estimate
from synthbench.results.record import COLUMNS, SHORT, Result, read_run, training_log, values
from synthbench.store import Store, is_number, json_lines
from synthbench.types import UserError

if TYPE_CHECKING:
    from synthbench.data.faces import FaceSet
    from synthbench.models.encoder import Encoder

SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]*")  # of names that become paths
UNITS = {"AVG %": "%", "gap to real": "points", leak.TITLE: "%"}
NEITHER = ("separability/intra_class_similarity", leak.SHARE)  # is better, higher or lower
AVERAGE = "verification/avg/accuracy"
ACCURACY = re.compile(r"verification/([^/]+)/accuracy")


@dataclass(frozen=True)
class Run:
    """One finished run and its stage folders."""

    result: Result
    store: Store
    title: str = ""  # by which a comparison calls it

    @property
    def name(self) -> str:
        return str(self.result["run"])

    @property
    def label(self) -> str:
        return self.title or labels([self.result])[0]

    @functools.cached_property
    def manifests(self) -> list[dict[str, Any]]:
        """Manifest of every stage of the run that is still whole, in order, with its `folder`."""
        found = []
        for row in self.result["stages"]:
            name, key = str(row["name"]), str(row["key"])
            if SAFE.fullmatch(name) and SAFE.fullmatch(key):
                stage = self.store.stage(name, key)
                if manifest := stage.manifest():
                    found.append({**manifest, "folder": stage.folder})
        return found

    def stages(self, name: str, baseline: bool = False) -> list[dict[str, Any]]:
        """Manifests of the stages called `name`: the run's own, or those of the real baseline; one per seed where seeds differ."""
        found = sides(self.result)
        other = {row["key"] for row in [*found["own" if baseline else "real"], *found["parts"]]}
        return [manifest for manifest in self.manifests if manifest["name"] == name and manifest["key"] not in other]

    @property
    def part_stages(self) -> list[dict[str, Any]]:
        """Manifests of the stages that made the sets that the run's own is made of."""
        keys = {row["key"] for row in sides(self.result)["parts"]}
        return [manifest for manifest in self.manifests if manifest["key"] in keys]

    def folder(self, name: str, baseline: bool = False) -> Path:
        """The first such folder. Raises UserError when the stage is gone."""
        found = self.stages(name, baseline)
        if not found:
            raise UserError(f"the stage {name} of {self.name} is not there any more; the command that made the run makes it again")
        folder: Path = found[0]["folder"]
        return folder

    def pairs(self, baseline: bool = False) -> list[dict[str, PairResults]]:
        """Per-pair results by benchmark, of each seed."""
        return [open_results(manifest["folder"] / "pairs") for manifest in self.stages("evaluate", baseline)]

    def faces(self) -> FaceSet:
        from synthbench.data.faces import open_faces

        return open_faces(self.folder("generate"))

    def inquiries(self) -> FaceSet | None:
        from synthbench.data.faces import open_faces

        enrolled = self.stages("enroll")
        folder = enrolled[0]["folder"] / "inquiries" if enrolled else Path()
        return open_faces(folder) if enrolled and folder.is_dir() else None

    def judge(self) -> Encoder:
        """Raises UserError for a judge that is a public checkpoint: the run does not say where its file lies."""
        from synthbench.models.encoder import load_encoder
        from synthbench.models.shipped import load_shipped

        if shipped := (self.result.get("config") or {}).get("protocol", {}).get("judge", {}).get("shipped"):
            return load_shipped(ShippedNetwork(shipped=shipped).path)
        return load_encoder(self.folder("judge"))

    @property
    def rendered(self) -> bool:
        """Whether no picture shows a real person."""
        return lookup.rendered(self.store, self.result)

    @functools.cached_property
    def pictured(self) -> str:
        """Which images of the set are photographs of real people; "" for none."""
        return lookup.photographs(self.store, self.result)

    @property
    def benchmarks(self) -> list[str]:
        """Names of the verification sets, in the protocol's order."""
        found = (ACCURACY.fullmatch(score["metric"]) for score in self.result["scores"])
        return [name for name in dict.fromkeys(match[1] for match in found if match) if name != "avg" and SAFE.fullmatch(name)]


def open_run(store: Store, name: str, title: str = "") -> Run:
    """Raises UserError when there is no whole result of that name."""
    result = read_run(store.root / "results" / name / "run.json") if SAFE.fullmatch(str(name)) else None
    if result is None:
        raise UserError(f"there is no whole run {name!r} in {store.root / 'results'}")
    return Run(result, store, title)


def open_runs(store: Store, titles: Mapping[str, str]) -> tuple[list[Run], list[str]]:
    """The runs that are there, by their names in `titles`, and a line for each that is not."""
    runs, gone = [], []
    for name, title in titles.items():
        try:
            runs.append(open_run(store, name, title))
        except UserError as error:
            gone.append(str(error))
    return runs, gone


def read_log(folder: Path) -> list[dict[str, float]]:
    """The lines of a training's log that are whole and numeric."""
    lines = (line for line in json_lines(training_log(folder)) if is_number(line.get("step")))
    return [{key: float(value) for key, value in line.items() if is_number(value)} for line in lines]


def read_histograms(folder: Path) -> dict[str, np.ndarray]:
    """`edges`, and counts of genuine, impostor, real_genuine and real_impostor cosines by the judge. Raises UserError."""
    try:
        with np.load(folder / "separability.npz", allow_pickle=False) as file:
            return {name: file[name] for name in ("edges", "genuine", "impostor", "real_genuine", "real_impostor")}
    except (OSError, BadZipFile, ValueError, KeyError) as error:
        raise UserError(f"the histograms of {folder.name} cannot be read ({error})") from error


# -------------------------------------------------------------------------------------------------------------- as a table


def columns(benchmarks: Sequence[str], apart: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """Columns of the table of results, in the form of comparison.json. `apart`: those that only some protocols have, `further.metrics`."""
    named = [(SHORT.get(name, name), f"verification/{name}/accuracy", 1, 1.0) for name in benchmarks]
    groups = [(title, metric, 2, 1.0) for metric, title in (apart or {}).items()]
    lower = ("gap_to_real", "fd/")
    return [
        {
            "metric": metric,
            "title": title.removesuffix(" %"),
            "unit": UNITS.get(title, "%" if metric.startswith("verification/") else ""),
            "digits": digits,
            "higher_is_better": None if metric in NEITHER else further.higher_is_better(metric) and not metric.startswith(lower),
            "scale": scale,
            "group": "accuracy" if metric.startswith(("verification/", "gap_to_real/")) else "data",
        }
        for title, metric, digits, scale in [*named, *COLUMNS[:2], *groups, *COLUMNS[2:]]
    ]


def cell(result: Result, metric: str) -> dict[str, Any] | None:
    """Mean over seeds with its errors; None when it was not measured."""
    scores = values(result, metric)
    if not scores:
        return None
    errors = [score["stderr"] for score in scores if score["stderr"] is not None]
    found = estimate([score["value"] for score in scores], statistics.fmean(errors) if errors else None)
    kept = {name: value for name, value in asdict(found).items() if name in ("value", "sampling_stderr", "seed_std", "low", "high", "n")}
    made = further.beside({**kept, "best": False, "tied": False}, result, metric)
    return leak.beside(made, leak.chance(result)) if metric == leak.SHARE else made


def run_table(run: Run) -> dict[str, Any]:
    """The run beside its real baseline, in the form of comparison.json."""
    result, apart = run.result, further.metrics([run.result])
    shown = columns(run.benchmarks, apart)
    both = [result["baseline"], result] if result["baseline"] else [result]
    rows = [
        {
            "run": item.get("run", "real"),
            "label": run.label if item is result else labels([item])[0],
            "generator": item["generator"],
            "volume": item["volume"],
            "cells": {column["metric"]: cell(item, column["metric"]) for column in shown},
        }
        for item in both
    ]
    measured = [column for column in shown if any(row["cells"][column["metric"]] for row in rows)]
    notes = ["One seed: the spread between seeds is not known."] if len(result["seeds"]) == 1 else []
    notes += [*leak.notes([(row["label"], item) for row, item in zip(rows, both)]), *further.notes(apart)]
    kept = {name: result[name] for name in ("protocol", "title", "volume", "seeds")}
    kept["floor"] = floor_row([result], [column["metric"] for column in measured])
    return {"comparison": run.name, **kept, "columns": measured, "rows": rows, "differences": [], "notes": notes, "published": []}


def sweep_table(sweep: Mapping[str, Any]) -> dict[str, Any]:
    """The points of a sweep, in the form of comparison.json."""
    points = [point for point in sweep["points"] if point.get("scores")]
    benchmarks = [
        match[1] for point in points[:1] for metric in point["scores"] if (match := ACCURACY.fullmatch(metric)) and match[1] != "avg"
    ]
    shown = [column for column in columns(benchmarks) if any(column["metric"] in point["scores"] for point in points)]
    rows = [
        {
            "run": (point["runs"] or [""])[0],
            "label": ", ".join(f"{name.rpartition('.')[2]} = {plain(value)}" for name, value in point["values"].items()),
            "generator": sweep["generator"],
            "volume": sweep["volume"],
            "cells": {column["metric"]: point_cell(point, column["metric"], number == sweep.get("best")) for column in shown},
        }
        for number, point in enumerate(sweep["points"])
        if point.get("scores")
    ]
    kept = {name: sweep[name] for name in ("protocol", "title", "volume", "seeds")}
    return {"comparison": sweep["sweep"], **kept, "columns": shown, "rows": rows, "differences": [], "notes": [], "published": []}


def point_cell(point: Mapping[str, Any], metric: str, best: bool) -> dict[str, Any] | None:
    """A score of a sweep's point as a cell of a table."""
    found = point["scores"].get(metric)
    if metric == leak.SHARE:
        chance = point["scores"].get(leak.STRANGERS) or point["scores"].get(leak.OTHERS) or {}
        found = leak.beside(found, chance.get("value"))
    return {**found, "best": best and metric == AVERAGE, "tied": False} if found else None


def plain(value: Any) -> str:
    """A setting's value as it is typed."""
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else json.dumps(value)


def costs(run: Run) -> tuple[list[str], list[list[str]]]:
    """Header and rows: every stage with the time it took when it was made, whenever that was."""
    rows = []
    for manifest in run.manifests:
        rate, size = manifest.get("images_per_second"), sum(manifest["files"].values())
        speed = f"{rate:,.1f}" if isinstance(rate, (int, float)) else "-"
        seconds = console.duration(float(manifest.get("seconds", 0)))
        rows.append([manifest["name"], str(manifest.get("work", "")), seconds, speed, console.size(size), manifest["key"]])
    return ["stage", "what", "time", "images / s", "disk", "key"], rows


def finished(runs: Sequence[Run]) -> str:
    """When the newest stage was made."""
    return max((str(manifest.get("finished", "")) for run in runs for manifest in run.manifests), default="")


def load(path: Path) -> dict[str, Any]:
    """A comparison.json or sweep.json. Raises UserError when it is not whole."""
    found = lookup.read_group(path)
    if "columns" in found:  # of an older version
        found["columns"] = [column for column in found["columns"] if column["metric"] != leak.ALARM]
    return found
