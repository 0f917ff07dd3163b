"""`synthbench run`: one request from the words of the user to a result."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from os.path import exists
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthbench import __version__, console, registry, results
from synthbench.config import config_path, parse_set
from synthbench.data import sources
from synthbench.data.readers import full_stamp
from synthbench.protocol import Protocol, ShippedNetwork, TrainedNetwork, load_protocol
from synthbench.results import Result
from synthbench.store import Store, content_key
from synthbench.types import UserError, Volume

if TYPE_CHECKING:
    from synthbench.pipeline import Job
    from synthbench.steps import Step


@dataclass(frozen=True)
class Request:
    """The command line of `synthbench run`, as given."""

    generator: str
    runs: Path
    volume: str | None = None
    protocol: str | None = None
    seeds: int = 1
    settings: tuple[str, ...] = ()
    until: str | None = None
    force: tuple[str, ...] = ()
    device: str = "auto"
    tracking: bool = True


def choose_protocol(wish: str | None) -> tuple[Protocol, str]:
    """The protocol and why: the one asked for, else `paper` when its data are registered, else `demo`."""
    if wish:
        return load_protocol(wish), "as asked"
    paper = load_protocol("paper")
    missing = [name for name in paper.sources() if not sources.registered(name)]
    if not missing:
        return paper, "its data are registered"
    return load_protocol("demo"), f"protocol paper lacks {len(missing)} of its {len(paper.sources())} files (synthbench data status)"


def run(request: Request, watch: Callable[[int, int, float], None] | None = None) -> Result | None:
    """Do what is missing and return the result; None when `until` stops it before the scores.

    watch: told of each recognizer of the generator while it trains, (seed, epochs done, validation accuracy in percent). What it raises
    stops the run, and the same request goes on from there.
    """
    if not 1 <= request.seeds <= 100:
        raise UserError(f"--seeds {request.seeds}: must be between 1 and 100")
    store = Store(request.runs.absolute())
    protocol, why = choose_protocol(request.protocol)
    console.note(f"protocol {protocol.name} {protocol.version}: {protocol.title} ({why})")
    key = _request_key(request, protocol)
    if not request.force and not request.until and (result := results.remembered(store, key)):
        return result
    job = replace(make_job(request, store, protocol), watch=watch)
    plans = {seed: job.steps(seed) for seed in range(request.seeds)}
    steps = [step for plan in plans.values() for step in plan]
    _forget(steps, store, request.force)
    _announce(steps, store)
    (store.root / "results").mkdir(parents=True, exist_ok=True)
    stages: dict[str, dict[str, Any]] = {}
    from synthbench.steps import execute

    for plan in plans.values():
        for row in execute(plan, store, request.until):
            stages.setdefault(row["key"], row)
    if request.until:
        console.note(f"stopped after {request.until}, as asked; the same command without --until continues")
        return None
    result = _collect(job, plans, list(stages.values()))
    results.save(store, result)
    if _self_contained(job):
        results.remember(store, key, result["run"])
    if request.tracking:
        from synthbench import tracking

        tracking.mirror(store, result)
    return result


def make_job(request: Request, store: Store, protocol: Protocol) -> Job:
    """The job of a request: plugin loaded, settings checked, volume and device chosen."""
    from synthbench.device import pick_device, set_threads
    from synthbench.pipeline import Job

    set_threads()
    device, why = pick_device(request.device)
    _say_once(f"device {why}")
    job = Job(store, protocol, request.generator, Volume.parse("all"), device, parse_set(request.settings))
    finite = job.generator.traits.finite
    volume = Volume.parse(request.volume or ("all" if finite else protocol.volume))
    if not finite and not volume.blocks:
        raise UserError(f"{job.short_name} makes any number of images; give --volume, such as {protocol.volume}")
    if volume.identities == 1:
        raise UserError(f"volume {volume} has one identity; a recognizer needs at least two")
    return Job(store, protocol, request.generator, volume, device, parse_set(request.settings))


@functools.cache
def _say_once(text: str) -> None:
    """For what every request of one command would repeat."""
    console.note(text)


def remembered(request: Request) -> Result | None:
    """The result of an earlier identical request, if it is still whole. Imports no torch."""
    return results.remembered(Store(request.runs.absolute()), _request_key(request, choose_protocol(request.protocol)[0]))


def stages(job: Job, seeds: int) -> list[Step]:
    """Every stage of the job once, those that are cached too; nothing is done."""
    return list({step.stage.folder: step for seed in range(seeds) for step in job.steps(seed)}.values())


def plan(request: Request, as_json: bool = False) -> None:
    """`--dry-run`: what would be done, on stdout."""
    from synthbench import plan as plans

    store = Store(request.runs.absolute())
    protocol, why = choose_protocol(request.protocol)
    console.note(f"protocol {protocol.name} {protocol.version}: {protocol.title} ({why})")
    job = make_job(request, store, protocol)
    steps = stages(job, request.seeds)
    if as_json:
        print(json.dumps({"run": None, "stages": plans.rows(steps, store)}))
    else:
        plans.show(steps, store, f"{job.short_name} @ {job.volume}, protocol {protocol.name} {protocol.version}, {request.seeds} seed(s)")


def _request_key(request: Request, protocol: Protocol) -> str:
    found = registry.preset(request.generator)
    preset = found.settings.data if found else {}
    return content_key(
        {
            "package": results.fingerprint(),
            "generator": request.generator,
            "files": [registry.file_digest(name) for name in (request.generator, *protocol.evaluators)],
            "recipes": {name: config_path("recipes", name).read_text("utf-8", "replace") for name in _recipes(protocol)},
            "volume": request.volume,
            "protocol": protocol.model_dump(mode="json"),
            "seeds": request.seeds,
            "settings": request.settings,
            "data": sources.fingerprint(),
            "paths": {
                text: full_stamp(text) for text in _texts([preset, parse_set(request.settings).data, protocol.generators]) if exists(text)
            },
        }
    )


def _texts(settings: Any) -> Iterator[str]:
    """Every text among the settings: what may name a file."""
    if isinstance(settings, str):
        yield settings
    elif isinstance(settings, (dict, list, tuple)):
        for value in settings.values() if isinstance(settings, dict) else settings:
            yield from _texts(value)


def _self_contained(job: Job) -> bool:
    """Whether the key of the request covers all that decides the result: no plugin of a package, none in a file with sources of its own."""
    kinds = [("generator", registry.plugin_name(job.generator_name)), *(("evaluator", name) for name in job.protocol.evaluators)]
    for kind, name in kinds:
        if name.endswith(".py"):
            if registry.load(kind, name).sources is not registry.KINDS[kind].sources:
                return False
        elif not registry.names(kind)[name].value.startswith("synthbench."):
            return False
    return True


def _forget(steps: list[Step], store: Store, names: Sequence[str]) -> None:
    known = {step.stage.name for step in steps}
    for name in names:
        if name not in known:
            raise UserError(f"--force {name}: this run has no such stage; it has {', '.join(sorted(known))}")
    for step in steps:
        if step.stage.name in names:
            store.forget(step.stage)


def _announce(steps: list[Step], store: Store) -> None:
    from synthbench import plan as plans

    plans.announce(steps, store)


def _collect(job: Job, plans: dict[int, list[Step]], stages: list[dict[str, Any]]) -> Result:
    """The JSON contract, from the evaluate stages of every seed."""
    from synthbench.steps import seed_scores

    evaluate = {seed: plan[-1] for seed, plan in plans.items()}
    found = {seed: seed_scores(step) for seed, step in evaluate.items()}
    run = results.run_name(job.short_name, job.volume.name, job.protocol.name, (step.stage.key for step in evaluate.values()))
    folder = job.store.root / "results" / run
    folder.mkdir(parents=True, exist_ok=True)
    made = job.generator_steps(0)[-1]
    _samples(job, made, folder / "samples.png")
    generate = made.stage.manifest() or {}
    seconds = sum((job.store.stage(row["name"], row["key"]).manifest() or {}).get("seconds", 0.0) for row in stages)
    return {
        "run": run,
        "generator": job.short_name,
        "volume": job.volume.name,
        "protocol": job.protocol.name,
        "title": job.protocol.title,
        "seeds": list(plans),
        "scores": [{**score, "seed": seed} for seed, item in found.items() for score in item["scores"]],
        "skipped": found[0]["skipped"],
        "stages": stages,
        "artifacts": {"folder": str(folder), "samples": str(folder / "samples.png"), "faces": str(made.stage.folder)},
        "baseline": _baseline(job, plans),
        "settings": job.generator.config.model_dump(mode="json"),
        "config": _config(job),
        "traits": vars(job.generator.traits),
        "digests": {
            "faces": generate.get("digest"),
            "benchmarks": job.benchmarks.stage.key,
            "real": job.real.stage.key,
            **{name: network.digest for name in ("encoder", "judge") if isinstance(network := getattr(job.protocol, name), ShippedNetwork)},
        },
        "cost": {"wall_seconds": round(seconds, 1), "device": job.device.type, "images_per_second": generate.get("images_per_second")},
        "synthbench": __version__,
        "command": console.command_line(),
    }


def _config(job: Job) -> dict[str, Any]:
    """What was held fixed, with every default: the protocol (less what it changes for generators, see `settings`) and its recipes."""
    from synthbench.recognition import load_recipe

    protocol = job.protocol.model_dump(mode="json", exclude={"generators"})
    protocol["evaluators"] = {name: item.config.model_dump(mode="json") for name, item in job.evaluators.items()}
    return {"protocol": protocol, "recipes": {name: load_recipe(name).model_dump(mode="json") for name in _recipes(job.protocol)}}


def _recipes(protocol: Protocol) -> list[str]:
    """The recipe of the recognizers first, then those of the encoder and of the judge that are trained here."""
    networks = (network for network in (protocol.encoder, protocol.judge) if isinstance(network, TrainedNetwork))
    return list(dict.fromkeys([protocol.recipe, *(network.recipe for network in networks)]))


def _baseline(job: Job, plans: dict[int, list[Step]]) -> Result | None:
    """The real row of the table: the scores of the baseline's evaluate stages."""
    from synthbench.steps import seed_scores

    if job.short_name == "real":
        return None
    scores = []
    for seed in plans:
        step = job.baseline.steps(seed)[-1]
        scores += [{**score, "seed": seed} for score in seed_scores(step)["scores"]]
    return {"generator": "real", "volume": "all", "protocol": job.protocol.name, "seeds": list(plans), "scores": scores}


def _samples(job: Job, made: Step, path: Path) -> None:
    """Eight identities x (the inquiry, if there is one, and eight samples)."""
    import torch

    from synthbench.data.faces import open_faces

    faces = open_faces(made.stage.folder)
    enroll = [step for step in job.generator_steps(0) if step.stage.name == "enroll"]
    inquiries = open_faces(enroll[0].stage.folder / "inquiries") if enroll and (enroll[0].stage.folder / "inquiries").is_dir() else None
    rows = []
    for identity in range(min(8, faces.identities)):
        images = faces.images(faces.shown(identity)[:8])
        rows.append(torch.cat([inquiries.images([identity]), images]) if inquiries else images)
    results.grid(rows, path)
