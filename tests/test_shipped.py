"""The embedded world's own checkpoints: whole, safe, small, two different networks that know people, and part of keys."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from synthbench.models.encoder import build, load_encoder, save_encoder
from synthbench.models.shipped import load_shipped, read_spec, ship
from synthbench.pipeline.job import Job
from synthbench.protocol import ShippedNetwork, load_protocol
from synthbench.store import Store
from synthbench.types import UserError, Volume
from synthbench.world.pairs import world_pairs

DIGESTS = {  # another file means other scores for everybody: then raise the protocol's version
    "world-encoder": "87e151e9bebbd9af4657e15e39b9b211d8e00f395d3daa4f1ae3cf424dde5a19",
    "world-judge": "3f89136f988212353a14c507ed86373a0ead4cecc854fa6806aadb0ae78d4aa4",
}
PATHS = {name: ShippedNetwork(shipped=name).path for name in DIGESTS}


@pytest.mark.parametrize("name", DIGESTS)
def test_the_file_is_the_published_one_and_says_how_it_was_made(name):
    assert hashlib.sha256(PATHS[name].read_bytes()).hexdigest() == DIGESTS[name] == ShippedNetwork(shipped=name).digest
    spec = read_spec(PATHS[name])
    assert spec["name"] == load_shipped(PATHS[name]).name == name
    assert spec["made_with"]["recipe"] == spec["recipe"]["name"] and spec["made_with"]["seed"] == spec["seed"]
    assert spec["trained_on"]["images"] == 6000


def test_both_are_in_the_package_and_at_most_five_megabytes():
    pattern = '"world/weights/*.safetensors"'
    assert pattern in (Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8")
    assert sum(path.stat().st_size for path in PATHS.values()) <= 5_000_000


def test_both_tell_new_people_apart_and_are_not_the_same_network():
    """On 300 pairs of rendered people whom neither has seen: chance is 50 %, and both were at 91 to 92 %."""
    images, left, right, same = world_pairs("world-mixed", 32, pairs=300)
    cosines = []
    for path in PATHS.values():
        unit = load_shipped(path).embed(images).numpy()
        cosines.append((unit[left] * unit[right]).sum(1))
        best = max(np.mean((cosines[-1] > threshold) == same) for threshold in np.linspace(-1, 1, 201))
        assert 0.85 < best < 0.99
    assert np.corrcoef(cosines)[0, 1] < 0.97


def test_half_of_the_bits_are_enough(tmp_path):
    torch.manual_seed(0)
    net = build({"family": "small", "width": 16, "dropout": 0.0}, 32, 32)
    spec = {"architecture": {"family": "small", "width": 16, "dropout": 0.0}, "resolution": 32, "dim": 32, "name": "full"}
    save_encoder(net, tmp_path / "full", spec)
    ship(tmp_path / "full", tmp_path / "half.safetensors", name="half", seed=3)
    full, half = load_encoder(tmp_path / "full"), load_shipped(tmp_path / "half.safetensors")
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tmp_path / "full" / "weights.safetensors").stat().st_size
    assert half.name == "half" and read_spec(tmp_path / "half.safetensors")["seed"] == 3
    assert {tensor.dtype for tensor in half.state_dict().values() if tensor.is_floating_point()} == {torch.float32}
    images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8)
    assert (full.embed(images) * half.embed(images)).sum(1).min() > 0.999


def test_damaged_and_missing_files_are_errors(tmp_path):
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(PATHS["world-judge"].read_bytes()[:1000])
    for path in (torn, tmp_path / "none.safetensors"):
        with pytest.raises(UserError, match=path.name):
            load_shipped(path)


def test_the_digest_is_in_the_keys_and_no_stage_makes_the_networks(tmp_path, monkeypatch):
    def keys() -> dict[str, str]:
        job = Job(Store(tmp_path), load_protocol("demo"), "cemiface", Volume.parse("4x2"), torch.device("cpu"))
        return {step.stage.name: step.stage.key for step in job.steps(0)}

    before = keys()
    assert not {"encoder", "judge", "judge-faces"} & before.keys()
    other = tmp_path / "other.safetensors"
    shutil.copy(PATHS["world-judge"], other)
    monkeypatch.setattr(ShippedNetwork, "path", property(lambda self: other if self.shipped == "world-encoder" else PATHS[self.shipped]))
    after = keys()
    assert before["train"] != after["train"] and before["real"] == after["real"]
    monkeypatch.setattr(ShippedNetwork, "path", tmp_path / "gone.safetensors")
    with pytest.raises(UserError, match=r"gone\.safetensors is missing"):
        keys()
