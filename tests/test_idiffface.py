import json
import math

import numpy as np
import pytest
import torch
from fake_context import context
from fake_encoder import Projection
from torch import nn
from torch.nn import functional as F

from synthbench.config import CONFIGS, build, parse_set, read_layer
from synthbench.data.faces import FaceSet
from synthbench.diffusion import autoencoder, process
from synthbench.generators import cemiface, idiffface
from synthbench.generators.idiffface import Config, Denoiser, IDiffFace, Train
from synthbench.identities import flow, hypersphere, inquiries
from synthbench.models import context_unet
from synthbench.models.context_unet import ContextUNet, Shape
from synthbench.models.encoder import Encoder
from synthbench.models.size import count
from synthbench.types import Slot, UserError, Volume

R, DIM = 8, 6
SHAPE = Shape(channels=8, multipliers=(1, 2), layers=1, attention_levels=(1,), head_width=4, groups=4, components=8, tokens=3)
PAINTER = autoencoder.Train(channels=(8, 16), layers=1, latents=4, groups=4, steps=4, batch_size=6, lr=2e-3, warmup=0)


@pytest.fixture(scope="module")
def faces():
    low = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (24, 3, 3, 3), dtype=np.uint8)).float()
    pixels = F.interpolate(low, (R, R), mode="bilinear").round().byte().permute(0, 2, 3, 1)
    return FaceSet.from_arrays(pixels.numpy(), np.arange(24) // 2)


@pytest.fixture(scope="module")
def encoder():
    return Encoder(Projection(DIM, R), resolution=R, dim=DIM, name="projection")


def settings(**change):
    return Train(**{"autoencoder": PAINTER, "unet": SHAPE, "pixels": 0, "empty": 0.2, "steps": 6, "batch_size": 6, "lr": 1e-3, **change})


@pytest.fixture(scope="module")
def trained(tmp_path_factory, faces, encoder):
    """Folders of `train` and of `enroll` with five directions."""
    root = tmp_path_factory.mktemp("idiffface")
    generator = IDiffFace(Config(train=settings(), enroll={"threshold": 0.8}))
    generator.train(context(root / "train", faces, encoder))
    weights = root / "train" / "weights.safetensors"
    awake(weights)
    generator.enroll(5, context(root / "enroll", faces, encoder))
    return {"train": root / "train", "enroll": root / "enroll"}


def awake(path):
    """Six steps from zero-initialised layers change nothing to speak of: give the weights on disk a size at which conditions show."""
    from safetensors.torch import load_file, save_file

    draw = torch.Generator().manual_seed(0)
    save_file({k: v + 0.1 * torch.randn(v.shape, generator=draw) for k, v in load_file(path).items()}, path)


def wake(network):
    for p in network.parameters():
        if not p.any():
            nn.init.normal_(p, std=0.1)
    return network.eval()


def generate(inputs, slots, faces, encoder, out, enroll=None, batch_size=64, **sample):
    generator = IDiffFace(Config(train=settings(), enroll=enroll or {"threshold": 0.8}, sample={"steps": 3, **sample}))
    batches = list(generator.generate(slots, context(out, faces, encoder, inputs=inputs, batch_size=batch_size)))
    return torch.cat([b.images for b in batches]), {k: torch.cat([b.columns[k] for b in batches]) for k in batches[0].columns}


# ------------------------------------------------------------------------------------------------------------------ config


def test_the_shipped_yaml_is_the_default_config():
    assert build(Config, read_layer(CONFIGS / "generators" / "idiffface.yaml")) == Config()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["sample.guidance=1"], r"train\.empty=0\.2"),
        (["sample.perturb=0.6"], r"enroll\.threshold below 1"),
        (["sample.copies=5"], r"uniform has none"),
        (["sample.steps=101", "train.T=100"], "101 is more than the 100"),
        (["train.unet.groups=64"], "multiples of groups 64"),
        (["train.unet.head_width=36"], "not a multiple of head_width"),
        (["train.unet.attention_levels=[4]"], "attention_levels has 4"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        build(Config, parse_set(change))


def test_full_size_is_the_papers():
    """The official configuration file states 216,341,187 parameters for the cross-attention variant."""
    with torch.device("meta"):
        networks = IDiffFace(Config()).networks(112, 512)
    parameters, macs = count(networks["denoiser"][0], *networks["denoiser"][1])
    painter, painter_macs = count(networks["autoencoder"][0], *networks["autoencoder"][1])
    print(f"denoiser {parameters:,} parameters, {2 * macs / 1e9:.2f} GFLOP; autoencoder {painter:,}, {2 * painter_macs / 1e9:.1f} GFLOP")
    assert parameters == 216_341_187
    assert networks["denoiser"][1][0].shape == (1, 3, 32, 32)  # f4 of 128 px
    assert 2 * macs == pytest.approx(13.8e9, rel=0.01)
    assert painter == pytest.approx(55.3e6, rel=0.05)  # LDM's VQ-f4: 55.32 M


# ----------------------------------------------------------------------------------------------------------------- network


def test_untrained_network_predicts_zero_and_then_listens():
    torch.manual_seed(0)
    unet = ContextUNet(SHAPE, 8, 4)
    z, t, c = torch.randn(2, 4, 8, 8), torch.tensor([10, 900]), torch.randn(2, 8, requires_grad=True)
    assert not unet(z, t, c).any()
    y = wake(unet)(z, t, c)
    assert y.shape == z.shape
    y.square().sum().backward()
    assert c.grad.abs().gt(0).all() and all(p.grad is not None for p in unet.parameters())
    with torch.no_grad():
        assert not torch.allclose(y, unet(z, t.flip(0), c), atol=1e-4)
        assert not torch.allclose(y, unet(z, t, c.flip(0)), atol=1e-4)
        torch.testing.assert_close(unet(z, t[:1], c), unet(z, t[:1].expand(2), c), atol=1e-5, rtol=1e-4)


def test_the_projection_starts_small_and_tokens_are_brought_to_length_1():
    """As in the authors' code: a plain dense layer, whose components GroupNorm enlarges behind each block's own projection."""
    torch.manual_seed(0)
    denoiser = Denoiser(Train(unet=Shape(components=64, groups=4)), 32, 512)
    bound = 1 / math.sqrt(512)
    assert 0.99 * bound < denoiser.project.weight.abs().max() <= bound and denoiser.project.bias.abs().max() <= bound
    block = denoiser.unet.middle[0].attention
    told = denoiser.context(torch.randn(3, 512))
    assert told.abs().max() < 0.2
    seen = []
    block.cross.key.register_forward_hook(lambda layer, given, found: seen.append(given[0]))
    block(torch.randn(3, 96 * 8, 4, 4), told)
    torch.testing.assert_close(seen[0].square().mean((1, 2)), torch.ones(3), atol=0.05, rtol=0)


def test_attention_against_a_loop():
    torch.manual_seed(0)
    layer = context_unet.Attention(8, 5, heads=2)
    x, source = torch.randn(2, 3, 8), torch.randn(2, 4, 5)
    found = layer(x, source)
    for b in range(2):
        for i in range(3):
            heads = []
            for h in (slice(0, 4), slice(4, 8)):
                q = layer.query(x[b, i])[h]
                scores = torch.stack([q @ layer.key(source[b, j])[h] / math.sqrt(4) for j in range(4)]).softmax(0)
                heads.append(sum(scores[j] * layer.value(source[b, j])[h] for j in range(4)))
            torch.testing.assert_close(found[b, i], layer.out(torch.cat(heads)), atol=1e-5, rtol=1e-4)


def test_sides_that_cannot_be_halved_are_refused(tmp_path, faces, encoder):
    with pytest.raises(UserError, match="28 is not a multiple of 8"):
        ContextUNet(Shape(), 28, 3)
    odd = autoencoder.Train(channels=(8, 8, 8, 8, 8), groups=4)
    with pytest.raises(UserError, match="8 px cannot be halved 4 times"):
        autoencoder.train(odd, R, context(tmp_path, faces, encoder), tmp_path / "autoencoder")


def test_partial_dropout_zeroes_components_in_training_only():
    torch.manual_seed(0)
    shape = SHAPE.model_copy(update={"components": 256, "groups": 4})
    code = torch.randn(400, DIM)
    for p in (0.25, 0.5):
        denoiser = Denoiser(settings(unet=shape, cpd=p), 4, DIM)
        whole = denoiser.context(code)  # as in sampling
        assert whole.ne(0).all()
        torch.testing.assert_close(whole, denoiser.context(code * 7))  # only the direction counts
        assert float(whole.std()) == pytest.approx(math.sqrt(2 / (3 * DIM)), rel=0.2)  # weights and bias uniform in +-1 / sqrt(DIM)
        dropped = denoiser.context(code, drop=torch.rand(400, 256))
        zero = dropped == 0
        assert float(zero.float().mean()) == pytest.approx(p, abs=0.01)
        assert zero.float().mean(0).max() < p + 0.15 and zero.float().mean(1).max() < p + 0.15  # components, not whole contexts
        torch.testing.assert_close(dropped[~zero], whole[~zero] / (1 - p))


def test_training_drops_components_and_sampling_does_not(tmp_path, trained, faces, encoder, monkeypatch):
    seen = []
    original = Denoiser.context

    def watch(self, code, absent=None, drop=None):
        seen.append((absent, drop))
        return original(self, code, absent, drop)

    monkeypatch.setattr(Denoiser, "context", watch)
    generate(trained, [Slot(0, 0)], faces, encoder, tmp_path)
    assert set(seen) == {(None, None)}
    seen.clear()
    idiffface.train(settings(steps=12), context(tmp_path / "train", faces, encoder))
    learnt = [(absent, drop) for absent, drop in seen if drop is not None]  # the others are looks at what the condition does
    drops, absent = torch.cat([drop for _, drop in learnt]), torch.cat([absent for absent, _ in learnt])
    assert drops.shape == (12 * 6, 8) and len(drops.unique(dim=0)) == len(drops)  # another draw for every image of every step
    assert 0.05 < absent.float().mean() < 0.4


def test_the_empty_context_is_learnt():
    torch.manual_seed(0)
    denoiser = Denoiser(settings(), 4, DIM)
    absent = torch.tensor([True, False, True])
    found = denoiser.context(torch.randn(3, DIM), absent)
    torch.testing.assert_close(found[absent], denoiser.empty.expand(2, -1))
    found[~absent].sum().backward(retain_graph=True)
    assert not denoiser.empty.grad.any()
    found[absent].sum().backward()
    assert denoiser.empty.grad.eq(2).all()
    assert Denoiser(settings(empty=0.0), 4, DIM).empty is None


# ------------------------------------------------------------------------------------------------------------- autoencoder


def test_autoencoder_objective_in_closed_form(encoder):
    torch.manual_seed(0)
    network = wake(autoencoder.Autoencoder(PAINTER))
    x, noise = torch.rand(3, 3, R, R) * 2 - 1, torch.randn(3, 4, 4, 4)
    losses = autoencoder.objective(network, encoder, autoencoder.Batch(x, noise), PAINTER.model_copy(update={"kl_weight": 0.01}))
    mean, log_variance = network.moments(x)
    torch.testing.assert_close(mean - network.encoder(x)[:, :4], network.analysis(F.pixel_unshuffle(x, 2)), atol=1e-5, rtol=1e-4)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0, 1)).sum() / x.numel()
    found = network.decode(mean + posterior.stddev * noise)
    l1, similarity = (found - x).abs().mean(), F.cosine_similarity(encoder(found), encoder(x)).mean()
    torch.testing.assert_close(losses["kl"], kl)
    torch.testing.assert_close(losses["loss"], l1 + 0.01 * kl + 0.1 * (1 - similarity), atol=1e-5, rtol=1e-4)


def test_autoencoder_begins_at_the_principal_components(faces):
    network = autoencoder.Autoencoder(PAINTER)
    x = autoencoder.fitted(faces.images(slice(None)), R)
    network.begin(x)
    patches = x.view(24, 3, 4, 2, 4, 2).permute(0, 2, 4, 1, 3, 5).reshape(-1, 12)
    spectrum = torch.linalg.svdvals(patches - patches.mean(0)).square()
    with torch.no_grad():
        error = (network(x) - x).square().sum()
    torch.testing.assert_close(error, spectrum[4:].sum(), rtol=1e-3, atol=1e-3)  # no linear map to 4 numbers does better


def test_autoencoder_learns_and_scales_its_latents(tmp_path, faces, encoder):
    longer = PAINTER.model_copy(update={"steps": 30, "batch_size": 12, "ema_limit": 0.8})
    x, errors = autoencoder.fitted(faces.images(slice(None)), R), []
    for steps in (1, 30):
        out = tmp_path / str(steps)
        autoencoder.train(longer.model_copy(update={"steps": steps}), R, context(tmp_path, faces, encoder), out)
        network = autoencoder.load(longer, out, torch.device("cpu"))
        errors.append(float((network(x) - x).abs().mean()))
        assert network.encode(x).shape == (24, 4, 4, 4) and float(network.encode(x).std()) == pytest.approx(1, abs=1e-4)
        assert {path.name for path in out.iterdir()} == {"weights.safetensors", "metrics.jsonl"}
    assert errors[1] < 0.9 * errors[0]


def test_an_encoder_without_gradients_needs_no_identity_loss(tmp_path, faces):
    blind = Encoder(Projection(DIM, R), resolution=R, dim=DIM, differentiable=False, name="blind")
    with pytest.raises(UserError, match=r"blind.*identity_weight"):
        idiffface.train(settings(), context(tmp_path, faces, blind))
    idiffface.train(settings(autoencoder=PAINTER.model_copy(update={"identity_weight": 0.0})), context(tmp_path, faces, blind))


# ---------------------------------------------------------------------------------------------------------------- training


def test_first_loss_is_the_papers(tmp_path, faces, encoder):
    """An untrained network answers zero, so the error of epsilon is the mean square of the noise: 1."""
    idiffface.train(settings(steps=1, batch_size=24), context(tmp_path, faces, encoder))
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] == pytest.approx(1, abs=0.1)
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"weights.safetensors", "metrics.jsonl", "autoencoder/weights.safetensors", "autoencoder/metrics.jsonl"}


def test_a_killed_training_goes_on_bit_for_bit(tmp_path, faces, encoder, monkeypatch):
    monkeypatch.setattr(idiffface.loop, "EVERY", -1)  # after every step
    idiffface.train(settings(), context(tmp_path / "whole", faces, encoder))
    for stop in (3, 1 + 1 + 3):  # in the autoencoder; then, after the rest of it and the embeddings, in the denoiser
        calls = []

        def kill(done, total, calls=calls, stop=stop):
            calls.append((done, total))
            if len(calls) == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            idiffface.train(settings(), context(tmp_path / "cut", faces, encoder, progress=kill))
        torch.manual_seed(99)
    assert calls == [(3, 4), (4, 4), (24, 24), (1, 6), (2, 6)]
    idiffface.train(settings(), context(tmp_path / "cut", faces, encoder))
    for name in ("weights.safetensors", "autoencoder/weights.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


# -------------------------------------------------------------------------------------------------------------- identities


def test_directions_are_uniform_apart_and_prefix_stable(tmp_path, faces, encoder):
    for number in (4, 12):
        hypersphere.enroll(number, 0.7, 20, context(tmp_path / str(number), faces, encoder))
    few, many = (inquiries.load(tmp_path / name) for name in ("4", "12"))
    assert torch.equal(few.codes, many.codes[:4]) and many.faces is None
    torch.testing.assert_close(many.codes.norm(dim=1), torch.ones(12))
    assert (many.codes @ many.codes.T - 2 * torch.eye(12)).max() < 0.7
    assert json.loads((tmp_path / "12" / "enroll.json").read_text())["kept"] == 12
    hypersphere.enroll(2000, 1.0, 20, context(tmp_path / "many", faces, encoder))
    codes = inquiries.load(tmp_path / "many").codes
    torch.testing.assert_close(codes.T @ codes / 2000, torch.eye(DIM) / DIM, atol=0.03, rtol=0)


def test_too_few_directions_fit(tmp_path, faces, encoder):
    with pytest.raises(UserError, match=r"of 256 directions in 6 dimensions (\d+) fit .* below cosine 0\.1, but 50 .* enroll\.threshold"):
        hypersphere.enroll(50, 0.1, 5, context(tmp_path, faces, encoder))


def test_two_stages(tmp_path, faces, encoder):
    """Identities are the embeddings of images of an unconditional model, and those images are the inquiries."""
    unet = {"channels": 8, "multipliers": [1, 2], "attention_levels": [1], "attention_width": 16, "head_width": 8, "groups": 4,
            "skip_downsample_level": -1}  # fmt: skip
    generator = IDiffFace(
        Config(
            train=settings(unconditional={"unet": unet, "steps": 2, "batch_size": 6}),
            enroll={"source": "unconditional", "sampler": {"steps": 2}, "threshold": 1.0},
            sample={"steps": 2, "copies": 1},
        )
    )
    generator.train(context(tmp_path / "train", faces, encoder))
    inputs = {"train": tmp_path / "train"}
    generator.enroll(2, context(tmp_path / "enroll", faces, encoder, inputs=inputs))
    known = inquiries.load(tmp_path / "enroll")
    torch.testing.assert_close(F.normalize(known.codes, dim=1), encoder.embed(known.faces.images(slice(None))), atol=1e-5, rtol=0)
    ctx = context(tmp_path / "out", faces, encoder, inputs=inputs | {"enroll": tmp_path / "enroll"})
    batch = next(iter(generator.generate(generator.slots(Volume.parse("2x1"), ctx), ctx)))
    assert batch.columns["sample"].tolist() == [0, -1, 0, -1] and not batch.columns["real"].any()  # people who do not exist
    assert torch.equal(batch.images[1::2], known.faces.images(slice(None)))


# --------------------------------------------------------------------------------------------------------------- IDperturb


def test_perturbed_embeddings_stay_nearest_to_their_identity():
    """cos(v', v) >= max(lb, cosine of half the angle to the nearest other identity), by brute force."""
    threshold, lb = 0.5, 0.6
    unit = F.normalize(torch.randn(400, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    codes = unit[inquiries.choose(unit, unit[:0], threshold, 40)] * torch.linspace(0.5, 3, 40)[:, None]  # of any length
    unit = F.normalize(codes, dim=1)
    others = unit @ unit.T - 2 * torch.eye(len(unit))
    slots = [Slot(i, sample) for i in range(len(unit)) for sample in range(30)]
    rows = [slot.identity for slot in slots]
    turned = hypersphere.perturb(codes[rows], slots, hypersphere.lowest(lb, threshold), seed=1)
    torch.testing.assert_close(turned.norm(dim=1), codes.norm(dim=1)[rows])
    found = F.normalize(turned, dim=1) @ unit.T
    for (identity, _), cosines in zip(slots, found):
        nearest = math.acos(float(others[identity].max()))
        assert float(cosines[identity]) >= max(lb, math.cos(nearest / 2)) - 1e-5
        assert int(cosines.argmax()) == identity


def test_perturbation_is_uniform_in_the_cosine_and_of_its_slot_alone():
    v = torch.zeros(1, 24)
    v[0, 3] = 2.0
    slots = [Slot(7, sample) for sample in range(3000)]
    turned = hypersphere.perturb(v.expand(3000, -1), slots, 0.6, seed=0)
    cosine = turned[:, 3] / 2
    histogram = torch.histc(cosine, 8, 0.6, 1.0)
    assert cosine.min() >= 0.6 and cosine.max() <= 1 and histogram.min() > 300 and histogram.sum() == 3000
    sideways = F.normalize(turned - cosine[:, None] * v, dim=1)
    assert sideways.mean(0).abs().max() < 0.05 and float(sideways[:, 3].abs().max()) < 1e-5
    alone = hypersphere.perturb(v, slots[11:12], 0.6, seed=0)
    torch.testing.assert_close(alone, turned[11:12])
    assert not torch.allclose(alone, hypersphere.perturb(v, slots[11:12], 0.6, seed=1))


def test_lowest_cosine():
    assert hypersphere.lowest(0.6, 0.0) == pytest.approx(math.cos(math.pi / 4))
    assert hypersphere.lowest(0.9, 0.0) == 0.9 and hypersphere.lowest(1.0, 1.0) == 1.0
    with pytest.raises(ValueError, match=r"enroll\.threshold"):
        hypersphere.lowest(0.6, 1.0)


def test_cemiface_can_be_perturbed_too():
    assert cemiface.Config(sample={"perturb": 0.6}).sample.perturb == 0.6
    with pytest.raises(UserError, match=r"enroll\.threshold below 1"):
        build(cemiface.Config, parse_set(["sample.perturb=0.6", "enroll.threshold=1"]))


# ---------------------------------------------------------------------------------------------------------------- sampling


def test_columns_and_no_inquiries(trained, faces, encoder, tmp_path):
    assert not (trained["enroll"] / "inquiries").exists()
    images, columns = generate(trained, [Slot(2, 0), Slot(2, 1), Slot(4, 0)], faces, encoder, tmp_path)
    assert images.shape == (3, 3, R, R) and images.dtype == torch.uint8 and set(columns) == {"sample", "similarity"}
    centres = inquiries.load(trained["enroll"]).codes[[2, 2, 4]]
    torch.testing.assert_close(columns["similarity"], (encoder.embed(images) * centres).sum(1), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ([], r"unconditional needs the model of train\.unconditional"),
        (["train.unconditional.T=500", "enroll.sampler.steps=900"], r"900 is more than train\.unconditional\.T 500"),
    ],
)
def test_a_first_stage_that_cannot_serve_is_refused_at_once(settings, said):
    with pytest.raises(UserError, match=said):
        build(Config, parse_set(["enroll.source=unconditional", *settings]))


@pytest.fixture
def short_flow(monkeypatch):
    monkeypatch.setattr(flow, "TRAINING", flow.TRAINING.model_copy(update={"steps": 5}))


@pytest.mark.parametrize(
    "sample", [{}, {"guidance": 1.0, "perturb": 0.5}, {"guidance": 0.5, "against": "nearest"}, {"perturb": 0.2, "directions": "flow"}]
)
def test_an_image_depends_on_its_slot_alone(trained, faces, encoder, tmp_path, sample, unrounded, short_flow):
    slots = [Slot(identity, number) for identity in range(5) for number in range(3)]
    whole, _ = generate(trained, slots, faces, encoder, tmp_path, **sample)
    assert unrounded() == len(slots)
    some, _ = generate(trained, slots[::-2], faces, encoder, tmp_path, batch_size=5, **sample)
    assert torch.equal(whole.flip(0)[::2], some)


def test_options_change_images_and_off_means_off(trained, faces, encoder, tmp_path, short_flow):
    slots = [Slot(identity, 0) for identity in range(1, 5)]
    plain, _ = generate(trained, slots, faces, encoder, tmp_path)
    off, _ = generate(trained, slots, faces, encoder, tmp_path, guidance=0.0, perturb=1.0, enroll={"threshold": 0.3})
    assert torch.equal(plain, off)
    for change in ({"guidance": 1.0}, {"guidance": 1.0, "against": "random"}, {"perturb": 0.5}, {"perturb": 0.2, "directions": "flow"}):
        other, _ = generate(trained, slots, faces, encoder, tmp_path, **change)
        assert (other != plain).flatten(1).any(1).all()


def test_guidance_is_the_papers_formula(trained, faces, encoder, tmp_path, monkeypatch):
    """(1 + w) conditional - w empty, at every step, and not the other way round."""
    seen, plain = [], process.guided
    monkeypatch.setattr(Denoiser, "forward", lambda self, z, t, c: torch.where((c == self.empty).all(1)[:, None, None, None], 1.0, z * 0))
    monkeypatch.setattr(process, "guided", lambda a, b, w: seen.append((a.max().item(), b.min().item(), w)) or plain(a, b, w))
    generate(trained, [Slot(0, 0)], faces, encoder, tmp_path, guidance=2.0, steps=2)
    assert seen == [(0.0, 1.0, 2.0)] * 2


def test_the_weight_of_guidance_may_change_on_the_way(trained, faces, encoder, tmp_path, monkeypatch):
    """Early: w times t over its highest; late: the rest of w. At T = 1000 and two steps t is 500 and 0."""
    t = torch.tensor([0, 250, 999])
    early, late = (idiffface.weight(idiffface.Sample(guidance=2.0, guidance_ramp=ramp), t, 1000) for ramp in ("early", "late"))
    torch.testing.assert_close(early.flatten(), torch.tensor([0.0, 2 * 250 / 999, 2.0]))
    torch.testing.assert_close(early + late, torch.full((3, 1, 1, 1), 2.0))
    assert idiffface.weight(idiffface.Sample(guidance=2.0), t, 1000) == 2.0
    slots = [Slot(identity, 0) for identity in range(1, 4)]
    same, *others = (
        generate(trained, slots, faces, encoder, tmp_path, guidance=2.0, guidance_ramp=ramp)[0] for ramp in ("none", "early", "late")
    )
    assert all((other != same).flatten(1).any(1).all() for other in others)


def test_the_identity_that_guidance_leads_away_from(encoder, faces, tmp_path):
    torch.manual_seed(0)
    identities = F.normalize(torch.randn(9, DIM), dim=1)
    denoiser = Denoiser(settings(), 4, DIM).eval()
    slots, ctx = [Slot(i, 0) for i in range(9)], context(tmp_path, faces, encoder)

    def away(against, known=identities, some=slots):
        with torch.no_grad():
            return idiffface.opposite(denoiser, idiffface.Sample(against=against), known, some, ctx)

    expected = [1] + [max(range(i), key=lambda j: float(identities[i] @ identities[j])) for i in range(1, 9)]
    torch.testing.assert_close(away("nearest"), denoiser.context(identities[expected]))
    torch.testing.assert_close(away("nearest", identities[:5], slots[:5]), away("nearest")[:5])  # whoever is enrolled later
    assert not torch.allclose(away("random"), denoiser.context(identities))
    torch.testing.assert_close(away("empty"), denoiser.empty.expand(9, -1))
    with pytest.raises(UserError, match="two identities"):
        away("random", identities[:1], slots[:1])
