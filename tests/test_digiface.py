"""DigiFace-style: sets of accessories, poses, augmentation, all by the paper's numbers; and the released set as a preset."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torchvision.transforms.v2 import functional as tv

from synthbench import testing
from synthbench.config import Layer, build, config_path, read_layer
from synthbench.data import sources
from synthbench.generators import digiface
from synthbench.generators.digiface import Config, DigiFace, Sample
from synthbench.pipeline.loading import load_generator
from synthbench.plugin import Context
from synthbench.protocol import load_protocol
from synthbench.recognition import augment, distort
from synthbench.recognition.trainer import load_recipe
from synthbench.types import DataMissing, Slot, UserError, Volume
from synthbench.world import heads, renderer

PLAIN = {"augmentation": ()}


def scene(sample: Sample, count: int, number: int = 1) -> tuple[torch.Tensor, dict]:
    """What procedural.render gets for `count` people x `number` images."""
    caught: dict = {}
    identity, image = torch.arange(count).repeat_interleave(number), torch.arange(number).repeat(count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(renderer, "render", lambda people, nuisance, resolution: caught.update(people=people, nuisance=nuisance))
        digiface.render(sample, identity, image, image // sample.set_size, 32, 0)
    return caught["people"], caught["nuisance"]


def made(sample: dict, slots: list[Slot], tmp_path: Path, seed: int = 0):
    context = Context(tmp_path, seed, 32, torch.device("cpu"), None, None)  # type: ignore[arg-type]
    return list(DigiFace(build(Config, Layer({"sample": sample}))).generate(slots, context))


def test_the_contract() -> None:
    """With the augmentation, which the demo is without."""
    steps = json.dumps([step.model_dump() for step in digiface.AUGMENTATION])
    assert list(testing.check("digiface", [f"sample.augmentation={steps}"]))


def test_the_shipped_yaml_is_the_default_and_the_recipe_has_its_augmentation() -> None:
    shipped = read_layer(config_path("generators", "digiface"))
    assert build(Config, shipped) == Config() and set(shipped.data["sample"]) == set(Sample.model_fields)
    recipe = load_recipe("digiface")
    assert recipe.augmentation == Config().sample.augmentation
    assert (recipe.head, recipe.batch_size, recipe.epochs) == ("adaface", 256, 40)


def test_the_world_that_others_render_has_not_changed_by_a_bit() -> None:
    """Nothing in it has a cap, and a cap that is not worn changes nothing."""
    identity = torch.arange(60)
    scene = renderer.nuisance("train", identity, identity % 7)
    assert not any(name.startswith("hat") for name in scene)
    pixels = renderer.faces("train", identity, identity % 7, 32)
    capless = renderer.render(renderer.people("train", 0, 60), scene | _cap(60, 0.0), 32)
    assert torch.equal(pixels, capless)


def _cap(count: int, worn: float) -> dict:
    columns = {"hat": worn, "hat_low": 5.0, "hat_light": 0.5, "hat_tint": 0.3, "hat_tint2": -0.3}
    return {name: torch.full((count,), value) for name, value in columns.items()}


def test_a_cap_covers_the_top_of_the_head_and_nothing_else() -> None:
    identity = torch.arange(6)
    person, n = renderer.people("inquiry", 0, 6), renderer.nuisance("inquiry", identity, identity, frontal=True)
    n["yaw"] = n["yaw"] * 0
    change = (renderer.render(person, n | _cap(6, 1.0), 112).float() - renderer.render(person, n, 112).float()).abs().sum(1)
    eyes = int(heads.TEMPLATE[0][1])
    assert (change[:, :25, 40:72].mean((1, 2)) > 30).all()  # forehead and hair
    assert change[:, eyes - 4 : 95, 35:77].max() == 0  # from the eyes down


def test_what_makes_an_identity_does_not_vary_within_it() -> None:
    people, worn = scene(Sample(), 30, 36)
    age = worn["age"].view(30, 36)
    assert (age == age[:, :1]).all() and age[:, 0].unique().numel() > 20
    own = people.view(30, 36, -1)
    varies = (own - own[:, :1]).abs().amax((0, 1)) > 0
    names = list(renderer.PERSON)
    assert {names[i] for i in varies.nonzero().flatten()} <= {"hair_light", "blush"}
    assert len(torch.unique(own[:, 0], dim=0)) == 30


def test_accessories_are_worn_in_sets_of_18_images_in_a_row_with_the_papers_probabilities(tmp_path: Path) -> None:
    _, n = scene(Sample(set_size=3), 2000, 6)
    worn = {name: n[name].view(2000, 2, 3) for name in (*digiface.WORN, "glasses", "makeup", "occlusion", "hat", "hat_light")}
    assert all((values == values[:, :, :1]).all() for values in worn.values())
    sets = {name: values[:, :, 0].flatten() for name, values in worn.items()}
    assert (worn["cloth"][:, 0, 0] != worn["cloth"][:, 1, 0]).all()
    kinds = {
        "glasses": (sets["glasses"] < renderer.GLASSES, 0.15),
        "makeup": (sets["makeup"] > 0, 0.15),
        "headwear": (sets["hat"] == 1, 0.15),
        "facewear": ((sets["occlusion"] >= heads.LOCK) & (sets["occlusion"] < heads.MASK), 0.01 * 0.99),  # a hand goes before a mask
        "hand": (sets["occlusion"] < heads.HAND, 0.01),
    }
    for name, (has, share) in kinds.items():
        count = int(has.sum())
        assert stats.binomtest(count, 4000, share).pvalue > 1e-3, (name, count)
    assert ((sets["occlusion"] < heads.HAND) | (sets["occlusion"] >= heads.LOCK)).all()  # no scarf, no lock of hair
    (batch,) = made({**PLAIN, "set_size": 18}, [Slot(0, k) for k in range(72)], tmp_path)
    assert batch.columns["accessory_set"].tolist() == [k // 18 for k in range(72)]  # 10,000 x 72: four sets
    assert set(batch.columns["accessory_set"][:5].tolist()) == {0}  # 100,000 x 5: one


def test_yaw_is_normal_cut_at_90_where_it_is_a_thousandth_as_likely() -> None:
    u = torch.linspace(0, 1, 200_001)[1:-1]
    yaw = digiface.angle(u, 90.0).double().numpy()
    deviation = 90 / math.sqrt(2 * math.log(1000))
    want = stats.truncnorm(-90 / deviation, 90 / deviation, scale=deviation)
    assert np.abs(yaw).max() <= 90 and want.pdf(90) / want.pdf(0) == pytest.approx(1e-3)
    assert np.allclose(yaw, want.ppf(u.double().numpy()), atol=0.02)
    _, n = scene(Sample(), 3000)
    assert stats.kstest(n["yaw"].numpy(), want.cdf).pvalue > 1e-3 and n["pitch"].abs().max() <= 30


def test_people_are_others_than_those_of_the_procedural_generator() -> None:
    people, _ = scene(Sample(), 50)
    other = renderer.people("generator", 0, 50)
    assert torch.cdist(people, other).min() > 10


def test_an_image_is_augmented_once_by_its_slot(tmp_path: Path) -> None:
    slots = [Slot(i, k) for i in range(3) for k in range(4)]
    plain, first, again = (made(sample, slots, tmp_path)[0].images for sample in (PLAIN, {}, {}))
    assert torch.equal(first, again) and not torch.equal(first, plain)
    assert all((first[i] != plain[i]).any() for i in range(12))
    only = made({"augmentation": [{"name": "flip", "p": 1.0}]}, slots, tmp_path)[0].images
    assert torch.equal(only, plain.flip(3))
    assert not torch.equal(made(PLAIN, slots, tmp_path, seed=1)[0].images, plain)


def test_the_papers_probabilities_are_in_the_augmentation() -> None:
    wanted = {"blur": 0.05, "noise": 0.035, "motion_blur": 0.05, "greyscale": 0.01, "low_resolution": 0.01, "jpeg": 0.05, "flip": 0.5}
    steps = {step.name: step for step in digiface.AUGMENTATION}
    assert {name: steps[name].p for name in wanted} == wanted and (steps["warp"].p, steps["warp"].aspect_p) == (1.0, 0.1)
    jitter = [step for step in digiface.AUGMENTATION if step.name == "colour_jitter"]
    assert [(s.p, [name for name in ("brightness", "contrast", "hue", "saturation") if getattr(s, name)]) for s in jitter] == [
        (0.15, ["brightness"]),
        (0.3, ["contrast"]),
        (0.1, ["hue"]),
        (0.1, ["saturation"]),
    ]


# -------------------------------------------------------------------------------------------- augmentations that came with it

NEW = [augment.Blur(p=0.7), augment.MotionBlur(p=0.7), augment.Greyscale(p=0.7), augment.Jpeg(p=0.7), augment.Warp()]


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(12, 3, 28, 28, generator=torch.Generator().manual_seed(1))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("step", NEW, ids=lambda step: step.name)
def test_augmentations_keep_range_and_depend_on_their_seed(step, images) -> None:
    out = step(images.clone(), seeded(3))
    assert out.shape == images.shape and out.min() >= -1e-6 and out.max() <= 1 + 1e-6 and not torch.equal(out, images)
    assert torch.equal(out, step(images.clone(), seeded(3))) and not torch.equal(out, step(images.clone(), seeded(4)))
    torch.testing.assert_close(step.model_copy(update={"p": 0.0})(images, seeded()), images, atol=1e-5, rtol=0)


def test_blur_is_gaussian(images) -> None:
    blurred = augment.Blur(p=1.0, sigma=(6.0, 6.0))(images, seeded())  # 6 px of 112: 1.5 of 28
    want = tv.gaussian_blur(images, [15, 15], [1.5, 1.5])
    assert (blurred - want)[:, :, 7:-7, 7:-7].abs().max() < 1e-4


def test_motion_blur_is_the_mean_along_a_line() -> None:
    dot = torch.zeros(1, 1, 21, 21)
    dot[0, 0, 10, 10] = 1
    across = distort.filtered(dot, distort.line(torch.tensor([5.0]), torch.tensor([0.0]), 4))[0, 0]
    assert np.allclose(across[10, 8:13], 0.2) and across.sum() == pytest.approx(1) and across[9].sum() == 0
    up = distort.filtered(dot, distort.line(torch.tensor([5.0]), torch.tensor([math.pi / 2]), 4))[0, 0]
    assert np.allclose(up.T, across, atol=1e-6)


def test_warp_is_torchvisions_perspective(images) -> None:
    corners = distort.CORNERS + torch.tensor([[[0.1, -0.05], [-0.2, 0.1], [0.0, 0.15], [-0.1, -0.1]]])
    got = distort.warp(images[:1], corners)
    pixels = ((corners[0] + 1) * 14).tolist()
    want = tv.perspective(images[:1], pixels, [[0, 0], [28, 0], [28, 28], [0, 28]], interpolation=tv.InterpolationMode.BILINEAR)
    inside = want.abs().sum(1, keepdim=True) > 0
    assert ((got - want).abs() * inside)[:, :, 4:-4, 4:-4].max() < 0.08  # its pixel centres are half a pixel off
    assert torch.allclose(distort.warp(images, distort.CORNERS.expand(12, 4, 2)), images, atol=1e-5)
    shifted = distort.warp(images[:1], (distort.CORNERS + torch.tensor([2 / 14, 0.0]))[None])
    assert torch.allclose(shifted[..., :-2], images[:1, :, :, 2:], atol=1e-5)


def test_jpeg_and_greyscale(images) -> None:
    smooth = torch.linspace(0, 1, 32).expand(2, 3, 32, 32)
    assert (distort.jpeg(smooth, [95, 95]) - smooth).abs().max() < 0.03
    assert (distort.jpeg(images, [20] * 12) - images).abs().mean() > (distort.jpeg(images, [95] * 12) - images).abs().mean()
    flat = augment.Greyscale(p=1.0)(images, seeded())
    assert torch.equal(flat[:, 0], flat[:, 2]) and torch.allclose(flat[:, :1], tv.rgb_to_grayscale(images), atol=1e-3)


# ------------------------------------------------------------------------------------------------------- the released set


@pytest.fixture
def released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders as in the released archives: a number per identity, a number per image; three people x 4 and two x 2."""
    monkeypatch.setenv("SYNTHBENCH_DATA", str(tmp_path / "home"))
    for name, count in (("0", 4), ("1", 4), ("2", 4), ("100000", 2), ("100001", 2)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for k in range(count):
            pixels = np.random.default_rng([int(name), k]).integers(0, 256, (112, 112, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / name / f"{k}.png")
    return tmp_path / "set"


def test_the_released_set_is_a_preset_of_folder_by_its_registered_name(released: Path) -> None:
    demo = load_protocol("demo")
    generator = load_generator("digiface_1m", demo)
    with pytest.raises(
        DataMissing, match=r"DigiFace-1M.*Microsoft research licence.*github.com/microsoft/DigiFace1M.*data add digiface-1m PATH"
    ):
        generator.sources(112)
    sources.add("digiface-1m", released)
    assert generator.sources(112) == {"folder": sources.find("digiface-1m").digest}
    assert generator.traits.finite and generator.traits.new_identities and "Microsoft" in generator.traits.licence
    context = Context(released, 0, 32, torch.device("cpu"), None, None)  # type: ignore[arg-type]
    assert len(generator.slots(Volume.parse("3x4+2x2"), context)) == 16 == len(generator.slots(Volume.parse("all"), context))
    with pytest.raises(UserError, match="asks for 5 identities x 4 images"):
        generator.slots(Volume.parse("5x4"), context)
    assert list(testing.check("digiface_1m"))


def test_a_path_comes_before_a_registered_name(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(released.parent)
    (released.parent / "digiface-1m").symlink_to(released)
    assert load_generator("digiface_1m", load_protocol("demo")).sources(112) == {"folder": sources.digest_of(released)}
