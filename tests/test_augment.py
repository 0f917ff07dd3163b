"""Batched augmentation against torchvision and F.interpolate, image by image."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as tv

from synthbench.recognition import augment as A


def seeded(n=0):
    return torch.Generator().manual_seed(n)


@pytest.fixture
def images():
    return torch.rand(12, 3, 24, 24, generator=seeded(1))


EVERY = [
    A.Flip(),
    A.BlackOutside(p=0.5),
    A.LowResolution(p=0.7),
    A.ColourJitter(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.1),
    A.ResizedCrop(scale=(0.3, 1.0)),
    A.Erase(p=0.7),
    A.Noise(p=0.7),
    A.RandAugment(),
]


@pytest.mark.parametrize("step", EVERY, ids=lambda step: step.name)
def test_keeps_range_and_shape_depends_on_seed_only(step, images):
    out = step(images.clone(), seeded(3))
    assert out.shape == images.shape and out.dtype == images.dtype and out.min() >= 0 and out.max() <= 1 + 1e-6
    assert torch.equal(out, step(images.clone(), seeded(3)))
    assert not torch.equal(out, step(images.clone(), seeded(4)))
    assert not torch.equal(out, images)


@pytest.mark.parametrize("step", EVERY[:-1], ids=lambda step: step.name)
def test_probability_zero_changes_nothing(step, images):
    torch.testing.assert_close(step.model_copy(update={"p": 0.0})(images, seeded()), images, atol=1e-6, rtol=0)


def test_flip_takes_half():
    x = torch.rand(2000, 3, 1, 2, generator=seeded())
    flipped = (A.Flip()(x, seeded(5)) == x.flip(3)).all((1, 2, 3))
    assert 900 < flipped.sum() < 1100
    assert torch.equal(A.Flip(p=1.0)(x, seeded()), x.flip(3))


def test_noise_has_the_standard_deviation_asked_for():
    grey = torch.full((400, 3, 16, 16), 0.5)
    spread = (A.Noise(p=0.5, std=(0.05, 0.1))(grey, seeded()) - grey).flatten(1).std(1)
    touched = spread > 0
    assert 160 < touched.sum() < 240
    assert spread[touched].min() > 0.045 and spread[touched].max() < 0.107
    assert spread[touched].mean() == pytest.approx(0.075, abs=0.004)


@pytest.mark.parametrize(("method", "mode"), [("nearest", "nearest"), ("bilinear", "bilinear"), ("area", "area"), ("bicubic", "bicubic")])
@pytest.mark.parametrize(("before", "after"), [(24, 7), (7, 24), (24, 24), (23, 11), (5, 1)])
def test_resize_matrix_is_interpolate(method, mode, before, after):
    x = torch.rand(1, 3, before, before, generator=seeded())
    m = A.resize_matrix(before, after, method)
    expected = F.interpolate(x, (after, after), mode=mode, **({"align_corners": False} if mode[0] == "b" else {}))
    torch.testing.assert_close(m @ x @ m.T, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", A.METHODS)
def test_resize_matrix_keeps_a_flat_image(method):
    for before, after in ((24, 9), (9, 24)):
        torch.testing.assert_close(A.resize_matrix(before, after, method).sum(1), torch.ones(after))


def test_low_resolution_loses_detail_only(images):
    out = A.LowResolution(p=1.0, side=(0.25, 0.25))(images, seeded())
    assert (out - images).abs().mean() > 0.1
    torch.testing.assert_close(A.LowResolution(p=1.0, side=(1.0, 1.0))(images, seeded()), images, atol=1e-5, rtol=0)


def test_resized_crop_is_torchvisions(images):
    out = A.ResizedCrop(scale=(0.2, 1.0))(images, seeded(7))
    random = seeded(7)
    torch.rand(len(images), generator=random)  # who is touched
    for i, (top, left, height, width) in enumerate(A.windows(len(images), 24, (0.2, 1.0), (3 / 4, 4 / 3), random).tolist()):
        expected = tv.resized_crop(images[i], top, left, height, width, [24, 24], antialias=False)
        torch.testing.assert_close(out[i], expected, atol=1e-5, rtol=0)


def test_windows_have_the_asked_area_and_ratio():
    boxes = A.windows(3000, 112, (0.2, 0.5), (3 / 4, 4 / 3), seeded()).double()
    top, left, height, width = boxes.unbind(1)
    share, ratio = height * width / 112**2, width / height
    assert 0.19 < share.min() < 0.22 and 0.47 < share.max() < 0.51 and abs(share.mean() - 0.35) < 0.01
    assert 0.73 < ratio.min() < 0.78 and 1.28 < ratio.max() < 1.36 and abs(ratio.log().mean()) < 0.01
    assert (top >= 0).all() and (top + height <= 112).all() and (left >= 0).all() and (left + width <= 112).all()


def test_black_outside_keeps_place_and_size(images):
    x = images.clamp(min=0.1)
    out = A.BlackOutside(p=1.0)(x, seeded(2))
    for before, after in zip(x, out):
        inside = after.sum(0) > 0
        assert torch.equal(after[:, inside], before[:, inside])
        rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
        assert inside.sum() == len(rows) * len(columns)  # a rectangle
        assert 0.15 < inside.float().mean() <= 1


def test_erase_fills_a_rectangle(images):
    out = A.Erase(p=1.0, scale=(0.1, 0.2), fill=0.5)(images, seeded())
    erased = (out == 0.5).all(1).float().mean((1, 2))
    assert (erased > 0.07).all() and (erased < 0.23).all()


@pytest.mark.parametrize(
    ("ours", "theirs", "values"),
    [
        (A.brightness, tv.adjust_brightness, (0.0, 0.6, 1.4)),
        (A.contrast, tv.adjust_contrast, (0.0, 0.6, 1.4)),
        (A.saturation, tv.adjust_saturation, (0.0, 0.6, 1.4)),
        (A.shift_hue, tv.adjust_hue, (-0.5, -0.13, 0.0, 0.2)),
    ],
)
def test_colour_is_torchvisions(ours, theirs, values, images):
    images[0] = 0.3  # grey has no hue
    for value in values:
        expected = theirs(images, value)
        torch.testing.assert_close(ours(images, torch.full((len(images), 1, 1, 1), value)), expected, atol=2e-3, rtol=0)


def test_jitter_gives_every_image_its_own_factor(images):
    x = torch.full((200, 3, 4, 4), 0.5)
    out = A.ColourJitter(brightness=0.4)(x, seeded())
    level = out[:, 0, 0, 0]
    assert len(level.unique()) > 190 and level.min() >= 0.3 and level.max() <= 0.7


def test_every_rand_augment_operation_matches_a_loop_over_images(images):
    """One operation at a time on the batch equals the operation on each image alone."""
    pixels = (images * 255).to(torch.uint8)
    for operation in A.OPERATIONS[1:]:
        batch = A.operate(pixels, operation, -16 / 30)
        alone = torch.cat([A.operate(image[None], operation, -16 / 30) for image in pixels])
        assert torch.equal(batch, alone), operation


def test_augment_normalises():
    x = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    torch.testing.assert_close(A.augment(x, (), seeded()).flatten(), torch.tensor([-1.0, 1 / 255, 1.0]))
