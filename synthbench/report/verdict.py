"""The sentence at the head of a report, and the few numbers below it. A verdict never says more than its intervals allow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synthbench import console
from synthbench.report.data import AVERAGE, Run
from synthbench.report.facts import own_seconds
from synthbench.results import leak
from synthbench.results.comparable import cost
from synthbench.results.tables import number, shown, spread, stated, turn, unequal_sizes

GAP = "gap_to_real/points"
ALPHA = 0.05
TILES = (  # metric, label, what it means
    (AVERAGE, "Average accuracy, %", "mean over the benchmarks"),
    (GAP, "Gap to real, points", "real minus synthetic, same recipe and seed"),
    ("separability/d_prime", "d′", "distance of genuine and impostor pairs of the set, for the judge"),
    ("separability/intra_class_similarity", "Intra-class similarity", "of the images of one identity, for the judge"),
    ("fd/judge/frechet", "Fréchet distance", "to the real set, in the judge's space"),
    (leak.SHARE, "Leak, images %", "taken for a person of the real set; of strangers' images {chance}"),
)


def run_verdict(run: Run, table: Mapping[str, Any]) -> str:
    """Of one run beside its real baseline."""
    result = run.result
    own = table["rows"][-1]["cells"]
    average = own.get(AVERAGE)
    if not average:
        return f"The set of {run.label} was measured, but no recognizer was scored on it."
    count = len(run.benchmarks)
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    over = f"{words[count] if count < len(words) else count} benchmark{'s' if count != 1 else ''}"
    start = f"Trained on {run.label}, the recognizer is right on {number(average['value'], 1)} % of the pairs of {over}"
    gap = own.get(GAP)
    if result["generator"] == "real":
        return start + ": what generators are compared with."
    if not gap:
        return start + "; the gap to the real set was not measured."
    size = (result["baseline"] or {}).get("size")
    return f"{start}, {against(gap, 'the same recognizer trained on the real set' + (f', {size}' if size else ''))}."


def against(gap: Mapping[str, Any], what: str) -> str:
    """`8.8 points below WHAT (95 % interval 7.5 to 10.0)`; positive gaps are losses."""
    value, low, high = gap["value"], gap.get("low"), gap.get("high")
    side = "below" if value >= 0 else "above"
    distance = f"{number(abs(value), 1)} points {side}"
    points = f"{distance} {what}"
    if low is None or high is None:
        return points
    bounds = sorted((low, high) if value >= 0 else (-low, -high))
    told = f"95 % interval {number(bounds[0], 1)} to {number(bounds[1], 1)}"
    return f"{points} ({told})" if low > 0 or high < 0 else f"not distinguishable from {what} ({distance}, {told})"


def first_sentence(text: str) -> tuple[str, str]:
    """The first sentence and what follows it."""
    first, end, rest = text.partition(". ")
    return (first + ".", rest) if end else (text, "")


def comparison_verdict(comparison: Mapping[str, Any]) -> str:
    """Which generator is best, whether the data can tell, and whether the sets are of one size."""
    found = [row for row in comparison["rows"] if row["cells"].get(AVERAGE)]
    base = next((row for row in found if row["run"] == comparison.get("baseline")), None)
    rows = [row for row in found if row is not base] if base and base["generator"] == "real" else found
    rows = [row for row in rows if row.get("volume") != ""] or rows  # networks trained elsewhere, of no volume, compete with no generator
    rows = sorted(rows, key=lambda row: -row["cells"][AVERAGE]["value"])
    if not rows:
        return "No row has an average accuracy."
    best = rows[0]
    value = number(best["cells"][AVERAGE]["value"], 1)
    reference = base if base and base is not best else None
    gap = difference(comparison, reference["run"], best["run"]) if reference else None
    if reference and gap:
        told = {"value": gap["points"], "low": gap.get("low"), "high": gap.get("high")}
        tail = f"; {best['label']} is {against(told, reference['label'])}"
    else:
        tail = ""
    if unequal := unequal_sizes(comparison):
        tail += f"; {unequal}"
    if len(rows) == 1:
        return f"{best['label']} reaches {value} % on average{tail}."
    second = rows[1]
    first = difference(comparison, best["run"], second["run"])
    if not first:
        return f"{best['label']} has the highest average, {value} %; the difference to {second['label']} was not tested{tail}."
    bounds = f"95 % interval {number(first.get('low'), 1)} to {number(first.get('high'), 1)}"
    p = first.get("p_holm")
    told_p = "" if p is None else f", {stated(p)} after Holm"
    if p is not None and p < ALPHA:
        return (
            f"{best['label']} is best: {value} % on average, {first['points']:.1f} points above {second['label']} ({bounds}{told_p}){tail}."
        )
    other = f"{second['label']} ({number(second['cells'][AVERAGE]['value'], 1)} %)"
    return f"The data cannot tell {best['label']} ({value} %) from {other}: {first['points']:+.1f} points ({bounds}{told_p}){tail}."


def difference(comparison: Mapping[str, Any], a: str, b: str, metric: str = AVERAGE) -> dict[str, Any] | None:
    """The tested difference A - B on a metric, in whichever order it was written."""
    for item in comparison.get("differences", ()):
        if item["metric"] == metric and {item["a"], item["b"]} == {a, b}:
            return dict(item) if item["a"] == a else turn(item)
    return None


def tiles(run: Run, table: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(label, number, meaning) of what a reader looks for first."""
    columns = {column["metric"]: column for column in table["columns"]}
    found = []
    for metric, label, meaning in TILES:
        cell = table["rows"][-1]["cells"].get(metric)
        if cell and cell["value"] is not None and metric in columns:
            value, error = shown(cell, columns[metric])
            meaning = meaning.format(chance=spread(cell, columns[metric]))
            found.append((label, f"{value} ±{error}" if error else value, meaning))
    made = cost(run.store, run.result)
    if isinstance(made["images"], int):
        found.append(("Images", f"{made['images']:,}", f"and {made['copies']:,} copies of inquiries" if made["copies"] else "in the set"))
    own, seeds = own_seconds(run), len(run.result["seeds"])
    if own and run.result["generator"] != "real":
        mean = f", mean of {seeds} seeds" if seeds > 1 else ""
        found.append(
            ("Time to make the set", console.duration(own / seeds), f"training and generating, {run.result['cost']['device']}{mean}")
        )
    return found


def comparison_tiles(comparison: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The average of every row, then what the design could detect."""
    columns = {column["metric"]: column for column in comparison["columns"]}
    found = []
    for row in comparison["rows"]:
        cell = row["cells"].get(AVERAGE)
        if cell and AVERAGE in columns:
            value, _ = shown(cell, columns[AVERAGE])
            low, high = cell.get("low"), cell.get("high")
            bounds = f"95 % interval {number(low, 1)} to {number(high, 1)}" if low is not None else "average accuracy"
            found.append((row["label"], f"{value} %", bounds))
    detectable = comparison.get("detectable_points")
    if detectable:
        found.append(
            ("Detectable difference", f"{number(detectable, 1)} points", "the smallest that this design finds in four of five cases")
        )
    return found
