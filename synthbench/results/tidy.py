"""Taking things out of a runs folder: runs, comparisons and sweeps by name, and stages that nothing there needs any more.

Needed are the stages of every run, and those of commands that were begun and did not end: `run` notes its plan in requests/ before it
starts, and the note becomes the answer when it is done. Runs of a comparison or sweep stay while it does. A stage that is being built is
locked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthbench.results import lookup
from synthbench.results.record import damaged, read_run
from synthbench.store import Stage, Store, is_name, read_json, remove
from synthbench.types import UserError


@dataclass(frozen=True)
class Spare:
    """A stage that nothing needs."""

    stage: Stage
    work: str  # what it did, for people
    finished: str  # when; "" for one that was begun only
    bytes: int


def spare(store: Store, unfinished: bool = False) -> list[Spare]:
    """Stages that no run, comparison or sweep needs, nor (unless `unfinished`) a command that was begun; largest first.

    Raises UserError when a result is not whole, since what it needs is not known.
    """
    keep = needed(store) | (set() if unfinished else {key for plan in plans(store) for key in plan["stages"]})
    found = []
    for folder in sorted((store.root / "stages").glob("*/*")):
        if not folder.is_dir() or (folder.parent.name, folder.name) in keep:
            continue
        stage = store.stage(folder.parent.name, folder.name)
        facts = stage.manifest() or {}
        found.append(Spare(stage, str(facts.get("work") or facts.get("label") or ""), str(facts.get("finished", "")), size(folder)))
    return sorted(found, key=lambda item: -item.bytes)


def needed(store: Store) -> set[tuple[str, str]]:
    """(name, key) of the stages of every run. Raises UserError for a result that is not whole."""
    keep = set()
    for run in lookup.everything(store, ("run", "evaluation")):
        result = read_run(run.path)
        if result is None:
            raise UserError(f"{damaged(run.path)}, or remove it: which stages it needs is not known")
        keep |= {(row["name"], row["key"]) for row in result["stages"]}
    return keep


def plans(store: Store) -> Iterator[dict[str, Any]]:
    """What was begun and did not end: {"command", "stages": [(name, key)]}."""
    for path in sorted((store.root / "requests").glob("*.json")):
        found = read_json(path)
        if isinstance(found, dict) and isinstance(found.get("stages"), list) and all(map(_is_stage, found["stages"])):
            yield {"command": str(found.get("command", "")), "stages": [tuple(row) for row in found["stages"]], "path": path}


def _is_stage(row: Any) -> bool:
    return isinstance(row, list) and len(row) == 2 and all(map(is_name, row))


def prune(store: Store, found: Sequence[Spare], unfinished: bool = False) -> tuple[int, int]:
    """Delete what of `found` is still spare; how many stages, and their bytes. One that is being built stays."""
    still = {item.stage.folder for item in spare(store, unfinished)}  # somebody may have begun something since the user was asked
    gone = [item for item in found if item.stage.folder in still and store.forget(item.stage, wait=False)]
    if unfinished:
        for plan in list(plans(store)):
            plan["path"].unlink(missing_ok=True)
    return len(gone), sum(item.bytes for item in gone)


def at_work(store: Store) -> list[str]:
    """Names of the stages that are being built at this moment."""
    return [lock.parent.name for lock in sorted((store.root / "stages").glob("*/*.lock")) if Stage.is_locked(lock)]


# -------------------------------------------------------------------------------------------------- runs and their kin


def check_free(store: Store, doomed: Sequence[lookup.Made]) -> None:
    """Raises UserError when something that stays needs one of `doomed`, or somebody works on one."""
    leaving = {(item.kind, item.name) for item in doomed}
    for group in lookup.everything(store, ("comparison", "sweep")):
        if (group.kind, group.name) in leaving:
            continue
        if used := [item.name for item in doomed if item.kind in ("run", "evaluation") and item.name in _runs_of(group)]:
            raise UserError(
                f"{group.kind} {group.name} needs {', '.join(used)}; remove it too, in the same command or before: "
                f"synthbench runs rm {group.name}"
            )
    for item in doomed:
        if any(Stage.is_locked(lock) for lock in item.folder.rglob("*.lock")):
            raise UserError(f"{item.kind} {item.name} is being worked on; stop that first")


def _runs_of(group: lookup.Made) -> set[str]:
    """Of one that is not whole too, as other versions wrote it: what it names stays."""
    found = read_json(group.path)
    parts = [found.get(key) for key in ("rows", "points", "confirmed")] if isinstance(found, dict) else []
    rows = [row for part in parts if isinstance(part, list) for row in part if isinstance(row, dict)]
    names = [name for row in rows for runs in [row.get("runs")] for name in [row.get("run"), *(runs if isinstance(runs, list) else [])]]
    return {name for name in names if isinstance(name, str)}


def remove_made(store: Store, doomed: Iterable[lookup.Made]) -> None:
    """Delete the folders, and the answers that were remembered from them. Stages stay: see `prune`."""
    for item in doomed:
        remove(item.folder)
        for path in (store.root / "requests").glob("*.json") if item.kind == "run" else ():
            note = read_json(path)
            if isinstance(note, dict) and note.get("run") == item.name:
                path.unlink(missing_ok=True)


def size(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
