"""Gaussian diffusion as plain functions: noise schedules, what the network predicts, loss weights, and DDIM sampling.

Notation of the papers: abar_t is the share of signal power after t steps, x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise, and
SNR = abar / (1 - abar). Sources: DDPM (Ho et al., arXiv 2006.11239), DDIM (Song et al., 2010.02502), cosine schedule (Nichol &
Dhariwal, 2102.09672), v-prediction (Salimans & Ho, 2202.00512), min-SNR (Hang et al., 2303.09556), classifier-free guidance (Ho & Salimans,
2207.12598).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Schedule = Literal["linear", "cosine"]
Prediction = Literal["epsilon", "v", "x0"]
Weighting = Literal["plain", "uniform", "min_snr", "clamped_snr"]
Times = Literal["uniform", "stratified"]
Spacing = Literal["leading", "trailing"]

# ------------------------------------------------------------------------------------------------------------- schedules


def signal(schedule: Schedule, T: int = 1000, snr_scale: float = 1.0) -> Tensor:
    """abar_t for t = 0..T-1, (T,) float32. Linear: beta from 1e-4 to 0.02 (DDPM); cosine: 2102.09672, Eq. 17, beta at most 0.999.

    `snr_scale` multiplies SNR_t = abar / (1 - abar): fewer pixels show less under the same noise (simple diffusion, 2301.11093, Eq. 8).
    """
    if schedule == "linear":
        beta = torch.linspace(1e-4, 0.02, T, dtype=torch.float64)
    else:
        f = torch.cos((torch.arange(T + 1, dtype=torch.float64) / T + 0.008) / 1.008 * math.pi / 2) ** 2
        beta = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    abar = torch.cumprod(1 - beta, 0)
    return (snr_scale * abar / (1 - abar + snr_scale * abar)).float()


def add_noise(x0: Tensor, noise: Tensor, abar: Tensor) -> Tensor:
    """x_t (B, C, H, W) from x_0; abar (B,) (DDPM, Eq. 4)."""
    a = abar[:, None, None, None]
    return a.sqrt() * x0 + (1 - a).sqrt() * noise


# ----------------------------------------------------------------------------------------------- what the network predicts


class Estimate(NamedTuple):
    """What one network output says about x_t: both parts of x_t = sqrt(abar) x0 + sqrt(1 - abar) epsilon."""

    x0: Tensor
    epsilon: Tensor


def estimate(output: Tensor, x_t: Tensor, abar: Tensor, prediction: Prediction) -> Estimate:
    """The clean image and the noise according to the network; abar (B,)."""
    a = abar[:, None, None, None].sqrt()
    s = (1 - abar)[:, None, None, None].sqrt()
    if prediction == "epsilon":
        return Estimate((x_t - s * output) / a, output)
    if prediction == "v":
        return Estimate(a * x_t - s * output, s * x_t + a * output)
    return Estimate(output, (x_t - a * output) / s)


def target(x0: Tensor, noise: Tensor, abar: Tensor, prediction: Prediction) -> Tensor:
    """What a perfect network would answer; v = sqrt(abar) epsilon - sqrt(1 - abar) x0 (2202.00512, appendix D)."""
    if prediction == "epsilon":
        return noise
    if prediction == "x0":
        return x0
    a = abar[:, None, None, None]
    return a.sqrt() * noise - (1 - a).sqrt() * x0


def weight(abar: Tensor, prediction: Prediction, weighting: Weighting, gamma: float = 5.0) -> Tensor:
    """Factor of the squared error of the network's OUTPUT, (B,).

    `plain` is 1, whatever is predicted. The others are defined on the squared error of x0: `uniform` SNR, which is the plain epsilon
    error of DDPM (Eq. 14); `min_snr` min(SNR, gamma); `clamped_snr` that but at least 1 (2202.00512, Eq. 9), so that large t counts for
    something. An error e of x0 is sqrt(SNR) e of epsilon and sqrt(SNR + 1) e of v.
    """
    if weighting == "plain":
        return torch.ones_like(abar)
    snr = abar / (1 - abar)
    if weighting == "uniform":
        on_x0 = snr
    elif weighting == "min_snr":
        on_x0 = snr.clamp(max=gamma)
    else:
        on_x0 = snr.clamp(1.0, gamma)
    return on_x0 / {"epsilon": snr, "v": snr + 1, "x0": torch.ones_like(snr)}[prediction]


def sample_times(count: int, T: int, generator: torch.Generator, times: Times = "uniform") -> Tensor:
    """`count` time steps, (count,) int64 on the CPU.

    `uniform` over 0..T-1 (DDPM); `stratified`: uniform, one in each of `count` equal parts (less variance between batches; VDM,
    2107.00630, appendix I).
    """
    if times == "uniform":
        return torch.randint(T, (count,), generator=generator)
    parts = torch.randperm(count, generator=generator)
    return ((parts + torch.rand(count, generator=generator)) * (T / count)).long().clamp(max=T - 1)


# -------------------------------------------------------------------------------------------------------------- sampling


def guided(conditional: Tensor, unconditional: Tensor, w: float | Tensor) -> Tensor:
    """Classifier-free guidance (Ho & Salimans, 2207.12598, Eq. 6): (1 + w) conditional - w unconditional; w = 0 is no guidance.

    The arguments are two network outputs for the same x_t. The factors sum to 1, so the result means the same for epsilon, v and x0.
    A scale s = 1 + w is the convention elsewhere (Stable Diffusion, DiT).
    """
    return (1 + w) * conditional - w * unconditional


def time_steps(steps: int, T: int = 1000, spacing: Spacing = "leading") -> list[int]:
    """Descending steps. `leading`: i T/steps, ends at 0 (DCFace: 950, 900, ..., 0 for 20); `trailing`: starts at T-1."""
    if not 1 <= steps <= T:
        raise ValueError(f"steps {steps} is not in 1..{T}")
    if spacing == "leading":
        return [i * T // steps for i in reversed(range(steps))]
    return [round(T - i * T / steps) - 1 for i in range(steps)]


class Noise:
    """Standard normal noise with one CPU stream per image, so that an image does not depend on its neighbours in the batch.

    For a GPU the next noise is drawn and pinned by another thread meanwhile: 0.2 ms for an image of 112 px, which the GPU would wait for.
    """

    def __init__(self, generators: Sequence[torch.Generator], shape: tuple[int, ...], device: torch.device | str = "cpu") -> None:
        self.generators, self.shape, self.device = generators, shape, torch.device(device)
        self.ahead = ThreadPoolExecutor(1) if self.device.type == "cuda" else None
        self.coming: Future[Tensor] | None = None

    def __call__(self) -> Tensor:
        """The next (B, *shape) of every stream."""
        if self.ahead is None:
            return self.draw().to(self.device)
        now = self.coming.result() if self.coming else self.draw()
        self.coming = self.ahead.submit(self.draw)
        return now.to(self.device, non_blocking=True)

    def draw(self) -> Tensor:
        noise = torch.stack([torch.randn(self.shape, generator=g) for g in self.generators])
        return noise.pin_memory() if self.device.type == "cuda" else noise


def ddim(
    network: Callable[[Tensor, Tensor], Tensor],
    noise: Callable[[], Tensor],
    abar: Tensor,
    steps: int,
    eta: float = 0.0,
    prediction: Prediction = "epsilon",
    clip_x0: bool = True,
    spacing: Spacing = "leading",
) -> Iterator[Tensor]:
    """DDIM (2010.02502, Eqs. 12 and 16): x after each step; the last is the image.

    network: (x_t (B, C, H, W), t (1,)) -> output. `noise` is asked once for x_T and, when eta > 0, once per step but the last.
    eta 0 is deterministic, 1 is DDPM's variance. After clipping x0 the direction still uses the unclipped epsilon (as DCFace).
    """
    sequence = time_steps(steps, len(abar), spacing)
    x = noise()
    abar = abar.to(x.device)
    for t, after in zip(sequence, [*sequence[1:], None]):
        a, b = abar[t], abar[after] if after is not None else abar.new_tensor(1.0)
        time = torch.full((1,), t, dtype=torch.long, device=x.device)
        x0, epsilon = estimate(network(x, time), x, a[None], prediction)
        if clip_x0:
            x0 = x0.clamp(-1, 1)
        variance = eta**2 * (1 - b) / (1 - a) * (1 - a / b)
        x = b.sqrt() * x0 + (1 - b - variance).clamp(min=0).sqrt() * epsilon
        if eta > 0 and after is not None:
            x = x + variance.sqrt() * noise()
        yield x


def to_uint8(x: Tensor) -> Tensor:
    """[-1, 1] -> 0..255, rounded."""
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
