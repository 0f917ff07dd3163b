"""`synthbench verify`: what in a bundle agrees. Every score that follows from pairs is made again from their distances; what a run says of
how it was measured is held against its results, and against the data that are registered on this machine.

Whoever changes distances and scores alike, and all digests, makes a bundle that agrees with itself. Only the images tell: with the
recognizers in the bundle (`bundle --weights`), and benchmarks that are rendered or registered here, the distances are made again too.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synthbench.config import Layer, build
from synthbench.data.catalogue import WORLD
from synthbench.data.pairs import PairSet
from synthbench.data.registered import entry_of
from synthbench.device import pick_device
from synthbench.evaluators.pairs import open_results
from synthbench.evaluators.verification import Verification
from synthbench.leaderboard import recompute
from synthbench.leaderboard.archive import Bundle
from synthbench.models.encoder import file_digest, load_encoder
from synthbench.pipeline import benchmark_sets, steps
from synthbench.protocol import Protocol, ShippedNetwork
from synthbench.results import comparison
from synthbench.results.comparable import foreign, keys, sides
from synthbench.results.record import Result
from synthbench.store import read_json
from synthbench.types import Score, UserError

NEAR = 1e-6  # of a number that is made again from the same numbers
FAR = 1e-3  # of a distance that is made again from images: another processor has other last bits
LARGEST = 160  # px of benchmarks that are read or rendered because a bundle says so: others take gigabytes
UNTOLD = {  # why scores cannot be made again, by how their names begin
    "separability": "the images and the judge",
    "similarity": "the images, the inquiries and the judge",
    "fd": "the images of both sets",
    "leakage": "the images, the real set and the judge",
    "quality": "the images and the networks",
    "templates": "the recognizers and the images of the template sets",
    "verification": "the recognizers (bundle --weights) and the images of the benchmarks",
}
HOSTILE = (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError, OSError)  # what a file edited by hand may raise


@dataclass(frozen=True)
class Check:
    """Something that a bundle says. `agrees` None: it could not be checked, and `found` says why."""

    run: str  # "": of the bundle
    what: str  # a metric, or in words
    stated: str
    found: str
    agrees: bool | None

    @property
    def verdict(self) -> str:
        return {True: "agrees", False: "DIFFERS", None: "not checked"}[self.agrees]


def checks(bundle: Bundle, device: str = "cpu") -> list[Check]:
    """All that was tried, run by run."""
    found = list(_inputs(bundle))
    for result in bundle.results:
        found += _guarded(result["run"], lambda result=result: _Run(bundle, result, device).checks())
    if bundle.comparison:
        found += _guarded(bundle.about["name"], lambda: _compared(bundle))
    return found


def _guarded(run: str, tried: Any) -> Iterator[Check]:
    """The checks of `tried`; what keeps it from being tried is one that differs."""
    try:
        yield from tried()
    except UserError as error:
        yield Check(run, "the result", "", str(error), False)
    except HOSTILE as error:
        yield Check(run, "the result", "", f"not whole ({type(error).__name__}: {error})", False)


def _inputs(bundle: Bundle) -> Iterator[Check]:
    """The registered data and networks that the runs needed, against what is registered here."""
    for item in bundle.about["inputs"]:
        here, what = entry_of(item["name"]), f"{item['role']} {item['name']}"
        same = here.digest == item["digest"] if here else None
        yield Check("", what, item["digest"][:12], here.digest[:12] if here else "it is not registered here", same)


class _Run:
    """What one run of a bundle says, and what follows from its pairs."""

    def __init__(self, bundle: Bundle, result: Result, device: str) -> None:
        self.store, self.result, self.device = bundle.store, result, device
        self.sides = sides(result)
        measured = [item for item in (result, *bundle.results) if item.get("config") and item["protocol"] == result["protocol"]]
        self.rules = recompute.rules(measured[0] if measured else result)  # of a network from elsewhere: those of the runs beside it
        found = keys(self.sides["shared"] + self.sides["own"], "benchmarks")
        self.sets = recompute.benchmarks(self.store.stage("benchmarks", found[0]).folder) if found else {}
        own, real = ([self.store.stage("evaluate", key).folder for key in keys(self.sides[side], "evaluate")] for side in ("own", "real"))
        self.own: list[Path] = own
        self.real: list[Path] = real
        self.lengths: dict[tuple[Path, str], float] = {}  # of embeddings, by evaluation and metric: what was seen of them

    def check(self, what: str, stated: Any, found: Any, agrees: bool | None) -> Check:
        return Check(self.result["run"], what, str(stated), str(found), agrees)

    def checks(self) -> Iterator[Check]:
        yield from self.said()
        seen = list(self.seen())  # before what is said of the pairs is replaced
        for folder in dict.fromkeys((*self.own, *self.real)):
            for what in recompute.settle(folder, self.sets, self.rules.verification.folds):
                yield self.check(what, "as in the bundle", "otherwise, by its distances and labels", False)
        yield from self.scored("", self.result["scores"], self.own, self.real)
        if self.result["baseline"]:
            yield from self.scored("real: ", self.result["baseline"]["scores"], self.real, [])
        yield from seen

    def said(self) -> Iterator[Check]:
        """What the configuration says, against results, networks, and what is here."""
        config, digests = self.result.get("config"), self.result.get("digests", {})
        if not config:
            yield self.check("configuration", "", "the run does not say it", None)
            return
        protocol = build(Protocol, Layer(dict(config["protocol"])))
        yield self.check("protocol", self.result["protocol"], protocol.name, protocol.name == self.result["protocol"])
        named = {metric.split("/")[1] for metric in self.metrics() if metric.startswith("verification/")} - {"avg"}
        odd = ", ".join(sorted(named ^ set(protocol.benchmarks)))
        yield self.check("benchmarks", len(protocol.benchmarks), f"{len(named)}" + (f", other: {odd}" if odd else ""), not odd)
        recipe = config["recipes"][protocol.recipe]
        for side in ("own", "real"):
            for key, seed in zip(keys(self.sides[side], "recognizer"), self.result["seeds"]):
                about = read_json(self.store.stage("recognizer", key).folder / "encoder.json") or {}
                same = (about.get("recipe"), about.get("seed")) == (recipe, seed)
                where = "" if side == "own" else "real: "
                yield self.check(f"{where}recipe, seed {seed}", protocol.recipe, "that of the recognizer", same)
        for name in ("encoder", "judge"):
            network = getattr(protocol, name)
            if isinstance(network, ShippedNetwork):
                here = network.digest
                yield self.check(f"{name} {network.shipped}", str(digests.get(name))[:12], here[:12], digests.get(name) == here)
        yield from self.keyed(protocol)

    def keyed(self, protocol: Protocol) -> Iterator[Check]:
        """The keys of what was held fixed: those that data registered here have."""
        made = {
            "benchmarks": lambda: benchmark_sets.step(
                self.store, protocol.benchmarks, protocol.resolution, lambda folder: None, protocol.templates
            ),
            "real": lambda: steps.faces_step(self.store, protocol.resolution, "real", protocol.real),
        }
        for name, step in made.items():
            stated = next(iter(keys(self.sides["shared"], name)), "")
            what = {"real": "real set"}.get(name, name)
            try:
                key = step().stage.key
            except UserError as error:
                yield self.check(f"key of the {what}", stated, str(error).partition(". ")[0], None)
            else:
                yield self.check(f"key of the {what}", stated, key, key == stated)

    def metrics(self) -> list[str]:
        return [str(score["metric"]) for score in self.result["scores"]]

    def scored(self, side: str, scores: list[dict[str, Any]], folders: list[Path], baselines: list[Path]) -> Iterator[Check]:
        """Every score of one side, of every seed."""
        told = [(score["metric"], score["seed"]) for score in scores]
        if len(set(told)) < len(told) or {seed for _, seed in told} != set(self.result["seeds"]):
            yield self.check(f"{side}scores", "once for each seed", "some twice, or of other seeds", False)
        for number, (seed, folder) in enumerate(zip(self.result["seeds"], folders)):
            baseline = baselines[number] if baselines else None
            found = recompute.scores(folder, baseline, self.sets.values(), self.rules, seed)
            stated = {score["metric"]: score for score in scores if score["seed"] == seed}
            some = f", seed {seed}" if len(folders) > 1 else ""
            for metric in {**stated, **found}:
                kind = metric.partition("/")[0]
                one, other = stated.get(metric), found.get(metric)
                length = self.lengths.get((folder, metric))
                if one and length is not None:
                    near = abs(one["value"] - length) < FAR * max(1.0, length)
                    yield self.check(f"{side}{metric}{some}", f"{one['value']:.4f}", f"{length:.4f}", near)
                elif other is None and (kind not in recompute.KINDS or metric.endswith(recompute.NORM)):
                    why = f"needs {UNTOLD[kind]}" if kind in UNTOLD else "does not follow from pairs"
                    yield self.check(f"{side}{metric}{some}", _told(one), why, None)
                else:
                    yield self.check(f"{side}{metric}{some}", *_both(one, other))

    def seen(self) -> Iterator[Check]:
        """The distances again, from the recognizers in the bundle and the images of the benchmarks."""
        there = 0
        for side, folders in (("own", self.own), ("real", self.real)):
            for key, seed, folder in zip(keys(self.sides[side], "recognizer"), self.result["seeds"], folders):
                place = self.store.stage("recognizer", key).folder
                if (place / "weights.safetensors").is_file():
                    there += 1
                    where = "" if side == "own" else "real: "
                    yield from self.seen_by(place, folder, where, f", seed {seed}" if len(folders) > 1 else "")
        if not there:
            why = "the network is not in the bundle" if foreign(self.result) else "the recognizers are not in the bundle (bundle --weights)"
            yield self.check("distances", "", why, None)

    def seen_by(self, place: Path, folder: Path, side: str, some: str) -> Iterator[Check]:
        """As `seen`, of one recognizer: the network in `place`, the evaluation in `folder`."""
        network = load_encoder(place, pick_device(self.device)[0])
        digest = file_digest(place / "weights.safetensors")
        yield self.check(f"{side}weights{some}", network.digest[:12], digest[:12], network.digest == digest)
        for name, said in open_results(folder / "pairs").items():
            try:
                pairs = _benchmark(name, network.resolution)
            except UserError as error:
                yield self.check(f"{side}distances of {name}{some}", "", str(error).partition(". ")[0], None)
                continue
            same = np.array_equal(pairs.same, said.same)
            yield self.check(f"{side}labels of {name}{some}", f"{said.same.sum():,} genuine", f"{pairs.same.sum():,} genuine", same)
            if same:
                again, norms = Verification(self.rules.verification).tried(network, pairs)
                far = float(np.abs(again.distance - said.distance).max())
                self.lengths[folder, f"verification/{name}{recompute.NORM}"] = float(norms.mean())
                yield self.check(f"{side}distances of {name}{some}", f"{len(said.same):,} pairs", f"at most {far:.1g} away", far < FAR)


@functools.lru_cache(maxsize=8)
def _rendered(name: str, resolution: int) -> PairSet:
    return steps.read_benchmark(name, resolution)


def _benchmark(name: str, resolution: int) -> PairSet:
    """The benchmark as it is here. Raises UserError when it is not registered, or too large to be looked at."""
    if resolution > LARGEST:
        raise UserError(f"images of {resolution} px are not made for it")
    return _rendered(name, resolution) if name.startswith(WORLD) else steps.read_benchmark(name, resolution)


def _told(score: Mapping[str, Any] | None, digits: int = 4) -> str:
    """`79.1250 ±1.4369`."""
    if score is None:
        return "-"
    error = score["stderr"]
    return f"{score['value']:.{digits}f}" + ("" if error is None else f" ±{error:.{digits}f}")


def _near(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= NEAR * max(1.0, abs(one), abs(other))


def _both(stated: Mapping[str, Any] | None, found: Score | None) -> tuple[str, str, bool]:
    """A score as it is stated and as it is found, and whether they are one: value, error and number of pairs."""
    again = vars(found) if found else None
    if stated is None or again is None:
        return _told(stated), _told(again), False
    same = all(_near(stated[part], again[part]) for part in ("value", "stderr")) and stated.get("n") in (None, again["n"])
    digits = 4 if same or _told(stated) != _told(again) else 9
    counts = ("", "") if stated.get("n") in (None, again["n"]) else (f", n {stated['n']:,}", f", n {again['n']:,}")
    return _told(stated, digits) + counts[0], _told(again, digits) + counts[1], same


def _compared(bundle: Bundle) -> Iterator[Check]:
    """What a comparison says of accuracies, gaps and differences, made again from its rows; they were checked before."""
    said: Any = bundle.comparison
    rows = {result["run"]: result for result in bundle.results}
    results = [rows[run] for run in said["runs"]]
    again = comparison.compare(bundle.store, results, said["comparison"], said["baseline"], said.get("command", ""), papers=False)
    for old, new in zip(said["rows"], again["rows"]):
        for metric in (column["metric"] for column in again["columns"] if column["group"] == "accuracy"):
            stated, found = old["cells"].get(metric), new["cells"][metric]
            if stated or found:
                yield _interval(f"{new['label']}: {metric}", bundle, stated, found, "value")
    key = ("a", "b", "metric")
    old_differences = {tuple(item[part] for part in key): item for item in said["differences"]}
    new_differences = {tuple(item[part] for part in key): item for item in again["differences"]}
    labels = {row["run"]: row["label"] for row in again["rows"]}
    for a, b, metric in {**old_differences, **new_differences}:
        what = f"{labels.get(a, a)} − {labels.get(b, b)}: {metric}"
        yield _interval(what, bundle, old_differences.get((a, b, metric)), new_differences.get((a, b, metric)), "points")


def _interval(what: str, bundle: Bundle, stated: Mapping[str, Any] | None, found: Mapping[str, Any] | None, value: str) -> Check:
    parts = (value, "low", "high", "p", "p_holm")
    wrong = [part for part in parts if not _near((stated or {}).get(part), (found or {}).get(part))]
    shown = wrong[:1] or [value]
    one, other = (f"{item[shown[0]]:.4f}" if item and item.get(shown[0]) is not None else "-" for item in (stated, found))
    same = not wrong and (stated is None) == (found is None)
    return Check(bundle.about["name"], what + (f", {wrong[0]}" if wrong[:1] not in ([], [value]) else ""), one, other, same)
