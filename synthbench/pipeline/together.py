"""One stage built by several processes: how the first one leads, and how the others follow.

Every process walks the same code of a training with the same random numbers; what is divided is the batch of a step (training/loop.py,
recognition/trainer.py). Of a set each makes a share (divided.py).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from synthbench.pipeline.request import Order, Request, read
from synthbench.pipeline.steps import Step
from synthbench.training import crew
from synthbench.types import Progress


def lead(request: Request, step: Step, folder: Path, progress: Progress) -> Any:
    """Build `step` of `request` in `folder` with all processes of this command; facts for the manifest."""
    crew.told((request, step.stage.folder))
    crew.gathered(None)  # they have seen the folder as it is
    with crew.together():
        facts = step.build(folder, progress) or {}
    return {**facts, "processes": crew.present().size}


def follow() -> None:
    """What every other process does: build what the first one names, until it names no more.

    A training writes into a folder of its own, which is thrown away, and goes on from a copy of what the first process finds.
    """
    orders: dict[Request, Order] = {}
    while (named := crew.told()) is not None:
        request, folder = named
        if request not in orders:
            orders[request] = read(request)
        step = orders[request].step(folder)
        own = orders[request].store.root / "processes" / f"{step.stage.key}-{crew.present().rank}"
        shutil.rmtree(own, ignore_errors=True)  # of one that was killed
        shutil.copytree(folder, own, ignore=shutil.ignore_patterns("part-*", "packed.*"))
        crew.gathered(None)
        with crew.together():
            step.build(own, lambda done, total: None)
        shutil.rmtree(own)
    crew.leave()
