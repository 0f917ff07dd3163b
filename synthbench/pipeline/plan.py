"""What a run would do, how long it would take and how much disk it needs, before anything is done."""

from __future__ import annotations

from typing import Any

from synthbench import console
from synthbench.pipeline.steps import Step
from synthbench.store import Store


def estimate(step: Step, store: Store) -> float | None:
    """Seconds, from earlier stages of this kind on this machine; None when nothing comparable was ever measured here."""
    rate = store.rate(step.stage.name, step.label)
    return rate * step.amount if rate is not None and step.amount else None


def rows(steps: list[Step], store: Store) -> list[dict[str, Any]]:
    """The plan as plain data: seconds is what a cached stage took, else an estimate or None; bytes is a rough upper estimate."""
    return [
        {
            "name": step.stage.name,
            "key": step.stage.key,
            "state": step.stage.state,
            "work": step.work,
            "seconds": manifest["seconds"] if (manifest := step.stage.manifest()) else estimate(step, store),
            "bytes": step.disk,
        }
        for step in steps
    ]


def show(steps: list[Step], store: Store, title: str) -> None:
    """The plan as a table on stdout."""
    rows = []
    for step in steps:
        state = step.stage.state
        manifest = step.stage.manifest() or {}
        took = f"took {console.duration(manifest['seconds'])}" if manifest else ""
        rows.append((step.stage.name, state, step.work, took or console.duration(estimate(step, store)), console.size(step.disk)))
    console.table(title, ("stage", "state", "work", "time", "disk"), rows, sentences=("work",))
    missing = [step for step in steps if step.stage.state != "cached"]
    known = [estimate(step, store) for step in missing]
    total = console.duration(sum(filter(None, known)))
    unknown = sum(seconds is None for seconds in known)
    if not missing:
        console.note("everything is cached")
    else:
        time = f"{total} where the rate is known here, {unknown} stages unknown" if unknown else f"about {total}"
        if unknown == len(missing):
            time = "time unknown: nothing comparable was run in this folder before"
        console.note(f"{time}; disk {console.size(sum(step.disk for step in missing))}")


def announce(steps: list[Step], store: Store) -> None:
    """Say it before starting when the work is known to take over an hour."""
    seconds = sum(estimate(step, store) or 0.0 for step in steps if step.stage.state != "cached")
    if seconds > console.LONG:
        console.note(f"this will take about {console.duration(seconds)}, judging by earlier runs; after a stop, the same command continues")
