"""The contract of a plugin, checked on a tiny world: what `synthbench test NAME|FILE` runs. docs/plugins.md tells it in words."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from synthbench import registry
from synthbench.config import parse_set
from synthbench.testing.evaluators import check_evaluator
from synthbench.testing.generators import check_generator
from synthbench.types import UserError


def check(plugin: str, settings: Sequence[str] = ()) -> Iterator[str]:
    """Check the generator or evaluator `plugin` (a name or a .py file) with `settings` as of `--set`; yields a line per property.

    Raises UserError at the first property that does not hold.
    """
    kind = kind_of(plugin)
    with tempfile.TemporaryDirectory(prefix="synthbench-test-") as root:
        yield from (check_generator if kind == "generator" else check_evaluator)(plugin, parse_set(settings), Path(root))


def kind_of(plugin: str) -> str:
    """`generator` or `evaluator`. Raises UserError when `plugin` is neither."""
    if plugin.endswith(".py"):
        try:
            registry.load("evaluator", plugin)
            return "evaluator"
        except UserError:
            registry.load("generator", plugin)  # what is wrong with the file, in the words of the commoner kind
            return "generator"
    if registry.preset(plugin):
        return "generator"
    known = {name: kind for kind in registry.KINDS for name in registry.names(kind)}
    if plugin not in known:
        raise UserError(f"no generator or evaluator is called {plugin!r}" + registry.hint(plugin, known))
    return known[plugin]
