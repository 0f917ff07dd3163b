"""What is written for other tools holds the same faces; and the generators that read such sets."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from synthbench.cli import app
from synthbench.data import pixels, sources
from synthbench.data.export import convert, export_faces
from synthbench.data.faces import FaceSet, import_faces
from synthbench.data.readers import read_source
from synthbench.generators.folder import Folder, FolderConfig
from synthbench.generators.real import Real, RealConfig
from synthbench.plugin import Context
from synthbench.types import Slot, UserError, Volume

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 3, 12, 12), dtype=np.uint8)
LABELS = [1, 0, 1, 2, 0, 1, 2]


@pytest.fixture
def faces() -> FaceSet:
    return FaceSet.from_arrays(IMAGES, LABELS, names=["ann", "bo", "cy"], columns={"m": np.arange(7, dtype=np.float32) / 4})


@pytest.mark.parametrize("form", ["imagefolder", "rec", "parquet", "lmdb"])
def test_read_again(faces: FaceSet, tmp_path: Path, form: str) -> None:
    export_faces(faces, form, tmp_path / "out")
    again = import_faces(tmp_path / "out", tmp_path / "in", 12)
    rows = np.argsort(LABELS, kind="stable")
    assert again.identity.tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert torch.equal(again.images(slice(None)), faces.images(rows))
    assert again.names == (["ann", "bo", "cy"] if form in ("imagefolder", "parquet") else ["0", "1", "2"])
    if form == "imagefolder":
        assert sorted(path.name for path in (tmp_path / "out" / "bo").iterdir()) == ["00000.png", "00001.png", "00002.png"]


def test_webdataset(faces: FaceSet, tmp_path: Path) -> None:
    export_faces(faces, "webdataset", tmp_path / "out")
    with tarfile.open(tmp_path / "out" / "00000.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert list(members)[:3] == ["00000000.png", "00000000.cls", "00000000.json"] and len(members) == 21
    assert members["00000003.cls"] == b"2"
    assert json.loads(members["00000003.json"]) == {"identity": 2, "name": "cy", "m": 0.75}
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(members["00000003.png"]))), IMAGES[3].transpose(1, 2, 0))


@pytest.mark.parametrize("names", [["a", "A", "b"], ["../x", "b", "c"], ["a/b", "c", "d"], ["", "b", "c"], [".a", "b", "c"]])
def test_names_that_make_no_folders_become_numbers(tmp_path: Path, names: list[str]) -> None:
    export_faces(FaceSet.from_arrays(IMAGES, LABELS, names=names), "imagefolder", tmp_path / "out", format="jpg")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0000000", "0000001", "0000002"]
    assert len(list(tmp_path.rglob("*.jpg"))) == 7


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Seven images of three people in three kinds of files."""
    for number, (image, label) in enumerate(zip(IMAGES, LABELS)):
        path = tmp_path / "set" / "abc"[label] / f"{number}.{('jpg', 'png', 'webp')[number % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(path, **({"lossless": True} if path.suffix == ".webp" else {}))
    return tmp_path / "set"


@pytest.mark.parametrize("form", ["imagefolder", "rec", "parquet", "lmdb"])
def test_converted_there_and_back_every_pixel_and_every_file_is_the_same(photographs: Path, tmp_path: Path, form: str) -> None:
    before = read_source(photographs)
    convert(before, form, tmp_path / "there")
    between = read_source(tmp_path / "there")
    convert(between, "imagefolder", tmp_path / "back")
    back = read_source(tmp_path / "back")
    assert between.kind == {"imagefolder": "folder"}.get(form, form)
    for again in (between, back):
        assert again.label.tolist() == before.label.tolist() == [0, 0, 1, 1, 1, 2, 2]
        for row in range(7):
            assert np.array_equal(again.image(row), before.image(row))
            if not before.where(row).endswith(".webp"):
                assert again.encoded(row) == before.encoded(row)
    if form in ("imagefolder", "parquet"):
        assert between.names == back.names == ["a", "b", "c"]


def test_converted_to_webdataset(photographs: Path, tmp_path: Path) -> None:
    source = read_source(photographs)
    convert(source, "webdataset", tmp_path / "out")
    with tarfile.open(tmp_path / "out" / "00000.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert len(members) == 21 and json.loads(members["00000002.json"]) == {"identity": 1, "name": "b"}
    for row in range(7):
        (image,) = [data for name, data in members.items() if name.startswith(f"{row:08d}.") and name.endswith((".jpg", ".png"))]
        assert np.array_equal(pixels.decode(image, ""), source.image(row))


def test_loose_images_stay_loose_and_fit_no_layout_that_needs_labels(tmp_path: Path) -> None:
    (tmp_path / "loose").mkdir()
    for number in range(3):
        Image.fromarray(IMAGES[number].transpose(1, 2, 0)).save(tmp_path / "loose" / f"{number}.png")
    source = read_source(tmp_path / "loose")
    convert(source, "imagefolder", tmp_path / "out")
    again = read_source(tmp_path / "out")
    assert again.names == [] and [again.encoded(row) for row in range(3)] == [source.encoded(row) for row in range(3)]
    with pytest.raises(UserError, match="has no labels, and rec needs them"):
        convert(source, "rec", tmp_path / "rec")


def test_refused(faces: FaceSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists"):
        export_faces(faces, "rec", tmp_path)
    mixed = FaceSet.from_arrays(IMAGES, LABELS, columns={"label2": np.zeros(7, np.int64), "weight": np.ones(7, np.float32)})
    with pytest.raises(UserError, match="no place for soft labels"):
        export_faces(mixed, "parquet", tmp_path / "out")
    with pytest.raises(UserError, match="imagefolder, rec, webdataset"):
        export_faces(faces, "tfrecord", tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export_faces(faces, "rec", tmp_path / "file" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def context(faces: FaceSet, tmp_path: Path, resolution: int = 12, batch_size: int = 2) -> Context:
    return Context(tmp_path, 0, resolution, torch.device("cpu"), faces, encoder=None, batch_size=batch_size)  # type: ignore[arg-type]


def test_real_gives_all_images(faces: FaceSet, tmp_path: Path) -> None:
    real, where = Real(RealConfig()), context(faces, tmp_path)
    slots = real.slots(Volume.parse("all"), where)
    assert slots == [Slot(0, 0), Slot(0, 1), Slot(1, 0), Slot(1, 1), Slot(1, 2), Slot(2, 0), Slot(2, 1)]
    batches = list(real.generate(slots, where))
    assert [len(batch.images) for batch in batches] == [2, 2, 2, 1]
    assert torch.equal(torch.cat([batch.images for batch in batches]), faces.images([1, 4, 0, 2, 5, 3, 6]))
    assert torch.cat([batch.identity for batch in batches]).tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert all((batch.columns["real"] == 1).all() for batch in batches)
    (one,) = real.generate([Slot(1, 2)], where)
    assert torch.equal(one.images, faces.images([5]))


def test_volumes_of_a_finite_set(faces: FaceSet, tmp_path: Path) -> None:
    real, where = Real(RealConfig()), context(faces, tmp_path)
    assert real.slots(Volume.parse("1x3"), where) == [Slot(1, 0), Slot(1, 1), Slot(1, 2)]
    small, large = (real.slots(Volume.parse(text), where) for text in ("2x2", "3x2"))
    assert large[:4] == small
    assert real.slots(Volume.parse("1x3+2x1"), where)[3:] == [Slot(0, 0), Slot(2, 0)]
    with pytest.raises(UserError, match="asks for 2 identities x 3 images, but the real set has 1 that large: 7 images of 3 identities"):
        real.slots(Volume.parse("2x3"), where)


def test_folder_is_the_same_as_importing_it(faces: FaceSet, tmp_path: Path) -> None:
    export_faces(faces, "rec", tmp_path / "set")
    folder = Folder(FolderConfig(sample={"path": str(tmp_path / "set"), "exclude": ["1"]}))
    where = context(faces, tmp_path, resolution=8, batch_size=3)
    slots = folder.slots(Volume.parse("all"), where)
    found = torch.cat([batch.images for batch in folder.generate(slots, where)])
    imported = import_faces(tmp_path / "set", tmp_path / "in", 8, exclude=["1"])
    assert torch.equal(found, imported.images(slice(None))) and len(found) == 4
    assert torch.equal(next(iter(folder.generate(slots[3:], where))).images, imported.images([3]))
    before = folder.sources(8)
    (tmp_path / "set" / "train.rec").write_bytes((tmp_path / "set" / "train.rec").read_bytes() + b"\0" * 4)
    assert folder.sources(8) != before
    with pytest.raises(UserError, match=r"--set sample\.path=DIR"):
        Folder(FolderConfig()).slots(Volume.parse("all"), where)


def test_a_registered_set_is_converted_as_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here by its list: without it the images are loose."""
    monkeypatch.setenv("SYNTHBENCH_DATA", str(tmp_path / "registry"))
    (tmp_path / "flat").mkdir()
    for number in range(7):
        Image.fromarray(IMAGES[number].transpose(1, 2, 0)).save(tmp_path / "flat" / f"{number}.png")
    (tmp_path / "who.txt").write_text("".join(f"{number}.png {label}\n" for number, label in enumerate(LABELS)))
    sources.add("listed", tmp_path / "flat", "faces", labels=tmp_path / "who.txt")
    monkeypatch.setattr("sys.argv", ["synthbench", "data", "convert", "listed", "--to", "parquet", "-o", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 0
    again = read_source(tmp_path / "out")
    assert [again.names[label] for label in again.label] == [str(label) for label in LABELS]
    assert all(np.array_equal(again.image(row), IMAGES[row].transpose(1, 2, 0)) for row in range(7))
