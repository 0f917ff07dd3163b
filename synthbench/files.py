"""Files that are not what their name says: what a download leaves when it did not work."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import BinaryIO

from synthbench.types import UserError

LFS = b"version https://git-lfs"
PAGES = (b"<!doctype html", b"<html", b"<?xml")
QUICK = 2**30  # bytes of a file that are read in seconds, whatever is in it
SPECIAL = "neither a file nor a folder; from a pipe, a socket or a device nothing is read, for that may never end"
HOLES = 50  # times what was written that a larger file may claim: a database has room to grow, a download that stopped has next to nothing


def require_no_pipe(path: Path) -> None:
    """Raises UserError for what is there and neither a file nor a folder."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"{path} is {SPECIAL}")


def require_itself(path: Path) -> None:
    """Raises UserError for a file that is empty, a pointer of Git LFS or a web page, whatever its name, and for a pipe.

    Folders are not looked into.
    """
    require_no_pipe(path)
    if not path.is_file():
        return
    with open(path, "rb") as file:
        require_written(file, path)
        head = file.read(256).lstrip().lower()
    if not path.stat().st_size:
        raise UserError(f"{path}: the file is empty; fetch it again")
    if head.startswith(LFS):
        raise UserError(f"{path} is a pointer of Git LFS, not the file itself: run `git lfs pull` where it was cloned, or fetch the file")
    if head.startswith(PAGES):
        raise UserError(f"{path} is a web page: the download gave a page that asks for something. Open its address in a browser")


def require_written(file: BinaryIO, path: Path) -> None:
    """Raises UserError for a large file, just opened, that is nearly all holes: terabytes of zeros would be read, or hashed, for hours.

    The file system is asked where holes are, not how many blocks a file takes: compressed ones take few, and some network drives tell none.
    One that knows of no holes says that all was written, and the file is read.
    """
    size = os.fstat(file.fileno()).st_size
    if size <= QUICK or not hasattr(os, "SEEK_DATA"):  # Windows
        return
    written = _written(file.fileno(), size // HOLES)
    os.lseek(file.fileno(), 0, os.SEEK_SET)
    if written < size // HOLES:
        raise UserError(
            f"{path}: {size:,} bytes, of which {written:,} were ever written and the rest are holes, as a download leaves that did not "
            "end. Fetch it again, or delete it"
        )


def _written(file: int, enough: int) -> int:
    """Bytes of an open file that are no hole, counted until there are `enough`."""
    written = at = 0
    while written < enough:
        try:
            at = os.lseek(file, at, os.SEEK_DATA)
        except OSError as error:
            return written if error.errno == errno.ENXIO else enough  # nothing but a hole follows; or it cannot be asked
        end = os.lseek(file, at, os.SEEK_HOLE)
        written, at = written + end - at, end
    return written
