"""A protocol: everything that is held fixed while generators are compared. One YAML file, read into one frozen value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, ValidationInfo, field_validator

from synthbench.config import Layer, Settings, build, config_path, did_you_mean, located, merge, read_layer
from synthbench.data import sources
from synthbench.data.catalogue import WORLD, WORLD_GROUPS
from synthbench.types import UserError


class WorldFaces(Settings):
    """Rendered people of one part of the embedded world."""

    late = ("shares",)

    world: Literal["train", "judge"]
    identities: int = Field(ge=2)
    images: int = Field(ge=1)  # per identity
    seed: int = 0
    shares: dict[str, dict[str, float]] = {}  # attribute: {group: share}, of people (skin, sex) or of images (age, glasses)

    @field_validator("shares")
    @classmethod
    def _whole(cls, shares: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        for name, share in shares.items():
            if name not in WORLD_GROUPS:
                raise ValueError(f"the embedded world has no attribute {name!r}{did_you_mean(name, WORLD_GROUPS, show_all=True)}")
            groups = WORLD_GROUPS[name]
            if set(share) != set(groups):
                raise ValueError(f"{name} must give a share to each of {', '.join(groups)}, and to no other group")
            if min(share.values()) < 0 or abs(sum(share.values()) - 1) > 1e-6:
                raise ValueError(f"{name}: shares must be 0 or more and add up to 1, not {sum(share.values()):g}")
        return shares


class SourceFaces(Settings):
    """A registered set of faces (`synthbench data add`)."""

    source: str
    exclude: tuple[str, ...] = ()  # identities left out, by their name in the source
    skip_damaged: bool = False  # leave out images that cannot be decoded; else the first of them ends the run


Faces = WorldFaces | SourceFaces


class TrainedNetwork(Settings):
    """A face encoder trained here."""

    recipe: str
    seed: int  # fixed by the protocol, so that all runs share the network
    faces: Faces | None = None  # what it is trained on; the real set when absent


class DistilledNetwork(Settings):
    """A small face encoder trained here to give the embeddings of a large one; labels are not needed."""

    teacher: str  # registered weights
    recipe: str  # its head and margin are not used; its width must be the teacher's
    seed: int
    faces: tuple[str, ...] = Field(("real",), min_length=1)  # what it is trained on: real, and registered sets of faces
    pixels: int = Field(112, ge=16, le=512)  # side at which the teacher sees them


class PublicNetwork(Settings):
    """A registered checkpoint."""

    weights: str


class ShippedNetwork(Settings):
    """A checkpoint of the embedded world that comes with the package: nobody trains it, and it is the same on every machine."""

    shipped: Literal["world-encoder", "world-judge"]

    @property
    def path(self) -> Path:
        return Path(__file__).parent / "world" / "weights" / f"{self.shipped.removeprefix('world-')}.safetensors"

    @property
    def digest(self) -> str:
        """The sha256 of the file. Raises UserError when it is missing."""
        try:
            return hashlib.sha256(self.path.read_bytes()).hexdigest()
        except OSError:
            raise UserError(f"{self.path} is missing; install synthbench again") from None


Network = TrainedNetwork | DistilledNetwork | PublicNetwork | ShippedNetwork


MERGED = ("evaluators", "generators")  # what a protocol that extends another adds to; anything else it replaces whole
OWN = ("real", "world", "unconditional", "pca", "uniform")  # what enroll.source may be, beside a registered source and a path


class Need(NamedTuple):
    """A registered source that a protocol names."""

    name: str
    kind: str  # faces, pairs, templates, weights
    role: str  # what for, in words; of a `generator`'s, without its name
    generator: str = ""  # the only one that needs it; "": every run does


class Protocol(Settings):
    name: str
    version: int
    title: str
    resolution: int = Field(ge=16, le=512)  # pixels
    volume: str  # default of `synthbench run`
    real: Faces
    encoder: Network  # E_id, lent to generators
    judge: Network  # never lent to a generator
    recipe: str  # trains the recognizers
    benchmarks: tuple[str, ...] = Field(min_length=1)
    templates: tuple[str, ...] = ()  # template sets, for the evaluator of that name
    evaluators: dict[str, dict[str, Any]]  # in the order in which they run
    generators: dict[str, dict[str, Any]] = {}  # settings of generators that this protocol changes

    @field_validator("benchmarks", "templates")
    @classmethod
    def _different(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            what = "benchmark" if info.field_name == "benchmarks" else "template set"
            raise ValueError(f"a {what} is named twice")  # it would count twice in AVG
        return names

    @field_validator("evaluators", "generators")
    @classmethod
    def _plain(cls, settings: dict[str, Any]) -> dict[str, Any]:
        try:  # they enter keys
            json.dumps(settings, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError):
            raise ValueError("names must be words and numbers finite") from None
        return settings

    def __repr__(self) -> str:
        return f"<protocol {self.name} {self.version}: {self.title}; {', '.join(self.benchmarks)}>"

    def sources(self) -> list[str]:
        """Names of the registered sources that every run under the protocol needs."""
        return list(dict.fromkeys(need.name for need in self.needs() if not need.generator))

    def needs(self) -> Iterator[Need]:
        """The registered sources that the protocol names, and what for; those of single generators come last."""
        networks = {"encoder": self.encoder, "judge": self.judge}
        trained = {f"{role}'s faces": network.faces for role, network in networks.items() if isinstance(network, TrainedNetwork)}
        for role, faces in {"real set": self.real, **trained}.items():
            if isinstance(faces, SourceFaces):
                yield Need(faces.source, "faces", role)
        for role, network in networks.items():
            if isinstance(network, PublicNetwork):
                yield Need(network.weights, "weights", role)
            if isinstance(network, DistilledNetwork):
                yield Need(network.teacher, "weights", f"{role}'s teacher")
                yield from (Need(source, "faces", f"{role}'s faces") for source in network.faces if source not in OWN)
        for kind, role, names in (("pairs", "benchmark", self.benchmarks), ("templates", "template set", self.templates)):
            yield from (Need(name, kind, role) for name in names if not name.startswith(WORLD))
        for generator, settings in self.generators.items():
            source = (settings.get("enroll") or {}).get("source")
            if isinstance(source, str) and source not in OWN:
                yield Need(source, "faces", "inquiries", generator)
            for name in (settings.get("train") or {}).get("faces") or ():
                if name not in OWN:
                    yield Need(str(name), "faces", "training", generator)


def missing(protocol: Protocol) -> list[str]:
    """Names of the sources that a run under `protocol` lacks on this machine; empty when it can run."""
    return [name for name in protocol.sources() if not sources.registered(name)]


def _origin(network: Network) -> Network | str:
    """What two networks have in common when one is the other, or learnt from it."""
    if isinstance(network, DistilledNetwork):
        return network.teacher
    return network.weights if isinstance(network, PublicNetwork) else network


def read_protocol(name: str, begun: tuple[Path, ...] = ()) -> Layer:
    """The settings of a protocol as they are in its file, with its paths as they are from here.

    Where it `extends` another protocol, what its file does not name is as there; evaluators and generators are added to, key by key.
    begun: the files that extend this one. Raises UserError for a file that extends itself.
    """
    path = config_path("protocols", name)
    layer = read_layer(path)
    own = Layer({key: value for key, value in located(layer.data, path.parent).items() if key != "extends"}, layer.origin)
    base, place = layer.data.get("extends"), layer.origin.get(("extends",), str(path))
    if "extends" not in layer.data:
        return own
    if not isinstance(base, str):
        raise UserError(f"{place}: extends = {base!r}: should be the name of a protocol, or the path of a .yaml file")
    if path.resolve() in begun:
        raise UserError(f"{place}: {name} extends itself, over {' and '.join(file.name for file in begun)}")
    below = read_protocol(located(base, path.parent), (*begun, path.resolve()))
    kept = {key: value for key, value in below.data.items() if key in MERGED or key not in own.data}
    return merge((Layer(kept, below.origin), own))


def load_protocol(name: str) -> Protocol:
    """The shipped protocol called `name`, or the one in the file `name` (*.yaml)."""
    layer, path = read_protocol(name), config_path("protocols", name)
    protocol = build(Protocol, layer)
    if _origin(protocol.encoder) == _origin(protocol.judge):
        raise UserError(f"{path}: encoder and judge are the same network, or learnt from it; a judge must never be one that generators use")
    return protocol
