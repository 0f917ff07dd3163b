"""Muon against the singular value decomposition; and a learner with it resumes, and its setting is in no older key."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from synthbench.generators.cemiface import Config
from synthbench.training.loop import Learner, Optimization, Step
from synthbench.training.muon import Muon, is_matrix, orthogonal


@pytest.mark.parametrize("shape", [(24, 60), (60, 24), (32, 32)])
def test_singular_values_go_to_about_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    found, scaled, other = orthogonal([matrix, 1000 * matrix, torch.randn(24, 40)])
    values = torch.linalg.svdvals(found)
    assert values.max() < 1.3 and values.median() > 0.6  # the very smallest take more than five steps
    assert torch.cosine_similarity(found.flatten(), (u @ v).flatten(), dim=0) > 0.95
    torch.testing.assert_close(scaled, found, rtol=1e-3, atol=1e-4)
    assert other.shape == (24, 40) and torch.linalg.svdvals(other).max() < 1.3


def test_a_convolution_is_a_matrix_and_its_first_step_is_along_u_v():
    weights = nn.Parameter(torch.zeros(24, 16, 3, 3).to(memory_format=torch.channels_last))
    weights.grad = torch.randn(weights.shape, generator=torch.Generator().manual_seed(1))
    u, _, v = torch.linalg.svd(weights.grad.flatten(1), full_matrices=False)
    Muon([weights], lr=0.5).step()
    assert torch.cosine_similarity(-weights.detach().flatten(), (u @ v).flatten(), dim=0) > 0.95
    length = 0.5 * 0.2 * 144**0.5 * 24**0.5  # U V' of 24 rows has length sqrt(24)
    assert 0.75 * length < weights.norm() < 1.2 * length
    assert is_matrix(weights) and not is_matrix(torch.zeros(24)) and not is_matrix(torch.zeros(12, 32, 3, 3))


def test_steps_of_many_matrices_are_those_of_each_alone():
    """Two threads share the matrices, and those of one size are multiplied together."""
    shapes = [(24, 16, 3, 3), (16, 24, 1, 1), (16, 40), (24, 16, 3, 3), (48, 16)]
    draw = torch.Generator().manual_seed(2)
    together = [nn.Parameter(torch.randn(shape, generator=draw)) for shape in shapes]
    apart = [nn.Parameter(parameter.detach().clone()) for parameter in together]
    optimizers = [Muon(together, 0.1), *(Muon([parameter], 0.1) for parameter in apart)]
    for _ in range(3):
        for one, other in zip(together, apart, strict=True):
            one.grad = other.grad = torch.randn(one.shape, generator=draw)
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_learner_with_muon_goes_on_from_its_state():
    settings = Optimization(optimizer="muon", lr=0.01, precision="fp32", batch_size=4)

    def fresh() -> Learner:
        torch.manual_seed(0)
        return Learner(nn.Sequential(nn.Conv2d(2, 16, 3), nn.Conv2d(16, 16, 3)), settings, torch.device("cpu"))

    def learn(learner: Learner, first: int, last: int) -> torch.Tensor:
        for number in range(first, last):
            x = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(number))
            step = Step(number, 4, None, torch.Generator())  # type: ignore[arg-type]
            learner.learn(lambda batch: {"loss": learner.network(batch.x).square().mean()}, Batch(x), step)
        return learner.network[1].weight.detach()  # type: ignore[index]

    whole, half, rest = fresh(), fresh(), fresh()
    learn(half, 0, 2)
    for name, part in rest.state.items():
        part.load_state_dict(copy.deepcopy(half.state[name].state_dict()))
    assert set(rest.state) == {"network", "average", "optimizer", "muon"}
    assert torch.equal(learn(rest, 2, 4), learn(whole, 0, 4))


class Batch(tuple):
    """A batch of one tensor: what `gradients` takes apart."""

    def __new__(cls, x: torch.Tensor) -> Batch:
        return super().__new__(cls, (x,))

    @property
    def x(self) -> torch.Tensor:
        return self[0]


def test_the_setting_is_in_no_key_at_its_default():
    """As keys were before it came; but it is among the settings that are shown and kept with a run."""
    assert "optimizer" not in Config().for_key()["train"] and Config().model_dump()["train"]["optimizer"] == "adamw"
    late = {"optimizer": "adamw", "faces": ["real"], "skip_damaged": False, "held_out": 0}
    assert {**Config().for_key()["train"], **late} == Config().model_dump(mode="json")["train"]
    other = Config.model_validate({"train": {"optimizer": "muon"}})
    assert other.for_key()["train"] == {**Config().for_key()["train"], "optimizer": "muon"}
