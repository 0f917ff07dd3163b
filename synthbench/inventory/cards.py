"""What is known of a plugin without importing it: tables in a moment, where its module would import torch.

cards.json holds a card for each plugin that ships, and the digest of the files that it follows from. In a checkout that was edited since,
and for plugins of other packages, cards are made on the spot, which takes as long as their imports do. After a change of a generator or
evaluator make the file anew:

    python -m synthbench.inventory.cards
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from synthbench import registry
from synthbench.config import Layer, Settings, build, config_names
from synthbench.plugin import Generator
from synthbench.protocol import Protocol, load_protocol
from synthbench.store import read_json, write_json
from synthbench.types import UserError, Volume

Card = dict[str, Any]
FILE = Path(__file__).with_name("cards.json")
PACKAGE = Path(__file__).parents[1]
FOLLOWS = ("generators", "evaluators", "identities", "diffusion", "training", "models", "recognition", "configs/generators")
PIXELS, DIM = 112, 512  # networks are counted at the resolution and with the embedding of the published encoders


def card(kind: str, name: str, protocol: Protocol | None = None) -> Card:
    """What is known of a generator or evaluator.

    name, summary, version, settings (as shipped), about (what is said of each, by its dotted name), preset_of; of a generator `sizes`
    (network, parameters, FLOP of a forward pass of one image) and `memory` (see `_memory`), and with a protocol `traits` and `lacks` under
    it (see `_under`).
    Raises UserError for a plugin that cannot be imported, or refuses its own settings.
    """
    known = _shipped().get(kind, {}).get(name)
    if known is None:
        known = make(kind, name, [protocol] if protocol else [])
    if kind == "generator" and protocol:
        under = known["under"].get(_key(protocol, name)) or _under(name, protocol)
        return {**known, **under}
    return dict(known)


def make(kind: str, name: str, protocols: Sequence[Protocol]) -> Card:
    """The card of a plugin, from its class."""
    plugin = registry.load(kind, name)
    summary = (plugin.__doc__ or plugin.__name__).strip().splitlines()[0]
    made: Card = {"name": registry.short_name(name), "summary": summary, "version": plugin.version, "preset_of": ""}
    if kind == "evaluator":
        config = plugin.Config()
        return made | {"settings": config.model_dump(mode="json"), "about": _about(config)}
    preset = registry.preset(name)
    generator = configured(name)
    made |= {"preset_of": preset.plugin if preset else "", "settings": generator.config.model_dump(mode="json")}
    made |= {"about": _about(generator.config), "traits": asdict(generator.traits), "sizes": _sizes(generator)}
    made["memory"] = _memory(generator, made["sizes"]) if generator.traits.trains else []
    return made | {"under": {_key(protocol, name): _under(name, protocol) for protocol in protocols}}


def configured(name: str, protocol: Protocol | None = None) -> Generator[Any]:
    """The generator or preset `name` with the settings of its file and what `protocol` changes of them."""
    kind = registry.load("generator", name)
    return kind(build(kind.Config, *registry.layers(name, lambda which: Layer(protocol.generators.get(which, {}) if protocol else {}))))


def changes(protocol: Protocol, name: str) -> dict[str, Any]:
    """The settings that a protocol changes of a generator or preset."""
    plugin, own = registry.short_name(registry.plugin_name(name)), registry.short_name(name)
    return {which: protocol.generators.get(which, {}) for which in dict.fromkeys((plugin, own))}


# ------------------------------------------------------------------------------------------------------------ the parts


def _key(protocol: Protocol, name: str) -> str:
    """What of a protocol decides a card."""
    parts = {"changes": changes(protocol, name), "resolution": protocol.resolution, "volume": protocol.volume}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _under(name: str, protocol: Protocol) -> dict[str, Any]:
    """traits under the protocol; lacks: what it asks for where nothing is registered, as {"say": words, "data": names to register}."""
    generator = configured(name, protocol)
    lacks = obstacle(generator, protocol)
    return {"traits": asdict(generator.traits), "lacks": {"say": lacks, "data": re.findall(r"synthbench data add ([\w.+-]+)", lacks)}}


def obstacle(generator: Generator[Any], protocol: Protocol) -> str:
    """Why the generator cannot run here under the protocol, in its own words; "" when nothing is known against it."""
    volume = "all" if generator.traits.finite else protocol.volume
    try:
        generator.sources(protocol.resolution)
        generator.check(Volume.parse(volume), getattr(protocol.real, "identities", None))
    except UserError as error:
        return str(error)
    return ""


def _about(settings: Settings, above: str = "") -> dict[str, str]:
    """What is said of each setting, by its dotted name."""
    found: dict[str, str] = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, Settings):
            found |= _about(value, f"{above}{name}.")
        elif field.description:
            found[f"{above}{name}"] = field.description
    return found


def _sizes(generator: Generator[Any]) -> list[tuple[str, int, int]]:
    import torch

    from synthbench.models.size import count

    with torch.device("meta"):
        counted = {name: count(network, *inputs) for name, (network, inputs) in generator.networks(PIXELS, DIM).items()}
    return [(name, parameters, 2 * macs) for name, (parameters, macs) in counted.items()]


def _memory(generator: Generator[Any], sizes: Sequence[tuple[str, int, int]]) -> list[int]:
    """[bytes of a GPU that training takes at most, images at a time], all networks and an IR-50 as encoder at once; empty: not known."""
    import torch

    from synthbench.models.encoder import build as network
    from synthbench.models.memory import STATE, kept
    from synthbench.training.loop import PART

    if not sizes:
        return []
    train = generator.config.train
    part, precision = min(PART, getattr(train, "batch_size", PART)), getattr(train, "precision", "bf16")
    try:
        found = [kept(partial(lambda name: generator.networks(PIXELS, DIM)[name], name), precision) for name, *_ in sizes]
    except Exception:  # of a plugin whose network is not made for fake tensors
        return []
    total = STATE * sum(parameters for _, parameters, _ in sizes)
    if generator.traits.uses_encoder:
        face = torch.empty(1, 3, PIXELS, PIXELS)
        found += [kept(lambda: (network({"family": "irse", "depth": 50, "se": False, "dropout": 0.0}, PIXELS, DIM).eval(), (face,)))]
    return [total + sum(part * each + beside for each, beside in found), part]


# -------------------------------------------------------------------------------------------------------- what is shipped


@functools.cache
def _shipped() -> dict[str, dict[str, Card]]:
    """The cards that ship; none when a file that they follow from has changed since."""
    found = read_json(FILE)
    return found["cards"] if isinstance(found, dict) and found.get("follows") == follows() else {}


def follows() -> str:
    """Digest of all files that decide the cards: those of plugins and of what they are made of."""
    files = [path for room in FOLLOWS for path in (PACKAGE / room).glob("*.*") if path.suffix in (".py", ".yaml")]
    files += [PACKAGE / f"{name}.py" for name in ("config", "plugin", "protocol", "registry", "types")] + [Path(__file__)]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.relative_to(PACKAGE).as_posix()}\n".encode() + path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def make_all() -> dict[str, dict[str, Card]]:
    """The cards of every plugin that ships, under every protocol that ships, as where nothing is registered."""
    protocols = [load_protocol(name) for name in config_names("protocols")]
    before = os.environ.get("SYNTHBENCH_DATA")
    with tempfile.TemporaryDirectory(prefix="synthbench-cards-") as nothing:
        os.environ["SYNTHBENCH_DATA"] = nothing
        try:
            return {
                kind: {
                    name: make(kind, name, protocols)
                    for name, point in sorted(registry.names(kind).items())
                    if point.value.startswith("synthbench.")
                }
                for kind in registry.KINDS
            }
        finally:
            os.environ.pop("SYNTHBENCH_DATA")
            os.environ |= {"SYNTHBENCH_DATA": before} if before is not None else {}


if __name__ == "__main__":
    write_json(FILE, {"follows": follows(), "cards": json.loads(json.dumps(make_all()))})
