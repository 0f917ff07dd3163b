"""Networks are compiled as one graph on CUDA. Here dynamo takes the same graphs, and a compiler of the CPU runs them."""

from __future__ import annotations

import copy
import os
from types import SimpleNamespace

import pytest
import torch
from torch.utils import _pytree

from synthbench import device, registry
from synthbench.cli import options
from synthbench.config import Layer, build
from synthbench.models.encoder import build as recognizer
from synthbench.system import BATCH, COMPILE
from synthbench.types import UserError

ARCHITECTURES = [
    {"family": "irse", "depth": 18, "se": True, "dropout": 0.0},
    {"family": "iresnet", "depth": 18, "se": True, "dropout": 0.0},
    {"family": "small", "width": 8, "blocks": [1, 1, 1], "dropout": 0.0},
]


def shaken(network: torch.nn.Module) -> torch.nn.Module:
    """Branches that start at zero say something."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    return network


@pytest.mark.parametrize("name", ["cemiface", "dcface", "vigface", "idiffface"])
def test_networks_of_diffusion_are_one_graph(name):
    """Those that `loop.fit` trains and `frozen` samples from."""
    kind = registry.load("generator", name)
    generator = kind(build(kind.Config, *registry.layers(name, lambda _: Layer({})), Layer(dict(kind.tiny))))
    for network, inputs in generator.networks(32, 16).values():
        shaken(network).eval()
        inputs = _pytree.tree_map_only(torch.Tensor, lambda x: torch.rand(x.shape) if x.is_floating_point() else x, inputs)
        found = copy.deepcopy(network)
        found.compile(fullgraph=True, dynamic=False, backend="eager")
        torch.testing.assert_close(found(*inputs), network(*inputs))


@pytest.mark.parametrize("architecture", ARCHITECTURES[:2], ids=lambda architecture: architecture["family"])
def test_public_recognizers_are_one_graph(architecture):
    network = recognizer(architecture, 32, 16).eval()
    found = copy.deepcopy(network)
    found.compile(fullgraph=True, dynamic=False, backend="eager")
    torch.testing.assert_close(found(x := torch.rand(2, 3, 32, 32)), network(x))


def test_gradients_through_a_compiled_recognizer_are_the_same():
    network = recognizer(ARCHITECTURES[2], 32, 16).train()
    found = copy.deepcopy(network)
    found.compile(fullgraph=True, dynamic=False, backend="aot_eager")
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for each in (network, found):
        each(x).square().mean().backward()
    pairs = [(a.grad, b.grad) for a, b in zip(network.parameters(), found.parameters(), strict=True) if a.requires_grad]
    assert len(pairs) > 5
    for plain, compiled in pairs:
        torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-6)
    assert list(found.state_dict()) == list(network.state_dict())  # compiled in place: weights keep their names


def test_compiled_on_cuda_unless_refused(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: asked.append(how))
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(device.shutil, "which", lambda name: name)
    monkeypatch.delenv(COMPILE, raising=False)
    layer = torch.nn.Linear(1, 1)
    for kind in ("cpu", "mps", "cuda"):
        assert device.compiled(layer, torch.device(kind)) is layer
    assert asked == [{"fullgraph": True, "dynamic": False}]
    monkeypatch.setenv(COMPILE, "off")
    device.compiled(layer, torch.device("cuda"))
    assert len(asked) == 1
    monkeypatch.setenv(COMPILE, "perhaps")
    with pytest.raises(UserError, match="SYNTHBENCH_COMPILE is 'perhaps'"):
        device.compiled(layer, torch.device("cuda"))


def test_the_option_holds_for_its_command_alone(monkeypatch):
    import click
    from click.testing import CliRunner

    @click.command()
    @options.DEVICE
    def show(device: str) -> None:
        print(device, os.environ.get(COMPILE))

    monkeypatch.delenv(COMPILE, raising=False)
    assert CliRunner().invoke(show, ["--compile", "off"]).output == "auto off\n" and COMPILE not in os.environ
    assert "Invalid value" in CliRunner().invoke(show, ["--compile", "maybe"]).output


def test_how_many_images_are_sampled_at_a_time_on_a_gpu(monkeypatch, tmp_path):
    import click
    from click.testing import CliRunner

    from synthbench.pipeline import job

    monkeypatch.delenv(BATCH, raising=False)
    monkeypatch.setattr(job, "open_real", lambda faces, folder: SimpleNamespace(identities=2))
    step = SimpleNamespace(stage=SimpleNamespace(folder=tmp_path))
    asked = SimpleNamespace(
        protocol=SimpleNamespace(real=None, resolution=16), real=step, check=lambda people: None, device=torch.device("cuda")
    )
    asked.generator = SimpleNamespace(traits=SimpleNamespace(uses_encoder=False))

    @click.command()
    @options.BATCH
    def show() -> None:
        print(job.Job.context(asked, tmp_path, 0, lambda done, total: None, {}).batch_size)

    assert [CliRunner().invoke(show, given).output for given in ([], ["--batch", "200"], [])] == ["64\n", "200\n", "64\n"]
    assert "Invalid value" in CliRunner().invoke(show, ["--batch", "0"]).output
    assert "No such option" in CliRunner().invoke(click.command(options.DEVICE(lambda device: None)), ["--batch", "2"]).output
    monkeypatch.setenv(BATCH, "many")
    with pytest.raises(UserError, match="SYNTHBENCH_BATCH is 'many'"):
        device.sampling_batch()
