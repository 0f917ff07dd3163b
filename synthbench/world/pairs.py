"""Verification benchmarks of the embedded world, each asking what a public benchmark asks, and none of them that benchmark."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from synthbench.data.catalogue import WORLD_GROUPS
from synthbench.types import UserError
from synthbench.world import renderer

WORLD_BENCHMARKS = {
    "world-mixed": "embedded world, unconstrained pairs: the counterpart of LFW, not LFW",
    "world-profile": "embedded world, frontal against profile: the counterpart of CFP-FP, not CFP-FP",
    "world-agegap": "embedded world, young against old: the counterpart of AgeDB-30, not AgeDB-30",
    "world-crossage": "embedded world, cross age with look-alike impostors: the counterpart of CALFW, not CALFW",
    "world-crosspose": "embedded world, cross pose with look-alike impostors: the counterpart of CPLFW, not CPLFW",
    "world-groups": "embedded world, unconstrained pairs within four groups by skin tone: the counterpart of RFW, not RFW",
    "world-twins": "embedded world, impostors who differ in two features of the face: the counterpart of ND-Twins, not ND-Twins",
}
FOLDS = 10
PAIRS = dict.fromkeys(WORLD_BENCHMARKS, 800) | {"world-groups": 1600}
# The nuisance that the left and the right image of a pair do not share with the training set: (low, high) of |value|, uniform.
LEFT_RIGHT: dict[str, tuple[dict[str, tuple[float, float]], dict[str, tuple[float, float]]]] = {
    "world-mixed": ({}, {}),
    "world-profile": ({"yaw": (0, 10)}, {"yaw": (60, 80)}),
    "world-agegap": ({"age": (20, 36)}, {"age": (40, 60)}),
    "world-crossage": ({"age": (22, 36)}, {"age": (42, 60)}),
    "world-crosspose": ({"yaw": (0, 30)}, {"yaw": (25, 58)}),
    "world-groups": ({}, {}),
    "world-twins": ({}, {}),
}
ALIKE = ("world-crossage", "world-crosspose")  # impostors of the same group, as in CALFW and CPLFW
GROUP = ("male", "tone", "hair_light", "hair_length", "beard", "recede")  # what an impostor shares, nearest in standard deviations
TONES = WORLD_GROUPS["skin"]  # groups of world-groups: equal parts of the range of `tone`, as many people in each
# Of twins two of these differ: shapes of the face that are seen at 32 px, where each moves the pixels by more than one grey level of 256.
TWIN_FEATURES = ("hairline", "face_width", "brow_y", "eye_gap", "eye_y", "nose_y", "mouth_y", "mouth_width")
TWIN_STEP = 2.5  # standard deviations between twins, in either feature: as far as nobody leaves the range in which people are drawn


def world_pairs(name: str, resolution: int, pairs: int | None = None, seed: int = 0) -> tuple[Tensor, np.ndarray, np.ndarray, np.ndarray]:
    """Images (pairs, 3, R, R) uint8 and, per pair, the rows of its left and right image and whether they show the same person.

    Ten contiguous folds, each half genuine and then half impostors. Every person has two images, both used by one genuine pair and
    by impostor pairs of the same fold, so that the folds are disjoint in people. Raises UserError for an unknown name or a number
    of pairs that does not make ten even folds, with groups or twins in each.
    """
    if name not in WORLD_BENCHMARKS:
        raise UserError(f"the embedded world has no benchmark {name!r}; it has {', '.join(WORLD_BENCHMARKS)}")
    pairs = PAIRS[name] if pairs is None else pairs
    if pairs % (2 * FOLDS) or pairs < 4 * FOLDS:
        raise UserError(f"{pairs} pairs do not make {FOLDS} folds of equal halves; use a multiple of {2 * FOLDS}, at least {4 * FOLDS}")
    least = {"world-groups": 2 * len(TONES), "world-twins": 2}.get(name, 1)  # people that a fold must be a multiple of
    if pairs // 2 // FOLDS % least:
        raise UserError(f"{pairs} pairs do not make {FOLDS} even folds of {name}; use a multiple of {2 * FOLDS * least}")
    per_fold = pairs // 2 // FOLDS
    first = 1_000_000 * list(WORLD_BENCHMARKS).index(name)  # people of one benchmark appear in no other
    persons = _persons(name, first, pairs // 2, seed)
    images = torch.empty(pairs, 3, resolution, resolution, dtype=torch.uint8)  # row 2 i + side
    identity = torch.arange(first, first + pairs // 2)
    for side, limits in enumerate(LEFT_RIGHT[name]):
        n = renderer.nuisance("benchmark", identity, torch.full_like(identity, side), seed)
        images[side::2] = renderer.render(persons, n | _within(limits, identity, side, seed), resolution)
    left, right, same = [], [], []
    for fold in range(FOLDS):
        members = np.arange(fold * per_fold, (fold + 1) * per_fold)
        other = _impostors(name, persons[members])
        left += [2 * members, 2 * members]
        right += [2 * members + 1, 2 * members[other] + 1]
        same += [np.ones(per_fold, bool), np.zeros(per_fold, bool)]
    return images, np.concatenate(left), np.concatenate(right), np.concatenate(same)


def _within(limits: dict[str, tuple[float, float]], identity: Tensor, side: int, seed: int) -> dict[str, Tensor]:
    table = {"sign": ("uniform", -1.0, 1.0)} | {key: ("uniform", float(low), float(high)) for key, (low, high) in limits.items()}
    drawn = dict(zip(table, renderer.draw(table, "benchmark", identity, torch.full_like(identity, side), seed).unbind(1)))
    sign = torch.sign(drawn.pop("sign"))
    return {key: value * sign if key == "yaw" else value for key, value in drawn.items()}


def tone_groups(pairs: int) -> np.ndarray:
    """Group (pairs,), a number in TONES, of each pair of world-groups: its people come group by group in every half of every fold."""
    per_fold = pairs // 2 // FOLDS
    return np.tile(np.arange(per_fold) * len(TONES) // per_fold, 2 * FOLDS)


def _persons(name: str, first: int, count: int, seed: int) -> Tensor:
    """The people (count, len(PERSON)) of a benchmark."""
    persons = renderer.people("benchmark", first, count, seed)
    if name == "world-groups":
        tone, kind = list(renderer.PERSON).index("tone"), torch.from_numpy(tone_groups(2 * count)[: count // FOLDS]).repeat(FOLDS)
        persons[:, tone] = (kind + persons[:, tone]) / len(TONES)
    if name == "world-twins":
        persons[1::2] = _twins(persons[0::2])
    return persons


def _twins(persons: Tensor) -> Tensor:
    """A twin of each: two of TWIN_FEATURES are TWIN_STEP away, over the mean; which two changes from one to the next."""
    twins, features = persons.clone(), list(itertools.combinations(TWIN_FEATURES, 2))
    for row, twin in enumerate(twins):
        for feature in features[row * 5 % len(features)]:  # 5: every two come once before any comes again, and mixed
            column, (_, mean, spread) = list(renderer.PERSON).index(feature), renderer.PERSON[feature]
            twin[column] += TWIN_STEP * spread * (1.0 if twin[column] < mean else -1.0)
    return twins


def _impostors(name: str, persons: Tensor) -> np.ndarray:
    """For each person of a fold another one: the next (of the group), the twin, or the most alike in GROUP."""
    count = len(persons)
    number = np.arange(count)
    if name == "world-twins":
        return number ^ 1
    if name not in ALIKE:
        size = count // len(TONES) if name == "world-groups" else count
        return number // size * size + (number + 1) % size
    columns = [list(renderer.PERSON).index(name) for name in GROUP]
    scale = torch.tensor([b if kind == "normal" else (b - a) / 12**0.5 for kind, a, b in (renderer.PERSON[name] for name in GROUP)])
    z = persons[:, columns] / scale
    apart = torch.cdist(z, z) + torch.eye(count) * 1e6
    return apart.argmin(1).numpy()
