"""Fréchet distance against pytorch-fid's code, closed forms and eigenvalues; KID and PRDC against loops; Inception against pytorch-fid."""

import numpy as np
import pytest
import scipy.linalg
import torch
from fake_subject import Faces, by_name, clusters, context, subject

from synthbench.evaluators import dinov2, fidelity
from synthbench.evaluators.fidelity import Fidelity, FidelityConfig, frechet, frechet_distance, kid, mmd, moments, prdc
from synthbench.evaluators.inception import Inception, pooled_features
from synthbench.types import Skipped, UserError


def gaussians(n, dim, seed=0, shift=0.3):
    random = np.random.default_rng(seed)
    mix = [random.normal(size=(dim, dim)) / np.sqrt(dim) for _ in range(2)]
    return random.normal(size=(n, dim)) @ mix[0], random.normal(size=(n, dim)) @ mix[1] + shift


def test_moments_stream():
    x = np.random.default_rng(0).normal(1000, 1, (500, 7)).astype(np.float32)
    mean, cov = moments(x, chunk=64)
    np.testing.assert_allclose(mean, x.astype(np.float64).mean(0), rtol=1e-13)
    np.testing.assert_allclose(cov, np.cov(x.astype(np.float64), rowvar=False), atol=1e-10)


def test_frechet_closed_forms():
    random = np.random.default_rng(0)
    mean, a = random.normal(size=6), random.normal(size=(6, 6))
    cov = a @ a.T
    assert frechet(mean, cov, mean, cov) == pytest.approx(0, abs=1e-12)
    assert frechet(mean, cov, mean + 2, cov) == pytest.approx(24, rel=1e-12)
    p, q = random.random(6), random.random(6)
    assert frechet(mean, np.diag(p), mean, np.diag(q)) == pytest.approx(((np.sqrt(p) - np.sqrt(q)) ** 2).sum(), rel=1e-12)


@pytest.mark.parametrize(("n", "dim", "tolerance"), [(500, 32, 1e-10), (40, 64, 1e-4)])
def test_frechet_is_pytorch_fid_and_eigenvalues(n, dim, tolerance):
    x, y = gaussians(n, dim)
    (mean1, cov1), (mean2, cov2) = moments(x), moments(y)
    ours = frechet(mean1, cov1, mean2, cov2)
    roots = np.sqrt(scipy.linalg.eigvals(cov1 @ cov2).astype(complex)).real.sum()
    assert ours == pytest.approx(((mean1 - mean2) ** 2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * roots, rel=tolerance)
    if n <= dim:  # fewer images than dimensions: the trace is a nuclear norm
        nuclear = np.linalg.svd((x - mean1) @ (y - mean2).T / (n - 1), compute_uv=False).sum()
        assert ours == pytest.approx(((mean1 - mean2) ** 2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * nuclear, rel=1e-8)
        return
    from pytorch_fid.fid_score import calculate_frechet_distance

    try:
        theirs = calculate_frechet_distance(mean1, cov1, mean2, cov2)
    except TypeError:
        pytest.skip("this SciPy has no sqrtm(disp=...), which pytorch-fid needs")
    assert ours == pytest.approx(theirs, rel=tolerance)


def test_frechet_error_is_that_of_repeated_draws():
    found, errors = [], []
    for seed in range(200):
        random = np.random.default_rng(seed)
        x, y = random.normal(size=(600, 5)), 0.3 + random.normal(size=(600, 5)) * [1.5, 1, 1, 0.7, 1]
        value, stderr = frechet_distance(x, y)
        found.append(value)
        errors.append(stderr)
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.15)
    assert frechet_distance(x[:5], y[:5])[1] is None


def test_mmd_is_the_double_loop_of_every_subset():
    all_x, all_y = gaussians(12, 5)
    kernel = lambda a, b: (a @ b / 5 + 1) ** 3  # noqa: E731
    chosen = [([0, 3, 4, 11], [1, 2, 9]), (range(12), range(12))]
    expected = []
    for x, y in ((all_x[list(some)], all_y[list(others)]) for some, others in chosen):
        xx = np.mean([kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
        yy = np.mean([kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
        expected.append(xx + yy - 2 * np.mean([kernel(a, b) for a in x for b in y]))
    of_x, of_y = (np.array([[float(row in some[side]) for row in range(12)] for some in chosen]) for side in (0, 1))
    assert mmd(all_x, all_y, of_x, of_y, rows=5) == pytest.approx(expected, rel=1e-12)


def test_kid_is_unbiased_seeded_and_its_error_fits():
    values, errors = [], []
    for seed in range(40):
        random = np.random.default_rng(seed)
        value, stderr = kid(random.normal(size=(400, 6)), random.normal(size=(400, 6)) + 0.4, random, subsets=40, size=80)
        values.append(value)
        errors.append(stderr)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.3)
    whole = np.ones((1, 100))
    equal = [mmd(*np.random.default_rng(seed).normal(size=(2, 100, 6)), whole, whole).item() for seed in range(200)]
    assert abs(np.mean(equal)) < 4 * np.std(equal) / np.sqrt(200)  # zero in the mean, either sign
    x, y = gaussians(50, 4)
    assert kid(x, y, np.random.default_rng(1)) == kid(x, y, np.random.default_rng(1))


def test_prdc_is_the_loop():
    x, y = gaussians(40, 3)
    y = y[:35]
    k = 3

    def reach(points, i):
        return sorted(np.linalg.norm(points - points[i], axis=1))[k]  # entry 0 is the point itself

    real, fake = [reach(x, i) for i in range(40)], [reach(y, j) for j in range(35)]
    far = np.linalg.norm(x[:, None] - y[None], axis=2)
    expected = {
        "precision": np.mean([any(far[i, j] < real[i] for i in range(40)) for j in range(35)]),
        "recall": np.mean([any(far[i, j] < fake[j] for j in range(35)) for i in range(40)]),
        "density": np.mean([sum(far[i, j] < real[i] for i in range(40)) / k for j in range(35)]),
        "coverage": np.mean([any(far[i, j] < real[i] for j in range(35)) for i in range(40)]),
    }
    found = prdc(x, y, k, rows=7)
    assert {name: values.mean() for name, values in found.items()} == pytest.approx(expected)
    same = prdc(x, x, k)
    assert same["precision"].mean() == same["recall"].mean() == same["coverage"].mean() == 1


def test_evaluator(tmp_path):
    embeddings, identity = clusters(20, 10)
    real_embeddings, real_identity = clusters(25, 10, seed=1)
    seen = subject(Faces(identity), embeddings, Faces(real_identity), real_embeddings)
    run = Fidelity(FidelityConfig(subsets=10)).evaluate
    scores, skipped = by_name(run(seen, context(tmp_path)))
    assert {score.n for score in scores.values()} == {200}  # the smaller of both
    assert set(scores) == {f"fd/judge/{name}" for name in ("frechet", "kid", "precision", "recall", "density", "coverage")}
    assert set(skipped) == {f"fd/{network}/{name}" for network in ("inception_pytorch-fid", "dinov2-large") for name in ("frechet", "kid")}
    again, _ = by_name(run(seen, context(tmp_path)))
    assert again == scores
    alike, _ = by_name(run(subject(Faces(identity), embeddings), context(tmp_path)))
    assert alike["fd/judge/frechet"].value < 1e-9 < 0.01 < scores["fd/judge/frechet"].value


def test_copies_of_inquiries_are_not_measured(tmp_path):
    x, identity = clusters(10, 6)
    real_embeddings, real_identity = clusters(10, 9, seed=1)
    both, label = np.concatenate([x, x[::6].repeat(5, 0)]), np.concatenate([identity, np.arange(10).repeat(5)])
    copied = Faces(label, {"sample": np.concatenate([np.zeros(60), np.full(50, -1)])})
    run, real = Fidelity(FidelityConfig(subsets=10)).evaluate, (Faces(real_identity), real_embeddings)
    plain, _ = by_name(run(subject(Faces(identity), x, *real), context(tmp_path)))
    assert by_name(run(subject(copied, both, *real), context(tmp_path)))[0] == plain


def test_bad_input(tmp_path):
    with pytest.raises(Skipped, match="too few"):
        Fidelity(FidelityConfig()).evaluate(subject(Faces([0, 1]), np.eye(2)), context(tmp_path))
    embeddings, identity = clusters(5, 2)
    embeddings[:] = embeddings[0]  # ten identical images
    scores, _ = by_name(Fidelity(FidelityConfig(subsets=2)).evaluate(subject(Faces(identity), embeddings), context(tmp_path)))
    assert scores["fd/judge/frechet"].value == pytest.approx(0, abs=1e-12)
    embeddings[3] = np.nan
    with pytest.raises(UserError, match="not finite"):
        Fidelity(FidelityConfig()).evaluate(subject(Faces(identity), embeddings), context(tmp_path))


def test_inception_is_pytorch_fids(tmp_path, monkeypatch):
    """Random weights through both networks: the same features. pytorch-fid's download is replaced by our file."""
    from pytorch_fid import inception as patched

    torch.manual_seed(0)
    made = []
    monkeypatch.setattr(patched, "load_state_dict_from_url", lambda *args, **kwargs: {})
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda self, state: made.append(self))
    theirs = patched.InceptionV3([3]).eval()
    monkeypatch.undo()
    state = made[0].state_dict()
    for name, value in state.items():
        if "running_var" in name:
            value.uniform_(0.1, 0.2)  # shared with `theirs`; with 1 the signal dies out on the way
    torch.save(state, tmp_path / "inception.pth")
    ours = Inception(tmp_path / "inception.pth")
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected = theirs(pixels.float() / 255)[0].flatten(1).numpy()
    found = pooled_features(ours, Faces([0, 1], pixels=pixels), np.arange(2), torch.device("cpu"))
    assert found.shape == (2, 2048) and expected.std() > 1e-3
    np.testing.assert_allclose(found, expected, atol=1e-5 * expected.std())
    torch.save({"wrong": torch.zeros(1)}, tmp_path / "wrong.pth")
    with pytest.raises(UserError, match="is not pytorch-fid's Inception"):
        Inception(tmp_path / "wrong.pth")

    embeddings, identity = clusters(3, 2)
    faces = Faces(identity, pixels=pixels.repeat(3, 1, 1, 1))
    monkeypatch.setattr(fidelity, "find_inception", lambda: ours)
    scores, skipped = by_name(Fidelity(FidelityConfig(subsets=2)).evaluate(subject(faces, embeddings), context(tmp_path)))
    assert "2,048 dimensions" in skipped["fd/inception_pytorch-fid/frechet"]
    assert "fd/inception_pytorch-fid/kid" in scores


def test_dinov2_is_that_of_transformers(tmp_path, monkeypatch):
    """A tiny one with random weights: pixels to features by hand, and the scores of a set; what is no DINOv2 is refused."""
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 224, "patch_size": 14}
    theirs = transformers.Dinov2Model(transformers.Dinov2Config(**shape)).eval()
    theirs.save_pretrained(tmp_path / "dino")
    ours = dinov2.DINOv2(tmp_path / "dino")
    pixels = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    found = pooled_features(ours, Faces([0] * 6, pixels=pixels), np.arange(6), torch.device("cpu"))
    large = torch.nn.functional.interpolate(pixels / 255, size=(224, 224), mode="bicubic", antialias=True).clamp(0, 1)
    normal = (large - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        np.testing.assert_allclose(found, theirs(normal).last_hidden_state[:, 0].numpy(), atol=1e-5)
    assert found.std(0).min() > 1e-4

    weights = load_file(tmp_path / "dino" / "model.safetensors")
    save_file({name: value for name, value in weights.items() if "layernorm" not in name}, tmp_path / "dino" / "model.safetensors")
    with pytest.raises(UserError, match="its weights lack layernorm"):
        dinov2.DINOv2(tmp_path / "dino")
    (tmp_path / "dino" / "config.json").unlink()
    with pytest.raises(UserError, match="holds no DINOv2"):
        dinov2.DINOv2(tmp_path / "dino")

    monkeypatch.setattr(dinov2, "find_dinov2", lambda: ours)
    embeddings, identity = clusters(3, 2)
    settings = FidelityConfig(subsets=2, neighbours=2, allow_small=True)
    scores, _ = by_name(Fidelity(settings).evaluate(subject(Faces(identity, pixels=pixels), embeddings), context(tmp_path)))
    assert scores["fd/dinov2-large/frechet"].value == pytest.approx(0, abs=1e-6) and scores["fd/dinov2-large/kid"].n == 6
