"""IJB-B and IJB-C as they are passed on: InsightFace's archive of loose crops with landmarks, and NIST's own CSV protocols.

Archive: loose_crop/*.jpg, and in meta/ *_name_5pts_score.txt (name, ten numbers, faceness), *_face_tid_mid.txt (name, template, media),
*_template_pair_label.txt (template, template, 1 or 0) and, for identification, *_1N_gallery_G1.csv, *_G2.csv (S1, S2 in IJB-B) and
*_1N_probe_mixed.csv. NIST: protocols/ with those CSVs and *_11_G1_G2_matches.csv, images/ with what their column FILENAME names.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from synthbench.data import align, pixels, walk
from synthbench.data.templates import Found, Templates, subjects_of
from synthbench.types import UserError

MOST = 2**30  # bytes of a list: IJB-C's pairs have 220 MB
ALIGNED = (align.SIDE, align.SIDE)
CSV = ["TEMPLATE_ID", "SUBJECT_ID", "FILENAME", "SIGHTING_ID", "FACE_X", "FACE_Y", "FACE_WIDTH", "FACE_HEIGHT"]


def is_archive(folder: Path) -> bool:
    return any((folder / "meta").glob("*_face_tid_mid.txt"))


def is_protocols(folder: Path) -> bool:
    return any(folder.glob("protocol*/*_1N_probe_mixed.csv"))


def archive(folder: Path) -> Found:
    """Crops are moved onto the ArcFace template by their landmarks; those of 112 x 112 are aligned, and stay.

    Raises UserError, with file and line, for a list that is malformed or names an image or a template that is not there.
    """
    meta = folder / "meta"
    known, marked = _one(meta, "*_face_tid_mid.txt"), _one(meta, "*_name_5pts_score.txt")
    faces = _table(known, {"name": str, "template": np.int64, "media": np.int64}, r"\s+")
    marks = _table(marked, {"name": str} | {str(i): np.float64 for i in range(10)} | {"score": np.float32}, r"\s+")
    place = pd.Series(np.arange(len(marks)), index=marks["name"])
    if place.index.has_duplicates:
        raise UserError(f"{marked}: {place.index[place.index.duplicated()][0]} is named twice")
    at = place.reindex(faces["name"])
    if at.isna().any():
        row = int(at.isna().to_numpy().argmax())
        raise UserError(f"{known}, line {row + 1}: {faces['name'][row]} has no landmarks in *_name_5pts_score.txt")
    marks = marks.iloc[at.to_numpy(np.int64)].reset_index(drop=True)
    ids, template = np.unique(faces["template"], return_inverse=True)
    left, right, same = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, bool)
    if listed := list(meta.glob("*_template_pair_label.txt")):
        pairs = _table(listed[0], {"left": np.int64, "right": np.int64, "label": np.int8}, r"\s+")
        if wrong := _first(~pairs["label"].isin((0, 1)).to_numpy()):
            raise UserError(f"{listed[0]}, line {wrong}: the label {pairs['label'][wrong - 1]} is neither 1 nor 0")
        left, right = (_known(pairs[side].to_numpy(), ids, listed[0], 0) for side in ("left", "right"))
        same = pairs["label"].to_numpy() == 1
    places = _searches(meta)
    searched = {name: _table(path, dict.fromkeys(CSV[:2], np.int64), ",", 0) for name, path in places.items()}
    galleries, probes, subject = _identification(searched, ids, places)
    if subject is None:
        subject = subjects_of(len(ids), left, right, same)
    who = Templates(template, faces["media"].to_numpy(), subject, marks["score"].to_numpy(), left, right, same, galleries, probes)
    files = _files(folder / "loose_crop", faces["name"], lambda row: f"{known}, line {row + 1}")
    points = marks[[str(i) for i in range(10)]].to_numpy().reshape(-1, 5, 2)

    def image(row: int) -> np.ndarray:
        found = pixels.decode(walk.content(files[row]), str(files[row]))
        return found if found.shape[:2] == ALIGNED else align.warp(found, align.similarity(points[row]))

    return Found(who, image, _read(who))


def protocols(folder: Path) -> Found:
    """Faces are cut by their boxes, for no landmarks are told: a square of the longer side, black outside the picture."""
    lists = next(folder.glob("protocol*/*_1N_probe_mixed.csv")).parent
    columns = {name: str if name == "FILENAME" else np.float64 if name.startswith("FACE") else np.int64 for name in CSV}
    places = _searches(lists)
    if not places:
        raise UserError(f"{lists}: no *_1N_gallery_*.csv beside *_1N_probe_mixed.csv")
    searched = {name: _table(path, columns, ",", 0) for name, path in places.items()}
    rows = pd.concat(searched.values(), keys=searched.keys(), names=["list", "row"]).reset_index()
    rows = rows.drop_duplicates(["TEMPLATE_ID", *CSV[2:]], ignore_index=True)  # a template may be in several lists, with the same images
    ids, template = np.unique(rows["TEMPLATE_ID"], return_inverse=True)
    galleries, probes, subject = _identification(searched, ids, places)
    assert subject is not None
    left, right, same = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, bool)
    if listed := list(lists.glob("*_11_*1_*2_matches.csv")):
        pairs = _table(listed[0], {"left": np.int64, "right": np.int64}, ",")
        left, right = (_known(pairs[side].to_numpy(), ids, listed[0], 0) for side in ("left", "right"))
        same = subject[left] == subject[right]
    media = rows["SIGHTING_ID"].to_numpy()
    who = Templates(template, media, subject, np.ones(len(rows), np.float32), left, right, same, galleries, probes)

    def place(row: int) -> str:
        return f"{places[rows['list'][row]]}, line {rows['row'][row] + 2}"

    files = _files(folder / "images", rows["FILENAME"], place)
    boxes = rows[CSV[4:]].to_numpy(np.float64)
    if wrong := _first((boxes[:, 2:] < 1).any(1)):
        raise UserError(f"{place(wrong - 1)}: the box of the face is empty")

    def image(row: int) -> np.ndarray:
        x, y, width, height = boxes[row]
        scale = align.SIDE / max(width, height)
        centre = np.array([x + width / 2, y + height / 2])
        matrix = np.column_stack([np.eye(2) * scale, align.SIDE / 2 - 0.5 - (centre - 0.5) * scale])
        return align.warp(pixels.decode(walk.content(files[row]), str(files[row])), matrix)

    doubt = "faces are cut by the boxes of the protocol and not aligned, so its numbers are below published ones"
    return Found(who, image, _read(who), (doubt,))


# ---- lists ----


def _one(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise UserError(f"{folder}: {len(found)} files are called {pattern}; there must be one")
    return found[0]


def _table(path: Path, columns: Mapping[str, type], mark: str, header: int | None = None) -> pd.DataFrame:
    """The columns of a list by name, or the first where it has no header. Raises UserError with the line."""
    data = walk.content(path, MOST)
    try:
        table = pd.read_csv(io.BytesIO(data), sep=mark, header=header, dtype=str if header == 0 else None)  # type: ignore[arg-type]
    except (ValueError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a list of {', '.join(columns)} ({' '.join(str(error).split())[:120]})") from None
    if header is None:
        table = table.iloc[:, : len(columns)]
        if table.shape[1] < len(columns):
            raise UserError(f"{path}: {table.shape[1]} columns; there must be {len(columns)}: {', '.join(columns)}")
        table.columns = list(columns)
    elif lacking := [name for name in columns if name not in table.columns]:
        raise UserError(f"{path}: no column {lacking[0]}; it has {', '.join(map(str, table.columns))[:100]}")
    return pd.DataFrame({name: _typed(table[name], kind, path, header) for name, kind in columns.items()})


def _typed(values: pd.Series, kind: type, path: Path, header: int | None) -> np.ndarray | pd.Series:
    if kind is str:
        return values.astype(str)
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64)
    broken = kind in (np.float64, np.float32)
    whole = np.isfinite(numbers) & (broken | (numbers == np.floor(numbers))) & (np.abs(numbers) < 2**53)
    if wrong := _first(~whole):
        line = wrong + (0 if header is None else header + 1)
        raise UserError(f"{path}, line {line}: {str(values.iloc[wrong - 1])[:40]!r} is no {'' if broken else 'whole '}number")
    return numbers.astype(kind)


def _first(wrong: np.ndarray) -> int:
    """The number, from 1, of the first that is True; 0: none."""
    return int(wrong.argmax()) + 1 if wrong.any() else 0


def _known(asked: np.ndarray, ids: np.ndarray, path: Path, header: int) -> np.ndarray:
    """Places of template numbers in `ids`. Raises UserError, with the line, for one that has no image."""
    place = np.searchsorted(ids, asked).clip(max=len(ids) - 1)
    if wrong := _first(ids[place] != asked):
        raise UserError(f"{path}, line {wrong + header}: template {asked[wrong - 1]} has no image")
    return place


def _searches(folder: Path) -> dict[str, Path]:
    """The lists of identification by role: galleries by their name, and `probe`."""
    found = {path.stem.rpartition("_")[2]: path for path in sorted(folder.glob("*_1N_gallery_*.csv"))}
    mixed = sorted(folder.glob("*_1N_probe_mixed.csv"))
    return found | {"probe": mixed[0]} if found and mixed else {}


def _identification(
    searched: dict[str, pd.DataFrame], ids: np.ndarray, places: dict[str, Path]
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray | None]:
    """Galleries, probes and the subject of each template; None where no list tells it. Raises UserError for a template of two people."""
    if not searched:
        return {}, np.empty(0, np.int64), None
    subject = np.full(len(ids), -1, np.int64)
    found: dict[str, np.ndarray] = {}
    for name, table in searched.items():
        place = _known(table["TEMPLATE_ID"].to_numpy(), ids, places[name], 1)
        own = table["SUBJECT_ID"].to_numpy()
        first = pd.Series(own).groupby(place).transform("first").to_numpy()
        known = subject[place]
        if wrong := _first((first != own) | ((known != -1) & (known != own))):
            who = f"template {ids[place[wrong - 1]]} shows subject {own[wrong - 1]} here and another elsewhere"
            raise UserError(f"{places[name]}, line {wrong + 1}: {who}")
        subject[place] = own
        found[name] = np.array(list(dict.fromkeys(place.tolist())), np.int64)
    alone = subject < 0  # in no list: compared one with one only
    subject[alone] = subject.max() + 1 + np.arange(alone.sum())
    return {name: rows for name, rows in found.items() if name != "probe"}, found["probe"], subject


def _files(folder: Path, names: pd.Series, place: Callable[[int], str]) -> list[Path]:
    """The file of each of `names` below `folder`; what is not there, and what lies elsewhere, is refused, with its `place` in the list."""
    there = set(walk.files(folder)) if folder.is_dir() else set()
    if wrong := _first(~names.isin(there).to_numpy()):
        raise UserError(f"{place(wrong - 1)}: no image {names.iloc[wrong - 1]} in {folder}")
    return [folder / name for name in names]


def _read(who: Templates) -> str:
    parts = [f"{len(who):,} templates of {len(who.template):,} faces"]
    parts.append(f"{len(who.left):,} comparisons" if len(who.left) else "no comparisons")
    if who.galleries:
        among = ", ".join(f"{name} ({len(rows):,})" for name, rows in who.galleries.items())
        parts.append(f"{len(who.probes):,} probes, galleries {among}")
    return ", ".join(parts)
