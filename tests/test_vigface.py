import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_context import context
from fake_encoder import Projection
from torch import nn
from torch.nn import functional as F

from synthbench.config import CONFIGS, build, parse_set, read_layer
from synthbench.data.faces import FaceSet
from synthbench.diffusion import process
from synthbench.generators import vigface
from synthbench.generators.vigface import Batch, Config, Train, VIGFace
from synthbench.identities import flow, hypersphere
from synthbench.models.encoder import Encoder, read_tensors
from synthbench.models.size import count
from synthbench.models.vit import ViT
from synthbench.recognition import trainer
from synthbench.recognition.margin import Head
from synthbench.types import Slot, UserError, Volume

R, DIM, PEOPLE, VIRTUAL = 16, 32, 16, 40
STAGE1 = {
    "backbone": {"family": "small", "width": 8, "blocks": (0, 1, 1)}, "dim": DIM, "margin": 0.2, "scale": 16,
    "epochs": 20, "batch_size": 32, "schedule": "cosine", "warmup": 1,
}  # fmt: skip
VIT = {"width": 16, "depth": 2, "heads": 2, "patch": 4}


@pytest.fixture(scope="module")
def faces():
    """People told apart by a pattern of their own, eight images of each under noise."""
    draw = np.random.default_rng(0)
    people = draw.normal(0, 60, (PEOPLE, 1, R, R, 3)) + 128
    pixels = people + draw.normal(0, 30, (PEOPLE, 8, R, R, 3))
    return FaceSet.from_arrays(pixels.clip(0, 255).astype(np.uint8).reshape(-1, R, R, 3), np.arange(8 * PEOPLE) // 8)


def settings(**change):
    recognizer = {**STAGE1, **change.pop("recognizer", {})}
    return Train(
        **{"recognizer": recognizer, "virtual": VIRTUAL, "collapse": 0.95, "vit": VIT, "steps": 6, "batch_size": 8, "lr": 1e-3, **change}
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory, faces):
    """A generator after `train` and `enroll`, with the folders of both."""
    root = tmp_path_factory.mktemp("vigface")
    generator = VIGFace(Config(train=settings(), sample={"steps": 3, "guidance": 1.5}))
    generator.train(context(root / "train", faces))
    inputs = {"train": root / "train", "enroll": root / "enroll"}
    generator.enroll(6, context(root / "enroll", faces, inputs=inputs))
    return generator, inputs


def test_the_shipped_yaml_is_the_default_config():
    assert build(Config, read_layer(CONFIGS / "generators" / "vigface.yaml")) == Config()


def test_full_size():
    with torch.device("meta"):
        denoiser, inputs = VIGFace(Config()).networks(112, 512)["denoiser"]
        parameters, macs = count(denoiser, *inputs)
    assert denoiser.place.shape[1] == 784  # tokens
    assert parameters == pytest.approx(132.9e6, rel=0.001)
    assert macs == pytest.approx(90.1e9, rel=0.001)


def test_more_ddim_steps_than_diffusion_steps_are_refused():
    with pytest.raises(UserError, match=r"sample\.steps 101 is more than the 100"):
        build(Config, parse_set(["sample.steps=101", "train.T=100"]))


# --------------------------------------------------------------------------------------------------------------- stage 1


def test_sigma_against_a_loop():
    torch.manual_seed(0)
    f, w = torch.randn(5, 4) * 3, torch.randn(5, 4) * 0.1
    expected = [math.sqrt(sum((float(f[i, d] / f[i].norm()) - float(w[i, d] / w[i].norm())) ** 2 for i in range(5)) / 5) for d in range(4)]
    torch.testing.assert_close(vigface.deviation(f, w), torch.tensor(expected))
    torch.testing.assert_close(vigface.deviation(2 * f, 7 * w), vigface.deviation(f, w))  # lengths do not count


def test_a_virtual_cloud_is_as_wide_as_a_real_one():
    """Embeddings drawn around prototypes of unit length give a sigma that draws virtual ones at the same distance."""
    draw = torch.Generator().manual_seed(0)
    w = F.normalize(torch.randn(4000, 16, generator=draw), dim=1)
    real = F.normalize(w + 0.1 * torch.randn(4000, 16, generator=draw), dim=1)
    made = vigface.virtual_embeddings(5 * w, vigface.deviation(real, w), torch.randn(4000, 16, generator=draw))
    apart = [(cloud - w).square().sum(1).mean().item() for cloud in (real, made)]
    assert apart[1] == pytest.approx(apart[0], rel=0.03)


def test_joint_loss_against_a_loop():
    """Eqs. 3 and 4: the denominator runs over all n + k prototypes, for real rows and for virtual ones."""
    torch.manual_seed(0)
    head = Head("arcface", 4, 3 + 2, scale=8.0, margin=0.3)
    nn.init.normal_(head.weight.requires_grad_(False))
    f, z, sigma = torch.randn(2, 4), torch.randn(3, 4), torch.rand(4)
    label, chosen = torch.tensor([2, 0]), torch.tensor([3, 4, 4])
    rows = [(f[i], int(label[i])) for i in range(2)]
    rows += [(head.weight[int(c)] / head.weight[int(c)].norm() + z[i] * sigma, int(c)) for i, c in enumerate(chosen)]
    total = 0.0
    for row, own in rows:
        logits = []
        for j in range(5):
            cosine = float(row @ head.weight[j] / row.norm() / head.weight[j].norm())
            logits.append(8 * (math.cos(math.acos(cosine) + 0.3) if j == own else cosine))
        total -= logits[own] - math.log(sum(math.exp(logit) for logit in logits))
    assert float(vigface.joint_loss(head, sigma, f, label, chosen, z)) == pytest.approx(total / 5, abs=1e-5)


def test_virtual_embeddings_move_prototypes_and_never_the_backbone():
    torch.manual_seed(0)
    backbone, head = nn.Linear(6, 4), Head("arcface", 4, 3 + 5)
    x, label = torch.randn(4, 6), torch.tensor([0, 1, 2, 0])
    chosen, z = torch.tensor([3, 4, 7]), torch.randn(3, 4)

    sigma = torch.full((4,), 0.3)
    joint = vigface.stage1_loss(head, sigma, backbone(x), label, chosen, z, 0.9)
    real = F.cross_entropy(head(backbone(x), label), label)
    found, alone = (torch.autograd.grad(loss, [backbone.weight, head.weight]) for loss in (joint, real))
    torch.testing.assert_close(found[0] * 7, alone[0] * 4)  # means over 7 and over 4: the backbone learns from real images alone
    assert found[1][chosen].abs().amax(1).gt(0).all() and not torch.allclose(found[1][chosen] * 7, alone[1][chosen] * 4)
    now = vigface.deviation(backbone(x), head.weight[label]).detach()
    torch.testing.assert_close(sigma, 0.9 * torch.full((4,), 0.3) + 0.1 * now)


def test_sigma_follows_the_batches(faces, tmp_path, monkeypatch):
    """Eq. 7: alpha 0.9 of the old, 0.1 of the new; the first batch alone to begin with."""
    batches, logged = [], []
    plain, loop = vigface.deviation, vigface.loop.run
    monkeypatch.setattr(vigface, "deviation", lambda f, w: batches.append(plain(f, w)) or batches[-1])

    def watched(update, *args, **more):
        loop(lambda step: logged.append(update(step)) or logged[-1], *args, **more)

    monkeypatch.setattr(vigface.loop, "run", watched)
    vigface.train_recognizer(settings(recognizer={"epochs": 1}), context(tmp_path / "s", faces))
    expected = batches[0]
    for now, line in zip(batches, logged, strict=True):
        expected = 0.9 * expected + 0.1 * now
        assert float(line["sigma"]) == pytest.approx(float(expected.norm()), rel=1e-5)


def test_prototypes_spread_because_of_the_virtual_embeddings(trained, faces, tmp_path, monkeypatch):
    """R-V: mean 0, std about 1 / sqrt(D), as in the paper. Without virtual embeddings the virtual prototypes do not repel each other."""
    said = json.loads((trained[1]["train"] / "prototypes.json").read_text())
    assert abs(said["real-virtual"]["mean"]) < 0.1 and said["real-virtual"]["std"] == pytest.approx(DIM**-0.5, rel=0.4)
    spread = said["virtual-virtual"]
    assert abs(spread["mean"]) < 0.1 and 0.5 * DIM**-0.5 < spread["std"] < 2.5 * DIM**-0.5 and spread["highest"] < 0.85

    def without(head, sigma, embedding, label, chosen, z):
        return trainer.softmax_loss(head, embedding, label)

    monkeypatch.setattr(vigface, "joint_loss", without)
    vigface.train(settings(), context(tmp_path, faces))
    alone = json.loads((tmp_path / "prototypes.json").read_text())["virtual-virtual"]
    assert alone["highest"] > spread["highest"] + 0.2 and alone["std"] > spread["std"]


def test_prototypes_that_collapsed_are_refused(trained, faces, tmp_path):
    alike = F.normalize(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0.1, 1], [1, 1, 0]]), dim=1)
    with pytest.raises(UserError, match=r"collapsed: two of 3 have cosine 1\.00, the limit train\.collapse is 0\.5.*train\.virtual"):
        vigface.check_prototypes(alike, 2, 0.5, tmp_path / "prototypes.json")
    vigface.check_prototypes(alike[[0, 1, 2, 4]], 2, 0.5, tmp_path / "prototypes.json")
    shutil.copytree(trained[1]["train"] / "recognizer", tmp_path / "train" / "recognizer")
    with pytest.raises(UserError, match="collapsed"):  # a finished stage 1 is judged again, and not trained again
        vigface.train(settings(collapse=0.1), context(tmp_path / "train", faces, progress=lambda *call: pytest.fail("trained")))
    assert not (tmp_path / "train" / "diffusion").exists()


def test_the_papers_own_prototypes_have_not_collapsed():
    """V-V .010 (.109): the highest of 1.8e9 pairs of normal cosines."""
    highest = 0.010 + 0.109 * math.sqrt(2 * math.log(60_000**2 / 2))
    assert 0.68 < highest < Train().collapse


def test_real_prototypes_are_no_new_people(trained, faces, tmp_path):
    generator = VIGFace(Config(train=settings(), enroll={"prototypes": "real"}, sample={"steps": 2}))
    assert not generator.traits.new_identities and VIGFace.traits.new_identities and trained[0].traits.new_identities
    inputs = {"train": trained[1]["train"], "enroll": tmp_path / "enroll"}
    generator.enroll(3, context(tmp_path / "enroll", faces, inputs=inputs))
    (batch,) = generator.generate([Slot(2, 0), Slot(0, 1)], context(tmp_path / "set", faces, inputs=inputs))
    assert batch.columns["real_identity"].tolist() == [2, 0]


def test_a_transformer_that_cannot_be_is_refused_before_stage_1(faces, tmp_path):
    with pytest.raises(UserError, match="cannot be cut into patches of 5 px"):
        vigface.train(settings(vit={"width": 16, "depth": 2, "heads": 2, "patch": 5}), context(tmp_path, faces))
    assert not (tmp_path / "recognizer").exists()


def test_cosines_are_those_of_all_pairs(monkeypatch):
    monkeypatch.setattr(hypersphere, "COMPARED", 3)
    a = F.normalize(torch.randn(7, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    matrix = (a @ a.T).numpy()
    values = matrix[~np.eye(7, dtype=bool)]
    assert hypersphere.cosines(a, a, same=True) == pytest.approx((values.mean(), values.std(), values.max()), abs=1e-6)
    assert hypersphere.cosines(a[:2], a) == pytest.approx((matrix[:2].mean(), matrix[:2].std(), matrix[:2].max()), abs=1e-6)


def test_virtual_batch_may_follow_the_shares(faces, tmp_path, monkeypatch):
    sizes = []
    plain = vigface.joint_loss
    monkeypatch.setattr(vigface, "joint_loss", lambda *args: sizes.append((len(args[2]), len(args[4]))) or plain(*args))
    for kind in ("equal", "proportional"):
        vigface.train_recognizer(settings(virtual_batch=kind, recognizer={"epochs": 1}), context(tmp_path / kind, faces))
    assert set(sizes) == {(32, 32), (32, 80)}  # 32 x 40 / 16


# --------------------------------------------------------------------------------------------------------------- stage 2


def batch(size=4):
    torch.manual_seed(0)
    t = torch.tensor([0, 300, 600, 999])[:size]
    told = torch.tensor([1.0, 0.0, 1.0, 1.0])[:size]
    return Batch(
        torch.rand(size, 3, R, R) * 2 - 1, torch.randn(size, DIM), told, t, process.signal("cosine")[t], torch.randn(size, 3, R, R)
    )


def awake(train):
    torch.manual_seed(1)
    denoiser = ViT(train.vit, R, DIM)
    for p in denoiser.parameters():
        if not p.any():
            nn.init.normal_(p, std=0.05)
    return denoiser


@pytest.mark.parametrize("prediction", ["x0", "v"])
def test_objective_against_a_loop(prediction):
    """Eq. 8 image by image, with the condition at length sqrt(D), and zeros where it is dropped."""
    train, some = settings(prediction=prediction, feature_weight=0.3), batch()
    denoiser, recognizer = awake(train), Encoder(Projection(DIM, R), resolution=R, dim=DIM)
    found = vigface.objective(denoiser, recognizer, some, train)
    mse, distance = [], []
    for i in range(4):
        a = some.abar[i]
        x_t = a.sqrt() * some.x0[i] + (1 - a).sqrt() * some.noise[i]
        told = some.told[i] * some.code[i] / some.code[i].norm() * math.sqrt(DIM)
        output = denoiser(x_t[None], some.t[i : i + 1], told[None])[0]
        x0 = output if prediction == "x0" else a.sqrt() * x_t - (1 - a).sqrt() * output
        goal = some.x0[i] if prediction == "x0" else a.sqrt() * some.noise[i] - (1 - a).sqrt() * some.x0[i]
        mse.append((output - goal).square().mean().item())
        reached = F.normalize(recognizer(x0.clamp(-1, 1)[None])[0], dim=0)
        distance.append(float((reached - some.code[i] / some.code[i].norm()).square().sum()))
    assert float(found["mse"]) == pytest.approx(np.mean(mse), rel=1e-4)
    assert float(found["feature_distance"]) == pytest.approx(np.mean(distance), rel=1e-4)
    assert float(found["loss"]) == pytest.approx(np.mean(mse) + 0.3 * np.mean(distance), rel=1e-4)


def test_the_feature_distance_teaches_the_denoiser_and_not_the_recognizer():
    train = settings()
    denoiser, recognizer = awake(train), Encoder(Projection(DIM, R), resolution=R, dim=DIM)
    distance = vigface.objective(denoiser, recognizer, batch(), train)["feature_distance"]
    assert torch.autograd.grad(distance, denoiser.out.weight)[0].any()
    assert not any(p.requires_grad for p in recognizer.parameters())


@pytest.mark.parametrize(("kind", "expected"), [("image", "embedding"), ("prototype", "prototype")])
def test_what_the_network_is_told(kind, expected, trained, faces, tmp_path, monkeypatch):
    """v1: the embedding of the image, of its mirror image where it is mirrored; v3: the prototype of the person. One in ten: nothing."""
    seen = []
    plain = vigface.objective
    monkeypatch.setattr(vigface, "objective", lambda d, r, part, s: seen.append(part) or plain(d, r, part, s))
    folder = trained[1]["train"] / "recognizer"
    recognizer, prototypes = vigface.load_encoder(folder), read_tensors(folder / "prototypes.safetensors")["prototypes"]
    vigface.train_diffusion(settings(condition=kind, steps=30, batch_size=16), context(tmp_path, faces), recognizer, prototypes)
    everything = faces.images(slice(None)).float() / 127.5 - 1
    for part in seen[:4]:
        for x0, code in zip(part.x0, part.code):
            straight, mirrored = ((everything - image).flatten(1).abs().amax(1) for image in (x0, x0.flip(2)))
            row = int(torch.minimum(straight, mirrored).argmin())
            told = recognizer(x0[None])[0] if expected == "embedding" else prototypes[faces.identity[row]]
            torch.testing.assert_close(code, told, atol=1e-4, rtol=1e-3)
    told = torch.cat([part.told for part in seen])
    assert set(told.tolist()) == {0.0, 1.0} and 0.05 < 1 - told.mean() < 0.16  # 480 draws at 0.1


def test_progress_is_one_and_nothing_stays_but_weights(tmp_path, faces):
    calls = []
    vigface.train(settings(recognizer={"epochs": 2}, collapse=1.0), context(tmp_path, faces, progress=lambda *call: calls.append(call)))
    assert calls == [(i, 14) for i in range(1, 15)]  # 2 epochs of 4 batches, then 6 steps
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {
        "prototypes.json", "recognizer/weights.safetensors", "recognizer/encoder.json", "recognizer/prototypes.safetensors",
        "recognizer/metrics.jsonl", "diffusion/weights.safetensors", "diffusion/metrics.jsonl",
    }  # fmt: skip


@pytest.mark.parametrize("at", [3, 11])
def test_a_killed_training_goes_on_bit_for_bit(at, tmp_path, faces, monkeypatch):
    monkeypatch.setattr(vigface.loop, "EVERY", -1)  # after every step
    train = settings(recognizer={"epochs": 2, "dropout": 0.1}, collapse=1.0)
    vigface.train(train, context(tmp_path / "whole", faces))

    def kill(done, total):
        if done == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vigface.train(train, context(tmp_path / "cut", faces, progress=kill))
    torch.manual_seed(99)
    vigface.train(train, context(tmp_path / "cut", faces))
    for name in ("recognizer/weights", "recognizer/prototypes", "diffusion/weights"):
        assert (tmp_path / "whole" / f"{name}.safetensors").read_bytes() == (tmp_path / "cut" / f"{name}.safetensors").read_bytes()


def test_a_loss_that_is_not_finite_names_the_settings_of_its_stage(tmp_path, faces):
    with pytest.raises(UserError, match=r"VIGFace's recognizer went wrong .*train\.recognizer\.lr"):
        vigface.train(settings(recognizer={"lr": 1e30, "warmup": 0}), context(tmp_path, faces))


# ------------------------------------------------------------------------------------------------------ bad sets, and sampling


@pytest.mark.parametrize(("kind", "there"), [("virtual", VIRTUAL), ("real", PEOPLE)])
def test_more_identities_than_prototypes_are_refused(kind, there):
    generator = VIGFace(Config(train=settings(), enroll={"prototypes": kind}))
    generator.check(Volume.parse(f"{there}x2"), PEOPLE), generator.check(Volume.parse("2x2"), None)
    wanted = f"has {there} {kind} prototypes, but {there + 1} identities are wanted.*at most {there} identities"
    with pytest.raises(UserError, match=wanted + (r".*raise train\.virtual" if kind == "virtual" else "")):
        generator.check(Volume.parse(f"{there + 1}x2"), PEOPLE)


def test_idperturb_keeps_half_the_angle_to_the_nearest_other_prototype(trained):
    prototypes = read_tensors(trained[1]["train"] / "recognizer" / "prototypes.safetensors")["prototypes"]
    slots = [Slot(i, j) for i in range(4) for j in range(50)]
    code = prototypes[PEOPLE + torch.tensor([slot.identity for slot in slots])]
    file = trained[1]["train"] / "recognizer" / "prototypes.safetensors"

    def perturbed(code, slots, lowest):
        bounds = hypersphere.Bounds(prototypes[PEOPLE:], file, lowest)
        return hypersphere.perturb(code, slots, bounds([slot.identity for slot in slots]), seed=1)

    told = perturbed(code, slots, 0.0)
    nearest = torch.stack([max(p @ own for p in prototypes if not torch.equal(p, own)) for own in code[::50]]).repeat_interleave(50)
    cosine = (told * code).sum(1)
    assert (cosine.arccos() <= nearest.arccos() / 2 + 1e-3).all() and cosine.std() > 0.01
    assert (perturbed(code, slots, 0.97) * code).sum(1).min() >= 0.97 - 1e-5
    assert torch.equal(perturbed(code[70:71], slots[70:71], 0.0), told[70:71])
    assert perturbed(code, slots, 1.0) is code


@pytest.mark.parametrize("kind", ["virtual", "real", "random"])
def test_enroll_takes_the_first_prototypes_of_a_kind(kind, trained, faces, tmp_path):
    generator = VIGFace(Config(train=settings(), enroll={"prototypes": kind}))
    codes = []
    for wanted in (3, 12):
        ctx = context(tmp_path / str(wanted), faces, inputs=trained[1])
        generator.enroll(wanted, ctx)
        codes.append(read_tensors(ctx.out / "codes.safetensors")["codes"])
    assert torch.equal(codes[0], codes[1][:3])
    torch.testing.assert_close(codes[1].norm(dim=1), torch.ones(12))
    known = read_tensors(trained[1]["train"] / "recognizer" / "prototypes.safetensors")["prototypes"]
    if kind != "random":
        assert torch.equal(codes[1], known[PEOPLE:][:12] if kind == "virtual" else known[:12])
    else:
        assert (codes[1] @ known.T).max() < 0.99


def test_generate_and_its_column(trained, faces, tmp_path, unrounded):
    generator, inputs = trained
    ctx = context(tmp_path, faces, inputs=inputs)
    slots = generator.slots(Volume.parse("3x4"), ctx)
    (made,) = generator.generate(slots, ctx)
    codes = read_tensors(inputs["enroll"] / "codes.safetensors")["codes"]
    recognizer = vigface.load_encoder(inputs["train"] / "recognizer")
    cosine = (recognizer.embed(made.images) * codes[made.identity]).sum(1)
    torch.testing.assert_close(made.columns["similarity"], cosine, atol=1e-5, rtol=0)
    assert made.columns["sample"].tolist() == [slot.sample for slot in slots]
    assert unrounded() == 12


def test_guidance_uses_a_zero_condition(trained, faces, tmp_path, monkeypatch):
    """Eq. 9: what ddim is given is (1 + w) f(x, c) - w f(x, 0); with w = 0 there is one pass, and it is f(x, c)."""
    inputs, networks = trained[1], []

    def stop(network, *args):
        networks.append(network)
        raise InterruptedError

    monkeypatch.setattr(vigface.process, "ddim", stop)
    for w in (0.0, 1.5):
        other = VIGFace(Config(train=settings(), sample={"steps": 3, "guidance": w}))
        with pytest.raises(InterruptedError):
            list(other.generate([Slot(1, 0)], context(tmp_path, faces, inputs=inputs)))
    denoiser = ViT(settings().vit, R, DIM)
    denoiser.load_state_dict(read_tensors(inputs["train"] / "diffusion" / "weights.safetensors"))
    x, t = torch.randn(32, 3, R, R), torch.tensor([500])
    code = read_tensors(inputs["enroll"] / "codes.safetensors")["codes"][1].expand(32, -1)
    with torch.inference_mode():
        told, untold = denoiser(x, t, code * math.sqrt(DIM)), denoiser(x, t, torch.zeros(32, DIM))
        torch.testing.assert_close(networks[0](x, t), told, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(networks[1](x, t), 2.5 * told - 1.5 * untold, atol=1e-4, rtol=1e-3)


def test_an_image_depends_on_its_slot_alone(trained, faces, tmp_path):
    generator, inputs = trained
    slots = [Slot(identity, sample) for identity in range(5) for sample in range(8)]

    def pixels(some, **more):
        return torch.cat([b.images for b in generator.generate(some, context(tmp_path, faces, inputs=inputs, **more))])

    whole = pixels(slots)
    assert torch.equal(whole, pixels(slots, batch_size=7))
    assert torch.equal(whole[13:29], pixels(slots[13:29]))
    assert torch.equal(whole.flip(0), pixels(slots[::-1]))


def test_a_flow_turns_prototypes_where_images_of_people_lie(trained, faces, tmp_path, monkeypatch):
    monkeypatch.setattr(flow, "TRAINING", flow.TRAINING.model_copy(update={"steps": 2}))
    seen = []
    monkeypatch.setattr(flow, "learn", lambda unit, person, given, learn=flow.learn: seen.append(unit) or learn(unit, person, given))
    generator, inputs = trained
    told = VIGFace(
        generator.config.model_copy(update={"sample": generator.config.sample.model_copy(update={"perturb": 0.2, "directions": "flow"})})
    )
    slots, ctx = [Slot(identity, sample) for identity in range(3) for sample in range(4)], context(tmp_path, faces, inputs=inputs)
    whole = torch.cat([batch.images for batch in told.generate(slots, ctx)])
    recognizer = vigface.load_encoder(inputs["train"] / "recognizer", torch.device("cpu"))
    order = np.argsort(faces.identity, kind="stable")
    torch.testing.assert_close(seen[0], torch.from_numpy(recognizer.embed_all(faces))[order], atol=1e-4, rtol=0)
    plain = torch.cat([batch.images for batch in generator.generate(slots, ctx)])
    assert (whole != plain).flatten(1).any(1).all()
    assert torch.equal(whole[5:7], torch.cat([batch.images for batch in told.generate(slots[5:7], ctx)])) and len(seen) == 1


def test_another_seed_gives_other_prototypes(trained, faces, tmp_path):
    _, other = vigface.train_recognizer(settings(recognizer={"epochs": 1}), replace(context(tmp_path, faces), seed=4))
    known = read_tensors(trained[1]["train"] / "recognizer" / "prototypes.safetensors")["prototypes"]
    assert not torch.allclose(other, known, atol=1e-2)
