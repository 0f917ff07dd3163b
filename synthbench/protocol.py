"""A protocol: everything that is held fixed while generators are compared. One YAML file, read into one frozen value."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from synthbench.config import Settings, build, config_path, read_layer
from synthbench.types import UserError


class WorldFaces(Settings):
    """Rendered people of one part of the embedded world."""

    world: Literal["train", "judge"]
    identities: int = Field(ge=2)
    images: int = Field(ge=1)  # per identity
    seed: int = 0


class SourceFaces(Settings):
    """A registered set of faces (`synthbench data add`)."""

    source: str
    exclude: tuple[str, ...] = ()  # identities left out, by their name in the source


Faces = WorldFaces | SourceFaces


class TrainedNetwork(Settings):
    """A face encoder trained here."""

    recipe: str
    seed: int  # fixed by the protocol, so that all runs share the network
    faces: Faces | None = None  # what it is trained on; the real set when absent


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


Network = TrainedNetwork | PublicNetwork | ShippedNetwork


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
    evaluators: dict[str, dict[str, Any]]  # in the order in which they run
    generators: dict[str, dict[str, Any]] = {}  # settings of generators that this protocol changes

    @field_validator("benchmarks")
    @classmethod
    def _different(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("a benchmark is named twice")  # it would count twice in AVG
        return names

    @field_validator("evaluators", "generators")
    @classmethod
    def _plain(cls, settings: dict[str, Any]) -> dict[str, Any]:
        try:  # they enter keys
            json.dumps(settings, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError):
            raise ValueError("names must be words and numbers finite") from None
        return settings

    def sources(self) -> list[str]:
        """Names of the registered sources that the protocol needs."""
        networks = (self.encoder, self.judge)
        faces = [self.real, *(network.faces for network in networks if isinstance(network, TrainedNetwork))]
        needed = [item.source for item in faces if isinstance(item, SourceFaces)]
        needed += [network.weights for network in networks if isinstance(network, PublicNetwork)]
        needed += [name for name in self.benchmarks if not name.startswith("world-")]
        return list(dict.fromkeys(needed))


def load_protocol(name: str) -> Protocol:
    """The shipped protocol called `name`, or the one in the file `name` (*.yaml)."""
    path = config_path("protocols", name)
    protocol = build(Protocol, read_layer(path))
    if protocol.encoder == protocol.judge:
        raise UserError(f"{path}: encoder and judge are the same network; a judge must never be one that generators use")
    return protocol
