"""Cleaning: thresholds against a count by hand, who stays against a loop, and what is said and kept of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from synthbench.config import Layer, build, parse_set
from synthbench.data.faces import FaceSet, open_faces
from synthbench.generators.cleaned import Cleaned, Config, between, look_alikes, threshold
from synthbench.pipeline import run
from synthbench.pipeline.job import Job
from synthbench.plugin import Context
from synthbench.protocol import load_protocol
from synthbench.store import Store, read_json
from synthbench.types import UserError, Volume

DIM = 16


class Lookup:
    """An encoder whose embedding of an image is in a table, by its first pixel."""

    name, dim = "lookup", DIM

    def __init__(self, table: np.ndarray) -> None:
        self.table = table

    def embed_all(self, images, flip=False, progress=None) -> np.ndarray:
        return self.table[images.images(slice(0, len(images)))[:, 0, 0, 0].numpy()]


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def people(centres: np.ndarray, images: int, spread: float, first: int, **columns) -> tuple[FaceSet, np.ndarray]:
    """`images` of each person around its centre, mixed up, told by their first pixel; and their embeddings."""
    random = np.random.default_rng(first)
    identity = random.permutation(np.repeat(np.arange(len(centres)), images))
    pixels = np.zeros((len(identity), 8, 8, 3), np.uint8)
    pixels[:, 0, 0, 0] = first + np.arange(len(identity))
    return FaceSet.from_arrays(pixels, identity, columns=columns), unit(
        centres[identity] + spread * random.normal(size=(len(identity), DIM))
    )


@pytest.fixture
def where(tmp_path: Path) -> Context:
    """Ten generated people, 6 images each, of whom the 4th looks like the 2nd and the 8th like both; 20 real ones, 4 images each."""
    random = np.random.default_rng(0)
    centres = unit(random.normal(size=(10, DIM)))
    centres[3] = unit(centres[1] + 0.03 * random.normal(size=DIM))
    centres[7] = unit(centres[1] + 0.03 * random.normal(size=DIM))
    faces, x = people(centres, 6, 0.15, 0)
    real, y = people(unit(random.normal(size=(20, DIM))), 4, 0.2, 100)
    x[[5, 11, 40]] = unit(random.normal(size=(3, DIM)))  # images of nobody
    table = np.zeros((256, DIM), np.float32)
    table[:60], table[100:180] = x, y
    made = Context(tmp_path, 0, 8, torch.device("cpu"), real, Lookup(table), {"enroll": tmp_path}, batch_size=7, parts=[faces])  # type: ignore[arg-type]
    cleaned().enroll(0, made)
    return made


def cleaned(**sample) -> Cleaned:
    return Cleaned(build(Config, Layer({"sample": {"of": "a set", "people_fmr": 0.06, **sample}})))


def left(maker: Cleaned, where: Context, volume: str = "all") -> list[tuple[int, int]]:
    """(identity, pixel), in the order of the slots."""
    slots = maker.slots(Volume.parse(volume), where)
    batches = list(maker.generate(slots, where))
    found = [pair for batch in batches for pair in zip(batch.identity.tolist(), batch.images[:, 0, 0, 0].tolist())]
    assert [who for who, _ in found] == [slot.identity for slot in slots]
    return found


def by_hand(where: Context, rate: float, alike: float) -> tuple[dict[int, float], float, float, np.ndarray]:
    """Cosine of each image to its centre, both thresholds, and the centres: in loops."""
    faces, real, table = where.parts[0], where.faces, where.encoder.table  # type: ignore[attr-defined]
    own = table[: len(faces)]
    centres = np.stack([unit(own[faces.identity == person].sum(0)) for person in range(faces.identities)])
    shown = table[100 : 100 + len(real)]
    others = np.stack([unit(shown[real.identity == person].sum(0)) for person in range(real.identities)])
    strangers = [(row, person) for row in range(len(real)) for person in range(20) if person != real.identity[row]]
    impostors = sorted((float(shown[row] @ others[person]) for row, person in strangers), reverse=True)
    pairs = sorted((float(others[a] @ others[b]) for a in range(20) for b in range(a)), reverse=True)
    similarity = {row: float(own[row] @ centres[faces.identity[row]]) for row in range(len(faces))}
    return similarity, impostors[int(rate * len(impostors))], pairs[int(alike * len(pairs))], centres


@pytest.mark.parametrize("how", ["drop", "merge"])
@pytest.mark.parametrize("rate", [0.02, 0.3])
def test_who_stays_is_what_loops_say(where: Context, rate: float, how: str) -> None:
    similarity, image, alike, centres = by_hand(where, rate, 0.06)
    identity = where.parts[0].identity
    near = [row for row, cosine in similarity.items() if cosine > image]
    become: dict[int, int] = {}
    for person in sorted({int(identity[row]) for row in near}):
        cosines = {other: float(centres[person] @ centres[other]) for other, new in become.items() if new == other}
        best = max(cosines, key=lambda other: cosines[other], default=None)
        become[person] = best if best is not None and cosines[best] > alike else person
    expected = {(become[int(identity[row])], row) for row in near if how == "merge" or become[int(identity[row])] == identity[row]}
    found = left(cleaned(image_fmr=rate, look_alikes=how), where)
    assert set(found) == expected and len(found) == len(expected)
    assert {3, 7} <= {person for person, new in become.items() if new != person} and (rate > 0.02 or not {5, 11, 40} & set(near))
    told = read_json(where.out / "cleaned.json")
    assert (told["images_far"], told["look_alikes"]) == (60 - len(near), sum(new != old for old, new in become.items()))
    assert (told["images_left"], told["people_left"]) == (len(expected), len({who for who, _ in expected}))
    assert (told["image_cosine"], told["people_cosine"]) == pytest.approx((image, alike), abs=1e-6)
    assert f"{60 - len(near)} of 60 images are far from their person" in told["said"]


def test_a_stricter_rate_leaves_fewer_and_null_leaves_all(where: Context) -> None:
    sizes = [len(left(cleaned(image_fmr=rate, people_fmr=None), where)) for rate in (1, 0.3, 0.1, 0.01)]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) > 2
    assert len(left(cleaned(image_fmr=None, people_fmr=None), where)) == 60
    assert len(left(cleaned(image_cosine=-1, people_cosine=1), where)) == 60
    only = {who for who, _ in left(cleaned(image_fmr=None, people_cosine=0.8), where)}
    assert only == set(range(10)) - {3, 7}


def test_a_volume_is_of_what_is_left(where: Context, capsys: pytest.CaptureFixture[str]) -> None:
    maker = cleaned(people_cosine=0.8)
    whole = left(maker, where)
    counts = {who: sum(other == who for other, _ in whole) for who, _ in whole}
    few = sorted(who for who, count in counts.items() if count >= 5)[:3]
    assert left(maker, where, "3x5") == [pair for who in few for pair in [item for item in whole if item[0] == who][:5]]
    assert "a set: " in capsys.readouterr().err
    with pytest.raises(UserError, match="what is left of a set has 0 that large"):
        left(maker, where, "2x7")
    with pytest.raises(UserError, match="a set: fewer than two people are left"):
        left(cleaned(image_cosine=1), where)


def test_mixtures_and_copies(where: Context) -> None:
    faces = where.parts[0]
    second = (faces.identity + 1) % 10
    weight, sample = np.ones(60), np.zeros(60, np.int64)
    weight[[5, 6]], sample[8] = 0.5, -1
    mixed = FaceSet.from_arrays(faces.images(slice(None)), faces.identity, columns={"label2": second, "weight": weight, "sample": sample})
    there = Context(where.out, 0, 8, where.device, where.faces, where.encoder, {"enroll": where.out}, parts=[mixed])
    cleaned().enroll(0, there)
    found = left(cleaned(image_fmr=0.1, people_cosine=0.8), there)
    pixels = {pixel for _, pixel in found}
    assert not {int(mixed.identity[pixel]) for pixel in pixels} & {3, 7}
    assert not {int(second[pixel]) for pixel in pixels} & {3, 7}  # a mixture with one who went goes too, and so does label2 of the whole
    assert (5 in pixels) == (not {int(mixed.identity[5]), int(second[5])} & {3, 7})  # an image of two people is far from both by design


def test_thresholds_are_rates_or_say_that_they_cannot_be() -> None:
    cosines = np.arange(1000) / 1000
    for rate in (0.01, 0.1, 0.5):
        assert (cosines > threshold("image", None, rate, cosines)).mean() == pytest.approx(rate)
    assert threshold("image", None, 1.0, cosines) == 0
    assert threshold("image", 0.25, 0.01, cosines) == 0.25
    assert threshold("image", None, None, cosines) == -np.inf and threshold("people", None, None, cosines) == np.inf
    with pytest.raises(UserError, match=r"image_fmr 0.001: the real set has 1,000 comparisons.*a rate of 0.01 or more, or a cosine"):
        threshold("image", None, 0.001, cosines)
    with pytest.raises(UserError, match=r"say which set: --set sample.of="):
        Cleaned(Config()).check(Volume.parse("all"), 300)
    with pytest.raises(UserError, match=r"people_fmr 0.06: the real set has 6 comparisons.*Take a cosine: sample.people_cosine"):
        cleaned().check(Volume.parse("all"), 4)
    cleaned(people_cosine=0.5).check(Volume.parse("all"), 4)
    assert (
        len(
            between(
                *2 * (np.eye(4, dtype=np.float32), np.arange(4)),
            )
        )
        if False
        else True
    )


def test_comparisons_are_of_different_people() -> None:
    random = np.random.default_rng(0)
    centres, who = unit(random.normal(size=(5, DIM))), np.array([0, 0, 3, 4])
    images = unit(random.normal(size=(4, DIM)))
    found = between(images, who, centres, random)
    assert sorted(found) == pytest.approx(sorted(images[i] @ centres[p] for i in range(4) for p in range(5) if p != who[i]), abs=1e-6)
    assert sorted(between(centres, np.arange(5), centres, random)) == pytest.approx(
        sorted(centres[a] @ centres[b] for a in range(5) for b in range(a)), abs=1e-6
    )


def test_who_comes_first_stays_however_many_follow() -> None:
    centres = unit(np.random.default_rng(1).normal(size=(40, 3)))
    there = np.random.default_rng(2).random(40) > 0.2
    whole = look_alikes(centres, there, 0.8)
    assert (look_alikes(centres[:25], there[:25], 0.8) == whole[:25]).all() and len(set(whole[there])) < there.sum()
    kept = np.flatnonzero(there & (whole == np.arange(40)))
    cosine = centres[kept] @ centres[kept].T
    assert (cosine[~np.eye(len(kept), dtype=bool)] <= 0.8).all() and set(whole[there]) <= set(kept)


def test_thresholds_share_the_set_and_its_embeddings(here: Path) -> None:
    def job(*settings: str) -> Job:
        return Job(
            Store(Path("r").absolute()),
            load_protocol("tiny.yaml"),
            "cleaned",
            Volume.parse("all"),
            torch.device("cpu"),
            parse_set(settings),
        )

    alike = "people_cosine=0.99"
    keys = [[step.stage.key for step in job("of=procedural", alike, f"image_fmr={rate}").generator_steps(0)] for rate in (0.1, 0.2)]
    assert keys[0][0] == keys[1][0] and keys[0][1] != keys[1][1]
    other = job("of=procedural@4x4", alike, "image_fmr=0.1").generator_steps(0)
    assert other[0].stage.key != keys[0][0]
    names = [step.stage.name for step in job("of=procedural", alike).steps(0)]
    assert names.index("encoder") < names.index("enroll") and names.count("generate") == 3
    with pytest.raises(UserError, match=r"people_fmr 0.001: the real set has 15 comparisons"):
        job("of=procedural").steps(0)
    wish = run.Request(
        "cleaned", Path("r"), protocol="tiny.yaml", settings=("of=procedural", "people_cosine=0.99", "image_fmr=0.1"), tracking=False
    )
    result = run.run(wish)
    assert result and result["cleaned"] == read_json(Path(result["artifacts"]["faces"]) / "cleaned.json")
    whole = open_faces(Path(result["artifacts"]["faces"]))
    assert len(whole) == result["cleaned"]["images_left"] == result["parts"]["procedural"]["images"] <= 24
    assert json.loads((Path("r/results") / result["run"] / "run.json").read_text())["parts"]["procedural"]["rendered"] is True
