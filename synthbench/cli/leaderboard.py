"""The commands that pass results on: bundle, verify, leaderboard. Each parses and calls one function."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from synthbench.cli import complete
from synthbench.cli.options import FOLDER, JSON, RUNS, SCORING


@click.command("bundle", short_help="A run or comparison as one file that others can check.")
@click.argument("name", shell_complete=complete.passed_on)
@click.option("-o", "--out", type=FOLDER, help="File to write; must not exist.  [default: NAME.zip]")
@click.option("--weights", is_flag=True, help="With the recognizers, so that their distances can be made again.")
@RUNS
def bundle_command(name: str, out: Path | None, weights: bool, runs: Path) -> None:
    """Write NAME, a run or comparison, its beginning, or latest, with what happened to every pair, to a zip file.

    No image in it is a photograph. Settings and the command are in it as they were typed.
    """
    from synthbench.leaderboard import bundle

    click.echo(bundle.bundle(name, runs, out, weights))


@click.command("verify", short_help="Check what a bundle says.")
@click.argument("file", type=FOLDER)
@SCORING
@JSON
def verify_command(file: Path, device: str, as_json: bool) -> None:
    """Make the scores in FILE, written by `synthbench bundle`, again from its distances, and say what could not be checked.

    Where the recognizers are in it, the distances are made again too, on benchmarks of the embedded world and registered ones.
    Exit code 1 where something differs.
    """
    from synthbench.leaderboard import archive, show, verify

    with archive.unpacked(file) as bundle:
        found = verify.checks(bundle, device)
    agrees = all(check.agrees is not False for check in found)
    if as_json:
        about = {"file": bundle.file, "sha256": bundle.digest, "name": bundle.about["name"], "agrees": agrees}
        click.echo(json.dumps({**about, "checks": [asdict(check) for check in found]}, allow_nan=False))
    else:
        show.show(bundle, found)
    if not agrees:
        raise click.exceptions.Exit(1)


@click.command("leaderboard", short_help="A page of bundles that agree.")
@click.argument("files", nargs=-1, required=True, type=FOLDER, metavar="FILE...")
@click.option("-o", "--out", type=FOLDER, default=Path("site"), show_default=True, help="Folder to write; must not exist.")
@SCORING
def leaderboard_command(files: tuple[Path, ...], out: Path, device: str) -> None:
    """Verify bundles, and write those that agree as pages: rows that were measured alike in one table, a page for each row.

    \b
    synthbench leaderboard *.zip -o site
    """
    from synthbench.leaderboard import site

    click.echo(site.build(files, out, device))


COMMANDS = (bundle_command, verify_command, leaderboard_command)
