"""Which protocol holds when none is asked for: `paper` when its data are registered, else `demo`, unless the request is not for that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os.path import isdir, isfile
from typing import Any

from synthbench import registry
from synthbench.config import Layer, config_names, config_path, merge, parse_set, read_layer
from synthbench.data import sources
from synthbench.protocol import OWN, Protocol, WorldFaces, load_protocol, missing
from synthbench.types import UserError, Volume

LARGE = 10  # times the demo's images: from there on it takes hours, and nobody means the demo by it


def choose(wish: str | None, generator: str, settings: Sequence[str] = (), volume: str | None = None) -> tuple[Protocol, str]:
    """The protocol and why: the one asked for, else `paper` when its data are registered, else `demo`.

    Raises UserError instead of choosing `demo` for a request that means photographs or full scale.
    """
    protocol, why = usual(wish)
    return (protocol if wish or protocol.name != "demo" else demo_for(generator, settings, volume)), why


def usual(wish: str | None) -> tuple[Protocol, str]:
    """As `choose`, where no request is at hand: what `list` and `show` look through."""
    if wish:
        return load_protocol(wish), "as asked"
    paper = load_protocol("paper")
    lacks = missing(paper)
    if not lacks:
        return paper, "its data are registered"
    return load_protocol(
        "demo"
    ), f"protocol paper lacks {len(lacks)} of its {len(paper.sources())} files (synthbench data status --protocol paper)"


def demo_for(generator: str, settings: Sequence[str], volume: str | None) -> Protocol:
    """Protocol `demo`, unless the request means photographs or full scale: then a UserError asks for a protocol."""
    demo = load_protocol("demo")
    if why := large(volume, demo) or brought(generator, settings, demo):
        raise UserError(f"{why}, so say under which protocol; demo, which is taken else, is hardly meant:\n" + "\n".join(choices()))
    return demo


def large(volume: str | None, demo: Protocol) -> str:
    """Why `volume` is not for the demo; empty when it may be."""
    wanted, usual = Volume.parse(volume or demo.volume).images, Volume.parse(demo.volume).images
    return f"volume {volume} is {wanted:,} images, {wanted / usual:.0f} times the demo's" if wanted > LARGE * usual else ""


def brought(generator: str, settings: Sequence[str], demo: Protocol) -> str:
    """Why a generator with `settings` is not for the demo: it reads a set or weights that the user has; empty when it reads none.

    Settings are looked at as texts, as no generator may be imported here: an answer from the cache needs no torch.
    """
    plugin, preset = registry.plugin_name(generator), registry.preset(generator)
    shipped = read_layer(config_path("generators", plugin)) if plugin in config_names("generators") else Layer()
    given, known = parse_set(settings), sources.names_registered()
    own = [preset.settings, given] if preset else [given]
    changed = [Layer(demo.generators.get(registry.short_name(name), {})) for name in (plugin, generator)]
    written = {text for _, text in _texts(merge(own).data)}  # paths count where the user wrote them
    for name, text in _texts(merge([shipped, changed[0], *own[:-1], changed[1], given]).data):
        if text and text not in OWN and (text in known or (text in written and (isfile(text) or isdir(text)))):
            return f"{name}={text} is {'a registered source' if text in known else 'a set of your own'}, not the embedded world"
    return ""


def choices() -> Iterator[str]:
    """A line for each shipped protocol: what it means, and what it lacks here."""
    for name in config_names("protocols"):
        protocol = load_protocol(name)
        lacks = missing(protocol)
        state = f"lacks {', '.join(lacks)} (synthbench data status --protocol {name})" if lacks else "can run here"
        if isinstance(protocol.real, WorldFaces):
            state += "; minutes on two cores for 200x20, hours for much more"
        yield f"  --protocol {name}: {protocol.title}; {state}"


def _texts(settings: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, text) of every text among the settings: what may name data."""
    if isinstance(settings, str):
        yield name, settings
    elif isinstance(settings, dict):
        for key, value in settings.items():
            yield from _texts(value, f"{name}.{key}" if name else str(key))
    elif isinstance(settings, (list, tuple)):
        for value in settings:
            yield from _texts(value, name)
