"""`synthbench ui --optuna`: optuna-dashboard on the study of a sweep, on loopback."""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from synthbench import console
from synthbench.types import UserError


def serve(folder: Path, port: int) -> None:
    """Serve the study in the folder of a sweep until Ctrl-C.

    Raises UserError when optuna-dashboard is not installed, the study is not a file, or the port is taken.
    """
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
