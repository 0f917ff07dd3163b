"""The commands that lead from runs to conclusions: compare, sweep, report, study, reproduce. Each parses and calls one function."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import click

from synthbench.cli import complete
from synthbench.cli.options import (
    BATCH,
    CLUSTER,
    DEVICE,
    DEVICES,
    DRY_RUN,
    FOLDER,
    JSON,
    NO_TRACKING,
    ON,
    PROTOCOL,
    RUNS,
    SETTINGS,
    VOLUME,
    planned_on,
    spread,
)
from synthbench.types import UserError


@click.command("compare", short_help="Generators or runs side by side: is the difference real?")
@click.argument("names", nargs=-1, metavar="[GENERATOR|RUN|SWEEP]...", shell_complete=complete.rows)
@VOLUME
@PROTOCOL
@click.option("--seeds", type=int, help="Independent repetitions of each generator.  [default: 1, or as many as the runs have]")
@click.option("--baseline", metavar="NAME", help="The row that others are compared with.  [default: real, else the first]")
@click.option("--format", "form", type=click.Choice(["table", "md", "latex", "csv", "json", "html"]), default="table", show_default=True)
@click.option("-o", "--out", type=FOLDER, help="Folder to write it to in every format.")
@click.option("--name", help="Name of the comparison.  [default: from its rows]")
@click.option("--papers/--no-papers", default=True, show_default=True, help="Set published numbers beside.")
@click.option("--teachers", is_flag=True, help="Rows for E_id, which generators were lent, and for who taught it.")
@click.option("--recipes", metavar="A,B,...", help="Do it under each of these recipes, and tell how far the ranking is theirs.")
@click.option("--judges", metavar="A,B,...", help="The same of judges: WEIGHTS, or RECIPE:SEED, trained on the real set.")
@click.option("--force-incomparable", is_flag=True, help="Print runs that were measured differently apart, instead of refusing.")
@DEVICE
@BATCH
@DEVICES
@ON
@CLUSTER
@DRY_RUN
@NO_TRACKING
@RUNS
def compare_command(
    form: str,
    out: Path | None,
    recipes: str | None,
    judges: str | None,
    dry_run: bool,
    no_tracking: bool,
    devices: int | None,
    on: str,
    cluster: str | None,
    **options: Any,
) -> None:
    """Run what is missing, then set the rows side by side: intervals, paired differences, ties, costs. Without names: all runs.

    \b
    synthbench compare real cemiface procedural --seeds 3
    synthbench compare real "cemiface sample.m=0" "cemiface sample.m=0.5"
    synthbench compare cemiface-200x20-demo-588126a0 procedural --format latex
    synthbench compare real cemiface dcface vec2face --recipes demo,demo_adaface
    synthbench compare real cemiface dcface vec2face --judges world-judge,demo_encoder:7
    """
    machines = planned_on(dry_run, on, cluster, devices)
    from synthbench.pipeline import compare
    from synthbench.results import lookup
    from synthbench.store import Store, write_json

    request = compare.Request(tracking=not no_tracking, **options)
    asked, told = {"": request}, None
    what: Literal["recipe", "judge"] = "recipe" if judges is None else "judge"
    if recipes is not None and judges is not None:
        raise UserError("--recipes and --judges: one question at a time")
    if (several := judges if recipes is None else recipes) is not None:
        from synthbench.pipeline import variants

        asked = variants.requests(request, what, [name.strip() for name in several.split(",") if name.strip()])
    if dry_run:
        for one in asked.values():
            compare.plan(one, form == "json", machines)
        return
    spread(devices, request.device, on=on, requests=lambda: [row for one in asked.values() for row in compare.requests(one)])
    if several is not None:
        made, told = variants.compare_under(what, asked)
    else:
        made = compare.compare(request)
    if form == "json":
        found = made[0] if len(made) == 1 else made
        click.echo(json.dumps({"comparisons": made, "stability": told} if told else found, allow_nan=False))
    for comparison in made:
        lookup.asked(Store(request.runs.absolute()), "comparison", comparison["comparison"])
        _print(comparison, form)
        if out or form == "html":
            from synthbench import report

            place = out / comparison["comparison"] if out and len(made) > 1 else out
            page = report.report(comparison["comparison"], options["runs"], place, kinds=("comparison",))
            if form == "html":
                click.echo(page)
            if place:
                shutil.copy(options["runs"] / "comparisons" / comparison["comparison"] / "comparison.json", page.parent)
    if told and form == "table":
        from synthbench.results import terminal

        (terminal.show_stability if what == "recipe" else terminal.show_judges)(told)
    if told and out:
        write_json(out / "stability.json", told)


def _print(comparison: dict[str, Any], form: str) -> None:
    from synthbench.results import tables, terminal

    if form == "table":
        terminal.show(comparison)
    elif form in ("md", "latex", "csv"):
        write = {"md": tables.table_markdown, "latex": tables.table_latex, "csv": tables.table_csv}[form]
        click.echo(write(comparison), nl=False)


@click.command("sweep", short_help="A setting over values: the curve with intervals.")
@click.argument("parameters", nargs=-1, required=True, metavar="SETTING...")
@click.option(
    "--generator",
    default="cemiface",
    show_default=True,
    shell_complete=complete.generators,
    help="Name from `synthbench list`, a .py file, or a .yaml preset.",
)
@click.option("--values", multiple=True, metavar="[NAME=]A,B,...", help="Values; -0.1:0.1 is an interval.  [default: the paper's]")
@click.option("--range", "ranges", multiple=True, metavar="[NAME=]A:B:STEP", help="Evenly spaced values; A:B for tpe and gp.")
@click.option("--sampler", type=click.Choice(["grid", "tpe", "gp"]), default="grid", show_default=True, help="All points, or a search.")
@click.option("--trials", type=int, default=20, show_default=True, help="Points that tpe or gp may try.")
@VOLUME
@PROTOCOL
@click.option("--seeds", type=int, default=1, show_default=True, help="Independent repetitions of every point.")
@SETTINGS
@click.option("--jobs", type=int, default=1, show_default=True, help="Points worked on at a time, in processes.")
@click.option("--confirm", type=int, default=0, metavar="N", help="Repeat the N best points with more seeds.")
@click.option("--confirm-seeds", type=int, help="[default: two more than --seeds, at least 3]")
@click.option("--confirm-volume", help="Volume of the repetition.  [default: the same]")
@click.option("--prune", is_flag=True, help="Give points up while they train, by validation accuracy.")
@click.option(
    "--storage", envvar="SYNTHBENCH_STORAGE", metavar="URL", help="Optuna storage, postgresql://...  [default: a journal in --runs]"
)
@click.option("--name", help="Name of the sweep.  [default: from its design]")
@DEVICE
@BATCH
@DEVICES
@ON
@CLUSTER
@DRY_RUN
@NO_TRACKING
@RUNS
@JSON
def sweep_command(
    dry_run: bool, as_json: bool, no_tracking: bool, devices: int | None, on: str, cluster: str | None, **options: Any
) -> None:
    """Run a generator over values of SETTING: m, lambda, or any other. Several make a grid. The same command again continues.

    \b
    synthbench sweep m --seeds 3
    synthbench sweep m --values 0,-0.1:0.1,0:1
    synthbench sweep sample.steps m --values steps=5,10,20 --range m=-1:1:0.5 --jobs 2
    synthbench sweep lambda --sampler gp --range 0.01:0.5 --trials 12 --confirm 3
    """
    machines = planned_on(dry_run, on, cluster, devices)
    from synthbench import registry

    registry.require("generator", options["generator"])  # a wrong name is told before Optuna is imported
    from synthbench import sweep

    request = sweep.Request(tracking=not no_tracking, **options)
    if dry_run:
        sweep.plan(request, as_json, machines)
        return
    spread(devices, request.device, request.jobs, on, lambda: sweep.design(request).requests)
    _swept(sweep.sweep(request), as_json, options["runs"])


def _swept(made: dict[str, Any], as_json: bool, runs: Path) -> None:
    """Print a sweep. Exit code 1 when a point failed."""
    from synthbench import console, sweep
    from synthbench.results import lookup
    from synthbench.store import Store

    lookup.asked(Store(runs.absolute()), "sweep", made["sweep"])

    failed = any(point["state"] == "failed" for point in made["points"])
    if as_json and not failed:
        click.echo(json.dumps(made, allow_nan=False))
    else:
        sweep.print_table(made)
        click.echo(made["statement"])
        console.note(f"curve: {runs / 'sweeps' / made['sweep'] / 'curve.png'}; report: synthbench report {made['sweep']} --runs {runs}")
    if failed:
        raise click.exceptions.Exit(1)


@click.command("report", short_help="One HTML file of a run, comparison or sweep.")
@click.argument("name", nargs=-1, required=True, metavar="[KIND] NAME", shell_complete=complete.made)
@click.option("-o", "--out", type=FOLDER, help="Folder to write.  [default: report/ in the folder of NAME]")
@click.option("--photographs", is_flag=True, help="Show pictures of real people too; for pages that are not passed on.")
@RUNS
def report_command(name: tuple[str, ...], out: Path | None, photographs: bool, runs: Path) -> None:
    """Write report.html, report.md, table.tex and table.csv of NAME: a run, comparison or sweep, its beginning, or latest.

    latest is the last that was asked for. KIND (run, comparison, sweep) tells things of the same name apart.

    \b
    synthbench report latest
    synthbench report cemiface-200x20-demo-588126a0 -o page
    synthbench report comparison cemiface-and-real
    """
    from synthbench.results import lookup
    from synthbench.store import Store

    item = lookup.find_words(Store(runs.absolute()), name)  # a wrong name is told before pages are thought of
    from synthbench import report

    click.echo(report.report(item.name, runs, out, photographs, (item.kind,)))


@click.command("study", short_help="Studies of the real set: similarity-groups.")
@click.argument("name", type=click.Choice(["similarity-groups"]))
@click.option("--groups", type=int, default=5, show_default=True, help="Groups of equal size, from the most alike to the least.")
@click.option("--divide", type=click.Choice(["identity", "set"]), default="identity", show_default=True, help="Equal parts of what.")
@PROTOCOL
@click.option("--seeds", type=int, default=1, show_default=True, help="Independent repetitions of every group.")
@click.option("--jobs", type=int, default=1, show_default=True, help="Groups worked on at a time, in processes.")
@DEVICE
@DEVICES
@ON
@CLUSTER
@DRY_RUN
@NO_TRACKING
@RUNS
@JSON
def study_command(
    name: str,
    groups: int,
    divide: str,
    dry_run: bool,
    as_json: bool,
    no_tracking: bool,
    devices: int | None,
    on: str,
    cluster: str | None,
    **options: Any,
) -> None:
    """similarity-groups: divide the real set by how alike images are to their identity's centre, and train on each group.

    CemiFace, Table 1, where the middle group was best. The study is a sweep over `group` of the generator similarity_groups.
    """
    machines = planned_on(dry_run, on, cluster, devices)
    from synthbench import sweep

    values = (",".join(str(group) for group in range(1, groups + 1)),)
    settings = (f"sample.groups={groups}", f"sample.divide={divide}")
    about: dict[str, Any] = {"generator": "similarity_groups", "values": values, "settings": settings, "tracking": not no_tracking}
    request = sweep.Request(("group",), **about, **options)
    if dry_run:
        sweep.plan(request, as_json, machines)
        return
    spread(devices, request.device, request.jobs, on, lambda: sweep.design(request).requests)
    _swept(sweep.sweep(request), as_json, options["runs"])


@click.command("reproduce", short_help="The tables and figures of a paper.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--list", "as_list", is_flag=True, help="Show all there are, with what each would take.")
@click.option(
    "--scale", type=click.Choice(["demo", "full"]), help="[default: full when the data of protocol paper are registered, else demo]"
)
@VOLUME
@click.option("--protocol", help="Name or .yaml file, instead of that of the scale.")
@click.option("--seeds", type=int, default=1, show_default=True, help="Independent repetitions of every row.")
@DEVICE
@BATCH
@DEVICES
@ON
@CLUSTER
@DRY_RUN
@NO_TRACKING
@RUNS
@JSON
def reproduce_command(
    names: tuple[str, ...],
    as_list: bool,
    dry_run: bool,
    as_json: bool,
    no_tracking: bool,
    scale: str | None,
    devices: int | None,
    on: str,
    cluster: str | None,
    **options: Any,
) -> None:
    """Run the tables and figures NAMES, with the published numbers beside ours.

    \b
    synthbench reproduce --list
    synthbench reproduce cemiface/table-6 --seeds 3
    synthbench reproduce cemiface/backbones --scale full --dry-run
    """
    machines = planned_on(dry_run, on, cluster, devices)
    from synthbench import console, reproduce

    if as_list or not names:
        reproduce.listing(options["runs"], [scale] if scale else reproduce.SCALES, options["seeds"], as_json)
        return
    for name in names:
        reproduce.find(name)  # a wrong name is told before anything runs
    asked = {name: reproduce.Request(name, scale=scale, tracking=not no_tracking, **options) for name in names}
    if not dry_run:
        spread(devices, options["device"], on=on, requests=lambda: [row for one in asked.values() for row in reproduce.requests(one)])
    made = []
    for request in asked.values():
        if dry_run:
            reproduce.plan_only(request, as_json, machines)
            continue
        made.append(reproduce.reproduce(request))
        if not as_json:
            reproduce.show(made[-1])
            console.note(f"page: {options['runs'] / 'reproductions' / made[-1]['folder'] / 'report.html'}")
    if as_json and made:
        click.echo(json.dumps(made[0] if len(made) == 1 else made, allow_nan=False))


COMMANDS = (compare_command, sweep_command, report_command, study_command, reproduce_command)
