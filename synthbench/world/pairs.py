"""Five verification benchmarks of the embedded world, each asking what a public benchmark asks, and none of them that benchmark."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from synthbench.types import UserError
from synthbench.world import renderer

WORLD_BENCHMARKS = {
    "world-mixed": "embedded world, unconstrained pairs: the counterpart of LFW, not LFW",
    "world-profile": "embedded world, frontal against profile: the counterpart of CFP-FP, not CFP-FP",
    "world-agegap": "embedded world, young against old: the counterpart of AgeDB-30, not AgeDB-30",
    "world-crossage": "embedded world, cross age with look-alike impostors: the counterpart of CALFW, not CALFW",
    "world-crosspose": "embedded world, cross pose with look-alike impostors: the counterpart of CPLFW, not CPLFW",
}
FOLDS = 10
# The nuisance that the left and the right image of a pair do not share with the training set: (low, high) of |value|, uniform.
LEFT_RIGHT: dict[str, tuple[dict[str, tuple[float, float]], dict[str, tuple[float, float]]]] = {
    "world-mixed": ({}, {}),
    "world-profile": ({"yaw": (0, 10)}, {"yaw": (60, 80)}),
    "world-agegap": ({"age": (20, 36)}, {"age": (40, 60)}),
    "world-crossage": ({"age": (22, 36)}, {"age": (42, 60)}),
    "world-crosspose": ({"yaw": (0, 30)}, {"yaw": (25, 58)}),
}
ALIKE = ("world-crossage", "world-crosspose")  # impostors of the same group, as in CALFW and CPLFW
GROUP = ("male", "tone", "hair_light", "hair_length", "beard", "recede")  # what an impostor shares, nearest in standard deviations


def world_pairs(name: str, resolution: int, pairs: int = 800, seed: int = 0) -> tuple[Tensor, np.ndarray, np.ndarray, np.ndarray]:
    """Images (pairs, 3, R, R) uint8 and, per pair, the rows of its left and right image and whether they show the same person.

    Ten contiguous folds, each half genuine and then half impostors. Every person has two images, both used by one genuine pair and
    by impostor pairs of the same fold, so that the folds are disjoint in people. Raises UserError for an unknown name or a number
    of pairs that does not make ten even folds.
    """
    if name not in WORLD_BENCHMARKS:
        raise UserError(f"the embedded world has no benchmark {name!r}; it has {', '.join(WORLD_BENCHMARKS)}")
    if pairs % (2 * FOLDS) or pairs < 4 * FOLDS:
        raise UserError(f"{pairs} pairs do not make {FOLDS} folds of equal halves; use a multiple of {2 * FOLDS}, at least {4 * FOLDS}")
    per_fold = pairs // 2 // FOLDS
    first = 1_000_000 * list(WORLD_BENCHMARKS).index(name)  # people of one benchmark appear in no other
    persons = renderer.people("benchmark", first, pairs // 2, seed)
    images = torch.empty(pairs, 3, resolution, resolution, dtype=torch.uint8)  # row 2 i + side
    identity = torch.arange(first, first + pairs // 2)
    for side, limits in enumerate(LEFT_RIGHT[name]):
        n = renderer.nuisance("benchmark", identity, torch.full_like(identity, side), seed)
        images[side::2] = renderer.render(persons, n | _within(limits, identity, side, seed), resolution)
    left, right, same = [], [], []
    for fold in range(FOLDS):
        members = np.arange(fold * per_fold, (fold + 1) * per_fold)
        other = _impostors(persons[members], name in ALIKE)
        left += [2 * members, 2 * members]
        right += [2 * members + 1, 2 * members[other] + 1]
        same += [np.ones(per_fold, bool), np.zeros(per_fold, bool)]
    return images, np.concatenate(left), np.concatenate(right), np.concatenate(same)


def _within(limits: dict[str, tuple[float, float]], identity: Tensor, side: int, seed: int) -> dict[str, Tensor]:
    table = {"sign": ("uniform", -1.0, 1.0)} | {key: ("uniform", float(low), float(high)) for key, (low, high) in limits.items()}
    drawn = dict(zip(table, renderer.draw(table, "benchmark", identity, torch.full_like(identity, side), seed).unbind(1)))
    sign = torch.sign(drawn.pop("sign"))
    return {key: value * sign if key == "yaw" else value for key, value in drawn.items()}


def _impostors(persons: Tensor, alike: bool) -> np.ndarray:
    """For each person another one: the next, or the most alike in GROUP."""
    count = len(persons)
    if not alike:
        return (np.arange(count) + 1) % count
    columns = [list(renderer.PERSON).index(name) for name in GROUP]
    scale = torch.tensor([b if kind == "normal" else (b - a) / 12**0.5 for kind, a, b in (renderer.PERSON[name] for name in GROUP)])
    z = persons[:, columns] / scale
    apart = torch.cdist(z, z) + torch.eye(count) * 1e6
    return apart.argmin(1).numpy()
