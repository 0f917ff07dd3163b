"""DCFace: its pairs, its two conditions, its loss, and its size against what was read in the official code."""

import json

import numpy as np
import pytest
import torch
from fake_context import context
from torch.nn import functional as F

from synthbench.config import CONFIGS, build, parse_set, read_layer
from synthbench.data.faces import FaceSet
from synthbench.generators import dcface
from synthbench.generators.dcface import Config, DCFace, Denoiser, People, Sample, StyleBank, Train
from synthbench.identities import inquiries
from synthbench.models import encoder as encoders
from synthbench.models.encoder import Encoder
from synthbench.models.patch_style import StyleEncoder, statistics, waves
from synthbench.models.size import count
from synthbench.models.unet import Shape
from synthbench.training import loop
from synthbench.types import Slot, UserError, Volume

TINY = Shape(channels=8, multipliers=(1, 2), attention_levels=(1,), attention_width=16, head_width=8, groups=4, skip_downsample_level=-1)
R, DIM = 16, 12
PEOPLE, EACH = 8, 3


@pytest.fixture(scope="module")
def faces():
    rng = np.random.default_rng(0)
    person = rng.integers(0, 256, (PEOPLE, 1, R, R, 3))
    pixels = (0.7 * person + 0.3 * rng.integers(0, 256, (PEOPLE, EACH, R, R, 3))).astype(np.uint8)
    return FaceSet.from_arrays(pixels.reshape(-1, R, R, 3), np.arange(PEOPLE * EACH) // EACH)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return Encoder(encoders.build({"family": "small", "width": 8, "dropout": 0.0}, R, DIM), resolution=R, dim=DIM, name="small")


def settings(**change):
    return Train(**{"unet": TINY, "steps": 6, "batch_size": 6, "lr": 1e-3, "width": 10, "grid": 2, "unconditional": None} | change)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, faces, encoder):
    root = tmp_path_factory.mktemp("dcface")
    config = Config(train=settings(), enroll={"source": "real", "threshold": 1, "novelty": 1}, sample={"steps": 2, "copies": 1})
    generator = DCFace(config)
    generator.train(context(root / "train", faces, encoder))
    inputs = {"train": root / "train", "enroll": root / "enroll"}
    generator.enroll(4, context(root / "enroll", faces, encoder, inputs=inputs))
    return generator, inputs


def wake(module):
    """Give every zero-initialised layer weights, so that all paths carry signal."""
    for p in module.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.1)
    return module


# ------------------------------------------------------------------------------------------------------------ the settings


def test_the_shipped_yaml_is_the_default_config():
    assert build(Config, read_layer(CONFIGS / "generators" / "dcface.yaml")) == Config()


def test_an_id_source_without_its_model_is_refused():
    with pytest.raises(UserError, match=r"unconditional needs the model of train\.unconditional"):
        build(Config, parse_set(["train.unconditional=null"]))
    assert build(Config, parse_set(["train.unconditional=null", "enroll.source=world"])).train.unconditional is None


def test_paper_size():
    with torch.device("meta"):
        found = DCFace(Config()).networks(112, 512)
        (denoiser, inputs), (first, _) = found["denoiser"], found["unconditional"]
        parameters, macs = count(denoiser, *inputs)
        alone = count(first, *inputs[:2])
    head = 3 * (128 * 9 + 1)  # the official UNet has three more output channels, of a variance that is never trained
    style = denoiser.E_sty.parameters(), denoiser.unet.context.parameters()
    assert sum(p.numel() for part in style for p in part) == 574_977
    assert sum(p.numel() for p in denoiser.E_id.parameters()) == 43_585_600
    assert denoiser.position.numel() + denoiser.scale.numel() == 25_601
    assert parameters == 93_563_910 - head + 574_977 + 43_585_600 + 25_601  # 137.8 M
    assert macs == pytest.approx(38.41e9, rel=0.005)  # 76.8 GFLOP
    assert alone[0] == 93_563_910 - head and alone[1] == pytest.approx(38.35e9, rel=0.005)
    assert inputs[2].tokens[0].shape == (1, 8, 75, 64)  # 49 places of the ID and 26 of the style


# ---------------------------------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize("statistic", ["official", "variance"])
def test_patch_statistics_against_a_loop(statistic):
    x = torch.randn(2, 3, 6, 6)
    found = statistics(x, 3, statistic)
    assert found.shape == (2, 10, 3, 2)
    patches = [x, *(x[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] for i in range(3) for j in range(3))]
    for place, patch in enumerate(patches):
        values = patch.flatten(2)
        torch.testing.assert_close(found[:, place, :, 0], values.mean(2))
        second = values.mean(2) - (values**2).mean(2) if statistic == "official" else values.var(2, correction=0)
        torch.testing.assert_close(found[:, place, :, 1], second)


def test_style_tokens_say_where():
    """A patch changes its own token and that of the whole, and no other."""
    torch.manual_seed(0)
    E_sty = StyleEncoder(3, 7, 8, 3, "official", 0.3)
    assert E_sty.side == 6
    x = torch.randn(1, 3, 7, 7)
    E_sty.settle(torch.randn(4, 3, 7, 7), torch.ones(4, 3, 6, 6))
    changed = x.clone()
    changed[..., 0, 0] += 3
    moved = (E_sty(changed) - E_sty(x)).abs().amax((0, 2)) > 1e-4
    assert moved.nonzero()[:, 0].tolist() == [0, 1]
    with pytest.raises(UserError, match=r"train\.grid 9 is finer"):
        StyleEncoder(3, 7, 8, 9, "official", 0.3)


def test_style_dropout_and_batch_norm():
    torch.manual_seed(0)
    E_sty = StyleEncoder(3, 20, 8, 5, "variance", 0.3)
    features = torch.randn(64, 3, 20, 20) * 2 + 1
    draw = torch.Generator().manual_seed(1)
    keep = E_sty.keep(64, draw, torch.device("cpu"))
    assert keep.shape == (64, 3, 20, 20) and keep.float().mean().item() == pytest.approx(0.7, abs=0.01)
    everything = torch.ones_like(keep) * 0.7  # as if nothing were left out
    with torch.no_grad():
        in_training = E_sty(features, everything)
        assert not torch.allclose(E_sty(features), in_training, atol=1e-2)  # nothing was settled yet
        E_sty.settle(features, everything)
        torch.testing.assert_close(E_sty(features), in_training, atol=1e-3, rtol=0)
        torch.testing.assert_close(E_sty(features[:3]), E_sty(features)[:3])  # no neighbours
        assert not torch.allclose(E_sty(features, keep), in_training, atol=1e-2)
        clean, variance = E_sty.norm.running_var.clone(), torch.var_mean(E_sty.mixed(features, keep), (0, 2, 3))[0]
        E_sty.settle(features, keep)
        torch.testing.assert_close(E_sty.norm.running_var, variance)  # of training, with dropout: larger
        assert (E_sty.norm.running_var > 1.1 * clean).all()


def test_positions_start_as_waves():
    table = waves(50, 8)
    assert table[0].tolist() == [-0.5, 0.5] * 4
    assert table[7, 2].item() == pytest.approx(np.sin(7 / 10_000 ** (2 / 8)) - 0.5, abs=1e-6)
    assert table[7, 5].item() == pytest.approx(np.cos(7 / 10_000 ** (4 / 8)) - 0.5, abs=1e-6)


def test_both_conditions_and_the_time_embedding_count(encoder):
    torch.manual_seed(0)
    denoiser = wake(Denoiser(settings(), R, encoder))
    x, t = torch.randn(2, 3, R, R), torch.tensor([10, 900])
    x_id, x_sty = torch.rand(2, 3, R, R) * 2 - 1, torch.rand(2, 3, R, R) * 2 - 1
    with torch.no_grad():
        style = encoder.maps(x_sty, 1)[0]
        condition = denoiser.condition(x_id, style)
        y = denoiser(x, t, condition)
        assert condition.tokens[0].shape == (2, 2, 4 * 4 + 1 + 4, 8) and condition.identity.shape == (2, 32)
        assert not torch.allclose(y, denoiser(x, t, denoiser.condition(x_id.flip(0), style)), atol=1e-5)
        assert not torch.allclose(y, denoiser(x, t, denoiser.condition(x_id, style.flip(0))), atol=1e-5)
        assert not torch.allclose(y, denoiser(x, t, condition._replace(identity=condition.identity + 1)), atol=1e-5)
        who = denoiser.fit_code(denoiser.E_id(x_id)) + denoiser.position[0]  # the embedding, not normalised, and the first position
        torch.testing.assert_close(condition.identity, denoiser.to_time(0.001 * who))


@pytest.mark.parametrize("mode", ["tuned", "frozen"])
def test_the_identity_encoder_starts_as_the_protocols(encoder, mode):
    denoiser = Denoiser(settings(identity_encoder=mode), R, encoder)
    x = torch.randn(2, 3, R, R)
    torch.testing.assert_close(denoiser.E_id(x), encoder(x))
    assert all(p.requires_grad == (mode == "tuned") for p in denoiser.E_id.parameters())
    assert not any(p.requires_grad for p in encoder.parameters())  # a copy of its own
    assert not any(module.training for module in denoiser.train().E_id.modules())


# --------------------------------------------------------------------------------------------------------- loss and pairs


def test_identity_loss_against_a_loop():
    torch.manual_seed(0)
    reached, who, style = torch.randn(3, 5, 4)
    t = torch.tensor([0, 250, 500, 750, 999])
    expected = 0.0
    for i in range(5):
        gamma = t[i].item() / 1000
        to_id, to_style = (float(reached[i] @ v[i] / reached[i].norm() / v[i].norm()) for v in (who, style))
        expected += (gamma * (1 - to_id) + (1 - gamma) * (1 - to_style)) / 5
    assert dcface.identity_loss(reached, who, style, t / 1000).item() == pytest.approx(expected, abs=1e-6)
    one = torch.ones(5)
    assert dcface.identity_loss(who * 2, who, style, one).item() == pytest.approx(0, abs=1e-6)  # t = T: the ID image
    assert dcface.identity_loss(style, who, style, 0 * one).item() == pytest.approx(0, abs=1e-6)  # t = 0: the style image


def test_objective_against_a_loop_and_what_it_teaches(encoder):
    torch.manual_seed(0)
    train = settings(prediction="epsilon", identity_weight=0.7, clip_x0=True, weighting="plain")
    denoiser = wake(Denoiser(train, R, encoder))
    x0, x_id, noise = torch.randn(3, 4, 3, R, R).clamp(-1, 1)
    t, style, who = torch.tensor([5, 300, 600, 950]), encoder(x0).detach(), encoder(x_id).detach()
    keep = denoiser.E_sty.keep(4, torch.Generator().manual_seed(0), torch.device("cpu"))
    abar = train.signal[t]
    found = dcface.objective(denoiser, encoder, dcface.Batch(x0, x_id, keep, style, who, t, abar, noise), train)
    a = abar[:, None, None, None]
    x_t = a.sqrt() * x0 + (1 - a).sqrt() * noise
    output = denoiser(x_t, t, denoiser.condition(x_id, encoder.maps(x0, 1)[0], keep))
    estimate = ((x_t - (1 - a).sqrt() * output) / a.sqrt()).clamp(-1, 1)
    to_id, to_style = (1 - F.cosine_similarity(encoder(estimate), v) for v in (who, style))
    matching = (t / 1000 * to_id + (1 - t / 1000) * to_style).mean()
    assert found["mse"].item() == pytest.approx((output - noise).square().mean().item(), rel=1e-4)
    assert found["identity_loss"].item() == pytest.approx(matching.item(), rel=1e-4)
    assert found["loss"].item() == pytest.approx((found["mse"] + 0.7 * found["identity_loss"]).item(), rel=1e-5)
    assert torch.autograd.grad(found["identity_loss"], next(denoiser.unet.parameters()))[0].any()  # through the frozen encoder


def test_a_step_sees_the_images_and_the_embeddings_of_style_and_person(tmp_path, faces, encoder, monkeypatch):
    batches, plain = [], dcface.objective
    monkeypatch.setattr(dcface, "objective", lambda d, e, batch, s: batches.append(batch) or plain(d, e, batch, s))
    dcface.train(settings(steps=2), context(tmp_path, faces, encoder))
    for batch in batches:
        for image, code in ((batch.x0, batch.style), (batch.x_id, batch.who)):
            torch.testing.assert_close(encoder(image), code, atol=1e-4, rtol=1e-3)
        assert not torch.equal(batch.x0, batch.x_id)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (["enroll.source=real"], r"set enroll\.novelty=1"),
        (["enroll.sampler.steps=900", "train.unconditional.T=500"], r"900 is more than train\.unconditional\.T 500"),
    ],
)
def test_what_enrolment_would_refuse_is_refused_at_once(setting, said):
    with pytest.raises(UserError, match=said):
        build(Config, parse_set(setting))


def test_made_id_images_are_no_photographs(trained, faces, encoder, tmp_path):
    generator, inputs = trained
    for source, real in (("real", 1), ("world", 0)):
        config = generator.config.model_copy(update={"enroll": generator.config.enroll.model_copy(update={"source": source})})
        (batch,) = DCFace(config).generate([Slot(0, 0), Slot(0, -1)], context(tmp_path, faces, encoder, inputs=inputs))
        assert batch.columns["real"].tolist() == [0, real]
        assert FaceSet.from_arrays(batch.images, batch.identity, columns=batch.columns).made.tolist() == [True, False]


def test_pairs_are_of_one_person_and_near_its_centre():
    rng = np.random.default_rng(0)
    identity = rng.permutation(np.repeat(np.arange(6), [2, 3, 5, 10, 20, 40]))
    unit = F.normalize(torch.randn(len(identity), 8, generator=torch.Generator().manual_seed(0)) + 1, dim=1)
    people = People(unit, identity)
    rows = rng.integers(0, len(identity), 20_000)
    style, who = people.pairs(rows, 4, 0.1, torch.Generator().manual_seed(1))
    assert (identity[style] == identity[rows]).all() and (identity[who] == identity[rows]).all() and (style != who).all()
    for person in range(6):
        mine = np.flatnonzero(identity == person)
        centre = F.normalize(unit[mine].sum(0), dim=0)
        torch.testing.assert_close(people.centres[person], centre)
        ranked = mine[np.argsort(-(unit[mine] @ centre).numpy())]
        similarity = unit[mine] @ centre
        inliers = set(mine[(similarity >= similarity.double().quantile(0.1) - 1e-6).numpy()])
        best = set(ranked[:4])
        here = identity[rows] == person
        assert set(style[here]) == inliers and set(who[here]) == best  # all of them come, and no other
        kept = here & np.isin(rows, list(inliers))
        assert (style[kept] == rows[kept]).all()


def test_somebody_must_have_two_images(tmp_path, encoder):
    pixels = np.zeros((5, R, R, 3), np.uint8)
    for labels in (np.arange(5), np.full(5, -1)):
        with pytest.raises(UserError, match="nobody in the real set has two images"):
            dcface.train(settings(), context(tmp_path, FaceSet.from_arrays(pixels, labels), encoder))


def test_people_with_one_image_are_left_out(tmp_path, faces, encoder):
    some = FaceSet.from_arrays(faces.images(slice(0, 4)), [0, 0, 0, 1])
    dcface.train(settings(steps=2, batch_size=50), context(tmp_path, some, encoder))
    assert (tmp_path / "weights.safetensors").exists()


# ---------------------------------------------------------------------------------------------------------------- training


def test_first_loss_is_the_papers(tmp_path, faces, encoder):
    """An untrained network answers zero: L_MSE is the mean square of the noise, and lambda is 0.05."""
    dcface.train(settings(steps=1, batch_size=24), context(tmp_path, faces, encoder))
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert row["mse"] == pytest.approx(1, abs=0.06)
    assert row["loss"] == pytest.approx(row["mse"] + 0.05 * row["identity_loss"], abs=1e-5)


def test_no_look_at_the_condition_uses_the_batch_norm_before_it_is_settled(tmp_path, faces, encoder, monkeypatch):
    seen, plain = [], dcface.StyleEncoder.forward
    monkeypatch.setattr(dcface.StyleEncoder, "forward", lambda self, x, keep=None: seen.append(keep is None) or plain(self, x, keep))
    dcface.train(settings(steps=2), context(tmp_path, faces, encoder))
    assert seen and not any(seen)


def test_training_reaches_every_weight(tmp_path, faces, encoder, monkeypatch):
    monkeypatch.setattr(loop, "EVERY", 1e9)
    dcface.train(settings(steps=1), context(tmp_path / "one", faces, encoder))
    dcface.train(settings(steps=10, lr=1e-2), context(tmp_path / "many", faces, encoder))
    one, many = (encoders.read_tensors(tmp_path / name / "weights.safetensors") for name in ("one", "many"))
    still = [name for name in one if torch.equal(one[name], many[name]) and not name.startswith("E_id.net") and one[name].numel() > 1]
    assert still == []
    assert any(not torch.equal(one[name], many[name]) for name in one if name.startswith("E_id.net"))
    row = json.loads((tmp_path / "many" / "metrics.jsonl").read_text())
    gains = {"condition_gain", "condition_gain_stderr"}
    assert {"step", "loss", "mse", "identity_loss", "similarity", "images_per_second"} | gains == set(row)
    assert {path.name for path in (tmp_path / "many").iterdir()} == {"weights.safetensors", "centres.safetensors", "metrics.jsonl"}


def test_a_killed_training_goes_on_bit_for_bit(trained, tmp_path, faces, encoder, monkeypatch):
    monkeypatch.setattr(loop, "EVERY", -1)

    def kill(done, total):
        if done == 4 and total == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dcface.train(settings(), context(tmp_path, faces, encoder, progress=kill))
    torch.manual_seed(99)
    dcface.train(settings(), context(tmp_path, faces, encoder))
    whole, cut = ((folder / "weights.safetensors").read_bytes() for folder in (trained[1]["train"], tmp_path))
    assert whole == cut


def test_encoders_that_cannot_serve_are_refused(tmp_path, faces):
    flat = torch.nn.Flatten()
    with pytest.raises(UserError, match="blind runs forwards only"):
        dcface.train(settings(), context(tmp_path, faces, Encoder(flat, resolution=R, dim=3 * R * R, differentiable=False, name="blind")))
    with pytest.raises(UserError, match="strange has no feature maps"):
        dcface.train(settings(), context(tmp_path, faces, Encoder(flat, resolution=R, dim=3 * R * R, name="strange")))


# -------------------------------------------------------------------------------------------------------------- generation


def test_images_copies_and_columns(trained, faces, encoder, tmp_path):
    generator, inputs = trained
    ctx = context(tmp_path, faces, encoder, inputs=inputs)
    slots = generator.slots(Volume.parse("3x4"), ctx)
    assert slots[:6] == [*(Slot(0, i) for i in range(4)), Slot(0, -1), Slot(1, 0)]
    batches = list(generator.generate(slots, ctx))
    images = torch.cat([batch.images for batch in batches])
    columns = {name: torch.cat([batch.columns[name] for batch in batches]) for name in batches[0].columns}
    known = inquiries.load(inputs["enroll"]).faces.images(slice(None))
    for i, slot in enumerate(slots):
        assert columns["real"][i] == (slot.sample < 0)
        if slot.sample < 0:
            assert torch.equal(images[i], known[slot.identity]) and columns["style"][i].isnan() and columns["similarity"][i] == 1
        else:
            cosine = (encoder.embed(images[i : i + 1]) * encoder.embed(known[slot.identity][None])).sum()
            assert columns["similarity"][i].item() == pytest.approx(cosine.item(), abs=1e-5)
    assert columns["style"][columns["real"] == 0].unique().numel() > 4
    part = torch.cat([batch.images for batch in generator.generate(slots[7:9], ctx)])
    assert torch.equal(part, images[7:9])


def test_styles_are_random_or_of_people_alike():
    identity = np.repeat(np.arange(20), 5)
    centres = F.normalize(torch.randn(20, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    who = F.normalize(torch.randn(2, 6, generator=torch.Generator().manual_seed(1)), dim=1)
    slots = [Slot(1, i) for i in range(600)]
    rows = {
        style: [StyleBank(identity, who, centres, Sample(style=style, match=0.2), 7).row(s) for s in slots]
        for style in ("random", "matched")
    }
    assert len(set(rows["random"])) > 95
    alike = set((centres @ who[1]).topk(4).indices.tolist())
    assert set(rows["matched"]) == set(np.flatnonzero(np.isin(identity, list(alike))))
    bank = StyleBank(identity, who, centres, Sample(match=0.2), 7)
    assert [bank.row(slot) for slot in slots[::-1]] == rows["matched"][::-1]  # a matter of the slot alone
    assert [StyleBank(identity, who, centres, Sample(match=0.2), 8).row(slot) for slot in slots] != rows["matched"]


def test_id_images_resemble_no_real_person(trained, faces, encoder, tmp_path):
    generator, inputs = trained
    strict = DCFace(generator.config.model_copy(update={"enroll": dcface.Enroll(source="real", threshold=1, novelty=0.3)}))
    with pytest.raises(UserError, match=rf"{PEOPLE} of {PEOPLE} candidates tried, 0 fit .* other conditions of enroll"):
        strict.enroll(3, context(tmp_path, faces, encoder, inputs=inputs))  # real people resemble themselves


def test_id_images_of_the_first_stage(tmp_path, faces, encoder, unrounded):
    """Both stages: people who do not exist, in the styles of photographs."""
    first = dcface.FirstStage(unet=TINY, steps=2, batch_size=6)
    enroll = {"threshold": 1, "novelty": 1, "sampler": {"steps": 2}}
    generator = DCFace(Config(train=settings(steps=2, unconditional=first), enroll=enroll, sample={"steps": 2}))
    generator.train(context(tmp_path / "train", faces, encoder))
    inputs = {"train": tmp_path / "train", "enroll": tmp_path / "enroll"}
    generator.enroll(2, context(tmp_path / "enroll", faces, encoder, inputs=inputs))
    assert json.loads((tmp_path / "enroll" / "enroll.json").read_text())["source"] == "unconditional"
    before = unrounded()
    images = next(generator.generate([Slot(0, 0), Slot(1, 0)], context(tmp_path / "out", faces, encoder, inputs=inputs))).images
    assert images.shape == (2, 3, R, R) and unrounded() == before + 2
