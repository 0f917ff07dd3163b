"""Learnt perturbations: a world where it is known in which direction the other images of a person lie."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from fake_context import context
from torch.nn import functional as F

from synthbench.config import build, parse_set
from synthbench.data.faces import FaceSet
from synthbench.generators import arc2face, cemiface, idiffface, vigface
from synthbench.identities import flow, hypersphere
from synthbench.models.encoder import Encoder
from synthbench.seeds import torch_generator
from synthbench.training import crew
from synthbench.types import Slot, UserError

DIM, WIDEST, IMAGES = 6, 0.8, 12  # every image of a person p is cos(angle) p + sin(angle) e_0, with an angle of up to WIDEST either way

pytestmark = pytest.mark.usefixtures("one_thread")


def people(count: int, seed: int) -> torch.Tensor:
    """Unit vectors (count, DIM) orthogonal to e_0."""
    return F.normalize(F.pad(torch.randn(count, DIM - 1, generator=torch.Generator().manual_seed(seed)), (1, 0)), dim=1)


def images(person: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    return angle.cos()[:, None] * person + angle.sin()[:, None] * torch.eye(DIM)[0]


def draws(count: int, what: str = "image") -> list[torch.Generator]:
    return [torch_generator(0, what, i) for i in range(count)]


@pytest.fixture(scope="module")
def known(tmp_path_factory) -> flow.Flow:
    faces = FaceSet.from_arrays(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), np.zeros(1))
    angle = WIDEST * (2 * torch.rand(200 * IMAGES, generator=torch.Generator().manual_seed(1)) - 1)
    unit = images(people(200, 0).repeat_interleave(IMAGES, 0), angle)
    network = flow.learn(unit, torch.arange(200).repeat_interleave(IMAGES), context(tmp_path_factory.mktemp("flow"), faces))
    return network.double().eval().requires_grad_(False)


# ---------------------------------------------------------------------------------------------------- where it leads to


def test_proposals_lie_where_the_other_images_do(known):
    """From the middle of a person's arc both ways along it and no other; from an end always inwards. The people are new to the flow."""
    person = people(400, 7)
    for angle, inwards in ((0.0, 0.0), (WIDEST, -1.0), (-WIDEST, 1.0)):
        code = images(person, torch.full((400,), angle))
        along = math.cos(angle) * torch.eye(DIM)[0] - math.sin(angle) * person  # the arc's tangent
        turned = known.turned(code, draws(400), 0.0)
        share = (F.normalize(flow.across(turned, code), dim=1) * along).sum(1)
        assert float(share.abs().mean()) > 0.95  # of a random direction 0.36
        assert float(share.mean()) == pytest.approx(inwards, abs=0.15)
        elsewhere = F.normalize(turned - turned[:, :1] * torch.eye(DIM)[0], dim=1)
        assert float((elsewhere * person).sum(1).mean()) > 0.98  # still the same person


def test_cosines_to_the_code_are_those_of_pairs(known):
    """Two angles are uniform, so their distance d has the distribution function 1 - (1 - d / (2 WIDEST))^2."""
    code = 3 * images(people(3000, 8), torch.zeros(3000))
    turned = known.turned(code, draws(3000), 0.0)
    torch.testing.assert_close(turned.norm(dim=1), torch.full((3000,), 3.0))
    distance = F.cosine_similarity(turned, code).clamp(-1, 1).acos().sort().values
    expected = 1 - (1 - (distance / (2 * WIDEST)).clamp(max=1)).square()
    even = (torch.arange(3000) + 0.5) / 3000
    assert float((expected - even).abs().max()) < 0.05  # Kolmogorov and Smirnov's
    alike = known.turned(code, draws(3000), math.cos(WIDEST))  # of the pairs that are not farther apart than WIDEST
    distance = F.cosine_similarity(alike, code).clamp(-1, 1).acos().sort().values
    expected = (1 - (1 - distance / (2 * WIDEST)).square()) / 0.75
    assert distance.max() <= WIDEST + 1e-3 and float((expected - even).abs().max()) < 0.05
    same = known.turned(code[:9], draws(9), 1.0)
    torch.testing.assert_close(same, code[:9], atol=0.02, rtol=0)  # no pair is so alike


def test_the_midpoint_rule_ends_where_the_network_points(monkeypatch):
    unit, noise = people(5, 1), torch.randn(5, DIM, generator=torch.Generator().manual_seed(2))
    end = flow.start(torch.ones(5, DIM), unit)
    network = flow.Flow(DIM)
    monkeypatch.setattr(flow.Flow, "forward", lambda self, x, t, unit, cosine: end)
    found = network.directions(unit, torch.full((5,), 0.5), noise)
    torch.testing.assert_close(found, end / DIM**0.5, atol=1e-4, rtol=0)
    assert (found * unit).sum(1).abs().max() < 1e-5


def test_the_loss_is_the_error_of_the_direction_to_the_other_image(monkeypatch):
    unit, another = torch.eye(DIM)[:2], F.normalize(torch.eye(DIM)[:2] + torch.eye(DIM)[3:5], dim=1)
    seen = {}
    monkeypatch.setattr(flow.Flow, "forward", lambda self, x, t, unit, cosine: seen.update(x=x, cosine=cosine) or torch.zeros_like(x))
    noise = torch.eye(DIM)[[5, 5]]
    loss = flow.objective(flow.Flow(DIM), flow.Batch(unit, another, torch.tensor([0.0, 0.25]), noise))["loss"]
    assert float(loss) == pytest.approx(1.0)  # x_1 has length sqrt(dim)
    torch.testing.assert_close(seen["cosine"], torch.full((2,), 0.5**0.5))
    torch.testing.assert_close(seen["x"] / DIM**0.5, torch.stack([noise[0], 0.75 * noise[1] + 0.25 * torch.eye(DIM)[4]]))


def test_a_proposal_depends_on_its_slot_alone(known):
    codes, slots = people(50, 3), [Slot(i // 5, i % 5) for i in range(50)]
    turn = [torch_generator(4, "perturb", *slot) for slot in slots]
    whole = known.turned(codes, turn, 0.3)
    some = known.turned(codes[[41, 7]], [torch_generator(4, "perturb", *slots[i]) for i in (41, 7)], 0.3)
    assert torch.equal(whole[[41, 7]], some)
    assert not torch.allclose(whole, known.turned(codes, [torch_generator(5, "perturb", *slot) for slot in slots], 0.3))


# ------------------------------------------------------------------------------------------------------ what it learns from


def test_partners_are_all_other_images_of_the_person_and_equally_often():
    person = torch.tensor([4, 4, 7, 7, 7, 7, 9, 9, 9])
    partners = flow.partners(person)
    rows = torch.arange(9).repeat(3000)
    found = partners(rows, torch.Generator().manual_seed(0))
    assert (person[found] == person[rows]).all() and (found != rows).all()
    for row in range(9):
        others = [i for i in range(9) if person[i] == person[row] and i != row]
        share = (found[rows == row].bincount(minlength=9).double() / 3000)[others]
        assert (share - 1 / len(others)).abs().max() < 0.05


def test_whole_people_of_two_images_or_more_are_looked_at(monkeypatch):
    identity = np.array([0, 1, 2, 1, 3, 0, 4, 2, 3, 2, 1])
    faces = FaceSet.from_arrays(torch.zeros(11, 3, 8, 8, dtype=torch.uint8), identity)
    assert flow.chosen(faces).tolist() == [0, 5, 1, 3, 10, 2, 7, 9, 4, 8]  # nobody but 4 is alone
    monkeypatch.setattr(flow, "IMAGES", 5)
    assert faces.identity[flow.chosen(faces)].tolist() == [0, 0, 3, 3]  # two of four people, the ends
    for labels in (np.full(11, -1), np.arange(11)):
        with pytest.raises(UserError, match="pairs of images of one person"):
            flow.chosen(FaceSet.from_arrays(torch.zeros(11, 3, 8, 8, dtype=torch.uint8), labels))


class Pixels(torch.nn.Module):
    """Embeds a face as its first DIM bytes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :DIM]


def test_a_flow_is_learnt_once_and_shared(tmp_path, monkeypatch):
    monkeypatch.setattr(flow, "TRAINING", flow.TRAINING.model_copy(update={"steps": 3}))
    pictures = torch.randint(256, (12, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    faces, encoder = FaceSet.from_arrays(pictures, np.arange(12) // 3), Encoder(Pixels(), resolution=8, dim=DIM)
    first, again = (flow.learnt(encoder, context(tmp_path / name, faces, encoder)).state_dict() for name in "ab")
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert sorted(path.name for path in (tmp_path / "a" / "flow").iterdir()) == ["metrics.jsonl", "weights.safetensors"]
    monkeypatch.setattr(flow, "learn", lambda *given: pytest.fail("it is there"))
    kept = flow.learnt(encoder, context(tmp_path / "a", faces, encoder)).state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in first.items())
    monkeypatch.setattr(crew, "at_work", lambda: crew.Crew(1, 2))
    monkeypatch.setattr(crew, "told", lambda thing=None: {name: value.float() for name, value in first.items()})
    told = flow.learnt(encoder, context(tmp_path / "c", faces, encoder)).state_dict()
    assert all(torch.equal(value, told[name]) for name, value in first.items()) and not (tmp_path / "c" / "flow").exists()


# ------------------------------------------------------------------------------------------------------------ the setting


@pytest.mark.parametrize("kind", [arc2face, cemiface, idiffface, vigface])
def test_every_generator_with_idperturb_takes_it(kind):
    found = build(
        kind.Config, parse_set(["sample.directions=flow", "sample.perturb=0.3", *(() if kind is vigface else ("enroll.threshold=1",))])
    )
    assert found.sample.directions == "flow"
    with pytest.raises(UserError, match=r"turns nothing while sample\.perturb is 1"):
        build(kind.Config, parse_set(["sample.directions=flow"]))
    assert "directions" not in kind.Config().for_key()["sample"] and "directions" in found.for_key()["sample"]  # keys are as they were


def test_numbers_are_idperturbs(tmp_path):
    faces = FaceSet.from_arrays(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), np.zeros(1))
    codes, slots, where = people(4, 0), [Slot(i, 2) for i in range(4)], context(tmp_path, faces)
    turn = flow.turning("any", 0.7, None, where)
    assert torch.equal(turn(codes, slots), hypersphere.perturb(codes, slots, 0.7, where.seed))
    assert flow.turning("any", 1.0, None, where)(codes, slots) is codes
    assert hypersphere.lowest(0.3, 0.9, "flow") == 0.3


def test_it_learns_from_labels():
    for kind, needed in ((cemiface.CemiFace, False), (vigface.VIGFace, True)):
        made = [kind(build(kind.Config, parse_set(settings))) for settings in ([], ["sample.directions=flow", "sample.perturb=0"])]
        assert [generator.traits.needs_labels for generator in made] == [needed, True]
