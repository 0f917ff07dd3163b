"""A table or figure of a paper as YAML: configs/reproduce/<paper>/<content>.yaml, and the names by which it is found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from synthbench.config import CONFIGS, Settings, build, did_you_mean, read_layer
from synthbench.results import published
from synthbench.results.comparison import AVG
from synthbench.types import UserError

FOLDER = CONFIGS / "reproduce"
VERSIONS = {"v2": "camera_ready", "v1": "v1"}  # of the paper; field of a Table


class Column(Settings):
    """A metric of ours, and the column of published.csv, or the name among a row's `numbers`, that stands beside it."""

    metric: str
    title: str
    published: str = ""
    scale: float = 1.0
    digits: int = 2


class Part(Settings):
    """What is particular to a scale: of a table, or of a row."""

    protocol: str = ""  # of a table
    label: str = ""  # of a row
    volume: str | None = None
    settings: dict[str, Any] = {}  # dotted, as after --set
    change: dict[str, Any] = {}  # of the protocol, key by key; what is given for `recipe` changes that recipe
    note: str = ""


class Row(Settings):
    label: str
    generator: str = ""  # that of the table
    settings: dict[str, Any] = {}
    value: Any = None  # of the setting that the table sweeps
    demo: Part | str = Part()  # a text says why there is no such row
    full: Part | str = Part()
    missing: str = ""  # why no synthbench of today can run it
    published: dict[str, str] = {}  # columns by which one row of published.csv is found
    numbers: dict[str, float] = {}  # published numbers that published.csv has no column for


class Table(Settings):
    """A table or figure of a paper."""

    content: str
    camera_ready: str  # its number there, and in version 1: "table 11, figure 4"
    v1: str
    asks: str  # what it is about, in a sentence or two
    source: str = ""  # of all rows in published.csv that do not name theirs
    generator: str = "cemiface"
    sweep: str = ""  # dotted setting: a sweep over the rows' values, instead of a comparison
    images_only: bool = False  # nothing is trained on the images
    shows: tuple[Literal["tsne", "similarity", "one-noise"], ...] = ()  # figures of its own
    columns: tuple[Column, ...] = (Column(metric=AVG, title="AVG %", published="avg_printed"),)
    settings: dict[str, Any] = {}
    demo: Part
    full: Part
    notes: tuple[str, ...] = ()
    rows: tuple[Row, ...]


def published_row(row: Row, table: Table) -> dict[str, str]:
    """The row of published.csv that a row names; empty when it names none. Raises UserError unless it is exactly one."""
    if not row.published:
        return {}
    wanted = {"source": table.source, **row.published}
    found = [item for item in published.read() if all(item[key] == value for key, value in wanted.items())]
    if len(found) != 1:
        raise UserError(f"{row.label}: {len(found)} rows of published.csv are {wanted}")
    return found[0]


# ---------------------------------------------------------------------------------------------------------------- names


def tables() -> dict[str, Table]:
    """All that can be asked for, by name: cemiface/backbones."""
    return {f"{path.parent.name}/{path.stem}": build(Table, read_layer(path)) for path in sorted(FOLDER.glob("*/*.yaml"))}


def numbers(known: Mapping[str, Table]) -> dict[str, dict[str, str]]:
    """What else they are called: cemiface/table-8, -v1 or -v2 behind it, to {version: name}."""
    found: dict[str, dict[str, str]] = {}
    for name, table in known.items():
        for version, where in VERSIONS.items():
            for number in getattr(table, where).split(", "):
                word = f"{name.partition('/')[0]}/{number.replace(' ', '-')}"
                if number != "none":
                    found.setdefault(word, {})[version] = name
                    found[f"{word}-{version}"] = {version: name}
    return found


def find(word: str) -> tuple[str, Table]:
    """Name and table of what `word` means. Raises UserError when it is nothing, or another table in each version of the paper."""
    known = tables()
    called = numbers(known)
    meant = set(called.get(word, {}).values()) or {word}
    if len(meant) > 1:
        both = called[word]
        raise UserError(
            f"{word} is {both['v2']} in the camera-ready version and {both['v1']} in v1; write {word}-v2, {word}-v1 or the name"
        )
    name = meant.pop()
    if name not in known:
        raise UserError(f"nothing is called {word!r}{did_you_mean(word, {*known, *called})}; synthbench reproduce --list shows all")
    return name, known[name]
