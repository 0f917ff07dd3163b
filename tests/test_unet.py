import math

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from synthbench.models import context_unet, vit
from synthbench.models.unet import Attention, Shape, UNet, cost
from synthbench.types import UserError

SMALL = Shape(channels=16, multipliers=(1, 2), attention_levels=(1,), attention_width=32, head_width=16, groups=4, skip_downsample_level=-1)


def small(**change):
    torch.manual_seed(0)
    return UNet(SMALL.model_copy(update=change), 16, 8).eval()


def wake(unet):
    """Give every zero-initialised layer weights, so that all paths carry signal."""
    for p in unet.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.1)
    return unet


def test_paper_size_at_112():
    parameters, macs = cost(Shape(), 112, context_width=0, out_channels=6)  # DCFace's checkpoint: no projection, six output channels
    assert parameters == 93_563_910
    parameters, macs = cost(Shape(), 112)  # CemiFace: with F2, three output channels
    print(f"UNet at 112 px: {parameters:,} parameters, {macs / 1e9:.2f} GMAC")
    assert parameters == 93_563_910 - 3 * (128 * 9 + 1) + (512 * 1024 + 1024)
    assert macs == pytest.approx(38.4e9, rel=0.005)


def test_untrained_network_predicts_zero():
    unet = small()
    y = unet(torch.randn(3, 3, 16, 16), torch.tensor([0, 500, 999]), unet.condition(torch.randn(3, 2, 8)))
    assert y.shape == (3, 3, 16, 16) and not y.any()


@pytest.mark.parametrize("patch", [1, 2])
def test_condition_time_and_gradients_reach_the_output(patch):
    unet = wake(small(patch=patch))
    x, tokens = torch.randn(2, 3, 16, 16), torch.randn(2, 2, 8, requires_grad=True)
    t = torch.tensor([10, 900])
    y = unet(x, t, unet.condition(tokens))
    assert y.shape == x.shape
    y.square().sum().backward()
    assert tokens.grad.abs().amax((1, 2)).gt(0).all()
    assert all(p.grad is not None and p.grad.any() for name, p in unet.named_parameters() if "conv1.bias" not in name)
    with torch.no_grad():
        assert not torch.allclose(y, unet(x, t.flip(0), unet.condition(tokens)), atol=1e-4)
        assert not torch.allclose(y, unet(x, t, unet.condition(tokens.flip(1) * 2)), atol=1e-5)
        assert not torch.allclose(y, unet(x, t, unet.condition(tokens), extra=torch.randn(2, 64)), atol=1e-4)


def context_unet_and_told():
    shape = context_unet.Shape(
        channels=8, multipliers=(1, 2), layers=1, attention_levels=(1,), head_width=4, groups=4, components=8, tokens=3
    )
    return context_unet.ContextUNet(shape, 16, 3), torch.randn(2, 8)


def transformer_and_told(kind):
    return vit.ViT(vit.Shape(kind=kind, width=16, depth=2, heads=2, patch=4), 16, 6), torch.randn(2, 6)


def unet_and_told(patch):
    unet = small(patch=patch)
    return unet, unet.condition(torch.randn(2, 2, 8))


@pytest.mark.parametrize(
    ("make", "first", "last"),
    [
        (lambda: unet_and_told(1), "stem", "out"),
        (lambda: unet_and_told(2), "stem", "out"),
        (context_unet_and_told, "stem", "out"),
        (lambda: transformer_and_told("uvit"), "stem", "smooth"),
        (lambda: transformer_and_told("dit"), "stem", "out"),
    ],
    ids=["unet", "patches", "context", "uvit", "dit"],
)
def test_the_last_layer_is_fp32_in_autocast(make, first, last):
    """bf16 has 8 digits: its rounding alone is 0.2 % of the output. Autocast is at work elsewhere, and gradients flow."""
    torch.manual_seed(0)
    network, told = make()
    wake(network)
    seen = {}
    for name in (first, last):
        getattr(network, name).register_forward_hook(lambda layer, given, found, name=name: seen.update({name: (layer, *given, found)}))
    with torch.autocast("cpu", torch.bfloat16):
        y = network(torch.randn(2, 3, 16, 16), torch.tensor([10, 900]), told)
    assert seen[first][2].dtype == torch.bfloat16
    layer, given, found = seen[last]
    assert y.dtype == given.dtype == found.dtype == torch.float32
    torch.testing.assert_close(found, layer(given), atol=1e-6, rtol=1e-5)
    assert not torch.equal(given, given.bfloat16().float())  # nor did what it is given go through bf16
    y.sum().backward()
    assert layer.weight.grad.dtype == torch.float32 and layer.weight.grad.any()


def test_one_time_for_the_batch_is_the_same_as_one_each():
    unet = wake(small())
    x, context = torch.randn(3, 3, 16, 16), unet.condition(torch.randn(3, 2, 8))
    torch.testing.assert_close(unet(x, torch.tensor([70]), context), unet(x, torch.tensor([70] * 3), context), atol=1e-5, rtol=1e-4)


def test_attention_is_one_softmax_over_condition_and_pixels():
    torch.manual_seed(0)
    layer = Attention(8, 12, heads=3, groups=4)
    torch.nn.init.normal_(layer.out.weight)
    x, keys, values = torch.randn(2, 8, 3, 5), torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    found = layer(x, (keys, values))
    h = F.group_norm(x, 4, eps=1e-5)
    for b in range(2):
        for row in range(3):
            for column in range(5):
                q = layer.qkv(h[b, :, row, column])[:12].view(3, 4)
                heads = []
                for head in range(3):
                    k = [keys[b, head, i] for i in range(4)]
                    v = [values[b, head, i] for i in range(4)]
                    for i in range(3):
                        for j in range(5):
                            _, pk, pv = layer.qkv(h[b, :, i, j]).view(3, 3, 4)
                            k.append(pk[head])
                            v.append(pv[head])
                    p = torch.softmax(torch.stack(k) @ q[head] / math.sqrt(4), 0)
                    heads.append(p @ torch.stack(v))
                expected = x[b, :, row, column] + layer.out(torch.cat(heads))
                torch.testing.assert_close(found[b, :, row, column], expected, atol=1e-4, rtol=1e-3)


def test_skipped_halving_keeps_the_size():
    change = {"channels": 8, "multipliers": (1, 1, 2), "attention_levels": (2,), "skip_downsample_level": 1}
    shape = SMALL.model_copy(update=change)
    unet = wake(UNet(shape, 14, 0)).eval()
    sizes = []
    unet.middle[0].register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[-1]))
    assert unet(torch.randn(1, 3, 14, 14), torch.tensor([3])).shape == (1, 3, 14, 14)
    assert sizes == [7]


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="multiple of 16"):
        UNet(Shape(), 100, 512)
    with pytest.raises(ValidationError, match="head_width"):
        Shape(**{**SMALL.model_dump(), "attention_width": SMALL.head_width + 1})


def test_only_the_channels_of_a_level_need_to_fit_the_groups():
    shape = Shape(
        channels=6, multipliers=(2, 4), attention_levels=(1,), attention_width=8, head_width=4, groups=4, skip_downsample_level=-1
    )
    assert UNet(shape, 8, 0)(torch.randn(2, 3, 8, 8), torch.tensor([3])).shape == (2, 3, 8, 8)
    with pytest.raises(ValidationError, match="6 channels of a level are not a multiple of groups 4"):
        Shape(**{**shape.model_dump(), "multipliers": (1, 4)})


@pytest.mark.parametrize("change", [{"multipliers": []}, {"multipliers": [0, 1]}, {"multipliers": [1, 2], "attention_levels": [2]}])
def test_levels_that_do_not_exist_are_refused(change):
    with pytest.raises(ValidationError):
        Shape(**change)


def test_show_counts_the_networks_of_a_generator():
    from synthbench.generators.cemiface import CemiFace, Config
    from synthbench.models.size import count

    with torch.device("meta"):
        network, inputs = CemiFace(Config()).networks(112, 512)["denoiser"]
        parameters, macs = count(network, *inputs)
    f1 = 2 * 512  # F1: a number to a token
    assert (parameters - f1, macs) == (cost(Shape(), 112)[0], cost(Shape(), 112)[1])
    layer = torch.nn.Linear(3, 5)
    assert count(layer, torch.zeros(1, 3)) == (20, 15)
