"""Labelled images in every form they come in, to one uint8 memory map, and what is refused."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fresh import READY, at_once
from PIL import Image

from synthbench.data import pixels
from synthbench.data.faces import FaceSet, import_faces, open_faces, read_source, source_digest
from synthbench.data.shards import ShardWriter
from synthbench.types import FaceBatch, UserError

DATA = Path(os.environ.get("SYNTHBENCH_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def picture(seed: int, height: int = 16, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """3 people, 2 images each; the order of names is not that of numbers."""
    for person, name in enumerate(("10", "9", "zoe")):
        for k in range(2):
            path = tmp_path / "set" / name / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(picture(10 * person + k)))
    (tmp_path / "set" / ".cache").mkdir()
    (tmp_path / "set" / ".cache" / "x.png").write_bytes(b"hidden")
    (tmp_path / "set" / "10" / "notes.txt").write_text("not an image")
    return tmp_path / "set"


def zipped(folder: Path, path: Path, top: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, top + file.relative_to(folder).as_posix())
        archive.writestr("__MACOSX/10/._0.png", b"resource fork")
    return path


def test_folder_zip_and_parquet_give_the_same_faces(folder: Path, tmp_path: Path) -> None:
    plain = import_faces(folder, tmp_path / "a", 16)
    archive = import_faces(zipped(folder, tmp_path / "set.zip"), tmp_path / "b", 16)
    nested = import_faces(zipped(folder, tmp_path / "nested.zip", "top/"), tmp_path / "c", 16)
    rows = [(name, png(image)) for name, image in read_source(folder)]
    images = pa.array([{"bytes": data, "path": None} for _, data in rows], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"image": images, "identity": [name for name, _ in rows]}), tmp_path / "set.parquet", row_group_size=4)
    parquet = import_faces(tmp_path / "set.parquet", tmp_path / "d", 16)
    pq.write_table(pa.table({"img": [data for _, data in rows], "label": [int(i // 2) for i in range(6)]}), tmp_path / "raw.parquet")
    raw = import_faces(tmp_path / "raw.parquet", tmp_path / "e", 16)

    assert plain.names == archive.names == nested.names == parquet.names == ["10", "9", "zoe"]
    assert raw.names == ["0", "1", "2"]
    assert plain.identity.tolist() == [0, 0, 1, 1, 2, 2]
    assert len({faces.digest for faces in (plain, archive, nested, parquet, raw)}) == 1
    for row, seed in enumerate((0, 1, 10, 11, 20, 21)):
        assert torch.equal(plain.images([row])[0].permute(1, 2, 0), torch.from_numpy(picture(seed)))


def test_exclude_and_rows(folder: Path, tmp_path: Path) -> None:
    faces = import_faces(folder, tmp_path / "a", 16, exclude=["9"])
    assert (faces.names, faces.identity.tolist(), faces.identities) == (["10", "zoe"], [0, 0, 1, 1], 2)
    assert torch.equal(faces.images(slice(1, 3)), faces.images([1, 2]))
    assert torch.equal(faces.images(np.array([False, True, True, False])), faces.images(torch.tensor([1, 2])))
    assert faces.images([]).shape == (0, 3, 16, 16)
    assert faces.images([0]).is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(UserError, match=r"'zo' to exclude; did you mean 'zoe'"):
        import_faces(folder, tmp_path / "b", 16, exclude=["zo"])


def test_digest_is_of_labels_and_pixels_in_order(folder: Path, tmp_path: Path) -> None:
    stored = import_faces(folder, tmp_path / "a", 16)
    images = stored.images(slice(None))
    assert FaceSet.from_arrays(images, stored.identity).digest == stored.digest == open_faces(tmp_path / "a").digest
    assert FaceSet.from_arrays(images.permute(0, 2, 3, 1), stored.identity + 7).digest == stored.digest  # labels are made dense
    other = images.clone()
    other[5, 2, 15, 15] ^= 1
    assert FaceSet.from_arrays(other, stored.identity).digest != stored.digest
    assert FaceSet.from_arrays(images.flip(0), stored.identity[::-1].copy()).digest != stored.digest
    assert FaceSet.from_arrays(images, [0, 0, 1, 1, 2, 1]).digest != stored.digest


OPEN = f"""
import sys
from synthbench.data.faces import open_faces
{READY}
print(open_faces(sys.argv[1]).digest)
"""


def test_two_processes_pack_at_once(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path)
    writer.write(FaceBatch(torch.from_numpy(np.stack([picture(i) for i in range(40)])).permute(0, 3, 1, 2), torch.arange(40) // 4))
    writer.finish()
    assert set(at_once(OPEN, [[tmp_path]] * 3)) == {open_faces(tmp_path).digest + "\n"}
    assert not list(tmp_path.glob("*.tmp"))


def test_packed_again_when_the_shards_change(tmp_path: Path) -> None:
    for seed in (0, 1):
        for path in tmp_path.glob("part-*"):
            path.unlink()
        writer = ShardWriter(tmp_path)
        writer.write(FaceBatch(torch.from_numpy(np.stack([picture(seed), picture(5)])).permute(0, 3, 1, 2), torch.tensor([3, 8])))
        writer.finish({3: "c", 8: "h"})
        faces = open_faces(tmp_path)
        assert torch.equal(faces.images([0])[0].permute(1, 2, 0), torch.from_numpy(picture(seed)))
        assert faces.names == ["c", "h"] and faces.identity.tolist() == [0, 1]


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "RGBA", "LA", "I;16", "YCbCr"])
def test_every_colour_mode_becomes_rgb(mode: str) -> None:
    grey = np.tile(np.arange(0, 256, 16, dtype=np.uint8), (16, 1))
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(np.dstack([grey] * 3)).convert("L" if mode == "LA" else "RGB")
        image = image.quantize(256) if mode == "P" else image.convert(mode)
    out = io.BytesIO()
    image.save(out, "TIFF" if mode in ("CMYK", "YCbCr") else "PNG")
    try:
        Image.open(out).load()
    except OSError:
        pytest.skip("this Pillow does not read what it wrote (YCbCr, 12.0)")
    found = pixels.decode(out.getvalue(), "x")
    assert found.shape == (16, 16, 3) and found.dtype == np.uint8
    if mode != "1":
        assert np.abs(found.astype(int) - grey[:, :, None]).max() <= 2


def test_alpha_is_laid_on_black_and_exif_turns() -> None:
    rgba = np.full((4, 6, 4), 200, np.uint8)
    rgba[:, :3, 3] = 0
    out = io.BytesIO()
    Image.fromarray(rgba).save(out, "PNG")
    found = pixels.decode(out.getvalue(), "x")
    assert (found[:, :3] == 0).all() and found[0, 5, 0] == 157  # 200 * 200 / 255
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.fromarray(picture(0, 4, 6)).save(out, "PNG", exif=exif)
    assert np.array_equal(pixels.decode(out.getvalue(), "x"), np.rot90(picture(0, 4, 6), -1))


def test_fit_is_antialiased_and_crops_the_long_side() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255  # finer than the result can show: without antialiasing all black or all white
    assert np.abs(pixels.fit(stripes, 16)[:, 2:-2].astype(int) - 127).max() <= 2
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = picture(1, 8, 8)
    assert np.array_equal(pixels.fit(wide, 8), wide[:, 8:16])


def test_png_is_lossless() -> None:
    assert np.array_equal(pixels.decode(pixels.encode(picture(3, 20, 20)), "x"), picture(3, 20, 20))


def test_images_that_are_not_square_are_counted(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "zoe" / "2.png").write_bytes(png(picture(9, 16, 40)))
    faces = import_faces(folder, tmp_path / "a", 16)
    assert len(faces) == 7
    assert "1 of 7 images are not square" in capsys.readouterr().err


def test_truncated_image_names_file(folder: Path, tmp_path: Path) -> None:
    path = folder / "9" / "1.png"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match=r"9.1\.png: the image cannot be decoded .*300 bytes"):
        import_faces(folder, tmp_path / "a", 16)
    table = pa.table({"image": [png(picture(i))[: 300 if i == 3 else None] for i in range(4)], "label": [0, 0, 1, 1]})
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"x\.parquet, row 3: the image cannot be decoded"):
        import_faces(tmp_path / "x.parquet", tmp_path / "b", 16)


def test_import_goes_on_where_it_stopped(folder: Path, tmp_path: Path) -> None:
    whole = import_faces(folder, tmp_path / "whole", 16, rows_per_shard=2)
    bad = folder / "zoe" / "1.png"
    good = bad.read_bytes()
    bad.write_bytes(b"broken")
    with pytest.raises(UserError):
        import_faces(folder, tmp_path / "a", 16, rows_per_shard=2)
    bad.write_bytes(good)
    assert import_faces(folder, tmp_path / "a", 16, rows_per_shard=2).digest == whole.digest
    with pytest.raises(UserError, match="holds 6 other faces"):
        import_faces(folder, tmp_path / "a", 16, exclude=["9"])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "no images"),
        (["a/0.png"], "one image"),
        (["a/0.png", "a/1.png"], "2 images of one identity"),
        (["0.png", "1.png"], "2 images without labels"),
        (["a/0.png", "b/0.png", "stray.png"], "1 of 3 images are not in .*stray.png.*without labels are a set of their own"),
        (["x/y/a/0.png", "x/z/a/0.png", "x/0.png"], "2 of 3 images are not in"),
        (["Anna/0.png", "anna/0.png"], "'Anna' and 'anna' would be one"),
        (["Zo\u00eb/0.png", "Zoe\u0308/0.png"], "would be one"),
    ],
)
def test_sets_that_are_refused(tmp_path: Path, files: list[str], message: str) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in files:
            archive.writestr(name, png(picture(0)))
    with pytest.raises(UserError, match=message):
        import_faces(path, tmp_path / "out", 16)


def test_images_that_are_enlarged_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, side in (("a/0.png", 8), ("a/1.png", 12), ("b/0.png", 16), ("b/1.png", 40)):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(png(picture(0, side, side)))
    faces = import_faces(tmp_path / "set", tmp_path / "out", 16)
    assert faces.resolution == 16 and len(faces) == 4
    assert "2 of 4 images are smaller than 16 px, the smallest 8" in " ".join(capsys.readouterr().err.split())
    import_faces(tmp_path / "set", tmp_path / "small", 8)
    assert "smaller" not in capsys.readouterr().err


def test_photographs_without_labels(tmp_path: Path) -> None:
    path = tmp_path / "loose.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(3):
            archive.writestr(f"{number}.png", png(picture(number)))
    source = read_source(path)
    assert source.names == [] and source.label.tolist() == [-1] * 3 and [name for name, _ in source] == [""] * 3
    faces = import_faces(path, tmp_path / "out", 16, labelled=False)
    assert faces.identities == 0 and faces.identity.tolist() == [-1] * 3
    np.testing.assert_array_equal(faces.images([1])[0].permute(1, 2, 0), picture(1))
    with pytest.raises(UserError, match="no identity 'a' to exclude"):
        import_faces(path, tmp_path / "without", 16, exclude=["a"], labelled=False)


@pytest.mark.parametrize("name", ["../a/0.png", "/a/0.png", "a/../../0.png", "C:\\a\\0.png"])
def test_zip_that_points_outside_is_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(name, png(picture(0)))
    with pytest.raises(UserError, match="outside the archive"):
        read_source(tmp_path / "x.zip")


def test_damaged_containers(folder: Path, tmp_path: Path) -> None:
    path = zipped(folder, tmp_path / "x.zip")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="not a whole zip"):
        read_source(path)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match="not a whole Parquet"):
        read_source(tmp_path / "x.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "y.parquet")
    with pytest.raises(UserError, match=r"needs a column with files of images .* it has a \(int64\)"):
        read_source(tmp_path / "y.parquet")
    with pytest.raises(UserError, match="does not exist"):
        read_source(tmp_path / "none")


def test_source_digest(folder: Path) -> None:
    before = source_digest(folder)
    os.utime(folder / "9" / "0.png", (0, 0))
    assert source_digest(folder) == before
    (folder / "9" / "0.png").rename(folder / "9" / "5.png")
    assert source_digest(folder) != before


def test_lmdb(tmp_path: Path) -> None:
    lmdb, msgpack = pytest.importorskip("lmdb"), pytest.importorskip("msgpack")
    keys = [str(i).encode() for i in range(4)]
    with lmdb.open(str(tmp_path / "db"), map_size=1 << 20) as database, database.begin(write=True) as transaction:
        for i, key in enumerate(keys):
            transaction.put(key, msgpack.packb((png(picture(i)), i % 2)))
        transaction.put(b"__len__", msgpack.packb(4))
        transaction.put(b"__keys__", msgpack.packb(keys))
    faces = import_faces(tmp_path / "db", tmp_path / "out", 16)
    assert faces.identity.tolist() == [0, 0, 1, 1]
    assert torch.equal(faces.images([1])[0].permute(1, 2, 0), torch.from_numpy(picture(2)))
    one, two = read_source(tmp_path / "db"), read_source(tmp_path / "db")  # LMDB itself refuses the second
    assert [source.encoded(3) for source in (one, two)] == [png(picture(3))] * 2


@pytest.mark.skipif(not DATA.exists(), reason="../shared/data is absent")
def test_real_photographs(tmp_path: Path) -> None:
    lfw, celeba = read_source(DATA / "lfw_112.zip"), read_source(DATA / "celeba299_112.zip")
    assert (len(lfw), len(lfw.names), len(celeba), len(celeba.names)) == (13_233, 5_749, 6_292, 299)
    few = import_faces(DATA / "celeba299_112.zip", tmp_path / "few", 112, exclude=celeba.names[3:])
    assert few.names == ["07201", "07202", "07203"] and few.resolution == 112
    with zipfile.ZipFile(DATA / "celeba299_112.zip") as archive:
        expected = np.asarray(Image.open(io.BytesIO(archive.read("07201/001085.jpg"))))
    assert np.array_equal(few.images([0])[0].permute(1, 2, 0).numpy(), expected)


def test_labels_that_name_nobody_and_files_that_cannot_be_read(folder: Path, tmp_path: Path) -> None:
    images = [png(picture(seed)) for seed in range(3)]
    for labels in ([[1], [2], [3]], [0.5, 1.0, 2.0], [0.0, 1.0, float("nan")], [True, False, True]):
        pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / "odd.parquet")
        with pytest.raises(UserError, match="an identity is a whole number or text"):
            read_source(tmp_path / "odd.parquet")
    pq.write_table(pa.table({"image": images, "label": [0.0, 1.0, 1.0]}), tmp_path / "float.parquet")
    assert read_source(tmp_path / "float.parquet").label.tolist() == [0, 1, 1]
    (folder / "zoe" / "2.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(UserError, match=r"2\.png: cannot be read \(No such file"):
        source_digest(folder)
    with pytest.raises(UserError, match=r"2\.png: cannot be read \(No such file"):
        import_faces(folder, tmp_path / "a", 16)
    with pytest.raises(UserError, match="neither a file nor a folder"):
        read_source("/dev/null")


@pytest.mark.parametrize("name", ["part-00000.parquet", "packed.npz"])
def test_damage_that_keeps_the_size_is_named(folder: Path, tmp_path: Path, name: str) -> None:
    import_faces(folder, tmp_path / "a", 16)
    path = tmp_path / "a" / name
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(UserError, match=rf"{name}: cannot be read .* Delete it, and run the command"):
        open_faces(tmp_path / "a")


def test_what_is_shown_of_an_identity_is_made_and_whole():
    """Copies (sample below 0), photographs and mixtures only where there is nothing else."""
    images = np.zeros((8, 8, 8, 3), np.uint8)
    columns = {"sample": [0, 1, -1, 0, 1, -1, -2, 0], "real": [0, 0, 0, 0, 1, 0, 0, 0]}
    faces = FaceSet.from_arrays(images, [0, 0, 0, 1, 1, 2, 2, 3], columns=columns)
    assert [faces.shown(identity).tolist() for identity in range(4)] == [[0, 1], [3], [5, 6], [7]]
    mixed = columns | {"label2": [0, 1, 0, 0, 0, 0, 0, 0], "weight": [1.0, 0.5, 1, 0.5, 0.5, 1, 1, 1]}
    faces = FaceSet.from_arrays(images, [0, 0, 0, 1, 1, 2, 2, 3], columns=mixed)
    assert [faces.shown(identity).tolist() for identity in range(4)] == [[0], [3], [5, 6], [7]]
