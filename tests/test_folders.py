"""Folders, lists and columns that people have and that say less plainly who is on an image: what is understood, and what is asked."""

from __future__ import annotations

import base64
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_layouts import files, png

from synthbench.data import sources
from synthbench.data.faces import import_faces
from synthbench.data.readers import read_source
from synthbench.types import UserError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHBENCH_DATA", str(tmp_path / "home"))


def test_two_folders_above_an_image(tmp_path: Path) -> None:
    names = [f"{upper}/{lower}/{i}.png" for upper in ("African", "Asian") for lower in ("m.01", "m.02") for i in range(2)]
    folder = files(tmp_path / "rfw", *names)
    with pytest.raises(UserError, match=r"two folders deep \(African/m\.01/\.\.\.\).*--column upper takes African.*--column lower m\.01"):
        read_source(folder)
    lower = sources.add("lower", folder, "faces", column="lower")
    assert lower.read == "8 images of 4 identities (2 to 2 each), lower folder, 8 x 8"  # m.01 of one is nobody of the other
    upper = sources.add("upper", folder, "faces", column="upper")
    assert upper.identities == 2 and upper.digest != lower.digest
    faces = import_faces(folder, tmp_path / "out", 8, reading=lower.options)
    assert faces.names == ["African/m.01", "African/m.02", "Asian/m.01", "Asian/m.02"]
    with pytest.raises(UserError, match="do not lie two folders deep"):
        read_source(folder / "Asian", reading={"column": "upper"})
    assert read_source(folder / "Asian").names == ["m.01", "m.02"]


def test_folders_of_a_thousand_numbers_are_nobody(tmp_path: Path) -> None:
    ffhq = files(tmp_path / "ffhq", "00000/00000.png", "00000/00999.png", "01000/01000.png", "69000/69999.png")
    entry = sources.add("ffhq", ffhq, "faces")
    assert entry.read == "4 images without labels, folders of a thousand numbers each, which are nobody, 8 x 8" and entry.identities == 0
    casia = files(tmp_path / "casia", "0000/00000.png", "0000/00001.png", "1000/00000.png", "1000/01001.png")
    assert len(read_source(casia).names) == 2


HEADED = "image_id,age,Identity,gender\n" + "".join(f"{i}.png,{20 + i},who{i // 2},{i % 2}\n" for i in range(6))


def test_a_name_with_a_space_is_no_column(tmp_path: Path) -> None:
    folder = files(tmp_path / "set", "Ann Lee.png", "Bo Lee.png", "Ann Fox.png")
    (tmp_path / "list.txt").write_text("Ann Lee.png 0\nBo Lee.png 1\nAnn Fox.png 2\n")
    assert read_source(folder, reading={"labels": str(tmp_path / "list.txt")}).names == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("name", "text", "names"),
    [
        ("headed.csv", HEADED, ["who0", "who1", "who2"]),
        ("im2rec.lst", "".join(f"{i}\t{i // 2}\tset/imgs/{i}.png\n" for i in range(6)), ["0", "1", "2"]),
        ("im2rec1.lst", "".join(f"{i + 1}\t/data/imgs/{i}.png\t{i // 2}\n" for i in range(6)), ["0", "1", "2"]),
        (
            "metadata.jsonl",
            "".join(json.dumps({"file_name": f"{i}.png", "text": "a face", "person": f"p{i // 3}"}) + "\n" for i in range(6)),
            ["p0", "p1"],
        ),
    ],
)
def test_lists_of_several_columns(tmp_path: Path, name: str, text: str, names: list[str]) -> None:
    folder = files(tmp_path / "set", *(f"imgs/{i}.png" for i in range(6)))
    (tmp_path / name).write_text(text)
    entry = sources.add("mine", folder, "faces", labels=tmp_path / name)
    source = read_source(folder, reading=entry.options)
    assert source.names == names and source.label.tolist() == [i * len(names) // 6 for i in range(6)]
    assert [source.encoded(row) for row in range(6)] == [png(row) for row in range(6)]


def test_a_column_of_a_list_is_chosen(tmp_path: Path) -> None:
    folder = files(tmp_path / "set", *(f"{i}.png" for i in range(6)))
    (tmp_path / "list.csv").write_text(HEADED)
    entry = sources.add("mine", folder, "faces", labels=tmp_path / "list.csv", column="gender")
    assert entry.read == "6 images of 2 identities (3 to 3 each), labels of list.csv, column gender, 8 x 8"
    with pytest.raises(UserError, match=r"no column 'name'.*Identity \(3 values\)"):
        read_source(folder, reading={"labels": str(tmp_path / "list.csv"), "column": "name"})
    (tmp_path / "plain.txt").write_text("0.png 1\n1.png 2\n")
    for reading, message in (
        ({"labels": str(tmp_path / "plain.txt"), "column": "name"}, "no headings to choose column 'name' by"),
        ({"labels": str(tmp_path / "plain.txt"), "split": "train"}, "leave out --split, or --labels"),
        ({"column": "upper"}, "in no folders"),
    ):
        with pytest.raises(UserError, match=message):
            read_source(folder, reading=reading)


def test_a_list_beside_loose_images_is_told(tmp_path: Path) -> None:
    folder = files(tmp_path / "hub", "train/0.png", "train/1.png")
    (folder / "train" / "metadata.csv").write_text("file_name,label\n0.png,1\n1.png,2\n")
    assert "lists (.csv) lie among the images, which have no labels: --labels FILE" in sources.add("mine", folder, "faces").note
    assert sources.add("mine", folder, "faces", labels=folder / "train" / "metadata.csv").identities == 2


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ([list(png(i)) for i in range(4)], pa.list_(pa.uint8())),
        ([base64.b64encode(png(i)).decode() for i in range(4)], pa.string()),
        (["data:image/png;base64," + base64.b64encode(png(i)).decode() for i in range(4)], pa.large_string()),
    ],
)
def test_images_in_other_columns(tmp_path: Path, column: list, kind: pa.DataType) -> None:
    pq.write_table(pa.table({"image": pa.array(column, kind), "label": [0, 0, 1, 1]}), tmp_path / "set.parquet")
    source = read_source(tmp_path / "set.parquet")
    assert [source.encoded(row) for row in range(4)] == [png(row) for row in range(4)] and source.label.tolist() == [0, 0, 1, 1]


def test_what_is_no_set_says_what_to_do(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": ["a/0.png", "a/1.png"], "label": [0, 1]}), tmp_path / "paths.parquet")
    with pytest.raises(UserError, match=r"row 0: 'a/0\.png' is no image in base64\. Files that only name a path are not read"):
        sources.add("mine", tmp_path / "paths.parquet", "faces")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("p0.zip", b"x")
    files(tmp_path / "archives", "p0.zip", "p1.zip")
    for name, message in (
        ("set.zip", r"1 archive such as p0\.zip among its files: unpack"),
        ("archives", r"2 archives such as p0\.zip among its files: unpack"),
        ("x.tar.gz", "compressed; unpack it"),
        ("x.7z", "compressed; unpack it"),
        ("x.npz", "write the images as files, a folder for each person"),
        ("x.csv", "takes the list besides, as --labels FILE"),
        ("x.bin", "a .bin holds pairs"),
        ("x.what", "not a data set known here"),
    ):
        (tmp_path / name).exists() or (tmp_path / name).write_bytes(b"x" * 100)
        with pytest.raises(UserError, match=message):
            read_source(tmp_path / name)
