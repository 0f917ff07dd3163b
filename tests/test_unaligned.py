"""Photographs that are hardly aligned are warned of: when registered, before a run, and by a network that cannot tell them apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from synthbench.data import pixels, sources
from synthbench.data.pairs import PairSet, save_pairs
from synthbench.pipeline import checks, run
from synthbench.pipeline.request import Order


def pictures(folder: Path, sizes: list[tuple[int, int]]) -> Path:
    rng = np.random.default_rng(0)
    for number, (width, height) in enumerate(sizes):
        (folder / f"p{number // 2}").mkdir(parents=True, exist_ok=True)
        (folder / f"p{number // 2}" / f"p{number // 2}_{number % 2 + 1:04d}.jpg").write_bytes(
            pixels.encode(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), "jpg", 50)
        )
    return folder


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([(112, 112)] * 4, ""),
        ([(128, 128)] * 4, ""),
        ([(32, 32)] * 4, ""),
        ([(250, 250)] * 4, "images are 250 x 250: ArcFace-aligned crops are 112 x 112"),
        ([(178, 218)] * 4, "images are 178 x 218: ArcFace-aligned"),
        ([(96, 112)] * 4, "images are 96 x 112: ArcFace-aligned"),
        ([(112, 112)] * 3 + [(90, 113)], r"images are of several sizes (90 x 113 to 112 x 112): ArcFace-aligned"),
    ],
)
def test_by_their_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[tuple[int, int]], said: str) -> None:
    monkeypatch.setenv("SYNTHBENCH_DATA", str(tmp_path / "home"))
    folder = pictures(tmp_path / "set", sizes)
    (tmp_path / "pairs.txt").write_text("p0 1 2\np0 1 p1 2\n")
    faces, pairs = sources.add("mine", folder, "faces"), sources.add("bench", folder, "pairs", pairs=tmp_path / "pairs.txt")
    for entry in (faces, pairs):
        assert (said in entry.note and "synthbench data align" in entry.note) if said else not entry.note
        assert bool(sources.misgivings(entry.name)) == bool(said)
    assert pairs.read.startswith("2 pairs of 3 images, ")


def test_a_run_begins_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SYNTHBENCH_DATA", str(tmp_path / "home"))
    sources.add("mine", pictures(tmp_path / "set", [(250, 250)] * 4), "faces")
    need = type("Need", (), {"name": "mine", "kind": "faces", "generator": "", "role": "real set"})
    protocol = type("P", (), {"name": "p", "version": 1, "title": "t", "needs": lambda self: [need]})()
    run._say(Order(None, None, protocol, "as asked", None))  # type: ignore[arg-type]
    said = capsys.readouterr().err
    assert "real set mine: 4 images of 2 identities" in said and "warning: real set mine: images are 250 x 250" in said


def test_by_a_network_that_tells_nobody_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    images = torch.zeros((20, 3, 16, 16), dtype=torch.uint8)
    save_pairs(PairSet.from_arrays("x", images, range(10), range(10, 20), [True] * 5 + [False] * 5), tmp_path / "x")
    network = type("N", (), {"name": "judge", "colour": "rgb"})()
    for value, warned in ((0.6, True), (2.5, False)):
        monkeypatch.setattr("synthbench.models.checkpoints.separations", lambda *given, value=value: (value, value - 0.1))
        checks.colours({"lfw": tmp_path / "x"}, {"judge": network})
        told = "judge hardly tells apart the people of lfw (d' 0.6 on 10 pairs" in capsys.readouterr().err
        assert told == warned
