"""What the denoisers' blocks share: attention by heads, and branches that start at zero."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


def split(x: Tensor, heads: int) -> Tensor:
    """(B, n, width) -> (B, heads, n, width / heads)."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k / sqrt(head width)) v of split queries (B, heads, n, w), keys and values (B, heads, m, w): (B, n, heads w)."""
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def zero(layer: nn.Linear | nn.Conv2d) -> None:
    """Start `layer` at zero, so that its branch begins as the identity."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
