"""The stage of verification sets and template sets: rendered or registered, at one resolution, each in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from synthbench.config import did_you_mean
from synthbench.data import sources
from synthbench.data.catalogue import WORLD
from synthbench.pipeline.cost import Cost
from synthbench.pipeline.steps import Step, import_templates, read_benchmark
from synthbench.store import Store, content_key
from synthbench.types import Progress, UserError


def photographs(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """Where those of the benchmarks in `folder` lie that are photographs."""
    return {name: folder / name for name in names if not name.startswith(WORLD)}


def step(store: Store, names: Sequence[str], resolution: int, check: Callable[[Path], None], templates: Sequence[str] = ()) -> Step:
    """The benchmarks called `names` and the template sets `templates` at `resolution`.

    check: told the folder once they are there, before anything else is done.

    Raises UserError for a name that the embedded world does not have, DataMissing for one that is not registered.
    """
    parts: dict[str, Any] = {}
    images = 0
    for name in names:
        if name.startswith(WORLD):
            from synthbench.world.pairs import PAIRS, WORLD_BENCHMARKS
            from synthbench.world.renderer import VERSION

            if name not in WORLD_BENCHMARKS:
                raise UserError(f"the embedded world has no benchmark {name!r}" + did_you_mean(name, WORLD_BENCHMARKS, show_all=True))
            parts[name] = {"renderer": VERSION}
            images += PAIRS[name]
        else:
            source = sources.find(name, "pairs")
            parts[name] = {"digest": source.digest}
            images += source.images
    for name in templates:
        if name.startswith(WORLD):
            from synthbench.world.renderer import VERSION
            from synthbench.world.templates import IMAGES, WORLD_TEMPLATES

            if name not in WORLD_TEMPLATES:
                raise UserError(f"the embedded world has no template set {name!r}" + did_you_mean(name, WORLD_TEMPLATES, show_all=True))
            parts[name] = {"renderer": VERSION}
            images += IMAGES
        else:
            source = sources.find(name, "templates")
            parts[name] = {"digest": source.digest}
            images += source.images
    key = content_key({"stage": "benchmarks", "sets": parts, "resolution": resolution, "version": 1})

    def prepare(folder: Path, progress: Progress) -> None:
        from synthbench.data.pairs import save_pairs

        for i, name in enumerate(names):
            progress(i, len(names))
            if not all((folder / name / part).exists() for part in ("images.u8", "pairs.npz", "pairs.json")):
                save_pairs(read_benchmark(name, resolution), folder / name)
        for name in templates:
            if not (folder / name / "templates.json").exists():
                import_templates(name, resolution, folder / name, progress)
        check(folder)

    every = [*names, *templates]
    world = all(name.startswith(WORLD) for name in every)
    label = f"{'render' if world else 'import'} pairs {resolution}"
    stage = store.stage("benchmarks", key)
    return Step(stage, ", ".join(every), prepare, label, lambda: Cost(images, disk=images * resolution * resolution * 3), images)
