"""What a stage takes: units of work, which rates turn into seconds, and bytes on disk. Estimates only; nothing here enters a key.

Where networks work, the unit is a GFLOP, counted on networks without memory: so a training of five steps tells what one of five thousand
takes, and a GPU that was never measured can be reckoned with. Elsewhere it is an image.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from synthbench.data import sources
from synthbench.protocol import Network, Protocol, PublicNetwork

if TYPE_CHECKING:
    from torch import nn

    from synthbench.plugin import Generator
    from synthbench.recognition.trainer import Recipe
    from synthbench.types import Volume

GIGA = 1e9
TRAINING = 3  # a step costs about three forward passes: one, and twice as much backwards
CANDIDATES = 2  # looked at for each identity that is chosen
CHECKPOINT = 32  # bytes a parameter while a training runs: weights, their average, two moments; twice, while a checkpoint replaces another
COLUMNS = 8  # bytes an image of what is kept beside it


@dataclass(frozen=True)
class Cost:
    """What one stage takes."""

    amount: float = 0.0  # units of work; 0: not known
    unit: str = "images"  # or GFLOP
    disk: int = 0  # bytes that stay
    scratch: int = 0  # bytes more while it is being built


@dataclass(frozen=True)
class Size:
    """A network: parameters that are learnt, and GFLOP of one image forwards."""

    parameters: int
    gflop: float


def disk_for(images: int, resolution: int) -> int:
    """Disk for a set of faces: PNG shards (about 60 % of raw) and the packed memory map."""
    return int(images * (resolution**2 * 3 * 1.6 + COLUMNS))


# ------------------------------------------------------------------------------------------------------------- networks

_COUNTED: dict[str, dict[str, Size]] = {}


def networks(generator: Generator, protocol: Protocol) -> dict[str, Size]:
    """The networks of a generator; none where it has none, or they cannot be counted: an estimate stops nobody."""
    import torch

    from synthbench.training.loop import Optimization, Unlabelled

    train = getattr(generator.config, "train", None)
    plain = train.model_dump(mode="json") if train is not None else {}
    # how it is trained changes no network, and no number with a fraction does: a sweep counts once
    how = Optimization.model_fields | Unlabelled.model_fields
    shape = {name: value for name, value in plain.items() if name not in how and not isinstance(value, float)}
    key = json.dumps([type(generator).__module__, type(generator).__qualname__, shape, protocol.resolution, width(protocol)])
    if key not in _COUNTED:
        try:
            with torch.device("meta"):
                found = generator.networks(protocol.resolution, width(protocol))
                _COUNTED[key] = {name: _size(network, *inputs) for name, (network, inputs) in found.items()}
        except Exception:
            _COUNTED[key] = {}
    return _COUNTED[key]


def _size(network: nn.Module, *inputs: Any) -> Size:
    from synthbench.models.size import count

    _, macs = count(network, *inputs)
    return Size(sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad), 2 * macs / GIGA)


def backbone(recipe: Recipe, resolution: int) -> Size:
    """The network of a recognizer."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from synthbench.models.encoder import build

    architecture = recipe.backbone.architecture(recipe.dropout)
    key = json.dumps([architecture, resolution, recipe.dim])
    if key not in _COUNTED:
        with FakeTensorMode():  # its head asks for autocast, which the meta device has not
            network = build(architecture, resolution, recipe.dim).eval()
            _COUNTED[key] = {"": _size(network, torch.empty(1, 3, resolution, resolution))}
    return _COUNTED[key][""]


def encoder(network: Network, protocol: Protocol) -> float:
    """GFLOP of an image for the encoder or the judge; of a public checkpoint by the size of its file, as for IR-50 and IR-101."""
    if isinstance(network, PublicNetwork):
        return public(network.weights)
    return backbone(_recipe(network, protocol), protocol.resolution).gflop


def public(weights: str) -> float:
    """GFLOP of an image for a registered checkpoint."""
    return 0.3 * (sources.find(weights).size / 4e6 if sources.registered(weights) else 50)


def width(protocol: Protocol) -> int:
    """Numbers in an embedding by the encoder; of a public checkpoint as nearly all have."""
    return 512 if isinstance(protocol.encoder, PublicNetwork) else _recipe(protocol.encoder, protocol).dim


def _recipe(network: Network, protocol: Protocol) -> Recipe:
    """How a network was trained; one that is like the recognizers where it does not say."""
    from synthbench.recognition.trainer import load_recipe

    return load_recipe(getattr(network, "recipe", protocol.recipe))


# --------------------------------------------------------------------------------------------------------------- stages


def training(generator: Generator, protocol: Protocol, images: int) -> Cost:
    """The train stage, on a set of `images`. A network with settings of its own (an autoencoder) is trained by those."""
    train, found = getattr(generator.config, "train", None), networks(generator, protocol)
    total = sum(_seen(getattr(train, name, None) or train, images) * TRAINING * size.gflop for name, size in found.items())
    learnt = sum(size.parameters for name, size in found.items() if name != "discriminator")  # only painters are kept
    codes = images * 2 * width(protocol) * 4 if generator.traits.uses_encoder else 0
    scratch = CHECKPOINT * max((size.parameters for size in found.values()), default=0) + codes
    return Cost(total, "GFLOP", 4 * learnt, scratch) if total else Cost(images, disk=4 * learnt)


def _seen(settings: Any, images: int) -> float:
    """Images that a training by `settings` sees: steps x batch, as training/loop.py plans it."""
    size = min(getattr(settings, "batch_size", 0), images or 1)
    return (getattr(settings, "steps", 0) or max(1, round(getattr(settings, "epochs", 0) * images / max(size, 1)))) * size


def enrolling(generator: Generator, protocol: Protocol, count: int, real: int) -> Cost:
    """The enroll stage: candidates are embedded, and painted before where they come from a model of the generator's own.

    `count` 0: all of the `real` images are looked at.
    """
    enroll, model = getattr(generator.config, "enroll", None), networks(generator, protocol).get("unconditional")
    gflop, scratch = encoder(protocol.encoder, protocol) if generator.traits.uses_encoder else 0.0, 0
    if getattr(enroll, "source", "") == "unconditional" and model:
        gflop += getattr(getattr(enroll, "sampler", None), "steps", 1) * model.gflop
        scratch = CANDIDATES * count * 3 * protocol.resolution**2
    disk = disk_for(count, protocol.resolution) + count * width(protocol) * 4
    return Cost((CANDIDATES * count or real) * gflop, "GFLOP", disk, scratch) if gflop else Cost(count, disk=disk)


def made(generator: Generator, volume: Volume, real: int) -> int:
    """Images of a set, copies of inquiries included; those of a finite set are counted where that is possible. `real`: of the real set."""
    if volume.blocks:
        return volume.images + getattr(getattr(generator.config, "sample", None), "copies", 0) * volume.identities
    try:
        return len(generator.slots(volume, None))  # type: ignore[arg-type]
    except Exception:  # it needs the faces: it shows the real set or a part of it, or a set that is not here, whose size nobody knows
        return 0 if generator.traits.new_identities else real // getattr(getattr(generator.config, "sample", None), "groups", 1)


def generating(generator: Generator, protocol: Protocol, images: int, kept: int) -> Cost:
    """The generate stage: `images` are painted and `kept` are written. The first of a generator's networks is its painter."""
    sample, found = getattr(generator.config, "sample", None), networks(generator, protocol)
    passes = getattr(sample, "steps", 1) * (2 if getattr(sample, "guidance", 0) else 1)
    disk = disk_for(kept, protocol.resolution)
    painter = next(iter(found.values()), None)
    return Cost(images * passes * painter.gflop, "GFLOP", disk) if painter else Cost(images, disk=disk)


def recognizing(recipe: Recipe, resolution: int, images: int) -> Cost:
    """Training a recognizer on `images`."""
    size = backbone(recipe, resolution)
    return Cost(recipe.epochs * images * TRAINING * size.gflop, "GFLOP", 4 * size.parameters, CHECKPOINT * size.parameters)


def evaluating(protocol: Protocol, images: int, real: int, pairs: int, networks: int) -> Cost:
    """The evaluators: the judge sees `images` and the `real` ones, all `networks` those of the benchmarks, twice for the mirror image."""
    from synthbench.recognition.trainer import load_recipe

    r = protocol.resolution
    work = (images + real) * encoder(protocol.judge, protocol) + 2 * networks * pairs * backbone(load_recipe(protocol.recipe), r).gflop
    return Cost(work if images else 0.0, "GFLOP", 100_000 + 3 * images)
