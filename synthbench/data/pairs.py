"""Verification pairs: InsightFace's .bin (and .bin.xz), or a list of pairs with a folder or zip of images."""

from __future__ import annotations

import functools
import hashlib
import lzma
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from synthbench import console
from synthbench.data import pixels, unpickle, walk
from synthbench.data.faces import FaceSet
from synthbench.data.folders import strip_top
from synthbench.data.pairlists import PairLine, image_key, parse_pair_list
from synthbench.data.readers import file_bytes, file_digest, list_folder, list_zip, source_digest, zip_bytes
from synthbench.store import is_name, is_texts, read_json, write_json, writing
from synthbench.types import UserError

if TYPE_CHECKING:
    from synthbench.data.catalogue import Entry

FOLDS = 10  # of the public protocol
MAX_XZ = 4 * 2**30  # bytes, unpacked; ten times the largest benchmark


@dataclass(frozen=True)
class PairSet:
    """P pairs of faces. Each distinct image is kept once; `left` and `right` are its rows. The order of the pairs decides the folds."""

    name: str
    images: FaceSet  # unlabelled: identity is -1
    left: np.ndarray  # (P,) int64 rows of images
    right: np.ndarray  # (P,) int64
    same: np.ndarray  # (P,) bool
    title: str = ""
    source_digest: str = ""  # of the files it was read from: two cfp_fp.bin are in circulation, 2 points apart (insightface#1671)
    digest: str = field(default="")  # SHA-256 over decoded pixels and pairs, and groups where there are
    group: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))  # (P,) int64, which of `groups` a pair is of
    groups: tuple[str, ...] = ()  # whose people are told apart; every pair is within one. None: `group` is empty

    def __post_init__(self) -> None:
        if not self.digest:
            digest = hashlib.sha256(f"pairs {self.images.digest}\n".encode())
            digest.update(np.stack([self.left, self.right]).astype("<i8").tobytes() + self.same.astype("u1").tobytes())
            if self.groups:
                digest.update("\n".join(self.groups).encode() + self.group.astype("<i8").tobytes())
            object.__setattr__(self, "digest", digest.hexdigest())

    def __len__(self) -> int:
        return len(self.same)

    @classmethod
    def from_arrays(cls, name: str, images: torch.Tensor | np.ndarray, left: Any, right: Any, same: Any, **about: Any) -> PairSet:
        """From (N, 3, R, R) or (N, R, R, 3) uint8 and (P,) rows."""
        faces = FaceSet.from_arrays(images, np.full(len(images), -1))
        return cls(name, faces, np.asarray(left, np.int64), np.asarray(right, np.int64), np.asarray(same, bool), **about)


class Listed:
    """P pairs as they lie on the disk: files of images in the order in which they are first named, and the two rows of each pair."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.items: list[tuple[Any, str]] = []  # (bytes of the file or a function that reads them, how to name it)
        self.left: list[int] = []
        self.right: list[int] = []
        self.same: list[bool] = []
        self.group: list[str] = []  # of people, of each pair; empty where none is told
        self._row: dict[Any, int] = {}

    def row(self, key: Any, item: Any, where: str) -> int:
        if key not in self._row:
            self._row[key] = len(self.items)
            self.items.append((item, where))
        return self._row[key]

    def files(self, rows: Iterable[int] | None = None) -> Iterator[tuple[bytes, str]]:
        """Bytes and names of the images `rows`, of all without."""
        chosen = self.items if rows is None else (self.items[row] for row in rows)
        return ((item() if callable(item) else item, where) for item, where in chosen)

    def decoded(self, resolution: int, source_digest: str, name: str | None = None, title: str | None = None) -> PairSet:
        images = np.empty((len(self.items), resolution, resolution, 3), np.uint8)
        for row, image in enumerate(pixels.in_threads(lambda one: pixels.fit(pixels.decode(*one), resolution), self.files())):
            images[row] = image
        plain, groups = name or self.name, tuple(dict.fromkeys(self.group))
        group = np.array([groups.index(group) for group in self.group], np.int64)
        about = {"title": title or plain, "source_digest": source_digest, "group": group, "groups": groups}
        return PairSet.from_arrays(plain, images, self.left, self.right, self.same, **about)


# ---- .bin ----


def read_bin(path: Path | str, resolution: int, name: str | None = None, title: str | None = None) -> PairSet:
    """The pairs of `list_bin`. Images become `resolution` square. Raises UserError for one that cannot be decoded (with its number)."""
    return list_bin(Path(path)).decoded(resolution, file_digest(Path(path)), name, title)


def list_bin(path: Path) -> Listed:
    """A pickle of (encoded images, same), pair i being images 2i and 2i + 1; Python 2 and 3, bytes or uint8 arrays, .xz of it.

    The pickle is data: whatever it asks for besides byte arrays is refused, nothing is executed.
    Raises UserError for a hostile or damaged file, and counts that disagree.
    """
    encoded, same, of_pixels = _load_bin(path)
    if of_pixels:
        console.warn(f"{path}: its images are pixels, not files, and no order of colours is told: they are taken for RGB")
    if len(encoded) != 2 * len(same):
        raise UserError(f"{path}: {len(encoded)} images for {len(same)} pairs; there must be two per pair. The file is damaged")
    if not same:
        raise UserError(f"{path}: no pairs")
    found = Listed(path.name.removesuffix(".xz").removesuffix(".bin"))
    rows = [found.row(hashlib.sha256(data).digest(), data, f"{path}, image {i}") for i, data in enumerate(encoded)]
    found.left, found.right, found.same = rows[0::2], rows[1::2], same
    return found


def write_bin(pairs: Listed, out: Path) -> None:
    """The pairs as `list_bin`, and the scripts of InsightFace, read them.

    Files of images stay as they are, bit for bit, when they are JPEG, PNG or BMP; others become PNG. Raises UserError where `out` exists or
    cannot be written.
    """
    if out.exists():
        raise UserError(f"{out} exists; give a file that does not, or delete it")
    files = [data if pixels.passes(data) else pixels.encode(pixels.decode(data, where)) for data, where in pairs.files()]
    images = [files[row] for pair in zip(pairs.left, pairs.right) for row in pair]  # pickle writes an image of several pairs once
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with writing(out) as tmp, open(tmp, "wb") as file:
            pickle.dump((images, list(map(bool, pairs.same))), file, protocol=4)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error}). Nothing is left there") from None


def _load_bin(path: Path) -> tuple[list[bytes], list[bool], bool]:
    """(images, same, whether the images were pixels)."""
    try:
        with walk.opened(path) as file:
            if path.suffix == ".xz":
                limit = min(MAX_XZ, max(64 * 2**20, 50 * os.fstat(file.fileno()).st_size))  # encoded images hardly shrink
                with lzma.open(file) as unpacked:
                    data = unpacked.read(limit + 1)
                if len(data) > limit:
                    raise UserError(f"{path}: unpacks to more than {limit // 2**20:,} MiB; no benchmark does")
            else:
                data = walk.content(path, MAX_XZ)
        return unpickle.pairs(data)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # a damaged pickle raises nearly anything, MemoryError included
        said = str(error) if isinstance(error, (pickle.UnpicklingError, ValueError, MemoryError)) else "damaged, or of another kind"
        reason = " ".join(said[:200].split()).rstrip(".")
        raise UserError(f"{path}: not a benchmark of (images, same), or a hostile one: {reason}. Nothing in it was executed") from None


# ---- pair lists ----


def read_pair_list(pairs: Path | str, images: Path | str, resolution: int, name: str | None = None, title: str | None = None) -> PairSet:
    """The pairs of `list_pairs`. Images become `resolution` square."""
    listed = list_pairs(Path(pairs), Path(images))
    source = hashlib.sha256(f"{file_digest(Path(pairs))}\n{source_digest(images)}".encode()).hexdigest()
    return listed.decoded(resolution, source, name, title)


def list_pairs(pairs: Path, images: Path) -> Listed:
    """A list of pairs in any form of pairlists.py over a folder or zip of images, such as LFW's `<Name>/<Name>_NNNN.jpg`.

    An image is known by its name without ending; where none is called so, numbers may be padded otherwise or the folder be left out.
    Raises UserError with the line number for a malformed line or an image that is not there.
    """
    lines = parse_pair_list(pairs)
    files = find_images(images)
    listed, loose = Listed(pairs.stem), _loose(files)

    def row(line: PairLine, image: str) -> int:
        found = image if image in files else loose.get(_bare(image), "")
        if not found:
            several = "several images like" if _bare(image) in loose else "no image"
            raise UserError(f"{pairs}, line {line.line}: {several} {image} in {images}")
        return listed.row(found, files[found], f"{images}, {found}")

    listed.left = [row(line, line.left) for line in lines]  # all of these first: the order of images is part of the digest
    listed.right = [row(line, line.right) for line in lines]
    listed.same = [line.same for line in lines]
    listed.group = [line.group for line in lines if line.group]
    return listed


def find_images(images: Path) -> dict[str, Callable[[], bytes]]:
    """Name without ending -> function that reads the bytes, for a folder or a zip, one extra top folder left out."""
    walk.require_there(images)
    if images.is_dir():
        names = list_folder(images)
        top = strip_top(names)
        return {_plain(name, top): functools.partial(file_bytes, images / name) for name in names}
    if not zipfile.is_zipfile(images):
        raise UserError(f"{images}: neither a folder nor a zip of images")
    archive, entries = list_zip(images)
    top = strip_top(list(entries))
    return {_plain(name, top): lambda entry=entry: zip_bytes(archive, entry, images) for name, entry in entries.items()}  # type: ignore[misc]


def _plain(name: str, top: int) -> str:
    return image_key(name.split("/", top)[-1])


def _bare(name: str) -> str:
    """A name without zeros in front of its numbers."""
    return re.sub("(?<![0-9])0+(?=[0-9])", "", name)


def _loose(files: Iterable[str]) -> dict[str, str]:
    """How else an image may be named -> its name: without zeros, and without its folder; empty where that means several."""
    found: dict[str, str] = {}
    for name in files:
        for other in {_bare(name), _bare(name.rpartition("/")[2])}:
            found[other] = "" if other in found else name
    return found


# ---- by name ----


def pairs_from_source(entry: Entry, resolution: int) -> PairSet:
    """A registered benchmark, decoded."""
    if "pairs" in entry.options:
        return read_pair_list(entry.options["pairs"], entry.path, resolution, entry.name, entry.title)
    return read_bin(entry.path, resolution, entry.name, entry.title)


def list_source(path: Path, pairs: Path | str | None) -> Listed:
    """A .bin, or the pair list `pairs` with the images at `path`. Raises UserError."""
    walk.require_there(path)
    if pairs is None and (path.is_dir() or path.suffix.lower() == ".zip"):
        raise UserError(f"{path}: images alone are no benchmark; give the list of pairs too, --pairs pairs.txt")
    return list_pairs(Path(pairs), path) if pairs else list_bin(path)


def require_usable(pairs: PairSet) -> PairSet:
    """`pairs`, if verification is defined on them. Raises UserError for fewer than one pair a fold, and for pairs of one kind only."""
    if len(pairs) < FOLDS:
        raise UserError(
            f"benchmark {pairs.name} has {len(pairs)} pairs; it needs {FOLDS} or more, for accuracy is the mean over {FOLDS} folds"
        )
    if pairs.same.all() or not pairs.same.any():
        kind = "genuine" if pairs.same.all() else "impostors"
        raise UserError(f"all {len(pairs):,} pairs of benchmark {pairs.name} are {kind}; check its labels")
    return pairs


# ---- kept ----


def save_pairs(pairs: PairSet, folder: Path | str) -> None:
    """Decoded, as a memory map; `pairs.json` is written last and makes it whole."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pairs.json").unlink(missing_ok=True)
    with writing(folder / "images.u8") as tmp, open(tmp, "wb") as file:
        for first in range(0, len(pairs.images), 1024):
            file.write(pairs.images.images(slice(first, first + 1024)).permute(0, 2, 3, 1).contiguous().numpy().tobytes())
    with writing(folder / "pairs.npz") as tmp, open(tmp, "wb") as file:
        arrays = {"left": pairs.left, "right": pairs.right, "same": pairs.same} | ({"group": pairs.group} if pairs.groups else {})
        np.savez(file, **arrays)  # type: ignore[arg-type]
    about = {name: getattr(pairs, name) for name in ("name", "title", "digest", "source_digest")}
    about |= {"groups": list(pairs.groups)} if pairs.groups else {}
    write_json(
        folder / "pairs.json", {**about, "images": len(pairs.images), "resolution": pairs.images.resolution, "faces": pairs.images.digest}
    )


def open_pairs(folder: Path | str) -> PairSet:
    """What `save_pairs` kept, memory-mapped. Raises UserError when it is not whole."""
    folder = Path(folder)
    about = read_json(folder / "pairs.json")
    try:
        if not is_name(about["name"]):  # results of its pairs are kept under it
            raise ValueError("its name is none")
        shape = (about["images"], about["resolution"], about["resolution"], 3)
        if (folder / "images.u8").stat().st_size != int(np.prod(shape)):
            raise ValueError("images.u8 is not whole")
        mapped = np.memmap(folder / "images.u8", np.uint8, "r", shape=shape)
        faces = FaceSet(mapped, np.full(shape[0], -1, np.int64), [], {}, about["faces"])
        with np.load(folder / "pairs.npz", allow_pickle=False) as table:
            left, right, same = table["left"], table["right"], table["same"]
            group = table["group"] if about.get("groups") else np.empty(0, np.int64)
        groups = tuple(about.get("groups", ()))
        if groups and not (is_texts(about["groups"]) and group.shape == same.shape and np.isin(group, range(len(groups))).all()):
            raise ValueError("its groups are not those of its pairs")
        names = {name: about[name] for name in ("title", "source_digest", "digest")}
        return PairSet(about["name"], faces, left, right, same, **names, group=group, groups=groups)
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{folder}: no whole benchmark here ({error}). Delete the folder, and run the command that made it again") from None
