"""How alike two images look: LPIPS, the same distance on the maps of any network, and SSIM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from synthbench.device import fp32
from synthbench.models.checkpoints import read_pickle
from synthbench.types import UserError


def distance(a: Sequence[Tensor], b: Sequence[Tensor], weights: Sequence[Tensor] | None = None) -> Tensor:
    """(B,) between two lists of feature maps (B, C, h, w): squared differences of the unit vectors at every place.

    Weighted over the channels by `weights` (C,) of each map, averaged over places, added over the maps: LPIPS (Zhang et al., CVPR 2018,
    Eq. 1); without weights its "baseline".
    """
    total = torch.zeros((), device=a[0].device)
    for level, (x, y) in enumerate(zip(a, b, strict=True)):
        x, y = (m.float() / (m.float().norm(dim=1, keepdim=True) + 1e-10) for m in (x, y))
        square = (x - y).square()
        total = total + (square if weights is None else square * weights[level][:, None, None]).sum(1).mean((1, 2))
    return total


class LPIPS(nn.Module):
    """LPIPS 0.1 on VGG-16, frozen. Images (B, 3, R, R) in [-1, 1]; gradients flow to both.

    backbone, heads: weights of VGG-16 and of the heads (`sources.lpips_files`). Raises UserError when they are something else.
    """

    def __init__(self, backbone: Path, heads: Path) -> None:
        super().__init__()
        from torchvision.models import vgg16

        with torch.device("meta"):
            self.features = vgg16(weights=None, init_weights=False).features[:30]
        found = {key.removeprefix("features."): value for key, value in read_pickle(backbone).items() if key.startswith("features.")}
        self.weights = nn.ParameterList()
        try:
            self.features.load_state_dict(found, assign=True)
            self.weights.extend(value.flatten() for value in (read_pickle(heads)[f"lin{i}.model.1.weight"] for i in range(5)))
        except (KeyError, RuntimeError) as error:
            raise UserError(f"{backbone} and {heads} are not VGG-16 of torchvision and the heads of LPIPS 0.1: {error}") from None
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None], persistent=False)
        self.register_buffer("spread", torch.tensor([0.458, 0.448, 0.450])[:, None, None], persistent=False)
        self.shift: Tensor
        self.spread: Tensor
        self.eval().requires_grad_(False)

    def maps(self, x: Tensor) -> list[Tensor]:
        """After the last ReLU of each of the five levels."""
        x = (x - self.shift) / self.spread
        found = []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in (3, 8, 15, 22, 29):
                found.append(x)
        return found

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return distance(self.maps(x), self.maps(y), list(self.weights))


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """(B,) structural similarity of images (B, C, R, R) in [-1, 1], averaged over channels and places (Wang et al. 2004).

    Gaussian window of 11 px with std 1.5, whole windows only, K1 = 0.01, K2 = 0.03. R is 11 at least. Brightness is compared as a ratio,
    and so on a scale from 0 to 1: about a zero in the middle, a shade would be the opposite of its neighbour.
    """
    side = x.shape[-1]
    tap = torch.exp(-((torch.arange(11, device=x.device) - 5.0) ** 2) / (2 * 1.5**2))
    band = torch.zeros(side - 10, side, device=x.device)  # the window as a matrix: it is separable
    for place in range(side - 10):
        band[place, place : place + 11] = tap / tap.sum()
    x, y = x.float() / 2, y.float() / 2  # the range of values is 1; variances lose fewest digits about 0
    with fp32(x.device):
        mx, my, xx, yy, xy = band @ torch.stack([x, y, x * x, y * y, x * y]) @ band.T
    c1, c2 = 0.01**2, 0.03**2
    structure = (2 * (xy - mx * my) + c2) / (xx - mx * mx + yy - my * my + c2)
    mx, my = mx + 0.5, my + 0.5
    likeness = (2 * mx * my + c1) / (mx * mx + my * my + c1)
    return (likeness * structure).mean((1, 2, 3))
