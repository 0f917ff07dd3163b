"""Heads against the published full-matrix forms, and their gradients."""

import math

import pytest
import torch
import torch.nn.functional as F

from synthbench.recognition.margin import Head, adaface, arcface, cosface

B, C, D = 64, 1000, 32


def published(kind, cosine, label, norms, m, s, h=0.333, mean=20.0, std=100.0, rate=0.01):
    """The whole-matrix forms with one-hot margins, as the papers' code writes them (AdaFace: net and head of the repository)."""
    hot = F.one_hot(label, cosine.shape[1]).to(cosine)
    if kind == "cosface":
        return s * (cosine - m * hot)
    if kind == "arcface":
        cosine = cosine.clamp(-1 + 1e-4, 1 - 1e-4)
        return s * (torch.acos(cosine) + m * hot).clamp(1e-4, math.pi - 1e-4).cos()
    norms = norms.detach().clamp(1e-3, 100)
    mean = rate * norms.mean() + (1 - rate) * mean
    std = rate * norms.std() + (1 - rate) * std
    k = ((norms - mean) / (std + 1e-3) * h).clamp(-1, 1)[:, None]
    theta = cosine.clamp(-1 + 1e-3, 1 - 1e-3).acos() + hot * (-m * k)
    return s * (theta.clamp(1e-3, math.pi - 1e-3).cos() - hot * (m + m * k))


@pytest.mark.parametrize("kind", ["cosface", "arcface", "adaface"])
def test_target_only_equals_the_full_matrix(kind):
    torch.manual_seed(0)
    head = Head(kind, D, C, scale=64, margin=0.4, gradient="exact")
    head.weight.data.normal_()
    z, label = torch.randn(B, D) * torch.rand(B, 1) * 10, torch.randint(C, (B,))
    z1, z2 = z.clone().requires_grad_(), z.clone().requires_grad_()
    logits = head(z1, label)
    cosine = F.normalize(z2) @ F.normalize(head.weight.detach()).T
    expected = published(kind, cosine, label, z.norm(dim=1), 0.4, 64)
    torch.testing.assert_close(logits, expected, atol=5e-5, rtol=0)
    F.cross_entropy(logits, label).backward()
    F.cross_entropy(expected, label).backward()
    torch.testing.assert_close(z1.grad, z2.grad, atol=2e-6, rtol=1e-4)


def test_gradients_of_arcface():
    """Straight-through: 1 per cosine. Exact: sin(theta + m) / sin(theta)."""
    cosine = torch.tensor([-0.8, -0.1, 0.3, 0.9])
    for mode, expected in (("straight_through", torch.ones(4)), ("exact", torch.sin(cosine.acos() + 0.5) / torch.sin(cosine.acos()))):
        x = cosine.clone().requires_grad_()
        y = arcface(x, 0.5, mode)
        y.sum().backward()
        torch.testing.assert_close(y.detach(), torch.cos(cosine.acos() + 0.5))
        torch.testing.assert_close(x.grad, expected)


def test_adaface_values_at_the_ends():
    """k = -1 is ArcFace's angular margin, k = 0 CosFace's, k = 1 a negative angular and a double additive one (paper, section 3.3)."""
    cosine, k = torch.tensor([0.5, 0.5, 0.5]), torch.tensor([-1.0, 0.0, 1.0])
    theta = math.acos(0.5)
    expected = torch.tensor([math.cos(theta + 0.4), 0.5 - 0.4, math.cos(theta - 0.4) - 0.8])
    torch.testing.assert_close(adaface(cosine, k, 0.4), expected)
    straight = cosine.clone().requires_grad_()
    adaface(straight, k, 0.4, "straight_through").sum().backward()
    torch.testing.assert_close(straight.grad, torch.ones(3))


@pytest.mark.parametrize("gradient", ["straight_through", "exact"])
@pytest.mark.parametrize("value", [-1.0, 1.0, 1.0 + 1e-6, -1.0 - 1e-6])
def test_finite_at_the_poles(gradient, value):
    for margin in (lambda c: cosface(c, 0.4), lambda c: arcface(c, 0.5, gradient), lambda c: adaface(c, torch.zeros(1), 0.4, gradient)):
        cosine = torch.tensor([value], requires_grad=True)
        y = margin(cosine)
        y.backward()
        assert y.isfinite().all() and cosine.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["cosface", "arcface", "adaface"])
def test_only_the_target_column_has_a_margin(kind):
    torch.manual_seed(0)
    head = Head(kind, 8, 5, scale=10, margin=0.3)
    z, label = torch.randn(4, 8), torch.tensor([0, 4, 2, 2])
    plain = 10 * F.normalize(z) @ F.normalize(head.weight.detach()).T
    changed = (head(z, label).detach() - plain).abs() > 1e-4
    assert torch.equal(changed, F.one_hot(label, 5).bool())


def test_adaface_statistics_move_and_travel():
    head = Head("adaface", 4, 3)
    z = torch.tensor([[3.0, 4, 0, 0], [0, 0, 0, 7]])
    head(z, torch.tensor([0, 1]))
    assert math.isclose(head.norm_mean, 0.99 * 20 + 0.01 * 6, rel_tol=1e-6)
    assert math.isclose(head.norm_std, 0.99 * 100 + 0.01 * math.sqrt(2), rel_tol=1e-6)
    assert {"norm_mean", "norm_std"} <= set(head.state_dict())
    head.eval()(z, torch.tensor([0, 1]))
    assert math.isclose(head.norm_mean, 0.99 * 20 + 0.01 * 6, rel_tol=1e-6)


def test_head_works_in_fp32_under_autocast():
    torch.manual_seed(0)
    head, z, label = Head("cosface", 16, 7), torch.randn(3, 16), torch.tensor([0, 1, 2])
    expected = head(z, label)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head(z, label), expected)
