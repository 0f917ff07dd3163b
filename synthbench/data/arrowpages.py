"""What the packed buffers of an Arrow file say that they unpack to: pyarrow makes room for that before anything is looked at.

Layout: Arrow's columnar format, sections IPC and Compression; FlatBuffers' binary format for what is in a message.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

from synthbench.data import parquetpages, walk
from synthbench.types import UserError

MARK = 0xFFFFFFFF  # before the length of a message
BATCH, DICTIONARY = 3, 2  # kinds of a message
Data = mmap.mmap | bytes


def require_modest(path: Path) -> None:
    """Raises UserError for a file whose record batches together claim more bytes than images of its size may hold, ValueError for none."""
    with walk.opened(path) as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        total = claimed(data)
    except (struct.error, IndexError) as error:
        raise ValueError(f"a message of it leads outside ({error})") from None
    if total > parquetpages.most(path):
        raise UserError(
            f"{path}: {len(data):,} bytes that say they hold {total:,}; images hardly shrink, so that this is no set of images, or a "
            "damaged one"
        )


def claimed(data: Data) -> int:
    """Bytes that the packed buffers of all record batches and dictionaries claim. Raises ValueError, struct.error, IndexError."""
    places = _in_table(data) if data[:6] == b"ARROW1" else _in_stream(data)
    total = 0
    for number, claim in enumerate(claim for at in places for claim in _claims(data, at)):
        if 16 * number > len(data):  # each buffer is described by bytes of its own: of others there is no end
            raise ValueError("messages that lie in one another")
        total += claim
    return total


def _in_stream(data: Data) -> Iterator[int]:
    at = 0
    while at + 8 <= len(data):
        root, body = _message(data, at)
        if body == at + 8:  # of no length: the end
            return
        yield at
        (length,) = struct.unpack_from("<q", data, found) if (found := _field(data, root, 3)) else (0,)
        if length < 0:
            raise ValueError("a message of less than no bytes")
        at = body + length


def _in_table(data: Data) -> Iterator[int]:
    """The places that the table at the end of a file names, of dictionaries and of record batches."""
    (size,) = struct.unpack_from("<i", data, len(data) - 10)
    footer = _follow(data, len(data) - 10 - size)
    for number in (2, 3):
        if found := _field(data, footer, number):
            first = _follow(data, found)
            (count,) = struct.unpack_from("<I", data, first)
            yield from (struct.unpack_from("<q", data, first + 4 + 24 * block)[0] for block in range(min(count, len(data) // 24)))


def _message(data: Data, at: int) -> tuple[int, int]:
    """(Where the table of the message at byte `at` lies, where its body begins.)"""
    mark, size = struct.unpack_from("<II", data, at)
    start, size = (at + 8, size) if mark == MARK else (at + 4, mark)
    return (_follow(data, start) if size else start), start + size


def _claims(data: Data, at: int) -> Iterator[int]:
    """What each packed buffer of the message at byte `at` claims; nothing of a message without such."""
    root, body = _message(data, at)
    kind, header = _field(data, root, 1), _field(data, root, 2)
    if not (kind and header and data[kind] in (BATCH, DICTIONARY)):
        return
    batch = _follow(data, header)
    if data[kind] == DICTIONARY:
        inner = _field(data, batch, 1)
        batch = _follow(data, inner) if inner else 0
    buffers = _field(data, batch, 2) if batch else 0
    if not (buffers and _field(data, batch, 3)):  # not packed
        return
    first = _follow(data, buffers)
    (count,) = struct.unpack_from("<I", data, first)
    if first + 4 + 16 * count > body:
        raise ValueError("more buffers than a message has room for")
    for number in range(count):
        offset, length = struct.unpack_from("<qq", data, first + 4 + 16 * number)
        if length >= 8:
            (claim,) = struct.unpack_from("<q", data, body + offset)
            yield claim if claim >= 0 else length - 8  # -1: as it is


def _follow(data: Data, at: int) -> int:
    """Where the offset at byte `at` leads."""
    return at + int(struct.unpack_from("<I", data, at)[0])


def _field(data: Data, table: int, number: int) -> int:
    """Where a field of a table lies; 0 where it has none."""
    places = table - struct.unpack_from("<i", data, table)[0]
    (size,) = struct.unpack_from("<H", data, places)
    (offset,) = struct.unpack_from("<H", data, places + 4 + 2 * number) if 4 + 2 * number < size else (0,)
    return table + int(offset) if offset else 0
