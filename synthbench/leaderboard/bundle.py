"""`synthbench bundle`: a run or comparison as one file for others to check. The same result gives the same bytes.

    bundle.json                         what it is, the data it needed with digest and licence, versions, SHA-256 of every other file
    results/RUN/run.json, contact.png   the result, without its runs folder; some synthetic images
    evaluations/, comparisons/          rows of networks from elsewhere, and what a comparison says
    stages/evaluate/KEY/                what happened to each pair, by the run's recognizers, those of its real baseline, and untrained ones
    stages/benchmarks/KEY/              which pairs: labels and groups, no images
    stages/recognizer/KEY/              what the recognizers are; with `weights` the recognizers themselves

No photograph is in it, and no name of a person of the real set but of those whom the protocol itself names to exclude them.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from synthbench import __version__, console
from synthbench.config import Layer, build
from synthbench.data.catalogue import CATALOGUE
from synthbench.data.registered import entry_of
from synthbench.leaderboard.archive import FIRST, FORMAT, LARGEST, MOST, MOST_BYTES
from synthbench.protocol import Protocol
from synthbench.report.blocks import encode
from synthbench.report.data import Run, finished
from synthbench.results import lookup
from synthbench.results.comparable import keys, sides
from synthbench.results.record import Result, read_run
from synthbench.store import Store, writing
from synthbench.types import UserError

PEOPLE, ACROSS = 6, 8  # rows and columns of a contact sheet
LOOKED_AT = 100  # people of a set, for those who have as many images
THEN = (1980, 1, 1, 0, 0, 0)  # the time of every file: a zip cannot hold an earlier one
KINDS = ("run", "comparison")


def bundle(name: str, runs: Path, out: Path | None = None, weights: bool = False) -> Path:
    """Write the run or comparison called `name` to the file `out`, by default NAME.zip, and return it; `weights`: with its recognizers.

    Raises UserError where `out` exists, or what happened to the pairs is not there any more.
    """
    store = Store(runs.absolute())
    item = lookup.find(store, name, KINDS)
    results = [lookup.read(item)] if item.kind == "run" else [_row(store, run) for run in lookup.read_group(item.path)["runs"]]
    out = out or Path(f"{item.name}.zip")
    if out.exists():
        raise UserError(f"{out} exists; give a file that does not, or delete it")
    files: dict[str, bytes] = {}
    for result in results:
        files |= dict(_of_run(store, result, weights))
    if item.kind == "comparison":
        found = lookup.read_group(item.path)
        files[f"comparisons/{item.name}/comparison.json"] = _json({**found, "command": _command(found)})
    if odd := [place for place in files if not any(re.fullmatch(allowed, place) for allowed in LARGEST)]:
        raise UserError(f"{odd[0]} cannot be a file of a bundle; names are letters, digits, space and . _ + -")
    if len(files) > MOST or sum(map(len, files.values())) > MOST_BYTES:
        raise UserError(f"{item.name} is too large for a bundle; leave out --weights, or bundle its runs one by one")
    about = {
        "bundle": FORMAT,
        "kind": item.kind,
        "name": item.name,
        "runs": [result["run"] for result in results],
        "made": finished([Run(result, store) for result in results]),
        "weights": weights,
        "inputs": _inputs(results),
        "versions": {"synthbench": __version__, "python": platform.python_version(), "numpy": np.__version__},
        "files": {place: hashlib.sha256(data).hexdigest() for place, data in sorted(files.items())},
    }
    _write(out, {FIRST: _json(about), **dict(sorted(files.items()))})
    return out


def _row(store: Store, run: str) -> Result:
    """A row of a comparison: a run, or a network from elsewhere. Raises UserError when it is gone."""
    for kind in ("run", "evaluation"):
        folder, file = lookup.PLACES[kind]
        if result := read_run(store.root / folder / run / file):
            return result
    raise UserError(f"the row {run} is not in {store.root} any more; the command that made the comparison makes it again")


def _command(found: Result) -> str:
    """Without the runs folder, which is nobody else's business."""
    return re.sub(r" --runs[ =]('[^']*'|\S+)", "", str(found.get("command", "")))


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=1, allow_nan=False) + "\n").encode()


def _write(out: Path, files: dict[str, bytes]) -> None:
    """A zip of `files` in their order, with nothing in it of when and where it was written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with writing(out) as tmp, zipfile.ZipFile(tmp, "w") as archive:
            for name, data in files.items():
                entry = zipfile.ZipInfo(name, THEN)
                entry.create_system, entry.external_attr = 3, 0o100644 << 16
                archive.writestr(entry, data)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error}). Nothing is left there") from None


# ------------------------------------------------------------------------------------------------------------ what is in it


def _of_run(store: Store, result: Result, weights: bool) -> Iterator[tuple[str, bytes]]:
    """Places and contents of the files of one run, its real baseline's among them."""
    stages = sides(result)
    foreign = not keys(stages["own"], "recognizer")
    home, file = lookup.PLACES["evaluation" if foreign else "run"]
    moved = {name: Path(place).relative_to(store.root).as_posix() for name, place in result["artifacts"].items()}
    traits = {**result.get("traits", {}), "real_photographs": lookup.photographs(store, result)}  # a real set may be rendered
    lost = {name: {**about, "images": []} for name, about in result.get("left_out", {}).items()}  # files may be called like people
    told = {**result, "artifacts": moved, "command": _command(result), "left_out": lost, **({} if foreign else {"traits": traits})}
    yield f"{home}/{result['run']}/{file}", _json(told)
    evaluated = [key for side in ("real", "own") for key in keys(stages[side], "evaluate")]
    for key in evaluated:
        folder = _whole(store, "evaluate", key, result)
        yield from _files(store, [*folder.glob("pairs/*.npz"), *folder.glob("untrained/*/*.npz")])
    for key in keys(stages["shared"] + stages["own"], "benchmarks"):
        folder = _whole(store, "benchmarks", key, result)
        yield from _files(store, [*folder.glob("*/pairs.json"), *folder.glob("*/pairs.npz")])
    for key in [key for side in ("real", "own") for key in keys(stages[side], "recognizer")]:
        folder = _whole(store, "recognizer", key, result)
        yield from _files(store, [folder / "encoder.json", *([folder / "weights.safetensors"] if weights else [])])
    if not foreign and (sheet := contact(Run(result, store))) is not None:
        yield f"results/{result['run']}/contact.png", encode(sheet)


def _whole(store: Store, name: str, key: str, result: Result) -> Path:
    """The folder of a stage. Raises UserError when it is not there."""
    stage = store.stage(name, key)
    if not stage.manifest():
        raise UserError(f"the stage {name} of {result['run']} is not there any more; the command that made the run makes it again")
    return stage.folder


def _files(store: Store, places: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    for place in places:
        yield place.relative_to(store.root).as_posix(), place.read_bytes()


def contact(run: Run) -> np.ndarray | None:
    """ACROSS images of PEOPLE, less where there are less, side by side (rows r, columns r, 3); None where all are, or may be, photographs.

    Of a set with photographs those of its images that are none, which its column `real` tells; inquiries are never among them.
    """
    real = lookup.photographs(run.store, run.result)
    try:
        faces = run.faces()
    except UserError as error:
        console.note(f"{run.name}: no contact sheet ({error})")
        return None
    each = [faces.shown(identity) for identity in range(min(faces.identities, LOOKED_AT))]
    if real:  # without a column that tells them apart any image may be one
        each = [rows[faces.made[rows] & ("real" in faces.columns)] for rows in each]
    across = min(ACROSS, max(map(len, each)))
    if not across:
        console.note(f"{run.name}: no contact sheet, for its set holds photographs of real people: {real}")
        return None
    chosen = [rows[:across] for rows in each if len(rows) >= across][:PEOPLE]
    return np.concatenate([faces.images(rows).permute(2, 0, 3, 1).reshape(faces.resolution, -1, 3).numpy() for rows in chosen])


def _inputs(results: Sequence[Result]) -> list[dict[str, str]]:
    """The registered data and networks that the runs needed, as they are on this machine."""
    roles: dict[str, str] = {}
    for result in results:
        if config := result.get("config"):
            needs = build(Protocol, Layer(config["protocol"])).needs()
            roles |= {need.name: need.role for need in needs}
        enroll = result.get("settings", {}).get("enroll")
        source = enroll.get("source") if isinstance(enroll, dict) else None
        roles |= {name: roles.get(name, "the generator's") for name in (*result.get("learnt_from", ()), source) if name}
    found = []
    for name, role in sorted(roles.items()):
        if entry := entry_of(name):  # `real`, `world` and the like are none
            licence = CATALOGUE[name].licence if name in CATALOGUE else "the user's"
            found.append({"name": name, "kind": entry.kind, "role": role, "digest": entry.digest, "licence": licence})
    return found
