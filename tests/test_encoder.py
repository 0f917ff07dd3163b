"""The encoder's interface: units, colours, gradients, frozenness; saving and loading."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from synthbench.models.encoder import Encoder, build, file_digest, load_encoder, save_encoder, untrained
from synthbench.types import UserError


class Flat(nn.Module):
    """The image itself as its embedding: shows what an encoder feeds its network."""

    def forward(self, x):
        return x.flatten(1)


def small(seed=0):
    torch.manual_seed(seed)
    return build({"family": "small", "width": 8, "dropout": 0.3}, 32, 16)


SPEC = {"architecture": {"family": "small", "width": 8, "dropout": 0.3}, "resolution": 32, "dim": 16, "name": "mine"}


def test_input_convention():
    x = torch.linspace(-1, 1, 3 * 4).view(1, 3, 2, 2)
    assert torch.equal(Encoder(Flat(), resolution=2, dim=12)(x), x.flatten(1))
    assert torch.equal(Encoder(Flat(), resolution=2, dim=12, colour="bgr")(x), x.flip(1).flatten(1))
    raw = Encoder(Flat(), resolution=2, dim=12, gain=127.5, offset=127.5)(x)
    torch.testing.assert_close(raw, (x.flatten(1) + 1) * 127.5)
    with pytest.raises(UserError, match="rgb or bgr"):
        Encoder(Flat(), resolution=2, dim=12, colour="grb")


def test_frozen_yet_differentiable():
    encoder = Encoder(small(), resolution=32, dim=16)
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    x = torch.randn(2, 3, 20, 20, requires_grad=True)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    encoder(x).square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


def test_embed_is_the_normalised_forward():
    encoder = Encoder(small(), resolution=32, dim=16)
    images = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
    x = images.float() / 127.5 - 1
    torch.testing.assert_close(encoder.embed(images), F.normalize(encoder(x)))
    both = F.normalize(encoder(x) + encoder(x.flip(3)))
    torch.testing.assert_close(encoder.embed(images, flip=True), both)
    seen = []
    everything = encoder.embed_all(images, batch_size=2, flip=True, progress=lambda *p: seen.append(p))
    assert everything.dtype == np.float32 and seen == [(2, 5), (4, 5), (5, 5)]
    np.testing.assert_allclose(everything, both.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "sides", "channels"),
    [
        ({"family": "small", "width": 8, "dropout": 0.3}, [16, 8, 4], [16, 16, 32]),
        ({"family": "iresnet", "depth": 18, "se": True}, [16, 8, 4, 2], [64, 128, 256, 512]),
        ({"family": "irse", "depth": 18, "se": False}, [16, 8, 4, 2], [64, 128, 256, 512]),
    ],
)
def test_feature_maps_of_the_stages(architecture, sides, channels):
    torch.manual_seed(0)
    encoder = Encoder(build(architecture, 32, 16), resolution=32, dim=16, colour="bgr")
    x = torch.randn(2, 3, 32, 32, requires_grad=True)
    maps = encoder.maps(x)
    assert [tuple(m.shape) for m in maps] == [(2, c, side, side) for c, side in zip(channels, sides)]
    torch.testing.assert_close(encoder.head(maps[-1]), encoder(x))
    few = encoder.maps(x, stages=2)
    assert len(few) == 2 and torch.equal(few[1], maps[1])
    for found in maps:  # every stage looks at the image, and lets gradients through
        assert torch.autograd.grad(found.sum(), x, retain_graph=True)[0].abs().sum() > 0


def test_the_stages_are_those_of_the_depth():
    torch.manual_seed(0)
    net = build({"family": "irse", "depth": 50}, 32, 16).eval()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        stem = net.input_layer(x)
        torch.testing.assert_close(net.maps(x)[0], net.body[:3](stem))  # DCFace's style features: block 2, counted from 0
        torch.testing.assert_close(net.maps(x)[3], net.body(stem))


def test_no_maps_says_so():
    with pytest.raises(UserError, match="edge has no feature maps"):
        Encoder(Flat(), resolution=2, dim=12, name="edge").maps(torch.zeros(1, 3, 2, 2))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_layout_does_not_matter(layout):
    encoder = Encoder(small(), resolution=32, dim=16)
    images = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(encoder.embed(images.contiguous(memory_format=layout)), encoder.embed(images), atol=1e-5, rtol=0)


def test_forward_only_says_so():
    encoder = Encoder(Flat(), resolution=2, dim=12, differentiable=False, name="edge")
    x = torch.zeros(1, 3, 2, 2, requires_grad=True)
    with pytest.raises(UserError, match="edge runs forwards only"):
        encoder(x)
    with torch.no_grad():
        encoder(x)


def test_save_and_load(tmp_path):
    net = small()
    for _ in range(2):  # running statistics that differ from their start
        net.train()(torch.randn(8, 3, 32, 32))
    save_encoder(net, tmp_path, SPEC)
    encoder = load_encoder(tmp_path)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(encoder(x), net.eval()(x))
    assert (encoder.dim, encoder.resolution, encoder.colour, encoder.name) == (16, 32, "rgb", "mine")
    assert encoder.digest == file_digest(tmp_path / "weights.safetensors")
    assert json.loads((tmp_path / "encoder.json").read_text())["parameters"] == encoder.parameter_count
    assert not list(tmp_path.glob("*.tmp"))


def test_untrained_has_the_shape_and_none_of_what_was_learnt(tmp_path):
    net = small()
    save_encoder(net, tmp_path, SPEC)
    pixels = torch.randint(0, 256, (300, 3, 32, 32), dtype=torch.uint8)

    class Faces:
        def __len__(self):
            return len(pixels)

        def images(self, rows):
            return pixels[rows]

    one, again, other = (untrained(tmp_path, seed, Faces()) for seed in (0, 0, 1))
    x = pixels.float() / 127.5 - 1
    assert torch.equal(one(x), again(x))
    shapes = {name: value.shape for name, value in net.state_dict().items()}
    assert {name: value.shape for name, value in one.net.state_dict().items()} == shapes
    learnt, weights = (model.state_dict()["features.0.weight"] for model in (net, one.net))
    assert not torch.equal(weights, learnt) and not torch.equal(weights, other.net.state_dict()["features.0.weight"])
    found = one(x)  # the last layer is a batch norm: with the statistics of the faces each dimension has mean 0 and variance 1
    torch.testing.assert_close(found.mean(0), torch.zeros(16), atol=1e-3, rtol=0)
    torch.testing.assert_close(found.var(0), torch.ones(16), atol=0.02, rtol=0)
    assert not one.net.training and not any(p.requires_grad for p in one.parameters())


def test_damage_is_named(tmp_path):
    with pytest.raises(UserError, match=r"encoder\.json is missing"):
        load_encoder(tmp_path)
    save_encoder(small(), tmp_path, SPEC)
    weights = tmp_path / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_encoder(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match="is missing"):
        load_encoder(tmp_path)
    save_encoder(build({"family": "small", "width": 12}, 32, 16), tmp_path, SPEC)
    with pytest.raises(UserError, match="of another shape"):
        load_encoder(tmp_path)
    (tmp_path / "encoder.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        load_encoder(tmp_path)
