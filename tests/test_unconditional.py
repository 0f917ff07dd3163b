"""The unconditional model: it learns, resumes, and its n-th image is a matter of n alone; identities chosen among its images."""

import json

import numpy as np
import pytest
import torch
from fake_context import context
from torch import nn

from synthbench.data.faces import FaceSet
from synthbench.generators.cemiface import CemiFace
from synthbench.identities import inquiries, unconditional
from synthbench.models.encoder import Encoder
from synthbench.models.unet import Shape
from synthbench.training import loop
from synthbench.types import UserError

TINY = Shape(channels=8, multipliers=(1, 2), attention_levels=(1,), attention_width=16, head_width=8, groups=4, skip_downsample_level=-1)
R, DIM = 8, 6
SETTINGS = unconditional.Train(unet=TINY, steps=6, batch_size=6, lr=1e-3)
SAMPLE = unconditional.Sample(steps=3)


@pytest.fixture(scope="module")
def faces():
    pixels = np.random.default_rng(0).integers(0, 256, (24, R, R, 3), dtype=np.uint8)
    return FaceSet.from_arrays(pixels, np.arange(24) // 2)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return Encoder(nn.Sequential(nn.Flatten(), nn.Linear(3 * R * R, DIM)), resolution=R, dim=DIM)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, faces, encoder):
    out = tmp_path_factory.mktemp("train")
    unconditional.train(SETTINGS, context(out, faces, encoder))
    return out


def test_it_learns(tmp_path, faces, encoder):
    unconditional.train(SETTINGS.model_copy(update={"steps": 25, "lr": 2e-2}), context(tmp_path, faces, encoder))
    rows = [json.loads(line)["loss"] for line in (tmp_path / "unconditional" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1] < 0.9


def test_an_untrained_network_has_the_loss_of_no_answer(faces):
    """Output zero: the error is the mean square of the target, and the weight is that of the schedule (DDPM, Eq. 14)."""
    x0, noise = torch.rand(4, 3, R, R) * 2 - 1, torch.randn(4, 3, R, R)
    abar = torch.tensor([0.9, 0.5, 0.2, 0.05])
    batch = unconditional.Batch(x0, torch.tensor([10, 300, 500, 900]), abar, noise)
    plain = unconditional.error(unconditional.UNet(TINY, R, 0), batch, SETTINGS)
    torch.testing.assert_close(plain, noise.square().mean())
    x0_settings = SETTINGS.model_copy(update={"prediction": "x0", "weighting": "min_snr"})
    snr = (abar / (1 - abar)).clamp(max=5)
    expected = sum(float(snr[i] * x0[i].square().mean()) for i in range(4)) / 4
    assert unconditional.error(unconditional.UNet(TINY, R, 0), batch, x0_settings).item() == pytest.approx(expected, rel=1e-5)


def test_a_killed_training_goes_on_bit_for_bit(trained, tmp_path, faces, encoder, monkeypatch):
    monkeypatch.setattr(loop, "EVERY", -1)

    def kill(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unconditional.train(SETTINGS, context(tmp_path, faces, encoder, progress=kill))
    assert (tmp_path / "unconditional" / "checkpoint.pt").exists()
    torch.manual_seed(99)
    unconditional.train(SETTINGS, context(tmp_path, faces, encoder))
    whole, cut = ((folder / "unconditional" / "weights.safetensors").read_bytes() for folder in (trained, tmp_path))
    assert whole == cut
    assert {path.name for path in (tmp_path / "unconditional").iterdir()} == {"weights.safetensors", "model.json", "metrics.jsonl"}


def test_an_image_depends_on_its_number_alone(trained, faces, encoder, tmp_path, unrounded):
    paint = unconditional.sampler(trained, SAMPLE, context(tmp_path, faces, encoder))
    whole = paint(np.arange(40))
    assert unrounded() == 40
    assert whole.shape == (40, 3, R, R) and whole.dtype == torch.uint8
    assert torch.equal(paint(np.array([38, 5])), whole[[38, 5]])


def test_identities_among_its_images(trained, faces, encoder, tmp_path):
    settings = inquiries.NewPeople(threshold=0.9, sampler=SAMPLE)
    for count in (2, 5):
        inquiries.enroll(count, settings, context(tmp_path / str(count), faces, encoder, inputs={"train": trained}))
    few, many = (inquiries.load(tmp_path / name) for name in ("2", "5"))
    assert torch.equal(few.faces.images(slice(None)), many.faces.images(slice(2)))
    unit = torch.nn.functional.normalize(many.codes, dim=1)
    assert (unit @ unit.T - 2 * torch.eye(5)).max() < 0.9
    assert inquiries.digests(settings) == {}
    with pytest.raises(UserError, match=r"256 of 256 candidates tried, 0 fit .* other conditions.*enroll\.tries"):
        inquiries.enroll(
            5, settings, context(tmp_path / "none", faces, encoder, inputs={"train": trained}), lambda unit: torch.zeros(len(unit)).bool()
        )


def test_a_killed_enrolment_paints_no_candidate_twice(trained, faces, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(inquiries, "BLOCK", 4)
    settings, painted, sampler = inquiries.NewPeople(threshold=0.9, sampler=SAMPLE), [], unconditional.sampler

    def counted(*arguments):
        paint = sampler(*arguments)
        return lambda rows: painted.append(int(rows[0])) or paint(rows)

    def kill(done, total):
        if len(painted) == 3:
            raise KeyboardInterrupt

    def enroll(name, **more):
        where = context(tmp_path / name, faces, encoder, inputs={"train": trained}, **more)
        inquiries.enroll(9, settings, where, lambda unit: torch.arange(0, len(unit), 2))  # every second one: five blocks
        return [(where.out / path).read_bytes() for path in ("codes.safetensors", "enroll.json", "inquiries/packed.u8")]

    monkeypatch.setattr(unconditional, "sampler", counted)
    with pytest.raises(KeyboardInterrupt):
        enroll("cut", progress=kill)
    (tmp_path / "cut" / inquiries.PAINTED / "000000004.npy").write_bytes(b"torn")
    cut, first = enroll("cut"), painted.copy()
    assert first[:4] == [0, 4, 8, 4] and sorted(set(first)) == [*range(0, 4 * len(set(first)), 4)] and len(first) == len(set(first)) + 1
    assert cut == enroll("whole") and not (tmp_path / "cut" / inquiries.PAINTED).exists()


def test_further_conditions_on_a_candidate(faces, encoder, tmp_path):
    right = encoder.embed(faces.images(np.arange(0, 24, 2)))[:, 0] > 0
    settings = inquiries.Inquiries(threshold=1.0)
    inquiries.enroll(int(right.sum()), settings, context(tmp_path, faces, encoder), lambda unit: unit[:, 0] > 0)
    assert torch.equal(inquiries.load(tmp_path).faces.images(slice(None)), faces.images(np.arange(0, 24, 2)[right.numpy()]))


def test_a_model_that_is_not_there_is_named(trained, faces, encoder, tmp_path):
    with pytest.raises(UserError, match=r"train\.unconditional"):
        unconditional.sampler(tmp_path, SAMPLE, context(tmp_path / "a", faces, encoder))
    with pytest.raises(UserError, match=r"steps 1001 is more than the 1000"):
        unconditional.sampler(trained, unconditional.Sample(steps=1001), context(tmp_path / "b", faces, encoder))
    with pytest.raises(ValueError, match="this generator trains no such model"):
        CemiFace.Config(enroll={"source": "unconditional"})
