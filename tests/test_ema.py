import copy

import pytest
import torch
from torch import nn

from synthbench.training.ema import EMA, decay


def test_decay_is_dcfaces():
    assert decay(0) == 0
    assert decay(1) == pytest.approx(1 - 2**-0.75)
    assert decay(999) == pytest.approx(1 - 1000**-0.75)
    assert decay(10**9) == 0.9999


def test_average_matches_the_recurrence():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ema = EMA(model)
    expected = model[0].weight.detach().double().clone()
    for n in range(6):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        model(torch.randn(8, 3))  # moves the buffers, which are copied
        ema.update(model)
        keep = min(0.9999, 1 - (1 + n) ** -0.75)
        expected = keep * expected + (1 - keep) * model[0].weight.detach().double()
    torch.testing.assert_close(ema.model[0].weight.double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(ema.model[1].running_mean, model[1].running_mean)
    assert not any(p.requires_grad for p in ema.model.parameters()) and not ema.model.training


def test_saved_and_loaded_average_goes_on_the_same():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    one = EMA(model)
    for _ in range(3):
        one.update(model)
    other = EMA(nn.Linear(3, 2))
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    nn.init.ones_(model.weight)
    one.update(model)
    other.update(model)
    assert torch.equal(one.model.weight, other.model.weight) and one.updates == other.updates == 4
