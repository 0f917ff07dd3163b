"""Images per second of training and of embedding, on made-up pixels.

python benchmarks/bench_recognition.py --recipe demo --resolution 32 --identities 300 --seconds 15
python benchmarks/bench_recognition.py --recipe cemiface --resolution 112 --identities 10000 --device cuda
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from synthbench.data.faces import FaceSet
from synthbench.device import peak_memory, pick_device, set_threads
from synthbench.models.encoder import Encoder, build
from synthbench.recognition import trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--identities", type=int, default=300)
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    set_threads()
    device, why = pick_device(options.device)
    recipe = trainer.load_recipe(options.recipe).model_copy(update={"epochs": 1_000_000})
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (options.images, options.resolution, options.resolution, 3), dtype=np.uint8)
    faces = FaceSet.from_arrays(pixels, np.arange(options.images) % options.identities)

    rates, waits, start = [], [], time.monotonic()
    with tempfile.TemporaryDirectory() as out:
        for step in trainer.train(faces, recipe, seed=0, device=device, out=Path(out)):
            rates.append(step.images_per_second)
            waits.append(step.waiting)
            if time.monotonic() - start > options.seconds:
                break
    settled = rates[1:] or rates  # the first look includes start-up
    print(f"{why}; recipe {recipe.name}, {options.resolution} px, {options.identities} identities, batch {recipe.batch_size}")
    print(f"training   {np.median(settled):8.0f} img/s (best {max(rates):.0f}), waiting for data {np.mean(waits):.1%}")

    net = build(recipe.backbone.architecture(0.0), options.resolution, recipe.dim)
    encoder = Encoder(net, resolution=options.resolution, dim=recipe.dim).to(device)
    start, done = time.monotonic(), 0
    while time.monotonic() - start < options.seconds / 3:
        done += len(encoder.embed_all(torch.from_numpy(pixels[:512]).permute(0, 3, 1, 2)))
    memory = f"; peak {peak_memory(device) / 1e9:.1f} GB" if peak_memory(device) else ""
    print(f"embedding  {done / (time.monotonic() - start):8.0f} img/s; {encoder.parameter_count:,} parameters{memory}")


if __name__ == "__main__":
    main()
