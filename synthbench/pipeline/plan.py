"""What would be done, how long it takes and how much disk it needs: `--dry-run`, and what a run says before it starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from synthbench import console
from synthbench.data import sources
from synthbench.data.sources import Lacking
from synthbench.pipeline import rates
from synthbench.pipeline.steps import Step, until
from synthbench.store import Store
from synthbench.system import processes
from synthbench.types import DataMissing, UserError

if TYPE_CHECKING:
    from synthbench.pipeline.job import Job

AFRESH = ("enroll", "evaluate")  # stages that begin again after a stop; the others go on from a checkpoint or the shards there are


@dataclass(frozen=True)
class Planned:
    """One stage as it is found."""

    step: Step
    state: str  # cached, resume, run
    forced: bool  # cached, and done again
    seconds: float | None  # that it took; else an estimate of what is left, None when nothing is known
    source: str  # of the estimate: a word of rates.WORDS, or unknown; took for a stage that is cached
    disk: int  # bytes: those that a cached stage has
    scratch: int = 0


# -------------------------------------------------------------------------------------------------------- which stages


def wire(job: Job, seeds: int) -> tuple[dict[int, list[Step]], dict[str, Lacking]]:
    """The stages of each seed, and the data that they need and are not there: with any of these nothing may be run.

    Raises UserError for a number of seeds that is none.
    """
    require_seeds(seeds)
    with sources.standing_in({*job.protocol.sources(), *texts(job.protocol.generators)}) as lacking:
        return {seed: job.steps(seed) for seed in range(seeds)}, lacking


def require_seeds(seeds: int) -> None:
    if not 1 <= seeds <= 100:
        raise UserError(f"--seeds {seeds}: must be between 1 and 100")


def texts(settings: Any) -> Iterator[str]:
    """Every text among the settings: what may name a file."""
    if isinstance(settings, str):
        yield settings
        if "@" in settings or " " in settings:  # what a set is made of, with its volume and settings
            yield settings.partition(" ")[0].rpartition("@")[0] or settings.partition(" ")[0]
    elif isinstance(settings, (dict, list, tuple)):
        for value in settings.values() if isinstance(settings, dict) else settings:
            yield from texts(value)


def once(plans: Iterable[Sequence[Step]]) -> list[Step]:
    """The steps of several plans, those that they share once."""
    return list({step.stage.folder: step for plan in plans for step in plan}.values())


def wanted(plans: Collection[list[Step]], last: str | None, force: Sequence[str]) -> tuple[list[Step], list[Step]]:
    """(the steps that are looked at until the stage `last`, those of them that are done again by `force`), once each.

    Raises UserError for stages that the run does not have, and for one that would be thrown away and not made again.
    """
    every, steps = once(plans), once(until(plan, last) for plan in plans)
    has, does = {step.stage.name for step in every}, {step.stage.name for step in steps}
    for name in force:
        if name not in has:
            raise UserError(f"--force {name}: this run has no such stage; it has {', '.join(sorted(has))}")
        if name not in does:
            raise UserError(f"--force {name}: the run stops before it, --until {last}; leave one of the two out")
    return steps, [step for step in steps if step.stage.name in force]


def look(steps: Iterable[Step], store: Store, again: Collection[Step] = (), device: rates.Device | None = None) -> list[Planned]:
    """The state of every step, with time and disk. `again`: steps that are done although they are cached. `device`: where not here."""
    known, forced = rates.Rates(store, device), {step.stage.folder for step in again}
    found = []
    for step in steps:
        state, manifest = step.stage.state, step.stage.manifest()
        if manifest and step.stage.folder not in forced:
            found.append(Planned(step, state, False, manifest["seconds"], "took", sum(manifest["files"].values())))
            continue
        seconds, source = known.seconds(step)
        if seconds is not None and _gains(step):
            seconds /= processes()
        if step.stage.folder in forced:
            state = "run"
        elif seconds is not None and state == "resume" and step.stage.name not in AFRESH:
            seconds = max(seconds / 10, seconds - step.stage.spent())
        found.append(Planned(step, state, bool(manifest), seconds, source, step.cost.disk, step.cost.scratch))
    return found


# ---------------------------------------------------------------------------------------------------------------- totals


@dataclass(frozen=True)
class Total:
    """What a plan comes to. Stages that are cached take nothing."""

    stages: int
    todo: int
    seconds: float  # of those that are known
    unknown: int
    by: Mapping[str, float]  # seconds by source
    disk: int
    scratch: int  # bytes more for a while

    @property
    def time(self) -> str:
        """`about 14 min (estimate: ...)`, in words, with where it comes from."""
        if not self.todo:
            return "nothing to do"
        if self.unknown == self.todo:
            return "time unknown: nothing like it was run here"
        parts = [f"{roughly(took)} {rates.WORDS[source]}" if len(self.by) > 1 else rates.WORDS[source] for source, took in self.by.items()]
        rest = f", and {console.counted(self.unknown, 'stage')} of unknown length" if self.unknown else ""
        return f"about {roughly(self.seconds)}{rest} (estimate: {', '.join(parts)})"

    @property
    def space(self) -> str:
        more = f", and {console.size(self.scratch)} more while it works" if self.scratch > self.disk else ""
        return f"disk {console.size(self.disk)}{more}"

    def __str__(self) -> str:
        return f"{self.todo} of {self.stages} stages to do, {self.time}; {self.space}" if self.todo else "everything is cached"


def total(planned: Sequence[Planned]) -> Total:
    todo = [item for item in planned if item.source != "took"]
    by: Counter[str] = Counter()
    for item in todo:
        by[item.source] += item.seconds or 0.0  # type: ignore[assignment]
    unknown = sum(item.seconds is None for item in todo)
    by.pop("unknown", None)
    disk, scratch = sum(item.disk for item in todo), max((item.scratch for item in todo), default=0)
    return Total(len(planned), len(todo), sum(by.values()), unknown, dict(by.most_common()), disk, scratch)


def roughly(seconds: float) -> str:
    """A duration that does not pretend: `40 s`, `12 min`, `5 h`, `12 days`."""
    for unit, length in (("s", 1.0), ("min", 60.0), ("h", 3600.0), ("days", 86400.0)):
        count = seconds / length
        if count < {"s": 90, "min": 90, "h": 48}.get(unit, float("inf")):
            break
    return f"{count:.1f} {unit}" if unit in ("h", "days") and count < 9.95 else f"{max(1, round(count)):,} {unit}"


# ----------------------------------------------------------------------------------------------------------- what is said


def rows(planned: Sequence[Planned]) -> list[dict[str, Any]]:
    """The plan as plain data: seconds that a cached stage took, else an estimate with its source, or None; bytes that it has, or will."""
    return [
        {
            "name": item.step.stage.name,
            "key": item.step.stage.key,
            "state": item.state,
            "forced": item.forced,
            "work": item.step.work,
            "seconds": item.seconds,
            "source": item.source,
            "bytes": item.disk,
        }
        for item in planned
    ]


def plain(planned: Sequence[Planned], lacking: Mapping[str, Lacking]) -> dict[str, Any]:
    """The part of a plan's JSON that all commands share."""
    return {"stages": rows(planned), "total": asdict(total(planned)), "missing": [asdict(item) for item in lacking.values()]}


def show(planned: Sequence[Planned], title: str) -> None:
    """The plan as a table on stdout: what it comes to, then what takes how much of it."""
    sum_ = total(planned)
    lines = []
    for item in planned:
        took = item.source == "took"
        share = f"{100 * (item.seconds or 0) / sum_.seconds:.0f} %" if not took and item.seconds is not None and sum_.seconds else ""
        time = "unknown" if item.seconds is None else console.duration(item.seconds) if took else roughly(item.seconds)
        state = "again" if item.forced else item.state
        lines.append((item.step.stage.name, state, item.step.work, time, share, item.source, console.size(item.disk)))
    console.table(f"{title}: {sum_}", ("stage", "state", "work", "time", "share", "by", "disk"), lines, sentences=("work", "by"))
    for text in filter(None, (_kept(planned), _shared(planned))):
        console.note(text)


def announce(planned: Sequence[Planned], title: str) -> None:
    """Say before a run starts what it will take, and what of it most."""
    sum_ = total(planned)
    if not sum_.todo:
        return
    spent: Counter[str] = Counter()
    for item in planned:
        if item.source != "took":
            spent[item.step.stage.name] += item.seconds or 0.0  # type: ignore[assignment]
    most = [f"{name} {roughly(seconds)}" for name, seconds in spent.most_common(2) if seconds > 30]
    long = "; after a stop, the same command continues" if sum_.seconds > 60 or sum_.unknown else ""
    console.note(f"{title}: {sum_}" + (f"; most of it {' and '.join(most)}" if most else "") + long)
    if kept := _kept(planned):
        console.note(kept)


def _gains(step: Step) -> bool:
    """Whether several processes build it faster than one. Those of a CPU share its cores, which one has all."""
    return step.divided and not step.label.endswith(" cpu")


def _shared(planned: Sequence[Planned]) -> str:
    """What several processes do together."""
    names = dict.fromkeys(item.step.stage.name for item in planned if item.step.divided)
    if processes() == 1 or not names:
        return ""
    how = (
        "at best as much faster, as reckoned here"
        if any(_gains(item.step) for item in planned)
        else "which share the cores of the processor, and are hardly faster"
    )
    return f"{', '.join(names)}: by {processes()} processes, {how}; the rest by one"


def _kept(planned: Sequence[Planned]) -> str:
    """What `--force` leaves as it is."""
    first = next((i for i, item in enumerate(planned) if item.forced), len(planned))
    if not any(item.source == "took" for item in planned[first:]):
        return ""
    return (
        "--force does the stages that it names again and no other: what was made from them before stays, as the same settings give the "
        "same result. Name more stages to do those again too"
    )


def refusal(lacking: Mapping[str, Lacking], who: str) -> DataMissing:
    """All that is lacking, with the commands that add it."""
    lines = []
    for item in lacking.values():
        url = f"; ask for it at {item.url}" if item.url else ""
        lines += [f"  {item.name} ({item.kind or 'data'}): {item.title}. Licence: {item.licence}{url}", f"      {item.command}"]
    count = f"{len(lacking)} sources that are" if len(lacking) > 1 else "a source that is"
    return DataMissing(f"{who} needs {count} not registered, and nothing is ever downloaded:\n" + "\n".join(lines))
