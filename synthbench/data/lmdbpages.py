"""LMDB files, read page by page: the library believes what they say, and a wrong number in one ends the process that maps it.

Format: lmdb.h and mdb.c of OpenLDAP, version 1, as written on 64-bit little-endian machines.
"""

from __future__ import annotations

import bisect
import mmap
import os
import struct
from pathlib import Path

from synthbench.data import walk
from synthbench.types import UserError

META = struct.Struct("<16sII16sI44s4xHH32xQQQ")  # -, magic, version, -, page size, -, flags, depth, root, last, transaction
PAGE = struct.Struct("<QHHHH")  # number, -, flags, end of the pointers, begin of the nodes
NODE = struct.Struct("<HHHH")  # low and high half of a size or page, flags, size of the key
BRANCH, LEAF, OVERFLOW = 1, 2, 4
BIG = 1  # flag of a node whose value has pages of its own
NOWHERE = 2**64 - 1  # root of an empty one
DEEPEST = 32  # that the library goes


class Database:
    """The one plain database of a file: `get(key)`. Raises UserError when the file is cut short, or a page leads out of it, back to
    another one, or is none of a plain database; all of them are looked at first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with walk.opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(META.size)
            self.side = META.unpack(head)[4] if len(head) == META.size else 0
            file.seek(self.side)
            metas = [META.unpack(data) for data in (head, file.read(META.size)) if len(data) == META.size]
            whole = [meta for meta in metas if meta[1] == 0xBEEFC0DE]
            if not whole:
                raise UserError(f"{path}: not an LMDB file")
            *_, flags, _, self.root, self.last, _ = max(whole, key=lambda meta: meta[10])
            if self.side not in (2**power for power in range(9, 17)) or flags:
                raise UserError(f"{path}: not the LMDB of SOTA-FR or HSFace, or damaged (pages of {self.side} bytes, flags {flags})")
            if size < (self.last + 1) * self.side:
                raise UserError(
                    f"{path}: cut short, {size} bytes where its first pages promise {(self.last + 1) * self.side}. Fetch it again"
                )
            self.data = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        self.seen = bytearray(self.last + 1)
        if self.root != NOWHERE:
            self.walk(self.root)

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`; None where there is none."""
        page = self.root
        while page != NOWHERE:
            start = page * self.side
            _, _, flags, lower, _ = PAGE.unpack_from(self.data, start)
            places = struct.unpack_from(f"<{(lower - PAGE.size) // 2}H", self.data, start + PAGE.size)
            if flags & LEAF:
                at = bisect.bisect_left(places, key, key=lambda place: self.key(start + place))
                return self.value(start + places[at]) if at < len(places) and self.key(start + places[at]) == key else None
            at = bisect.bisect_right(places, key, lo=1, key=lambda place: self.key(start + place)) - 1  # the first has no key
            low, high, more, _ = NODE.unpack_from(self.data, start + places[at])
            page = low | high << 16 | more << 32
        return None

    def key(self, at: int) -> bytes:
        """Of the node at byte `at`."""
        return self.data[at + NODE.size : at + NODE.size + NODE.unpack_from(self.data, at)[3]]

    def value(self, at: int) -> bytes:
        """Of the node of a leaf at byte `at`."""
        low, high, kind, length = NODE.unpack_from(self.data, at)
        start = at + NODE.size + length
        if kind & BIG:
            start = int.from_bytes(self.data[start : start + 8], "little") * self.side + PAGE.size
        return self.data[start : start + (low | high << 16)]

    def walk(self, root: int) -> None:
        level = [root]
        for _ in range(DEEPEST):
            level = [below for page in level for below in self.node_pages(page)]
            if not level:
                return
        raise self.damaged(root, "it has too many levels")

    def damaged(self, page: int, why: str) -> UserError:
        return UserError(f"{self.path}: damaged, page {page}: {why}. Fetch it again")

    def page(self, number: int, count: int = 1) -> tuple[int, int, int, int]:
        """(where it begins, flags, end of the pointers, begin of the nodes) of a page that nothing else led to, and that is there."""
        if not 1 < number <= self.last or number + count - 1 > self.last or any(self.seen[number : number + count]):
            raise self.damaged(number, "outside the file, or used twice")
        self.seen[number : number + count] = b"\1" * count
        own, _, flags, lower, upper = PAGE.unpack_from(self.data, number * self.side)
        if own != number:
            raise self.damaged(number, f"it says that it is page {own}")
        return number * self.side, flags, lower, upper

    def node_pages(self, number: int) -> list[int]:
        """The pages below a branch; none below a leaf, whose values are looked at."""
        start, flags, lower, upper = self.page(number)
        count = (lower - PAGE.size) // 2
        fewest = {BRANCH: 2, LEAF: 1}.get(flags & 0xFF)
        if fewest is None or not PAGE.size + 2 * fewest <= lower <= upper <= self.side or lower % 2:
            raise self.damaged(number, "neither a branch nor a leaf")
        below = []
        for place in struct.unpack_from(f"<{count}H", self.data, start + PAGE.size):
            if not upper <= place <= self.side - NODE.size:
                raise self.damaged(number, "a node outside it")
            low, high, kind, key = NODE.unpack_from(self.data, start + place)
            end = place + NODE.size + key
            if flags & BRANCH:
                below.append(low | high << 16 | kind << 32)
            elif kind & ~BIG:
                raise self.damaged(number, "a node of a kind that the LMDB of SOTA-FR and HSFace do not have")
            elif kind & BIG and end + 8 <= self.side:
                self.long_value(int.from_bytes(self.data[start + end : start + end + 8], "little"), low | high << 16)
                end += 8
            else:
                end += 8 if kind & BIG else low | high << 16
            if end > self.side:
                raise self.damaged(number, "a node that is longer than it")
        return below

    def long_value(self, number: int, size: int) -> None:
        """Look at the pages of a long value."""
        count = (PAGE.size - 1 + size) // self.side + 1
        start, flags, *_ = self.page(number, count)
        if flags & 0xFF != OVERFLOW or int.from_bytes(self.data[start + 12 : start + 16], "little") < count:
            raise self.damaged(number, "not the value that it should be")
