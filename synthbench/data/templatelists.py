"""Which template set lies in a folder: IJB-B or IJB-C in two layouts, or TinyFace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from synthbench.data import ijb, tinyface, walk
from synthbench.data.templates import Found
from synthbench.types import UserError

LAYOUTS: tuple[tuple[Callable[[Path], bool], Callable[[Path], Found]], ...] = (
    (ijb.is_archive, ijb.archive),
    (ijb.is_protocols, ijb.protocols),
    (tinyface.is_tinyface, tinyface.tinyface),
)


def list_templates(path: Path) -> Found:
    """The template set in the folder `path`, or in the one folder in it that holds one. Raises UserError for none, and for several."""
    walk.require_there(path)
    if path.is_dir():
        for places in ([path], sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))):
            found = [(read, place) for place in places for fits, read in LAYOUTS if fits(place)]
            if len(found) > 1:
                raise UserError(f"{path} holds several template sets, such as {found[0][1]} and {found[1][1]}; give one of them")
            if found:
                return found[0][0](found[0][1])
    raise UserError(
        f"{path}: no template set. Known are folders with meta/*_face_tid_mid.txt and loose_crop/ (IJB, as InsightFace passes it on), with "
        "protocols/*_1N_probe_mixed.csv and images/ (IJB, as NIST does), and with Probe/, Gallery_Match/ and Gallery_Distractor/ (TinyFace)"
    )
