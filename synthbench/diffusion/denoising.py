"""What diffusion generators share: the settings of noise and sampling, the weighted error of a batch, and an image at the end of DDIM.

The mathematics is in diffusion.py; here are the words that a generator's config has for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from synthbench.config import Settings
from synthbench.diffusion import process
from synthbench.seeds import numpy_generator
from synthbench.training import loop
from synthbench.types import UserError


class Train(loop.Optimization):
    """How noise is added and what is learnt of it."""

    late: ClassVar[tuple[str, ...]] = ("held_out",)
    schedule: process.Schedule = "linear"
    snr_scale: float = Field(1.0, gt=0, description="factor on the schedule's signal-to-noise ratio (simple diffusion: (64 / pixels)^2)")
    prediction: process.Prediction = "epsilon"
    weighting: process.Weighting = Field("uniform", description="of the squared error; uniform: DDPM's")
    times: process.Times = "uniform"
    T: int = Field(1000, ge=2, description="diffusion steps")
    flip: bool = Field(True, description="mirror every second image")
    held_out: int = Field(
        0, ge=0, description="people (images, where they have no label) not learnt from: the log says what their code helps"
    )

    @property
    def signal(self) -> Tensor:
        """abar_t, (T,)."""
        return process.signal(self.schedule, self.T, self.snr_scale)


class Sample(Settings):
    """How images are sampled."""

    steps: int = Field(50, ge=1, description="DDIM steps")
    eta: float = Field(1.0, ge=0, le=1, description="1: the variance of DDPM; 0: deterministic")
    spacing: process.Spacing = "leading"
    precision: Literal["bf16", "fp32"] = Field("bf16", description="bf16 only where the device is CUDA")


class People(NamedTuple):
    """Who is learnt from. person (N,) of all images, where each one without a label counts as one; learnt, held_out: rows."""

    person: np.ndarray
    learnt: np.ndarray
    held_out: np.ndarray


def people(identity: np.ndarray, held_out: int, seed: int) -> People:
    """Without `held_out` people, chosen by chance; of images without labels (-1) so many images. Raises UserError when nobody is left."""
    person = np.where(identity < 0, identity.max(initial=0) + 1 + np.arange(len(identity)), identity)
    everyone = np.unique(person)
    if held_out >= len(everyone):
        raise UserError(f"train.held_out {held_out} leaves nobody to learn from: there are {len(everyone)} people or unlabelled images")
    aside = np.isin(person, numpy_generator(seed, "held out").permutation(everyone)[:held_out])
    return People(person, np.flatnonzero(~aside), np.flatnonzero(aside))


def refuse_steps(sample: Sample, train: Train) -> None:
    """Raise ValueError when more steps are to be sampled than there are."""
    if sample.steps > train.T:
        raise ValueError(f"sample.steps {sample.steps} is more than the {train.T} diffusion steps of train.T")


class Drawn(NamedTuple):
    """What a step of a training adds to its images."""

    t: Tensor  # (B,) int64
    abar: Tensor  # (B,) of those steps
    noise: Tensor  # (B, ...) like the images


def drawn(train: Train, count: int, shape: Sequence[int], draw: torch.Generator) -> Drawn:
    """Time steps, then noise of `count` images or latents of `shape`."""
    t = process.sample_times(count, train.T, draw, train.times)
    return Drawn(t, train.signal[t], torch.randn(count, *shape, generator=draw))


def squared_error(output: Tensor, x0: Tensor, noise: Tensor, abar: Tensor, train: Train) -> Tensor:
    """The weighted squared error of what the network predicts, a scalar; x0 and noise (B, C, H, W), abar (B,) (DDPM, Eq. 14)."""
    error = (output - process.target(x0, noise, abar, train.prediction)).square().mean((1, 2, 3))
    return (error * process.weight(abar, train.prediction, train.weighting)).mean()


def painted(
    network: Callable[[Tensor, Tensor], Tensor], noise: process.Noise, train: Train, sample: Sample, clip_x0: bool = True
) -> Tensor:
    """x_0 (B, C, H, W) after all DDIM steps; network: (x_t, t) -> its output in fp32."""
    steps = process.ddim(network, noise, train.signal, sample.steps, sample.eta, train.prediction, clip_x0, sample.spacing)
    return deque(steps, maxlen=1).pop()
