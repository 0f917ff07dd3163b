"""Batch norm over the batch of all processes that work together."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synthbench.training.crew import at_work, collected, summed


def synchronised(network: nn.Module, device: torch.device) -> nn.Module:
    """`network`, whose batch norms see the whole batch, of which each process has a share; parameters and their names stay.

    On a GPU torch's SyncBatchNorm, which a CPU does not have; there `_normalised`.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.forward = functools.partial(_normalised, module)  # type: ignore[method-assign]
    return network


def spread(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (by n - 1) of the `values` (B,) of all processes; without gradient."""
    mean, squares, count = _moments(values.detach()[:, None])
    return mean[0], (squares[0] / (count - 1)).sqrt()


def _normalised(norm: nn.modules.batchnorm._BatchNorm, x: Tensor) -> Tensor:
    """What `norm` does to x (B, C, ...), with mean and variance over the batches of all processes (Ioffe, Szegedy 2015, Alg. 1)."""
    if not norm.training:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
    mean, squares, count = _moments(x.transpose(0, 1).flatten(1).T)
    if norm.track_running_stats and norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None:
        norm.running_mean.lerp_(mean.detach(), norm.momentum)
        norm.running_var.lerp_(squares.detach() / (count - 1), norm.momentum)
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.add_(1)
    shape = (1, -1, *(1,) * (x.dim() - 2))
    y = (x - mean.view(shape)) * (squares / count + norm.eps).rsqrt().view(shape)
    return y if norm.weight is None else y * norm.weight.view(shape) + norm.bias.view(shape)


def _moments(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), sum of squared deviations from it (C,) and number () of the `rows` (N, C) of all processes.

    Each process tells its own three, which are joined as Chan, Golub, LeVeque (1979) do: nothing is lost where the mean is large.
    """
    mean = rows.mean(0)
    own = torch.cat([mean, (rows - mean).square().sum(0), rows.new_tensor([len(rows)])])
    means, squares, counts = _Collected.apply(own).split([rows.shape[1], rows.shape[1], 1], 1)
    count = counts.sum()
    joined = (means * counts).sum(0) / count
    return joined, (squares + counts * (means - joined).square()).sum(0), count


class _Collected(torch.autograd.Function):
    """A tensor of every process, stacked by rank; backwards each gets what all losses want of its own."""

    @staticmethod
    def forward(context: Any, own: Tensor) -> Tensor:
        return collected(own)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        gradient = gradient.contiguous()
        summed([gradient])
        return gradient[at_work().rank]
