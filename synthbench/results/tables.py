"""A comparison as text: Markdown, LaTeX (booktabs) and CSV.

Every function takes the dict of a comparison.json, of which it reads `title`, `protocol`, `columns`, `rows`, `differences`, `notes` and
`published`, and `floor`, the row of a recognizer that learnt nothing; a report of one run or of a sweep writes its table in the same
form. Cells hold `value`, `sampling_stderr`, `seed_std`, `low`,
`high` in the metric's own unit; a column's `scale` turns that into what is shown.
"""

from __future__ import annotations

import csv
import io
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from synthbench.results.published import BENCHMARKS, remark
from synthbench.results.record import CHANCE
from synthbench.types import UserError, Volume

Comparison = Mapping[str, Any]
Cell = Mapping[str, Any]

AVG, GAP = "verification/avg/accuracy", "gap_to_real/points"
TIED = "†"
UNEQUAL = 1.3  # sets whose sizes differ by more than this factor; copies of inquiries alone make a quarter
WIDEST = 9  # columns of results in one table
PAGE = 40  # rows of a LaTeX table that fit on a page
LEGEND = {
    "error": "± is one standard error over pairs, images or classes",
    "seeds": "; in brackets the standard deviation between seeds",
    "best": "bold: best of the generators in its column",
    "tied": f"{TIED}: the data cannot tell it from the best; what has no error is not marked",
}
PARTS = ("value", "sampling_stderr", "seed_std", "low", "high", "n", "best", "tied", "chance")  # of a cell, in the CSV
NUMBER = re.compile(r"[-+−<≤±0-9]|under ")
LATEX = {
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "—": "---",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "…": r"\ldots{}",
    "λ": r"$\lambda$",
    "≈": r"$\approx$",
    "→": r"$\to$",
    "′": "$'$",
    TIED: r"$^{\dagger}$",
    "\n": " ",
}


def number(value: float | None, digits: int = 2) -> str:
    """A number with `digits` decimals; `-` for None and what is not finite."""
    return "-" if value is None or not math.isfinite(value) else f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no minus zero


def signed(value: float) -> str:
    """`+1.20`, `-0.31`, `+0.00`: a difference in points."""
    return f"{round(value, 2) + 0.0:+.2f}"


def heading(column: Mapping[str, Any]) -> str:
    """`AVG (%)`; a title that says its unit is left as it is."""
    unit = column.get("unit") or ""
    return f"{column['title']} ({unit})" if unit and unit not in column["title"] else column["title"]


def rows_of(comparison: Comparison) -> list[Mapping[str, Any]]:
    """The rows of a table: what was run, below the recognizer that learnt nothing, where that was measured."""
    return [*([comparison["floor"]] if comparison.get("floor") else []), *comparison["rows"]]


def shown(cell: Cell | None, column: Mapping[str, Any]) -> tuple[str, str]:
    """Value and standard error of a cell as they are shown; the error is empty when there is none."""
    if not cell or cell.get("value") is None:
        return "-", ""
    scale, digits, error = column.get("scale", 1.0), column.get("digits", 2), cell.get("sampling_stderr")
    return number(cell["value"] * scale, digits), "" if error is None else number(error * scale, digits)


def column_groups(comparison: Comparison) -> list[list[Mapping[str, Any]]]:
    """The columns of one table, or of several where they are many: accuracies first, people by group, the rest below."""
    columns = list(comparison["columns"])
    if len(columns) <= WIDEST:
        return [columns]
    apart = {"accuracy": 0, "people": 1}
    groups = [[column for column in columns if apart.get(column.get("group", ""), 2) == number] for number in range(3)]
    return [group for group in groups if group]


def spread(cell: Cell | None, column: Mapping[str, Any]) -> str:
    """What is shown in brackets: the standard deviation between seeds, empty for one seed; of a share with a chance level that level."""
    inside = None if not cell or cell.get("value") is None else cell.get("chance", cell.get("seed_std"))
    return "" if inside is None else number(inside * column.get("scale", 1.0), column.get("digits", 2))


def legend(comparison: Comparison) -> list[str]:
    """What a reader must know to read the table: the marks that occur in it, then the comparison's own notes."""
    cells = [cell for row in comparison["rows"] for cell in row["cells"].values() if cell]
    seeds = any(cell.get("seed_std") is not None for cell in cells)
    marks = [LEGEND["error"] + (LEGEND["seeds"] if seeds else "")]
    marks += [LEGEND[mark] for mark in ("best", "tied") if any(cell.get(mark) for cell in cells)]
    if any(column["metric"].endswith("/accuracy") for column in comparison["columns"]):
        marks.append(CHANCE)
    said = (*comparison.get("notes", ()), unequal_sizes(comparison), *comparison.get("skipped", ()))
    notes = [(note[:1].upper() if note[1:2].isalpha() else note[:1]) + note[1:].rstrip(".") + "." for note in said if note]
    return ["; ".join(marks) + ".", *notes]


def unequal_sizes(comparison: Comparison) -> str:
    """That the generated sets are not of one size, with the smallest and the largest; empty where they are."""
    sizes = {str(row["label"]): size for row in comparison["rows"] if row["generator"] != "real" and (size := _images(row))}
    if not sizes or max(sizes.values()) <= UNEQUAL * min(sizes.values()):
        return ""
    (small, few), *_, (large, many) = sorted(sizes.items(), key=lambda item: item[1])
    return f"the sets are not of one size, from {few:,} images ({small}) to {many:,} ({large}), and more images alone raise accuracy"


def _images(row: Mapping[str, Any]) -> float | None:
    """Images of a row's set, as counted, else as asked for."""
    counted = (row.get("cells", {}).get("cost/images") or {}).get("value")
    try:
        return counted or (Volume.parse(str(row.get("volume"))).images or None)
    except UserError:
        return None


def lead(columns: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The columns with the average and the gap in front, where a narrow screen shows them."""
    return sorted(columns, key=lambda column: column["metric"] not in (AVG, GAP))


def probability(p: float | None) -> str:
    """`0.012`, `< 0.001`; `-` for None."""
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def stated(p: float) -> str:
    """`p = 0.012`, `p < 0.001`."""
    return f"p {probability(p)}" if p < 0.001 else f"p = {probability(p)}"


def oriented(differences: Sequence[Mapping[str, Any]], baseline: str) -> list[dict[str, Any]]:
    """The differences with one sign everywhere: the baseline is what is subtracted, and its rows come first."""
    turned = [turn(item) if item["a"] == baseline else dict(item) for item in differences]
    return sorted(turned, key=lambda item: item["b"] != baseline)


def turn(item: Mapping[str, Any]) -> dict[str, Any]:
    """B - A instead of A - B."""
    low, high = item.get("low"), item.get("high")
    bounds = {"low": None if high is None else -high, "high": None if low is None else -low}
    return {**item, "a": item["b"], "b": item["a"], "points": -item["points"], **bounds}


def bounds(item: Mapping[str, Any]) -> str:
    """The interval of a difference."""
    return "-" if item.get("low") is None or item.get("high") is None else f"{signed(item['low'])} to {signed(item['high'])}"


def differences(comparison: Comparison, metric: str | None = None) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the paired differences, all or those of one metric."""
    labels = {row["run"]: row["label"] for row in comparison["rows"]}
    titles = {column["metric"]: column["title"] for column in comparison["columns"]}
    rows = []
    for item in oriented(comparison.get("differences", ()), comparison.get("baseline", "")):
        if metric is None or item["metric"] == metric:
            rows.append(
                [
                    f"{labels.get(item['a'], item['a'])} − {labels.get(item['b'], item['b'])}",
                    titles.get(item["metric"], item["metric"]),
                    signed(item["points"]),
                    bounds(item),
                    *(probability(item.get(name)) for name in ("p", "p_holm", "mcnemar_p")),
                ]
            )
    return ["difference", "on", "points", "95 % interval", "p", "p (Holm)", "McNemar p"], rows


def published(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the published numbers (configs/published.csv); AVG as printed, recomputed where that differs.

    None under a table of other benchmarks than the papers', as older versions wrote them.
    """
    header = ["method", "size", "recipe", "LFW", "CFP-FP", "AgeDB", "CALFW", "CPLFW", "AVG", "gap", "source", "remark"]
    rows = []
    measured = {column["metric"].split("/")[1] for column in comparison["columns"] if column["metric"].startswith("verification/")}
    for row in comparison.get("published") or () if not measured - {"avg"} or measured & set(BENCHMARKS) else ():
        recipe = " / ".join(part for part in (row.get("loss"), row.get("backbone")) if part)
        five = [row.get(name) or "-" for name in ("lfw", "cfp-fp", "agedb-30", "calfw", "cplfw")]
        average = row.get("avg_printed") or row.get("avg_recomputed") or "-"
        if row.get("erratum") and row.get("avg_recomputed"):
            average += f" (recomputed {row['avg_recomputed']})"
        about = [row.get("method", ""), row.get("size", ""), recipe]
        rows.append([*about, *five, average, row.get("gap_points") or "-", row.get("source", ""), remark(row)])
    return header, [[str(cell) for cell in row] for row in rows]


def learnt_from(row: Mapping[str, Any]) -> str:
    """The sets that a generator of a comparison's row learnt from: images of each, and whether their labels were used."""
    labels = "with labels" if row["traits"].get("needs_labels") else "without labels"
    sets = [f"{images:,} images of {name}" for name, images in (row.get("learnt_from") or {}).items()]
    return f"{' and '.join(sets)}, {labels}" if sets else "nothing"


def numeric(rows: Sequence[Sequence[str]], column: int) -> bool:
    """Whether a column holds numbers, which stand at the right: not the first one, and every cell short and begun like one."""
    cells = [re.sub(r"\\[a-z]+|[\\{}$*,]", "", row[column]).strip() for row in rows if row[column]]
    return column > 0 and bool(cells) and all(NUMBER.match(cell) and len(cell) < 28 and "=" not in cell for cell in cells)


# ---------------------------------------------------------------------------------------------------------------- Markdown


def markdown_text(text: Any) -> str:
    """Text in which no character is markup, on one line."""
    plain = "".join(f"\\{mark}" if mark in "\\|*_`[]<>#" else mark for mark in str(text))
    return " ".join(plain.split())


def markdown_grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A pipe table whose cells are already Markdown; columns of numbers are right-aligned."""
    widths = [max(3, *(len(row[i]) for row in (header, *rows))) for i in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in (header, *rows)]
    rule = "| " + " | ".join("-" * (width - 1) + ":" if numeric(rows, i) else "-" * width for i, width in enumerate(widths)) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])


def results_markdown(comparison: Comparison) -> str:
    """The table with its notes; best in bold, ties marked."""
    columns = comparison["columns"]

    def text(cell: Cell | None, column: Mapping[str, Any]) -> str:
        value, error = shown(cell, column)
        best, tied = bool(cell and cell.get("best")), bool(cell and cell.get("tied"))
        between = spread(cell, column)
        value = (f"**{value}**" if best else value) + (f" ±{error}" if error else "")
        return value + (f" ({between})" if between else "") + (TIED if tied else "")

    rows = [[markdown_text(row["label"]), *(text(row["cells"].get(c["metric"]), c) for c in columns)] for row in rows_of(comparison)]
    grid = markdown_grid(["", *(markdown_text(heading(column)) for column in columns)], rows)
    return "\n\n".join([grid, *(markdown_text(note) for note in legend(comparison))]) + "\n"


def table_markdown(comparison: Comparison) -> str:
    """The table and, when there are any, the differences and the published numbers."""
    parts = [results_markdown(comparison).rstrip()]
    for found, title in ((differences, "Paired differences"), (published, "Published numbers, measured under other recipes")):
        header, lines = found(comparison)  # type: ignore[operator]
        if lines:
            cells = [[markdown_text(cell) for cell in line] for line in lines]
            parts += [f"**{title}**", markdown_grid([markdown_text(name) for name in header], cells)]
    return "\n\n".join(parts) + "\n"


# ------------------------------------------------------------------------------------------------------------------- LaTeX


def latex_text(text: Any) -> str:
    """Text that LaTeX prints as it is; letters that pdflatex does not know lose their accents, or become a question mark."""

    def one(mark: str) -> str:
        if mark in LATEX or ord(mark) < 256:
            return LATEX.get(mark, mark if mark.isprintable() else " ")
        return unicodedata.normalize("NFKD", mark).encode("ascii", "ignore").decode() or "?"

    return "".join(map(one, str(text)))


def latex_column(rows: Sequence[Sequence[str]], column: int) -> str:
    """Numbers stand at the right, words at the left, sentences wrap."""
    longest = max((len(row[column]) for row in rows), default=0)
    return "r" if numeric(rows, column) else "l" if column == 0 or longest < 60 else "p{5.5cm}"


def latex_grid(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str, label: str, notes: Sequence[str] = ()) -> str:
    """A booktabs table; cells, header and notes are LaTeX already."""
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:{label}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{''.join(latex_column(rows, i) for i in range(len(header)))}}}",
        r"\toprule",
        " & ".join(header) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}}",
        *(rf"\par\smallskip{{\footnotesize {note}\par}}" for note in notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def table_latex(comparison: Comparison) -> str:
    r"""The table and, when there are any, the differences and the published numbers. Needs \usepackage{booktabs,graphicx}."""

    def text(cell: Cell | None, column: Mapping[str, Any]) -> str:
        value, error = shown(cell, column)
        value = {"-": "--"}.get(value, value.replace("-", "$-$"))
        value = rf"\textbf{{{value}}}" if cell and cell.get("best") else value
        between = spread(cell, column)
        small = (rf"$\pm${error}" if error else "") + (f" ({between})" if between else "")
        return value + (rf"\,{{\scriptsize {small}}}" if small else "") + (LATEX[TIED] if cell and cell.get("tied") else "")

    caption = latex_text(f"{comparison['protocol']}: {comparison['title']}")
    notes = [latex_text(note) for note in legend(comparison)]
    name = "".join(mark if mark.isalnum() else "-" for mark in str(comparison.get("comparison", "synthbench")))
    head = "% Written by synthbench; needs \\usepackage{booktabs} and \\usepackage{graphicx}.\n"
    parts, groups = [head], column_groups(comparison)
    for number, columns in enumerate(groups):
        rows = [[latex_text(row["label"]), *(text(row["cells"].get(c["metric"]), c) for c in columns)] for row in rows_of(comparison)]
        last = columns is groups[-1]
        header, place = ["", *(latex_text(heading(column)) for column in columns)], name + "-data" * (number > 0)
        parts.append(latex_grid(header, rows, caption, place, notes if last else ()))
    for found, kind, title in (
        (differences, "differences", "Paired differences, in percentage points"),
        (published, "published", "Published numbers, measured under other recipes"),
    ):
        header, lines = found(comparison)  # type: ignore[operator]
        if lines:
            cells = [[latex_text(cell) for cell in line] for line in lines]
            for first in range(0, len(cells), PAGE):  # a float is never broken over pages
                more = " (continued)" if first else ""
                place = f"{name}-{kind}" + (f"-{first // PAGE + 1}" if first else "")
                parts.append(latex_grid([latex_text(cell) for cell in header], cells[first : first + PAGE], title + more, place))
    return "\n".join(parts)


# --------------------------------------------------------------------------------------------------------------------- CSV


def table_csv(comparison: Comparison) -> str:
    """One line per row and metric, unrounded, with everything a cell holds."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["run", "label", "generator", "volume", "metric", "unit", "scale", *PARTS])
    for row in rows_of(comparison):
        for column in comparison["columns"]:
            cell = row["cells"].get(column["metric"]) or {}
            about = [row["run"], row["label"], row["generator"], row["volume"], column["metric"], column["unit"], column.get("scale", 1.0)]
            writer.writerow([*about, *("" if cell.get(part) is None else cell[part] for part in PARTS)])
    return out.getvalue()
