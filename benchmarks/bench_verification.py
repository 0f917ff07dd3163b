"""The 10-fold protocol: sorted counts against the loop over 400 thresholds and 10 folds.

    python benchmarks/bench_verification.py [PAIRS]

Prints milliseconds of both and whether the ten accuracies agree to the bit.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from synthbench.evaluators.pairs import THRESHOLDS, kfold


def loop(distance: np.ndarray, same: np.ndarray, folds: int = 10) -> list[float]:
    accuracies = []
    for test in np.array_split(np.arange(len(same)), folds):
        train = np.setdiff1d(np.arange(len(same)), test)
        best = max(THRESHOLDS, key=lambda threshold: ((distance[train] < threshold) == same[train]).sum())  # max keeps the first of equals
        accuracies.append(float(((distance[test] < best) == same[test]).sum()) / len(test))
    return accuracies


def milliseconds(work, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 6000
    random = np.random.default_rng(0)
    same = np.arange(pairs) // 300 % 2 == 0
    distance = np.where(same, random.normal(1.1, 0.35, pairs), random.normal(1.7, 0.25, pairs)).clip(0, 4)
    equal = loop(distance, same) == kfold(distance, same).fold_accuracies().tolist()
    fast, slow = milliseconds(lambda: kfold(distance, same), 20), milliseconds(lambda: loop(distance, same), 3)
    print(f"{pairs} pairs: {fast:.2f} ms, loop {slow:.0f} ms ({slow / fast:.0f} x), {'equal to the bit' if equal else 'DIFFERENT'}")


if __name__ == "__main__":
    main()
