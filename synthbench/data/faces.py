"""Labelled faces as one uint8 memory map: cheap to open, quick to gather from, shared by every process that opens it."""

from __future__ import annotations

import functools
import hashlib
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synthbench import console
from synthbench.config import did_you_mean
from synthbench.data import damage, pixels
from synthbench.data.labelled import Source
from synthbench.data.readers import read_registered, read_source, source_digest
from synthbench.data.shards import ShardWriter, damaged, index, read_shards
from synthbench.store import is_texts, read_json, write_json, writing
from synthbench.system import locked
from synthbench.types import FaceBatch, Groups, Progress, UserError

__all__ = ["FaceSet", "ShardWriter", "import_faces", "open_faces", "read_source", "source_digest"]

CHUNK = 512  # images decoded, hashed or written at a time


class FaceSet:
    """Faces of one size with an identity each.

    identity: (N,) int64, dense 0..identities-1 in the order of the source's labels; all -1 when the faces are unlabelled (pair sets).
    columns: per image, each (N,): sample, m, similarity, real, ...; label2 is an identity too and made dense like `identity`
    names: of each identity in the source ("07201"), or its label as text.
    known: what is known of who is shown, groups (N,) by attribute; of rendered sets, and only where the pipeline opened them.
        `know` finds it out when it is asked for.
    digest: SHA-256 over size, identities (soft labels too, where there are) and pixels, in order; the same for the same faces however
        they are stored.
    """

    def __init__(
        self, images: np.ndarray, identity: np.ndarray, names: Sequence[str], columns: Mapping[str, np.ndarray], digest: str
    ) -> None:
        self._images = images  # (N, R, R, 3) uint8 RGB
        self.identity = identity
        self.names = list(names)
        self.columns = dict(columns)
        self.know: Callable[[], Mapping[str, Groups]] = dict
        self.resolution = int(images.shape[1])
        self.digest = digest

    def __len__(self) -> int:
        return len(self.identity)

    def __repr__(self) -> str:
        columns = f"; columns {', '.join(self.columns)}" if self.columns else ""
        return f"<faces: {len(self):,} images of {self.identities:,} identities, {self.resolution} px{columns}>"

    @functools.cached_property
    def known(self) -> Mapping[str, Groups]:
        return self.know()

    @property
    def identities(self) -> int:
        return len(self.names)

    @property
    def mixed(self) -> bool:
        """Has soft labels: an image is of `identity` to the share of column `weight`, and for the rest of `label2`."""
        return "label2" in self.columns

    @property
    def whole(self) -> np.ndarray:
        """(N,) bool: the images that show one identity, which is what statistics of classes are made of."""
        return self.columns["weight"] >= 1 if self.mixed else np.ones(len(self), bool)

    @property
    def made(self) -> np.ndarray:
        """(N,) bool: what a generator made: no photograph of a real person (column `real` 1), no copy of an inquiry (`sample` below 0)."""
        none = np.zeros(len(self))
        return (self.columns.get("real", none) <= 0) & (self.columns.get("sample", none) >= 0)

    def shown(self, identity: int) -> np.ndarray:
        """Rows of the images made of an identity, without copies and mixtures; all of them when there is nothing else."""
        own = np.flatnonzero(self.identity == identity)
        for good in (self.whole, self.made):
            own = own[good[own]] if good[own].any() else own
        return own

    def images(self, rows: slice | Sequence[int] | np.ndarray | torch.Tensor) -> torch.Tensor:
        """(B, 3, R, R) uint8 RGB of `rows` (slice, indices or mask), a copy; memory is NHWC, which is what channels_last means."""
        if isinstance(rows, slice):
            found = np.array(self._images[rows])
        else:
            chosen = np.asarray(rows)
            chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
            found = np.asarray(self._images).take(chosen, axis=0)
        return torch.from_numpy(found).permute(0, 3, 1, 2)

    @classmethod
    def from_arrays(
        cls,
        images: torch.Tensor | np.ndarray,
        identity: Sequence[int] | np.ndarray | torch.Tensor,
        names: Sequence[str] | None = None,
        columns: Mapping[str, Any] | None = None,
    ) -> FaceSet:
        """In memory, from (N, 3, R, R) or (N, R, R, 3) uint8; `names[label]` as in ShardWriter.finish."""
        array = np.asarray(images)
        if array.dtype != np.uint8 or array.ndim != 4:
            raise ValueError(f"images must be (N, 3, R, R) or (N, R, R, 3) uint8, not {array.shape} {array.dtype}")
        if array.shape[3] != 3:
            array = array.transpose(0, 2, 3, 1)
        array = np.ascontiguousarray(array)
        labels = np.asarray(identity, dtype=np.int64)
        dense, found = _dense(labels, names)
        table = _soft({name: np.asarray(values) for name, values in (columns or {}).items()}, labels, "the set")
        digest = _digest(dense, array.shape[1], table)
        digest.update(array.data)
        return cls(array, dense, found, table, digest.hexdigest())


def _dense(labels: np.ndarray, names: Sequence[str] | Mapping[str, str] | None) -> tuple[np.ndarray, list[str]]:
    """Labels as 0..n-1, and the name of each. Negative labels mean none: they stay."""
    if len(labels) and labels.max() < 0:
        return labels, []
    values, dense = np.unique(labels, return_inverse=True)
    if isinstance(names, Mapping):
        return dense.astype(np.int64), [str(names.get(str(value), value)) for value in values]
    known = len(names) if names is not None else 0
    return dense.astype(np.int64), [str(names[value]) if 0 <= value < known else str(value) for value in values]  # type: ignore[index]


def _soft(columns: dict[str, np.ndarray], labels: np.ndarray, what: str) -> dict[str, np.ndarray]:
    """`columns` with label2 as 0..n-1 like `labels` (N,). Raises UserError when it names an identity that has no image of its own."""
    if not {"label2", "weight"} & columns.keys():
        return columns
    if not {"label2", "weight"} <= columns.keys():
        raise UserError(f"{what}: a soft label has two columns, label2 and weight; one of them is missing")
    values, second = np.unique(labels), columns["label2"].astype(np.int64)
    place = np.searchsorted(values, second).clip(max=len(values) - 1)
    if (wrong := second[values[place] != second]).size:
        raise UserError(f"{what}: label2 names identity {wrong[0]}, of which the set has no image")
    return {**columns, "label2": place.astype(np.int64)}


def _digest(identity: np.ndarray, resolution: int, columns: Mapping[str, np.ndarray]) -> Any:
    start = hashlib.sha256(f"faces {len(identity)} {resolution}\n".encode())
    start.update(identity.astype("<i8").tobytes())
    if "label2" in columns:
        start.update(columns["label2"].astype("<i8").tobytes() + columns["weight"].astype("<f4").tobytes())
    return start


def open_faces(folder: Path | str, progress: Progress = lambda done, total: None) -> FaceSet:
    """The faces in a folder of finished shards. The first call packs them into `packed.u8`; the next ones only map it.

    Raises UserError when the set is unfinished, empty, damaged or of mixed size, or the disk is full.
    """
    folder = Path(folder)
    shards = [[shard["name"], *_stamp(folder / shard["name"])] for shard in index(folder)["shards"]]
    info = read_json(folder / "packed.json")
    if not _fresh(info, shards, folder):
        with locked(folder / "packed.lock"):  # of two processes one packs, the other waits and finds it done
            info = read_json(folder / "packed.json")
            if not _fresh(info, shards, folder):
                for leftover in folder.glob("packed.*.tmp"):
                    leftover.unlink()
                info = _pack(folder, shards, progress)
    shape = (info["count"], info["resolution"], info["resolution"], 3)
    try:
        with np.load(folder / "packed.npz", allow_pickle=False) as table:
            columns = {name: table[name] for name in table.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise damaged(folder / "packed.npz", error) from None
    wrong = [name for name, values in columns.items() if values.shape != (info["count"],) or values.dtype.kind not in "iufb"]
    identity = columns.get("identity", np.empty(0))
    if wrong or len(identity) != info["count"] or not (identity < max(1, len(info["names"]))).all() or identity.dtype.kind != "i":
        raise damaged(folder / "packed.npz", ValueError(f"its columns are not those of {info['count']} images"))
    return FaceSet(
        np.memmap(folder / "packed.u8", np.uint8, "r", shape=shape), columns.pop("identity"), info["names"], columns, info["digest"]
    )


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except FileNotFoundError:
        raise UserError(f"{path} is missing; the index of that folder lists it. Delete the folder and make the set again") from None
    return stat.st_size, stat.st_mtime_ns


def _fresh(info: Any, shards: list, folder: Path) -> bool:
    if not isinstance(info, dict) or info.get("shards") != shards:
        return False
    if not all(type(info.get(name)) is int and 0 < info[name] < 2**40 for name in ("count", "resolution")):
        return False
    if not (isinstance(info.get("digest"), str) and is_texts(info.get("names"))):
        return False
    packed = folder / "packed.u8"
    return packed.is_file() and packed.stat().st_size == info["count"] * info["resolution"] ** 2 * 3 and (folder / "packed.npz").is_file()


def _pack(folder: Path, shards: list, progress: Progress) -> dict[str, Any]:
    listing = index(folder)
    columns: dict[str, list[np.ndarray]] = {}
    for batch in read_shards(folder, _columns(folder)):
        for name, values in zip(batch.schema.names, batch.columns):
            columns.setdefault(name, []).append(values.to_numpy(zero_copy_only=False))
    table = {name: np.concatenate(values) for name, values in columns.items()}
    if not table or not len(table["label"]):
        raise UserError(f"{folder}: the set is empty")
    labels = table.pop("label").astype(np.int64)
    identity, names = _dense(labels, listing["names"])
    table = _soft(table, labels, str(folder))

    def decoded() -> Iterable[np.ndarray]:
        cells = ((cell, row) for row, cell in enumerate(c for batch in read_shards(folder, ["image"]) for c in batch.column("image")))
        return pixels.in_threads(lambda item: pixels.decode(item[0]["bytes"].as_py(), f"{folder}, row {item[1]}"), cells, CHUNK)

    images = iter(decoded())
    resolution, digest = 0, None
    try:
        with writing(folder / "packed.u8") as tmp:
            with open(tmp, "wb") as file:
                done = 0
                while chunk := list(islice(images, CHUNK)):
                    resolution = resolution or chunk[0].shape[0]
                    odd = next((row for row, image in enumerate(chunk) if image.shape != (resolution, resolution, 3)), None)
                    if odd is not None:
                        raise UserError(
                            f"{folder}, row {done + odd}: {chunk[odd].shape[:2]} pixels where row 0 has {resolution, resolution}"
                        )
                    digest = digest or _digest(identity, resolution, table)
                    block = np.stack(chunk)
                    digest.update(block.data)
                    file.write(block)  # type: ignore[arg-type]
                    done += len(chunk)
                    progress(done, len(identity))
            with writing(folder / "packed.npz") as table_tmp, open(table_tmp, "wb") as file:
                np.savez(file, identity=identity, **table)  # type: ignore[arg-type]
        info = {"count": len(identity), "resolution": resolution, "digest": digest.hexdigest(), "names": names, "shards": shards}  # type: ignore[union-attr]
        write_json(folder / "packed.json", info)
    except OSError as error:
        size = len(identity) * resolution**2 * 3 / 1e9
        raise UserError(f"{folder}: cannot pack {len(identity)} images, {size:.1f} GB ({error.strerror or error}). Make room") from None
    return info


def _columns(folder: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = index(folder)["shards"]
    if not first:
        return []
    path = folder / first[0]["name"]
    try:
        return [name for name in pq.read_schema(path).names if name != "image"]
    except (OSError, pa.ArrowException) as error:
        raise damaged(path, error) from None


def import_faces(
    path: Path | str,
    folder: Path | str,
    resolution: int,
    exclude: Iterable[str] = (),
    progress: Progress = lambda done, total: None,
    kind: str | None = None,
    rows_per_shard: int = 10_000,
    labelled: bool = True,
    reading: Mapping[str, str] | None = None,
    skip_damaged: bool = False,
) -> FaceSet:
    """Faces of any kind `read_source` knows as shards in `folder`, each `resolution` pixels square; resumes.

    reading: how a registered set is read, as for `read_source`; what is read must be that.
    `exclude` are names of identities to leave out. Images that are not square lose their ends (`pixels.fit`), which is said once, as is
    how many had to be enlarged. `skip_damaged` leaves out what cannot be decoded (`damage.without`); else that raises Damaged.
    Raises UserError for a set that cannot train anything: no image, one image; with `labelled` one identity.
    """
    source = read_source(path, kind, reading) if reading is None else read_registered(Path(path), reading)
    rows = chosen_rows(source, exclude, labelled)
    if skip_damaged:
        rows = enough(source, damage.without(source, rows, Path(folder), progress), labelled)
    plan = {"source": source.kind, "images": len(rows), "resolution": resolution, "labels": _labels_digest(source, rows)}
    writer = ShardWriter(folder, rows_per_shard)
    note = Path(folder) / "import.json"
    before = read_json(note)
    if writer.done and {name: (before or {}).get(name) for name in plan} != plan:
        raise UserError(f"{folder} holds {writer.done} other faces; delete it or give another folder")
    if not (writer.finished and writer.done == len(rows)):
        write_json(note, plan)
        odd = copy_faces(source, rows[writer.done :], resolution, writer, progress, len(rows))
        writer.finish(source.names)
        write_json(note, {**plan, "not_square": odd})
    return open_faces(folder)


def chosen_rows(source: Source, exclude: Iterable[str] = (), labelled: bool = True) -> np.ndarray:
    """The rows of a source, identity by identity, without the identities named in `exclude`; refuses what cannot be trained on.

    labelled: whether labels are needed, and so at least two identities.
    """
    left_out = {str(name) for name in exclude}
    for name in sorted(left_out - set(source.names)):
        raise UserError(f"{source.path}: no identity {name!r} to exclude" + did_you_mean(name, source.names))
    keep = np.array([name not in left_out for name in source.names], bool)
    rows = np.flatnonzero(keep[source.label]) if source.names else np.arange(len(source))
    enough(source, rows, labelled)
    return rows[np.argsort(source.label[rows], kind="stable")]


def enough(source: Source, rows: np.ndarray, labelled: bool = True) -> np.ndarray:
    """`rows`, if something can be made of them: images of at least two identities where they must be `labelled`. Raises UserError."""
    found = len(np.unique(source.label[rows]))
    if len(rows) < 2 or (labelled and found < 2):
        what = "no images" if not len(rows) else "one image" if len(rows) == 1 else f"{len(rows)} images of one identity, all labels equal"
        if len(rows) > 1 and not source.names:
            what = f"{len(rows)} images without labels"
        raise UserError(
            f"{source.path} ({source.kind}): {what}. Faces of at least two identities are needed, each in a folder of its own; others may "
            "be inquiries (enroll.source) and learnt from by generators that need no labels (train.faces)"
        )
    return rows


def copy_faces(source: Source, rows: np.ndarray, resolution: int, writer: ShardWriter, progress: Progress, total: int) -> int:
    """Write `rows` of a source; returns how many were not square."""
    images = read_images(source, rows, resolution)
    odd = small = done = 0
    least = resolution
    while chunk := list(islice(images, CHUNK)):
        labels = source.label[rows[done : done + len(chunk)]]
        writer.write(FaceBatch(torch.from_numpy(np.stack([image for image, _ in chunk])).permute(0, 3, 1, 2), torch.from_numpy(labels)))
        odd += sum(height != width for _, (height, width) in chunk)
        small += sum(min(shape) < resolution for _, shape in chunk)
        least = min(least, *(min(shape) for _, shape in chunk))
        done += len(chunk)
        progress(total - len(rows) + done, total)
    if odd:
        console.warn(f"{source.path}: {odd} of {len(rows)} images are not square; each was cropped at the centre of its longer side")
    if small:
        console.warn(
            f"{source.path}: {small:,} of {len(rows):,} images are smaller than {resolution} px, the smallest {least}: they are enlarged, "
            "which adds no detail. A protocol of a lower `resolution` loses nothing and is faster"
        )
    return odd


def read_images(source: Source, rows: Sequence[int] | np.ndarray, resolution: int) -> Iterable[tuple[np.ndarray, tuple[int, int]]]:
    """((R, R, 3) uint8, height and width that it had) of each row, in order; bytes are read here, decoded on every core."""

    def one(item: tuple[bytes, int]) -> tuple[np.ndarray, tuple[int, int]]:
        image = pixels.decode(item[0], source.where(item[1]))
        return pixels.fit(image, resolution), (image.shape[0], image.shape[1])

    chosen = np.asarray(rows, np.int64)
    return iter(pixels.in_threads(one, zip(source.stream(chosen), chosen.tolist())))


def read_pixels(source: Source, rows: Sequence[int] | np.ndarray, resolution: int) -> torch.Tensor:
    """The images of `rows` as (B, 3, R, R) uint8, as FaceSet.images gives them."""
    return torch.from_numpy(np.stack([image for image, _ in read_images(source, rows, resolution)])).permute(0, 3, 1, 2)


def _labels_digest(source: Source, rows: np.ndarray) -> str:
    text = "\n".join(source.names).encode() + b"\n" + np.ascontiguousarray(source.label[rows], dtype="<i8").tobytes()
    return hashlib.sha256(text).hexdigest()[:16]
