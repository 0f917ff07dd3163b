"""The curve of a sweep as PNG and SVG: every benchmark, and AVG with its intervals (CemiFace, Figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthbench.results.comparison import AVG
from synthbench.results.record import SHORT
from synthbench.store import writing
from synthbench.sweep.design import show

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# after Okabe and Ito: told apart by all readers
COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#0072B2", "#7F7F7F", "#8C6D1F")
MARKS = "os^Dv<>p"


def draw(sweep: dict[str, Any], benchmarks: Sequence[str], real: float | None, folder: Path) -> None:
    """Write curve.png and curve.svg. One setting: all benchmarks over it. Several: AVG over the first, a line for each of the others."""
    import matplotlib
    from matplotlib.figure import Figure

    points = [point for point in sweep["points"] if point["state"] == "complete"]
    pruned = [point for point in sweep["points"] if point["state"] == "pruned"]
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": sweep["sweep"], "font.size": 10}):
        page = Figure(figsize=(8, 5), layout="constrained", facecolor="white")
        axes = page.add_subplot()
        places, joined = _axis(axes, [point["values"][sweep["parameters"][0]] for point in (*points, *pruned)])
        xs = places[: len(points)]
        if len(sweep["parameters"]) == 1:
            lines = {SHORT.get(name, name): f"verification/{name}/accuracy" for name in benchmarks}
            for i, (title, metric) in enumerate(lines.items()):
                _line(axes, xs, points, metric, title, COLOURS[i % 8], MARKS[i % 8], joined, thin=True)
            _line(axes, xs, points, AVG, "AVG, 95 % interval", "black", "o", joined)
        else:
            groups: dict[str, list[int]] = {}
            for i, point in enumerate(points):
                rest = [f"{name.rpartition('.')[2]} = {show(point['values'][name])}" for name in sweep["parameters"][1:]]
                groups.setdefault(", ".join(rest), []).append(i)
            for i, (title, rows) in enumerate(groups.items()):
                _line(axes, [xs[row] for row in rows], [points[row] for row in rows], AVG, title, COLOURS[i % 8], MARKS[i % 8], joined)
        if pruned:
            heights = [point["validation"]["accuracy"] for point in pruned]
            label = "given up: last validation\naccuracy, not a score"
            axes.plot(places[len(points) :], heights, linestyle="none", marker="x", color="#7F7F7F", label=label)
        if real is not None:
            axes.axhline(real, color="#555555", linestyle="--", linewidth=1, label=f"real, AVG {real:.1f}")
        axes.set_xlabel(sweep["parameters"][0])
        axes.set_ylabel("AVG, %" if len(sweep["parameters"]) > 1 else "verification accuracy, %")
        about = f"{sweep['generator']} {sweep['volume']}, protocol {sweep['protocol']}, seeds: {len(sweep['seeds'])}"
        axes.set_title(about, loc="left", fontsize=11)
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        for form in ("png", "svg"):
            with writing(folder / f"curve.{form}") as tmp:
                page.savefig(tmp, format=form, dpi=150, metadata={"Date": None} if form == "svg" else None)


def _axis(axes: Axes, found: Sequence[Any]) -> tuple[list[float], str]:
    """Where the points stand, and the line that joins them: at their number, on a logarithmic axis when they span a factor of ten.

    Words and intervals stand side by side, and nothing joins them.
    """
    numbers = [value for value in found if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if len(numbers) == len(found):
        if len(numbers) > 2 and min(numbers) > 0 and max(numbers) >= 10 * min(numbers):
            axes.set_xscale("log")
            axes.set_xticks(sorted(set(numbers)), [show(value) for value in sorted(set(numbers))])
            axes.minorticks_off()
        return [float(value) for value in numbers], "-"
    names = list(dict.fromkeys(show(value) for value in found))
    axes.set_xticks(range(len(names)), names)
    return [float(names.index(show(value))) for value in found], "none"


def _line(
    axes: Axes,
    xs: Sequence[float],
    points: Sequence[dict[str, Any]],
    metric: str,
    title: str,
    colour: str,
    mark: str,
    joined: str,
    thin: bool = False,
) -> None:
    rows = [(x, point["scores"][metric]) for x, point in zip(xs, points) if metric in point["scores"]]
    rows.sort(key=lambda row: row[0])
    at, values = [x for x, _ in rows], [cell["value"] for _, cell in rows]
    look: dict[str, Any] = {"color": colour, "marker": mark, "linestyle": joined, "label": title}
    if thin:
        axes.plot(at, values, markersize=4, linewidth=1.2, alpha=0.9, **look)
        return
    below = [0.0 if cell["low"] is None else cell["value"] - cell["low"] for _, cell in rows]
    above = [0.0 if cell["high"] is None else cell["high"] - cell["value"] for _, cell in rows]
    axes.errorbar(at, values, yerr=[below, above], markersize=6, linewidth=2.2, elinewidth=1.3, capsize=3, zorder=3, **look)
