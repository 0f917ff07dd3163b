"""What the evaluators look at: a labelled set, the real set it is compared with, the judge, the recognizer and the benchmarks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from synthbench.evaluators.statistics import class_centres, require_finite, unit
from synthbench.types import Progress, Skipped

if TYPE_CHECKING:
    from synthbench.data.faces import FaceSet
    from synthbench.data.pairs import PairSet
    from synthbench.models.encoder import Encoder

Which = Literal["faces", "real", "inquiries"]


@dataclass
class Subject:
    """One generated set and the recognizer trained on it. Nothing here tells which generator made the set."""

    faces: FaceSet  # the set that is measured
    real: FaceSet  # the real training set of the protocol
    judge: Encoder  # never used by a generator, never trained on the set
    recognizer: Encoder | None = None  # trained on `faces`; None when only the set is measured
    benchmarks: list[PairSet] = field(default_factory=list)
    inquiries: FaceSet | None = None  # one image per identity of `faces`, from the stage `enroll`
    baseline: Path | None = None  # evaluate folder of the run of generator `real`; None for that run itself
    progress: Progress = lambda done, total: None  # told of the images that the judge has embedded
    _embeddings: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def embeddings(self, which: Which) -> np.ndarray:
        """The judge's unit embeddings (N, D) float32, computed once. Raises Skipped without inquiries, UserError when not finite."""
        if which not in self._embeddings:
            faces = getattr(self, which)
            if faces is None:
                raise Skipped(f"there are no {which}: the generator enrolls none")
            embeddings = self.judge.embed_all(faces, progress=self.progress)
            require_finite(embeddings, f"embeddings of the {which} by the judge {self.judge.name}")
            self._embeddings[which] = embeddings
        return self._embeddings[which]

    def measured(self) -> np.ndarray:
        """(N,) bool: the images of `faces` that tell of its generator: no copies of inquiries, unless nothing else is there."""
        made = self.faces.made
        return made if made.any() else np.ones(len(made), bool)

    def classes(self) -> tuple[np.ndarray, np.ndarray, int]:
        """What statistics of classes are made of: embeddings (N, D) and identity (N,), dense, of `faces`, and how many identities.

        Of the images `measured`; those of two people (soft labels) belong to no class and are left out. Raises Skipped when fewer than two
        identities are left.
        """
        if self.faces.identities < 2:
            raise Skipped("the set has a single identity: nothing to separate")
        embeddings, whole = self.embeddings("faces"), self.faces.whole & self.measured()
        present, identity = np.unique(self.faces.identity[whole], return_inverse=True)
        if len(present) < 2:
            raise Skipped("nearly every image is a mixture of two identities: no classes to separate")
        return embeddings[whole], identity, len(present)

    def centres(self, which: Which) -> np.ndarray:
        """Unit class centres (C, D) float32 by the judge: images normalised, averaged, normalised."""
        total, _ = class_centres(self.embeddings(which), getattr(self, which).identity, getattr(self, which).identities)
        return unit(total).astype(np.float32)
