"""A network that asks for too much, or never ends, or kills who runs it, is refused in a sentence."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from synthbench import console
from synthbench.data import sources
from synthbench.models import limits
from synthbench.models.encoder import build, save_encoder
from synthbench.store import read_json, write_json
from synthbench.types import UserError


def fine(path: Path, word: str) -> None:
    print("a library talks")
    console.note(f"{word} of {path.name}")


def refuses(path: Path) -> None:
    raise UserError(f"{path.name}: no")


def endless(path: Path) -> None:
    time.sleep(3600)


def huge(path: Path) -> None:
    np.zeros(2**31, np.uint8).fill(1)


def deadly(path: Path) -> None:
    os.abort()


def test_what_the_other_process_notes_and_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"x")
    limits.limited(fine, path, word="tale")
    assert capsys.readouterr() == ("", "tale of net.onnx\n")
    limits.limited(fine, path, silent=True, word="tale")
    assert capsys.readouterr() == ("", "")
    with pytest.raises(UserError, match=r"^net\.onnx: no$"):
        limits.limited(refuses, path)
    with pytest.raises(UserError, match=r"net\.onnx: .* takes more than 1 s; it is refused"):
        limits.limited(endless, path, seconds=1)
    with pytest.raises(UserError, match=r"net\.onnx: .* died of it \(.*\): it is damaged, or asks for more memory"):
        limits.limited(deadly, path)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory is not limited")
def test_memory_is_limited(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"x")
    with pytest.raises(UserError, match=r"net\.onnx: this network asks for more memory than"):
        limits.limited(huge, tmp_path / "net.onnx", memory=2**28)


def test_an_onnx_of_terabytes_is_refused_when_it_is_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx = pytest.importorskip("onnx")
    make, path = onnx.helper, tmp_path / "net.onnx"
    size = onnx.numpy_helper.from_array(np.array([10**6, 10**7], np.int64), "size")
    graph = make.make_graph(
        [make.make_node("ConstantOfShape", ["size"], ["y"])],
        "g",
        [make.make_tensor_value_info("x", 1, ["N", 3, 16, 16])],
        [make.make_tensor_value_info("y", 1, ["M", "D"])],
        [size],
    )
    path.write_bytes(make.make_model(graph, opset_imports=[make.make_opsetid("", 13)]).SerializeToString())
    monkeypatch.setenv("SYNTHBENCH_DATA", str(tmp_path / "data"))
    with pytest.raises(UserError, match=r"net\.onnx"):
        sources.add("mine", path, kind="weights", colour="rgb")
    with pytest.raises(UserError, match=r"net\.onnx"):
        sources.look_once(path, "rgb", "auto")
    assert read_json(tmp_path / "data" / "networks.json") is None


@pytest.mark.parametrize(("field", "value"), [("resolution", 10**6), ("dim", 10**9), ("width", 10**5), ("depth", 10**9)])
def test_an_encoder_of_ours_that_claims_to_be_huge(tmp_path: Path, field: str, value: int) -> None:
    """The weights beside it say how large it is."""
    architecture = {"family": "small", "width": 8, "dropout": 0.0}
    save_encoder(build(architecture, 16, 8), tmp_path / "net", {"architecture": architecture, "resolution": 16, "dim": 8})
    spec = read_json(tmp_path / "net" / "encoder.json")
    (spec if field in spec else spec["architecture"])[field] = value
    write_json(tmp_path / "net" / "encoder.json", spec)
    from synthbench.models.encoder import load_encoder

    began = time.process_time()
    with pytest.raises(UserError, match="net"):
        load_encoder(tmp_path / "net")
    assert time.process_time() - began < 5
