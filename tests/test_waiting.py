"""No step of a training waits for a GPU: here that is the meta device, which has no numbers to wait for, and copies to it are looked at."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fake_context import context
from safetensors.torch import save_file
from torch import nn
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from synthbench import registry
from synthbench.config import Layer, build, config_names
from synthbench.data.faces import FaceSet
from synthbench.device import send
from synthbench.inventory import cards
from synthbench.models import encoder as encoders
from synthbench.models.encoder import CODES, Encoder
from synthbench.recognition import trainer
from synthbench.seeds import torch_generator
from synthbench.training import loop

SIDE, DIM = 32, 16
STEPS, TOTAL = (0, 1, 998), 1000  # late ones too: a critic may join
GPU = torch.device("meta")
RECIPES = [name for name in config_names("recipes") if name != "digiface"]  # which compresses images, on the CPU
OWN = [name for name in config_names("generators") if registry.plugin_name(name) == name]  # a preset's steps are its generator's
SHIPPED = [name for name in OWN if cards.card("generator", name)["traits"]["trains"]]


class Waited(AssertionError):
    """A step did what would make a GPU wait, or wait for one."""


class NoWaiting(TorchDispatchMode):
    """Refuses operations between the CPU and the GPU, but for copies by `device.send`; to read from the meta device fails by itself."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [each for each in _pytree.tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        here = [each for each in given if each.device.type == "cpu" and each.ndim]
        goes = kwargs.get("device") is not None and torch.device(kwargs["device"]) == GPU
        if here and (goes or any(each.device == GPU for each in given)) and not _by_send():
            raise Waited(f"{function} on {[(each.device.type, tuple(each.shape)) for each in given]}")
        return function(*args, **kwargs)


def _by_send() -> bool:
    frame = sys._getframe()
    while frame := frame.f_back:  # type: ignore[assignment]
        if frame.f_code.co_name == "send" and frame.f_code.co_filename.endswith("device.py"):
            return True
    return False


@pytest.fixture
def faces() -> FaceSet:
    pixels = np.random.default_rng(0).integers(0, 256, (24, SIDE, SIDE, 3)).astype(np.uint8)
    return FaceSet.from_arrays(pixels, np.arange(24) // 3)


def network() -> Encoder:
    net = encoders.build({"family": "small", "width": 8, "dropout": 0.0}, SIDE, DIM)
    return Encoder(net, resolution=SIDE, dim=DIM, name="small").to(GPU)


@pytest.fixture
def steps(monkeypatch) -> list[str]:
    """Whose steps were taken; a training ends after a few, with weights that are nothing."""
    found: list[str] = []

    def run(update, state, settings, images, context, who, *_, **__):
        size = loop.plan(settings, images)[0]
        for number in STEPS:
            with NoWaiting():
                losses = update(loop.Step(number, TOTAL, np.arange(size), torch_generator(0, number)))
            assert losses and all(value.device == GPU for value in losses.values()), losses
        found.append(who)
        for part in state.values():  # some weights, for what is read of them after the training
            if isinstance(part, nn.Module) and who.endswith("recognizer"):
                for tensor in part.to_empty(device="cpu").state_dict().values():
                    tensor.copy_(torch.randn(tensor.shape)) if tensor.is_floating_point() else tensor.zero_()

    def save(module: nn.Module, path, *_):
        save_file({name: torch.zeros(value.shape, dtype=value.dtype) for name, value in module.state_dict().items()}, path)

    adam, autocast, stream = torch.optim.AdamW, torch.autocast, torch.Generator
    monkeypatch.setattr(torch, "autocast", lambda kind, **how: nullcontext() if kind == "meta" else autocast(kind, **how))
    monkeypatch.setattr(torch, "Generator", type("Stream", (stream,), {"__new__": lambda kind, device="cpu": stream.__new__(kind, "cpu")}))
    monkeypatch.setattr(torch.optim, "AdamW", lambda *args, fused, **kwargs: adam(*args, **kwargs))  # fused where there is a GPU
    monkeypatch.setattr(loop, "run", run)
    monkeypatch.setattr(loop, "save_weights", save)
    return found


@pytest.mark.parametrize("name", SHIPPED)
def test_no_step_of_a_generator_waits(name, tmp_path, faces, steps, monkeypatch):
    kind = registry.load("generator", name)
    generator = kind(build(kind.Config, *registry.layers(name, lambda _: Layer({})), Layer(dict(kind.tiny))))
    where = replace(context(tmp_path / "train", faces, network()), device=GPU)
    own = getattr(generator.config.train, "recognizer", None)  # what a face network says of the images is found out before the first step
    for path, dim in ((CODES, DIM), ("features.safetensors", DIM), (f"diffusion/{CODES}", own.dim if own else DIM)):
        (where.out / path).parent.mkdir(exist_ok=True)
        save_file({"codes": torch.randn(2, len(faces), dim)}, where.out / path)
    generator.train(where)
    assert steps


@pytest.mark.parametrize("name", RECIPES)
def test_no_step_of_a_recognizer_waits(name, faces, steps):
    recipe = trainer.load_recipe(name)
    small = trainer.Backbone(family="small", width=8) if recipe.backbone.family == "small" else trainer.Backbone(depth=18)
    recipe = recipe.model_copy(update={"backbone": small})
    backbone, head, optimizer = trainer.setup(faces, recipe, 0, GPU)
    images, labels = trainer.read(faces, 0, 0, 12, 2)
    wanted = torch.randn(12, recipe.dim, device=GPU)
    for number, criterion in enumerate([trainer.softmax_loss, trainer.distillation(wanted)]):
        with NoWaiting():
            loss, norm = trainer.update(backbone.train(), head, optimizer, images, labels, recipe, 0.1, 0, number, GPU, criterion)
        assert loss.device == norm.device == GPU


def test_what_would_wait_is_found(steps):
    away, here = torch.ones(3, device=GPU), torch.ones(3)
    for waits in (lambda: here.to(GPU), lambda: away + here, lambda: away[torch.tensor([0, 1])], lambda: away.copy_(here)):
        with pytest.raises(Waited), NoWaiting():
            waits()
    for reads in (away.cpu, away.sum().item, away.nonzero):
        with pytest.raises((RuntimeError, NotImplementedError)), NoWaiting():
            reads()
    with NoWaiting():
        assert (send(here, GPU) + torch.tensor(2.0)).device == GPU
