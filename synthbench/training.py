"""What trainings share: gradients of a batch in parts, and checkpoints that let a killed training go on as if nothing had happened."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from synthbench.device import ABREAST, autocast, side_by_side
from synthbench.store import writing
from synthbench.types import UserError

EVERY = 30.0  # seconds between two checkpoints


Batch = TypeVar("Batch", bound=tuple[Tensor, ...])


def gradients(
    objective: Callable[[Batch], dict[str, Tensor]], batch: Batch, parameters: Sequence[nn.Parameter], precision: str, whole: bool = False
) -> dict[str, Tensor]:
    """Set `grad` of `parameters` for the loss of `batch`, a named tuple of tensors with one row per image.

    objective: batch -> {"loss": its mean over the images, and what else is worth a line in the log}, scalars; answered detached.
    On a CPU the batch is halved and the halves work side by side, the same on every machine; `whole` forbids it.
    """
    size, device = len(batch[0]), batch[0].device
    count = 1 if whole or device.type != "cpu" else min(ABREAST, size)

    def work(part: slice) -> tuple[Sequence[Tensor], dict[str, Tensor]]:
        rows = type(batch)(*(tensor[part] for tensor in batch))
        share = len(rows[0]) / size
        with autocast(device, precision):
            losses = objective(rows)
        found = torch.autograd.grad(losses["loss"] * share, parameters)
        return found, {name: value.detach() * share for name, value in losses.items()}

    total: dict[str, Tensor] = {}
    parts = [slice(size * i // count, size * (i + 1) // count) for i in range(count)]
    for number, (found, losses) in enumerate(side_by_side(work, parts, device)):
        for parameter, gradient in zip(parameters, found, strict=True):
            parameter.grad = gradient if number == 0 or parameter.grad is None else parameter.grad.add_(gradient)
        total = {name: value + total.get(name, 0) for name, value in losses.items()}
    return total


class Stateful(Protocol):
    """A network, an optimizer, an EMA: anything whose state is a dict of tensors and plain data."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any, /) -> Any: ...


def save(path: Path, step: int, parts: Mapping[str, Stateful], fingerprint: str = "") -> None:
    """Write the state of `parts` after `step` steps to `path`. `fingerprint` says what is being trained."""
    state = {"step": step, "fingerprint": fingerprint} | {name: part.state_dict() for name, part in parts.items()}
    with writing(path) as temporary:
        torch.save(state, temporary)


def restore(path: Path, parts: Mapping[str, Stateful], fingerprint: str = "") -> int:
    """Load `path` into `parts` if it is there; the number of steps done.

    Raises UserError for a damaged file and for the state of another training.
    """
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["fingerprint"] == fingerprint:
            for name, part in parts.items():
                part.load_state_dict(state[name])
            return int(state["step"])
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UserError(f"{path} is damaged ({error}); delete it to start afresh") from None
    raise UserError(f"{path} belongs to a training with another recipe, seed or set; delete it to start afresh")


def cut_log(path: Path, step: int) -> None:
    """Drop the lines of metrics.jsonl that come after `step`, and a torn last one."""
    if path.exists():
        lines = path.read_text("utf-8").splitlines(keepends=True)
        path.write_text("".join(line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step), "utf-8")


def save_weights(module: nn.Module, path: Path) -> None:
    """The tensors of `module` as a safetensors file, by rename."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    with writing(path) as temporary:
        save_file(tensors, temporary)
