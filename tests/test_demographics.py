"""Demographics: shares, distances and errors by hand and by simulation, the reader and its correction, registered networks."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import fake_subject
import numpy as np
import pytest
import torch
from fake_subject import Faces, Projection, context, subject

from synthbench.config import Layer, build
from synthbench.evaluators import demographics
from synthbench.evaluators.demographics import Counted, Demographics, DemographicsConfig, corrected, kept, measured, table
from synthbench.evaluators.reader import Reader, features, lesson
from synthbench.report import parts
from synthbench.results import further, record
from synthbench.types import Groups, Score, Skipped, UserError
from synthbench.world import attributes, renderer

SKIN = ("light", "medium", "brown", "dark")
PAIR = ("no", "yes")


def by_name(results):
    scores, reasons = fake_subject.by_name(list(results))
    return scores | reasons


def config(**settings):
    return Demographics(build(DemographicsConfig, Layer(settings)))


def known_faces(group_of_image, images, names=PAIR, **more):
    """People with `images` each, of known groups."""
    number = np.asarray(group_of_image)
    faces = Faces(np.repeat(np.arange(len(number) // images), images), **more)
    faces.known = {"skin": Groups(names, number)}
    return faces


def test_shares_of_known_people_by_hand(tmp_path):
    real = known_faces([1] * 120 + [0] * 40, 4)  # 30 people of 40 are `yes`
    made = known_faces([1, 1, 1, 0] * 20 + [0] * 80, 4)  # 20 of 40 people, each of them by three images of four
    found = by_name(config(draws=1000).evaluate(subject(made, None, real), context(tmp_path)))
    assert found["demographics/skin/identities/yes"].value == pytest.approx(37.5)
    assert found["demographics/skin/real/yes"].value == pytest.approx(75)
    assert found["demographics/skin/distance"].value == pytest.approx(37.5)
    people = np.array([0.75] * 20 + [0] * 20)
    assert found["demographics/skin/identities/yes"].stderr == pytest.approx(100 * people.std() / 40**0.5, rel=0.25)
    assert found["demographics/skin/identities/yes"].n == 40
    # two images of one person: 20 people 3 + 0 of 6 pairs, 20 people all
    assert found["demographics/skin/consistency"].value == pytest.approx(100 * (20 * 0.5 + 20) / 40)
    assert found["demographics/skin/real_consistency"].value == 100
    # half of |40 draws of a coin of 0.75 away from 0.75|, its median: 0.6745 standard deviations
    assert found["demographics/skin/by_chance/distance"].value == pytest.approx(100 * 0.6745 * (0.75 * 0.25 / 40) ** 0.5, rel=0.25)
    assert "demographics/skin/reader_accuracy" not in found and "demographics/skin/reader_error" not in found


def test_people_count_once_and_images_each(tmp_path):
    identity = np.concatenate([np.repeat(np.arange(30), 9), np.arange(30, 60)])
    number = (identity < 30).astype(int)
    faces = Faces(identity)
    faces.known = {"skin": Groups(PAIR, number)}
    found = by_name(config().evaluate(subject(faces, None), context(tmp_path)))
    assert found["demographics/skin/identities/yes"].value == pytest.approx(50)
    assert found["demographics/skin/images/yes"].value == pytest.approx(90)
    assert found["demographics/skin/distance"].value == 0


def test_a_group_of_nobody_has_a_share_of_zero_with_an_error(tmp_path):
    real = known_faces([1] * 100 + [0] * 100, 2)
    found = by_name(config().evaluate(subject(known_faces([1] * 200, 2), None, real), context(tmp_path)))
    nobody = found["demographics/skin/identities/no"]
    assert nobody.value == 0 and nobody.stderr == pytest.approx(0.5, rel=0.02)  # of 100 people: Wilson's


@pytest.mark.parametrize(
    ("made", "real", "said"), [(20, 80, "the set has 10 people; a share of people needs 30"), (80, 20, "the real set has 10 people")]
)
def test_ten_people_have_no_shares(made, real, said, tmp_path):
    one, other = (known_faces([0, 1] * (count // 2), 2) for count in (made, real))
    with pytest.raises(Skipped, match=said):
        config().evaluate(subject(one, None, other), context(tmp_path))


def test_without_known_people_and_networks_there_is_a_reason(tmp_path):
    faces = known_faces([0, 1] * 50, 2)
    faces.known = {}
    with pytest.raises(Skipped, match=r"no network that tells them is named \(demographics.networks"):
        config().evaluate(subject(faces, None), context(tmp_path))


# -------------------------------------------------------------------------------------- what a reader confuses, simulated

CONFUSED = np.array([[0.8, 0.2, 0.0], [0.1, 0.7, 0.2], [0.1, 0.3, 0.6]])
TRUE = np.array([0.7, 0.25, 0.05])


def read_people(random, people, images, share, confused=CONFUSED):
    """(people, G) images as a reader that confuses groups would count them, and (G,) the true shares of these people."""
    own = random.choice(len(share), people, p=share)
    return np.stack([random.multinomial(images, confused[group]) for group in own]).astype(float), np.bincount(own, minlength=3) / people


def fitted_on(random, people=600, images=3):
    own = np.arange(people) % 3
    found = np.zeros((people, 3, 3))
    found[np.arange(people), own] = [random.multinomial(images, CONFUSED[group]) for group in own]
    return found


def simulated(seed, share=None, people=200):
    random = np.random.default_rng(seed)
    real, truth = read_people(random, 300, 20, TRUE)
    return Counted(("a", "b", "c"), read_people(random, people, 20, truth if share is None else share)[0], real, truth, fitted_on(random))


def test_shares_are_corrected_for_what_is_confused_and_their_error_is_that_of_repeated_draws():
    """Sets whose people are drawn from the real set's."""
    off, errors, distances, chances = [], [], [], []
    for seed in range(40):
        counted = simulated(seed)
        found = by_name(measured("x", counted, 60, np.random.default_rng(seed)))
        off.append([found[f"x/identities/{group}"].value for group in "abc"] - 100 * counted.truth)
        errors.append([found[f"x/identities/{group}"].stderr for group in "abc"])
        distances.append(found["x/distance"].value)
        chances.append(found["x/by_chance/distance"].value)
    off, errors = np.array(off), np.array(errors)
    assert (np.abs(off.mean(0)) < 4 * off.std(0) / 40**0.5 + 0.3).all()  # 0.3: what is cut at zero
    assert (np.abs(100 * TRUE @ CONFUSED - 100 * TRUE) > 2.9).all()  # uncorrected they would be far off
    assert errors.mean(0) == pytest.approx(off.std(0, ddof=1), rel=0.35)
    assert np.median(distances) == pytest.approx(np.mean(chances), rel=0.35)


def test_a_set_of_other_people_is_further_away_than_chance():
    found = by_name(measured("x", simulated(0, share=np.array([1 / 3, 1 / 3, 1 / 3])), 200, np.random.default_rng(0)))
    assert found["x/distance"].value == pytest.approx(100 * (0.7 - 1 / 3), abs=5 * found["x/distance"].stderr)
    assert found["x/distance"].value > 3 * found["x/by_chance/distance"].value
    assert found["x/reader_accuracy"].value == pytest.approx(70, abs=4 * found["x/reader_accuracy"].stderr)
    assert found["x/reader_error"].value < 8


def test_a_reader_that_sees_nothing_has_no_shares():
    random = np.random.default_rng(0)
    guess = np.full((3, 3), 1 / 3)
    confusion = np.zeros((300, 3, 3))
    confusion[np.arange(300), np.arange(300) % 3] = random.multinomial(3, guess[0], 300)
    made, real = (read_people(random, 50, 4, TRUE, guess)[0] for _ in range(2))
    counted = Counted(("a", "b", "c"), made, real, TRUE, confusion)
    found = by_name(measured("x", counted, 100, random))
    assert set(found) == {"x/reader_accuracy", "x/identities"} and "that is too little to tell shares by" in found["x/identities"]


def test_images_that_are_not_read_as_rendered_ones_have_no_shares():
    """Noise, of which a reader says `b` nearly always: rendered people are read so three times in ten at least otherwise."""
    random = np.random.default_rng(0)
    counted = simulated(0)
    noise, _ = read_people(random, 200, 20, TRUE, np.array([[0.0, 0.98, 0.02]] * 3))
    found = by_name(measured("x", replace(counted, own=noise), 100, random))
    assert set(found) == {"x/reader_accuracy", "x/identities"} and "28 points from what any mixture" in found["x/identities"]
    for seed in range(20):  # and no set of people that is read as rendered ones are is taken for noise
        assert "x/distance" in by_name(measured("x", simulated(seed, share=np.array([0.98, 0.01, 0.01])), 50, random))


def test_corrected_shares_are_shares():
    read = np.array([[0.99, 0.005, 0.005], *np.random.default_rng(0).dirichlet([1, 1, 1], 50)])
    found = corrected(read, CONFUSED[None])
    assert found.min() >= 0 and found.sum(1) == pytest.approx(np.ones(51))
    inside = TRUE @ CONFUSED
    assert corrected(inside[None], CONFUSED[None])[0] == pytest.approx(TRUE)


def test_pairs_of_images_by_hand():
    same, others = kept(np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 1.0]]))
    assert same.tolist() == [1, 0]  # the third has one image
    assert others == pytest.approx(np.mean([0.5, 0, 0.5]))


# ----------------------------------------------------------------------------------------------- the reader, on pixels


def people_of(first, count, each, shares=None):
    identity, sample = torch.arange(first, first + count).repeat_interleave(each), torch.arange(each).repeat(count)
    drawn = attributes.drawn("generator", identity, sample, 0, shares)
    faces = Faces(identity - first, pixels=renderer.render(*drawn, 16))
    faces.known = attributes.groups(*drawn)
    return faces


def test_a_set_that_is_read_has_the_shares_that_are_known(tmp_path):
    unfair = {"skin": {"light": 0.8, "medium": 0.1, "brown": 0.05, "dark": 0.05}}
    real, made = people_of(0, 60, 2, unfair), people_of(500, 80, 3)
    truth = made.known
    made.known = {}
    judge = Projection(3 * 16 * 16)
    seen = subject(made, judge.embed_all(made), real, judge.embed_all(real), judge=judge)
    found = by_name(config(reader=200, draws=200).evaluate(seen, replace(context(tmp_path), resolution=16)))
    for name in ("skin", "glasses"):
        for group, of_people in zip(truth[name].names, table(made.identity, truth[name].number, truth[name].names).mean(0) / 3):
            score = found[f"demographics/{name}/identities/{group}"]
            assert abs(score.value - 100 * of_people) < 4 * score.stderr, (name, group)
    assert found["demographics/skin/reader_accuracy"].value > 50  # of chance 25
    assert found["demographics/glasses/reader_accuracy"].value > 70
    assert found["demographics/skin/distance"].value > 2 * found["demographics/skin/by_chance/distance"].value
    assert found["demographics/skin/real/light"].value == pytest.approx(100 * (real.known["skin"].number == 0).mean())


def test_the_reader_is_judged_on_people_whom_it_has_not_seen():
    """With labels dealt out at random it must find chance, however many numbers it has to learn them by heart."""
    judge = Projection(3 * 16 * 16)
    learnt = lesson(100, judge, 16)
    dealt = np.repeat(np.random.default_rng(0).integers(0, 2, 100), 3)
    learnt.groups["skin"] = Groups(PAIR, dealt)
    right = Reader(learnt, "skin").confusion.sum(0)
    assert right.sum() == 300
    assert (right.diagonal() / right.sum(1)).mean() == pytest.approx(0.5, abs=0.12)
    assert features(people_of(0, 2, 1), np.zeros((2, 16), np.float32), np.arange(2)).shape == (2, 16 + 3 * 16 * 16)


# ------------------------------------------------------------------------------------------------------------- networks


class Bright:
    """Says `yes` of an image that is brighter than grey."""

    device, name = torch.device("cpu"), "bright"

    def __init__(self, dim=2):
        self.dim = dim

    def to(self, device):
        return self

    def __call__(self, x):
        level = x.mean((1, 2, 3))
        return torch.stack([-level, level, *[level - 9] * (self.dim - 2)], 1)


@pytest.fixture
def registered(monkeypatch):
    network = Bright()
    entry = SimpleNamespace(name="net", path="x", options={"colour": "rgb"}, digest="d")
    monkeypatch.setattr(demographics, "find", lambda *of: entry)
    monkeypatch.setattr("synthbench.models.checkpoints.load_checkpoint", lambda *of, **how: network)
    return network


def painted(levels):
    pixels = torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8).clone()
    return Faces(np.repeat(np.arange(len(levels) // 2), 2), pixels=pixels)


def test_a_registered_network_tells_the_groups_of_both_sets(tmp_path, registered):
    made, real = painted([200, 220] * 30 + [10, 20] * 10), painted([200, 220] * 20 + [10, 200] * 20)
    real.known = {}
    evaluator = config(networks={"gaze": {"weights": "net", "groups": ["no", "yes"]}})
    assert evaluator.sources() == {"gaze": "d"}
    found = by_name(evaluator.evaluate(subject(made, None, real), context(tmp_path)))
    assert found["demographics/gaze/identities/yes"].value == pytest.approx(75)
    assert found["demographics/gaze/real/yes"].value == pytest.approx(75)  # 20 people whole, 20 by half
    assert found["demographics/gaze/consistency"].value == 100 and found["demographics/gaze/real_consistency"].value == 50


def test_networks_that_cannot_work_are_refused_before_anything_runs(registered):
    registered.dim = 3
    with pytest.raises(UserError, match=r"networks.gaze: net gives 3 numbers an image, but 2 groups are named \(no, yes\)"):
        config(networks={"gaze": {"weights": "net", "groups": ["no", "yes"]}}).check([])
    for wrong in ({"groups": ["one"]}, {"groups": ["a", "a"]}, {"groups": ["a b", "c"]}):
        with pytest.raises(UserError, match="groups"):
            config(networks={"gaze": {"weights": "net", **wrong}})
    with pytest.raises(UserError, match="cannot be a name"):
        config(networks={"a/b": {"weights": "net", "groups": ["no", "yes"]}})


def test_a_network_that_gives_no_numbers_is_named(tmp_path, registered, monkeypatch):
    monkeypatch.setattr(Bright, "__call__", lambda self, x: torch.full((len(x), 2), torch.nan))
    faces = painted([200, 10] * 40)
    faces.known = {}
    with pytest.raises(UserError, match="bright"):
        config(networks={"gaze": {"weights": "net", "groups": ["no", "yes"]}}).evaluate(subject(faces, None), context(tmp_path))


def test_scores_are_plain(tmp_path):
    faces = known_faces([0, 1] * 50, 2)
    found = config().evaluate(subject(faces, None), context(tmp_path))
    assert all(type(item.value) is float and type(item.n) is int and type(item.stderr) in (float, type(None)) for item in found)
    assert all(isinstance(item, Score) for item in found)


# ---------------------------------------------------------------------------------------------------- what is shown of it


def result(generator, volume, *scores):
    rows = [{"metric": f"demographics/skin/{name}", "value": value, "stderr": 1.0, "n": 9} for name, value in scores]
    return {"generator": generator, "volume": volume, "scores": rows}


def test_tables_show_shares_beside_chance_and_mark_no_best():
    shown = result("g", "9x9", ("identities/light", 25.0), ("real/light", 80.0), ("distance", 55.0), ("by_chance/distance", 3.0))
    assert further.people([shown]) == {"demographics/skin/identities/light": "skin: light"}
    assert list(further.metrics([shown])) == ["demographics/skin/distance"]
    assert further.higher_is_better("demographics/skin/distance") is None and further.higher_is_better("groups/x/std") is False
    assert record.cell(shown, "demographics/skin/distance", 1) == "55.0 ±1.0 (3.0)"
    assert record.cell(shown, "demographics/skin/identities/light", 1) == "25.0 ±1.0"
    own = result("real", "all", ("identities/light", 80.0), ("distance", 0.0))
    assert record.cell(own, "demographics/skin/distance") == "-"  # the real set from itself
    assert record.cell(own, "demographics/skin/identities/light", 1) == "80.0 ±1.0"


def test_a_report_has_the_groups_and_what_the_reader_is_off_by():
    read = (("identities/light", 25.0), ("images/light", 26.0), ("real/light", 80.0), ("consistency", 70.0), ("reader_error", 4.0))
    (table,) = parts.people({"one": result("g", "9x9", *read), "real": result("real", "all", ("identities/light", 80.0))})
    assert table.rows == [["one", "light", "25.0 ±1.0", "26.0 ±1.0", "80.0 ±1.0"], ["real", "light", "80.0 ±1.0", "-", "-"]]
    assert "one: 70.0 ±1.0" in table.caption and "off by as much on the real set: one 4.0" in table.caption
    assert not list(parts.people({"one": result("g", "9x9")}))
