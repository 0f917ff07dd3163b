"""Arrow folders as `save_to_disk` of Hugging Face writes them: data-*.arrow beside state.json, perhaps a folder for each split.

Only where the rows lie is here; which column is what is read as in Parquet, of which an ArrowFile has the few methods that are needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from synthbench.data import arrowpages, walk
from synthbench.store import is_name, read_json
from synthbench.types import UserError

END = b"\xff\xff\xff\xff\0\0\0\0"  # of a stream; pyarrow takes one that was cut between two batches for a whole one
OTHERS = ("cache-", "indices", "tmp")  # how the names of files begin that lie among those of a set: results of `map`, selections of rows


def arrow_files(path: Path) -> list[Path]:
    """The files with rows at or below `path`, in the order of the rows. Raises UserError where state.json names others than there are."""
    if path.is_file():
        return [path]
    names = [Path(name) for name in walk.files(path)]
    places = {name.parent for name in names if name.name == "state.json" or name.suffix == ".arrow"}
    return [file for place in sorted(places) for file in _in_folder(path / place)]


def _in_folder(folder: Path) -> list[Path]:
    state = read_json(folder / "state.json")
    if not isinstance(state, dict) or not isinstance(state.get("_data_files"), list):
        return sorted(file for file in folder.glob("*.arrow") if file.is_file() and not file.name.startswith(OTHERS))
    if state.get("_indices_data_files"):
        raise UserError(
            f"{folder}: a selection of rows (indices) of another set; save it anew, `dataset.flatten_indices().save_to_disk(...)`"
        )
    names = [str(item.get("filename")) if isinstance(item, dict) else "" for item in state["_data_files"]]
    if odd := [name for name in names if not (is_name(name) and (folder / name).is_file())]:
        raise UserError(f"{folder}: state.json names {odd[0]!r}, which is not there. Fetch the folder again")
    return [folder / name for name in names]


class ArrowFile:
    """Rows in record batches: a stream of them, or a file with a table of them at its end. Mapped; one batch is looked at at a time."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self.path = path
        with walk.opened(path) as file:
            self._table = file.read(6) == b"ARROW1"
            file.seek(max(0, path.stat().st_size - len(END)))
            if not self._table and file.read() != END:
                raise pa.ArrowInvalid("it ends before its end mark")
        arrowpages.require_modest(path)
        self.schema_arrow = self._reader().schema
        self.sizes = [batch.num_rows for batch in self._every(self._reader([0]))]
        self._cursor: tuple[str, int, Any] = ("", 0, None)  # column, number of the batch that comes next, reader of a stream
        about = read_json(path.parent / "dataset_info.json")
        if b"huggingface" not in (self.schema_arrow.metadata or {}) and isinstance(about, dict):
            self.schema_arrow = self.schema_arrow.with_metadata({"huggingface": json.dumps({"info": about})})

    def _reader(self, fields: Sequence[int] = ()) -> Any:
        """Of the columns `fields` alone; of none: of all."""
        import pyarrow as pa

        options = pa.ipc.IpcReadOptions(included_fields=list(fields), use_threads=False)
        return (pa.ipc.open_file if self._table else pa.ipc.open_stream)(pa.memory_map(str(self.path)), options=options)

    def _every(self, reader: Any) -> Iterator[Any]:
        return (reader.get_batch(number) for number in range(reader.num_record_batches)) if self._table else iter(reader)

    def read(self, columns: Sequence[str]) -> Any:
        """A table of some columns."""
        import pyarrow as pa

        reader = self._reader(sorted(self.schema_arrow.names.index(name) for name in columns))
        return pa.Table.from_batches([_checked(batch) for batch in self._every(reader)], None if self.sizes else reader.schema)

    def iter_batches(self, size: int, row_groups: Sequence[int], columns: Sequence[str], use_threads: bool = False) -> Iterator[Any]:
        """Batches of at most `size` rows of a column, of one record batch. Going on from record batch to record batch is quick."""
        (number,), (column,) = row_groups, columns
        if self._table:
            batch = self._reader([self.schema_arrow.names.index(column)]).get_batch(number)
        else:
            held, ahead, reader = self._cursor
            if held != column or ahead > number:
                ahead, reader = 0, self._reader([self.schema_arrow.names.index(column)])
            for _ in range(number + 1 - ahead):
                batch = reader.read_next_batch()
            self._cursor = (column, number + 1, reader)
        _checked(batch)
        yield from (batch.slice(first, size) for first in range(0, batch.num_rows, size))


def _checked(batch: Any) -> Any:
    """Raises ArrowInvalid where offsets of a hostile file lead to where there is nothing."""
    batch.validate(full=True)
    return batch
