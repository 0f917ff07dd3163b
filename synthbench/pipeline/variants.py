"""`synthbench compare --recipes A,B` or `--judges A,B`: the same rows under several, and how far the ranking is theirs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from synthbench import console
from synthbench.config import config_path
from synthbench.data import sources
from synthbench.pipeline import compare, run
from synthbench.pipeline.request import read
from synthbench.protocol import ShippedNetwork, load_protocol
from synthbench.results import record, stability
from synthbench.store import Store, content_key, write_json, writing
from synthbench.types import UserError

What = Literal["recipe", "judge"]  # the setting of the protocol that differs
SHIPPED = get_args(ShippedNetwork.model_fields["shipped"].annotation)


def compare_under(what: What, asked: Mapping[str, compare.Request]) -> tuple[list[compare.Comparison], dict[str, Any]]:
    """A comparison for each of `asked`, and what `results.stability` says of them, kept as <runs>/stability/<name>.json."""
    store = Store(next(iter(asked.values())).runs.absolute())
    made, results = {}, {}
    for name, request in asked.items():
        console.note(f"{what} {name}")
        (made[name],) = compare.compare(request)
        found = [record.read_run(store.root / "results" / str(run) / "run.json") for run in made[name]["runs"]]
        results[name] = [result for result in found if result]
    told = (stability.stability if what == "recipe" else stability.judged)(store, results, made)
    key = content_key({"comparisons": [comparison["comparison"] for comparison in made.values()]})[:8]
    path = store.root / "stability" / f"{'+'.join(map(_stem, asked))}-{key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, told)
    return list(made.values()), told


def requests(request: compare.Request, what: What, names: Sequence[str]) -> dict[str, compare.Request]:
    """By recipe or judge the same comparison, under the protocol with that one.

    Raises UserError for names that mean nothing, for rows that are runs, which have theirs already, and for fewer than two names or three
    generators.
    """
    example = {"recipe": "cemiface,adaface", "judge": "world-judge,demo_encoder:7"}[what]
    if len(set(names)) < 2:
        raise UserError(f"--{what}s asks whether the ranking is the {what}'s; give two or more, such as --{what}s {example}")
    if len(set(map(_stem, names))) < len(names):
        raise UserError(f"--{what}s {','.join(names)}: two have one name, and would be one protocol; rename a file")
    for name in names:
        _recipe(name) if what == "recipe" else _judge(name)
    rows = compare.wanted(request, Store(request.runs.absolute()))
    if there := [str(row["run"]) for row in rows if isinstance(row, dict)]:
        raise UserError(f"{there[0]} is a run, which has its {what} already; with --{what}s rows are generators")
    asked = [row for row in rows if isinstance(row, run.Request)]
    if len([row for row in asked if row.generator != "real"]) < stability.LEAST:
        raise UserError(f"--{what}s compares rankings; name {stability.LEAST} generators or more, besides real")
    protocol = request.protocol or read(asked[0]).protocol.name
    called = {name: f"{request.name}-{_stem(name)}" if request.name else None for name in names}
    return {name: replace(request, protocol=variant(request.runs, protocol, what, name), name=called[name]) for name in names}


def variant(runs: Path, protocol: str, what: What, name: str) -> str:
    """The protocol with another recipe or judge, as a file that extends it; itself where it has that one."""
    known = load_protocol(protocol)
    chosen = _recipe(name) if what == "recipe" else _judge(name)
    own = known.recipe if what == "recipe" else known.judge.model_dump(exclude_unset=True)
    if own in (chosen, name):
        return protocol
    called = f"{known.name}-{_stem(name)}"
    settings = {"extends": _located(protocol), "name": called, what: chosen}
    path = runs.absolute() / "protocols" / f"{called}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = f"# Written by `synthbench compare --{what}s`.\n{yaml.safe_dump(settings, sort_keys=False)}"
    with writing(path) as tmp:
        Path(tmp).write_text(text, encoding="utf-8")
    load_protocol(str(path))  # a judge that is lent to generators is refused
    return str(path)


def _recipe(name: str) -> str:
    """Raises UserError for one that is not there."""
    config_path("recipes", name)
    return _located(name)


def _judge(name: str) -> dict[str, Any]:
    """A network that ships with the package, RECIPE:SEED, trained here on the real set, or registered weights. Raises UserError."""
    if name in SHIPPED:
        return {"shipped": name}
    recipe, colon, seed = name.rpartition(":")
    if colon and seed.isdecimal():
        return {"recipe": _recipe(recipe), "seed": int(seed)}
    try:
        sources.find(name, "weights")
    except UserError as error:
        ways = f"A judge is registered weights, one of {', '.join(SHIPPED)}, or RECIPE:SEED, a network that is trained on the real set"
        raise type(error)(f"--judges {name}: {error}. {ways}") from None
    return {"weights": name}


def _located(text: str) -> str:
    return str(Path(text).expanduser().absolute()) if text.endswith((".yaml", ".yml")) else text


def _stem(name: str) -> str:
    """A recipe or a judge in the name of a file."""
    recipe, colon, seed = name.rpartition(":")
    plain, number = (recipe, f"-{seed}") if colon and seed.isdecimal() else (name, "")
    return re.sub(r"[^A-Za-z0-9._-]", "_", re.sub(r"\.ya?ml$", "", Path(plain).name) + number)
