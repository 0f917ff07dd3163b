"""An encoder that learns from a public one: its stages and key, that it ends up near its teacher, and what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from fake_protocol import PROTOCOL

from synthbench.data.faces import open_faces
from synthbench.models.encoder import load_encoder
from synthbench.pipeline import distil, learning
from synthbench.pipeline.job import Job
from synthbench.pipeline.run import Request, run
from synthbench.protocol import load_protocol
from synthbench.store import Store
from synthbench.testing import world
from synthbench.types import UserError, Volume

TEACHER = world.RESOLUTION  # pixels: twice those of the protocol


@pytest.fixture
def protocol(here: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes tiny.yaml with a distilled encoder, changed as told; the teacher is a tiny network that is registered nowhere."""
    teacher = world.tiny_encoder(world.rendered("train"), 5)
    found = learning.sources.find
    monkeypatch.setattr(distil, "public_network", lambda name: teacher)
    entry = SimpleNamespace(digest="d1g357", options={"colour": "rgb"})
    monkeypatch.setattr(learning.sources, "find", lambda name, *kind: entry if name == "large" else found(name, *kind))

    def write(**changes):
        settings = yaml.safe_load(PROTOCOL)
        settings["encoder"] = {"teacher": "large", "recipe": "student.yaml", "seed": 1, "pixels": TEACHER, **changes}
        (here / "tiny.yaml").write_text(yaml.safe_dump(settings))
        recipe = yaml.safe_load((here / "recipe.yaml").read_text())
        (here / "student.yaml").write_text(yaml.safe_dump({**recipe, "dim": 32, "epochs": 40, **changes.pop("student", {})}))
        return load_protocol("tiny.yaml")

    write.entry = entry  # type: ignore[attr-defined]
    return write


def steps(protocol, here: Path):
    job = Job(Store(here / "runs"), protocol, "cemiface", Volume.parse("2x2"), torch.device("cpu"))
    return job.network_steps("encoder", protocol.encoder)


def test_the_student_ends_near_its_teacher(protocol, here):
    made = steps(protocol(), here)
    assert [step.stage.name for step in made] == ["real", "encoder-faces", "encoder"]
    for step in made:
        step.stage.folder.mkdir(parents=True)
        step.build(step.stage.folder, lambda done, total: None)
    small, large, student = (step.stage.folder for step in made)
    assert (open_faces(small).resolution, open_faces(large).resolution) == (16, TEACHER)
    assert not (student / distil.TEACHER).exists()
    found = load_encoder(student).embed_all(open_faces(small))
    wanted = distil.public_network("large").embed_all(open_faces(large), flip=True)
    own, other = (found * wanted).sum(1).mean(), (found * wanted[::-1]).sum(1).mean()
    assert own > 0.5 and own > other + 0.2
    assert made[-1].cost.amount > 0 and "learns large from the real set" in made[-1].work


def test_teacher_seed_and_sharpness_are_in_the_key(protocol, here):
    keys = [
        steps(protocol(), here)[-1].stage.key,
        steps(protocol(seed=2), here)[-1].stage.key,
        steps(protocol(pixels=24), here)[-1].stage.key,
    ]
    protocol.entry.digest = "another"
    keys.append(steps(protocol(), here)[-1].stage.key)
    assert len(set(keys)) == 4


def test_what_is_refused(protocol, here):
    settings = yaml.safe_load((here / "tiny.yaml").read_text()) if protocol() else {}
    (here / "tiny.yaml").write_text(yaml.safe_dump({**settings, "judge": {"weights": "large"}}))
    with pytest.raises(UserError, match="or learnt from it"):
        load_protocol("tiny.yaml")
    needs = {need.name: need.role for need in protocol(faces=["real", "more"]).needs()}
    assert needs == {"large": "encoder's teacher", "more": "encoder's faces"}
    faces, large, student = steps(protocol(recipe="recipe.yaml"), here)
    for step in (faces, large):
        step.stage.folder.mkdir(parents=True)
        step.build(step.stage.folder, lambda done, total: None)
    with pytest.raises(UserError, match="gives 32 numbers, recipe recipe has dim: 16"):
        student.build(here, lambda done, total: None)


def test_a_generator_is_lent_the_student(protocol, here):
    protocol()
    tiny = ["sample.steps=1", "train.steps=2", "train.batch_size=4", "sample.copies=0", "enroll.threshold=1.0", "enroll.source=world"]
    tiny += ["train.unet={channels: 16, multipliers: [1, 2], attention_levels: [1], attention_width: 16, head_width: 8, groups: 4, "
             "skip_downsample_level: -1, patch: 2}"]  # fmt: skip
    result = run(Request("cemiface", here / "runs", "3x2", "tiny.yaml", settings=tuple(tiny), tracking=False))
    assert result is not None and result["scores"]
