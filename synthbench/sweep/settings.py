"""The words of a sweep: which setting of a generator, and which values it takes."""

from __future__ import annotations

import difflib
import functools
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Any

from synthbench.config import Layer, Settings, leaves, named, parse_set
from synthbench.pipeline.loading import load_generator
from synthbench.protocol import Protocol
from synthbench.types import UserError

GRIDS: dict[str, tuple[float, ...]] = {  # what is swept when no values are given
    "sample.m": (1.0, 0.75, 0.5, 0.25, 0.0, -0.25, -0.5, -0.75, -1.0),  # CemiFace: 21 values, Figure 4
    "train.similarity_weight": (0.01, 0.05, 0.1, 0.5),  # CemiFace, Table 14 of v2 (12 of v1)
}
MOST = 10_000  # points of a grid
Values = dict[str, Any]  # dotted setting -> value: one point
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


@dataclass(frozen=True)
class Axis:
    """A swept setting: `values`, or for a searching sampler a range of numbers instead."""

    path: str  # sample.m
    values: tuple[Any, ...] = ()  # plain data, as the generator's Config writes them
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    place: str = ""  # where the values come from, for error messages

    @property
    def name(self) -> str:
        """The last word of the path, for people."""
        return self.path.rpartition(".")[2]

    @property
    def numeric(self) -> bool:
        return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in self.values)


def resolve(word: str, kind: type[Settings], generator: str) -> str:
    """The one setting that `word` means: `m` is sample.m. Raises UserError that lists the candidates when it is none, or several."""
    paths = list(leaves(kind))
    found = named(word, paths)
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"setting {word!r} of {generator} is ambiguous: {', '.join(found)}. Name one of them in full")
    near = [path for path in paths if difflib.get_close_matches(word, (path, path.rpartition(".")[2]), 1, 0.7)]
    parts = list(dict.fromkeys(path.partition(".")[0] for path in paths))
    listed = ", ".join(paths) or "no settings" if len(paths) <= 12 else f"{len(paths)} in {', '.join(parts)}: synthbench show {generator}"
    raise UserError(f"{generator} has no setting {word!r}; " + (f"did you mean {' or '.join(near)}?" if near else f"it has {listed}"))


def read_axes(
    words: Sequence[str], values: Sequence[str], ranges: Sequence[str], search: bool, kind: type[Settings], generator: str
) -> list[Axis]:
    """The axes of `words` with what --values and --range say about each, else the default grid. `search`: a sampler takes a:b too."""
    paths = [resolve(word, kind, generator) for word in words]
    if len(set(paths)) < len(paths):
        raise UserError(f"a setting is named twice: {', '.join(paths)}")
    given: dict[str, Axis] = {}
    for option, texts, read in (("--values", values, _read_values), ("--range", ranges, _read_range)):
        for place, text in enumerate(texts):
            path, rest = _whose(option, text, place, words, paths, len(values) + len(ranges), kind, generator)
            if path in given:
                raise UserError(f"{option} {text}: the values of {path} are given twice")
            given[path] = read(path, rest, f"{option} {text}", search)
    for path in paths:
        if path not in given and path not in GRIDS:
            raise UserError(f"say which values {path} takes: --values 1,2,3 or --range 0:1:0.1")
    return [given.get(path) or Axis(path, GRIDS[path], place=f"default values of {path}") for path in paths]


def _whose(
    option: str, text: str, place: int, words: Sequence[str], paths: list[str], count: int, kind: type[Settings], generator: str
) -> tuple[str, str]:
    """The setting that an option is about, and its values: NAME=..., or by its place when every setting has one option of one kind."""
    name, equals, rest = text.partition("=")
    if equals:
        path = resolve(name.strip(), kind, generator)
        if path not in paths:
            raise UserError(f"{option} {text}: {path} is not swept here; this sweep is over {', '.join(paths)}")
        return path, rest
    if len(paths) > 1 and (count != len(paths) or place >= len(paths)):
        raise UserError(f"{option} {text}: of several settings, say whose values these are: {option} {words[0]}={text}")
    return paths[place if len(paths) > 1 else 0], text


def _read_values(path: str, text: str, place: str, search: bool) -> Axis:
    """Values divided by commas, in YAML; `-0.1:0.1` is the interval {low: -0.1, high: 0.1}."""
    try:
        parsed = parse_set([f"values=[{text}]"]).data["values"]
    except UserError:
        raise UserError(f"{place}: expected values divided by commas, such as 0,0.5,1 or -0.1:0.1") from None
    if not parsed:
        raise UserError(f"{place}: no values")
    return Axis(path, tuple(_interval(value) for value in parsed), place=place)


def _interval(value: Any) -> Any:
    match = re.fullmatch(f"({NUMBER}):({NUMBER})", value) if isinstance(value, str) else None
    return {"low": float(match[1]), "high": float(match[2])} if match else value


def _read_range(path: str, text: str, place: str, search: bool) -> Axis:
    """`a:b:step`, both ends included; for a sampler also `a:b`. Decimal arithmetic: 0:1:0.1 has 0.3, not 0.30000000000000004."""
    try:
        numbers = [Decimal(part.strip()) for part in text.split(":")]
    except InvalidOperation:
        numbers = []
    if len(numbers) not in (2, 3) or not all(number.is_finite() for number in numbers):
        raise UserError(f"{place}: expected a:b:step, such as -1:1:0.25")
    low, high = numbers[:2]
    step = numbers[2] if len(numbers) == 3 else None
    if low >= high or (step is not None and step <= 0):
        raise UserError(f"{place}: the first number must be below the second, and the step above 0")
    if search:
        return Axis(path, low=float(low), high=float(high), step=float(step) if step else None, place=place)
    if step is None:
        raise UserError(
            f"{place}: a grid needs a step, such as {text}:{(high - low) / 10}; --sampler tpe or gp searches between two numbers"
        )
    count = int((high - low) / step) + 1
    if count > MOST:
        raise UserError(f"{place}: that is {count:,} values; at most {MOST:,} make sense")
    return Axis(path, tuple(plain(low + i * step) for i in range(count)), place=place)


def plain(number: Decimal | float) -> int | float:
    """A whole number without a point, so that settings which count things take it."""
    return int(number) if number == int(number) else float(number)


def grid(axes: Sequence[Axis]) -> list[Values]:
    """Every combination of values, the last setting changing fastest."""
    points = [dict(zip((axis.path for axis in axes), chosen)) for chosen in itertools.product(*(axis.values for axis in axes))]
    if len(points) > MOST:
        raise UserError(f"that is {len(points):,} points; at most {MOST:,} make sense")
    return points


def layer(values: Values, axes: Sequence[Axis]) -> Layer:
    """The settings of a point, with where they come from."""
    data: dict[str, Any] = {}
    origin = {}
    for axis in axes:
        keys = tuple(axis.path.split("."))
        target = data
        for key in keys[:-1]:
            target = target.setdefault(key, {})
        target[keys[-1]] = values[axis.path]
        origin.update({keys[: i + 1]: axis.place for i in range(len(keys))})
    return Layer(data, origin)


def texts(values: Values) -> tuple[str, ...]:
    """A point as `--set` texts."""
    return tuple(f"{path}={json.dumps(value)}" for path, value in values.items())


def canonical(axes: Sequence[Axis], generator: str, protocol: Protocol, fixed: Layer) -> tuple[list[Axis], list[Values]]:
    """The axes with values as the generator's Config writes them, and the points, once each; for a search, the corners of its ranges.

    Raises UserError for a point that the Config refuses.
    """
    points: dict[str, Values] = {}
    corners = [replace(axis, values=axis.values or (plain(axis.low), plain(axis.high))) for axis in axes]
    for values in grid(corners):
        data = load_generator(generator, protocol, fixed, layer(values, axes)).config.model_dump(mode="json")
        point = {path: functools.reduce(lambda part, key: part[key], path.split("."), data) for path in values}
        points[json.dumps(point)] = point
    found = list(points.values())
    seen = {axis.path: list({json.dumps(point[axis.path]): point[axis.path] for point in found}.values()) for axis in axes}
    kept = [replace(axis, values=tuple(seen[axis.path])) if axis.values else _bounds(axis, seen[axis.path]) for axis in axes]
    return kept, found


def _bounds(axis: Axis, ends: list[Any]) -> Axis:
    if len(ends) < 2 or not all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in ends):
        raise UserError(f"{axis.place}: {axis.path} is no number between two others; give --values")
    return replace(axis, low=ends[0], high=ends[-1])
