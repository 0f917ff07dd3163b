"""Does the set show people of the real training set?

Every synthetic image and identity is searched for, exhaustively, among the real training images and identities in the judge's space, in
three ways, since each finds leaks that the others miss: image against image, image against centre, centre against centre. Each has its own
threshold, the cosine that a share `fmr` of such comparisons between different real people exceeds. A search makes many comparisons, so a
share above zero is normal: `baseline` is the same search by real people among the other real people, `held_out` by the people of the
benchmarks, who are not in the training set.

Where the generator learnt from photographs besides the real set (`train.faces`), images are searched for among those too: `also_learnt`,
with the threshold of the real set, and beside it `held_out/also_learnt`. All other numbers, and tables, are about the real set alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import Field

from synthbench.config import Settings
from synthbench.evaluators.neighbours import cosine_blocks, nearest
from synthbench.evaluators.statistics import calibrate, clustered_stderr, impostor_pairs, pair_cosines
from synthbench.models.embeddings import class_centres, require_finite, unit
from synthbench.plugin import Context, Evaluator, Subject
from synthbench.seeds import numpy_generator
from synthbench.store import writing
from synthbench.types import Progress, Score, Skipped, UserError

if TYPE_CHECKING:
    from synthbench.data.faces import FaceSet
    from synthbench.models.encoder import Encoder


def overlap(
    centres_a: np.ndarray, centres_b: np.ndarray | None, threshold: float, device: torch.device | str = "cpu"
) -> list[tuple[int, int, float]]:
    """(a, b, cosine) of all pairs of unit centres more alike than `threshold`, most alike first; b None: pairs within a."""
    within = centres_b is None
    found = []
    for q, g, cosine in cosine_blocks(centres_a, centres_a if centres_b is None else centres_b, device):
        for i, j in (cosine > threshold).nonzero().tolist():
            if not within or q.start + i < g.start + j:
                found.append((q.start + i, g.start + j, float(cosine[i, j])))
    return sorted(found, key=lambda match: -match[2])


def shared_people(
    faces_a: FaceSet, faces_b: FaceSet | None, judge: Encoder, threshold: float, progress: Progress = lambda done, total: None
) -> list[tuple[str, str, float]]:
    """(name in a, name in b, cosine of their centres) of people who seem to be in both sets, most alike first.

    faces_b None: names within a that seem to be one person. Raises UserError when the judge's embeddings are not finite.
    """
    centres = [judged_centres(faces, judge, progress) for faces in (faces_a, faces_b) if faces is not None]
    names_b = faces_a.names if faces_b is None else faces_b.names
    pairs = overlap(centres[0], centres[1] if faces_b is not None else None, threshold, judge.device)
    return [(faces_a.names[a], names_b[b], cosine) for a, b, cosine in pairs]


def judged_centres(faces: FaceSet, judge: Encoder, progress: Progress = lambda done, total: None) -> np.ndarray:
    embeddings = judge.embed_all(faces, progress=progress)
    require_finite(embeddings, f"embeddings by {judge.name}")
    if faces.identities == 0:
        raise UserError("a set without identities has no centres to compare")
    return unit(class_centres(embeddings, faces.identity, faces.identities)[0]).astype(np.float32)


def real_impostors(
    embeddings: np.ndarray, identity: np.ndarray, centres: np.ndarray, cap: int, random: np.random.Generator
) -> dict[str, np.ndarray]:
    """Cosines between different real people, for each way of comparing; at most `cap` each, drawn uniformly."""
    people = np.arange(len(centres))
    left, right = impostor_pairs(identity, cap, random)
    a, b = impostor_pairs(people, cap, random)
    if len(embeddings) * (len(people) - 1) <= cap:
        image, other = np.divmod(np.arange(len(embeddings) * (len(people) - 1)), len(people) - 1)
    else:
        image, other = random.integers(0, len(embeddings), cap), random.integers(0, len(people) - 1, cap)
    other = other + (other >= identity[image])
    return {
        "image_to_image": pair_cosines(embeddings, left, right),
        "image_to_centre": pair_cosines(embeddings, image, other, centres),
        "centre_to_centre": pair_cosines(centres, a, b),
    }


class LeakageConfig(Settings):
    fmr: float = Field(1e-4, gt=0, lt=1)  # raised to 10 / N when the N real impostors cannot resolve it; leakage/<way>/fmr tells
    pairs: int = Field(1_000_000, ge=1)  # real impostor comparisons the thresholds come from
    images: int = Field(50_000, ge=1)  # images searched for, of each set; they are searched for among all real images
    held_out: int = Field(2_000, ge=0)  # benchmark images of the held-out baseline


class Leakage(Evaluator[LeakageConfig]):
    """Searches the set's people among the real training people, and its images among all else that was learnt from.

    Writes leakage.npz: the best match of every identity in the real set.
    """

    Config = LeakageConfig
    version = 1

    def evaluate(self, subject: Subject, context: Context) -> list[Score | Skipped]:
        scores = [real_share(subject.faces)]
        made = np.flatnonzero(subject.faces.columns["real"] <= 0) if "real" in subject.faces.columns else np.arange(len(subject.faces))
        if not len(made):
            return [*scores, Skipped("every image is a photograph of a real person: no synthetic image to search for", "leakage")]
        if subject.real.identities < 2:
            return [*scores, Skipped("the real set has a single identity, so no threshold can be calibrated", "leakage")]
        random = numpy_generator(context.seed, "leakage")
        real, real_identity, real_centres = subject.embeddings("real"), subject.real.identity, subject.centres("real")
        thresholds: dict[str, float] = {}
        for way, impostors in real_impostors(real, real_identity, real_centres, self.config.pairs, random).items():
            try:
                thresholds[way], fmr = calibrate(impostors, self.config.fmr)
            except Skipped as reason:
                scores.append(Skipped(str(reason), f"leakage/{way}/threshold"))
                continue
            scores.append(Score(f"leakage/{way}/threshold", thresholds[way], None, len(impostors), False))
            scores.append(Score(f"leakage/{way}/fmr", fmr, None, len(impostors), False))

        faces, identity = subject.embeddings("faces")[made], subject.faces.identity[made]
        present, dense = np.unique(identity, return_inverse=True)
        whole = subject.faces.whole[made]  # a mixture of two people shows an image of somebody, but says nothing of its class's centre
        total, count = class_centres(faces[whole], dense[whole], len(present))
        centres, has = unit(total[count > 0]).astype(np.float32), count > 0
        chosen = draw(len(faces), self.config.images, random)
        best, row = nearest(faces[chosen], real, context.device)
        scores += report("leakage/image_to_image", best, dense[chosen], thresholds.get("image_to_image"))
        to_centre, _ = nearest(faces[chosen], real_centres, context.device)
        scores += report("leakage/image_to_centre", to_centre, dense[chosen], thresholds.get("image_to_centre"))
        if "image_to_image" in thresholds:
            highest = np.full(len(present), -np.inf)
            np.maximum.at(highest, dense[chosen], best)
            searched = highest > -np.inf
            scores.append(share("leakage/identities_with_a_leaked_image", highest[searched] > thresholds["image_to_image"]))
        centre, centre_person = np.full(len(present), np.nan, np.float32), np.full(len(present), -1)
        if has.any():
            centre[has], centre_person[has] = nearest(centres, real_centres, context.device)
            scores += report("leakage/centre_to_centre", centre[has], np.flatnonzero(has), thresholds.get("centre_to_centre"))
        save_matches(context.out / "leakage.npz", subject, present, centre_person, centre, made[chosen], row, best)

        own = draw(len(real), self.config.images, random)
        people = np.arange(len(real_centres))
        label = real_identity[own]
        searches = {
            "image_to_image": (nearest(real[own], real, context.device, label, real_identity)[0], label),
            "image_to_centre": (nearest(real[own], real_centres, context.device, label, people)[0], label),
            "centre_to_centre": (nearest(real_centres, real_centres, context.device, people, people)[0], people),
        }
        for way, (found, clusters) in searches.items():
            scores += report(f"leakage/baseline/{way}", found, clusters, thresholds.get(way))
        if subject.also_learnt is not None:
            best, _ = nearest(faces[chosen], subject.embeddings("also_learnt"), context.device)
            scores += report("leakage/also_learnt/image_to_image", best, dense[chosen], thresholds.get("image_to_image"))
        return scores + self.held_out(subject, context, thresholds, random)

    def held_out(
        self, subject: Subject, context: Context, thresholds: dict[str, float], random: np.random.Generator
    ) -> list[Score | Skipped]:
        """The same search by benchmark images, whose people the real training set should not have."""
        if not subject.benchmarks or not self.config.held_out:
            return [Skipped("there are no benchmark images to compare with", "leakage/held_out/image_to_image/share_above")]
        each = -(-self.config.held_out // len(subject.benchmarks))
        parts = []
        for benchmark in subject.benchmarks:
            rows = draw(len(benchmark.images), each, random)
            parts += [subject.judge.embed(benchmark.images.images(rows[s : s + 256])).cpu().numpy() for s in range(0, len(rows), 256)]
        held_out = np.concatenate(parts)
        require_finite(held_out, "embeddings of the benchmarks by the judge")
        scores: list[Score | Skipped] = []
        galleries = {"image_to_image": subject.embeddings("real"), "image_to_centre": subject.centres("real")}
        if subject.also_learnt is not None:
            galleries["also_learnt/image_to_image"] = subject.embeddings("also_learnt")
        for way, gallery in galleries.items():
            best, _ = nearest(held_out, gallery, context.device)
            scores += report(f"leakage/held_out/{way}", best, np.arange(len(best)), thresholds.get(way.removeprefix("also_learnt/")))
        return scores


def draw(total: int, limit: int, random: np.random.Generator) -> np.ndarray:
    """All rows, or a sorted random choice of `limit`."""
    return np.arange(total) if total <= limit else np.sort(random.choice(total, limit, replace=False))


def share(metric: str, above: np.ndarray) -> Score:
    p = float(above.mean())
    return Score(metric, p, float(np.sqrt(p * (1 - p) / len(above))), len(above), False)


def report(prefix: str, best: np.ndarray, cluster: np.ndarray, threshold: float | None) -> list[Score | Skipped]:
    """Share of searches whose best match exceeds the threshold, and the mean best match; errors clustered by identity."""
    mean = Score(f"{prefix}/mean_best_cosine", float(best.mean(dtype=np.float64)), clustered_stderr(best, cluster), len(best), False)
    if threshold is None:
        return [Skipped("there is no threshold for this comparison", f"{prefix}/share_above"), mean]
    above = (best > threshold).astype(np.float64)
    return [Score(f"{prefix}/share_above", float(above.mean()), clustered_stderr(above, cluster), len(best), False), mean]


def real_share(faces: FaceSet) -> Score | Skipped:
    """Share of the set's images that are photographs of real people, as the generator says."""
    if "real" not in faces.columns:
        return Skipped("the set does not say which images are photographs (no column real)", "leakage/real_photographs")
    if unknown := int((faces.columns["real"] < 0).sum()):
        reason = f"of {unknown:,} of {len(faces):,} images the set does not say whether they are photographs"
        return Skipped(reason, "leakage/real_photographs")
    return share("leakage/real_photographs", faces.columns["real"] != 0)


def save_matches(
    path: Path,
    subject: Subject,
    identities: np.ndarray,
    person: np.ndarray,
    cosine: np.ndarray,
    images: np.ndarray,
    real_row: np.ndarray,
    image_cosine: np.ndarray,
) -> None:
    """One row per identity: the nearest real centre (number, name, cosine) and its best image match (image, real image, cosine)."""
    order = np.argsort(image_cosine, kind="stable")  # the last written of an identity is its best
    slot = {int(label): i for i, label in enumerate(identities)}
    best = np.full(len(identities), -1, np.int64)
    for i in order:
        best[slot[int(subject.faces.identity[images[i]])]] = i
    has = best >= 0
    with writing(path) as tmp, open(tmp, "wb") as file:
        np.savez_compressed(
            file,
            identity=identities,
            real_identity=person,
            real_name=np.array([subject.real.names[p] if p >= 0 else "" for p in person]),
            cosine=cosine,
            image=np.where(has, images[best], -1),
            real_image=np.where(has, real_row[best], -1),
            image_cosine=np.where(has, image_cosine[best], np.nan),
        )
