"""Presets: a generator with other settings and a name of its own, from a YAML file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from synthbench import registry, testing
from synthbench.config import config_names, parse_set
from synthbench.inventory import describe, listing
from synthbench.models.size import count
from synthbench.pipeline import run
from synthbench.pipeline.job import Job
from synthbench.pipeline.loading import load_generator
from synthbench.pipeline.request import read
from synthbench.plugin import Generator
from synthbench.protocol import Protocol, load_protocol
from synthbench.store import Store
from synthbench.sweep.design import Request, design
from synthbench.types import UserError, Volume

PRESET = """# Procedural, hard
generator: procedural
traits: {licence: ours}
sample: {difficulty: 1.5}
"""


@pytest.fixture
def far(tmp_path: Path) -> str:
    (tmp_path / "far.yaml").write_text(PRESET)
    return str(tmp_path / "far.yaml")


def job(name: str, folder: Path, *settings: str) -> Job:
    return Job(Store(folder), load_protocol("demo"), name, Volume.parse("4x3"), torch.device("cpu"), parse_set(settings))


def keys(made: Job) -> dict[str, str]:
    return {step.stage.name: step.stage.key for step in made.generator_steps(0)}


def test_id3pm_is_cemiface_at_m_1_and_shares_its_training(tmp_path: Path) -> None:
    base, preset = job("cemiface", tmp_path), job("id3pm", tmp_path)
    assert preset.generator.config.sample.m == 1.0
    assert preset.generator.config.model_dump(exclude={"sample": {"m"}}) == base.generator.config.model_dump(exclude={"sample": {"m"}})
    assert preset.short_name == "id3pm" and "2303.13006" in preset.generator.traits.paper
    one, two = keys(base), keys(preset)
    assert one["train"] == two["train"] and one["enroll"] == two["enroll"] and one["generate"] != two["generate"]
    assert two == keys(job("cemiface", tmp_path, "sample.m=1.0"))
    assert "id3pm" in preset.generator_steps(0)[0].work


def test_small_vigface_is_a_day_and_not_two_months() -> None:
    """Stage 2 under protocol paper: three forward passes a step, a GPU at 300 TFLOP/s."""
    hours = {}
    for name in ("vigface", "vigface_small"):
        generator = load_generator(name, load_protocol("paper"))
        train = generator.config.train
        with torch.device("meta"):
            denoiser, inputs = generator.networks(112, 512)["denoiser"]
            macs = count(denoiser, *inputs)[1]
        hours[name] = 6 * macs * train.steps * train.batch_size / 300e12 / 3600
    assert hours["vigface"] > 1000 and hours["vigface_small"] < 6


def test_every_shipped_preset_changes_something_and_says_what_it_is() -> None:
    shipped = {name: found for name in config_names("generators") if (found := registry.preset(name))}
    assert "id3pm" in shipped and set(shipped) <= set(registry.names("generator"))
    for name, found in shipped.items():
        generator = load_generator(name, load_protocol("demo"))
        assert (
            isinstance(generator, Generator)
            and found.title
            and generator.config != load_generator(found.plugin, load_protocol("demo")).config
        )


def test_layers_generator_protocol_preset_protocol_of_the_preset_set(tmp_path: Path, far: str) -> None:
    demo = load_protocol("demo").model_dump()
    about: dict = {"procedural": {"sample": {"difficulty": 0.1}}}

    def difficulty(changes: dict, *settings: str) -> float:
        return load_generator(far, Protocol(**{**demo, "generators": changes}), parse_set(settings)).config.sample.difficulty

    assert difficulty({}) == difficulty(about) == 1.5
    assert difficulty(about | {"far": {"sample": {"difficulty": 0.2}}}) == 0.2
    assert difficulty(about, "sample.difficulty=0.3") == 0.3
    Path(far).write_text(PRESET.replace("1.5", "x"))
    with pytest.raises(UserError, match=r"far.yaml:4: sample.difficulty = 'x'"):
        difficulty(about)


def test_a_preset_of_the_user_by_its_path(far: str, tmp_path: Path) -> None:
    made = job(far, tmp_path)
    assert made.short_name == "far" and made.identity == {"generator": "procedural", "version": 1}
    assert made.generator.traits.licence == "ours" and made.generator.traits.new_identities
    assert keys(made) == keys(job("procedural", tmp_path, "sample.difficulty=1.5"))
    shown = list(describe.generator(far, load_protocol("demo"), "as asked"))
    assert shown[:2] == ["# Procedural, hard", "# preset of: procedural"]
    assert any(line.startswith("  difficulty: 1.5") for line in shown)
    assert testing.kind_of(far) == "generator"
    swept = design(Request(("difficulty",), tmp_path, far, values=("0.5,1",), protocol="demo"))
    assert swept.name.startswith("difficulty-far-") and json.loads(swept.parts)["settings"] == {"sample": {"difficulty": 1.5}}


def test_an_edited_preset_is_another_request(far: str, tmp_path: Path) -> None:
    request = run.Request(far, tmp_path, protocol="demo")
    before, digest = read(request).key, registry.file_digest(far)
    Path(far).write_text(PRESET.replace("1.5", "1.6"))
    assert read(request).key != before and registry.file_digest(far) != digest


def test_a_preset_of_a_plugin_in_a_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from synthbench.plugin import Generator\nclass Mine(Generator):\n    def generate(self, slots, context):\n        yield from ()\n"
    )
    (tmp_path / "far.yaml").write_text("generator: mine.py\n")
    made = job(str(tmp_path / "far.yaml"), tmp_path)
    assert made.identity == {"generator": "mine", "version": 1, "file": registry.file_digest(str(tmp_path / "mine.py"))}
    assert registry.load("generator", str(tmp_path / "far.yaml")).__doc__ == f"{tmp_path / 'mine.py'} with other settings"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("far", "sample: {difficulty: 1}\n", "names its generator in a line such as `generator: cemiface`"),
        ("far", "generator: id3pm\n", "far.yaml:1: id3pm is a preset itself"),
        ("far", "generator: procedual\n", "unknown generator 'procedual'; did you mean 'procedural'?"),
        ("far", "generator: procedural\ntraits: {trains: true}\n", "far.yaml:2: unknown setting 'trains'"),
        ("far", "generator: procedural\nsample: {difficult: 1}\n", "far.yaml:2: unknown setting 'sample.difficult'"),
        ("cemiface", "generator: procedural\n", "cemiface is a generator; a preset needs a name of its own"),
    ],
)
def test_files_that_are_no_preset(tmp_path: Path, name: str, text: str, words: str) -> None:
    path = tmp_path / f"{name}.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(words)):
        load_generator(str(path), load_protocol("demo"))
    with pytest.raises(UserError, match=r"nowhere.yaml does not exist"):
        registry.load("generator", str(tmp_path / "nowhere.yaml"))


def test_list_of_generators_is_whole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    protocol, why, found = listing.generators()
    assert {item["name"] for item in found} == set(registry.names("generator"))
    keys_of = {
        "name",
        "preset_of",
        "summary",
        "version",
        "paper",
        "licence",
        "needs_labels",
        "new_identities",
        "real_photographs",
        "pretrained",
        "runs_here",
    }
    assert all(keys_of <= set(item) and item["licence"] and item["summary"] for item in found)
    monkeypatch.setenv("COLUMNS", "120")
    listing.show_generators(found, protocol, why)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 120 and all(item["name"] in shown for item in found)
