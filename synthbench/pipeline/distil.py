"""The stages of an encoder that learns from another (`encoder: {teacher: NAME, ...}`): the faces at two resolutions, then the training.

A public network that was trained on sharp faces of 112 px hardly sees the coarse ones that a generator paints first, and on a CPU costs
more than the generator. A small one learns its embeddings of sharp faces from coarse and noisy copies of them, without labels.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthbench import console
from synthbench.data import sources
from synthbench.pipeline import cost, learning
from synthbench.pipeline.steps import Step, faces_step, followed, public_network
from synthbench.protocol import DistilledNetwork, Protocol
from synthbench.store import Store, content_key
from synthbench.types import Progress, UserError

if TYPE_CHECKING:
    import torch

    from synthbench.recognition.trainer import Recipe

TEACHER = "teacher.safetensors"  # its raw embeddings, while the student trains


def steps(name: str, network: DistilledNetwork, protocol: Protocol, store: Store, real: Step, device: torch.device) -> list[Step]:
    """The stages of the protocol's network `name`, the training last."""
    from synthbench.recognition.trainer import load_recipe

    recipe, source = load_recipe(network.recipe), sources.find(network.teacher, "weights")
    sharp = protocol.model_copy(update={"resolution": network.pixels})
    shown = learning.named(network.faces, name, protocol, store, real)
    large = learning.named(network.faces, name, sharp, store, faces_step(store, network.pixels, f"{name}-faces", sharp.real))
    parts = {"recipe": recipe.model_dump(mode="json"), "seed": network.seed, "teacher": source.digest, "options": source.options}
    sets = {"faces": [step.stage.key for step in shown.values()], "sharp": [step.stage.key for step in large.values()]}

    def build(folder: Path, progress: Progress) -> dict[str, Any]:
        from torch.nn import functional as F

        from synthbench.models.encoder import raw_codes
        from synthbench.recognition import trainer

        teacher = public_network(network.teacher).to(device)
        if teacher.dim != recipe.dim:
            raise UserError(
                f"the teacher {network.teacher} gives {teacher.dim} numbers, recipe {recipe.name} has dim: {recipe.dim}; make them equal"
            )
        codes = raw_codes(teacher, learning.faces(large), True, folder / TEACHER, progress, batch_size=64)
        wanted = F.normalize(codes.sum(0), dim=1)  # of image and mirror image together, as in verification
        training = trainer.train(learning.faces(shown), recipe, seed=network.seed, device=device, out=folder, teacher=wanted)
        facts = followed(training, folder, progress)
        (folder / TEACHER).unlink()
        return facts

    epochs = console.counted(recipe.epochs, "epoch")
    work = f"learns {network.teacher} from {learning.told(shown)}, recipe {recipe.name}, {epochs}, seed {network.seed}"
    counted = functools.partial(work_of, network.teacher, recipe, protocol.resolution, sum(step.images for step in shown.values()))
    key = content_key({"stage": "distilled", **parts, **sets, "version": 1})
    label = f"recipe {recipe.name} {protocol.resolution} {device.type}"
    needs = tuple(step.stage.folder for step in (*shown.values(), *large.values()))
    return [*shown.values(), *large.values(), Step(store.stage(name, key), work, build, label, counted, needs=needs)]


def work_of(teacher: str, recipe: Recipe, resolution: int, images: int) -> cost.Cost:
    """The teacher sees every image and its mirror image, the student trains on them."""
    own = cost.recognizing(recipe, resolution, images)
    return replace(own, amount=own.amount + 2 * images * cost.public(teacher))
