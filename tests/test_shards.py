"""Shards open elsewhere, survive a crash, and say when a disk is full."""

from __future__ import annotations

import io
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from fresh import started
from PIL import Image

from synthbench import store
from synthbench.data.faces import open_faces
from synthbench.data.shards import ShardWriter
from synthbench.types import FaceBatch, UserError


def batch(first: int, count: int) -> FaceBatch:
    rows = torch.arange(first, first + count)
    images = torch.stack([torch.from_numpy(np.random.default_rng(int(row)).integers(0, 256, (3, 8, 8), dtype=np.uint8)) for row in rows])
    return FaceBatch(images, rows // 3, {"sample": rows % 3, "m": rows.float() / 10, "real": rows % 2 == 0})


def test_opens_in_pandas_and_holds_the_pixels(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, rows_per_shard=4)
    for first in (0, 3, 6):
        writer.write(batch(first, 3))
    assert (writer.done, writer.written) == (8, 9)
    writer.finish()
    assert sorted(path.name for path in tmp_path.glob("part*")) == [f"part-0000{i}.parquet" for i in range(3)]
    table = pd.concat([pd.read_parquet(path) for path in sorted(tmp_path.glob("*.parquet"))])
    assert table["label"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert list(table.columns) == ["image", "label", "sample", "m", "real"]
    image = np.asarray(Image.open(io.BytesIO(table["image"].iloc[5]["bytes"])))
    assert np.array_equal(image.transpose(2, 0, 1), batch(5, 1).images[0].numpy())
    faces = open_faces(tmp_path)
    assert torch.equal(faces.images(slice(None)), batch(0, 9).images)
    assert faces.columns["m"].dtype == np.float32 and np.allclose(faces.columns["m"], np.arange(9) / 10)
    assert faces.columns["real"].dtype == bool
    assert b"huggingface" in pq.read_schema(tmp_path / "part-00000.parquet").metadata


def test_a_new_writer_goes_on_after_whole_shards(tmp_path: Path) -> None:
    first = ShardWriter(tmp_path / "a", rows_per_shard=4)
    first.write(batch(0, 7))  # 4 safe, 3 lost
    (tmp_path / "a" / "part-00001.parquet.tmp").write_bytes(b"half")
    (tmp_path / "a" / "part-00002.parquet").write_bytes(b"no shard before this one")
    again = ShardWriter(tmp_path / "a", rows_per_shard=4)
    assert again.done == 4 and not again.finished
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["part-00000.parquet"]
    again.write(batch(again.done, 5))
    again.finish()
    whole = ShardWriter(tmp_path / "b")
    whole.write(batch(0, 9))
    whole.finish()
    assert whole.finished and ShardWriter(tmp_path / "b").finished
    assert open_faces(tmp_path / "a").digest == open_faces(tmp_path / "b").digest


def test_afresh_leaves_nothing_of_what_was_there(tmp_path: Path) -> None:
    first = ShardWriter(tmp_path / "a", rows_per_shard=2)
    first.write(batch(0, 5))
    first.finish()
    again = ShardWriter(tmp_path / "a", afresh=True)
    assert again.done == 0 and not list((tmp_path / "a").iterdir())
    again.write(batch(3, 1))
    again.finish()
    assert torch.equal(open_faces(tmp_path / "a").images(slice(None)), batch(3, 1).images)


WRITE_FOR_EVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_shards import ShardWriter, batch
writer = ShardWriter(Path(sys.argv[1]), rows_per_shard=10)
for first in range(0, 10_000_000, 5):
    writer.write(batch(first, 5))
"""


def test_kill_leaves_whole_shards(tmp_path: Path) -> None:
    with started(WRITE_FOR_EVER, tmp_path, Path(__file__).parent) as process:
        while process.poll() is None and not (tmp_path / "part-00003.parquet").exists():
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    writer = ShardWriter(tmp_path, rows_per_shard=10)
    assert writer.done >= 30 and writer.done % 10 == 0
    with pytest.raises(UserError, match="never finished"):
        open_faces(tmp_path)
    writer.finish()
    assert torch.equal(open_faces(tmp_path).images(slice(None)), batch(0, writer.done).images)


def test_mistakes(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "a")
    writer.write(batch(0, 2))
    with pytest.raises(ValueError, match="same columns"):
        writer.write(FaceBatch(batch(2, 1).images, torch.tensor([0])))
    with pytest.raises(UserError, match="no faces here"):
        open_faces(tmp_path)
    ShardWriter(tmp_path / "b").finish()
    with pytest.raises(UserError, match="the set is empty"):
        open_faces(tmp_path / "b")
    mixed = ShardWriter(tmp_path / "c")
    mixed.write(batch(0, 2))
    mixed.write(FaceBatch(torch.zeros(1, 3, 9, 9, dtype=torch.uint8), torch.tensor([0]), batch(2, 1).columns))
    mixed.finish()
    with pytest.raises(UserError, match="row 2"):
        open_faces(tmp_path / "c")
    writer.finish()
    (tmp_path / "a" / "part-00000.parquet").unlink()
    with pytest.raises(UserError, match=r"part-00000\.parquet is missing"):
        open_faces(tmp_path / "a")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = ShardWriter(tmp_path)
    monkeypatch.setattr(store.os, "urandom", lambda size: bytes(size))
    (tmp_path / f"part-00000.parquet.{os.getpid()}-00000000.tmp").symlink_to("/dev/full")
    writer.write(batch(0, 3))
    with pytest.raises(UserError, match="No space left on device"):
        writer.finish()


@pytest.mark.parametrize("name", ["../other/part-00000.parquet", "/dev/null", "a/b", "", 3])
def test_an_index_names_shards_beside_it_alone(tmp_path: Path, name: object) -> None:
    writer = ShardWriter(tmp_path / "a")
    writer.write(batch(0, 3))
    writer.finish()
    path = tmp_path / "a" / "index.json"
    path.write_text(path.read_text().replace('"part-00000.parquet"', json.dumps(name)))
    with pytest.raises(UserError, match="names shards that are not beside it"):
        open_faces(tmp_path / "a")


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        ShardWriter(tmp_path / "file" / "set")
