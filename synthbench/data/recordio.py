"""MXNet RecordIO (.rec, .idx, property) in plain Python, all that is in circulation; and a writer of the InsightFace layout.

Format: dmlc-core recordio.h and mxnet recordio.py. A record is one part, or several when the magic number occurs in its bytes.
Part: u32 magic, u32 (3 bits flag, 29 bits length), payload, zeros up to a multiple of 4; little-endian.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from synthbench import console
from synthbench.data import walk
from synthbench.data.labelled import Source, by_name
from synthbench.types import UserError

MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)
WHOLE, FIRST, MIDDLE, LAST = range(4)
HEADER = struct.Struct("<IfQQ")  # flag (how many labels follow), label, id, id2
EXACT = 2**24  # labels and keys are float32: whole numbers are exact below this


def read_record(data: mmap.mmap | bytes, offset: int, path: Path | str = "record") -> tuple[bytes, int]:
    """The payload of the record at byte `offset`, parts joined by the magic they were cut at, and the offset of the next one."""
    parts: list[bytes] = []
    while True:
        if offset + 8 > len(data):
            raise UserError(
                f"{path}: cut short, a record should begin at byte {offset} but the file ends at byte {len(data)}. Fetch it again"
            )
        magic, word = struct.unpack_from("<II", data, offset)
        flag, length = word >> 29, word & 0x1FFFFFFF
        if magic != MAGIC:
            raise UserError(f"{path}: no record at byte {offset}; the file is damaged or the .idx belongs to another one")
        if flag not in ((MIDDLE, LAST) if parts else (WHOLE, FIRST)):
            raise UserError(f"{path}: part {flag} of a record out of order at byte {offset}; the file is damaged")
        end = offset + 8 + length
        if end > len(data):
            raise UserError(
                f"{path}: cut short, the record at byte {offset} ends at {end} but the file at byte {len(data)}. Fetch it again"
            )
        parts.append(data[offset + 8 : end])
        offset = end + (-length % 4)
        if flag in (WHOLE, LAST):
            return MAGIC_BYTES.join(parts), offset


def split_header(payload: bytes, where: str) -> tuple[np.ndarray, bytes]:
    """Labels, (1,) or (flag,) float32, and the bytes after the header."""
    if len(payload) < HEADER.size:
        raise UserError(f"{where}: {len(payload)} bytes are too few for a record of mxnet")
    flag, label, _, _ = HEADER.unpack_from(payload)
    if flag == 0:
        return np.array([label], np.float32), payload[HEADER.size :]
    if HEADER.size + 4 * flag > len(payload):
        raise UserError(f"{where}: says {flag} labels follow, which its {len(payload)} bytes cannot hold")
    return np.frombuffer(payload, "<f4", flag, HEADER.size), payload[HEADER.size + 4 * flag :]


def read_index(path: Path) -> dict[int, int]:
    """`key<TAB>offset` lines of an .idx file."""
    found: dict[int, int] = {}
    for number, line in enumerate(walk.content(path).decode("utf-8", "replace").splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or not all(field.isdecimal() and len(field) < 19 for field in fields):
            raise UserError(f"{path}, line {number}: {line[:60]!r} is not `key offset`. Delete the .idx and the .rec is scanned instead")
        found[int(fields[0])] = int(fields[1])
    return found


class _Part(NamedTuple):
    """The images of one .rec, by ascending key."""

    rec: Path
    data: mmap.mmap
    keys: np.ndarray
    at: np.ndarray  # bytes
    label: np.ndarray  # float64
    listed: bool  # InsightFace's record of people is there


def read_rec(path: Path) -> Source:
    """The images of a .rec, or of those in a folder (`_recs`), InsightFace layout or plain, each with its .idx or without.

    When every label is the same (DCFace's release stores 0 for all), identities come from a list beside it, if there is one.
    Raises UserError naming the file and the byte for a file that is cut short or damaged.
    """
    recs = _recs(path)
    parts = [_part(rec) for rec in recs]
    part = np.repeat(np.arange(len(parts)), [len(each.keys) for each in parts])
    keys, at, label = (np.concatenate([getattr(each, name) for each in parts]) for name in ("keys", "at", "label"))

    def encoded(row: int) -> bytes:
        found = parts[part[row]]
        return split_header(read_record(found.data, int(at[row]), found.rec)[0], where(row))[1]

    def where(row: int) -> str:
        return f"{parts[part[row]].rec}, key {keys[row]} (byte {at[row]})"

    if len(keys) > 1 and (label == label[0]).all() and not parts[1:]:
        label, names = _label_list(recs[0], keys, float(label[0]))
    else:
        if (odd := np.flatnonzero((label != np.floor(label)) | (label < 0) | (label >= EXACT))).size:
            said = f"{parts[part[odd[0]]].rec}, key {keys[odd[0]]}"
            raise UserError(f"{said}: label {label[odd[0]]} is not a whole number from 0 to {EXACT - 1}")
        _require_one_set(path, parts)
        label, names = by_name(label.astype(np.int64))
    read = (f"{len(recs)} parts, {recs[0].name} to {recs[-1].name}",) if recs[1:] else ()
    others = len(_grouped(path.parent).get(_cut(path)[0], ())) if path.is_file() and _cut(path)[1] else 1
    doubts = (f"{path.name} may be one of {others} parts that lie there; their folder is read as all of them",) if others > 1 else ()
    return Source(path, "rec", label, names, encoded, where, read=read, doubts=doubts)


def _part(rec: Path) -> _Part:
    if rec.stat().st_size == 0:
        raise UserError(f"{rec}: the file is empty")
    try:
        with open(rec, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:  # larger than what may be mapped
        raise UserError(f"{rec}: cannot be mapped, {rec.stat().st_size:,} bytes ({error.strerror})") from None
    idx = rec.with_suffix(".idx")
    offsets = read_index(idx) if idx.is_file() else dict(enumerate(_scan(data, rec)))
    if not offsets:
        raise UserError(f"{rec}: no records")
    keys = np.fromiter(offsets, np.int64, len(offsets))
    at = np.fromiter(offsets.values(), np.int64, len(offsets))
    label, empty = _labels(data, at, rec)
    head, rest = split_header(read_record(data, offsets[0], rec)[0], f"{rec}, key 0") if 0 in offsets else (np.zeros(0), b"")
    listed = len(head) == 2 and not rest and bool(np.isfinite(head[0]))  # InsightFace: key 0 says [images + 1, images + 1 + identities]
    if listed and idx.is_file():
        images = int(head[0]) - 1
        have = int(((keys >= 1) & (keys <= images) & ~empty).sum())
        if images < EXACT and have != images:
            raise UserError(f"{rec}: key 0 promises {images} images, the .idx lists {have}. One of the two files is cut short")
    # key 0 and the records of identities carry labels but no image; without .idx nothing else tells them apart
    use = np.flatnonzero(~empty)
    use = use[np.argsort(keys[use], kind="stable")]
    return _Part(rec, data, keys[use], at[use], label[use], listed)


def _cut(rec: Path) -> tuple[str, str]:
    """`train` and `3` of train_3.rec, as mxnet's im2rec calls the parts of a set; no number for another name."""
    found = re.fullmatch(r"(.*?)[_.-]?([0-9]{1,6})", rec.stem)
    return (found[1], found[2]) if found else (rec.stem, "")


def _grouped(folder: Path) -> dict[str, list[Path]]:
    """What the .rec of a folder are called -> the parts of it, by their numbers; one without a number is alone."""
    found: dict[str, list[Path]] = {}
    for rec in sorted((file for file in folder.glob("*.rec") if file.is_file()), key=lambda file: int(_cut(file)[1] or 0)):
        found.setdefault(_cut(rec)[0] if _cut(rec)[1] else rec.name, []).append(rec)
    return found


def _recs(path: Path) -> list[Path]:
    """The .rec to read: one, or all parts of a set. Raises UserError for a folder of several sets, none called train, or without a part."""
    if path.is_file():
        return [path]
    found = _grouped(path)
    if (path / "train.rec").is_file():
        return [path / "train.rec"]
    chosen = next(iter(found.values()), []) if len(found) < 2 else found.get("train", [])
    if not chosen:
        names = ", ".join(sorted(rec.name for recs in found.values() for rec in recs)[:4])
        several = f"{sum(map(len, found.values()))} .rec files of several sets ({names}); name the one to use, or register each by itself"
        raise UserError(f"{path}: {several if found else 'no .rec file'}")
    numbers = [int(_cut(rec)[1] or 0) for rec in chosen]
    first = min(numbers[0], 1)
    if len(chosen) > 1 and numbers != list(range(first, first + len(chosen))):
        lost = next((number for number in range(first, numbers[-1]) if number not in numbers), None)
        wrong = "two have one number" if lost is None else f"none has number {lost}"
        raise UserError(
            f"{path}: the parts of a set are numbered, and of {', '.join(rec.name for rec in chosen[:6])} {wrong}; name the one to use"
        )
    return chosen


def _require_one_set(path: Path, parts: Sequence[_Part]) -> None:
    """Raises UserError for parts each of which lists its own people, of whom some have the same number: they may be others."""
    listed = [np.unique(part.label) for part in parts if part.listed]
    people, count = np.unique(np.concatenate(listed), return_counts=True) if len(listed) > 1 else (np.zeros(0), np.zeros(0))
    if (count > 1).any():
        raise UserError(
            f"{path}: its {len(parts)} .rec files are each a whole set (key 0 lists its people), and label {people[count > 1][0]:.0f} is "
            "in several: nothing tells whether that is one person. Register each by itself; generator `union` joins sets"
        )


def rec_files(path: Path) -> list[Path]:
    """What decides the images and identities of a .rec: itself, its .idx, the lists that may hold its labels; of all parts."""
    found: set[Path] = set()
    for rec in _recs(path):
        beside = [rec.with_suffix(".idx"), *(rec.with_name(name) for name in _lists(rec))]
        found |= {rec, *(file for file in beside if file.is_file())}
    return sorted(found)


def _lists(rec: Path) -> list[str]:
    own = [rec.with_suffix(ending).name for ending in (".lst", ".txt", ".tsv")]
    return list(dict.fromkeys([*own, "list.txt", "train.lst", "train.tsv"]))


def _scan(data: mmap.mmap, rec: Path) -> Iterator[int]:
    offset = 0
    while offset < len(data):
        yield offset
        offset = read_record(data, offset, rec)[1]


def _labels(data: mmap.mmap, at: np.ndarray, rec: Path) -> tuple[np.ndarray, np.ndarray]:
    """First label, (N,) float64, of the records at the offsets `at`, and which of them hold no image bytes.

    Vectorized, for files of millions of records; those in several parts take the slow way.
    """
    size = len(data)
    if (at + 8 > size).any():
        bad = int(at[at + 8 > size].min())
        raise UserError(f"{rec}: cut short, the .idx places a record at byte {bad} but the file ends at byte {size}. Fetch it again")
    flat = np.frombuffer(data, np.uint8)
    head = _gather(flat, at, 36)  # part header, record header, first label of a vector
    words = np.ascontiguousarray(head[:, :16]).view("<u4")
    if (words[:, 0] != MAGIC).any():
        bad = int(at[words[:, 0] != MAGIC].min())
        raise UserError(f"{rec}: no record at byte {bad}; the file is damaged or the .idx belongs to another one")
    flag, length = words[:, 1] >> 29, (words[:, 1] & 0x1FFFFFFF).astype(np.int64)
    over = at + 8 + length > size
    if over.any():
        bad = int(np.flatnonzero(over)[0])
        raise UserError(
            f"{rec}: cut short, the record at byte {at[bad]} ends at {at[bad] + 8 + length[bad]} but the file at {size}. Fetch it again"
        )
    count = words[:, 2].astype(np.int64)
    scalar = np.ascontiguousarray(head[:, 12:16]).view("<f4")[:, 0]
    vector = np.ascontiguousarray(head[:, 32:36]).view("<f4")[:, 0]
    label = np.where(count > 0, vector, scalar).astype(np.float64)
    empty = length <= HEADER.size + 4 * count
    for row in np.flatnonzero((flag != WHOLE) | (length < HEADER.size)):
        labels, rest = split_header(read_record(data, int(at[row]), rec)[0], f"{rec}, byte {at[row]}")
        label[row], empty[row] = labels[0], not rest
    return label, empty


def _gather(flat: np.ndarray, at: np.ndarray, width: int, step: int = 1 << 18) -> np.ndarray:
    out = np.zeros((len(at), width), np.uint8)
    reach = np.arange(width)
    for first in range(0, len(at), step):
        places = at[first : first + step, None] + reach
        out[first : first + step] = flat[np.minimum(places, len(flat) - 1)]
    return out


def _label_list(rec: Path, keys: np.ndarray, label: float) -> tuple[np.ndarray, list[str]]:
    """Identities from a list beside a .rec whose labels are all equal: `key<TAB>label/name.jpg`, im2rec's .lst or CVLface's .tsv."""
    about = f"{rec}: all {len(keys)} records carry label {label:g}, so the file alone has one identity (DCFace's release is like this)"
    for path in (rec.with_name(name) for name in _lists(rec)):
        if not path.is_file():
            continue
        identity: dict[int, str] = {}
        for line in walk.content(path).decode("utf-8", "replace").splitlines():
            fields = line.rstrip("\n").split("\t") if "\t" in line else line.split()
            if len(fields) >= 2 and re.fullmatch("[0-9]{1,18}", fields[0].strip()):
                identity[int(fields[0])] = _identity_field(fields[1:])
        chosen = [identity.get(int(key), "") for key in keys]
        if all(chosen) and len(set(chosen)) > 1:
            console.warn(f"{about}; identities are taken from {path.name} instead")
            numbers = all(re.fullmatch("[0-9]{1,18}", name) for name in chosen) and len({int(name) for name in chosen}) == len(set(chosen))
            found = sorted(set(chosen), key=int if numbers else str)
            place = {name: number for number, name in enumerate(found)}
            return np.array([place[name] for name in chosen], np.int64), found
    looked = ", ".join(_lists(rec))
    raise UserError(
        f"{about}. No list with the identity of every record lies beside it (looked for {looked}, lines `key<TAB>identity/name.jpg`)"
    )


def _identity_field(fields: Sequence[str]) -> str:
    numbers = [field.strip() for field in fields if _is_number(field)]
    if numbers and float(numbers[0]) != 0:
        return f"{float(numbers[0]):g}"
    folders = [field.strip().replace("\\", "/").split("/") for field in fields if not _is_number(field)]
    if folders and len(folders[0]) > 1:
        return folders[0][-2]
    return f"{float(numbers[0]):g}" if numbers else ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# ---- writing ----


def frame(payload: bytes) -> bytes:
    """A record, in as many parts as its bytes need: cut at each magic that lies on a multiple of 4, whose 4 bytes are dropped."""
    cuts, start = [], payload.find(MAGIC_BYTES)
    while start >= 0:
        if start % 4 == 0:
            cuts.append(start)
        start = payload.find(MAGIC_BYTES, start + 1)
    begins, ends = [0, *(cut + 4 for cut in cuts)], [*cuts, len(payload)]
    out = []
    for number, (begin, end) in enumerate(zip(begins, ends)):
        flag = WHOLE if not cuts else FIRST if number == 0 else LAST if number == len(cuts) else MIDDLE
        if end - begin >= 2**29:
            raise ValueError("a part of a record must be shorter than 2^29 bytes")
        out.append(struct.pack("<II", MAGIC, flag << 29 | end - begin) + payload[begin:end] + bytes(-(end - begin) % 4))
    return b"".join(out)


def pack(labels: float | Sequence[float], number: int, image: bytes) -> bytes:
    """Header and image as mxnet's `pack`: one label in the header, several after it."""
    if isinstance(labels, (int, float)):
        return HEADER.pack(0, float(labels), number, 0) + image
    return HEADER.pack(len(labels), 0.0, number, 0) + struct.pack(f"<{len(labels)}f", *labels) + image


class RecordWriter:
    """Records one after the other into `stem.rec`, their places into `stem.idx`."""

    def __init__(self, stem: Path | str) -> None:
        self.stem = Path(stem)
        self._rec = open(self.stem.with_suffix(".rec"), "wb")  # noqa: SIM115 - closed in close()
        self._index: list[str] = []

    def write(self, key: int, payload: bytes) -> None:
        self._index.append(f"{key}\t{self._rec.tell()}\n")
        self._rec.write(frame(payload))

    def close(self) -> None:
        self._rec.close()
        self.stem.with_suffix(".idx").write_text("".join(self._index))


def write_rec(folder: Path, images: Iterator[bytes], identity: np.ndarray, size: int) -> None:
    """`train.rec`, `train.idx`, `property` in InsightFace's layout. `identity` (N,) dense and ascending, one per image, in order.

    Keys 1..N are images, key 0 is [N + 1, N + 1 + K], keys N + 1.. are [first image, last image + 1] of each identity.
    """
    count, people = len(identity), int(identity.max()) + 1
    if count + people >= EXACT:
        raise UserError(f"{count} images of {people} identities do not fit a .rec, whose labels are float32 (below {EXACT}); use parquet")
    writer = RecordWriter(Path(folder) / "train")
    for key, (image, label) in enumerate(zip(images, identity), 1):
        writer.write(key, pack(float(label), key, image))
    writer.write(0, pack((count + 1, count + 1 + people), 0, b""))
    first = np.searchsorted(identity, np.arange(people + 1)) + 1
    for person in range(people):
        writer.write(count + 1 + person, pack((first[person], first[person + 1]), count + 1 + person, b""))
    writer.close()
    (Path(folder) / "property").write_text(f"{people},{size},{size}\n")
