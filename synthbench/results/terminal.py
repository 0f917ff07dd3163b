"""A comparison on the terminal: the table in two halves, the differences, what each generator needs, published numbers, notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from synthbench import console
from synthbench.results import further, record, tables
from synthbench.results.inference import ALPHA
from synthbench.results.record import CHANCE

AVG = tables.AVG
BEST = "*"
LEGEND = (
    "± is one standard error over pairs or images; in brackets the standard deviation between seeds; intervals (95 %) hold both; "
    f"{BEST} best of the generators in its column, {tables.TIED} not distinguishable from it, no mark where no error is known; {CHANCE}"
)
ALL_PAIRS = 15  # more differences than these are listed for the baseline only


def show(comparison: Mapping[str, Any]) -> None:
    """Tables to stdout, what a reader must know below them to stderr."""
    columns, title = comparison["columns"], f"{comparison['protocol']}: {comparison['title']}"
    accuracy = tables.lead([column for column in columns if column["group"] == "accuracy"])
    ranked = any(_ranks(row) for row in comparison["rows"])
    rows = []
    for row in tables.rows_of(comparison):
        cells = [cell(row["cells"].get(column["metric"]), column) for column in accuracy]
        rank = [_ranks(row)] if ranked else []
        rows.append([row["label"], *cells[:1], interval(row["cells"].get(AVG)), *cells[1:2], *rank, *cells[2:]])
    header = [tables.heading(column) for column in accuracy]
    header = ["", *header[:1], "interval", *header[1:2], *(["rank"] if ranked else []), *header[2:]]
    console.table(title, header, rows, breaks=("rank" if ranked else header[3],))
    people = [column for column in columns if column["group"] == "people"]
    other = [column for column in columns if column["group"] not in ("accuracy", "people")]
    for name, some in (("people of the sets by group", people), ("the sets, and what they cost", other)):
        if some:
            lines = [(row["label"], row["cells"]) for row in comparison["rows"]]
            found = [[label, *(cell(cells.get(column["metric"]), column) for column in some)] for label, cells in lines]
            console.table(name, ["", *map(tables.heading, some)], found)
    _differences(comparison)
    _needs(comparison["rows"])
    _published(comparison)
    skipped = len(comparison.get("skipped", ()))
    why = f"{skipped} column{'s' * (skipped > 1)} not measured, for all rows or some; comparison.json and the report say why"
    for note in (LEGEND, *comparison["notes"], tables.unequal_sizes(comparison), why if skipped else ""):
        if note:
            console.note(note)


def cell(item: Mapping[str, Any] | None, column: Mapping[str, Any]) -> str:
    """`79.53 ±0.63 (0.41)*`: value, sampling error, spread between seeds, mark."""
    value, error = tables.shown(item, column)
    if not item or value == "-":
        return "-"
    between = tables.spread(item, column)
    mark = BEST if item["best"] else tables.TIED if item["tied"] else ""
    return value + (f" ±{error}" if error else "") + (f" ({between})" if between else "") + mark


def interval(item: Mapping[str, Any] | None) -> str:
    return f"{item['low']:.2f} to {item['high']:.2f}" if item and item.get("low") is not None else "-"


def _ranks(row: Mapping[str, Any]) -> str:
    """The rank, where the data can tell it."""
    rank = row.get("rank")
    return str(rank[0]) if rank and rank[0] == rank[1] else ""


def _differences(comparison: Mapping[str, Any]) -> None:
    """One line per pair of rows: AVG with interval and p, then points on each benchmark, marked where McNemar's test cannot tell them."""
    labels = {row["run"]: row["label"] for row in comparison["rows"]}
    titles = {c["metric"]: c["title"] for c in comparison["columns"] if c["metric"].endswith("/accuracy") and c["metric"] != AVG}
    by_pair: dict[tuple[str, str], dict[str, Any]] = {}
    base = comparison["baseline"]
    for item in tables.oriented(comparison["differences"], base):
        by_pair.setdefault((item["a"], item["b"]), {})[item["metric"]] = item
    if len(by_pair) > ALL_PAIRS:
        by_pair = {pair: found for pair, found in by_pair.items() if pair[1] == base}
    lines = []
    for (a, b), found in by_pair.items():
        p_values = [tables.probability(found[AVG][name]) for name in ("p", "p_holm")]
        points = [f"{found[metric]['points']:+.1f}{_unseen(found[metric])}" for metric in titles]
        lines.append([f"{labels[a]} − {labels[b]}", tables.signed(found[AVG]["points"]), tables.bounds(found[AVG]), *p_values, *points])
    if lines:
        title = f"paired differences in points ({tables.TIED}: McNemar p ≥ {ALPHA:g} after Holm, for these networks)"
        console.table(title, ["", "AVG", "interval", "p", "p (Holm)", *titles.values()], lines, breaks=("p (Holm)",))


def _unseen(item: Mapping[str, Any]) -> str:
    return tables.TIED if item["mcnemar_p_holm"] >= ALPHA else ""


def _needs(rows: Sequence[Mapping[str, Any]]) -> None:
    lines = []
    for row in {record.called(row): row for row in rows if row["traits"]}.values():
        traits = row["traits"]
        identities = "those of its parts" if row.get("parts") else "new" if traits.get("new_identities") else "of the real set"
        needs = [traits.get(name) or "none" for name in ("real_photographs", "pretrained", "licence")]
        lines.append([record.called(row), identities, tables.learnt_from(row), *needs])
    if lines:
        header = ["", "identities", "learnt from", "real photographs", "pretrained", "licence"]
        console.table("what each needs", header, lines, sentences=header[2:])


def _published(comparison: Mapping[str, Any]) -> None:
    header, rows = tables.published(comparison)
    if rows:
        title = "published numbers: under other recipes; not to be ranked with the rows above"
        console.table(title, header, rows, sentences=("source", "remark"), breaks=("gap",))


def show_stability(told: Mapping[str, Any]) -> None:
    """How far the ranking of the rows is the recipe's."""
    averages = [[row, *(f"{told['averages'][recipe][place]:.2f}" for recipe in told["recipes"])] for place, row in enumerate(told["rows"])]
    console.table("AVG % under each recipe", ["", *told["recipes"]], averages)
    header = ["recipes", "Kendall's tau", "interval", "the same recipe", "differences", "both find", "one of them", "opposite"]
    lines = []
    for found in told["agreement"]:
        interval = f"{found['low']:.2f} to {found['high']:.2f}"
        counts = [str(found["pairs"]), str(found["survive"]), str(found["only_a"] + found["only_b"]), str(len(found["opposite"]))]
        lines.append([f"{found['a']}, {found['b']}", f"{found['tau']:.2f}", interval, f"{found['same_recipe']:.2f}", *counts])
    console.table("is the ranking stable?", header, lines)
    for found in told["agreement"]:
        for pair in found["opposite"]:
            console.note(f"{pair}: {found['a']} and {found['b']} find opposite orders, each with p < 0.05 after Holm")
    console.note(
        "tau: 1 the same order, 0 chance; interval (95 %) over pairs and seeds; the same recipe: the tau that a recipe has with itself on "
        "other pairs and seeds, so that noise alone leaves no more; differences in AVG between generators, p < 0.05 after Holm"
    )


def show_judges(told: Mapping[str, Any]) -> None:
    """How far what is told of the rows is the judge's."""
    for title, scores in told["scores"].items():
        lines = [[row, *("-" if one is None else f"{one:.3f}" for one in by)] for row, by in zip(told["rows"], zip(*scores.values()))]
        console.table(f"{title} by each judge", ["", *scores], lines)
    header = ["score", "judges", "generators", "Kendall's tau", "interval", "the same judge"]
    lines = []
    for found in told["agreement"]:
        noise = ["-", "-"] if found["low"] is None else [f"{found['low']:.2f} to {found['high']:.2f}", f"{found['same_judge']:.2f}"]
        lines.append([found["score"], f"{found['a']}, {found['b']}", str(found["generators"]), f"{found['tau']:.2f}", *noise])
    console.table("is the ranking stable?", header, lines)
    console.note(
        "tau: 1 the same order, 0 chance; interval (95 %): scores drawn by their errors, each by itself (-: one has none); the same judge: "
        "the tau that a judge then has with itself, so that noise alone leaves no more. Judges change no accuracy"
    )


def show_evaluations(results: Sequence[record.Result]) -> None:
    """Networks that were trained elsewhere, a line for each benchmark and the average, with all that verification knows."""
    rates = list(dict.fromkeys(rate for result in results for rate in _rates(result)))
    header = ["network", "benchmark", "pairs", "accuracy %", "std of folds", *(f"TAR % at FAR {rate}" for rate in rates), "norm"]
    lines = []
    for result in results:
        for name in (*result["benchmarks"], *(["avg"] if len(result["benchmarks"]) > 1 else [])):
            found = {part: record.cell(result, f"verification/{name}/{part}") for part in ("accuracy", "fold_std", "xnorm")}
            at = [record.cell(result, f"verification/{name}/tar_at_far_{rate}") for rate in rates]
            n = next(score["n"] for score in result["scores"] if score["metric"] == f"verification/{name}/accuracy")
            shown = "AVG" if name == "avg" else name
            lines.append([result["generator"], shown, f"{n:,}", found["accuracy"], found["fold_std"], *at, found["xnorm"]])
    title = f"{results[0]['protocol']}: {results[0]['title']}"
    if lines:
        console.table(title, header, lines)
    searched = list(dict.fromkeys(name for result in results for name in further.searched(result)))
    for name in searched:
        measures = further.searched(results[0])[name]
        rows = [[result["generator"], *(record.cell(result, f"templates/{name}/{part}", 1) for part in measures)] for result in results]
        rows.append(["chance", *(record.cell(results[0], f"templates/{name}/by_chance/{part}", 2) for part in measures)])
        console.table(f"template set {name}, %" + ("" if lines else f"; {title}"), ["", *map(further.words, measures)], rows)
    for note in further.notes(f"templates/{name}" for name in searched):
        console.note(note)
    told = "; TAR: exact, without a grid of thresholds, and by chance its FAR" if rates else ""
    if lines:
        console.note(f"{record.ERROR}; {CHANCE}{told}; norm: mean length of the raw embeddings")


def _rates(result: Mapping[str, Any]) -> list[str]:
    parts = (score["metric"].rpartition("/tar_at_far_") for score in result["scores"])
    return [rate for before, _, rate in parts if before.startswith("verification/")]
