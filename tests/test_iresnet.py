"""Both public families: parameter counts of spec 1.4, key names, shapes, initialisation."""

import pytest
import torch

from synthbench.models.iresnet import IRSE, IResNet
from synthbench.models.small import SmallNet

COUNTS = {  # measured on the public code
    ("iresnet", 18, False): 24_025_600,
    ("iresnet", 34, False): 34_139_328,
    ("iresnet", 50, False): 43_590_848,
    ("iresnet", 50, True): 43_813_568,
    ("iresnet", 100, False): 65_156_160,
    ("iresnet", 100, True): 65_528_384,
    ("iresnet", 200, False): 118_833_920,
    ("irse", 18, False): 24_020_352,
    ("irse", 34, False): 34_134_080,
    ("irse", 50, False): 43_585_600,
    ("irse", 50, True): 43_808_320,
    ("irse", 100, False): 65_150_912,
    ("irse", 100, True): 65_523_136,
}


@pytest.mark.parametrize(("family", "depth", "se"), COUNTS)
def test_parameter_counts(family, depth, se):
    with torch.device("meta"):
        net = {"iresnet": IResNet, "irse": IRSE}[family](depth, se)
    assert sum(p.numel() for p in net.parameters()) == COUNTS[family, depth, se]


def test_key_names_are_those_of_the_public_checkpoints():
    with torch.device("meta"):
        a, b = IResNet(50, se=True).state_dict(), IRSE(50, se=True).state_dict()
    for key in (
        "conv1.weight",
        "bn1.running_mean",
        "prelu.weight",
        "layer1.0.downsample.0.weight",
        "layer3.13.bn3.bias",
        "layer4.2.prelu.weight",
    ):
        assert key in a
    for key in ("layer2.0.se_block.fc1.weight", "bn2.weight", "fc.bias", "features.running_var"):
        assert key in a
    assert "layer1.1.downsample.0.weight" not in a
    for key in ("input_layer.0.weight", "input_layer.2.weight", "body.3.shortcut_layer.0.weight", "body.23.res_layer.5.running_var"):
        assert key in b
    for key in ("body.0.res_layer.se_block.fc2.weight", "output_layer.0.weight", "output_layer.3.bias", "output_layer.4.running_mean"):
        assert key in b
    assert "body.0.shortcut_layer.0.weight" not in b  # stage 1 keeps its 64 channels: subsampling
    assert "output_layer.4.weight" not in b  # no affine


@pytest.mark.parametrize("make", [IResNet, IRSE, SmallNet])
@pytest.mark.parametrize("resolution", [32, 56])
def test_any_resolution(make, resolution):
    kwargs = {} if make is SmallNet else {"depth": 18}
    net = make(resolution=resolution, dim=64, **kwargs).eval()
    assert net(torch.randn(2, 3, resolution, resolution)).shape == (2, 64)


def test_se_scales_the_residual_of_every_block():
    """With gates at sigmoid(0) = 1/2 a block is half its residual plus the shortcut."""
    torch.manual_seed(0)
    net = IRSE(18, se=True, resolution=32).eval()
    assert sum(name.endswith("se_block") for name, _ in net.named_modules()) == 8
    block, x = net.body[1], torch.randn(2, 64, 8, 8)
    block.res_layer.se_block.fc2.weight.data.zero_()
    torch.testing.assert_close(block(x), x + block.res_layer[:6](x) / 2)


def test_initialisation():
    torch.manual_seed(0)
    a = IResNet(18, resolution=32)
    assert abs(a.layer3[1].conv2.weight.std() - 0.1) < 0.002
    assert not a.features.weight.requires_grad and (a.features.weight == 1).all()
    b = IRSE(18, resolution=32)
    assert abs(b.body[5].res_layer[4].weight.std() - (2 / (256 * 9)) ** 0.5) < 0.002  # kaiming, fan out
    assert (b.output_layer[3].bias == 0).all()


def test_small_is_about_a_million():
    for resolution in (32, 64):
        assert 0.8e6 < sum(p.numel() for p in SmallNet(resolution).parameters()) < 1.5e6
