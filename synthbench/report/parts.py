"""What a report shows of runs: figures, image grids, pairs. Each part yields blocks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from zipfile import BadZipFile

import numpy as np

from synthbench.models.embeddings import unit
from synthbench.report import figures
from synthbench.report.blocks import Block, Figure, Grid, Image, Images, Section, Text
from synthbench.report.data import Run, read_histograms, read_log
from synthbench.results import further
from synthbench.results.record import UNTRAINED, cell, values
from synthbench.results.tables import number
from synthbench.types import Skipped, UserError

ACROSS = 10  # images in a row
FEW = 4  # rows up to which one figure shows all of them side by side
PEOPLE = 8  # identities that are shown
HIDDEN = "Photographs of real people are left out; --photographs puts them in, for a page that is not passed on."


def section(anchor: str, title: str, build: Callable[[], Iterable[Block]]) -> Section | None:
    """A section; one without blocks is none."""
    blocks = list(attempt(build))
    return Section(anchor, title, blocks) if blocks else None


def attempt(build: Callable[[], Iterable[Block]], what: str = "") -> Iterator[Block]:
    """The blocks that can be built; what is damaged or gone leaves a line that says so."""
    try:
        yield from build()
    except (UserError, Skipped, OSError, BadZipFile, ValueError, KeyError, IndexError, TypeError) as error:
        yield Text(f"Not shown{what}: {error or type(error).__name__}", quiet=True)


# ---------------------------------------------------------------------------------------------------------------- figures


def accuracy(table: Mapping[str, Any]) -> Iterator[Block]:
    """Accuracies with 95 % intervals, from a table in the form of comparison.json."""
    columns = [column for column in table["columns"] if column["metric"].startswith("verification/")]
    series = {}
    for row in table["rows"]:
        cells = [row["cells"].get(column["metric"]) for column in columns]
        series[row["label"]] = [interval(cell) for cell in cells]
    if not columns or not any(any(found) for found in series.values()):
        return
    labels = [column["title"] for column in columns]
    many = len(series) > FEW
    draw = figures.panels if many else figures.intervals
    svg = draw("accuracy", labels, series, "accuracy, %")
    alt = "Accuracy with 95 % interval. " + " ".join(
        f"{title}: " + ", ".join(f"{label} {value[0]:.1f}" for label, value in zip(labels, found) if value) + "."
        for title, found in series.items()
    )
    caption = "Accuracy on each benchmark and on average. Lines are 95 % intervals over test pairs and seeds."
    yield Figure("accuracy", svg, alt, caption, "full" if many else "")


KINDS = {  # of scores by group of people: the heading
    "accuracy": "accuracy (%)",
    "shared_accuracy": "at one threshold (%)",
    "fmr": "false matches (%)",
    "fnmr": "false non-matches (%)",
    "untrained_accuracy": "untrained network (%)",
}


def groups(results: Mapping[str, dict[str, Any]]) -> Iterator[Block]:
    """Accuracy and errors of each group of people, a table for each set of groups. `results`: run.json by label."""
    for name in dict.fromkeys(name for result in results.values() for name in further.sets(result)):
        rows = [
            [label, group, *(cell(result, f"groups/{name}/{kind}/{group}", 1) for kind in KINDS)]
            for label, result in results.items()
            for group in further.sets(result).get(name, ())
        ]
        caption = f"Groups of people, {name}: with a threshold of each group's own; then at one threshold for all, with both errors there."
        yield Grid(caption, ["", "group", *KINDS.values()], rows)


def people(results: Mapping[str, dict[str, Any]]) -> Iterator[Block]:
    """Who is in the sets: shares of each group beside the real set's, and whether people keep their group."""
    shares = further.people(results.values())
    for name in dict.fromkeys(metric.split("/")[1] for metric in shares):
        root = f"demographics/{name}"
        groups = [metric.split("/")[3] for metric in shares if metric.startswith(f"{root}/")]
        rows = [
            [label, group, *(cell(result, f"{root}/{kind}/{group}", 1) for kind in ("identities", "images", "real"))]
            for label, result in results.items()
            for group in groups
        ]
        kept = "; ".join(
            f"{label}: {cell(result, f'{root}/consistency', 1)}, the real set {cell(result, f'{root}/real_consistency', 1)}"
            for label, result in results.items()
        )
        found = {label: values(result, f"{root}/reader_error") for label, result in results.items()}
        read = [f"{label} {number(scores[0]['value'], 1)}" for label, scores in found.items() if scores]
        wrong = f" Told by a reader, which is off by as much on the real set: {'; '.join(read)}." if read else ""
        caption = f"People by group, {name}, %. Two images of a person are of one group (chance): {kept}.{wrong}"
        yield Grid(caption, ["", "group", "people", "images", "people of the real set"], rows)


def templates(results: Mapping[str, dict[str, Any]]) -> Iterator[Block]:
    """What was measured of template sets, a table for each. `results`: run.json by label."""
    for name in dict.fromkeys(name for result in results.values() for name in further.searched(result)):
        measures = list(dict.fromkeys(measure for result in results.values() for measure in further.searched(result).get(name, ())))
        first = next(iter(results.values()))
        levels = {UNTRAINED: "untrained/", "chance": "by_chance/"}
        rows = [[label, *(cell(result, f"templates/{name}/{measure}", 1) for measure in measures)] for label, result in results.items()]
        rows += [[label, *(cell(first, f"templates/{name}/{part}{measure}", 2) for measure in measures)] for label, part in levels.items()]
        caption = (
            f"Template set {name}, %: pairs of templates accepted at a false accept rate, people found in a gallery, and above a threshold."
        )
        yield Grid(caption, ["", *(further.words(measure) for measure in measures)], rows)


def requirements(cards: Mapping[str, Sequence[Mapping[str, str]]]) -> Iterator[Block]:
    """The seven requirements of arXiv 2510.17372, a table for each row: what was measured, and the real set's own. `cards`: by label."""
    for label, lines in cards.items():
        rows = [[line["requirement"], line["measure"], line["value"], line["real"]] for line in lines]
        caption = f"{label}: the seven requirements of a synthetic set (arXiv 2510.17372), with 95 % intervals, and no total."
        yield Grid(caption, ["requirement", "measure", "this set", "real set"], rows)


def interval(cell: Mapping[str, Any] | None) -> tuple[float, float, float] | None:
    """(value, low, high); the value alone where no error is known."""
    if not cell or cell.get("value") is None:
        return None
    low, high = cell.get("low"), cell.get("high")
    return cell["value"], cell["value"] if low is None else low, cell["value"] if high is None else high


def roc(runs: Mapping[str, list[dict[str, Any]]]) -> Iterator[Block]:
    """`runs[label]`: per-pair results by benchmark, of each seed."""
    curves = {
        label: [figures.roc_points(found.distance, found.same) for results in seeds for found in results.values()]
        for label, seeds in runs.items()
    }
    curves = {label: found for label, found in curves.items() if found}
    if not curves:
        return
    at = 0.01
    rates = {label: float(np.mean([np.interp(at, far, tar) for far, tar in found])) for label, found in curves.items()}
    told = "; ".join(f"{label} accepts {rate:.0%} of genuine pairs" for label, rate in rates.items())
    caption = "ROC of the recognizer, mean over benchmarks" + (" (bold) and each benchmark (thin)." if len(curves) <= 3 else ".")
    yield Figure("roc", figures.roc("roc", curves), f"ROC curves. At a false accept rate of 1 %, {told}.", caption)


def histograms(runs: Mapping[str, Run]) -> Iterator[Block]:
    """Genuine and impostor similarities inside each set, and inside the real one, by the judge."""
    rows: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    edges = np.empty(0)
    for label, run in runs.items():
        for manifest in run.stages("evaluate")[:1]:
            found = read_histograms(manifest["folder"])
            edges = found["edges"]
            if run.result["generator"] != "real":
                rows[label] = (found["genuine"], found["impostor"])
            real = (found["real_genuine"], found["real_impostor"])
    if len(edges):
        rows = {**rows, "real": real}
        middle = (edges[1:] + edges[:-1]) / 2
        mean = {
            title: [number(float(middle @ counts / counts.sum()) if counts.any() else None) for counts in pair]
            for title, pair in rows.items()
        }
        told = "; ".join(f"{title}: same identity {same}, different identities {other}" for title, (same, other) in mean.items())
        svg = figures.histograms("separation", edges, rows, "cosine similarity, by the judge")
        caption = "How alike two images of a set are, for the judge, which no generator has seen."
        same = {title: counts[middle > 0.995].sum() / max(counts.sum(), 1) for title, (counts, _) in rows.items()}
        twice = [f"{100 * share:.1f} % of {title}" for title, share in same.items() if share > 0.003]
        caption += f" Pairs of one identity that are one image twice: {', '.join(twice)}." if twice else ""
        yield Figure("separation", svg, f"Histograms of cosine similarity. Means: {told}.", caption, "full" if len(rows) > FEW else "")


def similarity(run: Run) -> Iterator[Block]:
    """Requested against realised similarity, where the set records what was requested."""
    faces = run.faces()
    if not {"m", "similarity"} <= faces.columns.keys():
        return
    asked, got = faces.columns["m"].astype(float), faces.columns["similarity"].astype(float)
    kept = np.isfinite(asked) & np.isfinite(got) & faces.made
    if not kept.any():
        return
    svg = figures.similarity("similarity", asked[kept], {"realised, by the encoder": got[kept]})
    found = {kind: at_m(run, f"{kind}/at_m/") for kind in ("similarity", "similarity/judge")}
    alt = "Similarity realised at each similarity requested. " + ", ".join(f"m {m}: {value}" for m, value in found["similarity"].items())
    rho = values(run.result, "similarity/requested_vs_realised/spearman")
    told = f" Rank correlation over images: {rho[0]['value']:.2f}." if rho else ""
    caption = f"Similarity to the inquiry that was requested and that came out: mean, middle half and middle 90 % of the images.{told}"
    yield Figure("similarity", svg, alt, caption)
    if found["similarity"]:
        rows = [[m, value, found["similarity/judge"].get(m, "-")] for m, value in found["similarity"].items()]
        yield Grid("Mean similarity to the inquiry, with one standard error over identities.", ["m", "encoder", "judge"], rows, beside=True)


def at_m(run: Run, prefix: str) -> dict[str, str]:
    """Mean and error by m, as text, from the highest m to the lowest."""
    found = {score["metric"].removeprefix(prefix): score for score in run.result["scores"] if score["metric"].startswith(prefix)}
    return {m: f"{found[m]['value']:.2f} ±{found[m]['stderr'] or 0:.2f}" for m in sorted(found, key=float, reverse=True)}


def embedding(run: Run, people: int = PEOPLE, name: str = "tsne", size: str = "") -> Iterator[Block]:
    """t-SNE of the judge's embeddings of the identities that the image grid shows."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    faces, inquiries = run.faces(), run.inquiries()
    rows = np.concatenate([faces.shown(identity)[:20] for identity in range(min(people, faces.identities))])
    judge = run.judge()
    vectors, identity = judge.embed(faces.images(rows)).numpy(), faces.identity[rows]
    special = np.zeros(len(rows), bool)
    if inquiries is not None:
        count = min(people, faces.identities)
        vectors = np.concatenate([vectors, judge.embed(inquiries.images(range(count))).numpy()])
        identity, special = np.append(identity, np.arange(count)), np.append(special, np.ones(count, bool))
    if len(vectors) < 8:
        return
    tsne = TSNE(perplexity=min(20, len(vectors) / 4), init="pca", metric="cosine", random_state=0, max_iter=400)
    with threadpool_limits(1):  # threads that wait for each other hundreds of times a second, on a machine that is not idle, take minutes
        points = np.asarray(tsne.fit_transform(unit(vectors)), float)
    labels = [str(person + 1) for person in range(int(identity.max()) + 1)]
    nearest = ((points[:, None] - points[None]) ** 2).sum(2) + np.diag(np.full(len(points), np.inf))
    share = float((identity[nearest.argmin(1)] == identity).mean())
    rings = " Rings: inquiries." if special.any() else ""
    caption = f"t-SNE of the judge's embeddings of the first {len(labels)} identities, numbered as in the images.{rings}"
    caption += " Distances between groups mean little."
    alt = f"Scatter plot of {len(points)} images of {len(labels)} identities; {share:.0%} lie nearest to an image of their own identity."
    yield Figure(name, figures.scatter(name, points, identity, special, labels), alt, caption, size)


GAINS = {  # of a training's log: the title of the panel, and whose they are
    "condition_gain": ("gain of the own code", "images it learnt from"),
    "condition_gain_held_out": ("gain, people held out", "people held out"),
}
LEARNT = {"loss": "loss", "mse": "reconstruction loss", "similarity": "similarity"}
LEARNT |= {name: title for name, (title, _) in GAINS.items()}


def training(run: Run) -> Iterator[Block]:
    for stage, title, shown in (
        ("train", "The generator's training", LEARNT),
        ("recognizer", "The recognizer's training", {"loss": "loss", "images_per_second": "images / s"}),
    ):
        for manifest in run.stages(stage)[:1]:
            lines = read_log(manifest["folder"])
            if len(lines) > 2:
                svg = figures.training(f"training-{stage}", lines, shown)
                first, last = lines[0].get("loss", float("nan")), lines[-1].get("loss", float("nan"))
                alt = f"Training curves over {lines[-1]['step']:,.0f} steps; the loss goes from {first:.3g} to {last:.3g}."
                yield Figure(f"training-{stage}", svg, alt, f"{title}: {manifest.get('work', '')}. {heeded(lines)}".strip())


def heeded(lines: list[dict[str, float]]) -> str:
    """What the last look of a training said of its condition; empty where it has none."""
    said = []
    for name, (_, whom) in GAINS.items():
        if found := next((line for line in reversed(lines) if name in line), None):
            said.append(f"{found[name]:.2g} ±{found.get(f'{name}_stderr', float('nan')):.1g} of {whom}")
    return f"Told another image's code, it restores an image worse: the squared error rises by {' and '.join(said)}." if said else ""


# ----------------------------------------------------------------------------------------------------------------- images


def picture(pixels: Any, alt: str, label: str = "") -> Image:
    """From a (3, R, R) uint8 tensor."""
    return Image(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()), alt, label)


def photographs_only(faces: Any) -> bool:
    return bool("real" in faces.columns and (faces.columns["real"] > 0).all())


def people_shown(faces: Any, free: bool) -> Iterator[int]:
    """The identities of whom pictures may be shown: all, unless pictures are not `free`; then those who are not on photographs alone."""
    for identity in range(faces.identities):
        if free or "real" not in faces.columns or not (faces.columns["real"][faces.shown(identity)] > 0).any():
            yield identity


def chosen(faces: Any, identity: int, across: int = ACROSS) -> np.ndarray:
    """Rows of one identity to show; where m varies, from the highest to the lowest."""
    own = faces.shown(identity)
    if "m" not in faces.columns or len(own) < 2:
        return own[:across]
    m = faces.columns["m"][own]
    kinds = np.unique(m[np.isfinite(m)])[::-1]
    if 1 < len(kinds) <= across:
        each = max(1, across // len(kinds))
        return np.concatenate([own[m == kind][:each] for kind in kinds])
    order = own[np.argsort(-m, kind="stable")] if len(kinds) > 1 else own
    return order[np.unique(np.linspace(0, len(order) - 1, across).astype(int))] if len(kinds) > 1 else order[:across]


def images(run: Run, photographs: bool, people: int = PEOPLE, name: str = "samples", across: int = ACROSS) -> Iterator[Block]:
    """Identities x samples, the inquiry first; below each image its similarity to the inquiry where the set records it."""
    faces, inquiries = run.faces(), run.inquiries()
    free = run.rendered or photographs
    if photographs_only(faces) and not free:
        yield Text(HIDDEN, quiet=True)
        return
    m, similar = (faces.columns.get(column) for column in ("m", "similarity"))
    rows, heads = [], []
    for identity in itertools.islice(people_shown(faces, free), people):
        line: list[Image | None] = []
        if inquiries is not None and free and identity < len(inquiries):
            line.append(picture(inquiries.images([identity])[0], f"identity {identity + 1}, inquiry", "inquiry"))
        picked = chosen(faces, identity, across)
        heads.append([number(float(m[row]), 2).rstrip("0").rstrip(".") if m is not None and np.isfinite(m[row]) else "" for row in picked])
        for place, row in enumerate(picked):
            told = f"{float(similar[row]):.2f}" if similar is not None and np.isfinite(similar[row]) else ""
            alt = f"identity {identity + 1}, sample {place + 1}" + (f", m {heads[-1][place]}" if m is not None else "")
            line.append(picture(faces.images([int(row)])[0], alt + (f", similarity {told}" if told else ""), told))
        rows.append((str(identity + 1), line))
    count = max(len(line) for _, line in rows)
    first = [""] if count > max(map(len, heads)) else []
    same = m is not None and all(head == heads[0] for head in heads) and len(set(heads[0])) > 1
    header = [*first, *(f"m {value}" if same else str(i + 1) for i, value in enumerate(heads[0]))]
    header += [str(i) for i in range(len(header), count)]
    caption = f"{run.label}: identities in rows, samples in columns"
    caption += ", from the highest to the lowest similarity m requested." if same else "."
    whom = "inquiry" if inquiries is not None else "identity"
    caption += f" Below each image: its similarity to the {whom}, by the encoder." if similar is not None else ""
    yield Images(name, caption, header, rows)
    if not free and (inquiries is not None or (faces.columns.get("real", np.zeros(1)) > 0).any()):
        yield Text(HIDDEN, quiet=True)
