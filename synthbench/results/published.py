"""Published results, as configs/published.csv has them: one line for every row of the papers' tables, with its recipe.

Accuracies and AVG are percent; `avg_printed` is what the source prints, `avg_recomputed` the mean of its five columns, an `erratum` says
where they differ by more than rounding (0.01). `real_avg` is the real row that `gap_points` (REAL - SYN) and `gap_relative`
(100 (REAL - SYN) / SYN) refer to; `gap_formula` is the source's own, empty when it prints no gap. `kind`: real, main, rerun (the same set
under somebody else's recipe), ablation (of `setting`). `number`: of the last epoch, the best on test, or unknown, which is what most papers
leave it at; public code of the field often keeps the best by the benchmarks' own average.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from synthbench.types import Volume

FILE = Path(__file__).parents[1] / "configs" / "published.csv"
FULL = 112  # px of the images in all papers
BENCHMARKS = ("lfw", "cfp-fp", "agedb-30", "calfw", "cplfw")
SHOWN = (
    *("method", "venue", "size", "loss", "backbone"),
    *BENCHMARKS,
    *("avg_printed", "avg_recomputed", "real_avg", "gap_points", "gap_formula", "number", "source", "erratum", "note"),
)
KINDS = ("last epoch", "best on test", "unknown")  # of numbers

Row = dict[str, str]


def remark(row: Row) -> str:
    """What must be known beside the number of a row, also of one that an older version kept."""
    kind = row.get("number", "")
    return "; ".join(part for part in (kind if kind != "unknown" else "", row.get("erratum"), row.get("note")) if part)


def read() -> list[Row]:
    with open(FILE, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def beside(volumes: Iterable[str], benchmarks: Iterable[str], resolution: int = FULL) -> list[Row]:
    """The rows to set beside a comparison, in the columns that are shown: real rows and every method at the same volumes.

    None beside a comparison on none of the five benchmarks of photographs, or of smaller images: there no published number can be compared.
    """
    if resolution < FULL or not set(benchmarks) & set(BENCHMARKS):
        return []
    named = {name for name in volumes if name in Volume.NAMED and name != "all"}
    rows = [row for row in read() if row["kind"] == "real" or (row["kind"] != "ablation" and (not named or row["volume"] in named))]
    return [{name: row[name] for name in SHOWN} for row in rows]
