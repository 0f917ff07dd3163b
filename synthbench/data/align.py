"""Photographs to aligned faces: five landmarks moved onto the ArcFace template by a similarity transform, 112 px, as all encoders expect.

The landmarks come from a file, or from a detector in ONNX with YuNet's outputs (OpenCV zoo, MIT; it is not shipped).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from synthbench.data import export, lists, pixels, walk
from synthbench.data.export import appearing
from synthbench.data.labelled import Source
from synthbench.types import Progress, UserError

SIDE = 112
# Eyes, tip of the nose, corners of the mouth, left before right as the picture is seen (insightface); centres of pixels are whole numbers.
TEMPLATE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
STRIDES = (8, 16, 32)
OVERLAP = 0.3  # of two boxes that are one face
Which = Literal["largest", "central"]
Landmarks = Callable[[int, np.ndarray], "np.ndarray | None"]  # (row, image) -> (5, 2), None where there is no face


@dataclass
class Aligned:
    """What came of a set."""

    written: int = 0
    several: int = 0  # images with more than one face
    without: list[str] = field(default_factory=list)  # images without a face, which are left out


def similarity(points: np.ndarray, target: np.ndarray = TEMPLATE) -> np.ndarray:
    """The (2, 3) rotation, scale and shift that brings `points` (P, 2) nearest to `target` by least squares (Umeyama 1991, Eqs. 40-42)."""
    mean, goal = points.mean(0), target.mean(0)
    u, s, v = np.linalg.svd((target - goal).T @ (points - mean) / len(points))
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(v))])  # no reflection
    rotation = (u * sign) @ v
    scale = (s * sign).sum() / np.square(points - mean).sum(1).mean()
    linear = scale * rotation
    return np.column_stack([linear, goal - linear @ mean])


def warp(image: np.ndarray, matrix: np.ndarray, side: int = SIDE) -> np.ndarray:
    """(side, side, 3): the picture (H, W, 3) uint8 moved by `matrix` (2, 3), bicubic, black outside; shrunk first if far larger."""
    picture, scale = Image.fromarray(image), float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    shrink = max(1, int(0.5 / scale))
    picture = picture.reduce(shrink) if shrink > 1 else picture
    back = np.linalg.inv(matrix[:, :2])
    shift = -back @ matrix[:, 2] + 0.5 - back @ np.array([0.5, 0.5])  # PIL's corners of pixels are whole numbers, ours their centres
    data = np.column_stack([back, shift]) / shrink
    return np.asarray(picture.transform((side, side), Image.Transform.AFFINE, tuple(data.ravel()), Image.Resampling.BICUBIC))


# --------------------------------------------------------------------------------------------------------------- landmarks


def from_file(path: Path, source: Source) -> Landmarks:
    """Landmarks of a file with a line for each image: its name, then x and y of five points, by spaces, tabs or commas; or a header first.

    That is CelebA's list_landmarks_celeba.txt, and the CSV of many others. Raises UserError for lines that are none, and when no image is
    named as the set names it.
    """
    known: dict[str, np.ndarray] = {}
    for number, (name, *values) in lists.lines_of(path):
        try:
            points = np.array(values, float)
        except ValueError:
            points = np.empty(0)
        if points.shape == (10,) and np.isfinite(points).all():
            known[lists.plain(name)] = points.reshape(5, 2)
        elif number > 2:  # a count and names of columns may stand above
            raise UserError(f"{path}:{number}: {' '.join([name, *values])[:60]!r} is not a name and ten numbers")
    names = [lists.plain(_name(source, row)) for row in range(len(source))]
    ends = Counter(name.rpartition("/")[2] for name in names)
    short = {end: known[end] for end, count in ends.items() if count == 1 and end in known}  # of several it would be anybody's
    found = {row: known.get(name, short.get(name.rpartition("/")[2])) for row, name in enumerate(names)}
    if not any(points is not None for points in found.values()):
        named = f"names {next(iter(known))}, ..., and" if known else "has no line of a name and ten numbers:"
        raise UserError(f"{path} {named} none of the images, such as {names[0]}")
    return lambda row, image: found[row]


class Detector:
    """Faces in a picture, by a network with the outputs of YuNet (Wu et al. 2023): class, object, box and five points on three grids."""

    def __init__(self, path: Path, threshold: float = 0.6) -> None:
        from synthbench.models.checkpoints import onnx_session

        self.session = onnx_session(path)
        self.outputs = {output.name for output in self.session.get_outputs()}
        wanted = {f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in STRIDES}
        if not wanted <= self.outputs:
            raise UserError(f"{path} is no detector with YuNet's outputs ({', '.join(sorted(wanted)[:3])}, ...)")
        self.input, self.threshold = self.session.get_inputs()[0], threshold
        sides = [side for side in self.input.shape[2:] if isinstance(side, int)]
        self.side = sides[0] if sides else 640

    def faces(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (N, 4), x, y, width, height, and points (N, 5, 2) in pixels of the picture (H, W, 3) uint8 RGB, the surest first."""
        height, width = image.shape[:2]
        scale = self.side / max(height, width)
        small = np.asarray(
            Image.fromarray(image).resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BILINEAR)
        )
        square = np.zeros((self.side, self.side, 3), np.float32)
        square[: small.shape[0], : small.shape[1]] = small[..., ::-1]  # BGR, 0..255
        found = self.session.run(None, {self.input.name: square.transpose(2, 0, 1)[None]})
        named = {output.name: value[0] for output, value in zip(self.session.get_outputs(), found)}
        boxes, points, scores = (np.concatenate(part) for part in zip(*(self._grid(named, stride) for stride in STRIDES)))
        chosen = apart(boxes, scores, self.threshold)
        return boxes[chosen] / scale, (points[chosen] + 0.5) / scale - 0.5

    def _grid(self, named: dict[str, np.ndarray], stride: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        side = self.side // stride
        corner = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2).astype(np.float64)
        box, scores = named[f"bbox_{stride}"], np.sqrt(np.clip(named[f"cls_{stride}"], 0, 1) * np.clip(named[f"obj_{stride}"], 0, 1))[:, 0]
        centre, size = (corner + box[:, :2]) * stride, np.exp(np.minimum(box[:, 2:], 20)) * stride
        points = (corner[:, None] + named[f"kps_{stride}"].reshape(-1, 5, 2)) * stride
        return np.concatenate([centre - size / 2, size], 1), points, scores


def detector(path: Path) -> Detector:
    """A detector from elsewhere, looked into by another process first, see models/limits.py. Raises UserError."""
    from synthbench.models.limits import limited

    walk.require_there(path)
    limited(attempt, path)
    return Detector(path)


def attempt(path: Path) -> None:
    """Find the faces of a black picture."""
    Detector(path).faces(np.zeros((64, 64, 3), np.uint8))


def apart(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """Those above `threshold`, the surest first, without boxes (N, 4) that overlap a surer one by more than OVERLAP of their union."""
    import torch
    from torchvision.ops import nms

    sure = np.flatnonzero(scores > threshold)
    corners = np.concatenate([boxes[sure, :2], boxes[sure, :2] + boxes[sure, 2:]], 1)
    return [int(sure[one]) for one in nms(torch.from_numpy(corners), torch.from_numpy(scores[sure].astype(corners.dtype)), OVERLAP)]


def choose(boxes: np.ndarray, size: tuple[int, int], which: Which) -> int:
    """The largest of the faces, or the one whose middle is nearest to that of a picture of (width, height)."""
    if which == "largest":
        return int(np.prod(boxes[:, 2:], axis=1).argmax())
    return int(np.linalg.norm(boxes[:, :2] + boxes[:, 2:] / 2 - np.array(size) / 2, axis=1).argmin())


# ------------------------------------------------------------------------------------------------------------ a whole set


def align(
    source: Source, out: Path, landmarks: Landmarks | Detector, which: Which = "largest", progress: Progress = lambda done, total: None
) -> Aligned:
    """Write the aligned faces of a set as an image folder of PNG files under their names; images without a face are left out and counted.

    Raises UserError when there is no face at all, or `out` exists.
    """
    told = Aligned()

    def face(item: tuple[bytes, int]) -> tuple[int, np.ndarray | None, int]:
        data, row = item
        image = pixels.decode(data, source.where(row))
        if isinstance(landmarks, Detector):
            boxes, found = landmarks.faces(image)
            points = found[choose(boxes, (image.shape[1], image.shape[0]), which)] if len(found) else None
            count = len(found)
        else:
            points, count = landmarks(row, image), 1
        return row, None if points is None or not _apart(points) else warp(image, similarity(points)), count

    rows = np.arange(len(source))
    with appearing(out) as folder:
        for done, (row, image, count) in enumerate(pixels.in_threads(face, zip(source.stream(rows), rows.tolist())), 1):
            progress(done, len(source))
            told.several += count > 1
            if image is None:
                told.without.append(_name(source, row))
                continue
            place = (folder / _name(source, row)).with_suffix(".png")
            if place.exists():
                raise UserError(f"{source.path}: two images are called {_name(source, row)} but for their ending")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(pixels.encode(image))
            told.written += 1
        if not told.written:
            raise UserError(f"{source.path}: no face was found in any of {len(source):,} images")
    return told


def _apart(points: np.ndarray) -> bool:
    """Whether five points (5, 2) may be those of a face in a picture: of one place there is no scale."""
    return bool(np.abs(points).max() < pixels.MAX_SIDE**2 and np.ptp(points, axis=0).max() > 0.5)  # a pixel


def _name(source: Source, row: int) -> str:
    """Of an image inside its set, as a list of pairs may name it; of one without a file of its own <person>/<number>."""
    if source.kind in ("folder", "zip"):
        return source.called(row)
    person = source.names[source.label[row]] if source.names else "0"
    return f"{export.folder_names([person])[0]}/{row:08d}.png"


def lines(told: Aligned, out: Path, how: Any) -> list[str]:
    """What came of it, for people."""
    said = [f"{out}: {told.written:,} faces of {SIDE} px"]
    if told.several:
        said.append(f"{told.several:,} images have several faces; taken is the {how} one")
    if told.without:
        some = ", ".join(told.without[:3])
        said.append(f"{len(told.without):,} images without a face are left out: {some}{', ...' * (len(told.without) > 3)}")
    return said
