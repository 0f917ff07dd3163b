"""What cannot work is refused when a run is planned, not after minutes of training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from synthbench.config import parse_set
from synthbench.data import sources
from synthbench.data.faces import open_faces
from synthbench.generators.procedural import Procedural
from synthbench.identities.sampling import with_copies
from synthbench.pipeline import facts
from synthbench.pipeline.job import Job
from synthbench.plugin import Context
from synthbench.protocol import TrainedNetwork, load_protocol
from synthbench.store import Store
from synthbench.types import DataMissing, FaceBatch, UserError, Volume


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


def test_a_plan_promises_images_and_says_copies_apart(tmp_path):
    work = {step.stage.name: step.work for step in job("cemiface", "200x20", tmp_path).steps(0)}
    assert work["generate"] == "cemiface: 200 identities, 4,000 images + 1,000 copies of inquiries"
    without = job("cemiface", "200x20", tmp_path, "sample.copies=0").steps(0)
    assert [step.work for step in without if step.stage.name == "generate"][-1] == "cemiface: 200 identities, 4,000 images"


def test_progress_counts_what_was_promised(tmp_path):
    class Copying(Procedural):
        def slots(self, volume, context):
            return with_copies(super().slots(volume, context), 2)

        def generate(self, slots, context):
            for part in (slots[:5], slots[5:]):  # two images and two copies of the first person, one image of the second
                yield FaceBatch(torch.zeros(len(part), 3, 32, 32, dtype=torch.uint8), torch.tensor([slot.identity for slot in part]))

    made, seen = job("procedural", "3x2", tmp_path), []
    vars(made)["generator"] = Copying(Copying.Config())
    made._generate(Context(tmp_path, 0, 32, torch.device("cpu"), None, None, progress=lambda *counts: seen.append(counts)))
    assert seen == [(3, 6), (6, 6)] and len(open_faces(tmp_path)) == 12


def test_what_differs_from_the_generators_own_settings_is_told_with_those_asked_for_first(tmp_path):
    found = facts.changed(job("cemiface", "4x2", tmp_path, "train.lr=0.5", "sample.copies=5"))
    assert [name.partition(".")[0] for name in list(found)[:8]] == ["train", *["sample"] * 4, "enroll", "enroll", "train"]
    assert next(iter(found)) == "train.lr" and found["train.lr"] == 0.5 and found["sample.m"] == 0.5  # what the demo changes
    assert "sample.copies" not in found and "sample.guidance" not in found and found["train.unet.channels"] == 32
    assert facts.changed(job("procedural", "4x2", tmp_path)) == {}


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
