"""Parquet and folders of it, Hugging Face's too, and Arrow: a column of images, and one that says who is on them."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from synthbench.data import columns, parquetpages, walk
from synthbench.data.arrow import ArrowFile, arrow_files
from synthbench.data.labelled import Source, by_name, in_split
from synthbench.data.pixels import Damaged
from synthbench.store import parse_json
from synthbench.types import UserError

IMAGES = ("image", "img", "jpg", "png", "images")
BATCH = 128  # rows of encoded images held at a time


def parquet_files(path: Path) -> list[Path]:
    """`path` itself, else the files on top of it, else in data/, else anywhere below (default/train/0000.parquet)."""
    if path.is_file():
        return [path]
    patterns = ("*.parquet", "data/*.parquet", "**/*.parquet")
    return next((found for pattern in patterns if (found := sorted(file for file in path.glob(pattern) if file.is_file()))), [])


def read_arrow(path: Path, reading: Mapping[str, str] | None = None) -> Source:
    """What `save_to_disk` wrote; as read_parquet."""
    return read_parquet(path, reading, "arrow")


def read_parquet(path: Path, reading: Mapping[str, str] | None = None, kind: str = "parquet") -> Source:
    """Image as struct {bytes, path} or binary, identity as whole number or text; `reading` may name `column` and `split`.

    Class names come from the metadata that Hugging Face `datasets` writes. Rows of label -1, which marks a split without labels there, are
    left out unless no row has another.
    """
    wishes = reading or {}
    every = arrow_files(path) if kind == "arrow" else parquet_files(path)
    if not every:
        raise UserError(f"{path}: no .{kind} files")
    files, read, doubts = in_split(path, every, wishes.get("split"))
    opened = [_open(file) for file in files]
    images = [_image_column(file.schema_arrow, place) for file, place in zip(opened, files)]
    tables = _candidates(opened, files, images, wishes.get("column"))
    rows = sum(sum(_sizes(file)) for file in opened)
    distinct = {name: _distinct(table) for name, table in tables.items()}
    column, more = columns.choose(distinct, rows, wishes.get("column"), str(path))
    chosen = {"split": wishes["split"]} if "split" in wishes else {}
    if column != _unasked(distinct, rows):
        chosen["column"] = column
    labels = _plain(tables.pop(column), column, files)
    if "label2" in opened[0].schema_arrow.names:
        doubts.append("the soft labels (columns label2, weight) are not read; an image of two people counts as the first")
    kept = np.arange(len(labels))
    if labels.dtype.kind in "iuf" and len(labels) and labels.min() == -1:
        kept = np.flatnonzero(labels != -1)
        if len(kept):
            doubts.append(f"{len(labels) - len(kept):,} rows of label -1, which means none, are left out")
            chosen["unlabelled"] = "left out"
    stored = _Images(opened, files, images, path)
    if not len(kept):  # nobody has a label
        return Source(path, kind, np.full(len(labels), -1), [], stored.encoded, stored.where, stored.ordered, tuple(read))
    dense, names = by_name(labels[kept])
    if classes := _class_names(opened, files, column):
        names = [walk.readable(classes[int(name)]) if name.isdecimal() and int(name) < len(classes) else name for name in names]
    return Source(
        path,
        kind,
        dense,
        names,
        lambda row: stored.encoded(int(kept[row])),
        lambda row: stored.where(int(kept[row])),
        lambda some: stored.ordered(kept[some]),
        (f"column {column}", *read),
        (*more, *doubts),
        chosen,
    )


def _unasked(distinct: Mapping[str, int], rows: int) -> str:
    """The column that is read without a wish, where it is that of earlier versions too; else none."""
    usual = next((name for name in columns.EARLIER if name in distinct), "")
    try:
        return usual if columns.choose(distinct, rows, None, "")[0] == usual else ""
    except UserError:
        return ""


def _open(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = ArrowFile(path) if path.suffix == ".arrow" else pq.ParquetFile(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{path}: not a whole {_form(path)} file ({error})") from None
    names = file.schema_arrow.names
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{path}: two columns are called {twice[0]!r}; which of them is meant cannot be told")
    if not isinstance(file, ArrowFile):
        _refuse_bomb(path, file.metadata)
    return file


def _refuse_bomb(path: Path, about: Any) -> None:
    size = path.stat().st_size
    unpacked = sum(about.row_group(group).total_byte_size for group in range(about.num_row_groups))
    if not 0 <= about.num_rows <= parquetpages.MOST * size or not 0 <= unpacked <= parquetpages.most(path):
        raise UserError(
            f"{path}: {size:,} bytes that say they hold {about.num_rows:,} rows and {unpacked:,} bytes; images hardly shrink, so that "
            "this is no set of images, or a damaged one"
        )


def _refuse_pages(path: Path, file: Any, names: Sequence[str], group: int | None = None) -> None:
    """Raises UserError where the pages of a row group, or of any, claim more than the file may hold; an Arrow file has none."""
    if not isinstance(file, ArrowFile):
        for number in range(file.num_row_groups) if group is None else [group]:
            parquetpages.require_modest(path, file.metadata.row_group(number), names, parquetpages.most(path))


def _form(path: Path) -> str:
    return "Arrow" if path.suffix == ".arrow" else "Parquet"


def _sizes(file: Any) -> list[int]:
    """Rows of each row group, or record batch."""
    if isinstance(file, ArrowFile):
        return file.sizes
    return [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]


def _image_column(schema: Any, path: Path) -> str:
    import pyarrow.types as types

    def binary(kind: Any) -> bool:
        return types.is_binary(kind) or types.is_large_binary(kind)

    def holds_images(kind: Any) -> bool:
        listed = (types.is_list(kind) or types.is_large_list(kind)) and types.is_uint8(kind.value_type)
        return listed or binary(kind) or (types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and binary(kind.field("bytes").type))

    def text(kind: Any) -> bool:
        return types.is_string(kind) or types.is_large_string(kind)

    images = sorted((f.name for f in schema if holds_images(f.type)), key=lambda n: IMAGES.index(n) if n in IMAGES else len(IMAGES))
    images = images or [field.name for field in schema if field.name in IMAGES and text(field.type)]  # base64
    if not images:
        told = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise UserError(f"{path}: needs a column with files of images (binary, struct with bytes, or base64 called image); it has {told}")
    return str(images[0])


def _value(kind: Any) -> Any:
    import pyarrow.types as types

    return kind.value_type if types.is_dictionary(kind) else kind


def _candidates(opened: Sequence[Any], files: Sequence[Path], images: Sequence[str], wish: str | None) -> dict[str, list[Any]]:
    """The columns that may hold identities, each as one chunked array per file: whole numbers and text, and what is named like them."""
    import pyarrow as pa
    import pyarrow.types as types

    schema = opened[0].schema_arrow
    names = []
    for name in schema.names:
        kind = _value(schema.field(name).type)
        if name != images[0] and (types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind) or _named(name, wish)):
            names.append(name)
    if not names:
        raise UserError(f"{files[0]}: no column says who is on an image; it has {', '.join(schema.names)}")
    found: dict[str, list[Any]] = {name: [] for name in names}
    for file, path in zip(opened, files):
        if missing := [name for name in names if name not in file.schema_arrow.names]:
            names = [name for name in names if name not in missing]
            if not names:
                raise UserError(f"{path}: it has none of the columns {', '.join(missing)} of {files[0].name}")
        try:
            _refuse_pages(path, file, names)
            table = file.read(names)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{path}: not a whole {_form(path)} file ({error})") from None
        for name in names:
            found[name].append(table.column(name))
    return {name: found[name] for name in names}


def _named(name: str, wish: str | None) -> bool:
    return name == wish or columns.rank(name) < len(columns.NAMES)


def _distinct(chunks: Sequence[Any]) -> int:
    """How many values they have together; 0 for what has no order, such as lists."""
    import pyarrow as pa

    try:
        parts = [chunk.unique() for chunk in chunks]
        if len({part.type for part in parts}) > 1:
            parts = [part.cast(pa.string()) for part in parts]
        return len(pa.chunked_array(parts).unique())
    except (pa.ArrowException, TypeError):
        return 0


def _plain(chunks: Sequence[Any], name: str, files: Sequence[Path]) -> np.ndarray:
    """(N,) the values of a column. Raises UserError for one that names no identities."""
    import pyarrow as pa
    import pyarrow.types as types

    found = []
    for values, path in zip(chunks, files):
        if values.null_count:
            raise UserError(f"{path}: column {name!r} has {values.null_count} empty labels")
        kind = _value(values.type)
        whole = types.is_integer(kind) or (types.is_floating(kind) and all(number.is_integer() for number in values.to_pylist()))
        if not (whole or types.is_string(kind) or types.is_large_string(kind)):
            raise UserError(f"{path}: column {name!r} holds {kind}; an identity is a whole number or text")
        try:
            found.append(values.to_numpy())
        except pa.ArrowException as error:  # text that is none
            raise UserError(f"{path}: column {name!r} cannot be read ({str(error)[:100]!r})") from None
    if len({values.dtype.kind for values in found}) > 1:
        found = [values.astype(str) for values in found]
    return np.concatenate(found)


def _class_names(opened: Sequence[Any], files: Sequence[Path], column: str) -> list[str]:
    """The names of the labels, of Hugging Face's ClassLabel; empty where there are none. Raises UserError where files differ in them."""
    found: dict[str, list[str]] = {}
    for file, path in zip(opened, files):
        try:
            features = parse_json((file.schema_arrow.metadata or {})[b"huggingface"].decode("utf-8"))["info"]["features"]
            names = features[column]["names"]
        except (KeyError, TypeError, ValueError):
            names = []
        found[str(path)] = names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []
    first, *others = found.items()
    if other := next((item for item in others if item[1] != first[1]), None):
        raise UserError(
            f"the labels of column {column!r} stand for other people in {other[0]} than in {first[0]}; read one of them, --split NAME"
        )
    return first[1] if len(set(first[1])) == len(first[1]) else []


class _Images:
    """The encoded images of all files, row after row: at most one batch is held."""

    def __init__(self, opened: Sequence[Any], files: Sequence[Path], columns: Sequence[str], path: Path) -> None:
        self.opened, self.files, self.columns, self.path = opened, files, columns, path
        sizes = [_sizes(file) for file in opened]
        self.groups = [(number, group) for number, own in enumerate(sizes) for group in range(len(own))]
        self.starts = np.concatenate([[0], np.cumsum([size for own in sizes for size in own])]).astype(
            np.int64
        )  # the first row of each group
        counts = [sum(own) for own in sizes]
        self.begins = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)  # of each file
        self.group, self.first = -1, 0  # what is held: a batch of a group, from row `first`
        self.batch: Any = None
        self.rest: Iterator[Any] = iter(())

    def where(self, row: int) -> str:
        file = int(np.searchsorted(self.begins, row, "right")) - 1
        return f"{self.files[file]}, row {row - self.begins[file]}"

    def encoded(self, row: int) -> bytes:
        """Going on from row to row is quick; going back begins the row group anew."""
        import pyarrow as pa

        group = int(np.searchsorted(self.starts, row, "right")) - 1
        number, own = self.groups[group]
        try:
            if group != self.group or row < self.first:
                column = self.columns[number]
                _refuse_pages(self.files[number], self.opened[number], [column], own)
                self.rest = self.opened[number].iter_batches(BATCH, row_groups=[own], columns=[column], use_threads=False)
                self.group, self.first, self.batch = group, int(self.starts[group]), next(self.rest)
            while row >= self.first + len(self.batch):
                self.first += len(self.batch)
                self.batch = next(self.rest)
        except (OSError, pa.ArrowException, StopIteration) as error:
            self.group = -1
            raise UserError(f"{self.where(row)}: cannot be read ({error or 'the row group is shorter than it says'})") from None
        value = self.batch.column(0)[row - self.first].as_py()
        value = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(value, str):
            try:
                value = base64.b64decode(value.partition(";base64,")[2] or value, validate=True)
            except ValueError:
                raise Damaged(
                    f"{self.where(row)}: {value[:40]!r} is no image in base64. Files that only name a path are not read; embed the images"
                ) from None
        if not value:
            raise Damaged(f"{self.where(row)}: no image bytes. Files that only name a path are not read; embed the images")
        return bytes(value)

    def ordered(self, rows: np.ndarray) -> Iterator[bytes]:
        """The bytes of `rows`. In the order of the files they are read as they come; else through a temporary file, each group once."""
        if (np.diff(rows) > 0).all():
            yield from (self.encoded(int(row)) for row in rows)
            return
        places: dict[int, tuple[int, int]] = {}
        try:
            with tempfile.TemporaryFile() as file:
                for row in np.unique(rows):
                    data = self.encoded(int(row))
                    places[int(row)] = (file.tell(), len(data))
                    file.write(data)
                for row in rows:
                    start, size = places[int(row)]
                    file.seek(start)
                    yield file.read(size)
        except OSError as error:
            raise UserError(
                f"{self.path}: its images are not in the order of people and are put into order in {tempfile.gettempdir()}, which cannot "
                f"be written ({error.strerror}). Set TMPDIR to a folder with room for all of them"
            ) from None
