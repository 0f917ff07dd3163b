"""What is told of a finished run besides its scores: what it really used, how large its set is, what that looks like."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthbench.data import damage
from synthbench.pipeline import parts
from synthbench.pipeline.request import Order, recipes
from synthbench.results import samples
from synthbench.results.comparable import flat
from synthbench.results.record import Result
from synthbench.store import read_json
from synthbench.types import UserError

if TYPE_CHECKING:
    from synthbench.pipeline.job import Job

PARTS = ("sample", "enroll", "train")  # what changes the images last is told first


def changed(job: Job) -> dict[str, Any]:
    """The settings that are not those of the generator's own file, by dotted name: what `--set` gave, then the protocol's by PARTS."""
    from synthbench.pipeline.loading import load_generator

    own, used = {}, dict(flat(job.generator.config.model_dump(mode="json")))
    with contextlib.suppress(UserError):  # a setting that must be given, such as sample.path: then all of them are told
        plain = load_generator(job.generator_name, job.protocol.model_copy(update={"generators": {}}))
        own = dict(flat(plain.config.model_dump(mode="json")))
    given = tuple(f"{name}." for name, _ in flat(job.settings.data))
    names = [name for name in used if name not in own or used[name] != own[name]]
    names.sort(key=lambda name: (not f"{name}.".startswith(given), PARTS.index(name.partition(".")[0])))
    return {name: used[name] for name in names}


def size(job: Job) -> str:
    """How many people and images the set of the job's first seed has, copies of inquiries apart."""
    from synthbench.data.faces import open_faces

    return samples.size(open_faces(job.generator_steps(0)[-1].stage.folder), job.volume.name)


def made_of(job: Job) -> dict[str, Any]:
    """What the set of the job's first seed has of each of its parts, by the text that names the part; empty where it has none."""
    from synthbench.data.faces import open_faces

    if not job.parts:
        return {}
    found = parts.sizes(open_faces(job.generator_steps(0)[-1].stage.folder), list(job.parts))
    return {text: {**found[text], "photographs": part.photographs, "rendered": part.rendered} for text, part in job.parts.items()}


def left_out(job: Job) -> dict[str, Any]:
    """What `skip_damaged` left out of the real set, of those learnt from, and in the run's own stages; empty where nobody chose that."""
    steps = {step.stage.name: step for step in [job.real, *job.generator_steps(0)] if step.stage.name != "train-faces"}
    steps |= {f"train-faces {name}": step for name, step in job.learnt.items() if step is not job.real}
    return {name: told for name, step in steps.items() if (told := damage.told(step.stage.folder))}


def cleaned(job: Job) -> dict[str, Any]:
    """The thresholds of generator `cleaned`, and what went by them; empty for every other."""
    return read_json(job.generator_steps(0)[-1].stage.folder / "cleaned.json") or {}


def draw(job: Job, path: Path) -> None:
    """The set of the job's first seed as a picture."""
    from synthbench.data.faces import open_faces

    folders = {step.stage.name: step.stage.folder for step in job.generator_steps(0)}
    inquiries = folders.get("enroll", Path()) / "inquiries"
    shown = open_faces(inquiries) if inquiries.is_dir() else None
    samples.draw(path, f"{job.called} {size(job)}, protocol {job.protocol.name}, seed 0", open_faces(folders["generate"]), shown)


def config(job: Job) -> dict[str, Any]:
    """What was held fixed, with every default: the protocol (less what it changes for generators, see `settings`) and its recipes."""
    from synthbench.recognition.trainer import load_recipe

    protocol = job.protocol.model_dump(mode="json", exclude={"generators"})
    protocol["evaluators"] = {name: item.config.model_dump(mode="json") for name, item in job.evaluators.items()}
    return {"protocol": protocol, "recipes": {name: load_recipe(name).model_dump(mode="json") for name in recipes(job.protocol)}}


def expected(order: Order) -> Result:
    """What will tell how the run of `order` was measured, before it is there: the part of run.json that `comparable` reads."""
    job = order.job
    stages = {step.stage.key: {"name": step.stage.name, "key": step.stage.key} for steps in order.stages.values() for step in steps}
    made = [step for step in order.stages[0] if step.stage.name == "generate"][-1]
    return {
        "run": order.title,
        "protocol": job.protocol.name,
        "volume": job.volume.name,
        "seeds": list(order.stages),
        "baseline": None if job.short_name == "real" else {"generator": "real"},
        "stages": list(stages.values()),
        "artifacts": {"faces": str(made.stage.folder)},
        "config": config(job),
        "traits": vars(job.traits),
    }
