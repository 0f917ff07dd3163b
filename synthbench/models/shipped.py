"""Checkpoints of the embedded world that come with the package, so that nobody waits for them and all machines measure with the same.

Each is one safetensors file: convolutions and the projection in fp16, the rest in fp32, and in its header what `encoder.json` says of a
network trained here: architecture, recipe, seed and the faces. `benchmarks/make_networks.py` makes them again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from synthbench.device import ready
from synthbench.models.encoder import Encoder, build, file_digest, fill, read_tensors
from synthbench.store import writing
from synthbench.types import UserError


def load_shipped(path: Path) -> Encoder:
    """The network in `path` (see `protocol.ShippedNetwork`), in fp32. Raises UserError when it is missing or damaged."""
    tensors, spec = read_tensors(path), read_spec(path)
    net = build({**spec["architecture"], "dropout": 0.0}, spec["resolution"], spec["dim"])
    fill(net, tensors, path)
    encoder = Encoder(net, resolution=spec["resolution"], dim=spec["dim"], digest=file_digest(path), name=spec["name"])
    return ready(encoder, torch.device("cpu"))  # type: ignore[return-value]


def read_spec(path: Path) -> dict[str, Any]:
    """How the network in `path` was made."""
    try:
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()["encoder"])
    except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
        raise UserError(f"{path} does not say what it holds ({error!r:.100}); install synthbench again") from None


def ship(folder: Path, path: Path, **facts: Any) -> None:
    """Write the network that `save_encoder` left in `folder` to `path`, with its encoder.json and `facts`."""
    spec = {**json.loads((folder / "encoder.json").read_text("utf-8")), **facts}
    with writing(path) as temporary:
        save_file(halved(read_tensors(folder / "weights.safetensors")), temporary, {"encoder": json.dumps(spec)})


def halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` with those of more than one dimension in fp16: they are nearly all, and a cosine moves by less than 0.001."""
    return {name: value.half() if value.is_floating_point() and value.ndim > 1 else value for name, value in tensors.items()}
