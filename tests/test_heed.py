"""Whether a network heeds its condition, against networks of which it is known; and who is held out of a training."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from fake_context import context
from torch import Tensor, nn

from synthbench import registry
from synthbench.config import Layer, build
from synthbench.diffusion import denoising, heed
from synthbench.testing import world
from synthbench.training import loop
from synthbench.types import UserError

TRAIN = denoising.Train(prediction="x0", schedule="cosine")
IDENTITY = np.arange(40) // 4
X0 = torch.linspace(-1, 1, 10)[torch.from_numpy(IDENTITY)][:, None, None, None].expand(40, 3, 4, 4)  # a person is a shade of grey


def heeding(predict, held_out: int = 0) -> heed.Heed:
    def show(rows: np.ndarray) -> heed.Shown:
        return heed.Shown(X0[rows], X0[rows, :1, 0, 0])

    return heed.Heed(denoising.people(IDENTITY, held_out, 0), show, predict, TRAIN, 0)


def test_a_network_that_paints_what_it_is_told_gains_the_squared_distance_of_two_people(capsys):
    def obeys(network: nn.Module, x: Tensor, t: Tensor, shown: heed.Shown) -> Tensor:
        assert t.min() == 700 and t.max() == 999
        return shown.told[:, :, None, None].expand_as(x)

    watch = heeding(obeys, held_out=3)
    found = watch(nn.Identity())
    assert set(found) == {f"condition_gain{where}{what}" for where in ("", "_held_out") for what in ("", "_stderr")}
    for name, people in (("condition_gain", 7), ("condition_gain_held_out", 3)):
        shown = watch.shown[name]
        assert len(shown.x0) == people == len(shown.told.unique())
        distance = (shown.told - shown.told.roll(1, 0)).square().flatten()
        torch.testing.assert_close(found[name], distance.mean())
        torch.testing.assert_close(found[f"{name}_stderr"], distance.std() / people**0.5)
    watch.tell("Nobody's generator")
    assert "NOT" not in capsys.readouterr().err


def test_a_network_that_looks_at_the_image_alone_gains_nothing_and_it_is_said(capsys):
    watch = heeding(lambda network, x, t, shown: x)
    assert {name: value.item() for name, value in watch(nn.Identity()).items()} == {"condition_gain": 0, "condition_gain_stderr": 0}
    watch.tell("Nobody's generator")
    assert "the condition is NOT heeded" in " ".join(capsys.readouterr().err.split())


def test_people_are_held_out_whole_and_unlabelled_images_one_by_one():
    found = denoising.people(IDENTITY, 3, seed=1)
    assert len(found.held_out) == 12 and len(found.learnt) == 28
    assert not set(IDENTITY[found.held_out]) & set(IDENTITY[found.learnt])
    assert np.array_equal(denoising.people(IDENTITY, 0, seed=1).learnt, np.arange(40))
    some = np.array([0, 0, 1, -1, -1, -1])
    sizes = {len(denoising.people(some, 2, seed).held_out) for seed in range(20)}
    assert sizes == {2, 3}  # two of five: the first person has two images
    with pytest.raises(UserError, match="5 people or unlabelled images"):
        denoising.people(some, 5, 0)


@pytest.mark.parametrize("name", ["cemiface", "dcface", "idiffface", "vigface"])
def test_every_conditional_diffusion_says_it_and_does_not_learn_from_whom_it_holds_out(name, tmp_path, monkeypatch):
    faces = world.rendered("train")
    seen: set[int] = set()
    plain = loop.pictures

    def pictures(some, rows, *others):
        seen.update(faces.identity[rows].tolist())
        return plain(some, rows, *others)

    monkeypatch.setattr(loop, "pictures", pictures)
    kind = registry.load("generator", name)
    train: dict[str, Any] = {**kind.tiny["train"], "held_out": 3}
    others: dict[str, Any] = {}
    if name == "dcface":  # its unconditional model learns from everybody: it is told of nobody
        train["unconditional"], others["enroll"] = None, {"source": "world"}
    generator = kind(build(kind.Config, Layer({**kind.tiny, **others, "train": train})))
    encoder = world.tiny_encoder(faces, 0) if generator.traits.uses_encoder else None
    generator.train(context(tmp_path, faces, encoder))
    log = next(path for path in tmp_path.rglob("metrics.jsonl") if "condition_gain" in path.read_text())
    last = json.loads(log.read_text().splitlines()[-1])
    assert {"condition_gain", "condition_gain_stderr", "condition_gain_held_out", "condition_gain_held_out_stderr"} <= set(last)
    held_out = set(faces.identity[denoising.people(faces.identity, 3, seed=3).held_out].tolist())
    assert len(held_out) == 3 and not seen & held_out and (len(seen) == 5 or name == "idiffface")  # that one reads its images otherwise


def test_the_report_says_what_the_last_look_found(tmp_path):
    from synthbench.report.data import read_log
    from synthbench.report.parts import heeded

    folder = tmp_path / "diffusion"  # where VIGFace has its second training
    folder.mkdir()
    lines = [{"step": 20, "loss": 1.0, "condition_gain": 0.0, "condition_gain_stderr": 0.1}, {"step": 40, "loss": 0.5}]
    lines.append({"step": 60, "loss": 0.4, "condition_gain": 0.0123, "condition_gain_stderr": 0.0042})
    (folder / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    assert read_log(tmp_path) == lines
    assert heeded(read_log(tmp_path)).endswith("the squared error rises by 0.012 ±0.004 of images it learnt from.")
    assert heeded(lines[1:2]) == ""


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("cemiface", ["similarity_weight"]),
        ("dcface", ["identity_weight"]),
        ("vigface", ["feature_weight"]),
        ("synface", ["identity_weight"]),
        ("vec2face", ["perceptual_weight", "identity_weight"]),
    ],
)
def test_a_loss_without_weight_runs_no_encoder_for_its_gradient(name, weights, tmp_path, monkeypatch):
    from synthbench.models.encoder import Encoder

    faces = world.rendered("train")
    kind = registry.load("generator", name)
    train: dict[str, Any] = {**kind.tiny["train"], **dict.fromkeys(weights, 0.0)}
    others: dict[str, Any] = {}
    if name == "dcface":
        train["unconditional"], others["enroll"] = None, {"source": "world"}
    generator = kind(build(kind.Config, Layer({**kind.tiny, **others, "train": train})))
    encoder = world.tiny_encoder(faces, 0) if generator.traits.uses_encoder else None
    forward, head = Encoder.forward, Encoder.head

    def watched(plain):
        def call(self, x):
            assert not (torch.is_grad_enabled() and x.requires_grad), "the encoder is run for a gradient"
            return plain(self, x)

        return call

    monkeypatch.setattr(Encoder, "forward", watched(forward))
    if name != "dcface":  # its condition goes through its own copy
        monkeypatch.setattr(Encoder, "head", watched(head))
    generator.train(context(tmp_path, faces, encoder))
