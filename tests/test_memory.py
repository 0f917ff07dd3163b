"""Memory of a training on a GPU: the tracer against layers reckoned by hand, and every shipped generator at its paper's size and batch."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from synthbench.config import config_names
from synthbench.inventory import cards
from synthbench.models.memory import kept
from synthbench.training import loop

counted = pytest.mark.skipif(torch.__version__ < (2, 10), reason="torch before 2.10 counts what a GPU keeps only where there is one")
LARGEST = 75e9  # bytes of an H100 that a training may take, of 80


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.linear(x)
        return F.scaled_dot_product_attention(x, x, x)


@counted
@pytest.mark.parametrize(
    ("network", "shape", "precision", "image", "beside"),
    [
        # the input and the output in bf16; a copy of the weights in bf16
        (lambda: nn.Conv2d(3, 8, 3, padding=1, bias=False), (3, 16, 16), "bf16", (3 + 8) * 256 * 2, 8 * 27 * 2),
        (lambda: nn.Conv2d(3, 8, 3, padding=1, bias=False), (3, 16, 16), "fp32", (3 + 8) * 256 * 4, 0),
        # the output alone
        (lambda: nn.Sigmoid(), (5,), "fp32", 5 * 4, 0),
        # what the layer is given; queries, keys and values, which are one tensor here; the answer: no matrix of 64 x 64
        (lambda: Attends(), (2, 64, 4), "fp32", 3 * (2 * 64 * 4) * 4, 0),
    ],
)
def test_bytes_are_those_by_hand(network, shape, precision, image, beside):
    found = kept(lambda: (network(), (torch.empty(1, *shape),)), precision)
    assert found == (image, beside)


@pytest.mark.parametrize("name", [name for name in config_names("generators") if cards.card("generator", name)["sizes"]])
def test_a_training_fits_one_gpu(name):
    """At the resolution, width and batch of its paper, all its networks at once."""
    card = cards.card("generator", name)
    if card["traits"]["trains"]:
        assert 1e9 < card["memory"][0] < LARGEST


def test_a_batch_goes_through_a_gpu_in_parts_of_one_size():
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert [loop.parts(size, gpu) for size in (1, 64, 65, 160, 512)] == [1, 1, 2, 3, 8]
    assert [loop.parts(size, cpu) for size in (1, 2, 512)] == [1, 2, 2]


def test_gradients_of_many_parts_are_those_of_the_batch(monkeypatch):
    monkeypatch.setattr(loop, "parts", lambda size, device: 3)
    network = nn.Linear(4, 1)
    x = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    losses = loop.gradients(lambda batch: {"loss": network(batch.x).square().mean()}, Rows(x), list(network.parameters()), "fp32")
    whole = network(x).square().mean()
    torch.testing.assert_close(losses["loss"], whole.detach())
    torch.testing.assert_close(network.weight.grad, torch.autograd.grad(whole, network.weight)[0])


class Rows(NamedTuple):
    x: torch.Tensor
