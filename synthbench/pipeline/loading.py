"""A generator with the settings that it has under a protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from synthbench import registry
from synthbench.config import Layer, build, did_you_mean, in_full
from synthbench.pipeline import learning
from synthbench.protocol import Protocol
from synthbench.types import UserError

if TYPE_CHECKING:
    from synthbench.plugin import Generator


def load_generator(name: str, protocol: Protocol, *layers: Layer) -> Generator:
    """The generator `name` with its settings: its own defaults, its shipped file, what the protocol changes, then `layers` (`--set`).

    A preset comes above its generator, and what the protocol changes for the preset above that.
    Raises UserError for mistakes in settings, and for a generator with settings that would enter the key of no stage.
    """
    kind, given = registry.load("generator", name), name
    name, plugin = registry.short_name(name), registry.short_name(registry.plugin_name(name))
    parts = {"train": kind.traits.trains, "enroll": kind.traits.enrolls, "sample": True}
    if stray := [part for part in kind.Config.model_fields if not parts.get(part)]:
        has = ", ".join(part for part in parts if parts[part])
        raise UserError(
            f"{name}: setting {stray[0]!r} enters no key, so changing it would change nothing; by its traits the parts are {has}"
        )
    known = {*registry.names("generator"), name, plugin}
    if unknown := sorted(set(protocol.generators) - known):
        hint = did_you_mean(unknown[0], known, show_all=True)
        raise UserError(f"protocol {protocol.name} changes generator {unknown[0]!r}, which is unknown{hint}")

    def changed(which: str) -> Layer:
        changes = protocol.generators.get(which, {})
        return Layer(changes, {(part,): f"protocol {protocol.name}, generators.{which}" for part in changes})

    every = [*registry.layers(given, changed), *(in_full(kind.Config, layer) for layer in layers)]
    learning.refuse_labels(name, kind, every)
    return kind(build(kind.Config, *every))
