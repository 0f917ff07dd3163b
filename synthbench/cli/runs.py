"""Commands about runs: run, list, show, export. Each parses and calls one function."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from synthbench import console
from synthbench.cli import complete
from synthbench.cli.options import (
    CLUSTER,
    DEVICE,
    DEVICES,
    DRY_RUN,
    FOLDER,
    FORM,
    JSON,
    NO_TRACKING,
    ON,
    PROTOCOL,
    RUNS,
    SCORING,
    SETTINGS,
    VOLUME,
    planned_on,
    spread,
)
from synthbench.types import UserError


@click.command("run", short_help="Generate, train a recognizer, score it.")
@click.argument("generator", shell_complete=complete.generators)
@VOLUME
@PROTOCOL
@click.option("--seeds", type=int, default=1, show_default=True, help="Number of independent repetitions.")
@SETTINGS
@click.option("--until", metavar="STAGE", shell_complete=complete.stages, help="Stop after this stage.")
@click.option(
    "--force", multiple=True, metavar="STAGE", shell_complete=complete.stages, help="Do this stage again even if it is cached; repeatable."
)
@DEVICE
@DEVICES
@ON
@CLUSTER
@DRY_RUN
@NO_TRACKING
@RUNS
@JSON
def run_command(as_json: bool, dry_run: bool, no_tracking: bool, devices: int | None, on: str, cluster: str | None, **options: Any) -> None:
    """Run GENERATOR (a name from `synthbench list`, or a .py file) under a protocol. The same command again resumes.

    \b
    synthbench run cemiface --volume 200x20 --protocol demo --seeds 3 --set sample.m=0.2
    synthbench run real
    synthbench run folder --set sample.path=DIR --protocol paper
    """
    machines = planned_on(dry_run, on, cluster, devices)
    from synthbench.pipeline import run
    from synthbench.results import lookup
    from synthbench.store import Store

    request = run.Request(tracking=not no_tracking, **options)
    if dry_run:
        run.plan(request, as_json, machines)
        return
    spread(devices, request.device, on=on, requests=lambda: [request])
    result = run.run(request)
    if result:
        lookup.asked(Store(request.runs.absolute()), "run", result["run"])
    if as_json:
        click.echo(json.dumps(result or {"run": None, "until": request.until}, allow_nan=False))
        return
    if result is None:
        return
    from synthbench.protocol import load_protocol
    from synthbench.results import ending, record
    from synthbench.store import Store

    if there := ending.cached(result, Store(request.runs.absolute())):
        console.note(there)
    rows = [result["baseline"], result] if result["baseline"] else [result]
    benchmarks = load_protocol(request.protocol or result["protocol"]).benchmarks
    record.show([{**row, "title": result["title"]} for row in rows], benchmarks)
    for line in ending.lines(result, request.runs, request.protocol, request.tracking):
        console.note(line)


@click.command("evaluate", short_help="Score recognizers that were trained elsewhere.")
@click.argument("weights", nargs=-1, required=True, metavar="WEIGHTS...")
@click.option("--benchmarks", metavar="NAME,...", help="Benchmarks.  [default: the protocol's, else all that are registered]")
@click.option(
    "--protocol",
    shell_complete=complete.protocols,
    help="Its benchmarks at its resolution, so that `compare` may set the networks beside its runs.  [default: each network's own size]",
)
@click.option("--colour", type=click.Choice(["rgb", "bgr"]), help="Colour order that files were trained with; a file does not tell.")
@click.option(
    "--input",
    type=click.Choice(["auto", "-1..1", "0..1", "0..255"]),
    default="auto",
    show_default=True,
    help="Range of pixels that the networks were trained with; auto: what their kind usually takes.",
)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A setting of the evaluator verification; repeatable.")
@SCORING
@RUNS
@JSON
def evaluate_command(as_json: bool, benchmarks: str | None, **options: Any) -> None:
    """Score WEIGHTS on benchmarks: files (.onnx, .pt, .ckpt, .safetensors), registered names, or runs, whose recognizer is meant.

    \b
    synthbench evaluate adaface_ir50.ckpt --colour bgr --benchmarks lfw,cfp-fp
    synthbench evaluate edgeface-xxs mobilefacenet --protocol photos
    """
    from synthbench.pipeline import evaluation
    from synthbench.results import terminal

    names = tuple(name.strip() for name in (benchmarks or "").split(",") if name.strip())
    results = evaluation.evaluate(evaluation.Request(benchmarks=names, **options))
    if as_json:
        click.echo(json.dumps(results, allow_nan=False))
        return
    terminal.show_evaluations(results)
    for result in results:
        console.note(f"kept as {result['run']}")
    if options["protocol"]:
        console.note(f"next: synthbench compare real {' '.join(result['run'] for result in results)} --protocol {options['protocol']}")


@click.command("list", short_help="Generators, evaluators, protocols, recipes, runs.")
@click.argument("what", type=click.Choice(["generators", "evaluators", "protocols", "recipes", "volumes", "runs"]), default="generators")
@PROTOCOL
@click.option("--csv", "as_csv", is_flag=True, help="Of runs: one line per run and metric, unrounded, on stdout.")
@RUNS
@JSON
def list_command(what: str, protocol: str | None, as_csv: bool, runs: Path, as_json: bool) -> None:
    """What there is: generators with what they need here, evaluators, protocols, recipes, volumes, or the runs made here.

    \b
    synthbench list
    synthbench list generators --protocol paper
    synthbench list runs --csv > runs.csv
    """
    from synthbench.inventory import listing

    if as_csv:
        if what != "runs":
            raise UserError("--csv is for runs: synthbench list runs --csv; --json has the rest")
        click.echo(listing.table_csv(listing.results(runs)), nl=False)
        return
    if what == "generators":
        chosen, why, found = listing.generators(protocol)
        if as_json:
            click.echo(json.dumps(found))
        else:
            listing.show_generators(found, chosen, why)
        return
    header, rows = listing.listing(what, runs)
    if as_json:
        click.echo(json.dumps([dict(zip(header, row, strict=True)) for row in rows]))
    else:
        console.table(what, header, rows, sentences=("measures", "title", "what"))
    if what == "runs" and not rows:
        console.note(f"there are no runs in {runs.absolute()}")


@click.command("show", short_help="All settings of a generator, protocol or recipe; a run.")
@click.argument("name", nargs=-1, required=True, metavar="[KIND] NAME", shell_complete=complete.things)
@PROTOCOL
@RUNS
@JSON
def show_command(name: tuple[str, ...], protocol: str | None, runs: Path, as_json: bool) -> None:
    """Print NAME: a generator, evaluator, protocol, recipe or volume, or a run, comparison or sweep; latest is the last of these three.

    KIND tells things of the same name apart. Runs, comparisons and sweeps may be named by a beginning.

    \b
    synthbench show cemiface
    synthbench show recipe cemiface
    synthbench show latest
    """
    from synthbench.inventory import describe

    if len(name) > 2:
        raise UserError(f"show takes NAME or KIND NAME, not {len(name)} words")
    thing = describe.find(name, runs)
    if as_json:
        click.echo(json.dumps(describe.as_json(thing, protocol), allow_nan=False))
    else:
        describe.show(thing, runs, protocol)


@click.command("export", short_help="Write a generated set in the layout of other tools.")
@click.argument("run", shell_complete=complete.runs)
@FORM
@click.option("-o", "--out", type=FOLDER, help="Folder to write; must not exist.  [default: RUN-FORM]")
@click.option("--photographs", is_flag=True, help="Write a set that holds, or may hold, photographs of real people.")
@RUNS
def export_command(run: str, form: str, out: Path | None, photographs: bool, runs: Path) -> None:
    """Write the data set of RUN for other tools: a name from `synthbench list runs`, its beginning, or latest.

    latest is the last run that was asked for by itself: neither the real baseline nor a row of a comparison.
    """
    from synthbench.results import lookup
    from synthbench.store import Store

    store = Store(runs.absolute())
    result = lookup.find_run(store, run)
    real = lookup.photographs(store, result)
    if real and not photographs:
        raise UserError(
            f"the set of {result['run']} ({lookup.run_line(result)}) holds photographs of real people: {real}. They are personal data, and "
            "their licence may forbid passing them on; if you may export them, add --photographs"
        )
    from synthbench.data.export import export_faces
    from synthbench.data.faces import open_faces

    faces = open_faces(Path(result["artifacts"]["faces"]))
    target = out or Path(f"{result['run']}-{form}")
    with console.progress("export") as progress:
        export_faces(faces, form, target, progress=progress)
    console.note(
        f"{target}: {len(faces):,} images of {faces.identities:,} identities, {faces.resolution} px, of run {result['run']} "
        f"({lookup.run_line(result)}); photographs of real people: {real or 'none'}"
    )


COMMANDS = (run_command, evaluate_command, list_command, show_command, export_command)
