import math

import pytest
import torch
from torch.nn import functional as F

from synthbench.models.size import count
from synthbench.models.vit import Attention, Block, Shape, ViT, patchify, places, unpatchify
from synthbench.types import UserError

SMALL = {"width": 16, "depth": 4, "heads": 2, "patch": 4}


def small(kind="uvit", **change):
    torch.manual_seed(0)
    return ViT(Shape(kind=kind, **{**SMALL, **change}), 16, 6).eval()


def wake(vit):
    """Give every zero-initialised layer weights, so that all paths carry signal."""
    for p in vit.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.1)
    return vit


def measured(kind, width, depth, heads, patch):
    """Parameters without AdaLN, time and condition; all parameters; GMAC: of latents 4 x 32 x 32, which is what the papers' tables hold."""
    with torch.device("meta"):
        vit = ViT(Shape(kind=kind, width=width, depth=depth, heads=heads, patch=patch), 32, 512, channels=4)
        everything, macs = count(vit, torch.empty(1, 4, 32, 32), torch.empty(1), torch.empty(1, 512))
    told = sum(p.numel() for name, p in vit.named_parameters() if "adaln" in name or name.startswith(("embed", "condition")))
    return (everything - told) / 1e6, everything / 1e6, macs / 1e9


@pytest.mark.parametrize(
    ("width", "depth", "heads", "millions"), [(512, 12, 8, 44), (768, 16, 12, 131), (1024, 20, 16, 287), (1152, 28, 16, 501)]
)
def test_sizes_of_the_u_vit_paper(width, depth, heads, millions):
    """Its Table 1: S, M, L and H. Their time is a token, so what AdaLN adds is left out; M, L and H count 1000 class embeddings."""
    classes = 0 if millions == 44 else 1001 * width / 1e6
    assert measured("uvit", width, depth, heads, 2)[0] + classes == pytest.approx(millions, rel=0.006)


def test_macs_of_u_vit_h():
    assert measured("uvit", 1152, 28, 16, 2)[2] == pytest.approx(133.25, rel=0.01)  # two tokens fewer than in the paper


@pytest.mark.parametrize(
    ("width", "depth", "heads", "patch", "millions", "gmac"),
    [(384, 12, 6, 4, 33, 1.41), (768, 12, 12, 4, 130, 5.56), (1024, 24, 16, 4, 458, 19.70), (1152, 28, 16, 2, 675, 118.64)],
)
def test_sizes_of_the_dit_paper(width, depth, heads, patch, millions, gmac):
    """Its Tables 1 and 4: S/4, B/4, L/4 and XL/2; what it calls Gflops are multiply-accumulates."""
    _, everything, macs = measured("dit", width, depth, heads, patch)
    assert everything == pytest.approx(millions, rel=0.01)
    assert macs == pytest.approx(gmac, rel=0.002)


@pytest.mark.parametrize("kind", ["uvit", "dit"])
def test_untrained_network_answers_zero(kind):
    y = small(kind)(torch.randn(3, 3, 16, 16), torch.tensor([0, 500, 999]), torch.randn(3, 6))
    assert y.shape == (3, 3, 16, 16) and not y.any()


@pytest.mark.parametrize("kind", ["uvit", "dit"])
def test_condition_time_and_gradients_reach_the_output(kind):
    vit = wake(small(kind))
    x, c, t = torch.randn(2, 3, 16, 16), torch.randn(2, 6, requires_grad=True), torch.tensor([10, 900])
    y = vit(x, t, c)
    y.square().sum().backward()
    assert c.grad.abs().amax(1).gt(0).all()
    assert all(p.grad is not None and p.grad.any() for p in vit.parameters())
    with torch.no_grad():
        assert not torch.allclose(y, vit(x, t.flip(0), c), atol=1e-4)
        assert not torch.allclose(y, vit(x, t, c.flip(1)), atol=1e-5)
        torch.testing.assert_close(vit(x, torch.tensor([70]), c), vit(x, torch.tensor([70, 70]), c))


def test_patches_come_row_by_row_and_go_back():
    x = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6).float()[..., :4]
    tokens = patchify(x, 2)
    assert tokens.shape == (2, 4, 12)
    for number, (row, column) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)]):
        assert torch.equal(tokens[:, number], x[:, :, row : row + 2, column : column + 2].flatten(1))
    assert torch.equal(unpatchify(tokens, 2, 2), x)


def test_attention_against_a_loop():
    torch.manual_seed(0)
    layer, x = Attention(8, 2), torch.randn(1, 5, 8)
    q, k, v = layer.qkv(x[0]).view(5, 3, 2, 4).unbind(1)
    heads = []
    for head in range(2):
        rows = []
        for i in range(5):
            weights = torch.softmax(torch.stack([q[i, head] @ k[j, head] / math.sqrt(4) for j in range(5)]), 0)
            rows.append(sum(weights[j] * v[j, head] for j in range(5)))
        heads.append(torch.stack(rows))
    torch.testing.assert_close(layer(x)[0], layer.out(torch.cat(heads, 1)))


@pytest.mark.parametrize("gate", [False, True])
def test_adaln(gate):
    """AdaLN(h, y) = y_s LN(h) + y_b in front of both branches; with a gate the branches are scaled, and silent at the start."""
    torch.manual_seed(0)
    block, x, y = Block(8, 2, gate=gate), torch.randn(2, 5, 8), torch.randn(2, 8)
    if gate:
        assert torch.equal(block(x, y), x)
    torch.nn.init.normal_(block.adaln.weight)
    parts = block.adaln(y).chunk(6 if gate else 4, 1)
    gates = parts[4:] if gate else (torch.ones(2, 8), torch.ones(2, 8))
    expected = torch.empty_like(x)
    for b in range(2):
        h = F.layer_norm(x[b], (8,), eps=1e-6) * (1 + parts[0][b]) + parts[1][b]
        middle = x[b] + gates[0][b] * block.attention(h[None])[0]
        h = F.layer_norm(middle, (8,), eps=1e-6) * (1 + parts[2][b]) + parts[3][b]
        expected[b] = middle + gates[1][b] * block.mlp(h)
    torch.testing.assert_close(block(x, y), expected)


def test_long_skips_join_the_first_block_with_the_last():
    vit = wake(small())
    heard = {}
    for name, blocks in (("first", vit.first), ("last", vit.last)):
        for i, block in enumerate(blocks):
            block.register_forward_hook(lambda _, inputs, output, key=(name, i): heard.__setitem__(key, (inputs, output)))
    vit(torch.randn(1, 3, 16, 16), torch.tensor([5]), torch.randn(1, 6))
    assert len(vit.first) == len(vit.last) == 2 and len(vit.middle) == 1
    assert heard["last", 0][0][2] is heard["first", 1][1] and heard["last", 1][0][2] is heard["first", 0][1]


def test_fixed_positions_differ_and_are_not_learnt():
    found = places(4, 16)
    assert found.shape == (16, 16) and len(found.unique(dim=0)) == 16
    torch.testing.assert_close(found.square().sum(1), torch.full((16,), 8.0))
    assert "place" not in small("dit").state_dict() and "place" in small("uvit").state_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"patch": 5}, "16 px cannot be cut"), ({"heads": 3}, "multiple of 4 x heads"), ({"depth": 3}, "depth 3 of a uvit")],
)
def test_impossible_shapes_are_named(change, message):
    with pytest.raises(UserError, match=message):
        small(**change)
