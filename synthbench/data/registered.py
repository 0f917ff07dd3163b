"""What is registered, as it is kept in `sources.json`, and the digests and signs of change of its files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from platformdirs import user_data_path

from synthbench.data import looking
from synthbench.data.catalogue import Entry
from synthbench.data.readers import TAKES, file_digest, full_stamp, kind_of, read_source, source_digest, stamp
from synthbench.store import is_texts, read_json, write_json
from synthbench.system import locked
from synthbench.types import UserError

REGISTRY = "sources.json"
LISTS = ("pairs", "labels")  # options that are files
READING = ("column", "split", "unlabelled")  # of `Source.reading`, beside them
_KNOWN = {item.name for item in fields(Entry)}
KINDS = ("faces", "pairs", "templates", "weights")
_COUNTS = ("size", "images", "identities", "pairs")
_NEEDED = {item.name for item in fields(Entry) if item.default is MISSING and item.default_factory is MISSING}


def home() -> Path:
    """The folder of the registry: $SYNTHBENCH_DATA, or the user's data folder, or ~/.synthbench where an earlier version began it."""
    if wish := os.environ.get("SYNTHBENCH_DATA"):
        return Path(wish).expanduser()
    usual, earlier = user_data_path("synthbench", appauthor=False), Path.home() / ".synthbench"
    return earlier if (earlier / REGISTRY).exists() and not (usual / REGISTRY).exists() else usual


def entries() -> dict[str, dict[str, Any]]:
    """Name -> fields of an Entry, as in the file. Raises UserError when that is damaged."""
    path = home() / REGISTRY
    found = read_json(path)
    if path.exists() and not (isinstance(found, dict) and all(_is_entry(name, entry) for name, entry in found.items())):
        raise UserError(f"{path} is not readable as JSON, or no list of sources; mend it, or delete it and register again")
    return found or {}


def _is_entry(name: str, entry: Any) -> bool:
    """Whether it has the fields of an Entry, each of its kind."""
    if not (isinstance(entry, dict) and _NEEDED <= entry.keys() <= _KNOWN and entry["name"] == name and entry["kind"] in KINDS):
        return False
    texts = [value for key, value in entry.items() if key not in ("options", *_COUNTS)]
    if not is_texts(texts) or not entry["path"] or any("\0" in text for text in texts):
        return False
    if not all(type(entry.get(key, 0)) is int and 0 <= entry.get(key, 0) < 2**63 for key in _COUNTS):
        return False
    options = entry.get("options", {})
    return isinstance(options, dict) and is_texts([text for text in options.values() if "\0" not in str(text)]) and len(options) < 10


def all_entries() -> dict[str, Entry]:
    """All that is registered, by name."""
    return {name: Entry(**{**found, "path": Path(found["path"])}) for name, found in entries().items()}


def entry_of(name: str) -> Entry | None:
    return all_entries().get(name)


def names_registered() -> list[str]:
    return sorted(entries())


def paths_of(entry: Entry) -> list[Path]:
    """The set, and the list that belongs to it, of pairs or of labels."""
    return [entry.path, *(Path(entry.options[key]) for key in LISTS if key in entry.options)]


def stamp_of(entry: Entry) -> str:
    """A quick sign of change."""
    return "-".join(stamp(path) for path in paths_of(entry))


def full_stamp_of(entry: Entry) -> str:
    """A sign of change of any file."""
    return "-".join(full_stamp(path) for path in paths_of(entry))


def content_of(entry: Entry) -> str:
    """The digest of its files, and of how a set of faces is read where it could be read otherwise (`Source.reading`)."""
    return _with_reading(source_digest(entry.path), entry)


def _with_reading(digest: str, entry: Entry) -> str:
    for path in paths_of(entry)[1:]:
        digest = hashlib.sha256(f"{file_digest(path)}\n{digest}".encode()).hexdigest()
    how = {key: entry.options[key] for key in READING if key in entry.options}
    return hashlib.sha256(f"{digest}\n{json.dumps(how, sort_keys=True)}".encode()).hexdigest() if how else digest


def save(name: str, entry: Entry | None) -> None:
    """Write down what `name` is; None: nothing any more."""
    folder = home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "sources.lock"):
            found = {key: value for key, value in entries().items() if entry or key != name}
            write_json(folder / REGISTRY, found | ({name: {**asdict(entry), "path": str(entry.path)}} if entry else {}))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); set SYNTHBENCH_DATA to another folder") from None


def digest_of(source: Entry | Path | str) -> str:
    """What names the content of a set, registered or not; files are read again only when one of them has another size or time."""
    if isinstance(source, Entry):
        if looking.stands_in(source.path):
            return digest_of(source.path)
        files = kind_of(source.path) in ("folder", "zip")  # a list may say who is on images that lie as no set does
        return _with_reading(_kept_digest(source.path) if files else digest_of(source.path), source)
    path = Path(source)
    if looking.stands_in(path):
        return str(path)
    how = {}
    if kind_of(path) in TAKES:
        with contextlib.suppress(UserError):  # a folder of weights is no set, and has a digest too
            how = dict(read_source(path).reading)
    entry = Entry("", "faces", "", path, "", "", 0, "", options=how)
    return _with_reading(_kept_digest(path), entry) if how else _kept_digest(path)  # without: as earlier versions did


def _kept_digest(path: Path) -> str:
    """`source_digest`, of the last time where no file has another size or time since."""
    place, now = str(path.absolute()), full_stamp(path)
    cache = home() / "digests.json"
    if (entry := _digests(cache).get(place)) and entry[0] == now:
        return entry[1]
    digest = source_digest(path)
    if full_stamp(path) == now:  # nobody has written meanwhile
        with contextlib.suppress(OSError):  # where nothing can be kept, it is read each time
            home().mkdir(parents=True, exist_ok=True)
            with locked(home() / "sources.lock"):
                write_json(cache, {**_digests(cache), place: [now, digest]})
    return digest


def _digests(cache: Path) -> dict[str, list[str]]:
    """Path -> (full stamp, digest)."""
    found = read_json(cache)
    entries = found.items() if isinstance(found, dict) else ()
    return {place: entry for place, entry in entries if is_texts(entry) and len(entry) == 2}
