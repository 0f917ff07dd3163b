"""The stages of one run, wired: what each needs, what its key covers, and how it is built.

    real ─┬─ encoder ─┬─ train ── enroll ── generate ── recognizer ── evaluate
          │           │                        │                        │
    judge ┴───────────┴── (judge, benchmarks and the real baseline's evaluate enter here) ┘

Nothing is computed while the plan is made: keys depend on settings and digests only, so that a plan is instant and
`--dry-run` and the run are the same list.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthbench import registry
from synthbench.config import Layer, build, did_you_mean, in_full
from synthbench.data import sources
from synthbench.pipeline import benchmark_sets, checks, cost, distil, divided, learning
from synthbench.pipeline.steps import (
    Step,
    batches_of,
    faces_step,
    followed,
    people,
    public_network,
    require_batch,
    run_evaluators,
)
from synthbench.plugin import Context
from synthbench.protocol import DistilledNetwork, Network, Protocol, PublicNetwork, ShippedNetwork
from synthbench.store import Store, content_key
from synthbench.training.crew import at_work
from synthbench.types import FaceBatch, Progress, Slot, UserError, Volume

if TYPE_CHECKING:
    import torch

    from synthbench.models.encoder import Encoder
    from synthbench.plugin import Generator

Counted = Callable[[], cost.Cost]


def load_generator(name: str, protocol: Protocol, *layers: Layer) -> Generator:
    """The generator `name` with its settings: its own defaults, its shipped file, what the protocol changes, then `layers` (`--set`).

    A preset comes above its generator, and what the protocol changes for the preset above that.
    Raises UserError for mistakes in settings, and for a generator with settings that would enter the key of no stage.
    """
    kind, given = registry.load("generator", name), name
    name, plugin = registry.short_name(name), registry.short_name(registry.plugin_name(name))
    parts = {"train": kind.traits.trains, "enroll": kind.traits.enrolls, "sample": True}
    if stray := [part for part in kind.Config.model_fields if not parts.get(part)]:
        has = ", ".join(part for part in parts if parts[part])
        raise UserError(
            f"{name}: setting {stray[0]!r} enters no key, so changing it would change nothing; by its traits the parts are {has}"
        )
    known = {*registry.names("generator"), name, plugin}
    if unknown := sorted(set(protocol.generators) - known):
        hint = did_you_mean(unknown[0], known, show_all=True)
        raise UserError(f"protocol {protocol.name} changes generator {unknown[0]!r}, which is unknown{hint}")

    def changed(which: str) -> Layer:
        changes = protocol.generators.get(which, {})
        return Layer(changes, {(part,): f"protocol {protocol.name}, generators.{which}" for part in changes})

    every = [*registry.layers(given, changed), *(in_full(kind.Config, layer) for layer in layers)]
    learning.refuse_labels(name, kind, every)
    return kind(build(kind.Config, *every))


@dataclass(frozen=True)
class Job:
    """What a user asked for: one generator at one volume under one protocol."""

    store: Store
    protocol: Protocol
    generator_name: str
    volume: Volume
    device: torch.device
    settings: Layer = field(default_factory=Layer)  # from `--set`
    watch: Callable[[int, int, float], None] | None = None  # told of recognizers in training: (seed, epochs done, validation accuracy)

    @property
    def short_name(self) -> str:
        return registry.short_name(self.generator_name)

    @functools.cached_property
    def generator(self) -> Generator:
        return load_generator(self.generator_name, self.protocol, self.settings)

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What names the generator in keys: its name and version, and the digest of a plugin file. A preset has those of its generator."""
        plugin = registry.plugin_name(self.generator_name)
        parts: dict[str, Any] = {"generator": registry.short_name(plugin), "version": self.generator.version}
        if digest := registry.file_digest(plugin):
            parts["file"] = digest
        return parts

    def part(self, name: str) -> Any:
        """The settings that enter the key of the stage `name` (train, enroll, sample), as plain data."""
        return self.generator.config.for_key().get(name, {})

    # ------------------------------------------------------------------------------------------- the protocol's stages

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

        work = f"{whose}recipe {recipe.name}, {recipe.epochs} epochs, seed {seed}"
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

    # ------------------------------------------------------------------------------------------ the generator's stages

    @functools.cached_property
    def learnt(self) -> dict[str, Step]:
        """The sets that the generator learns from, by name; see `learning.steps`."""
        return learning.steps(self.generator, self.protocol, self.store, self.real)

    def context(self, folder: Path, seed: int, progress: Progress, inputs: dict[str, Path]) -> Context:
        from synthbench.data.faces import open_faces

        faces = open_faces(self.real.stage.folder)
        self.check(faces.identities)
        return Context(
            out=folder,
            seed=seed,
            resolution=self.protocol.resolution,
            device=self.device,
            faces=faces,
            encoder=self.network("encoder") if self.generator.traits.uses_encoder else None,  # type: ignore[arg-type]
            inputs=inputs,
            progress=progress,
        )

    def check(self, people: int | None) -> None:
        """Raises UserError when this generator cannot do what is asked with `people` labelled identities; None: not known yet."""
        if self.generator.traits.needs_labels and people is not None and people < 2:
            raise UserError(
                f"{self.short_name} learns from labels, but the real set has {people} labelled identities and two are the least. "
                "Give a set with one folder or label per person"
            )
        self.generator.check(self.volume, people)

    def generator_steps(self, seed: int) -> list[Step]:
        """train, enroll (where the generator has them) and generate."""
        traits, r = self.generator.traits, self.protocol.resolution
        seed = 0 if traits.finite else seed  # the images are what they are
        upstream: dict[str, Any] = {"real": self.real.stage.key}
        needs = [step.stage.folder for step in (self.real, *self.learnt.values())]
        if traits.uses_encoder:
            upstream["encoder"] = self.network_key("encoder")
            needs += [step.stage.folder for step in self.network_steps("encoder", self.protocol.encoder)]
        steps: list[Step] = []
        inputs: dict[str, Path] = {}

        def add(name: str, part: str, work: str, run: Callable[[Context], Any], counted: Counted, extra: dict[str, Any]) -> None:
            parts = {"stage": name, **self.identity, "config": self.part(part), "seed": seed, **upstream, **extra}
            stage, before = self.store.stage(name, content_key(parts)), dict(inputs)
            label = f"{name} {parts['generator']} {r} {self.device.type}"

            def build_(folder: Path, progress: Progress) -> Any:
                return run(self.context(folder, seed, progress, before))

            shared = not traits.undivided if name == "train" else name == "generate" and not traits.finite
            made = kept if name == "generate" else 0
            steps.append(Step(stage, work, build_, label, counted, made, divided=shared, needs=(*needs, *before.values())))
            inputs[name] = stage.folder
            upstream.clear()
            upstream["upstream"] = stage.key

        kept = cost.made(self.generator, self.volume, self.real.images)
        if traits.trains:
            steps += [step for step in self.learnt.values() if step is not self.real]
            images = sum(step.images for step in self.learnt.values())
            counted = functools.partial(cost.training, self.generator, self.protocol, images)
            work = f"{self.short_name}: on {learning.told(self.learnt)}"
            add("train", "train", work, self._train, counted, learning.key(self.learnt))
        count, images = self.volume.identities, self.volume.images
        copies = count * (self.part("sample").get("copies") or 0)  # of inquiries, besides the images of the volume
        digests = {"sources": self.generator.sources(r)}
        if traits.enrolls:
            enroll = functools.partial(self.generator.enroll, count)
            people = f"{self.short_name}: {f'{count:,}' if count else 'all'} identities"
            counted = functools.partial(cost.enrolling, self.generator, self.protocol, count, self.real.images)
            add("enroll", "enroll", people, enroll, counted, {"count": count, **digests})
        work = f"{self.short_name}: " + (f"{count:,} identities, {images:,} images" if images else "every image there is")
        work += f" + {copies:,} copies of inquiries" if copies else ""
        extra = {"volume": self.volume.blocks, **digests}
        counted = functools.partial(cost.generating, self.generator, self.protocol, images or kept, kept)
        add("generate", "sample", work, self._generate, counted, extra)
        return steps

    def _train(self, context: Context) -> None:
        context = replace(context, faces=learning.faces(self.learnt))
        if self.generator.traits.uses_encoder and learning.follows_encoder(self.generator):
            checks.sight(self.short_name, context)
        self.generator.train(context)

    def _generate(self, context: Context) -> dict[str, Any]:
        import time

        from synthbench.data.faces import open_faces
        from synthbench.data.shards import ShardWriter

        slots = self.generator.slots(self.volume, context)
        writer = ShardWriter(context.out, rows_per_shard=min(10_000, max(256, len(slots) // 10)))
        made = [0, *itertools.accumulate(slot.sample >= 0 for slot in slots)]  # of the first n images, those that are no copies
        begun, start = writer.done, time.monotonic()
        done = begun

        def generate(some: Sequence[Slot]) -> Iterator[FaceBatch]:
            return batches_of(self.generator.generate(some, context), f"generator {self.short_name}")

        for batch in divided.faces(generate, slots, begun):
            require_batch(batch, slots[done : done + len(batch.identity)], context.resolution, f"generator {self.short_name}")
            writer.write(batch)
            done += len(batch.images)
            context.progress(made[done], made[-1])
        if at_work().rank:  # the first process has them all
            return {}
        if done != len(slots):
            raise UserError(f"generator {self.short_name} made {done} images for {len(slots)} slots")
        writer.finish()
        faces = open_faces(context.out)  # packs once, for training
        return {
            "images": len(faces),
            "digest": faces.digest,
            "images_per_second": round((made[done] - made[begun]) / max(time.monotonic() - start, 1e-3), 1),
        }

    def steps(self, seed: int) -> list[Step]:
        """Every stage of the run with this seed, in order, with those of the real baseline."""
        protocol, traits = self.protocol, self.generator.traits
        self.check(people(protocol.real))
        steps = [self.real, *self.learnt.values(), self.benchmarks]  # what may be refused, before anything is trained
        if traits.uses_encoder:
            steps += self.network_steps("encoder", protocol.encoder)
        made = self.generator_steps(seed)
        steps += made if traits.finite else []  # a set that cannot be had is found out first, at no cost
        steps += self.network_steps("judge", protocol.judge)
        base = self.baseline.steps(seed) if self.generator_name != "real" else []
        watch = functools.partial(self.watch, seed) if self.watch else None
        recognizer = self._train_step("recognizer", protocol.recipe, seed, made[-1], f"{self.short_name}: ", watch)
        shared = {step.stage.folder for step in steps}
        aside = [step if step.stage.folder in shared else replace(step, baseline=True) for step in base]
        steps += [*aside, *made, recognizer, self._evaluate_step(seed, made, recognizer, base[-1] if base else None)]
        return list({step.stage.folder: step for step in steps}.values())

    @functools.cached_property
    def baseline(self) -> Job:
        """The run that Gap-to-Real is measured against: generator `real` under the same protocol and seed."""
        return Job(self.store, self.protocol, "real", Volume.parse("all"), self.device)

    @functools.cached_property
    def evaluators(self) -> dict[str, Any]:
        """The protocol's evaluators with their settings, by name."""
        evaluators = {}
        for name, settings in self.protocol.evaluators.items():
            kind = registry.load("evaluator", name)
            config = build(kind.Config, Layer(settings, {(): f"protocol {self.protocol.name}, evaluators.{name}"}))
            evaluators[registry.short_name(name)] = kind(config)
            evaluators[registry.short_name(name)].check(self.protocol.benchmarks)
        return evaluators

    def _evaluate_step(self, seed: int, made: list[Step], recognizer: Step, base: Step | None) -> Step:
        evaluators = self.evaluators
        parts = {
            "stage": "evaluate",
            "evaluators": {name: [item.version, item.config.model_dump(mode="json"), item.sources()] for name, item in evaluators.items()},
            "files": [registry.file_digest(name) for name in self.protocol.evaluators],
            "benchmarks": self.benchmarks.stage.key,
            "faces": made[-1].stage.key,
            "real": self.real.stage.key,
            "recognizer": recognizer.stage.key,
            "judge": self.network_key("judge"),
            "baseline": base.stage.key if base else None,
        }
        inputs = {step.stage.name: step.stage.folder for step in made}

        def evaluate(folder: Path, progress: Progress) -> None:
            from synthbench.data.faces import open_faces
            from synthbench.data.pairs import open_pairs
            from synthbench.data.templates import open_templates
            from synthbench.models.encoder import load_encoder, untrained
            from synthbench.plugin import Subject

            inquiries = inputs.get("enroll", Path()) / "inquiries"
            subject = Subject(
                faces=open_faces(made[-1].stage.folder),
                real=open_faces(self.real.stage.folder),
                judge=self.network("judge"),
                recognizer=load_encoder(recognizer.stage.folder).to(self.device),
                benchmarks=[open_pairs(self.benchmarks.stage.folder / name) for name in self.protocol.benchmarks],
                templates=[open_templates(self.benchmarks.stage.folder / name) for name in self.protocol.templates],
                inquiries=open_faces(inquiries) if inquiries.is_dir() else None,
                also_learnt=learning.others(self.learnt),
                baseline=base.stage.folder if base else None,
                untrained=lambda seed: untrained(recognizer.stage.folder, seed, subject.real, self.device),
                progress=progress,
            )
            context = Context(folder, seed, self.protocol.resolution, self.device, subject.real, None)  # type: ignore[arg-type]
            run_evaluators(evaluators, subject, context, progress)

        images = sum(step.images for step in {"real": self.real, **self.learnt}.values())
        networks = 1 + (0 if base or "verification" not in evaluators else evaluators["verification"].config.untrained)
        counted = functools.partial(cost.evaluating, self.protocol, made[-1].images, images, self.benchmarks.images, networks)
        stage, label = self.store.stage("evaluate", content_key(parts)), f"evaluate {self.protocol.name} {self.device.type}"
        before = [self.real, *self.learnt.values(), self.benchmarks, *made, recognizer, *([base] if base else [])]
        before += self.network_steps("judge", self.protocol.judge)
        needs = tuple(step.stage.folder for step in before)
        return Step(stage, f"{self.short_name}: {', '.join(evaluators)}", evaluate, label, counted, needs=needs)
