"""The size of a network: what a paper's table says, counted."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count(module: nn.Module, *inputs: Any) -> tuple[int, int]:
    """(parameters, multiply-accumulates of one forward pass); `module` and `inputs` may be on the meta device."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    return sum(parameter.numel() for parameter in module.parameters()), counter.get_total_flops() // 2
