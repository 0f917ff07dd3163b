"""What the pages of a Parquet file say that they unpack to. Its footer says so too, but room is made for what the pages say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from synthbench.data import walk
from synthbench.types import UserError

USUAL, LONGEST = 2**10, 2**24  # bytes of a page's header: the most that pyarrow reads is the latter
EMPTY = 1000  # pages without a value, of which an honest file has one or two
DEEPEST = 20  # structs in one another; a header has three
MOST = 50  # times its size that a file may hold: encoded images hardly shrink, and a row takes a byte at least


def most(path: Path) -> int:
    """Bytes that a file of images may unpack to."""
    return MOST * path.stat().st_size + 2**24


def require_modest(path: Path, group: Any, names: Sequence[str], most: int) -> None:
    """Raises UserError when the pages of a column of `names` in a row group together claim more than `most` bytes, or have no headers.

    group: its metadata, as pyarrow has them. Headers alone are read, of those pages that pyarrow would read.
    """
    with walk.opened(path) as file:
        for number in range(group.num_columns):
            column = "whose name is none"
            try:
                about = group.column(number)
                column = about.path_in_schema
                claimed = _claimed(file, about) if any(f"{column}.".startswith(f"{name}.") for name in names) else 0
            except (IndexError, KeyError, ValueError, TypeError, AttributeError) as error:  # of names that are no text too
                raise UserError(f"{path}: not a whole Parquet file (a page of column {column}: {error!r:.200})") from None
            if claimed > most:
                raise UserError(
                    f"{path}: the pages of column {column} say they hold {claimed:,} bytes; images hardly shrink, so that this is no set "
                    "of images, or a damaged one"
                )


def _claimed(file: BinaryIO, about: Any) -> int:
    """Bytes that the pages of a column chunk say they unpack to."""
    at = min(filter(None, (about.dictionary_page_offset, about.data_page_offset)), default=0)
    end, claimed, values, pages = at + about.total_compressed_size, 0, 0, 0
    while at < end and values < about.num_values:
        header, length = _header(file, at)
        unpacked, packed = header[2], header[3]
        if not (0 <= unpacked < 2**31 and 0 <= packed < 2**31):
            raise ValueError(f"{packed} bytes that unpack to {unpacked}")
        at, claimed, pages = at + length + packed, claimed + unpacked, pages + 1
        values += header.get(5, header.get(8, {})).get(1, 0)  # of either kind of data page
        if pages > values + EMPTY:
            raise ValueError(f"{pages} pages with {values} values")
    return claimed


def _header(file: BinaryIO, at: int) -> tuple[dict[int, Any], int]:
    """(fields by number, bytes) of the header of a page."""
    try:
        return _struct(_bytes(file, at, USUAL))
    except IndexError:
        return _struct(_bytes(file, at, LONGEST))


def _bytes(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(size)


# ---- Thrift's compact protocol, as much of it as a page header has ----


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if not data[at - 1] & 128:
            return value, at
        if shift > 63:
            raise ValueError("a number without an end")


def _struct(data: bytes, at: int = 0, depth: int = 0) -> tuple[dict[int, Any], int]:
    """(whole numbers and structs by the number of their field, where it ends). Raises IndexError where `data` end before it does."""
    if depth > DEEPEST:
        raise ValueError("it nests too deep")
    found: dict[int, Any] = {}
    number = 0
    while kind := data[at] & 15:
        step, at = data[at] >> 4, at + 1
        if not step:
            raw, at = _varint(data, at)
            number = _signed(raw)
        number += step
        if kind <= 2:  # true and false are kinds
            continue
        value, at = _value(data, at, kind, depth)
        found[number] = value
    return found, at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    """A value of a kind, None where nobody needs it, and where it ends."""
    if kind == 3:
        return None, at + 1
    if kind in (4, 5, 6):
        raw, at = _varint(data, at)
        return _signed(raw), at
    if kind == 7:
        return None, at + 8
    if kind == 8:
        size, at = _varint(data, at)
        return None, at + size
    if kind == 12:
        return _struct(data, at, depth + 1)
    raise ValueError(f"kind {kind}, which no page header has")


def _signed(raw: int) -> int:
    return raw >> 1 ^ -(raw & 1)
