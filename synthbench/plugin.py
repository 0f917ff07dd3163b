"""The whole third-party interface: a generator makes labelled faces, an evaluator measures them.

A plugin is one class. Register it under the entry-point group ``synthbench.generators`` or ``synthbench.evaluators``,
or give the command line the path of its .py file. `synthbench test NAME|FILE` checks the contract; docs/plugins.md tells it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from synthbench.config import Settings
from synthbench.types import FaceBatch, Groups, Progress, Score, Skipped, Slot, UserError, Volume

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from synthbench.data.faces import FaceSet
    from synthbench.data.pairs import PairSet
    from synthbench.data.templates import TemplateSet
    from synthbench.models.encoder import Encoder

C = TypeVar("C", bound=Settings)
Which = Literal["faces", "real", "inquiries", "also_learnt"]


@dataclass(frozen=True)
class Traits:
    """What a reader of a comparison must know about a generator."""

    paper: str = ""
    licence: str = ""
    trains: bool = False  # has a train stage
    enrolls: bool = False  # has an enroll stage
    encoder: bool = True  # whether a generator that trains or enrolls sees the protocol's encoder, and so depends on it
    needs_labels: bool = False  # of the real training set
    new_identities: bool = True  # or are the identities those of the real set
    real_photographs: str = ""  # which images of the set are photographs of real people, if any
    pretrained: str = ""  # networks it needs, and what they were trained on
    undivided: str = ""  # why its training cannot be divided among processes; empty: every gradient is a mean over images (loop.gradients)
    finite: bool = False  # has a fixed number of images, so that volume `all` means something

    @property
    def uses_encoder(self) -> bool:
        return self.encoder and (self.trains or self.enrolls)


@dataclass(frozen=True)
class Context:
    """Where and with what a plugin works. Only `seed`, `resolution` and the inputs may change a result."""

    out: Path  # the folder of the stage being built; anything in it survives a crash and is there on resume
    seed: int
    resolution: int
    device: torch.device
    faces: FaceSet  # the real training set; for `train` what the setting train.faces names, which is that by default
    encoder: Encoder  # frozen E_id; never the judge
    inputs: Mapping[str, Path] = field(default_factory=dict)  # folders of finished stages: "train", "enroll"
    batch_size: int = 64  # for sampling; changes no image on a CPU, and at most the last bits on a GPU
    progress: Progress = lambda done, total: None
    parts: Sequence[FaceSet] = ()  # the sets that `Generator.parts` names; `real` there: 1, 0, or -1 where nobody says


class Generator(ABC, Generic[C]):
    """Makes labelled synthetic faces. An image depends only on the config, the weights, the seed and its slot.

    `Config` is a Settings class whose parts `train`, `enroll` and `sample` enter the keys of the stages of that name, so
    that changing a sampling setting never retrains. Raise `version` when the same config would give other images.
    """

    Config: ClassVar[type[Settings]] = Settings
    version: ClassVar[int] = 1
    traits: Traits = Traits()  # of the class; those of a config are what `about` makes of them
    tiny: ClassVar[Mapping[str, Any]] = {}  # settings with which all stages together take seconds at 32 px, for `synthbench test`

    def __init__(self, config: C) -> None:
        self.config = config
        self.traits = self.about(config)

    def about(self, config: C) -> Traits:
        """The traits of this config, where it decides some of them."""
        return self.traits

    def sources(self, resolution: int) -> dict[str, str]:
        """Digests of files outside the protocol that change the images, by name; they enter the key of `enroll`."""
        return {}

    def parts(self) -> Sequence[str]:
        """The sets that this one is made of, which are made before and are `context.parts`: generators, runs, registered sets, paths."""
        return ()

    def names(self, context: Context) -> Sequence[str]:
        """What the identities are called where they come from, by number; empty for people who are nobody elsewhere."""
        return ()

    def known(self, volume: Volume, context: Context) -> Mapping[str, Groups]:
        """What is known of who is on the images of `volume`, in their order: groups by attribute, where the generator renders people."""
        return {}

    def networks(self, resolution: int, dim: int) -> Mapping[str, tuple[nn.Module, tuple[Any, ...]]]:
        """The networks of this config by name, and what `forward` takes for one image: `synthbench show` counts their size.

        dim: width of the encoder's embedding. Called under `torch.device("meta")`, where nothing is allocated.
        """
        return {}

    def check(self, volume: Volume, people: int | None) -> None:
        """Raise UserError for settings or a volume that cannot work, so that it is known before minutes of training.

        people: labelled identities of the real set, None while it is not imported. Called when a run is planned, and before each stage.
        """

    def train(self, context: Context) -> None:
        """Learn from `context.faces`; weights into `context.out`. Must resume from what it finds there."""

    def enroll(self, count: int, context: Context) -> None:
        """Choose `count` identities jointly; codes and inquiries into `context.out`. The first k of n must be the same k."""

    def slots(self, volume: Volume, context: Context) -> list[Slot]:
        """The slots of `volume`. A finite generator answers `all` and complains when asked for more than it has."""
        if not volume.blocks:
            raise UserError("this generator makes any number of images; give --volume, such as 200x20")
        return list(volume.slots())

    @abstractmethod
    def generate(self, slots: Sequence[Slot], context: Context) -> Iterator[FaceBatch]:
        """The faces of `slots`, in order, in batches of any size. May be called with any part of a volume.

        Every batch has the same columns; images are (B, 3, R, R) with R = context.resolution.
        """


@dataclass
class Subject:
    """One generated set and the recognizer trained on it. Nothing here tells which generator made the set."""

    faces: FaceSet  # the set that is measured
    real: FaceSet  # the real training set of the protocol
    judge: Encoder  # never used by a generator, never trained on the set
    recognizer: Encoder | None = None  # trained on `faces`; None when only the set is measured
    benchmarks: list[PairSet] = field(default_factory=list)
    templates: list[TemplateSet] = field(default_factory=list)
    inquiries: FaceSet | None = None  # one image per identity of `faces`, from the stage `enroll`
    also_learnt: FaceSet | None = None  # photographs that the generator learnt from besides the real set
    baseline: Path | None = None  # evaluate folder of the run of generator `real`; None for that run itself
    untrained: Callable[[int], Encoder] | None = None  # the recognizer as it was before it learnt, of a seed
    progress: Progress = lambda done, total: None  # told of the images that a network has embedded
    _embeddings: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def embeddings(self, which: Which) -> np.ndarray:
        """The judge's unit embeddings (N, D) float32, computed once. Raises Skipped without inquiries, UserError when not finite."""
        from synthbench.models.embeddings import require_finite

        if which not in self._embeddings:
            faces = getattr(self, which)
            if faces is None:
                raise Skipped(f"there are no {which}: the generator has none")
            if which == "faces" and faces.digest == self.real.digest:  # the real set's own row
                return self.embeddings("real")
            embeddings = self.judge.embed_all(faces, progress=self.progress)
            require_finite(embeddings, f"embeddings of the {which} by the judge {self.judge.name}")
            self._embeddings[which] = embeddings
        return self._embeddings[which]

    def measured(self) -> np.ndarray:
        """(N,) bool: the images of `faces` that tell of its generator: no copies of inquiries, unless nothing else is there."""
        import numpy as np

        made = self.faces.made
        return made if made.any() else np.ones(len(made), bool)

    def classes(self) -> tuple[np.ndarray, np.ndarray, int]:
        """What statistics of classes are made of: embeddings (N, D) and identity (N,), dense, of `faces`, and how many identities.

        Of the images `measured`; those of two people (soft labels) belong to no class and are left out. Raises Skipped when fewer than two
        identities are left.
        """
        import numpy as np

        if self.faces.identities < 2:
            raise Skipped("the set has a single identity: nothing to separate")
        embeddings, whole = self.embeddings("faces"), self.faces.whole & self.measured()
        present, identity = np.unique(self.faces.identity[whole], return_inverse=True)
        if len(present) < 2:
            raise Skipped("nearly every image is a mixture of two identities: no classes to separate")
        return embeddings[whole], identity, len(present)

    def centres(self, which: Which) -> np.ndarray:
        """Unit class centres (C, D) float32 by the judge: images normalised, averaged, normalised."""
        from synthbench.models.embeddings import class_centres, unit

        total, _ = class_centres(self.embeddings(which), getattr(self, which).identity, getattr(self, which).identities)
        return unit(total).astype("float32")


class Evaluator(ABC, Generic[C]):
    """Measures a data set or the recognizer trained on it; never learns which generator made it."""

    Config: ClassVar[type[Settings]] = Settings
    version: ClassVar[int] = 1

    def __init__(self, config: C) -> None:
        self.config = config

    def sources(self) -> dict[str, str]:
        """Digests of files outside the protocol that change the scores, by name; they enter the key of `evaluate`."""
        return {}

    def check(self, benchmarks: Sequence[str]) -> None:
        """Raise UserError for settings that cannot work with the protocol's benchmarks. Called when a run is planned."""

    @abstractmethod
    def evaluate(self, subject: Subject, context: Context) -> list[Score | Skipped]:
        """The scores, and what could not be measured and why; per-item results may go into `context.out`.

        Raise `Skipped` when an input is absent without which nothing can be measured.
        """
