"""What cannot work is refused when a run is planned, not after minutes of training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from synthbench.config import parse_set
from synthbench.data import sources
from synthbench.pipeline import Job
from synthbench.protocol import TrainedNetwork, load_protocol
from synthbench.store import Store
from synthbench.types import DataMissing, UserError, Volume


def job(name: str, volume: str, folder, *settings: str) -> Job:
    return Job(Store(folder), load_protocol("demo"), name, Volume.parse(volume), torch.device("cpu"), parse_set(settings))


@pytest.mark.parametrize(
    ("name", "volume", "setting", "said"),
    [
        ("sface", "301x2", (), r"300x2 or less"),
        ("vigface", "201x2", (), r"at most 200 identities, or raise train\.virtual"),
        ("cemiface", "301x2", ("enroll.source=real",), r"at most 300 identities, or give another enroll\.source"),
        ("dcface", "301x2", ("enroll.source=real", "enroll.novelty=1"), r"at most 300 identities"),
        ("idiffface", "301x2", ("enroll.source=real",), r"at most 300 identities"),
    ],
)
def test_more_identities_than_there_can_be_are_refused_by_the_plan(name, volume, setting, said, tmp_path):
    with pytest.raises(UserError, match=said):
        job(name, volume, tmp_path, *setting).steps(0)
    assert job(name, "200x2", tmp_path, *setting).steps(0)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("source", ["world", "unconditional"])
def test_vec2face_imitates_labelled_images_only(source, tmp_path, monkeypatch):
    monkeypatch.setenv("SYNTHBENCH_DATA", str(tmp_path / "data"))
    with pytest.raises(UserError, match=source):
        job("vec2face", "4x2", tmp_path, f"enroll.source={source}").steps(0)


def test_missing_lpips_is_refused_by_the_plan(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNTHBENCH_DATA", str(tmp_path / "data"))
    assert job("vec2face", "4x2", tmp_path).steps(0)
    with pytest.raises(DataMissing, match=r"vgg16-imagenet.*\n.*train\.perceptual=encoder"):
        job("vec2face", "4x2", tmp_path, "train.perceptual=lpips").steps(0)


def test_a_generator_that_learns_from_labels_needs_two_people(tmp_path):
    with pytest.raises(UserError, match="dcface learns from labels, but the real set has 1 labelled identities"):
        job("dcface", "4x2", tmp_path).check(1)
    job("dcface", "4x2", tmp_path).check(None)
    job("idiffface", "4x2", tmp_path).check(0)


@pytest.mark.parametrize(("name", "needed"), [("vigface", False), ("sface", False), ("procedural", False), ("dcface", True)])
def test_the_encoder_is_trained_only_for_who_looks_at_it(name, needed, tmp_path):
    shipped = job(name, "4x2", tmp_path)
    trained = replace(shipped, protocol=shipped.protocol.model_copy(update={"encoder": TrainedNetwork(recipe="demo_encoder", seed=101)}))
    names, fewer = ([step.stage.name for step in one.steps(0)] for one in (trained, shipped))
    assert ("encoder" in names) == needed
    assert [name for name in names if name != "encoder"] == fewer


def test_a_registered_source_with_too_few_people_is_refused_by_the_plan(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setenv("SYNTHBENCH_DATA", str(tmp_path / "data"))
    for person in ("a", "b", "c"):
        (tmp_path / "people" / person).mkdir(parents=True)
        Image.new("RGB", (32, 32), (90, 60, 50)).save(tmp_path / "people" / person / "1.png")
    sources.add("someone", tmp_path / "people", "faces")
    with pytest.raises(UserError, match="'someone': the set has 3 people, but 4 identities are wanted"):
        job("cemiface", "4x2", tmp_path, "enroll.source=someone").steps(0)
    assert job("cemiface", "3x2", tmp_path, "enroll.source=someone").steps(0)
