"""DINOv2 (Oquab et al. 2023) as a feature space that knows neither ImageNet's labels nor faces (Stein et al. 2023), from local files.

The folder is Hugging Face's `facebook/dinov2-large`: config.json and model.safetensors. Images are brought to 224 px (bicubic, antialiased)
and normalised by ImageNet's mean and deviation; features are the normalised class token, as in dgm-eval.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from synthbench.data.sources import find
from synthbench.types import DataMissing, Skipped, UserError

NAME = "dinov2-large"  # registered weights, and in the names of scores
SIDE = 224
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class DINOv2(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> class token (B, D)."""

    def __init__(self, folder: Path) -> None:
        """Raises Skipped without the library, UserError when the folder holds no DINOv2."""
        try:
            from transformers import Dinov2Model
            from transformers.utils import logging
        except ImportError:
            raise Skipped("the library transformers is not installed: pip install 'synthbench[dinov2]'") from None
        super().__init__()
        logging.disable_progress_bar()
        try:
            how: dict[str, Any] = {
                "local_files_only": True,
                "use_safetensors": True,
                "trust_remote_code": False,
                "output_loading_info": True,
            }
            loaded: Any = Dinov2Model.from_pretrained(folder, **how)
            found, told = loaded
        except Exception as error:
            raise UserError(f"{folder} holds no DINOv2 of transformers ({' '.join(str(error).split())[:200]})") from None
        if lacking := sorted(told["missing_keys"]):
            raise UserError(f"{folder}: its weights lack {lacking[0]} (of {len(lacking)}); a network with initial weights measures nothing")
        self.network = found.eval().requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.interpolate(x, size=(SIDE, SIDE), mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
        mean, deviation = (torch.tensor(values, device=x.device).view(3, 1, 1) for values in (MEAN, DEVIATION))
        return self.network((x - mean) / deviation).last_hidden_state[:, 0]


def find_dinov2() -> DINOv2:
    """The registered network. Raises Skipped when it is not there."""
    try:
        entry = find(NAME)
    except DataMissing as missing:
        raise Skipped(str(missing)) from missing
    return DINOv2(Path(entry.path))
