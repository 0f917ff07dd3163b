"""A set of faces divided among processes: each makes every so many blocks of slots, and the first one has them all in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import torch

from synthbench.training import crew
from synthbench.types import FaceBatch, Slot, UserError

BLOCK = 256  # slots in a row that one process makes


def faces(generate: Callable[[Sequence[Slot]], Iterator[FaceBatch]], slots: Sequence[Slot], done: int) -> Iterator[FaceBatch]:
    """The faces of `slots` behind the `done` first ones, in order: made by the processes at work block by block in turn, and all given
    out by the first of them, whose `done` counts."""
    rank, size = crew.at_work()
    if size == 1:
        yield from generate(slots[done:])
        return
    slots = slots[crew.told(done) :]
    blocks = [list(slots[first : first + BLOCK]) for first in range(0, len(slots), BLOCK)]
    made = iter(generate([slot for block in blocks[rank::size] for slot in block]))
    there: list[deque[FaceBatch]] = [deque() for _ in range(size)]
    number, going = 0, True
    while going:
        batch = next(made, None)
        batches = crew.gathered(batch and _on_cpu(batch))
        going = crew.told(any(item is not None for item in batches))
        for queue, item in zip(there, batches):
            if item is not None:
                queue.append(item)
        while number < len(blocks) and (block := _first(there[number % size], len(blocks[number]))):
            yield block
            number += 1
    if rank == 0 and number < len(blocks):
        raise UserError(f"process {number % size} of {size} made fewer images than it was asked for")


def _first(queue: deque[FaceBatch], count: int) -> FaceBatch | None:
    """The first `count` faces of `queue`, which are taken from it; None while it has not so many."""
    if sum(len(batch.identity) for batch in queue) < count:
        return None
    found: list[FaceBatch] = []
    while (lacking := count - sum(len(batch.identity) for batch in found)) > 0:
        batch = queue.popleft()
        if len(batch.identity) > lacking:
            queue.appendleft(_cut(batch, slice(lacking, None)))
            batch = _cut(batch, slice(lacking))
        found.append(batch)
    columns = {name: torch.cat([batch.columns[name] for batch in found]) for name in found[0].columns}
    return FaceBatch(torch.cat([batch.images for batch in found]), torch.cat([batch.identity for batch in found]), columns)


def _on_cpu(batch: FaceBatch) -> FaceBatch:
    return FaceBatch(batch.images.cpu(), batch.identity.cpu(), {name: values.cpu() for name, values in batch.columns.items()})


def _cut(batch: FaceBatch, rows: slice) -> FaceBatch:
    return FaceBatch(batch.images[rows], batch.identity[rows], {name: values[rows] for name, values in batch.columns.items()})
