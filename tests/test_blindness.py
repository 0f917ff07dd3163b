"""Encoders that see coarse images and encoders that do not: made of block means, and of the highest frequencies. And people too alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synthbench.data.faces import FaceSet
from synthbench.models import blindness
from synthbench.models.encoder import Encoder
from synthbench.models.shipped import load_shipped
from synthbench.pipeline import checks
from synthbench.plugin import Context
from synthbench.protocol import ShippedNetwork
from synthbench.world import renderer

R = 32


class Means(nn.Module):
    """The means of 4 x 4 blocks, without their average: of what 8 x 8 pixels hold."""

    def forward(self, x: Tensor) -> Tensor:
        means = F.avg_pool2d(x, R // 8).flatten(1)
        return means - means.mean(1, keepdim=True)


class Edges(nn.Module):
    """Differences of neighbours, which are half of the highest frequency there is, and no coarser one."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0)).flatten(1)


def encoder(module: nn.Module) -> Encoder:
    dim = module(torch.zeros(1, 3, R, R)).shape[1]
    return Encoder(module, resolution=R, dim=dim, colour="rgb", digest="", name=type(module).__name__)


def images(count: int = 6) -> Tensor:
    """Noise whose power falls with the square of the frequency, as that of photographs does."""
    draw = np.random.default_rng(0)
    f = np.hypot(np.fft.fftfreq(R)[:, None], np.fft.fftfreq(R)[None]) * R
    wave = np.fft.fft2(draw.normal(size=(count, 3, R, R))) / np.maximum(f, 1)
    x = np.fft.ifft2(wave).real
    return torch.from_numpy((127 + 50 * x / x.std()).clip(0, 255).round().astype(np.uint8))


def context(module: nn.Module, faces: Tensor) -> Context:
    return Context(Path(), 0, R, torch.device("cpu"), FaceSet.from_arrays(faces, range(len(faces))), encoder(module))


def test_blurring_keeps_what_so_many_pixels_hold() -> None:
    x = images()
    for side in (4, 8, 16):
        waves = torch.fft.fft2(blindness.blurred(x, side).double()).abs().square()
        whole = torch.fft.fft2(x.double()).abs().square()
        f = torch.hypot(torch.fft.fftfreq(R)[:, None], torch.fft.fftfreq(R)[None]) * R
        coarse, fine = (f > 0) & (f <= side / 4), f > side
        assert waves[..., coarse].sum() > 0.5 * whole[..., coarse].sum()
        assert waves[..., fine].sum() < 0.05 * whole[..., fine].sum()
    assert torch.equal(blindness.blurred(x, R), x)


def test_block_means_see_and_the_highest_frequencies_do_not() -> None:
    x = images()
    assert blindness.sight(encoder(Means()), x, R // 4) > 0.9
    assert blindness.sight(encoder(Edges()), x, R // 4) < blindness.LEAST
    assert blindness.sight(encoder(Edges()), x, R) == pytest.approx(1, abs=1e-6)
    assert blindness.threshold(encoder(Means()), x) <= R // 4 < blindness.threshold(encoder(Edges()), x)


def test_only_the_blind_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    checks.sight("mine", context(Means(), images(80)))
    assert not capsys.readouterr().err
    checks.sight("mine", context(Edges(), images(80)))
    said = " ".join(capsys.readouterr().err.split())
    assert "encoder Edges hardly sees coarse images: blurred to 8 of 32 px" in said and "cannot teach mine identity" in said


def test_the_encoder_of_the_demo_sees() -> None:
    people = torch.arange(12)
    faces = renderer.faces("train", people, torch.zeros_like(people), R)
    shipped = load_shipped(ShippedNetwork(shipped="world-encoder").path)
    assert blindness.sight(shipped, faces, R // 4) > 2 * blindness.LEAST


def test_people_who_look_alike_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Of eight people two images each: noise on a picture of their own, or of the first person for all."""
    people, draw = images(8), torch.Generator().manual_seed(1)

    def pictures(who: list[int]) -> FaceSet:
        twice = people[who].repeat_interleave(2, 0)
        noisy = twice + 8 * torch.randn(twice.shape, generator=draw)
        return FaceSet.from_arrays(noisy.round().clamp(0, 255).byte(), [i // 2 for i in range(16)])

    found = checks.separation("encoder", encoder(Means()), pictures(list(range(8))))
    assert found and found > 2 and not capsys.readouterr().err
    found = checks.separation("encoder", encoder(Means()), pictures([0] * 8))
    assert found is not None and found < checks.ALIKE
    assert "hardly tells apart the people that it was trained on" in " ".join(capsys.readouterr().err.split())
    assert checks.separation("encoder", encoder(Means()), FaceSet.from_arrays(people, range(8))) is None


def test_few_people_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    for count, told in ((checks.FEW, False), (8, True)):
        faces = FaceSet.from_arrays(np.zeros((count, 8, 8, 3), np.uint8), range(count))
        checks.enough_people("encoder", faces)
        assert ("it is trained on 8 people" in " ".join(capsys.readouterr().err.split())) == told


def test_a_network_that_stays_on_the_cpu_beside_a_gpu_says_what_that_comes_to(capsys):
    """Once: onnxruntime is installed without CUDA, and hours of it were spent in silence."""
    slow = Encoder(Means(), resolution=32, dim=3, differentiable=False, name="slow", digest="a")
    for device in ("cpu", "cuda", "cuda"):
        checks.beside_the_gpu("judge", slow, torch.device(device))
    checks.beside_the_gpu("judge", Encoder(Means(), resolution=32, dim=3, name="quick", digest="b"), torch.device("cuda"))
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("runs on the CPU") == 1 and "judge slow" in said and "images a second here" in said and "100,000" in said
