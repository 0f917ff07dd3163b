"""Sets that a set is made of (`Generator.parts`): what their names mean, and what is told of them.

A part is NAME, NAME@VOLUME, or either with settings behind, as in a row of `compare`: "cemiface@200x20 sample.m=0.5". NAME is a generator
(its stages are those of a run of its own), a registered set or a path (which generator `folder` reads), or a run that is there; several of
them with a + between are their union.
"""

from __future__ import annotations

import functools
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from synthbench import registry
from synthbench.data import sources
from synthbench.pipeline.steps import Step
from synthbench.plugin import Traits
from synthbench.results import comparable, lookup
from synthbench.results.record import Result
from synthbench.store import Store
from synthbench.types import Progress, UserError

if TYPE_CHECKING:
    from synthbench.data.faces import FaceSet

FILES = (".py", ".yaml", ".yml")  # of generators and presets


class Part(Protocol):
    """What is told of a part."""

    @property
    def traits(self) -> Traits: ...

    @property
    def photographs(self) -> str: ...


def understood(text: str, store: Store) -> tuple[str | Result, str, tuple[str, ...]]:
    """What a part's text means: a generator or a run that is there, the volume (empty: none given) and the settings.

    Raises UserError for a name that is nothing, and for what makes no sense of a run.
    """
    try:
        name, *settings = shlex.split(text)
    except ValueError as error:
        raise UserError(f"{error}: give a generator, a run, a registered set or a path") from None
    if len(names := summands(name)) > 1:
        return "union", "", (f"sample.parts={json.dumps(names)}", *settings)
    name, volume = split(name)
    if is_generator(name):
        return name, volume, tuple(settings)
    if name in (*sources.CATALOGUE, *sources.names_registered()) or Path(name).exists():
        return "folder", volume, (f"sample.path={name}", *settings)
    known = [item.name for item in lookup.everything(store, ("run",))]
    if not any(other.startswith(name) for other in known):
        hint = registry.hint(name, [*registry.names("generator"), *sources.names_registered(), *known])
        raise UserError(f"no generator, no registered set, no path and no run in {store.root} is called {name!r}{hint}")
    if volume or settings:
        raise UserError("a run is as it was made; give its generator, with volume and settings, for another set")
    return lookup.find_run(store, name), "", ()


def split(name: str) -> tuple[str, str]:
    """(name, volume) of NAME@VOLUME; a path may have an @ of its own."""
    before, at, after = name.rpartition("@")
    return (before, after) if at and before and not Path(name).exists() else (name, "")


def is_generator(name: str) -> bool:
    return name in registry.names("generator") or name.endswith(FILES)


def is_shipped(text: str) -> bool:
    """Whether a part is a generator that comes with the package, as it is, or several: nothing of the user's, which may change."""
    known = registry.names("generator")
    name, *settings = shlex.split(text)
    names = [split(each)[0] for each in summands(name)]
    return not settings and all(each in known and known[each].value.startswith("synthbench.") for each in names)


def has_volume(name: str) -> bool:
    """Whether a volume may be put behind a name: the real set is what it is, and so is a run."""
    return name != "real" and is_generator(name)


def summands(name: str) -> list[str]:
    """`real+cemiface` as the sets that it joins; one where it is no sum. The + in a volume (20000x50+40000x5) joins no sets."""
    return [name] if Path(name).is_file() else re.split(r"\+(?!\d+x)", name)


@dataclass(frozen=True)
class Finished:
    """A run that is there as a part: its set, seed by seed, as it was made."""

    store: Store
    result: Result
    resolution: int  # of the set that it becomes a part of

    def set_steps(self, seed: int) -> list[Step]:
        """The stage that made its set. Raises UserError when it is gone, of another resolution, or there is none of that seed."""
        run = self.result["run"]
        rows = [row for row in comparable.sides(self.result)["own"] if row["name"] == "generate"]
        same = self.traits.finite and not self.result.get("parts")  # for every seed
        if seed >= len(self.result["seeds"]) and not same:
            raise UserError(f"run {run} has no set of seed {seed}: run it with more --seeds, or name its generator")
        row = rows[min(seed, len(rows) - 1)]
        stage = self.store.stage(row["name"], row["key"])
        facts = stage.manifest()
        if facts is None:
            raise UserError(f"the set of run {run} is not there any more; the command that made the run makes it again")
        step = Step(stage, str(facts.get("work", "")), _never, images=int(facts.get("images") or 0), part=True)
        if (has := self._faces(step).resolution) != self.resolution:
            raise UserError(
                f"run {run} has images of {has} px, but {self.resolution} are needed. Run its generator under this protocol, or export the "
                "set and name the folder, whose images are resized"
            )
        return [step]

    def part_faces(self, seed: int) -> tuple[FaceSet, Sequence[str]]:
        return self._faces(self.set_steps(seed)[0]), ()

    @staticmethod
    def _faces(step: Step) -> FaceSet:
        from synthbench.data.faces import open_faces

        return open_faces(step.stage.folder)

    @property
    def learnt(self) -> dict[str, Step]:
        """Not looked at again: the run was measured with what it learnt from."""
        return {}

    @functools.cached_property
    def traits(self) -> Traits:
        known = {item.name for item in fields(Traits)}
        return Traits(**{name: value for name, value in self.result.get("traits", {}).items() if name in known})

    @property
    def photographs(self) -> str:
        return lookup.photographs(self.store, self.result)

    @property
    def rendered(self) -> bool:
        return lookup.rendered(self.store, self.result)


def learnt_before(parts: Mapping[str, Any]) -> dict[str, int]:
    """Images of each set that the runs among `parts` learnt from."""
    return {
        name: images for part in parts.values() if isinstance(part, Finished) for name, images in part.result.get("learnt_from", {}).items()
    }


def _never(folder: Path, progress: Progress) -> None:
    raise AssertionError("the stage of a run that is there")


def shown(text: str, faces: FaceSet, names: Sequence[str], photographs: str) -> FaceSet:
    """The set of the part `text` as a generator sees it: every person has a name, one that nobody else has where `names`, by number, are
    none; and column `real` says of every image whether it is a photograph of a real person: 1, 0, or -1 where nobody knows."""
    who = [names[int(label)] if names else f"{text}/{label}" for label in faces.names]
    if "real" not in faces.columns:
        import numpy as np

        faces.columns["real"] = np.full(len(faces), {"": 0, "all": 1}.get(photographs, -1))
    faces.names = who
    return faces


def traits(own: Traits, parts: Mapping[str, Part]) -> Traits:
    """The traits of a set that is made of others."""
    found = {text: part.traits for text, part in parts.items()}
    photographs = {text: part.photographs for text, part in parts.items()}
    return replace(
        own,
        licence=_each({text: item.licence for text, item in found.items()}),
        pretrained="; ".join(filter(None, (own.pretrained, _each({text: item.pretrained for text, item in found.items()})))),
        trains=any(item.trains for item in found.values()),
        enrolls=own.enrolls or any(item.enrolls for item in found.values()),
        new_identities=all(item.new_identities for item in found.values()),
        needs_labels=any(item.needs_labels for item in found.values()),
        real_photographs=_each(photographs),
    )


def _each(told: Mapping[str, str]) -> str:
    """`all of real; unknown of faces.zip`; what is told of all parts alike, once."""
    kinds = dict.fromkeys(told.values())
    if len(kinds) == 1:
        return next(iter(kinds))
    return "; ".join(f"{value} ({text})" for text, value in told.items() if value)


def sizes(faces: FaceSet, texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Images and people of each part in a set with column `part`."""
    part = faces.columns["part"]
    return {
        text: {"images": int((part == number).sum()), "people": len(set(faces.identity[part == number].tolist()))}
        for number, text in enumerate(texts)
    }
