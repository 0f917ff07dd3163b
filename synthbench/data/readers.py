"""Labelled images as others publish them: which form they have; image folder, zip and LMDB. One Source for all, read lazily."""

from __future__ import annotations

import functools
import hashlib
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from synthbench import console
from synthbench.data import lmdbpages, pixels, walk
from synthbench.data.folders import people
from synthbench.data.labelled import Source, by_name, in_split_folder
from synthbench.data.lists import read_labels
from synthbench.data.parquet import read_arrow, read_parquet
from synthbench.data.recordio import read_rec, rec_files
from synthbench.data.tars import read_webdataset
from synthbench.files import require_itself, require_written
from synthbench.types import UserError

JUNK = (".", "__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found")  # how names begin of what systems leave behind
ENDINGS = {".zip": "zip", ".rec": "rec", ".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset", ".mdb": "lmdb", ".lmdb": "lmdb"}
HINTS: dict[tuple[str, ...], str] = {  # what to do with files of other kinds
    (".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"): "compressed; unpack it, and give the folder or the .tar that comes out",
    (".npz", ".npy", ".h5", ".hdf5", ".mat", ".pkl", ".pickle", ".pt", ".tfrecord", ".tfrecords", ".beton"): (
        "pixels or records of another library, whose layout a file does not tell; write the images as files, a folder for each person"
    ),
    (".csv", ".tsv", ".txt", ".lst", ".json", ".jsonl"): (
        "a list, and no images; give their folder or zip (`synthbench data add` takes the list besides, as --labels FILE)"
    ),
}
TAKES: dict[str, tuple[str, ...]] = dict.fromkeys(
    ("folder", "zip"), ("labels", "split", "column", "unlabelled")
)  # what of `Source.reading` may be wished
TAKES.update(dict.fromkeys(("parquet", "arrow", "webdataset"), ("column", "split", "unlabelled")))


def kind_of(path: Path | str) -> str:
    """folder, zip, rec, parquet, arrow, webdataset or lmdb, by suffix or by what the folder holds; `file` for a file of another kind."""
    path = Path(path)
    walk.require_there(path)
    if path.is_file():
        return ENDINGS.get(path.suffix.lower(), "file")
    if any(file.is_file() for file in path.glob("*.rec")):
        return "rec"
    if (path / "data.mdb").is_file():
        return "lmdb"
    if any(file.is_file() for place in ("*.parquet", "data/*.parquet") for file in path.glob(place)):
        return "parquet"
    found = _first_kind(path, {"folder": pixels.SUFFIXES, "parquet": (".parquet",), "arrow": (".arrow",)}, 3)
    return found or _first_kind(path, {"webdataset": (".tar",)}, 3) or "folder"  # a .tar beside folders of images may be anything


def _first_kind(path: Path, kinds: Mapping[str, Sequence[str]], depth: int) -> str:
    """What the first file that tells it says, going down at most `depth` folders: in an image folder that is soon an image."""
    entries = sorted(path.iterdir())
    endings = {entry.suffix.lower() for entry in entries}
    here = (kind for kind, known in kinds.items() if endings & set(known))
    below = (_first_kind(entry, kinds, depth - 1) for entry in entries if depth and entry.is_dir() and not entry.name.startswith(JUNK))
    return next(here, "") or next((kind for kind in below if kind), "")


def read_source(path: Path | str, kind: str | None = None, reading: Mapping[str, str] | None = None) -> Source:
    """Open labelled images; `kind` overrides what `kind_of` sees. Identities are in the order of their sorted names.

    reading: what to read where there is a choice, as in `Source.reading`: column (Parquet, Arrow, WebDataset), labels (a list, for an image
    folder or zip), split.
    Labels are read at once, images when asked for. Raises UserError for what is missing, damaged or ambiguous.
    """
    path, wishes = Path(path), reading or {}
    walk.require_there(path)
    require_itself(path)
    chosen = kind or kind_of(path)
    if (path / "stages").is_dir() and ((path / "results").is_dir() or (path / "requests").is_dir()):
        raise UserError(
            f"{path}: a folder of synthbench's own runs; `synthbench list runs` has their names, `synthbench export RUN` their sets"
        )
    if chosen == "file" and path.name.lower().endswith((".bin", ".bin.xz")):
        raise UserError(
            f"{path}: a .bin holds pairs, not people: `synthbench data add NAME {path} --kind pairs`, or `data convert --to bin`"
        )
    if chosen not in FORMS:
        unknown = (
            "not a data set known here; known are an image folder, .zip, .rec, .parquet, .arrow and WebDataset's .tar (files or folders), "
            "and LMDB"
        )
        raise UserError(f"{path}: {next((hint for ends, hint in HINTS.items() if path.name.lower().endswith(ends)), unknown)}")
    takes = TAKES.get(chosen, ())
    if odd := [name for name in wishes if name not in takes]:
        raise UserError(f"{path} ({chosen}): nothing to choose with --{odd[0]}" + (f"; there is --{takes[0]}" if takes else ""))
    return FORMS[chosen](path, wishes) if takes else FORMS[chosen](path)


def read_registered(path: Path, reading: Mapping[str, str]) -> Source:
    """A registered set as it was read when it was registered. Raises UserError where this version reads it otherwise."""
    source = read_source(path, reading=reading)
    if dict(source.reading) != dict(reading):
        raise UserError(
            f"{path} was registered by an earlier version, which read it otherwise than it is read now ({', '.join(source.read)}); run "
            "`synthbench data add` with the same name again: it says what is read, and how to choose"
        )
    return source


# ---- image folder and zip: <identity>/<image>, or images alone, without labels ----


def read_folder(path: Path, reading: Mapping[str, str] | None = None) -> Source:
    files, who = _labelled(path, list_folder(path), reading or {})
    return Source(
        path, "folder", encoded=lambda row: file_bytes(path / files[row]), where=lambda row: walk.readable(str(path / files[row])), **who
    )


def _labelled(path: Path, files: list[str], reading: Mapping[str, str]) -> tuple[list[str], dict[str, Any]]:
    """The images that are read, and who is on them as fields of a Source: by their folders, or by the list `labels`."""
    if "labels" in reading and "split" in reading:
        raise UserError(f"{path}: the list {reading['labels']} says which images are read; leave out --split, or --labels")
    if not files:
        raise UserError(f"{path}: no images (looked for {', '.join(pixels.SUFFIXES)}); one folder per identity is expected" + _packed(path))
    if "labels" in reading:
        listing = Path(reading["labels"])
        chosen, label, names, read, doubts = read_labels(listing, files, path, reading.get("column"))
        how = dict(reading)
        told = {"read": (f"labels of {listing.name}", *read), "doubts": tuple(doubts)}
        return [files[row] for row in chosen], {"label": label, "names": names, "reading": how, **told}
    rows, level, said = in_split_folder(path, files, reading.get("split"))
    files = [files[row] for row in rows]
    label, names, more = people(path, [name.split("/", level)[-1] for name in files], reading.get("column"))
    both = {key: (*said.get(key, ()), *more.get(key, ())) for key in ("read", "doubts")}
    how = {**said.get("reading", {}), **more.get("reading", {})}
    return files, {"label": label, "names": names, "reading": how, **both}


def _packed(path: Path) -> str:
    """What to do about archives that lie where images should."""
    if path.is_dir():
        names = walk.files(path)
    else:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    inside = [name for name in names if name.lower().endswith((".zip", ".tar", ".gz", ".tgz", ".rar", ".7z"))]
    return (
        f". {console.counted(len(inside), 'archive')} such as {inside[0]} among its files: unpack them, each into a folder"
        if inside
        else ""
    )


def file_bytes(path: Path) -> bytes:
    try:
        with walk.opened(path) as file:
            if (size := os.fstat(file.fileno()).st_size) > pixels.MAX_BYTES:
                raise pixels.Damaged(f"{path}: {size} bytes is no image of a face")
            return file.read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def read_zip(path: Path, reading: Mapping[str, str] | None = None) -> Source:
    archive, entries = list_zip(path)
    files, who = _labelled(path, sorted(entries), reading or {})

    def encoded(row: int) -> bytes:
        return zip_bytes(archive, entries[files[row]], path)

    return Source(path, "zip", encoded=encoded, where=lambda row: f"{path}, {files[row]}", **who)


def list_folder(path: Path) -> list[str]:
    """Image files below `path`, at most three levels down, as sorted relative names with `/`. Hidden ones are left out."""
    names = (name.split("/") for name in walk.files(path) if name.lower().endswith(pixels.SUFFIXES) and name.count("/") <= 3)
    return ["/".join(parts) for parts in sorted(names) if not any(part.startswith(JUNK) for part in parts)]


def list_zip(path: Path) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """The archive and its image entries by name; nothing is ever extracted. Raises UserError for a damaged or hostile archive."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:  # a version that nobody knows, names that are no text
        raise UserError(f"{path}: not a whole zip archive ({error}). Fetch it again") from None
    files: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = entry.filename.replace("\\", "/")
        parts = name.split("/")
        if name.startswith("/") or ".." in parts or ":" in parts[0]:
            raise UserError(f"{path}: entry {entry.filename!r} points outside the archive; this file is not to be trusted")
        if entry.is_dir() or any(part.startswith(JUNK) for part in parts) or not name.lower().endswith(pixels.SUFFIXES):
            continue
        if entry.flag_bits & 1:
            raise UserError(f"{path}: the archive is encrypted; unpack it with its password and give the folder")
        if name in files:
            raise UserError(f"{path}: two entries are called {name}; the archive is ambiguous")
        files[name] = entry
    return archive, files


def zip_bytes(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> bytes:
    """An entry, unpacked a little at a time: one that is longer than it says is noticed before there is room for it."""
    if entry.file_size > pixels.MAX_BYTES:
        raise pixels.Damaged(f"{path}, {entry.filename}: {entry.file_size} bytes is no image of a face")
    try:
        with archive.open(entry) as file:
            return b"".join(iter(lambda: file.read(4096), b""))
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, ValueError) as error:
        raise pixels.Damaged(f"{path}, {entry.filename}: cannot be read ({error}). Fetch the archive again") from None
    except Exception as error:  # zlib.error, lzma.LZMAError have no common parent
        raise pixels.Damaged(f"{path}, {entry.filename}: damaged ({error}). Fetch the archive again") from None


# ---- LMDB of SOTA-FR and HSFace: __len__, __keys__, and msgpack((image bytes, label)) under every key ----


def read_lmdb(path: Path) -> Source:
    try:
        import msgpack
    except ImportError as error:
        raise UserError(f"{path}: LMDB needs {error.name}; run `{console.install('lmdb')}`") from None

    def unpack(data: bytes | None, key: bytes) -> Any:
        if data is None:
            raise UserError(f"{path}: no entry {key!r}; this is not the LMDB of SOTA-FR or HSFace, or it was cut short")
        try:
            return msgpack.unpackb(data, raw=False, strict_map_key=True, use_list=False, max_ext_len=0, max_map_len=0)
        except Exception as error:  # msgpack raises its own family and ValueError
            raise UserError(f"{path}, entry {key!r}: not msgpack of (image, label) ({error})") from None

    database = lmdbpages.Database(path / "data.mdb" if path.is_dir() else path)

    def stored(key: bytes) -> Any:
        return unpack(database.get(key), key)

    def entry(key: bytes) -> tuple[bytes, Any]:
        value = stored(key)
        if not (isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], bytes)):
            raise UserError(f"{path}, entry {key!r}: not (image bytes, label)")
        return value

    listed, count = stored(b"__keys__"), stored(b"__len__")
    if not (isinstance(listed, tuple) and listed and all(isinstance(key, (bytes, str, int)) for key in listed)):
        raise UserError(f"{path}: __keys__ is no list of keys; this is not the LMDB of SOTA-FR or HSFace, or it is empty")
    keys = [key if isinstance(key, bytes) else str(key).encode("utf-8", "surrogatepass") for key in listed]
    if count != len(keys):
        raise UserError(f"{path}: __len__ says {count} but __keys__ lists {len(keys)} entries")
    labels = [entry(key)[1] for key in keys]
    kind = str if labels and isinstance(labels[0], str) else int
    usable = [type(label) is kind and not (isinstance(label, int) and abs(label) >= 2**63) for label in labels]
    if not all(usable):
        odd = usable.index(False)
        raise UserError(f"{path}, entry {keys[odd]!r:.60}: label {labels[odd]!r:.60}; a label is a whole number or text, of one kind")
    label, names = by_name(labels)
    return Source(path, "lmdb", label, names, lambda row: entry(keys[row])[0], lambda row: f"{path}, entry {keys[row]!r}")


FORMS: dict[str, Callable[..., Source]] = {
    "folder": read_folder,
    "zip": read_zip,
    "rec": read_rec,
    "parquet": read_parquet,
    "arrow": read_arrow,
    "webdataset": functools.partial(read_webdataset, by_folder=lambda path, names: people(path, names, None)[:2]),
    "lmdb": read_lmdb,
}


# ---- digests ----


def source_files(path: Path | str) -> list[Path]:
    """The files a source is made of: with a .rec its .idx and lists of labels, but not the benchmarks that lie in the same folder."""
    path = Path(path)
    if kind_of(path) == "rec":
        return rec_files(path)
    if path.is_file():
        return [path]
    return [path / name for name in walk.files(path)]


def left_out(path: Path, kind: str) -> Counter[str]:
    """Endings of the files that lie among the images of a folder or zip and are none that is read, with how many there are."""
    if kind == "folder":
        names = [file.relative_to(path).as_posix() for file in source_files(path)]
    elif kind == "zip":
        with zipfile.ZipFile(path) as archive:
            names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
    else:
        return Counter()
    read = set(list_folder(path) if kind == "folder" else list_zip(path)[1])
    rest = [name for name in names if name.replace("\\", "/") not in read]
    return Counter("in " + junk if (junk := _junk(name)) else Path(name).suffix.lower() or "without ending" for name in rest)


def _junk(name: str) -> str:
    return next((part for part in name.replace("\\", "/").split("/")[:-1] if part.startswith(JUNK)), "")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hex. Raises UserError when it cannot be read, or is a large one of holes."""
    digest = hashlib.sha256()
    try:
        with walk.opened(path) as file:
            require_written(file, path)
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    return digest.hexdigest()


def source_digest(path: Path | str) -> str:
    """SHA-256 of a file, or over the sorted (relative name, size, SHA-256) of the files of a folder or a .rec.

    Raises UserError for a file that is called an image and larger than any, before terabytes of it are read.
    """
    path = Path(path)
    files = source_files(path)
    if files == [path]:
        return file_digest(path)
    for file in files:  # what cannot be read is found out below
        if file.suffix.lower() in pixels.SUFFIXES and file.is_file() and (size := file.stat().st_size) > pixels.MAX_BYTES:
            raise UserError(f"{file}: {size:,} bytes is no image of a face. Take it out")
    base = path if path.is_dir() else path.parent
    digest = hashlib.sha256()
    for file, inside in zip(files, pixels.in_threads(file_digest, files)):
        digest.update(f"{file.relative_to(base).as_posix()}\t{file.stat().st_size}\t{inside}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def stamp(path: Path | str) -> str:
    """A quick sign of change, without reading a file: names, sizes and times of what lies at the top of a set."""

    def top(folder: Path) -> list[Path]:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))

    path = Path(path)
    if path.is_file() or kind_of(path) == "rec":
        entries = source_files(path)
    else:
        entries = top(path)
        if len(entries) == 1 and entries[0].is_dir():
            entries = top(entries[0])
    lines = [f"{entry.name}\t{_sign(entry)}" for entry in entries]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:20]


def full_stamp(path: Path | str) -> str:
    """A sign of change anywhere in a set, without reading a file: names, sizes and times of all its files (20,000 in half a second)."""
    digest = hashlib.sha256()
    for file in source_files(path):
        digest.update(f"{file}\t{_sign(file)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:20]


def _sign(path: Path) -> str:
    """Size and time of a file. A link that leads nowhere has neither; who reads it will say so."""
    try:
        stat = path.stat()
        return f"{stat.st_size}\t{stat.st_mtime_ns}"
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
