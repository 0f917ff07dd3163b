"""The tiny world in which plugins are tested, and the folders in which they may write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthbench import registry
from synthbench.plugin import Context, Generator
from synthbench.types import Progress, UserError

if TYPE_CHECKING:
    from synthbench.data.faces import FaceSet
    from synthbench.models.encoder import Encoder
    from synthbench.plugin import Subject

RESOLUTION = 32  # pixels
PEOPLE, IMAGES = 8, 6  # of the real set


@dataclass
class Trial:
    """A plugin under test and the world it is tested in."""

    plugin: Any
    name: str
    root: Path
    faces: FaceSet
    encoder: Encoder
    inputs: dict[str, Path] = field(default_factory=dict)  # folders of the stages built so far

    def fault(self, text: str) -> UserError:
        return UserError(f"{self.name}: {text}")

    def again(self) -> Any:
        """The plugin as another process would have it: same settings, no memory."""
        return type(self.plugin)(self.plugin.config)

    def context(self, out: str, seed: int = 0, batch_size: int = 64, progress: Progress = lambda done, total: None) -> Context:
        folder = self.root / out
        folder.mkdir(exist_ok=True)
        blind = isinstance(self.plugin, Generator) and not self.plugin.traits.uses_encoder
        encoder: Any = None if blind else self.encoder
        parts = [self.faces for _ in self.plugin.parts()] if isinstance(self.plugin, Generator) else []  # whatever they are called
        return Context(folder, seed, RESOLUTION, self.encoder.device, self.faces, encoder, dict(self.inputs), batch_size, progress, parts)

    @contextmanager
    def confined(self, context: Context) -> Iterator[None]:
        """Raises UserError when a file outside `context.out` was written, changed or removed in the block."""
        before = self._files(context.out)
        yield
        changed = set(self._files(context.out).items()) ^ set(before.items())
        if changed:
            path = min(changed)[0]
            shown = f"{path.relative_to(self.root)} of the runs folder" if path.is_relative_to(self.root) else str(path)
            raise self.fault(f"wrote {shown}, outside context.out; a stage may write into its own folder only")

    def _files(self, own: Path) -> dict[Path, tuple[int, ...]]:
        """Size and time of the files of the other stages, and the names in the working directory."""
        here = [path for path in Path.cwd().iterdir() if not path.name.startswith((".", "__"))]
        found: dict[Path, tuple[int, ...]] = dict.fromkeys(here, ())
        for path in self.root.rglob("*"):
            if path.is_file() and own not in path.parents:
                found[path] = (path.stat().st_size, path.stat().st_mtime_ns)
        return found


def rendered(part: str, frontal: bool = False, images: int = IMAGES, columns: dict[str, Any] | None = None) -> FaceSet:
    """PEOPLE x `images` faces of the embedded world."""
    import torch

    from synthbench.data.faces import FaceSet
    from synthbench.world import renderer

    identity = torch.arange(PEOPLE).repeat_interleave(images)
    pixels = renderer.faces(part, identity, torch.arange(len(identity)) % images, RESOLUTION, frontal=frontal)
    return FaceSet.from_arrays(pixels, identity, columns=columns)


def tiny_encoder(faces: FaceSet, seed: int) -> Encoder:
    """A small random network whose batch norms have seen `faces`, so that embeddings differ; made in a blink, differentiable."""
    import torch

    from synthbench.models import encoder

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        net = encoder.build({"family": "small", "width": 8, "dropout": 0.0}, RESOLUTION, 32)
        for module in net.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.momentum = 1.0
        net.train()(faces.images(slice(None)).float() / 127.5 - 1)
    return encoder.Encoder(net, resolution=RESOLUTION, dim=32, digest=f"{seed}", name=f"tiny encoder {seed}")


def full_subject(trial: Trial) -> Subject:
    """A rendered set with everything an evaluator may ask for."""
    import torch

    from synthbench.data.pairs import PairSet
    from synthbench.plugin import Subject
    from synthbench.world.pairs import world_pairs

    count = PEOPLE * IMAGES
    number = torch.arange(count) % IMAGES
    columns = {"sample": number, "m": number / IMAGES, "similarity": torch.linspace(-1, 1, count), "real": torch.zeros(count)}
    subject = Subject(
        faces=rendered("generator", columns=columns),
        real=trial.faces,
        judge=tiny_encoder(trial.faces, 1),
        recognizer=tiny_encoder(trial.faces, 2),
        benchmarks=[PairSet.from_arrays("world-mixed", *world_pairs("world-mixed", RESOLUTION, pairs=40))],
        inquiries=rendered("inquiry", frontal=True, images=1),
        baseline=trial.root / "baseline",
    )
    if not (trial.root / "baseline").exists():
        verify(subject, trial.context("baseline"))
    return subject


def verify(subject: Subject, context: Context) -> None:
    """Leave the results of verification in `context.out`, as it does first in every protocol; other evaluators read them."""
    kind = registry.load("evaluator", "verification")
    kind(kind.Config()).evaluate(subject, context)
