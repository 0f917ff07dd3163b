"""Sets made of other sets: every image is one of its part's, shares hold in every beginning, labels never collide unless they are to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_runs import make_run
from PIL import Image

from synthbench.config import Layer, build, parse_set
from synthbench.data.faces import FaceSet, open_faces
from synthbench.generators.union import Config, Union
from synthbench.identities.selection import Selection, turns
from synthbench.pipeline import compare, parts, run
from synthbench.pipeline.job import Job
from synthbench.pipeline.request import read
from synthbench.plugin import Context
from synthbench.protocol import load_protocol
from synthbench.report.parts import people_shown
from synthbench.results import comparable, lookup, record
from synthbench.store import Store
from synthbench.tracking import mirror
from synthbench.types import UserError, Volume


def faces(first: int, counts: list[int], names: list[str] | None = None, **columns) -> FaceSet:
    """People with so many images of 8 px, mixed up; an image is told by its first pixel, from `first` on."""
    identity = np.random.default_rng(first).permutation(np.repeat(np.arange(len(counts)), counts))
    images = np.zeros((len(identity), 8, 8, 3), np.uint8)
    images[:, 0, 0, 0] = first + np.arange(len(identity))
    return FaceSet.from_arrays(images, identity, names or [f"{first}/{i}" for i in range(len(counts))], columns)


def context(*sets: FaceSet, batch_size: int = 5) -> Context:
    return Context(Path(), 0, 8, torch.device("cpu"), sets[0], None, batch_size=batch_size, parts=sets)  # type: ignore[arg-type]


def union(**sample) -> Union:
    return Union(build(Config, Layer({"sample": {"parts": ["a", "b"], **sample}})))


def made(maker: Union, where: Context, volume: str = "all") -> tuple[list[tuple[int, int]], dict[str, list]]:
    """(identity, pixel) of every image in the order of the slots, and the columns."""
    slots = maker.slots(Volume.parse(volume), where)
    batches = list(maker.generate(slots, where))
    told = [pair for batch in batches for pair in zip(batch.identity.tolist(), batch.images[:, 0, 0, 0].tolist())]
    assert [who for who, _ in told] == [slot.identity for slot in slots]
    return told, {name: [value for batch in batches for value in batch.columns[name].tolist()] for name in batches[0].columns}


# --------------------------------------------------------------------------------------------------------- the generator


def test_people_of_different_parts_stay_apart_and_no_image_is_lost() -> None:
    one, other = faces(0, [3, 2, 4], ["anna", "ben", "cleo"]), faces(100, [2, 5], ["anna", "ben"])
    told, columns = made(union(), context(one, other))
    assert sorted(pixel for _, pixel in told) == [*range(9), *range(100, 107)]
    people = {}  # new identity -> (part, old identity)
    for (who, pixel), part in zip(told, columns["part"]):
        source, row = (one, pixel) if pixel < 100 else (other, pixel - 100)
        assert part == (pixel >= 100)
        assert people.setdefault(who, (part, source.identity[row])) == (part, source.identity[row])
    assert sorted(people) == list(range(5)) and len(set(people.values())) == 5


def test_people_of_one_name_are_joined_and_others_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    one, other = faces(0, [3, 2, 4], ["anna", "ben", "cleo"]), faces(100, [2, 5], ["dora", "ben"])
    told, _ = made(union(identities="joined"), context(one, other))
    names: dict[int, set[str]] = {}
    for who, pixel in told:
        source, row = (one, pixel) if pixel < 100 else (other, pixel - 100)
        names.setdefault(who, set()).add(source.names[source.identity[row]])
    assert sorted(map(sorted, names.values())) == [["anna"], ["ben"], ["cleo"], ["dora"]] and len(told) == 16
    (ben,) = (who for who, called in names.items() if called == {"ben"})
    assert sorted(pixel >= 100 for who, pixel in told if who == ben) == [False] * 2 + [True] * 5
    assert "no two parts" not in capsys.readouterr().err
    made(union(identities="joined"), context(one, faces(100, [2, 5])))
    assert "no two parts have a person of one name" in capsys.readouterr().err
    assert union(identities="joined").names(context(one, other)) == [next(iter(names[who])) for who in sorted(names)]


@pytest.mark.parametrize("sizes", [(30, 10), (7, 11, 3), (1, 40)])
def test_every_beginning_has_the_shares_of_the_whole(sizes: tuple[int, ...]) -> None:
    part = np.repeat(np.arange(len(sizes)), sizes)
    order = part[np.lexsort((part, turns(np.zeros_like(part), part)))]
    for count in range(1, len(order) + 1):
        for number, size in enumerate(sizes):
            due = count * size / len(order)
            assert abs((order[:count] == number).sum() - due) <= 0.5 + len(sizes) / 2 * size / len(order) + 1e-9


def test_a_smaller_volume_begins_a_larger_one_also_of_larger_parts() -> None:
    small, large = (context(faces(0, [4] * n), faces(100, [4] * 2 * n)) for n in (4, 8))
    whole, _ = made(union(), small)
    for count in (3, 9):
        assert made(union(), small, f"{count}x4")[0] == whole[: 4 * count]
    assert made(union(), small, "5x2")[0] == [pair for i, pair in enumerate(whole[:20]) if i % 4 < 2]

    def people(where: Context) -> list[tuple[int, int]]:
        told, columns = made(union(), where, "12x4")
        return [(part, int(where.parts[part].identity[pixel - 100 * part])) for (_, pixel), part in zip(told, columns["part"])]

    assert people(small) == people(large)
    with pytest.raises(UserError, match="the parts together has 12 that large"):
        made(union(), small, "13x4")


def test_images_of_a_person_in_two_parts_take_turns() -> None:
    one, other = faces(0, [2, 3], ["anna", "ben"]), faces(100, [6, 3], ["anna", "eve"])
    _, columns = made(union(identities="joined"), context(one, other), "1x8")
    assert columns["part"] == [1, 0, 1, 1, 1, 0, 1, 1] or columns["part"] == [1, 1, 0, 1, 1, 1, 0, 1]


def test_copies_of_inquiries_go_with_their_person_and_count_in_no_volume() -> None:
    sample = np.array([0, 1, -1, -2, 0, 1, -1, -2])
    images = np.zeros((8, 8, 8, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(8)
    copied = FaceSet.from_arrays(images, np.repeat([0, 1], 4), ["x", "y"], {"sample": sample, "real": (sample < 0).astype(np.uint8)})
    where = context(copied, faces(100, [3, 3], real=np.zeros(6, np.int64)))
    told, columns = made(union(), where, "4x2")
    assert columns["sample"] == [0, 1, -1, -2, 0, 1] * 2 and [pixel for _, pixel in told][:4] == [0, 1, 2, 3]
    assert columns["real"] == [0, 0, 1, 1, 0, 0] * 2
    assert [pixel for _, pixel in made(union(), where)[0]].count(2) == 1 and len(made(union(), where)[0]) == 14


def test_soft_labels_of_one_part_name_the_same_people_as_before() -> None:
    mixed = faces(0, [3, 3, 3], label2=np.array([0, 1, 2, 2, 1, 0, 1, 1, 2]), weight=np.full(9, 0.75, np.float32), m=np.arange(9) / 9)
    plain = faces(100, [3, 3])
    told, columns = made(union(), context(plain, mixed))
    new = {(part, (plain, mixed)[part].identity[pixel % 100]): who for (who, pixel), part in zip(told, columns["part"])}
    for row, (who, pixel) in enumerate(told):
        if columns["part"][row] == 0:
            assert (columns["label2"][row], columns["weight"][row]) == (who, 1) and np.isnan(columns["m"][row])
        else:
            assert (columns["label2"][row], columns["weight"][row]) == (new[1, mixed.columns["label2"][pixel]], 0.75)
            assert columns["m"][row] == pytest.approx(pixel / 9)
    kept = Selection([mixed], [np.array([0, -1, 1])])  # who is left out takes the mixtures along
    rows = kept.slots(Volume.parse("all"), "")
    pixels = {int(image[0, 0, 0]) for batch in kept.batches(rows, 4) for image in batch.images}
    assert pixels == {row for row in range(9) if mixed.identity[row] != 1 and mixed.columns["label2"][row] != 1}


def test_two_sizes_of_image_are_not_joined() -> None:
    other = FaceSet.from_arrays(np.zeros((2, 16, 16, 3), np.uint8), [0, 1])
    with pytest.raises(ValueError, match="8 and 16 pixels"):
        made(union(), context(faces(0, [2, 2]), other))


def test_who_is_on_photographs_alone_is_in_no_report_unasked() -> None:
    mixed = faces(0, [2, 2, 2], real=np.zeros(6, np.int64))
    for person, known in enumerate((1, 0, -1)):  # a photograph, none, nobody knows
        mixed.columns["real"][mixed.identity == person] = known
    mixed.columns["real"][np.flatnonzero(mixed.identity == 1)[0]] = 1
    assert list(people_shown(mixed, False)) == [1, 2] and list(people_shown(mixed, True)) == [0, 1, 2]
    assert mixed.made.tolist() == [value <= 0 for value in mixed.columns["real"]]


# ---------------------------------------------------------------------------------------------------------- the pipeline


def job(folder: Path, *wanted: str, generator: str = "union", more: tuple[str, ...] = ()) -> Job:
    settings = parse_set([f"sample.parts={json.dumps(wanted)}", *more])
    return Job(Store(folder), load_protocol("demo"), generator, Volume.parse("all"), torch.device("cpu"), settings)


def own(made: Job, seed: int = 0) -> dict[str, str]:
    """The keys of the generator's stages."""
    return {step.stage.name: step.stage.key for step in made.generator_steps(seed)}


def test_the_stages_of_a_part_are_those_of_its_run(tmp_path: Path) -> None:
    whole = job(tmp_path, "real", "cemiface@40x5 m=0")
    alone = Job(Store(tmp_path), whole.protocol, "cemiface", Volume.parse("40x5"), torch.device("cpu"), parse_set(["m=0"]))
    names = [step.stage.name for step in whole.steps(0)]
    assert names.count("generate") == 3 and names.count("train") == names.count("enroll") == 1
    folders = {step.stage.folder for step in whole.steps(0)}
    for seed in (0, 1):
        assert {step.stage.folder for step in alone.generator_steps(seed)} <= {step.stage.folder for step in whole.steps(seed)}
    assert {step.stage.folder for step in whole.baseline.generator_steps(0)} <= folders
    keys = [own(whole)["generate"], own(whole, 1)["generate"], own(job(tmp_path, "real", "cemiface@40x5 m=0.1"))["generate"]]
    keys += [own(job(tmp_path, *parts))["generate"] for parts in (("cemiface@40x5 m=0", "real"), ("real", "procedural"))]
    assert len(set(keys)) == 5
    assert own(job(tmp_path, "real", "procedural")) != own(job(tmp_path, "real", "procedural"), 1) and not any(tmp_path.iterdir())
    step = whole.generator_steps(0)[-1]
    assert set(step.needs) >= {part.set_steps(0)[-1].stage.folder for part in whole.parts.values()} and not step.divided


def test_what_is_told_of_a_union(tmp_path: Path) -> None:
    for part in ("a", "b"):
        (tmp_path / "set" / part).mkdir(parents=True)
        for number in range(2):
            Image.effect_noise((16, 16), 90 + number).convert("RGB").save(tmp_path / "set" / part / f"{number}.png")
    mixed = job(tmp_path / "r", "real", "procedural")
    assert (mixed.traits.new_identities, mixed.photographs, mixed.traits.finite) == (False, "", True)  # the demo's real set is rendered
    assert (
        mixed.traits.licence == "that of the real set (real); MIT (procedural)" and mixed.rendered is False
    )  # not known before it is there
    with_set = job(tmp_path / "r", "real", f"{tmp_path}/set", f"union sample.parts=[procedural,{tmp_path}/set]")
    assert with_set.photographs == f"unknown ({tmp_path}/set); unknown ({tmp_path}/set) (union sample.parts=[procedural,{tmp_path}/set])"
    assert not with_set.traits.new_identities and job(tmp_path, "procedural", "digiface").traits.new_identities
    paper = Job(Store(tmp_path), load_protocol("demo"), "union", Volume.parse("all"), torch.device("cpu"))
    assert paper.generator.traits.real_photographs == "those of its parts"


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ((), "say which sets, two or more: --set 'sample.parts="),
        (("real",), "say which sets, two or more"),
        (("real", "real"), "sample.parts names 'real' twice"),
        (("real", "real@all"), "'real' and 'real@all' are one and the same set"),
        (("real", "union"), "union is a part of itself"),
        (("real", "cemifac"), "part 'cemifac' of union: no generator, no registered set, no path and no run .*did you mean 'cemiface'"),
        (("real", "procedural@all"), "part 'procedural@all' of union: procedural makes any number of images"),
        (("real", "procedural@1x5"), "volume 1x5 has one identity"),
        (("real", "procedural@5by5"), "volume '5by5' is not understood"),
        (("real", "cemiface m=7"), "part 'cemiface m=7' of union: --set m=7: sample.m = 7"),
        (("real", 'cemiface "m=0'), "No closing quotation"),
        (("real", ""), "part '' of union"),
        (("real", "sface@301x2"), "part 'sface@301x2' of union: .*300x2 or less"),
    ],
)
def test_parts_that_cannot_be_are_refused_by_the_plan(wanted: tuple[str, ...], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        job(tmp_path, *wanted).steps(0)


def test_a_set_that_is_a_part_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mix.yaml").write_text("generator: union\nsample: {parts: [real, other.yaml@20x5]}\n")
    Path("other.yaml").write_text("generator: union\nsample: {parts: [procedural, mix.yaml]}\n")
    made = Job(Store(tmp_path), load_protocol("demo"), "mix.yaml", Volume.parse("all"), torch.device("cpu"))
    with pytest.raises(UserError, match=r"mix\.yaml is a part of itself"):
        made.steps(0)
    Path("other.yaml").write_text("generator: union\nsample: {parts: [procedural, digiface]}\n")
    assert len([step for step in job(tmp_path, "real", "other.yaml").steps(0) if step.stage.name == "generate"]) == 5


def test_a_sum_of_names_is_a_union(tmp_path: Path) -> None:
    def asked(generator: str, volume: str | None = None, *settings: str) -> tuple:
        order = read(run.Request(generator, tmp_path, volume=volume, protocol="demo", settings=settings))
        return order.request.generator, order.request.volume, order.request.settings

    assert asked("real+cemiface") == ("union", None, ('sample.parts=["real", "cemiface"]',))
    assert asked("real+cemiface", "40x5", "identities=joined")[2] == ('sample.parts=["real", "cemiface@40x5"]', "identities=joined")
    assert asked("real+cemiface@20x5+40x2+a-run")[2] == ('sample.parts=["real", "cemiface@20x5+40x2", "a-run"]',)
    assert asked("cemiface", "20x5+40x2") == ("cemiface", "20x5+40x2", ())
    with pytest.raises(UserError, match=r"volume 0\.5M is 500,000 images"):
        read(run.Request("real+procedural", tmp_path, volume="0.5M"))
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="is a set of your own, not the embedded world"):
        read(run.Request(f"real+{tmp_path}/mine", tmp_path))
    make_run(tmp_path, "a+b")
    rows = compare.wanted(compare.Request(("real", "real+procedural", "a+b"), tmp_path, volume="40x5"), Store(tmp_path))
    assert [getattr(row, "generator", None) or row["run"] for row in rows] == ["real", "real+procedural", "a+b-20x4-demo-abc2"]
    with pytest.raises(UserError, match="is no generator, and no run"):
        compare.wanted(compare.Request(("nothing",), tmp_path), Store(tmp_path))


def test_one_run_from_end_to_end(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, device = Store(Path("r").absolute()), torch.device("cpu")

    def wish(name: str, **more) -> run.Request:
        return run.Request(name, Path("r"), protocol="tiny.yaml", tracking=False, **more)

    result = run.run(wish("real+procedural", volume="3x4"))
    again = run.run(wish("real+procedural", volume="3x4"))
    assert result and again and {row["state"] for row in again["stages"]} == {"cached"} and again["scores"] == result["scores"]
    counts = {text: (part["images"], part["people"], part["photographs"], part["rendered"]) for text, part in result["parts"].items()}
    assert counts == {"real": (24, 6, "", True), "procedural@3x4": (12, 3, "", True)} and result["size"] == "9x4"
    assert record.made_of(result) == "real, 24 images of 6 people (67 %); procedural@3x4, 12 images of 3 people (33 %)"
    assert record.read_run(Path("r/results") / result["run"] / "run.json") and lookup.rendered(store, result)
    assert lookup.photographs(store, result) == "" and lookup.run_line(result).startswith("union (real + procedural@3x4) all")
    assert comparable.labels([result]) == ["union (real + procedural@3x4) 9x4"]
    sides = {side: [row["name"] for row in rows] for side, rows in comparable.sides(result).items()}
    assert sides["parts"] == ["generate"] and sides["own"] == sides["real"] == ["generate", "recognizer", "evaluate"]
    assert mirror._stages_of_seeds(result)[0]["generate"] == Path(result["artifacts"]["faces"]).name

    capsys.readouterr()
    assert run.run(wish("procedural", volume="3x4", until="generate")) is run.run(wish("real", until="generate")) is None
    assert "done in" not in capsys.readouterr().err  # nothing was left to do for them
    whole = open_faces(Path(result["artifacts"]["faces"]))
    alone = open_faces(read(wish("procedural", volume="3x4")).job.generator_steps(0)[-1].stage.folder)
    assert torch.equal(whole.images(whole.columns["part"] == 1), alone.images(slice(None)))

    named = parse_set([f"parts=[{result['run']}, procedural]"])
    made = Job(store, load_protocol("tiny.yaml"), "union", Volume.parse("all"), device, named)
    part = made.parts[result["run"]]
    assert part.set_steps(0)[0].stage.folder == Path(result["artifacts"]["faces"]).absolute() and part.rendered
    assert len(made.steps(0)) and not made.traits.new_identities
    with pytest.raises(UserError, match="has no set of seed 1"):
        made.steps(1)
    with pytest.raises(UserError, match="images of 16 px, but 32 are needed"):
        Job(store, load_protocol("demo"), "union", Volume.parse("all"), device, named).steps(0)
    with pytest.raises(UserError, match="a run is as it was made"):
        parts.understood(f"{result['run']}@2x2", store)
