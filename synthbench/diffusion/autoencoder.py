"""A small autoencoder with a continuous latent space, for latent diffusion (Rombach et al., arXiv 2112.10752, appendix G: KL-reg.).

Encoder and decoder are those of LDM as diffusers has them. Published ones are trained for weeks with LPIPS and a patch discriminator;
this one learns from the protocol's faces alone: absolute error, a faint pull of the latents to N(0, 1), and the identity under the
encoder E_id. Beside both networks runs a linear path between patches and latents, which starts at the principal components of the
patches, so that the networks begin with a picture and have only to better it.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from diffusers.models.autoencoders.vae import Decoder, Encoder
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from synthbench.device import send
from synthbench.models import encoder as face
from synthbench.models.attention import zero
from synthbench.plugin import Context
from synthbench.seeds import derive
from synthbench.training import loop
from synthbench.types import UserError

MEASURED = 512  # images that set the linear path and the scale of the latents


class Train(loop.Optimization):
    """The autoencoder and how it is trained. Defaults: the shape of LDM's f4 model without attention."""

    channels: tuple[PositiveInt, ...] = Field((128, 256, 512), min_length=1, description="of each level; all but one halve the side")
    layers: int = Field(2, ge=1, description="residual blocks per level on the way down; one more on the way up")
    latents: int = Field(3, ge=1, description="channels of the latents")
    groups: int = Field(32, ge=1, description="groups of GroupNorm")
    kl_weight: float = Field(1e-6, ge=0, description="of the divergence of the latents from N(0, 1), per value of the image (LDM)")
    identity_weight: float = Field(0.1, ge=0, description="of 1 - cosine of the embeddings of image and reconstruction; 0: no encoder")
    flip: bool = Field(True, description="mirror every second image")
    steps: int = Field(50_000, ge=0, description="0: epochs x images / batch_size")
    batch_size: int = Field(64, ge=1)
    lr_schedule: loop.LrSchedule = "cosine"
    warmup: loop.Warmup = 1000
    weight_decay: float = Field(0.0, ge=0)
    max_norm: float = Field(1.0, ge=0, description="gradients are clipped to this length; 0: not")

    @model_validator(mode="after")
    def _divisible(self) -> Train:
        if wrong := [channels for channels in self.channels if channels % self.groups]:
            raise ValueError(f"channels {wrong[0]} is not a multiple of groups {self.groups}")
        return self


class Autoencoder(nn.Module):
    """(B, 3, R, R) in [-1, 1] <-> latents (B, latents, R / factor, R / factor), scaled to a standard deviation of 1."""

    scale: Tensor

    def __init__(self, settings: Train) -> None:
        super().__init__()
        levels, latents = len(settings.channels), settings.latents
        self.factor = 2 ** (levels - 1)
        self.encoder = Encoder(
            3,
            latents,
            ("DownEncoderBlock2D",) * levels,
            settings.channels,
            settings.layers,
            settings.groups,
            mid_block_add_attention=False,
        )
        self.decoder = Decoder(
            latents,
            3,
            ("UpDecoderBlock2D",) * levels,
            settings.channels,
            settings.layers,
            settings.groups,
            mid_block_add_attention=False,
        )
        self.analysis = nn.Conv2d(3 * self.factor**2, latents, 1)
        self.synthesis = nn.Conv2d(latents, 3 * self.factor**2, 1)
        zero(self.encoder.conv_out)
        zero(self.decoder.conv_out)
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def begin(self, x: Tensor) -> None:
        """Set the linear path to the principal components of the patches of images x (B, 3, R, R)."""
        patches = F.pixel_unshuffle(x, self.factor).permute(0, 2, 3, 1).flatten(0, 2).cpu().double()
        mean = patches.mean(0)
        axes = torch.linalg.eigh((patches - mean).T @ (patches - mean)).eigenvectors.T.flip(0)[: len(self.analysis.weight)]
        axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()  # eigh leaves the sign open
        for layer, weight, bias in ((self.analysis, axes, -axes @ mean), (self.synthesis, axes.T, mean)):
            layer.weight[: len(weight), : len(weight.T)] = weight.float()[:, :, None, None]
            layer.bias[: len(bias)] = bias.float()  # type: ignore[index]

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the unscaled latents."""
        mean, log_variance = self.encoder(x.contiguous(memory_format=torch.channels_last)).float().chunk(2, dim=1)
        mean = mean + self.analysis(F.pixel_unshuffle(x, self.factor)).float()
        return mean, (log_variance - 6).clamp(-30, 20)  # almost no noise at first

    def encode(self, x: Tensor) -> Tensor:
        return self.moments(x)[0] * self.scale

    def decode(self, z: Tensor) -> Tensor:
        z = (z / self.scale).contiguous(memory_format=torch.channels_last)
        return self.decoder(z) + F.pixel_shuffle(self.synthesis(z), self.factor)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


def train(settings: Train, pixels: int, context: Context, out: Path) -> None:
    """Train at `pixels` on `context.faces`; leaves weights.safetensors and metrics.jsonl in `out`. Resumes.

    Raises UserError when `pixels` cannot be halved that often, and for an encoder without gradients where they are needed.
    """
    weights = out / "weights.safetensors"
    if loop.finished(weights):
        return
    faces, device, encoder = context.faces, context.device, context.encoder
    if settings.identity_weight and not encoder.differentiable:
        raise UserError(
            f"encoder {encoder.name} runs forwards only, and train.autoencoder.identity_weight needs its gradients. "
            "Set it to 0 or take an encoder with weights in PyTorch"
        )
    torch.manual_seed(derive(context.seed, "autoencoder"))
    network = Autoencoder(settings).eval()  # nothing in it depends on the mode
    if pixels % network.factor:
        raise UserError(
            f"{pixels} px cannot be halved {len(settings.channels) - 1} times; change train.pixels or train.autoencoder.channels"
        )
    rows = range(0, len(faces), -(-len(faces) // MEASURED))
    network.begin(fitted(faces.images(rows), pixels))
    side = pixels // network.factor

    def batch(step: loop.Step) -> Batch:
        mirror = loop.mirror(len(step.rows), settings.flip, step.draw)
        noise = torch.randn(len(step.rows), settings.latents, side, side, generator=step.draw)
        return Batch(loop.mirrored(fitted(send(faces.images(step.rows), device), pixels), mirror), noise)

    out.mkdir(parents=True, exist_ok=True)
    average: Autoencoder = loop.fit(  # type: ignore[assignment]
        network, batch, lambda part: objective(network, encoder, part, settings), settings, len(faces), context, "the autoencoder", out
    )
    with torch.inference_mode():
        parts = [average.encode(fitted(send(faces.images(rows[i : i + 32]), device), pixels)) for i in range(0, len(rows), 32)]
        average.scale.fill_(1 / torch.cat(parts).std())
    loop.finish(average, weights)


def load(settings: Train, folder: Path, device: torch.device) -> Autoencoder:
    """What `train` left in `folder`, frozen."""
    return face.frozen(Autoencoder(settings), folder / "weights.safetensors", device)


class Batch(NamedTuple):
    """What one step sees: x (B, 3, R, R) in [-1, 1], noise of the shape of its latents."""

    x: Tensor
    noise: Tensor


def objective(network: Autoencoder, encoder: face.Encoder, batch: Batch, settings: Train) -> dict[str, Tensor]:
    """loss, reconstruction (mean absolute error), kl (per value of the image), similarity (cosine under the encoder); scalars."""
    mean, log_variance = network.moments(batch.x)
    found = network.decode(mean + (0.5 * log_variance).exp() * batch.noise).float()
    reconstruction = (found - batch.x).abs().mean()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum() / batch.x.numel()
    losses = {"loss": reconstruction + settings.kl_weight * kl, "reconstruction": reconstruction, "kl": kl}
    if settings.identity_weight:
        with torch.no_grad():
            wanted = F.normalize(encoder(batch.x).float(), dim=1)
        similarity = (F.normalize(encoder(found).float(), dim=1) * wanted).sum(1).mean()
        losses["loss"] = losses["loss"] + settings.identity_weight * (1 - similarity)
        losses["similarity"] = similarity
    return losses


def fitted(images: Tensor, pixels: int) -> Tensor:
    """uint8 (B, 3, R, R) -> (B, 3, pixels, pixels) in [-1, 1]."""
    return resized(images.float() / 127.5 - 1, pixels)


def resized(x: Tensor, side: int) -> Tensor:
    """(B, 3, R, R) -> (B, 3, side, side), bilinearly, without aliasing."""
    if x.shape[-1] == side:
        return x
    return F.interpolate(x, (side, side), mode="bilinear", align_corners=False, antialias=x.shape[-1] > side)
