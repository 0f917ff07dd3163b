"""Figures of reports: matplotlib drawn in named colours, so that one SVG is right on light and on dark ground.

Every drawing function returns SVG text. Colours are written as CSS variables (`var(--c0)`), which the page defines for both schemes;
`standalone` adds their definitions for a file of its own. Text stays text: it can be read, searched and scaled.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# (name, light, dark). The series keep apart for colour-blind readers (after Okabe and Ito) and have contrast 3:1 on both grounds.
COLOURS = (
    ("ink", "#1c1f24", "#e8eaed"),
    ("muted", "#5b6470", "#a3abb6"),
    ("rule", "#d9dde2", "#343a42"),
    ("c0", "#0b62a8", "#63b3ed"),
    ("c1", "#c2410c", "#fb923c"),
    ("c2", "#047857", "#34d399"),
    ("c3", "#9d3d86", "#e28ac8"),
    ("c4", "#8a6d00", "#e3c34a"),
    ("c5", "#0e7490", "#5fd4e6"),
    ("c6", "#b91c1c", "#f87171"),
    ("c7", "#5b5bd6", "#a5a5f7"),
)
SENTINEL = {name: f"#00{number + 1:02x}f{number:x}" for number, (name, _, _) in enumerate(COLOURS)}
INK, MUTED, RULE = (SENTINEL[name] for name in ("ink", "muted", "rule"))
SERIES = tuple(SENTINEL[f"c{number}"] for number in range(8))
WIDTH = 4.7  # inches of 72 units: text of size 8 is 12 px high where the figure is 500 px wide
MARKS = "osD^vPX*"  # by series, so that colour is never the only difference
DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.4)), (0, (5, 1.5, 1, 1.5)))


def variables(scheme: int) -> str:
    """CSS definitions of the colours, light (0) or dark (1)."""
    return " ".join(f"--{row[0]}: {row[1 + scheme]};" for row in COLOURS)


def standalone(svg: str) -> str:
    """The SVG as a file of its own, right in both colour schemes."""
    style = f"<style>svg {{ {variables(0)} }} @media (prefers-color-scheme: dark) {{ svg {{ {variables(1)} }} }}"
    style += " text { font-family: system-ui, sans-serif } * { stroke-linejoin: round }</style>"
    head, _, rest = svg.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">{style}{rest}\n'


def draw(name: str, paint: Any, height: float = 2.9, width: float = WIDTH, panels: tuple[int, int] = (1, 1)) -> str:
    """Let `paint(axes, ...)` draw on an empty figure; the same input gives the same bytes. `name` makes ids unique on a page."""
    import matplotlib
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": 8,
        "font.family": "sans-serif",
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 8,
        "axes.titlelocation": "left",
        "axes.axisbelow": True,
        "text.color": INK,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "grid.color": RULE,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "lines.linewidth": 1.5,
        "mathtext.default": "regular",
    }
    with matplotlib.rc_context(settings):
        figure = Figure((width, height), layout="constrained")
        axes = figure.subplots(*panels, squeeze=False).ravel()
        for axis in axes:
            axis.grid(True)
        paint(*axes)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _inline(out.getvalue(), name)


def _inline(svg: str, name: str) -> str:
    """matplotlib's file as an element for a page: no prologue, no fixed size, ids of its own, colours as variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>|<!--.*?-->", "", svg, flags=re.S)
    box = re.search(r'viewBox="([^"]+)"', svg)
    svg = f'<svg viewBox="{box[1] if box else "0 0 1 1"}"' + svg[svg.index(">") :]
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    for colour, value in SENTINEL.items():
        svg = svg.replace(value, f"var(--{colour})")
    return re.sub(r"\s*\n\s*", "\n", svg).strip()


def looks(titles: Iterable[str]) -> dict[str, tuple[str, str, Any]]:
    """Colour, mark and dashes of each row; the real set, which others are compared with, is grey in every figure."""
    others = [title for title in titles if title.split()[0] != "real"]
    each = len(SERIES)  # beyond which a colour comes again, with another mark and other dashes
    found = {
        title: (SERIES[i % each], MARKS[(i + i // each) % len(MARKS)], DASHES[(i + i // each) % len(DASHES)])
        for i, title in enumerate(others)
    }
    return {title: found.get(title, (MUTED, "D", DASHES[1])) for title in titles}


def legend(axis: Axes, columns: int = 4, **where: Any) -> None:
    if axis.get_legend_handles_labels()[1]:
        where = where or {"loc": "lower left", "bbox_to_anchor": (0, 1)}
        axis.legend(ncols=columns, borderaxespad=0.2, handlelength=1.6, columnspacing=1.2, **where)


# ----------------------------------------------------------------------------------------------------------------- numbers


def intervals(name: str, labels: Sequence[str], series: Mapping[str, Sequence[tuple[float, float, float] | None]], axis_title: str) -> str:
    """Dots with intervals: `series[row]` has (value, low, high) for each of `labels`, which stand on the vertical axis."""

    def paint(axis: Axes) -> None:
        for number, (title, values) in enumerate(series.items()):
            shift = (number - (len(series) - 1) / 2) * min(0.2, 0.7 / len(series))
            found = [(y + shift, value) for y, value in enumerate(values) if value]
            y, x = np.array([y for y, _ in found]), np.array([value for _, value in found]).reshape(-1, 3)
            colour, mark, _ = looks(series)[title]
            axis.hlines(y, x[:, 1], x[:, 2], colors=colour, linewidth=1.4)
            axis.plot(x[:, 0], y, mark, color=colour, markersize=4.5, label=title)
        axis.set_yticks(range(len(labels)), labels)
        axis.set_ylim(len(labels) - 0.5, -0.5)
        axis.tick_params("y", length=0)
        axis.grid(False, axis="y")
        axis.set_xlabel(axis_title)
        legend(axis, 2)

    return draw(name, paint, 0.9 + len(labels) * max(0.28, 0.13 * len(series)) + 0.17 * ((len(series) + 1) // 2))


def panels(
    name: str, labels: Sequence[str], series: Mapping[str, Sequence[tuple[float, float, float] | None]], axis_title: str, across: int = 3
) -> str:
    """As `intervals`, for many rows: a panel for each of `labels`, the rows below each other, named at the left."""
    down = -(-len(labels) // across)
    known = [value for values in series.values() for value in values if value]
    low, high = min(value[1] for value in known), max(value[2] for value in known)

    def paint(*axes: Axes) -> None:
        for axis in axes[len(labels) :]:
            axis.set_visible(False)
        for column, (axis, label) in enumerate(zip(axes, labels)):
            for y, (title, values) in enumerate(series.items()):
                colour, mark, _ = looks(series)[title]
                if found := values[column]:
                    axis.hlines(y, *found[1:], colors=colour, linewidth=1.4)
                    axis.plot(found[0], y, mark, color=colour, markersize=4.5)
            axis.set_title(label)
            axis.set_xlim(low - 0.03 * (high - low), high + 0.03 * (high - low))
            axis.set_yticks(range(len(series)), series if column % across == 0 else [""] * len(series))
            axis.set_ylim(len(series) - 0.5, -0.5)
            axis.tick_params("y", length=0)
            axis.grid(False, axis="y")
            if column + across >= len(labels):
                axis.set_xlabel(axis_title)

    return draw(name, paint, down * (0.55 + 0.17 * len(series)), 2 * WIDTH, (down, min(across, len(labels))))


def forest(name: str, rows: Sequence[tuple[str, float, float, float]], axis_title: str) -> str:
    """Differences with intervals around a line at zero; (label, value, low, high) each."""

    def paint(axis: Axes) -> None:
        axis.axvline(0, color=MUTED, linewidth=0.9)
        for y, (_, value, low, high) in enumerate(rows):
            clear = low > 0 or high < 0
            axis.hlines(y, low, high, colors=SERIES[0] if clear else MUTED, linewidth=1.4)
            axis.plot(value, y, "o", color=SERIES[0] if clear else MUTED, markersize=4.5, markerfacecolor=None if clear else "none")
        axis.set_yticks(range(len(rows)), [row[0].replace(" − ", "\n− ") for row in rows])
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.tick_params("y", length=0)
        axis.grid(False, axis="y")
        axis.set_xlabel(axis_title)

    return draw(name, paint, 0.7 + 0.36 * len(rows))


def roc(name: str, curves: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]]) -> str:
    """ROC with a logarithmic false accept axis; a bold mean over the benchmarks of each row, thin lines for each benchmark."""

    def paint(axis: Axes) -> None:
        lowest = max(1 / len(far) for found in curves.values() for far, _ in found)
        grid = np.geomspace(lowest, 1, 120)
        for title, found in curves.items():
            colour, _, dashes = looks(curves)[title]
            levels = np.array([np.interp(grid, far, tar) for far, tar in found])
            if len(curves) <= 3:
                axis.plot(grid, levels.T, color=colour, linewidth=0.6, alpha=0.45)
            axis.plot(grid, levels.mean(0), color=colour, linestyle=dashes, linewidth=1.9, label=title)
        axis.set_xscale("log")
        axis.set_xlim(lowest, 1)
        axis.set_ylim(0, 1)
        axis.set_xlabel("false accept rate")
        axis.set_ylabel("true accept rate")
        legend(axis, 2)

    return draw(name, paint)


def roc_points(distance: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true accept rates at every impostor distance, ascending, starting at (0, share of genuine pairs below them all)."""
    impostor, genuine = np.sort(distance[~same]), np.sort(distance[same])
    tar = np.searchsorted(genuine, impostor, "left") / len(genuine)
    return np.arange(1, len(impostor) + 1) / len(impostor), tar


def histograms(name: str, edges: np.ndarray, rows: Mapping[str, tuple[np.ndarray, np.ndarray]], axis_title: str, bins: int = 80) -> str:
    """Genuine and impostor densities, one panel per row: (counts of genuine pairs, counts of impostor pairs) over `edges`."""
    step = (len(edges) - 1) // bins
    coarse = edges[::step]

    def density(counts: np.ndarray) -> np.ndarray:
        merged = np.add.reduceat(counts[: step * bins], np.arange(0, step * bins, step)).astype(float)
        return merged / max(merged.sum(), 1) / np.diff(coarse)[: len(merged)]

    across = 1 if len(rows) <= 4 else 3
    down = -(-len(rows) // across)
    values = {title: (density(genuine), density(impostor)) for title, (genuine, impostor) in rows.items()}
    used = np.flatnonzero(sum(a + b for a, b in values.values()) > 1e-3)

    def paint(*axes: Axes) -> None:
        top = max(float(max(a.max(), b.max())) for a, b in values.values())
        for axis in axes[len(values) :]:
            axis.set_visible(False)
        for place, (axis, (title, pair)) in enumerate(zip(axes, values.items())):
            for number, (kind, heights) in enumerate(zip(("same identity", "different identities"), pair)):
                colour = SERIES[2 + number]
                axis.stairs(heights, coarse[: len(heights) + 1], fill=True, color=colour, alpha=0.2)
                axis.stairs(heights, coarse[: len(heights) + 1], color=colour, linestyle=DASHES[number], linewidth=1.3, label=kind)
            axis.set_ylim(0, top * 1.08)
            axis.set_xlim(coarse[used[0]], coarse[min(used[-1] + 1, len(coarse) - 1)])
            axis.locator_params("x", nbins=8 if across == 1 else 5)
            if place % across == 0:
                axis.set_ylabel("density")
            else:
                axis.tick_params("y", labelleft=False)
            axis.text(0.01, 0.95, title, transform=axis.transAxes, va="top")
            axis.grid(False, axis="x")
            if place + across < len(values):
                axis.tick_params("x", labelbottom=False)
            else:
                axis.set_xlabel(axis_title)
        legend(axes[0], 2)

    return draw(name, paint, 0.8 + 1.15 * down, WIDTH * min(across, 2), (down, across))


def similarity(name: str, asked: np.ndarray, realised: Mapping[str, np.ndarray]) -> str:
    """Requested against realised similarity: the mean, the middle half and the middle 90 % of the images at each m."""
    values = np.unique(asked)
    if len(values) > 25:  # an interval of m: ten slices of equal size
        values = np.unique(np.quantile(asked, np.linspace(0.05, 0.95, 10)))
    nearest = np.abs(asked[:, None] - values[None]).argmin(1)

    def paint(axis: Axes) -> None:
        axis.plot([-1, 1], [-1, 1], color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        axis.annotate("as requested", (0.06, 0.0), color=MUTED, fontsize=7)
        for number, (title, found) in enumerate(realised.items()):
            groups = [found[nearest == i] for i in range(len(values))]
            mean = np.array([group.mean() for group in groups])
            colour = SERIES[number]
            if number == 0:
                for low, high, alpha in ((5, 95, 0.12), (25, 75, 0.22)):
                    bounds = [np.percentile(group, (low, high)) for group in groups]
                    if len(values) > 1:
                        axis.fill_between(values, *np.transpose(bounds), color=colour, alpha=alpha, linewidth=0)
                    else:
                        axis.vlines(values, *np.transpose(bounds), color=colour, alpha=2.5 * alpha, linewidth=6)
            axis.plot(values, mean, marker=MARKS[number], markersize=4.5, color=colour, linestyle=DASHES[number], label=title)
        lowest = min(float(np.percentile(found, 2)) for found in realised.values())
        axis.set_ylim(min(-0.05, lowest - 0.05), 1.02)
        axis.set_xlim(-1.05, 1.05)
        axis.set_xlabel("similarity requested, m")
        axis.set_ylabel("similarity realised")
        legend(axis, 2)

    return draw(name, paint)


def curve(
    name: str,
    x: Sequence[float],
    rows: Mapping[str, Sequence[tuple[float, float, float] | None]],
    titles: tuple[str, str],
    best: float | None,
    real: float | None = None,
) -> str:
    """Lines with a band: `rows[series]` has (value, low, high) at each x, the first one bold; lines mark `best` and the `real` set."""

    def paint(axis: Axes) -> None:
        if best is not None:
            axis.axvline(best, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        if real is not None:
            axis.axhline(real, color=MUTED, linewidth=1.2, linestyle=DASHES[1], label=f"real {real:.1f}")
        if len(x) > 2 and min(x) > 0 and max(x) >= 10 * min(x):
            axis.set_xscale("log")
            axis.set_xticks(sorted(set(x)), [f"{value:g}" for value in sorted(set(x))])
            axis.minorticks_off()
        for number, (title, values) in enumerate(rows.items()):
            found = [(at, *value) for at, value in sorted(zip(x, values), key=lambda item: item[0]) if value]
            at, value, low, high = np.array(found, float).reshape(-1, 4).T
            colour = SERIES[number % len(SERIES)]
            main = number == 0
            if main or len(rows) == 1:
                axis.fill_between(at, low, high, color=colour, alpha=0.16, linewidth=0)
            axis.plot(at, value, marker=MARKS[number % len(MARKS)], markersize=4.5 if main else 3, color=colour,
                      linewidth=2 if main else 0.9, linestyle=DASHES[number % len(DASHES)], label=title)  # fmt: skip
        axis.set_xlabel(titles[0])
        axis.set_ylabel(titles[1])
        if len(rows) > 1 or real is not None:
            legend(axis, 3)

    return draw(name, paint, 3.1 + 0.15 * (len(rows) // 3), 5.6 if len(rows) > 1 else WIDTH)


def training(name: str, lines: Sequence[Mapping[str, float]], shown: Mapping[str, str]) -> str:
    """One small panel per quantity of a training log; `shown` names them."""
    kept = {key: title for key, title in shown.items() if sum(key in line for line in lines) > 1}

    def paint(*axes: Axes) -> None:
        for number, (axis, (key, title)) in enumerate(zip(axes, kept.items())):
            found = sorted({line["step"]: line[key] for line in lines if key in line}.items())
            axis.plot(*np.transpose(found[:: max(1, len(found) // 150)]), color=SERIES[number], linewidth=1.2)
            axis.set_title(title)
            axis.set_xlabel("step")

    return draw(name, paint, 1.7, panels=(1, max(1, len(kept))))


def scatter(name: str, points: np.ndarray, identity: np.ndarray, special: np.ndarray, labels: Sequence[str]) -> str:
    """Embeddings in two dimensions: colour and mark by identity, its number at the median; `special` points ringed."""

    def paint(axis: Axes) -> None:
        for number, label in enumerate(labels):
            own, colour = identity == number, SERIES[number % len(SERIES)]
            axis.plot(*points[own & ~special].T, linestyle="", marker=MARKS[number % len(MARKS)], markersize=3.4, color=colour, alpha=0.75,
                      markeredgewidth=0)  # fmt: skip
            axis.plot(*points[own & special].T, linestyle="", marker="o", markersize=8, markerfacecolor="none", markeredgecolor=colour)
            x, y = np.median(points[own], 0)
            axis.text(x, y, label, color=INK, fontsize=10, fontweight="bold", ha="center", va="center")
        axis.grid(False)
        axis.set_xticks([])
        axis.set_yticks([])
        for side in ("left", "bottom"):
            axis.spines[side].set_visible(False)

    return draw(name, paint, 3.4)
