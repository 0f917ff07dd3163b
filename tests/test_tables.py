"""A comparison as Markdown, LaTeX and CSV: the marks, the escapes, and that it compiles."""

from __future__ import annotations

import csv
import shutil
import subprocess

import pytest

from synthbench.results import tables
from synthbench.results.published import read


def cell(value: float, stderr: float | None = None, std: float | None = None, best: bool = False, tied: bool = False) -> dict:
    return {
        "value": value,
        "sampling_stderr": stderr,
        "seed_std": std,
        "low": value - 1,
        "high": value + 1,
        "n": 2,
        "best": best,
        "tied": tied,
    }


NASTY = 'a|b_c & 50% {x} #1 ~^\\ "q" <i> λ → 名 ‘'
COMPARISON = {
    "comparison": "x_y", "protocol": "demo", "title": "rendered & small", "volume": "2x2", "seeds": [0, 1], "baseline": "r",
    "columns": [
        {"metric": "verification/avg/accuracy", "title": "AVG", "unit": "%", "digits": 2, "higher_is_better": True, "scale": 1.0},
        {"metric": "leak", "title": "leaked ids", "unit": "%", "digits": 1, "higher_is_better": False, "scale": 100.0},
    ],
    "rows": [
        {"run": "r", "label": "real", "generator": "real", "volume": "all",
         "cells": {"verification/avg/accuracy": cell(90.0, 0.5, 0.25), "leak": None}},
        {"run": "g", "label": NASTY, "generator": "g", "volume": "2x2",
         "cells": {"verification/avg/accuracy": cell(80.0, 0.5, 0.25, best=True), "leak": cell(0.125, None, None, tied=True)}},
    ],
    "differences": [
        {"a": "r", "b": "g", "metric": "verification/avg/accuracy", "points": 10.0, "low": 8.0, "high": 12.0, "p": 2e-4, "p_holm": 0.04},
    ],
    "notes": ["two seeds say little"], "published": [],
}  # fmt: skip


def test_markdown_marks_the_best_and_the_tied():
    text = tables.table_markdown(COMPARISON)
    assert "| AVG (%) " in text and "| leaked ids (%) " in text
    flat = " ".join(text.split())
    assert "90.00 ±0.50 (0.25) |" in flat and "**80.00** ±0.50 (0.25) |" in flat and "12.5† |" in flat
    assert "in brackets the standard deviation between seeds; bold: best" in text and "Two seeds say little." in text
    assert r"a\|b\_c & 50% {x} \#1" in text
    assert "− real | AVG | -10.00 | -12.00 to -8.00 | < 0.001 | 0.040 | -" in flat.replace("\\<", "<")  # the baseline is subtracted
    widths = {len(line) for line in text.splitlines()[:4]}
    assert len(widths) == 1 and text.splitlines()[1].endswith("-: |")


def test_csv_keeps_everything_unrounded():
    rows = list(csv.DictReader(tables.table_csv(COMPARISON).splitlines()))
    assert [row["metric"] for row in rows] == ["verification/avg/accuracy", "leak"] * 2
    assert rows[3]["label"] == NASTY and float(rows[3]["value"]) == 0.125 and rows[3]["scale"] == "100.0"
    assert rows[1]["value"] == "" and rows[2]["best"] == "True" and float(rows[2]["low"]) == 79.0


def test_columns_of_numbers_are_told_from_words():
    rows = [["1", "0.5M", "-", "5 min", "20K×50 = 1.0M"], ["2", "1.0", "+3", "under 1 s", "0.5M"]]
    assert [tables.numeric(rows, i) for i in range(5)] == [False, True, True, True, False]


def test_published_rows_are_condensed():
    header, rows = tables.published({"published": read(), "columns": [{"metric": "verification/lfw/accuracy"}]})
    assert tables.published({"published": read(), "columns": [{"metric": "verification/world-mixed/accuracy"}]}) == (header, [])
    assert len(rows) == len(read()) and all(len(row) == len(header) for row in rows)
    casia = next(row for row in rows if row[0] == "CASIA-WebFace" and "CosFace" in row[2])
    assert casia[3:9] == ["99.30", "94.87", "94.35", "93.15", "89.65", "94.26"]


def test_no_probability_is_zero():
    assert [tables.probability(p) for p in (None, 0.0, 1e-300, 0.00099, 0.001, 0.5)] == ["-", *["< 0.001"] * 3, "0.001", "0.500"]
    assert [tables.stated(p) for p in (0.0, 0.04)] == ["p < 0.001", "p = 0.040"]


def test_sets_of_unequal_size_are_told():
    def rows(*volumes):
        every = [("real", "all"), *(("g", volume) for volume in volumes)]
        return {"rows": [{"label": f"{g} {v}", "generator": g, "volume": v, "cells": {}} for g, v in every]}

    told = tables.unequal_sizes(rows("5x10", "200x20", "100x20"))
    assert "from 50 images (g 5x10) to 4,000 (g 200x20)" in told
    assert tables.unequal_sizes(rows("200x20", "200x25", "all")) == "" and tables.unequal_sizes(rows()) == ""
    counted = rows("200x20", "200x20")
    counted["rows"][1]["cells"] = {"cost/images": {"value": 5000}}  # five copies of each inquiry
    assert tables.unequal_sizes(counted) == ""


def test_the_baseline_is_what_is_subtracted():
    one = {"a": "r", "b": "g", "points": 2.0, "low": 1.0, "high": 4.0}
    other = {"a": "g", "b": "h", "points": 1.0, "low": None, "high": None}
    assert tables.oriented([other, one], "r") == [{"a": "g", "b": "r", "points": -2.0, "low": -4.0, "high": -1.0}, other]
    assert tables.oriented(tables.oriented([other, one], "r"), "r") == tables.oriented([other, one], "r")
    assert tables.turn(other)["low"] is None


def test_latex_escapes():
    assert tables.latex_text("50% of a_b & c") == r"50\% of a\_b \& c"
    assert tables.latex_text("±1 × 名é") == r"$\pm$1 $\times$ ?é"
    text = tables.table_latex(COMPARISON)
    assert r"\textbf{80.00}\,{\scriptsize $\pm$0.50 (0.25)}" in text and text.count(r"\toprule") == 2
    assert r"\begin{tabular}{lrr}" in text and r"\caption{demo: rendered \& small}" in text


def many(rows: int = 9) -> dict:
    """A comparison of `rows` rows and 14 columns, with every difference on two benchmarks."""
    groups = ["accuracy"] * 7 + ["data"] * 7
    columns = [
        {"metric": f"m{i}", "title": f"metric_{i}", "unit": "%", "digits": 2, "higher_is_better": True, "scale": 1.0, "group": group}
        for i, group in enumerate(groups)
    ]
    cells = {column["metric"]: cell(88.88, 0.55, 1.23) for column in columns}
    found = [
        {"run": f"r{i}", "label": f"my_gen{i} 50% 200x20", "generator": f"g{i}", "volume": "200x20", "cells": cells} for i in range(rows)
    ]
    differences = [
        {"a": f"r{i}", "b": f"r{j}", "metric": metric, "points": 1.0, "low": -1.0, "high": 2.0, "p": 0.5, "p_holm": 1.0, "mcnemar_p": 0.5}
        for metric in ("m0", "m1", "m2")
        for i in range(rows)
        for j in range(i)
    ]
    return {**COMPARISON, "columns": columns, "rows": found, "differences": differences, "published": read()}


def test_latex_of_many_rows_is_split():
    text = tables.table_latex(many())
    starts = [line for line in text.splitlines() if line.startswith(r"\label")]
    assert starts[:2] == [r"\label{tab:x-y}", r"\label{tab:x-y-data}"]  # accuracies, then the rest
    assert r"\label{tab:x-y-differences-3}" in starts and len(set(starts)) == len(starts)
    assert all(table.count(r" \\") <= tables.PAGE + 1 for table in text.split(r"\begin{table}"))
    assert r"my\_gen3 50\% 200x20" in text and text.count("± is one") == 0 and text.count("is one standard error") == 1
    assert "p{5.5cm}" in text  # remarks wrap


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed (Debian: texlive-latex-recommended)")
@pytest.mark.parametrize("comparison", [{**COMPARISON, "published": read()}, many()], ids=["small", "many"])
def test_latex_compiles(tmp_path, comparison):
    (tmp_path / "table.tex").write_text(tables.table_latex(comparison), "utf-8")
    page = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}\input{table}\end{document}"
    (tmp_path / "page.tex").write_text(page, "utf-8")
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stdout[-2000:].decode("utf-8", "replace")
    assert (tmp_path / "page.pdf").stat().st_size > 10_000
    assert b"Overfull" not in done.stdout and b"Float too large" not in done.stdout


def test_nothing_is_printed_as_minus_zero() -> None:
    assert tables.number(-0.001) == "0.00" and tables.number(-0.006) == "-0.01"
    assert [tables.signed(value) for value in (-0.001, 0.0, 1.204, -0.305001)] == ["+0.00", "+0.00", "+1.20", "-0.31"]
