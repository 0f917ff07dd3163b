"""What is tried before anything is trained: do the protocol's networks see the faces that they are shown? Nothing here stops a run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from synthbench import console
from synthbench.evaluators import statistics
from synthbench.models import blindness

if TYPE_CHECKING:
    from synthbench.data.faces import FaceSet
    from synthbench.models.encoder import Encoder
    from synthbench.plugin import Context

EXCHANGED = 1.2  # times the d' as declared from which the exchanged order is the better one
TRIED = 64  # images, or people
APART = 1.8  # d' below which images are hardly what a public network was trained on: LFW has 7.1 (32 px: 4.1), with margins 1.4 (0.6)
FEW = 50  # people, of whom an encoder learns to tell apart those alone
ALIKE = 1.0  # d' below which an encoder cannot tell apart the people that it was trained on
OTHERWISE = "Give a set of more people, or a checkpoint that somebody trained on many, as {weights: NAME} in the protocol"


def colours(benchmarks: dict[str, Path], networks: dict[str, Encoder]) -> None:
    """Are colours as declared? Tries public `networks` on 50 genuine and 50 impostor pairs of each benchmark, by its folder.

    Says so where a network separates people clearly better with red and blue exchanged: on all benchmarks, then the network is declared
    wrongly; on some, then their images are stored BGR. A robust network hardly minds (a tenth either way), so that silence proves nothing.
    Where it separates nobody either way, the images are hardly aligned.
    """
    from synthbench.data.pairs import open_pairs
    from synthbench.models.checkpoints import separations

    for network in networks.values():
        found = {}
        for name, folder in benchmarks.items():
            pairs = open_pairs(folder)
            rows = np.concatenate([np.flatnonzero(pairs.same)[:50], np.flatnonzero(~pairs.same)[:50]])
            left, right = (pairs.images.images(side[rows]) for side in (pairs.left, pairs.right))
            found[name] = separations(network, left, right, torch.from_numpy(pairs.same[rows]))
        for name, both in found.items():
            if max(both) < APART:
                console.warn(
                    f"{network.name} hardly tells apart the people of {name} (d' {max(both):.1f} on {len(rows)} pairs, where "
                    "aligned photographs have 2 and more): are its images aligned to the ArcFace template? If not: `synthbench data align`"
                )
        exchanged = {name: both for name, both in found.items() if both[1] > EXCHANGED * both[0]}
        said = ", ".join(f"{name} d' {other:.2f}, as declared {declared:.2f}" for name, (declared, other) in exchanged.items())
        if len(exchanged) == len(found) and found:
            console.warn(
                f"encoder {network.name} separates faces better with its colours exchanged ({said}): is colour={network.colour} right?"
            )
        elif exchanged:
            others = ", ".join(name for name in found if name not in exchanged)
            console.warn(
                f"encoder {network.name} separates the faces of {', '.join(exchanged)} better with red and blue exchanged ({said}), those "
                f"of {others} as they are: the images of the former seem to be stored BGR"
            )


def beside_the_gpu(name: str, encoder: Encoder, device: torch.device) -> None:
    """Say, once, that a network works on the CPU although a GPU is there, and what that comes to."""
    if device.type == "cpu" or encoder.differentiable or (name, encoder.digest) in _told:
        return
    _told.add((name, encoder.digest))
    images = torch.zeros(32, 3, encoder.resolution, encoder.resolution, dtype=torch.uint8)
    encoder.embed(images)  # warming up
    began = time.monotonic()
    encoder.embed(images)
    seconds = (time.monotonic() - began) / len(images)
    console.warn(
        f"{name} {encoder.name} runs on the CPU, as onnx2torch cannot convert its graph: {1 / seconds:,.0f} images a second here, "
        f"so {console.duration(100_000 * seconds)} for every 100,000. A checkpoint of the same network in PyTorch runs on the GPU"
    )


_told: set[tuple[str, str]] = set()


def sight(who: str, context: Context) -> float:
    """Mean cosine, by the encoder, of images that a generator learns from with the same blurred to a quarter; warns where that is low."""
    faces, encoder, side = context.faces, context.encoder, context.resolution // 4
    images = faces.images(np.unique(np.linspace(0, len(faces) - 1, TRIED).astype(np.int64)))
    with torch.inference_mode():
        seen = blindness.sight(encoder, images, side)
        if seen < blindness.LEAST:
            console.warn(
                f"encoder {encoder.name} hardly sees coarse images: blurred to {side} of {context.resolution} px, a face has cosine "
                f"{seen:.2f} with itself, and {blindness.LEAST} only from {blindness.threshold(encoder, images)} px on. A loss on its "
                f"embedding (L_SimMat, L_ID) cannot teach {who} identity before such detail is there. Better: one that learns from a "
                "public network, `encoder: {teacher: NAME, recipe: student, seed: 1}` in a protocol of your own, or one that is trained on "
                "the set, `{recipe: demo_encoder, seed: 1}` (docs/results/photos.md has both)"
            )
    return seen


def enough_people(name: str, faces: FaceSet) -> None:
    """Warns before the protocol's network `name` is trained on a handful of people."""
    if faces.identities < FEW:
        console.warn(f"{name}: it is trained on {faces.identities} people, and will tell those apart and hardly anybody else. {OTHERWISE}")


def separation(name: str, encoder: Encoder, faces: FaceSet) -> float | None:
    """d' between images of one and of two people of the `faces` that `encoder` was trained on; warns where it is low.

    None, and not a word, where nobody has two images.
    """
    first = [rows[:2] for person in range(faces.identities) if len(rows := np.flatnonzero(faces.identity == person)) > 1][:TRIED]
    if len(first) < 2:
        return None
    left, right = (encoder.embed(faces.images(side)).cpu().numpy() for side in np.array(first).T)
    cosine = left @ right.T
    found = statistics.d_prime(np.diag(cosine), cosine[~np.eye(len(cosine), dtype=bool)])
    if not found >= ALIKE:  # nan where all images are one
        console.warn(
            f"{name}: after its training it hardly tells apart the people that it was trained on (d' {found:.1f} of {len(first)} people). "
            f"They look too alike, one person has several labels, or the recipe is too short. {OTHERWISE}"
        )
    return found
