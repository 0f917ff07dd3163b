"""What trainings share: the gradient of a batch in parts against the gradient of the whole; order and threads of side_by_side."""

from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from synthbench import device
from synthbench.training import loop
from synthbench.training.ema import EMA
from synthbench.training.muon import Muon
from synthbench.types import UserError

CPU = torch.device("cpu")


class Pairs(NamedTuple):
    x: Tensor
    y: Tensor


@pytest.mark.parametrize("size", [1, 5, 8])
@pytest.mark.parametrize("whole", [False, True])
def test_gradients_of_the_parts_are_those_of_the_batch(size, whole):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    batch = Pairs(torch.randn(size, 4), torch.randn(size, 1))
    sizes = []

    def objective(part: Pairs) -> dict[str, Tensor]:
        sizes.append(len(part.x))
        error = (net(part.x) - part.y).square().mean()
        return {"loss": error, "double": 2 * error}

    losses = loop.gradients(objective, batch, list(net.parameters()), "fp32", whole)
    assert sorted(sizes) == ([size] if whole or size == 1 else sorted([size // 2, size - size // 2]))
    found = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    expected = (net(batch.x) - batch.y).square().mean()
    expected.backward()
    torch.testing.assert_close(losses["loss"], expected.detach())
    torch.testing.assert_close(losses["double"], 2 * expected.detach())
    for mine, parameter in zip(found, net.parameters()):
        torch.testing.assert_close(mine, parameter.grad)


def test_side_by_side_keeps_order_and_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seen = list(device.side_by_side(lambda i: (i, torch.get_num_threads()), range(7), CPU))
        assert seen == [(i, 1) for i in range(7)] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_side_by_side_passes_errors_on():
    with pytest.raises(ZeroDivisionError):
        list(device.side_by_side(lambda i: 1 // i, [1, 0, 1], CPU))


def test_a_checkpoint_that_takes_long_is_written_rarely(tmp_path, monkeypatch):
    """Not more than a fiftieth of the time: 94 M parameters on a network drive are 1.5 GB, and many seconds."""
    clock = iter([0.0, 0.1, 100.0, 106.0])
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(clock))
    assert loop.save(tmp_path / "a.pt", 1, {}) == loop.EVERY
    assert loop.save(tmp_path / "a.pt", 2, {}) == pytest.approx(50 * 6.0)


@pytest.mark.parametrize("make", [torch.optim.AdamW, partial(torch.optim.SGD, momentum=0.9), partial(Muon, lr=0.1)])
def test_a_checkpoint_whose_optimizer_lacks_a_part_is_damaged(tmp_path, make):
    network = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False))
    path = tmp_path / "checkpoint.pt"
    optimizer = make(network.parameters())
    loop.save(path, 0, {"optimizer": optimizer})
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    loop.save(path, 3, {"optimizer": optimizer})
    assert loop.restore(path, {"optimizer": make(network.parameters())}) == 3
    whole = torch.load(path)["optimizer"]["state"]
    one = whole[0]
    broken = [{**whole, 0: {}}, *({**whole, 0: {key: one[key] for key in one if key != lost}} for lost in one)]
    broken += [{**whole, 0: {**one, name: None}} for name in one] + [{**whole, 0: {**one, "more": torch.zeros(())}}]
    for state in broken:
        saved = torch.load(path)
        saved["optimizer"]["state"] = state
        torch.save(saved, tmp_path / "broken.pt")
        with pytest.raises(UserError, match=r"is damaged \(.*; delete it"):  # torch says some itself
            loop.restore(tmp_path / "broken.pt", {"optimizer": make(network.parameters())})


def test_parameters_that_never_had_a_gradient_have_no_state_and_are_resumed(tmp_path):
    """As a head, where embeddings of another network are learnt, or all of a discriminator that begins later."""
    used, unused, path = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), tmp_path / "checkpoint.pt"
    optimizer = torch.optim.AdamW([*used.parameters(), *unused.parameters()])
    used(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    loop.save(path, 3, {"optimizer": optimizer})
    again = torch.optim.AdamW([*used.parameters(), *unused.parameters()])
    assert loop.restore(path, {"optimizer": again}) == 3 and len(again.state) == 2


def test_a_checkpoint_of_an_optimizer_that_keeps_nothing_is_whole(tmp_path):
    network = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    loop.save(tmp_path / "checkpoint.pt", 3, {"optimizer": optimizer})
    assert loop.restore(tmp_path / "checkpoint.pt", {"optimizer": torch.optim.SGD(network.parameters())}) == 3


def test_a_checkpoint_in_which_one_bit_was_flipped_is_damaged(tmp_path):
    """In the numbers of a tensor, where torch looks at no checksum."""
    network, path = torch.nn.Linear(64, 64), tmp_path / "checkpoint.pt"
    loop.save(path, 3, {"network": network})
    assert loop.restore(path, {"network": torch.nn.Linear(64, 64)}) == 3
    data = bytearray(path.read_bytes())
    data[data.index(network.weight.detach().numpy().tobytes()) + 1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"is damaged \(.*data/0 is not as it was written"):
        loop.restore(path, {"network": torch.nn.Linear(64, 64)})


@pytest.mark.parametrize(("part", "value"), [("step", -1), ("step", 2.5), ("step", True), ("average", "x"), ("average", -1)])
def test_a_checkpoint_with_numbers_that_are_none_is_damaged(tmp_path, part, value):
    average = EMA(torch.nn.Linear(2, 2))
    loop.save(tmp_path / "checkpoint.pt", 3, {"average": average})
    state = torch.load(tmp_path / "checkpoint.pt")
    if part == "step":
        state["step"] = value
    else:
        state["average"]["updates"] = value
    torch.save(state, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match="is damaged"):
        loop.restore(tmp_path / "checkpoint.pt", {"average": average})


def test_a_checkpoint_whose_optimizer_was_changed_is_damaged(tmp_path):
    network = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(network.parameters(), 0.1, fused=True)
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    loop.save(tmp_path / "checkpoint.pt", 3, {"optimizer": optimizer})
    fresh = torch.optim.AdamW(network.parameters(), 0.5, fused=True)  # the rate of learning follows from the step
    assert loop.restore(tmp_path / "checkpoint.pt", {"optimizer": fresh}) == 3
    state = torch.load(tmp_path / "checkpoint.pt")
    state["optimizer"]["param_groups"][0]["capturable"] = True  # torch would complain at the next step
    torch.save(state, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match=r"is damaged \(an optimizer of other settings\); delete it"):
        loop.restore(tmp_path / "checkpoint.pt", {"optimizer": fresh})
