"""Margin heads: CosFace, ArcFace, AdaFace. A margin changes one logit per row, so only the target column is touched, in fp32.

CosFace: Wang et al. 2018, eq. 4. ArcFace: Deng et al. 2019, eq. 3. AdaFace: Kim et al. 2022, eqs. 12-14. All logits are s cos(theta).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synthbench.training.crew import at_work
from synthbench.training.sync import spread

HEADS = ("cosface", "arcface", "adaface")
Gradient = Literal["straight_through", "exact"]


def cosface(cosine: Tensor, margin: float) -> Tensor:
    """cos(theta) - m for target cosines (B,)."""
    return cosine - margin


def arcface(cosine: Tensor, margin: float, gradient: Gradient = "straight_through", eps: float = 1e-4) -> Tensor:
    """cos(theta + m) for target cosines (B,).

    straight_through: the value of cos(theta + m), the gradient of cos(theta), as in arcface_torch and CVLface, whose acos and cos
    run outside the graph. exact: the gradient sin(theta + m) / sin(theta) too, as in the AdaFace repository; cosines are held
    within +-(1 - eps) and angles within [eps, pi - eps], so that it stays finite.
    """
    if gradient == "straight_through":
        with torch.no_grad():
            shift = torch.cos(torch.acos(cosine.clamp(-1, 1)) + margin) - cosine
        return cosine + shift
    theta = torch.acos(cosine.clamp(-1 + eps, 1 - eps))
    return torch.cos((theta + margin).clamp(eps, math.pi - eps))


def adaface(cosine: Tensor, quality: Tensor, margin: float, gradient: Gradient = "exact", eps: float = 1e-3) -> Tensor:
    """cos(theta - m k) - (m + m k) for target cosines (B,) and quality k (B,) in [-1, 1], from the feature norms."""
    bounded = cosine.clamp(-1 + eps, 1 - eps)
    with torch.set_grad_enabled(torch.is_grad_enabled() and gradient == "exact"):
        turned = torch.cos((torch.acos(bounded) - margin * quality).clamp(eps, math.pi - eps))
    if gradient == "straight_through":
        turned = cosine + (turned - cosine).detach()
    return turned - (margin + margin * quality)


class Head(nn.Module):
    """Class centres and a margin: (raw embeddings (B, D), labels (B,) int64) -> logits (B, C) in fp32.

    `h` and `t_alpha` are AdaFace's: the concentration of the norm statistic, and the rate of its running mean and deviation (buffers, so
    they travel with a checkpoint). Centres start as in the public code: unit vectors for AdaFace, N(0, 0.01) otherwise.
    """

    norm_mean: Tensor
    norm_std: Tensor

    def __init__(
        self,
        kind: str,
        dim: int,
        classes: int,
        scale: float = 64.0,
        margin: float = 0.4,
        gradient: Gradient = "straight_through",
        h: float = 0.333,
        t_alpha: float = 0.01,
    ) -> None:
        super().__init__()
        if kind not in HEADS:
            raise ValueError(f"head {kind!r} is not one of {', '.join(HEADS)}")
        self.kind, self.scale, self.margin, self.gradient, self.h, self.t_alpha = kind, scale, margin, gradient, h, t_alpha
        if kind == "adaface":
            self.weight = nn.Parameter(F.normalize(torch.empty(classes, dim).uniform_(-1, 1), dim=1))
            self.register_buffer("norm_mean", torch.tensor(20.0))
            self.register_buffer("norm_std", torch.tensor(100.0))
        else:
            self.weight = nn.Parameter(torch.empty(classes, dim).normal_(0, 0.01))

    def quality(self, norms: Tensor) -> Tensor:
        """AdaFace's image quality k from feature norms (B,), eq. 13; moves the running statistics. No gradient."""
        norms = norms.detach().clamp(1e-3, 100)
        if self.training and len(norms) > 1:
            mean, std = (norms.mean(), norms.std()) if at_work().size == 1 else spread(norms)
            self.norm_mean.lerp_(mean, self.t_alpha)
            self.norm_std.lerp_(std, self.t_alpha)
        return (self.h * (norms - self.norm_mean) / (self.norm_std + 1e-3)).clamp(-1, 1)

    def forward(self, embedding: Tensor, label: Tensor, second: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        """With `second` (B,) int64 and `weight` (B,): weight x the logits with `label` + (1 - weight) x those with `second`."""
        with torch.autocast(embedding.device.type, enabled=False):
            embedding = embedding.float()
            cosine = F.linear(F.normalize(embedding, dim=1), F.normalize(self.weight.float(), dim=1))  # (B, C)
            quality = self.quality(embedding.norm(dim=1)) if self.kind == "adaface" else None
            column = label.unsqueeze(1)
            if second is None or weight is None:
                return self.scale * cosine.scatter(1, column, self.target(cosine.gather(1, column).squeeze(1), quality).unsqueeze(1))
            logits = cosine
            for name, share in ((label, weight), (second, 1 - weight)):  # only the target's column differs from the cosine
                own = cosine.gather(1, name.unsqueeze(1)).squeeze(1)
                logits = logits.scatter_add(1, name.unsqueeze(1), (share * (self.target(own, quality) - own)).unsqueeze(1))
            return self.scale * logits

    def target(self, cosine: Tensor, quality: Tensor | None) -> Tensor:
        """Cosines (B,) to the own class centre with the margin; quality (B,) for AdaFace."""
        if self.kind == "cosface":
            return cosface(cosine, self.margin)
        if self.kind == "arcface":
            return arcface(cosine, self.margin, self.gradient)
        assert quality is not None
        return adaface(cosine, quality, self.margin, self.gradient)
