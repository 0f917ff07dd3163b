"""Sets as others lay them out: which column, split and files are read, what is said about it, and what a wish changes."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from synthbench.data import sources
from synthbench.data.export import export_faces
from synthbench.data.faces import FaceSet, import_faces
from synthbench.data.readers import read_source
from synthbench.pipeline.steps import import_step
from synthbench.store import Store
from synthbench.types import UserError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHBENCH_DATA", str(tmp_path / "home"))


def png(seed: int, side: int = 8) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def table(path: Path, rows: int = 40, features: dict | None = None, first: int = 0, **columns: list) -> Path:
    """A Parquet file of `rows` images, of seeds `first`, first + 1, ..."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = pa.array(
        [{"bytes": png(first + i), "path": None} for i in range(rows)], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    made = pa.table({"image": images, **columns})
    if features:
        made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(made, path, row_group_size=10)
    return path


def shown(source: Path, row: int) -> bytes:
    return read_source(source).encoded(row)


PEOPLE = [i // 4 for i in range(40)]


@pytest.mark.parametrize(
    ("columns", "column", "people"),
    [
        ({"id": list(range(40)), "person_id": PEOPLE}, "person_id", 10),
        ({"label": [i % 2 for i in range(40)], "identity": PEOPLE}, "identity", 10),
        ({"id": list(range(40))}, "id", 40),
        ({"Subject-ID": [f"s{who}" for who in PEOPLE], "label": list(range(40))}, "Subject-ID", 10),
        ({"label": PEOPLE, "caption": [f"face {i}" for i in range(40)]}, "label", 10),
    ],
)
def test_the_column_of_identities_is_found_and_said(tmp_path: Path, columns: dict, column: str, people: int) -> None:
    entry = sources.add("mine", table(tmp_path / "set.parquet", **columns), kind="faces")
    each = f"{40 // people} to {40 // people} each"
    assert entry.read == f"40 images of {people} identities ({each}), column {column}, 8 x 8"
    assert sources.show("mine")["read as"] == entry.read and entry.identities == people
    assert ("every identity has exactly one image" in entry.note) == (people == 40)


def test_row_numbers_are_never_taken_for_people_while_something_groups_the_rows(tmp_path: Path) -> None:
    path = table(tmp_path / "set.parquet", id=list(range(40)), celebrityname=["x"] * 40, who=PEOPLE)
    with pytest.raises(UserError, match=r"'id' is another one.*who \(10 values\).*--column NAME"):
        sources.add("mine", path, kind="faces")
    assert sources.add("mine", path, kind="faces", column="who").identities == 10
    with pytest.raises(UserError, match=r"no column 'whom'.*who \(10 values\)"):
        sources.add("mine", path, kind="faces", column="whom")
    with pytest.raises(UserError, match="a column is chosen in a set of faces, and this is of kind weights"):
        sources.add("net", path, kind="weights", column="who")


def test_another_column_that_looks_like_identities_is_told(tmp_path: Path) -> None:
    entry = sources.add("mine", table(tmp_path / "set.parquet", label=[i % 2 for i in range(40)], star=PEOPLE), kind="faces")
    assert "column star with 10 values may hold identities too: --column star" in entry.note


def test_a_wish_is_kept_and_has_a_key_of_its_own(tmp_path: Path) -> None:
    path = table(tmp_path / "set.parquet", identity=PEOPLE, label=[i % 2 for i in range(40)])
    store, entries = Store(tmp_path / "runs"), {}
    for name, wish in (("auto", None), ("identity", "identity"), ("label", "label")):
        entries[name] = sources.add(name, path, kind="faces", column=wish)
    keys = {name: import_step(store, 8, "real", entry).stage.key for name, entry in entries.items()}
    assert keys["auto"] == keys["identity"] != keys["label"]
    step = import_step(store, 8, "real", sources.find("label"))
    step.build(tmp_path / "faces", lambda done, total: None)
    assert json.loads((tmp_path / "faces" / "packed.json").read_text())["names"] == ["0", "1"]


def test_what_an_earlier_version_read_otherwise_is_not_imported_under_its_key(tmp_path: Path) -> None:
    from dataclasses import replace

    from synthbench.data import registered
    from synthbench.data.readers import source_digest

    path = table(tmp_path / "set.parquet", id=list(range(40)), person_id=PEOPLE)
    entry = sources.add("mine", path, kind="faces")
    registered.save("mine", replace(entry, digest=source_digest(path), options={}, read="", full_stamp=""))
    with pytest.raises(UserError, match=r"registered by an earlier version.*column person_id"):
        import_step(Store(tmp_path / "runs"), 8, "real", sources.find("mine")).build(tmp_path / "faces", lambda done, total: None)
    plain = table(tmp_path / "plain.parquet", label=PEOPLE)
    assert sources.add("plain", plain, kind="faces").digest == source_digest(plain)  # keys of what was read the same stay


@pytest.mark.parametrize("name", ["data/{}-00000-of-00001.parquet", "default/{}/0000.parquet", "{}.parquet"])
def test_splits(tmp_path: Path, name: str) -> None:
    table(tmp_path / "hub" / name.format("train"), label=PEOPLE)
    table(tmp_path / "hub" / name.format("test"), 8, first=100, label=[10, 10, 10, 10, 11, 11, 11, 11])
    whole = sources.add("whole", tmp_path / "hub", kind="faces")
    assert whole.images == 48 and "splits test and train" in whole.read
    assert "the splits test, train are read as one set; --split NAME reads one of them" in whole.note
    train = sources.add("train", tmp_path / "hub", kind="faces", split="train")
    assert train.read == "40 images of 10 identities (4 to 4 each), column label, split train, 8 x 8" and not train.note
    assert train.digest != whole.digest and train.options == {"split": "train"}
    with pytest.raises(UserError, match=r"no split 'dev'; there is .*test, train"):
        sources.add("dev", tmp_path / "hub", kind="faces", split="dev")


def test_rows_without_a_label_are_nobody(tmp_path: Path) -> None:
    table(tmp_path / "hub" / "data" / "train-0.parquet", label=PEOPLE)
    table(tmp_path / "hub" / "data" / "test-0.parquet", 8, first=100, label=[-1] * 8)
    entry = sources.add("mine", tmp_path / "hub", kind="faces")
    assert (entry.identities, entry.images) == (10, 40) and "8 rows of label -1, which means none, are left out" in entry.note
    faces = import_faces(tmp_path / "hub", tmp_path / "faces", 8)
    assert faces.names == [str(i) for i in range(10)]
    first = np.asarray(Image.open(io.BytesIO(png(0))))
    assert np.array_equal(faces.images([0])[0].permute(1, 2, 0).numpy(), first)  # files are read in order: test before train
    none = sources.add("none", tmp_path / "hub", kind="faces", split="test")
    assert (none.identities, none.images) == (0, 8) and none.read.startswith("8 images without labels")


def test_class_names_of_hugging_face(tmp_path: Path) -> None:
    names = {"label": {"names": ["Zoe", "Ann", "Bo"], "_type": "ClassLabel"}}
    path = table(tmp_path / "hub" / "default" / "train" / "0000.parquet", 6, names, label=[2, 0, 1, 2, 0, 1])
    assert read_source(tmp_path / "hub").names == ["Zoe", "Ann", "Bo"]
    assert import_faces(path, tmp_path / "faces", 8).identity.tolist() == [0, 0, 1, 1, 2, 2]
    names["label"]["names"].reverse()
    table(tmp_path / "hub" / "default" / "test" / "0000.parquet", 6, names, label=[2, 0, 1, 2, 0, 1])
    with pytest.raises(UserError, match="stand for other people"):
        read_source(tmp_path / "hub")


def test_each_row_group_is_read_once_although_people_are_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    label = np.random.default_rng(0).permutation(PEOPLE)
    path, groups, whole = table(tmp_path / "set.parquet", label=label.tolist()), [], pq.ParquetFile.iter_batches

    def counted(self, *given, **more):
        groups.extend(more.get("row_groups", ()))  # the shards that are written are read without
        return whole(self, *given, **more)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    faces = import_faces(path, tmp_path / "faces", 8)
    assert groups == [0, 1, 2, 3]
    for row, seed in enumerate(np.argsort(label, kind="stable")):
        assert np.array_equal(faces.images([row])[0].permute(1, 2, 0).numpy(), np.asarray(Image.open(io.BytesIO(png(seed)))))


def test_files_that_are_not_read_are_said(tmp_path: Path) -> None:
    for i in range(6):
        (tmp_path / "set" / f"p{i // 2}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / f"p{i // 2}" / f"{i}.png").write_bytes(png(i, 8 + i))
    (tmp_path / "set" / "p0" / "9.psd").write_bytes(b"x")
    (tmp_path / "set" / "p0" / "notes.txt").write_bytes(b"x")
    (tmp_path / "set" / "@eaDir").mkdir()
    (tmp_path / "set" / "@eaDir" / "thumb.png").write_bytes(png(1))
    entry = sources.add("mine", tmp_path / "set", kind="faces")
    assert entry.read == "6 images of 3 identities (2 to 2 each), 8 x 8 to 13 x 13, 3 files ignored (.psd, .txt, in @eaDir)"
    assert "1 picture of a kind that is not read (.psd)" in entry.note
    assert "images are of several sizes (8 x 8 to 13 x 13): ArcFace-aligned crops are 112 x 112" in entry.note
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for file in (tmp_path / "set").rglob("*.*"):
            archive.write(file, file.relative_to(tmp_path / "set").as_posix())
    assert sources.add("zip", tmp_path / "set.zip", kind="faces").read == entry.read


# ---- lists of labels ----


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    for i in range(1, 7):
        (tmp_path / "flat").mkdir(exist_ok=True)
        (tmp_path / "flat" / f"00000{i}.png").write_bytes(png(i))
    return tmp_path / "flat"


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"00000{i}.png {10 - i // 3}\n" for i in range(1, 7)),
        "\ufeffimage_id,identity\r\n" + "".join(f"00000{i}.png,{10 - i // 3}\r\n" for i in range(1, 7)),
        "".join(f"{10 - i // 3}\t./flat/00000{i}.png\n" for i in range(1, 7)),
    ],
)
def test_a_flat_folder_with_a_list(flat: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "list.txt").write_text(text, "utf-8", newline="")
    entry = sources.add("celeba", flat, labels=tmp_path / "list.txt")
    assert entry.read == "6 images of 3 identities (1 to 3 each), labels of list.txt, 8 x 8" and not entry.note
    source = read_source(entry.path, reading=entry.options)
    assert source.names == ["8", "9", "10"] and source.label.tolist() == [2, 2, 1, 1, 1, 0]
    (tmp_path / "list.txt").write_text(text.replace("8", "9"), "utf-8", newline="")
    with pytest.raises(UserError, match=r"has changed .*--labels"):
        sources.find("celeba")


def test_lists_that_do_not_fit(flat: Path, tmp_path: Path) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text("000001.png a\n000002.png b\n000009.png b\n")
    entry = sources.add("mine", flat, kind="faces", labels=listing)
    assert (entry.images, entry.identities) == (2, 2)
    assert "1 images of list.txt are not there, such as 000009.png" in entry.note and "4 images are not in list.txt" in entry.note
    for text, message in (
        ("x.png 1\n", r"none of its 1 images, such as x\.png, is in"),
        ("000001.png 1\n000001.png 2\n", r"list\.txt, line 2: 000001\.png is 2 here and 1 before"),
        ("000001.png\n", "line 1: .* is not `image label`"),
        ("000001.png 1 7\n", "3 fields"),
        ("\n", "no lines"),
    ):
        listing.write_text(text)
        with pytest.raises(UserError, match=message):
            sources.add("mine", flat, kind="faces", labels=listing)
    with pytest.raises(UserError, match="nothing to choose with --labels; there is --column"):
        sources.add("mine", table(tmp_path / "set.parquet", label=PEOPLE), kind="faces", labels=listing)


def test_celeba_hq(tmp_path: Path) -> None:
    """Its images are numbered anew; the list that comes with it says which of CelebA's each is. Made as it is: tabs, 0-based, wide."""
    hq, numbers = tmp_path / "hq", [4, 1, 6, 3]  # of CelebA, 1-based
    for folder in ("CelebA-HQ-img", "CelebAMask-HQ-mask-anno/0"):
        (hq / folder).mkdir(parents=True)
    for row in range(4):
        (hq / "CelebA-HQ-img" / f"{row}.jpg").write_bytes(png(row))
        (hq / "CelebAMask-HQ-mask-anno/0" / f"{row:05d}_hair.png").write_bytes(png(9))
    who = tmp_path / "identity_CelebA.txt"
    who.write_text("".join(f"{i:06d}.jpg {100 + i % 3}\n" for i in range(1, 8)))
    said = {"kind": "faces", "labels": who}
    with pytest.raises(UserError, match=r"none of its 7 images.*CelebA-HQ is numbered anew: its CelebA-HQ-to-CelebA-mapping\.txt belongs"):
        sources.add("hq", hq, **said)
    mapping = hq / "CelebA-HQ-to-CelebA-mapping.txt"
    mapping.write_text("idx\torig_idx\torig_file\n" + "".join(f"{row}\t{n - 1}\t{n:06d}.jpg\n" for row, n in enumerate(numbers)))
    entry = sources.add("hq", hq, **said)
    assert entry.read.startswith("4 images of 2 identities (2 to 2 each), labels of identity_CelebA.txt, images by CelebA-HQ-to-CelebA")
    source = sources.open_set(entry)
    assert [(source.where(row)[-5:], source.names[source.label[row]]) for row in range(4)] == [
        (f"{row}.jpg", str(100 + number % 3)) for row, number in enumerate(numbers)
    ]
    with pytest.raises(UserError, match="tells images of CelebA, not who is on them"):
        sources.add("hq", hq, kind="faces", labels=mapping)
    (hq / "00002.jpg").write_bytes(png(7))
    with pytest.raises(UserError, match=r"00002\.jpg and CelebA-HQ-img/2\.jpg are both CelebA's 000006\.jpg"):
        sources.add("hq", hq, **said)
    (hq / "00002.jpg").unlink()
    twice = mapping.read_text()
    mapping.write_text(twice.replace("000004.jpg", "000006.jpg"))
    with pytest.raises(UserError, match=r"img/0\.jpg and CelebA-HQ-img/2\.jpg are both CelebA's 000006\.jpg"):
        sources.add("hq", hq, **said)
    mapping.write_text(twice)
    before = entry.digest
    mapping.write_text(mapping.read_text().replace("000006.jpg", "000005.jpg"))
    assert sources.add("hq", hq, **said).digest != before  # who is on an image is part of the set
    mapping.write_text("idx orig_idx\n0 4\n")
    with pytest.raises(UserError, match="line 2: '0 4' is not `idx orig_idx orig_file`"):
        sources.add("hq", hq, **said)
    (own := tmp_path / "own.txt").write_text("".join(f"{row}.jpg {row % 2}\n" for row in range(4)))
    assert read_source(hq, reading={"labels": str(own)}).label.tolist() == [0, 1, 0, 1]  # in the new numbers
    plain = files(tmp_path / "celeba", *(f"{i:06d}.jpg" for i in range(1, 8)))
    mapping.rename(plain / mapping.name)
    (plain / mapping.name).write_text("idx orig_idx orig_file\n0 1 000002.jpg\n1 2 000003.jpg\n")
    found = read_source(plain, reading={"labels": str(who)})  # CelebA itself, with that list in it
    assert [found.names[label] for label in found.label] == [str(100 + i % 3) for i in range(1, 8)]


# ---- WebDataset ----


def tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_what_is_exported_as_webdataset_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthbench.data.export.TAR_ROWS", 4)
    pixels = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
    columns = {"sample": np.arange(10) % 2, "similarity": np.linspace(0, 1, 10)}
    faces = FaceSet.from_arrays(pixels, np.arange(10) // 2, ["e", "d", "c", "b", "a"], columns)
    export_faces(faces, "webdataset", tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.tar"))) == 3
    entry = sources.add("mine", tmp_path / "out", kind="faces")
    assert entry.read == "10 images of 5 identities (2 to 2 each), column identity, 8 x 8" and not entry.note
    again = import_faces(tmp_path / "out", tmp_path / "faces", 8)
    assert (again.digest, again.names) == (faces.digest, faces.names)


def test_other_tars(tmp_path: Path) -> None:
    cls = {f"{i:03d}.{end}": data for i in range(6) for end, data in (("png", png(i)), ("cls", str(i % 3).encode()))}
    assert read_source(tar(tmp_path / "a" / "train-0.tar", cls)).label.tolist() == [0, 1, 2, 0, 1, 2]
    tar(tmp_path / "a" / "test-0.tar", {"0.png": png(9), "0.cls": b"7"})
    entry = sources.add("mine", tmp_path / "a", kind="faces", split="train")
    assert entry.read == "6 images of 3 identities (2 to 2 each), column cls, split train, 8 x 8"
    folders = read_source(tar(tmp_path / "b.tar", {f"./p{i % 2}/{i}.png": png(i) for i in range(4)}))
    assert folders.names == ["p0", "p1"] and folders.label.tolist() == [0, 0, 1, 1]
    assert [folders.encoded(row) for row in range(4)] == [png(i) for i in (0, 2, 1, 3)]
    half = {f"{i}.{end}": data for i in range(4) for end, data in (("png", png(i)), ("json", b'{"identity": "\\ud800%d"}' % (i % 2)))}
    export_faces(import_faces(tar(tmp_path / "d.tar", half), tmp_path / "half", 8), "parquet", tmp_path / "again")  # halves of letters
    assert read_source(tmp_path / "d.tar").names == ["\\ud8000", "\\ud8001"]
    for files, message in (
        ({"0.png": png(0), "0.jpg": png(0), "0.cls": b"1"}, "two images"),
        ({"0.png": png(0), "0.json": b"{"}, r"0\.json: cannot be read"),
        ({"0.txt": b"x"}, "no images"),
    ):
        with pytest.raises(UserError, match=message):
            read_source(tar(tmp_path / "c.tar", files))
    (tmp_path / "c.tar").write_bytes(b"x" * 2000)
    with pytest.raises(UserError, match=r"not a whole \.tar"):
        read_source(tmp_path / "c.tar")


# ---- folders of splits ----


def files(folder: Path, *names: str) -> Path:
    """An image of a seed of its own under each name."""
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(seed))
    return folder


TORCHVISION = [f"train/p{i // 2}/{i}.png" for i in range(6)] + ["test/q0/0.png", "test/q1/0.png", "val/p0/9.png"]


@pytest.mark.parametrize("top", ["", "celeb/"])
def test_train_and_test_are_nobody(tmp_path: Path, top: str) -> None:
    folder = files(tmp_path / "set", *(top + name for name in TORCHVISION))
    entry = sources.add("mine", folder, kind="faces")
    assert entry.read == "6 images of 3 identities (2 to 2 each), split train, 8 x 8"
    assert entry.note == "left out is what lies in test (2 images), val (1 images), --split NAME reads that"
    source = read_source(folder)
    assert source.names == ["p0", "p1", "p2"] and [source.encoded(row) for row in range(6)] == [png(row) for row in range(6)]
    test = sources.add("test", folder, kind="faces", split="test")
    assert read_source(folder, reading={"split": "test"}).names == ["q0", "q1"]
    assert test.digest != entry.digest and sources.digest_of(entry) == entry.digest == sources.digest_of(folder)
    assert len(import_faces(folder, tmp_path / "faces", 8, reading=entry.options)) == 6
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for file in folder.rglob("*.png"):
            archive.write(file, file.relative_to(folder).as_posix())
    assert sources.add("zip", tmp_path / "set.zip", kind="faces").read == entry.read
    with pytest.raises(UserError, match=r"no split 'dev' but test, train, val; say --split NAME"):
        read_source(folder, reading={"split": "dev"})


def test_other_folders_of_splits(tmp_path: Path) -> None:
    loose = read_source(files(tmp_path / "a", "train/0.png", "train/1.png", "test/2.png"))
    assert loose.names == [] and len(loose) == 2 and loose.encoded(1) == png(1)
    alone = read_source(files(tmp_path / "b", "train/p0/0.png", "train/p1/1.png"))
    assert alone.names == ["p0", "p1"] and not alone.reading and not alone.doubts
    with pytest.raises(UserError, match=r"no split 'train' but test, val; say --split"):
        read_source(files(tmp_path / "c", "test/p0/0.png", "val/p1/1.png"))
    for names in (["train/0.png", "anna/1.png"], ["eva/0.png", "val/1.png"]):  # somebody may be called Val
        assert len(read_source(files(tmp_path / names[1][:3], *names)).names) == 2
    with pytest.raises(UserError, match="its folders are not called like splits"):
        read_source(tmp_path / "ann", reading={"split": "train"})


def test_folders_of_splits_that_an_earlier_version_took_for_people(tmp_path: Path) -> None:
    from dataclasses import replace

    from synthbench.data import registered
    from synthbench.data.readers import source_digest

    folder = files(tmp_path / "set", "train/0.png", "train/1.png", "test/2.png", "test/3.png")
    entry = sources.add("mine", folder, kind="faces")
    assert (entry.identities, entry.images, entry.options) == (0, 2, {"split": "train"})
    registered.save("mine", replace(entry, digest=source_digest(folder), options={}, identities=2, images=4))
    with pytest.raises(UserError, match=r"registered by an earlier version.*split train"):
        import_step(Store(tmp_path / "runs"), 8, "real", sources.find("mine")).build(tmp_path / "faces", lambda done, total: None)
