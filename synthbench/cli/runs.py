"""Commands about runs: run, list, show, export. Each parses and calls one function."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from synthbench import console
from synthbench.cli.options import DEVICE, DRY_RUN, FOLDER, JSON, NO_TRACKING, PROTOCOL, RUNS, SETTINGS, VOLUME
from synthbench.types import UserError


@click.command("run", short_help="Generate, train a recognizer, score it.")
@click.argument("generator")
@VOLUME
@PROTOCOL
@click.option("--seeds", type=int, default=1, show_default=True, help="Number of independent repetitions.")
@SETTINGS
@click.option("--until", metavar="STAGE", help="Stop after this stage.")
@click.option("--force", multiple=True, metavar="STAGE", help="Do this stage again even if it is cached; repeatable.")
@DEVICE
@DRY_RUN
@NO_TRACKING
@RUNS
@JSON
def run_command(as_json: bool, dry_run: bool, no_tracking: bool, **options: Any) -> None:
    """Run GENERATOR (a name from `synthbench list`, or a .py file) under a protocol. The same command again resumes.

    \b
    synthbench run cemiface --volume 200x20 --protocol demo --seeds 3 --set sample.m=0.2
    synthbench run real
    synthbench run folder --set sample.path=DIR
    """
    from synthbench.pipeline import run

    request = run.Request(tracking=not no_tracking, **options)
    if dry_run:
        run.plan(request, as_json)
        return
    result = run.run(request)
    if as_json:
        click.echo(json.dumps(result or {"run": None, "until": request.until}, allow_nan=False))
        return
    if result is None:
        return
    from synthbench.protocol import load_protocol
    from synthbench.results import record

    rows = [result["baseline"], result] if result["baseline"] else [result]
    benchmarks = load_protocol(request.protocol or result["protocol"]).benchmarks
    record.show([{**row, "title": result["title"], "skipped": result["skipped"]} for row in rows], benchmarks)
    console.note(f"samples: {result['artifacts']['samples']}")
    console.note(f"all scores: {result['artifacts']['folder']}/run.json; MLflow: synthbench ui --runs {request.runs}")


@click.command("list", short_help="Generators, evaluators, protocols, recipes, runs.")
@click.argument("what", type=click.Choice(["generators", "evaluators", "protocols", "recipes", "volumes", "runs"]), default="generators")
@RUNS
@JSON
def list_command(what: str, runs: Path, as_json: bool) -> None:
    """What there is: generators with their traits, evaluators, protocols, recipes, volumes, or the runs made here."""
    from synthbench import inventory

    if what == "generators":
        found = inventory.generators()
        if as_json:
            click.echo(json.dumps(found))
        else:
            inventory.show_generators(found)
        return
    header, rows = inventory.listing(what, runs)
    if as_json:
        click.echo(json.dumps([dict(zip(header, row, strict=True)) for row in rows]))
    else:
        console.table(what, header, rows, sentences=("measures", "title", "what"))
    if what == "runs" and not rows:
        console.note(f"there are no runs in {runs.absolute()}")


@click.command("show", short_help="All settings of a generator, protocol or recipe; a run.")
@click.argument("name")
@RUNS
def show_command(name: str, runs: Path) -> None:
    """Print NAME: a generator with its settings, a protocol, a recipe, or the result of a run."""
    from synthbench import inventory

    click.echo(inventory.describe(name, runs))


@click.command("export", short_help="Write a generated set as imagefolder, rec or webdataset.")
@click.argument("run")
@click.option("--to", "form", type=click.Choice(["imagefolder", "rec", "webdataset"]), required=True)
@click.option("-o", "--out", type=FOLDER, help="Folder to write; must not exist.  [default: RUN-FORM]")
@RUNS
def export_command(run: str, form: str, out: Path | None, runs: Path) -> None:
    """Write the data set of RUN (a name from `synthbench list runs`, its beginning, or `latest`) for other tools."""
    from synthbench.data.export import export_faces
    from synthbench.data.faces import open_faces
    from synthbench.results import record
    from synthbench.store import Store

    folder = record.find_run(Store(runs.absolute()), run)
    result = record.read_run(folder / "run.json")
    if result is None:
        raise UserError(f"{folder}/run.json is not a whole result; run the command that made it again")
    faces = open_faces(Path(result["artifacts"]["faces"]))
    target = out or Path(f"{folder.name}-{form}")
    with console.progress("export") as progress:
        export_faces(faces, form, target, progress=progress)
    console.note(f"{len(faces):,} images of {faces.identities:,} identities in {target}")


COMMANDS = (run_command, list_command, show_command, export_command)
