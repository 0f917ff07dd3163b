"""The improved ResNet of face recognition in its two public forms, with the key names of their checkpoints.

`IResNet` is insightface's arcface_torch network (also IDiff-Face, ElasticFace); `IRSE` is the `model_irse` of TFace, AdaFace and CVLface.
They differ in names, in the shortcut of the first stage (a projection; strided subsampling) and in the affine part of the last norm:
5,248 parameters. Block: BN, conv3x3, BN, PReLU, conv3x3 with the stride, BN, [SE], plus the shortcut, no activation after the sum
(ArcFace, Deng et al. 2019, section 3.2.1; SE: Hu et al. 2018, reduction 16, on the residual of every block).
Both take (B, 3, R, R) in [-1, 1] and return raw embeddings (B, dim); the last Linear and BatchNorm run in fp32.
`maps` answers what the first stages leave, fine to coarse; `head` makes the embedding of the fourth.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 200: (6, 26, 60, 6)}  # blocks per stage
CHANNELS = (64, 128, 256, 512)


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.fc2(torch.relu(self.fc1(x.mean((2, 3), keepdim=True))))
        return x * torch.sigmoid(gate)


class IBlock(nn.Module):
    """A block under arcface_torch's names."""

    def __init__(self, before: int, channels: int, stride: int, se: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.prelu = nn.PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.se_block: nn.Module | None = SqueezeExcite(channels) if se else None
        self.downsample: nn.Module | None = None
        if stride != 1 or before != channels:
            self.downsample = nn.Sequential(nn.Conv2d(before, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        if self.se_block is not None:
            residual = self.se_block(residual)
        return residual + (x if self.downsample is None else self.downsample(x))


class IResNet(nn.Module):
    """Family A. `features.weight` is fixed at 1 when trained from here, as upstream."""

    def __init__(self, depth: int = 50, se: bool = False, dim: int = 512, resolution: int = 112, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        before = 64
        for stage, (blocks, channels) in enumerate(zip(STAGES[depth], CHANNELS), start=1):
            layers = [IBlock(before if i == 0 else channels, channels, 2 if i == 0 else 1, se) for i in range(blocks)]
            self.add_module(f"layer{stage}", nn.Sequential(*layers))
            before = channels
        self.bn2 = nn.BatchNorm2d(512)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(512 * last_map(resolution) ** 2, dim)
        self.features = nn.BatchNorm1d(dim)
        self.features.weight.requires_grad = False
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, 0.1)

    def maps(self, x: Tensor, stages: int | None = None) -> list[Tensor]:
        x = self.prelu(self.bn1(self.conv1(x)))
        found = []
        for stage in (1, 2, 3, 4)[:stages]:
            x = self.get_submodule(f"layer{stage}")(x)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.maps(x)[-1])

    def head(self, x: Tensor) -> Tensor:
        x = self.dropout(self.bn2(x).flatten(1))
        with torch.autocast(x.device.type, enabled=False):
            return self.features(self.fc(x.float()))


def residual(before: int, channels: int, stride: int, se: bool) -> nn.Sequential:
    """The residual of an IRSE block: entries 0..5, then `se_block`."""
    layers = nn.Sequential(
        nn.BatchNorm2d(before),
        nn.Conv2d(before, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.PReLU(channels),
        nn.Conv2d(channels, channels, 3, stride, 1, bias=False),
        nn.BatchNorm2d(channels),
    )
    if se:
        layers.add_module("se_block", SqueezeExcite(channels))
    return layers


class Subsample(nn.Module):
    """Every `stride`-th pixel. Upstream's MaxPool2d(1, stride) answers the same, and moves all pixels and as many int64 indices for it."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x if self.stride == 1 else x[..., :: self.stride, :: self.stride]


class IRSEBlock(nn.Module):
    def __init__(self, before: int, channels: int, stride: int, se: bool) -> None:
        super().__init__()
        if before == channels:
            self.shortcut_layer: nn.Module = Subsample(stride)
        else:
            self.shortcut_layer = nn.Sequential(nn.Conv2d(before, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
        self.res_layer = residual(before, channels, stride, se)

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class IRSE(nn.Module):
    """Family B. Depth 200 exists only in family A; upstream's 152 and 200 are bottleneck networks of another kind."""

    def __init__(self, depth: int = 50, se: bool = False, dim: int = 512, resolution: int = 112, dropout: float = 0.4) -> None:
        super().__init__()
        if depth not in (18, 34, 50, 100):
            raise ValueError(f"irse has depths 18, 34, 50 and 100, not {depth}")
        self.input_layer = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))
        body: list[nn.Module] = []
        before = 64
        for blocks, channels in zip(STAGES[depth], CHANNELS):
            body += [IRSEBlock(before if i == 0 else channels, channels, 2 if i == 0 else 1, se) for i in range(blocks)]
            before = channels
        self.body = nn.Sequential(*body)
        self.ends = list(itertools.accumulate(STAGES[depth]))  # of the stages, as numbers of blocks
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(512),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(512 * last_map(resolution) ** 2, dim),
            nn.BatchNorm1d(dim, affine=False),
        )
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def maps(self, x: Tensor, stages: int | None = None) -> list[Tensor]:
        x = self.input_layer(x)
        found = []
        for first, last in zip([0, *self.ends], self.ends[:stages]):
            x = self.body[first:last](x)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.maps(x)[-1])

    def head(self, x: Tensor) -> Tensor:
        x = self.output_layer[:3](x)
        with torch.autocast(x.device.type, enabled=False):
            return self.output_layer[3:](x.float())


def last_map(resolution: int) -> int:
    """Side of the last feature map: four halvings, rounded up. 112 -> 7."""
    return -(-resolution // 16)
