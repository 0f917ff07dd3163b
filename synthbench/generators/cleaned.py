"""A set without what contradicts its labels: images unlike their person, and people who look like another.

Published sets are cleaned by cosines that were picked for one network. Here a threshold is the false match rate that it has on the real
set: an image stays when the protocol's encoder takes it for its person at `image_fmr`, and two people are look-alikes when it takes them
for one at `people_fmr`. The judge is never asked. Every image of a person counts in the centre, those that go too; of two look-alikes the
first stays, so that a larger set begins with a smaller one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from synthbench import console
from synthbench.config import Settings
from synthbench.data.faces import FaceSet
from synthbench.identities.selection import Selection
from synthbench.models.embeddings import class_centres, require_finite, unit
from synthbench.plugin import Context, Generator, Traits
from synthbench.seeds import numpy_generator
from synthbench.store import write_json, writing
from synthbench.types import FaceBatch, Slot, UserError, Volume

PAIRS = 1_000_000  # comparisons of different real people that a threshold is read from, at most
LEAST = 10  # of them that must lie above it
BLOCK = 65_536  # comparisons at a time


class Enroll(Settings):
    flip: bool = Field(True, description="embed the sum of image and mirror image")


class Sample(Settings):
    of: str = Field("", description="the set: a generator, run, registered set or path; with @VOLUME, and settings behind: cemiface@200x20")
    image_fmr: float | None = Field(
        0.01, gt=0, le=1, description="an image stays if it is more like its person than all but this share of real images are like others"
    )
    image_cosine: float | None = Field(None, ge=-1, le=1, description="that threshold itself, instead of image_fmr; both null: all stay")
    people_fmr: float | None = Field(
        0.001, gt=0, le=1, description="look-alikes are more like each other than all but this share of the pairs of real people"
    )
    people_cosine: float | None = Field(None, ge=-1, le=1, description="that threshold itself, instead of people_fmr; both null: all stay")
    look_alikes: Literal["drop", "merge"] = Field("drop", description="the later of two goes, or becomes one person with the earlier")


class Config(Settings):
    enroll: Enroll = Enroll()
    sample: Sample = Sample()


class Cleaned(Generator[Config]):
    """Another set without images far from their person, and without look-alikes, by the protocol's encoder."""

    Config = Config
    traits = Traits(
        paper="cleaning as of HSFace in arXiv 2508.10672, by the encoder alone",
        licence="that of the set",
        enrolls=True,
        real_photographs="those of the set",
        pretrained="the protocol's encoder",
        finite=True,
    )
    tiny = {"sample": {"of": "procedural", "image_cosine": -0.5, "people_cosine": 0.999}}

    def parts(self) -> Sequence[str]:
        return [self.config.sample.of] if self.config.sample.of else []

    def check(self, volume: Volume, people: int | None) -> None:
        sample = self.config.sample
        if not sample.of:
            raise UserError("say which set: --set sample.of=cemiface, or a run, a registered set or a path")
        if people and sample.people_fmr is not None and sample.people_cosine is None:
            require_enough("people", sample.people_fmr, people * (people - 1) // 2)

    def enroll(self, count: int, context: Context) -> None:
        """Once for all thresholds, by the encoder; cleaned.npz: `image` (N,), how like its person's centre an image is, `centres` (P, dim),
        and of the real set `real_image`, how like others' centres images are, and `real_people`, how alike two centres are."""
        (faces,), real = context.parts, context.faces
        own, centres = self._embedded(faces, context)
        images, others = self._embedded(real, context)
        random, who = numpy_generator(0, "cleaned"), np.arange(len(others))
        found = {
            "image": np.einsum("nd,nd->n", own, centres[faces.identity]),
            "centres": centres,
            "real_image": between(images, real.identity, others, random),
            "real_people": between(others, who, others, random),
        }
        with writing(context.out / "cleaned.npz") as temporary, open(temporary, "wb") as file:
            np.savez(file, **found)  # type: ignore[arg-type]

    def _embedded(self, faces: FaceSet, context: Context) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings (N, dim) of the images, and centres (P, dim) of the people, from images that show one person."""
        found = context.encoder.embed_all(faces, flip=self.config.enroll.flip, progress=context.progress)
        require_finite(found, f"embeddings by the encoder {context.encoder.name}")
        total, _ = class_centres(found[faces.whole], faces.identity[faces.whole], faces.identities)
        return found, unit(total).astype(np.float32)

    def names(self, context: Context) -> Sequence[str]:
        return context.parts[0].names

    def slots(self, volume: Volume, context: Context) -> list[Slot]:
        """The people and images of the set, less what goes; which is said, and kept in cleaned.json."""
        selection, told = self._cleaned(context)
        name, said = self.config.sample.of, in_words(told)
        console.note(f"{name}: {said}")
        if told["people_left"] < 2:
            raise UserError(f"{name}: fewer than two people are left. Take a higher image_fmr, or lower image_cosine")
        write_json(context.out / "cleaned.json", {"said": said, **told})
        return selection.slots(volume, f"what is left of {name}")

    def generate(self, slots: Sequence[Slot], context: Context) -> Iterator[FaceBatch]:
        yield from self._cleaned(context)[0].batches(slots, context.batch_size)

    def _cleaned(self, context: Context) -> tuple[Selection, dict[str, Any]]:
        """(what is left, thresholds and what went, by name)."""
        sample, (faces,) = self.config.sample, context.parts
        with np.load(context.inputs["enroll"] / "cleaned.npz", allow_pickle=False) as file:
            found = dict(file)
        image = threshold("image", sample.image_cosine, sample.image_fmr, found["real_image"])
        people = threshold("people", sample.people_cosine, sample.people_fmr, found["real_people"])
        near = (found["image"] > image) | ~faces.whole  # a mixture is half of each of its people by design
        there = np.bincount(faces.identity[near], minlength=faces.identities) > 0
        like = look_alikes(found["centres"], there, people)
        alike = like != np.arange(len(like))
        selection = Selection([faces], [np.where(alike, -1, like) if sample.look_alikes == "drop" else like], near)
        left = selection.counts + selection.copied
        return selection, {
            "image_cosine": _plain(image),
            "people_cosine": _plain(people),
            "images": len(faces),
            "people": faces.identities,
            "images_far": int((~near).sum()),
            "look_alikes": int(alike.sum()),
            "merged": sample.look_alikes == "merge",
            "images_left": int(left.sum()),
            "people_left": int((left > 0).sum()),
        }


def between(vectors: np.ndarray, who: np.ndarray, centres: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Cosines of unit `vectors` (N, dim) of the people `who` (N,) with the `centres` (P, dim) of other people: of all, or of PAIRS that are
    drawn. Of the centres themselves each pair once."""
    total = len(vectors) * len(centres)
    a, b = np.divmod(np.arange(total) if total <= PAIRS else random.integers(0, total, PAIRS), len(centres))
    other = a < b if vectors is centres else who[a] != b
    a, b = a[other], b[other]
    parts = [slice(start, start + BLOCK) for start in range(0, len(a), BLOCK)]
    return np.concatenate([np.empty(0, np.float32), *(np.einsum("nd,nd->n", vectors[a[part]], centres[b[part]]) for part in parts)])


def threshold(what: str, cosine: float | None, rate: float | None, others: np.ndarray) -> float:
    """The `cosine` that was given, else the one above which a share `rate` of the cosines between `others` lies; infinite, with the sign
    that lets everything stay, where there is neither."""
    if cosine is not None or rate is None:
        return cosine if cosine is not None else -np.inf if what == "image" else np.inf
    require_enough(what, rate, len(others))
    return float(np.sort(others)[::-1][min(int(rate * len(others)), len(others) - 1)])


def require_enough(what: str, rate: float, comparisons: int) -> None:
    """Raises UserError where so many comparisons between different real people cannot tell a false match rate."""
    if rate * comparisons < LEAST:
        least = f"a rate of {LEAST / comparisons:.2g} or more, or " if comparisons >= LEAST else ""
        raise UserError(
            f"sample.{what}_fmr {rate:g}: the real set has {comparisons:,} comparisons between different people, too few to tell such a "
            f"rate. Take {least}a cosine: sample.{what}_cosine"
        )


def look_alikes(centres: np.ndarray, there: np.ndarray, least: float) -> np.ndarray:
    """(P,) the person that each of the people becomes: the first is oneself; who is more like one of them than `least` becomes the most
    alike of these; anyone else is oneself. Who is not `there` (P,) is nobody's look-alike, and has none."""
    become, kept, who = np.arange(len(centres)), np.empty_like(centres), np.empty(len(centres), np.int64)
    count = 0
    for person in np.flatnonzero(there):
        cosine = kept[:count] @ centres[person]
        if count and cosine.max() > least:
            become[person] = who[cosine.argmax()]
        else:
            kept[count], who[count] = centres[person], person
            count += 1
    return become


def in_words(told: dict[str, Any]) -> str:
    """`42 of 4,000 images are far from their person (cosine up to 0.31); ...`"""
    parts = []
    if told["image_cosine"] is not None:
        parts.append(
            f"{told['images_far']:,} of {told['images']:,} images are far from their person (cosine up to {told['image_cosine']:.3f})"
        )
    if told["people_cosine"] is not None:
        how = "merged" if told["merged"] else "left out"
        parts.append(
            f"{told['look_alikes']:,} of {told['people']:,} people look like an earlier one (above {told['people_cosine']:.3f}), {how}"
        )
    return "; ".join([*parts, f"{told['images_left']:,} images of {told['people_left']:,} people are left"])


def _plain(number: float) -> float | None:
    return number if np.isfinite(number) else None
