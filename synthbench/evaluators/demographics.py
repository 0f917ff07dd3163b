"""Who is in the set: shares of groups of people beside the real set's, to see whether a generator repeats a bias of its training set.

Groups are told by one of three, the first that there is: a registered attribute network (setting `networks`), taken at its word on both
sets; the world's own attributes, where both sets are rendered, so that everyone's are known; a linear reader (reader.py), fitted on
rendered people, where a set was generated and the real one rendered. The reader's shares are corrected by what it confuses on rendered
people it was not fitted on (the likeliest p behind r = C' p): generated people are assumed to be confused as rendered ones are. What it
leaves wrong where that is so is measured on the real set, whose shares are known (`reader_error`).
A person counts once, divided over groups as his images are; in `images/` every image does. Errors are over people, with a reader also over
the rendered people who tell its confusions. The distance is the total variation: the share of people who would have to be of another group.
Chance: how far off as many people are who are drawn from the real set and measured alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, field_validator

from synthbench.config import Settings
from synthbench.data.sources import find
from synthbench.evaluators.reader import Lesson, Reader, features, lesson
from synthbench.evaluators.statistics import bootstrap_weights, mean_stderr
from synthbench.models.embeddings import require_finite
from synthbench.models.encoder import raw_embeddings
from synthbench.plugin import Context, Evaluator, Subject
from synthbench.seeds import numpy_generator
from synthbench.types import Score, Skipped, UserError

if TYPE_CHECKING:
    from synthbench.data.faces import FaceSet
    from synthbench.models.encoder import Encoder

LEAST = 30  # people of a set: the share of a group of ten people has an error of sixteen points
ROUNDS = 400
BLIND = 0.2  # a reader whose confusions have a singular value below this multiplies every error by five: it has no number
WORD = r"[A-Za-z0-9][A-Za-z0-9_.+-]*"


class AttributeNetwork(Settings):
    weights: str = Field(description="registered weights that give a number for each group, the largest for the group that it sees")
    groups: tuple[str, ...] = Field(min_length=2, description="their names, in the order of the numbers")

    @field_validator("groups")
    @classmethod
    def _names(cls, groups: tuple[str, ...]) -> tuple[str, ...]:
        if odd := [name for name in groups if not re.fullmatch(WORD, name)]:
            raise ValueError(f"{odd[0]!r} cannot be a name: letters, digits and . + - _ may be in it")
        if len(set(groups)) < len(groups):
            raise ValueError("two groups have one name")
        return groups


class DemographicsConfig(Settings):
    networks: dict[str, AttributeNetwork] = Field({}, description="attribute: {weights: NAME, groups: [...]}, such as FairFace's in ONNX")
    people: int = Field(1_000, ge=LEAST, description="of each set at most that networks and readers look at, drawn at random")
    reader: int = Field(800, ge=100, description="rendered people on whom a reader is fitted, three images each")
    draws: int = Field(400, ge=50, description="of the errors over people, and of people at random")

    @field_validator("networks")
    @classmethod
    def _names(cls, networks: dict[str, AttributeNetwork]) -> dict[str, AttributeNetwork]:
        if odd := [name for name in networks if not re.fullmatch(WORD, name)]:
            raise ValueError(f"{odd[0]!r} cannot be a name: letters, digits and . + - _ may be in it")
        return networks


@dataclass(frozen=True)
class Counted:
    """Images of every person in every group, of one attribute."""

    groups: tuple[str, ...]
    own: np.ndarray  # (P, G)
    real: np.ndarray  # (R, G), told as `own` is
    truth: np.ndarray | None = None  # (G,) shares of people of the real set, where those are known and `real` is read
    confusion: np.ndarray | None = None  # (F, G, G) of a reader


class Demographics(Evaluator[DemographicsConfig]):
    """Shares of people by skin, sex, age and glasses, or as attribute networks see them, beside the real set's; do people keep theirs."""

    Config = DemographicsConfig
    version = 1

    def check(self, benchmarks: Sequence[str]) -> None:
        for name in self.config.networks:
            self.network(name)

    def sources(self) -> dict[str, str]:
        return {name: find(network.weights, "weights").digest for name, network in self.config.networks.items()}

    def network(self, name: str) -> Encoder:
        """The network of an attribute. Raises UserError for one that does not give a number for each group."""
        from synthbench.models.checkpoints import load_checkpoint

        wanted = self.config.networks[name]
        entry = find(wanted.weights, "weights")
        network = load_checkpoint(entry.path, name=entry.name, **entry.options)
        if network.dim != len(wanted.groups):
            given = f"{network.dim} number{'s' * (network.dim > 1)}"
            raise UserError(
                f"evaluators.demographics.networks.{name}: {entry.name} gives {given} an image, but {len(wanted.groups)} groups are named "
                f"({', '.join(wanted.groups)}); name as many groups as it has outputs, in their order"
            )
        return network

    def evaluate(self, subject: Subject, context: Context) -> list[Score | Skipped]:
        rows = np.flatnonzero(subject.faces.whole & subject.measured())
        sides = ((subject.faces, rows), (subject.real, np.arange(len(subject.real))))
        for what, (faces, some) in zip(("the set", "the real set"), sides):
            if not faces.identities or (people := len(np.unique(faces.identity[some]))) < LEAST:
                has = f"{people} people" if faces.identities else "no labels"
                raise Skipped(f"{what} has {has}; a share of people needs {LEAST} at least")
        known = subject.real.known
        if not self.config.networks and not known:
            raise Skipped(
                "nobody's groups are known, and no network that tells them is named (demographics.networks: see docs/protocol.md)"
            )
        learnt: Lesson | None = None
        scores: list[Score | Skipped] = []
        for name in dict.fromkeys([*self.config.networks, *known]):
            random = numpy_generator(context.seed, "demographics", name)
            if name in self.config.networks:
                counted = self.by_network(name, sides, random, context)
            elif name in subject.faces.known:
                names = known[name].names
                own, real = (table(faces.identity[some], faces.known[name].number[some], names) for faces, some in sides)
                counted = Counted(names, own, real)
            else:
                learnt = learnt or lesson(self.config.reader, subject.judge, context.resolution)
                counted = self.by_reader(name, Reader(learnt, name), subject, sides, random)
            scores += measured(f"demographics/{name}", counted, self.config.draws, random)
        return scores

    def by_network(self, name: str, sides: Sides, random: np.random.Generator, context: Context) -> Counted:
        network, groups = self.network(name).to(context.device), self.config.networks[name].groups
        tables: list[np.ndarray] = []
        for faces, rows in sides:
            some = drawn(faces, rows, self.config.people, random)
            given = raw_embeddings(network, faces, rows=some)
            require_finite(given, f"what {network.name} gives")
            tables.append(table(faces.identity[some], given.argmax(1), groups))
        own, real = tables
        return Counted(groups, own, real)

    def by_reader(self, name: str, reader: Reader, subject: Subject, sides: Sides, random: np.random.Generator) -> Counted:
        tables, known = [], subject.real.known[name]
        for (faces, rows), embeddings in zip(sides, (subject.embeddings("faces"), subject.embeddings("real"))):
            some = drawn(faces, rows, self.config.people, random)
            tables.append(table(faces.identity[some], reader.read(features(faces, embeddings, some)), known.names))
        truth = shares(table(subject.real.identity, known.number, known.names))
        own, real = tables
        return Counted(known.names, own, real, truth, reader.confusion)


Sides = Sequence[tuple["FaceSet", np.ndarray]]  # the set and the real one, with the rows that count


def drawn(faces: FaceSet, rows: np.ndarray, most: int, random: np.random.Generator) -> np.ndarray:
    """The `rows` that show `most` people at most, drawn at random."""
    people = np.unique(faces.identity[rows])
    return rows[np.isin(faces.identity[rows], random.permutation(people)[:most])]


def table(identity: np.ndarray, number: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """(P, G) images of each person in each group, from identity and group (N,) of images."""
    people, person = np.unique(identity, return_inverse=True)
    found = np.zeros((len(people), len(groups)))
    np.add.at(found, (person, number), 1)
    return found


def each(people: np.ndarray) -> np.ndarray:
    """(P, G): every person divided over the groups as his images (P, G) are."""
    return people / people.sum(1, keepdims=True)


def shares(people: np.ndarray) -> np.ndarray:
    return each(people).mean(0)


def apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Total variation of shares (..., G)."""
    return np.abs(one - other).sum(-1) / 2


def rates(confusion: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(D, G, G): how often each true group is read as each, by images (F, G, G) of people who count `weights` (D, F)."""
    total = np.tensordot(weights, confusion, 1)
    return total / np.maximum(total.sum(2, keepdims=True), 1e-12)


def corrected(read: np.ndarray, confused: np.ndarray | None) -> np.ndarray:
    """The likeliest shares (D, G) behind those that were read (D, G), by how groups are `confused`, (D or 1, G, G); None: not at all."""
    if confused is None:
        return read
    found = np.full_like(read, 1 / read.shape[1])[:, None]
    for _ in range(ROUNDS):  # expectation maximization: never below zero
        surprise = read[:, None] / np.maximum(found @ confused, 1e-12)
        found = found * (surprise @ confused.transpose(0, 2, 1))
    return found[:, 0]


def unbounded(read: np.ndarray, confused: np.ndarray | None) -> np.ndarray:
    """As `corrected`, by solving read = confused' shares: below zero too, so that the spread of draws is that of the error everywhere."""
    return read if confused is None else np.linalg.solve(confused.transpose(0, 2, 1), read[..., None])[..., 0]


def unlike(read: np.ndarray, found: np.ndarray, resampled: np.ndarray, confused: np.ndarray, again: np.ndarray) -> float:
    """How far the shares that are read are from those that people in the shares `found` would be read as; 0 where errors may explain it."""
    noise = np.mean(apart(resampled, read) ** 2 + apart(found @ again, found @ confused[0]) ** 2) ** 0.5
    off = float(apart(read, found @ confused[0]))
    return off if off > 3 * noise else 0.0


def kept(people: np.ndarray) -> tuple[np.ndarray, float]:
    """How often two images of a person are of one group, for each who has two (P',); and how often two of different people are."""
    size, divided = people.sum(1), each(people)
    several = size > 1
    same = (people * (people - 1)).sum(1)[several] / (size * (size - 1))[several]
    others = (divided.sum(0) ** 2 - (divided**2).sum(0)).sum() / (len(people) * (len(people) - 1))
    return same, float(others)


def measured(name: str, counted: Counted, draws: int, random: np.random.Generator) -> Iterator[Score | Skipped]:
    """All scores of one attribute."""
    own, real, people = each(counted.own), each(counted.real), len(counted.own)
    confused = again = None
    if counted.confusion is not None:
        fitted = len(counted.confusion)
        confused = rates(counted.confusion, np.ones((1, fitted)))
        again = rates(counted.confusion, bootstrap_weights(fitted, draws, random))
        right = 100 * float(confused[0].diagonal().mean())
        yield Score(f"{name}/reader_accuracy", right, 100 * float(again.diagonal(0, 1, 2).mean(1).std(ddof=1)), fitted, True)
        if np.linalg.svd(confused[0], compute_uv=False).min() < BLIND:
            why = f"the reader is right for {right:.0f} % of the images of a group, where chance has {100 / len(counted.groups):.0f}"
            yield Skipped(f"{why}: that is too little to tell shares by", f"{name}/identities")
            return
    target = shares(counted.real) if counted.truth is None else counted.truth
    found = corrected(own.mean(0)[None], confused)[0]
    resampled = bootstrap_weights(people, draws, random) @ own / people
    if confused is not None and again is not None and (off := unlike(own.mean(0), found, resampled, confused, again)):
        why = f"what is read differs by {100 * off:.0f} points from what any mixture of rendered people would be read as"
        yield Skipped(f"{why}: the images are not read as rendered ones are, so there are no shares", f"{name}/identities")
        return
    # half a person at least, as Wilson has it: a group of whom nobody was drawn need not be one of nobody
    errors = np.maximum(unbounded(resampled, again).std(0, ddof=1), 0.5 / (people + 1))
    for group, share, error, of_real in zip(counted.groups, found.tolist(), errors.tolist(), target.tolist()):
        yield Score(f"{name}/identities/{group}", 100 * share, 100 * error, people, True)
        yield Score(f"{name}/real/{group}", 100 * of_real, None, len(real), True)
    images = corrected((counted.own.sum(0) / counted.own.sum())[None], confused)[0]
    for group, share, error in zip(counted.groups, images.tolist(), errors.tolist()):
        yield Score(f"{name}/images/{group}", 100 * share, 100 * error, int(counted.own.sum()), True)
    spread = float(apart(corrected(resampled, again), target).std(ddof=1))
    yield Score(f"{name}/distance", 100 * float(apart(found, target)), 100 * spread, people, False)
    drawn_alike = random.multinomial(people, np.full(len(real), 1 / len(real)), draws) @ real / people
    chance = float(np.median(apart(corrected(drawn_alike, confused), target)))
    yield Score(f"{name}/by_chance/distance", 100 * chance, None, draws, False)
    if counted.truth is not None:
        yield Score(f"{name}/reader_error", 100 * float(apart(corrected(real.mean(0)[None], confused)[0], target)), None, len(real), False)
    yield from keeping(name, counted)


def keeping(name: str, counted: Counted) -> Iterator[Score | Skipped]:
    """Whether people keep their group over their images, as it was told: a reader's mistakes are in both sets' numbers."""
    for which, people in (("", counted.own), ("real_", counted.real)):
        same, others = kept(people)
        if not len(same):
            yield Skipped("nobody has two images", f"{name}/{which}consistency")
            continue
        error = mean_stderr(same)
        yield Score(f"{name}/{which}consistency", 100 * float(same.mean()), None if error is None else 100 * error, len(same), True)
        yield Score(f"{name}/by_chance/{which}consistency", 100 * others, None, len(people), True)
