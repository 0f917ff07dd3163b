"""The study of a sweep: Optuna's ledger of points, in a journal or a database. The only file that imports optuna.

A trial that is worked on holds a lock on trials/<number>.lock. A lock that is free says that its process is dead, however it died, which
a process number cannot say. Whoever looks after the queue holds sweep.lock, so that two processes never begin one point.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from synthbench import console
from synthbench.recognition.trainer import load_recipe
from synthbench.results import record
from synthbench.results.record import Result
from synthbench.seeds import derive
from synthbench.store import content_key, is_name
from synthbench.sweep.design import Design, label
from synthbench.sweep.settings import Axis, Values
from synthbench.system import locked, take
from synthbench.types import UserError

COMPLETE, FAIL, PRUNED, RUNNING, WAITING = (TrialState[name] for name in ("COMPLETE", "FAIL", "PRUNED", "RUNNING", "WAITING"))
Study = optuna.Study
Pruned = optuna.TrialPruned


def open_study(made: Design) -> Study:
    """The study of a sweep, made when it is not there. A damaged journal is set aside: what was done comes back from the cache."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    if made.request.storage:
        return _database(made, made.request.storage)
    with looking_after(made):
        return _journal(made)


def _journal(made: Design) -> Study:
    path = made.folder / "study.journal"
    _mend(path)
    try:
        return _create(made, JournalStorage(JournalFileBackend(str(path))))
    except Exception as error:  # Optuna does not check what it reads
        aside = path.with_name(f"study.journal.damaged-{int(time.time())}")
        os.replace(path, aside)
        console.warn(f"{path} is damaged ({error}); set aside as {aside.name}. Points that were done come back from the cache")
        return _create(made, JournalStorage(JournalFileBackend(str(path))))


def with_driver(url: str) -> str:
    """PostgreSQL's URL with the driver of our extra; which one SQLAlchemy takes else depends on its version."""
    return re.sub("^postgres(ql)?://", "postgresql+psycopg2://", url)


def _database(made: Design, url: str) -> Study:
    where = f"--storage {console.hidden(url)}"
    try:
        return _create(made, with_driver(url))
    except ImportError:
        extra = f" (for PostgreSQL: {console.install('postgresql')})" if url.startswith("postgres") else ""
        raise UserError(f"{where} cannot be used: its database driver is not installed{extra}") from None
    except Exception as error:  # of any database driver
        raise UserError(f"{where} cannot be used: {_reason(error)}") from None


@contextlib.contextmanager
def answering(made: Design) -> Iterator[None]:
    """Raises UserError when a database that was there stops answering."""
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        where = f"--storage {console.hidden(str(made.request.storage))}"
        raise UserError(f"{where} does not answer any more: {_reason(error)}. The same command goes on when it does") from None


def _reason(error: Exception) -> str:
    """The first line of what a driver says, without passwords."""
    return console.hidden((str(error.__cause__ or error).splitlines() or [type(error).__name__])[0])


def _mend(path: Path) -> None:
    """Drop the half line that a kill left at the end of a journal: the next line would be written behind it, and spoil both."""

    def half() -> bool:
        return path.is_file() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")

    if half():
        lock = JournalFileSymlinkLock(str(path))
        lock.acquire()
        if half():
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        lock.release()


def _create(made: Design, storage: Any) -> Study:
    pruner = _pruner(made) if made.request.prune else optuna.pruners.NopPruner()
    study = optuna.create_study(study_name=made.name, storage=storage, direction="maximize", load_if_exists=True, pruner=pruner)
    if "command" not in study.user_attrs:
        study.set_user_attr("optuna", optuna.__version__)  # samplers differ between versions
        study.set_user_attr("command", console.command_line())
    study.get_trials()
    return study


@contextlib.contextmanager
def looking_after(made: Design) -> Iterator[None]:
    """One process at a time looks after the queue; not to be nested."""
    with locked(made.folder / "sweep.lock"):
        yield


# -------------------------------------------------------------------------------------------------------------- queue


def fill(made: Design, study: Study, began: float) -> None:
    """Queue every point that is not done, nor queued, nor worked on; what failed since `began` (seconds since 1970) is left alone."""
    bury(made, study)
    recent = [trial for trial in trials(study, FAIL) if trial.datetime_complete and trial.datetime_complete.timestamp() >= began]
    failed = {key(trial) for trial in recent if "error" in trial.user_attrs}
    taken = {*whole(made, study), *map(key, trials(study, WAITING, RUNNING, PRUNED)), *failed}
    for trial in trials(study, COMPLETE):
        if key(trial) not in taken:
            values = trial.user_attrs["values"]
            console.warn(
                f"run {trial.user_attrs.get('run')} of {label(values)} is missing or not whole: it is skipped, and the point done again"
            )
            if not made.points:
                _queue(made, study, values)
                taken.add(key(trial))
    for values in made.points:
        if content_key({"values": values}) not in taken:
            _queue(made, study, values)


def bury(made: Design, study: Study) -> None:
    """Tell the study of trials whose process is dead, and queue their points again: Optuna leaves them RUNNING for ever."""
    for trial in trials(study, RUNNING):
        path, host = lock_of(made, trial.number), trial.user_attrs.get("host")
        if path.exists():
            with take(path) or contextlib.nullcontext() as lock:
                dead = lock is not None
        else:  # its process died at once, or it is on a machine that has another folder
            dead = host == platform.node() or (host is None and not made.request.storage)
        if dead:
            study.tell(trial.number, state=FAIL)
            if values := trial.user_attrs.get("values"):
                console.note(f"{label(values)} was cut short; it is begun again")
                _queue(made, study, values)


def begin(made: Design, study: Study) -> tuple[Trial, Any] | None:
    """The next trial, and its lock, held; None when there is nothing to begin."""
    queued, search = bool(trials(study, WAITING)), not made.points
    enough = len(trials(study, COMPLETE, PRUNED, RUNNING)) >= made.size or len(trials(study, FAIL)) >= 2 * made.size
    if not queued and (not search or enough):
        return None
    count = len(study.get_trials(deepcopy=False))
    study.sampler = sampler(made, count)
    trial = study.ask({axis.path: distribution(axis, search) for axis in made.axes})
    lock = take(lock_of(made, trial.number))
    trial.set_user_attr("host", platform.node())
    trial.set_user_attr("pid", os.getpid())
    if "values" not in trial.user_attrs:
        trial.set_user_attr("values", {axis.path: _value(axis, trial.params[axis.path]) for axis in made.axes})
    return trial, lock


def busy(made: Design, study: Study) -> int:
    """How many trials other processes work on in this folder."""
    return sum(lock_of(made, trial.number).exists() for trial in trials(study, RUNNING))


def _queue(made: Design, study: Study, values: Values) -> None:
    study.enqueue_trial({axis.path: _choice(axis, values[axis.path]) for axis in made.axes}, user_attrs={"values": values})


def lock_of(made: Design, number: int) -> Path:
    return made.folder / "trials" / f"{number}.lock"


# ------------------------------------------------------------------------------------------------------------- pruning


def _pruner(made: Design) -> optuna.pruners.BasePruner:
    """Gives up the lowest quarter, once some points are finished, after a quarter of the epochs (10 of the paper's 40).

    A quarter and not half, which MedianPruner takes: neighbours on a curve differ by no more than the accuracy's error, a percent.
    """
    first = min(5, max(2, made.size // 3))
    return optuna.pruners.PercentilePruner(75.0, n_startup_trials=first, n_warmup_steps=max(1, _epochs(made) // 4))


def _epochs(made: Design) -> int:
    return load_recipe(made.protocol.recipe).epochs


def watch(made: Design, trial: Trial) -> Callable[[int, int, float], None]:
    """What a recognizer in training tells: (seed, epochs done, validation accuracy). Raises Pruned to give the point up.

    Epochs count through all seeds, so that points are compared at the same epoch of the same seed.
    """
    epochs = _epochs(made)

    def told(seed: int, epoch: int, accuracy: float) -> None:
        trial.report(accuracy, seed * epochs + epoch)
        if epoch < epochs and trial.should_prune():  # after the last epoch there is nothing left to save
            trial.set_user_attr("validation", {"accuracy": accuracy, "seed": seed, "epoch": epoch, "epochs": epochs})
            raise Pruned(f"validation accuracy {accuracy:.1f} % after {epoch} of {epochs} epochs, in the lowest quarter")

    return told


# -------------------------------------------------------------------------------------------------------------- trials


def trials(study: Study, *states: TrialState) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=states)


def key(trial: FrozenTrial) -> str:
    """The same for trials of the same point."""
    return content_key({"values": trial.user_attrs.get("values")})


def whole(made: Design, study: Study) -> dict[str, FrozenTrial]:
    """Complete trials whose run can be read, by point; the latest of equal ones."""
    return {key(trial): trial for trial in trials(study, COMPLETE) if result_of(made, trial)}


def result_of(made: Design, trial: FrozenTrial) -> Result | None:
    name: Any = trial.user_attrs.get("run")
    return record.read_run(made.store.root / "results" / name / "run.json") if is_name(name) else None


def sampler(made: Design, number: int) -> BaseSampler:
    """Of trial `number`: its seed is its own, so that processes that search together do not all try the same."""
    seed = derive(0, "sampler", number) % 2**32
    first = max(3, min(10, made.request.trials // 3))  # trials at random, before there is something to learn from
    if made.request.sampler == "tpe":
        return TPESampler(seed=seed, n_startup_trials=first)
    if made.request.sampler == "gp":
        return GPSampler(seed=seed, n_startup_trials=first, deterministic_objective=False)
    return RandomSampler(seed=seed)


def distribution(axis: Axis, search: bool) -> BaseDistribution:
    """A range of numbers, or choices. The values of a grid are shown as a range, for the axes of the dashboard."""
    if axis.values and (search or not axis.numeric):
        return CategoricalDistribution([_choice(axis, value) for value in axis.values])
    low, high = (min(axis.values), max(axis.values)) if axis.values else (axis.low, axis.high)
    if all(isinstance(value, int) for value in (axis.values or (low, high))):
        return IntDistribution(low, high, step=int(axis.step or 1))  # type: ignore[arg-type]
    return FloatDistribution(low, high, step=axis.step)


def _choice(axis: Axis, value: Any) -> Any:
    """A value as a parameter of Optuna, which takes no lists and no mappings."""
    return json.dumps(value) if isinstance(value, (list, dict)) else value


def _value(axis: Axis, choice: Any) -> Any:
    return next((value for value in axis.values if _choice(axis, value) == choice), choice)
