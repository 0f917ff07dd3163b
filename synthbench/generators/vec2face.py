"""Vec2Face: Scaling Face Dataset Generation with Loosely Constrained Vectors (Wu et al., ICLR 2025, arXiv 2409.02979).

A feature masked autoencoder (models/fmae.py) learns to paint a face from its own face-recognition feature, un-normalised. A new identity is
a vector drawn from the distribution of real features, far from those drawn before; its images are painted from the vector with noise, whose
length is kept. Settings that are only in the authors' code are marked "code", those in neither code nor paper "open".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from synthbench import console
from synthbench.config import Settings
from synthbench.data import faces as data
from synthbench.data import sources
from synthbench.data.shards import ShardWriter
from synthbench.device import autocast, ready, send
from synthbench.diffusion import process
from synthbench.identities import inquiries, sampling
from synthbench.models import fmae, perceptual
from synthbench.models.encoder import CODES, Encoder, frozen, raw_codes, read_tensors
from synthbench.plugin import Context, Generator, Traits
from synthbench.seeds import derive, torch_generator
from synthbench.training import loop
from synthbench.types import FaceBatch, Slot, UserError, Volume

SPREAD = 0.97  # std of an element of the features in the paper (ArcFace R100, Glint360K, on WebFace4M): the unit of sigma
QUALITY = 27.0  # the target of MagFace's quality in the authors' AttrOP: the unit of its loss
AWAY = 0.3  # 1 - cosine of E_id(image) and vector up to which an image has the identity of its vector
BLOCK = 256  # vectors drawn at a time
FEATURES = "features.safetensors"  # of the real set, while the network trains

# ---------------------------------------------------------------------------------------------------------------- config


class Train(loop.Optimization, loop.Unlabelled):
    network: fmae.Shape = fmae.Shape()
    mask: fmae.Mask = fmae.Mask()
    perceptual: Literal["lpips", "encoder"] = Field(
        "lpips", description="lpips: the paper's, needs registered weights; encoder: the same distance on the feature maps of E_id"
    )
    perceptual_weight: float = Field(0.2, ge=0, description="code; 0.1 x (2 LPIPS)")
    ssim_weight: float = Field(0.1, ge=0, description="code; of 1 - SSIM")
    token_weight: float = Field(1.0, ge=0, description="code; the decoder's rows against those before masking")
    identity_weight: float = Field(1.0, ge=0, description="of 1 - cos(E_id(image), feature)")
    adversarial_weight: float = Field(0.8, ge=0, description="code; times VQGAN's adaptive weight")
    adversarial_from: float = Field(0.8, ge=0, le=1, description="share of the training after which the discriminator joins; 1: never")
    discriminator_channels: int = Field(64, ge=4, multiple_of=4)
    epochs: float = Field(100, gt=0)
    batch_size: int = Field(128, ge=1)
    lr: float = Field(4.57e-5, gt=0)
    lr_schedule: loop.LrSchedule = Field("cosine", description="and warmup: of the autoencoder; the discriminator's rate is constant")
    warmup: loop.Warmup = 0.05
    betas: tuple[loop.Beta, loop.Beta] = (0.9, 0.99)
    weight_decay: float = Field(0.01, ge=0, description="code: what PyTorch's AdamW does by itself")
    max_norm: float = Field(2.0, ge=0)
    ema_limit: float = Field(0.0, ge=0, lt=1, description="highest decay of the weight average; 0: none, as in the paper")


class Enroll(inquiries.FromSource):
    """Where identities come from."""

    late = ("attrop_terms",)
    source: str = Field("real", description="whose features are imitated: real | a registered source | path of labelled images")
    distribution: Literal["pca", "gaussian"] = Field(
        "pca", description="pca: mean and covariance of the identities' mean features; gaussian: independent elements (later code)"
    )
    threshold: float = Field(0.3, ge=-1, le=1, description="highest cosine between two identities")
    tries: int = Field(20, ge=1, description="vectors drawn per identity wanted, at most")
    attrop_steps: int = Field(30, ge=0, description="cap of AttrOP on a vector; the authors' loop has none. 0: no AttrOP")
    attrop_terms: Literal["weighted", "normalized"] = Field(
        "weighted", description="weighted: 100 (1 - cos) + quality lacking; normalized: 1 - cos where above 0.3, + quality / 30 (Vec2Face+)"
    )
    attrop_lr: float = Field(0.1, gt=0, description="of Adam on the vector, in the units of sigma")
    quality: float = Field(1.0, ge=0, description="length wanted of E_id(image), over the mean of the training set")


class Sample(Settings):
    sigmas: tuple[float, ...] = Field((0.3, 0.5, 0.7), min_length=1, description="of the noise on a vector; one is drawn for each image")
    shares: tuple[float, ...] = Field((0.4, 0.4, 0.2), description="how often each is drawn")
    mask: fmae.Mask = fmae.Mask(low=0.1, high=1.0, mean=0.15, std=0.25)
    precision: Literal["bf16", "fp32"] = Field("bf16", description="bf16 only where the device is CUDA")

    @model_validator(mode="after")
    def _mixture(self) -> Sample:
        if min(self.sigmas) < 0:
            raise ValueError(f"sigmas has {min(self.sigmas)}; a standard deviation is not negative")
        if len(self.shares) != len(self.sigmas) or min(self.shares) < 0 or abs(sum(self.shares) - 1) > 1e-6:
            raise ValueError(f"shares {self.shares} must be one share for each of the {len(self.sigmas)} sigmas, and add up to 1")
        return self


class Config(Settings):
    train: Train = Train()
    enroll: Enroll = Enroll()
    sample: Sample = Sample()


# ------------------------------------------------------------------------------------------------------------------ loss


class Batch(NamedTuple):
    """What one step sees, a row per image."""

    x: Tensor  # (B, 3, R, R) in [-1, 1]
    feature: Tensor  # (B, dim) of x, un-normalised
    scores: Tensor  # (B, rows): which rows are masked
    ratio: Tensor  # (B,) how many: one number for the batch
    seed: Tensor  # (B,) int64 on the CPU, where a number can be read without waiting; the first is the seed of dropout


class Frozen(NamedTuple):
    """The frozen networks of the loss."""

    encoder: Encoder
    lpips: nn.Module | None  # None: the maps of `encoder`


def objective(network: fmae.FeatureMAE, frozen: Frozen, critic: nn.Module | None, batch: Batch, settings: Train) -> dict[str, Tensor]:
    """The loss of fMAE and its parts, scalars. critic: the discriminator, from the step on at which it joins."""
    x, feature = batch.x, batch.feature
    painted, tokens, target = network(feature, batch.scores, batch.ratio, settings.mask.low, int(batch.seed[0]))
    painted = painted.float()
    mse = (painted - x).square().mean()
    structure = 1 - perceptual.ssim(painted, x).mean()
    token = (tokens.float() - target.float())[:, 1:].square().mean()  # position 0, e itself, is not asked for
    image, losses = mse + settings.ssim_weight * structure, {"mse": mse, "ssim": 1 - structure, "token": token}
    rest = settings.token_weight * token
    if settings.perceptual_weight or settings.identity_weight:
        found, looks = recognized(frozen, painted, x)
        identity = 1 - F.cosine_similarity(found.float(), feature).mean()
        image, rest = image + settings.perceptual_weight * looks, rest + settings.identity_weight * identity
        losses |= {"perceptual": looks, "similarity": 1 - identity}
    loss = image + rest
    if critic is not None:
        fooled = -critic(painted).float().mean()
        balance = fmae.adaptive(image, fooled, network.painter.last.weight)
        loss = loss + settings.adversarial_weight * balance * fooled
        losses |= {"fooled": fooled, "balance": balance}
    return {"loss": loss, **losses}


def recognized(frozen: Frozen, painted: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """(features (B, dim) of `painted`, its mean perceptual distance to `x`)."""
    encoder, lpips = frozen
    if lpips is not None:
        return encoder(painted), lpips(painted, x).mean()
    maps = encoder.maps(painted)
    with torch.no_grad():
        real = encoder.maps(x)
    return encoder.head(maps[-1]), perceptual.distance(maps, real).mean()


def critic_objective(network: fmae.FeatureMAE, critic: nn.Module, batch: Batch, settings: Train) -> dict[str, Tensor]:
    """LSGAN: 1/2 [(D(x) - 1)^2 + D(painted)^2]."""
    with torch.no_grad():
        painted = network(batch.feature, batch.scores, batch.ratio, settings.mask.low, int(batch.seed[0]))[0].float()
    return {"loss": ((critic(batch.x) - 1).square().mean() + critic(painted).square().mean()) / 2}


# ------------------------------------------------------------------------------------------------------------- generator


class Vec2Face(Generator[Config]):
    """Faces painted from perturbed face-recognition features by a masked autoencoder."""

    Config = Config
    version = 3  # 2: SSIM, initial weights, discriminator and its learning rate, weight decay as in the authors' code; 3: last bits
    traits = Traits(
        paper="Vec2Face: Scaling Face Dataset Generation with Loosely Constrained Vectors, arXiv 2409.02979",
        licence="paper CC BY 4.0; this is an independent implementation",
        trains=True,
        enrolls=True,
        pretrained="the protocol's encoder; VGG-16 (ImageNet) with the heads of LPIPS",
    )
    tiny = {
        "train": {
            "steps": 6, "batch_size": 8, "perceptual": "encoder", "discriminator_channels": 8,
            "network": {"width": 32, "depth": 1, "heads": 2, "decoder_depth": 1, "decoder_heads": 2, "latent": 16, "channels": 8,
                        "multipliers": [1, 1, 2, 2], "blocks": 1, "groups": 4},
        },
        "enroll": {"threshold": 0.9, "attrop_steps": 2},
    }  # fmt: skip

    def about(self, config: Any) -> Traits:
        maps = "the protocol's encoder, whose feature maps compare images instead of LPIPS"
        return replace(self.traits, pretrained=maps) if config.train.perceptual == "encoder" else self.traits

    def sources(self, resolution: int) -> dict[str, str]:
        source = self.config.enroll.source
        return {} if source == "real" else {"inquiries": sources.digest_of(inquiries.locate(source))}

    def networks(self, resolution: int, dim: int) -> dict[str, tuple[nn.Module, tuple[Any, ...]]]:
        settings = self.config.train
        network = fmae.FeatureMAE(settings.network, resolution, dim)
        inputs = (torch.empty(1, dim), torch.empty(1, network.rows), torch.empty(1), self.config.sample.mask.low)
        found: dict[str, tuple[nn.Module, tuple[Any, ...]]] = {"fMAE": (network, inputs)}
        if settings.adversarial_from < 1:
            critic = fmae.Discriminator(settings.discriminator_channels)
            found["discriminator"] = critic, (torch.empty(1, 3, resolution, resolution),)
        return found

    def check(self, volume: Volume, people: int | None) -> None:
        if self.config.train.perceptual == "lpips":
            sources.lpips_files()

    def train(self, context: Context) -> None:
        train(self.config.train, context)

    def enroll(self, count: int, context: Context) -> None:
        enroll(count, self.config, context)

    def generate(self, slots: Sequence[Slot], context: Context) -> Iterator[FaceBatch]:
        """Columns: sample, sigma, similarity (cosine of E_id's feature to the vector of the identity)."""
        sample, device = self.config.sample, context.device
        codes = read_tensors(context.inputs["enroll"] / CODES)["codes"]
        network = load(self.config.train, context)

        def make(some: list[Slot]) -> tuple[Tensor, dict[str, Tensor]]:
            streams = [torch_generator(context.seed, "image", *slot) for slot in some]
            vectors = codes[[slot.identity for slot in some]]
            sigma = mixture(torch.stack([torch.rand((), generator=stream) for stream in streams]), sample)
            noise = torch.stack([torch.randn(vectors.shape[1], generator=stream) for stream in streams])
            perturbed = perturb(vectors, noise, sigma * network.scale.cpu())
            images = painted(network, perturbed, streams, sample, device)
            with torch.inference_mode(), autocast(device, sample.precision):
                return images, {"sigma": sigma, "similarity": sampling.similarity(context.encoder, images, vectors)}

        yield from sampling.generate(make, slots, context, ("sigma", "similarity"))


def painted(network: fmae.FeatureMAE, vectors: Tensor, streams: list[torch.Generator], sample: Sample, device: torch.device) -> Tensor:
    """(B, 3, R, R) uint8 of vectors (B, dim), with a mask from the stream of each."""
    with torch.inference_mode(), autocast(device, sample.precision):
        mask = fmae.masks(streams, network.rows, sample.mask, device)
        return process.to_uint8(fmae.paint(network, vectors.to(device), *mask))


def perturb(vectors: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """v' = (v + n) |v| / |v + n| with n ~ N(0, sigma^2): vectors and noise (B, dim), sigma (B,)."""
    moved = vectors + sigma[:, None] * noise
    return moved * vectors.norm(dim=1, keepdim=True) / moved.norm(dim=1, keepdim=True)


def mixture(uniform: Tensor, sample: Sample) -> Tensor:
    """(B,) sigmas at quantiles `uniform` (B,) of the mixture."""
    ends = torch.tensor(sample.shares).cumsum(0)[:-1]
    return torch.tensor(sample.sigmas)[torch.bucketize(uniform, ends, right=True)]


def load(settings: Train, context: Context) -> fmae.FeatureMAE:
    network = fmae.FeatureMAE(settings.network, context.resolution, context.encoder.dim)
    return frozen(network, context.inputs["train"] / "weights.safetensors", context.device)


# -------------------------------------------------------------------------------------------------------------- training


def train(settings: Train, context: Context) -> None:
    """Writes weights.safetensors and metrics.jsonl into context.out; resumes."""
    weights = context.out / "weights.safetensors"
    if loop.finished(weights, FEATURES):
        return
    faces, encoder, device = context.faces, context.encoder, context.device
    encoder.need_gradients("Vec2Face")
    lpips = ready(perceptual.LPIPS(*sources.lpips_files()), device) if settings.perceptual == "lpips" else None
    features = raw_codes(encoder, faces, False, context.out / FEATURES, context.progress)[0]

    torch.manual_seed(derive(context.seed, "weights"))
    network = fmae.FeatureMAE(settings.network, context.resolution, encoder.dim)
    network.scale.fill_(features.std() / SPREAD)
    network.norm.fill_(features.norm(dim=1).mean())
    learner = loop.Learner(network, settings, device)
    constant = settings.model_copy(update={"lr_schedule": "constant", "warmup": 0})
    critic = loop.Learner(fmae.Discriminator(settings.discriminator_channels), constant, device)
    state = learner.state | {f"critic {name}": part for name, part in critic.state.items()}

    def update(step: loop.Step) -> loop.Losses:
        size, draw = len(step.rows), step.draw
        ratio = settings.mask.ratio(torch.rand(1, generator=draw)).expand(size)
        scores = torch.rand(size, network.rows, generator=draw)
        seed = torch.randint(2**62, (size,), generator=draw)
        x = send(faces.images(step.rows), device).float() / 127.5 - 1
        feature = send(features[torch.from_numpy(step.rows)], device)
        batch = Batch(x, feature, send(scores, device), send(ratio, device), seed)
        joined = critic.network if step.number >= settings.adversarial_from * step.total else None
        losses = learner.learn(lambda part: objective(network, Frozen(encoder, lpips), joined, part, settings), batch, step)
        if joined is not None:
            learned = critic.learn(lambda part: critic_objective(network, joined, part, settings), batch, step)
            losses["discriminator"] = learned["loss"]
        return losses

    loop.run(update, state, settings, len(faces), context, "Vec2Face")
    loop.finish(learner.average.model, weights, FEATURES)


# ------------------------------------------------------------------------------------------------------------ identities


def enroll(count: int, config: Config, context: Context) -> None:
    """Write `count` vectors, no two of them alike, and the image of each: codes.safetensors, `inquiries/`, enroll.json.

    Vectors come in a fixed order, and each is kept when it resembles none kept before, so the first k of n are the same k.
    Raises UserError when too few fit.
    """
    settings, network = config.enroll, load(config.train, context)
    mean, spread = distribution(settings, network, context)
    kept = torch.empty(count, len(mean))
    met = tried = n = 0
    for block in range(-(-settings.tries * count // BLOCK)):
        stream = torch_generator(context.seed, "vectors", block)
        vectors = mean + torch.randn(BLOCK, len(spread), generator=stream) @ spread
        unit = F.normalize(kept[:n], dim=1)
        vectors = vectors[inquiries.choose(F.normalize(vectors, dim=1), unit, settings.threshold, BLOCK)]
        vectors, done = optimized(vectors, block, network, config, context)
        chosen = inquiries.choose(F.normalize(vectors, dim=1), unit, settings.threshold, count - n)  # AttrOP has moved them
        kept[n : n + len(chosen)] = vectors[chosen]
        met += int(done[chosen].sum())
        n += len(chosen)
        tried += BLOCK
        context.progress(n, count)
        if n == count:
            break
    if n < count:
        raise UserError(
            f"Vec2Face: {tried:,} vectors tried, {n:,} fit with every two below cosine {settings.threshold}, but {count:,} identities are "
            f"wanted. Ask for a volume of at most {n:,} identities, raise enroll.threshold or enroll.tries, or imitate a larger set"
        )
    console.note(f"vectors: {tried:,} tried, {n:,} kept (pairwise cosine below {settings.threshold})")
    write_inquiries(kept, network, config, context)
    facts = {"attrop_met": met} if settings.attrop_steps else {}
    inquiries.save(kept, context.out, source=settings.source, tried=tried, kept=n, threshold=settings.threshold, **facts)


def distribution(settings: Enroll, network: fmae.FeatureMAE, context: Context) -> tuple[Tensor, Tensor]:
    """(mean (dim,), spread (k, dim)): mean + z @ spread with standard normal z (k,) is a vector like the features of `settings.source`."""
    dim = context.encoder.dim
    if settings.distribution == "gaussian":
        return torch.zeros(dim), torch.eye(dim) * network.scale.cpu() * SPREAD
    codes = inquiries.mean_codes(settings, context)
    if len(codes) < 2:
        raise UserError(f"enroll.source {settings.source!r} has {len(codes)} identities; the spread of features needs at least 2")
    _, lengths, directions = torch.linalg.svd(codes - (mean := codes.mean(0)), full_matrices=False)  # PCA with all components
    return mean, directions * lengths[:, None] / (len(codes) - 1) ** 0.5


def optimized(vectors: Tensor, block: int, network: fmae.FeatureMAE, config: Config, context: Context) -> tuple[Tensor, Tensor]:
    """AttrOP: (the vectors (n, dim) moved until their images have the identity of the vector and quality, which of them (n,) got there).

    Quality is the length of E_id's feature, where the authors take MagFace's; the loss is in their units. Each row stops for itself.
    """
    settings, device, size = config.enroll, context.device, sampling.CPU_CHUNK
    moved, met = vectors.clone(), torch.zeros(len(vectors), dtype=torch.bool)
    for first in range(0, len(vectors), size):
        rows = torch.arange(first, first + size).clamp(max=len(vectors) - 1)  # always `size` rows: see sampling.CPU_CHUNK
        streams = [torch_generator(context.seed, "attrop", block, int(row)) for row in rows]
        mask = fmae.masks(streams, network.rows, config.sample.mask, device)
        wanted = vectors[rows].to(device)
        v = wanted.clone().requires_grad_(True)
        adam = torch.optim.Adam([v], settings.attrop_lr * float(network.scale))
        best, done = wanted.clone(), torch.zeros(size, dtype=torch.bool, device=device)
        for _ in range(settings.attrop_steps):
            found = context.encoder(fmae.paint(network, v, *mask)).float()
            away = 1 - F.cosine_similarity(found, wanted)
            poor = QUALITY * (settings.quality - found.norm(dim=1) / network.norm).clamp(min=0)
            best[~done] = v.detach()[~done]
            done |= (away <= AWAY) & (poor <= 1)
            if bool(done.all()):
                break
            (v.grad,) = torch.autograd.grad(attrop_loss(away, poor, settings.attrop_terms).sum(), [v])
            adam.step()
        moved[rows], met[rows] = best.cpu(), done.cpu()
    return moved, met


def attrop_loss(away: Tensor, poor: Tensor, terms: str) -> Tensor:
    """What AttrOP lowers, (n,), of 1 - cosine and of the quality lacking, in units of MagFace's; see Enroll.attrop_terms."""
    return 100 * away + poor if terms == "weighted" else away * (away > AWAY) + poor / 30


def write_inquiries(vectors: Tensor, network: fmae.FeatureMAE, config: Config, context: Context) -> None:
    """The image of every vector as it is, into `inquiries/`: what evaluators compare the images of the identity with."""
    folder, size = context.out / "inquiries", sampling.CPU_CHUNK
    writer = ShardWriter(folder, afresh=True)  # images and vectors are of one run
    for first in range(0, len(vectors), size):
        rows = torch.arange(first, first + size).clamp(max=len(vectors) - 1)
        streams = [torch_generator(context.seed, "inquiry", int(row)) for row in rows]
        images = painted(network, vectors[rows], streams, config.sample, context.device).cpu()
        count = len(vectors) - first
        writer.write(FaceBatch(images[:count], rows[:count]))
    writer.finish([f"vector {i}" for i in range(len(vectors))])
    data.open_faces(folder)  # packs them
