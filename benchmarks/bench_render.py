"""Images per second of the embedded world: python benchmarks/bench_render.py [--threads 2] [--images 512]"""

from __future__ import annotations

import argparse
import time

import torch

from synthbench.world import renderer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=512)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    identity, sample = torch.arange(options.images) // 8, torch.arange(options.images) % 8
    for resolution in (32, 64, 112):
        renderer.faces("train", identity[:32], sample[:32], resolution)
        wall, cpu = time.perf_counter(), time.process_time()
        renderer.faces("train", identity, sample, resolution)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        rate, per_cpu = options.images / wall, options.images / cpu
        print(f"{resolution:4d} px: {rate:5.0f} images/s with {options.threads} threads, {per_cpu:5.0f} per CPU second")


if __name__ == "__main__":
    main()
