"""How long a unit of work takes: as measured on this machine, else by reference rates that are shipped, else by arithmetic.

configs/rates.yaml holds the reference rates, and the speeds by which a GFLOP is reckoned where nothing was measured.
"""

from __future__ import annotations

import functools
import re
import statistics
from typing import Any, NamedTuple

from synthbench.config import CONFIGS, load_yaml
from synthbench.pipeline.steps import Step
from synthbench.store import Seen, Store

WORDS = {
    "measured": "measured here",
    "scaled": "by reference rates, scaled by what was measured here",
    "reference": "by reference rates of a 2-core CPU",
    "arithmetic": "by arithmetic",
}
LAST = 5  # earlier stages of a kind that are looked at: a machine changes
ENOUGH = 0.1  # share of the work that an earlier stage must have done: a small one is all preparation
LONG = 10.0  # seconds, by reference, below which a stage tells nothing about the machine


class Device(NamedTuple):
    """What networks would work on, elsewhere."""

    kind: str  # cpu or cuda
    name: str = ""  # of a GPU; empty: the one that is here, else any


@functools.cache
def shipped() -> dict[str, Any]:
    """{"seconds": {label: seconds per unit}, "speed": {kind of device: GFLOP/s, or {name: GFLOP/s}}}."""
    return load_yaml(CONFIGS / "rates.yaml")


class Rates:
    """The rates of one machine, read once; where its networks would work on another `device`, less is known of them."""

    def __init__(self, store: Store, device: Device | None = None) -> None:
        self.device = device
        self.seen: dict[str, list[Seen]] = {}
        for item in sorted(store.seen(), key=lambda item: item.finished):
            self.seen.setdefault(f"{item.label} {item.unit}", []).append(item)

    def seconds(self, step: Step) -> tuple[float | None, str]:
        """(seconds that all of a step takes, where that is from: one of WORDS, or unknown)."""
        from synthbench.device import gpu_name

        amount, unit = step.cost.amount, step.cost.unit
        if not amount:
            return None, "unknown"
        there = self.device if self.device and unit == "GFLOP" else Device(step.label.rpartition(" ")[2])
        label = _on(there.kind, step.label)
        own = self.seen.get(f"{label} {unit}", []) if not there.name or there.name in gpu_name() else []
        large = [item.rate for item in own if item.amount >= ENOUGH * amount][-LAST:]
        shipped_rate = _reference(label, unit)
        slower = self.machine(label)
        reference = shipped_rate * slower if shipped_rate else None
        if large:
            return amount * _typical(large, reference), "measured"
        if reference:
            return amount * reference, "reference" if slower == 1 else "scaled"
        if reckoned := _reckoned(label, unit, there.name):
            return amount * reckoned, "arithmetic"
        return (amount * _typical([item.rate for item in own], None), "measured") if own else (None, "unknown")

    def machine(self, label: str) -> float:
        """How many times slower than the reference this machine is, by the stages with other labels; one slow run is not enough."""
        ratios = [1.0]
        for found in self.seen.values():
            rate = _reference(found[0].label, found[0].unit)
            if rate and found[0].label != label and (long := [item.rate for item in found if rate * item.amount > LONG][-LAST:]):
                ratios.append(statistics.median_low(long) / rate)
        return statistics.median_low(ratios)


def _typical(rates: list[float], reference: float | None) -> float:
    """The rate to reckon with: a machine that was busy once is slow once, so the lower middle, and a single rate is not trusted alone."""
    if reference is None:
        return statistics.median_low(rates)
    return statistics.geometric_mean([*rates, reference]) if len(rates) == 1 else statistics.median_low([*rates, reference])


def _on(kind: str, label: str) -> str:
    """The label of the same work on a device of another kind."""
    return re.sub(r" (cpu|cuda|mps)$", f" {kind}", label)


def _reference(label: str, unit: str) -> float | None:
    """Seconds per unit on the machine of reference. What no network does is as fast beside a GPU."""
    known: dict[str, float] = shipped()["seconds"]
    return known.get(label) or (known.get(_on("cpu", label)) if unit == "images" else None)


def _reckoned(label: str, unit: str, gpu: str = "") -> float | None:
    """Seconds per unit by arithmetic: a GFLOP by the device's speed, an image by its area and the rate at another resolution."""
    if unit == "GFLOP":
        return 1 / speed(label.rpartition(" ")[2], gpu)
    pattern = re.compile(r"(?<= )\d+(?= |$)")
    plain, side = pattern.sub("*", _on("cpu", label)), pattern.search(label)
    for known, rate in shipped()["seconds"].items():
        if side and pattern.sub("*", known) == plain and (other := pattern.search(known)):
            return float(rate) * (int(side[0]) / int(other[0])) ** 2
    return None


def speed(kind: str, name: str = "") -> float:
    """GFLOP/s that networks reach on a device: cpu, mps, or cuda with the name of the GPU, by default of the one that is here."""
    from synthbench.device import gpu_name

    speeds = shipped()["speed"]
    if kind != "cuda":
        return float(speeds.get(kind, speeds["cpu"]))
    name = name or gpu_name()
    return float(next((value for word, value in speeds["cuda"].items() if word in name), speeds["cuda"]["other"]))
