"""Time and memory of IJB-C's 15.6 million comparisons and its identification on random embeddings, beside a plain loop over pairs.

python benchmarks/bench_templates.py
"""

from __future__ import annotations

import resource
import time

import numpy as np
import torch

from synthbench.data.templates import Templates
from synthbench.evaluators.pairs import tar_at_far
from synthbench.evaluators.statistics import pair_cosines
from synthbench.evaluators.templates import cosines, search, tar_errors

TEMPLATES, GALLERY, PEOPLE, GENUINE, IMPOSTORS, DIM = 23_124, 3_531, 3_531, 19_557, 15_638_932, 512  # of IJB-C


def main() -> None:
    random = np.random.default_rng(0)
    subject = np.append(np.arange(GALLERY), random.integers(0, PEOPLE, TEMPLATES - GALLERY))
    centre = random.normal(size=(PEOPLE, DIM)).astype(np.float32)
    features = centre[subject] + 2.5 * random.normal(size=(TEMPLATES, DIM)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    probes = np.arange(GALLERY, TEMPLATES)
    genuine = probes[:GENUINE]
    left = np.append(subject[genuine], random.integers(0, GALLERY, IMPOSTORS)).astype(np.int32)
    right = np.append(genuine, random.integers(GALLERY, TEMPLATES, IMPOSTORS)).astype(np.int32)
    same = subject[left] == subject[right]
    print(f"{torch.get_num_threads()} threads, {len(left):,} comparisons of {TEMPLATES:,} templates, {DIM} numbers each")

    def timed(what: str, work: object) -> object:
        start = time.monotonic()
        found = work()  # type: ignore[operator]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{what:58} {time.monotonic() - start:7.1f} s, peak memory of the process {peak:5.2f} GiB")
        return found

    score = timed("cosines, by blocks", lambda: cosines(features, left, right))
    part = slice(0, len(left), 16)
    plain = timed("a sixteenth of them, a loop over chunks of pairs", lambda: pair_cosines(features, left[part], right[part]))
    print(f"largest difference {np.abs(score[part] - plain).max():.1e}")  # type: ignore[index,operator]
    timed("TAR at FAR 1e-5, 1e-4, 1e-3", lambda: [tar_at_far(-score, same, far) for far in (1e-5, 1e-4, 1e-3)])  # type: ignore[operator]
    everything = np.arange(TEMPLATES)
    who = Templates(everything, everything, subject, np.ones(TEMPLATES, np.float32), left, right, same, {}, probes)
    timed("their errors, 200 draws of people", lambda: tar_errors(score, who, [1e-5, 1e-4, 1e-3], 200, random))  # type: ignore[arg-type]
    rows = np.arange(GALLERY // 2)
    timed("identification in one gallery", lambda: search(features[probes], features[rows], subject[probes], subject[rows]))


if __name__ == "__main__":
    main()
