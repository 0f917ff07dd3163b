"""Stages on the machines of a cluster: the only file that knows Ray.

The stages of all runs that a command needs are one graph, each in it once. A stage whose inputs are there becomes a task of Ray, which
finds it a machine, and another one when that dies; the task builds it in the shared folder, as a command does, and goes on where a dead
one stopped. When all are there the command itself runs as ever, and finds them.
"""

from __future__ import annotations

import graphlib
import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from synthbench import __version__, console
from synthbench.pipeline import plan as plans
from synthbench.pipeline.request import Request, read
from synthbench.pipeline.steps import Step, execute, require_space, until
from synthbench.store import Stage, Store, is_number, read_json, write_json
from synthbench.system import cores, locked
from synthbench.types import Progress, UserError

LIVES = 5  # machines that may die under a stage
LOOK = 10.0  # seconds between two looks at what machines there are, while nothing is finished; and at how far stages are
MOST = 8  # stages in one line
TELL = 60.0  # seconds between two lines that say so
TOGETHER = ("SYNTHBENCH_", "MLFLOW_", "OMP_", "CUBLAS_")  # variables of the environment that tasks have from here

FORCED = "--force and --on exclude each other: do the stage again here, with --until, and then the rest on the cluster"


class Task(NamedTuple):
    """A stage to build, and the request that knows how."""

    request: Request
    step: Step

    @property
    def title(self) -> str:
        return f"{self.step.stage.name}: {self.step.work}"


def build(asked: Callable[[], Sequence[Request]], where: str) -> None:
    """Build all stages that are not there of the requests that `asked` answers, on `where`: "here", which is left to the command itself,
    "ray", a cluster that is here or is started, or ray://HOST:PORT.

    Raises UserError for what cannot be done, and for the first stage that fails, with the machine on which it did.
    """
    requests = [] if where == "here" else asked()
    tasks = graph(requests)
    if not tasks:
        return
    store = Store(requests[0].runs.absolute())
    require_space([task.step for task in tasks.values()], store)
    with _cluster(where) as ray:
        machines = _introduced(ray, store)
        console.note(f"on {where}: {console.counted(len(tasks), 'stage')}, {console.counted(len(machines), 'machine')}")
        _work(ray, tasks)


def graph(requests: Sequence[Request]) -> dict[Path, Task]:
    """What is to be built for `requests`, each stage once, by its folder. Raises UserError, DataMissing when data are lacking."""
    found: dict[Path, Task] = {}
    for request in requests:
        if request.force:
            raise UserError(FORCED)
        order = read(request)
        if order.answer():
            continue
        if order.lacking:
            raise plans.refusal(order.lacking, order.title)
        for steps in order.stages.values():
            for step in until(steps, request.until):
                found.setdefault(step.stage.folder, Task(request, step))
    return {folder: task for folder, task in found.items() if task.step.stage.state != "cached"}  # looked at once, however many share it


def turns(tasks: dict[Path, Task]) -> graphlib.TopologicalSorter[Path]:
    """Which stages may begin, as they become ready: those of which all that they need is done, or was there."""
    order = graphlib.TopologicalSorter({folder: [other for other in task.step.needs if other in tasks] for folder, task in tasks.items()})
    order.prepare()
    return order


def _work(ray: Any, tasks: dict[Path, Task]) -> None:
    """Give out every task when its turn comes, and wait for all. Those that still run when one fails, or at Ctrl-C, are told to stop."""
    environment = {name: value for name, value in os.environ.items() if name.startswith(TOGETHER)}
    order, done, told = turns(tasks), 0, time.monotonic()
    running: dict[Any, Path] = {}
    try:
        while order.is_active():
            for folder in order.get_ready():
                need, threads = _needs(ray, tasks[folder].step)
                there = {**environment, "SYNTHBENCH_THREADS": str(threads)}
                remote = ray.remote(_build).options(name=tasks[folder].step.stage.name, max_retries=LIVES, **need)
                running[remote.remote(tasks[folder].request, folder, os.getcwd(), there)] = folder
            finished, _ = ray.wait(list(running), num_returns=1, timeout=LOOK)
            if time.monotonic() - told > TELL and (text := under_way(tasks[folder] for folder in running.values())):
                told = time.monotonic()
                console.note(text)
            if not finished:
                _machines(ray)
                continue
            folder = running.pop(finished[0])
            machine, seconds = _answer(ray, finished[0], tasks[folder])
            order.done(folder)
            done += 1
            console.note(f"{done} of {len(tasks)}, {tasks[folder].title}: {console.duration(seconds)} on {machine}")
    finally:
        for reference in running:
            with suppress(Exception):
                ray.cancel(reference)


def under_way(tasks: Iterable[Task]) -> str:
    """How far the stages are that tell: `  train cemiface 43 %, recognizer dcface 12 %`; empty where none does."""
    found = []
    for step in (task.step for task in tasks):
        said = read_json(_said(step))
        if isinstance(said, dict) and is_number(said.get("done")) and is_number(said.get("total")) and said["total"]:
            who = step.work.partition(": ")[0] if ": " in step.work else ""
            found.append(" ".join(filter(None, (step.stage.name, who, f"{100 * said['done'] / said['total']:.0f} %"))))
    more = [f"and {len(found) - MOST} more"] if len(found) > MOST else []
    return f"  {', '.join(found[:MOST] + more)}" if found else ""


def _said(step: Step) -> Path:
    """Beside the folder of a stage that a task builds: how far it is."""
    return step.stage.folder.with_name(step.stage.folder.name + ".progress.json")


def _answer(ray: Any, reference: Any, task: Task) -> tuple[str, float]:
    try:
        failed, machine, seconds = ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # a fault, with its traceback there
        raise error from None
    except ray.exceptions.RayError as error:
        raise UserError(
            f"{task.title}: it was begun {LIVES + 1} times and each time its process or machine died ({type(error).__name__}: "
            f"{str(error).strip().splitlines()[0]:.200}). Nothing is lost: the same command continues"
        ) from None
    if failed:
        raise UserError(f"{task.title}, on {machine}: {failed}")
    return machine, seconds


def takes_gpu(step: Step) -> bool:
    """Whether a GPU is of use to a stage, and it takes one where there are some: what networks do."""
    return step.cost.unit == "GFLOP"


def share(processors: int, gpus: int) -> int:
    """Cores that a stage takes of a machine: those of one of its GPUs, all where it has none, or SYNTHBENCH_THREADS."""
    return int(os.environ.get("SYNTHBENCH_THREADS") or max(1, processors // max(1, gpus)))


def _needs(ray: Any, step: Step) -> tuple[dict[str, float], int]:
    """(what of a machine a stage takes, threads)."""
    machines = _machines(ray)
    processors = min(int(has["CPU"]) for has in machines)
    gpus = max(int(has.get("GPU", 0)) for has in machines)
    threads = share(processors, gpus)
    return {"num_cpus": min(threads, processors), **({"num_gpus": 1} if gpus and takes_gpu(step) else {})}, threads


def _machines(ray: Any) -> list[dict[str, float]]:
    """What the machines that may work have. Raises UserError when none is left."""
    found = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if not found:
        raise UserError("the Ray cluster has no machine with processors left. Nothing is lost: the same command continues when it has")
    return found


# ---------------------------------------------------------------------------------------------------- on another machine


def _build(request: Request, folder: Path, place: str, environment: dict[str, str]) -> tuple[str, str, float]:
    """What a task does: (why it failed, or nothing; on which machine; seconds)."""
    import platform

    os.chdir(place)
    os.environ.update(environment)
    try:
        order = read(request)
        (row,) = execute([_telling(order.step(folder))], order.store)
    except UserError as error:  # as text: classes of plugins are not known everywhere
        return str(error), platform.node(), 0.0
    return "", platform.node(), row["seconds"]


def _telling(step: Step) -> Step:
    """The same, which writes down how far it is while it is built."""
    last = 0.0

    def build_(folder: Path, progress: Progress) -> dict[str, Any] | None:
        def both(done: int, total: int) -> None:
            nonlocal last
            progress(done, total)
            if time.monotonic() - last > LOOK:
                last = time.monotonic()
                write_json(_said(step), {"done": done, "total": total})

        try:
            return step.build(folder, both)
        finally:
            _said(step).unlink(missing_ok=True)

    return replace(step, build=build_)


def _introduce(root: Path, name: str) -> dict[str, Any]:
    """What a machine says of itself: versions, and whether it sees the runs folder, and the lock that the first one holds there."""
    import platform

    import torch

    probe, lock = root / f"{name}.txt", root / f"{name}.lock"
    return {
        "machine": platform.node(),
        "versions": _versions(torch.__version__),
        "sees": probe.exists() and probe.read_text("utf-8") == name,
        "excludes": Stage.is_locked(lock),
        "mount": str(root),
    }


def _versions(torch_version: str) -> dict[str, str]:
    package = Path(__file__).parents[1]
    code = hashlib.sha256()
    for path in sorted(path for path in package.rglob("*") if path.suffix in (".py", ".yaml", ".csv")):
        code.update(path.read_bytes())
    own = f"{__version__} with code {code.hexdigest()[:8]}"
    return {"Python": ".".join(map(str, sys.version_info[:2])), "torch": torch_version, "synthbench": own}


def _introduced(ray: Any, store: Store) -> list[str]:
    """The machines of the cluster, once each has shown that it has the same software and works in the same folder.

    Raises UserError with the name of one that has not.
    """
    import torch
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as Only

    store.root.mkdir(parents=True, exist_ok=True)
    name, own = f".probe-{os.getpid()}-{os.urandom(4).hex()}", _versions(torch.__version__)
    probe, lock = store.root / f"{name}.txt", store.root / f"{name}.lock"
    probe.write_text(name, "utf-8")
    try:
        with locked(lock):
            asked = [
                ray.remote(_introduce).options(num_cpus=0, scheduling_strategy=Only(node["NodeID"], soft=False)).remote(store.root, name)
                for node in ray.nodes()
                if node["Alive"]
            ]
            found = ray.get(asked)
    finally:
        for path in (probe, lock):
            path.unlink(missing_ok=True)
    for told in found:
        who, mount = told["machine"], told["mount"]
        if other := [f"{name} {version}, here {own[name]}" for name, version in told["versions"].items() if version != own[name]]:
            raise UserError(f"machine {who} has other software: {'; '.join(other)}. Results would depend on where a stage is built")
        if not told["sees"]:
            raise UserError(f"machine {who} has another {mount}: what is written here is not there. --runs must be a folder that all share")
        if not told["excludes"]:
            raise UserError(
                f"machine {who} may take a lock in {mount} that is held here, so two would build one stage. Mount it with locks that hold "
                "for all machines (Lustre: flock, not localflock)"
            )
    return [told["machine"] for told in found]


@contextmanager
def _cluster(where: str) -> Iterator[Any]:
    """Ray, connected. Raises UserError when it is not installed, or nobody answers."""
    if where != "ray" and not where.startswith("ray://"):
        raise UserError(f"--on {where}: write here, ray, or ray://HOST:PORT")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as its next version has it
    try:
        import ray
    except ImportError:
        raise UserError("--on ray needs Ray: pip install 'synthbench[ray]'") from None
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    before = signal.getsignal(signal.SIGTERM)
    try:
        if where != "ray":
            ray.init(where, **quiet)
        else:
            _joined_or_started(ray, quiet)
        signal.signal(signal.SIGTERM, before)  # Ray's own way with it is to abort
    except (ConnectionError, RuntimeError, ValueError) as error:
        hint = "" if where == "ray" else ". One that asks for a token wants RAY_AUTH_MODE=token here, and its token in ~/.ray/auth_token"
        raise UserError(f"--on {where}: no Ray cluster answers ({str(error).splitlines()[0]:.200}){hint}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _joined_or_started(ray: Any, quiet: dict[str, Any]) -> None:
    """The cluster of this machine (`ray start`, or RAY_ADDRESS), or one of this machine alone."""
    try:
        ray.init("auto", **quiet)
    except ConnectionError:
        ray.init("local", num_cpus=cores(), include_dashboard=False, **quiet)
