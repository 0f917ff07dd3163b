"""Files of our own: a runs folder with all that commands leave, and the registry; something in it is changed, then read."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback
from pathlib import Path
from random import Random
from typing import Any

from synthbench.types import UserError

from . import formats, mutate
from .foreign import Reader, make_bin, make_folder, make_rec

TINY = ("--protocol", "tiny.yaml", "--no-tracking", "--runs", "r")
RUN = ("run", "procedural", *TINY, "--json")


class Fault(Exception):
    """What the command line would call a fault of synthbench, or a wrong answer."""


def command(*words: str) -> tuple[int, str]:
    """(exit status, stdout) of a command in this process. Raises Fault where the user would be shown a traceback's place."""
    from synthbench.cli import app

    def unexpected(error: Exception) -> int:
        raise Fault("".join(traceback.format_exception(error))) from None

    app._unexpected = unexpected  # type: ignore[assignment]
    sys.argv = ["synthbench", *words]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = app._guarded()
    return code, out.getvalue()


def told(*words: str) -> str:
    """As `command`; what a command refuses is refused."""
    code, out = command(*words)
    if code:
        raise UserError(f"exit status {code}")
    return out


def make_runs(folder: Path) -> None:
    """A run and its baseline, another run, a comparison, a sweep, weights that were scored, a page."""
    from fake_protocol import write_protocol

    write_protocol(folder)
    here = os.getcwd()
    os.chdir(folder)
    calls: tuple[tuple[str, ...], ...] = (
        RUN,
        ("compare", "procedural", "real", *TINY),
        ("sweep", "sample.difficulty", "--generator", "procedural", "--values", "0.2,0.5", *TINY),
        ("evaluate", "real-all", "--benchmarks", "world-mixed", "--runs", "r"),
    )
    for call in calls:
        code, _ = command(*call)
        if code:
            raise RuntimeError(f"{' '.join(call)} ended with {code}")
    os.chdir(here)


def harm_runs(folder: Path, random: Random, cage: Path) -> None:
    """Something of the runs folder that is read whole: JSON, tables, packed faces, logs; results more often than the rest."""
    files = sorted(path for path in (folder / "r").rglob("*") if path.is_file() and path.suffix not in (".lock", ".html"))
    plain = [path for path in files if path.suffix in (".json", ".jsonl")]
    results = [path for path in plain if path.relative_to(folder / "r").parts[0] != "stages"]
    path = random.choice(random.choice((files, plain, plain, results, results)))
    chance = random.random()
    if chance < 0.1:
        mutate.replace(path, random, cage)
        return
    if chance < 0.13:
        mutate.odd_name(path.parent, random)
        return
    data = path.read_bytes()
    if path.suffix in (".json", ".jsonl"):
        data = mutate.json_text(data, random, cage)
    elif path.suffix == ".npz" and random.random() < 0.6:
        data = formats.npz(data, random)
    elif path.suffix == ".safetensors" and random.random() < 0.6:
        data = formats.safetensors(data, random)
    else:
        data = mutate.damage(data, random)
    path.write_bytes(data)
    if (
        path.parent.name != "results"
        and random.random() < 0.5
        and (manifest := path.parent / "manifest.json").is_file()
        and manifest != path
    ):
        _confirm(manifest, path)  # as if it had been written so


def _confirm(manifest: Path, path: Path) -> None:
    """The manifest says of a changed file that this is how it should be."""
    from synthbench.store import sampled

    told = json.loads(manifest.read_text())
    told["files"][path.name] = path.stat().st_size
    if path.name in told["samples"]:
        told["samples"][path.name] = sampled(path)
    manifest.write_text(json.dumps(told))


def _commands(folder: Path) -> list[tuple[str, ...]]:
    """Reading commands; those that may train come last."""
    runs = sorted(path.name for path in (folder / "r" / "results").iterdir())
    group = next((path.name for path in (folder / "r" / "comparisons").iterdir()), "x")
    swept = next((path.name for path in (folder / "r" / "sweeps").iterdir()), "x")
    where = ("--runs", "r")
    return [
        ("show", "latest", *where), ("show", runs[0], "--json", *where), ("show", group, *where), ("show", swept, *where),
        ("list", "runs", *where), ("list", *where),
        ("runs", "rm", runs[0], "--dry-run", *where), ("runs", "rm", group, "--yes", *where), ("runs", "prune", "--dry-run", *where),
        ("runs", "prune", "--yes", "--unfinished", *where),
        ("export", runs[0], "--to", "imagefolder", "-o", "out", *where), ("export", runs[0], "--to", "parquet", "-o", "out", *where),
        ("report", "latest", "-o", "page.html", *where),
        ("report", runs[0], "-o", "page.html", *where), ("report", group, "-o", "page.html", *where),
        ("report", swept, "-o", "page.html", *where), ("compare", *runs[:2], *where, "--no-tracking"),
        ("run", "procedural", *TINY, "--dry-run"), ("evaluate", "real-all", "--benchmarks", "world-mixed", *where),
        ("doctor", *where), ("data", "status"),
        ("compare", "procedural", "real", *TINY),
        ("sweep", "sample.difficulty", "--generator", "procedural", "--values", "0.2,0.5", *TINY, "--dry-run"), RUN, RUN,
    ]  # fmt: skip


def read_runs(folder: Path, random: Random) -> None:
    os.chdir(folder)
    words = random.choice(_commands(folder))
    out = told(*words)
    if words == RUN:
        before = json.loads((folder / "whole.json").read_text())
        found = json.loads(out)
        wrong = [name for name in ("scores", "baseline", "skipped", "digests") if found[name] != before[name]]
        if wrong:
            raise Fault(f"a changed file was believed: {', '.join(wrong)} differ")


def make_ours(folder: Path) -> None:
    make_runs(folder)
    (folder / "whole.json").write_text(_first(folder))


def _first(folder: Path) -> str:
    """What the first command answered: the run with nothing set."""
    for path in sorted((folder / "r" / "results").glob("procedural-*/run.json")):
        found = json.loads(path.read_text())
        if not found.get("command", "").count("sweep"):
            return path.read_text()
    raise RuntimeError("no run of its own")


# ------------------------------------------------------------------------------------------------------------- registry


def make_registry(folder: Path) -> None:
    """Sets registered, and read once."""
    from synthbench.data import sources

    for make, name in ((make_folder, "f"), (make_rec, "rec"), (make_bin, "b")):
        (folder / name).mkdir()
        make(folder / name)
    before = os.environ.get("SYNTHBENCH_DATA")
    os.environ["SYNTHBENCH_DATA"] = str(folder / "data")
    sources.add("faces", folder / "f" / "set", kind="faces")
    sources.add("records", folder / "rec" / "set", kind="faces")
    sources.add("pairs", folder / "b" / "set.bin", kind="pairs")
    sources.digest_of(folder / "f" / "set")
    os.environ.pop("SYNTHBENCH_DATA") if before is None else os.environ.update(SYNTHBENCH_DATA=before)
    (folder / "p.yaml").write_text(PROTOCOL)
    (folder / "recipe.yaml").write_text("backbone: {family: small, width: 8}\ndim: 16\nepochs: 1\nbatch_size: 8\n")


PROTOCOL = """
name: own
version: 1
title: x
resolution: 16
volume: 3x2
real: {source: faces}
encoder: {recipe: recipe.yaml, seed: 1}
judge: {recipe: recipe.yaml, seed: 2}
recipe: recipe.yaml
benchmarks: [pairs]
evaluators: {verification: {}}
"""


def harm_registry(folder: Path, random: Random, cage: Path) -> None:
    path = folder / "data" / random.choice(("sources.json",) * 5 + ("digests.json",))
    text = path.read_bytes().replace(str(cage / "base" / "registry").encode(), str(folder).encode())
    path.write_bytes(text)
    if random.random() < 0.06:
        mutate.replace(path, random, cage)
    else:
        path.write_bytes(mutate.json_text(text, random, cage))


def read_registry(folder: Path, random: Random) -> None:
    os.environ["SYNTHBENCH_DATA"] = str(folder / "data")
    os.chdir(folder)
    calls: tuple[tuple[str, ...], ...] = (
        ("data", "status"), ("data", "status", "--json"), ("data", "show", "faces"), ("data", "show", "pairs", "--json"),
        ("data", "verify"), ("data", "verify", "records"), ("data", "verify", "faces", "--decode"),
        ("data", "remove", "faces"), ("data", "add", "other", "f/set", "--kind", "faces"), ("data", "inspect", "faces"),
        ("data", "convert", "faces", "--to", "parquet", "-o", "out"),
        ("run", "procedural", "--protocol", "p.yaml", "--dry-run", "--runs", "r"),
        ("run", "folder", "--set", "sample.path=f/set", "--protocol", "p.yaml", "--dry-run", "--runs", "r"),
        ("list", "protocols"), ("data", "status", "--protocol", "p.yaml"), ("doctor", "--runs", "r"),
        ("evaluate", "nothing", "--runs", "r"),
    )  # fmt: skip
    told(*random.choice(calls))


READERS: dict[str, Any] = {
    "runs": Reader(make_ours, harm_runs, read_runs, work=50, cost=4.0),
    "registry": Reader(make_registry, harm_registry, read_registry),
}
