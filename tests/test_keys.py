"""The keys of the stages of the shipped protocols, pinned: what is in a user's runs folder is found again by the next version.

A key that changes here makes everybody compute again. That may be right (a method was mended: its `version` was raised; a protocol changed,
and so did its version), and then the new key belongs in this file, and a line in CHANGELOG.md.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from synthbench.data import sources
from synthbench.pipeline.job import Job
from synthbench.protocol import load_protocol
from synthbench.store import Store
from synthbench.types import Volume

# The last stage of a run: its key covers those of all stages before it.
EVALUATE = {
    ("demo", "real"): "bbe4461104806921b275",
    ("demo", "cemiface"): "cbe14e180a154e65b6aa",
    ("demo", "id3pm"): "ead6fc52b2e99cae7681",
    ("demo", "dcface"): "3c745e5a554d6da36589",
    ("demo", "vigface"): "a26142ebc636b6c3b767",
    ("demo", "vec2face"): "416f4b86a8bad114960c",
    ("demo", "idiffface"): "ef43bbfa1cd500a52d8d",
    ("demo", "sface"): "d20f822b9af1ca55abe9",
    ("demo", "synface"): "85cb6a6abb4dbb905f80",
    ("demo", "digiface"): "088f79418029fe6a8148",
    ("demo", "procedural"): "21102175c77cc0c56beb",
    ("demo", "similarity_groups"): "9f5880ca0fcd2f785a01",
    ("paper", "real"): "e26fe73d2812d28bd442",
    ("paper", "cemiface"): "68729bfbbd1aba275dbc",
    ("paper", "id3pm"): "a8ab98bb1fe0c4b4abcb",
    ("paper", "dcface"): "02aa1f06d83f8fe44947",
    ("paper", "vigface"): "de8ea772d7296615b15e",
    ("paper", "vec2face"): "f328f440f963602098b6",
    ("paper", "idiffface"): "1755630eaebd8f2b51ee",
    ("paper", "sface"): "80af2b740108f3a1bf28",
    ("paper", "synface"): "f9efa58439df4930e45c",
    ("paper", "digiface"): "bf5faacb849588ed75e8",
    ("paper", "procedural"): "d7d00a49d17caa155998",
    ("paper", "similarity_groups"): "efe3d405ec694db9f7e5",
    ("photos", "real"): "abcc5564d9edb5be5b74",
    ("photos", "cemiface"): "cf72e4fceddffc28d7c3",
    ("photos", "id3pm"): "cf72e4fceddffc28d7c3",
    ("photos", "dcface"): "10602fbc34f50ed318b5",
    ("photos", "vigface"): "a812feeb3901be01f9d1",
    ("photos", "vec2face"): "2c38d2db01405145bf04",
    ("photos", "idiffface"): "7f1e7b40b92277ded07e",
    ("photos", "sface"): "eb46693f143306a3289f",
    ("photos", "synface"): "a8847fb132841646ab7c",
    ("photos", "digiface"): "79aaa8746d213d899e6a",
    ("photos", "procedural"): "3d1a5602b75d98df595b",
    ("photos", "similarity_groups"): "10fc6c4fd10f7da833f9",
}


@pytest.fixture
def everything_registered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever is asked for is there, with a digest told by its name."""

    def find(name: str, kind: str | None = None) -> sources.Entry:
        (tmp_path / name).mkdir(exist_ok=True)
        about = {"size": 0, "added": "", "images": 1000, "identities": 100, "pairs": 100, "options": {"colour": "bgr"}}
        return sources.Entry(name, kind or "faces", name, tmp_path / name, f"digest of {name}", "", **about)

    monkeypatch.setattr(sources, "find", find)


@pytest.mark.parametrize(("name", "generator"), EVALUATE)
def test_keys_stay(name: str, generator: str, tmp_path: Path, everything_registered: None) -> None:
    volume = Volume.parse("all" if generator in ("real", "similarity_groups") else "20x10")
    job = Job(Store(tmp_path), load_protocol(name), generator, volume, torch.device("cpu"))
    assert job.steps(0)[-1].stage.key == EVALUATE[name, generator]
