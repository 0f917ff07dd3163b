"""Public face-recognition weights as Encoders: AdaFace, arcface_torch, TFace, CVLface, ONNX files, and our own.

Family, depth, squeeze-excitation, size and dimension are read from the keys and shapes and every tensor must fit. The order of the colour
channels is in no file, so it has to be declared: AdaFace and MagFace are BGR, arcface_torch, TFace and insightface's ONNX files RGB.
"""

from __future__ import annotations

import importlib.util
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synthbench import console
from synthbench.files import require_itself
from synthbench.models.encoder import Encoder, build, file_digest, fill, load_encoder, read_tensors
from synthbench.models.iresnet import STAGES
from synthbench.models.limits import limited
from synthbench.types import UserError

# What a network wants to see of x in [-1, 1]: gain * x + offset. "auto": -1..1, but 0..255 for an ONNX graph that normalises by itself.
INPUTS = {"-1..1": (1.0, 0.0), "0..1": (0.5, 0.5), "0..255": (127.5, 127.5)}
SIGNATURES = {"iresnet": "layer1.0.bn1.weight", "irse": "body.0.res_layer.0.weight"}
# Under what name a training script keeps the network, the likeliest first; an average of the weights only where nothing else is there.
WRAPPERS = (
    *("state_dict", "model_state_dict", "state_dict_backbone", "model", "net", "network", "backbone", "encoder", "module"),
    *("ema", "model_ema", "ema_state_dict", "params_ema"),
)
DEEPEST = 8  # wrappings in one another; a dict may even hold itself
TRAINING_PARTS = ("head.", "fc.", "module.fc.", "kernel", "qs.", "module.qs.")  # heads of training scripts; not part of the encoder
ONNX_HINT = f"it needs packages that are not installed: {console.install('onnx')}"


def load_checkpoint(path: Path | str, *, colour: str | None = None, input: str = "auto", name: str = "") -> Encoder:
    """The encoder in a file (.ckpt, .pt, .pth, .safetensors, .onnx) or in a folder of ours.

    colour: "rgb" or "bgr", the order the network was trained on; mandatory except for our own, which declare it.
    input: "-1..1", "0..1" or "0..255", the range it was trained on; "auto" for what its kind usually takes.
    Raises UserError for a missing colour, a damaged file, an unknown architecture or tensors that do not fit.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"there are no weights at {path}")
    require_itself(path)
    if (path / "encoder.json").exists() or (path.suffix == ".safetensors" and (path.parent / "encoder.json").exists()):
        encoder = load_encoder(path if path.is_dir() else path.parent)
        if colour not in (None, encoder.colour):
            raise UserError(f"{path} declares colour {encoder.colour}, but {colour} was given")
        return encoder
    if path.is_dir():
        raise UserError(f"{path} is a folder without encoder.json; give the weights file itself")
    if colour is None:
        raise UserError(
            f"the colour order of {path.name} is not written in the file and must be declared: colour=bgr for AdaFace and MagFace, "
            "colour=rgb for arcface_torch, TFace and insightface's ONNX files; for CVLface see color_space in its config"
        )
    if colour not in ("rgb", "bgr"):
        raise UserError(f"colour must be rgb or bgr, not {colour!r}")
    if input not in ("auto", *INPUTS):
        raise UserError(f"input must be auto, {', '.join(INPUTS)}, not {input!r}")
    if path.suffix == ".onnx":
        return load_onnx(path, colour, input, name or path.stem)

    tensors, family = network_tensors(read_tensors(path) if path.suffix == ".safetensors" else read_pickle(path), path)
    architecture, resolution, dim = describe(tensors, family, path)
    net = build(architecture, resolution, dim)
    fill(net, tensors, path)
    gain, offset = INPUTS["-1..1" if input == "auto" else input]
    kind = f"{architecture['family']} {architecture['depth']}{' SE' if architecture['se'] else ''}"
    return Encoder(
        net,
        resolution=resolution,
        dim=dim,
        colour=colour,
        gain=gain,
        offset=offset,
        digest=file_digest(path),
        name=name or f"{path.stem} ({kind})",
    )


def look(path: Path, encoder: bool = True, colour: str | None = None, input: str = "auto", silent: bool = False) -> None:
    """Raises UserError when a weights file is damaged, cannot be read safely or, if it should be an `encoder`, gives no embeddings.

    ONNX graphs and pickles are looked into in another process, see limits.py; of safetensors nothing is larger than the file.
    """
    if path.suffix == ".onnx" and not all(map(importlib.util.find_spec, ("onnx", "onnx2torch"))):
        return  # who needs it says so
    if path.is_dir() or path.suffix == ".safetensors":
        attempt(path, encoder, colour, input)
    else:
        limited(attempt, path, silent=silent, encoder=encoder, colour=colour, input=input)


def attempt(path: Path, encoder: bool = True, colour: str | None = None, input: str = "auto") -> None:
    """Read a weights file and, of an `encoder`, embed two black images. Raises UserError."""
    if encoder:
        found = load_checkpoint(path, colour=colour, input=input)
        if len(tried(found, 2, found.resolution)) != 2:
            raise UserError(f"{path}: this network cannot be run on two images of {found.resolution} px")
    elif path.suffix == ".onnx":
        read_onnx(path)
    else:
        read_tensors(path) if path.suffix == ".safetensors" else read_pickle(path)


def _begins_as_pickle(path: Path) -> bool:
    """Is it a zip, or a pickle of protocol 2 or later, as torch writes them? Of other bytes the unpickler refuses any at random."""
    with path.open("rb") as file:
        return file.read(2).startswith((b"PK", b"\x80"))


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The state dict in a torch file, read without running anything that is in it."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged and for refused files
        if _begins_as_pickle(path) and ("weights_only" in str(error) or "Unsupported" in str(error)):
            raise UserError(
                f"{path} holds Python objects besides tensors, and loading those can run any code. If you trust where it comes from, "
                f"write its tensors alone, once: python -c \"import torch; s = torch.load('{path}', 'cpu', weights_only=False); "
                f"torch.save(s.get('state_dict', s), '{path.stem}_tensors.pt')\""
            ) from None
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path} is damaged, cut short or no torch file ({reason:.150})") from None
    if isinstance(found, nn.Module) or not isinstance(found, Mapping):
        raise UserError(f"{path} holds a {type(found).__name__}, not a state dict")
    return unwrapped(found, path)


def unwrapped(found: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """The tensors of the network in what a training script saved: {"state_dict": {...}, "epoch": 7, ...}, nested or not.

    What is taken where several networks are there, and what is left out, is said.
    """
    taken: list[str] = []
    left: list[str] = []
    while inner := [name for name in WRAPPERS if isinstance(found.get(name), Mapping)]:
        if len(taken) == DEEPEST:
            raise UserError(f"{path}: wrapped in {'.'.join(taken)}, and that in more; give its tensors alone")
        taken.append(inner[0])
        left += [str(name) for name in found if name != inner[0]]
        found = found[inner[0]]
    if left:
        some = f"{', '.join(left[:8])}{', ...' * (len(left) > 8)}"
        console.once(console.note, f"{path.name}: taken is what it calls {'.'.join(taken)}; left out: {some}")
    return {str(key): value for key, value in found.items() if isinstance(value, Tensor)}


def network_tensors(tensors: Mapping[str, Tensor], path: Path) -> tuple[dict[str, Tensor], str]:
    """The backbone's tensors without prefix (`module.`, `model.`, `net.`, ...), and its family."""
    for family, signature in SIGNATURES.items():
        for key in tensors:
            if key == signature or key.endswith("." + signature):
                prefix = key[: -len(signature)]
                inside = {other[len(prefix) :]: value for other, value in tensors.items() if other.startswith(prefix)}
                outside = [other for other in tensors if not other.startswith(prefix) and not other.startswith(TRAINING_PARTS)]
                if outside:
                    raise UserError(f"{path} holds tensors besides the network at {prefix!r}: {', '.join(outside[:3])}, ...")
                extra = TRAINING_PARTS if family == "irse" else ("qs.", "head.", "kernel")  # the last Linear of iresnet is called fc
                heads = [other for other in tensors if not other.startswith(prefix) or other[len(prefix) :].startswith(extra)]
                if heads:
                    console.once(
                        console.note, f"{path.name}: left out, as parts of a training: {', '.join(heads[:3])}{', ...' * (len(heads) > 3)}"
                    )
                return {other: value for other, value in inside.items() if not other.startswith(extra)}, family
    some = ", ".join(list(tensors)[:3]) or "no tensors"
    raise UserError(
        f"{path} is of no architecture known here (iresnet of arcface_torch, irse of AdaFace, TFace and CVLface): it begins with {some}"
    )


def describe(tensors: Mapping[str, Tensor], family: str, path: Path) -> tuple[dict[str, Any], int, int]:
    """Architecture, resolution and dimension, from keys and shapes."""
    if family == "iresnet":
        blocks = {match.group(1, 2) for key in tensors if (match := re.match(r"layer(\d)\.(\d+)\.", key))}
        counts = tuple(sum(stage == str(s) for stage, _ in blocks) for s in (1, 2, 3, 4))
        depth = next((depth for depth, stages in STAGES.items() if stages == counts), None)
        last = "fc.weight"
    else:
        blocks = {match.group(1, 2) for key in tensors if (match := re.match(r"(body)\.(\d+)\.", key))}
        counts = (len(blocks),)
        depth = next((depth for depth, stages in STAGES.items() if sum(stages) == len(blocks)), None)
        last = "output_layer.3.weight"
    gates = len({key.split(".se_block.")[0] for key in tensors if ".se_block." in key})
    if depth is None:
        raise UserError(f"{path}: {family} with {counts} blocks is of no depth known here ({', '.join(map(str, STAGES))})")
    if gates not in (0, len(blocks)):
        raise UserError(f"{path}: squeeze-excitation in {gates} of {len(blocks)} blocks only, another network than IR-SE-{depth}")
    if last not in tensors or tensors[last].dim() != 2:
        raise UserError(f"{path} has no {last}: the file is not whole")
    dim, inputs = tensors[last].shape
    side = round((inputs / 512) ** 0.5)
    if side * side * 512 != inputs:
        raise UserError(f"{path}: {last} takes {inputs} numbers, which is not 512 x side x side")
    return {"family": family, "depth": depth, "se": gates > 0, "dropout": 0.0}, 16 * side, dim


def onnx_session(path: Path) -> Any:
    """An ONNX file, ready to run on the CPU. Raises UserError where onnxruntime is not installed or cannot run it."""
    try:
        import onnxruntime
    except ImportError:
        raise UserError(f"{path} is an ONNX file, and {ONNX_HINT}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds
        raise UserError(f"{path} is no ONNX file that onnxruntime can run: {' '.join(str(error).split())[:150]}") from None


class OnnxNet(nn.Module):
    """An ONNX graph run forwards by onnxruntime on the CPU, for graphs that onnx2torch cannot convert."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.session = onnx_session(path)
        self.input = self.session.get_inputs()[0].name

    def forward(self, x: Tensor) -> Tensor:
        (y,) = self.session.run(None, {self.input: np.ascontiguousarray(x.detach().float().cpu().numpy())})
        return torch.from_numpy(y).to(x.device)


class InBatches(nn.Module):
    """A network that was exported for batches of one `size`, run on as many as are needed; the last is filled with zeros."""

    def __init__(self, net: nn.Module, size: int) -> None:
        super().__init__()
        self.net, self.size = net, size

    def forward(self, x: Tensor) -> Tensor:
        lacking = -len(x) % self.size
        filled = torch.cat([x, x.new_zeros(lacking, *x.shape[1:])])
        return torch.cat([self.net(part) for part in filled.split(self.size)])[: len(x)]


def tried(net: nn.Module, count: int, side: int) -> Tensor:
    """What `net` gives for `count` black images; nothing at all where it refuses so many."""
    try:
        with torch.no_grad():
            return net(torch.zeros(count, 3, side, side))  # type: ignore[no-any-return]
    except Exception:  # onnxruntime's own kinds, and shapes that do not fit
        return torch.empty(0)


def load_onnx(path: Path, colour: str, input: str, name: str) -> Encoder:
    """An ONNX encoder: as a PyTorch network with gradients where onnx2torch converts it, otherwise forwards only."""
    try:
        import onnx2torch
    except ImportError:
        raise UserError(f"{path} is an ONNX file, and {ONNX_HINT}") from None
    model = read_onnx(path)
    try:
        graph = model.graph
        given = {tensor.name for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in given]
        channels, height, width = (size.dim_value for size in inputs[0].type.tensor_type.shape.dim[1:])
    except Exception as error:  # protobuf's and the checker's own kinds
        raise UserError(f"{path} is damaged, cut short or no ONNX file: {str(error).splitlines()[0] if str(error) else error!r}") from None
    if len(inputs) != 1 or len(graph.output) != 1 or channels != 3 or height != width or height == 0:
        raise UserError(f"{path} is no face encoder: it must take one (N, 3, R, R) image batch and give one embedding")
    if input == "auto":
        input = "0..255" if normalises(graph, inputs[0].name) else "-1..1"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net: nn.Module = onnx2torch.convert(model)
        differentiable = True
    except Exception:  # onnx2torch names operators it lacks in many ways
        net, differentiable = OnnxNet(path), False
    gain, offset = INPUTS[input]
    batch = inputs[0].type.tensor_type.shape.dim[0].dim_value  # 0: any
    net = net.eval()
    if batch and len(tried(net, 2, height)) != 2:
        net = InBatches(net, batch)
    probe = tried(net, 2, height)
    if probe.dim() != 2 or len(probe) != 2:
        raise UserError(f"{path} gives {tuple(probe.shape)} for two images, not an embedding of each")
    return Encoder(
        net,
        resolution=height,
        dim=probe.shape[1],
        colour=colour,
        gain=gain,
        offset=offset,
        differentiable=differentiable,
        digest=file_digest(path),
        name=name,
    )


def read_onnx(path: Path) -> Any:
    """The model in an ONNX file, checked."""
    try:
        import onnx
    except ImportError:
        raise UserError(f"{path} is an ONNX file, and {ONNX_HINT}") from None
    try:
        model = onnx.load(str(path), load_external_data=False)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's and the checker's own kinds
        raise UserError(f"{path} is damaged, cut short or no ONNX file: {str(error).splitlines()[0] if str(error) else error!r}") from None
    return model


def normalises(graph: Any, first: str) -> bool:
    """Does the graph itself subtract and scale its input (old mxnet exports, insightface's rule)? Then it takes 0..255."""
    for node in list(graph.node)[:8]:
        if node.op_type == "Sub" and first in node.input:
            return any(other.op_type == "Mul" and node.output[0] in other.input for other in list(graph.node)[:8])
    return False


def separations(encoder: Encoder, left: Tensor, right: Tensor, same: Tensor) -> tuple[float, float]:
    """d' between genuine and impostor cosines of pairs (P, 3, R, R) uint8 RGB, in the declared colour order and in the other one."""
    scores = []
    for mirror in (False, True):
        a, b = (encoder.embed(images.flip(1) if mirror else images) for images in (left, right))
        cosine = F.cosine_similarity(a, b).cpu().double()
        genuine, impostor = cosine[same], cosine[~same]
        scores.append(float((genuine.mean() - impostor.mean()) / ((genuine.var() + impostor.var()) / 2).sqrt()))
    return scores[0], scores[1]
