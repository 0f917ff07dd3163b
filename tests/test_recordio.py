"""RecordIO against bytes built by hand, in every variant that is in circulation, and cut short."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from synthbench.data.faces import import_faces, read_source
from synthbench.data.readers import source_digest, source_files
from synthbench.data.recordio import MAGIC_BYTES, RecordWriter, frame, pack, read_index, read_record, split_header, write_rec
from synthbench.types import UserError


def image(seed: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def write(stem: Path, records: list[tuple[int, bytes]]) -> Path:
    writer = RecordWriter(stem)
    for key, payload in records:
        writer.write(key, payload)
    writer.close()
    return stem.with_suffix(".rec")


def test_bytes_of_a_record() -> None:
    """dmlc recordio.h, written out."""
    assert frame(b"abcde") == bytes.fromhex("0a23d7ce 05000000") + b"abcde\0\0\0"
    whole = b"abcd" + MAGIC_BYTES + b"ef"
    head = bytes.fromhex("0a23d7ce")
    assert frame(whole) == head + struct.pack("<I", 1 << 29 | 4) + b"abcd" + head + struct.pack("<I", 3 << 29 | 2) + b"ef\0\0"
    assert pack(7, 9, b"xy") == struct.pack("<IfQQ", 0, 7.0, 9, 0) + b"xy"
    assert pack((1, 2), 9, b"") == struct.pack("<IfQQff", 2, 0.0, 9, 0, 1.0, 2.0)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"a",
        MAGIC_BYTES,
        MAGIC_BYTES * 3,
        b"abc" + MAGIC_BYTES,  # not on a multiple of 4: stays
        b"abcd" + MAGIC_BYTES + b"efgh" + MAGIC_BYTES + MAGIC_BYTES + b"i",
        MAGIC_BYTES + b"tail",
        b"head" + MAGIC_BYTES,
    ],
)
def test_round_trip_with_magics(payload: bytes) -> None:
    data = frame(payload) + frame(b"next")
    found, after = read_record(data, 0)
    assert found == payload and len(frame(payload)) % 4 == 0
    assert read_record(data, after)[0] == b"next"
    if payload.startswith(b"abcd"):
        assert frame(payload).count(MAGIC_BYTES) == 4  # four parts, no other magic in the file


def insightface(folder: Path, labels: list[int]) -> Path:
    folder.mkdir()
    write_rec(folder, iter(image(i) for i in range(len(labels))), np.array(labels), 8)
    return folder / "train.rec"


def test_insightface_layout(tmp_path: Path) -> None:
    rec = insightface(tmp_path / "set", [0, 0, 1, 1, 1, 2])
    assert (tmp_path / "set" / "property").read_text() == "3,8,8\n"
    offsets = read_index(rec.with_suffix(".idx"))
    assert list(offsets) == [1, 2, 3, 4, 5, 6, 0, 7, 8, 9]
    data = rec.read_bytes()
    heads = {key: split_header(read_record(data, offsets[key])[0], "x") for key in (0, 7, 8, 9)}
    assert heads[0][0].tolist() == [7, 10]
    assert [heads[key][0].tolist() for key in (7, 8, 9)] == [[1, 3], [3, 6], [6, 7]]
    for path in (rec, rec.parent):
        source = read_source(path)
        assert source.label.tolist() == [0, 0, 1, 1, 1, 2] and source.kind == "rec"
        assert [source.encoded(i) for i in range(6)] == [image(i) for i in range(6)]


def test_without_index_the_file_is_scanned(tmp_path: Path) -> None:
    rec = insightface(tmp_path / "set", [0, 0, 1, 1])
    rec.with_suffix(".idx").unlink()
    source = read_source(rec)
    assert source.label.tolist() == [0, 0, 1, 1] and source.encoded(3) == image(3)


def test_plain_layout_label_vectors_and_parts(tmp_path: Path) -> None:
    """No key 0 header; shuffled keys; [class, aligned] labels; a payload and a header with the magic in them."""
    magic_id = struct.unpack("<I", MAGIC_BYTES)[0]
    records = [
        (3, pack((5, 1), 3, image(3))),
        (0, pack(2, 0, image(0))),
        (2, pack(5, magic_id, image(2))),  # the id is the magic: the record is cut within its header
        (1, pack(2, 1, image(1) + MAGIC_BYTES * 2)),  # bytes after the end of a PNG do no harm
    ]
    source = read_source(write(tmp_path / "file", records))
    assert source.names == ["2", "5"] and source.label.tolist() == [0, 0, 1, 1]
    assert source.encoded(2) == image(2) and source.encoded(3) == image(3)
    assert source.encoded(1) == image(1) + MAGIC_BYTES * 2
    assert np.array_equal(source.image(1), np.asarray(Image.open(io.BytesIO(image(1)))))


def test_all_labels_equal_is_explained_and_the_list_is_used(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rec = write(tmp_path / "file", [(i, pack(0, i, image(i))) for i in range(4)])
    with pytest.raises(UserError, match=r"all 4 records carry label 0.*DCFace.*list\.txt"):
        read_source(rec)
    (tmp_path / "list.txt").write_text("".join(f"{i}\t{(9, 10)[i // 2]}/{i}.jpg\n" for i in range(4)))
    source = read_source(rec)
    assert source.names == ["9", "10"] and source.label.tolist() == [0, 0, 1, 1]
    assert "taken from list.txt" in capsys.readouterr().err
    (tmp_path / "list.txt").write_text("0\t1/0.jpg\n1\t2/1.jpg\n")  # not all of them
    with pytest.raises(UserError, match="No list with the identity of every record"):
        read_source(rec)
    (tmp_path / "list.txt").unlink()
    (tmp_path / "train.tsv").write_text("".join(f"{i}\ta/{i}.jpg\t{i % 2 + 1}\n" for i in range(4)))
    assert read_source(rec).label.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("lost", [1, 9, 60])
def test_cut_short_names_file_and_byte(tmp_path: Path, indexed: bool, lost: int) -> None:
    rec = write(tmp_path / "file", [(i, pack(i // 2, i, image(i) + b"12345")) for i in range(6)])
    last = read_index(rec.with_suffix(".idx"))[5]
    rec.write_bytes(rec.read_bytes()[: -lost - 3])  # 3: no loss in cutting the padding alone
    if not indexed:
        rec.with_suffix(".idx").unlink()
    with pytest.raises(UserError, match=rf"file\.rec: cut short, .*byte {last} "):
        read_source(rec)


def test_other_damage(tmp_path: Path) -> None:
    rec = insightface(tmp_path / "a", [0, 0, 1, 1])
    idx = rec.with_suffix(".idx")
    whole = idx.read_text()
    idx.write_text("".join(line for line in whole.splitlines(True) if not line.startswith("3\t")))
    with pytest.raises(UserError, match=r"key 0 promises 4 images, the \.idx lists 3"):
        read_source(rec)
    idx.write_text("1\t0\n2\tx\n")
    with pytest.raises(UserError, match="line 2"):
        read_source(rec)
    for number in ("²", "9" * 30):  # a digit to Python, and more than 64 bits
        idx.write_text(f"1\t0\n2\t{number}\n")
        with pytest.raises(UserError, match="line 2"):
            read_source(rec)
    idx.write_text("1\t0\n2\t12\n")
    with pytest.raises(UserError, match="no record at byte 12"):
        read_source(rec)
    idx.write_text(f"1\t0\n2\t{10**9}\n")
    with pytest.raises(UserError, match=f"byte {10**9} but the file ends"):
        read_source(rec)
    (tmp_path / "empty.rec").write_bytes(b"")
    with pytest.raises(UserError, match="empty"):
        read_source(tmp_path / "empty.rec")
    odd = write(tmp_path / "odd", [(0, pack(0.5, 0, image(0))), (1, pack(1, 0, image(1)))])
    with pytest.raises(UserError, match=r"key 0: label 0\.5"):
        read_source(odd)
    lie = write(tmp_path / "lie", [(0, struct.pack("<IfQQ", 1000, 0, 0, 0) + b"x"), (1, pack(1, 0, image(1)))])
    with pytest.raises(UserError, match="says 1000 labels follow"):
        read_source(lie).encoded(0)


def test_import(tmp_path: Path) -> None:
    faces = import_faces(insightface(tmp_path / "a", [0, 0, 1, 1]), tmp_path / "out", 8)
    assert faces.identity.tolist() == [0, 0, 1, 1] and faces.resolution == 8
    bad = write(tmp_path / "bad", [(i, pack(i, i, image(i)[: 90 if i == 2 else None])) for i in range(3)])
    with pytest.raises(UserError, match=r"bad\.rec, key 2 \(byte \d+\): the image cannot be decoded"):
        import_faces(bad, tmp_path / "out2", 8)


def chunk(folder: Path, name: str, labels: list[int], first: int) -> Path:
    """A part as im2rec --chunks writes it: keys go on from part to part, labels are those of the whole list, nothing lists people."""
    folder.mkdir(exist_ok=True)
    return write(folder / name, [(key, pack(float(label), key, image(key))) for key, label in enumerate(labels, first)])


def test_parts_are_one_set(tmp_path: Path) -> None:
    """Twelve parts, so that the order of their names is not that of their numbers; one without .idx."""
    labels = [5, 2, 2, 5, 7, 2] * 4
    for part in range(12):
        chunk(tmp_path / "set", f"train_{part}", labels[2 * part : 2 * part + 2], 2 * part)
    (tmp_path / "set" / "train_3.idx").unlink()
    write(tmp_path / "set" / "val_0", [(0, pack(99.0, 0, image(0)))])  # another set, left alone as beside train.rec
    source = read_source(tmp_path / "set")
    assert [source.names[label] for label in source.label] == [str(label) for label in labels] and source.names == ["2", "5", "7"]
    assert [source.encoded(row) for row in range(24)] == [image(row) for row in range(24)]
    assert source.read == ("12 parts, train_0.rec to train_11.rec",) and not source.doubts
    assert source.where(23).startswith(f"{tmp_path / 'set' / 'train_11.rec'}, key 23")
    alone = read_source(tmp_path / "set" / "train_1.rec")
    assert alone.label.tolist() == [0, 1] and alone.doubts == (
        "train_1.rec may be one of 12 parts that lie there; their folder is read as all of them",
    )
    assert len(import_faces(tmp_path / "set", tmp_path / "out", 8)) == 24


def test_a_change_in_any_part_is_another_set(tmp_path: Path) -> None:
    for part in range(2):
        chunk(tmp_path / "set", f"train_{part}", [1, 2], 2 * part)
    assert {file.name for file in source_files(tmp_path / "set")} == {f"train_{part}.{end}" for part in range(2) for end in ("rec", "idx")}
    before = source_digest(tmp_path / "set")
    chunk(tmp_path / "set", "train_1", [1, 3], 2)
    assert source_digest(tmp_path / "set") != before


def test_parts_that_are_no_set_are_refused(tmp_path: Path) -> None:
    for name in ("casia", "casia_1", "glint_0"):
        chunk(tmp_path / "several", name, [1, 2], 0)
    with pytest.raises(UserError, match=r"3 \.rec files of several sets \(casia\.rec, casia_1\.rec, glint_0\.rec\); name the one to use"):
        read_source(tmp_path / "several")
    for part in (0, 1, 3):
        chunk(tmp_path / "gap", f"train_{part}", [1, 2], 0)
    with pytest.raises(UserError, match="none has number 2; name the one"):
        read_source(tmp_path / "gap")
    for name in ("train_0", "train_00"):
        chunk(tmp_path / "twice", name, [1, 2], 0)
    with pytest.raises(UserError, match="two have one number"):
        read_source(tmp_path / "twice")
    chunk(tmp_path / "cut", "train_0", [1, 2], 0)
    rec = chunk(tmp_path / "cut", "train_1", [1, 2], 2)
    rec.write_bytes(rec.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"train_1\.rec: cut short"):
        read_source(tmp_path / "cut")


def test_whole_sets_side_by_side_are_one_only_where_they_share_no_label(tmp_path: Path) -> None:
    """InsightFace's own sets number their people from 0 each: whether 1 of both is one person nothing tells."""
    first, alike = insightface(tmp_path / "a", [0, 0, 1]), insightface(tmp_path / "b", [1, 1, 2])
    later = [(key, pack(float(label), key, image(key))) for key, label in enumerate([7, 8, 8], 1)]
    apart = write(tmp_path / "c", [(0, pack((4, 6), 0, b"")), *later])
    for folder, second in (("alike", alike), ("apart", apart)):
        (tmp_path / folder).mkdir()
        for part, rec in enumerate((first, second)):
            for end in (".rec", ".idx"):
                (tmp_path / folder / f"set{part}{end}").write_bytes(rec.with_suffix(end).read_bytes())
    with pytest.raises(UserError, match=r"2 \.rec files are each a whole set.*label 1 is in several.*generator `union`"):
        read_source(tmp_path / "alike")
    assert read_source(tmp_path / "apart").names == ["0", "1", "7", "8"]
    for part in range(2):
        far = [(0, pack((2, 3), 0, b"")), (1, pack(1234567.0, 1, image(1)))]
        write(tmp_path / "apart" / f"set{part}", far)
    with pytest.raises(UserError, match="label 1234567 is in several"):
        read_source(tmp_path / "apart")
