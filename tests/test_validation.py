"""Validation while a recognizer trains: fair pairs, the truth about them, and no trace in the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from synthbench.data.faces import FaceSet
from synthbench.recognition import trainer, validation
from synthbench.recognition.trainer import Backbone, Recipe
from synthbench.types import UserError
from synthbench.world import renderer

RECIPE = Recipe(backbone=Backbone(family="small", width=8), dim=16, epochs=3, batch_size=8, scale=16, lr=0.05, dropout=0.2)
CPU = torch.device("cpu")


def faces(people: int, images: int) -> FaceSet:
    """Rendered people at 16 px."""
    identity, sample = (part.reshape(-1) for part in torch.meshgrid(torch.arange(people), torch.arange(images), indexing="ij"))
    return FaceSet.from_arrays(renderer.faces("train", identity, sample, 16), identity.numpy())


def test_pairs_are_balanced_labelled_and_always_the_same() -> None:
    made = faces(6, 5)
    pairs = validation.draw(made)
    assert len(pairs.images) == 6 * validation.IMAGES and pairs.same.tolist() == [True, False] * (6 * 4 * 3 // 2)
    assert (pairs.left != pairs.right).all() and len({*zip(pairs.left, pairs.right)}) == len(pairs.same)  # none twice, none with itself
    who = {made.images([row]).numpy().tobytes(): made.identity[row] for row in range(len(made))}
    identity = np.array([who[image[None].numpy().tobytes()] for image in pairs.images])
    assert ((identity[pairs.left] == identity[pairs.right]) == pairs.same).all()
    again = validation.draw(made)
    assert torch.equal(pairs.images, again.images) and (pairs.left == again.left).all() and (pairs.right == again.right).all()


def test_a_large_set_is_looked_at_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "PEOPLE", 3)
    monkeypatch.setattr(validation, "PAIRS", 10)
    pairs = validation.draw(faces(6, 5))
    assert len(pairs.images) == 3 * validation.IMAGES and pairs.same.sum() == 10 and len(pairs.same) == 20


def test_people_of_one_image_are_no_pairs() -> None:
    with pytest.raises(UserError, match="no two people with two images each"):
        validation.draw(faces(6, 1))


class Sees(nn.Module):
    """Embeds an image by its mean colour, and counts its steps: one that is in training would count on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.norm = nn.Parameter(torch.ones(1)), nn.BatchNorm1d(3, affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.mean((2, 3)) * self.weight)


def test_who_sees_the_difference_tells_all_pairs_right() -> None:
    colours = torch.tensor([[250, 0, 0], [0, 250, 0], [0, 0, 250]], dtype=torch.uint8).repeat_interleave(4, 0)
    made = FaceSet.from_arrays(colours[:, :, None, None].expand(12, 3, 16, 16).contiguous(), np.arange(3).repeat(4))
    network = Sees()
    assert validation.accuracy(network, validation.draw(made)) == 100
    assert network.training and network.norm.num_batches_tracked == 0
    grey = FaceSet.from_arrays(torch.full((12, 3, 16, 16), 128, dtype=torch.uint8), made.identity)
    assert validation.accuracy(network, validation.draw(grey)) == pytest.approx(50, abs=10)


def test_watching_changes_no_weight_and_a_stopped_training_tells_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer.loop, "EVERY", 0.0)
    generated, real = faces(4, 8), faces(6, 4)
    told: dict[str, list[tuple[int, float]]] = {"whole": [], "stopped": [], "resumed": []}

    def run(name: str, folder: str, stop: int = 9) -> None:
        def watch(epoch: int, accuracy: float) -> None:
            told[name].append((epoch, accuracy))
            if epoch == stop:
                raise InterruptedError

        steps = trainer.train(generated, RECIPE, seed=3, device=CPU, out=tmp_path / folder)
        for _ in validation.watched(steps, RECIPE.epochs, real, tmp_path / folder, watch):
            pass

    for _ in trainer.train(generated, RECIPE, seed=3, device=CPU, out=tmp_path / "plain"):
        pass
    run("whole", "whole")
    assert [epoch for epoch, _ in told["whole"]] == [1, 2, 3] and all(30 < value <= 100 for _, value in told["whole"])
    with pytest.raises(InterruptedError):
        run("stopped", "stopped", 2)
    assert (tmp_path / "stopped" / "checkpoint.pt").exists() and told["stopped"] == told["whole"][:2]
    run("resumed", "stopped")
    assert told["resumed"] == told["whole"]
    weights = {name: (tmp_path / name / "weights.safetensors").read_bytes() for name in ("plain", "whole", "stopped")}
    assert len(set(weights.values())) == 1
