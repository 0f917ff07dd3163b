"""`synthbench run`: do what a request asks for, and say what came of it."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from synthbench import __version__, console, registry
from synthbench.data import sources
from synthbench.data.sources import Lacking
from synthbench.pipeline import cluster, facts, learning, parts, simulated
from synthbench.pipeline import plan as plans
from synthbench.pipeline.request import Order, Request, read
from synthbench.pipeline.steps import Lead, Step, execute, require_space, until
from synthbench.protocol import ShippedNetwork
from synthbench.results import record
from synthbench.results.record import Result
from synthbench.system import launched
from synthbench.types import UserError

if TYPE_CHECKING:
    from synthbench.pipeline.job import Job

__all__ = ["Request", "plan", "run"]


def run(request: Request, watch: Callable[[int, int, float], None] | None = None) -> Result | None:
    """Do what is missing and return the result; None when `until` stops it before the scores.

    watch: told of each recognizer of the generator while it trains, (seed, epochs done, validation accuracy in percent). What it raises
    stops the run, and the same request goes on from there.
    """
    order = read(request, watch)
    store = order.store
    order.recheck()
    if not request.force and not request.until and (result := order.answer()):
        _say(order)
        return result
    if order.lacking:
        raise plans.refusal(order.lacking, order.title)
    steps, again = plans.wanted(order.stages.values(), request.until, request.force)
    require_space(steps, store)
    _say(order)  # after all that can be wrong with a request: an error stands alone
    for text in (*order.spelled, f"device {order.device[1]}"):
        console.once(console.note, text)
    plans.announce(plans.look(steps, store, again), order.title)
    for step in again:
        store.forget(step.stage)
    (store.root / "results").mkdir(parents=True, exist_ok=True)
    record.begin(store, order.key, (step.stage for step in steps))
    stages: dict[str, dict[str, Any]] = {}
    for steps in order.stages.values():
        for row in execute(until(steps, request.until), store, leading(request)):
            stages.setdefault(row["key"], row)
    if request.until:
        console.note(f"stopped after {request.until}, as asked; the same command without --until continues")
        return None
    result = _collect(order.job, order.stages, list(stages.values()))
    record.save(store, result)
    record.end(store, order.key, result["run"], remembered=_self_contained(order.job))
    if request.tracking:
        from synthbench.tracking import mirror

        mirror.add(store, result)
    return result


def leading(request: Request) -> Lead | None:
    """How stages are built with the other processes of this command, if there are any."""
    if launched()[1] == 1:
        return None
    from synthbench.pipeline import together

    return functools.partial(together.lead, request)


def plan(request: Request, as_json: bool = False, on: simulated.Machines | None = None) -> None:
    """`--dry-run`: what would be done, on stdout; on machines, when. Raises DataMissing at the end, when data are lacking."""
    if on and request.force:
        raise UserError(cluster.FORCED)
    order = read(request)
    store = order.store
    order.recheck()
    if not request.force and not request.until and (known := order.answer()):  # without torch
        stages = [store.stage(row["name"], row["key"]) for row in known["stages"]]
        steps = [Step(stage, (stage.manifest() or {}).get("work", ""), lambda folder, progress: None) for stage in stages]
        _tell(plans.look(steps, store), {}, request, f"{known['generator']} @ {known['volume']}", as_json, on)
        return
    steps, again = plans.wanted(order.stages.values(), request.until, request.force)
    _say(order)
    for text in order.spelled:
        console.note(text)
    _tell(plans.look(steps, store, again, simulated.device(on)), order.lacking, request, order.title, as_json, on)
    if order.lacking:
        raise plans.refusal(order.lacking, order.title)


def _tell(
    planned: list[plans.Planned],
    lacking: Mapping[str, Lacking],
    request: Request,
    title: str,
    as_json: bool,
    on: simulated.Machines | None,
) -> None:
    if as_json:
        print(json.dumps({"run": None, "until": request.until, **simulated.plain(planned, lacking, on)}))
    else:
        simulated.show(planned, title, on)


def _say(order: Order) -> None:
    console.once(console.note, f"protocol {order.protocol.name} {order.protocol.version}: {order.protocol.title} ({order.why})")
    for need in order.protocol.needs():
        if need.kind == "faces" and not need.generator and (read := sources.understood(need.name)):
            console.once(console.note, f"{need.role} {need.name}: {read}")
        for doubt in sources.misgivings(need.name):
            console.once(console.warn, f"{need.role} {need.name}: {doubt}")


def _self_contained(job: Job) -> bool:
    """Whether the key of the request covers all that decides the result: no plugin of a package, none in a file with sources of its own;
    and of what it is made of nothing but what ships."""
    if not all(parts.is_shipped(text) for text in job.generator.parts()):
        return False
    kinds = [("generator", registry.plugin_name(job.generator_name)), *(("evaluator", name) for name in job.protocol.evaluators)]
    for kind, name in kinds:
        if name.endswith(".py"):
            if registry.load(kind, name).sources is not registry.KINDS[kind].sources:
                return False
        elif not registry.names(kind)[name].value.startswith("synthbench."):
            return False
    return True


def _collect(job: Job, wired: dict[int, list[Step]], stages: list[dict[str, Any]]) -> Result:
    """The JSON contract, from the evaluate stages of every seed."""
    from synthbench.pipeline.steps import seed_scores

    evaluate = {seed: plan[-1] for seed, plan in wired.items()}
    found = {seed: seed_scores(step) for seed, step in evaluate.items()}
    run = record.run_name(job.short_name, job.volume.name, job.protocol.name, (step.stage.key for step in evaluate.values()))
    folder = job.store.root / "results" / run
    folder.mkdir(parents=True, exist_ok=True)
    made = job.generator_steps(0)[-1]
    facts.draw(job, folder / "samples.png")
    generate = made.stage.manifest() or {}
    seconds = sum((job.store.stage(row["name"], row["key"]).manifest() or {}).get("seconds", 0.0) for row in stages)
    return {
        "run": run,
        "generator": job.short_name,
        "volume": job.volume.name,
        "protocol": job.protocol.name,
        "title": job.protocol.title,
        "seeds": list(wired),
        "scores": [{**score, "seed": seed} for seed, item in found.items() for score in item["scores"]],
        "skipped": found[0]["skipped"],
        "stages": stages,
        "artifacts": {"folder": str(folder), "samples": str(folder / "samples.png"), "faces": str(made.stage.folder)},
        "baseline": _baseline(job, wired),
        "size": facts.size(job),
        "learnt_from": {**parts.learnt_before(job.parts), **learning.sizes(job.learnt)},
        "parts": facts.made_of(job),
        "left_out": facts.left_out(job),
        "cleaned": facts.cleaned(job),
        "settings": job.generator.config.model_dump(mode="json"),
        "changed": facts.changed(job),
        "config": facts.config(job),
        "traits": vars(job.traits),
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


def _baseline(job: Job, wired: dict[int, list[Step]]) -> Result | None:
    """The real row of the table: the scores of the baseline's evaluate stages."""
    from synthbench.pipeline.steps import seed_scores

    if job.short_name == "real":
        return None
    scores = []
    for seed in wired:
        step = job.baseline.steps(seed)[-1]
        scores += [{**score, "seed": seed} for score in seed_scores(step)["scores"]]
    size = facts.size(job.baseline)
    return {"generator": "real", "volume": "all", "protocol": job.protocol.name, "seeds": list(wired), "scores": scores, "size": size}
