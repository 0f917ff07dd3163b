"""TinyFace (Cheng, Zhu and Gong, ACCV 2018): native low-resolution faces looked for among others, with 153,428 distractors.

Testing_Set/ holds Probe/, Gallery_Match/, Gallery_Distractor/, and probe_img_ID_pairs.mat (probe_set, probe_ids) and
gallery_match_img_ID_pairs.mat (gallery_set, gallery_ids). Aligned copies, as AdaFace's evaluation uses them, are folders of the same three
names beside; then the lists are looked for next to them.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np

from synthbench.data import pixels, walk
from synthbench.data.templates import NOBODY, Found, Templates
from synthbench.types import UserError

PARTS = ("Probe", "Gallery_Match", "Gallery_Distractor")
LISTS = {"Probe": ("probe_img_ID_pairs.mat", "probe"), "Gallery_Match": ("gallery_match_img_ID_pairs.mat", "gallery")}
MOST, UNPACKED = 2**21, 2**25  # bytes of a list; the largest has a tenth of that, packed
PACKED = 15  # kind of an element of a MATLAB file (version 5) that is packed by zlib


def is_tinyface(folder: Path) -> bool:
    return all((folder / part).is_dir() for part in PARTS[:2])


def tinyface(folder: Path) -> Found:
    """Every image is a template; the gallery `all` has the matches, several of one person, and the distractors. No pairs are compared.

    Raises UserError for lists that are missing or name an image that is not there.
    """
    files: list[Path] = []
    subject: list[int] = []
    counts = []
    for part in PARTS:
        there = walk.files(folder / part) if (folder / part).is_dir() else []
        known = {Path(name).name: name for name in there if name.lower().endswith(pixels.SUFFIXES)}
        names, ids = _list(folder, part) if part in LISTS else (sorted(known), np.full(len(known), NOBODY))
        if missing := [name for name in names if name not in known][:1]:
            raise UserError(f"{_place(folder, part)}: no image {missing[0]} in {folder / part}")
        files += [folder / part / known[name] for name in names]
        subject += ids.tolist()
        counts.append(len(names))
    probes, none = np.arange(counts[0]), np.empty(0, np.int64)
    every = np.arange(len(files))
    ones = np.ones(len(files), np.float32)
    who = Templates(every, every, np.array(subject), ones, none, none, none.astype(bool), {"all": every[counts[0] :]}, probes)
    read = f"{counts[0]:,} probes, {counts[1]:,} images of matches, {counts[2]:,} of distractors"
    doubts = () if counts[2] else ("there are no distractors, which makes the search easier than the published one",)
    return Found(who, lambda row: pixels.decode(walk.content(files[row]), str(files[row])), read, doubts)


def _place(folder: Path, part: str) -> Path:
    name = LISTS[part][0]
    for place in (folder, folder.parent, folder.parent / "Testing_Set", folder.parent / "tinyface" / "Testing_Set"):
        if (place / name).is_file():
            return place / name
    raise UserError(f"{folder} lacks {name}, which says who is on its images; it belongs into Testing_Set")


def _list(folder: Path, part: str) -> tuple[list[str], np.ndarray]:
    """Names of images and who is on each, of a MATLAB file."""
    from scipy.io import loadmat

    path, word = _place(folder, part), LISTS[part][1]
    data = walk.content(path, MOST)
    try:
        _refuse_bomb(data)
        table = loadmat(io.BytesIO(data), variable_names=[f"{word}_set", f"{word}_ids"])
        names = [str(np.asarray(name).reshape(-1)[0]) for name in table[f"{word}_set"].reshape(-1)]
        ids = np.asarray(table[f"{word}_ids"]).reshape(-1).astype(np.int64, casting="unsafe")
    except Exception as error:  # a damaged file raises nearly anything
        raise UserError(f"{path}: no list with {word}_set and {word}_ids ({' '.join(str(error).split())[:100]})") from None
    if len(names) != len(ids) or not names or (ids < 0).any():
        raise UserError(f"{path}: {len(names)} images and {len(ids)} identities; there must be as many, and no identity below 0")
    return [name.replace("\\", "/").rpartition("/")[2] for name in names], ids


def _refuse_bomb(data: bytes) -> None:
    """Raises ValueError where an element of a MATLAB file, (kind, bytes) behind a header of 128, unpacks to more than UNPACKED bytes."""
    at, order = 128, "<" if data[126:128] == b"IM" else ">"
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        if kind == PACKED and len(zlib.decompressobj().decompress(data[at + 8 : at + 8 + size], UNPACKED + 1)) > UNPACKED:
            raise ValueError(f"it unpacks to more than {UNPACKED:,} bytes")
        at += 8 + size
