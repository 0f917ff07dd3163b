"""A set of faces for other tools: image folder, RecordIO in InsightFace's layout, or WebDataset tar shards."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from synthbench.data import pixels
from synthbench.data.faces import FaceSet
from synthbench.data.recordio import write_rec
from synthbench.types import Progress, UserError

FORMS = ("imagefolder", "rec", "webdataset")
CHUNK = 512
TAR_ROWS = 10_000  # images in a tar


def export_faces(
    faces: FaceSet,
    to: str,
    out: Path | str,
    format: str = "png",
    quality: int = 95,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Write `faces` to the new folder `out`; PNG keeps the pixels, JPEG takes `quality`.

    imagefolder: <identity>/<number>.png. rec: train.rec, train.idx, property. webdataset: 00000.tar, ... with .png, .cls and .json.
    Soft labels go into the .json of webdataset and into soft_labels.csv of the others, with the number of the image's record for rec.
    `out` appears when it is whole. Raises UserError when it exists, or the disk is full.
    """
    out = Path(out)
    if to not in FORMS:
        raise UserError(f"cannot export to {to!r}; there is {', '.join(FORMS)}")
    if format not in ("png", "jpg"):
        raise UserError(f"format {format!r} is neither png nor jpg")
    if out.exists():
        raise UserError(f"{out} exists; give a folder that does not, or delete it")
    tmp = out.with_name(f"{out.name}.{os.getpid()}.tmp")
    try:
        tmp.mkdir(parents=True)
        {"imagefolder": _imagefolder, "rec": _rec, "webdataset": _webdataset}[to](faces, tmp, format, quality, progress)
        os.replace(tmp, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error}). Nothing is left there") from None
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
    return out


def folder_names(faces: FaceSet) -> list[str]:
    """A folder name per identity: its own name when all of them are plain and differ whatever the case, else its number."""
    plain = all(re.fullmatch(r"[\w][\w .@+-]{0,99}", name) and not name.endswith((".", " ")) for name in faces.names)
    if plain and len({name.casefold() for name in faces.names}) == faces.identities:
        return faces.names
    return [f"{number:07d}" for number in range(faces.identities)]


def _in_order(faces: FaceSet) -> tuple[np.ndarray, np.ndarray]:
    """Rows identity by identity, and the number of each image within its identity."""
    rows = np.argsort(faces.identity, kind="stable")
    sorted_identity = faces.identity[rows]
    return rows, np.arange(len(rows)) - np.searchsorted(sorted_identity, sorted_identity)


def _encoded(faces: FaceSet, rows: np.ndarray, format: str, quality: int, progress: Progress) -> Iterator[bytes]:
    def images() -> Iterator[np.ndarray]:
        for first in range(0, len(rows), CHUNK):
            yield from faces.images(rows[first : first + CHUNK]).permute(0, 2, 3, 1).numpy()
            progress(min(first + CHUNK, len(rows)), len(rows))

    return pixels.in_threads(lambda image: pixels.encode(image, format, quality), images())


def _imagefolder(faces: FaceSet, tmp: Path, format: str, quality: int, progress: Progress) -> None:
    rows, number = _in_order(faces)
    names = folder_names(faces)
    for name in names:
        (tmp / name).mkdir()
    places = [f"{names[faces.identity[row]]}/{k:05d}.{format}" for row, k in zip(rows, number)]
    for place, data in zip(places, _encoded(faces, rows, format, quality, progress)):
        (tmp / place).write_bytes(data)
    _soft_labels(faces, rows, places, names, tmp)


def _rec(faces: FaceSet, tmp: Path, format: str, quality: int, progress: Progress) -> None:
    rows, _ = _in_order(faces)
    write_rec(tmp, _encoded(faces, rows, format, quality, progress), faces.identity[rows], faces.resolution)
    _soft_labels(faces, rows, range(1, len(rows) + 1), range(faces.identities), tmp)


def _soft_labels(faces: FaceSet, rows: np.ndarray, places: Sequence[object], names: Sequence[object], tmp: Path) -> None:
    """soft_labels.csv, for a set that has them: where the image is, its two labels and the share of the first."""
    if not faces.mixed:
        return
    second, weight = faces.columns["label2"], faces.columns["weight"]
    lines = [f"{place},{names[faces.identity[row]]},{names[second[row]]},{weight[row]:.6g}\n" for place, row in zip(places, rows)]
    (tmp / "soft_labels.csv").write_text("image,label,label2,weight\n" + "".join(lines), "utf-8")


def _webdataset(faces: FaceSet, tmp: Path, format: str, quality: int, progress: Progress) -> None:
    """In the order of the set; .json holds the name of the identity and the columns."""
    rows = np.arange(len(faces))
    data = _encoded(faces, rows, format, quality, progress)
    for first in range(0, len(rows), TAR_ROWS):
        with tarfile.open(tmp / f"{first // TAR_ROWS:05d}.tar", "w") as tar:
            for row in rows[first : first + TAR_ROWS]:
                label = int(faces.identity[row])
                about = {
                    "identity": label,
                    "name": faces.names[label],
                    **{name: values[row].item() for name, values in faces.columns.items()},
                }
                for ending, content in ((format, next(data)), ("cls", str(label).encode()), ("json", json.dumps(about).encode())):
                    member = tarfile.TarInfo(f"{row:08d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
