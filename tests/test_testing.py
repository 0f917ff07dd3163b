"""The contract catches every way of breaking it that we know, and passes what keeps it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from synthbench import registry, testing
from synthbench.testing import evaluators, generators, world
from synthbench.types import UserError

GENERATOR = '''
"""A generator with all three stages."""
import os
import torch
from safetensors.torch import load_file, save_file
from synthbench.config import Settings
from synthbench.plugin import Generator, Traits
from synthbench.seeds import derive, torch_generator
from synthbench.types import FaceBatch

class Part(Settings):
    steps: int = 4

class Sample(Settings):
    spread: float = 8.0

class Config(Settings):
    train: Part = Part()
    enroll: Part = Part()
    sample: Sample = Sample()

class Mine(Generator[Config]):
    """Colour and noise."""
    Config = Config
    traits = Traits(trains=True, enrolls=True)
    tiny = {"train": {"steps": 3}}

    def train(self, context):
        path, start, w = context.out / "weights.safetensors", 0, torch.zeros(3)
        if path.exists():
            found = load_file(path)
            start, w = int(found["step"]), found["w"]
        for step in range(start, self.config.train.steps):
            w = w + torch.randn(3, generator=torch_generator(context.seed, "step", step))
            save_file({"w": w, "step": torch.tensor(step + 1)}, path)
            context.progress(step + 1, self.config.train.steps)

    def enroll(self, count, context):
        codes = torch.stack([torch.randn(3, generator=torch_generator(context.seed, "person", i)) for i in range(count)])
        save_file({"codes": codes}, context.out / "codes.safetensors")

    def generate(self, slots, context):
        w = load_file(context.inputs["train"] / "weights.safetensors")["w"]
        codes = load_file(context.inputs["enroll"] / "codes.safetensors")["codes"]
        size = context.batch_size
        for start in range(0, len(slots), size):
            part = slots[start : start + size]
            images, columns = [], {}
            for slot in part:
                noise = torch.randn(3, 32, 32, generator=torch_generator(context.seed, "image", slot.identity, slot.sample))
                image = 128 + 30 * (codes[slot.identity] + w / 9)[:, None, None] + self.config.sample.spread * noise
                images.append(image.clamp(0, 255).to(torch.uint8))
            columns["m"] = torch.ones(len(part))
            yield FaceBatch(torch.stack(images), torch.tensor([slot.identity for slot in part]), columns)
'''

SLOT = 'torch_generator(context.seed, "image", slot.identity, slot.sample)'
YIELD = "yield FaceBatch(torch.stack(images), torch.tensor([slot.identity for slot in part]), columns)"

BROKEN = {
    "no docstring": ('    """Colour and noise."""\n', "", "has no docstring"),
    "version": ("tiny =", "version = 0\n    tiny =", "version is 0"),
    "config": ("class Config(Settings):", "class Config:", "must be a class derived from synthbench.config.Settings"),
    "a part of its own": ("    sample: Sample", "    size: int = 3\n    sample: Sample", "setting 'size' enters no key"),
    "part of no stage": ("sample: Sample = Sample()", "other: Part = Part()", "setting 'other' enters no key"),
    "no tiny": ('tiny = {"train": {"steps": 3}}', "", "`tiny` must hold settings"),
    "tiny is wrong": ('{"steps": 3}', '{"stps": 3}', "Mine.tiny: unknown setting 'train.stps'; did you mean 'train.steps'?"),
    "traits deny train": ("trains=True, ", "", "traits.trains is False, but the method train is defined"),
    "imports an evaluator": (
        "def enroll(self, count, context):",
        "def enroll(self, count, context):\n        import synthbench.evaluators.gap",
        "imports synthbench.evaluators.gap",
    ),
    "imports a sibling": (
        "import os",
        "from synthbench.generators.procedural import Procedural",
        "imports synthbench.generators.procedural",
    ),
    "imports the pipeline": ("import os", "import synthbench.pipeline", "imports synthbench.pipeline"),
    "imports mlflow": (
        "def enroll(self, count, context):",
        "def enroll(self, count, context):\n        from mlflow import log_metric",
        "imports mlflow",
    ),
    "no progress": (
        "            context.progress(step + 1, self.config.train.steps)\n",
        "",
        "context.progress(done, total) less than twice",
    ),
    "cannot be stopped": (
        "context.progress(step + 1, self.config.train.steps)",
        "\n            try:\n                context.progress(step + 1, 1)\n            except KeyboardInterrupt:\n                pass",
        "swallows KeyboardInterrupt",
    ),
    "forgets its step": (
        'start, w = int(found["step"]), found["w"]',
        'w = found["w"]',
        "weights.safetensors differs after train was interrupted",
    ),
    "unseeded training": (
        'generator=torch_generator(context.seed, "step", step)',
        "",
        "weights.safetensors differs after train was interrupted",
    ),
    "enrolls by count": ('"person", i)', '"person", i, count)', "depends on how many are enrolled, 2 or 4"),
    "answers all": (
        "    def generate",
        "    def slots(self, volume, context):\n        return list(volume.slots())\n\n    def generate",
        "answers volume `all`",
    ),
    "volumes not nested": (
        "    def generate",
        "    def slots(self, volume, context):\n        return super().slots(volume, context)[::-1]\n\n    def generate",
        "do not start with those of 2x3",
    ),
    "float images": (".to(torch.uint8)", "", "torch.float32; (B, 3, 32, 32) torch.uint8 is needed"),
    "channels last": ("torch.stack(images)", "torch.stack(images).permute(0, 2, 3, 1)", "(B, 3, 32, 32) torch.uint8 is needed"),
    "not a batch": (YIELD, "yield torch.stack(images)", "must yield FaceBatch, not Tensor"),
    "labels": ("[slot.identity for slot in part]", "[slot.sample for slot in part]", "name the identity of each slot"),
    "label type": ("[slot.identity for slot in part]", "[float(slot.identity) for slot in part]", "identity must be (B,) torch.int64"),
    "too few": (YIELD, YIELD.replace("yield", "if start == 0 or size > 1: yield"), "made 1 images for"),
    "stops early": ("range(0, len(slots), size)", "range(0, len(slots) - 1, 1)", "images, but"),
    "a column comes and goes": (
        'columns["m"]',
        'columns["m" if start == 0 else "n"]',
        "it has the columns ['n'], the batches before ['m']",
    ),
    "a column of another length": ("torch.ones(len(part))", "torch.ones(len(part), 2)", "column m is "),
    "unseeded images": (f"generator={SLOT}", "", "differs when the same slots are generated again"),
    "one stream for all": (SLOT, "stream", "depends on which other slots are generated with it"),
    "place in the batch": (SLOT, 'torch_generator(context.seed, "image", slot.identity, len(images))', "depends on which other slots"),
    "alone": (SLOT, "torch_generator(context.seed, slot.identity, slot.sample, len(part) == 1)", "differs when it is generated alone"),
    "batch size": (SLOT, "torch_generator(context.seed, slot.identity, slot.sample, size)", "depends on the batch size (64 or 1)"),
    "a column of the batch": ("torch.ones(len(part))", "torch.full((len(part),), float(len(part)))", "column m of slot"),
    "remembers": (
        SLOT,
        "torch_generator(context.seed, slot.identity, slot.sample, self.calls)",
        "depends on what the same process generated before",
    ),
    "no seed": (SLOT, 'torch_generator(0, "image", slot.identity, slot.sample)', "is the same with seeds 0 and 1"),
    "no sample": (SLOT, 'torch_generator(context.seed, "image", slot.identity)', "slots (0, 0) and (0, 1) have the same image"),
    "writes into train": (
        "        size = context.batch_size",
        '        (context.inputs["train"] / "cache").write_text("x")\n        size = 9',
        "wrote train/cache",
    ),
    "changes its input": (
        "        size = context.batch_size",
        '        os.utime(context.inputs["enroll"] / "codes.safetensors")\n        size = 9',
        "wrote enroll/codes.safetensors",
    ),
    "writes where it is called": (
        "        codes = torch.stack",
        '        open("left_behind", "w").close()\n        codes = torch.stack',
        "left_behind, outside context.out",
    ),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shared: tuple) -> None:
    """One rendered world for all tests of this file; a working directory of its own for each."""
    faces, encoder = shared
    monkeypatch.setattr(generators, "rendered", lambda part: faces)
    monkeypatch.setattr(generators, "tiny_encoder", lambda faces, seed: encoder)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def shared() -> tuple:
    faces = world.rendered("train")
    return faces, world.tiny_encoder(faces, 0)


def write(text: str) -> str:
    Path("mine.py").write_text(text)
    return "mine.py"


def test_what_keeps_the_contract_passes() -> None:
    lines = list(testing.check(write(GENERATOR)))
    assert any("it continued there to the same weights" in line for line in lines)
    assert any("columns m" in line for line in lines) and len(lines) == 9


@pytest.mark.parametrize("how", BROKEN)
def test_what_breaks_the_contract_is_named(how: str) -> None:
    old, new, words = BROKEN[how]
    assert old in GENERATOR
    text = GENERATOR.replace(old, new)
    if how == "one stream for all":
        text = text.replace(
            "        size = context.batch_size", '        size, stream = context.batch_size, torch_generator(context.seed, "image")'
        )
    if how == "remembers":
        text = text.replace("    def train(", "    calls = 0\n\n    def train(").replace(
            "        size = c", "        self.calls += 1\n        size = c"
        )
    if how == "no seed":
        text = text.replace('context.seed, "person"', '0, "person"')
    with pytest.raises(UserError) as error:
        list(testing.check(write(text)))
    assert words in str(error.value), error.value
    assert str(error.value).startswith(("mine: ", "Mine.tiny: "))


def test_settings_reach_the_plugin() -> None:
    with pytest.raises(UserError, match=r"slots .* have the same image|is the same with seeds"):
        list(testing.check(write(GENERATOR), ["sample.spread=0"]))
    with pytest.raises(UserError, match=r"--set sample.spred=0: unknown setting"):
        list(testing.check(write(GENERATOR), ["sample.spred=0"]))


def test_the_example_keeps_the_contract() -> None:
    assert list(testing.check(str(Path(__file__).parents[1] / "examples" / "my_generator.py")))


WITH_FILES = {"folder", "digiface_1m", "arc2face"}  # that are the user's; each has some in its own tests
PRESETS = {"cemiface_gpu", "id3pm", "vigface_small"}  # of generators that are tested beside them


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long) if name in PRESETS else name
        for name in sorted(set(registry.names("generator")) - WITH_FILES)
    ],
)
def test_the_generators_of_the_house_keep_it(name: str) -> None:
    assert list(testing.check(name))


EVALUATOR = '''
from synthbench.plugin import Evaluator
from synthbench.seeds import numpy_generator
from synthbench.types import Score, Skipped

class Mine(Evaluator):
    """Counts."""

    def evaluate(self, subject, context):
        if subject.inquiries is None:
            raise Skipped("no inquiries")
        value = float(subject.embeddings("faces").mean()) + numpy_generator(context.seed, "mine").random()
        return [Score("mine/value", value, None, len(subject.faces), True), Skipped("why", "mine/other")]
'''

BROKEN_EVALUATOR = {
    "numpy": ("value, None, len", "subject.embeddings('faces').mean(), None, len", "mine/value: .* is not plain finite numbers"),
    "nan": ("value, None", "float('nan'), None", "is not plain finite numbers"),
    "name": ('"mine/value"', '"value"', "must be unique and look like group/name"),
    "twice": ('"mine/value", value', '"mine/value", value, None, 1, True), Score("mine/value", value', "must be unique"),
    "n": ("len(subject.faces)", "0", "n = 0"),
    "error": ("value, None", "value, -1.0", "stderr = -1.0"),
    "random": ('numpy_generator(context.seed, "mine")', "__import__('numpy').random.default_rng()", "evaluated twice"),
    "no reason": ('"why"', '""', "skips without a reason"),
    "another thing": ('Skipped("why", "mine/other")', "3", "returns int"),
    "needs everything": ("if subject.inquiries is None", "if False", "there are no inquiries|without inquiries: "),
    "generator": ("if subject", "import synthbench.generators.real\n        if subject", "may know neither generators"),
    "outside": ("if subject", "open('left_behind', 'w').close()\n        if subject", "left_behind, outside context.out"),
}


@pytest.mark.parametrize("name", ["keeps it", *sorted(set(BROKEN_EVALUATOR) - {"needs everything"})])
def test_evaluators(name: str, monkeypatch: pytest.MonkeyPatch, shared: tuple, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setattr(evaluators, "rendered", lambda part: shared[0])
    monkeypatch.setattr(evaluators, "full_subject", lambda trial: light_subject(*shared))
    if name == "keeps it":
        assert list(testing.check(write(EVALUATOR)))[1].startswith("1 scores (mine), 1 skipped")
        return
    old, new, words = BROKEN_EVALUATOR[name]
    assert old in EVALUATOR
    with pytest.raises(UserError, match=words):
        list(testing.check(write(EVALUATOR.replace(old, new))))


def light_subject(faces, encoder):
    from synthbench.plugin import Subject

    return Subject(faces=faces, real=faces, judge=encoder, recognizer=encoder, inquiries=faces)


def test_an_evaluator_of_the_house_in_full() -> None:
    lines = list(testing.check("gap_to_real"))
    assert lines[1].startswith("4 scores (gap_to_real, gap_to_real/world-mixed), 0 skipped")


def test_unknown_names_and_broken_files() -> None:
    with pytest.raises(UserError, match=r"no generator or evaluator is called 'procedual'; did you mean 'procedural'\?"):
        list(testing.check("procedual"))
    with pytest.raises(UserError, match=r"mine.py has no generator"):
        list(testing.check(write("")))
    with pytest.raises(UserError, match=r"nowhere.py does not exist"):
        list(testing.check("nowhere.py"))


def test_the_tiny_encoder_tells_faces_apart_and_lets_gradients_through(shared: tuple) -> None:
    faces, encoder = shared
    embeddings = encoder.embed(faces.images(slice(None)))
    assert (embeddings @ embeddings.T).fill_diagonal_(0).max() < 0.999
    x = torch.zeros(1, 3, 32, 32, requires_grad=True)
    encoder(x).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_nearly_grey_images_may_be_the_same_by_chance() -> None:
    """One pair of twelve that rounds to the same bytes is no fault of a generator; a pair that shows something is, and so are most."""
    random = torch.Generator().manual_seed(0)
    grey = [torch.randint(127, 130, (3, 8, 8), dtype=torch.uint8, generator=random) for _ in range(24)]
    bright = [torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8, generator=random) for _ in range(24)]
    others = list(zip(grey[:11], grey[12:23], strict=True))
    assert generators.coinciding(others) == [] and generators.coinciding([*others, (grey[23], grey[23])]) == []
    assert generators.coinciding([*others, (bright[0], bright[0])]) == [11]
    assert generators.coinciding([*others[:1], *((one, one) for one in grey[:3])]) == [1, 2, 3]
