"""`synthbench compare --recipes A,B`: the same rows under several recipes, and how far the ranking is theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from synthbench import console
from synthbench.config import config_path
from synthbench.pipeline import compare, run
from synthbench.pipeline.request import read
from synthbench.protocol import load_protocol
from synthbench.results import record, stability
from synthbench.store import Store, content_key, write_json, writing
from synthbench.types import UserError


def compare_under(asked: Mapping[str, compare.Request]) -> tuple[list[compare.Comparison], dict[str, Any]]:
    """A comparison for each of `requests`, and what `results.stability` says of them, kept as <runs>/stability/<name>.json."""
    store = Store(next(iter(asked.values())).runs.absolute())
    made, results = {}, {}
    for recipe, request in asked.items():
        console.note(f"recipe {recipe}")
        (made[recipe],) = compare.compare(request)
        found = [record.read_run(store.root / "results" / str(run) / "run.json") for run in made[recipe]["runs"]]
        results[recipe] = [result for result in found if result]
    told = stability.stability(store, results, made)
    name = content_key({"comparisons": [comparison["comparison"] for comparison in made.values()]})[:8]
    path = store.root / "stability" / f"{'+'.join(Path(recipe).stem for recipe in asked)}-{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, told)
    return list(made.values()), told


def requests(request: compare.Request, recipes: Sequence[str]) -> dict[str, compare.Request]:
    """By recipe the same comparison, under the protocol with that recipe.

    Raises UserError for rows that are runs, which have their recipe already, and for fewer than two recipes or three generators.
    """
    if len(set(recipes)) < 2:
        raise UserError("--recipes asks whether the ranking is the recipe's; give two or more, such as --recipes cemiface,adaface")
    if len({Path(recipe).stem for recipe in recipes}) < len(recipes):
        raise UserError(f"--recipes {','.join(recipes)}: two have one name, and would be one protocol; rename a file")
    rows = compare.wanted(request, Store(request.runs.absolute()))
    if there := [str(row["run"]) for row in rows if isinstance(row, dict)]:
        raise UserError(f"{there[0]} is a run, which has its recipe already; with --recipes rows are generators")
    asked = [row for row in rows if isinstance(row, run.Request)]
    if len([row for row in asked if row.generator != "real"]) < stability.LEAST:
        raise UserError(f"--recipes compares rankings; name {stability.LEAST} generators or more, besides real")
    protocol = request.protocol or read(asked[0]).protocol.name
    names = {recipe: f"{request.name}-{Path(recipe).stem}" if request.name else None for recipe in recipes}
    return {recipe: replace(request, protocol=variant(request.runs, protocol, recipe), name=names[recipe]) for recipe in recipes}


def variant(runs: Path, protocol: str, recipe: str) -> str:
    """The protocol with another recipe, as a file that extends it; itself where it has that recipe."""
    known, place = load_protocol(protocol), config_path("recipes", recipe)  # UserError for one that is not there
    if known.recipe == recipe:
        return protocol

    def named(text: str) -> str:
        return str(Path(text).expanduser().absolute()) if text.endswith((".yaml", ".yml")) else text

    name = f"{known.name}-{place.stem}"
    settings = {"extends": named(protocol), "name": name, "recipe": named(recipe)}
    path = runs.absolute() / "protocols" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = f"# Written by `synthbench compare --recipes`.\n{yaml.safe_dump(settings, sort_keys=False)}"
    with writing(path) as tmp:
        Path(tmp).write_text(text, encoding="utf-8")
    return str(path)
