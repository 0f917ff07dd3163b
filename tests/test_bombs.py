"""Small files that ask for much: refused in a sentence, before there is room for what they ask."""

from __future__ import annotations

import lzma
import pickle
import re
import struct
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from synthbench.data import pairs, readers
from synthbench.store import parse_json, read_json, write_json
from synthbench.types import UserError, Volume


@contextmanager
def frugal(limit: int = 10**7) -> Iterator[None]:
    """Neither much memory nor much time."""
    began = time.process_time()
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 10


def doubled(end: bytes) -> bytes:
    """A tuple of 2^40 parts in memory for 41 tuples, then `end`."""
    code = b"\x80\x04K\x07q\x00"  # 7, kept as 0
    for i in range(40):
        code += b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1])
    return code + end


BOMBS: dict[str, tuple[bytes, str]] = {
    "room for 2.5 GB": (b"\x80\x05\x96" + struct.pack("<Q", 2_500_000_000) + b".", "not a benchmark"),
    "room for more than there is": (b"\x80\x05\x96" + struct.pack("<Q", 2**63) + b".", "not a benchmark"),
    "bytes of 2.5 GB": (b"\x80\x04\x8e" + struct.pack("<Q", 2_500_000_000) + b".", "not a benchmark"),
    "a frame of 2.5 GB": (b"\x80\x04\x95" + struct.pack("<Q", 2_500_000_000) + b"N.", "not a benchmark"),
    "an endless message": (doubled(b"\x85q\x50]h\x50\x86."), "same or not is a tuple"),
    "a key hashed for years": (doubled(b"}h(N" + b"s."), "uses opcode 125"),
    "a set of it": (doubled(b"\x8f(h(\x90."), "uses opcode 143"),
    "a kind of it": (b"\x80\x02cnumpy\ndtype\nq\xff" + doubled(b"")[2:] + b"h\xffh(\x85R.", "an array of no known kind"),
    "one text made into bytes many times": (
        b"\x80\x02c_codecs\nencode\nq\x00X" + struct.pack("<I", 20_000) + b"a" * 20_000 + b"q\x01](" + b"h\x00h\x01\x85R" * 5_000 + b"e.",
        "it makes more bytes than it has",
    ),
    "a number of 5,000 digits": (b"(]" + b"(I" + b"9" * 5000 + b"\nltt.", "not a benchmark"),
    "a long name": (b"c" + b"m" * 100_000 + b"\nn\n.", "asks for mmm"),
    "nested": (b"]" * 1000 + b"a" * 999 + b".", "not a benchmark"),
}


@pytest.mark.parametrize("name", list(BOMBS))
def test_a_benchmark_that_asks_for_much(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.bin").write_bytes(BOMBS[name][0])
    with frugal(), pytest.raises(UserError, match=BOMBS[name][1]) as caught:
        pairs.read_bin(tmp_path / "x.bin", 8)
    assert len(str(caught.value)) < 500 + len(str(tmp_path)) and "Nothing in it was executed" in str(caught.value)


def test_an_xz_that_unpacks_to_much(tmp_path: Path) -> None:
    packer = lzma.LZMACompressor(preset=0)
    (tmp_path / "x.bin.xz").write_bytes(b"".join([*(packer.compress(bytes(2**20)) for _ in range(65)), packer.flush()]))
    with frugal(3 * 10**8), pytest.raises(UserError, match=r"x\.bin\.xz: unpacks to more than 64 MiB"):
        pairs.read_bin(tmp_path / "x.bin.xz", 8)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_zip_entry_that_is_longer_than_it_says(tmp_path: Path, method: int) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a/0.png", bytes(65 * 2**20))
    with pytest.raises(UserError, match="68157440 bytes is no image of a face"):
        readers.read_source(path).image(0)
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", 65 * 2**20), struct.pack("<I", 1000)))
    with frugal(3 * 10**8), pytest.raises(UserError, match=r"a/0\.png: cannot be read \(Bad CRC-32"):
        readers.read_source(path).image(0)


def test_a_file_that_is_no_image_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "set" / "a" / "0.png"
    path.parent.mkdir(parents=True)
    with open(path, "wb") as file:
        file.truncate(2**36)  # takes no room on the disk
    with frugal(), pytest.raises(UserError, match=r"0\.png: 68719476736 bytes is no image of a face"):
        readers.read_source(tmp_path / "set").image(0)


def test_a_parquet_that_holds_far_more_than_its_size(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pa.table({"image": pa.array([b"x"] * 2_000_000), "label": pa.array([1] * 2_000_000)})
    pq.write_table(rows, tmp_path / "rows.parquet")
    pq.write_table(pa.table({"image": pa.array([bytes(10**8)] * 2), "label": [0, 1]}), tmp_path / "zeros.parquet", compression="zstd")
    for name, said in (("rows", "2,000,000 rows"), ("zeros", "bytes; images hardly shrink")):
        assert (tmp_path / f"{name}.parquet").stat().st_size < 30_000
        with frugal(), pytest.raises(UserError, match=said):
            readers.read_source(tmp_path / f"{name}.parquet")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000])
def test_json_that_nests_deep(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    assert read_json(tmp_path / "x.json") is None
    with pytest.raises(ValueError, match="nests too deep"):
        parse_json(text)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python reads them there")
def test_json_with_a_number_of_5000_digits(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("9" * 5000)
    assert read_json(tmp_path / "x.json") is None


@pytest.mark.parametrize(
    "read",
    [
        lambda path: pairs.parse_pair_list(path),
        lambda path: Volume.parse(path.read_text().strip() + "x2"),
        lambda path: readers.read_source(path.parent / "x.rec"),
    ],
)
def test_numbers_of_5000_digits_in_text(tmp_path: Path, read: Callable[[Path], object]) -> None:
    from synthbench.data.recordio import RecordWriter, pack

    writer = RecordWriter(tmp_path / "x")
    for key in (1, 2):
        writer.write(key, pack(0.0, key, b"image"))
    writer.close()
    (tmp_path / "x.lst").write_text("9" * 5000 + "\ta/0.jpg\n\u00b2\tb/1.jpg\n")
    (tmp_path / "list.txt").write_text("9" * 5000 + "\n")
    with pytest.raises(UserError):
        read(tmp_path / "list.txt")


def test_what_benchmarks_are_made_of_is_still_read() -> None:
    from synthbench.data import unpickle

    for protocol in range(6):
        assert unpickle.pairs(pickle.dumps(([b"a\xff" * 300] * 2, [True]), protocol)) == ([b"a\xff" * 300] * 2, [True], False)
        assert unpickle.pairs(pickle.dumps(([bytearray(b"\xfe")] * 2, [0]), max(protocol, 3))) == ([b"\xfe"] * 2, [False], False)


def test_files_that_are_far_too_large_for_what_they_are(tmp_path: Path) -> None:
    """Without room on the disk; they are refused before they are read."""
    from synthbench.data import lists
    from synthbench.data.recordio import read_index
    from synthbench.models.limits import limited

    for name, read in (
        ("list.txt", lists.read_text),
        ("train.idx", read_index),
        ("x.bin", lambda path: pairs.read_bin(path, 8)),
        ("x.onnx", lambda path: limited(print, path)),
    ):
        with open(tmp_path / name, "wb") as file:
            file.truncate(2**40)
        with frugal(), pytest.raises(UserError, match=re.escape(name)):
            read(tmp_path / name)
    with open(tmp_path / "x.json", "wb") as file:
        file.truncate(2**40)
    assert read_json(tmp_path / "x.json") is None


def test_a_parquet_with_two_columns_of_one_name(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(
        pa.Table.from_arrays([pa.array([b"x"]), pa.array([1]), pa.array([b"y"])], ["image", "label", "image"]), tmp_path / "x.parquet"
    )
    with pytest.raises(UserError, match="two columns are called 'image'"):
        readers.read_source(tmp_path / "x.parquet")


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").mkdir()
    with pytest.raises(UserError, match=r"x\.json is a folder, where a file is to be written; delete it"):
        write_json(tmp_path / "x.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_an_optimizer_of_another_network_is_no_checkpoint(tmp_path: Path) -> None:
    import torch

    from synthbench.training import loop

    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    loop.save(tmp_path / "good.pt", 4, {"optimizer": optimizer})
    assert loop.restore(tmp_path / "good.pt", {"optimizer": optimizer}) == 4
    optimizer.state[net.weight]["exp_avg"] = 1
    loop.save(tmp_path / "bad.pt", 4, {"optimizer": optimizer})
    with pytest.raises(UserError, match=r"bad\.pt is damaged"):
        loop.restore(tmp_path / "bad.pt", {"optimizer": optimizer})


def test_what_the_long_form_of_the_fuzzer_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zip of a version that nobody knows, a tar whose member is larger than memory, names of labels that nest too deep."""
    import tarfile

    import pyarrow as pa
    import pyarrow.parquet as pq

    old = tmp_path / "old.zip"
    with zipfile.ZipFile(old, "w") as archive:
        archive.writestr("a/1.png", b"x")
    data = bytearray(old.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 6] = 159  # version needed to extract
    old.write_bytes(data)
    with pytest.raises(UserError, match="not a whole zip archive"):
        readers.read_source(old)

    large = tmp_path / "large.tar"
    with tarfile.open(large, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("1.png", "1.cls"):
            tar.addfile(tarfile.TarInfo(name))
    header = tarfile.TarInfo("1.cls")
    header.size = 2**40
    raw = large.read_bytes()
    large.write_bytes(raw[:512] + header.tobuf(tarfile.GNU_FORMAT) + raw[1024:])
    with pytest.raises(UserError):
        readers.read_source(large)

    (tmp_path / "set").mkdir()
    with open(tmp_path / "set" / "1.png", "wb") as sparse:
        sparse.truncate(2**40)
    with pytest.raises(UserError, match=r"no image of a face\. Take it out"):  # not read to its end for its digest
        readers.source_digest(tmp_path / "set")

    deep = {b"huggingface": b"[" * 100_000}
    table = pa.table({"image": [b"x"], "label": [1]}).replace_schema_metadata(deep)
    pq.write_table(table, tmp_path / "deep.parquet")
    assert len(readers.read_source(tmp_path / "deep.parquet")) == 1


@pytest.mark.parametrize("column", ["image", "label"])
def test_a_parquet_whose_pages_hold_more_than_its_footer_says(tmp_path: Path, column: str) -> None:
    """127 MiB of zeros in a page, of which the footer tells 2 MiB: room is made for what the page says."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    large, path = 127 * 2**20, tmp_path / "x.parquet"
    columns = {"image": [b"x"], "label": ["x"], column: [b"\0" * large if column == "image" else "x" * large]}
    pq.write_table(pa.table(columns), path, compression="zstd", use_dictionary=False, write_statistics=False, store_schema=False)
    assert path.stat().st_size < 30_000
    group = pq.read_metadata(path).row_group(0)
    data = path.read_bytes()
    for told in {group.total_byte_size, *(group.column(number).total_uncompressed_size for number in range(2))}:
        if told > large:
            footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
            assert varint(told) in data[footer:]
            data = data[:footer] + data[footer:].replace(varint(told), varint(2**21))
    path.write_bytes(data)
    with frugal(), pytest.raises(UserError, match=f"the pages of column {column} say they hold 133,1.*images hardly shrink"):
        readers.read_source(path).image(0)


def varint(number: int) -> bytes:
    """As Thrift's compact protocol writes a whole number that is not negative."""
    number, out = 2 * number, b""
    while number > 127:
        number, out = number >> 7, out + bytes([number & 127 | 128])
    return out + bytes([number])


def test_a_parquet_of_many_pages_dictionaries_and_either_version_is_read(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = {"image": [{"bytes": bytes([row]) * 3000, "path": "x"} for row in range(200)], "label": [str(row // 50) for row in range(200)]}
    for number, options in enumerate(({}, {"data_page_version": "2.0"}, {"use_dictionary": False}, {"write_page_checksum": True})):
        pq.write_table(pa.table(rows), tmp_path / f"{number}.parquet", row_group_size=70, data_page_size=5000, **options)
        found = readers.read_source(tmp_path / f"{number}.parquet")
        assert [found.encoded(row)[0] for row in range(200)] == list(range(200)) and len(found.names) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="holes are asked for in Linux's way; files of them are made so")
def test_files_of_holes_are_not_read_to_their_end(tmp_path: Path) -> None:
    from synthbench.models.checkpoints import load_checkpoint
    from synthbench.training import loop

    for name in ("set.tar", "net.pt", "net.safetensors", "checkpoint.pt", "x.mdb"):
        with open(tmp_path / name, "wb") as file:
            file.write(b"begun")
            file.truncate(2**40)
    tries: dict[str, Callable[[Path], object]] = {
        "set.tar": readers.source_digest,
        "net.pt": lambda path: load_checkpoint(path, colour="rgb"),
        "net.safetensors": readers.file_digest,
        "checkpoint.pt": lambda path: loop.restore(path, {}),
        "x.mdb": readers.file_digest,
    }
    for name, read in tries.items():
        with frugal(), pytest.raises(UserError, match=re.escape(name) + r".*1,099,511,627,776 bytes, of which .* were ever written"):
            read(tmp_path / name)


def test_a_file_with_some_holes_is_read(tmp_path: Path) -> None:
    """A thirtieth of it is there, as in a database with room to grow; half of another, which is small enough to be read anyway."""
    import hashlib

    from synthbench import files

    path = tmp_path / "x.tar"
    with open(path, "wb") as file:
        file.seek(2**24)
        file.write(b"x" * 2**20)
        file.truncate(30 * 2**20)
    quick, files.QUICK = files.QUICK, 2**20
    try:
        assert readers.file_digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    finally:
        files.QUICK = quick


def test_a_parquet_in_which_the_name_of_a_column_is_no_text(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": [b"x"], "label": [1]}), path, store_schema=False)
    data = path.read_bytes()
    at = data.rindex(b"label")  # where its pages lie; the schema has another
    path.write_bytes(data[:at] + b"\xd4\x20" + data[at + 2 :])
    with pytest.raises(UserError, match="not a whole Parquet file"):
        readers.read_source(path)
