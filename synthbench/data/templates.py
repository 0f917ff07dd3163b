"""Template sets: people shown by several images each, compared one with one, and looked for among many. IJB-B, IJB-C, TinyFace."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from synthbench.data import pixels
from synthbench.data.faces import FaceSet
from synthbench.store import is_name, is_texts, read_json, write_json, writing
from synthbench.types import Progress, UserError

CHUNK = 512  # images decoded or written at a time
NOBODY = -1  # subject of a distractor: no probe shows it
_ARRAYS = ("template", "media", "weight", "subject", "left", "right", "same", "probes")
_KINDS = dict.fromkeys(_ARRAYS, np.int64) | {"weight": np.float32, "same": np.bool_, "left": np.int32, "right": np.int32}

Decode = Callable[[int], np.ndarray]  # row -> (R, R, 3) uint8


@dataclass(frozen=True)
class Templates:
    """Who is on N images of T templates, which P pairs of templates are compared, and which probes are looked for in which galleries."""

    template: np.ndarray  # (N,) int64, 0..T-1: of each image
    media: np.ndarray  # (N,) int64: the still or video that an image is of; one number in two templates is two media
    subject: np.ndarray  # (T,) int64: who each template shows; NOBODY: a distractor
    weight: np.ndarray  # (N,) float32, how surely an image shows a face (faceness); 1 where none is told
    left: np.ndarray  # (P,) int32, templates that are compared one with one
    right: np.ndarray  # (P,) int32
    same: np.ndarray  # (P,) bool
    galleries: Mapping[str, np.ndarray]  # templates (G,) int64 among which is looked, by name
    probes: np.ndarray  # (Q,) int64, templates that are looked for

    def __len__(self) -> int:
        return len(self.subject)

    def arrays(self) -> dict[str, np.ndarray]:
        named = {name: np.asarray(getattr(self, name), _KINDS[name]) for name in _ARRAYS}
        return named | {f"gallery {name}": np.asarray(rows, np.int64) for name, rows in self.galleries.items()}

    def faults(self) -> str:
        """What cannot be, in words; empty for templates that can be measured."""
        rows = np.concatenate([self.left, self.right, self.probes, *self.galleries.values()])
        if not len(self.template) == len(self.media) == len(self.weight) or not len(self.left) == len(self.right) == len(self.same):
            return "its columns are of different lengths"
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            return "a template is named that is not there"
        if not len(self) or not np.array_equal(np.unique(self.template), np.arange(len(self))):
            return "a template has no image"
        if not np.isfinite(self.weight).all() or (self.weight < 0).any():
            return "an image has a weight that is none"
        if not len(self.left) and not len(self.probes):
            return "nothing is compared, and nobody is looked for"
        if len(self.probes) and not self.galleries:
            return "there are probes and no gallery"
        return ""


@dataclass(frozen=True)
class TemplateSet:
    """A benchmark of templates, decoded."""

    name: str
    images: FaceSet  # (N,) unlabelled
    who: Templates
    title: str = ""
    source_digest: str = ""
    digest: str = field(default="")  # SHA-256 over pixels and all arrays

    def __post_init__(self) -> None:
        if fault := self.who.faults():
            raise UserError(f"template set {self.name}: {fault}")
        if not self.digest:
            object.__setattr__(self, "digest", _digest(self.images.digest, self.who))


@dataclass(frozen=True)
class Found:
    """A template set as it lies on the disk."""

    who: Templates
    image: Callable[[int], np.ndarray]  # row -> (H, W, 3) uint8, aligned where landmarks are told
    read: str  # what was understood, in words
    doubts: tuple[str, ...] = ()


def _digest(images: str, who: Templates) -> str:
    digest = hashlib.sha256(f"templates {images}\n".encode())
    for name, values in sorted(who.arrays().items()):
        digest.update(f"{name} {len(values)}\n".encode() + np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


# ---- kept ----


def save_templates(
    name: str, who: Templates, decode: Decode, resolution: int, folder: Path, about: Mapping[str, str], progress: Progress
) -> None:
    """Decode the images into `folder` as a memory map; `templates.json` is written last and makes it whole. Memory stays flat.

    about: title and source_digest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "templates.json").unlink(missing_ok=True)
    count, digest = len(who.template), hashlib.sha256(f"{len(who.template)} {resolution}\n".encode())
    with writing(folder / "images.u8") as tmp, open(tmp, "wb") as file:
        for row, image in enumerate(pixels.in_threads(decode, range(count))):
            data = np.ascontiguousarray(image).tobytes()
            file.write(data)
            digest.update(data)
            if row % CHUNK == 0:
                progress(row, count)
    with writing(folder / "templates.npz") as tmp, open(tmp, "wb") as file:
        np.savez(file, **who.arrays())  # type: ignore[arg-type]
    kept: dict[str, Any] = {"name": name, **about, "images": count, "resolution": resolution, "faces": digest.hexdigest()}
    write_json(folder / "templates.json", {**kept, "digest": _digest(kept["faces"], who), "galleries": list(who.galleries)})


def open_templates(folder: Path) -> TemplateSet:
    """What `save_templates` kept, memory-mapped. Raises UserError when it is not whole."""
    about: Any = read_json(folder / "templates.json")
    try:
        texts = [about[key] for key in ("name", "title", "source_digest", "digest", "faces", *about["galleries"]) if key in about]
        if not (is_name(about["name"]) and is_texts(texts) and is_texts(about["galleries"])):
            raise ValueError("its names are none")
        shape = (about["images"], about["resolution"], about["resolution"], 3)
        if (folder / "images.u8").stat().st_size != int(np.prod(shape)):
            raise ValueError("images.u8 is not whole")
        with np.load(folder / "templates.npz", allow_pickle=False) as table:
            arrays: dict[str, Any] = {name: np.asarray(table[name]).astype(_KINDS[name], casting="same_kind") for name in _ARRAYS}
            arrays["galleries"] = {name: np.asarray(table[f"gallery {name}"], np.int64) for name in about["galleries"]}
        mapped = np.memmap(folder / "images.u8", np.uint8, "r", shape=shape)
        faces = FaceSet(mapped, np.full(shape[0], -1, np.int64), [], {}, about["faces"])
        who = Templates(**arrays)
        if len(who.template) != len(faces):
            raise ValueError("its arrays are of another number of images")
        return TemplateSet(about["name"], faces, who, about["title"], about["source_digest"], about["digest"])
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile, UserError) as error:
        raise UserError(f"{folder}: no whole template set here ({error}). Delete the folder, and run the same command again") from None


def subjects_of(templates: int, left: np.ndarray, right: np.ndarray, same: np.ndarray) -> np.ndarray:
    """Subject (templates,) of each where only pairs are told: those that genuine pairs join are one, over any number of others."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    joined = coo_matrix((np.ones(int(same.sum()), bool), (left[same], right[same])), (templates, templates))
    return connected_components(joined, directed=False)[1].astype(np.int64)
