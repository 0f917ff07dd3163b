"""pytorch-fid's InceptionV3 from a local weights file; nothing is fetched (its own constructor downloads)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from synthbench.types import UserError

if TYPE_CHECKING:
    from synthbench.data.faces import FaceSet


class Inception(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> pool features (B, 2048), as pytorch-fid 0.3 computes them."""

    def __init__(self, path: Path) -> None:
        """Raises UserError when the file does not hold the weights of pt_inception-2015-12-05."""
        from pytorch_fid import inception as patched  # its blocks repair torchvision's pooling to match TensorFlow's
        from torchvision.models import inception_v3

        super().__init__()
        network = inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
        network.Mixed_5b = patched.FIDInceptionA(192, pool_features=32)
        network.Mixed_5c = patched.FIDInceptionA(256, pool_features=64)
        network.Mixed_5d = patched.FIDInceptionA(288, pool_features=64)
        for name, channels in (("b", 128), ("c", 160), ("d", 160), ("e", 192)):
            setattr(network, f"Mixed_6{name}", patched.FIDInceptionC(768, channels_7x7=channels))
        network.Mixed_7b = patched.FIDInceptionE_1(1280)
        network.Mixed_7c = patched.FIDInceptionE_2(2048)
        try:
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:
            raise UserError(f"{path} is not pytorch-fid's Inception (pt_inception-2015-12-05-6726825d.pth): {error}") from error
        network.dropout, network.fc = nn.Identity(), nn.Identity()
        self.network = network.eval().requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
        return self.network(2 * x - 1)


@torch.no_grad()
def pooled_features(network: nn.Module, faces: FaceSet, rows: np.ndarray, device: torch.device, batch_size: int = 64) -> np.ndarray:
    """Features (N, D) float32 of the given rows, by a network of images in [0, 1]."""
    network = network.to(device)
    parts = [
        network(faces.images(rows[start : start + batch_size]).to(device).float() / 255).cpu().numpy()
        for start in range(0, len(rows), batch_size)
    ]
    return np.concatenate(parts)
