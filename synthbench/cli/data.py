"""`synthbench data`: what is registered on this machine."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import click

from synthbench import console
from synthbench.cli import complete
from synthbench.cli.options import FOLDER, FORMS_WRITTEN, JSON, RUNS
from synthbench.types import UserError


@click.group("data", short_help="Register real data and weights; nothing is ever downloaded.")
def data_group() -> None:
    """Tell synthbench where data and weights lie. It never downloads them: most may not be redistributed."""


@data_group.command("status")
@click.option("--protocol", help="Only what this protocol needs, and the command for each that is missing.")
@JSON
def data_status(protocol: str | None, as_json: bool) -> None:
    """What is registered, what is missing, its licence, and where to ask for it."""
    from synthbench.data import sources

    if protocol:
        _needs(protocol, as_json)
        return
    rows = sources.status()
    if as_json:
        click.echo(json.dumps(rows))
    else:
        header = ("name", "kind", "state", "holds", "sha256", "licence", "where")
        shown = ("name", "kind", "state", "holds", "digest", "licence")
        cells = [[*(row[key] if key != "digest" else row[key][:12] for key in shown), row["path"] or row["url"]] for row in rows]
        console.table("data and weights", header, cells, sentences=("licence", "holds"))


FORMS = {
    "faces": "faces: folder, zip, .rec, .parquet, .tar or LMDB; a folder or label per person",
    "pairs": "pairs: .bin; or images in a folder or zip, and --pairs pairs.txt",
    "templates": "templates: the folder of IJB-B or IJB-C (loose_crop/ and meta/, or images/ and protocols/), or TinyFace (Testing_Set/)",
    "weights": "weights: the checkpoint; COLOUR is rgb or bgr, as it was trained",
}


def _needs(name: str, as_json: bool) -> None:
    """What the protocol `name` needs here: a table, then for each that is missing where to ask for it, and the command that adds it."""
    from synthbench.data import sources
    from synthbench.protocol import load_protocol

    protocol, known = load_protocol(name), {row["name"]: row for row in sources.status()}
    roles: dict[tuple[str, str], dict[str, list[str]]] = {}  # of each source: what for, and for which generators
    for need in protocol.needs():
        users = roles.setdefault((need.name, need.kind), {}).setdefault(need.role, [])
        users += [need.generator] if need.generator else []
    rows = []
    for (source, kind), uses in roles.items():
        found = known.get(source, {"state": "missing", "title": "", "path": "", "holds": "", "licence": "", "url": ""})
        add = "" if found["state"] in ("registered", "changed") else sources.add_command(source, kind)
        kept = {key: found[key] for key in ("state", "title", "path", "holds", "licence", "url")}
        told = "; ".join(f"{what} of {', '.join(who)}" if who else what for what, who in uses.items())
        rows.append({"name": source, "kind": kind, "for": told, **kept, "command": add})
    if as_json:
        click.echo(json.dumps(rows))
        return
    if not rows:
        console.note(f"protocol {protocol.name} needs no data: its faces are rendered")
        return
    cells = [(row["name"], row["for"], row["holds"] if row["state"] == "registered" else row["state"]) for row in rows]
    console.table(f"what protocol {protocol.name} needs", ("name", "for", "here"), cells, sentences=("for", "here"))
    lacking = list({row["command"]: row for row in rows if row["command"]}.values())
    for row in lacking:
        if row["url"]:  # of the catalogue
            for text in (f"# {row['title']}, {row['kind']}; licence: {row['licence']}; ask for it at", f"# {row['url']}"):
                click.echo("\n".join(textwrap.wrap(text, 79, subsequent_indent="# ", break_long_words=False, break_on_hyphens=False)))
        click.echo(row["command"])
    if lacking:
        console.note("PATH is where it lies on this machine; nothing is ever downloaded")
        for kind in dict.fromkeys(row["kind"] for row in lacking):
            console.note(f"  {FORMS[kind]}")
    else:
        console.note(f"all there: synthbench run GENERATOR --protocol {name}")
    console.note(f"more for single generators: synthbench list generators --protocol {name}")


@data_group.command("add")
@click.argument("name")
@click.argument("path", type=FOLDER)
@click.option(
    "--kind", type=click.Choice(["faces", "pairs", "templates", "weights"]), help="Needed for a name that is not in `data status`."
)
@click.option("--colour", type=click.Choice(["rgb", "bgr"]), help="Colour order a checkpoint was trained with; a file does not tell.")
@click.option("--pairs", type=FOLDER, help="Pair list (LFW's pairs.txt) that goes with a folder or zip of images.")
@click.option(
    "--column", metavar="NAME", help="What says who is on an image: a column of Parquet, Arrow or a list; upper or lower of two folders."
)
@click.option("--split", metavar="NAME", help="Split to read, where a set has several: train, test, ...")
@click.option("--labels", type=FOLDER, metavar="FILE", help="List of `image label` lines that goes with a folder or zip of images.")
def data_add(name: str, path: Path, **options: Any) -> None:
    """Register PATH (folder, zip, .rec, .bin, .parquet, .tar, .lmdb, checkpoint) as NAME, after looking into it.

    \b
    synthbench data add casia-webface faces_webface_112x112/train.rec
    synthbench data add lfw lfw.bin
    synthbench data add lfw lfw_aligned.zip --pairs pairs.txt
    synthbench data add ijbc IJBC
    synthbench data add celeba img_align_celeba --labels identity_CelebA.txt
    synthbench data add mine hub/people --kind faces --column person_id --split train
    synthbench data add adaface-ir50-casia adaface_ir50_casia.ckpt --colour bgr
    """
    from synthbench.data import sources

    entry = sources.add(name, path, **{key: value for key, value in options.items() if value is not None})
    title = "" if entry.title == name else f"{entry.title}, "
    console.note(f"registered {name}: {title}{sources.holds(entry)}, sha256 {entry.digest[:16]}…")
    if entry.read:
        console.note(f"{name} is read as {entry.read}")
    for doubt in entry.note.split("; ") if entry.note else []:
        console.warn(f"{name}: {doubt}")


@data_group.command("inspect")
@click.argument("path", type=FOLDER)
@click.option("-o", "--out", type=FOLDER, help="Write an HTML page with some images of some people.")
@JSON
def data_inspect(path: Path, out: Path | None, as_json: bool) -> None:
    """What is in the set of faces at PATH, before it is registered: people, sizes, colours, images that are there twice, damaged ones.

    \b
    synthbench data inspect celeba.zip -o celeba.html
    """
    from synthbench.data import inspection
    from synthbench.data.readers import read_source

    source = read_source(path)
    found = inspection.inspect(source)
    if as_json:
        click.echo(json.dumps(inspection.as_json(found)))
    else:
        for line in inspection.lines(found):
            click.echo(console.printable(line))
    if out:
        inspection.sheet(source, out)
        console.note(f"some images: {out}")


@data_group.command("show")
@click.argument("name", shell_complete=complete.data)
@JSON
def data_show(name: str, as_json: bool) -> None:
    """All that is known of NAME: what it is, where it lies, people and images, digest, licence."""
    from synthbench.data import sources

    facts = sources.show(name)
    if as_json:
        click.echo(json.dumps(facts))
        return
    for key, value in facts.items():
        click.echo(console.printable(f"{key:<11} {value}"))


@data_group.command("remove")
@click.argument("name", shell_complete=complete.data)
def data_remove(name: str) -> None:
    """Forget NAME. Only the registration goes; the files stay where they are."""
    from synthbench.data import sources

    console.note(f"{name} is registered no more; its files stay at {sources.remove(name).path}")


@data_group.command("verify")
@click.argument("name", required=False, shell_complete=complete.data)
@click.option("--decode", is_flag=True, help="Of faces: decode every image too, and list all that are damaged.")
def data_verify(name: str | None, decode: bool) -> None:
    """Hash registered files again and compare; all of them without NAME."""
    import numpy as np

    from synthbench.data import damage, sources

    damaged: list[str] = []
    for item in [name] if name else sources.names_registered():
        entry = sources.verify(item)
        console.note(f"{item}: unchanged")
        if decode and entry.kind == "faces":
            with console.progress("decode") as progress:
                images = sources.open_set(entry)
                found = list(damage.find(images, np.arange(len(images)), progress).values())
            console.note(f"{item}: {len(found):,} of {entry.images:,} images are damaged")
            damaged += found
    for line in damaged:
        click.echo(console.printable(line))
    if damaged:
        raise UserError(f"{console.counted(len(damaged), 'image')} cannot be decoded; replace or remove what is damaged, register again")


@data_group.command("convert")
@click.argument("source", metavar="SRC", shell_complete=complete.data)
@click.option("--to", "form", type=click.Choice([*FORMS_WRITTEN, "bin"]), required=True, help="bin is for pairs, the others are for faces.")
@click.option("--pairs", type=FOLDER, help="Pair list (LFW's pairs.txt) of the images in SRC; with --to bin.")
@click.option("-o", "--out", required=True, type=FOLDER, help="Folder to write (of bin: file), which must not exist.")
def data_convert(source: str, form: str, pairs: Path | None, out: Path) -> None:
    """Write the faces or pairs of SRC (a path or a registered name) in another layout. The images' files stay as they are, bit for bit.

    \b
    synthbench data convert faces_webface_112x112 --to imagefolder -o webface
    synthbench data convert lfw_112.zip --pairs pairs.txt --to bin -o lfw.bin
    """
    from synthbench.data import export, sources

    path = Path(source).expanduser()
    if form == "bin":
        console.note(f"{out}: {_to_bin(source, path, pairs, out):,} pairs, bin")
        return
    if pairs:
        raise UserError(f"--pairs goes with --to bin; {form} holds faces")
    images = sources.open_set(sources.find(source, "faces") if not path.exists() and sources.registered(source) else path)
    if len(images) < 2:
        raise UserError(
            f"{images.path}: read as a set of {console.counted(len(images), 'image')}, which is none; give the folder of the set"
        )
    with console.progress("convert") as progress:
        export.convert(images, form, out, progress)
    numbers = "; people are numbers there, in the order of their names" if form in ("rec", "lmdb") else ""
    console.note(f"{out}: {len(images):,} images of {len(images.names):,} people, {form}{numbers}")


def _to_bin(source: str, path: Path, pairs: Path | None, out: Path) -> int:
    """Writes the benchmark `source`, a registered one or that at `path`, to `out`; returns how many pairs it has."""
    from synthbench.data import sources
    from synthbench.data.pairs import list_source, write_bin

    if not path.exists() and pairs is None:
        entry = sources.find(source, "pairs")
        path, pairs = entry.path, entry.options.get("pairs")
    listed = list_source(path, pairs)
    write_bin(listed, out)
    return len(listed.same)


@data_group.command("align")
@click.argument("images", type=FOLDER)
@click.option("--detector", type=FOLDER, help="YuNet in ONNX (face_detection_yunet_2023mar.onnx of the OpenCV zoo).")
@click.option("--landmarks", type=FOLDER, help="File with a line for each image: its name, x and y of eyes, nose and corners of the mouth.")
@click.option("--face", type=click.Choice(["largest", "central"]), default="largest", show_default=True, help="Of several in an image.")
@click.option("-o", "--out", required=True, type=FOLDER, help="Folder to write, which must not exist.")
def data_align(images: Path, detector: Path | None, landmarks: Path | None, face: str, out: Path) -> None:
    """Align the faces of IMAGES (folder or zip) to the ArcFace template, 112 px; names stay, so that lists of pairs fit.

    \b
    synthbench data align lfw --detector face_detection_yunet_2023mar.onnx -o lfw_112
    synthbench data align img_celeba --landmarks list_landmarks_celeba.txt -o celeba_112
    """
    from synthbench.data import align
    from synthbench.data.readers import read_source

    if detector is None and landmarks is None:
        raise UserError("say where the landmarks come from: --detector YUNET.onnx, or --landmarks FILE")
    if detector is not None and landmarks is not None:
        raise UserError("landmarks come from --detector or from --landmarks; leave one of the two out")
    source = read_source(images)
    found = align.detector(detector) if detector else align.from_file(landmarks, source)  # type: ignore[arg-type]
    with console.progress("align") as progress:
        told = align.align(source, out, found, face, progress)  # type: ignore[arg-type]
    for line in align.lines(told, out, face):
        console.note(line)


@data_group.command("unpaired")
@click.argument("images", type=FOLDER)
@click.argument("pairs", type=FOLDER)
@click.argument("out", type=FOLDER)
def data_unpaired(images: Path, pairs: Path, out: Path) -> None:
    """Copy who is in IMAGES (folder or zip) and in no pair of the list PAIRS into the zip OUT: inquiries that a benchmark never shows.

    \b
    synthbench data unpaired lfw.zip pairs.txt lfw_unpaired.zip
    """
    from synthbench.data.unpaired import copy_unpaired

    kept = copy_unpaired(images, pairs, out)
    console.note(f"{out}: {kept.people:,} people, {kept.images:,} images; {kept.left_out:,} people of pairs left out")
    console.note(f"next: synthbench data add NAME {out} --kind faces")


@data_group.command("overlap")
@click.argument("a")
@click.argument("b", required=False)
@click.option("--judge", required=True, help="Registered weights that compare the people.")
@click.option("--threshold", type=float, default=0.55, show_default=True, help="Cosine of two centres from which people count as one.")
@click.option("--device", default="auto", show_default=True)
@RUNS
def data_overlap(a: str, b: str | None, judge: str, threshold: float, device: str, runs: Path) -> None:
    """People who seem to be in both registered sets A and B (or twice in A), most alike first: candidates for `exclude`."""
    from synthbench.inventory import machine

    rows = machine.overlap(a, b, judge, threshold, device, runs)
    if rows:
        console.table("people who seem to be the same", (a, b or a, "cosine"), rows)
    else:
        console.note(f"nobody in {a} is as like somebody {f'in {b}' if b else 'else'} as cosine {threshold}")
