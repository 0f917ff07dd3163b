"""The template set of the embedded world: people known by two stills, looked for by stills and by videos of poor frames. Not IJB."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from synthbench.types import UserError
from synthbench.world import renderer
from synthbench.world.pairs import WORLD_BENCHMARKS

WORLD_TEMPLATES = {
    "world-templates": "embedded world, stills and videos of poor frames, with distractors: the counterpart of IJB-C, not IJB-C"
}
PEOPLE = 240  # half of them in each gallery
DISTRACTORS = 120  # in each gallery, one image each: nobody looks for them
STILLS, FRAMES = 2, 5  # images of a template of stills; of a video
COARSE = (0.25, 0.75)  # side of a frame's pixels before it is enlarged, over that of its image: uniform
PER_PERSON = 2 * STILLS + FRAMES
IMAGES = PEOPLE * PER_PERSON + 2 * DISTRACTORS
FIRST = 1_000_000 * (len(WORLD_BENCHMARKS) + 1)  # its people appear in no other benchmark


def world_templates(name: str, resolution: int, seed: int = 0) -> tuple[Tensor, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Images (IMAGES, 3, R, R) uint8, columns of `data.templates.Templates` by name, and the two galleries.

    Template 3 i of person i is in a gallery, 3 i + 1 are other stills, 3 i + 2 is a video, one medium, whose frames are coarse; after those
    come the distractors. All galleries' people are compared with all probes, one with one. Raises UserError for an unknown name.
    """
    if name not in WORLD_TEMPLATES:
        raise UserError(f"the embedded world has no template set {name!r}; it has {', '.join(WORLD_TEMPLATES)}")
    person, sample = torch.arange(PEOPLE).repeat_interleave(PER_PERSON), torch.arange(PER_PERSON).repeat(PEOPLE)
    strangers = torch.arange(PEOPLE, PEOPLE + 2 * DISTRACTORS)
    identity = torch.cat([person, strangers]) + FIRST
    images = _faces(identity, torch.cat([sample, torch.zeros_like(strangers)]), resolution, seed)
    frames = torch.nonzero(sample >= 2 * STILLS).flatten()
    images[frames] = _coarse(images[frames], identity[frames], sample[frames], seed)
    which = (sample // STILLS).clamp(max=2).numpy()  # 0 in the gallery, 1 stills, 2 video
    number = person.numpy()
    others = 3 * PEOPLE + np.arange(2 * DISTRACTORS)
    known, probes = 3 * np.arange(PEOPLE), np.arange(3 * PEOPLE).reshape(PEOPLE, 3)[:, 1:].reshape(-1)
    left, right = (side.reshape(-1) for side in np.meshgrid(known, probes, indexing="ij"))
    columns = {
        "template": np.concatenate([3 * number + which, others]),
        "media": np.concatenate([np.where(which == 2, 0, 1 + sample.numpy()), np.zeros(len(others), np.int64)]),
        "weight": np.ones(IMAGES, np.float32),
        "subject": np.concatenate([np.repeat(np.arange(PEOPLE), 3), np.full(len(others), -1)]),
        "left": left,
        "right": right,
        "same": left // 3 == right // 3,
        "probes": probes,
    }
    halves = zip(("G1", "G2"), known.reshape(2, -1), others.reshape(2, -1))
    return images, columns, {gallery: np.concatenate([own, strange]) for gallery, own, strange in halves}


def _faces(identity: Tensor, sample: Tensor, resolution: int, seed: int, chunk: int = 256) -> Tensor:
    parts = zip(identity.split(chunk), sample.split(chunk))
    return torch.cat([renderer.faces("benchmark", people, samples, resolution, seed=seed) for people, samples in parts])


def _coarse(images: Tensor, identity: Tensor, sample: Tensor, seed: int) -> Tensor:
    """Each frame (B, 3, R, R) uint8 as one of fewer pixels shows it, enlarged again."""
    share = renderer.draw({"coarse": ("uniform", *COARSE)}, "benchmark", identity, sample, seed)[:, 0]
    side = images.shape[-1]
    found = torch.empty_like(images)
    for row, part in enumerate(share.tolist()):
        small = F.interpolate(images[row : row + 1].float(), size=max(4, round(side * part)), mode="area")
        found[row] = F.interpolate(small, size=side, mode="bilinear", align_corners=False)[0].round().clamp(0, 255).byte()
    return found
