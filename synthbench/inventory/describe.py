"""One thing with all that is known of it: `synthbench show`. Text for people; `--json` of the command has the rest."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from synthbench import console, registry
from synthbench.config import Layer, config_names, config_path, did_you_mean, load_yaml, merge
from synthbench.inventory import cards, listing
from synthbench.inventory.cards import Card
from synthbench.pipeline import default_protocol
from synthbench.protocol import Protocol
from synthbench.results import lookup
from synthbench.results.record import Result, made_of
from synthbench.results.record import show as show_table
from synthbench.store import Store
from synthbench.types import UserError, Volume

KINDS = ("generator", "evaluator", "protocol", "recipe", "volume", *lookup.KINDS)
WIDTH = 120  # columns of text
ABSENT = object()


@dataclass(frozen=True)
class Thing:
    """Something that has a name."""

    kind: str
    name: str
    made: lookup.Made | None = None  # of a run, comparison or sweep


def find(words: Sequence[str], runs: Path) -> Thing:
    """What `NAME` or `KIND NAME` means. Says so when other things have the same name.

    Raises UserError when nothing is called so, or several things begin so.
    """
    if len(words) == 2 and words[0] not in KINDS:
        raise UserError(f"{words[0]!r} is no kind of thing" + did_you_mean(words[0], KINDS, show_all=True))
    *kind, name = words
    kinds = tuple(kind) or KINDS
    if kind == ["volume"]:
        return Thing("volume", Volume.parse(name).name)  # any IDSxIMAGES
    store = Store(runs.absolute())
    known = {k: _names(k, store) for k in kinds}
    same = [k for k in kinds if name in known[k] or (_is_file(name) and k == _kind_of_file(name))]
    if same:
        for other in same[1:]:
            console.note(f"there is also the {other} {name}: synthbench show {other} {name}")
        return Thing(same[0], name, lookup.find(store, name, (same[0],)) if same[0] in lookup.KINDS else None)
    there = tuple(k for k in kinds if k in lookup.KINDS)
    if there and (name == "latest" or (name and any(item.startswith(name) for k in there for item in known[k]))):
        made = lookup.find(store, name, there)
        return Thing(made.kind, made.name, made)
    what = f"no {kind[0]} is" if kind else "nothing is"
    raise UserError(f"{what} called {name!r}" + did_you_mean(name, [item for k in kinds for item in known[k]], show_all=True))


def _names(kind: str, store: Store) -> list[str]:
    if kind in registry.KINDS:
        return list(registry.names(kind))
    if kind == "volume":
        return [name for name, blocks in Volume.NAMED.items() if blocks]
    if kind in lookup.KINDS:
        return [item.name for item in lookup.everything(store, (kind,))]
    return config_names(f"{kind}s")


def _is_file(name: str) -> bool:
    return name.endswith((".py", ".yaml", ".yml"))


def _kind_of_file(name: str) -> str:
    """A preset or plugin, or the protocol or recipe of the user's own."""
    if name.endswith(".py"):
        return registry.kind_of(name)
    text = config_path("protocols", name).read_text("utf-8", "replace")
    return "protocol" if re.search("^(benchmarks|extends):", text, re.M) else "recipe" if "\nbackbone:" in text else "generator"


def show(thing: Thing, runs: Path, wish: str | None = None) -> None:
    """Print it. `wish`: the protocol under which a generator is shown."""
    if thing.made:
        {"run": show_run, "comparison": show_comparison, "sweep": show_sweep}[thing.kind](thing.made, Store(runs.absolute()))
    elif thing.kind == "generator":
        print("\n".join(generator(thing.name, *default_protocol.usual(wish))))
    elif thing.kind == "evaluator":
        print("\n".join(evaluator(thing.name)))
    elif thing.kind == "volume":
        volume = Volume.parse(thing.name)
        blocks = " + ".join(f"{people:,} identities x {images}" for people, images in volume.blocks)
        print(f"{volume}: {blocks} = {volume.images:,} images of {volume.identities:,} identities")
    else:
        path = config_path(f"{thing.kind}s", thing.name)
        load_yaml(path)  # what is none is told by its line
        print(path.read_text("utf-8").rstrip())


def as_json(thing: Thing, wish: str | None = None) -> Any:
    """All that is known of it as plain data."""
    if thing.made:
        return lookup.read(thing.made) if thing.kind == "run" else lookup.read_group(thing.made.path)
    if thing.kind in registry.KINDS:
        card = cards.card(thing.kind, thing.name, default_protocol.usual(wish)[0] if thing.kind == "generator" else None)
        return {name: value for name, value in card.items() if name != "under"}
    if thing.kind == "volume":
        volume = Volume.parse(thing.name)
        return {"name": volume.name, "blocks": volume.blocks, "identities": volume.identities, "images": volume.images}
    return load_yaml(config_path(f"{thing.kind}s", thing.name))


# ------------------------------------------------------------------------------------------------------------- plugins


def generator(name: str, protocol: Protocol, why: str) -> Iterator[str]:
    """Traits and size in comment lines, then the settings as they ship; what the protocol changes stands behind each."""
    card = cards.card("generator", name, protocol)
    yield f"# {card['summary']}"
    yield from _traits(card, protocol)
    lacks = listing.lacking(protocol) or listing.missing(name, card, protocol)
    yield from _comment("runs here", lacks or "yes")
    for network, parameters, flop in card["sizes"]:
        size = f"{parameters / 1e6:.2f} M parameters, {flop / 1e9:.1f} GFLOP a forward pass of one image"
        yield f"# {network}, images of {cards.PIXELS} px: {size}"
    if card["memory"]:
        size, part = card["memory"]
        how = f"traced, not measured: {part} images at a time, an IR-50 as encoder"
        yield f"# training, images of {cards.PIXELS} px: at most {size / 1e9:.0f} GB of a GPU ({how})"
    yield f"# version {card['version']}; set any of these with --set NAME=VALUE"
    preset, layers = registry.preset(name), [Layer(settings) for settings in cards.changes(protocol, name).values()]
    changed = merge([layers[0], preset.settings, *layers[1:]] if preset else layers).data
    if any(layer.data for layer in layers):
        yield f"# protocol {protocol.name} ({why}) changes what is marked so: {protocol.name} = VALUE"
    yield from _settings(card["settings"], card["about"], changed, protocol.name)


def evaluator(name: str) -> Iterator[str]:
    card = cards.card("evaluator", name)
    yield f"# {card['summary']}"
    yield f"# version {card['version']}; a protocol sets these under evaluators.{card['name']}"
    yield from _settings(card["settings"], card["about"], {}, "")


def _traits(card: Card, protocol: Protocol) -> Iterator[str]:
    traits = card["traits"]
    divided = f"no: {traits['undivided']}" if traits["undivided"] else "yes"
    facts = {
        "preset of": card["preset_of"],
        "paper": traits["paper"],
        "licence": traits["licence"],
        "labels of the real set": "needed" if traits["needs_labels"] else "not needed",
        "people": "new" if traits["new_identities"] else "those of the real set",
        "photographs in the set": listing.photographs(traits, protocol) or "none",
        "pretrained networks": traits["pretrained"] or "none",
        "trained by several processes": divided if traits["trains"] else "",
    }
    for what, value in facts.items():
        if value:
            yield from _comment(what, value)


def _comment(what: str, value: str) -> list[str]:
    lines = value.splitlines()
    return textwrap.wrap(f"{what}: {' '.join(lines)}", WIDTH, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False)


def _settings(plain: dict[str, Any], about: dict[str, str], changed: dict[str, Any], protocol: str, above: str = "") -> Iterator[str]:
    """Settings as lines of YAML, each with what is said about it, and the protocol's value where that is another."""
    indent = "  " * above.count(".")
    for name, value in plain.items():
        key, other = f"{above}{name}", changed.get(name, value)
        parts = isinstance(value, dict) and value and key not in about
        same = other == value or (parts and isinstance(other, dict))
        notes = "; ".join(filter(None, ("" if same else f"{protocol} = {_yaml(other)}", about.get(key, ""))))
        yield f"{indent}{name}:" + ("" if parts else f" {_yaml(value)}") + (f"  # {notes}" if notes else "")
        if parts:
            yield from _settings(value, about, other if isinstance(other, dict) else {}, protocol, f"{key}.")


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False).removesuffix("\n").removesuffix("\n...")


def flat(settings: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Settings by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value, f"{above}{name}.") if isinstance(value, dict) and value else {f"{above}{name}": value}
    return found


# ------------------------------------------------------------------------------------------------------ what was made here


def show_run(made: lookup.Made, store: Store) -> None:
    """The table, the settings that differ from the shipped ones, what is in the set, and the paths."""
    result = lookup.read(made)
    rows = [result["baseline"], result] if result["baseline"] else [result]
    show_table([{**row, "title": result.get("title", ""), "skipped": result.get("skipped", [])} for row in rows], benchmarks(result))
    differing = _differing(result)
    if differing is None:
        used = [(key, _yaml(value)) for key, value in flat(result.get("settings", {})).items()]
        console.table("settings", ("setting", "used"), used)
    elif differing:
        console.table("settings that differ from those that ship", ("setting", "used", "as shipped"), differing)
    else:
        print("settings: as they ship")
    facts = {
        "command": result.get("command", ""),
        "made of": made_of(result),
        "cleaned": result.get("cleaned", {}).get("said", ""),
        "photographs of real people": lookup.photographs(store, result) or "none",
        "damaged, left out": ", ".join(
            f"{part['damaged']:,} of {part['of']:,} of {name}" for name, part in result.get("left_out", {}).items()
        ),
        "learnt from": ", ".join(f"{name}, {images:,} images" for name, images in result.get("learnt_from", {}).items()),
        "set": result["artifacts"].get("faces", ""),
        "samples": result["artifacts"].get("samples", ""),
        "all scores": f"{made.path}",
    }
    for what, value in facts.items():
        if value:
            print(f"{what}: {value}")


def benchmarks(result: Result) -> list[str]:
    """Names of the verification sets, in the protocol's order."""
    parts = [score["metric"].split("/") for score in result["scores"]]
    return list(dict.fromkeys(part[1] for part in parts if part[::2] == ["verification", "accuracy"] and part[1] != "avg"))


def _differing(result: Result) -> list[tuple[str, str, str]] | None:
    """(name, used, as shipped); None when the generator is not here any more."""
    try:
        shipped = flat(cards.card("generator", result["generator"])["settings"])
    except UserError:
        return None
    used = flat(result.get("settings", {}))
    return [(key, _yaml(value), _yaml(shipped.get(key))) for key, value in used.items() if value != shipped.get(key, ABSENT)]


def show_comparison(made: lookup.Made, store: Store) -> None:
    """The table of a comparison, and the paths."""
    from synthbench.results import terminal

    found = lookup.read_group(made.path)
    terminal.show(found)
    for row in found["rows"]:
        print(f"{row['label']}: {row['run']}")
    print(f"all numbers: {made.path}")


def show_sweep(made: lookup.Made, store: Store) -> None:
    """The points of a sweep, its statement, and the paths."""
    found = lookup.read_group(made.path)
    rows = [
        (", ".join(f"{name} = {_yaml(value)}" for name, value in point["values"].items()), point["state"], _average(point))
        for point in found["points"]
    ]
    console.table(f"{found['generator']} {found['volume']}, {found['protocol']}: {found['title']}", ("point", "state", "AVG %"), rows)
    print(found["statement"])
    for name in ("curve.png", "table.csv", "sweep.json"):
        if (made.folder / name).is_file():
            print(f"{name}: {made.folder / name}")


def _average(point: dict[str, Any]) -> str:
    average = point["scores"].get("verification/avg/accuracy")
    return f"{average['value']:.2f}" if average else "-"
