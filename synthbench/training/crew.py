"""Several processes that work on one stage, each with a device of its own: who they are, and what they tell one another.

The first process (rank 0) does all that a single one does: it alone locks, publishes and prints. The others wait until it names a stage
that can be divided, build that with it, and wait again (pipeline/together.py). Nothing else knows of torch.distributed (test).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from synthbench.device import gpus
from synthbench.system import cores, launched
from synthbench.types import UserError

PATIENCE = timedelta(days=30)  # with one another: what one process builds alone may take days


class Crew(NamedTuple):
    """This process among those that work together."""

    rank: int
    size: int

    def part(self, count: int) -> slice:
        """The share of this process in `count` rows: together the shares are all rows, in the order of the ranks."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)


ALONE = Crew(0, 1)
_at_work = ALONE


def present() -> Crew:
    """The processes of this command."""
    return Crew(*launched()[:2])


def at_work() -> Crew:
    """Those that build the stage that is being built: ALONE, but within `together`."""
    return _at_work


@contextmanager
def together() -> Iterator[None]:
    """What is inside is done by all processes of this command at once."""
    with _as(present()):
        yield


@contextmanager
def alone() -> Iterator[None]:
    """What is inside each process does whole and by itself: what cannot be divided."""
    with _as(ALONE):
        yield


@contextmanager
def _as(crew: Crew) -> Iterator[None]:
    global _at_work
    before, _at_work = _at_work, crew
    try:
        yield
    finally:
        _at_work = before


# ------------------------------------------------------------------------------------------------ what is told one another


def told(thing: Any = None) -> Any:
    """What the first process has for `thing`. It is pickled: for what the processes of one command say to one another alone."""
    said = [thing]
    with _in_company():
        dist.broadcast_object_list(said, src=0, device=torch.device("cpu"))
    return said[0]


def gathered(thing: Any) -> list[Any]:
    """In the first process the `thing` of each, by rank; in the others nothing. Pickled, as above."""
    everything: list[Any] | None = [None] * present().size if present().rank == 0 else None
    with _in_company():
        dist.gather_object(thing, everything, dst=0)
    return everything or []


def summed(tensors: Sequence[Tensor]) -> None:
    """Sum each of `tensors`, of one device and dtype, over the processes, in place: to the same bits in every process."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    with _in_company():
        dist.all_reduce(flat)
    for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(total.view_as(tensor))


def collected(own: Tensor) -> Tensor:
    """The tensor of every process, stacked by rank: (processes, ...). All are of one shape, device and dtype."""
    found = [torch.empty_like(own) for _ in range(present().size)]
    with _in_company():
        dist.all_gather(found, own.contiguous())
    return torch.stack(found)


def dismiss() -> None:
    """The first process has done all there was to do: the others may go."""
    if present().size > 1:
        told(None)
        leave()


def leave() -> None:
    """Nothing more will be said."""
    dist.destroy_process_group()


@contextmanager
def _in_company() -> Iterator[None]:
    """Raises UserError when another process has gone."""
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus() and dist.is_nccl_available() else "gloo", timeout=PATIENCE)
    try:
        yield
    except RuntimeError as error:
        raise UserError(
            f"another of the {present().size} processes of this command has ended ({str(error).splitlines()[0]:.100}). Nothing is lost: "
            "the same command continues, with as many --devices as you like"
        ) from None


# -------------------------------------------------------------------------------------------------------------- beginning


def spread(devices: int | None, device: str) -> int | None:
    """Run this very command in `devices` processes of this machine under torch's launcher, and answer the exit code of the one that
    failed first, or 0; None in one of those processes, or when one process is enough.

    Raises UserError for more devices than there are.
    """
    size = present().size
    if devices is None or size > 1 or devices == 1:
        if devices not in (None, size):
            raise UserError(f"--devices {devices}, but torchrun started {size} processes; leave --devices out")
        return None
    there = gpus() if device != "cpu" else 0
    what = "GPUs" if there else "cores for this"
    there = there or cores()
    if not 1 <= devices <= there:
        raise UserError(f"--devices {devices}: must be between 1 and {there}; this machine has {there} {what}")
    return _launched(devices)


def _launched(processes: int) -> int:
    import logging
    import tempfile

    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable()  # what failed has said so itself
    with tempfile.TemporaryDirectory(prefix="synthbench-") as logs:  # of the launcher, which leaves its folders behind
        config = LaunchConfig(
            1,
            1,
            processes,
            DefaultLogsSpecs(logs),
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",  # the name of a machine without network may mean nothing
            run_id="synthbench",
            max_restarts=0,
            monitor_interval=0.1,
        )
        try:
            elastic_launch(config, sys.executable)("-m", "synthbench", *sys.argv[1:])
        except ChildFailedError as error:
            code = int(error.get_first_failure()[1].exitcode)
            return code if code > 0 else 128 - code
        except SignalException as error:
            return 128 + int(error.sigval)
    return 0
