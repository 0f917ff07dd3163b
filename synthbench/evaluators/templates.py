"""Templates, as in IJB-B, IJB-C and TinyFace: 1:1 by TAR at FAR, 1:N by rank, and open-set by TPIR at FPIR.

A template is one vector: embeddings of its images and their mirrors are summed, each times how surely it shows a face, averaged over a
medium, summed over media and normalised (InsightFace's eval_ijbc: F2; `norm` keeps the length of raw embeddings, N1; `faceness` is D1).
Thresholds are exact: the largest share of impostors that does not exceed the rate, nothing interpolated; ties count as errors.
For 1:N each gallery is searched alone, and what is shown is the mean over galleries: rank k is the share of probes whose person is in the
gallery and among the first k; TPIR that of those who come first above the threshold, which at most FPIR of the probes without a person in
the gallery reach (Grother and Ngan 2014). Errors are by a bootstrap over people. Rates are in percent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from synthbench.config import Settings
from synthbench.evaluators.neighbours import cosine_blocks
from synthbench.evaluators.pairs import far_name, open_floor, tar_at_far
from synthbench.evaluators.statistics import bootstrap_weights, clustered_stderr
from synthbench.models.embeddings import require_finite, unit
from synthbench.models.encoder import raw_parts
from synthbench.plugin import Context, Evaluator, Subject
from synthbench.seeds import numpy_generator
from synthbench.store import write_json
from synthbench.types import Progress, Score, Skipped

if TYPE_CHECKING:
    import torch

    from synthbench.data.templates import Templates, TemplateSet
    from synthbench.models.encoder import Encoder

FLOOR = "untrained_templates.json"
EVENTS = 10  # errors that a rate must allow, for a threshold to mean anything
LEAST = 5  # people; fewer are not resampled


class TemplatesConfig(Settings):
    flip: bool = Field(True, description="add the mirror image's embedding")
    norm: bool = Field(True, description="keep the length of raw embeddings, which tells of quality, when images are pooled")
    faceness: bool = Field(True, description="weigh an image by how surely it shows a face, where the set tells")
    far: tuple[float, ...] = (1e-3, 1e-4, 1e-5)  # false accept rates of 1:1
    rank: tuple[int, ...] = (1, 5, 20)
    fpir: tuple[float, ...] = (1e-1, 1e-2)  # false positive identification rates of open-set search
    draws: int = Field(200, ge=20, description="of the bootstrap over people")
    untrained: int = Field(1, ge=0, description="networks that learnt nothing, for the floor; 0: no floor")


class TemplateSets(Evaluator[TemplatesConfig]):
    """How well the recognizer compares and finds people who are shown by several images: TAR at FAR, ranks, TPIR at FPIR."""

    Config = TemplatesConfig
    version = 1

    def evaluate(self, subject: Subject, context: Context) -> list[Score | Skipped]:
        if subject.recognizer is None:
            raise Skipped("there is no recognizer: none was trained on this set")
        if not subject.templates:
            raise Skipped("the protocol names no template sets (templates: [ijbc, tinyface])")
        scores: list[Score | Skipped] = []
        for one in subject.templates:
            scores += self.measured(subject.recognizer, one, context, subject.progress)
            scores += chances(one.name, one.who, self.config)
        return [*scores, *self.floor(subject, context)]

    def measured(
        self, recognizer: Encoder, one: TemplateSet, context: Context, progress: Progress = lambda done, total: None
    ) -> list[Score | Skipped]:
        """The scores of one template set."""
        features = self.pooled(recognizer, one, progress)
        random = numpy_generator(context.seed, "templates", one.name)
        how = (self.config, random, context.device)
        return [*compared(one, features, *how), *searched(one, features, *how)]

    def pooled(self, recognizer: Encoder, one: TemplateSet, progress: Progress, batch_size: int = 256) -> np.ndarray:
        """A unit vector for each template (T, D) float32; embeddings of images are never all in memory."""
        who, share = one.who, shares(one.who, self.config.faceness)
        pooled = np.zeros((len(who), recognizer.dim), np.float64)
        mirrors = (False, True) if self.config.flip else (False,)
        for rows, views in raw_parts(recognizer, one.images, mirrors, None, batch_size, progress):
            raw = np.sum(views, axis=0)
            np.add.at(pooled, who.template[rows], (raw if self.config.norm else unit(raw)) * share[rows, None])
        require_finite(pooled, f"embeddings of the template set {one.name} by the recognizer")
        return unit(pooled).astype(np.float32)

    def floor(self, subject: Subject, context: Context) -> list[Score]:
        """The same of networks that learnt nothing, a mean over them; where there is a baseline, what that has."""
        if subject.baseline:
            return open_floor(subject.baseline / FLOOR)
        floors: list[Score] = []
        for one in subject.templates if subject.untrained else ():
            assert subject.untrained
            found = [self.measured(subject.untrained(seed), one, context) for seed in range(self.config.untrained)]
            for same in zip(*([score for score in scores if isinstance(score, Score)] for scores in found)):
                metric = same[0].metric.replace(f"/{one.name}/", f"/{one.name}/untrained/")
                errors = [score.stderr for score in same if score.stderr is not None]  # they meet the same people
                stderr = float(np.mean(errors)) if len(errors) == len(same) else None
                floors.append(Score(metric, float(np.mean([score.value for score in same])), stderr, same[0].n, True))
        write_json(context.out / FLOOR, [vars(score) for score in floors])
        return floors


def shares(who: Templates, faceness: bool) -> np.ndarray:
    """The factor (N,) of each image in its template: 1 / images of its medium, times its weight."""
    medium = np.unique(np.stack([who.template, who.media]), axis=1, return_inverse=True)[1].reshape(-1)
    return (who.weight.astype(np.float64) if faceness else 1.0) / np.bincount(medium)[medium]


# ---- 1:1 ----


def cosines(features: np.ndarray, left: np.ndarray, right: np.ndarray, device: torch.device | str = "cpu", rows: int = 256) -> np.ndarray:
    """Cosine (P,) float32 of each pair of unit `features` (T, D), by products of whole blocks: a pair's own rows are never gathered."""
    found = np.empty(len(left), np.float32)
    asked = np.flatnonzero(np.bincount(left))  # in IJB a sixth of the templates
    place = np.zeros(len(features), np.int64)
    place[asked] = np.arange(len(asked))
    order = np.argsort(left, kind="stable")
    end = 0
    for q, _, block in cosine_blocks(features[asked], features, device, rows, len(features)):
        first, end = end, int(np.searchsorted(left, asked[q.stop - 1], "right", sorter=order))
        own = order[first:end]
        found[own] = block.cpu().numpy()[place[left[own]] - q.start, right[own]]
    return found


@dataclass(frozen=True)
class Tail:
    """Impostors by falling score, as far as thresholds can lie, and all of them by weight."""

    score: np.ndarray  # (K,) float32
    people: tuple[np.ndarray, np.ndarray]  # (K,) subjects of each, dense
    total: np.ndarray  # (draws,) weight of all impostors


def compared(
    one: TemplateSet, features: np.ndarray, config: TemplatesConfig, random: np.random.Generator, device: torch.device
) -> list[Score | Skipped]:
    """TAR at FAR over the comparisons one with one."""
    who = one.who
    impostors = int((~who.same).sum())
    if not impostors or impostors == len(who.same):
        return [Skipped("it lists no comparisons of genuine pairs and impostors", f"templates/{one.name}/tar")] if len(who.same) else []
    score = cosines(features, who.left, who.right, device)
    fars = [far for far in config.far if impostors * far >= EVENTS - 1e-9]
    errors = tar_errors(score, who, fars, config.draws, random)
    scores: list[Score | Skipped] = []
    for far in config.far:
        metric = f"templates/{one.name}/tar_at_far_{far_name(far)}"
        if far not in fars:
            scores.append(
                Skipped(f"{impostors:,} impostor pairs are too few for a false accept rate of {far:g}: 10 / FAR are needed", metric)
            )
        else:
            value = tar_at_far(-score, who.same, far)
            scores.append(Score(metric, 100 * value, 100 * errors[far] if far in errors else None, len(who.same) - impostors, True))
    return scores


def tar_errors(score: np.ndarray, who: Templates, fars: list[float], draws: int, random: np.random.Generator) -> dict[float, float]:
    """Standard error of each TAR by a bootstrap over people: a pair weighs as often as both were drawn. Empty with few people."""
    from scipy.sparse import coo_matrix

    people, own = np.unique(who.subject, return_inverse=True)
    if len(people) < LEAST or not fars:
        return {}
    weight = bootstrap_weights(len(people), draws, random)
    genuine = np.flatnonzero(who.same)
    impostor = np.flatnonzero(~who.same)
    a, b = own[who.left[impostor]], own[who.right[impostor]]
    met = coo_matrix((np.ones(len(a), np.float32), (a, b)), (len(people), len(people))).tocsr()  # how often two people are compared
    total = np.einsum("ds,ds->d", weight, (met @ weight.T).T)
    keep = min(len(impostor), int(EVENTS * max(fars) * len(impostor)) + 1000)
    top = np.argpartition(-score[impostor], keep - 1)[:keep]
    top = top[np.argsort(-score[impostor[top]], kind="stable")]
    tail = Tail(score[impostor[top]], (a[top], b[top]), total)
    return tail_errors(tail, score[genuine], own[who.left[genuine]], weight, fars)


def tail_errors(tail: Tail, genuine: np.ndarray, person: np.ndarray, weight: np.ndarray, rates: list[float]) -> dict[float, float]:
    """Standard error of the share of `genuine` above the threshold of each rate; `person` is whose each is, `weight` (draws, people)."""
    found: dict[float, list[float]] = {rate: [] for rate in rates}
    for drawn, total in zip(weight, tail.total):
        reached = np.cumsum(drawn[tail.people[0]] * drawn[tail.people[1]])
        every = drawn[person].sum()
        for rate in rates if total and every else ():
            first = min(int(np.searchsorted(reached, rate * total + 1e-9, "right")), len(reached) - 1)
            found[rate].append(float(drawn[person][genuine > tail.score[first]].sum() / every))
    return {rate: float(np.std(values, ddof=1)) for rate, values in found.items() if len(values) > 1}


# ---- 1:N ----


@dataclass(frozen=True)
class Search:
    """What came of looking for Q probes in one gallery."""

    rank: np.ndarray  # (Q,) int64, 1: the person came first; 0: the person is not in the gallery
    score: np.ndarray  # (Q,) float32 of the person; of the first where the person is not in the gallery
    precision: np.ndarray  # (Q,) average precision over the person's templates in the gallery, 0..1


def search(
    probes: np.ndarray, gallery: np.ndarray, wanted: np.ndarray, there: np.ndarray, device: torch.device | str = "cpu", rows: int = 256
) -> Search:
    """Look for unit `probes` (Q, D) of subjects `wanted` (Q,) among `gallery` (G, D) of subjects `there`; negative subjects are nobody.

    A template of somebody else with the same score comes before the person's own. Average precision is TinyFace's: at each of the
    person's templates the mean of the precision with it and before it, of which the first place has 1.
    """
    rank, score, precision = np.zeros(len(probes), np.int64), np.empty(len(probes), np.float32), np.zeros(len(probes))
    mates = {person: np.flatnonzero(there == person) for person in np.unique(wanted) if person >= 0}
    for q, _, block in cosine_blocks(probes, gallery, device, rows, len(gallery)):
        for row, found in enumerate(block.cpu().numpy(), q.start):
            own = mates.get(wanted[row], ())
            if not len(own):
                score[row] = found.max()
                continue
            best, number = -np.sort(-found[own]), np.arange(1, len(own) + 1)
            place = number + (np.delete(found, own) >= best[:, None]).sum(1)
            earlier = np.where(place > 1, (number - 1) / np.maximum(place - 1, 1), 1.0)
            rank[row], score[row], precision[row] = place[0], best[0], ((earlier + number / place) / 2).mean()
    return Search(rank, score, precision)


def searched(
    one: TemplateSet, features: np.ndarray, config: TemplatesConfig, random: np.random.Generator, device: torch.device
) -> list[Score | Skipped]:
    """Ranks, mean average precision and TPIR at FPIR, a mean over galleries."""
    who, name = one.who, f"templates/{one.name}"
    wanted = who.subject[who.probes]
    found = [search(features[who.probes], features[rows], wanted, who.subject[rows], device) for rows in who.galleries.values()]
    mated = [one_gallery.rank > 0 for one_gallery in found]
    if not all(own.any() for own in mated):
        return [Skipped("of a gallery nobody is looked for", f"{name}/rank")]
    measures = {f"rank_{k}": [(result.rank[own] <= k).astype(float) for result, own in zip(found, mated)] for k in config.rank}
    if any(repeated(who.subject[rows]) for rows in who.galleries.values()):
        measures["map"] = [result.precision[own] for result, own in zip(found, mated)]
    scores: list[Score | Skipped] = []
    n = sum(int(own.sum()) for own in mated)
    for metric, right in measures.items() if found else ():
        errors = [clustered_stderr(value, wanted[own]) for value, own in zip(right, mated)]
        scores.append(mean_of(f"{name}/{metric}", [float(value.mean()) for value in right], errors, n))
    strangers = min((int((~own).sum()) for own in mated), default=0)
    for rate in config.fpir if found else ():
        metric = f"{name}/tpir_at_fpir_{far_name(rate)}"
        if strangers * rate < EVENTS - 1e-9:
            why = f"{strangers:,} probes of people who are not in the gallery are too few for {rate:g}: 10 / FPIR are needed"
            scores.append(Skipped(why, metric))
        else:
            errors = [tpir_error(result, wanted, rate, config.draws, random) for result in found]
            scores.append(mean_of(metric, [tpir(result, rate) for result in found], errors, n))
    return scores


def repeated(subject: np.ndarray) -> bool:
    """Whether somebody has several templates in a gallery of subjects `subject`."""
    known = subject[subject >= 0]
    return len(np.unique(known)) < len(known)


def mean_of(metric: str, values: list[float], errors: list[float | None], n: int) -> Score:
    """The mean over galleries, in percent; their people differ, so that their errors are independent."""
    known = [error for error in errors if error is not None]
    stderr = 100 * float(np.sqrt(np.square(known).sum())) / len(errors) if len(known) == len(errors) else None
    return Score(metric, 100 * float(np.mean(values)), stderr, n, True)


def tpir(found: Search, fpir: float) -> float:
    """Share of the probes with a person in the gallery who came first, above the threshold."""
    mated = found.rank > 0
    first = np.where(found.rank == 1, found.score, -np.inf)
    return tar_at_far(-np.where(mated, first, found.score), mated, fpir)


def tpir_error(found: Search, wanted: np.ndarray, fpir: float, draws: int, random: np.random.Generator) -> float | None:
    """By a bootstrap over people: those looked for, and the strangers who set the threshold."""
    people, own = np.unique(wanted, return_inverse=True)
    if len(people) < LEAST:
        return None
    weight, mated = bootstrap_weights(len(people), draws, random), found.rank > 0
    strangers = np.flatnonzero(~mated)
    strangers = strangers[np.argsort(-found.score[strangers], kind="stable")]
    weight = np.column_stack([weight, np.ones(draws)])  # the last is drawn once: a stranger weighs as one person, not as a pair
    once = np.full(len(strangers), len(people))
    tail = Tail(found.score[strangers], (own[strangers], once), weight[:, own[strangers]].sum(1))
    first = np.where(found.rank == 1, found.score, -np.inf)[mated]
    return tail_errors(tail, first, own[mated], weight, [fpir]).get(fpir)


def chances(name: str, who: Templates, config: TemplatesConfig) -> list[Score]:
    """What guessing has, in percent: FAR itself; k names out of a gallery; a first name that is right, above the threshold as often as
    a stranger's."""
    levels: dict[str, list[float]] = {f"tar_at_far_{far_name(far)}": [far] for far in config.far} if len(who.left) else {}
    if galleries := [who.subject[rows] for rows in who.galleries.values()]:
        wanted = who.subject[who.probes]
        levels |= {f"rank_{k}": [by_chance(wanted, there, k) for there in galleries] for k in config.rank}
        levels |= {f"tpir_at_fpir_{far_name(rate)}": [rate * by_chance(wanted, there, 1) for there in galleries] for rate in config.fpir}
    return [
        Score(f"templates/{name}/by_chance/{metric}", 100 * float(np.mean(values)), None, len(values), True)
        for metric, values in levels.items()
    ]


def by_chance(wanted: np.ndarray, there: np.ndarray, k: int) -> float:
    """Mean over the probes whose person is in the gallery: the person is among k templates drawn without replacement."""
    people, count = np.unique(there[there >= 0], return_counts=True)
    own = count[np.searchsorted(people, wanted[np.isin(wanted, people)])]
    missed = np.ones(len(own))
    for drawn in range(min(k, len(there))):
        missed *= np.maximum(len(there) - own - drawn, 0) / (len(there) - drawn)
    return float((1 - missed).mean()) if len(own) else 0.0
