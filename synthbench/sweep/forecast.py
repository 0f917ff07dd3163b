"""`synthbench sweep --dry-run`, and what a sweep says before it starts: its points, and what they come to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from synthbench import console
from synthbench.data.sources import Lacking
from synthbench.pipeline import plan as plans
from synthbench.pipeline import rates, simulated
from synthbench.pipeline.plan import Planned
from synthbench.pipeline.request import read
from synthbench.pipeline.steps import Step
from synthbench.sweep.design import Design, Request, design, label
from synthbench.sweep.settings import Values


def plan(request: Request, as_json: bool = False, on: simulated.Machines | None = None) -> None:
    """`--dry-run`: every point, and the stages of all, once each; on machines, when. Raises DataMissing at the end, when data are lacking,
    and UserError for a search on machines."""
    made = design(request)
    points, planned, lacking = look(made, simulated.device(on))
    if on and made.requests:
        planned = [item for _, own in points for item in own]  # a cluster builds no repetitions, see cli
    about, sum_ = _about(made), plans.total(planned)
    if as_json:
        rows = [{"values": values, **_short(own)} for values, own in points]
        said = {"sweep": made.name, "size": made.size, "seeds": request.seeds, "about": about, "points": rows}
        print(json.dumps(said | simulated.plain(planned, lacking, on)))
    else:
        lines = [(label(values), *_cells(own)) for values, own in points]
        console.table(f"sweep {made.name}: {about}: {sum_}", ("point", "stages to do", "time"), lines)
        if on:
            simulated.show(planned, "stages, those that points share once", on)
            if request.confirm:
                console.note("--confirm is not in it: which points are the best is known at the end, and this machine repeats them")
        else:
            names = dict.fromkeys(item.step.stage.name for item in planned)
            stages = [_stage(name, [item for item in planned if item.step.stage.name == name]) for name in names]
            console.table("stages, those that points share once", ("stage", "times", "cached", "time", "by", "disk"), stages)
        if not made.points:
            console.note(f"the sampler {request.sampler} chooses its points as it goes; corners of the ranges stand for them here")
    if lacking:
        raise plans.refusal(lacking, f"sweep {made.name}")


def announce(made: Design) -> None:
    """Say what the sweep will take. Raises DataMissing with all that is lacking."""
    _, planned, lacking = look(made)
    if lacking:
        raise plans.refusal(lacking, f"sweep {made.name}")
    plans.announce(planned, f"sweep {made.name}: {_about(made)}")


def look(made: Design, device: rates.Device | None = None) -> tuple[list[tuple[Values, list[Planned]]], list[Planned], dict[str, Lacking]]:
    """(each point with the stages that no point before it has, all stages once with those of the repetitions, the data lacking).

    Where a sampler chooses the points, the first corners of its ranges are asked in their place, and the others take as long as these.
    """
    wish, lacking = made.request, {}
    asked: list[tuple[Values, int, str | None]] = [(values, wish.seeds, None) for values in made.corners[: made.size]]
    # which are best is not known yet: the first stand for them
    repeated = [(values, wish.repeat_seeds, wish.confirm_volume) for values in made.corners[: wish.confirm]]
    wired: list[list[Step]] = []
    for values, seeds, volume in asked + repeated:
        order = read(made.run(values, seeds, volume))
        steps, lacks = order.steps, order.lacking
        wired.append(steps)
        lacking.update(lacks)
    found = {item.step.stage.folder: item for item in plans.look(plans.once(wired), made.store, device=device)}
    seen: set[Any] = set()
    points = []
    for (values, _, _), steps in zip(asked, wired):
        points.append((values, [found[step.stage.folder] for step in steps if step.stage.folder not in seen]))
        seen |= {step.stage.folder for step in steps}
    planned = list(found.values())
    if more := made.size - len(asked):  # of a search
        own = points[-1][1] if len(points) > 1 else []
        planned += [item for _ in range(more) for item in own]
    return points, planned, lacking


def _about(made: Design) -> str:
    wish = made.request
    parts = [f"{console.counted(made.size, 'point')}, {console.counted(wish.seeds, 'seed')} each"]
    parts += [f"the {wish.confirm} best again with {wish.repeat_seeds} seeds"] if wish.confirm else []
    parts += [f"{wish.jobs} at a time"] if wish.jobs > 1 else []
    parts += ["some given up early"] if wish.prune else []
    return ", ".join(parts)


def _short(own: Sequence[Planned]) -> dict[str, Any]:
    sum_ = plans.total(own)
    return {"todo": sum_.todo, "seconds": None if sum_.unknown else sum_.seconds}


def _cells(own: Sequence[Planned]) -> tuple[str, str]:
    sum_ = plans.total(own)
    return str(sum_.todo), "cached" if not sum_.todo else "unknown" if sum_.unknown else plans.roughly(sum_.seconds)


def _stage(name: str, same: Sequence[Planned]) -> tuple[str, ...]:
    sum_ = plans.total(same)
    time = "" if not sum_.todo else "unknown" if sum_.unknown else plans.roughly(sum_.seconds)
    return name, str(len(same)), str(len(same) - sum_.todo), time, ", ".join(sum_.by), console.size(sum_.disk)
