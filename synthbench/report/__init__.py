"""`synthbench report`: a page of a run, a comparison or a sweep that is looked at, and the same as Markdown, LaTeX and CSV.

    report.html   everything, in one file that needs no other
    report.md     the same, with figures/ beside it
    table.tex     the table of results, booktabs
    table.csv     the same, unrounded, one line per row and metric

A report only reads: the result file and the stages it names. What is gone or damaged leaves a line that says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from synthbench import console
from synthbench.report.blocks import Document, markdown, write_file
from synthbench.report.data import load, open_run
from synthbench.report.documents import comparison_document, run_document, sweep_document
from synthbench.report.page import page
from synthbench.results import lookup
from synthbench.results.tables import table_csv, table_latex, table_markdown
from synthbench.store import Store
from synthbench.types import UserError

__all__ = ["report", "table_csv", "table_latex", "table_markdown", "write"]


def report(name: str, runs: Path, out: Path | None = None, photographs: bool = False, kinds: Sequence[str] = lookup.KINDS) -> Path:
    """Write the report of the run, comparison or sweep called `name` (into its own folder unless told); returns the path of report.html.

    kinds: where the name is looked for.
    """
    store = Store(runs.absolute())
    folder = lookup.find(store, name, kinds).folder
    path = write(folder, store, out or folder / "report", photographs)
    console.note(f"report: {path} ({console.size(path.stat().st_size)})")
    return path


def write(kind_folder: Path, store: Store, out: Path, photographs: bool = False) -> Path:
    """Write report.html, report.md (with figures/), table.tex and table.csv of the result in `kind_folder` into `out`."""
    shown = document(kind_folder, store, photographs)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_file(out / "table.csv", table_csv(shown.comparison).encode())
        write_file(out / "table.tex", table_latex(shown.comparison).encode())
        write_file(out / "report.md", markdown(shown, out).encode())
        write_file(out / "report.html", page(shown).encode())
    except OSError as error:
        raise UserError(f"cannot write the report into {out}: {error.strerror or error}") from error
    return out / "report.html"


def document(kind_folder: Path, store: Store, photographs: bool = False) -> Document:
    """What the report of `kind_folder` says. Raises UserError when there is no whole result in it."""
    try:
        if (kind_folder / "comparison.json").is_file():
            return comparison_document(load(kind_folder / "comparison.json"), store, photographs)
        if (kind_folder / "sweep.json").is_file():
            return sweep_document(load(kind_folder / "sweep.json"), store, photographs)
        return run_document(open_run(store, kind_folder.name), photographs)
    except (KeyError, IndexError, TypeError, AttributeError) as error:  # a file edited by hand, or written by another version
        raise UserError(f"the result in {kind_folder} is not whole ({type(error).__name__}: {error}); make it again") from error
