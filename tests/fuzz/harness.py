"""Cases: each is made from (seed, reader, number) alone, in a cage of its own."""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random

from . import foreign, ours
from .cage import Cage, Outcome

READERS: dict[str, foreign.Reader] = {**foreign.READERS, **ours.READERS}


FEW = (
    *(
        "pandas",
        "_strptime",
        "encodings.cp437",
        "encodings.utf_16",
        "torch.utils.serialization",
        "numpy.ma",
        "lzma",
        "synthbench.data.pairs",
    ),
    *(
        "PIL.Image",
        "lmdb",
        "msgpack",
        "onnx",
        "onnx2torch",
        "onnxruntime",
        "pyarrow.parquet",
        "safetensors.torch",
        "torchvision.ops",
        "yaml",
    ),
    *("synthbench.data.sources", "synthbench.data.align", "synthbench.data.inspection", "synthbench.models.checkpoints"),
    *("synthbench.training.loop", "synthbench.cli.app"),
)
COMMANDS = ("yaml", "registry", "runs", "bundle")  # readers that run commands, or as much: they import nearly everything


def warm(names: Iterable[str]) -> None:
    """Import all that cases of these readers need, once, and start no thread: children are copies of this process."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)
    if torch.get_num_interop_threads() != 1:  # may be set once
        torch.set_num_interop_threads(1)
    import synthbench

    rest = ("pandas", "scipy.stats", "sklearn.metrics", "matplotlib.pyplot", "optuna")
    own = (module.name for module in pkgutil.walk_packages(synthbench.__path__, "synthbench.") if not module.name.endswith("__main__"))
    for name in (*FEW, *((*rest, *own) if set(names) & set(COMMANDS) else ())):
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    from PIL import Image

    Image.init()
    gc.collect()
    gc.freeze()


class Harness:
    def __init__(self, root: Path, seed: int) -> None:
        self.cage, self.seed = Cage(root), seed

    def base(self, name: str) -> Path:
        """Whole files of a reader, made once, in a child: what libraries start in it ends with it."""
        folder = self.cage.root / "base" / name
        if not (folder / ".whole").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    os.environ["SYNTHBENCH_THREADS"] = "1"
                    READERS[name].make(folder)
                    (folder / ".whole").touch()
                    code = 0
                except BaseException:
                    import traceback

                    traceback.print_exc()
                finally:
                    os._exit(code)
            if os.waitpid(child, 0)[1]:
                raise RuntimeError(f"the whole files of {name} could not be made")
        return folder

    def case(self, name: str, number: int) -> Outcome:
        """One case. Its files stay in the cage's folder `case` until the next."""
        reader, random = READERS[name], Random(f"{self.seed} {name} {number}")
        source, folder = self.base(name), self.cage.clear() / "in"
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns(".whole"))

        def read() -> None:
            reader.harm(folder, random, self.cage.root)
            reader.read(folder, random)

        return self.cage.run(read, reader.work)

    def whole(self, name: str) -> Outcome:
        """The reader on its whole files, which it must answer."""
        folder = self.cage.clear() / "in"
        shutil.copytree(self.base(name), folder, ignore=shutil.ignore_patterns(".whole"))
        if name in foreign.READERS and READERS[name].cost == 0.3:  # an image reader reads one
            for other in sorted(folder.iterdir())[1:]:
                other.unlink()
        return self.cage.run(lambda: READERS[name].read(folder, Random(0)), READERS[name].work)

    def cases(
        self, name: str, first: int, count: int, told: Callable[[int, Outcome], None] = lambda number, outcome: None
    ) -> Iterator[Outcome]:
        for number in range(first, first + count):
            outcome = self.case(name, number)
            told(number, outcome)
            yield outcome
