"""Tables of what there is: `synthbench list`. Nothing here imports torch for what ships."""

from __future__ import annotations

import csv
import io
import itertools
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from synthbench import console, registry
from synthbench.config import config_names, config_path
from synthbench.data import sources
from synthbench.inventory import cards
from synthbench.inventory.cards import Card
from synthbench.pipeline import default_protocol
from synthbench.protocol import Protocol, WorldFaces, load_protocol
from synthbench.results.record import Result, cell, read_run, values
from synthbench.store import Store
from synthbench.types import UserError, Volume

NAMED = 3  # missing files that are named
Table = tuple[tuple[str, ...], list[tuple[Any, ...]]]
CSV = ("run", "generator", "volume", "protocol", "seeds", "metric", "value", "stderr", "between_seeds", "n", "higher_is_better")


def listing(what: str, runs: Path) -> Table:
    """Header and rows of `synthbench list WHAT`; of generators see `generators`."""
    if what == "evaluators":
        return ("name", "version", "measures"), [
            (name, str(card["version"]), card["summary"])
            for name in registry.names("evaluator")
            if (card := _card("evaluator", name, None))
        ]
    if what == "protocols":
        loaded = [load_protocol(name) for name in config_names("protocols")]
        rows = [(p.name, f"{p.resolution} px", p.recipe, lacking(p) or "yes", p.title) for p in loaded]
        return ("name", "resolution", "recipe", "runs here", "title"), rows
    if what == "recipes":
        return ("name", "what"), [(name, first_comment(config_path("recipes", name))) for name in config_names("recipes")]
    if what == "volumes":
        return ("name", "identities", "images"), [
            (n, f"{v.identities:,}", f"{v.images:,}") for n in Volume.NAMED if (v := Volume.parse(n)).blocks
        ]
    return ("run", "seeds", "AVG %", "gap to real"), [
        (item["run"], str(len(item["seeds"])), cell(item, "verification/avg/accuracy"), cell(item, "gap_to_real/points"))
        for item in results(runs)
    ]


def first_comment(path: Path) -> str:
    """The first sentence of what a recipe says of itself."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text("utf-8").splitlines())
    text = " ".join(line.lstrip("# ") for line in lines)
    return re.split(r"(?<=[.:])\s(?=[A-Z])", text)[0].rstrip(".:")


# ---------------------------------------------------------------------------------------------------------- generators


def generators(wish: str | None = None) -> tuple[Protocol, str, list[Card]]:
    """The protocol (`wish`, else the one that a run would have here), why, and every generator and preset under it.

    Each with name, summary, version, preset_of, all its traits, and `runs_here`: "yes", or what is missing.
    """
    protocol, why = default_protocol.usual(wish)
    found = []
    for name in sorted(registry.names("generator")):
        if card := _card("generator", name, protocol):
            about = {key: card[key] for key in ("name", "preset_of", "summary", "version")}
            traits = {**card["traits"], "real_photographs": photographs(card["traits"], protocol)}
            found.append(about | traits | {"runs_here": lacking(protocol) or missing(name, card, protocol) or "yes"})
    return protocol, why, found


def photographs(traits: dict[str, Any], protocol: Protocol) -> str:
    """Which images of the set are photographs of real people under a protocol: those of a rendered real set are none."""
    rendered = isinstance(protocol.real, WorldFaces) and not traits["new_identities"]
    return "" if rendered else str(traits["real_photographs"])


def lacking(protocol: Protocol) -> str:
    """The data that a protocol needs and that are not registered here; "" when nothing is missing."""
    absent = [name for name in protocol.sources() if not sources.registered(name)]
    more = f" and {len(absent) - NAMED} more" if len(absent) > NAMED else ""
    return f"needs {', '.join(absent[:NAMED])}{more}" if absent else ""


def missing(name: str, card: Card, protocol: Protocol) -> str:
    """What a generator needs besides the protocol's data and does not find here; "" when it can run."""
    say, data = card["lacks"]["say"], card["lacks"]["data"]
    if absent := [item for item in data if not sources.registered(item)]:
        return f"needs {', '.join(absent)}"
    if data:  # they are here; only the generator itself knows whether that is all
        try:
            say = cards.obstacle(cards.configured(name, protocol), protocol)
        except UserError as error:
            say = str(error)
    return say.partition("\n")[0]


def show_generators(found: list[Card], protocol: Protocol, why: str) -> None:
    """What must be known before one is chosen, as a table on stdout."""
    rows = []
    for item in found:
        told = item["real_photographs"] or "none"
        shown = told if told in ("none", "all", "unknown") else "some"
        rows.append((item["name"], item["summary"].rstrip("."), "yes" if item["new_identities"] else "no", shown, item["runs_here"]))
    header = ("generator", "what it does", "new people", "photographs", "runs here")
    console.table(f"generators under protocol {protocol.name}", header, rows, sentences=("what it does", "runs here"))
    console.note(
        f"protocol {protocol.name}: {why}; another with --protocol. New people: or those of the real set. Photographs: of real people, "
        "among the images it makes. `synthbench show NAME` has paper, licence, pretrained networks and settings; --json all of it"
    )


def _card(kind: str, name: str, protocol: Protocol | None) -> Card | None:
    """A plugin that cannot be imported is named, and the others are listed."""
    try:
        return cards.card(kind, name, protocol)
    except UserError as error:
        console.warn(f"{kind} {name} is left out: {error}")
        return None


# ---------------------------------------------------------------------------------------------------------------- runs


def results(runs: Path) -> list[Result]:
    """The whole results in a runs folder, oldest first; others are named in a warning."""
    found = []
    for path in sorted((Store(runs).root / "results").glob("*/run.json"), key=lambda path: path.stat().st_mtime):
        result = read_run(path)
        if result is None:
            console.warn(f"{path} is not a whole result; ignored")
        else:
            found.append(result)
    return found


def table_csv(found: list[Result]) -> str:
    """One line per run and metric, unrounded: see `CSV` for the columns. Value and stderr (sampling error) are means over the seeds."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV)
    for result in found:
        head = [result[name] for name in ("run", "generator", "volume", "protocol")] + [len(result["seeds"])]
        writer.writerows([*head, *row] for row in _metrics(result))
    return text.getvalue()


def _metrics(result: Result) -> Iterator[list[Any]]:
    for metric in dict.fromkeys(score["metric"] for score in result["scores"]):
        if not (scores := values(result, metric)):  # of the real set to itself
            continue
        numbers = [score["value"] for score in scores]
        errors = [score["stderr"] for score in scores if score["stderr"] is not None]
        between = statistics.stdev(numbers) if len(numbers) > 1 else ""
        error = statistics.fmean(errors) if errors else ""
        yield [metric, statistics.fmean(numbers), error, between, scores[0].get("n", ""), scores[0].get("higher_is_better", "")]
