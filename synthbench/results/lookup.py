"""What was made in a runs folder, by name: the one place where `latest`, a beginning or a full name becomes a run, comparison or sweep.

`latest` is the last thing that the user asked for. `run`, `compare`, `sweep` and the like note it in <runs>/asked.jsonl when they are done,
also when the answer was there already; the baseline, the rows of a comparison and the points of a sweep were asked for by nobody.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthbench import console
from synthbench.config import did_you_mean
from synthbench.protocol import OWN
from synthbench.results import shapes
from synthbench.results.record import Result, called, cell, damaged, read_run
from synthbench.store import Store, append, is_number, json_lines, read_json
from synthbench.types import UserError

PLACES = {"run": ("results", "run.json"), "comparison": ("comparisons", "comparison.json"), "sweep": ("sweeps", "sweep.json")}
KINDS = tuple(PLACES)  # what has a report
PLACES["evaluation"] = ("evaluations", "evaluation.json")  # of weights from elsewhere; in the form of a run, as far as it goes
BY_OTHERS = ("compare", "sweep", "study", "reproduce")  # commands whose runs were not asked for by themselves
SHOWN = 12  # candidates in a message


@dataclass(frozen=True)
class Made:
    """A run, comparison or sweep in a runs folder."""

    kind: str
    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def path(self) -> Path:
        """The file that holds the result; a sweep has none before its first point is done."""
        return self.folder / PLACES[self.kind][1]


def everything(store: Store, kinds: Sequence[str] = KINDS) -> list[Made]:
    """All there is of `kinds`, by kind and name; whether it is whole is not looked at."""
    found = []
    for kind in kinds:
        place, file = PLACES[kind]
        marks = (file, "design.json") if kind == "sweep" else (file,)
        folders = {path.parent for mark in marks for path in (store.root / place).glob(f"*/{mark}")}
        found += [Made(kind, folder) for folder in sorted(folders)]
    return found


def find(store: Store, name: str, kinds: Sequence[str] = KINDS) -> Made:
    """What is called `name`: in full, by a unique beginning, or `latest`. Says which it is when the name was not written in full.

    Raises UserError when there is none, or more than one, with the candidates.
    """
    there = everything(store, kinds)
    if name == "latest":
        chosen = latest(store, there, kinds)
    else:
        exact = [item for item in there if item.name == name]
        found = exact or [item for item in there if name and item.name.startswith(name)]
        if not found:
            where = store.root / PLACES[kinds[0]][0] if len(kinds) == 1 else store.root
            raise UserError(f"no {_or(kinds)} {name!r} in {where}" + did_you_mean(name, (item.name for item in there), show_all=True))
        if len(found) > 1:
            raise UserError(f"{name!r} is {'the name' if exact else 'the beginning'} of {_candidates(found, kinds)}")
        chosen = found[0]
    if chosen.name != name:
        console.note(f"{name} is {chosen.kind} {chosen.name}: {contents(store, chosen)}")
    return chosen


def find_words(store: Store, words: Sequence[str]) -> Made:
    """As `find`, of the words NAME or KIND NAME."""
    if len(words) > 2 or (len(words) == 2 and words[0] not in KINDS):
        raise UserError(f"{' '.join(words)!r}: give NAME or KIND NAME, where KIND is {_or(KINDS)}")
    return find(store, words[-1], words[:1] if len(words) == 2 else KINDS)


def find_run(store: Store, name: str) -> Result:
    """The result of the run called `name`. Raises UserError when there is none, more than one, or it is not whole."""
    return read(find(store, name, ("run",)))


def read(run: Made) -> Result:
    """The result of a run. Raises UserError when it is not whole."""
    result = read_run(run.path)
    if result is None:
        raise damaged(run.path)
    return result


def read_group(path: Path) -> dict[str, Any]:
    """A comparison.json or sweep.json. Raises UserError when it is not whole."""
    found = read_json(path)
    if not shapes.whole(path.stem, found):
        raise UserError(f"{path} is not a whole {path.stem}; make it again with synthbench {path.stem.replace('comparison', 'compare')}")
    return found  # type: ignore[no-any-return]


def asked(store: Store, kind: str, name: str) -> None:
    """Note what the user asked for and has now. A runs folder that cannot be written is only read, and `latest` stays what it was."""
    path = store.root / "asked.jsonl"
    if path.exists() and not path.is_file():
        return  # a pipe would be written to for ever
    with contextlib.suppress(OSError):
        append(path, json.dumps({"time": time.time(), "kind": kind, "name": name}) + "\n")


def latest(store: Store, there: Iterable[Made], kinds: Sequence[str]) -> Made:
    """The last of `there` that the user asked for. Raises UserError when nothing of `kinds` was asked for."""
    noted = {(line["kind"], line["name"]): line["time"] for line in _asked(store)}
    begun = min(noted.values(), default=float("inf"))  # from then on runs that are asked for are noted

    def when(item: Made) -> float | None:
        if (item.kind, item.name) in noted:
            return float(noted[item.kind, item.name])
        changed = item.path.stat().st_mtime if item.path.is_file() else item.folder.stat().st_mtime
        return changed if item.kind != "run" or (changed < begun and _own(item)) else None

    there = list(there)
    times = [(time, item) for item in there if (time := when(item)) is not None]
    if times:
        return max(times, key=lambda pair: pair[0])[1]
    if there:
        raise UserError(f"latest: no {_or(kinds)} was asked for by itself; there are {_candidates(there, kinds)}")
    raise UserError(f"latest: there is no {_or(kinds)} in {store.root}")


def _asked(store: Store) -> Iterator[dict[str, Any]]:
    """Whole lines of the note, oldest first."""
    for line in json_lines(store.root / "asked.jsonl"):
        if is_number(line.get("time")) and isinstance(line.get("kind"), str) and isinstance(line.get("name"), str):
            yield line


def _own(item: Made) -> bool:
    """Whether something that was made before notes were taken was asked for by itself: its command says so."""
    found = read_json(item.path) if item.kind == "run" else None
    words = str(found.get("command", "")).split()[1:] if isinstance(found, dict) else []
    return next((word for word in words if not word.startswith("-")), "") not in BY_OTHERS


# ---------------------------------------------------------------------------------------------------------- what is in it


def contents(store: Store, item: Made) -> str:
    """What a run, comparison or sweep holds, in a line."""
    one = item.kind in ("run", "evaluation")
    found: Any = read_run(item.path) if one else read_json(item.path)
    if not (found if one else shapes.whole(item.kind, found)):
        return "not whole"
    if one:
        return run_line(found)
    if item.kind == "comparison":
        return f"{', '.join(row['label'] for row in found['rows'])}; protocol {found['protocol']}, {_seeds(found)}"
    points = f"{len(found['points'])} points of {', '.join(found['parameters'])}"
    return f"{found['generator']} {found['volume']}, {points}; protocol {found['protocol']}, {_seeds(found)}"


def run_line(result: Result) -> str:
    """Generator, volume, protocol, seeds, AVG."""
    average = cell(result, "verification/avg/accuracy")
    what = f"{called(result)} {result['volume']}".rstrip()  # weights from elsewhere have no volume
    line = f"{what}, protocol {result['protocol']}, {_seeds(result)}"
    return line if average == "-" else f"{line}, AVG {average} %"


def photographs(store: Store, result: Result) -> str:
    """Which images of a run's set are photographs of real people, as its generator's traits say; "" for none.

    People of the real set are on photographs unless that set is rendered.
    """
    traits = result.get("traits") or {}
    known = str(traits.get("real_photographs", "unknown"))
    if traits.get("new_identities", True) or result.get("parts"):  # which say so each for itself
        return known
    return "" if _world(store, result) else known


def rendered(store: Store, result: Mapping[str, Any]) -> bool:
    """Whether no image of a run's set shows a real person: the real set is the embedded world, and the generator brought no photographs."""
    if parts := result.get("parts"):
        return all(part["rendered"] for part in parts.values())
    traits, enroll = result.get("traits", {}), result.get("settings", {}).get("enroll")
    source = enroll.get("source", "real") if isinstance(enroll, dict) else "real"
    own = traits.get("new_identities") and (traits.get("real_photographs") or source not in OWN)
    return not (own or set(result.get("learnt_from", ())) - {"real"}) and _world(store, result)


def _world(store: Store, result: Mapping[str, Any]) -> bool:
    """Whether the real set of a run is the embedded world."""
    rows = [row for row in result["stages"] if row["name"] == "real"]
    works = [str((store.stage(row["name"], row["key"]).manifest() or {}).get("work", "")) for row in rows]
    return bool(works) and all(work.startswith("embedded world") for work in works)


def _seeds(found: dict[str, Any]) -> str:
    count = len(found["seeds"])
    return f"{count} seed{'s' if count > 1 else ''}"


def _or(kinds: Sequence[str]) -> str:
    return f"{', '.join(kinds[:-1])} or {kinds[-1]}" if len(kinds) > 1 else kinds[0]


def _candidates(found: Sequence[Made], kinds: Sequence[str]) -> str:
    """`3 runs: a, b, c`, or with the kind of each."""
    names = [item.name if len(kinds) == 1 else f"{item.kind} {item.name}" for item in found[:SHOWN]]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    what = f"{kinds[0]}s" if len(kinds) == 1 else "things"
    return f"{len(found)} {what}: {', '.join(names)}{more}"
