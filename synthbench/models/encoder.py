"""A frozen face encoder behind one interface, and how our own are saved: weights.safetensors beside encoder.json."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from synthbench.device import compiled, fp32, ready, send, side_by_side
from synthbench.files import require_no_pipe
from synthbench.models.iresnet import IRSE, IResNet
from synthbench.models.small import SmallNet
from synthbench.seeds import derive
from synthbench.store import parse_json, read_text, write_json, writing
from synthbench.types import Progress, UserError

AGAIN = "Delete it, and run the command that made it again"
LARGEST = 4096  # number in an encoder.json: blocks, channels, pixels
FAMILIES = ("iresnet", "irse", "small")
CODES = "codes.safetensors"  # raw embeddings: of the real set while a generator trains, or of who was enrolled

Network = TypeVar("Network", bound=nn.Module)


class Images(Protocol):
    """A set of faces, as far as an encoder sees it."""

    def __len__(self) -> int: ...

    def images(self, rows: Any) -> Tensor:
        """uint8 (B, 3, r, r) RGB of `rows`, a slice or indices."""


def build(architecture: Mapping[str, Any], resolution: int, dim: int) -> nn.Module:
    """A backbone from its description: {family, depth, se, dropout} or, for family small, {family, width, dropout}."""
    settings = dict(architecture)
    family = settings.pop("family")
    make = {"iresnet": IResNet, "irse": IRSE, "small": SmallNet}[family]
    return make(resolution=resolution, dim=dim, **settings)


class Encoder(nn.Module):
    """A frozen face-recognition network.

    net: takes (B, 3, resolution, resolution) in `colour` order and gives (B, dim) raw embeddings.
    gain, offset: what `net` wants is gain * x + offset for x in [-1, 1]; (127.5, 127.5) for a network that takes 0..255.
    differentiable: False for a network that only runs forwards (onnxruntime).
    digest: sha256 of the weights file. name: for people.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        resolution: int,
        dim: int,
        colour: str = "rgb",
        gain: float = 1.0,
        offset: float = 0.0,
        differentiable: bool = True,
        digest: str = "",
        name: str = "",
    ) -> None:
        super().__init__()
        if colour not in ("rgb", "bgr"):
            raise UserError(f"colour order {colour!r} of encoder {name or 'without a name'} must be rgb or bgr")
        self.net = net.eval().requires_grad_(False)
        self.resolution, self.dim, self.colour, self.digest, self.name = resolution, dim, colour, digest, name
        self.gain, self.offset, self.differentiable = gain, offset, differentiable
        self.register_buffer("place", torch.zeros(()), persistent=False)  # knows the device even when `net` has no parameters
        self.place: Tensor

    def __repr__(self) -> str:
        size = f"{self.parameter_count / 1e6:.2f} M parameters"
        return f"<encoder {self.name or 'without a name'}: {self.resolution} px to {self.dim} numbers, {size}, on {self.device}>"

    @property
    def device(self) -> torch.device:
        return self.place.device

    @property
    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.net.parameters())

    def train(self, mode: bool = True) -> Encoder:
        """Frozen: stays in eval mode, also when it is a part of a network in training."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, r, r) RGB in [-1, 1] -> (B, dim) raw embeddings; gradients flow to `x`. Any r: resized bilinearly."""
        return self.net(self.fitted(x))

    def maps(self, x: Tensor, stages: int | None = None) -> list[Tensor]:
        """The feature maps (B, C, h, w) that the stages of the network leave for `x` as above, fine to coarse; gradients flow to `x`.

        stages: run only so many of them; None: all.
        Raises UserError for a network without known stages (a converted ONNX file).
        """
        maps = getattr(self.net, "maps", None)
        if maps is None:
            raise UserError(
                f"encoder {self.name} has no feature maps that synthbench knows. Take one of family {', '.join(FAMILIES)}: "
                "trained by a recipe, or a public checkpoint in PyTorch"
            )
        return maps(self.fitted(x), stages)

    def head(self, last: Tensor) -> Tensor:
        """The last of `maps` -> (B, dim) raw embeddings: `head(maps(x)[-1])` is `forward(x)`."""
        return self.net.head(last)  # type: ignore[operator]

    def need_gradients(self, who: str) -> None:
        """Raise UserError when `who` cannot train through this network."""
        if not self.differentiable:
            raise UserError(f"encoder {self.name} runs forwards only; {who} needs its gradients. Take one with weights in PyTorch")

    def fitted(self, x: Tensor) -> Tensor:
        """`x` in the size, colour order and range that `net` takes."""
        if not self.differentiable and torch.is_grad_enabled() and x.requires_grad:
            raise UserError(
                f"encoder {self.name} runs forwards only (onnxruntime), so nothing can be trained through it. "
                "Use it as the judge, and as the encoder a checkpoint in PyTorch or an ONNX file that onnx2torch converts"
            )
        if x.shape[-2:] != (self.resolution, self.resolution):
            smaller = x.shape[-1] > self.resolution
            x = F.interpolate(x, (self.resolution, self.resolution), mode="bilinear", align_corners=False, antialias=smaller)
        if self.colour == "bgr":
            x = x.flip(1)
        if (self.gain, self.offset) != (1.0, 0.0):
            x = x * self.gain + self.offset
        return x

    @torch.no_grad()
    def embed(self, images: Tensor, flip: bool = False) -> Tensor:
        """uint8 (B, 3, r, r) RGB -> (B, dim) float32 unit vectors on the encoder's device.

        flip: the sum of the raw embeddings of image and mirror image, then normalised, as in insightface's verification.
        """
        x = images.to(self.device).float().div_(127.5).sub_(1)
        with fp32(self.device):  # in a generator's autocast too: these cosines are scored
            raw = self(x).float()
            if flip:
                raw = raw + self(x.flip(3)).float()
        return F.normalize(raw, dim=1)

    def embed_all(
        self, images: Any, batch_size: int = 256, flip: bool = False, progress: Progress = lambda done, total: None
    ) -> np.ndarray:
        """All of a FaceSet (anything with `images(rows)` and a length) or of a uint8 tensor (N, 3, r, r): (N, dim) float32 unit vectors."""
        read = images.images if hasattr(images, "images") else images.__getitem__
        parts = [slice(first, min(first + batch_size, len(images))) for first in range(0, len(images), batch_size)]
        out = np.empty((len(images), self.dim), np.float32)
        for rows, found in zip(parts, side_by_side(lambda rows: self.embed(read(rows), flip).cpu(), parts, self.device)):
            out[rows] = found.numpy()
            progress(rows.stop, len(images))
        return out


def raw_parts(
    encoder: Encoder,
    images: Images,
    mirrors: Sequence[bool] = (False,),
    rows: np.ndarray | None = None,
    batch_size: int = 256,
    progress: Progress = lambda done, total: None,
) -> Iterator[tuple[slice, list[np.ndarray]]]:
    """Raw embeddings, a batch at a time: (which of the images, (B, dim) float64 for each view).

    mirrors: of each view whether it is the mirror image. rows: (N,) of the images that are meant; None: all.
    """
    count = len(images) if rows is None else len(rows)
    parts = [slice(first, min(first + batch_size, count)) for first in range(0, count, batch_size)]

    def embed(part: slice) -> list[np.ndarray]:
        with torch.no_grad():
            x = images.images(part if rows is None else rows[part]).to(encoder.device).float() / 127.5 - 1
            return [encoder(x.flip(3) if mirror else x).cpu().double().numpy() for mirror in mirrors]

    for part, found in zip(parts, side_by_side(embed, parts, encoder.device)):
        yield part, found
        progress(part.stop, count)


def raw_embeddings(
    encoder: Encoder,
    images: Images,
    mirror: bool = False,
    batch_size: int = 256,
    progress: Progress = lambda done, total: None,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """Raw embeddings (N, D) float64 of all images, or of `rows`; `mirror`: of their mirror images."""
    return np.concatenate([found for _, (found,) in raw_parts(encoder, images, (mirror,), rows, batch_size, progress)])


def raw_codes(
    encoder: Encoder, faces: Images, mirrored: bool, path: Path, progress: Progress = lambda done, total: None, batch_size: int = 256
) -> Tensor:
    """Raw embeddings of every face, and with `mirrored` of its mirror image: (2 or 1, N, dim), kept in `path` for a resumed stage."""
    if path.exists():
        return read_tensors(path)["codes"]
    codes = torch.empty(2 if mirrored else 1, len(faces), encoder.dim)
    parts = [slice(first, min(first + batch_size, len(faces))) for first in range(0, len(faces), batch_size)]

    def embed(rows: slice) -> list[Tensor]:
        with torch.inference_mode():
            x = send(faces.images(rows), encoder.device).float() / 127.5 - 1
            return [encoder(x.flip(3) if side else x).float().cpu() for side in range(len(codes))]

    for rows, found in zip(parts, side_by_side(embed, parts, encoder.device)):
        codes[:, rows] = torch.stack(found)
        progress(rows.stop, len(faces))
    with writing(path) as temporary:
        save_file({"codes": codes}, temporary)
    return codes


def save_encoder(module: nn.Module, folder: Path, spec: Mapping[str, Any]) -> Path:
    """Write the weights and `spec` (architecture, resolution, dim, colour, name, ...) into `folder`, weights first, each by rename."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "weights.safetensors"
    save_weights(module, weights)
    record = {
        "colour": "rgb",
        "name": folder.name,
        **spec,
        "parameters": sum(p.numel() for p in module.parameters()),
        "digest": file_digest(weights),
    }
    write_json(folder / "encoder.json", record)
    return weights


def load_encoder(folder: Path, device: torch.device | str = "cpu") -> Encoder:
    """The encoder that `save_encoder` wrote into `folder`. Raises UserError for files missing, damaged or of another architecture."""
    folder = Path(folder)
    weights = folder / "weights.safetensors"
    with torch.device("meta"):  # no room is made for what encoder.json says before it is known to be true
        claimed = _described(folder)[1]
    tensors = read_tensors(weights)
    require_fit(claimed, tensors, weights)
    spec, net = _described(folder)
    fill(net, tensors, weights)
    return _as_described(spec, net, torch.device(device))


def untrained(folder: Path, seed: int, faces: Images, device: torch.device | str = "cpu") -> Encoder:
    """The encoder in `folder` as if nothing had been learnt: the initial weights of `seed`.

    Its batch norms know mean and variance of up to 2,048 `faces`, as they would after a training with a learning rate of zero; with those
    they begin with, 0 and 1, a deep network gives next to nothing.
    """
    torch.manual_seed(derive(seed, "untrained"))
    spec, net = _described(Path(folder))
    norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
    net.train().to(device)
    rows = np.linspace(0, len(faces) - 1, min(2048, len(faces))).astype(np.int64)
    with torch.no_grad():
        for some in np.array_split(rows, max(1, len(rows) // 256)):
            net(send(faces.images(some), torch.device(device)).float() / 127.5 - 1)
    return _as_described(spec, net, torch.device(device))


def _described(folder: Path) -> tuple[dict[str, Any], nn.Module]:
    """encoder.json, and a network as it says with the weights that it begins with."""
    try:
        spec = parse_json(read_text(folder / "encoder.json"))
        _require_sane(spec)
        return spec, build({**spec["architecture"], "dropout": 0.0}, int(spec["resolution"]), int(spec["dim"]))
    except FileNotFoundError:
        raise UserError(f"{folder} holds no encoder: encoder.json is missing") from None
    except OSError as error:
        raise UserError(f"{folder / 'encoder.json'}: cannot be read ({error.strerror})") from None
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError, ArithmeticError, AttributeError) as error:  # torch's too
        raise UserError(f"{folder / 'encoder.json'} is damaged or of another version: {error!r:.200}. {AGAIN}") from None


def _require_sane(spec: Any) -> None:
    """Raises ValueError, TypeError or KeyError for an encoder.json that nobody wrote for a network."""
    numbers = [number for value in spec["architecture"].values() for number in (value if isinstance(value, list) else [value])]
    if not all(isinstance(number, (str, bool)) or (isinstance(number, (int, float)) and 0 <= number <= LARGEST) for number in numbers):
        raise ValueError("its architecture has a number that no network has")
    if not (0 < int(spec["resolution"]) <= LARGEST and 0 < int(spec["dim"]) <= LARGEST):
        raise ValueError(f"resolution {spec['resolution']!r:.40}, dim {spec['dim']!r:.40}")
    if spec["colour"] not in ("rgb", "bgr") or not all(isinstance(spec[name], str) for name in ("digest", "name")):
        raise ValueError("colour, digest or name is none")


def _as_described(spec: Mapping[str, Any], net: nn.Module, device: torch.device) -> Encoder:
    resolution, dim = int(spec["resolution"]), int(spec["dim"])
    encoder = Encoder(net, resolution=resolution, dim=dim, colour=spec["colour"], digest=spec["digest"], name=spec["name"])
    return ready(encoder, device)  # type: ignore[return-value]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises UserError when it is missing, cut short or of another kind."""
    require_no_pipe(path)
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a whole safetensors file: {error}. {AGAIN}") from None


def frozen(network: Network, weights: Path, device: torch.device) -> Network:
    """`network` with what `save_weights` wrote, for use alone, on `device`."""
    network.load_state_dict(read_tensors(weights))
    compiled(ready(network, device), device).eval().requires_grad_(False)
    return network


def save_weights(module: nn.Module, path: Path) -> None:
    """The tensors of `module` as a safetensors file, by rename."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    with writing(path) as temporary:
        save_file(tensors, temporary)


def fill(net: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load `tensors` into `net`, all of them and nothing else; a mismatch is named."""
    require_fit(net, tensors, path)
    net.load_state_dict({key: tensors.get(key, value) for key, value in net.state_dict().items()}, strict=True)


def require_fit(net: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raises UserError where `tensors` are not those of `net`, by name and shape, or are no plain numbers."""
    wanted = net.state_dict()
    missing = [key for key in wanted if key not in tensors and not key.endswith("num_batches_tracked")]
    extra = [key for key in tensors if key not in wanted]
    shapes = [
        f"{key} {tuple(tensors[key].shape)}, expected {tuple(wanted[key].shape)}"
        for key in wanted
        if key in tensors and tensors[key].shape != wanted[key].shape
    ]
    odd = [
        key for key, value in tensors.items() if value.layout != torch.strided or value.is_quantized or value.is_complex() or value.is_meta
    ]
    problems = [
        f"{what}: {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"
        for what, keys in (("missing", missing), ("not expected", extra), ("of another shape", shapes), ("no plain numbers", odd))
        if keys
    ]
    if problems:
        raise UserError(f"{path} does not fit {type(net).__name__}: {'; '.join(problems)}")


def file_digest(path: Path) -> str:
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()
