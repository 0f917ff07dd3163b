"""A comparison on the terminal: the table in two halves, the differences, what each generator needs, published numbers, notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from synthbench import console
from synthbench.results import tables
from synthbench.results.inference import ALPHA
from synthbench.results.record import CHANCE

AVG = "verification/avg/accuracy"
BEST = "*"
LEGEND = (
    "± is one standard error over pairs or images; in brackets the standard deviation between seeds; intervals (95 %) hold both; "
    f"{BEST} best of its column, {tables.TIED} not distinguishable from it; {CHANCE}"
)
ALL_PAIRS = 15  # more differences than these are listed for the baseline only


def show(comparison: Mapping[str, Any]) -> None:
    """Tables to stdout, what a reader must know below them to stderr."""
    columns, title = comparison["columns"], f"{comparison['protocol']}: {comparison['title']}"
    accuracy = [column for column in columns if column["group"] == "accuracy"]
    header = [tables.heading(column) for column in accuracy]
    after = header.index("AVG (%)") + 1 if "AVG (%)" in header else len(header)
    ranked = any(_ranks(row) for row in comparison["rows"])
    rows = []
    for row in comparison["rows"]:
        cells = [cell(row["cells"].get(column["metric"]), column) for column in accuracy]
        cells.insert(after, interval(row["cells"].get(AVG)))
        rows.append([row["label"], *cells, *([_ranks(row)] if ranked else [])])
    header.insert(after, "interval")
    console.table(title, ["", *header, *(["rank"] if ranked else [])], rows)
    other = [column for column in columns if column["group"] != "accuracy"]
    if other:
        cells_of = [[row["label"], *(cell(row["cells"].get(column["metric"]), column) for column in other)] for row in comparison["rows"]]
        console.table("the sets, and what they cost", ["", *map(tables.heading, other)], cells_of)
    _differences(comparison)
    _needs(comparison["rows"])
    _published(comparison)
    skipped = len(comparison.get("skipped", ()))
    why = [f"{skipped} column{'s' * (skipped > 1)} not measured, for all rows or some; comparison.json and the report say why"]
    for note in (LEGEND, *comparison["notes"], *(why if skipped else ())):
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
    """One line per pair of rows: points on each benchmark, marked where McNemar's test sees them, then AVG with interval and p."""
    labels = {row["run"]: row["label"] for row in comparison["rows"]}
    titles = {c["metric"]: c["title"] for c in comparison["columns"] if c["metric"].endswith("/accuracy") and c["metric"] != AVG}
    by_pair: dict[tuple[str, str], dict[str, Any]] = {}
    base = comparison["baseline"]
    for item in comparison["differences"]:
        flipped = item["a"] == base  # the baseline is what is subtracted
        pair = (item["b"], item["a"]) if flipped else (item["a"], item["b"])
        by_pair.setdefault(pair, {})[item["metric"]] = (item, -1 if flipped else 1)
    if len(by_pair) > ALL_PAIRS:
        by_pair = {pair: found for pair, found in by_pair.items() if pair[1] == base}
    lines = []
    for (a, b), found in sorted(by_pair.items(), key=lambda pair: pair[0][1] != base):
        points = [f"{sign * item['points']:+.1f}{_seen(item)}" for item, sign in (found[metric] for metric in titles)]
        item, sign = found[AVG]
        low, high = sorted((sign * item["low"], sign * item["high"]))
        p_values = [tables.probability(item[name]) for name in ("p", "p_holm")]
        lines.append([f"{labels[a]} − {labels[b]}", *points, f"{sign * item['points']:+.2f}", f"{low:+.2f} to {high:+.2f}", *p_values])
    if lines:
        title = f"paired differences in points ({BEST}: McNemar p < {ALPHA:g} after Holm, for these networks)"
        console.table(title, ["", *titles.values(), "AVG", "interval", "p", "p (Holm)"], lines)


def _seen(item: Mapping[str, Any]) -> str:
    return BEST if item["mcnemar_p_holm"] < ALPHA else ""


def _needs(rows: Sequence[Mapping[str, Any]]) -> None:
    lines = []
    for row in {row["generator"]: row for row in rows if row["traits"]}.values():
        traits = row["traits"]
        identities = "new" if traits.get("new_identities") else "of the real set"
        lines.append(
            [row["generator"], identities, *(traits.get(name) or "none" for name in ("real_photographs", "pretrained", "licence"))]
        )
    if lines:
        console.table("what each needs", ["", "identities", "real photographs", "pretrained", "licence"], lines)


def _published(comparison: Mapping[str, Any]) -> None:
    header, rows = tables.published(comparison)
    if rows:
        console.table("published numbers: on photographs, under other recipes; not comparable with the rows above", header, rows)
