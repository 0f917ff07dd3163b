"""What real data and weights there are, what may be done with them, and where they lie on this machine. Nothing is downloaded.

The catalogue is fixed. What the user registers is kept in `sources.json`, see registered.py.
"""

from __future__ import annotations

import calendar
import contextlib
import hashlib
import json
import re
import shlex
import time
from collections.abc import Collection, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from synthbench import console
from synthbench.config import did_you_mean
from synthbench.data import looking, walk
from synthbench.data.catalogue import CATALOGUE, WORLD, Entry, Source
from synthbench.data.labelled import Source as LabelledSet
from synthbench.data.readers import file_digest, read_registered, read_source, source_files
from synthbench.data.registered import (
    KINDS,
    LISTS,
    all_entries,
    content_of,
    digest_of,
    entry_of,
    full_stamp_of,
    home,
    names_registered,
    paths_of,
    save,
    stamp_of,
)
from synthbench.files import require_itself
from synthbench.store import read_json, write_json
from synthbench.system import locked
from synthbench.types import DataMissing, UserError

__all__ = ["CATALOGUE", "digest_of", "home", "names_registered"]  # and what is defined here

OPTIONS = {  # of `data add`, by kind
    "faces": {
        "column": "a column is chosen in a set of faces",
        "split": "a split is chosen of a set of faces",
        "labels": "a list of labels goes with a set of faces",
    },
    "pairs": {"pairs": "a pair list goes with kind pairs"},
    "templates": {},
    "weights": {"colour": "only weights have a colour order"},
}


class Overwritten(UserError):
    """A source was written to while it was read."""


@dataclass(frozen=True)
class Lacking:
    """What a plan needs and is not there: what it is, and the command that adds it."""

    name: str
    kind: str  # of KINDS; empty when nobody says
    title: str
    licence: str
    url: str
    command: str


_lacking: ContextVar[dict[str, Lacking] | None] = ContextVar("lacking", default=None)  # filled by `find` while `standing_in`
_declared: ContextVar[Collection[str]] = ContextVar("declared", default=())


def registered(name: str) -> bool:
    """Is it registered, and still there?"""
    entry = entry_of(name)
    return entry is not None and all(path.exists() for path in paths_of(entry))


def add(name: str, path: Path | str, kind: str | None = None, **said: Any) -> Entry:
    """Look into `path` and register it as `name`. A name outside the catalogue needs `kind`, weights outside it need `colour`.

    said: what the files do not tell, or several of them tell: colour (of weights), pairs (the list of a benchmark of images), and of faces
    column, split, labels (`Source.reading`).
    Raises UserError when it cannot be read, is of another kind, or is known not to be what the catalogue means.
    """
    options = {key: value for key, value in said.items() if value is not None}
    if not re.fullmatch(r"\w[\w .+-]{0,99}", name) or name.startswith(WORLD):
        raise UserError(f"{name!r} cannot be a name: letters, digits, space, . + - _ may be in it, and {WORLD} is for the embedded world")
    known = CATALOGUE.get(name)
    if known is None and kind is None:
        raise UserError(
            f"{name!r} is not in the catalogue{did_you_mean(name, CATALOGUE)}; for a name of your own give --kind {'|'.join(KINDS)}"
        )
    if known is not None and kind not in (None, known.kind):
        raise UserError(f"{name} is {known.kind}, not {kind}; choose another name")
    kind = known.kind if known else str(kind)
    if kind not in KINDS:
        raise UserError(f"kind {kind!r} is not one of {', '.join(KINDS)}")
    for option in options:
        if option not in OPTIONS[kind]:
            why = next(known[option] for known in OPTIONS.values() if option in known)
            raise UserError(f"{name}: {why}, and this is of kind {kind}")
    path = Path(path).expanduser().absolute()
    options |= {key: str(Path(options[key]).expanduser().absolute()) for key in LISTS if key in options}
    for file in (path, *(Path(options[key]) for key in LISTS if key in options)):
        walk.require_there(file)
        require_itself(file)
    if kind == "weights":
        options["colour"] = looking.colour_order(name, known, options.get("colour"))
    console.note(f"reading all of {path}, to see what it holds and for its digest")
    entry = Entry(name, kind, known.title if known else name, path, digest="", stamp="", size=0, added="", options=options)
    before = full_stamp_of(entry)
    looked = {"faces": looking.faces, "pairs": looking.pairs, "templates": looking.templates, "weights": looking.weights}[kind](
        path, options, known
    )
    doubts = [*filter(None, [looking.difference(known, looked)]), *looked.pop("doubts", ())]
    entry = replace(entry, note="; ".join(doubts), added=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **looked)
    entry = replace(
        entry,
        digest=content_of(entry),
        stamp=stamp_of(entry),
        full_stamp=before,
        size=sum(file.stat().st_size for file in source_files(path)),
    )
    if known and known.sha256 and not entry.digest.startswith(known.sha256):
        raise UserError(f"{path} is not {known.title}: its SHA-256 begins {entry.digest[:8]}, not {known.sha256}. Fetch it at {known.url}")
    if full_stamp_of(entry) != before:
        raise Overwritten(f"{path} was written to while it was read; run the same command when that has ended")
    save(name, entry)
    return entry


@contextlib.contextmanager
def standing_in(declared: Collection[str] = ()) -> Iterator[dict[str, Lacking]]:
    """While a plan is made: `find` answers for what is not there with what is published about it, and all that is lacking is collected.

    declared: names that a protocol uses, so that one outside the catalogue is data of the user's and no slip of the pen.
    What is wired inside may be shown, never run.
    """
    found: dict[str, Lacking] = {}
    tokens = _lacking.set(found), _declared.set(declared)
    try:
        yield found
    finally:
        _lacking.reset(tokens[0])
        _declared.reset(tokens[1])


def find(name: str, kind: str | None = None) -> Entry:
    """The registered source `name`. Raises DataMissing when it is not there, UserError when it is unknown or was changed since."""
    lacking = _lacking.get()
    try:
        return _find(name, kind)
    except UserError as error:
        if lacking is None or not (isinstance(error, DataMissing) or (name in _declared.get() and entry_of(name) is None)):
            raise
    known = CATALOGUE.get(name) or Source(name, kind or "", name, "the user's", "")
    lacking[name] = Lacking(name, known.kind, known.title, known.licence, known.url, _command(known))
    images = known.images or 2 * known.pairs
    if entry := entry_of(name):  # registered, and gone
        return replace(entry, path=looking.NOWHERE / name)
    return Entry(
        name, known.kind, known.title, looking.NOWHERE / name, digest=f"lacking {name}", stamp="", size=0, added="",
        images=images, identities=known.identities, pairs=known.pairs, options={"colour": known.colour} if known.kind == "weights" else {},
    )  # fmt: skip


def _command(known: Source) -> str:
    """The command that adds it, with what must be said of a file outside the catalogue."""
    own = {"faces": "", "pairs": " [--pairs LIST]", "templates": "", "weights": " --colour rgb|bgr"}
    how = "" if known.name in CATALOGUE else f" --kind {known.kind or '|'.join(KINDS)}{own.get(known.kind, '')}"
    return f"synthbench data add {known.name} {'DIR' if known.files else 'PATH'}{how}"


def _find(name: str, kind: str | None) -> Entry:
    entry = entry_of(name)
    known = CATALOGUE.get(name)
    if entry is None and known is None:
        hint = did_you_mean(name, {*CATALOGUE, *names_registered()}) or "."
        raise UserError(f"no data or weights are called {name!r}{hint} To register your own: `{add_command(name, kind)}`")
    if entry is None and known is not None:
        folder = f", a folder with `{'`, `'.join(known.files)}`".replace("|", "` or `") if known.files else ""
        raise DataMissing(
            f"{known.title} is not registered, and nothing is ever downloaded. Licence: {known.licence}. Ask for it at {known.url}, "
            f"then run `{add_command(name)}`{folder}"
        )
    assert entry is not None
    if kind and entry.kind != kind:
        raise UserError(f"{name} is registered as {entry.kind}, but {kind} are needed here")
    for path in paths_of(entry):
        if not path.exists():
            raise DataMissing(f"{entry.title} was registered at {path} but is not there any more. Run `synthbench data add {name} PATH`")
    if stamp_of(entry) != entry.stamp:
        return verify(name)
    return entry


def look_once(path: Path, colour: str | None, input: str) -> None:
    """Look into a network in a file that is not registered, the first time it is met. Raises UserError."""
    from synthbench.models.checkpoints import look

    if path.is_dir() or path.suffix == ".safetensors":
        return  # see `look`: loading one is no risk
    walk.require_there(path)
    require_itself(path)
    note, key = home() / "networks.json", f"{file_digest(path)} {input}"
    known = read_json(note)
    if isinstance(known, list) and key in known:
        return
    look(path, colour=colour, input=input, silent=True)  # who loads it notes the same
    with contextlib.suppress(OSError):  # where nothing can be kept, it is looked into each time
        home().mkdir(parents=True, exist_ok=True)
        with locked(home() / "sources.lock"):
            known = read_json(note)
            write_json(note, [*(known if isinstance(known, list) else []), key])


def open_set(found: Entry | Path) -> LabelledSet:
    """The faces of a registered source, or of one at a path of the user's."""
    return read_registered(found.path, found.options) if isinstance(found, Entry) else read_source(found)


def add_command(name: str, kind: str | None = None) -> str:
    """The command that registers `name`; only what lies on the user's disk is left to fill in."""
    known = CATALOGUE.get(name)
    if known:
        return f"synthbench data add {name} {'DIR' if known.files else 'PATH'}"
    return f"synthbench data add {name} PATH --kind {kind or '|'.join(KINDS)}" + (" --colour COLOUR" if kind == "weights" else "")


def remove(name: str) -> Entry:
    """Forget the registered source `name`; its files stay where they are. Raises UserError when nothing of the name is registered."""
    entry = entry_of(name)
    if entry is None:
        raise UserError(f"nothing is registered as {name!r}" + did_you_mean(name, names_registered(), show_all=True))
    save(name, None)
    return entry


def show(name: str) -> dict[str, str]:
    """What is known of a source, registered or of the catalogue, by field; raises UserError for a name that is neither."""
    entry, names = entry_of(name), {*CATALOGUE, *names_registered()}
    if name not in names:
        raise UserError(f"no data or weights are called {name!r}" + did_you_mean(name, names))
    row = _row(name, entry, every_file=True)
    facts = {key: row[key] for key in ("name", "kind", "title", "state", "path")}
    if entry:
        facts |= {"holds": holds(entry), "read as": entry.read, "sha256": entry.digest, "registered": entry.added, "note": entry.note}
        facts |= {key: str(value) for key, value in entry.options.items()}
    else:
        facts["to add it"] = add_command(name)
    return {key: value for key, value in {**facts, "licence": row["licence"], "ask at": row["url"]}.items() if value}


def holds(entry: Entry) -> str:
    """`10,572 people, 490,623 images, 3 GB`."""
    counts = (("identities", "people"), ("pairs", "pairs"), ("images", "images"))
    parts = [f"{getattr(entry, field):,} {word}" for field, word in counts if getattr(entry, field)]
    unlabelled = ["no labels"] if entry.kind == "faces" and not entry.identities else []
    return ", ".join([*parts, *unlabelled, console.size(entry.size)])


def understood(name: str) -> str:
    """What was read of the registered faces `name`, in words; empty for what is not registered."""
    entry = entry_of(name)
    if entry is None:
        return ""
    return entry.read or f"registered by an earlier version; `{_again(entry)}` says what is read of it"


def misgivings(name: str) -> list[str]:
    """What is said again before each run of the registered `name`: that its faces are hardly aligned."""
    entry = entry_of(name)
    return [doubt for doubt in entry.note.split("; ") if looking.ARCFACE in doubt] if entry else []


def lpips_files() -> tuple[Path, Path]:
    """The registered weights of VGG-16 and of the heads. Raises DataMissing."""
    try:
        backbone, heads = (Path(find(name, "weights").path) for name in ("vgg16-imagenet", "lpips-vgg"))
    except DataMissing as error:
        raise DataMissing(
            f"{error}\nWithout LPIPS, images are compared on the encoder's own feature maps: train.perceptual=encoder"
        ) from None
    return backbone, heads


def verify(name: str) -> Entry:
    """Hash again. Raises UserError when the content is not what was registered, DataMissing when it is gone."""
    entry = entry_of(name)
    if entry is None:
        return find(name)
    for path in paths_of(entry):
        if not path.exists():
            raise DataMissing(f"{entry.title} was registered at {path} but is not there any more. Run `synthbench data add {name} PATH`")
    quick, full, now = stamp_of(entry), full_stamp_of(entry), content_of(entry)
    if now != entry.digest:
        raise UserError(
            f"{name} at {entry.path} has changed since it was registered on {entry.added}: SHA-256 {now[:12]}, was {entry.digest[:12]}"
            f"{_younger(entry)}. If the new content is what you want, run `{_again(entry)}` again"
        )
    current = replace(entry, stamp=quick, full_stamp=full)
    if current != entry:  # touched or copied, not changed
        save(name, current)
    return current


def recheck(name: str) -> None:
    """What is cached of the registered `name` shall be what lies there now: a file that is written over changes no folder's time.

    Every file is asked for its time: seconds for a folder of a million, by guess. Raises UserError for a set that has changed; one that is
    gone is found out elsewhere.
    """
    entry = entry_of(name)
    if entry and all(path.exists() for path in paths_of(entry)) and full_stamp_of(entry) != entry.full_stamp:
        verify(name)


def _younger(entry: Entry) -> str:
    """Which files were written since `entry` was registered, for a message."""
    try:
        began = calendar.timegm(time.strptime(entry.added, "%Y-%m-%dT%H:%M:%SZ"))
    except ValueError:
        return ""
    files = [file for path in paths_of(entry) for file in source_files(path)]
    younger = [str(file) for file in files if file.stat().st_mtime >= began]
    return f"; {console.counted(len(younger), 'file')} of {len(files):,} written since, such as {younger[0]}" if younger else ""


def _again(entry: Entry) -> str:
    """The command that registers the files of `entry` anew."""
    kind = [] if entry.name in CATALOGUE else ["--kind", entry.kind]
    said = {key: value for key, value in entry.options.items() if not (key == "colour" and entry.name in CATALOGUE)}
    options = [part for key, value in said.items() for part in (f"--{key}", str(value))]
    return shlex.join(["synthbench", "data", "add", entry.name, str(entry.path), *kind, *options])


@contextlib.contextmanager
def unchanged(entry: Entry) -> Iterator[None]:
    """What is read meanwhile is what `entry.digest` names: a file written in place changes neither names nor times of folders.

    Raises UserError when a file is not what was registered, or was written to meanwhile.
    """
    before = full_stamp_of(entry)
    if before != entry.full_stamp and verify(entry.name).digest != entry.digest:
        raise UserError(f"{entry.name} was registered anew since this command began; run it again")
    yield
    if full_stamp_of(entry) != before:
        raise Overwritten(f"{entry.name} at {entry.path} was written to while it was read. Register what is there now: `{_again(entry)}`")


def _state(entry: Entry | None, every_file: bool) -> str:
    """registered, changed (by date or size), gone, missing, or unreadable: one that is broken says so, and is in nobody's way."""
    if entry is None:
        return "missing"
    try:
        if not all(path.exists() for path in paths_of(entry)):
            return "gone"
        same = stamp_of(entry) == entry.stamp and not (every_file and entry.full_stamp and full_stamp_of(entry) != entry.full_stamp)
        return "registered" if same else "changed"
    except (OSError, UserError):
        return "unreadable"


def status(every_file: bool = True) -> list[dict[str, str]]:
    """A row per source: the catalogue, then the user's own; for its state see `_state`.

    every_file: look at the date and size of each, which takes seconds for a folder of a million; else at those on top.
    """
    found = all_entries()
    return [_row(name, found.get(name), every_file) for name in [*CATALOGUE, *sorted(set(found) - set(CATALOGUE))]]


def _row(name: str, entry: Entry | None, every_file: bool) -> dict[str, str]:
    known = CATALOGUE.get(name)
    return {
        "name": name,
        "kind": entry.kind if entry else known.kind if known else "",
        "state": _state(entry, every_file),
        "title": known.title if known else name,
        "path": str(entry.path) if entry else "",
        "holds": holds(entry) if entry else "",
        "digest": entry.digest if entry else "",
        "licence": known.licence if known else "the user's",
        "url": known.url if known else "",
        "note": entry.note if entry else "",
    }


def fingerprint() -> str:
    """Changes when anything registered does: part of the answer to `is this the same command on the same data`."""
    rows = [(row["name"], row["state"], row["digest"]) for row in status(every_file=False)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:20]
