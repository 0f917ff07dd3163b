"""A set of faces for other tools: image folder, RecordIO in InsightFace's layout, WebDataset tar shards, Parquet, LMDB."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from synthbench import console
from synthbench.data import pixels
from synthbench.data.faces import FaceSet
from synthbench.data.labelled import Source
from synthbench.data.recordio import write_rec
from synthbench.types import Progress, UserError

FORMS = ("imagefolder", "rec", "webdataset", "parquet", "lmdb")
CHUNK = 512
TAR_ROWS = 10_000  # images in a tar
GROUP_ROWS = 1_000  # in a row group of Parquet


@dataclass(frozen=True)
class Outgoing:
    """A set on its way out: who is on each image, and the images' files when asked for."""

    identity: np.ndarray  # (N,) index into names; all -1 without labels
    names: list[str]
    size: int  # px
    files: Callable[[np.ndarray], Iterator[bytes]]  # of rows, in their order
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def mixed(self) -> bool:
        return "label2" in self.columns


def export_faces(
    faces: FaceSet,
    to: str,
    out: Path | str,
    format: str = "png",
    quality: int = 95,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Write `faces` to the new folder `out`; PNG keeps the pixels, JPEG takes `quality`. See `write`."""
    if format not in ("png", "jpg"):
        raise UserError(f"format {format!r} is neither png nor jpg")

    def files(rows: np.ndarray) -> Iterator[bytes]:
        def images() -> Iterator[np.ndarray]:
            for first in range(0, len(rows), CHUNK):
                yield from faces.images(rows[first : first + CHUNK]).permute(0, 2, 3, 1).numpy()
                progress(min(first + CHUNK, len(rows)), len(rows))

        return pixels.in_threads(lambda image: pixels.encode(image, format, quality), images())

    return write(Outgoing(faces.identity, faces.names, faces.resolution, files, faces.columns), to, Path(out))


def convert(source: Source, to: str, out: Path | str, progress: Progress = lambda done, total: None) -> Path:
    """Write labelled images of any layout that is read in another one. The images' files stay as they are, bit for bit, when they are PNG,
    JPEG or BMP; others become PNG. See `write`."""
    if not source.names and to != "imagefolder":
        raise UserError(f"{source.path} has no labels, and {to} needs them: convert it --to imagefolder")

    def files(rows: np.ndarray) -> Iterator[bytes]:
        for done, (row, data) in enumerate(zip(rows.tolist(), source.stream(rows)), 1):
            yield data if pixels.passes(data) else pixels.encode(pixels.decode(data, source.where(row)))
            progress(done, len(rows))

    return write(Outgoing(source.label, source.names, max(source.image(0).shape), files), to, Path(out))


def write(faces: Outgoing, to: str, out: Path) -> Path:
    """Write a set to the new folder `out`.

    imagefolder: <identity>/<number>.png (loose files without labels). rec: train.rec, train.idx, property. webdataset: 00000.tar, ...
    with .png, .cls and .json. parquet: data.parquet with image {bytes, path} and label, the identity's name. lmdb: data.mdb as SOTA-FR
    and HSFace have it. Soft labels go into the .json of webdataset, and into soft_labels.csv of imagefolder and rec, with the number of
    the record there.
    `out` appears when it is whole. Raises UserError when it exists, the disk is full, or soft labels would be lost.
    """
    writers = {"imagefolder": _imagefolder, "rec": _rec, "webdataset": _webdataset, "parquet": _parquet, "lmdb": _lmdb}
    if to not in writers:
        raise UserError(f"cannot write {to!r}; there is {', '.join(FORMS)}")
    if faces.mixed and to in ("parquet", "lmdb"):
        raise UserError(f"{to} has no place for soft labels (two people on an image); take imagefolder, rec or webdataset")
    with appearing(out) as tmp:
        writers[to](faces, tmp)
    return out


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `out` when the block is done and nothing when it fails.

    Raises UserError when `out` exists, or the disk is full.
    """
    if out.exists():
        raise UserError(f"{out} exists; give a folder that does not, or delete it")
    tmp = out.with_name(f"{out.name}.{os.getpid()}.tmp")
    try:
        tmp.mkdir(parents=True)
        yield tmp
        os.replace(tmp, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error}). Nothing is left there") from None
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def folder_names(names: list[str]) -> list[str]:
    """A folder name per identity: its own name when all of them are plain and differ whatever the case, else its number."""
    plain = all(re.fullmatch(r"[\w][\w .@+-]{0,99}", name) and not name.endswith((".", " ")) for name in names)
    if plain and len({name.casefold() for name in names}) == len(names):
        return names
    return [f"{number:07d}" for number in range(len(names))]


def ending(data: bytes) -> str:
    return next(suffix for begin, suffix in pixels.MAGIC.items() if data.startswith(begin))


def _in_order(faces: Outgoing) -> tuple[np.ndarray, np.ndarray]:
    """Rows identity by identity, and the number of each image within its identity."""
    rows = np.argsort(faces.identity, kind="stable")
    sorted_identity = faces.identity[rows]
    return rows, np.arange(len(rows)) - np.searchsorted(sorted_identity, sorted_identity)


def _imagefolder(faces: Outgoing, tmp: Path) -> None:
    rows, number = _in_order(faces)
    names = folder_names(faces.names)
    for name in names:
        (tmp / name).mkdir()
    places = []
    for row, k, data in zip(rows, number, faces.files(rows)):
        places.append(f"{names[faces.identity[row]]}/{k:05d}.{ending(data)}" if names else f"{row:08d}.{ending(data)}")
        (tmp / places[-1]).write_bytes(data)
    _soft_labels(faces, rows, places, names, tmp)


def _rec(faces: Outgoing, tmp: Path) -> None:
    rows, _ = _in_order(faces)
    write_rec(tmp, faces.files(rows), faces.identity[rows], faces.size)
    _soft_labels(faces, rows, range(1, len(rows) + 1), range(len(faces.names)), tmp)


def _soft_labels(faces: Outgoing, rows: np.ndarray, places: Sequence[object], names: Sequence[object], tmp: Path) -> None:
    """soft_labels.csv, for a set that has them: where the image is, its two labels and the share of the first."""
    if not faces.mixed:
        return
    second, weight = faces.columns["label2"], faces.columns["weight"]
    lines = [f"{place},{names[faces.identity[row]]},{names[second[row]]},{weight[row]:.6g}\n" for place, row in zip(places, rows)]
    (tmp / "soft_labels.csv").write_text("image,label,label2,weight\n" + "".join(lines), "utf-8")


def _webdataset(faces: Outgoing, tmp: Path) -> None:
    """In the order of the set; .json holds the name of the identity and the columns."""
    rows = np.arange(len(faces.identity))
    files = faces.files(rows)
    for first in range(0, len(rows), TAR_ROWS):
        with tarfile.open(tmp / f"{first // TAR_ROWS:05d}.tar", "w") as tar:
            for row in rows[first : first + TAR_ROWS]:
                label, data = int(faces.identity[row]), next(files)
                columns = {name: values[row].item() for name, values in faces.columns.items()}
                about = {"identity": label, "name": faces.names[label], **columns}
                for suffix, content in ((ending(data), data), ("cls", str(label).encode()), ("json", json.dumps(about).encode())):
                    member = tarfile.TarInfo(f"{row:08d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def _parquet(faces: Outgoing, tmp: Path) -> None:
    """In the order of the set, a row group at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {name: pa.array(values).type for name, values in faces.columns.items()}
    schema = pa.schema([("image", image), ("label", pa.string()), *columns.items()])
    rows = np.arange(len(faces.identity))
    files = faces.files(rows)
    with pq.ParquetWriter(tmp / "data.parquet", schema, compression="none") as writer:  # the images are compressed already
        for first in range(0, len(rows), GROUP_ROWS):
            some = rows[first : first + GROUP_ROWS]
            images = [{"bytes": data, "path": f"{row:08d}.{ending(data)}"} for row, data in zip(some, files)]
            kept = {name: pa.array(values[some]) for name, values in faces.columns.items()}
            names = [faces.names[label] for label in faces.identity[some]]
            writer.write_table(pa.table({"image": pa.array(images, image), "label": names, **kept}, schema))


def _lmdb(faces: Outgoing, tmp: Path) -> None:
    """Keys are numbers of images, values msgpack of (file of the image, number of the identity)."""
    try:
        import lmdb
        import msgpack
    except ImportError as error:
        raise UserError(f"LMDB needs {error.name}; run `{console.install('lmdb')}`") from None
    rows = np.arange(len(faces.identity))
    keys, files = [str(row).encode() for row in rows], faces.files(rows)
    with lmdb.open(str(tmp), map_size=2**40, subdir=True) as store:
        for first in range(0, len(rows), GROUP_ROWS):
            with store.begin(write=True) as transaction:
                for row in rows[first : first + GROUP_ROWS]:
                    transaction.put(keys[row], msgpack.packb((next(files), int(faces.identity[row]))))
        with store.begin(write=True) as transaction:
            transaction.put(b"__keys__", msgpack.packb(keys))
            transaction.put(b"__len__", msgpack.packb(len(keys)))
    (tmp / "lock.mdb").unlink(missing_ok=True)
