"""Training a GAN of models/gan.py: what one step sees, and the step of both networks, as in StyleGAN2-ADA (arXiv 2006.06676)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from synthbench.data.faces import FaceSet
from synthbench.device import send
from synthbench.models.gan import Critic, Painter, Shape, critic_loss, fit, painter_loss, path_lengths, r1
from synthbench.training import loop


class Adversarial(loop.Optimization):
    """The part of a GAN's `train` settings that both networks share. Defaults: stylegan2-ada-pytorch at 128 px on one GPU."""

    shape: Shape = Shape()
    r1: float = Field(0.1024, ge=0, description="gamma of R1; stylegan2-ada-pytorch: 0.0002 side^2 / batch_size")
    r1_every: int = Field(16, ge=1, description="steps between two R1 penalties, which then weigh so many times as much")
    path_length: float = Field(2.0, ge=0, description="weight of the path length penalty; 0: none")
    path_every: int = Field(4, ge=1, description="steps between two path length penalties")
    style_mixing: float = Field(0.9, ge=0, le=1, description="share of the images painted from two codes")
    flip: bool = Field(True, description="mirror every second real image")

    steps: int = Field(781_250, ge=0, description="25 million images; 0: epochs x images / batch_size")
    batch_size: int = Field(32, ge=1)
    lr: float = Field(0.0025, gt=0, description="of both networks")
    betas: tuple[loop.Beta, loop.Beta] = (0.0, 0.99)
    weight_decay: float = Field(0.0, ge=0)
    ema_limit: float = Field(0.998, ge=0, lt=1, description="decay of the generator's weight average; half-life 11,000 images at batch 32")
    precision: Literal["bf16", "fp32"] = Field("fp32", description="bf16 only where the device is CUDA")


UNDIVIDED = "the discriminator compares the images of a batch with one another (minibatch deviation)"


class Batch(NamedTuple):
    """What one step sees."""

    real: Tensor  # (B, 3, side, side) in [-1, 1]
    real_label: Tensor  # (B,) int64, -1 without labels; a network without classes does not look at it
    z: Tensor  # (B, inputs) the codes to paint from
    other: Tensor  # (B, inputs) the codes of the layers from `crossover` on
    crossover: Tensor  # (B,) int64; the number of layers: one code for all
    label: Tensor  # (B,) int64 of the codes
    noise: Tensor  # (B, noise_size)
    direction: Tensor  # (B, 3, side, side) normal, of the path length; (B,) zeros without


def draw(faces: FaceSet, step: loop.Step, painter: Painter, side: int, inputs: int, settings: Adversarial) -> Batch:
    """A Batch on the CPU: the images of the step, random codes, and labels as frequent as in the set."""
    size, random = len(step.rows), step.draw
    real = fit(loop.pictures(faces, step.rows, settings.flip, random, torch.device("cpu"))[0], side)
    identity = torch.from_numpy(faces.identity)
    label = identity[torch.randint(len(faces), (size,), generator=random)]
    z, other = torch.randn(2, size, inputs, generator=random)
    cut = torch.randint(1, painter.layers, (size,), generator=random)
    mixed = torch.rand(size, generator=random) < settings.style_mixing
    noise = torch.randn(size, painter.noise_size, generator=random)
    direction = torch.randn(real.shape, generator=random) if settings.path_length else torch.zeros(size)
    return Batch(real, identity[step.rows], z, other, torch.where(mixed, cut, painter.layers), label, noise, direction)


class Rivals:
    """A generator and a discriminator that learn from each other: for every batch one step each, the discriminator first."""

    def __init__(self, painter: Painter, critic: Critic, settings: Adversarial, device: torch.device) -> None:
        self.painter, self.critic, self.settings, self.device = painter, critic, settings, device
        self.generator = loop.Learner(painter, settings, device)
        self.discriminator = loop.Learner(critic, settings, device)

    @property
    def state(self) -> dict[str, loop.Stateful]:
        optimizers = {f"critic_{name}": optimizer for name, optimizer in self.discriminator.optimizers.items()}
        return self.generator.state | {"critic": self.critic, **optimizers}

    def update(
        self, batch: Batch, step: loop.Step, extra: Callable[[Tensor, Batch], loop.Losses] = lambda images, batch: {}
    ) -> loop.Losses:
        """One step of both. extra: (painted images, the batch) -> terms of the generator's loss, by name, added as they are."""
        settings = self.settings
        batch = Batch(*(send(tensor, self.device) for tensor in batch))
        penalty = settings.r1 > 0 and step.number % settings.r1_every == 0
        path = settings.path_length > 0 and step.number % settings.path_every == 0
        judged = self.discriminator.learn(lambda part: self.critic_objective(part, penalty), batch, step)
        painted = self.generator.learn(lambda part: self.painter_objective(part, path, extra), batch, step)
        if path:
            self.painter.path_mean.lerp_(painted["path_length"], 0.01)
        if settings.path_length:
            painted["path_mean"] = self.painter.path_mean  # there at every step, and so in the log
        return {**painted, "critic_loss": judged["loss"], "real_logit": judged["real_logit"], "fake_logit": judged["fake_logit"]}

    def critic_objective(self, batch: Batch, penalty: bool) -> loop.Losses:
        with torch.no_grad():
            fake = self.painter.paint(self.codes(batch), batch.noise)
        images = batch.real.detach().requires_grad_(penalty)
        real, painted = self.critic(images, batch.real_label), self.critic(fake, batch.label)
        loss = critic_loss(real, painted)
        if penalty:
            loss = loss + self.settings.r1 / 2 * self.settings.r1_every * r1(real, images)
        return {"loss": loss, "real_logit": real.mean(), "fake_logit": painted.mean()}

    def painter_objective(self, batch: Batch, path: bool, extra: Callable[[Tensor, Batch], loop.Losses]) -> loop.Losses:
        w = self.codes(batch)
        images = self.painter.paint(w, batch.noise)
        adversarial = painter_loss(self.critic(images, batch.label))
        terms = extra(images, batch)
        found = {"loss": adversarial + sum(terms.values()), "adversarial": adversarial, **terms}
        if path:
            lengths = path_lengths(images, w, batch.direction)
            mean = self.painter.path_mean.lerp(lengths.mean().detach(), 0.01)
            found["loss"] = found["loss"] + self.settings.path_length * self.settings.path_every * (lengths - mean).square().mean()
            found["path_length"] = lengths.mean()
        return found

    def codes(self, batch: Batch) -> Tensor:
        """w (B, layers, latent); from layer `crossover` on that of the other code."""
        w = self.painter.styles(batch.z, batch.label)
        if not self.settings.style_mixing:
            return w
        own = torch.arange(self.painter.layers, device=w.device) < batch.crossover[:, None]
        return torch.where(own[:, :, None], w, self.painter.styles(batch.other, batch.label))
