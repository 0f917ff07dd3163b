"""Looking into a file before it is registered: can it be read, is it what the catalogue means, how much is in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from synthbench import console
from synthbench.data import damage, pixels
from synthbench.data.catalogue import CATALOGUE, Source
from synthbench.data.readers import left_out, read_source
from synthbench.types import DataMissing, UserError

NOWHERE = Path("not registered")  # where stand-ins lie
LOOKED = 24  # images that are decoded, evenly spread
ALIGNED = 128  # pixels: crops on the ArcFace template are 112 x 112, some generators' 128 x 128
ARCFACE = "ArcFace-aligned crops are 112 x 112"  # in every doubt about that
PICTURES = (".avif", ".heic", ".heif", ".jfif", ".jpe", ".jp2", ".jxl", ".psd", ".raw", ".svg", ".tga", ".pgm", ".pnm", ".npy")


def stands_in(path: Path | str) -> bool:
    """Whether `path` is that of a stand-in: there is nothing to read."""
    return Path(path).parent == NOWHERE


def colour_order(name: str, known: Source | None, colour: str | None) -> str:
    if known and colour not in (None, known.colour):
        raise UserError(f"{name} was trained with {known.colour} images, not {colour}; register another checkpoint under another name")
    chosen = colour or (known.colour if known else None)
    if chosen not in ("rgb", "bgr"):
        raise UserError(f"{name}: say the colour order it was trained with, --colour rgb or --colour bgr; the file does not tell")
    return chosen


def faces(path: Path, options: dict[str, Any], known: Source | None) -> dict[str, Any]:
    """Fields of the Entry of a set of faces, and `doubts`: what may have been meant otherwise."""
    from synthbench.data.faces import chosen_rows

    source = read_source(path, reading=options)
    rows = np.sort(chosen_rows(source, labelled=False))
    few = rows[np.unique(np.linspace(0, len(rows) - 1, LOOKED).astype(int))]
    broken = damage.find(source, few)
    if len(broken) == len(few):
        raise UserError(next(iter(broken.values())))
    shapes = [source.image(int(row)).shape[1::-1] for row in few if int(row) not in broken]
    sizes = " to ".join(dict.fromkeys((_size(min(shapes)), _size(max(shapes)))))
    people = len(source.names) if len(source.names) > 1 else 0  # one tells nobody apart
    images = np.bincount(source.label[rows]) if people else np.array([len(rows)])  # of each identity
    who = f"of {people:,} identities ({images.min():,} to {images.max():,} each)" if people else "without labels"
    ignored = left_out(path, source.kind)
    files = f"{console.counted(ignored.total(), 'file')} ignored ({', '.join(sorted(ignored))})" if ignored else ""
    read = [f"{console.counted(len(rows), 'image')} {who}", *source.read, sizes, files]
    doubts = list(source.doubts)
    if broken:
        first = next(iter(broken.values())).replace("; ", ", ")  # between doubts stands a semicolon
        doubts.append(
            f"{len(broken)} of {len(few)} images that were tried cannot be decoded, as {first}. `synthbench data verify NAME --decode` "
            "lists all, and `skip_damaged: true` beside `source` in a protocol leaves them out"
        )
    if lists := [] if people else [ending for ending in ignored if ending in (".csv", ".jsonl", ".lst", ".tsv", ".txt")]:
        doubts.append(f"lists ({', '.join(sorted(lists))}) lie among the images, which have no labels: --labels FILE reads who is on each")
    if people and images.max() == 1:
        doubts.append(f"every identity has exactly one image; is {' and '.join(source.read) or 'a folder'} what tells people apart?")
    doubts += unaligned(shapes)
    if pictures := [ending for ending in ignored if ending in PICTURES]:
        doubts.append(
            f"{console.counted(sum(ignored[ending] for ending in pictures), 'picture')} of a kind that is not read ({', '.join(pictures)})"
        )
    return {
        "images": len(source),
        "identities": people,
        "options": dict(source.reading),
        "read": ", ".join(filter(None, read)),
        "doubts": doubts,
    }


def unaligned(shapes: Sequence[tuple[int, ...]]) -> list[str]:
    """A doubt about images of these sizes, (width, height) each, where they hardly are crops on the ArcFace template."""
    least, most = min(shapes), max(shapes)
    if least == most and least[0] == least[1] <= ALIGNED:
        return []
    sizes = _size(least) if least == most else f"of several sizes ({_size(least)} to {_size(most)})"
    return [f"images are {sizes}: {ARCFACE}, if they are not aligned, `synthbench data align PATH --detector YUNET.onnx -o OUT`"]


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} x {shape[1]}"


def pairs(path: Path, options: dict[str, Any], known: Source | None) -> dict[str, Any]:
    """Fields of the Entry of a benchmark, and `doubts`."""
    from synthbench.data.pairs import list_source

    listed = list_source(path, options.get("pairs"))
    found = listed.decoded(32, "")
    if known and known.pairs and len(found) != known.pairs:
        raise UserError(f"{path}: {known.title} has {known.pairs} pairs, this file has {len(found)}; register it under another name")
    if len(set(found.same.tolist())) < 2:
        raise UserError(f"{path}: all {len(found)} pairs are {'genuine' if found.same[0] else 'impostors'}; a benchmark needs both")
    few = np.unique(np.linspace(0, len(listed.items) - 1, LOOKED).astype(int))
    shapes = [pixels.decode(data, where).shape[1::-1] for data, where in listed.files(few.tolist())]
    sizes = " to ".join(dict.fromkeys((_size(min(shapes)), _size(max(shapes)))))
    read = f"{len(found):,} pairs of {console.counted(len(found.images), 'image')}, {sizes}"
    return {"images": len(found.images), "pairs": len(found), "read": read, "doubts": unaligned(shapes)}


def templates(path: Path, options: dict[str, Any], known: Source | None) -> dict[str, Any]:
    """Fields of the Entry of a template set, and `doubts`."""
    from synthbench.data.templatelists import list_templates

    found = list_templates(path)
    if fault := found.who.faults():
        raise UserError(f"{path}: {fault}")
    images = len(found.who.template)
    for row in np.unique(np.linspace(0, images - 1, LOOKED).astype(int)):
        found.image(int(row))
    people = len(np.unique(found.who.subject[found.who.subject >= 0]))
    return {"images": images, "identities": people, "read": found.read, "doubts": list(found.doubts)}


def weights(path: Path, options: dict[str, Any], known: Source | None) -> dict[str, int]:
    if known and known.files:
        check_folder(known.name, path)
        return {}
    from synthbench.models.checkpoints import look

    look(path, encoder=not (known and known.sha256), colour=options["colour"])  # a file known by its digest need not be an encoder
    return {}


def check_folder(name: str, path: Path) -> None:
    """Raises DataMissing, with what is to be done, when the folder `path` lacks a file of the weights `name` of the catalogue."""
    known = CATALOGUE[name]
    if stands_in(path):
        return
    if absent := [file for file in known.files if not any((path / one).is_file() for one in file.split("|"))]:
        wanted = ", ".join(file.replace("|", " or ") for file in absent)
        raise DataMissing(
            f"{path} lacks {wanted} of {known.title}. Licence: {known.licence}. Fetch it at {known.url}, "
            f"put it there, and run `synthbench data add {name} {path}`"
        )


def difference(known: Source | None, looked: dict[str, Any]) -> str:
    wrong = [
        f"{looked[what]:,} {what}, published with {getattr(known, what):,}"
        for what in ("images", "identities")
        if known and getattr(known, what) and looked.get(what) != getattr(known, what)
    ]
    return "; ".join(wrong)
