"""The command line: parse, call one function, print. Imports neither torch nor MLflow, so that --help is instant."""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import click

from synthbench import __version__, console
from synthbench.cli_options import DEVICE, DRY_RUN, FOLDER, JSON, NO_TRACKING, PROTOCOL, RUNS, SETTINGS, VOLUME
from synthbench.cli_results import COMMANDS
from synthbench.types import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOLCK)
DISK = FULL + REFUSED


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="synthbench")
def cli() -> None:
    """Compare generators of synthetic faces by how well a recognizer trained on their images recognizes real faces.

    \b
    synthbench run cemiface                          the embedded world: no data, no GPU, minutes
    synthbench run cemiface --volume 0.5M            the paper's job, when its data are registered
    synthbench run cemiface --dry-run                what would be done
    """


@cli.command("run", short_help="Generate, train a recognizer, score it.")
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
    from synthbench import run

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
    from synthbench import results
    from synthbench.protocol import load_protocol

    rows = [result["baseline"], result] if result["baseline"] else [result]
    benchmarks = load_protocol(request.protocol or result["protocol"]).benchmarks
    results.show([{**row, "title": result["title"], "skipped": result["skipped"]} for row in rows], benchmarks)
    console.note(f"samples: {result['artifacts']['samples']}")
    console.note(f"all scores: {result['artifacts']['folder']}/run.json; MLflow: synthbench ui --runs {request.runs}")


@cli.command("list", short_help="Generators, evaluators, protocols, recipes, runs.")
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
        console.table(what, header, rows)
    if what == "runs" and not rows:
        console.note(f"there are no runs in {runs.absolute()}")


@cli.command("show", short_help="All settings of a generator, protocol or recipe; a run.")
@click.argument("name")
@RUNS
def show_command(name: str, runs: Path) -> None:
    """Print NAME: a generator with its settings, a protocol, a recipe, or the result of a run."""
    from synthbench import inventory

    click.echo(inventory.describe(name, runs))


@cli.group("data", short_help="Register real data and weights; nothing is ever downloaded.")
def data_group() -> None:
    """Tell synthbench where data and weights lie. It never downloads them: most may not be redistributed."""


@data_group.command("status")
@JSON
def data_status(as_json: bool) -> None:
    """What is registered, what is missing, its licence, and where to ask for it."""
    from synthbench.data import sources

    rows = sources.status()
    if as_json:
        click.echo(json.dumps(rows))
    else:
        header = ("name", "kind", "state", "sha256", "licence", "where")
        cells = [[row["name"], row["kind"], row["state"], row["digest"][:12], row["licence"], row["path"] or row["url"]] for row in rows]
        console.table("data and weights", header, cells)


@data_group.command("add")
@click.argument("name")
@click.argument("path", type=FOLDER)
@click.option("--kind", type=click.Choice(["faces", "pairs", "weights"]), help="Needed for a name that is not in `data status`.")
@click.option("--colour", type=click.Choice(["rgb", "bgr"]), help="Colour order a checkpoint was trained with; a file does not tell.")
@click.option("--pairs", type=FOLDER, help="Pair list (LFW's pairs.txt) that goes with a folder or zip of images.")
def data_add(name: str, path: Path, **options: Any) -> None:
    """Register PATH (folder, zip, .rec, .bin, .parquet, .lmdb, checkpoint) as NAME, after looking into it.

    \b
    synthbench data add casia-webface faces_webface_112x112/train.rec
    synthbench data add lfw lfw.bin
    synthbench data add lfw lfw_aligned.zip --pairs pairs.txt
    synthbench data add adaface-ir50-casia adaface_ir50_casia.ckpt --colour bgr
    """
    from synthbench.data import sources

    entry = sources.add(name, path, **{key: value for key, value in options.items() if value is not None})
    console.note(f"registered {name}: {entry.title}, sha256 {entry.digest[:16]}…")


@data_group.command("verify")
@click.argument("name", required=False)
def data_verify(name: str | None) -> None:
    """Hash registered files again and compare; all of them without NAME."""
    from synthbench.data import sources

    for item in [name] if name else sources.names_registered():
        sources.verify(item)
        console.note(f"{item}: unchanged")


@data_group.command("overlap")
@click.argument("a")
@click.argument("b", required=False)
@click.option("--judge", required=True, help="Registered weights that compare the people.")
@click.option("--threshold", type=float, default=0.55, show_default=True, help="Cosine of two centres from which people count as one.")
@click.option("--device", default="auto", show_default=True)
@RUNS
def data_overlap(a: str, b: str | None, judge: str, threshold: float, device: str, runs: Path) -> None:
    """People who seem to be in both registered sets A and B (or twice in A), most alike first: candidates for `exclude`."""
    from synthbench import inventory

    rows = inventory.overlap(a, b, judge, threshold, device, runs)
    if rows:
        console.table("people who seem to be the same", (a, b or a, "cosine"), rows)
    else:
        console.note(f"nobody in {a} is as like somebody {f'in {b}' if b else 'else'} as cosine {threshold}")


@cli.command("test", short_help="Check that a plugin keeps the contract.")
@click.argument("plugin")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A setting of the plugin; repeatable.")
def test_command(plugin: str, settings: tuple[str, ...]) -> None:
    """Run the plugin contract on PLUGIN (a name or a .py file): slots, seeds, resume, sharding, shapes."""
    from synthbench import testing

    for line in testing.check(plugin, settings):
        console.note(f"ok: {line}")


@cli.command("export", short_help="Write a generated set as imagefolder, rec or webdataset.")
@click.argument("run")
@click.option("--to", "form", type=click.Choice(["imagefolder", "rec", "webdataset"]), required=True)
@click.option("-o", "--out", type=FOLDER, help="Folder to write; must not exist.  [default: RUN-FORM]")
@RUNS
def export_command(run: str, form: str, out: Path | None, runs: Path) -> None:
    """Write the data set of RUN (a name from `synthbench list runs`, its beginning, or `latest`) for other tools."""
    from synthbench import results
    from synthbench.data.export import export_faces
    from synthbench.data.faces import open_faces
    from synthbench.store import Store

    folder = results.find_run(Store(runs.absolute()), run)
    result = results.read_run(folder / "run.json")
    if result is None:
        raise UserError(f"{folder}/run.json is not a whole result; run the command that made it again")
    faces = open_faces(Path(result["artifacts"]["faces"]))
    target = out or Path(f"{folder.name}-{form}")
    with console.progress("export") as progress:
        export_faces(faces, form, target, progress=progress)
    console.note(f"{len(faces):,} images of {faces.identities:,} identities in {target}")


@cli.command("ui", short_help="MLflow on the runs folder, or Optuna's dashboard.")
@click.option("--port", type=click.IntRange(1, 65535), help="[default: 5000; with --optuna 8080]")
@click.option(
    "--optuna", "sweep", is_flag=False, flag_value="", metavar="[SWEEP]", help="optuna-dashboard of a sweep.  [default: the latest]"
)
@RUNS
def ui_command(port: int | None, sweep: str | None, runs: Path) -> None:
    """Start MLflow, or optuna-dashboard, on loopback and print the link that opens on the runs, or on a sweep."""
    if sweep is not None:
        from synthbench.sweep import dashboard

        dashboard.serve(runs.absolute(), sweep or None, port or 8080)
        return
    from synthbench import tracking

    tracking.ui(runs.absolute(), port or 5000)


@cli.command("sync", short_help="Mirror runs to MLflow that are not there yet.")
@RUNS
def sync_command(runs: Path) -> None:
    """Rebuild the MLflow mirror from the run folders, after a tracking failure or when mlflow.db was deleted."""
    from synthbench import tracking
    from synthbench.store import Store

    console.note(f"{tracking.synchronise(Store(runs.absolute()))} runs added")


@cli.command("doctor", short_help="Versions, devices, disk, data: for a bug report.")
@RUNS
def doctor_command(runs: Path) -> None:
    """What synthbench finds on this machine."""
    from synthbench import inventory

    for name, value in inventory.doctor(runs):
        click.echo(f"{name:<14} {value}")


for command in COMMANDS:
    cli.add_command(command)


class Terminated(KeyboardInterrupt):
    """SIGTERM, as batch systems send it: everything is closed as after Ctrl-C."""


def _terminate(*_: Any) -> None:
    raise Terminated


def main() -> None:
    """Entry point: exit codes 0 done, 1 a stage failed, 2 wrong command or input, 3 data missing, 130 interrupted, 143 terminated."""
    signal.signal(signal.SIGTERM, _terminate)
    wait_briefly()
    sys.exit(_guarded())


def wait_briefly() -> None:
    """Let threads of OpenMP that wait for others spin for some microseconds and then sleep, unless the user has chosen; before torch.

    By default they spin for milliseconds: on an idle machine hardly faster, beside another busy process several times slower
    (docs/results/speed.md). The variable is libgomp's, which torch's Linux wheels use; others do not read it.
    """
    if "OMP_WAIT_POLICY" not in os.environ:  # GOMP_SPINCOUNT would override it
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def _guarded() -> int:
    try:
        cli.main(standalone_mode=False, prog_name="synthbench")
        return 0
    except UserError as error:
        console.error(str(error))
        return error.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except (KeyboardInterrupt, click.Abort) as error:
        cause = error.__cause__ or error  # click wraps both, and takes the end of any file for Ctrl-D
        if isinstance(cause, EOFError):
            return _unexpected(cause)
        terminated = isinstance(cause, Terminated)
        console.note(f"{'terminated' if terminated else 'interrupted'}; nothing is lost. Continue with: {continue_command()}")
        return 143 if terminated else 130
    except BrokenPipeError:
        return 1
    except OSError as error:
        if error.errno in DISK:
            where = error.filename or "to the disk"
            console.error(f"cannot write {where}: {error.strerror}. Nothing is lost.\nContinue with: {continue_command()}")
            return 2
        return _unexpected(error)
    except Exception as error:
        return _unexpected(error)


def continue_command() -> str:
    return "synthbench " + shlex.join(sys.argv[1:])


def _unexpected(error: Exception) -> int:
    import tempfile
    import traceback

    from synthbench.registry import PLUGIN_FILE

    with tempfile.NamedTemporaryFile("w", prefix="synthbench-", suffix=".log", delete=False) as log:
        traceback.print_exception(error, file=log)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_globals.get("__name__", "").startswith(PLUGIN_FILE)]
    whose = f"It was raised in the plugin {frames[-1].f_code.co_filename}" if frames else "This is a fault of synthbench"
    console.error(f"{type(error).__name__}: {error}\n{whose}; the details are in {log.name}")
    return 1
