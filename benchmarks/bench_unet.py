"""How fast the denoiser trains and samples here: `python benchmarks/bench_unet.py [RESOLUTION] [KEY=VALUE of train.unet ...]`.

Prints parameters, GMAC, and images per second for one training step (forward, backward, AdamW) and one sampling step (forward). For
the paper's job multiply the sampling time by 20 steps x 500,000 images.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch

from synthbench.config import build, parse_set
from synthbench.device import autocast, pick_device, ready, set_threads
from synthbench.models.unet import Shape, UNet, cost

CONTEXT = 512  # width of an embedding


def rate(work: Callable[[], object], images: int, device: torch.device, seconds: float = 5.0) -> float:
    """Images per second, after a warm-up call."""
    work()
    done, start = 0, time.perf_counter()
    while done < 2 or time.perf_counter() - start < seconds:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        done += 1
    return done * images / (time.perf_counter() - start)


def main() -> None:
    resolution = int(sys.argv[1]) if len(sys.argv) > 1 else 112
    shape = build(Shape, parse_set(sys.argv[2:]))
    set_threads()
    device, why = pick_device()
    parameters, macs = cost(shape, resolution, CONTEXT)
    print(f"UNet at {resolution} px: {parameters / 1e6:.2f} M parameters, {macs / 1e9:.3f} GMAC per forward pass; {why}")

    batch = 64 if device.type == "cuda" else 32 if macs < 1e9 else 2
    unet = ready(UNet(shape, resolution, CONTEXT), device).eval()
    optimizer = torch.optim.AdamW(unet.parameters(), 1e-4)
    x = torch.randn(batch, 3, resolution, resolution, device=device)
    t = torch.randint(1000, (batch,), device=device)
    tokens = torch.randn(batch, 2, CONTEXT, device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, "bf16"):
            loss = (unet(x, t, unet.condition(tokens)).float() - x).square().mean()
        loss.backward()
        optimizer.step()

    print(f"train  {rate(step, batch, device):8.1f} images/s (batch {batch})")
    with torch.inference_mode(), autocast(device, "bf16"):
        condition = unet.condition(tokens)
        print(f"sample {rate(lambda: unet(x, t[:1], condition), batch, device):8.1f} images/s per DDIM step")


if __name__ == "__main__":
    main()
