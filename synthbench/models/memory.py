"""What a training keeps in a GPU's memory, traced without a GPU: fake tensors run the real operators under autocast and hold no data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils import _pytree

STATE = 20  # bytes of a parameter that is trained: weights, gradient, two moments and the average, in fp32
Network = tuple[nn.Module, tuple[Any, ...]]


def kept(make: Callable[[], Network], precision: str = "bf16") -> tuple[int, int]:
    """(bytes that each image leaves for the way back, bytes beside it) of the network that `make` answers with its inputs for one image.

    What autograd saves in a forward pass, each storage once and weights left out, by two batches; their copies in bf16 are what no image
    adds to. The gradient of the largest layer and the buffers of convolutions come on top.
    """
    with FakeTensorMode():
        with torch.device("cuda"):
            network, inputs = make()
        two, four = (saved(network, inputs, images, precision) for images in (2, 4))
    return (four - two) // 2, 2 * two - four


def saved(network: nn.Module, inputs: tuple[Any, ...], images: int, precision: str) -> int:
    """Bytes that autograd saves for a batch of `images`, where tensors are fake."""
    weights = {storage(tensor) for tensor in (*network.parameters(), *network.buffers())}
    found: dict[int, Tensor] = {}  # held, so that no storage is reused while we count

    def keep(tensor: Tensor) -> Tensor:
        if storage(tensor) not in weights:
            found[storage(tensor)] = tensor
        return tensor

    batch = _pytree.tree_map_only(Tensor, lambda tensor: many(tensor, images), inputs)
    with (
        bf16() if precision == "bf16" else nullcontext(),
        flash(),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        answer = network(*batch)
    _pytree.tree_map_only(Tensor, keep, answer)
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


def storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def many(tensor: Tensor, images: int) -> Tensor:
    """An input for one image, (1, ...), for so many of them."""
    shape = (images, *tensor.shape[1:]) if tensor.ndim and tensor.shape[0] == 1 else tensor.shape
    return torch.empty(shape, dtype=tensor.dtype, device="cuda")


class _Flash(torch.autograd.Function):
    """Attention that keeps what flash attention keeps; fake tensors choose by the GPU, which is not there, and take the plain one."""

    @staticmethod
    def forward(context: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        context.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(context: Any, *gradients: Any) -> Any:
        raise NotImplementedError


@contextmanager
def bf16() -> Iterator[None]:
    """Autocast of CUDA; torch.autocast turns itself off where there is no GPU."""
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)


@contextmanager
def flash() -> Iterator[None]:
    plain = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = lambda q, k, v, *_, **__: _Flash.apply(q, k, v)
    try:
        yield
    finally:
        F.scaled_dot_product_attention = plain
