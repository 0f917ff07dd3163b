"""The stages that a protocol fixes: the real set, encoder and judge, the benchmarks; and how a recognizer is trained."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthbench import console
from synthbench.data import sources
from synthbench.pipeline import benchmark_sets, checks, cost, distil
from synthbench.pipeline.steps import Step, faces_step, followed, public_network
from synthbench.protocol import DistilledNetwork, Network, Protocol, PublicNetwork, ShippedNetwork
from synthbench.store import Store, content_key
from synthbench.types import Progress

if TYPE_CHECKING:
    import torch

    from synthbench.models.encoder import Encoder


class Fixed:
    """The part of a Job that depends on the protocol alone."""

    store: Store
    protocol: Protocol
    device: torch.device

    @functools.cached_property
    def real(self) -> Step:
        return faces_step(self.store, self.protocol.resolution, "real", self.protocol.real)

    def network_steps(self, name: str, network: Network) -> list[Step]:
        """The stages that make an encoder; none for a checkpoint."""
        if isinstance(network, PublicNetwork):
            sources.find(network.weights, "weights")
            return []
        if isinstance(network, ShippedNetwork):
            return []
        if isinstance(network, DistilledNetwork):
            return distil.steps(name, network, self.protocol, self.store, self.real, self.device)
        faces = self.real if network.faces is None else faces_step(self.store, self.protocol.resolution, f"{name}-faces", network.faces)
        return [faces, self._train_step(name, network.recipe, network.seed, faces)]

    def network(self, name: str) -> Encoder:
        """The encoder or the judge, loaded."""
        from synthbench.models.encoder import load_encoder
        from synthbench.models.shipped import load_shipped

        network = getattr(self.protocol, name)
        if isinstance(network, PublicNetwork):
            public = public_network(network.weights).to(self.device)
            checks.beside_the_gpu(name, public, self.device)
            return public
        if isinstance(network, ShippedNetwork):
            return load_shipped(network.path).to(self.device)
        return load_encoder(self.network_steps(name, network)[-1].stage.folder).to(self.device)

    def network_key(self, name: str) -> str:
        network = getattr(self.protocol, name)
        if isinstance(network, PublicNetwork):
            source = sources.find(network.weights, "weights")
            return content_key({"weights": source.digest, "options": source.options})
        if isinstance(network, ShippedNetwork):
            return content_key({"weights": network.digest, "options": {}})
        return self.network_steps(name, network)[-1].stage.key

    def _train_step(
        self, name: str, recipe_name: str, seed: int, faces: Step, whose: str = "", watch: Callable[[int, float], None] | None = None
    ) -> Step:
        from synthbench.recognition.trainer import load_recipe

        recipe = load_recipe(recipe_name)
        key = content_key(
            {"stage": "recognizer", "recipe": recipe.model_dump(mode="json"), "seed": seed, "faces": faces.stage.key, "version": 1}
        )

        def train(folder: Path, progress: Progress) -> dict[str, Any]:
            from synthbench.data.faces import open_faces
            from synthbench.models.encoder import load_encoder
            from synthbench.recognition import trainer, validation

            shown = open_faces(faces.stage.folder)
            if name in ("encoder", "judge"):
                checks.enough_people(name, shown)
            steps = trainer.train(shown, recipe, seed=seed, device=self.device, out=folder)
            if watch:
                steps = validation.watched(steps, recipe.epochs, open_faces(self.real.stage.folder), folder, watch)
            facts = followed(steps, folder, progress)
            if name in ("encoder", "judge"):
                checks.separation(name, load_encoder(folder).to(self.device), shown)
            return facts

        work = f"{whose}recipe {recipe.name}, {console.counted(recipe.epochs, 'epoch')}, seed {seed}"
        r = self.protocol.resolution
        counted = functools.partial(cost.recognizing, recipe, r, faces.images)
        label = f"recipe {recipe.name} {r} {self.device.type}"
        needs = (faces.stage.folder, self.real.stage.folder)
        return Step(self.store.stage(name, key), work, train, label, counted, divided=True, needs=needs)

    @functools.cached_property
    def benchmarks(self) -> Step:
        """All verification and template sets at the protocol's resolution."""
        protocol = self.protocol
        return benchmark_sets.step(self.store, protocol.benchmarks, protocol.resolution, self.check_colours, protocol.templates)

    def check_colours(self, folder: Path) -> None:
        """Try the public networks on photographs, before anything is trained with them; `folder` has the benchmarks."""
        public = [name for name in ("encoder", "judge") if isinstance(getattr(self.protocol, name), PublicNetwork)]
        checks.colours(benchmark_sets.photographs(folder, self.protocol.benchmarks), {name: self.network(name) for name in public})
