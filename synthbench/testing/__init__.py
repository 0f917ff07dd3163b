"""The contract of a plugin, checked on a tiny world: what `synthbench test NAME|FILE` runs. docs/plugins.md tells it in words."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from synthbench.config import parse_set
from synthbench.registry import kind_of
from synthbench.testing.evaluators import check_evaluator
from synthbench.testing.generators import check_generator


def check(plugin: str, settings: Sequence[str] = ()) -> Iterator[str]:
    """Check the generator or evaluator `plugin` (a name or a .py file) with `settings` as of `--set`; yields a line per property.

    Raises UserError at the first property that does not hold.
    """
    kind = kind_of(plugin)
    with tempfile.TemporaryDirectory(prefix="synthbench-test-") as root:
        yield from (check_generator if kind == "generator" else check_evaluator)(plugin, parse_set(settings), Path(root))
