"""`synthbench report`: a page of a run, a comparison or a sweep that is looked at, and the same as Markdown, LaTeX and CSV.

    report.html   everything, in one file that needs no other
    report.md     the same, with figures/ beside it
    table.tex     the table of results, booktabs
    table.csv     the same, unrounded, one line per row and metric

A report only reads: the result file and the stages it names. What is gone or damaged leaves a line that says so.
"""

from __future__ import annotations

from pathlib import Path

from synthbench import console
from synthbench.config import did_you_mean
from synthbench.report.blocks import Document, markdown, write_file
from synthbench.report.data import load, open_run
from synthbench.report.documents import comparison_document, run_document, sweep_document
from synthbench.report.page import page
from synthbench.results.record import find_run
from synthbench.results.tables import table_csv, table_latex, table_markdown
from synthbench.store import Store
from synthbench.types import UserError

__all__ = ["find", "report", "table_csv", "table_latex", "table_markdown", "write"]

COMPARISON = {"comparison", "protocol", "title", "seeds", "columns", "rows"}
SWEEP = {"sweep", "generator", "volume", "protocol", "title", "seeds", "parameters", "points"}


def report(name: str, runs: Path, out: Path | None = None, photographs: bool = False) -> Path:
    """Write the report of the run, comparison or sweep called `name` (into its own folder unless told); returns the path of report.html."""
    store = Store(runs.absolute())
    folder = find(store, name)
    path = write(folder, store, out or folder / "report", photographs)
    console.note(f"report: {path} ({console.size(path.stat().st_size)})")
    return path


def find(store: Store, name: str) -> Path:
    """The folder of the comparison, sweep or run called `name`: the full name, a unique beginning, or `latest` for the newest run."""
    made = [path.parent for kind in ("comparisons", "sweeps") for path in sorted((store.root / kind).glob(f"*/{kind[:-1]}.json"))]
    found = [folder for folder in made if folder.name == name] or [folder for folder in made if folder.name.startswith(name)]
    if len(found) > 1:
        raise UserError(f"{name!r} is the beginning of {len(found)} names: {', '.join(folder.name for folder in found)}")
    if found:
        return found[0]
    try:
        return find_run(store, name)
    except UserError as error:
        if made:
            raise UserError(
                f"{error}; nor is a comparison or sweep called so{did_you_mean(name, (folder.name for folder in made))}"
            ) from None
        raise


def write(kind_folder: Path, store: Store, out: Path, photographs: bool = False) -> Path:
    """Write report.html, report.md (with figures/), table.tex and table.csv of the result in `kind_folder` into `out`."""
    made = document(kind_folder, store, photographs)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_file(out / "table.csv", table_csv(made.comparison).encode())
        write_file(out / "table.tex", table_latex(made.comparison).encode())
        write_file(out / "report.md", markdown(made, out).encode())
        write_file(out / "report.html", page(made).encode())
    except OSError as error:
        raise UserError(f"cannot write the report into {out}: {error.strerror or error}") from error
    return out / "report.html"


def document(kind_folder: Path, store: Store, photographs: bool = False) -> Document:
    """What the report of `kind_folder` says. Raises UserError when there is no whole result in it."""
    try:
        if (kind_folder / "comparison.json").is_file():
            return comparison_document(load(kind_folder / "comparison.json", "comparison", COMPARISON), store, photographs)
        if (kind_folder / "sweep.json").is_file():
            return sweep_document(load(kind_folder / "sweep.json", "sweep", SWEEP), store, photographs)
        return run_document(open_run(store, kind_folder.name), photographs)
    except (KeyError, IndexError, TypeError, AttributeError) as error:  # a file edited by hand, or written by another version
        raise UserError(f"the result in {kind_folder} is not whole ({type(error).__name__}: {error}); make it again") from error
