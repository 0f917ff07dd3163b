"""Validation accuracy of a recognizer at the end of every epoch, for a sweep that gives points up while they train.

The pairs are of people of the protocol's real set: no benchmark shows them, and no set whose identities are new. The accuracy enters no
score and no key, and measuring it leaves the weights as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from synthbench.data.faces import FaceSet
from synthbench.device import send
from synthbench.evaluators.pairs import kfold
from synthbench.evaluators.verification import combine, pair_distances
from synthbench.recognition.trainer import Step
from synthbench.seeds import numpy_generator
from synthbench.store import is_number, read_json, write_json
from synthbench.types import UserError

PEOPLE, IMAGES = 250, 4  # whose images are looked at, at most: a thousand, at every epoch
PAIRS = 1000  # genuine ones, and as many impostor ones, at most
BATCH = 256
Watch = Callable[[int, float], None]  # (epochs done, accuracy in percent); what it raises ends the training


@dataclass(frozen=True)
class Pairs:
    images: Tensor  # (N, 3, R, R) uint8
    left: np.ndarray  # (P,) rows of `images`
    right: np.ndarray
    same: np.ndarray  # (P,) bool, genuine and impostor in turn, so that every fold holds both


def watched(steps: Iterator[Step], epochs: int, real: FaceSet, folder: Path, watch: Watch) -> Iterator[Step]:
    """The `steps` of a training of `epochs`; `watch` is told of every epoch.

    The accuracies lie in folder/validation.json, so that a training that was stopped tells the same ones again before it goes on.
    """
    path = folder / "validation.json"
    found = read_json(path)
    told = found.items() if isinstance(found, dict) else ()
    known = {int(epoch): float(value) for epoch, value in told if re.fullmatch("[0-9]{1,9}", epoch) and is_number(value)}
    for epoch in sorted(known):
        watch(epoch, known[epoch])
    pairs = draw(real)
    for step in steps:
        epoch, rest = divmod(step.number * epochs, step.total)
        if not rest and epoch not in known:
            known[epoch] = accuracy(step.backbone, pairs)
            write_json(path, known)
            watch(epoch, known[epoch])
        yield step


def draw(real: FaceSet) -> Pairs:
    """Pairs of `real`, the same every time. Raises UserError when there are not two people with two images each."""
    random = numpy_generator(0, "validation")
    people = random.permutation(np.flatnonzero(np.bincount(real.identity) > 1))[:PEOPLE]
    if len(people) < 2:
        raise UserError("the protocol's real set has no two people with two images each, so there are no pairs to validate on")
    rows = np.concatenate([random.permutation(np.flatnonzero(real.identity == person))[:IMAGES] for person in people])
    left, right = np.triu_indices(len(rows), 1)
    same = real.identity[rows[left]] == real.identity[rows[right]]
    count = min(PAIRS, same.sum(), (~same).sum())
    chosen = np.stack([random.choice(np.flatnonzero(kind), count, replace=False) for kind in (same, ~same)], 1).reshape(-1)
    return Pairs(real.images(rows), left[chosen], right[chosen], same[chosen])


@torch.no_grad()
def accuracy(backbone: nn.Module, pairs: Pairs) -> float:
    """Percent of pairs told right, each with the threshold of the other nine folds. `backbone` is in training, before and after."""
    device = next(backbone.parameters()).device
    backbone.eval()
    raw = [backbone(send(part, device).float() / 127.5 - 1).cpu().double().numpy() for part in pairs.images.split(BATCH)]
    backbone.train()
    distance = pair_distances(combine(np.concatenate(raw))[0], pairs.left, pairs.right)
    return round(100 * float(kfold(distance, pairs.same).fold_accuracies().mean()), 3)
