"""Steps: one stage of a plan each, with how it is built; and the loop that builds what is missing.

What is the same for every run is here: importing or rendering faces, benchmarks, evaluators. pipeline.py wires the steps of one run.
"""

from __future__ import annotations

import functools
import json
import math
import shutil
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthbench import console
from synthbench.data import sources
from synthbench.data.catalogue import WORLD
from synthbench.pipeline.cost import Cost, disk_for
from synthbench.plugin import Context
from synthbench.protocol import Faces, WorldFaces
from synthbench.store import Stage, Store, append, content_key, read_json, write_json
from synthbench.types import FaceBatch, Groups, Progress, Score, Skipped, Slot, UserError

if TYPE_CHECKING:
    from synthbench.data.faces import FaceSet
    from synthbench.data.pairs import PairSet
    from synthbench.models.encoder import Encoder
    from synthbench.recognition.trainer import Step as TrainerStep

Build = Callable[[Path, Progress], "dict[str, Any] | None"]  # (folder, progress) -> facts for the manifest


@dataclass(frozen=True)
class Step:
    """One stage of a plan."""

    stage: Stage
    work: str  # for people
    build: Build = field(repr=False)
    label: str = ""  # steps with the same label take the same time per unit of work on one machine
    counted: Callable[[], Cost] = field(default=Cost, repr=False)  # asked for only when the stage is to be built
    images: int = 0  # of the set of faces that it makes; 0: none, or not known
    baseline: bool = False  # of the real run alone, which nothing but `evaluate` needs
    divided: bool = False  # may be built by several processes at once, see together.py
    part: bool = False  # of a set that the run's own is made of
    needs: tuple[Path, ...] = ()  # folders of the stages that must be there before

    @functools.cached_property
    def cost(self) -> Cost:
        """Work and disk, for the time estimate."""
        return self.counted()


Lead = Callable[[Step, Path, Progress], "dict[str, Any] | None"]


# ------------------------------------------------------------------------------------------------------- how to build


def faces_step(store: Store, resolution: int, name: str, faces: Faces) -> Step:
    """Import or render a set of real faces."""
    r = resolution
    if isinstance(faces, WorldFaces):
        from synthbench.world.renderer import VERSION

        key = content_key({"stage": "faces", "world": faces.for_key(), "renderer": VERSION, "resolution": r})
        count = faces.identities * faces.images
        work = f"embedded world, {faces.identities:,} people x {faces.images}, {r} px"
        work += "".join(f"; {name}: {_listed(share)}" for name, share in faces.shares.items())
        return _faces(store.stage(name, key), work, functools.partial(_render_faces, faces, r), f"render world {r}", count, r)
    source = sources.find(faces.source, "faces")
    if source.stamp and not source.identities:  # registered; a stand-in says nothing
        raise UserError(
            f"{faces.source} has {source.images:,} images and no labels that tell people apart, but the {name} set needs them: one folder "
            "per person. What has no labels can be learnt from by generators that need none (train.faces) and be inquiries (enroll.source)"
        )
    return import_step(store, r, name, source, faces.exclude, skip_damaged=faces.skip_damaged)


def _listed(share: dict[str, float]) -> str:
    return ", ".join(f"{100 * part:g} % {group}" for group, part in share.items())


def open_real(faces: Faces, folder: Path) -> FaceSet:
    """The set of real faces in the folder of its stage, with what is `known` of rendered people."""
    from synthbench.data.faces import open_faces

    found = open_faces(folder)
    if isinstance(faces, WorldFaces):
        found.know = functools.partial(_rendered, faces)
    return found


def _rendered(faces: WorldFaces) -> dict[str, Groups]:
    import torch

    from synthbench.world import attributes

    slot = torch.arange(faces.identities * faces.images)
    return attributes.groups(*attributes.drawn(faces.world, slot // faces.images, slot % faces.images, faces.seed, faces.shares))


def people(faces: Faces) -> int | None:
    """How many people a labelled set of real faces has; None where it is not registered yet."""
    if isinstance(faces, WorldFaces):
        return faces.identities
    known = sources.find(faces.source, "faces").identities
    return known - len(set(faces.exclude)) if known else None


def import_step(
    store: Store,
    resolution: int,
    name: str,
    source: sources.Entry,
    exclude: Iterable[str] = (),
    labelled: bool = True,
    skip_damaged: bool | None = None,
) -> Step:
    """Import the faces of a registered source; one without labels is refused where they must be `labelled`.

    skip_damaged: leave out images that cannot be decoded; None where nobody may choose that.
    """
    left_out = sorted(exclude)
    parts = {"stage": "faces", "source": source.digest, "exclude": left_out, "resolution": resolution, "version": 1}
    if skip_damaged:  # the choice alone: which images are damaged follows from the bytes, whose digest is in the key
        parts["skip_damaged"] = True
    key = content_key(parts)
    work = f"{source.title}, {source.images:,} faces, {resolution} px"
    wish = (
        "--set train.skip_damaged=true" if name == "train-faces" else f"`skip_damaged: true` beside `source: {source.name}` in the protocol"
    )
    choice = f"; or have it left out, {wish}" if skip_damaged is False else ""
    build_ = functools.partial(_import_faces, source, left_out, resolution, labelled, bool(skip_damaged), choice)
    return _faces(store.stage(name, key), work, build_, f"import faces {resolution}", source.images, resolution)


def _faces(stage: Stage, work: str, build_: Build, label: str, images: int, resolution: int) -> Step:
    return Step(stage, work, build_, label, lambda: Cost(images, disk=disk_for(images, resolution)), images)


def public_network(name: str) -> Encoder:
    """A registered checkpoint, loaded."""
    from synthbench.models.checkpoints import load_checkpoint

    source = sources.find(name, "weights")
    return load_checkpoint(source.path, name=name, **source.options)


def followed(steps: Iterable[TrainerStep], folder: Path, progress: Progress) -> dict[str, Any]:
    """Run a training of recognition/trainer.py to its end with progress and a log in `folder`; facts for the manifest."""
    from synthbench.training import loop

    seen: list[float] = []
    log = folder / "metrics.jsonl"
    for step in steps:
        progress(step.number, step.total)
        if not seen:
            loop.cut_log(log, step.number - 1)  # of a run that was killed
        seen.append(step.images_per_second)
        line = {"step": step.number, "loss": step.loss, "lr": step.lr, "images_per_second": round(step.images_per_second, 1)}
        append(log, json.dumps(line) + "\n")
    return {"images_per_second": round(statistics.median(seen), 1)} if seen else {}


def _render_faces(faces: WorldFaces, resolution: int, folder: Path, progress: Progress) -> None:
    import torch

    from synthbench.data.faces import open_faces
    from synthbench.data.shards import ShardWriter
    from synthbench.world import attributes, renderer

    total, chunk = faces.identities * faces.images, 256
    writer = ShardWriter(folder)
    for first in range(writer.done, total, chunk):
        slot = torch.arange(first, min(first + chunk, total))
        identity, sample = slot // faces.images, slot % faces.images
        shown = renderer.render(*attributes.drawn(faces.world, identity, sample, faces.seed, faces.shares), resolution)
        writer.write(FaceBatch(shown, identity))
        progress(first + len(slot), total)
    writer.finish()
    open_faces(folder)


def _import_faces(
    source: sources.Entry,
    exclude: list[str],
    resolution: int,
    labelled: bool,
    skip_damaged: bool,
    choice: str,
    folder: Path,
    progress: Progress,
) -> None:
    from synthbench.data.faces import import_faces
    from synthbench.data.pixels import Damaged

    try:
        with sources.unchanged(source):
            how = source.options if source.kind == "faces" else None  # the images of a pair list are a set too
            how_made = {"exclude": exclude, "labelled": labelled, "skip_damaged": skip_damaged}
            import_faces(source.path, folder, resolution, progress=progress, reading=how, **how_made)  # type: ignore[arg-type]
    except sources.Overwritten:
        shutil.rmtree(folder)  # its first faces may be of other files than its last
        raise
    except Damaged as error:
        raise UserError(f"{error}{choice}. All that are damaged: `synthbench data verify {source.name} --decode`") from None


def read_benchmark(name: str, resolution: int) -> PairSet:
    """Raises UserError for one on which accuracy is not defined."""
    from synthbench.data import pairs

    if name.startswith(WORLD):
        from synthbench.world.pairs import TONES, WORLD_BENCHMARKS, tone_groups, world_pairs

        images, left, right, same = world_pairs(name, resolution)
        people = {"group": tone_groups(len(same)), "groups": TONES} if name == "world-groups" else {}
        return pairs.PairSet.from_arrays(name, images, left, right, same, title=WORLD_BENCHMARKS[name], **people)
    source = sources.find(name, "pairs")
    with sources.unchanged(source):
        return pairs.require_usable(pairs.pairs_from_source(source, resolution))


def import_templates(name: str, resolution: int, folder: Path, progress: Progress) -> None:
    """The template set `name` into `folder`, rendered or decoded."""
    from synthbench.data import pixels
    from synthbench.data.templates import Templates, save_templates

    if name.startswith(WORLD):
        from synthbench.world.templates import WORLD_TEMPLATES, world_templates

        images, columns, galleries = world_templates(name, resolution)
        shown = images.permute(0, 2, 3, 1).contiguous().numpy()
        about = {"title": WORLD_TEMPLATES[name], "source_digest": ""}
        save_templates(name, Templates(**columns, galleries=galleries), lambda row: shown[row], resolution, folder, about, progress)
        return
    from synthbench.data.templatelists import list_templates

    source = sources.find(name, "templates")
    with sources.unchanged(source):
        found = list_templates(source.path)
        about = {"title": source.title, "source_digest": source.digest}
        save_templates(name, found.who, lambda row: pixels.fit(found.image(row), resolution), resolution, folder, about, progress)


def run_evaluators(evaluators: dict[str, Any], subject: Any, context: Context, progress: Progress) -> None:
    scores: list[Score] = []
    skipped: list[dict[str, str]] = []
    for i, (name, evaluator) in enumerate(evaluators.items()):
        progress(i, len(evaluators))
        try:
            found = evaluator.evaluate(subject, context)
        except Skipped as reason:
            found = [reason]
        if not isinstance(found, list):
            raise UserError(f"evaluator {name} returned {type(found).__name__}; it must return a list of Score and Skipped")
        for item in found:
            if isinstance(item, Skipped):
                skipped.append({"metric": getattr(item, "metric", "") or name, "reason": str(item)})
            elif not isinstance(item, Score):
                raise UserError(f"evaluator {name} returned {type(item).__name__}; it must return Score and Skipped")
            elif not (math.isfinite(item.value) and math.isfinite(item.stderr or 0)):
                raise UserError(f"evaluator {name}: {item.metric} is {item.value} (error {item.stderr}), not a finite number")
            else:
                scores.append(item)
    write_json(context.out / "scores.json", {"scores": [vars(score) for score in scores], "skipped": skipped})


def batches_of(batches: Any, what: str) -> Iterator[FaceBatch]:
    """What a plugin yields, as long as that is FaceBatches of tensors. Raises UserError."""
    import torch

    if not isinstance(batches, Iterable):
        raise UserError(f"{what}: generate returned {type(batches).__name__}; it must yield FaceBatch")
    for batch in batches:
        if not isinstance(batch, FaceBatch):
            raise UserError(f"{what}: generate must yield FaceBatch, not {type(batch).__name__}")
        if not all(isinstance(values, torch.Tensor) for values in (batch.images, batch.identity, *batch.columns.values())):
            raise UserError(f"{what}: images, identity and columns of a FaceBatch must be tensors")
        yield batch


def require_batch(batch: FaceBatch, slots: Sequence[Slot], resolution: int, what: str) -> None:
    """Raises UserError for a batch that does not hold the images of `slots`."""
    count = len(batch.identity)
    images, shape = batch.images, (count, 3, resolution, resolution)
    if tuple(images.shape) != shape or str(images.dtype) != "torch.uint8":
        raise UserError(f"{what}: images are {tuple(images.shape)} {images.dtype}; they must be {shape} torch.uint8")
    if batch.identity.tolist() != [slot.identity for slot in slots]:
        raise UserError(f"{what}: the identities of a batch are not those of the slots asked for, in their order")
    if wrong := {"image", "label"} & set(batch.columns):
        raise UserError(f"{what}: a column may not be called {min(wrong)}")
    if odd := [name for name, values in batch.columns.items() if tuple(values.shape) != (count,)]:
        raise UserError(f"{what}: column {odd[0]!r} is {tuple(batch.columns[odd[0]].shape)}; it must be {(count,)}")


# ---------------------------------------------------------------------------------------------------------------- run


def until(steps: list[Step], name: str | None) -> list[Step]:
    """The steps that a run does which stops after the stage `name`: the last of that name, as the real baseline has such a stage too.

    Raises UserError when there is none.
    """
    if not name:
        return steps
    last = max((i for i, step in enumerate(steps) if step.stage.name == name), default=None)
    if last is None:
        raise UserError(f"--until {name}: this run has no such stage; it has {', '.join(dict.fromkeys(s.stage.name for s in steps))}")
    return [step for step in steps[: last + 1] if not step.baseline or name == "evaluate"]


def execute(steps: list[Step], store: Store, lead: Lead | None = None) -> list[dict[str, Any]]:
    """Build what is not cached, in order. Returns name, key, state before, and seconds of each stage.

    lead: builds a step that may be divided, where several processes are there to do so.
    """
    require_space(steps, store)
    states = [step.stage.state for step in steps]
    done = []
    for step, state in zip(steps, states):
        seconds = 0.0
        if state != "cached":
            seconds = _build(step, state, lead)
        row = {"name": step.stage.name, "key": step.stage.key, "state": state, "seconds": seconds}
        done.append({**row, "part": True} if step.part else row)
    return done


def require_space(steps: list[Step], store: Store) -> None:
    """Raises UserError when the disk cannot hold what is not cached."""
    costs = [step.cost for step in steps if step.stage.state != "cached"]
    store.require_space(sum(cost.disk for cost in costs) + max((cost.scratch for cost in costs), default=0))


def _build(step: Step, state: str, lead: Lead | None) -> float:
    stage = step.stage
    with stage.building() as facts:
        if facts is None:
            return 0.0
        console.note(f"{stage.name}: {step.work}" + (" (resumed)" if state == "resume" else ""))
        with console.progress(stage.name) as progress:
            together = lead if step.divided else None
            facts.update((together(step, stage.folder, progress) if together else step.build(stage.folder, progress)) or {})
        (stage.folder / "checkpoint.pt").unlink(missing_ok=True)
        facts.update(work=step.work, label=step.label)
        if state == "run" and not together:  # only an uninterrupted build by one process tells the rate
            facts.update(amount=step.cost.amount, unit=step.cost.unit)
    manifest = stage.manifest()
    assert manifest is not None
    console.note(f"{stage.name}: done in {console.duration(manifest['seconds'])}")
    return float(manifest["seconds"])


def seed_scores(step: Step) -> dict[str, Any]:
    """What an evaluate stage found: {"scores": [...], "skipped": [...]}. Raises UserError when the file is damaged."""
    path = step.stage.folder / "scores.json"
    found = read_json(path)
    if not isinstance(found, dict) or not {"scores", "skipped"} <= found.keys():
        raise UserError(f"{path} is damaged; run the same command with --force evaluate")
    return found
