"""Quality of single images, beside the real set's, and whether it tells which pairs a recognizer gets wrong.

Measures, each under its name: `norm`, the length of the judge's raw embedding, which grows with what a network can make of a face (MagFace,
Meng et al. 2021, trains for it; others have it unasked), named as what it is; `ser_fiq`, how alike embeddings of one image are under the
recognizer's own dropout (Terhorst et al. 2020), where its recipe has dropout; `fiqa`, a registered network that gives one number an image,
such as CR-FIQA (Boutros et al. 2023). Higher is better for all.
`poor` is the share of images below what 5 % of the real set are below: 5 is what a set as good as the real one has.
Error versus discard (Grother and Tabassi 2007): pairs go by the worse of their images, the recognizer's own norm or `fiqa`, lowest first;
what is left is scored at the thresholds of verification. Discarding at random changes nothing: chance is the accuracy of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import Field
from scipy.spatial.distance import pdist
from torch import nn

from synthbench.config import Settings
from synthbench.data.sources import find, registered
from synthbench.evaluators.pairs import PairResults, open_results
from synthbench.evaluators.statistics import clustered_stderr
from synthbench.models.embeddings import unit
from synthbench.models.encoder import raw_embeddings
from synthbench.plugin import Context, Evaluator, Subject
from synthbench.seeds import numpy_generator
from synthbench.types import Score, Skipped, UserError

if TYPE_CHECKING:
    from synthbench.data.faces import FaceSet
    from synthbench.models.encoder import Encoder

Measure = Callable[["FaceSet", np.ndarray], np.ndarray]  # (faces, rows) -> quality (N,) of each
POOR = 0.05  # of the real set


class QualityConfig(Settings):
    images: int = Field(2_000, ge=20, description="of each set, drawn at random")
    rounds: int = Field(20, ge=2, description="embeddings of an image under dropout, for ser_fiq")
    network: str = Field("", description="registered weights that give one number an image, such as CR-FIQA in ONNX")
    kept: tuple[float, ...] = Field((0.9, 0.8, 0.7, 0.6, 0.5), description="shares of pairs that are kept")


class Quality(Evaluator[QualityConfig]):
    """How good single images are, by networks, and what is won by leaving out poor pairs, for which verification must run before."""

    Config = QualityConfig
    version = 1

    def sources(self) -> dict[str, str]:
        name = self.config.network
        return {"fiqa": find(name).digest} if name and registered(name) else {}

    def evaluate(self, subject: Subject, context: Context) -> list[Score | Skipped]:
        random = numpy_generator(context.seed, "quality")
        made = np.flatnonzero(subject.measured())
        sides = ((subject.real, np.arange(len(subject.real))), (subject.faces, made))
        real, own = ((faces, np.sort(random.permutation(rows)[: self.config.images])) for faces, rows in sides)
        scores: list[Score | Skipped] = []
        for name, make in (
            ("norm", lambda: norm_of(subject.judge)),
            ("ser_fiq", lambda: self.ser_fiq(subject, context)),
            ("fiqa", self.fiqa),
        ):
            try:
                measure = make()
            except Skipped as why:
                scores.append(Skipped(str(why), f"quality/{name}/mean"))
                continue
            scores += beside(name, measure(*real), measure(*own), real[0].identity[real[1]], own[0].identity[own[1]])
        return [*scores, *self.discarding(subject, context)]

    def fiqa(self) -> Measure:
        """The registered network. Raises Skipped where none is named, UserError for one that gives more than a number."""
        from synthbench.models.checkpoints import load_checkpoint

        if not self.config.network:
            raise Skipped("no quality network is named (quality.network: NAME of registered weights that give one number an image)")
        entry = find(self.config.network, "weights")
        network = load_checkpoint(entry.path, name=entry.name, **entry.options)
        if network.dim != 1:
            raise UserError(f"evaluators.quality.network: {entry.name} gives {network.dim} numbers an image; quality is one")
        return lambda faces, rows: raw_embeddings(network, faces, rows=rows)[:, 0]

    def ser_fiq(self, subject: Subject, context: Context) -> Measure:
        """2 sigmoid(-d), d the mean Euclidean distance of unit embeddings of one image under dropout (Terhorst et al., Eq. 1)."""
        recognizer = subject.recognizer
        drops = [module for module in recognizer.modules() if isinstance(module, nn.Dropout) and module.p > 0] if recognizer else []
        if not recognizer or not drops:
            raise Skipped("the recognizer has no dropout, under which its embeddings could differ")

        def measure(faces: FaceSet, rows: np.ndarray) -> np.ndarray:
            with torch.random.fork_rng():
                torch.manual_seed(int(numpy_generator(context.seed, "quality", "dropout").integers(2**31)))
                for module in drops:
                    module.train()
                drawn = np.stack([unit(raw_embeddings(recognizer, faces, rows=rows)) for _ in range(self.config.rounds)], 1)
                for module in drops:
                    module.eval()
            apart = np.array([pdist(embeddings).mean() for embeddings in drawn])
            return np.asarray(2 / (1 + np.exp(apart)))

        return measure

    def discarding(self, subject: Subject, context: Context) -> Iterator[Score | Skipped]:
        results = open_results(context.out / "pairs")
        found = [benchmark for benchmark in subject.benchmarks if benchmark.name in results]
        if not subject.recognizer or not found:
            yield Skipped("there are no results of pairs; the evaluator `verification` must run before this one", "quality/discard/norm")
            return
        measures = {"norm": norm_of(subject.recognizer)} | ({"fiqa": self.fiqa()} if self.config.network else {})
        for name, measure in measures.items():
            worse = []
            for benchmark in found:
                quality = measure(benchmark.images, np.arange(len(benchmark.images)))
                worse.append(np.minimum(quality[benchmark.left], quality[benchmark.right]))
            for share in (1.0, *self.config.kept):
                yield kept(
                    [results[benchmark.name] for benchmark in found], worse, share, f"quality/discard/{name}/accuracy_of_{100 * share:g}"
                )


def norm_of(network: Encoder) -> Measure:
    return lambda faces, rows: np.linalg.norm(raw_embeddings(network, faces, rows=rows), axis=1)


def beside(name: str, real: np.ndarray, own: np.ndarray, of_real: np.ndarray, people: np.ndarray) -> list[Score | Skipped]:
    """Mean of the set and of the real one, and the share of the set that is poor; errors over identities, `of_real` and `people` (N,)."""
    poor = own < np.quantile(real, POOR)
    return [
        Score(f"quality/{name}/mean", float(own.mean()), clustered_stderr(own, people), len(own), True),
        Score(f"quality/{name}/real_mean", float(real.mean()), clustered_stderr(real, of_real), len(real), True),
        Score(f"quality/{name}/poor", 100 * float(poor.mean()), _percent(clustered_stderr(poor.astype(float), people)), len(own), False),
    ]


def _percent(stderr: float | None) -> float | None:
    return None if stderr is None else 100 * stderr


def kept(results: list[PairResults], quality: list[np.ndarray], share: float, metric: str) -> Score:
    """Mean accuracy over benchmarks, in percent, of the `share` of pairs of the highest quality; thresholds stay those of all pairs."""
    values, variance, count = [], 0.0, 0
    for own, worth in zip(results, quality):
        best = np.argsort(-worth, kind="stable")[: max(1, round(share * len(worth)))]
        right = own.correct[best].astype(float)
        values.append(100 * right.mean())
        variance += 1e4 * right.mean() * (1 - right.mean()) / len(right)
        count += len(right)
    return Score(metric, float(np.mean(values)), float(np.sqrt(variance)) / len(values), count, True)
