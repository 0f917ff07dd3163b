"""Keys, states, locks: nothing half-built is ever taken for finished, and two processes never build the same thing twice."""

from __future__ import annotations

import errno
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fresh import READY, at_once, ready, started

from synthbench import store
from synthbench.results import lookup
from synthbench.store import MANIFEST, Stage, Store, append, content_key, read_json, write_json
from synthbench.types import UserError


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Store(tmp_path).stage("train", content_key({"a": 1}))


def build(stage: Stage, text: str = "whole") -> None:
    with stage.building() as facts:
        assert facts is not None
        (stage.folder / "inner").mkdir(exist_ok=True)
        (stage.folder / "inner" / "weights").write_text(text)
        facts["label"] = "here"


# ---------------------------------------------------------------------------------------------------------------- keys


def test_keys_do_not_depend_on_order_or_container() -> None:
    assert content_key({"a": 1, "b": [1, 2], "c": {"x": 1, "y": 2}}) == content_key({"c": {"y": 2, "x": 1}, "b": (1, 2), "a": 1})
    assert len(content_key({})) == 20


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"m": 0.1}, {"m": 0.1000000000000001}),
        ({"a": "1"}, {"a": 1}),
        ({"a": None}, {}),
        ({"a": True}, {"a": 1}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
    ],
)
def test_keys_tell_what_differs(one: dict, other: dict) -> None:
    assert content_key(one) != content_key(other)


def test_keys_of_numbers_without_a_text_form_are_refused() -> None:
    with pytest.raises(ValueError):
        content_key({"m": float("nan")})
    with pytest.raises(TypeError):
        content_key({"m": object()})


def test_the_key_of_a_known_value_never_changes() -> None:
    # A change here makes every cached result of every user unknown. The oracle: sha256sum of the text below.
    import hashlib

    text = b'{"config":{"lr":0.0001,"m":[-1.0,1]},"seed":0,"stage":"train","title":"\\u00e9"}'
    parts = {"stage": "train", "seed": 0, "config": {"m": [-1.0, 1], "lr": 1e-4}, "title": "é"}
    assert content_key(parts) == hashlib.sha256(text).hexdigest()[:20]


# -------------------------------------------------------------------------------------------------------------- states


def test_states_from_run_to_cached(stage: Stage) -> None:
    assert stage.state == "run"
    build(stage)
    assert stage.state == "cached"
    manifest = stage.manifest()
    assert manifest and manifest["files"] == {"inner/weights": 5} and manifest["label"] == "here" and manifest["key"] == stage.key


def test_a_crash_in_the_block_leaves_resume_and_the_files(stage: Stage) -> None:
    def crash() -> None:
        with stage.building():
            (stage.folder / "checkpoint").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        crash()
    assert stage.state == "resume" and (stage.folder / "checkpoint").read_text() == "half"
    build(stage)  # the lock is free again
    assert stage.state == "cached"


def test_the_seconds_of_a_resumed_stage_are_those_of_all_its_builds(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(store.time, "time", lambda: clock[0])

    def killed(start: float, last_file: float) -> None:  # as by kill -9: nothing is tidied up
        clock[0] = start
        building = stage.building()
        building.__enter__()
        (stage.folder / "checkpoint").write_text("half")
        os.utime(stage.folder / "checkpoint", (last_file, last_file))
        building.gen.close()  # type: ignore[attr-defined]  # releases the lock

    killed(1000.0, 1040.0)
    killed(2000.0, 2005.0)
    clock[0] = 3000.0
    with stage.building():
        clock[0] = 3002.0
        (stage.folder / "checkpoint").write_text("whole")
    manifest = stage.manifest()
    assert manifest and manifest["seconds"] == 47.0
    (stage.folder / "checkpoint").write_text("damaged")
    clock[0] = 4000.0
    with stage.building():
        clock[0] = 4001.0
        (stage.folder / "checkpoint").write_text("whole")
    manifest = stage.manifest()
    assert manifest and manifest["seconds"] == 48.0 and not list(stage.folder.parent.glob("*.leg.json"))


def test_an_empty_folder_is_not_something_to_resume(stage: Stage) -> None:
    stage.folder.mkdir(parents=True)
    assert stage.state == "run"


@pytest.mark.parametrize("damage", ["cut", "longer", "gone", "folder", "other", "zeros"])
def test_a_damaged_file_is_not_cached(stage: Stage, damage: str) -> None:
    build(stage)
    weights = stage.folder / "inner" / "weights"
    if damage in ("gone", "folder"):
        weights.unlink()
    else:
        weights.write_text({"cut": "who", "longer": "wholesome", "other": "whale", "zeros": "\0" * 5}[damage])
    if damage == "folder":
        weights.mkdir()
    assert stage.state == "resume"


def test_samples_of_a_large_file_reach_from_its_first_byte_to_its_last(tmp_path: Path) -> None:
    path, size = tmp_path / "large", 1_000_003
    path.write_bytes(bytes(size))
    before = store.sampled(path)
    for place in (0, size - 1, (size - store.BLOCK) // 7):
        path.write_bytes(bytes(place) + b"x" + bytes(size - place - 1))
        assert store.sampled(path) != before, place


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"key": "other", "files": {}}'])
def test_a_damaged_or_foreign_manifest_is_not_cached(stage: Stage, text: str) -> None:
    build(stage)
    (stage.folder / MANIFEST).write_text(text)
    assert stage.state == "resume"


def test_a_manifest_without_files_is_not_cached(stage: Stage) -> None:
    build(stage)
    (stage.folder / MANIFEST).write_text(json.dumps({"key": stage.key}))
    assert stage.state == "resume"


@pytest.mark.parametrize("outside", ["absolute", "../../victim", "inner/../../../victim", "elsewhere/victim"])
def test_a_manifest_does_not_make_us_delete_what_lies_outside(stage: Stage, tmp_path: Path, outside: str) -> None:
    build(stage)
    victims = [tmp_path / "victim", tmp_path / "stages" / "victim", stage.folder.parent / "victim"]
    for victim in victims:
        victim.write_text("somebody's")
    (stage.folder / "elsewhere").symlink_to(tmp_path)
    manifest = read_json(stage.folder / MANIFEST)
    name = str(tmp_path / "victim") if outside == "absolute" else outside
    write_json(stage.folder / MANIFEST, {**manifest, "files": {**manifest["files"], name: 3}})
    assert stage.state == "resume"
    build(stage)
    assert stage.state == "cached" and all(victim.read_text() == "somebody's" for victim in victims)


def test_a_runs_folder_may_be_named_by_a_way_through_its_parent(tmp_path: Path) -> None:
    from synthbench.results.record import read_run

    (tmp_path / "here").mkdir()
    for runs in (tmp_path / "runs", tmp_path / "here" / ".." / "runs"):
        folder = runs / "results" / "a"
        folder.mkdir(parents=True, exist_ok=True)
        result = {"run": "a", "seeds": [0], "scores": [], "stages": [], "baseline": None, "skipped": []}
        result |= {"generator": "x", "volume": "all", "protocol": "p"}
        write_json(folder / "run.json", {**result, "artifacts": {"folder": str(folder), "faces": str(runs / "stages" / "generate" / "k")}})
        for seen in (tmp_path / "runs", tmp_path / "here" / ".." / "runs"):
            found = read_run(seen / "results" / "a" / "run.json")
            assert found and Path(found["artifacts"]["faces"]) == seen / "stages" / "generate" / "k"


def test_names_that_may_become_paths() -> None:
    for name in ("a", "a/b", "..a", "a b", "\u00e9", "inner/weights.pt"):
        assert store.is_inside(name), name
    for name in ("", ".", "..", "/", "/a", "../a", "a/../b", "a/..", "a//b", "./a", "a/", "a\0", None, 3, ["a"]):
        assert not store.is_inside(name), name
    assert store.is_name("a.json") and not store.is_name("a/b") and not store.is_name("..")


def test_extra_files_do_not_matter_and_leftovers_are_removed(stage: Stage) -> None:
    with stage.building():
        (stage.folder / "half.tmp").write_text("x")
        (stage.folder / "whole").write_text("x")
    (stage.folder / "cache").write_text("written by a reader, later")
    assert stage.state == "cached" and not (stage.folder / "half.tmp").exists()


def test_a_cached_stage_is_not_built_again(stage: Stage) -> None:
    build(stage)
    with stage.building() as facts:
        assert facts is None


def test_while_a_damaged_stage_is_rebuilt_it_is_not_cached(stage: Stage) -> None:
    build(stage)
    (stage.folder / "inner" / "weights").write_text("damaged!")
    with stage.building() as facts:
        assert facts is not None and stage.state == "resume"
        (stage.folder / "inner" / "weights").write_text("whole")
        assert stage.state == "resume"  # right sizes, but the manifest is written last
    assert stage.state == "cached"


def test_a_damaged_file_is_not_built_on_but_the_others_are(stage: Stage) -> None:
    build(stage)
    (stage.folder / "inner" / "weights").write_text("cut")
    (stage.folder / "shard").write_text("left as it is")
    with stage.building() as facts:
        assert facts is not None and not (stage.folder / "inner" / "weights").exists()  # a builder that finds it would call it done
        assert (stage.folder / "shard").exists()


def test_forget_sets_back_to_run(stage: Stage, tmp_path: Path) -> None:
    build(stage)
    Store(tmp_path).forget(stage)
    assert stage.state == "run" and not stage.folder.exists()
    assert not list(tmp_path.rglob("weights"))
    Store(tmp_path).forget(stage)  # twice is fine


FORGET = f"""
import sys
from pathlib import Path
from synthbench.store import Store
{READY}
Store(Path(sys.argv[1])).forget(Store(Path(sys.argv[1])).stage("train", sys.argv[2]))
"""


def test_forget_waits_for_the_builder(stage: Stage, tmp_path: Path) -> None:
    """Else the builder would publish a manifest into a folder that is not there any more."""
    stage.folder.mkdir(parents=True)
    with ready(started(FORGET, tmp_path, stage.key)) as forget:
        with stage.building():
            assert forget.stdin
            forget.stdin.write("\n")
            forget.stdin.flush()
            time.sleep(0.2)
            assert stage.folder.exists()
        assert forget.wait(20) == 0 and stage.state == "run"


# --------------------------------------------------------------------------------------------------------------- locks


SLOW_BUILD = f"""
import os, sys, time
from pathlib import Path
from synthbench.store import Store
{READY}
stage = Store(Path(sys.argv[1])).stage("train", "k")
with stage.building() as facts:
    print("built" if facts is not None else "waited")
    if facts is not None:
        time.sleep(0.3)
        (stage.folder / "file").write_text(str(os.getpid()))
"""


def test_of_two_processes_one_builds_and_one_waits(tmp_path: Path) -> None:
    assert sorted(at_once(SLOW_BUILD, [[tmp_path]] * 2)) == ["built\n", "waited\n"]
    assert Store(tmp_path).stage("train", "k").state == "cached"


HOLD = """
import sys, time
from pathlib import Path
from synthbench.store import Store
with Store(Path(sys.argv[1])).stage("train", "k").building():
    (Path(sys.argv[1]) / "stages/train/k/half").write_text("x")
    print("held", flush=True)
    time.sleep(60)
"""


def test_kill_9_releases_the_lock_and_leaves_resume(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout and holder.stdout.readline() == "held\n"
    stage = Store(tmp_path).stage("train", "k")
    end = threading.Timer(0.3, holder.kill)
    end.start()
    with stage.locked():
        assert holder.wait(10) == -signal.SIGKILL
    told = f"train: another process (pid {holder.pid} on {platform.node()}) is building this stage; waiting for it"
    assert told in " ".join(capsys.readouterr().err.split())
    assert stage.state == "resume"
    build(stage)
    assert stage.state == "cached" and "half" in stage.manifest()["files"]  # type: ignore[index]
    assert "waiting" not in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------- the rest of it


def test_write_json_replaces_in_one_go(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1} and list(tmp_path.iterdir()) == [path]
    assert read_json(tmp_path / "absent") is None
    path.write_text('{"a":')
    assert read_json(path) is None


def test_what_torch_calls_an_error_of_its_own_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights"
    path.write_text("before")

    def fail() -> None:
        with store.writing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("PytorchStreamWriter failed writing file")

    for free, kind in ((0, OSError), (2**30, RuntimeError)):
        monkeypatch.setattr(store.shutil, "disk_usage", lambda _, free=free: store.shutil._ntuple_diskusage(free, 0, free))
        with pytest.raises(kind) as caught:
            fail()
        assert free or (caught.value.errno, caught.value.filename) == (28, str(path))
        assert list(tmp_path.iterdir()) == [path] and path.read_text() == "before"
    with store.writing(path) as temporary:
        temporary.write_text("after")
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "after"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
def test_a_pipe_or_a_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    """Found through the command line: `-o /dev/full`, by one who may, made a file of the device."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(UserError, match=f"{name} is a device, a pipe or a socket"):
            write_json(tmp_path / name, {})
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "link").is_symlink() and len(list(tmp_path.iterdir())) == 2


def test_what_a_killed_writer_left_in_a_stage_is_in_no_manifest(stage: Stage) -> None:
    """Found by kill -9: safetensors writes to a temporary file of its own, as large as the weights, and each kill left one more."""
    (stage.folder / "inner").mkdir(parents=True)
    for left in (".tmpUfGB3j", "weights.12-0123abcd.tmp", "inner/.tmp0aZ9_b"):
        (stage.folder / left).write_text("half")
    (stage.folder / ".tmp_of_a_builder").write_text("its own")
    build(stage)
    manifest = stage.manifest()
    assert manifest and set(manifest["files"]) == {".tmp_of_a_builder", "inner/weights"}
    assert sorted(path.name for path in stage.folder.rglob("*") if path.is_file()) == [".tmp_of_a_builder", "manifest.json", "weights"]


def test_leftovers_of_killed_writers_go_and_those_of_live_ones_stay(tmp_path: Path, stage: Stage) -> None:
    path, day = tmp_path / "samples.png", time.time() - 86400
    strange = ("other.png.12-0123abcd.tmp", "samples.png.tmp", "samples.png.mine.tmp", "xsamples.png.1-0123abcd.tmp")
    others = [tmp_path / name for name in strange]
    old, new = tmp_path / "samples.png.12-0123abcd.tmp", tmp_path / "samples.png.13-0123abcd.tmp"
    for file in (old, new, *others):
        file.write_text("half")
        os.utime(file, None if file == new else (day, day))
    with store.writing(path) as one, store.writing(path) as other:
        assert one != other and one.parent == path.parent
        one.write_text("1")
        other.write_text("2")
    assert path.read_text() == "1" and set(tmp_path.iterdir()) == {path, new, *others}
    (stage.folder / "inner").mkdir(parents=True)
    for file in (stage.folder / new.name, stage.folder / "inner" / new.name):
        file.write_text("half")  # just now, by a builder that was killed: its lock is ours
    with stage.building():
        assert not list(stage.folder.rglob("*.tmp"))


def test_what_is_half_deleted_is_seen_by_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
    monkeypatch.setattr(store.shutil, "rmtree", lambda *_, **__: None)  # killed before
    store.remove(tmp_path / "one")
    assert [path.parent.name for path in tmp_path.glob("*/run.json")] == ["other"]
    monkeypatch.undo()
    store.remove(tmp_path / "other")
    assert not list(tmp_path.iterdir())


def test_too_little_disk_is_told_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "not" / "there" / "yet"
    Store(root).require_space(1)
    assert not root.exists()
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: store.shutil._ntuple_diskusage(100, 50, 50))
    with pytest.raises(UserError, match=r"about 51 B in .*yet, and 50 B are free"):
        Store(root).require_space(51)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no limits on files here")
def test_a_limit_on_the_size_of_files_is_told_as_one(tmp_path):
    """`ulimit -f`: torch and safetensors say something of their own, and a plain write EFBIG."""
    script = """
import resource, sys, torch
from pathlib import Path
from safetensors.torch import save_file
from synthbench.store import writing
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for save in (lambda path: torch.save({"a": torch.zeros(10**6)}, path), lambda path: save_file({"a": torch.zeros(10**6)}, path),
             lambda path: path.write_bytes(bytes(10**6))):
    try:
        with writing(Path(sys.argv[1]) / "x") as path:
            save(path)
    except OSError as error:
        print(error.errno, error.strerror)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{errno.EFBIG} {os.strerror(errno.EFBIG)}"] * 3 and not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="links are followed here")
def test_what_is_appended_to_a_link_does_not_reach_what_it_leads_to(tmp_path):
    """Found by the fuzzer: a runs folder from elsewhere whose asked.jsonl was a link had the user's own file written to."""
    victim = tmp_path / "victim"
    victim.write_text("mine\n")
    runs = Store(tmp_path / "runs")
    runs.root.mkdir()
    (runs.root / "asked.jsonl").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        append(runs.root / "asked.jsonl", "line\n")
    lookup.asked(runs, "run", "x")
    assert victim.read_text() == "mine\n"
    append(tmp_path / "log", "one\n")
    append(tmp_path / "log", "two\n")
    assert (tmp_path / "log").read_text() == "one\ntwo\n"
