"""The lines below a finished run's table: what it really used, what it could not measure, where everything is, and what to do next."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from synthbench.results import leak
from synthbench.results.record import Result, made_of
from synthbench.store import Store

SHOWN = 8  # settings in the line; the others are counted


def cached(result: Result, store: Store) -> str:
    """That nothing was done, as all of it was there; empty when something was."""
    if any(stage["state"] != "cached" for stage in result["stages"]):
        return ""
    manifests = (store.stage(stage["name"], stage["key"]).manifest() or {} for stage in result["stages"])
    made = max(str(manifest.get("finished", "")) for manifest in manifests)
    return f"answered from the cache, made on {made[:10]} at {made[11:16]} UTC; --force STAGE, such as evaluate, does that stage again"


def lines(result: Result, runs: Path, protocol: str | None, tracking: bool) -> Iterator[str]:
    """For people, on stderr. `protocol`: as it was asked for."""
    if used := result.get("changed"):
        told = ", ".join(f"{name}={value}" for name, value in list(used.items())[:SHOWN])
        rest = f" and {len(used) - SHOWN} more (run.json)" if len(used) > SHOWN else ""
        yield f"settings other than {result['generator']}'s own: {told}{rest}"
    if parts := made_of(result):
        yield f"made of {parts}"
    if went := result.get("cleaned", {}).get("said"):
        yield f"cleaned: {went}"
    yield from leak.notes([(result["generator"], result)])
    if skipped := len(result["skipped"]):
        yield f"{skipped} score{'s were' if skipped > 1 else ' was'} not measured; run.json and the report say why"
    yield f"run.json and samples.png: {result['artifacts']['folder']}"
    where = [] if runs == Path(os.environ.get("SYNTHBENCH_RUNS") or "runs") else ["--runs", str(runs)]
    file = ["--protocol", protocol] if protocol and protocol.endswith((".yaml", ".yml")) else []
    other = "cemiface" if result["generator"] == "real" else "real"
    commands = [["report", result["run"]], ["compare", other, result["run"], *file], *([["ui"]] if tracking else [])]
    yield "next:"
    yield from ("  " + shlex.join(["synthbench", *command, *where]) for command in commands)
