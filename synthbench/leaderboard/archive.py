"""A bundle as a file from elsewhere: what may be in it, and how large that is, before there is room for it; unpacked into a runs folder of
its own, every file with the digest that bundle.json says.

Files are stored as they are, not compressed, so that a small bundle cannot become a large folder; what is compressed is the arrays of an
.npz, which are looked at before they are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
import stat
import struct
import tempfile
import unicodedata
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from synthbench.data import walk
from synthbench.data.readers import file_digest
from synthbench.results import lookup, shapes
from synthbench.results.record import Result, read_run
from synthbench.store import Store, parse_json
from synthbench.types import UserError

FORMAT = 1
FIRST = "bundle.json"
NAME = r"\w(?:[\w .+-]{0,198}[\w+-])?"  # of a run, a key, a benchmark
LARGEST = {  # bytes of a file, by its place
    re.escape(FIRST): 2**24,
    rf"results/{NAME}/run\.json": 2**26,
    rf"results/{NAME}/contact\.png": 2**25,
    rf"evaluations/{NAME}/evaluation\.json": 2**26,
    rf"comparisons/{NAME}/comparison\.json": 2**26,
    rf"stages/evaluate/{NAME}/(?:pairs|untrained/[0-9]{{1,3}})/{NAME}\.npz": 2**25,
    rf"stages/benchmarks/{NAME}/{NAME}/pairs\.(?:json|npz)": 2**25,
    rf"stages/recognizer/{NAME}/encoder\.json": 2**20,
    rf"stages/recognizer/{NAME}/weights\.safetensors": 2**30,
}
MOST, MOST_BYTES = 5_000, 2**31 - 2**24  # files, and bytes of all of them, beyond which zips have another form
ENTRY = 512  # bytes of a file in the list of a zip: 46, and its name
PAIRS = 1_000_000  # of a benchmark
RATIO, SLACK = 20, 2**20  # bytes of the arrays of an .npz to its own: distances hardly shrink, and small files may
RESULTS = {"distance": "f", "same": "b", "fold": "i", "threshold": "f", "correct": "b", "digest": "U"}  # kinds of an .npz's arrays
BENCHMARK = {"left": "i", "right": "i", "same": "b"}


class Altered(UserError):
    """What is in a bundle is not what its bundle.json says."""

    exit_code = 1


@dataclass(frozen=True)
class Bundle:
    """A bundle, unpacked."""

    file: str  # its name
    digest: str  # SHA-256 of it
    root: Path  # a runs folder with nothing but what was in it
    about: dict[str, Any]  # bundle.json
    results: list[Result]
    comparison: dict[str, Any] | None

    @property
    def store(self) -> Store:
        return Store(self.root)


@contextlib.contextmanager
def unpacked(path: Path) -> Iterator[Bundle]:
    """The bundle at `path`, for as long as the block lasts.

    Raises UserError for what is no bundle, damaged or hostile; Altered where a file is not the one that bundle.json names.
    """
    walk.require_there(path)
    with tempfile.TemporaryDirectory(prefix="synthbench-") as folder:
        root = Path(folder).resolve()
        try:
            with walk.opened(path) as file:
                _require_short(file)
                with zipfile.ZipFile(file) as archive:
                    entries = _entries(archive)
                    about = _first(archive, entries)
                    found = {name: _unpack(archive, entry, root / name) for name, entry in entries.items() if name != FIRST}
            bundle = _read(path, root, about, found)
        except UserError:
            raise
        except Exception as error:  # zipfile, zlib and numpy raise kinds without a common parent
            raise UserError(f"{path}: no whole bundle ({error or type(error).__name__})") from None
        yield bundle


def _require_short(file: BinaryIO) -> None:
    """Raises ValueError for a zip whose list of files is longer than a bundle's: zipfile makes an object of each before anybody can count.

    Its end is as we write it, without a comment and without the record of large archives, which would count instead.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 42))
    end = file.read(42)[-42:].rjust(42)
    if end[20:24] != b"PK\5\6" or end[40:] != b"\0\0" or end[:4] == b"PK\6\7":
        raise ValueError("its end is not that of a bundle")
    count, length = struct.unpack("<HI", end[30:36])
    if count > MOST or length > MOST * ENTRY or size > MOST_BYTES:
        raise ValueError(f"it lists {count:,} files in {length:,} bytes, more than any bundle")


def _entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """What is in the zip, by name. Raises ValueError for anything that `bundle` does not write."""
    entries = archive.infolist()
    if sum(entry.file_size for entry in entries) > MOST_BYTES:
        raise ValueError("it holds more bytes than any bundle")
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        name = entry.filename
        most = next((size for place, size in LARGEST.items() if re.fullmatch(place, name)), None)
        if most is None:
            raise ValueError(f"{name!r:.120} is no file of a bundle")
        if entry.file_size > most:
            raise ValueError(f"{name} has {entry.file_size:,} bytes; at most {most:,} are read")
        if entry.flag_bits & 1 or entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise ValueError(f"{name} is encrypted or compressed; files of a bundle are stored as they are")
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
            raise ValueError(f"{name} is a link, or no file")
        if found.setdefault(_alike(name), entry) is not entry:
            raise ValueError(f"two files are called {name}")
    return {entry.filename: entry for entry in found.values()}


def _alike(name: str) -> str:
    """What names have in common that are one file on some disk."""
    return unicodedata.normalize("NFKC", name).casefold()


def _first(archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo]) -> dict[str, Any]:
    """bundle.json."""
    if FIRST not in entries:
        raise ValueError(f"it has no {FIRST}")
    about = parse_json(archive.read(entries[FIRST]).decode("utf-8"))
    version = about.get("bundle") if isinstance(about, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise ValueError(f"its form is version {version}; this synthbench reads version {FORMAT}")
    if not shapes.whole("bundle", about):
        raise ValueError(f"its {FIRST} is not whole")
    return about  # type: ignore[no-any-return]


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, place: Path) -> str:
    """Write an entry to `place`; returns its digest."""
    place.parent.mkdir(parents=True, exist_ok=True)
    total = hashlib.sha256()
    with archive.open(entry) as source, open(place, "xb") as file:
        while block := source.read(1 << 20):
            total.update(block)
            file.write(block)
    return total.hexdigest()


def _read(path: Path, root: Path, about: dict[str, Any], found: Mapping[str, str]) -> Bundle:
    """What was unpacked into `root`, `found` with their digests, if it is whole."""
    told = about["files"]
    if wrong := sorted(name for name in {*told, *found} if told.get(name) != found.get(name)):
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise Altered(f"{path}: altered after it was made: {', '.join(wrong[:3])}{more} not as its {FIRST} says")
    for name in (name for name in found if name.endswith(".npz")):
        require_arrays(root / name, RESULTS if name.startswith("stages/evaluate") else BENCHMARK)
    places = [lookup.PLACES[kind] for kind in ("run", "evaluation")]
    results = []
    for name in about["runs"]:
        result = next(filter(None, (read_run(root / folder / name / file) for folder, file in places)), None)
        if result is None or result["run"] != name:
            raise ValueError(f"its result {name} is not whole")
        results.append(result)
    comparison = None
    if about["kind"] == "comparison":
        comparison = lookup.read_group(root / "comparisons" / about["name"] / "comparison.json")
        rows = [row["run"] for row in comparison["rows"]]
        if comparison["comparison"] != about["name"] or not rows == comparison["runs"] == about["runs"]:
            raise ValueError("its comparison is of other runs")
    return Bundle(path.name, file_digest(path), root, about, results, comparison)


def require_arrays(path: Path, kinds: Mapping[str, str]) -> None:
    """Raises ValueError unless an .npz holds the arrays of these kinds (others beside `left` may be `group`), all as long as each other.

    What a header claims is compared with what is there before numpy makes room for it; objects, which would be unpickled, are no kind.
    """
    name, lengths = path.name, set()
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        if len(entries) != len(archive.infolist()) or not kinds.keys() <= entries.keys() <= {*kinds, "group"}:
            raise ValueError(f"{name} holds other arrays than it should")
        if sum(entry.file_size for entry in entries.values()) > RATIO * path.stat().st_size + SLACK:
            raise ValueError(f"{name} would unpack to more than results ever do")
        for array, entry in entries.items():
            if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{name} is packed in another way than numpy's")
            with archive.open(entry) as file:
                if np.lib.format.read_magic(file) != (1, 0):
                    raise ValueError(f"{name}: {array} is of another version")
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            many = math.prod(shape)
            if dtype.kind != kinds.get(array, "i") or dtype.hasobject or many * dtype.itemsize > entry.file_size:
                raise ValueError(f"{name}: {array} is {dtype.name} {shape}, which it cannot be")
            if array != "digest":
                lengths.add(shape)
    if len(lengths) != 1 or not all(len(shape) == 1 and 10 <= shape[0] <= PAIRS for shape in lengths):
        raise ValueError(f"{name} holds {', '.join(map(str, lengths))} values; one for each of 10 to {PAIRS:,} pairs")
