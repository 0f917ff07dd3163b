"""Public checkpoint formats, made here; and the ONNX encoders of the shared data, where they are present."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from synthbench.models.checkpoints import load_checkpoint, separations
from synthbench.models.encoder import Encoder, build, save_encoder
from synthbench.types import UserError

SHARED = Path(os.environ.get("SYNTHBENCH_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_models = pytest.mark.skipif(not (SHARED / "models").is_dir(), reason=f"no public weights at {SHARED / 'models'}")


@pytest.fixture(scope="module")
def nets():
    """One of each family; 16 px keeps the last Linear small."""
    torch.manual_seed(0)
    return {family: build({"family": family, "depth": 18, "se": se}, 16, 32).eval() for family, se in (("iresnet", False), ("irse", True))}


def prefixed(net, prefix):
    return {prefix + key: value for key, value in net.state_dict().items()}


def write(path, content):
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("name", "family", "wrap"),
    [
        ("backbone.pth", "iresnet", lambda n: n.state_dict()),
        ("ddp.pt", "iresnet", lambda n: prefixed(n, "module.")),
        ("resume.pt", "iresnet", lambda n: {"epoch": 3, "state_dict_backbone": n.state_dict(), "state_optimizer": {"lr": 0.1}}),
        (
            "adaface.ckpt",
            "irse",
            lambda n: {"state_dict": {**prefixed(n, "model."), "head.kernel": torch.zeros(32, 9), "head.t": torch.zeros(1)}},
        ),
        ("tface.pth", "irse", lambda n: n.state_dict()),
        ("cvlface.safetensors", "irse", lambda n: prefixed(n, "model.net.")),
    ],
)
def test_public_formats(tmp_path, nets, name, family, wrap):
    net = nets[family]
    encoder = load_checkpoint(write(tmp_path / name, wrap(net)), colour="bgr")
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(encoder(x.flip(1)), net(x))
    assert (encoder.dim, encoder.resolution, encoder.colour) == (32, 16, "bgr")


def test_input_range_is_declared(tmp_path, nets):
    path = write(tmp_path / "magface.pth", prefixed(nets["iresnet"], "module.features."))
    x = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(load_checkpoint(path, colour="rgb", input="0..1")(2 * x - 1), nets["iresnet"](x), atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match="input must be"):
        load_checkpoint(path, colour="rgb", input="0-1")


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (lambda state: {"net": state, "ema": {}, "optimizer": {"lr": 1.0}}, "taken is what it calls net; left out: ema, optimizer"),
        (lambda state: {"ema": state, "step": 7}, "taken is what it calls ema; left out: step"),
        (
            lambda state: {"model": {"backbone": state, "head": {}}, "epoch": 3},
            "calls model.backbone; left out: epoch, head",
        ),
        (lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()}, ""),
        (lambda state: {"state_dict": {f"model.{key}": value for key, value in state.items()}, "hparams": {}}, "left out: hparams"),
        (
            lambda state: {**{f"net.{key}": value for key, value in state.items()}, "head.weight": torch.zeros(2)},
            "of a training: head.weight",
        ),
    ],
)
def test_what_training_scripts_save_is_unwrapped_and_the_rest_is_named(tmp_path, nets, capsys, wrap, said):
    path = write(tmp_path / "x.pt", wrap(nets["irse"].state_dict()))
    encoder = load_checkpoint(path, colour="bgr")
    x = torch.randn(1, 3, encoder.resolution, encoder.resolution)
    torch.testing.assert_close(encoder(x), nets["irse"].eval()(x.flip(1)))
    heard = " ".join(capsys.readouterr().err.split())
    assert said in heard if said else not heard


def test_our_own_needs_no_colour(tmp_path):
    net = build({"family": "small", "width": 8}, 32, 16)
    save_encoder(net, tmp_path, {"architecture": {"family": "small", "width": 8}, "resolution": 32, "dim": 16})
    for path in (tmp_path, tmp_path / "weights.safetensors"):
        assert load_checkpoint(path).colour == "rgb"
    with pytest.raises(UserError, match="declares colour rgb"):
        load_checkpoint(tmp_path, colour="bgr")


def refused(tmp_path, content, match, colour="rgb"):
    path = write(tmp_path / "x.pt", content)
    with pytest.raises(UserError, match=match):
        load_checkpoint(path, colour=colour)


def test_what_does_not_fit_is_refused(tmp_path, nets):
    good = nets["iresnet"].state_dict()
    refused(tmp_path, good, "must be declared", colour=None)
    refused(tmp_path, good, "must be rgb or bgr", colour="rbg")
    refused(tmp_path, {k: v for k, v in good.items() if "layer4.1" not in k}, "no depth known")
    refused(tmp_path, {k: v for k, v in good.items() if k != "layer2.1.conv2.weight"}, r"missing: layer2\.1\.conv2\.weight")
    refused(tmp_path, {**good, "extra.weight": torch.zeros(1)}, r"not expected: extra\.weight")
    refused(tmp_path, {**good, "layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}, "of another shape")
    refused(tmp_path, {**prefixed(nets["iresnet"], "net."), "decoder.weight": torch.zeros(1)}, "besides the network")
    refused(tmp_path, {"conv.weight": torch.zeros(1)}, "no architecture known here")
    refused(tmp_path, [torch.zeros(1)], "not a state dict")
    some = {k: v for k, v in nets["irse"].state_dict().items() if "se_block" not in k or k.startswith("body.0.")}
    refused(tmp_path, some, "in 1 of 8 blocks only")


def test_damaged_and_dangerous_files(tmp_path, nets):
    whole = io.BytesIO()
    torch.save(nets["iresnet"].state_dict(), whole)
    path = tmp_path / "cut.pt"
    path.write_bytes(whole.getvalue()[:100_000])
    with pytest.raises(UserError, match="damaged, cut short"):
        load_checkpoint(path, colour="rgb")
    touched = tmp_path / "touched"

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {touched}",)

    torch.save({"state_dict": {}, "hyper_parameters": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match="can run any code"):
        load_checkpoint(tmp_path / "evil.ckpt", colour="bgr")
    assert not touched.exists()
    with pytest.raises(UserError, match="no weights at"):
        load_checkpoint(tmp_path / "none.pt", colour="rgb")
    (tmp_path / "x.onnx").write_bytes(b"no graph")
    with pytest.raises(UserError, match="no ONNX file"):
        load_checkpoint(tmp_path / "x.onnx", colour="rgb")


def graph(path, batch, shape):
    """An ONNX file that multiplies 8 x 8 images by a matrix of 16 columns: input batch, and what the images are reshaped to."""
    onnx = pytest.importorskip("onnx")
    weight = np.random.default_rng(0).normal(size=(192, 16)).astype(np.float32)
    tensors = [onnx.numpy_helper.from_array(weight, "w"), onnx.numpy_helper.from_array(np.array(shape, np.int64), "s")]
    nodes = [onnx.helper.make_node("Reshape", ["x", "s"], ["f"]), onnx.helper.make_node("MatMul", ["f", "w"], ["y"])]
    given, made = (
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, d) for n, d in (("x", [batch, 3, 8, 8]), ("y", ["M", "D"]))
    )
    made_graph = onnx.helper.make_graph(nodes, "g", [given], [made], tensors)
    onnx.save(onnx.helper.make_model(made_graph, opset_imports=[onnx.helper.make_opsetid("", 13)]), path)
    return weight


@pytest.mark.parametrize(("batch", "shape"), [("N", [-1, 192]), (1, [1, 192]), (4, [4, 192]), (4, [-1, 192])])
def test_onnx_of_a_fixed_batch_runs_in_its_own(tmp_path, batch, shape):
    pytest.importorskip("onnx2torch")
    weight = graph(tmp_path / "x.onnx", batch, shape)
    encoder = load_checkpoint(tmp_path / "x.onnx", colour="rgb")
    x = torch.randn(7, 3, 8, 8, requires_grad=True)
    expected = x.detach().flatten(1) @ torch.from_numpy(weight)
    torch.testing.assert_close(encoder(x).detach(), expected, atol=1e-4, rtol=1e-4)
    if encoder.differentiable:
        encoder(x).sum().backward()
        torch.testing.assert_close(x.grad.flatten(1), torch.from_numpy(weight.sum(1)).expand(7, 192), atol=1e-4, rtol=1e-4)


def test_onnx_that_mixes_images_is_refused(tmp_path):
    pytest.importorskip("onnx2torch")
    graph(tmp_path / "x.onnx", 2, [1, 2, 192])
    with pytest.raises(UserError, match="for two images, not an embedding of each"):
        load_checkpoint(tmp_path / "x.onnx", colour="rgb")


def test_onnx_without_its_packages(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx2torch", None)
    (tmp_path / "x.onnx").write_bytes(b"graph")
    with pytest.raises(UserError, match=r"pip install 'synthbench\[onnx\]'"):
        load_checkpoint(tmp_path / "x.onnx", colour="rgb")


class First(torch.nn.Module):
    """Looks at its first channel only."""

    def forward(self, x):
        return x[:, 0].flatten(1)


def red_pairs():
    """40 pairs; identity lives in the red channel."""
    random = torch.Generator().manual_seed(0)
    left, right = (torch.randint(256, (40, 3, 6, 6), generator=random, dtype=torch.uint8) for _ in range(2))
    same = torch.arange(40) < 20
    right[:20, 0] = left[:20, 0]
    right[:20, 0, 0] = 0
    return left, right, same


def test_separations_by_declared_and_other_colours():
    left, right, same = red_pairs()
    declared, other = separations(Encoder(First(), resolution=6, dim=36, colour="rgb"), left, right, same)
    assert declared > 2 and abs(other) < 1
    assert separations(Encoder(First(), resolution=6, dim=36, colour="bgr"), left, right, same) == pytest.approx((other, declared))


@pytest.mark.parametrize(
    ("colour", "stored", "said"),
    [
        ("rgb", ("rgb", "rgb"), ""),
        ("bgr", ("rgb", "rgb"), "separates faces better with its colours exchanged"),
        ("rgb", ("rgb", "bgr"), "those of one as they are: the images of the former seem to be stored BGR"),
        ("rgb", ("bgr", "rgb"), "separates the faces of one better with red and blue exchanged"),
    ],
)
def test_images_are_blamed_where_the_network_is_right_on_others(tmp_path, capsys, colour, stored, said):
    from synthbench.data.pairs import PairSet, save_pairs
    from synthbench.pipeline import checks

    left, right, same = red_pairs()
    rows, images = np.arange(40), torch.cat([left, right])
    for name, order in zip(("one", "two"), stored):
        save_pairs(PairSet.from_arrays(name, images if order == "rgb" else images.flip(1), rows, rows + 40, same.numpy()), tmp_path / name)
    folders = {name: tmp_path / name for name in ("one", "two")}
    checks.colours(folders, {"judge": Encoder(First(), resolution=6, dim=36, colour=colour, name="judge")})
    heard = " ".join(capsys.readouterr().err.split())
    assert said in heard if said else not heard


def test_a_protocol_tries_the_colours_of_its_public_networks_on_its_photographs(tmp_path, capsys, monkeypatch):
    from synthbench.data.pairs import PairSet, save_pairs
    from synthbench.pipeline.job import Job
    from synthbench.protocol import load_protocol
    from synthbench.store import Store
    from synthbench.types import Volume

    left, right, same = red_pairs()
    rows = np.arange(40)
    save_pairs(PairSet.from_arrays("lfw", torch.cat([left, right]), rows, rows + 40, same.numpy()), tmp_path / "lfw")
    job = Job(Store(tmp_path), load_protocol("photos"), "real", Volume.parse("all"), torch.device("cpu"))
    for colour in ("rgb", "bgr"):
        monkeypatch.setattr(
            Job, "network", lambda self, name, colour=colour: Encoder(First(), resolution=6, dim=36, colour=colour, name=name)
        )
        job.check_colours(tmp_path)
        said = capsys.readouterr().err.replace("\n", " ")
        assert ("encoder judge separates faces better with its colours exchanged" in said) == (colour == "bgr")


@needs_models
@pytest.mark.parametrize(("file", "dim", "gain", "differentiable"), [("y1_mfn", 128, 127.5, True), ("edgeface_xxs_q", 512, 1.0, False)])
def test_public_onnx_agrees_with_onnxruntime(file, dim, gain, differentiable):
    pytest.importorskip("onnx2torch")
    runtime = pytest.importorskip("onnxruntime")
    path = SHARED / "models" / f"{file}.onnx"
    encoder = load_checkpoint(path, colour="rgb")
    assert (encoder.dim, encoder.resolution, encoder.gain, encoder.differentiable) == (dim, 112, gain, differentiable)
    pixels = torch.randint(256, (3, 3, 112, 112), generator=torch.Generator().manual_seed(0)).float()
    fed = pixels if gain == 127.5 else (pixels - 127.5) / 127.5
    (expected,) = runtime.InferenceSession(str(path)).run(None, {"x": fed.numpy()})
    x = (pixels / 127.5 - 1).requires_grad_(differentiable)
    got = encoder(x)
    np.testing.assert_allclose(got.detach().numpy(), expected, atol=1e-5)
    if differentiable:
        got.square().sum().backward()
        assert x.grad.isfinite().all() and x.grad.abs().sum() > 0
    else:
        with pytest.raises(UserError, match="runs forwards only"):
            encoder(x.requires_grad_())


@needs_models
def test_public_onnx_tells_people_apart():
    """10 genuine and 10 impostor pairs of LFW."""
    pytest.importorskip("onnx2torch")
    from PIL import Image

    with zipfile.ZipFile(SHARED / "lfw_112.zip") as archive:
        people = {}
        for name in sorted(archive.namelist()):
            if name.endswith(".jpg"):
                people.setdefault(name.split("/")[-2], []).append(name)
        chosen = [files for files in people.values() if len(files) > 3][:20]

        def read(name):
            return torch.from_numpy(np.array(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))).permute(2, 0, 1)

        left = torch.stack([read(files[0]) for files in chosen])
        right = torch.stack([read(chosen[i][1] if i < 10 else chosen[(i + 1) % 20][1]) for i in range(20)])
    same = torch.arange(20) < 10
    for file in ("y1_mfn", "edgeface_xxs_q"):
        declared, _ = separations(load_checkpoint(SHARED / "models" / f"{file}.onnx", colour="rgb"), left, right, same)
        assert declared > 3.5


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("name", ["net.safetensors", "net.pt", "net.onnx", "encoder.json", "weights.safetensors"])
def test_a_pipe_in_the_place_of_weights_is_refused_and_not_waited_for(tmp_path, name):
    """Found by the fuzzer: a pipe called net.safetensors was opened, which never ends."""
    if name in ("encoder.json", "weights.safetensors"):
        architecture = {"family": "small", "width": 8}
        save_encoder(
            build(architecture, 32, 8), tmp_path, {"architecture": architecture, "resolution": 32, "dim": 8, "colour": "rgb", "name": ""}
        )
        (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=r"neither a file nor a folder|is no text of ours"):
        load_checkpoint(tmp_path if name in ("encoder.json", "weights.safetensors") else tmp_path / name, colour="rgb")
