import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_context import context
from torch import nn
from torch.nn import functional as F

from synthbench.config import CONFIGS, Layer, build, parse_set, read_layer
from synthbench.data import sources
from synthbench.data.faces import FaceSet
from synthbench.generators import vec2face
from synthbench.generators.vec2face import Batch, Config, Enroll, Frozen, Sample, Train, Vec2Face
from synthbench.identities import inquiries
from synthbench.models import fmae, perceptual
from synthbench.models.encoder import Encoder
from synthbench.models.encoder import build as backbone
from synthbench.models.size import count
from synthbench.pipeline.loading import load_generator
from synthbench.protocol import load_protocol
from synthbench.testing.world import rendered
from synthbench.types import DataMissing, Slot, UserError, Volume

SHAPE = fmae.Shape(
    width=32, depth=1, heads=2, decoder_depth=1, decoder_heads=2, latent=16, channels=8, multipliers=(1, 2, 2), blocks=1, groups=4
)
R, DIM = 16, 16

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def faces():
    """Eight rendered people, six images each."""
    found = rendered("train")
    return FaceSet.from_arrays(F.avg_pool2d(found.images(slice(None)).float(), 2).round().to(torch.uint8), found.identity)


@pytest.fixture(scope="module")
def encoder(faces):
    """A random network whose batch norms have seen the faces."""
    torch.manual_seed(0)
    net = backbone({"family": "small", "width": 16}, R, DIM)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        net.train()(faces.images(slice(None)).float() / 127.5 - 1)
    return Encoder(net, resolution=R, dim=DIM, name="random")


def settings(**change):
    return Train(**{"network": SHAPE, "perceptual": "encoder", "steps": 6, "batch_size": 8, "lr": 2e-3, "warmup": 0,
                    "discriminator_channels": 8, **change})  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory, faces, encoder):
    """A generator after a short training, and the folder of its weights."""
    root = tmp_path_factory.mktemp("vec2face")
    shape = SHAPE.model_copy(update={"dropout": 0.0})
    generator = Vec2Face(Config(train=settings(network=shape, steps=400, lr=3e-3, adversarial_from=1.0, max_norm=1.0)))
    generator.train(context(root / "train", faces, encoder))
    return generator, {"train": root / "train"}


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# --------------------------------------------------------------------------------------------------------------- settings


def test_the_shipped_yaml_is_the_default_config():
    assert build(Config, read_layer(CONFIGS / "generators" / "vec2face.yaml")) == Config()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("sample.shares=[0.5, 0.5]", "one share for each of the 3 sigmas"),
        ("sample.shares=[0.5, 0.4, 0.4]", "add up to 1"),
        ("sample.sigmas=[0.3, -0.5, 0.7]", "not negative"),
        ("train.mask.low=0.9 train.mask.high=0.5", "low 0.9 is above high 0.5"),
        ("train.network.heads=7", "not a multiple of heads 7"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, said):
    with pytest.raises(UserError, match=said):
        build(Config, parse_set(change.split(" train")[:1] + [f"train{part}" for part in change.split(" train")[1:]]))


def test_a_resolution_that_the_grid_does_not_fit_is_refused():
    with pytest.raises(UserError, match="multiple of 16"):
        fmae.FeatureMAE(fmae.Shape(), 100, 512)


# ---------------------------------------------------------------------------------------------------------------- network


def test_full_size():
    """Encoder and decoder by hand from width 768, MLP ratio 4; the image decoder by hand from its channels."""
    with torch.device("meta"):
        found = {name: count(*(network, *inputs)) for name, (network, inputs) in Vec2Face(Config()).networks(112, 512).items()}
        network = fmae.FeatureMAE(fmae.Shape(), 112, 512)
    block = 12 * 768**2 + 13 * 768
    assert sum(p.numel() for p in network.encoder.parameters()) == 12 * block
    assert sum(p.numel() for p in network.decoder.parameters()) == 8 * block
    assert network.rows == 49 and network.expand.weight.shape == (49, 1)

    def conv(before, after, side=3):
        return before * after * side**2 + after

    def residual(before, after):
        return 2 * before + 2 * after + conv(before, after) + conv(after, after) + (conv(before, after, 1) if before != after else 0)

    painter, width = conv(256, 512) + 2 * residual(512, 512), 512
    for level, after in enumerate((512, 256, 256, 128, 128)):
        painter += (conv(width, width) if level else 0) + residual(width, after) + residual(after, after)
        width = after
    painter += 2 * 128 + conv(128, 3)
    assert sum(p.numel() for p in network.painter.parameters()) == painter
    parameters, macs = found["fMAE"]
    assert parameters == pytest.approx(173.59e6, abs=1e4) and 2 * macs == pytest.approx(49.35e9, abs=1e8)

    critic = conv(3, 32, 3) + conv(3, 16, 7) + conv(3, 16, 15) + conv(512, 512, 1) + conv(512, 1, 4)
    for before, after in ((64, 128), (128, 256), (256, 512)):  # with two norms, and one convolution in the residual block
        critic += conv(before, after, 4) + 2 * 2 * after + conv(after, after)
    assert found["discriminator"][0] == critic


def test_the_discriminators_block_is_one_convolution_beside_what_came_in():
    torch.manual_seed(0)
    block, x = fmae.Residual(16), torch.randn(2, 16, 4, 4)
    part = x.view(2, 8, -1)  # the groups of the norm
    normed = ((part - part.mean(2, keepdim=True)) / (part.var(2, keepdim=True, correction=0) + 1e-5).sqrt()).view_as(x)
    expected = x + F.conv2d(torch.where(normed > 0, normed, 0.1 * normed), block.conv.weight, block.conv.bias, padding=1)
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)


def test_every_dense_layer_starts_as_in_the_authors_code():
    """Uniform in +-sqrt(6 / (inputs + outputs)), and no bias: rows of the expanded feature are multiples of e."""
    torch.manual_seed(0)
    network = fmae.FeatureMAE(SHAPE, R, DIM)
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    assert len(layers) == 2 * 4 + 4
    for layer in layers:
        bound = math.sqrt(6 / sum(layer.weight.shape))
        assert layer.bias.abs().max() == 0 and 0.8 * bound < layer.weight.abs().max() <= bound * 1.0001


def test_rows_are_the_expanded_feature_and_masked_ones_are_e():
    """What enters the encoder, row by row, against a loop: no mask token, position 0 never masked, dropped rows not seen."""
    torch.manual_seed(0)
    network = fmae.FeatureMAE(SHAPE, R, DIM).eval()
    network.scale.fill_(2.0)
    seen = []
    network.enter.register_forward_hook(lambda module, given, found: seen.append(given[0] - network.places[0]))
    entered = []
    network.encoder[0].register_forward_pre_hook(lambda module, given: entered.append(given[0]))
    feature, scores = torch.randn(2, DIM), torch.rand(2, network.rows)
    _, tokens, target = network(feature, scores, torch.tensor([0.5, 0.75]), 0.25)
    for b, masked in enumerate((8, 12)):  # of 16 rows
        e = network.embed.weight @ (feature[b] / 2) + network.embed.bias
        torch.testing.assert_close(target[b, 0], e)
        order = scores[b].argsort().tolist()
        for row in range(16):
            expanded = network.expand.weight[row, 0] * e + network.expand.bias[row]
            torch.testing.assert_close(target[b, 1 + row], expanded)
            torch.testing.assert_close(seen[0][b, 1 + row], e if row in order[:masked] else expanded)
        torch.testing.assert_close(seen[0][b, 0], e)
    assert entered[0].shape == (2, 1 + 12, 32)  # ceil(16 x 0.25) rows are left out
    assert tokens.shape == target.shape == (2, 17, 32) and not target.requires_grad


def test_masked_rows_enter_the_decoder_as_the_encoders_first_output():
    torch.manual_seed(0)
    network = fmae.FeatureMAE(SHAPE, R, DIM).eval()
    encoded, entered = [], []
    network.between.register_forward_hook(lambda module, given, found: encoded.append(found))
    network.decoder[0].register_forward_pre_hook(lambda module, given: entered.append(given[0] - network.places[1]))
    scores = torch.rand(1, 16)
    network(torch.randn(1, DIM), scores, torch.tensor([0.5]), 0.25)
    order = scores[0].argsort().tolist()
    torch.testing.assert_close(entered[0][0, 0], encoded[0][0, 0])
    for row in range(16):
        place = order.index(row)
        kept = encoded[0][0, 1 + place - 4] if place >= 8 else encoded[0][0, 0]
        torch.testing.assert_close(entered[0][0, 1 + row], kept)


def test_everything_masked_still_paints():
    network = fmae.FeatureMAE(SHAPE, R, DIM).eval()
    image, _, _ = network(torch.randn(1, DIM), torch.rand(1, 16), torch.ones(1), 0.5)
    assert image.shape == (1, 3, R, R) and image.isfinite().all()


def test_dropout_depends_on_its_seed_alone():
    network = fmae.FeatureMAE(SHAPE, R, DIM)
    given = (torch.randn(2, DIM), torch.rand(2, 16), torch.full((2,), 0.5), 0.5)
    same, again, other, none = (network(*given, seed)[0] for seed in (5, 5, 6, None))
    assert torch.equal(same, again) and not torch.equal(same, other) and not torch.equal(same, none)
    drop = fmae.Dropout(0.25, 1, torch.device("cpu"))
    found = drop(torch.ones(4000))
    assert found.mean() == pytest.approx(1, abs=0.05) and sorted(set(found.tolist())) == [0.0, pytest.approx(4 / 3)]


def test_mask_ratios_are_a_truncated_normal():
    mask = fmae.Mask()
    ratio = mask.ratio(torch.linspace(0.0005, 0.9995, 1000))
    draws = np.random.default_rng(0).normal(0.75, 0.25, 400_000)
    draws = np.sort(draws[(draws >= 0.5) & (draws <= 1)])
    expected = np.quantile(draws, np.linspace(0.0005, 0.9995, 1000))
    assert np.abs(ratio.numpy() - expected).max() < 0.005
    assert mask.ratio(torch.tensor([0.0]))[0] == pytest.approx(0.5, abs=1e-5)


# ----------------------------------------------------------------------------------------------------------------- losses


def test_ssim_of_one_window_is_that_of_its_pixels():
    """Wang et al. 2004 on pixels of 0 to 255, one window, by numpy's weighted mean and covariance; the mean over all windows of 14 px."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (2, 14, 14)).astype(float)
    y = 0.6 * x + 0.4 * y
    tap = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    weights, (c1, c2) = np.outer(tap, tap).flatten(), ((k * 255) ** 2 for k in (0.01, 0.03))

    def wang(a, b):
        (ma, mb), ((va, cov), (_, vb)) = np.average([a, b], axis=1, weights=weights), np.cov(a, b, ddof=0, aweights=weights)
        return (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))

    def ours(*images):
        return perceptual.ssim(*(torch.from_numpy(image / 127.5 - 1)[None, None] for image in images)).tolist()

    one = wang(x[:11, :11].flatten(), y[:11, :11].flatten())
    assert ours(x[:11, :11], y[:11, :11]) == pytest.approx([one], abs=1e-5)
    windows = [wang(*(image[i : i + 11, j : j + 11].flatten() for image in (x, y))) for i in range(4) for j in range(4)]
    assert ours(x, y) == pytest.approx([np.mean(windows)], abs=1e-5)
    assert ours(x, x) == pytest.approx([1])


def test_ssim_of_flat_greys():
    """No structure: 2 a b / (a^2 + b^2) of brightness in [0, 1]. Two greys next to each other are alike, black and white are not."""
    flat = torch.ones(1, 1, 11, 11)
    shift = 2.5 / 127.5  # 2.5 of 255 levels
    assert float(perceptual.ssim(flat * shift, flat * -shift)) == pytest.approx(0.9992, abs=1e-4)
    assert float(perceptual.ssim(flat, -flat)) == pytest.approx(0, abs=2e-4)
    assert float(perceptual.ssim(flat * 0, flat * -0.5)) == pytest.approx(2 * 0.5 * 0.25 / (0.25 + 0.0625), abs=1e-3)


def test_perceptual_distance_against_a_loop():
    torch.manual_seed(0)
    a, b = ([torch.randn(2, 3, 2, 2), torch.randn(2, 5, 1, 1)] for _ in range(2))
    weights = [torch.rand(3), torch.rand(5)]
    for w in (weights, None):
        expected = []
        for image in range(2):
            total = 0.0
            for level, (x, y) in enumerate(zip(a, b)):
                places = [
                    ((F.normalize(x[image, :, i, j], dim=0) - F.normalize(y[image, :, i, j], dim=0)) ** 2 * (1 if w is None else w[level]))
                    for i in range(x.shape[2])
                    for j in range(x.shape[3])
                ]
                total += float(torch.stack(places).sum(1).mean())
            expected.append(total)
        assert perceptual.distance(a, b, w).tolist() == pytest.approx(expected, abs=1e-5)


def test_lpips_needs_its_weights(tmp_path, faces, encoder, monkeypatch):
    monkeypatch.setenv("SYNTHBENCH_DATA", str(tmp_path / "home"))
    with pytest.raises(DataMissing, match=r"vgg16-imagenet[\s\S]*perceptual=encoder"):
        vec2face.train(settings(perceptual="lpips"), context(tmp_path / "out", faces, encoder))


def test_lpips_from_registered_files(tmp_path, monkeypatch):
    """With random weights in the published layout; compared once with the package lpips 0.1.4, to 4 digits."""
    from torchvision.models import vgg16

    torch.manual_seed(0)
    with torch.device("meta"):
        layers = vgg16(weights=None, init_weights=False).features.state_dict()
    state = {f"features.{key}": torch.randn(value.shape) / max(1, value[0].numel()) ** 0.5 for key, value in layers.items()}
    torch.save(state, tmp_path / "vgg.pth")
    torch.save({f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate((64, 128, 256, 512, 512))}, tmp_path / "heads.pth")
    paths = {"vgg16-imagenet": tmp_path / "vgg.pth", "lpips-vgg": tmp_path / "heads.pth"}
    entry = type("Entry", (), {})
    monkeypatch.setattr(sources, "find", lambda name, kind: setattr(found := entry(), "path", paths[name]) or found)
    lpips = perceptual.LPIPS(*sources.lpips_files())
    x = (torch.rand(1, 3, 16, 16) * 2 - 1).requires_grad_(True)
    far = lpips(x, torch.rand(1, 3, 16, 16) * 2 - 1)
    assert lpips(x, x.detach()).item() == pytest.approx(0, abs=1e-6) and far.item() > 0.01
    assert [m.shape[1] for m in lpips.maps(x)] == [64, 128, 256, 512, 512]
    assert torch.autograd.grad(far.sum(), x)[0].abs().sum() > 0
    paths["lpips-vgg"] = tmp_path / "vgg.pth"
    with pytest.raises(UserError, match="are not VGG-16"):
        perceptual.LPIPS(*sources.lpips_files())


def batch_of(faces, encoder, size=4):
    torch.manual_seed(1)
    x = faces.images(slice(size)).float() / 127.5 - 1
    return Batch(x, encoder(x).detach(), torch.rand(size, 16), torch.full((size,), 0.75), torch.full((size,), 9))


def test_the_loss_is_the_sum_of_its_parts(faces, encoder):
    torch.manual_seed(0)
    network = fmae.FeatureMAE(SHAPE, R, DIM)
    train = settings(perceptual_weight=0.2, ssim_weight=0.1, token_weight=0.7, identity_weight=1.3)
    batch = batch_of(faces, encoder)
    found = {name: value.item() for name, value in vec2face.objective(network, Frozen(encoder, None), None, batch, train).items()}
    painted, tokens, target = network(batch.feature, batch.scores, batch.ratio, 0.5, 9)
    assert found["mse"] == pytest.approx(float(F.mse_loss(painted, batch.x)), abs=1e-5)
    rows = [((tokens[b, row] - target[b, row]) ** 2).mean() for b in range(4) for row in range(1, 17)]  # without position 0
    assert found["token"] == pytest.approx(float(torch.stack(rows).mean()), abs=1e-5)
    assert found["similarity"] == pytest.approx(float(F.cosine_similarity(encoder(painted), batch.feature).mean()), abs=1e-5)
    assert found["perceptual"] == pytest.approx(float(perceptual.distance(encoder.maps(painted), encoder.maps(batch.x)).mean()), abs=1e-4)
    parts = found["mse"] + 0.2 * found["perceptual"] + 0.1 * (1 - found["ssim"]) + 0.7 * found["token"] + 1.3 * (1 - found["similarity"])
    assert found["loss"] == pytest.approx(parts, abs=1e-4)


def test_the_adversarial_term_is_balanced_at_the_last_layer(faces, encoder):
    """Its gradient at the last layer is `adversarial_weight` times as long as that of the image losses."""
    torch.manual_seed(0)
    network, critic = fmae.FeatureMAE(SHAPE, R, DIM), fmae.Discriminator(8)
    batch, last = batch_of(faces, encoder), network.painter.last.weight
    train = settings(token_weight=0, identity_weight=0)
    plain = vec2face.objective(network, Frozen(encoder, None), None, batch, train)
    joined = vec2face.objective(network, Frozen(encoder, None), critic, batch, train)
    image, both = (torch.autograd.grad(losses["loss"], last, retain_graph=True)[0] for losses in (plain, joined))
    assert float((both - image).norm() / image.norm()) == pytest.approx(0.8, rel=0.02)
    loss = vec2face.critic_objective(network, critic, batch, train)["loss"]
    with torch.no_grad():
        fake = critic(network(batch.feature, batch.scores, batch.ratio, 0.5, 9)[0])
        assert float(loss) == pytest.approx(float(((critic(batch.x) - 1) ** 2).mean() + (fake**2).mean()) / 2, abs=1e-5)
    assert fake.shape == (4, 1, 1, 1) and all(p.grad is None for p in network.parameters())


# --------------------------------------------------------------------------------------------------------------- training


def test_training_lowers_the_loss_and_the_run_says_what_compared_the_images(trained):
    rows = lines(trained[1]["train"])
    assert rows[-1]["mse"] < 0.6 * rows[0]["mse"] and rows[-1]["similarity"] > 0.5 > rows[0]["similarity"]
    assert {path.name for path in trained[1]["train"].iterdir()} == {"weights.safetensors", "metrics.jsonl"}
    assert "VGG" in Vec2Face.traits.pretrained and "VGG" not in trained[0].traits.pretrained


def test_a_killed_training_goes_on_bit_for_bit(tmp_path, faces, encoder, monkeypatch):
    """Killed when the discriminator has joined; dropout is on."""
    monkeypatch.setattr(vec2face.loop, "EVERY", -1)
    vec2face.train(settings(adversarial_from=0.5), context(tmp_path / "whole", faces, encoder))

    def kill(done, total):
        if (done, total) == (5, 6):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vec2face.train(settings(adversarial_from=0.5), context(tmp_path / "cut", faces, encoder, progress=kill))
    torch.manual_seed(99)
    vec2face.train(settings(adversarial_from=0.5), context(tmp_path / "cut", faces, encoder))
    whole, cut = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "cut"))
    assert whole == cut
    assert ["discriminator" in row for row in lines(tmp_path / "cut")] == [False] * 3 + [True] * 3


def test_the_discriminators_rate_is_constant(tmp_path, faces, encoder, monkeypatch):
    """It joins when the autoencoder's rate has almost come down to nothing."""
    rates = {}

    def learn(self, objective, batch, step, whole=False):
        found = plain(self, objective, batch, step, whole)
        rates.setdefault(type(self.network).__name__, []).append(self.optimizers["optimizer"].param_groups[0]["lr"])
        return found

    plain = vec2face.loop.Learner.learn
    monkeypatch.setattr(vec2face.loop.Learner, "learn", learn)
    vec2face.train(settings(adversarial_from=0.5, warmup=2), context(tmp_path, faces, encoder))
    assert rates["Discriminator"] == [2e-3] * 3
    assert rates["FeatureMAE"] == pytest.approx([1e-3, 2e-3] + [1e-3 * (1 + math.cos(math.pi * k / 4)) for k in range(4)])


def test_an_encoder_without_gradients_or_maps_is_refused(tmp_path, faces):
    blind = Encoder(backbone({"family": "small", "width": 8}, R, DIM), resolution=R, dim=DIM, differentiable=False, name="blind")
    with pytest.raises(UserError, match="blind"):
        vec2face.train(settings(), context(tmp_path / "a", faces, blind))
    flat = Encoder(nn.Sequential(nn.Flatten(), nn.Linear(3 * R * R, DIM)), resolution=R, dim=DIM, name="flat")
    with pytest.raises(UserError, match="flat has no feature maps"):
        vec2face.train(settings(), context(tmp_path / "b", faces, flat))


# ------------------------------------------------------------------------------------------------------------- identities


def enrolled(trained, tmp_path, faces, encoder, number, **change):
    generator, inputs = trained
    config = Config(train=generator.config.train, enroll=Enroll(**{"threshold": 0.8, "attrop_steps": 0, **change}))
    out = tmp_path / f"{number}-{len(list(tmp_path.iterdir())) if tmp_path.exists() else 0}"
    Vec2Face(config).enroll(number, context(out, faces, encoder, inputs=inputs))
    return out


def test_every_accepted_pair_is_below_the_threshold(trained, tmp_path, faces, encoder):
    for change in ({}, {"attrop_steps": 3}, {"distribution": "gaussian", "threshold": 0.3}):
        threshold = change.get("threshold", 0.8)
        few, many = (inquiries.load(enrolled(trained, tmp_path, faces, encoder, number, **change)) for number in (5, 12))
        unit = F.normalize(many.codes, dim=1)
        assert (unit @ unit.T - 2 * torch.eye(12)).max() < threshold
        assert torch.equal(few.codes, many.codes[:5]) and torch.equal(few.faces.images(slice(5)), many.faces.images(slice(5)))


def test_when_too_few_fit_it_says_how_many_and_stops(trained, tmp_path, faces, encoder):
    with pytest.raises(UserError, match=r"768 vectors tried, \d fit .* 100 identities are wanted.*at most \d identities"):
        enrolled(trained, tmp_path, faces, encoder, 100, threshold=-0.1, tries=6)


def test_vectors_have_mean_and_covariance_of_the_identities(faces, encoder, trained, tmp_path):
    network = vec2face.load(trained[0].config.train, context(tmp_path, faces, encoder, inputs=trained[1]))
    mean, spread = vec2face.distribution(Enroll(), network, context(tmp_path, faces, encoder))
    with torch.no_grad():
        raw = encoder(faces.images(slice(None)).float() / 127.5 - 1)
    means = torch.stack([raw[torch.from_numpy(faces.identity == i)].mean(0) for i in range(faces.identities)])
    torch.testing.assert_close(mean, means.mean(0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(spread.T @ spread, torch.cov(means.T), atol=1e-3, rtol=1e-3)
    unlabelled = FaceSet.from_arrays(faces.images(slice(9)), np.full(9, -1))
    assert len(inquiries.mean_codes(Enroll(), context(tmp_path, unlabelled, encoder))) == 9
    lonely = FaceSet.from_arrays(faces.images(slice(4)), np.zeros(4))
    with pytest.raises(UserError, match="has 1 identities"):
        vec2face.distribution(Enroll(), network, context(tmp_path, lonely, encoder))


def turned(degrees):
    """(DIM, DIM) that turns every vector by an angle and keeps its length."""
    quarter = torch.kron(torch.eye(DIM // 2), torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
    return math.cos(math.radians(degrees)) * torch.eye(DIM) + math.sin(math.radians(degrees)) * quarter


@pytest.fixture
def attrop(faces, tmp_path, monkeypatch):
    """AttrOP without chance: the feature of the painted image is the vector, turned by `degrees`."""
    monkeypatch.setattr(vec2face.fmae, "paint", lambda network, v, *mask: F.pad(v, (0, 3 * R * R - DIM)).view(-1, 3, R, R))
    network = SimpleNamespace(rows=16, scale=torch.tensor(2.0), norm=torch.tensor(10.0))

    def run(vectors, degrees, **change):
        layer = nn.Linear(3 * R * R, DIM, bias=False)
        layer.weight.data = F.pad(turned(degrees), (0, 3 * R * R - DIM))
        found = Encoder(nn.Sequential(nn.Flatten(), layer), resolution=R, dim=DIM, name="turning")
        return vec2face.optimized(vectors, 0, network, Config(enroll=Enroll(**change)), context(tmp_path, faces, found))

    return run


def test_attrop_moves_a_vector_until_its_image_is_near_and_no_further(attrop):
    """Near enough is a cosine of 0.7: an image that is 60 degrees away comes to 45.6, and one at 45 degrees stays where it is."""
    vectors = torch.randn(5, DIM, generator=torch.Generator().manual_seed(0))
    moved, met = attrop(vectors, 60, attrop_lr=0.02, quality=0.0)
    angle = torch.rad2deg(F.cosine_similarity(moved @ turned(60).T, vectors).acos())
    assert met.all() and (angle < 45.6).all() and (angle > 40).all()
    for degrees, steps in ((45, 30), (60, 0)):
        moved, met = attrop(vectors, degrees, attrop_steps=steps, quality=0.0)
        assert torch.equal(moved, vectors) and met.tolist() == [steps > 0] * 5


def test_attrop_stops_at_its_cap(attrop):
    """Of two looks at the image one step of Adam lies between: attrop_lr times the scale of 2, up or down, in every element."""
    vectors = torch.randn(5, DIM, generator=torch.Generator().manual_seed(0))
    moved, met = attrop(vectors, 60, attrop_steps=2, attrop_lr=0.02, quality=0.0)
    assert not met.any()
    torch.testing.assert_close((moved - vectors).abs(), torch.full_like(vectors, 0.04), atol=1e-4, rtol=0)


def test_attrop_lengthens_what_is_too_short(attrop):
    """Quality is the length over the mean of the training set, 10 here, and enough when 1 of QUALITY = 27 is lacking."""
    vectors = F.normalize(torch.randn(2, DIM, generator=torch.Generator().manual_seed(0)), dim=1) * torch.tensor([[9.7], [5.0]])
    moved, met = attrop(vectors, 0)
    assert met.all() and torch.equal(moved[0], vectors[0])
    assert 10 * 26 / 27 <= moved[1].norm() < 11 and F.cosine_similarity(moved[1], vectors[1], dim=0) > 0.7


def test_normalized_attrop_leaves_the_identity_alone_once_it_is_near(attrop):
    """By hand: 1 - cosine counts above 0.3 alone, a unit of quality a thirtieth. So of a near image only the length is asked for."""
    away, poor = torch.tensor([0.2, 0.4, 0.3]), torch.tensor([6.0, 3.0, 0.0])
    torch.testing.assert_close(vec2face.attrop_loss(away, poor, "normalized"), torch.tensor([0.2, 0.5, 0.0]))
    torch.testing.assert_close(vec2face.attrop_loss(away, poor, "weighted"), torch.tensor([26.0, 43.0, 30.0]))
    vectors = F.normalize(torch.randn(4, DIM, generator=torch.Generator().manual_seed(0)), dim=1) * 8
    change = {"attrop_steps": 2, "attrop_lr": 0.02}  # one step of Adam, along the gradient's signs; images are 40 degrees away: near
    longer = 0.04 * vectors.sign()
    torch.testing.assert_close(attrop(vectors, 40, attrop_terms="normalized", **change)[0] - vectors, longer, atol=1e-4, rtol=0)
    for terms, degrees in (("weighted", 40), ("normalized", 60)):
        assert not torch.allclose(attrop(vectors, degrees, attrop_terms=terms, **change)[0] - vectors, longer, atol=1e-2)


def test_vec2face_plus_is_what_its_paper_changes():
    generator = load_generator("vec2face_plus", load_protocol("paper"))
    changed = {"train": {"ssim_weight": 1.0, "adversarial_from": 1.0}, "enroll": {"attrop_terms": "normalized"}}
    base = load_generator("vec2face", load_protocol("paper")).config
    assert generator.config == build(Config, Layer(base.model_dump()), Layer(changed))
    assert list(generator.networks(112, 512)) == ["fMAE"] and "2507.17192" in generator.traits.paper
    assert generator.config.enroll.attrop_steps == 30 and generator.config.train.perceptual_weight == 0.2


# --------------------------------------------------------------------------------------------------------------- sampling


def test_noise_keeps_the_length_of_a_vector():
    torch.manual_seed(0)
    v, noise, sigma = torch.randn(300, 512) * 3, torch.randn(300, 512), torch.tensor([0.3, 0.5, 0.7]).repeat(100)
    moved = vec2face.perturb(v, noise, sigma)
    torch.testing.assert_close(moved.norm(dim=1), v.norm(dim=1))
    expected = 1 / math.sqrt(1 + 0.7**2 / 9)  # |v| = 3 sqrt(512), |n| = sigma sqrt(512), at right angles
    assert float(F.cosine_similarity(moved, v)[2::3].mean()) == pytest.approx(expected, abs=0.01)


def test_sigmas_come_in_their_shares():
    sigma = vec2face.mixture(torch.arange(1000) / 1000, Sample())
    values, counts = sigma.unique(return_counts=True)
    assert values.tolist() == pytest.approx([0.3, 0.5, 0.7]) and counts.tolist() == [400, 400, 200]


def test_generate_columns_and_slots(trained, tmp_path, faces, encoder, unrounded):
    generator, inputs = trained
    inputs = {**inputs, "enroll": enrolled(trained, tmp_path, faces, encoder, 3)}
    ctx = context(tmp_path, faces, encoder, inputs=inputs)
    slots = generator.slots(Volume.parse("3x6"), ctx)
    before = unrounded()
    made = list(generator.generate(slots, ctx))
    assert unrounded() == before + len(slots)
    images = torch.cat([batch.images for batch in made])
    columns = {name: torch.cat([batch.columns[name] for batch in made]) for name in made[0].columns}
    assert images.dtype == torch.uint8 and set(columns) == {"sample", "sigma", "similarity"}
    assert set(columns["sigma"].mul(10).round().tolist()) <= {3, 5, 7}
    codes = F.normalize(inquiries.load(inputs["enroll"]).codes, dim=1)
    torch.testing.assert_close(columns["similarity"], (encoder.embed(images) * codes[[slot.identity for slot in slots]]).sum(1))
    some = [Slot(2, 5), Slot(0, 1)]
    assert torch.equal(torch.cat([batch.images for batch in generator.generate(some, ctx)]), images[[17, 1]])


def test_variation_comes_from_the_noise_and_not_from_the_mask(trained, tmp_path, faces, encoder):
    """Spec K (i): two masks change the feature of the image far less than noise of sigma 0.3 on the vector does."""
    generator, inputs = trained
    network = vec2face.load(generator.config.train, context(tmp_path, faces, encoder, inputs=inputs))
    mask = fmae.Mask()  # as in training: after so few steps other masks are new to the network
    torch.manual_seed(0)
    with torch.no_grad():
        v = encoder(faces.images(slice(None)).float() / 127.5 - 1)
        noisy = vec2face.perturb(v, torch.randn_like(v), torch.full((48,), 0.3) * network.scale)
        one, other = ((torch.rand(48, 16), mask.ratio(torch.rand(48)), mask.low) for _ in range(2))
        base, masked, moved = (encoder(fmae.paint(network, *given)) for given in ((v, *one), (v, *other), (noisy, *one)))
    by_mask, by_noise = ((1 - F.cosine_similarity(base, x)).mean() for x in (masked, moved))
    assert by_noise > 2 * by_mask and by_noise > 0.01
