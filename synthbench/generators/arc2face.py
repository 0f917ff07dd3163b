"""Arc2Face: A Foundation Model for ID-Consistent Human Faces (Paraperas Papantoniou, Lattas, Moschoglou et al., ECCV 2024).

arXiv 2403.11641. Stable Diffusion 1.5 whose text encoder and UNet were trained on to paint the face of an identity: of the prompt
"photo of a id person" the token embedding of `id` is replaced by the ArcFace vector of the face, of length 1 and padded with zeros. Nothing
is trained here. The published weights, learnt from WebFace42M, are loaded from a folder of the user (`synthbench data add arc2face DIR`).

Left out: a detector, so faces are brought to the ArcFace template by one fixed crop, right for the frontal faces that the model paints
most; the ControlNet for pose, which needs EMOCA; LCM-LoRA.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from synthbench import console
from synthbench.config import Settings
from synthbench.data import looking, sources
from synthbench.device import autocast, ready
from synthbench.diffusion import process
from synthbench.identities import flow, hypersphere, inquiries, sampling
from synthbench.models.checkpoints import load_checkpoint
from synthbench.models.encoder import Encoder, read_tensors
from synthbench.plugin import Context, Traits
from synthbench.seeds import torch_generator
from synthbench.store import parse_json
from synthbench.types import FaceBatch, Slot, UserError, Volume

# ---------------------------------------------------------------------------------------------------------------- config


class Enroll(inquiries.Inquiries):
    weights: str = Field("arc2face", description="registered name, or the folder with the published weights")
    source: str = Field(
        "pca", description="pca: drawn like the embeddings of the real set; or inquiry images: real | world | a source | a path"
    )
    threshold: float = Field(0.3, ge=-1, le=1, description="open: highest cosine between two identities under Arc2Face's own ArcFace")
    fit: int = Field(50_000, ge=2, description="images of the real set, at most, whose mean and covariance are taken (paper: WebFace42M)")


class Sample(Settings):
    late = ("directions",)

    steps: int = Field(25, ge=2, le=999, description="of DPM-Solver++, second order, multistep")
    guidance: float = Field(3.0, ge=1, description="weight of the identity against the empty prompt")
    crop: tuple[float, float, float] = Field(
        (0.126, 0.120, 0.749),
        description="left, top and side of what is kept, in shares of the picture: FFHQ's mean face on the ArcFace template",
    )
    perturb: float = hypersphere.BOUND
    directions: hypersphere.Directions = hypersphere.DIRECTIONS
    precision: Literal["bf16", "fp32"] = Field("bf16", description="bf16 only where the device is CUDA (authors: fp16)")

    @model_validator(mode="after")
    def _inside(self) -> Sample:
        left, top, side = self.crop
        if side <= 0 or min(left, top) < 0 or max(left, top) + side > 1:
            raise ValueError(f"crop {self.crop}: left, top and side are shares, and the square lies inside the picture")
        return self


class Config(Settings):
    enroll: Enroll = Enroll()
    sample: Sample = Sample()

    @model_validator(mode="after")
    def _bound(self) -> Config:
        hypersphere.lowest(self.sample.perturb, self.enroll.threshold, self.sample.directions)
        return self


# ------------------------------------------------------------------------------------------------------------- generator


class Arc2Face(inquiries.ByInquiry[Config]):
    """Published weights of Arc2Face, a Stable Diffusion that is told an ArcFace vector; loaded from your disk, never downloaded."""

    Config = Config
    version = 1
    traits = Traits(
        paper="Arc2Face: A Foundation Model for ID-Consistent Human Faces, arXiv 2403.11641",
        licence="weights of Arc2Face and its ArcFace: from WebFace42M, non-commercial; Stable Diffusion 1.5: CreativeML OpenRAIL-M",
        enrolls=True,
        encoder=False,
        pretrained="UNet, text encoder and ArcFace of Arc2Face (WebFace42M, FFHQ, CelebA-HQ); autoencoder of Stable Diffusion 1.5",
    )
    tiny = {"enroll": {"threshold": 1.0}, "sample": {"steps": 2}}

    def networks(self, resolution: int, dim: int) -> dict[str, tuple[nn.Module, tuple[Any, ...]]]:
        """Stable Diffusion 1.5's, as published: it paints 512 px, whatever the resolution of the set."""
        from diffusers import UNet2DConditionModel

        unet: Any = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        return {"UNet (paints 512 px)": (unet, (torch.empty(1, 4, 64, 64), torch.zeros(1), torch.empty(1, LENGTH, 768)))}

    def sources(self, resolution: int) -> dict[str, str]:
        own = {} if self.config.enroll.source == "pca" else super().sources(resolution)
        return {"weights": sources.digest_of(folder(self.config.enroll.weights))} | own

    def check(self, volume: Volume, people: int | None) -> None:
        settings = self.config.enroll
        super().check(volume, people)
        needed = {"transformers": "arc2face"} | (
            {} if (folder(settings.weights) / "arcface").is_dir() else {"onnx": "onnx", "onnx2torch": "onnx"}
        )
        for package, extra in needed.items():
            if importlib.util.find_spec(package) is None:
                raise UserError(f"Arc2Face needs the package {package}, which is not installed: {console.install(extra)}")

    def enroll(self, count: int, context: Context) -> None:
        settings = self.config.enroll
        arcface = load_arcface(folder(settings.weights)).to(context.device)
        if settings.source != "pca":
            inquiries.enroll(count, settings, replace(context, encoder=arcface))
            return
        mean, spread = distribution(arcface, settings.fit, context)

        def draw(stream: torch.Generator) -> Tensor:
            return mean + torch.randn(inquiries.BLOCK, len(mean), generator=stream) @ spread

        hypersphere.enroll(count, settings.threshold, settings.tries, context, len(mean), draw, "pca")

    def generate(self, slots: Sequence[Slot], context: Context) -> Iterator[FaceBatch]:
        """Columns: sample."""
        from diffusers import DPMSolverMultistepScheduler

        sample = self.config.sample
        codes = F.normalize(read_tensors(context.inputs["enroll"] / "codes.safetensors")["codes"], dim=1)
        parts = load(folder(self.config.enroll.weights), context.device)
        lowest = hypersphere.lowest(sample.perturb, self.config.enroll.threshold, sample.directions)
        arcface = load_arcface(folder(self.config.enroll.weights)).to(context.device) if sample.directions == "flow" else None
        turned = flow.turning(sample.directions, lowest, arcface, context)
        shape = (parts.unet.config.in_channels, *[parts.unet.config.sample_size] * 2)

        def make(some: list[Slot]) -> tuple[Tensor, dict[str, Tensor]]:
            noise = torch.stack([torch.randn(shape, generator=torch_generator(context.seed, "image", *slot)) for slot in some])
            solver: Any = DPMSolverMultistepScheduler(**SCHEDULE)  # keeps the steps before, so each batch has its own
            solver.set_timesteps(sample.steps)
            with torch.inference_mode(), autocast(context.device, sample.precision):
                code = turned(codes[[slot.identity for slot in some]], some)
                told = parts.told(code.to(context.device))
                x = noise.to(context.device)
                for t in solver.timesteps:
                    empty, own = parts.unet(torch.cat([x, x]), t, told).sample.float().chunk(2)
                    x = solver.step(empty + sample.guidance * (own - empty), t, x).prev_sample
                pictures = torch.cat([parts.vae.decode(z).sample.float() for z in (x / parts.vae.config.scaling_factor).split(DECODED)])
            return cropped(pictures, sample.crop, context.resolution), {}

        yield from sampling.generate(make, slots, context)


def cropped(pictures: Tensor, crop: tuple[float, float, float], resolution: int) -> Tensor:
    """(B, 3, S, S) in [-1, 1] -> the square `crop` of it as (B, 3, resolution, resolution) uint8."""
    left, top, side = (round(share * pictures.shape[-1]) for share in crop)
    window = pictures[:, :, top : top + side, left : left + side]
    small = F.interpolate(window, (resolution, resolution), mode="bilinear", align_corners=False, antialias=True)
    return process.to_uint8(small)


def distribution(arcface: Encoder, most: int, context: Context) -> tuple[Tensor, Tensor]:
    """Mean (dim,) and symmetric root (dim, dim) of the covariance of the unit embeddings of `most` images, evenly taken from the real set.

    PCA with all components, turned back: z @ root has the same distribution and does not depend on the signs of eigenvectors.
    """
    rows = np.unique(np.linspace(0, len(context.faces) - 1, min(most, len(context.faces))).round().astype(np.int64))
    found = []
    for start in range(0, len(rows), inquiries.BLOCK):
        found.append(arcface.embed(context.faces.images(rows[start : start + inquiries.BLOCK])).cpu().double())
        context.progress(start, len(rows))
    unit = torch.cat(found)
    values, vectors = torch.linalg.eigh(torch.cov(unit.T))
    return unit.mean(0).float(), ((vectors * values.clamp(min=0).sqrt()) @ vectors.T).float()


# --------------------------------------------------------------------------------------------------------------- weights

SCHEDULE: dict[str, Any] = {  # Stable Diffusion 1.5's noise
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1,
}  # fmt: skip
DECODED = 8  # latents decoded at a time: the autoencoder needs most memory
LENGTH = 77  # tokens of a prompt
ONE_AT_A_TIME = threading.Lock()
PROMPT = ("photo", "of", "a", "id", "person")


class Parts(NamedTuple):
    """The networks, frozen, on one device."""

    unet: Any  # diffusers.UNet2DConditionModel
    vae: Any  # diffusers.AutoencoderKL
    text: Any  # transformers.CLIPTextModel
    tokens: Tensor  # (2, LENGTH) int64: the empty prompt, and the prompt

    def told(self, unit: Tensor) -> Tensor:
        """Unit ArcFace vectors (B, dim) -> what the UNet attends to (2B, LENGTH, width): B times the empty prompt, then the identities."""
        width = self.text.config.hidden_size
        if unit.shape[1] > width:
            raise UserError(
                f"Arc2Face: its text encoder is {width} wide, the ArcFace vector {unit.shape[1]}; these weights do not belong together"
            )
        vectors = torch.cat([torch.zeros(len(unit), width, device=unit.device), F.pad(unit, (0, width - unit.shape[1]))])
        place = torch.zeros_like(vectors[:, :1, None], dtype=torch.bool).repeat(1, LENGTH, 1)
        place[len(unit) :, 1 + PROMPT.index("id")] = True  # after the begin token

        def replaced(module: Any, given: Any, embedded: Tensor) -> Tensor:
            return torch.where(place, vectors[:, None].to(embedded.dtype), embedded)

        with ONE_AT_A_TIME:  # batches are made side by side, and the network is one
            hook = self.text.get_input_embeddings().register_forward_hook(replaced)
            try:
                return self.text(input_ids=self.tokens.repeat_interleave(len(unit), 0)).last_hidden_state
            finally:
                hook.remove()


def folder(weights: str) -> Path:
    """Where the weights lie. Raises DataMissing that says what is missing, its licence, where to ask, and the command that adds it."""
    path = Path(weights) if Path(weights).is_dir() else Path(sources.find(weights, "weights").path)
    looking.check_folder("arc2face", path)
    return path


def load(path: Path, device: torch.device) -> Parts:
    """The networks in the folder `path`. Raises UserError when a file does not hold what it should, or what does not fit the others."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    kinds = {"arc2face": UNet2DConditionModel, "vae": AutoencoderKL, "encoder": CLIPTextModel}
    found: dict[str, Any] = {}
    for name, kind in kinds.items():
        try:
            network, told = kind.from_pretrained(path / name, local_files_only=True, output_loading_info=True)
        except Exception as error:  # of many kinds, from three packages
            raise UserError(
                f"{path / name} cannot be read as {kind.__name__}: {str(error).splitlines()[0] if str(error) else error!r}"
            ) from None
        if absent := sorted(told["missing_keys"]):
            raise UserError(f"{path / name} has no {absent[0]}, which {kind.__name__} needs: the file is of another network, or not whole")
        found[name] = ready(network, device).eval().requires_grad_(False)
    unet, vae, text = found["arc2face"], found["vae"], found["encoder"]
    words = tokens(path / "tokenizer" / "vocab.json").to(device)
    if unet.config.cross_attention_dim != text.config.hidden_size:
        raise UserError(f"{path}: arc2face attends to {unet.config.cross_attention_dim} numbers, encoder tells {text.config.hidden_size}")
    if unet.config.in_channels != vae.config.latent_channels:
        raise UserError(f"{path}: arc2face has {unet.config.in_channels} channels of latents, vae {vae.config.latent_channels}")
    if int(words.max()) >= text.config.vocab_size or text.config.max_position_embeddings < LENGTH:
        raise UserError(f"{path}: tokenizer and encoder do not belong together")
    return Parts(unet, vae, text, words)


def tokens(path: Path) -> Tensor:
    """(2, LENGTH) int64 from CLIP's vocabulary: the empty prompt, and the prompt; each of its words is one token."""
    try:
        vocabulary = parse_json(path.read_text("utf-8"))
        begin, end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
        words = [vocabulary[f"{word}</w>"] for word in PROMPT]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not the vocabulary of CLIP's tokenizer: {error!r}") from None
    return torch.tensor([[begin, *own, *[end] * (LENGTH - 1 - len(own))] for own in ([], words)])


def load_arcface(path: Path) -> Encoder:
    """Arc2Face's own ArcFace; an ONNX file, or a folder of ours."""
    own = path / "arcface"
    return load_checkpoint(own) if own.is_dir() else load_checkpoint(path / "arcface.onnx", colour="rgb", name="Arc2Face's ArcFace")
