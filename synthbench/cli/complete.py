"""Names for the shell's completion. Looked up in entry points and folders alone: a Tab waits for no import of a plugin."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from click import Context, Parameter
from click.shell_completion import CompletionItem

KINDS = ("generator", "evaluator", "protocol", "recipe", "volume", "run", "comparison", "sweep")
FACES = ("real", "train-faces", "encoder-faces", "judge-faces")
STAGES = (*FACES, "benchmarks", "encoder", "judge", "train", "enroll", "generate", "recognizer", "evaluate")
MADE = {"results": "run.json", "comparisons": "comparison.json", "sweeps": "design.json"}


def generators(context: Context, parameter: Parameter, begun: str) -> list[CompletionItem]:
    """Generators and presets, or a file."""
    return _items([*_points("generators"), *_shipped("generators")], begun) or [CompletionItem(begun, type="file")]


def plugins(context: Context, parameter: Parameter, begun: str) -> list[CompletionItem]:
    return _items([*_points("generators"), *_shipped("generators"), *_points("evaluators")], begun) or [CompletionItem(begun, type="file")]


def protocols(context: Context, parameter: Parameter, begun: str) -> list[CompletionItem]:
    return _items(_shipped("protocols"), begun) or [CompletionItem(begun, type="file")]


def runs(context: Context, parameter: Parameter, begun: str) -> list[CompletionItem]:
    return _items(["latest", *_made(context, "results")], begun)


def sweeps(context: Context, parameter: Parameter, begun: str) -> list[CompletionItem]:
    return _items(_made(context, "sweeps"), begun)


def made(context: Context, parameter: Parameter, begun: str) -> list[CompletionItem]:
    """Runs, comparisons and sweeps."""
    return _items(["latest", *_made(context, *MADE)], begun)


def passed_on(context: Context, parameter: Parameter, begun: str) -> list[CompletionItem]:
    """Runs and comparisons."""
    return _items(["latest", *_made(context, "results", "comparisons")], begun)


def rows(context: Context, parameter: Parameter, begun: str) -> list[CompletionItem]:
    """What may be compared."""
    return _items([*_points("generators"), *_shipped("generators"), "latest", *_made(context, "results", "sweeps")], begun)


def things(context: Context, parameter: Parameter, begun: str) -> list[CompletionItem]:
    """What `show` knows, and the kinds that may stand before."""
    shipped = [*_shipped("generators"), *_shipped("protocols"), *_shipped("recipes")]
    points = [*_points("generators"), *_points("evaluators")]
    return _items([*KINDS, "latest", *points, *shipped, *_made(context, *MADE)], begun)


def stages(context: Context, parameter: Parameter, begun: str) -> list[CompletionItem]:
    return _items(list(STAGES), begun)


def settings(context: Context, parameter: Parameter, begun: str) -> list[CompletionItem]:
    """Settings of all that ships: click cannot tell which plugin is meant where the line ends in an option without a value."""
    cards = json.loads((resources.files("synthbench") / "inventory" / "cards.json").read_text("utf-8"))["cards"]
    every = [f"{name}=" for kind in cards.values() for card in kind.values() for name in _dotted(card["settings"])]
    return _items(every, begun)


def data(context: Context, parameter: Parameter, begun: str) -> list[CompletionItem]:
    """What is registered on this machine."""
    from synthbench.data import sources

    return _items(sources.names_registered(), begun)


def _dotted(values: dict[str, Any], above: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield from _dotted(value, f"{above}{name}.") if isinstance(value, dict) and value else [above + name]


def _items(names: list[str], begun: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in sorted(set(names)) if name.startswith(begun)]


def _points(group: str) -> list[str]:
    return [point.name for point in metadata.entry_points(group=f"synthbench.{group}")]


def _shipped(kind: str) -> list[str]:
    return [Path(entry.name).stem for entry in (resources.files("synthbench") / "configs" / kind).iterdir() if entry.name.endswith(".yaml")]


def _made(context: Context, *places: str) -> list[str]:
    root = Path(context.params.get("runs") or os.environ.get("SYNTHBENCH_RUNS") or "runs")
    return [path.parent.name for place in places for path in (root / place).glob(f"*/{MADE[place]}")]
