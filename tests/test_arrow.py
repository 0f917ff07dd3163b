"""Folders that `save_to_disk` of Hugging Face `datasets` writes, made here with pyarrow in the same layout."""

from __future__ import annotations

import contextlib
import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from test_layouts import PEOPLE, png

from synthbench.data import arrow, arrowpages, sources
from synthbench.data.faces import import_faces
from synthbench.data.readers import read_source
from synthbench.types import UserError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHBENCH_DATA", str(tmp_path / "home"))


def saved(folder: Path, label: list, names: list[str] | None = None, first: int = 0, shards: int = 2, stream: bool = True) -> Path:
    """As Dataset.save_to_disk: record batches of ten rows as a stream in each shard, dataset_info.json with the features, state.json."""
    folder.mkdir(parents=True)
    who = {"names": names, "_type": "ClassLabel"} if names else {"dtype": "int64", "_type": "Value"}
    features = {"image": {"_type": "Image"}, "label": who}
    schema = pa.schema([("image", IMAGE), ("label", pa.int64())]).with_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    files, rows = [], np.array_split(np.arange(len(label)), shards)
    for number, own in enumerate(rows):
        files.append(f"data-{number:05d}-of-{shards:05d}.arrow")
        with (pa.ipc.new_stream if stream else pa.ipc.new_file)(str(folder / files[-1]), schema) as writer:
            for some in np.split(own, range(10, len(own), 10)):
                images = pa.array([{"bytes": png(first + int(row)), "path": None} for row in some], IMAGE)
                writer.write_batch(pa.record_batch([images, pa.array([label[row] for row in some], pa.int64())], schema=schema))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features, "citation": "", "license": ""}))
    state = {"_data_files": [{"filename": name} for name in files], "_fingerprint": "0", "_format_type": None, "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


@pytest.mark.parametrize("stream", [True, False])
def test_a_data_set(tmp_path: Path, stream: bool) -> None:
    names = [f"person {9 - who}" for who in range(10)]
    folder = saved(tmp_path / "set", PEOPLE, names, stream=stream)
    (folder / "cache-1234.arrow").write_bytes(b"of map(), and not of the set")
    entry = sources.add("mine", folder, kind="faces")
    assert entry.read == "40 images of 10 identities (4 to 4 each), column label, 8 x 8" and not entry.note
    source = read_source(folder)
    assert source.kind == "arrow" and source.names == names and source.label.tolist() == PEOPLE
    order = np.random.default_rng(0).permutation(40)
    assert [source.encoded(int(row)) for row in order] == [png(int(row)) for row in order]
    assert list(source.stream(order)) == [png(int(row)) for row in order]
    assert "data-00001-of-00002.arrow, row 3" in source.where(23)
    assert len(import_faces(folder, tmp_path / "faces", 8)) == 40
    alone = read_source(folder / "data-00001-of-00002.arrow")
    assert alone.encoded(0) == png(20) and alone.names == names[5:]


def test_a_dictionary_of_splits(tmp_path: Path) -> None:
    saved(tmp_path / "hub" / "train", PEOPLE)
    saved(tmp_path / "hub" / "test", [20, 20, 21, 21], first=100, shards=1)
    (tmp_path / "hub" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    whole = sources.add("whole", tmp_path / "hub", kind="faces")
    assert whole.images == 44 and "the splits test, train are read as one set; --split NAME reads one of them" in whole.note
    train = sources.add("train", tmp_path / "hub", kind="faces", split="train")
    assert train.read == "40 images of 10 identities (4 to 4 each), column label, split train, 8 x 8" and train.digest != whole.digest
    assert sources.digest_of(sources.find("train")) == train.digest


def test_each_record_batch_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    label = np.random.default_rng(0).permutation(PEOPLE).tolist()
    folder, asked, whole = saved(tmp_path / "set", label), [], arrow.ArrowFile.iter_batches

    def counted(self, *given, **more):
        asked.extend((self.path.name[:10], number) for number in more["row_groups"])
        return whole(self, *given, **more)

    monkeypatch.setattr(arrow.ArrowFile, "iter_batches", counted)
    faces = import_faces(folder, tmp_path / "faces", 8)
    assert asked == [(name, group) for name in ("data-00000", "data-00001") for group in (0, 1)]
    assert faces.identity.tolist() == sorted(label)


def test_class_names_beside_a_schema_that_has_none(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", [0, 0, 1, 1], ["Ann", "Bo"], shards=1)
    path = folder / "data-00000-of-00001.arrow"
    table = pa.ipc.open_stream(path.read_bytes()).read_all().replace_schema_metadata(None)
    with pa.ipc.new_stream(str(path), table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table)
    assert read_source(folder).names == ["Ann", "Bo"] and read_source(folder).encoded(2) == png(2)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder, path: path.write_bytes(path.read_bytes()[:-8]), r"not a whole Arrow file \(it ends before its end mark\)"),
        (lambda folder, path: path.write_bytes(path.read_bytes()[:300] + b"\xff" * 8), r"arrow: not a whole Arrow file"),
        (lambda folder, path: path.unlink(), r"state\.json names 'data-00001-of-00002\.arrow', which is not there"),
        (lambda folder, path: path.write_bytes(b""), "not a whole Arrow file"),
        (
            lambda folder, path: (folder / "state.json").write_text('{"_data_files": [{"filename": "../x.arrow"}]}'),
            r"state\.json names '\.\./x\.arrow'",
        ),
        (
            lambda folder, path: (folder / "state.json").write_text(
                '{"_data_files": [], "_indices_data_files": [{"filename": "i.arrow"}]}'
            ),
            "flatten_indices",
        ),
    ],
)
def test_damaged_folders(tmp_path: Path, harm, message: str) -> None:
    folder = saved(tmp_path / "set", PEOPLE)
    harm(folder, folder / "data-00001-of-00002.arrow")
    with pytest.raises(UserError, match=message):
        read_source(folder)


def test_offsets_that_lead_outside(tmp_path: Path) -> None:
    """Where the fifth image ends, in a stream of which the end is whole: the batch is checked before a byte of it is taken."""
    folder = saved(tmp_path / "set", [0, 0, 1, 1, 2, 2], shards=1)
    path = folder / "data-00000-of-00001.arrow"
    lengths = np.cumsum([0, *(len(png(row)) for row in range(6))]).astype("<i4")
    data = path.read_bytes()
    assert data.count(lengths.tobytes()) == 1
    lengths[5] = 2**30
    path.write_bytes(data.replace(np.cumsum([0, *(len(png(row)) for row in range(6))]).astype("<i4").tobytes(), lengths.tobytes()))
    source = read_source(folder)
    with pytest.raises(UserError, match=r"arrow, row 0: cannot be read"):
        source.encoded(0)


def packed(path: Path, table: pa.Table, stream: bool, kind: str | None) -> Path:
    path.parent.mkdir(exist_ok=True)
    form = pa.ipc.new_stream if stream else pa.ipc.new_file
    with form(str(path), table.schema, options=pa.ipc.IpcWriteOptions(compression=kind)) as writer:
        writer.write_table(table, max_chunksize=3)
    return path


@pytest.mark.parametrize("kind", ["zstd", "lz4", None])
@pytest.mark.parametrize("stream", [True, False])
def test_what_packed_buffers_claim_is_what_they_hold(tmp_path: Path, stream: bool, kind: str | None) -> None:
    """Against pyarrow, which unpacks them; a dictionary and a column without a value among them. What is not packed claims nothing."""
    who = pa.array([f"person {row % 3}" for row in range(10)]).dictionary_encode()
    table = pa.table({"image": [png(row) for row in range(10)], "label": who, "none": pa.nulls(10), "score": [0.5] * 10})
    path = packed(tmp_path / "set" / "a.arrow", table, stream, kind)
    reader = (pa.ipc.open_stream if stream else pa.ipc.open_file)(path)
    batches = list(reader) if stream else [reader.get_batch(number) for number in range(reader.num_record_batches)]
    arrays = [*(column for batch in batches for column in batch.columns), batches[0]["label"].dictionary]
    held = sum(buffer.size for array in arrays for buffer in _buffers(array))
    assert len(batches) == 4 and arrowpages.claimed(path.read_bytes()) == (held if kind else 0)
    source = read_source(tmp_path / "set", reading={"column": "label"})
    assert [source.encoded(row) for row in range(10)] == [png(row) for row in range(10)]


def _buffers(array: pa.Array) -> list[pa.Buffer]:
    return [buffer for buffer in (array.indices if isinstance(array, pa.DictionaryArray) else array).buffers() if buffer is not None]


@pytest.mark.parametrize("stream", [True, False])
def test_an_arrow_file_that_holds_far_more_than_its_size(tmp_path: Path, stream: bool) -> None:
    table = pa.table({"image": pa.array([png(0), png(1), bytes(2**28)], pa.large_binary()), "label": [0, 1, 1]})
    path = packed(tmp_path / "set" / "a.arrow", table, stream, "zstd")
    assert path.stat().st_size < 50_000
    before = pa.total_allocated_bytes()
    with pytest.raises(UserError, match=r"bytes that say they hold 268,4.*images hardly shrink"):
        read_source(tmp_path / "set")
    assert pa.total_allocated_bytes() - before < 2**20


def test_a_table_that_names_one_message_for_ever_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many places as bytes, each of a message with as many buffers, would be looked at for hours."""
    path = packed(tmp_path / "set" / "a.arrow", pa.table({"image": [png(0), png(1)], "label": [0, 1]}), False, "zstd")
    places = list(arrowpages._in_table(path.read_bytes()))
    monkeypatch.setattr(arrowpages, "_in_table", lambda data: itertools.repeat(places[-1]))
    with pytest.raises(UserError, match=r"not a whole Arrow file.*lie in one another"):
        read_source(tmp_path / "set")


@pytest.mark.parametrize("stream", [True, False])
def test_an_arrow_file_that_leads_anywhere_is_refused(tmp_path: Path, stream: bool) -> None:
    """Cut and with every word of its messages overwritten: a sentence each time, and an end."""
    table = pa.table({"image": [png(row) for row in range(4)], "label": [0, 0, 1, 1]})
    path = packed(tmp_path / "set" / "a.arrow", table, stream, "zstd")
    whole = path.read_bytes()
    for at in range(0, len(whole), 36):
        for data in (whole[:at], whole[:at] + b"\xff\xff\xff\x7f" + whole[at + 4 :]):
            path.write_bytes(data)
            with contextlib.suppress(UserError):
                read_source(tmp_path / "set").image(0)
    path.write_bytes(whole[:-4] if stream else whole[:-30] + whole[-10:])
    with pytest.raises(UserError, match="not a whole Arrow file"):
        read_source(tmp_path / "set")
