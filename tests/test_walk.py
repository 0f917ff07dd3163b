"""What lies in a folder that somebody else made: pipes, loops of links, names of any bytes, a database cut short."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from synthbench.data import pixels, readers, sources, walk
from synthbench.data.catalogue import Entry
from synthbench.store import write_json
from synthbench.types import UserError

PNG = pixels.encode(np.zeros((8, 8, 3), np.uint8))
posix = pytest.mark.skipif(sys.platform == "win32", reason="no pipes or links in folders there")


def write(path: Path, data: bytes = PNG) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@posix
def test_pipes_sockets_and_devices_are_never_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHBENCH_DATA", str(tmp_path / "home"))
    folder = tmp_path / "set"
    for name in ("a/0.png", "b/0.png"):
        write(folder / name)
    before = readers.source_digest(folder)
    os.mkfifo(folder / "a" / "1.png")
    (folder / "a" / "2.png").symlink_to("/dev/zero")
    (folder / "b" / "3.png").symlink_to(folder / "a" / "1.png")
    monkeypatch.chdir(folder)
    with socket.socket(socket.AF_UNIX) as place:
        place.bind("a/4.png")  # its path may have a hundred letters
    os.mkfifo(folder / "x.parquet")
    os.mkfifo(folder / "x.rec")
    assert readers.kind_of(folder / "a") == "folder"
    assert readers.list_folder(folder) == ["a/0.png", "b/0.png"] and readers.source_digest(folder) == before
    os.mkfifo(tmp_path / "pipe")
    for call in (
        lambda: readers.kind_of(tmp_path / "pipe"),
        lambda: readers.read_source(tmp_path / "pipe", "zip"),
        lambda: readers.file_digest(tmp_path / "pipe"),
        lambda: readers.file_bytes(folder / "a" / "2.png"),
        lambda: sources.add("own", tmp_path / "pipe", "weights", colour="rgb"),
        lambda: sources.add("own", folder, "pairs", pairs=tmp_path / "pipe"),
    ):
        with pytest.raises(UserError, match="neither a file nor a folder; from a pipe"):
            call()


@posix
def test_each_folder_counts_once(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for name in ("a/0.png", "b/0.png", "elsewhere/c/0.png"):
        write(folder / name if name[0] != "e" else tmp_path / name)
    (folder / "a" / "up").symlink_to(folder)
    (folder / "0").symlink_to(folder / "b")
    (folder / "c").symlink_to(tmp_path / "elsewhere" / "c")
    assert walk.files(folder) == ["a/0.png", "b/0.png", "c/0.png"]
    assert readers.read_source(folder).names == ["a", "b", "c"]


def test_what_is_hashed_of_a_folder_is_what_it_was(tmp_path: Path) -> None:
    """The digests of registered sets do not change. The oracle: the text that was always hashed, written out."""
    for name in ("b/1.png", "a/0.png", "a.txt", ".hidden", ".cache/x.png", "__MACOSX/y.png", "a/b/c/d/e.png"):
        write(tmp_path / name, name.encode())
    names = [".cache/x.png", "__MACOSX/y.png", "a.txt", "a/0.png", "a/b/c/d/e.png", "b/1.png"]
    lines = [f"{name}\t{len(name)}\t{hashlib.sha256(name.encode()).hexdigest()}\n" for name in names]
    assert readers.source_digest(tmp_path) == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert readers.list_folder(tmp_path) == ["a/0.png", "b/1.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_of_any_bytes(tmp_path: Path) -> None:
    for name in (b"Jos\xe9", "Zo\u00eb".encode()):
        folder = os.path.join(os.fsencode(tmp_path), b"set", name)
        os.makedirs(folder)
        Path(os.fsdecode(folder), "0.png").write_bytes(PNG)
    source = readers.read_source(tmp_path / "set")
    assert source.names == ["Jos\\xe9", "Zo\u00eb"] and source.image(0).shape == (8, 8, 3)
    assert source.where(0).encode().endswith(b"/set/Jos\\xe9/0.png")
    for digest in (readers.source_digest, readers.stamp, readers.full_stamp):
        assert len(digest(tmp_path / "set")) >= 20
    inner = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"set", b"Jos\xe9")))
    assert readers.source_digest(inner) and readers.stamp(inner) and len(readers.read_source(inner)) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_path_of_any_bytes_is_shown(tmp_path: Path) -> None:
    place = os.fsdecode(os.path.join(os.fsencode(tmp_path), b"Jos\xe9"))
    entry = Entry("own", "faces", "own", place, "d" * 64, "", 9, "2026", images=2, identities=2)  # type: ignore[arg-type]
    write_json(tmp_path / "sources.json", {"own": asdict(entry)})
    for form in ((), ("--json",)):
        words = [sys.executable, "-m", "synthbench", "data", "show", "own", *form]
        done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "SYNTHBENCH_DATA": str(tmp_path)})
        assert done.returncode == 0 and "Jos" in done.stdout and "e9" in done.stdout, done.stderr


READ = "import sys; from synthbench.data.readers import read_source; print(read_source(sys.argv[1]).image(59).shape)"


@pytest.mark.parametrize("pages", [1, 2, 3, 20])
def test_an_lmdb_cut_at_a_page(tmp_path: Path, pages: int) -> None:
    """In a process of its own, which the system used to end with SIGBUS."""
    lmdb, msgpack = pytest.importorskip("lmdb"), pytest.importorskip("msgpack")
    keys = [str(i).encode() for i in range(60)]
    with lmdb.open(str(tmp_path / "db"), map_size=1 << 22) as database, database.begin(write=True) as transaction:
        for i, key in enumerate(keys):
            transaction.put(key, msgpack.packb((PNG + bytes(3000), i % 2)))
        transaction.put(b"__len__", msgpack.packb(60))
        transaction.put(b"__keys__", msgpack.packb(keys))
    if pages == 20:
        assert len(readers.read_source(tmp_path / "db")) == 60
    path = tmp_path / "db" / "data.mdb"
    os.truncate(path, path.stat().st_size - 4096 * pages)
    done = subprocess.run([sys.executable, "-c", READ, str(tmp_path / "db")], capture_output=True, text=True)
    assert done.returncode == 1 and "data.mdb: cut short, " in done.stderr.splitlines()[-1]
