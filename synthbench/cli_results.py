"""The commands that lead from runs to conclusions: compare, sweep, report, study, reproduce. Each parses and calls one function."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import click

from synthbench.cli_options import DEVICE, DRY_RUN, FOLDER, NO_TRACKING, PROTOCOL, RUNS, VOLUME


@click.command("compare", short_help="Generators or runs side by side: is the difference real?")
@click.argument("names", nargs=-1, metavar="[GENERATOR|RUN|SWEEP]...")
@VOLUME
@PROTOCOL
@click.option("--seeds", type=int, help="Independent repetitions of each generator.  [default: 1, or as many as the runs have]")
@click.option("--baseline", metavar="NAME", help="The row that others are compared with.  [default: real, else the first]")
@click.option("--format", "form", type=click.Choice(["table", "md", "latex", "csv", "json", "html"]), default="table", show_default=True)
@click.option("-o", "--out", type=FOLDER, help="Folder to write it to in every format.")
@click.option("--name", help="Name of the comparison.  [default: from its rows]")
@click.option("--papers/--no-papers", default=True, show_default=True, help="Set published numbers beside.")
@click.option("--force-incomparable", is_flag=True, help="Print runs that were measured differently apart, instead of refusing.")
@DEVICE
@DRY_RUN
@NO_TRACKING
@RUNS
def compare_command(form: str, out: Path | None, dry_run: bool, no_tracking: bool, **options: Any) -> None:
    """Run what is missing, then set the rows side by side: intervals, paired differences, ties, costs. Without names: all runs.

    \b
    synthbench compare real cemiface procedural --seeds 3
    synthbench compare real "cemiface sample.m=0" "cemiface sample.m=0.5"
    synthbench compare cemiface-200x20-demo-588126a0 procedural --format latex
    """
    from synthbench import compare

    request = compare.Request(tracking=not no_tracking, **options)
    if dry_run:
        compare.plan(request)
        return
    made = compare.compare(request)
    if form == "json":
        click.echo(json.dumps(made[0] if len(made) == 1 else made, allow_nan=False))
    for comparison in made:
        _print(comparison, form)
        if out or form == "html":
            from synthbench import report

            place = out / comparison["comparison"] if out and len(made) > 1 else out
            page = report.report(comparison["comparison"], options["runs"], place)
            if place:
                shutil.copy(options["runs"] / "comparisons" / comparison["comparison"] / "comparison.json", page.parent)


def _print(comparison: dict[str, Any], form: str) -> None:
    from synthbench import compare_table, tables

    if form == "table":
        compare_table.show(comparison)
    elif form in ("md", "latex", "csv"):
        write = {"md": tables.table_markdown, "latex": tables.table_latex, "csv": tables.table_csv}[form]
        click.echo(write(comparison), nl=False)


@click.command("sweep", short_help="One or more settings over values: the curve with intervals.")
@click.argument("parameters", nargs=-1, required=True)
@RUNS
def sweep_command(**options: Any) -> None:
    """Sweep PARAMETERS (m, lambda, or any setting such as sample.steps)."""
    raise NotImplementedError


@click.command("report", short_help="One HTML file of a run, comparison or sweep.")
@click.argument("name")
@click.option("-o", "--out", type=FOLDER, help="Folder to write.")
@RUNS
def report_command(**options: Any) -> None:
    """Write report.html, report.md, table.tex and table.csv of NAME: a run, a comparison or a sweep."""
    raise NotImplementedError


@click.command("study", short_help="Studies of a real set, such as similarity-groups.")
@click.argument("name")
@RUNS
def study_command(**options: Any) -> None:
    """Run the study NAME."""
    raise NotImplementedError


@click.command("reproduce", short_help="The tables and figures of a paper.")
@click.argument("names", nargs=-1)
@RUNS
def reproduce_command(**options: Any) -> None:
    """Reproduce NAMES, such as cemiface/table-6."""
    raise NotImplementedError


COMMANDS = (compare_command, sweep_command, report_command, study_command, reproduce_command)
