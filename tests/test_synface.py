"""SynFace-style: identities are mixed in the space of identity codes, with soft labels that say how much of whom."""

import numpy as np
import pytest
import torch
from fake_context import context
from torch import nn
from torch.nn import functional as F

from synthbench.config import CONFIGS, build, read_layer
from synthbench.data.faces import FaceSet, ShardWriter, open_faces
from synthbench.generators import synface
from synthbench.generators.synface import Basis, Config, SynFace, Train
from synthbench.models.encoder import Encoder, read_tensors
from synthbench.models.gan import Shape
from synthbench.models.size import count
from synthbench.seeds import torch_generator
from synthbench.training import loop
from synthbench.types import Slot, UserError

R, DIM, SEED = 8, 6, 3
TINY = Shape(channel_base=128, channel_max=16, latent=16, mapping_rate=0.1, label_layers=1)


class Projection(nn.Module):
    """A differentiable stand-in for a face encoder: a fixed projection of the pixels."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(DIM, 3 * R * R, generator=torch.Generator().manual_seed(5)) / 8)

    def forward(self, x):
        return F.linear(x.flatten(1), self.weight)


@pytest.fixture(scope="module")
def faces():
    return FaceSet.from_arrays(np.random.default_rng(0).integers(0, 256, (40, R, R, 3), dtype=np.uint8), np.arange(40) // 4)


@pytest.fixture(scope="module")
def encoder():
    return Encoder(Projection(), resolution=R, dim=DIM, name="projection")


def settings(**change):
    return Train(shape=TINY, **{"identity": 4, "attributes": 3, "steps": 8, "batch_size": 16, **change})


@pytest.fixture(scope="module")
def trained(tmp_path_factory, faces, encoder):
    folder = tmp_path_factory.mktemp("synface")
    train = settings(steps=100, r1=1.0, identity_floor=0.0, lr=5e-3, ema_limit=0.98)
    generator = SynFace(Config(train=train, sample={"truncation": 0.8, "truncated_layers": 2}))
    generator.train(context(folder, faces, encoder))
    return generator, {"train": folder}


def test_the_shipped_yaml_is_the_default_config():
    assert build(Config, read_layer(CONFIGS / "generators" / "synface.yaml")) == Config()


def test_the_full_size():
    """stylegan2-ada-pytorch at 128 px without labels; z has 160 + 126 numbers (DiscoFaceGAN)."""
    with torch.device("meta"):
        networks = SynFace(Config()).networks(112, 512)
        sizes = {name: count(module, *inputs) for name, (module, inputs) in networks.items()}
    convs = 7 * 2622465 + 1442561 + 721409 + 426369 + 213249
    assert sizes["generator"][0] == 8192 + convs + 4 * 264195 + 132099 + 66051 + 512 * 286 + 512 + 262656
    assert sizes["discriminator"][0] == 24001089 - 118976 - 256 + 512
    assert [round(sizes[name][1] / 1e9, 1) for name in ("generator", "discriminator")] == [
        11.3,
        11.7,
    ]  # GMAC; 11.25 of them by hand


# ------------------------------------------------------------------------------------------------------------------- mixup


def test_the_shares_are_on_the_grid_and_evenly():
    mixes = [synface.mix(Slot(identity, sample), 1.0, 0) for identity in range(1, 101) for sample in range(42)]
    steps = np.array([share for _, share in mixes]) * 20
    assert np.allclose(steps, steps.round())
    drawn = np.bincount(steps.round().astype(int), minlength=21)
    assert drawn.sum() == 4200 and drawn.min() > 140 and drawn.max() < 260  # 200 each


def test_soft_labels_name_two_people_of_every_volume():
    """The other identity is a smaller number, so the first k of n identities need only each other; the two shares are one image."""
    for identity in (1, 2, 40, 5000):
        mixes = [synface.mix(Slot(identity, sample), 1.0, 0) for sample in range(400)]
        mixed = {second for second, share in mixes if share < 1}
        assert mixed == set(range(max(0, identity - synface.REACH), identity))
        assert all(second == identity for second, share in mixes if share == 1)
    assert all(synface.mix(Slot(0, sample), 1.0, 0) == (0, 1.0) for sample in range(50))


def test_the_share_of_mixed_images_is_a_setting():
    slots = [Slot(identity, sample) for identity in range(1, 101) for sample in range(20)]
    assert all(synface.mix(slot, 0.0, 0) == (slot.identity, 1.0) for slot in slots)
    half = np.mean([synface.mix(slot, 0.5, 0).share < 1 for slot in slots])
    assert half == pytest.approx(0.5 * 20 / 21, abs=0.04)
    assert synface.mix(slots[7], 1.0, 0) != synface.mix(slots[7], 1.0, 1)


def test_codes_are_mixed_not_pixels(trained, faces, encoder, tmp_path):
    """Every image is what the network paints from phi a_1 + (1 - phi) a_2, the attributes and noise being its own."""
    generator, inputs = trained
    slots = [Slot(identity, sample) for identity in range(6) for sample in range(4)]
    (batch,) = generator.generate(slots, context(tmp_path, faces, encoder, inputs=inputs))
    second, weight = batch.columns["label2"], batch.columns["weight"]
    assert second.dtype == torch.int64 and 5 < int((weight < 1).sum()) <= 20
    painter, _ = synface.build(generator.config.train, R)
    painter.load_state_dict(read_tensors(inputs["train"] / "weights.safetensors"))
    codes = torch.randn(4096, 7, generator=torch_generator(0, "mean style"))
    for i in (0, 6, 13, 22):
        one, two = (torch.randn(4, generator=torch_generator(SEED, "identity", who)) for who in (slots[i].identity, int(second[i])))
        stream = torch_generator(SEED, "image", *slots[i])
        other, noise = torch.randn(3, generator=stream), torch.randn(painter.noise_size, generator=stream)
        with torch.no_grad():
            w = painter.styles(torch.cat([weight[i] * one + (1 - weight[i]) * two, other])[None])
            w = w.clone()
            w[:, :2] = (centre := painter.mapping(codes).mean(0)) + 0.8 * (w[:, :2] - centre)
            image = ((painter.paint(w, noise[None]) + 1) * 127.5).clamp(0, 255)[0]
        assert (image - batch.images[i].float()).abs().max() < 0.6


def test_the_set_has_soft_labels(trained, faces, encoder, tmp_path):
    generator, inputs = trained
    writer = ShardWriter(tmp_path / "set")
    for batch in generator.generate([Slot(i, s) for i in range(3) for s in range(5)], context(tmp_path, faces, encoder, inputs=inputs)):
        writer.write(batch)
    writer.finish()
    made = open_faces(tmp_path / "set")
    assert made.mixed and made.whole[:5].all() and not made.whole.all()


# ---------------------------------------------------------------------------------------------------------- identity codes


def test_codes_are_whitened_and_stand_for_their_embeddings():
    torch.manual_seed(0)
    x = F.normalize(torch.randn(400, 5) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.2]) + 0.5, dim=1)
    basis = Basis(5, 5)
    basis.fit(x)
    codes = torch.linalg.solve(basis.axes.T, (x - basis.mean).T).T
    torch.testing.assert_close(torch.cov(codes.T), torch.eye(5), atol=1e-3, rtol=0)
    torch.testing.assert_close(basis(codes), x, atol=1e-5, rtol=0)
    few = Basis(5, 2)
    few.fit(x)
    torch.testing.assert_close(few.axes.abs(), basis.axes[:2].abs())  # the strongest first
    assert few.axes.norm(dim=1).diff() < 0


def test_identity_loss_against_a_loop():
    torch.manual_seed(0)
    found, wanted = torch.randn(6, 4), F.normalize(torch.randn(6, 4), dim=1)
    found[0] = wanted[0] * 3
    expected = [max(0.3, 1 - float(a @ b / a.norm())) for a, b in zip(found, wanted)]
    assert expected[0] == 0.3
    assert float(synface.identity_loss(found, wanted, 0.3)) == pytest.approx(np.mean(expected), abs=1e-6)


def test_the_identity_loss_of_a_step(tmp_path, faces, encoder, monkeypatch):
    """Weighted, above the floor, and of the identity code, also where style mixing takes other attributes."""
    caught = []
    monkeypatch.setattr(synface.adversarial.Rivals, "update", lambda self, batch, step, extra: caught.append((batch, extra)) or {})
    train = settings(identity_weight=3.0, identity_floor=0.3, style_mixing=0.9, steps=1)
    monkeypatch.setattr(synface.loop, "run", lambda update, *a: update(loop.Step(0, 1, np.arange(16), torch.Generator().manual_seed(0))))
    synface.train(train, context(tmp_path, faces, encoder))
    ((batch, extra),) = caught
    assert torch.equal(batch.other[:, :4], batch.z[:, :4]) and not torch.equal(batch.other[:, 4:], batch.z[:, 4:])
    basis, images = synface.fitted(train, context(tmp_path / "again", faces, encoder)), torch.randn(16, 3, R, R)
    distance = 1 - F.cosine_similarity(encoder(images), basis(batch.z[:, :4]))
    assert extra(images, batch)["identity_loss"].item() == pytest.approx(3 * distance.clamp(min=0.3).mean().item(), rel=1e-5)


def test_the_painted_face_is_the_person_of_its_code(trained, faces, encoder, tmp_path):
    """Through the encoder, an unmixed image is nearer to its own code's embedding than to the others'."""
    generator, _ = trained
    painter, _ = synface.build(generator.config.train, R)
    painter.load_state_dict(read_tensors(trained[1]["train"] / "weights.safetensors"))
    basis = synface.fitted(generator.config.train, context(tmp_path, faces, encoder))
    z = torch.randn(64, 7, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        near = encoder(painter(z, torch.randn(64, painter.noise_size))) @ basis(z[:, :4]).T
    own = near.diag().mean() - near.mean()
    assert own > near.std() * 0.5


# ---------------------------------------------------------------------------------------------------------------- bad input


def test_bad_input(tmp_path, faces, encoder):
    blind = Encoder(Projection(), resolution=R, dim=DIM, differentiable=False, name="blind")
    with pytest.raises(UserError, match="blind runs forwards only"):
        synface.train(settings(), context(tmp_path, faces, blind))
    with pytest.raises(UserError, match=r"train\.identity is 7, but an embedding by projection has 6 numbers"):
        synface.train(settings(identity=7), context(tmp_path, faces, encoder))
    few = FaceSet.from_arrays(faces.images(slice(0, 4)), [0, 0, 1, 1])
    with pytest.raises(UserError, match="4 faces have no 4 principal components"):
        synface.train(settings(), context(tmp_path, few, encoder))
