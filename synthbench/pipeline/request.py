"""A request as it was typed, and read: once, into one object from which key, job and stages follow."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from os.path import exists
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthbench import console, registry
from synthbench.config import Layer, config_path, leaves, named, parse_set
from synthbench.data import sources
from synthbench.data.readers import full_stamp
from synthbench.data.sources import Lacking
from synthbench.pipeline import default_protocol, parts
from synthbench.pipeline import plan as plans
from synthbench.pipeline.steps import Step
from synthbench.protocol import DistilledNetwork, Protocol, TrainedNetwork
from synthbench.results import record
from synthbench.results.record import Result
from synthbench.store import Store, content_key
from synthbench.types import Volume

if TYPE_CHECKING:
    import torch

    from synthbench.pipeline.job import Job


@dataclass(frozen=True)
class Request:
    """The command line of `synthbench run`, as given."""

    generator: str
    runs: Path
    volume: str | None = None
    protocol: str | None = None
    seeds: int = 1
    settings: tuple[str, ...] = ()
    until: str | None = None
    force: tuple[str, ...] = ()
    device: str = "auto"
    tracking: bool = True


@dataclass(frozen=True)
class Order:
    """A request, read: where, under which protocol, with which settings. What follows from it is worked out once, when asked for."""

    request: Request
    store: Store
    protocol: Protocol
    why: str  # this protocol
    settings: Layer  # from `--set`
    watch: Callable[[int, int, float], None] | None = None  # told of the generator's recognizers in training; see `run.run`

    @functools.cached_property
    def settings_given(self) -> list[Any]:
        """By the preset, `--set` and the protocol."""
        found = registry.preset(self.request.generator)
        return [found.settings.data if found else {}, self.settings.data, self.protocol.generators]

    def recheck(self) -> None:
        """Raises UserError where files of a registered set that the request names are not what was registered."""
        own = {registry.short_name(self.request.generator), registry.short_name(registry.plugin_name(self.request.generator))}
        own |= set(plans.texts(self.settings_given[:2]))  # those that a set is made of
        needed = {need.name for need in self.protocol.needs() if not need.generator or need.generator in own}
        for name in sorted((needed | set(plans.texts(self.settings_given[:2]))) & set(sources.names_registered())):
            sources.recheck(name)

    @functools.cached_property
    def key(self) -> str:
        """Names the question: the same request of the same code about the same files. Imports no torch."""
        request, protocol = self.request, self.protocol
        return content_key(
            {
                "package": record.fingerprint(),
                "generator": request.generator,
                "files": [registry.file_digest(name) for name in (request.generator, *protocol.evaluators)],
                "recipes": {name: config_path("recipes", name).read_text("utf-8", "replace") for name in recipes(protocol)},
                "volume": request.volume,
                "protocol": protocol.model_dump(mode="json"),
                "seeds": request.seeds,
                "settings": request.settings,
                "data": sources.fingerprint(),
                "paths": {text: full_stamp(text) for text in plans.texts(self.settings_given) if exists(text)},
            }
        )

    def answer(self) -> Result | None:
        """The result of an earlier identical request, if it is still whole. Imports no torch."""
        return record.remembered(self.store, self.key)

    @functools.cached_property
    def device(self) -> tuple[torch.device, str]:
        """What to work on, and why, in words."""
        from synthbench.device import pick_device, set_threads

        set_threads()
        return pick_device(self.request.device)

    @functools.cached_property
    def job(self) -> Job:
        """Plugin loaded, settings checked, volume chosen."""
        request = self.request
        registry.require("generator", request.generator)  # before torch is imported
        from synthbench.pipeline.job import Job

        job = Job(self.store, self.protocol, request.generator, Volume.parse("all"), self.device[0], self.settings, self.watch)
        return job.at(request.volume or "")

    @property
    def spelled(self) -> list[str]:
        """Short names among the settings, and what they were taken for."""
        kind = type(self.job.generator).Config
        short = [name for name in self.settings.data if name not in kind.model_fields]
        return [f"--set {name}: taken for {named(name, leaves(kind, sections=True))[0]}" for name in short]

    @functools.cached_property
    def wired(self) -> tuple[dict[int, list[Step]], dict[str, Lacking]]:
        """The stages of each seed, those that are cached too, and the data that they need and are not there; nothing is done."""
        return plans.wire(self.job, self.request.seeds)

    @property
    def stages(self) -> dict[int, list[Step]]:
        return self.wired[0]

    @property
    def lacking(self) -> dict[str, Lacking]:
        """With any of these nothing may be run."""
        return self.wired[1]

    @property
    def steps(self) -> list[Step]:
        """Every stage once."""
        return plans.once(self.stages.values())

    def step(self, folder: Path) -> Step:
        """The one whose stage lies in `folder`."""
        return next(step for step in self.steps if step.stage.folder == folder)

    @property
    def title(self) -> str:
        job, seeds = self.job, self.request.seeds
        return f"{job.called} @ {job.volume}, protocol {job.protocol.name} {job.protocol.version}, {console.counted(seeds, 'seed')}"


def read(request: Request, watch: Callable[[int, int, float], None] | None = None) -> Order:
    """Raises UserError for a protocol, settings or a number of seeds that cannot be; the rest shows when the job is asked for."""
    plans.require_seeds(request.seeds)
    asked = added_up(request)
    protocol, why = default_protocol.choose(request.protocol, asked.generator, asked.settings, request.volume)
    return Order(asked, Store(request.runs.absolute()), protocol, why, parse_set(asked.settings), watch)


def added_up(request: Request) -> Request:
    """A request for `real+cemiface` as one for the union of what a run of each has; the volume is that of every generator but `real`."""
    if len(names := parts.summands(request.generator)) == 1:
        return request
    asked = [f"{name}@{request.volume}" if request.volume and parts.has_volume(name) else name for name in names]
    return replace(request, generator="union", volume=None, settings=(f"sample.parts={json.dumps(asked)}", *request.settings))


def recipes(protocol: Protocol) -> list[str]:
    """The recipe of the recognizers first, then those of the encoder and of the judge that are trained here."""
    networks = (network for network in (protocol.encoder, protocol.judge) if isinstance(network, (TrainedNetwork, DistilledNetwork)))
    return list(dict.fromkeys([protocol.recipe, *(network.recipe for network in networks)]))
