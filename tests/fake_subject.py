"""Labelled sets without pixels and judges without networks, for the tests of the evaluators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from synthbench.data.faces import FaceSet
from synthbench.plugin import Context, Subject
from synthbench.types import Score, Skipped


class Faces:
    """Identities and columns of a face set; whoever needs pixels gives `pixels` (N, 3, R, R) uint8."""

    mixed, whole, made = FaceSet.mixed, FaceSet.whole, FaceSet.made

    def __init__(self, identity, columns=None, names=None, pixels=None):
        self.identity = np.asarray(identity, np.int64)
        self.columns = columns or {}
        self.identities = int(self.identity.max()) + 1
        self.names = names or [str(i) for i in range(self.identities)]
        self.pixels = pixels

    def __len__(self):
        return len(self.identity)

    def images(self, rows):
        return self.pixels[rows]


class Projection:
    """A judge: a fixed random projection of the pixels."""

    dim, device, name = 16, torch.device("cpu"), "projection"

    def __init__(self, pixels: int):
        self.weight = torch.randn(pixels, self.dim, generator=torch.Generator().manual_seed(0))

    def __call__(self, x):
        return x.flatten(1) @ self.weight

    def embed(self, images):
        return torch.nn.functional.normalize(self(images.float() / 127.5 - 1), dim=1)

    def embed_all(self, faces, progress=None):
        return self.embed(faces.images(slice(0, len(faces)))).numpy()


def clusters(people: int, images: int, dim: int = 32, spread: float = 0.15, seed: int = 0):
    """Unit embeddings (people * images, dim) around random directions, and their identity."""
    random = np.random.default_rng(seed)
    centre = random.normal(size=(people, dim))
    centre /= np.linalg.norm(centre, axis=1, keepdims=True)
    identity = np.repeat(np.arange(people), images)
    x = centre[identity] + spread * random.normal(size=(len(identity), dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), identity


def subject(faces, embeddings, real=None, real_embeddings=None, **others) -> Subject:
    """A Subject whose judge has already embedded everything."""
    real = faces if real is None else real
    ready = {"faces": embeddings, "real": embeddings if real_embeddings is None else real_embeddings}
    if "inquiry_embeddings" in others:
        ready["inquiries"] = others.pop("inquiry_embeddings")
    return Subject(faces=faces, real=real, judge=others.pop("judge", None), _embeddings=ready, **others)


def context(out: Path, seed: int = 0) -> Context:
    return Context(out=out, seed=seed, resolution=32, device=torch.device("cpu"), faces=None, encoder=None)


def by_name(results) -> tuple[dict[str, Score], dict[str, str]]:
    """Scores and reasons for skipping, by metric."""
    return {s.metric: s for s in results if isinstance(s, Score)}, {s.metric: str(s) for s in results if isinstance(s, Skipped)}
