"""The three kinds of report: of a run, of a comparison, of a sweep. Each is a list of sections, in reading order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from synthbench import __version__
from synthbench.report import elsewhere, facts, figures, pairs, parts, verdict
from synthbench.report.blocks import Block, Document, Figure, Fold, Grid, Image, Images, Results, Text
from synthbench.report.data import ACCURACY, AVERAGE, Run, cell, finished, open_runs, plain, run_table, sweep_table
from synthbench.report.parts import attempt, interval, section
from synthbench.results.comparable import flat
from synthbench.results.record import SHORT
from synthbench.results.scorecard import scorecard
from synthbench.results.tables import differences, oriented, published
from synthbench.store import Store

MANY = 12  # rows of a table, or differences in a figure, beyond which the rest is shown on demand


def run_document(run: Run, photographs: bool = False) -> Document:
    result, table = run.result, run_table(run)

    def results() -> Iterator[Block]:
        yield Results(table)
        yield from parts.accuracy(table)
        yield from elsewhere.apart(run, table)
        base = {table["rows"][0]["label"]: run.pairs(baseline=True)} if result["generator"] != "real" else {}
        yield from parts.roc({run.label: run.pairs(), **base})

    def separation() -> Iterator[Block]:
        yield from parts.histograms({run.label: run})
        yield from parts.embedding(run)

    def about() -> Iterator[Block]:
        yield from facts.provenance(run)
        yield from facts.digests(run)

    sections = [
        section("results", "Results", results),
        section("elsewhere", "Under other protocols", lambda: elsewhere.elsewhere(run)),
        section("requirements", "Seven requirements", lambda: parts.requirements({run.label: scorecard(result, run.pictured)})),
        section("images", "Images", lambda: parts.images(run, photographs)),
        section("similarity", "Similarity", lambda: parts.similarity(run)),
        section("separation", "Identities", separation),
        section("pairs", "Worst and best pairs", lambda: pairs.verification_pairs(run, photographs)),
        section("closest", "Closest real people", lambda: pairs.closest_people(run, photographs)),
        section("training", "Training", lambda: parts.training(run)),
        section("cost", "Cost", lambda: facts.cost([run])),
        section("provenance", "Provenance", about),
        section("configuration", "Configuration", lambda: facts.configuration([run])),
        section("scores", "All scores", lambda: facts.scores(run)),
    ]
    seeds = len(result["seeds"])
    return Document(
        kind="run",
        title=run.label,
        about=f"Protocol {result['protocol']}, {seeds} seed{'s' if seeds > 1 else ''}. {run.name}",
        verdict=verdict.run_verdict(run, table),
        remarks=limits(result),
        tiles=verdict.tiles(run, table),
        sections=[item for item in sections if item],
        comparison=table,
        command=str(result.get("command", "")),
        made=made([run]),
    )


def limits(item: Mapping[str, Any]) -> list[str]:
    """What a reader of a verdict must know: the protocol's title, and that one seed tells nothing of their spread."""
    text = str(item["title"])
    found = [text[:1].upper() + text[1:] + "."]
    if len(item["seeds"]) == 1:
        found.append("One seed: the spread between seeds is not known and in no interval.")
    return found


def made(runs: Sequence[Run]) -> str:
    newest = finished(runs)
    return f"synthbench {__version__}" + (f"; newest stage of {newest[:10]} {newest[11:16]} UTC" if newest else "")


def comparison_document(comparison: Mapping[str, Any], store: Store, photographs: bool = False) -> Document:
    labels = {str(row["run"]): str(row["label"]) for row in comparison["rows"]}
    runs, gone = open_runs(store, labels)
    labelled = {run.label: run for run in runs}

    def results() -> Iterator[Block]:
        yield Results(comparison)
        for line in gone:
            yield Text(line, quiet=True)
        yield from parts.accuracy(comparison)
        yield from forest(comparison, labels)
        measured = {label: run.result for label, run in labelled.items()}
        cards = {str(row["label"]): row["scorecard"] for row in comparison["rows"] if row.get("scorecard")}
        if cards:
            yield Fold("Seven requirements", list(parts.requirements(cards)))
        apart = {"Groups of people": parts.groups, "People of the sets": parts.people, "Template sets": parts.templates}
        for title, blocks in ((title, make(measured)) for title, make in apart.items()):
            for block in blocks:
                yield Fold(title, [block])

    def others() -> Iterator[Block]:
        header, rows = differences(comparison)
        metrics = [item["metric"] for item in oriented(comparison.get("differences", ()), comparison["baseline"])]
        average = [row for row, metric in zip(rows, metrics) if metric == AVERAGE]
        if average:
            kept = [i for i in range(len(header)) if any(row[i] != "-" for row in average)]
            text = "Paired differences of the average, in percentage points."
            yield from folded(
                Grid(text, [header[i] for i in kept], [[row[i] for i in kept] for row in average]), "differences of the average"
            )
        if len(rows) > len(average):
            text = "Paired differences, in percentage points; McNemar's test is for these networks."
            each = Grid(text, header, [row for row, metric in zip(rows, metrics) if metric != AVERAGE])
            yield Fold("Differences on each benchmark", [each])
        header, rows = published(comparison)
        if rows:
            text = "Published numbers, measured under other recipes: not to be ranked with ours."
            yield from folded(Grid(text, header, rows), "published numbers")

    def recognition() -> Iterator[Block]:
        yield from parts.roc({label: run.pairs() for label, run in labelled.items()})
        yield from parts.histograms({label: run for label, run in labelled.items() if run.result["generator"] != "real"})

    def images() -> Iterator[Block]:
        for number, points in enumerate(settings_of_one_model(runs)):
            yield from attempt(partial(one_noise, points, store, photographs, name=f"one-noise-{number}"))
        for number, run in enumerate(runs):
            yield from attempt(partial(parts.images, run, photographs, people=3, name=f"samples-{number}"), f" of {run.label}")

    def similarity() -> Iterator[Block]:
        for number, run in enumerate(runs):
            for block in attempt(partial(parts.similarity, run)):
                if isinstance(block, Figure):
                    svg = block.svg.replace("similarity-", f"similarity-{number}-")  # ids stay unique
                    yield Figure(f"similarity-{number}", svg, block.alt, f"{run.label}. {block.caption}")

    def identities() -> Iterator[Block]:
        for number, run in enumerate(runs):
            for block in parts.embedding(run, name=f"map-{number}", size="small"):
                yield replace(block, caption=run.label) if isinstance(block, Figure) else block
        if runs:
            text = f"t-SNE of the judge's embeddings of the first {parts.PEOPLE} identities of each set, numbered as in the images. "
            yield Text(text + "Rings: inquiries. Distances between groups mean little.", quiet=True)

    def about() -> Iterator[Block]:
        yield from facts.needs(runs)
        for run in runs:
            yield Fold(f"Digests of {run.label}", list(attempt(partial(facts.digests, run))))

    sections = [
        section("results", "Results", results),
        section("differences", "Differences" + " and published numbers" * bool(comparison.get("published")), others),
        section("images", "Images", images),
        section("recognition", "Recognition", recognition),
        section("identities", "Identities", identities),
        section("similarity", "Similarity", similarity),
        section("pairs", "Worst and best pairs", lambda: pairs.common_pairs(runs, photographs)),
        section("cost", "Cost", lambda: facts.cost(runs)),
        section("provenance", "Provenance", about),
        section("configuration", "Configuration", lambda: facts.configuration(runs)),
    ]
    seeds = len(comparison["seeds"])
    return Document(
        kind="comparison",
        title=title_of(comparison["rows"]),
        about=f"Protocol {comparison['protocol']}, {seeds} seed{'s' if seeds > 1 else ''}. {comparison['comparison']}",
        verdict=verdict.comparison_verdict(comparison),
        remarks=limits(comparison),
        tiles=verdict.comparison_tiles(comparison),
        sections=[item for item in sections if item],
        comparison=comparison,
        command=str(comparison.get("command", "")),
        made=made(runs),
    )


def title_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """The labels of all rows; a size that all generators share is said once."""
    labels = [str(row["label"]) for row in rows]
    sizes = {str(row["volume"]) for row in rows if row["generator"] != "real"}
    size = sizes.pop() if len(sizes) == 1 and len(rows) > parts.FEW else ""
    short = [label.removesuffix(f" {size}") if size else label for label in labels]
    return ", ".join(short) + (f" at {size}" if short != labels else "")


def folded(grid: Grid, what: str) -> Iterator[Block]:
    """A long table on demand."""
    yield Fold(f"All {len(grid.rows)} {what}", [grid]) if len(grid.rows) > MANY else grid


def forest(comparison: Mapping[str, Any], labels: Mapping[str, str]) -> Iterator[Block]:
    """Paired differences of the averages; of many, those from the baseline and those from the best of the others."""
    found = [item for item in comparison.get("differences", ()) if item["metric"] == AVERAGE and item.get("low") is not None]
    found = oriented(found, comparison["baseline"])
    caption = "Differences of the averages, over the same pairs. Hollow and grey: the interval holds zero."
    if len(found) <= MANY:
        yield from forest_of("differences", found, labels, caption)
        return
    base = comparison["baseline"]
    averages = {row["run"]: row["cells"][AVERAGE]["value"] for row in comparison["rows"] if row["cells"].get(AVERAGE)}
    best = max((run for run in averages if run != base), key=lambda run: averages[run])
    for name, run, what in (("differences", base, "baseline"), ("differences-best", best, "best of the others")):
        own = [verdict.difference(comparison, other, run) for other in averages if other not in (run, base)]
        yield from forest_of(name, [item for item in own if item], labels, f"From {labels[run]}, the {what}. {caption}")


def forest_of(name: str, found: Sequence[Mapping[str, Any]], labels: Mapping[str, str], caption: str) -> Iterator[Block]:
    rows = [
        (f"{labels.get(item['a'], item['a'])} − {labels.get(item['b'], item['b'])}", item["points"], item["low"], item["high"])
        for item in found
    ]
    if rows:
        told = "; ".join(f"{label}: {points:+.1f} ({low:.1f} to {high:.1f})" for label, points, low, high in rows)
        svg = figures.forest(name, rows, "difference of average accuracy, points")
        yield Figure(name, svg, f"Paired differences of average accuracy in points. {told}.", caption)


# ------------------------------------------------------------------------------------------------------------------ sweeps


def sweep_document(sweep: Mapping[str, Any], store: Store, photographs: bool = False) -> Document:
    table = sweep_table(sweep)
    points = [point for point in sweep["points"] if point.get("scores")]
    runs, gone = open_runs(store, {name: values_of(point) for point in points for name in point["runs"][:1]})
    best = sweep["points"][sweep["best"]] if isinstance(sweep.get("best"), int) and 0 <= sweep["best"] < len(sweep["points"]) else None
    names = ", ".join(sweep["parameters"])

    def results() -> Iterator[Block]:
        base = cell(runs[0].result["baseline"], AVERAGE) if runs and runs[0].result["baseline"] else None
        yield from curves(sweep, points, best, base["value"] if base else None)
        yield Results(table)
        for line in gone:
            yield Text(line, quiet=True)
        lost = [point for point in sweep["points"] if point.get("state") != "complete"]
        if lost:
            told = "; ".join(f"{values_of(point)}: {point.get('state')}" for point in lost)
            yield Text(f"Not finished: {told}.", quiet=True)
        confirmed = sweep.get("confirmed") or []
        if confirmed:
            yield Grid("Confirmed with more seeds.", ["setting", "result"], [[values_of(item), said(item)] for item in confirmed])

    sections = [
        section("results", "The curve", results),
        section("images", "Images", lambda: one_noise(points, store, photographs)),
        section("similarity", "What else changes", lambda: realised(sweep, points)),
        section("cost", "Cost", lambda: facts.cost(runs)),
        section("provenance", "Provenance", lambda: facts.provenance(runs[0]) if runs else ()),
        section("configuration", "Configuration", lambda: facts.configuration(runs)),
    ]
    tiles = []
    if best and best["scores"].get(AVERAGE):
        top = best["scores"][AVERAGE]
        low, high = top.get("low"), top.get("high")
        bounds = "highest average" if low is None or high is None else f"95 % interval {low:.1f} to {high:.1f}"
        tiles = [
            ("Highest at", values_of(best), f"of {len(points)} settings"),
            ("Average accuracy there", f"{top['value']:.2f} %", bounds),
        ]
    seeds = len(sweep["seeds"])
    first, rest = verdict.first_sentence(str(sweep.get("statement") or "The sweep has no statement yet."))
    return Document(
        kind="sweep",
        title=f"{sweep['generator']} {sweep['volume']} over {names}",
        about=f"Protocol {sweep['protocol']}, {seeds} seed{'s' if seeds > 1 else ''}. {sweep['sweep']}",
        verdict=first,
        remarks=[*([rest] if rest else []), *limits(sweep)],
        tiles=tiles,
        sections=[item for item in sections if item],
        comparison=table,
        command=str(sweep.get("command", "")),
        made=made(runs),
    )


def values_of(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{last(name)} = {plain(value)}" for name, value in point.get("values", {}).items())


def last(name: str) -> str:
    """The last part of a setting's name: `sample.m` is m."""
    return name.rpartition(".")[2]


def said(item: Mapping[str, Any]) -> str:
    cell = item.get("scores", {}).get(AVERAGE)
    return f"{cell['value']:.2f} % ({cell['low']:.2f} to {cell['high']:.2f})" if cell and cell.get("low") is not None else "-"


def position(value: Any) -> float | None:
    """Where a setting's value stands on an axis: a number at itself, an interval at its middle."""
    if isinstance(value, dict) and {"low", "high"} <= value.keys():
        return (float(value["low"]) + float(value["high"])) / 2
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def curves(
    sweep: Mapping[str, Any], points: Sequence[Mapping[str, Any]], best: Mapping[str, Any] | None, real: float | None
) -> Iterator[Block]:
    """The average and every benchmark over the setting; dots with intervals where there are several settings."""
    metrics = [
        AVERAGE,
        *(m for m in dict.fromkeys(m for p in points for m in p["scores"]) if ACCURACY.fullmatch(m) and m != AVERAGE),
    ]
    name = sweep["parameters"][0]
    at = [position(point["values"].get(name)) for point in points]
    told = "; ".join(f"{values_of(point)}: {point['scores'][AVERAGE]['value']:.1f} %" for point in points if AVERAGE in point["scores"])
    if len(sweep["parameters"]) > 1 or None in at or len(set(at)) < len(at):
        found = {"average": [interval(point["scores"].get(AVERAGE)) for point in points]}
        svg = figures.intervals("curve", [values_of(point) for point in points], found, "average accuracy, %")
    else:
        titles = {metric: SHORT.get(ACCURACY.fullmatch(metric)[1], ACCURACY.fullmatch(metric)[1]) for metric in metrics}  # type: ignore[index]
        rows = {"average" if m == AVERAGE else titles[m]: [interval(point["scores"].get(m)) for point in points] for m in metrics}
        mark = position(best["values"].get(name)) if best else None
        svg = figures.curve("curve", [float(x) for x in at if x is not None], rows, (last(name), "accuracy, %"), mark, real)
    caption = "Accuracy over the setting: the average with its 95 % interval, and each benchmark. The line marks the highest average."
    yield Figure("curve", svg, f"Average accuracy: {told}.", caption, "wide")


def realised(sweep: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
    """What changes with the setting beside accuracy: similarity, separation, fidelity."""
    name = sweep["parameters"][0]
    at = [position(point["values"].get(name)) for point in points]
    if len(sweep["parameters"]) > 1 or None in at:
        return
    for metric, title in (
        ("similarity/realised/mean", "similarity realised"),
        ("separability/intra_class_similarity", "intra-class similarity"),
        ("separability/d_prime", "d′"),
        ("fd/judge/frechet", "Fréchet distance (judge)"),
    ):
        found = [interval(point["scores"].get(metric)) for point in points]
        if sum(value is not None for value in found) > 1:
            key = metric.replace("/", "-")
            svg = figures.curve(key, [float(x) for x in at if x is not None], {title: found}, (last(name), title), None)
            told = "; ".join(f"{values_of(point)}: {value[0]:.2f}" for point, value in zip(points, found) if value)
            shown = title if title == "d′" else title[:1].upper() + title[1:]
            yield Figure(key, svg, f"{title}: {told}.", f"{shown} over {last(name)}.")


def settings_of_one_model(runs: Sequence[Run]) -> list[list[dict[str, Any]]]:
    """Rows of a comparison that sample the same trained model for the same identities with other settings, as the points of a sweep."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        for manifest in run.stages("enroll")[:1]:
            groups.setdefault(manifest["key"], []).append(run)
    found = []
    for group in groups.values():
        settings = [dict(flat(run.result["settings"])) for run in group]
        names = [name for name in settings[0] if any(other.get(name) != settings[0][name] for other in settings[1:])]
        points = [{"values": {name: own.get(name) for name in names}, "runs": [run.name]} for run, own in zip(group, settings)]
        found += [points] if names else []
    return found


def one_noise(
    points: Sequence[Mapping[str, Any]], store: Store, photographs: bool, people: int = 6, across: int = 11, name: str = "one-noise"
) -> Iterator[Block]:
    """One identity per row, one setting per column, always the same slot: the noise is the same, only the setting differs."""
    shown = [point for point in points if point["runs"]]
    if len(shown) > across:
        shown = [shown[i] for i in np.unique(np.linspace(0, len(shown) - 1, across).astype(int))]
    single = all(len(point["values"]) == 1 for point in shown)
    if single and all(position(next(iter(point["values"].values()))) is not None for point in shown):
        shown.sort(key=lambda point: -(position(next(iter(point["values"].values()))) or 0.0))
    runs, _ = open_runs(store, {point["runs"][0]: values_of(point) for point in shown})
    known = {run.name: run for run in runs}
    sets = [(point, known[point["runs"][0]].faces()) for point in shown if point["runs"][0] in known]
    if not sets or (any(parts.photographs_only(faces) for _, faces in sets) and not photographs):
        return
    if any(run.result.get("parts") for run in runs):  # no noise is its own, and its people have other numbers at each point
        return
    inquiries = runs[0].inquiries() if runs[0].rendered or photographs else None
    rows = []
    for identity in range(min(people, *(faces.identities for _, faces in sets))):
        line: list[Image | None] = []
        if inquiries is not None and identity < len(inquiries):
            line.append(parts.picture(inquiries.images([identity])[0], f"identity {identity + 1}, inquiry", "inquiry"))
        for point, faces in sets:
            row = int(faces.shown(identity)[0])
            told = f"{float(faces.columns['similarity'][row]):.2f}" if "similarity" in faces.columns else ""
            line.append(parts.picture(faces.images([row])[0], f"identity {identity + 1}, {values_of(point)}", told))
        rows.append((str(identity + 1), line))
    header = [""] * (inquiries is not None) + [
        values_of(point).replace(" = ", " ") if single else str(i + 1) for i, (point, _) in enumerate(sets)
    ]
    caption = "Identities in rows, settings in columns, one noise per row: only the setting differs."
    caption += (
        " Below each image: its similarity to the inquiry, by the encoder." if any(i and i.label for _, line in rows for i in line) else ""
    )
    yield Images(name, caption, header, rows)
