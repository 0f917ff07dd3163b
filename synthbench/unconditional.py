"""An unconditional diffusion model of faces: a source of people who do not exist (DDPM, Ho et al., arXiv 2006.11239).

The first stage of DCFace (arXiv 2304.07060) and of IDiff-Face's two-stage contexts (arXiv 2308.04995). Any
generator may train one in its train stage and choose its identities among the images: settings `train.unconditional` of type `Train`
and `enroll` of type `inquiries.NewPeople`, and a call of `train` from its own. Image n depends on the weights, the seed and n alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from synthbench import diffusion, sampling, training
from synthbench.config import Settings
from synthbench.device import autocast, ready, send
from synthbench.models.encoder import read_tensors
from synthbench.models.unet import Shape, UNet
from synthbench.seeds import derive, torch_generator
from synthbench.store import read_json, write_json
from synthbench.types import Context, Slot, UserError

FOLDER = "unconditional"  # of the model, in the folder of the train stage


class Train(training.Optimization):
    """How a denoiser of images is built and trained: the part `train.unconditional` of a generator's config."""

    unet: Shape = Shape()
    schedule: diffusion.Schedule = "linear"
    snr_scale: float = Field(1.0, gt=0, description="factor on the schedule's signal-to-noise ratio (simple diffusion: (64 / pixels)^2)")
    prediction: diffusion.Prediction = "epsilon"
    weighting: diffusion.Weighting = Field("uniform", description="of the squared error; uniform: DDPM's")
    times: diffusion.Times = "uniform"
    T: int = Field(1000, ge=2, description="diffusion steps")
    flip: bool = Field(True, description="mirror every second image")


class Sample(Settings):
    """How its images are sampled."""

    steps: int = Field(100, ge=1, description="DDIM steps (DCFace: 1000 steps respaced to 100)")
    eta: float = Field(1.0, ge=0, le=1, description="1: the variance of DDPM's ancestral sampling; 0: deterministic")
    clip_x0: bool = True
    spacing: diffusion.Spacing = "leading"
    precision: Literal["bf16", "fp32"] = Field("bf16", description="bf16 only where the device is CUDA")


class Batch(NamedTuple):
    """What one step sees. x0, noise (B, 3, R, R); t, abar (B,)."""

    x0: Tensor
    t: Tensor
    abar: Tensor
    noise: Tensor


def train(settings: Train, context: Context) -> None:
    """Train on `context.faces`; leaves context.out/unconditional with weights.safetensors, model.json and metrics.jsonl. Resumes."""
    out = context.out / FOLDER
    if (out / "weights.safetensors").exists():
        return
    out.mkdir(exist_ok=True)
    write_json(out / "model.json", settings.model_dump(mode="json"))
    context = replace(context, out=out, seed=derive(context.seed, FOLDER))  # other noise than that of the generator's own training
    faces, device = context.faces, context.device
    abar = diffusion.signal(settings.schedule, settings.T, settings.snr_scale)
    torch.manual_seed(derive(context.seed, "weights"))
    network = UNet(settings.unet, context.resolution, context_width=0).eval()
    learner = training.Learner(network, settings, device)

    def update(step: training.Step) -> training.Losses:
        size, draw = len(step.rows), step.draw
        mirror = (torch.rand(size, generator=draw) < 0.5) & settings.flip
        t = diffusion.sample_times(size, abar, draw, settings.times)
        noise = torch.randn(size, 3, context.resolution, context.resolution, generator=draw)
        x0 = send(faces.images(step.rows), device).float() / 127.5 - 1
        x0 = torch.where(mirror.to(device)[:, None, None, None], x0.flip(3), x0)
        batch = Batch(x0, *(send(tensor, device) for tensor in (t, abar[t], noise)))
        return learner.learn(lambda part: {"loss": error(network, part, settings)}, batch, step)

    training.loop(update, learner.state, settings, len(faces), context, "the unconditional model")
    training.save_weights(learner.average.model, out / "weights.safetensors")
    (out / "checkpoint.pt").unlink(missing_ok=True)


def error(network: UNet, batch: Batch, settings: Train) -> Tensor:
    """The weighted squared error of what the network predicts (DDPM, Eq. 14), a scalar."""
    x0, t, abar, noise = batch
    output = network(diffusion.add_noise(x0, noise, abar), t).float()
    squared = (output - diffusion.target(x0, noise, abar, settings.prediction)).square().mean((1, 2, 3))
    return (squared * diffusion.weight(abar, settings.prediction, settings.weighting)).mean()


def sampler(folder: Path, sample: Sample, context: Context) -> Callable[[np.ndarray], Tensor]:
    """The model that `train` left in `folder` (of the train stage), as a function: numbers (n,) -> their images (n, 3, R, R) uint8.

    Raises UserError when there is no model, or when more steps are asked for than it was trained with.
    """
    found = read_json(folder / FOLDER / "model.json")
    if found is None:
        raise UserError("enroll.source unconditional: this generator trained no unconditional model. Set train.unconditional={}")
    settings = Train.model_validate(found)
    if sample.steps > settings.T:
        raise UserError(f"enroll.sampler.steps {sample.steps} is more than the {settings.T} diffusion steps of train.unconditional.T")
    network = UNet(settings.unet, context.resolution, context_width=0)
    network.load_state_dict(read_tensors(folder / FOLDER / "weights.safetensors"))
    ready(network, context.device).eval().requires_grad_(False)
    abar = diffusion.signal(settings.schedule, settings.T, settings.snr_scale)

    def make(some: list[Slot]) -> tuple[Tensor, dict[str, Tensor]]:
        streams = [torch_generator(context.seed, FOLDER, slot.identity) for slot in some]
        noise = diffusion.Noise(streams, (3, context.resolution, context.resolution), context.device)
        with torch.inference_mode(), autocast(context.device, sample.precision):
            for step in diffusion.ddim(
                lambda x, t: network(x, t).float(),
                noise, abar, sample.steps, sample.eta, settings.prediction, sample.clip_x0, sample.spacing,
            ):  # fmt: skip
                x = step.x
        return diffusion.to_uint8(x), {}

    def images(numbers: np.ndarray) -> Tensor:
        return torch.cat([batch.images for batch in sampling.generate(make, [Slot(int(n), 0) for n in numbers], context)])

    return images
