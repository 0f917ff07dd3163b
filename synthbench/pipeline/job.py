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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthbench import registry
from synthbench.config import Layer, build, parse_set
from synthbench.pipeline import checks, cost, divided, learning, parts
from synthbench.pipeline.fixed import Fixed
from synthbench.pipeline.loading import load_generator
from synthbench.pipeline.parts import Finished
from synthbench.pipeline.steps import Step, batches_of, open_real, people, require_batch, run_evaluators
from synthbench.plugin import Context, Traits
from synthbench.protocol import Protocol, WorldFaces
from synthbench.results import lookup, record
from synthbench.store import Store, content_key
from synthbench.training.crew import at_work
from synthbench.types import FaceBatch, Groups, Progress, Slot, UserError, Volume

if TYPE_CHECKING:
    import torch

    from synthbench.data.faces import FaceSet
    from synthbench.plugin import Generator

Counted = Callable[[], cost.Cost]


@dataclass(frozen=True)
class Job(Fixed):
    """What a user asked for: one generator at one volume under one protocol."""

    store: Store
    protocol: Protocol
    generator_name: str
    volume: Volume
    device: torch.device
    settings: Layer = field(default_factory=Layer)  # from `--set`
    watch: Callable[[int, int, float], None] | None = None  # told of recognizers in training: (seed, epochs done, validation accuracy)
    within: tuple[str, ...] = ()  # the sets of which its own is a part, by the texts that name them

    @property
    def short_name(self) -> str:
        return registry.short_name(self.generator_name)

    @property
    def called(self) -> str:
        """Its name with those of its parts."""
        return record.called({"generator": self.short_name, "parts": self.parts})

    @functools.cached_property
    def generator(self) -> Generator:
        return load_generator(self.generator_name, self.protocol, self.settings)

    def at(self, volume: str) -> Job:
        """The same at a volume; "": all that a finite generator has, else as much as the protocol says. Raises UserError."""
        finite = self.generator.traits.finite
        found = Volume.parse(volume or ("all" if finite else self.protocol.volume))
        if not finite and not found.blocks:
            raise UserError(f"{self.short_name} makes any number of images; give --volume, such as {self.protocol.volume}")
        if found.identities == 1:
            raise UserError(f"volume {found} has one identity; a recognizer needs at least two")
        return replace(self, volume=found)

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

    # ------------------------------------------------------------------------------------- the sets that it is made of

    @functools.cached_property
    def parts(self) -> dict[str, Job | Finished]:
        """The sets that the generator's own is made of, by the texts that name them. Raises UserError."""
        return {text: self._part(text) for text in self.generator.parts()}

    def _part(self, text: str) -> Job | Finished:
        within = (*(self.within or (self.generator_name,)), text)
        if text in within[:-1]:
            raise UserError(f"{text} is a part of itself")
        try:
            name, volume, settings = parts.understood(text, self.store)
            if isinstance(name, dict):
                return Finished(self.store, name, self.protocol.resolution)
            job = replace(self, generator_name=name, settings=parse_set(settings), watch=None, within=within).at(volume)
            job.check(people(self.protocol.real))
            return job
        except UserError as error:
            raise type(error)(f"part {text!r} of {self.short_name}: {error}") from None

    def part_steps(self, seed: int) -> list[Step]:
        """The stages that make the parts. Raises UserError for two that are one set."""
        found: dict[Path, str] = {}
        steps: list[Step] = []
        for text, part in self.parts.items():
            steps += part.set_steps(seed)
            if (other := found.setdefault(steps[-1].stage.folder, text)) != text:
                raise UserError(f"{self.short_name}: its parts {other!r} and {text!r} are one and the same set; name it once")
        return steps

    def set_steps(self, seed: int) -> list[Step]:
        """The stages that make the set, where it is a part of another one."""
        encoder = self.network_steps("encoder", self.protocol.encoder) if self.generator.traits.uses_encoder else []
        own = [replace(step, part=True) for step in self.generator_steps(seed)]
        return [*self.learnt.values(), *encoder, *self.part_steps(seed), *own]

    def part_faces(self, seed: int) -> tuple[FaceSet, Sequence[str]]:
        """The set, where it is a part of another one, and what its people are called where they come from."""
        from synthbench.data.faces import open_faces

        *before, made = self.generator_steps(seed)
        inputs, real = {step.stage.name: step.stage.folder for step in before}, open_faces(self.real.stage.folder)
        folder, r = made.stage.folder, self.protocol.resolution
        context = Context(folder, seed, r, self.device, real, None, inputs, parts=self.shown(seed))  # type: ignore[arg-type]
        return open_faces(folder), self.generator.names(context)

    def shown(self, seed: int) -> list[FaceSet]:
        """The sets of the parts, as the generator sees them."""
        return [parts.shown(text, *part.part_faces(seed), part.photographs) for text, part in self.parts.items()]

    @functools.cached_property
    def traits(self) -> Traits:
        """Those of the generator; of a set that is made of others, those of its parts."""
        return parts.traits(self.generator.traits, self.parts) if self.parts else self.generator.traits

    @property
    def photographs(self) -> str:
        """Which images of the set are photographs of real people; those of a rendered real set are none."""
        rendered = isinstance(self.protocol.real, WorldFaces) and not self.traits.new_identities and not self.parts
        return "" if rendered else self.traits.real_photographs

    @property
    def rendered(self) -> bool:
        """Whether no image of the set shows a real person; known once the real set is there."""
        if self.parts:
            return all(part.rendered for part in self.parts.values())
        plain, real = self.generator.config.model_dump(mode="json"), {"name": "real", "key": self.real.stage.key}
        made = {"traits": vars(self.traits), "settings": plain, "learnt_from": self.learnt, "stages": [real]}
        return lookup.rendered(self.store, made)

    # ------------------------------------------------------------------------------------------ the generator's stages

    @functools.cached_property
    def learnt(self) -> dict[str, Step]:
        """The sets that the generator, or those of its parts, learns from, by name; see `learning.steps`."""
        own = learning.steps(self.generator, self.protocol, self.store, self.real)
        return own | {name: step for part in self.parts.values() for name, step in part.learnt.items()}

    def context(self, folder: Path, seed: int, progress: Progress, inputs: dict[str, Path]) -> Context:
        from synthbench.device import sampling_batch

        faces = open_real(self.protocol.real, self.real.stage.folder)
        self.check(faces.identities)
        return Context(
            out=folder,
            seed=seed,
            resolution=self.protocol.resolution,
            device=self.device,
            faces=faces,
            encoder=self.network("encoder") if self.generator.traits.uses_encoder else None,  # type: ignore[arg-type]
            inputs=inputs,
            batch_size=sampling_batch(),
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
        traits, r, asked = self.generator.traits, self.protocol.resolution, seed
        seed = 0 if traits.finite else seed  # the images are what they are
        made_of = [part.set_steps(asked)[-1] for part in self.parts.values()]
        upstream: dict[str, Any] = {"real": self.real.stage.key}
        if made_of:
            upstream["parts"] = [step.stage.key for step in made_of]
        needs = [step.stage.folder for step in (self.real, *self.learnt.values(), *made_of)]
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
                return run(replace(self.context(folder, seed, progress, before), parts=self.shown(asked)))

            shared = not traits.undivided if name == "train" else name == "generate" and not traits.finite
            made = kept if name == "generate" else 0
            steps.append(Step(stage, work, build_, label, counted, made, divided=shared, needs=(*needs, *before.values())))
            inputs[name] = stage.folder
            upstream.clear()
            upstream["upstream"] = stage.key

        there = sum(step.images for step in made_of)
        kept = there if made_of and not self.volume.blocks else cost.made(self.generator, self.volume, self.real.images)
        if traits.trains:
            steps += [step for step in self.learnt.values() if step is not self.real]
            images = sum(step.images for step in self.learnt.values())
            counted = functools.partial(cost.training, self.generator, self.protocol, images)
            work = f"{self.called}: on {learning.told(self.learnt)}"
            add("train", "train", work, self._train, counted, learning.key(self.learnt))
        count, images = self.volume.identities, self.volume.images
        copies = count * (self.part("sample").get("copies") or 0)  # of inquiries, besides the images of the volume
        digests = {"sources": self.generator.sources(r)}
        if traits.enrolls:
            enroll = functools.partial(self.generator.enroll, count)
            people = f"{self.called}: {f'{count:,}' if count else 'all'} identities"
            counted = functools.partial(cost.enrolling, self.generator, self.protocol, count, self.real.images + there)
            add("enroll", "enroll", people, enroll, counted, {"count": count, **digests})
        work = f"{self.called}: " + (f"{count:,} identities, {images:,} images" if images else "every image there is")
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

    def _known(self, seed: int, real: FaceSet, inputs: dict[str, Path], folder: Path, images: int) -> Mapping[str, Groups]:
        """What is known of who is on the images of the set."""
        context = Context(folder, seed, self.protocol.resolution, self.device, real, None, inputs)  # type: ignore[arg-type]
        known = self.generator.known(self.volume, context)
        for name, groups in known.items():
            if groups.number.shape != (images,):
                raise UserError(f"generator {self.short_name}: known[{name!r}] is {groups.number.shape}; it must be {(images,)}")
        return known

    def steps(self, seed: int) -> list[Step]:
        """Every stage of the run with this seed, in order, with those of the real baseline."""
        protocol, traits = self.protocol, self.generator.traits
        self.check(people(protocol.real))
        steps = [self.real, *self.learnt.values(), self.benchmarks]  # what may be refused, before anything is trained
        if traits.uses_encoder:
            steps += self.network_steps("encoder", protocol.encoder)
        steps += self.part_steps(seed)
        made = self.generator_steps(seed)
        steps += made if traits.finite else []  # a set that cannot be had is found out first, at no cost
        steps += self.network_steps("judge", protocol.judge)
        base = self.baseline.steps(seed) if self.generator_name != "real" else []
        watch = functools.partial(self.watch, seed) if self.watch else None
        recognizer = self._train_step("recognizer", protocol.recipe, seed, made[-1], f"{self.called}: ", watch)
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
            real = open_real(self.protocol.real, self.real.stage.folder)
            faces = open_faces(made[-1].stage.folder)
            faces.know = functools.partial(self._known, seed, real, inputs, folder, len(faces))
            subject = Subject(
                faces=faces,
                real=real,
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
        return Step(stage, f"{self.called}: {', '.join(evaluators)}", evaluate, label, counted, needs=needs)
