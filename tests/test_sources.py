"""The catalogue and the registry: what is looked at when something is added, and what is said when it is not there."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from fresh import READY, at_once
from PIL import Image

from synthbench.cli import app
from synthbench.data import faces as faces_module
from synthbench.data import sources
from synthbench.data.faces import open_faces
from synthbench.data.pairs import pairs_from_source
from synthbench.data.readers import read_source
from synthbench.models.checkpoints import load_checkpoint
from synthbench.models.encoder import build
from synthbench.pipeline.steps import execute, import_step, read_benchmark
from synthbench.store import Store
from synthbench.types import DataMissing, UserError


def png(seed: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYNTHBENCH_DATA", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        for i in range(6):
            archive.writestr(f"{i // 2}/{i}.png", png(i))
    return tmp_path / "faces.zip"


def state(name: str) -> str:
    return next(row["state"] for row in sources.status() if row["name"] == name)


def test_where_the_registry_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faces: Path) -> None:
    monkeypatch.delenv("SYNTHBENCH_DATA")
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    earlier, usual = tmp_path / ".synthbench", sources.home()
    if sys.platform == "linux":
        assert usual == tmp_path / ".local" / "share" / "synthbench"
    assert not usual.exists() and usual != earlier
    earlier.mkdir()
    assert sources.home() == usual  # nothing is registered there
    sources.add("mine", faces, kind="faces")
    (usual / "sources.json").rename(earlier / "sources.json")
    assert sources.home() == earlier and sources.find("mine").images == 6  # as an earlier version left it
    sources.add("other", faces, kind="faces")
    assert sources.names_registered() == ["mine", "other"] and not (usual / "sources.json").exists()
    shutil.copy(earlier / "sources.json", usual / "sources.json")
    assert sources.home() == usual
    monkeypatch.setenv("SYNTHBENCH_DATA", "~/elsewhere")
    assert sources.home() == tmp_path / "elsewhere" and not sources.names_registered()


def test_faces(faces: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert state("casia-webface") == "missing" and not sources.registered("casia-webface")
    before = sources.fingerprint()
    monkeypatch.chdir(faces.parent)
    entry = sources.add("casia-webface", "faces.zip")
    assert (entry.path, entry.images, entry.identities, entry.kind) == (faces, 6, 3, "faces")
    assert entry == sources.find("casia-webface", "faces") and sources.registered("casia-webface")
    assert "published with 490,623" in entry.note
    assert state("casia-webface") == "registered" and sources.fingerprint() != before
    assert json.loads((home / "sources.json").read_text())["casia-webface"]["digest"] == entry.digest
    with pytest.raises(UserError, match="registered as faces, but pairs are needed"):
        sources.find("casia-webface", "pairs")


def test_changed_touched_and_gone(faces: Path) -> None:
    entry = sources.add("mine", faces, kind="faces")
    os.utime(faces, (1, 1))
    assert state("mine") == "changed"  # by its date
    assert sources.find("mine").digest == entry.digest  # but not by its content, which is found out once
    assert state("mine") == "registered"
    with zipfile.ZipFile(faces, "a") as archive:
        archive.writestr("0/9.png", png(9))
    for look in (sources.find, sources.verify):
        with pytest.raises(UserError, match="has changed since it was registered"):
            look("mine")
    faces.unlink()
    assert state("mine") == "gone" and not sources.registered("mine")
    for look in (sources.find, sources.verify):
        with pytest.raises(DataMissing, match="is not there any more"):
            look("mine")


def test_missing_says_licence_and_where() -> None:
    with pytest.raises(DataMissing, match=r"CASIA-WebFace .*Licence: .*https://.*`synthbench data add casia-webface PATH`"):
        sources.find("casia-webface")
    with pytest.raises(UserError, match="did you mean 'casia-webface'"):
        sources.find("casia-webfaces")
    with pytest.raises(UserError, match=r"did you mean 'cfp-fp'\?.*--kind"):
        sources.add("cfp_fp", Path())


def test_pairs(tmp_path: Path, faces: Path) -> None:
    (tmp_path / "x.bin").write_bytes(pickle.dumps(([png(0), png(1)] * 2, [True, False])))
    entry = sources.add("mine", tmp_path / "x.bin", kind="pairs")
    assert (entry.pairs, entry.images) == (2, 2)
    assert len(pairs_from_source(entry, 8)) == 2 and pairs_from_source(entry, 8).name == "mine"
    with pytest.raises(UserError, match="LFW has 6000 pairs, this file has 2"):
        sources.add("lfw", tmp_path / "x.bin")
    (tmp_path / "pairs.txt").write_text("0/0.png 0/1.png 1\n0/0.png 2/4.png 0\n")
    listed = sources.add("listed", faces, kind="pairs", pairs=tmp_path / "pairs.txt")
    found = pairs_from_source(listed, 8)
    assert found.same.tolist() == [True, False] and found.source_digest == listed.digest
    (tmp_path / "pairs.txt").write_text("0/0.png 0/1.png 1\n0/0.png 2/5.png 0\n")
    with pytest.raises(UserError, match="has changed"):
        sources.find("listed")
    (tmp_path / "one.bin").write_bytes(pickle.dumps(([png(0), png(1)] * 2, [True, True])))
    with pytest.raises(UserError, match="all 2 pairs are genuine; a benchmark needs both"):
        sources.add("other", tmp_path / "one.bin", kind="pairs")
    with pytest.raises(UserError, match="images alone are no benchmark"):
        sources.add("other", faces, kind="pairs")


def test_what_a_protocol_needs_and_nobody_has_registered(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"no data or weights are called 'celeba-subset'.* `synthbench data add celeba-subset PATH --kind faces`"
    ):
        sources.find("celeba-subset", "faces")


def test_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(UserError, match=r"is of no architecture known here .*it begins with weights"):
        sources.add("mine", path, kind="weights", colour="rgb")
    torch.save(build({"family": "irse", "depth": 18, "se": False}, 16, 32).state_dict(), path)
    with pytest.raises(UserError, match="--colour rgb or --colour bgr"):
        sources.add("mine", path, kind="weights")
    assert sources.add("mine", path, kind="weights", colour="rgb").options == {"colour": "rgb"}
    assert sources.add("adaface-ir50-casia", path).options == {"colour": "bgr"}
    with pytest.raises(UserError, match="was trained with bgr images, not rgb"):
        sources.add("adaface-ir50-casia", path, colour="rgb")
    with pytest.raises(UserError, match=r"its SHA-256 begins .*, not 6726825d"):
        sources.add("inception-fid", path)
    assert not sources.registered("inception-fid")
    path.write_bytes(b"")
    with pytest.raises(UserError, match="empty"):
        sources.add("mine", path, kind="weights", colour="rgb")
    for name, content in (("text.ckpt", b"hello"), ("word.ckpt", b"no"), ("text.safetensors", b"hello"), ("text.pth", b"hello")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} is"):
            sources.add("mine", tmp_path / name, kind="weights", colour="rgb")
    torch.save({"weights": tmp_path}, tmp_path / "code.pt")
    with pytest.raises(UserError, match="Python objects besides tensors"):
        sources.add("mine", tmp_path / "code.pt", kind="weights", colour="rgb")


@pytest.mark.parametrize("name", ["", ".", "../up", "a/b", "a\\b", ".hidden", "world-mixed", "a\nb", "a" * 101])
def test_names_that_would_make_paths_are_refused(faces: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot be a name"):
        sources.add(name, faces, kind="faces")


def test_a_name_may_have_spaces_and_letters_of_any_script(faces: Path) -> None:
    sources.add("Мой набор 2.0", faces, kind="faces")
    assert sources.names_registered() == ["Мой набор 2.0"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "pairs"}, "casia-webface is faces, not pairs"),
        ({"colour": "rgb"}, "only weights have a colour"),
        ({"pairs": "pairs.txt"}, "goes with kind pairs"),
    ],
)
def test_options_that_do_not_fit(faces: Path, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        sources.add("casia-webface", faces, **options)


def test_what_cannot_be_used_is_not_registered(tmp_path: Path, faces: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        sources.add("mine", tmp_path / "none", kind="faces")
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as archive:
        archive.writestr("a/0.png", png(0))
    with pytest.raises(UserError, match="one image"):
        sources.add("mine", tmp_path / "one.zip", kind="faces")
    shutil.copy(faces, tmp_path / "faces.7z")
    with pytest.raises(UserError, match="compressed; unpack it"):
        sources.add("mine", tmp_path / "faces.7z", kind="faces")
    assert sources.names_registered() == []


ADD = f"""
import sys
from synthbench.data import faces, sources
{READY}
for number in range(4):
    sources.add(f"set{{sys.argv[1]}}{{number}}", sys.argv[2], kind="faces")
"""


def test_many_at_once(faces: Path) -> None:
    at_once(ADD, [[i, faces] for i in range(3)])
    assert sources.names_registered() == [f"set{i}{number}" for i in range(3) for number in range(4)]


@pytest.mark.parametrize("text", ["{", "", "[]", "null", '{"lfw": 3}', '{"lfw": {"name": "lfw"}}'])
def test_damaged_registry(home: Path, text: str) -> None:
    home.mkdir()
    (home / "sources.json").write_text(text)
    with pytest.raises(UserError, match=r"sources\.json is not readable"):
        sources.status()


def test_a_source_is_told_about_and_forgotten(faces: Path, home: Path) -> None:
    entry = sources.add("mine", faces, kind="faces")
    size = faces.stat().st_size
    assert sources.holds(entry) == f"3 people, 6 images, {size / 1000:.0f} kB" if size >= 1000 else f"3 people, 6 images, {size} B"
    told = sources.show("mine")
    assert (told["state"], told["path"], told["sha256"]) == ("registered", str(faces), entry.digest)
    assert sources.show("lfw")["to add it"] == "synthbench data add lfw PATH" and sources.show("lfw")["licence"] == "research"
    with pytest.raises(UserError, match="did you mean 'mine'"):
        sources.show("mien")
    assert sources.remove("mine") == entry and faces.is_file()
    assert not sources.registered("mine") and json.loads((home / "sources.json").read_text()) == {}
    with pytest.raises(UserError, match="nothing is registered as 'mine'"):
        sources.remove("mine")


@pytest.mark.parametrize(
    ("name", "kind", "command"),
    [
        ("lfw", "pairs", "synthbench data add lfw PATH"),
        ("arc2face", "weights", "synthbench data add arc2face DIR"),
        ("mine", "faces", "synthbench data add mine PATH --kind faces"),
        ("net", "weights", "synthbench data add net PATH --kind weights --colour COLOUR"),
    ],
)
def test_the_command_that_adds_a_source(name: str, kind: str, command: str) -> None:
    assert sources.add_command(name, kind) == command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(6):
        path = tmp_path / "set" / "people" / f"p{i // 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))
    return tmp_path / "set"


def test_pixels_written_over_are_not_imported_as_what_was_registered(folder: Path, tmp_path: Path) -> None:
    entry, path = sources.add("mine", folder, kind="faces"), folder / "people" / "p0" / "0.png"
    times = [(place, place.stat().st_mtime_ns) for place in (folder, folder / "people", folder / "people" / "p0")]
    store = Store(tmp_path / "runs")

    def imported() -> int:
        """The first red of the first image."""
        step = import_step(store, 8, "real", sources.find("mine"))
        execute([step], store)
        return int(open_faces(step.stage.folder).images([0])[0, 0, 0, 0])

    path.write_bytes(png(99))
    assert [(place, place.stat().st_mtime_ns) for place, _ in times] == times
    assert state("mine") == "changed"
    with pytest.raises(
        UserError, match=rf"SHA-256 .*, was {entry.digest[:12]}; .*p0/0\.png.* run `synthbench data add mine {folder} --kind f"
    ):
        imported()
    path.write_bytes(png(0))
    os.utime(path, (1, 1))
    assert imported() == np.asarray(Image.open(io.BytesIO(png(0))))[0, 0, 0] and state("mine") == "registered"


def test_what_is_written_during_an_import_is_not_kept(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources.add("mine", folder, kind="faces")
    whole, store = faces_module.import_faces, Store(tmp_path / "runs")
    step = import_step(store, 8, "real", sources.find("mine"))

    def meanwhile(*given, **more):
        found = whole(*given, **more)
        (folder / "people" / "p0" / "0.png").write_bytes(png(99))
        return found

    monkeypatch.setattr(faces_module, "import_faces", meanwhile)
    with pytest.raises(UserError, match="was written to while it was read"):
        execute([step], store)
    assert not step.stage.folder.exists()


def test_a_benchmark_written_over_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(pickle.dumps(([png(i) for i in range(24)], [True, False] * 6)))
    sources.add("mine", path, kind="pairs")
    assert len(read_benchmark("mine", 8)) == 12
    path.write_bytes(pickle.dumps(([png(i + 50) for i in range(24)], [True, False] * 6)))
    with pytest.raises(UserError, match="has changed since it was registered"):
        read_benchmark("mine", 8)


def test_a_broken_source_is_in_nobodys_way(folder: Path, tmp_path: Path, faces: Path) -> None:
    (folder / "README").write_text("first")
    for name, path in (("good", faces), ("linked", folder)):
        sources.add(name, path, kind="faces")
    before = sources.fingerprint()
    (folder / "people").rename(tmp_path / "elsewhere")
    (folder / "people").symlink_to(tmp_path / "nowhere")
    (folder / "README").unlink()
    (folder / "README").symlink_to(tmp_path / "nowhere")
    assert (state("good"), state("linked")) == ("registered", "changed") and sources.fingerprint() != before
    assert sources.find("good").images == 6
    with pytest.raises(UserError, match="cannot be read"):
        sources.find("linked")
    (folder / "a.rec").touch()
    (folder / "b.rec").touch()
    assert state("linked") == "unreadable" and sources.show("linked")["state"] == "unreadable"


def test_the_home_in_what_is_typed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("SYNTHBENCH_RUNS", "~/elsewhere")
    monkeypatch.setattr(sys, "argv", ["synthbench", "data", "add", "mine", "~/set", "--kind=faces"])
    assert app._guarded() == 0 and sources.find("mine").path == folder
    monkeypatch.setattr(sys, "argv", ["synthbench", "list", "runs"])
    assert app._guarded() == 0 and not (Path.cwd() / "~").exists()
    seen: list[tuple] = []
    monkeypatch.setattr(app.cli.commands["show"], "callback", lambda **given: seen.append(given["name"]))
    monkeypatch.setattr(sys, "argv", ["synthbench", "show", "~/mine.py"])
    assert app._guarded() == 0 and seen == [(str(tmp_path / "mine.py"),)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 99\n", "pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html><body>Google Drive: download anyway?</body></html>", "is a web page"),
    ],
)
@pytest.mark.parametrize(
    ("name", "kind"), [("x.onnx", "weights"), ("x.ckpt", "weights"), ("x.bin", "pairs"), ("x.zip", "faces"), ("x.rec", "faces")]
)
def test_what_a_failed_download_leaves_is_recognized(tmp_path, content, said, name, kind):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        sources.add("mine", tmp_path / name, kind, **({"colour": "rgb"} if kind == "weights" else {}))
    if kind == "weights":
        with pytest.raises(UserError, match=said):
            load_checkpoint(tmp_path / name, colour="rgb")
    if kind == "faces":
        with pytest.raises(UserError, match=said):
            read_source(tmp_path / name)
