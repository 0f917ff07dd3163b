"""`data align`: the transform against its definition, pictures with known points, and a real detector on real faces."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from synthbench.cli import app
from synthbench.data import align
from synthbench.data.readers import read_source
from synthbench.types import UserError

SHARED = Path(os.environ.get("SYNTHBENCH_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
YUNET = SHARED / "models" / "face_detection_yunet_2023mar.onnx"


def moved(points: np.ndarray, angle: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return points @ turn.T + shift


def spots(side: int, points: np.ndarray) -> np.ndarray:
    """Five soft spots of different colours at `points` (5, 2), on black."""
    y, x = np.mgrid[:side, :side]
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255]])
    image = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2) / 18)[..., None] * colour for (a, b), colour in zip(points, colours))
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("angle", "scale", "shift"), [(0.0, 1.0, (0, 0)), (0.5, 2.3, (40, -7)), (-2.8, 0.3, (200, 100))])
def test_a_similarity_is_undone(angle: float, scale: float, shift: tuple[float, float]) -> None:
    matrix = align.similarity(moved(align.TEMPLATE, angle, scale, shift))
    again = moved(align.TEMPLATE, angle, scale, shift) @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(again, align.TEMPLATE, atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(matrix[:, :2]), scale**-2)


def test_no_similarity_is_nearer() -> None:
    points = align.TEMPLATE * 1.7 + np.random.default_rng(0).normal(0, 4, (5, 2))

    def error(matrix: np.ndarray) -> float:
        return float(np.square(points @ matrix[:, :2].T + matrix[:, 2] - align.TEMPLATE).sum())

    best = align.similarity(points)
    a, b = best[0, 0], best[1, 0]
    np.testing.assert_allclose(best[:, :2], [[a, -b], [b, a]])  # a rotation and a scale, nothing else
    for step in np.random.default_rng(1).normal(0, 0.01, (50, 4)):
        other = np.array([[a + step[0], -b - step[1], best[0, 2] + step[2]], [b + step[1], a + step[0], best[1, 2] + step[3]]])
        assert error(other) >= error(best)


@pytest.mark.parametrize(("angle", "scale"), [(0.0, 1.0), (0.4, 2.0), (-0.3, 4.6)])
def test_a_warped_picture_has_its_points_where_the_template_has_them(angle: float, scale: float) -> None:
    points = moved(align.TEMPLATE - 56, angle, scale, (300, 310))
    found = align.warp(spots(640, points), align.similarity(points)).astype(float)
    y, x = np.mgrid[:112, :112]
    for number, channels in enumerate([(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1)]):
        match = np.where([[list(channels)]], found, 255 - found).min(2)
        weight = np.where(match > 100 if scale < 3 else match > 20, match, 0)
        near = (np.abs(x - align.TEMPLATE[number, 0]) < 8) & (np.abs(y - align.TEMPLATE[number, 1]) < 8)
        weight = weight * near
        centre = [(weight * x).sum() / weight.sum(), (weight * y).sum() / weight.sum()]
        np.testing.assert_allclose(centre, align.TEMPLATE[number], atol=0.35)


def test_an_aligned_picture_stays_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    again = align.warp(image, align.similarity(align.TEMPLATE))
    assert np.abs(again.astype(int) - image).max() <= 1  # PIL's bicubic rounds down


def pictures(folder: Path) -> dict[str, np.ndarray]:
    points = {}
    for number, name in enumerate(("ann/1.jpg", "ann/2.jpg", "bo/1.jpg", "bo/9.jpg")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        points[name] = moved(align.TEMPLATE - 56, 0.2 * number, 1.5, (120, 130))
        Image.fromarray(spots(256, points[name])).save(path, quality=95)
    return points


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["synthbench", "data", "align", *words])
    with pytest.raises(SystemExit) as ended:
        app.main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("separator", [" ", ",", "\t"])
def test_landmarks_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], separator: str) -> None:
    points = pictures(tmp_path / "set")
    lines = [separator.join([name, *(f"{value:.3f}" for value in found.ravel())]) for name, found in points.items() if name != "bo/9.jpg"]
    (tmp_path / "list.txt").write_text("\n".join(["3", "name lefteye_x lefteye_y ...", *lines]) + "\n")
    words = (str(tmp_path / "set"), "--landmarks", str(tmp_path / "list.txt"), "-o", str(tmp_path / "out"))
    assert run(monkeypatch, *words) == 0
    heard = " ".join(capsys.readouterr().err.split())
    assert "3 faces of 112 px" in heard and "1 images without a face are left out: bo/9.jpg" in heard
    source = read_source(tmp_path / "out")
    assert source.names == ["ann", "bo"] and source.label.tolist() == [0, 0, 1]
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png")) == [
        "ann/1.png",
        "ann/2.png",
        "bo/1.png",
    ]
    x, y = align.TEMPLATE.round().astype(int).T
    expected = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1]], bool)
    for row in range(3):
        assert (((at := source.image(row)[y, x]) > 150) == expected).all() and (at[~expected] < 90).all()
    assert run(monkeypatch, *words) == 2 and "exists" in capsys.readouterr().err


def test_bad_landmarks_are_named_with_their_line(tmp_path: Path) -> None:
    pictures(tmp_path / "set")
    source = read_source(tmp_path / "set")
    (tmp_path / "list.txt").write_text("ann/1.jpg 1 2 3 4 5 6 7 8 9 10\nann/2.jpg 1 2 3 4 5 6 7 8 9 10\nbo/1.jpg 1 2 3\n")
    with pytest.raises(UserError, match=r"list.txt:3: 'bo/1.jpg 1 2 3' is not a name and ten numbers"):
        align.from_file(tmp_path / "list.txt", source)
    (tmp_path / "list.txt").write_text("hello\n")
    with pytest.raises(UserError, match=r"list.txt has no line of a name and ten numbers: none of the images, such as ann/1.jpg"):
        align.from_file(tmp_path / "list.txt", source)
    (tmp_path / "list.txt").write_text("somebody.jpg 1 2 3 4 5 6 7 8 9 10\n")
    with pytest.raises(UserError, match=r"names somebody.jpg, ..., and none of the images, such as ann/1.jpg"):
        align.from_file(tmp_path / "list.txt", source)


def test_a_name_that_several_images_have_is_no_name(tmp_path: Path) -> None:
    pictures(tmp_path / "set")
    source = read_source(tmp_path / "set")  # ann/1.jpg, ann/2.jpg, bo/1.jpg, bo/9.jpg
    (tmp_path / "list.txt").write_text("".join(f"{name} 1 2 3 4 5 6 7 8 9 10\n" for name in ("1.jpg", "2.jpg", "bo/9.jpg")))
    found = align.from_file(tmp_path / "list.txt", source)
    nothing = np.empty(0)
    assert [found(row, nothing) is None for row in range(4)] == [True, False, True, False]


def test_faces_that_overlap_are_one_and_the_largest_or_central_is_taken() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 1, 10, 10], [50, 50, 30, 30], [44, 20, 8, 8]], float)
    assert align.apart(boxes, np.array([0.7, 0.9, 0.8, 0.3]), 0.5) == [1, 2]
    assert align.choose(boxes, (96, 48), "largest") == 2 and align.choose(boxes, (96, 48), "central") == 3


def test_one_source_of_landmarks_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, str(tmp_path), "-o", str(tmp_path / "out")) == 2
    assert "--detector YUNET.onnx, or --landmarks FILE" in capsys.readouterr().err


@pytest.mark.skipif(not YUNET.is_file(), reason="no detector here")
def test_a_real_detector_follows_real_faces(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    detector, celeba = align.Detector(YUNET), read_source(SHARED / "celeba299_112.zip")
    for row in (0, 2000, 6000):
        plain = Image.new("RGB", (300, 300), (90, 90, 90))
        plain.paste(Image.fromarray(celeba.image(row)), (94, 94))
        turned = plain.resize((510, 510), Image.Resampling.BICUBIC).rotate(8, Image.Resampling.BICUBIC)  # against the clock
        (before,), (after,) = (detector.faces(np.asarray(picture))[1] for picture in (plain, turned))
        assert np.linalg.norm(before - 94 - align.TEMPLATE, axis=1).mean() < 8  # these faces are aligned, if by another picture of them
        back = align.similarity(after, before)
        assert np.sqrt(np.linalg.det(back[:, :2])) == pytest.approx(300 / 510, rel=0.1)
        assert np.degrees(np.arctan2(back[1, 0], back[0, 0])) == pytest.approx(8, abs=6)  # of a detector, not of a ruler
    boxes, _ = detector.faces(np.full((200, 300, 3), 128, np.uint8))
    assert len(boxes) == 0


def test_points_in_one_place_are_no_face(tmp_path: Path) -> None:
    """Of them no scale can be told; nor of numbers that no picture has."""
    known = pictures(tmp_path / "set")
    source = read_source(tmp_path / "set")
    points: dict[int, np.ndarray] = dict(enumerate([np.full((5, 2), 7.0), align.TEMPLATE * 1e300, align.TEMPLATE + 1e12]))
    told = align.align(source, tmp_path / "out", lambda row, image: points.get(row, align.TEMPLATE))
    assert len(known) > 3 and len(told.without) == 3 and told.written == len(known) - 3
