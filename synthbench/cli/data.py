"""`synthbench data`: what is registered on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from synthbench import console
from synthbench.cli.options import FOLDER, JSON, RUNS


@click.group("data", short_help="Register real data and weights; nothing is ever downloaded.")
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
        console.table("data and weights", header, cells, sentences=("licence",))


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
