"""Run by test_together.py in one process and, by torch's launcher, in two: gradients of the first step of everything that trains.

python crew_work.py OUT GENERATOR...
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from synthbench import registry
from synthbench.config import Layer
from synthbench.recognition import trainer
from synthbench.recognition.augment import ColourJitter, Flip
from synthbench.recognition.trainer import Backbone, Recipe
from synthbench.testing import generators, world
from synthbench.training import crew, loop

torch.set_num_threads(1)
seen: list[torch.Tensor] = []  # gradients of all parameters of a network, one after the other, at each call
real_gradients = loop.gradients


def watched(objective, batch, parameters, *rest):  # type: ignore[no-untyped-def]
    losses = real_gradients(objective, batch, parameters, *rest)
    seen.append(torch.cat([parameter.grad.flatten() for parameter in parameters]))
    seen.append(torch.stack([value.float() for value in losses.values()]))
    return losses


def learnt(name: str, out: Path) -> dict[str, torch.Tensor]:
    """Of the first steps of a generator's trainings."""
    seen.clear()
    plugin = generators.tiny_generator(registry.load("generator", name), name, Layer({"train": {"steps": 1}}))
    faces = world.rendered("train")
    trial = world.Trial(plugin, name, out, faces, world.tiny_encoder(faces, 0))
    plugin.train(trial.context(name))
    return {f"{name} {i}": value for i, value in enumerate(seen)}


def recognized(head: str) -> dict[str, torch.Tensor]:
    """Of the first step of a recognizer: gradients, the statistics of batch norms and of the head, loss and length of the gradient."""
    faces = world.rendered("train")
    augmentation = (Flip(), ColourJitter(brightness=0.3))
    recipe = Recipe(backbone=Backbone(family="small", width=8), dim=16, head=head, batch_size=13, scale=16, augmentation=augmentation)  # type: ignore[arg-type]
    backbone, margin, optimizer = trainer.setup(faces, recipe, 0, torch.device("cpu"))
    trainer.prepared(backbone, torch.device("cpu")).train(), margin.train()
    images, labels = trainer.read(faces, 0, 0, 13, 3)
    loss, norm = trainer.update(backbone, margin, optimizer, images, labels, recipe, 0.01, 0, 0, torch.device("cpu"))
    found = {f"{head} said": torch.stack([loss, norm])}
    both = [*backbone.named_parameters(), *margin.named_parameters()]
    found |= {f"{head} gradient of {name}": parameter.grad for name, parameter in both if parameter.grad is not None}
    return found | {f"{head} {name}": buffer.float() for name, buffer in [*backbone.named_buffers(), *margin.named_buffers()]}


def main(out: Path, names: list[str]) -> None:
    loop.gradients = watched
    rank = crew.present().rank
    own = out / str(rank)
    own.mkdir(parents=True)
    found: dict[str, torch.Tensor] = {}
    with crew.together():
        for head in ("cosface", "adaface"):
            found |= recognized(head)
        for name in names:
            found |= learnt(name, own)
    save_file({name: value.contiguous().clone() for name, value in found.items()}, out / f"found-{rank}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
