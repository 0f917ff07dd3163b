"""The loop of a sweep: a trial is one `run.run`, which does what is missing or answers from the cache.

All points have the same seeds and differ by their settings only, so a sweep over a setting of `sample` trains the generator once.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from optuna.trial import Trial

from synthbench import console, registry
from synthbench.pipeline import run
from synthbench.results.comparison import AVG
from synthbench.results.record import Result
from synthbench.sweep import curve, forecast, trials
from synthbench.sweep.design import Design, Request, design, label
from synthbench.system import cores
from synthbench.types import UserError

Watch = Callable[[int, int, float], None]
Sweep = dict[str, Any]  # sweep.json
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def sweep(request: Request) -> Sweep:
    """Run what is missing of a sweep; write and return what it shows. The same request again continues it.

    Raises UserError when the request is wrong, and when no point could be done.
    """
    began = time.time()
    made = design(request)
    forecast.announce(made)
    made.begin()
    study = trials.open_study(made)  # before the processes, which would all make its tables at once
    if request.jobs > 1:
        _in_processes(request, began)
    with trials.answering(made):
        _work(made, study, began)
        confirmed = _confirm(made, study)
        with trials.looking_after(made):
            found = curve.write(made, study, confirmed)
    if found["best"] is None:
        reason = next((point["error"] for point in found["points"] if point.get("error")), "nothing was finished")
        raise UserError(f"sweep {made.name}: no point was finished; the first failed with: {reason}")
    if request.tracking:
        from synthbench.tracking import mirror

        mirror.mirror_group(made.store, made.folder / "sweep.json")
    return found


# --------------------------------------------------------------------------------------------------------------- work


def _work(made: Design, study: trials.Study, began: float, parent: int | None = None) -> None:
    """Do trials until none is left, and wait for those that other processes work on. `parent`: stop when it is gone."""
    with trials.looking_after(made):
        trials.fill(made, study, began)
    told = False
    while parent is None or os.getppid() == parent:
        with trials.looking_after(made):
            trials.bury(made, study)
            begun = trials.begin(made, study)
            others = trials.busy(made, study)
        if begun:
            trial, lock = begun
            with lock:
                _try(made, study, trial)
            continue
        if not others:
            return
        if not told:
            console.note(f"sweep {made.name}: other processes work on the last {console.counted(others, 'point')}; waiting for them")
        told = True
        time.sleep(0.5)


def _try(made: Design, study: trials.Study, trial: Trial) -> None:
    """Run a trial and tell the study. A point that fails is named, and the sweep goes on; an interruption or a full disk ends it."""
    values = trial.user_attrs["values"]
    done = len(trials.trials(study, trials.COMPLETE, trials.PRUNED))
    console.note(f"{label(values)} ({done} of {made.size} points done)")
    try:
        result = _run(made.run(values, made.request.seeds), trials.watch(made, trial) if made.request.prune else None)
        trial.set_user_attr("run", result["run"])
        study.tell(trial, curve.mean(result, AVG))
    except trials.Pruned as stop:
        console.note(f"{label(values)}: given up, {stop}")
        study.tell(trial, state=trials.PRUNED)
    except Exception as error:
        trial.set_user_attr("error", str(error) if isinstance(error, UserError) else registry.told(error))
        study.tell(trial, state=trials.FAIL)
        if isinstance(error, OSError) and error.errno in DISK:  # the next point would fail too
            raise
        _report(made, trial, error)
    except BaseException:  # Ctrl-C: the same command begins the point again
        study.tell(trial, state=trials.FAIL)
        raise
    with trials.looking_after(made):
        curve.write(made, study, [])


def _report(made: Design, trial: Trial, error: Exception) -> None:
    text = f"{label(trial.user_attrs['values'])} failed: {trial.user_attrs['error']}"
    if not isinstance(error, UserError):
        log = made.folder / "trials" / f"{trial.number}.log"
        log.write_text("".join(traceback.format_exception(error)), "utf-8")
        text += f"; the details are in {log}"
    console.warn(text)


def _run(request: run.Request, watch: Watch | None = None) -> Result:
    result = run.run(request, watch)
    assert result is not None  # as there is no `until`
    return result


def _confirm(made: Design, study: trials.Study) -> list[tuple[dict[str, Any], Result]]:
    """The best points again, with more seeds, and with a larger volume where that was asked for."""
    wish = made.request
    done = sorted(trials.whole(made, study).values(), key=lambda trial: -(trial.value or 0.0))
    rows = []
    for trial in done[: wish.confirm]:
        values = trial.user_attrs["values"]
        console.note(f"confirming {label(values)} with {wish.repeat_seeds} seeds")
        rows.append((values, _run(made.run(values, wish.repeat_seeds, wish.confirm_volume))))
    return rows


# ---------------------------------------------------------------------------------------------------------- processes


def _in_processes(request: Request, began: float) -> None:
    """Work with `request.jobs` processes, GPUs shared out among them. The trial of one that dies goes to the others, and in the end to
    this one."""
    from synthbench.device import shared_out

    threads = os.environ.get("SYNTHBENCH_THREADS") or str(max(1, cores() // request.jobs))
    context = multiprocessing.get_context("spawn")
    wishes = [replace(request, jobs=1, device=shared_out(request.device, number)) for number in range(request.jobs)]
    workers = [context.Process(target=_worker, args=(wish, began, os.getpid(), threads)) for wish in wishes]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            worker.join()
    except KeyboardInterrupt:
        for worker in workers:
            if worker.is_alive() and worker.pid:
                os.kill(worker.pid, signal.SIGINT)
        for worker in workers:
            worker.join(30)
            worker.kill()
        raise
    if lost := [str(worker.exitcode) for worker in workers if worker.exitcode]:
        console.warn(f"{len(lost)} of {len(workers)} processes ended early, with code {', '.join(lost)}; going on without")


def _worker(request: Request, began: float, parent: int, threads: str) -> None:
    os.environ["SYNTHBENCH_THREADS"] = threads
    try:
        made = design(request)
        with trials.answering(made):
            _work(made, trials.open_study(made), began, parent)
    except UserError as error:
        console.error(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
