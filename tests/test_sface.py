"""SFace-style: the label decides who is painted, nobody new is made, the size is StyleGAN2-ADA's."""

import json

import numpy as np
import pytest
import torch
from fake_context import context

from synthbench.config import CONFIGS, build, read_layer
from synthbench.data.faces import FaceSet
from synthbench.generators import sface
from synthbench.generators.sface import CASIA, Config, SFace, Train
from synthbench.models.encoder import read_tensors
from synthbench.models.gan import Shape
from synthbench.models.size import count
from synthbench.plugin import Context
from synthbench.types import Slot, UserError, Volume

R, CLASSES = 8, 3
TINY = Shape(channel_base=128, channel_max=16, latent=16, mapping_rate=0.1, label_layers=1)


@pytest.fixture(scope="module")
def faces():
    """Class 0 is dark, class 1 grey, class 2 bright; 40 images each."""
    random = np.random.default_rng(0)
    identity = np.arange(120) % CLASSES
    pixels = 30 + 90 * identity[:, None, None, None] + random.normal(0, 12, (120, 3, R, R))
    return FaceSet.from_arrays(pixels.clip(0, 255).astype(np.uint8), identity)


def settings(**change):
    return Train(shape=TINY, code=8, **{"steps": 8, "batch_size": 16, "path_length": 0.0, "style_mixing": 0.0, **change})


@pytest.fixture(scope="module")
def trained(tmp_path_factory, faces):
    folder = tmp_path_factory.mktemp("sface")
    generator = SFace(Config(train=settings(steps=120, lr=5e-3, r1=1.0, ema_limit=0.97)))
    generator.train(context(folder, faces))
    return generator, {"train": folder}


def painted(trained, faces, tmp_path, slots, **more):
    generator, inputs = trained
    return list(generator.generate(slots, context(tmp_path, faces, inputs=inputs, **more)))


def test_the_shipped_yaml_is_the_default_config():
    assert build(Config, read_layer(CONFIGS / "generators" / "sface.yaml")) == Config()


def test_the_full_size_is_stylegan2_ada_at_128_px():
    """Layers as stylegan2-ada-pytorch counts them, but one row, not a dense layer with a bias, embeds a label."""
    with torch.device("meta"):
        networks = SFace(Config()).networks(112, 512)
        sizes = {name: count(module, *inputs) for name, (module, inputs) in networks.items()}
    convs = 7 * 2622465 + 1442561 + 721409 + 426369 + 213249
    colours = 4 * 264195 + 132099 + 66051
    mapping = 512 * 1024 + 512 + 262656
    assert sizes["generator"][0] == 8192 + convs + colours + mapping + CASIA * 512
    plain = 24001089 - 118976 - 256 + 512  # at 256 px without the first block and its from_rgb, and with that of 128 channels
    projection = 512 * 513 - 513 + 8 * 262656 + CASIA * 512
    assert sizes["discriminator"][0] == plain + projection
    assert sizes["generator"][0] == 28_624_285 and sizes["discriminator"][0] == 31_658_624  # what the YAML says
    assert [round(sizes[name][1] / 1e9, 1) for name in ("generator", "discriminator")] == [
        11.3,
        11.7,
    ]  # GMAC; 11.25 of them by hand


def test_nobody_new():
    assert SFace.traits.needs_labels and not SFace.traits.new_identities


def test_the_label_decides_who_is_painted(trained, faces, tmp_path):
    """Every class comes out as bright as it is; the same codes with shuffled labels are other images."""
    (batch,) = painted(trained, faces, tmp_path, [Slot(label, sample) for label in range(CLASSES) for sample in range(10)])
    bright = batch.images.float().mean((1, 2, 3)).view(CLASSES, 10).mean(1)
    assert bright[0] + 40 < bright[1] < bright[2] - 40, bright
    painter, _ = sface.build(trained[0].config.train, R, CLASSES)
    painter.load_state_dict(read_tensors(trained[1]["train"] / "weights.safetensors"))
    z, noise, label = torch.randn(6, 8), torch.randn(6, painter.noise_size), torch.arange(6) % 3
    with torch.no_grad():
        assert not torch.allclose(painter(z, noise, label), painter(z, noise, label.roll(1)), atol=0.1)


def test_what_comes_out(trained, faces, tmp_path, unrounded):
    slots = [Slot(label, sample) for label in (2, 0) for sample in range(5)]
    (batch,) = painted(trained, faces, tmp_path, slots)
    assert unrounded() == 10
    assert batch.images.shape == (10, 3, R, R) and batch.images.dtype == torch.uint8
    assert batch.identity.tolist() == batch.columns["real_identity"].tolist() == [2] * 5 + [0] * 5
    (again,) = painted(trained, faces, tmp_path, slots[3:7], batch_size=2)
    assert torch.equal(again.images, batch.images[3:7])


def test_more_identities_than_classes_are_refused(trained):
    generator, _ = trained
    generator.check(Volume.parse("3x4"), 3), generator.check(Volume.parse("9x4"), None)
    with pytest.raises(UserError, match=r"asks for 4 identities, but the real set has 3\. Ask for --volume 3x9"):
        generator.check(Volume.parse("2x5+2x9"), 3)


def test_a_killed_training_goes_on_bit_for_bit(tmp_path, faces, monkeypatch):
    monkeypatch.setattr(sface.loop, "EVERY", -1)
    everything = settings(path_length=2.0, path_every=2, style_mixing=0.9, r1_every=3)
    sface.train(everything, context(tmp_path / "whole", faces))

    def kill(done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sface.train(everything, context(tmp_path / "cut", faces, progress=kill))
    torch.manual_seed(99)
    sface.train(everything, context(tmp_path / "cut", faces))
    whole, cut = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "cut"))
    assert whole == cut
    rows = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 9)) and {"loss", "critic_loss", "real_logit", "fake_logit"} <= set(rows[0])


def test_faces_are_painted_at_a_power_of_two(tmp_path):
    """6 px are learnt and painted at 8 and come out at 6."""
    faces = FaceSet.from_arrays(np.random.default_rng(0).integers(0, 256, (8, 6, 6, 3), dtype=np.uint8), np.arange(8) // 4)
    generator, place = SFace(Config(train=settings(steps=1))), context(tmp_path / "train", faces)
    place = Context(place.out, 0, 6, place.device, faces, None)
    generator.train(place)
    (batch,) = generator.generate([Slot(1, 0)], Context(tmp_path, 0, 6, place.device, faces, None, {"train": place.out}))
    assert batch.images.shape == (1, 3, 6, 6)
