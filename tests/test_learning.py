"""`train.faces`: a generator that needs no labels learns from more photographs than the protocol's real set, and all that is told of it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from synthbench.cli import main
from synthbench.config import parse_set
from synthbench.data import sources
from synthbench.data.faces import FaceSet
from synthbench.data.joined import Joined
from synthbench.identities import inquiries
from synthbench.inventory.describe import show_run
from synthbench.pipeline import run
from synthbench.pipeline.job import Job
from synthbench.protocol import load_protocol
from synthbench.report.data import Run
from synthbench.results import lookup
from synthbench.store import Store
from synthbench.types import DataMissing, UserError, Volume

LEARNER = '''
"""Notes what each of its stages is shown."""
import json
import torch
from synthbench.config import Settings
from synthbench.plugin import Generator, Traits
from synthbench.training import loop
from synthbench.types import FaceBatch


class Train(loop.Unlabelled):
    pass


class Config(Settings):
    train: Train = Train()
    enroll: Settings = Settings()
    sample: Settings = Settings()


def note(context):
    faces = context.faces
    seen = [int(faces.images([row]).float().mean()) for row in range(len(faces))]
    (context.out / "seen.json").write_text(json.dumps([len(faces), faces.identities, seen]))


class Learner(Generator[Config]):
    """Paints noise."""

    Config = Config
    traits = Traits(trains=True, enrolls=True, encoder=False)

    def train(self, context):
        note(context)

    def enroll(self, count, context):
        note(context)

    def generate(self, slots, context):
        for slot in slots:
            image = torch.randint(0, 256, (1, 3, 16, 16), generator=torch.Generator().manual_seed(100 * slot[0] + slot[1]))
            yield FaceBatch(image.byte(), torch.tensor([slot.identity]))
'''


def photographs(folder: Path, names: list[str], shade: int) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (shade,) * 3).save(path)
    return folder


@pytest.fixture
def sets(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three registered sets, and a plugin that says what it learns from."""
    monkeypatch.setenv("SYNTHBENCH_DATA", str(here / "registry"))
    (here / "learner.py").write_text(LEARNER)
    sources.add("people", photographs(here / "people", ["a/1.png", "a/2.png", "b/1.png"], 50), "faces")
    sources.add("loose", photographs(here / "loose", ["1.png", "2.png", "3.png", "4.png"], 200), "faces")
    return here


def steps(folder: Path, *settings: str, generator: str = "learner.py", protocol: str = "tiny.yaml") -> dict[str, str]:
    job = Job(Store(folder / "runs"), load_protocol(protocol), generator, Volume.parse("4x2"), torch.device("cpu"), parse_set(settings))
    return {step.stage.name: step.stage.key for step in job.steps(0)}


def coloured(shade: int, labels: list[int], names: list[str] | None = None) -> FaceSet:
    return FaceSet.from_arrays(np.full((len(labels), 16, 16, 3), shade, np.uint8), labels, names)


def test_joined_sets_are_one_after_the_other_and_nobody_is_two_people() -> None:
    one, other = coloured(1, [0, 0, 1], ["anna", "ben"]), coloured(9, [0, 1, 1, 2], ["anna", "cleo", "dan"])
    both = Joined({"real": one, "more": other})
    assert len(both) == 7 and both.identities == 5
    assert both.identity.tolist() == [0, 0, 1, 2, 3, 3, 4]  # anna of the one is not anna of the other
    assert both.names == ["anna", "ben", "more/anna", "more/cleo", "more/dan"]
    expected = torch.cat([one.images(slice(None)), other.images(slice(None))])
    for rows in (slice(None), slice(2, 5), [6, 0, 3, 3], np.array([True, False, False, False, False, True, False]), torch.tensor([-1, 1])):
        index = rows if not isinstance(rows, np.ndarray) else torch.from_numpy(rows)
        torch.testing.assert_close(both.images(rows), expected[index])
    assert not len(both.images([]))
    for rows in ([7], [-8]):
        with pytest.raises(IndexError):
            both.images(rows)
    assert both.digest != Joined({"more": other, "real": one}).digest


@pytest.mark.parametrize("labels", [[-1, -1], [0, 0]])
def test_labels_of_some_are_labels_of_nobody(labels: list[int]) -> None:
    both = Joined({"real": coloured(1, [0, 1]), "more": coloured(9, labels)})
    assert both.identities == 0 and both.identity.tolist() == [-1] * 4


def test_people_of_a_registered_set_are_counted_when_a_run_is_planned(sets: Path) -> None:
    registered = sources.add("many", photographs(sets / "many", [f"{who}/{n}.png" for who in "abcde" for n in "12"], 90), "faces")
    assert registered.identities == 5
    text = Path("tiny.yaml").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("real:")]
    Path("mine.yaml").write_text(text.replace(line, "real: {source: many, exclude: [b, d]}"))
    with pytest.raises(UserError, match="volume 4x2 asks for 4 identities, but the real set has 3"):
        steps(sets, generator="sface", protocol="mine.yaml")
    Path("mine.yaml").write_text(text.replace(line, "real: {source: many, exclude: [b]}"))
    assert steps(sets, generator="sface", protocol="mine.yaml")


def test_the_training_sees_all_and_the_other_stages_the_real_set(sets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wish = run.Request("learner.py", Path("r"), "4x2", "tiny.yaml", settings=("train.faces=[real, people, loose]",), tracking=False)
    result = run.run(wish)
    assert result
    store = Store(Path("r").absolute())
    seen = {row["name"]: store.stage(row["name"], row["key"]).folder / "seen.json" for row in result["stages"]}
    count, people, shades = json.loads(seen["train"].read_text())
    assert (count, people) == (24 + 3 + 4, 0) and shades[24:] == [50] * 3 + [200] * 4
    count, people, _ = json.loads(seen["enroll"].read_text())
    assert (count, people) == (24, 6)
    assert result["learnt_from"] == {"real": 24, "people": 3, "loose": 4}
    assert "on real + people + loose, 24 + 3 + 4 images" in capsys.readouterr().err
    assert not Run(result, store).rendered  # photographs of real people went in
    show_run(lookup.find(store, "latest", ("run",)), store)
    assert "learnt from: real, 24 images, people, 3 images, loose, 4 images" in capsys.readouterr().out


def test_labelled_sets_alone_keep_their_labels(sets: Path) -> None:
    result = run.run(
        run.Request("learner.py", Path("r"), "4x2", "tiny.yaml", settings=("train.faces=[real, people]",), until="train", tracking=False)
    )
    assert result is None
    (found,) = Path("r/stages/train").glob("*/seen.json")
    assert json.loads(found.read_text())[:2] == [27, 8]


def test_keys_say_what_was_learnt_from(sets: Path) -> None:
    plain, spelled = steps(sets), steps(sets, "train.faces=[real]")
    assert plain == spelled
    more = steps(sets, "train.faces=[real, people]")
    own = ("train", "enroll", "generate", "recognizer", "evaluate")
    assert {name for name in plain if plain[name] != more[name]} == set(own)
    assert {"train-faces"} == more.keys() - plain.keys()
    photographs(sets / "people", ["c/1.png"], 60)
    sources.add("people", sets / "people", "faces")
    changed = steps(sets, "train.faces=[real, people]")
    assert {name for name in more if more[name] != changed[name]} == {"train-faces", *own}
    assert steps(sets, "train.faces=[people]")["train"] not in (plain["train"], changed["train"])


@pytest.mark.parametrize("generator", ["dcface", "sface", "vigface"])
def test_who_needs_labels_learns_from_the_real_set(sets: Path, generator: str) -> None:
    with pytest.raises(UserError, match=rf"--set train.faces=\[real, people\]: {generator} learns who is on each image.*need no labels"):
        steps(sets, "train.faces=[real, people]", generator=generator)


@pytest.mark.parametrize("generator", ["cemiface", "idiffface", "synface", "vec2face"])
def test_who_needs_none_may_learn_from_more(sets: Path, generator: str) -> None:
    demo = {"generator": generator, "protocol": "demo"}
    plain, more = steps(sets, **demo), steps(sets, "train.faces=[real, loose]", **demo)
    assert plain["train"] != more["train"] and plain["real"] == more["real"]


def test_what_cannot_be_learnt_from_is_named_with_its_command(sets: Path) -> None:
    with pytest.raises(UserError, match=r"no data or weights are called 'nowhere'.*`synthbench data add nowhere PATH --kind faces`"):
        steps(sets, "train.faces=[real, nowhere]")
    with pytest.raises(DataMissing, match=r"CelebA.*`synthbench data add celeba PATH`"):
        steps(sets, "train.faces=[real, celeba]")
    with pytest.raises(UserError, match=r"`synthbench data add NAME \./loose --kind faces`"):
        steps(sets, "train.faces=[real, ./loose]")
    with pytest.raises(UserError, match="named twice"):
        steps(sets, "train.faces=[people, people]")
    sources.add("again", sets / "people", "faces")
    with pytest.raises(UserError, match="again has the same files as people"):
        steps(sets, "train.faces=[people, again]")
    (sets / "own.yaml").write_text((sets / "tiny.yaml").read_text().replace("{world: train, identities: 6, images: 4}", "{source: people}"))
    with pytest.raises(UserError, match="people is the protocol's real set"):
        steps(sets, "train.faces=[real, people]", protocol="own.yaml")


def test_a_plan_names_what_is_lacking(sets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def command(*words: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["synthbench", *words])
        with pytest.raises(SystemExit) as end:
            main()
        out = capsys.readouterr()
        return int(end.value.code or 0), out.out + out.err

    (sets / "own.yaml").write_text((sets / "tiny.yaml").read_text() + "\ngenerators: {cemiface: {train: {faces: [real, ffhq, loose]}}}\n")
    code, said = command("run", "cemiface", "--dry-run", "--protocol", "own.yaml", "--runs", "r")
    assert code and "synthbench data add ffhq PATH --kind faces" in said
    code, said = command("data", "status", "--protocol", "own.yaml")
    assert not code and "synthbench data add ffhq PATH --kind faces" in said and "training of cemiface" in said
    assert "synthbench data add loose" not in said


def test_a_set_without_labels_is_no_real_set_and_its_images_are_inquiries(sets: Path) -> None:
    assert sources.find("loose").identities == 0 and "no labels" in sources.show("loose")["holds"]
    (sets / "own.yaml").write_text((sets / "tiny.yaml").read_text().replace("{world: train, identities: 6, images: 4}", "{source: loose}"))
    with pytest.raises(UserError, match=r"loose has 4 images and no labels .* the real set needs them"):
        steps(sets, generator="real", protocol="own.yaml")
    context = SimpleNamespace(resolution=16)
    count, blocks = inquiries.candidates(inquiries.Inquiries(source="loose"), context, 20)  # type: ignore[arg-type]
    assert count == 4 and [name for _, names in blocks for name in names] == ["image 0", "image 1", "image 2", "image 3"]


def test_a_preset_that_needs_labels_is_refused_at_its_line(sets: Path) -> None:
    (sets / "far.yaml").write_text("# far\ngenerator: sface\ntrain: {faces: [real, people]}\n")
    with pytest.raises(UserError, match=r"far.yaml:3: far learns who is on each image"):
        steps(sets, generator="far.yaml", protocol="demo")
