"""The keys of the stages of the shipped protocols, pinned: what is in a user's runs folder is found again by the next version.

A key that changes here makes everybody compute again. That may be right (a method was mended: its `version` was raised; a protocol changed,
and so did its version), and then the new key belongs in this file, and a line in CHANGELOG.md.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from synthbench.config import parse_set
from synthbench.data import sources
from synthbench.pipeline.job import Job
from synthbench.protocol import load_protocol
from synthbench.store import Store
from synthbench.types import Volume

# The last stage of a run: its key covers those of all stages before it.
EVALUATE = {
    ("demo", "real"): "49c4675adefac37d5528",
    ("demo", "cemiface"): "f9053618403cdaf3aaf7",
    ("demo", "id3pm"): "296e47e5a8308b6e42b2",
    ("demo", "dcface"): "9e5388f3aae1cc4a67b4",
    ("demo", "vigface"): "bba2f8bb565ba947e572",
    ("demo", "vec2face"): "5830d50e48f76f8a71e3",
    ("demo", "idiffface"): "20b0f0706b76de34d2f8",
    ("demo", "sface"): "038743500375f0c2d263",
    ("demo", "synface"): "06d6a69b45f2d9b86b8a",
    ("demo", "digiface"): "3824b701cdbda066227a",
    ("demo", "procedural"): "1a635312da2e01a81711",
    ("demo", "similarity_groups"): "717710cb14ff060793f9",
    ("demo-hard", "real"): "bff9aa33ac9b9841c62f",
    ("demo-hard", "cemiface"): "4a23f42793fd2de7a6b1",
    ("paper", "real"): "f110136768c2e751e201",
    ("paper", "cemiface"): "af4af38d69eaa745c3b8",
    ("paper", "id3pm"): "f01c9fb5944cdb7fd0b0",
    ("paper", "dcface"): "c8b32541a05d5f461dac",
    ("paper", "vigface"): "228136ca17450de7ee50",
    ("paper", "vec2face"): "b945c5af10482b287fc5",
    ("paper", "idiffface"): "b7d7a04daf8ed48553f0",
    ("paper", "sface"): "e7dfbdcd2e24290a850f",
    ("paper", "synface"): "ff344ea758de907fd392",
    ("paper", "digiface"): "09a9d441b4b78524cc5f",
    ("paper", "procedural"): "bce2226b46d93f3f9769",
    ("paper", "similarity_groups"): "5a836213f51e427d093f",
    ("photos", "real"): "85255c17663b28c340ac",
    ("photos", "cemiface"): "19f6e7be3b9ae762bc73",
    ("photos", "id3pm"): "19f6e7be3b9ae762bc73",
    ("photos", "dcface"): "119dd0eb5b2e66bd13b7",
    ("photos", "vigface"): "f27a0d77bd02da3202b9",
    ("photos", "vec2face"): "87fc7cae063be59eb502",
    ("photos", "idiffface"): "21408f34b8284a889c03",
    ("photos", "sface"): "2d90909da331da041d84",
    ("photos", "synface"): "95918802ebce3a5f8b1e",
    ("photos", "digiface"): "fe72f70990b60ca61a37",
    ("photos", "procedural"): "38932913c0cc47a496cf",
    ("photos", "similarity_groups"): "c367f006a77af84ec601",
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


MADE_OF = {  # generate, of sets that are made of others
    ("union", 'sample.parts=[real, "cemiface@20x10 m=0"]'): "e791a0cc7e3cfa412017",
    ("cleaned", "sample.of=cemiface@20x10"): "41dc77227158f4483d59",
}


@pytest.mark.parametrize(("generator", "setting"), MADE_OF)
def test_keys_of_mixed_and_cleaned_sets_stay(generator: str, setting: str, tmp_path: Path) -> None:
    job = Job(Store(tmp_path), load_protocol("demo"), generator, Volume.parse("all"), torch.device("cpu"), parse_set([setting]))
    assert job.generator_steps(0)[-1].stage.key == MADE_OF[generator, setting]


def test_the_hard_demo_takes_over_all_that_the_demo_made(tmp_path: Path) -> None:
    volume, store = Volume.parse("20x10"), Store(tmp_path)
    demo, hard = (Job(store, load_protocol(name), "cemiface", volume, torch.device("cpu")).steps(0) for name in ("demo", "demo-hard"))
    new = [step.stage.name for step in hard if step.stage.folder not in {step.stage.folder for step in demo}]
    assert sorted(new) == ["benchmarks", "evaluate", "evaluate"]
