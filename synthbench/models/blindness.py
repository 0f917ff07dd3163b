"""Does an encoder see what a generator paints? A loss on its embedding reaches only those who paint detail that it looks at.

A denoiser paints coarse before fine. In photographs power falls with the square of the frequency, so its estimate can hold more than a
quarter of the resolution only where signal exceeds noise: at the last quarter of the noise levels with the linear schedule, at the last
half with the cosine. An encoder that was trained on sharp faces alone may read nothing from a coarser image even when it shows the right
person: at all other levels its gradient then points nowhere, or to grain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from synthbench.models.encoder import Encoder

LEAST = 0.3  # mean cosine below which an encoder counts as blind; between strangers it is about 0


def blurred(images: Tensor, side: int) -> Tensor:
    """Images (N, 3, R, R) uint8 with what `side` x `side` pixels hold of them, at their size."""
    small = F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True, align_corners=False)
    large = F.interpolate(small, images.shape[-2:], mode="bicubic", align_corners=False)
    return large.round().clamp(0, 255).to(torch.uint8)


def sight(encoder: Encoder, images: Tensor, side: int) -> float:
    """Mean cosine between the embeddings of `images` (N, 3, R, R) uint8 and of the same, blurred to `side` pixels."""
    return float((encoder.embed(images) * encoder.embed(blurred(images, side))).sum(1).mean())


def threshold(encoder: Encoder, images: Tensor, least: float = LEAST) -> int:
    """The smallest side (a multiple of R / 8, at most R) at which `sight` reaches `least`."""
    side = images.shape[-1]
    return next((part for part in range(side // 8, side, max(1, side // 8)) if sight(encoder, images, part) >= least), side)
