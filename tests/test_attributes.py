"""Groups of people of the embedded world: shares that are asked for, and what is known of who is on which image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fake_context import context
from fake_subject import context as bare

from synthbench.generators.digiface import Config as DigiFaceConfig
from synthbench.generators.digiface import DigiFace
from synthbench.generators.procedural import Config, Procedural
from synthbench.generators.real import Real, RealConfig
from synthbench.pipeline import steps
from synthbench.protocol import WorldFaces, load_protocol
from synthbench.store import Store
from synthbench.types import UserError, Volume
from synthbench.world import attributes, renderer

COUNT = 4000
PEOPLE, FIRST_IMAGE = torch.arange(COUNT), torch.zeros(COUNT, dtype=torch.int64)
LIGHT = {"light": 0.8, "medium": 0.1, "brown": 0.06, "dark": 0.04}


def drawn(**shares):
    return attributes.drawn("train", PEOPLE, FIRST_IMAGE, 0, shares)


@pytest.mark.parametrize(
    ("name", "column", "shares"),
    [
        ("skin", "tone", LIGHT),
        ("skin", "tone", {"light": 0.0, "medium": 0.5, "brown": 0.5, "dark": 0.0}),
        ("sex", "male", {"feminine": 0.9, "masculine": 0.1}),
        ("age", "age", {"younger": 0.25, "older": 0.75}),
        ("glasses", "glasses", {"worn": 0.5, "none": 0.5}),
    ],
)
def test_groups_have_the_shares_that_were_asked_for_and_nothing_else_changes(name, column, shares) -> None:
    people, scene = drawn(**{name: shares})
    found = attributes.groups(people, scene)[name]
    for group, share in shares.items():
        got = float((found.number == found.names.index(group)).mean())
        assert abs(got - share) <= 4 * (share * (1 - share) / COUNT) ** 0.5
    before, was = drawn()
    table = dict(zip(renderer.PERSON, before.T)) | was
    for other, value in (dict(zip(renderer.PERSON, people.T)) | scene).items():
        if other == column:
            order = torch.argsort(table[column], stable=True)
            assert not torch.equal(value, table[column]) and bool((value[order].diff() >= 0).all())
        else:
            assert torch.equal(value, table[other]), other


def test_the_shares_that_a_column_has_anyway_change_nobody() -> None:
    people, scene = drawn(skin=dict.fromkeys(LIGHT, 0.25), sex={"feminine": 0.5, "masculine": 0.5}, glasses={"worn": 0.18, "none": 0.82})
    before, was = drawn()
    torch.testing.assert_close(people, before, rtol=0, atol=1e-5)
    torch.testing.assert_close(scene["glasses"], was["glasses"], rtol=0, atol=1e-6)


def test_a_group_is_seen() -> None:
    brightness = []
    for group in LIGHT:
        people, scene = attributes.drawn("train", PEOPLE[:40], FIRST_IMAGE[:40], 0, {"skin": {**dict.fromkeys(LIGHT, 0.0), group: 1.0}})
        brightness.append(renderer.render(people, scene, 32)[:, :, 12:22, 10:22].float().mean().item())
    assert brightness == sorted(brightness, reverse=True) and brightness[0] - brightness[-1] > 40


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ("{tone: {light: 1}}", "has no attribute 'tone'"),
        ("{skin: {light: 0.8, dark: 0.2}}", "skin must give a share to each of light, medium, brown, dark"),
        ("{sex: {feminine: 0.7, masculine: 0.7}}", "sex: shares must be 0 or more and add up to 1, not 1.4"),
        ("{sex: {feminine: -0.5, masculine: 1.5}}", "sex: shares must be 0 or more"),
        ("{sex: {feminine: .nan, masculine: 1.0}}", "finite"),
        ("[light]", "shares"),
    ],
)
def test_wrong_shares_are_refused_in_words(shares: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"extends: demo\nname: mine\nversion: 1\nreal: {{world: train, identities: 9, images: 2, shares: {shares}}}\n")
    with pytest.raises(UserError, match=r"mine\.yaml:4") as error:
        load_protocol(str(path))
    assert said in str(error.value)


def test_a_set_with_shares_is_another_one_and_one_without_is_what_it_was(tmp_path: Path) -> None:
    keys = {
        steps.faces_step(Store(tmp_path), 32, "real", WorldFaces(world="train", identities=9, images=2, **more)).stage.key
        for more in ({}, {"shares": {}}, {"shares": {"skin": LIGHT}})
    }
    assert len(keys) == 2  # that of the first is pinned in test_keys.py


def test_what_is_known_of_a_rendered_real_set_is_in_the_order_of_its_images(tmp_path: Path) -> None:
    faces = WorldFaces(world="train", identities=7, images=3, shares={"skin": {"light": 0.5, "medium": 0, "brown": 0, "dark": 0.5}})
    steps._render_faces(faces, 32, tmp_path, lambda done, total: None)
    real = steps.open_real(faces, tmp_path)
    assert set(real.known["skin"].number.tolist()) == {0, 3}
    assert all(len(set(real.known["skin"].number[real.identity == i])) == 1 for i in range(7))
    bright = real.images(slice(None))[:, :, 12:22, 10:22].float().mean((1, 2, 3)).numpy()
    assert bright[real.known["skin"].number == 0].mean() - bright[real.known["skin"].number == 3].mean() > 40

    generator, seen = Real(RealConfig()), context(tmp_path / "out", faces=real)
    known = generator.known(Volume.parse("2x2"), seen)
    assert known["skin"].number.tolist() == real.known["skin"].number[[0, 1, 3, 4]].tolist()
    assert known["age"].number.tolist() == real.known["age"].number[[0, 1, 3, 4]].tolist()
    real.known = {}
    assert not generator.known(Volume.parse("2x2"), seen)


def test_what_is_known_of_generated_people_is_what_they_were_rendered_by(tmp_path: Path) -> None:
    seen = bare(tmp_path, seed=3)
    known = Procedural(Config()).known(Volume.parse("5x4+2x1"), seen)
    tone = renderer.people("generator", 0, 7, 3)[:, list(renderer.PERSON).index("tone")]
    assert known["skin"].number.tolist() == np.repeat([int(4 * value) for value in tone], [4] * 5 + [1] * 2).tolist()
    worn = renderer.nuisance("generator", torch.tensor([4]), torch.tensor([2]), 3)["glasses"] < renderer.GLASSES
    assert known["glasses"].number[18] == (0 if worn else 1)

    everyone = DigiFaceConfig.model_validate({"sample": {"accessories": {"glasses": 1.0}}})
    known = DigiFace(everyone).known(Volume.parse("6x4"), seen)
    assert not known["glasses"].number.any()  # group 0 is `worn`
    assert (known["age"].number.reshape(6, 4) == known["age"].number.reshape(6, 4)[:, :1]).all()  # a person has one age there
