"""The schedule of a cluster that is not there: `--dry-run --on ray`. Needs no Ray.

An event simulation of the rule in cluster.py: every stage once, when all that it needs is there, in the order of the graph, and as many at
a time on a machine as it has GPUs. Nothing waits while it holds one.
"""

from __future__ import annotations

import functools
import graphlib
import heapq
import re
from collections import deque
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from synthbench import console
from synthbench.data.sources import Lacking
from synthbench.pipeline import cluster, rates
from synthbench.pipeline import plan as plans
from synthbench.pipeline.plan import Planned
from synthbench.system import cores
from synthbench.types import UserError

Node = TypeVar("Node", bound=Hashable)
NEAR = 1.05  # of the critical path: a schedule that takes no longer is limited by it


# ------------------------------------------------------------------------------------------------------------ machines


@dataclass(frozen=True)
class Machines:
    """Machines that are alike."""

    count: int
    gpus: int  # of each
    gpu: str = ""  # a word of rates.yaml; "": as here, else any

    @property
    def total(self) -> int:
        """GPUs of all, or without GPUs machines."""
        return self.count * (self.gpus or 1)

    @property
    def abreast(self) -> int:
        """Stages at a time on all of them. A stage takes the cores of a GPU, so that as many have room as there are GPUs, those that need
        none among them; without GPUs the cores are those of this machine."""
        here = cores()
        return self.count * (self.gpus or here // min(here, cluster.share(here, 0)))

    @property
    def device(self) -> rates.Device:
        return rates.Device("cuda", self.gpu) if self.gpus else rates.Device("cpu")

    def __str__(self) -> str:
        what = f"{console.counted(self.gpus, 'GPU')}{' each' * (self.count > 1)}" if self.gpus else "no GPU"
        return f"{console.counted(self.count, 'machine')} with {what}" + (f" ({self.gpu})" if self.gpu else "")


def machines(text: str | None) -> Machines:
    """What `--cluster` says: MACHINESxGPUS[:GPU]; without it this machine alone. Raises UserError."""
    if text is None:
        from synthbench.device import gpus

        return Machines(1, gpus())
    found = re.fullmatch(r"(\d{1,6})x(\d{1,4})(?::(.+))?", text, re.ASCII)
    if not found:
        raise UserError(f"--cluster {text!r}: write machines x GPUs of each, such as 4x8, 4x8:H100, or 2x0 without GPUs")
    count, each, name = int(found[1]), int(found[2]), found[3] or ""
    if not count:
        raise UserError(f"--cluster {text}: there must be a machine")
    if name and not each:
        raise UserError(f"--cluster {text}: machines without GPUs, and the name of one; leave one of the two out")
    known = [word for word in rates.shipped()["speed"]["cuda"] if word != "other"]
    gpu = next((word for word in known if word.lower() == name.lower()), "")
    if name and not gpu:
        raise UserError(f"--cluster {text}: nobody knows how fast a {name} is; known are {', '.join(known)}, or leave it out")
    return Machines(count, each, gpu)


# ---------------------------------------------------------------------------------------------------------- simulation


def simulate(seconds: Mapping[Node, float], needs: Mapping[Node, Collection[Node]], abreast: int) -> dict[Node, float]:
    """When each of the nodes begins, `abreast` at a time: the first whose needs are done goes first, the order of `seconds` decides between
    those that may begin at once."""
    order = graphlib.TopologicalSorter({node: needs[node] for node in seconds})
    order.prepare()
    queue, running, begins, now = deque[Node](), list[tuple[float, int, Node]](), dict[Node, float](), 0.0
    while order.is_active():
        queue.extend(order.get_ready())
        while queue and len(running) < abreast:
            node = queue.popleft()
            begins[node] = now
            heapq.heappush(running, (now + seconds[node], len(begins), node))
        now, _, done = heapq.heappop(running)
        order.done(done)
    return begins


def longest(seconds: Mapping[Node, float], needs: Mapping[Node, Collection[Node]]) -> list[Node]:
    """The critical path: of all chains in which each needs the one before the one that takes longest."""
    until: dict[Node, float] = {}
    chain: dict[Node, list[Node]] = {}
    for node in graphlib.TopologicalSorter({node: needs[node] for node in seconds}).static_order():
        last = max(needs[node], key=until.__getitem__, default=node)
        until[node] = seconds[node] + until.get(last, 0.0)
        chain[node] = [*chain.get(last, ()), node]
    return max(chain.values(), key=lambda path: until[path[-1]], default=[])


@dataclass(frozen=True)
class Schedule:
    """What is to be done of a plan, on machines. Stages of unknown length take nothing in it."""

    machines: Machines
    todo: Mapping[Path, Planned]

    @functools.cached_property
    def seconds(self) -> dict[Path, float]:
        return {folder: item.seconds or 0.0 for folder, item in self.todo.items()}

    @functools.cached_property
    def needs(self) -> dict[Path, list[Path]]:
        return {folder: [other for other in dict.fromkeys(item.step.needs) if other in self.todo] for folder, item in self.todo.items()}

    @functools.cached_property
    def begins(self) -> dict[Path, float]:
        return simulate(self.seconds, self.needs, self.machines.abreast)

    @functools.cached_property
    def critical(self) -> list[Path]:
        return longest(self.seconds, self.needs)

    @property
    def makespan(self) -> float:
        """Seconds until the last stage is done."""
        return max((begin + self.seconds[folder] for folder, begin in self.begins.items()), default=0.0)

    @property
    def least(self) -> float:
        """Seconds that it takes on any number of machines."""
        return sum(self.seconds[folder] for folder in self.critical)

    @property
    def used(self) -> float:
        """Seconds of all stages that need what is counted: a GPU, or where there are none the cores of a stage."""
        return sum(self.seconds[folder] for folder, item in self.todo.items() if not self.machines.gpus or cluster.takes_gpu(item.step))

    @property
    def held(self) -> float:
        """Seconds of all GPUs, or without GPUs of all machines' cores, while the cluster is there."""
        return self.machines.abreast * self.makespan

    @property
    def hours(self) -> float:
        """For which GPUs, or without GPUs machines, are there."""
        return self.machines.total * self.makespan / 3600

    @property
    def idle(self) -> float:
        return 1 - self.used / self.held if self.held else 0.0

    @property
    def unknown(self) -> list[Planned]:
        return [item for item in self.todo.values() if item.seconds is None]

    @property
    def limit(self) -> str:
        return "critical path" if self.makespan <= NEAR * self.least else "machines"


def device(on: Machines | None) -> rates.Device | None:
    """What plans.look reckons with."""
    return on.device if on else None


def schedule(planned: Iterable[Planned], on: Machines) -> Schedule:
    return Schedule(on, {item.step.stage.folder: item for item in planned if item.source != "took"})


# ---------------------------------------------------------------------------------------------------------- what is said


def plain(planned: Sequence[Planned], lacking: Mapping[str, Lacking], on: Machines | None) -> dict[str, Any]:
    """As plans.plain; with the schedule on machines, if there are any: seconds, and hours of GPUs (without GPUs: of machines)."""
    told = plans.plain(planned, lacking)
    if on is None:
        return told
    made = schedule(planned, on)
    path = [
        {"name": folder.parent.name, "key": folder.name, "begins": made.begins[folder], "seconds": made.seconds[folder]}
        for folder in made.critical
    ]
    return told | {
        "schedule": {
            "machines": asdict(on),
            "abreast": on.abreast,
            "makespan": made.makespan,
            "hours": made.hours,
            "idle": made.idle,
            "limit": made.limit,
            "lower_bound": bool(made.unknown),
            "critical_seconds": made.least,
            "critical_path": path,
        }
    }


def show(planned: Sequence[Planned], title: str, on: Machines | None) -> None:
    """As plans.show; on machines, if there are any: what takes how much, what comes of it, and the critical path."""
    if on is None:
        plans.show(planned, title)
        return
    made = schedule(planned, on)
    lines = [_kind(name, [item for item in planned if item.step.stage.name == name], made) for name in _names(planned)]
    header = ("stage", "to do", "on GPU", "longest", "together", "share", "by")
    console.table(f"{title}: {plans.total(planned)}", header, lines, sentences=("by",))
    if not made.todo:
        return
    console.table(f"simulated, on {on}", ("", "value", "that is"), _summary(made), sentences=("that is",))
    path = [made.todo[folder] for folder in made.critical]
    rows = [
        (item.step.stage.name, item.step.work, plans.roughly(made.begins[folder]) if made.begins[folder] else "", _time(item.seconds))
        for folder, item in zip(made.critical, path)
    ]
    console.table("critical path", ("stage", "work", "begins after", "takes"), rows, sentences=("work",))
    for text in _sources(made):
        console.note(text)


def _names(planned: Sequence[Planned]) -> list[str]:
    return list(dict.fromkeys(item.step.stage.name for item in planned))


def _time(seconds: float | None) -> str:
    return "unknown" if seconds is None else plans.roughly(seconds)


def _kind(name: str, same: Sequence[Planned], made: Schedule) -> tuple[str, ...]:
    todo = [item for item in same if item.step.stage.folder in made.todo]
    if not todo:
        return name, f"0 of {len(same)}", "", "cached", "", "", ""
    known = [item.seconds for item in todo if item.seconds is not None]
    everything = sum(made.seconds.values())
    share = f"{100 * sum(known) / everything:.0f} %" if known and everything else ""
    gpu = str(sum(cluster.takes_gpu(item.step) for item in todo) if made.machines.gpus else 0)
    sources = ", ".join(dict.fromkeys(item.source for item in todo))
    count = f"{len(todo)} of {len(same)}"
    return name, count, gpu, _time(max(known, default=None)), _time(sum(known) if known else None), share, sources


def _summary(made: Schedule) -> list[tuple[str, str, str]]:
    on, least = made.machines, "at least " if made.unknown else ""
    hours = made.hours
    what = "GPU" if on.gpus else "machine"
    waits = "no stage, or one that needs no GPU" if on.gpus else "no stage"
    limits = {
        "critical path": "the stages wait for one another; more machines make it no faster",
        "machines": f"stages wait for room; more machines make it faster, down to {_time(made.least)}",
    }
    return [
        (
            "makespan",
            f"{least}{_time(made.makespan)}",
            f"from the first stage to the last, {console.counted(on.abreast, 'stage')} at a time",
        ),
        (
            f"{what}-hours",
            f"{least}{hours:,.0f}" if hours >= 100 else f"{least}{hours:.2g}",
            f"{console.counted(on.total, what)} from the first stage to the last",
        ),
        ("idle", f"{100 * made.idle:.0f} %", f"of that: {waits}"),
        ("critical path", f"{least}{_time(made.least)}", "stages that need one another; no cluster is faster"),
        ("limit", made.limit, limits[made.limit]),
    ]


def _sources(made: Schedule) -> Iterable[str]:
    """Where the times are from, and what they leave out."""
    from synthbench.device import gpu_name

    if any(item.source == "arithmetic" and cluster.takes_gpu(item.step) for item in made.todo.values()):
        device = made.machines.device
        who = device.name or ("a GPU as here" if gpu_name() else "any GPU") if device.kind == "cuda" else "CPU"
        yield f"by arithmetic: networks at {rates.speed(*device):,.0f} GFLOP/s ({who}), as configs/rates.yaml reckons; not measured"
    if made.unknown:
        names = ", ".join(dict.fromkeys(f"{item.step.stage.name} ({item.step.work})" for item in made.unknown))
        yield f"of unknown length, and reckoned as nothing, so that all this is a lower bound: {names}"
