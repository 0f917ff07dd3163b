"""Whether a conditional diffusion model heeds its condition: what it costs to tell it of another image.

At large t the noisy image says little, and only the condition can. A network that ignores it restores a face equally well whoever's code
it is told. So the same image under the same noise is restored twice, with its own code and with another image's; the difference of the
squared errors needs no encoder, and shows long before images do whether the identity arrives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from synthbench import console
from synthbench.diffusion import denoising, process
from synthbench.seeds import numpy_generator, torch_generator
from synthbench.training import loop

IMAGES = 32  # looked at
FROM = 0.7  # of T: the smallest t looked at


class Shown(NamedTuple):
    """Images or latents x0 (B, C, H, W) and what the network is told of each, (B, ...)."""

    x0: Tensor
    told: Tensor


Show = Callable[[np.ndarray], Shown]  # rows of the training set
Predict = Callable[[nn.Module, Tensor, Tensor, Shown], Tensor]  # (network, x_t, t (B,), what is shown) -> its output


class Heed:
    """Squared error of x_0 with another image's code minus with its own, on images learnt from and on images held out."""

    def __init__(self, people: denoising.People, show: Show, predict: Predict, train: denoising.Train, seed: int) -> None:
        self.predict, self.train, self.seed = predict, train, seed
        self.last: dict[str, float] = {}  # what the last look found
        sets = {"condition_gain": people.learnt, "condition_gain_held_out": people.held_out}
        chosen = {name: distinct(people.person, rows, numpy_generator(seed, name)) for name, rows in sets.items()}
        self.shown = {name: show(rows) for name, rows in chosen.items() if len(rows) > 1}  # a single person has nobody to exchange with

    def __call__(self, network: nn.Module) -> loop.Losses:
        """A line of the log: the mean difference over the images and its standard error; scalars."""
        found: loop.Losses = {}
        for name, shown in self.shown.items():
            gain = self.gains(network, shown)
            found |= {name: gain.mean(), f"{name}_stderr": gain.std() / len(gain) ** 0.5}
        self.last = {name: value.item() for name, value in found.items()}
        return found

    @torch.no_grad()
    def gains(self, network: nn.Module, shown: Shown) -> Tensor:
        """(B,): positive where the own code helps."""
        x0 = shown.x0
        t = torch.linspace(FROM * self.train.T, self.train.T - 1, len(x0)).long()
        abar = self.train.signal[t].to(x0.device)
        noise = torch.randn(x0.shape, generator=torch_generator(self.seed, "heed")).to(x0.device)
        x_t, t = process.add_noise(x0, noise, abar), t.to(x0.device)

        def error(shown: Shown) -> Tensor:
            output = self.predict(network, x_t, t, shown).float()
            return (process.estimate(output, x_t, abar, self.train.prediction).x0 - x0).square().mean((1, 2, 3))

        return error(shown._replace(told=shown.told.roll(1, 0))) - error(shown)

    def tell(self, who: str) -> None:
        """Say what the last look found, and warn when the condition is not heeded."""
        found = self.last
        for name, where in (("condition_gain", "images it learnt from"), ("condition_gain_held_out", "people it has not seen")):
            if name in found:
                gain, stderr = found[name], found[f"{name}_stderr"]
                console.note(
                    f"{who}: with another's code the squared error of {where} is {gain:.2g} ±{stderr:.1g} higher (t >= {FROM:g} T)"
                    + ("" if gain > 2 * stderr else ": the condition is NOT heeded, and images will not show whom they should")
                )


def distinct(person: np.ndarray, rows: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """At most IMAGES of `rows`, of as many people."""
    rows = draw.permutation(rows)
    first = np.unique(person[rows], return_index=True)[1]
    return rows[np.sort(first)][:IMAGES]
