"""The networks and losses of the GANs: sizes as published, equations against brute force."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from synthbench.models import gan
from synthbench.models.gan import Conv, Critic, Linear, Painter, Shape, StyledConv, side_for
from synthbench.training import adversarial

TINY = Shape(channel_base=64, channel_max=8, latent=8, label_layers=1)


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_layers_have_the_published_sizes():
    """Numbers of parameters as stylegan2-ada-pytorch prints them for its configurations at 256 px and above."""
    with torch.device("meta"):
        shape = Shape(channel_base=32768, mapping_layers=8)
        painter, critic = Painter(shape, 256, 512), Critic(shape, 1024)
        assert [parameters(layer) for layer in painter.mapping.layers] == [262656] * 8
        assert painter.const.numel() == 8192
        assert [parameters(conv) for conv in painter.convs] == [2622465] * 9 + [1442561, 721409, 426369, 213249]  # 4 to 256
        assert [parameters(colours) for colours in painter.to_rgb] == [264195] * 5 + [132099, 66051]
        assert painter.layers == 14
        sizes = [[parameters(layer) for layer in (critic.skip[i], critic.first[i], critic.second[i])] for i in range(5)]
        assert parameters(critic.from_rgb) == 128
        assert sizes == [[2048, 9248, 18496], [8192, 36928, 73856], [32768, 147584, 295168], [131072, 590080, 1180160],
                         [262144, 2359808, 2359808]]  # fmt: skip
        assert parameters(Critic(Shape(), 256)) == 24001089


def test_a_dense_layer_of_another_rate_starts_the_same():
    torch.manual_seed(0)
    x = torch.randn(500, 64)
    for rate in (1.0, 0.01):
        assert Linear(64, 64, rate=rate)(x).std().item() == pytest.approx(1, abs=0.05)
    one = Linear(3, 1, start=1.0, rate=0.01)
    torch.testing.assert_close(one.bias * one.rate, torch.ones(1))


def test_styled_convolution_against_a_loop():
    """Eqs. 1 and 3 of 1912.04958: every image has weights of its own, scaled by its style and brought back to length 1."""
    torch.manual_seed(0)
    layer = StyledConv(3, 4, 6, up=False, noise=True)
    layer.strength.data.fill_(0.5)
    layer.bias.data.normal_()
    x, w, noise = torch.randn(2, 3, 5, 5), torch.randn(2, 6), torch.randn(2, 1, 5, 5)
    for i in range(2):
        weight = layer.weight * layer.affine(w[i : i + 1])[0][None, :, None, None]
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        y = F.conv2d(x[i : i + 1], weight, padding=1) + 0.5 * noise[i] + layer.bias[:, None, None]
        torch.testing.assert_close(layer(x, w, noise)[i], (F.leaky_relu(y, 0.2) * math.sqrt(2))[0], atol=1e-5, rtol=1e-5)


def test_enlarging_is_the_papers():
    """Zeros between the pixels and beyond the edge, the convolution, the filter [1, 3, 3, 1]; inside, bilinear and then the convolution."""
    torch.manual_seed(0)
    layer, x = StyledConv(2, 3, 4, up=True, noise=True), torch.randn(1, 2, 6, 6)
    w, noise = torch.randn(1, 4), torch.zeros(1, 1, 12, 12)
    wide = torch.zeros(1, 2, 15, 15)
    wide[:, :, 2:-2:2, 2:-2:2] = x
    plain = StyledConv(2, 3, 4, up=False, noise=True)
    plain.load_state_dict(layer.state_dict())
    style = layer.affine(w)[0]
    weight = layer.weight * style[None, :, None, None]
    weight = weight / weight.square().sum((1, 2, 3), keepdim=True).sqrt()
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
    smooth = F.conv2d(F.conv2d(wide, weight), (taps[:, None] * taps).expand(3, 1, 4, 4), padding=1, groups=3)
    torch.testing.assert_close(layer(x, w, noise), F.leaky_relu(smooth, 0.2) * math.sqrt(2), atol=1e-5, rtol=1e-5)
    bilinear = plain(F.interpolate(x, scale_factor=2, mode="bilinear"), w, noise)
    torch.testing.assert_close(layer(x, w, noise)[..., 2:-2, 2:-2], bilinear[..., 2:-2, 2:-2], atol=1e-5, rtol=1e-5)


def test_colours_are_enlarged_by_the_same_filter():
    """The image of 8 px is that of 4 px, enlarged, when the colours of the second level are black."""
    torch.manual_seed(0)
    painter = Painter(TINY, 8, 4)
    for colours in painter.to_rgb:
        nn.init.zeros_(colours.weight), nn.init.zeros_(colours.bias)
    painter.to_rgb[0].bias.data = torch.tensor([1.0, 2.0, 3.0])  # all pixels alike
    image = painter(torch.randn(1, 4), torch.randn(1, painter.noise_size))[0]
    edge = torch.tensor([0.75, *[1.0] * 6, 0.75])  # a quarter of the outermost pixels comes from beyond the edge, which is black
    torch.testing.assert_close(image, torch.tensor([1.0, 2.0, 3.0])[:, None, None] * edge[:, None] * edge)


@pytest.mark.parametrize("size", [1, 3])
def test_halving_filters_before_it_skips(size):
    torch.manual_seed(0)
    layer, x = Conv(2, 3, size, down=True, leaky=False), torch.randn(1, 2, 8, 8)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    smooth = F.conv2d(F.pad(x, (2, 2, 2, 2)), (taps[:, None] * taps).expand(2, 1, 4, 4), groups=2)  # 9 x 9
    expected = (
        F.conv2d(smooth[..., 1::2, 1::2], layer.weight * layer.gain) if size == 1 else F.conv2d(smooth, layer.weight * layer.gain, stride=2)
    )
    torch.testing.assert_close(layer(x), expected)
    grey = torch.ones(1, 2, 8, 8)
    torch.testing.assert_close(
        layer(grey)[..., 1:-1, 1:-1], (layer.weight * layer.gain).sum((1, 2, 3))[None, :, None, None].expand(1, 3, 2, 2)
    )


@pytest.mark.parametrize(("noisy", "side"), [(True, 16), (False, 16), (False, 32)])
def test_shapes(noisy, side):
    torch.manual_seed(0)
    shape = TINY.model_copy(update={"noise": noisy})
    painter, critic = Painter(shape, side, 5, 3), Critic(shape, side, 3)
    z, noise, label = torch.randn(4, 5), torch.randn(4, painter.noise_size), torch.tensor([0, 1, 2, 0])
    assert painter.noise_size == (16 + 2 * 64 + 2 * 256 if noisy else 0) and painter.layers == (6 if side == 16 else 8)
    assert any("strength" in name for name, _ in painter.named_parameters()) == noisy
    images = painter(z, noise, label)
    assert images.shape == (4, 3, side, side) and critic(images, label).shape == (4,)
    assert not torch.allclose(painter(z, noise, label.flip(0)), images) and not torch.allclose(
        critic(images, (label + 1) % 3), critic(images, label)
    )


def test_side_for():
    assert [side_for(r) for r in (6, 8, 32, 112, 128, 129)] == [8, 8, 32, 128, 128, 256]


def test_the_logit_is_the_projection_on_the_label():
    """logit = h . e(y) / sqrt(d): with two labels' embeddings added, the logits add."""
    torch.manual_seed(0)
    critic, x = Critic(TINY, 16, 3), torch.randn(4, 3, 16, 16)
    h = []
    hook = critic.out.register_forward_hook(lambda *a: h.append(a[2]))
    logits = critic(x, torch.tensor([0, 1, 2, 2]))
    hook.remove()
    e = critic.label(None, torch.tensor([0, 1, 2, 2]))
    torch.testing.assert_close(logits, torch.einsum("bd,bd->b", h[0], e) / math.sqrt(8))


def test_deviation_against_a_loop():
    x = torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    found = gan.deviation(x, 4)
    for first in range(2):
        group = x[first::2]
        expected = ((group - group.mean(0)).square().mean(0) + 1e-8).sqrt().mean()
        assert torch.allclose(found[first::2], expected.expand(4, 1, 2, 2))
    three, all_five = gan.deviation(x[:6], 4), gan.deviation(x[:5], 4)  # groups of three, and of all
    assert torch.allclose(three[::2, 0, 0, 0], ((x[:6:2] - x[:6:2].mean(0)).square().mean(0) + 1e-8).sqrt().mean())
    assert torch.allclose(all_five, ((x[:5] - x[:5].mean(0)).square().mean(0) + 1e-8).sqrt().mean())
    assert gan.deviation(x[:1].expand(4, -1, -1, -1), 4).max() < 1e-3


def test_losses():
    real, fake = torch.tensor([0.5, -2.0]), torch.tensor([1.0, 3.0])
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    expected = -np.mean(np.log(sigmoid(real.numpy()))) - np.mean(np.log(1 - sigmoid(fake.numpy())))
    assert float(gan.critic_loss(real, fake)) == pytest.approx(expected, rel=1e-4)
    assert float(gan.painter_loss(fake)) == pytest.approx(-np.mean(np.log(sigmoid(fake.numpy()))), rel=1e-4)


def test_r1_of_a_linear_critic():
    weight = torch.randn(3 * 4 * 4, generator=torch.Generator().manual_seed(0))
    x = torch.randn(5, 3, 4, 4).requires_grad_()
    assert float(gan.r1(x.flatten(1) @ weight, x)) == pytest.approx(float(weight.square().sum()), rel=1e-5)


def test_path_length_of_a_linear_painter():
    """|J^T y| over the layers: the mean of their squares, by hand."""
    torch.manual_seed(0)
    J = torch.randn(3 * 4 * 4, 2 * 5)
    w, y = torch.randn(3, 2, 5, requires_grad=True), torch.randn(3, 3, 4, 4)
    images = (w.flatten(1) @ J.T).view(3, 3, 4, 4)
    expected = [math.sqrt(float(((y[i].flatten() / 4) @ J).square().view(2, 5).sum(1).mean())) for i in range(3)]
    torch.testing.assert_close(gan.path_lengths(images, w, y), torch.tensor(expected))


def rivals(**change):
    torch.manual_seed(0)
    settings = adversarial.Adversarial(shape=TINY, batch_size=8, steps=4, **change)
    return adversarial.Rivals(Painter(TINY, 8, 4, 3), Critic(TINY, 8, 3), settings, torch.device("cpu")), settings


class Noisy:
    """A set of faces of noise."""

    identity = np.arange(24) % 3

    def __len__(self):
        return 24

    def images(self, rows):
        return torch.randint(256, (len(rows), 3, 8, 8), generator=torch.Generator().manual_seed(int(rows[0])), dtype=torch.uint8)


def step(number=0):
    return adversarial.loop.Step(number, 4, np.arange(8), torch.Generator().manual_seed(number))


def test_style_mixing_takes_the_later_layers_from_the_other_code():
    game, settings = rivals(style_mixing=1.0)
    batch = adversarial.draw(Noisy(), step(), game.painter, 8, 4, settings)
    assert batch.crossover.min() >= 1 and batch.crossover.max() < game.painter.layers
    w, own, other = game.codes(batch), game.painter.styles(batch.z, batch.label), game.painter.styles(batch.other, batch.label)
    for i, cut in enumerate(batch.crossover):
        assert torch.equal(w[i, :cut], own[i, :cut]) and torch.equal(w[i, cut:], other[i, cut:])


def test_r1_comes_every_so_often_and_weighs_as_much_more():
    game, settings = rivals(r1=2.0, r1_every=3, path_length=0.0)
    batch = adversarial.draw(Noisy(), step(), game.painter, 8, 4, settings)
    images = batch.real.clone().requires_grad_()
    with torch.no_grad():
        fake = game.painter.paint(game.codes(batch), batch.noise)
    plain = gan.critic_loss(game.critic(batch.real, batch.real_label), game.critic(fake, batch.label))
    penalty = gan.r1(game.critic(images, batch.real_label), images)
    torch.testing.assert_close(game.critic_objective(batch, False)["loss"], plain)
    torch.testing.assert_close(game.critic_objective(batch, True)["loss"], plain + 2.0 / 2 * 3 * penalty)


def test_one_update_moves_both_and_each_by_its_own_loss():
    game, settings = rivals(path_every=1)
    batch = adversarial.draw(Noisy(), step(), game.painter, 8, 4, settings)
    before = {name: p.detach().clone() for name, p in [*game.painter.named_parameters(), *game.critic.named_parameters()]}
    seen = []

    def extra(images, part):
        seen.append(images.shape)
        return {"brightness": images.mean() ** 2}

    losses = game.update(batch, step(), extra)
    moved = {name for name, p in [*game.painter.named_parameters(), *game.critic.named_parameters()] if not torch.equal(p, before[name])}
    assert moved == set(before) and {"adversarial", "brightness", "critic_loss", "path_length"} <= losses.keys()
    assert float(game.painter.path_mean) == pytest.approx(0.01 * float(losses["path_length"]), rel=1e-4)
    assert seen == [(4, 3, 8, 8), (4, 3, 8, 8)]  # halves side by side
    assert all(isinstance(part, nn.Module | torch.optim.Optimizer | adversarial.loop.EMA) for part in game.state.values())
