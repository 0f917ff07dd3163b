"""A reader of attributes of the embedded world: linear discriminants that are fitted on rendered people whose groups are known.

It sees an image as the judge's unit embedding and as 16 x 16 pixels. Groups count alike, however many people are in them. What it gets
wrong is measured by cross-fitting: every person is read by a reader that was fitted on the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from synthbench.data.faces import FaceSet
from synthbench.types import Groups
from synthbench.world import attributes, renderer
from synthbench.world.templates import FIRST, IMAGES

if TYPE_CHECKING:
    from synthbench.models.encoder import Encoder

PEOPLE_FROM = FIRST + IMAGES  # of part `benchmark`, whom no benchmark has
EACH = 3  # images of a person
FOLDS = 5
SHRINKAGE = 0.1  # of covariances
SIDE, CHUNK = 16, 512


@dataclass(frozen=True)
class Lesson:
    """Rendered people, as the reader sees them, and their groups."""

    seen: np.ndarray  # (N, D) float32
    person: np.ndarray  # (N,)
    groups: dict[str, Groups]


def lesson(people: int, judge: Encoder, resolution: int) -> Lesson:
    """`people` x EACH faces; rendered anew, as nothing else shows these people."""
    identity, sample = torch.arange(PEOPLE_FROM, PEOPLE_FROM + people).repeat_interleave(EACH), torch.arange(EACH).repeat(people)
    drawn, scene = attributes.drawn("benchmark", identity, sample)
    images = torch.cat(
        [
            renderer.render(some, {name: value[rows] for name, value in scene.items()}, resolution)
            for rows, some in zip(torch.arange(len(identity)).split(CHUNK), drawn.split(CHUNK))
        ]
    )
    faces = FaceSet.from_arrays(images, identity)
    return Lesson(features(faces, judge.embed_all(faces), np.arange(len(faces))), identity.numpy(), attributes.groups(drawn, scene))


def features(faces: FaceSet, embeddings: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(len(rows), D) float32: unit `embeddings` (N, dim) and pixels in 0..1 of SIDE x SIDE areas."""
    parts = np.array_split(rows, -(-len(rows) // CHUNK))
    coarse = [F.adaptive_avg_pool2d(faces.images(part).float() / 255, SIDE).flatten(1).numpy() for part in parts]
    return np.concatenate([embeddings[rows], np.concatenate(coarse)], 1)


class Reader:
    """Tells the group of an attribute from features. confusion: (people, G, G), images by true group and by the one that was read."""

    def __init__(self, learnt: Lesson, attribute: str) -> None:
        names, number = learnt.groups[attribute]
        people, person = np.unique(learnt.person, return_inverse=True)
        self.confusion = np.zeros((len(people), len(names), len(names)))
        for fold in range(FOLDS):
            out = person % FOLDS == fold
            read = Discriminant(learnt.seen[~out], number[~out], len(names))(learnt.seen[out])
            np.add.at(self.confusion, (person[out], number[out], read), 1)
        self.read = Discriminant(learnt.seen, number, len(names))


class Discriminant:
    """Fisher's linear discriminant between groups that are taken to be equally frequent, with a shrunk covariance."""

    def __init__(self, seen: np.ndarray, number: np.ndarray, groups: int) -> None:
        """Of features (N, D) and groups (N,)."""
        self.mean, self.scale = seen.mean(0), np.maximum(seen.std(0), 1e-6)
        x = (seen - self.mean) / self.scale
        centres = np.stack([x[number == group].mean(0) for group in range(groups)])
        within = x - centres[number]
        covariance = (1 - SHRINKAGE) * within.T @ within / len(x)
        covariance.flat[:: len(covariance) + 1] += SHRINKAGE * (within**2).mean()
        self.weights = np.linalg.solve(covariance, centres.T)
        self.bias = -0.5 * np.einsum("gd,dg->g", centres, self.weights)

    def __call__(self, seen: np.ndarray) -> np.ndarray:
        """The group (N,) of features (N, D)."""
        return np.asarray(((seen - self.mean) / self.scale @ self.weights + self.bias).argmax(1))
