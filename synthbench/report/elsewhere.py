"""Beside the table of a run: groups, people and templates; and what other protocols asked of the same recognizers, behind folds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from synthbench.report import parts
from synthbench.report.blocks import Block, Fold, Results, Text
from synthbench.report.data import Run, open_runs, run_table
from synthbench.results import lookup
from synthbench.results.comparable import keys, sides
from synthbench.types import UserError


def apart(run: Run, table: Mapping[str, Any]) -> Iterator[Block]:
    """What is told of groups of people, of the people of the set and of templates, of the run and of its real baseline."""
    result = run.result
    both = [result["baseline"], result] if result["baseline"] else [result]
    labelled = {str(row["label"]): item for row, item in zip(table["rows"], both)}
    yield from parts.groups(labelled)
    yield from parts.people(labelled)
    yield from parts.templates(labelled)


def elsewhere(run: Run) -> Iterator[Block]:
    """A fold for every other run of the runs folder that scored the recognizers of this one."""
    own, there = _recognizers(run), False
    others = {made.name: run.label for made in lookup.everything(run.store, ("run",)) if made.name != run.name}
    for other in open_runs(run.store, others)[0]:
        if own and own == _recognizers(other):
            there, table = True, run_table(other)
            yield Fold(f"Protocol {other.result['protocol']}: {other.result['title']}", [Results(table), *apart(other, table)])
    if not there and run.result["protocol"] == "demo":
        yield Text(
            "The same command with `--protocol demo-hard` asks harder questions of the same recognizers, in about a minute.", quiet=True
        )


def _recognizers(run: Run) -> list[str]:
    """Their keys, seed by seed; none for a run.json that does not tell its stages apart."""
    try:
        return keys(sides(run.result)["own"], "recognizer")
    except UserError:
        return []
