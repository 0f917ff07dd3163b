"""A request for a sweep becomes a design: every setting, value and file it needs is checked before anything runs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from synthbench import registry
from synthbench.config import in_full, merge, parse_set
from synthbench.pipeline import default_protocol, run
from synthbench.pipeline import plan as plans
from synthbench.pipeline.request import read
from synthbench.protocol import Protocol
from synthbench.store import Store, content_key, read_json, write_json
from synthbench.sweep.settings import Axis, Values, canonical, read_axes, texts
from synthbench.types import UserError


@dataclass(frozen=True)
class Request:
    """The command line of `synthbench sweep`, as given."""

    parameters: tuple[str, ...]
    runs: Path
    generator: str = "cemiface"
    values: tuple[str, ...] = ()
    ranges: tuple[str, ...] = ()
    volume: str | None = None
    protocol: str | None = None
    seeds: int = 1
    settings: tuple[str, ...] = ()
    sampler: str = "grid"  # grid, tpe or gp
    trials: int = 20  # of tpe and gp
    jobs: int = 1
    storage: str | None = None  # a database for several machines, instead of the journal
    confirm: int = 0  # best points to repeat
    confirm_seeds: int | None = None
    confirm_volume: str | None = None
    prune: bool = False
    name: str | None = None
    device: str = "auto"
    tracking: bool = True

    @property
    def repeat_seeds(self) -> int:
        """Seeds of the points that are repeated."""
        return self.confirm_seeds or max(3, self.seeds + 2)


@dataclass(frozen=True)
class Design:
    """What will be run."""

    request: Request
    store: Store
    protocol: Protocol
    axes: tuple[Axis, ...]
    points: tuple[Values, ...]  # of a grid; empty where a sampler chooses them
    corners: tuple[Values, ...]  # the points of a grid; the corners of the ranges of a search
    generator: str = ""  # short name
    volume: str = ""
    name: str = ""
    parts: str = ""  # JSON of what makes it this sweep and no other

    @property
    def folder(self) -> Path:
        return self.store.root / "sweeps" / self.name

    @property
    def size(self) -> int:
        """Points that the sweep has when it is complete."""
        return len(self.points) or self.request.trials

    @property
    def requests(self) -> list[run.Request]:
        """The runs of all points. Raises UserError for a search, whose points are chosen by what came of others."""
        if not self.points:
            raise UserError(f"--on: the points of {self.request.sampler} follow from one another; --sampler grid has them all at once")
        return [self.run(values, self.request.seeds) for values in self.points]

    def run(self, values: Values, seeds: int, volume: str | None = None) -> run.Request:
        """The run of a point: told from the others by its `--set` texts only."""
        wish = self.request
        return run.Request(
            generator=wish.generator,
            runs=wish.runs,
            volume=volume or wish.volume,
            protocol=wish.protocol,
            seeds=seeds,
            settings=(*wish.settings, *texts(values)),
            device=wish.device,
            tracking=wish.tracking,
        )

    def begin(self) -> None:
        """Make the folder. Raises UserError when a sweep of this --name was begun with another design."""
        before, parts = read_json(self.folder / "design.json"), json.loads(self.parts)
        if isinstance(before, dict) and before != parts:
            differing = ", ".join(name for name in parts if before.get(name) != parts[name])
            raise UserError(f"sweep {self.name} was begun with other {differing}; take another --name, or none")
        (self.folder / "trials").mkdir(parents=True, exist_ok=True)
        if before is None:
            write_json(self.folder / "design.json", parts)


def design(request: Request) -> Design:
    """Raises UserError for whatever is wrong with any point, and DataMissing for what no point can do without."""
    plans.require_seeds(request.seeds)
    if min(request.jobs, request.trials) < 1 or request.confirm < 0:
        raise UserError("--jobs and --trials must be at least 1, --confirm at least 0")
    if request.name and not re.fullmatch(r"\w[\w.+-]*", request.name, re.ASCII):
        raise UserError(f"--name {request.name!r}: use letters, digits and . _ + - only, none of . + - first; it names a folder")
    store = Store(request.runs.absolute())
    kind = registry.load("generator", request.generator)
    short, search, fixed = (
        registry.short_name(request.generator),
        request.sampler != "grid",
        in_full(kind.Config, parse_set(request.settings)),
    )
    preset = registry.preset(request.generator)
    axes = read_axes(request.parameters, request.values, request.ranges, search, kind.Config, short)
    wanted = (*request.settings, *(f"{axis.path}={json.dumps(axis.values)}" for axis in axes))
    for volume in (request.confirm_volume, request.volume):
        protocol, _ = default_protocol.choose(request.protocol, request.generator, wanted, volume)
    if "verification" not in protocol.evaluators:
        raise UserError(f"protocol {protocol.name} has no evaluator verification; a sweep needs its mean accuracy")
    if taken := [axis.path for axis in axes if tuple(axis.path.split(".")) in fixed.origin]:
        raise UserError(f"{taken[0]} is swept and also given by --set")
    axes, points = canonical(axes, request.generator, protocol, fixed)
    made = Design(request, store, protocol, tuple(axes), () if search else tuple(points), tuple(points), short)
    job = read(made.run(points[0], request.seeds)).job
    for values in points if request.prune else ():
        if not read(made.run(values, request.seeds)).job.traits.new_identities:
            raise UserError(f"--prune: {request.generator} shows the people of the real set, whose pairs validate a recognizer in training")
    parts = {
        "generator": job.identity,
        "axes": {axis.path: list(axis.values) or [axis.low, axis.high, axis.step] for axis in axes},
        "settings": merge((preset.settings, fixed)).data if preset else fixed.data,
        "volume": job.volume.name,
        "protocol": protocol.model_dump(mode="json", exclude={"generators"}),
        "changed": {name: given for name, given in protocol.generators.items() if name == registry.plugin_name(request.generator)},
        "seeds": request.seeds,
        "sampler": request.sampler,
        "prune": request.prune,
    }
    words = "+".join(axis.name for axis in axes)
    name = f"{words}-{short}-{job.volume}-{protocol.name}-{content_key(parts)[:8]}"
    return replace(made, volume=job.volume.name, name=request.name or re.sub(r"[^\w.+-]", "_", name), parts=json.dumps(parts))


def label(values: Values) -> str:
    """A point in words: `m = 0.2, steps = 5`."""
    return ", ".join(f"{path.rpartition('.')[2]} = {show(value)}" for path, value in values.items())


def show(value: Any) -> str:
    """A value as a person writes it on the command line."""
    if isinstance(value, dict) and value.keys() == {"low", "high"}:
        return f"{value['low']:g}:{value['high']:g}"
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)
