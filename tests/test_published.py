"""published.csv says what its sources say: averages and gaps are recomputed, and errata are exactly the rows that do not match."""

from __future__ import annotations

import pytest

from synthbench.results import published

ROWS = published.read()
ROUNDING = 0.0101  # both the columns and the mean are rounded, somewhere cut off, at 0.01


def name(row):
    return f"{row['method']} {row['volume']} {row['setting']} {row['source']}"


def five(row):
    return [float(row[benchmark]) for benchmark in published.BENCHMARKS if row[benchmark]]


def test_every_row_has_a_method_a_source_and_a_number():
    assert len(ROWS) > 140
    for row in ROWS:
        assert row["method"] and row["source"] and row["generator"] and row["kind"] in ("real", "main", "rerun", "ablation"), row
        assert (row["avg_printed"] or row["avg_recomputed"]) and len(five(row)) in (0, 5), row
        assert (row["kind"] == "ablation") == bool(row["setting"]), row


def test_every_row_says_what_kind_of_number_it_is():
    assert {row["number"] for row in ROWS} <= set(published.KINDS)
    best = [row for row in ROWS if row["number"] == "best on test"]
    assert {row["source"] for row in best} == {"third-party re-run"}
    assert published.remark(best[0]).startswith("best on test; its README")
    assert published.remark({"number": "unknown", "erratum": "", "note": "private"}) == published.remark({"note": "private"}) == "private"


def test_the_rendered_stand_in_never_has_the_rows_of_digiface_1m():
    assert "digiface" not in {row["generator"] for row in ROWS} and "digiface_1m" in {row["generator"] for row in ROWS}


def test_no_row_is_there_twice():
    keys = [tuple(row[key] for key in ("method", "size", "setting", "loss", "backbone", "source")) for row in ROWS]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("row", [row for row in ROWS if five(row)], ids=name)
def test_the_average_is_the_mean_of_the_columns_and_errata_are_the_rows_where_it_is_not(row):
    mean = sum(five(row)) / 5
    assert float(row["avg_recomputed"]) == pytest.approx(mean, abs=0.00501)
    wrong = bool(row["avg_printed"]) and abs(float(row["avg_printed"]) - mean) > ROUNDING
    assert wrong == row["erratum"].startswith("AVG:")
    if wrong:
        assert row["avg_printed"] in row["erratum"] and row["avg_recomputed"] in row["erratum"]


def test_a_copied_row_is_an_erratum():
    seen = {}
    for row in ROWS:
        if five(row):
            seen.setdefault(tuple(five(row)), []).append(row)
    copies = [rows for rows in seen.values() if len(rows) > 1]
    assert [[row["setting"] for row in rows] for rows in copies] == [["m 0.8", "m -1"]]
    assert copies[0][0]["erratum"].startswith("row:") and not copies[0][1]["erratum"]
    assert {row["method"] for row in ROWS if row["erratum"]} == {"IDnet", "UIFace (independent)", "CemiFace"}


@pytest.mark.parametrize("row", [row for row in ROWS if row["real_avg"]], ids=name)
def test_gaps_are_those_of_their_formulas(row):
    real, synthetic = float(row["real_avg"]), float(row["avg_recomputed"] or row["avg_printed"])
    assert float(row["gap_points"]) == pytest.approx(real - synthetic, abs=ROUNDING)
    assert float(row["gap_relative"]) == pytest.approx(100 * (real - synthetic) / synthetic, abs=1.5 * ROUNDING)


def test_the_main_rows_of_the_paper():
    """CemiFace, Table 6: 92.30, 93.07, 93.22; gaps 1.96, 1.19, 1.04 to 94.26."""
    found = [row for row in ROWS if row["source"] == "CemiFace T6" and row["method"] == "CemiFace"]
    assert [(row["volume"], float(row["avg_recomputed"]), row["gap_points"]) for row in found] == [
        ("0.5M", 92.30, "1.96"),
        ("1.0M", 93.07, "1.19"),
        ("1.2M", 93.22, "1.04"),
    ]
    assert {row["gap_formula"] for row in found} == {"REAL - SYN"} and {row["real_avg"] for row in found} == {"94.26"}


def test_printed_relative_gaps():
    """As DCFace (main text) and VIGFace v1 print them: (REAL - SYN) / SYN."""
    printed = {("SynFace", "DCFace T4"): "26.58", ("SynFace (re-trained)", "VIGFace v1"): "36.22", ("VIGFace(L) v1", "VIGFace v1"): "1.62"}
    for (method, source), gap in printed.items():
        (row,) = (row for row in ROWS if (row["method"], row["source"]) == (method, source))
        assert row["gap_relative"] == gap and row["gap_formula"] == "(REAL - SYN) / SYN"


def test_on_photographs_every_method_of_the_volume_stands_beside():
    rows = published.beside(["all", "0.5M"], published.BENCHMARKS)
    methods = {row["method"] for row in rows}
    assert {"DCFace", "CemiFace", "Arc2Face", "CASIA-WebFace"} <= methods and "VIGFace(L) ICCV" not in methods


def test_beside_rendered_faces_stands_nothing():
    assert published.beside(["all", "0.5M"], ["world-mixed"]) == []
