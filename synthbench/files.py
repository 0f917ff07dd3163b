"""Files that are not what their name says: what a download leaves when it did not work."""

from __future__ import annotations

from pathlib import Path

from synthbench.types import UserError

LFS = b"version https://git-lfs"
PAGES = (b"<!doctype html", b"<html", b"<?xml")


def require_itself(path: Path) -> None:
    """Raises UserError for a file that is empty, a pointer of Git LFS or a web page, whatever its name; folders are not looked into."""
    if not path.is_file():
        return
    with open(path, "rb") as file:
        head = file.read(256).lstrip().lower()
    if not path.stat().st_size:
        raise UserError(f"{path}: the file is empty; fetch it again")
    if head.startswith(LFS):
        raise UserError(f"{path} is a pointer of Git LFS, not the file itself: run `git lfs pull` where it was cloned, or fetch the file")
    if head.startswith(PAGES):
        raise UserError(f"{path} is a web page: the download gave a page that asks for something. Open its address in a browser")
