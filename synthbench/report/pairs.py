"""Pairs of images that a report shows: the benchmark pairs furthest from right and wrong, and the real people closest to generated ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from synthbench.evaluators.pairs import PairResults
from synthbench.report.blocks import Block, Image, Pairs, Text
from synthbench.report.data import Run
from synthbench.report.parts import HIDDEN, picture
from synthbench.results import leak
from synthbench.results.record import SHORT, values

Row = tuple[str, list[tuple[Image, Image, str]]]
ACROSS = 7  # pairs in a row


def short(benchmark: str) -> str:
    return SHORT.get(benchmark, benchmark)


def may_be_shown(found: Mapping[str, PairResults], photographs: bool) -> list[str]:
    """Benchmarks of rendered faces; the others only where photographs were asked for."""
    return [name for name in found if name.startswith("world-") or photographs]


class Shown:
    """The pairs of several benchmarks, one after the other."""

    def __init__(self, run: Run, found: Mapping[str, PairResults], names: Sequence[str]) -> None:
        from synthbench.data.pairs import open_pairs

        folder = run.folder("benchmarks")
        self.sets = [open_pairs(folder / name) for name in names]
        self.names = [short(name) for name in names]
        self.bench = np.concatenate([np.full(len(found[name].same), i) for i, name in enumerate(names)])
        self.row = np.concatenate([np.arange(len(found[name].same)) for name in names])

    def line(self, title: str, order: np.ndarray, which: np.ndarray, told: Sequence[str]) -> Row:
        """The first pairs in `order` that are `which`, with what is `told` of each."""
        pairs = []
        for at in [at for at in order if which[at]][:ACROSS]:
            pair, name = self.sets[self.bench[at]], self.names[self.bench[at]]
            left, right = (
                picture(pair.images.images([int(side[self.row[at]])])[0], f"{title}: {word} of a pair of {name}")
                for side, word in ((pair.left, "left"), (pair.right, "right"))
            )
            pairs.append((left, right, f"{name}: {told[at]}"))
        return title, pairs


def cosine(distance: float) -> float:
    """Of two unit vectors, from their squared distance: a page has one measure of likeness."""
    return 1 - distance / 2


def joined(found: Mapping[str, PairResults], names: Sequence[str], what: str) -> np.ndarray:
    return np.concatenate([getattr(found[name], what) for name in names])


def verification_pairs(run: Run, photographs: bool) -> Iterator[Block]:
    """Pairs furthest on the wrong and on the right side of the threshold, over all benchmarks, first seed."""
    found = next(iter(run.pairs()), {})
    names = may_be_shown(found, photographs)
    if len(names) < len(found):
        yield Text(HIDDEN, quiet=True)
    if not names:
        return
    same, limit, distance = (joined(found, names, what) for what in ("same", "threshold", "distance"))
    margin = distance - limit  # below zero: taken for the same person
    told = [f"{cosine(d):.2f} (limit {cosine(t):.2f})" for d, t in zip(distance, limit)]
    up, down = np.argsort(margin, kind="stable"), np.argsort(-margin, kind="stable")
    wrong, shown = (margin < 0) != same, Shown(run, found, names)
    rows = [
        shown.line("Worst: one person, taken for two", down, same & wrong, told),
        shown.line("Worst: two people, taken for one", up, ~same & wrong, told),
        shown.line("Best: one person, recognized", up, same & ~wrong, told),
        shown.line("Best: two people, told apart", down, ~same & ~wrong, told),
    ]
    text = "Cosine similarity of the two embeddings, and the limit above which they count as one person."
    yield Pairs("pairs", text + " First seed." * (len(run.result["seeds"]) > 1), [row for row in rows if row[1]])


def common_pairs(runs: Sequence[Run], photographs: bool) -> Iterator[Block]:
    """Pairs that most recognizers of a comparison get wrong, and those that they all get right by the widest margin, over all seeds."""
    every = [found for run in runs for found in run.pairs()]
    names = may_be_shown(every[0], photographs) if every else []
    if every and len(names) < len(every[0]):
        yield Text(HIDDEN, quiet=True)
    if not names:
        return
    same = joined(every[0], names, "same")
    margins = np.stack([joined(found, names, "distance") - joined(found, names, "threshold") for found in every])
    right = np.where(same, -margins, margins)  # above zero: right, by so much; (networks, pairs)
    wrong, mean = (right <= 0).sum(0), right.mean(0)
    told = [f"wrong {count}/{len(every)}" if count else f"right by {by / 2:.2f}" for count, by in zip(wrong, mean)]
    hardest, easiest = np.lexsort((mean, -wrong)), np.lexsort((-mean, wrong))
    shown = Shown(runs[0], every[0], names)
    rows = [
        shown.line("Worst: one person, taken for two", hardest, same & (wrong > 0), told),
        shown.line("Worst: two people, taken for one", hardest, ~same & (wrong > 0), told),
        shown.line("Best: one person, recognized", easiest, same & (wrong == 0), told),
        shown.line("Best: two people, told apart", easiest, ~same & (wrong == 0), told),
    ]
    text = f"The pairs that most of the {len(every)} recognizers (every row and seed) get wrong; and those that all get right, "
    text += "by how far their cosine similarity is from the limit above which two images count as one person, on average."
    yield Pairs("pairs", text, [row for row in rows if row[1]])


def closest_people(run: Run, photographs: bool, count: int = ACROSS) -> Iterator[Block]:
    """The generated identities that come closest to a person of the real set, from leakage.npz."""
    from synthbench.data.faces import open_faces

    path = run.folder("evaluate") / "leakage.npz"
    if not path.is_file():
        return
    with np.load(path, allow_pickle=False) as file:
        image, other, cosine, names = (file[name] for name in ("image", "real_image", "image_cosine", "real_name"))
    order = [row for row in np.argsort(-np.nan_to_num(cosine, nan=-2), kind="stable") if image[row] >= 0 and other[row] >= 0][:count]
    limit = values(run.result, "leakage/image_to_image/threshold")
    chance = leak.chance(run.result)
    of_strangers = "" if chance is None else f"; it finds such a match for {100 * chance:.1f} % of strangers' images too"
    told = f" From {limit[0]['value']:.2f} on, the judge takes two images for one person{of_strangers}." if limit else ""
    if not run.rendered and not photographs:
        yield Text(f"Highest similarities to a real person: {', '.join(f'{cosine[row]:.2f}' for row in order)}.{told} {HIDDEN}")
        return
    faces, real = run.faces(), open_faces(run.folder("real"))
    pairs = [
        (
            picture(faces.images([int(image[row])])[0], "generated"),
            picture(real.images([int(other[row])])[0], f"person {names[row]} of the real set"),
            f"{cosine[row]:.2f}, person {names[row]}",
        )
        for row in order
    ]
    text = f"Left: generated. Right: the image of the real set that the judge finds most alike, with its cosine similarity.{told}"
    yield Pairs("closest", text, [("The closest matches", pairs)])
