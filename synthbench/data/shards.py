"""Generated and imported faces on disk: Parquet shards that pandas, DuckDB and Hugging Face `datasets` open as they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synthbench.data import pixels
from synthbench.store import is_name, is_texts, read_json, write_json, writing
from synthbench.types import FaceBatch, UserError

INDEX = "index.json"  # written last: rows, shards, names; without it the set is unfinished
ROW_GROUP = 500  # rows; what a reader must hold to look at one image


class ShardWriter:
    """Writes FaceBatches, in order, as `part-00000.parquet`, ... of `rows_per_shard` rows in `folder`.

    Columns: `image` struct {bytes: PNG, path}, `label` int64, and the columns of the batches. A shard gets its name when it is whole, so
    after a crash a new writer on the same folder finds `done` rows and goes on after them: the caller leaves out its first `done` images.
    afresh: without what is there.
    """

    def __init__(self, folder: Path | str, rows_per_shard: int = 10_000, afresh: bool = False) -> None:
        self.folder = Path(folder)
        self.rows_per_shard = rows_per_shard
        with _disk(self.folder, 0):
            if afresh:
                shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob("part-*.tmp"):
                leftover.unlink()
        self.shards: list[Path] = []
        self.done = 0  # rows in whole shards
        for path in sorted(self.folder.glob("part-*.parquet")):
            rows = _rows(path) if path == self._path(len(self.shards)) else None
            if rows is None:  # damaged, or after a gap: made again
                path.unlink()
            else:
                self.shards.append(path)
                self.done += rows
        self._images: list[np.ndarray] = []
        self._table: dict[str, list[np.ndarray]] = {}

    @property
    def written(self) -> int:
        """Rows handed over so far, those still in memory included."""
        return self.done + len(self._images)

    @property
    def finished(self) -> bool:
        index = read_json(self.folder / INDEX)
        return isinstance(index, dict) and index.get("rows") == self.done

    def write(self, batch: FaceBatch) -> None:
        columns = {"label": batch.identity, **batch.columns}
        if "image" in batch.columns or "label" in batch.columns:
            raise ValueError("a column may not be called image or label")
        if self._table and set(columns) != set(self._table):
            raise ValueError(f"every batch must have the same columns: {sorted(columns)} after {sorted(self._table)}")
        self._images.extend(batch.images.cpu().permute(0, 2, 3, 1).contiguous().numpy())
        for name, values in columns.items():
            self._table.setdefault(name, []).extend(values.cpu().numpy())
        while len(self._images) >= self.rows_per_shard:
            self._flush(self.rows_per_shard)

    def finish(self, names: Sequence[str] | Mapping[int, str] | None = None) -> None:
        """Write what is left and the index. `names[label]` is the name of an identity in its source; default: the label."""
        if self._images:
            self._flush(len(self._images))
        known = {str(label): str(name) for label, name in names.items()} if isinstance(names, Mapping) else names and list(names)
        with _disk(self.folder, self.done):
            shards = [{"name": path.name, "rows": _rows(path)} for path in self.shards]
            write_json(self.folder / INDEX, {"rows": self.done, "shards": shards, "names": known})

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}.parquet"

    def _flush(self, count: int) -> None:
        path = self._path(len(self.shards))
        encoded = list(pixels.in_threads(pixels.encode, self._images[:count]))
        table = {name: np.stack(values[:count]) for name, values in self._table.items()}
        paths = [f"{label:07d}/{self.done + row:08d}.png" for row, label in enumerate(table["label"])]
        data = pa.table({"image": pa.array([{"bytes": b, "path": p} for b, p in zip(encoded, paths)], IMAGE), **table})
        with _disk(self.folder, self.done), writing(path) as tmp:
            (self.folder / INDEX).unlink(missing_ok=True)
            pq.write_table(
                data.replace_schema_metadata(_features(data.schema)),
                tmp,
                row_group_size=ROW_GROUP,
                compression="none",  # PNG is compressed
                use_dictionary=False,
                write_statistics=list(table),
            )
        self.shards.append(path)
        self.done += count
        del self._images[:count]
        for values in self._table.values():
            del values[:count]


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def read_shards(folder: Path | str, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a finished set, one row group at a time."""
    for shard in index(folder)["shards"]:
        path = Path(folder) / shard["name"]
        try:
            yield from pq.ParquetFile(path).iter_batches(batch_size=ROW_GROUP, columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise damaged(path, error) from None


def damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: cannot be read ({error}). Delete it, and run the command that made the set again")


def index(folder: Path | str) -> dict[str, Any]:
    """The index of a set written by ShardWriter. Raises UserError when there is none, or it was never finished."""
    found = read_json(Path(folder) / INDEX)
    if isinstance(found, dict) and isinstance(found.get("shards"), list):
        if not all(isinstance(shard, dict) and is_name(shard.get("name")) for shard in found["shards"]):
            raise UserError(f"{Path(folder) / INDEX} names shards that are not beside it. Delete the folder and make the set again")
        names = found.get("names")
        if not (names is None or is_texts(list(names.values()) if isinstance(names, dict) else names)):
            raise UserError(f"{Path(folder) / INDEX}: its names are none. Delete the folder and make the set again")
        found["names"] = names
        return found
    if any(Path(folder).glob("part-*.parquet")):
        raise UserError(
            f"{folder}: this set was never finished, or {INDEX} is damaged. Run the command that makes it again, and it goes on where it "
            "stopped; should it stop here once more, delete the folder"
        )
    raise UserError(f"{folder}: no faces here (looked for {INDEX} and part-00000.parquet)")


@contextmanager
def _disk(folder: Path, rows: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror or error}). {rows} images are safe there; make room or give another folder, "
            "and the same command goes on after them"
        ) from None


def _rows(path: Path) -> int | None:
    try:
        return pq.read_metadata(path).num_rows
    except (OSError, pa.ArrowException):
        return None


def _features(schema: pa.Schema) -> dict[str, str]:
    """What Hugging Face `datasets` wants to read to show `image` as an image."""
    features: dict[str, Any] = {field.name: {"dtype": str(field.type), "_type": "Value"} for field in schema}
    for name, kind in {"float": "float32", "double": "float64"}.items():
        for feature in features.values():
            feature["dtype"] = kind if feature["dtype"] == name else feature["dtype"]
    features["image"] = {"_type": "Image"}
    return {"huggingface": json.dumps({"info": {"features": features}})}
