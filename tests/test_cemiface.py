import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_context import context
from fake_encoder import Projection
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from synthbench.config import CONFIGS, build, parse_set, read_layer
from synthbench.data.faces import FaceSet, ShardWriter, open_faces
from synthbench.generators import cemiface
from synthbench.generators.cemiface import CemiFace, Config, Denoiser, Interval, Sample, Train
from synthbench.identities import flow, inquiries, sampling
from synthbench.models.encoder import Encoder
from synthbench.models.unet import Shape
from synthbench.types import FaceBatch, Slot, UserError, Volume

TINY = Shape(channels=8, multipliers=(1, 2), attention_levels=(1,), attention_width=16, head_width=8, groups=4, skip_downsample_level=-1)
R, DIM = 8, 6


@pytest.fixture(scope="module")
def faces():
    pixels = np.random.default_rng(0).integers(0, 256, (24, R, R, 3), dtype=np.uint8)
    return FaceSet.from_arrays(pixels, np.arange(24) // 2)


@pytest.fixture(scope="module")
def encoder():
    return Encoder(Projection(DIM, R), resolution=R, dim=DIM, name="projection")


def settings(**change):
    return Train(unet=TINY, steps=8, batch_size=6, lr=1e-3, **change)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, faces, encoder):
    """A generator after `train` and `enroll`, with the folders of both."""
    root = tmp_path_factory.mktemp("cemiface")
    generator = CemiFace(Config(train=settings(), enroll={"threshold": 0.9}, sample={"steps": 3, "copies": 2, "m": (0.0, 0.5)}))
    generator.train(context(root / "train", faces, encoder))
    generator.enroll(5, context(root / "enroll", faces, encoder))
    return generator, {"train": root / "train", "enroll": root / "enroll"}


def test_the_shipped_yaml_is_the_default_config():
    assert build(Config, read_layer(CONFIGS / "generators" / "cemiface.yaml")) == Config()


@pytest.mark.parametrize("value", ["1.5", "[0, -1.2]", "{low: 0, high: 2}"])
def test_m_outside_its_range_is_refused(value):
    with pytest.raises(UserError, match=r"(?s)sample\.m.*outside \[-1, 1\]"):
        build(Config, parse_set([f"sample.m={value}"]))


def test_m_may_be_a_number_a_list_or_an_interval():
    values = [build(Config, parse_set([f"sample.m={text}"])).sample.m for text in ("0.2", "[0, 0.5]", "{low: -0.1, high: 0.1}")]
    assert values == [0.2, (0.0, 0.5), Interval(low=-0.1, high=0.1)]
    with pytest.raises(ValidationError):
        Sample(m=())


def test_more_ddim_steps_than_diffusion_steps_are_refused():
    with pytest.raises(UserError, match=r"sample\.steps 101 is more than the 100"):
        build(Config, parse_set(["sample.steps=101", "train.T=100"]))


def test_requested_m():
    assert [cemiface.requested((0.0, 0.5, 0.9), Slot(4, i), 0) for i in range(4)] == [0.0, 0.5, 0.9, 0.0]
    interval = Interval(low=-0.1, high=0.1)
    values = [cemiface.requested(interval, Slot(7, i), 0) for i in range(50)]
    assert values == [cemiface.requested(interval, Slot(7, i), 0) for i in range(50)]
    histogram, _ = np.histogram(values, 5, (-0.1, 0.1))
    assert histogram.sum() == 50 and histogram.min() >= 8  # even, and inside


def test_similarity_loss_against_a_loop():
    torch.manual_seed(0)
    a, b = torch.randn(5, 4), torch.randn(5, 4)
    m, t = torch.tensor([-1.0, -0.2, 0.0, 0.6, 1.0]), torch.tensor([0, 250, 500, 750, 999])
    reached, gamma = cemiface.similarity(a, b, "cosine"), t / 1000
    expected = []
    for i in range(5):
        cosine = float(a[i] @ b[i] / a[i].norm() / b[i].norm())
        g = float(t[i]) / 1000
        expected.append((1 - g) * abs(1 - cosine) + g * abs(float(m[i]) - cosine))
    assert float(cemiface.similarity_loss(reached, m, gamma)) == pytest.approx(np.mean(expected), abs=1e-6)
    same = cemiface.similarity(a, a * 3, "euclidean")
    torch.testing.assert_close(same, torch.ones(5), atol=1e-3, rtol=0)
    assert float(cemiface.similarity(a, -a, "euclidean").mean()) == pytest.approx(-1, abs=1e-3)
    squared = cemiface.similarity_loss(torch.tensor([0.5]), torch.tensor([-0.5]), torch.tensor([0.25]), "squared")
    assert float(squared) == pytest.approx(0.75 * 0.25 + 0.25 * 1.0)


@pytest.mark.parametrize("tokens", ["separate", "joined"])
def test_condition(tokens):
    torch.manual_seed(0)
    denoiser = Denoiser(settings(tokens=tokens), R, DIM)
    code, m = torch.randn(3, DIM), torch.tensor([0.0, 0.5, -1.0])
    keys, values = denoiser.condition(code, m)
    assert keys.shape == values.shape == (3, 2, 2 if tokens == "separate" else 1, 8)
    torch.testing.assert_close(denoiser.condition(code * 4, m)[0], keys)  # only the direction of the embedding counts
    assert not torch.allclose(denoiser.condition(code, -m)[0][1:], keys[1:])


def test_m_comes_from_its_grid():
    m = cemiface.sample_m(5000, Train(), torch.Generator().manual_seed(0))
    steps = (m + 1) / 0.04
    torch.testing.assert_close(steps, steps.round(), atol=1e-4, rtol=0)
    assert len(steps.round().unique()) == 51 and m.min() == -1 and m.max() == pytest.approx(1, abs=1e-6)


def test_training_lowers_the_loss_and_logs(tmp_path, faces, encoder, monkeypatch):
    monkeypatch.setattr(cemiface.loop, "EVERY", 1e9)
    calls = []
    cemiface.train(
        settings().model_copy(update={"steps": 60, "lr": 5e-3}),
        context(tmp_path, faces, encoder, progress=lambda done, total: calls.append((done, total))),
    )
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [20, 40, 60] and rows[-1]["mse"] < 0.95
    assert {"loss", "mse", "similarity_loss", "similarity", "images_per_second"} <= set(rows[0])
    assert calls == [(len(faces), len(faces))] + [(i, 60) for i in range(1, 61)]  # embeddings first
    assert {path.name for path in tmp_path.iterdir()} == {"weights.safetensors", "metrics.jsonl"}


def test_first_loss_is_the_papers(tmp_path, faces, encoder):
    """An untrained network answers zero, so L_MSE is the mean square of the noise: 1."""
    cemiface.train(settings().model_copy(update={"steps": 1, "batch_size": 24}), context(tmp_path, faces, encoder))
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert row["mse"] == pytest.approx(1, abs=0.06)
    assert row["loss"] == pytest.approx(row["mse"] + 0.05 * row["similarity_loss"], abs=1e-5)


def test_grain_is_added_to_what_the_encoder_sees(faces, encoder):
    seen = []

    class Watching(nn.Module):
        def forward(self, x):
            seen.append(x.detach())
            return encoder(x)

    torch.manual_seed(0)
    x, ones, t = torch.rand(4, 3, R, R) * 2 - 1, torch.ones(4), torch.tensor([0, 300, 600, 999])
    grain = torch.randn(4, 3, R, R)
    for amount in (0.0, 0.1):
        batch = cemiface.Batch(x, torch.randn(4, DIM), ones, ones, t, ones * 0.5, torch.randn_like(x), grain * amount)
        denoiser = Denoiser(settings(), R, DIM)  # starts at zero: the estimate of x_0 is the same for every condition
        batch = batch._replace(noise=torch.zeros_like(x), code=ones[:, None].expand(4, DIM))
        cemiface.objective(denoiser, Watching(), batch, settings(similarity_noise=amount))
    torch.testing.assert_close(seen[1] - seen[0], 0.1 * grain)


def test_without_an_inquiry_there_is_no_similarity_to_learn(encoder):
    torch.manual_seed(0)
    x, code, m, t = torch.rand(4, 3, R, R) * 2 - 1, torch.randn(4, DIM), torch.zeros(4), torch.tensor([10, 300, 600, 900])
    told = torch.tensor([1.0, 0, 1, 0])
    batch = cemiface.Batch(x, code, told, m, t, torch.full((4,), 0.5), torch.randn_like(x), torch.zeros(4))
    denoiser = Denoiser(settings(), R, DIM)
    nn.init.normal_(denoiser.unet.out.weight, std=0.05)
    found = cemiface.objective(denoiser, encoder, batch, settings())
    alone = [cemiface.objective(denoiser, encoder, cemiface.Batch(*(part[i : i + 1] for part in batch)), settings()) for i in range(4)]
    assert float(alone[1]["similarity_loss"]) == 0 < float(alone[0]["similarity_loss"])
    assert float(found["similarity_loss"]) == pytest.approx(sum(float(one["similarity_loss"]) for one in alone) / 4, rel=1e-4)
    other = batch._replace(code=torch.where(told[:, None] > 0, code, torch.randn(4, DIM)))
    assert torch.equal(cemiface.objective(denoiser, encoder, other, settings())["mse"], found["mse"])


def test_guidance_uses_a_zero_inquiry(trained, faces, encoder, tmp_path, monkeypatch):
    """What DDIM is given is (1 + w) f(x, c, m) - w f(x, 0, m); a network that never saw zeros is refused."""
    networks: list = []
    denoiser = Denoiser(settings(), R, DIM)  # one whose condition counts, which takes longer to learn than a test may
    torch.manual_seed(0)
    for parameter in denoiser.parameters():
        nn.init.normal_(parameter, std=0.5)
    inputs = {"train": tmp_path / "train", "enroll": trained[1]["enroll"]}
    inputs["train"].mkdir()
    cemiface.loop.save_weights(denoiser, inputs["train"] / "weights.safetensors")

    def stop(network, *args):
        networks.append(network)
        raise InterruptedError

    monkeypatch.setattr(cemiface.process, "ddim", stop)
    for w in (0.0, 1.5):
        train = settings().model_copy(update={"empty": 0.1})
        other = CemiFace(Config(train=train, enroll={"threshold": 0.9}, sample={"steps": 3, "m": 0.5, "copies": 0, "guidance": w}))
        with pytest.raises(InterruptedError):
            list(other.generate([Slot(1, 0)], context(tmp_path, faces, encoder, inputs=inputs)))
    x, t, m = torch.randn(32, 3, R, R), torch.tensor([500]), torch.full((32,), 0.5)
    code = inquiries.load(inputs["enroll"]).codes[1].expand(32, -1)
    with torch.inference_mode():
        told, untold = (denoiser(x, t, denoiser.condition(c, m)) for c in (code, torch.zeros(32, DIM)))
        assert (told - untold).abs().max() > 1e-2
        torch.testing.assert_close(networks[0](x, t), told, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(networks[1](x, t), 2.5 * told - 1.5 * untold, atol=1e-4, rtol=1e-3)
    with pytest.raises(UserError, match=r"set train\.empty=0\.1"):
        build(Config, parse_set(["sample.guidance=1"]))


def test_a_killed_training_goes_on_bit_for_bit(tmp_path, faces, encoder, monkeypatch):
    monkeypatch.setattr(cemiface.loop, "EVERY", -1)  # after every step
    cemiface.train(settings(similarity_noise=0.1), context(tmp_path / "whole", faces, encoder))

    def kill(done, total):
        if done == 5:  # called before the checkpoint of step 5 is written
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cemiface.train(settings(similarity_noise=0.1), context(tmp_path / "cut", faces, encoder, progress=kill))
    assert (tmp_path / "cut" / "checkpoint.pt").exists()
    torch.manual_seed(99)
    cemiface.train(settings(similarity_noise=0.1), context(tmp_path / "cut", faces, encoder))
    whole, cut = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "cut"))
    assert whole == cut
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 9))


def test_a_damaged_checkpoint_is_named(tmp_path, faces, encoder):
    (tmp_path / "checkpoint.pt").write_bytes(b"half")
    with pytest.raises(UserError, match=r"checkpoint\.pt is damaged"):
        cemiface.train(settings(), context(tmp_path, faces, encoder))


def test_a_loss_that_is_not_finite_stops_with_a_diagnosis(tmp_path, faces, encoder):
    with pytest.raises(UserError, match=r"step 20.*train\.lr"):
        cemiface.train(settings().model_copy(update={"steps": 40, "lr": 1e30}), context(tmp_path, faces, encoder))


def test_an_encoder_without_gradients_is_refused(tmp_path, faces):
    blind = Encoder(Projection(DIM, R), resolution=R, dim=DIM, differentiable=False, name="blind")
    with pytest.raises(UserError, match="blind"):
        cemiface.train(settings(), context(tmp_path, faces, blind))


def test_generate_columns_and_copies(trained, faces, encoder, tmp_path):
    generator, inputs = trained
    ctx = context(tmp_path, faces, encoder, inputs=inputs)
    slots = generator.slots(Volume.parse("3x4+2x1"), ctx)
    assert len(slots) == 14 + 5 * 2 and slots[:7] == [*(Slot(0, i) for i in (0, 1, 2, 3, -1, -2)), Slot(1, 0)]
    made = list(generator.generate(slots, ctx))
    images, real = torch.cat([b.images for b in made]), torch.cat([b.columns["real"] for b in made])
    m, reached = torch.cat([b.columns["m"] for b in made]), torch.cat([b.columns["similarity"] for b in made])
    assert images.shape == (24, 3, R, R) and images.dtype == torch.uint8
    assert torch.cat([b.identity for b in made]).tolist() == [slot.identity for slot in slots]
    assert real.tolist() == [int(slot.sample < 0) for slot in slots]
    known = open_faces(inputs["enroll"] / "inquiries")
    for i, slot in enumerate(slots):
        if slot.sample < 0:
            assert torch.equal(images[i], known.images([slot.identity])[0]) and m[i].isnan() and reached[i] == 1
        else:
            assert m[i] == (0.0, 0.5)[slot.sample % 2]
            cosine = (encoder.embed(images[i : i + 1]) * encoder.embed(known.images([slot.identity]))).sum()
            assert float(reached[i]) == pytest.approx(float(cosine), abs=1e-5)


def test_an_image_depends_on_its_slot_alone(trained, faces, encoder, tmp_path, unrounded):
    generator, inputs = trained
    slots = [Slot(identity, sample) for identity in range(5) for sample in range(8)]

    def pixels(some, **more):
        return torch.cat([b.images for b in generator.generate(some, context(tmp_path, faces, encoder, inputs=inputs, **more))])

    whole = pixels(slots)
    assert unrounded() == len(slots)
    assert torch.equal(whole, pixels(slots, batch_size=7))
    assert torch.equal(whole[13:29], pixels(slots[13:29]))
    assert torch.equal(whole.flip(0), pixels(slots[::-1]))


def test_a_flow_tells_other_embeddings_than_the_inquirys(trained, faces, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(flow, "TRAINING", flow.TRAINING.model_copy(update={"steps": 2}))
    told, condition = [], Denoiser.condition
    monkeypatch.setattr(Denoiser, "condition", lambda self, code, m: told.append(code) or condition(self, code, m))
    generator, inputs = trained
    turned = CemiFace(
        generator.config.model_copy(update={"sample": generator.config.sample.model_copy(update={"perturb": 0.2, "directions": "flow"})})
    )
    ctx, slots = context(tmp_path, faces, encoder, inputs=inputs), [Slot(2, sample) for sample in range(3)]
    (batch,) = turned.generate(slots, ctx)
    code = inquiries.load(inputs["enroll"]).codes[2]
    torch.testing.assert_close(told[0].norm(dim=1), code.norm().expand(len(told[0])))
    assert (told[0][:3] - code).norm(dim=1).min() > 0.01 * code.norm()
    torch.testing.assert_close(batch.columns["similarity"], encoder.embed(batch.images) @ F.normalize(code, dim=0), atol=1e-5, rtol=0)


def test_chunks_hold_at_most_size_images_to_make():
    slots = [Slot(i, s) for i in range(7) for s in (0, 1, 2, -1, -2)]
    parts = list(sampling.chunks(slots, 4))
    assert [slot for part in parts for slot in part] == slots
    assert max(sum(slot.sample >= 0 for slot in part) for part in parts) == 4


# --------------------------------------------------------------------------------------------------------------- inquiries


def greedy(unit, threshold):
    kept = []
    for i in range(len(unit)):
        if all(float(unit[i] @ unit[j]) < threshold for j in kept):
            kept.append(i)
    return kept


def test_choose_is_the_greedy_filter():
    unit = F.normalize(torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    expected = greedy(unit, 0.5)
    first = inquiries.choose(unit[:25], unit[:0], 0.5, 99)
    second = inquiries.choose(unit[25:], unit[first], 0.5, 99) + 25
    assert [*first.tolist(), *second.tolist()] == expected and 5 < len(expected) < 60
    assert inquiries.choose(unit, unit[:0], 0.5, 3).tolist() == expected[:3]


def test_enroll_is_prefix_stable_and_far_apart(tmp_path, faces, encoder):
    generator = CemiFace(Config(enroll={"threshold": 0.5}))
    for count in (3, 6):
        generator.enroll(count, context(tmp_path / str(count), faces, encoder))
    few, many = (inquiries.load(tmp_path / name) for name in ("3", "6"))
    assert torch.equal(few.faces.images(slice(3)), many.faces.images(slice(3))) and torch.equal(few.codes, many.codes[:3])
    unit = F.normalize(many.codes, dim=1)
    assert (unit @ unit.T - 2 * torch.eye(6)).max() < 0.5
    torch.testing.assert_close(unit, encoder.embed(many.faces.images(slice(None))), atol=1e-5, rtol=0)
    one_each = FaceSet.images(faces, np.arange(0, 24, 2))
    assert all((one_each == image).flatten(1).all(1).any() for image in many.faces.images(slice(None)))


def test_images_and_codes_of_inquiries_are_of_one_attempt(tmp_path, faces, encoder):
    out = tmp_path / "cut"
    writer = ShardWriter(out / "inquiries", rows_per_shard=2)  # whole shards that a killed attempt with other choices left
    writer.write(FaceBatch(faces.images([1, 3]), torch.tensor([0, 1])))
    CemiFace(Config(enroll={"threshold": 0.5})).enroll(4, context(out, faces, encoder))
    found = inquiries.load(out)
    torch.testing.assert_close(F.normalize(found.codes, dim=1), encoder.embed(found.faces.images(slice(None))), atol=1e-5, rtol=0)


def test_enroll_says_how_many_fit(tmp_path, faces, encoder):
    generator = CemiFace(Config(enroll={"threshold": 0.1}))
    fit = len(greedy(encoder.embed(faces.images(np.arange(0, 24, 2))), 0.1))
    with pytest.raises(UserError, match=rf"12 of 12 candidates tried, {fit} fit"):
        generator.enroll(12, context(tmp_path, faces, encoder))


def test_enroll_from_another_data_set(tmp_path, faces, encoder):
    writer = ShardWriter(tmp_path / "other")
    writer.write(FaceBatch(faces.images(slice(0, 12)), torch.arange(12) // 3))
    writer.finish(["a", "b", "c", "d"])
    generator = CemiFace(Config(enroll={"threshold": 1.0, "source": str(tmp_path / "other")}))
    assert len(generator.sources(R)["inquiries"]) == 64  # the digest of those images enters the key of the stage
    generator.enroll(4, context(tmp_path / "out", faces, encoder))
    assert torch.equal(inquiries.load(tmp_path / "out").faces.images(slice(None)), faces.images([0, 3, 6, 9]))
    assert open_faces(tmp_path / "out" / "inquiries").identity.tolist() == [0, 1, 2, 3]


def test_enroll_from_the_world(tmp_path, faces, monkeypatch):
    from synthbench.world import renderer

    seen = []

    def people(part, identity, sample, resolution, seed=0, frontal=False):
        seen.append((part, frontal, sample.max().item()))
        pixels = np.stack([np.random.default_rng(int(i)).integers(0, 256, (3, resolution, resolution), np.uint8) for i in identity])
        return torch.from_numpy(pixels)

    monkeypatch.setattr(renderer, "faces", people)
    encoder = Encoder(Projection(DIM, R), resolution=R, dim=DIM)
    CemiFace(Config(enroll={"source": "world", "threshold": 0.8})).enroll(8, context(tmp_path, SimpleNamespace(resolution=R), encoder))
    assert len(inquiries.load(tmp_path).faces) == 8 and seen[0] == ("inquiry", True, 0)
    assert json.loads((tmp_path / "enroll.json").read_text())["kept"] == 8
