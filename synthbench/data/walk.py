"""What lies on the user's disk as data: regular files alone, each folder once, names of any bytes."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from synthbench.files import SPECIAL, require_no_pipe
from synthbench.types import UserError

LARGEST = 2**29  # bytes of a list: twice that of 5.8 million images


def opened(path: Path) -> BinaryIO:
    """`path`, to be read. Raises UserError when it cannot be, or is no regular file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path}: not a file" if path.is_dir() else f"{path} is {SPECIAL}")
        return open(path, "rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def content(path: Path, most: int = LARGEST) -> bytes:
    """The bytes of a file. Raises UserError when it cannot be read, is no regular file, or has more than `most` bytes."""
    with opened(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > most:
            raise UserError(f"{path}: {size:,} bytes are too many for what it should be; at most {most:,} are read")
        return file.read()


def require_there(path: Path) -> None:
    """Raises UserError unless `path` is a file or a folder."""
    if not path.exists():
        raise UserError(f"{path} does not exist")
    require_no_pipe(path)


def files(folder: Path) -> list[str]:
    """Relative names, with `/`, of the files below `folder` that are not hidden, sorted; links are followed.

    A folder that links lead to as well counts once, under its own name if that is not hidden: no loop is walked for ever. Pipes, sockets
    and devices are left out; a link that leads nowhere is not, so that whoever reads it says so. Raises UserError.
    """
    seen: set[tuple[int, int]] = set()

    def scan(place: str, prefix: str) -> Iterator[str]:
        about = os.stat(place)
        if (about.st_dev, about.st_ino) in seen:
            return
        seen.add((about.st_dev, about.st_ino))
        with os.scandir(place) as entries:
            found = sorted(entries, key=lambda entry: (entry.name.startswith("."), entry.is_symlink(), entry.name))
        for entry in found:
            if entry.is_dir():
                yield from scan(entry.path, f"{prefix}{entry.name}/")
            elif not entry.name.startswith(".") and (entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))):
                yield prefix + entry.name

    try:
        return sorted(scan(str(folder), ""))
    except OSError as error:
        raise UserError(f"{error.filename or folder}: cannot be read ({error.strerror})") from None


def readable(name: str) -> str:
    """A name as text: bytes that are no UTF-8, which Linux allows in names, as \\\\xe9, and halves of letters, which JSON allows."""
    name = re.sub("[\ud800-\udc7f\udd00-\udfff]", lambda found: repr(found[0])[1:-1], name)
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
