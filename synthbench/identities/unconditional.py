"""An unconditional diffusion model of faces: a source of people who do not exist (DDPM, Ho et al., arXiv 2006.11239).

The first stage of DCFace (arXiv 2304.07060) and of IDiff-Face's two-stage contexts (arXiv 2308.04995). Any
generator may train one in its train stage and choose its identities among the images: settings `train.unconditional` of type `Train`
and `enroll` of type `inquiries.NewPeople`, and a call of `train` from its own. Image n depends on the weights, the seed and n alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field, ValidationError
from torch import Tensor

from synthbench.device import autocast
from synthbench.diffusion import denoising, process
from synthbench.identities import sampling
from synthbench.models.encoder import frozen
from synthbench.models.unet import Shape, UNet
from synthbench.plugin import Context
from synthbench.seeds import derive, torch_generator
from synthbench.store import read_json, write_json
from synthbench.training import loop
from synthbench.types import Slot, UserError

FOLDER = "unconditional"  # of the model, in the folder of the train stage


class Train(denoising.Train):
    """How a denoiser of images is built and trained: the part `train.unconditional` of a generator's config."""

    unet: Shape = Shape()


class Sample(denoising.Sample):
    """How its images are sampled."""

    steps: int = Field(100, ge=1, description="DDIM steps (DCFace: 1000 steps respaced to 100)")
    clip_x0: bool = True


class Batch(NamedTuple):
    """What one step sees. x0, noise (B, 3, R, R); t, abar (B,)."""

    x0: Tensor
    t: Tensor
    abar: Tensor
    noise: Tensor


def train(settings: Train, context: Context) -> None:
    """Train on `context.faces`; leaves context.out/unconditional with weights.safetensors, model.json and metrics.jsonl. Resumes."""
    out = context.out / FOLDER
    if loop.finished(out / "weights.safetensors"):
        return
    out.mkdir(exist_ok=True)
    write_json(out / "model.json", settings.model_dump(mode="json"))
    context = replace(context, out=out, seed=derive(context.seed, FOLDER))  # other noise than that of the generator's own training
    faces = context.faces
    torch.manual_seed(derive(context.seed, "weights"))
    network = UNet(settings.unet, context.resolution, context_width=0).eval()

    def batch(step: loop.Step) -> Batch:
        x0, _ = loop.pictures(faces, step.rows, settings.flip, step.draw, context.device)
        return Batch(x0, *denoising.drawn(settings, len(x0), x0.shape[1:], step.draw))

    def objective(part: Batch) -> loop.Losses:
        return {"loss": error(network, part, settings)}

    average = loop.fit(network, batch, objective, settings, len(faces), context, "the unconditional model")
    loop.finish(average, out / "weights.safetensors")


def error(network: UNet, batch: Batch, settings: Train) -> Tensor:
    """The weighted squared error of what the network predicts (DDPM, Eq. 14), a scalar."""
    x0, t, abar, noise = batch
    output = network(process.add_noise(x0, noise, abar), t).float()
    return denoising.squared_error(output, x0, noise, abar, settings)


def sampler(folder: Path, sample: Sample, context: Context) -> Callable[[np.ndarray], Tensor]:
    """The model that `train` left in `folder` (of the train stage), as a function: numbers (n,) -> their images (n, 3, R, R) uint8.

    Raises UserError when there is no model, or when more steps are asked for than it was trained with.
    """
    found = read_json(folder / FOLDER / "model.json")
    if found is None:
        raise UserError("enroll.source unconditional: this generator trained no unconditional model. Set train.unconditional={}")
    try:
        settings = Train.model_validate(found)
    except ValidationError:
        raise UserError(f"{folder / FOLDER / 'model.json'} is damaged; run the same command with --force train") from None
    if sample.steps > settings.T:
        raise UserError(f"enroll.sampler.steps {sample.steps} is more than the {settings.T} diffusion steps of train.unconditional.T")
    network = UNet(settings.unet, context.resolution, context_width=0)
    frozen(network, folder / FOLDER / "weights.safetensors", context.device)

    def make(some: list[Slot]) -> tuple[Tensor, dict[str, Tensor]]:
        streams = [torch_generator(context.seed, FOLDER, slot.identity) for slot in some]
        noise = process.Noise(streams, (3, context.resolution, context.resolution), context.device)
        with torch.inference_mode(), autocast(context.device, sample.precision):
            x = denoising.painted(lambda x, t: network(x, t).float(), noise, settings, sample, sample.clip_x0)
        return process.to_uint8(x), {}

    def images(numbers: np.ndarray) -> Tensor:
        return torch.cat([batch.images for batch in sampling.generate(make, [Slot(int(n), 0) for n in numbers], context)])

    return images
