"""A small face backbone for 32-64 px and a CPU: strided stem, one residual stage per halving, flattened 4 x 4 map.

About 1 M parameters. The blocks are those of IResNet (ArcFace, Deng et al. 2019, section 3.2.1): BN-conv-BN-PReLU-conv-BN, no
activation after the sum; the spatial map is flattened, not pooled, because aligned faces keep their parts in place.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x)


class SmallNet(nn.Module):
    """(B, 3, R, R) in [-1, 1] -> (B, dim) raw embeddings.

    Every stage halves the map (32 -> 16 -> 8 -> 4; 64 px takes one stage more) with a strided 3 x 3 convolution, then runs its blocks.
    width: channels of the last stage but two; the ones after it double, the ones before it halve. blocks: of the last three stages.
    """

    def __init__(
        self, resolution: int = 32, dim: int = 128, width: int = 32, blocks: Sequence[int] = (1, 2, 2), dropout: float = 0.0
    ) -> None:
        super().__init__()
        halvings = max(2, round_log2(resolution / 4))
        layers: list[nn.Module] = []
        self.ends: list[int] = []  # of the stages, as numbers of layers
        before, side = 3, resolution
        for stage in range(halvings):
            left = halvings - stage  # 3: the stage of `width`
            channels = max(16, int(width * 2 ** (3 - left)))
            layers += [nn.Conv2d(before, channels, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(channels), nn.PReLU(channels)]
            layers += [Block(channels) for _ in range(blocks[-left] if left <= 3 else 0)]
            self.ends.append(len(layers))
            before, side = channels, (side + 1) // 2
        self.features = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(before)
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(before * side * side, dim, bias=False)
        self.embedding = nn.BatchNorm1d(dim, affine=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def maps(self, x: Tensor, stages: int | None = None) -> list[Tensor]:
        """What the first `stages` leave, fine to coarse."""
        found = []
        for first, last in zip([0, *self.ends], self.ends[:stages]):
            x = self.features[first:last](x)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.maps(x)[-1])

    def head(self, x: Tensor) -> Tensor:
        x = self.dropout(self.norm(x).flatten(1))
        with torch.autocast(x.device.type, enabled=False):  # the last layers in fp32, as in arcface_torch
            return self.embedding(self.project(x.float()))


def round_log2(x: float) -> int:
    return max(1, round(x).bit_length() - 1)
