"""`synthbench ui --optuna`: optuna-dashboard on the study of a sweep, on loopback."""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from synthbench import console
from synthbench.config import did_you_mean
from synthbench.types import UserError


def serve(runs: Path, name: str | None, port: int) -> None:
    """Serve until Ctrl-C. `name`: a sweep, or the unique beginning of one; the latest when absent.

    Raises UserError when optuna-dashboard is not installed, there is no such sweep, or the port is taken.
    """
    folder = find(runs, name)
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise UserError(f"optuna-dashboard is not installed. Install it with: {console.install('dashboard')}")
    journal = folder / "study.journal"
    if not journal.is_file():
        raise UserError(f"the study of {folder.name} is in a database; open it with: optuna-dashboard URL, the one of its --storage")
    from optuna_dashboard import run_server

    console.note(f"{folder.name}: http://127.0.0.1:{port}/   (Ctrl-C ends it)")
    try:
        with contextlib.suppress(KeyboardInterrupt):
            run_server(JournalStorage(JournalFileBackend(str(journal))), host="127.0.0.1", port=port)
    except OSError as error:
        raise UserError(f"port {port} of 127.0.0.1 cannot be used: {error.strerror}. Take another: --port {port % 60000 + 1}") from None


def find(runs: Path, name: str | None) -> Path:
    """The folder of a sweep."""
    folders = sorted((path.parent for path in (runs / "sweeps").glob("*/design.json")), key=lambda path: path.stat().st_mtime)
    if not folders:
        raise UserError(f"there are no sweeps in {runs}; make one with: synthbench sweep m")
    if name is None:
        return folders[-1]
    found = [folder for folder in folders if folder.name == name] or [folder for folder in folders if folder.name.startswith(name)]
    if len(found) != 1:
        problem = f"{name!r} is the beginning of {len(found)} sweeps" if found else f"no sweep {name!r} in {runs / 'sweeps'}"
        raise UserError(problem + did_you_mean(name, (folder.name for folder in found or folders), show_all=True))
    return found[0]
