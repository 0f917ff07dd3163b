"""Exponential moving average of weights with DCFace's growing horizon (arXiv 2304.07060, official code)."""

from __future__ import annotations

import copy

import torch
from torch import nn


def decay(updates: int, limit: float = 0.9999, power: float = 0.75) -> float:
    """Share of the old average kept at the update after `updates` earlier ones: min(limit, 1 - (1 + n)^-power)."""
    return min(limit, 1 - (1 + updates) ** -power)


class EMA:
    """A frozen copy of `model` that follows it. `updates` counts, and is part of what must be saved to resume."""

    def __init__(self, model: nn.Module, limit: float = 0.9999, power: float = 0.75) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.limit, self.power = limit, power
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        keep = decay(self.updates, self.limit, self.power)
        torch._foreach_lerp_(list(self.model.parameters()), [p.detach() for p in model.parameters()], 1 - keep)
        for mine, theirs in zip(self.model.buffers(), model.buffers()):
            mine.copy_(theirs)
        self.updates += 1

    def state_dict(self) -> dict:
        return {"model": self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.updates = state["updates"]
