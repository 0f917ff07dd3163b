"""The commands that lead from runs to conclusions: compare, sweep, report, study, reproduce. Each parses and calls one function."""

from __future__ import annotations

from typing import Any

import click

from synthbench.cli_options import DEVICE, DRY_RUN, FOLDER, NO_TRACKING, PROTOCOL, RUNS, SETTINGS, VOLUME


@click.command("compare", short_help="Generators or runs side by side: is the difference real?")
@click.argument("names", nargs=-1, metavar="[GENERATOR|RUN|SWEEP]...")
@VOLUME
@PROTOCOL
@click.option("--seeds", type=int, help="Independent repetitions of each generator.  [default: 1; runs keep theirs]")
@click.option("--baseline", metavar="NAME", help="The row that others are compared with.  [default: real, else the first]")
@click.option("--format", "form", type=click.Choice(["table", "md", "latex", "csv", "json", "html"]), default="table", show_default=True)
@click.option("-o", "--out", type=FOLDER, help="Folder for the comparison in every format, besides what is printed.")
@SETTINGS
@click.option("--name", help="Name of the comparison.  [default: from its rows]")
@click.option("--no-published", is_flag=True, help="Leave out the block of published numbers.")
@click.option("--force-incomparable", is_flag=True, help="Print runs of different protocols apart instead of refusing.")
@DEVICE
@DRY_RUN
@NO_TRACKING
@RUNS
def compare_command(no_tracking: bool, **options: Any) -> None:
    """Run what is missing, then set the rows side by side with intervals, paired differences and costs.

    \b
    synthbench compare real cemiface procedural --seeds 3
    synthbench compare cemiface-200x20-demo-588126a0 procedural --format latex
    """
    from synthbench import compare

    compare.compare(compare.Request(tracking=not no_tracking, **options))


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
