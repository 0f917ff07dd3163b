"""The contract of a generator: an image depends on settings, weights, seed and slot only. Every check yields or answers a line."""

from __future__ import annotations

import filecmp
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from synthbench import registry
from synthbench.config import Layer
from synthbench.pipeline.steps import batches_of
from synthbench.plugin import Context, Generator
from synthbench.protocol import load_protocol
from synthbench.store import content_key
from synthbench.testing.declarations import check_class
from synthbench.testing.world import RESOLUTION, Trial, rendered, tiny_encoder
from synthbench.types import FaceBatch, Slot, UserError, Volume

if TYPE_CHECKING:
    import torch

VOLUME, SMALLER = "4x3", "2x3"
FINITE = 12  # slots taken of a finite set
GREY = 4.0  # standard deviation of the 256 levels below which an image shows nothing yet

Made = dict[Slot, tuple["torch.Tensor", dict[str, float]]]  # image (3, R, R) uint8 and columns of each slot


def check_generator(name: str, settings: Layer, root: Path) -> Iterator[str]:
    kind = registry.load("generator", name)
    yield check_class(kind, name)
    generator = tiny_generator(kind, name, settings)
    faces = rendered("train")
    trial = Trial(generator, registry.short_name(name), root, faces, tiny_encoder(faces, 0))
    traits = kind.traits
    if traits.trains:
        yield check_train(trial)
    if traits.enrolls:
        enroll(trial, Volume.parse(VOLUME).identities, "enroll")
    slots = check_slots(trial)
    made = generate(trial, slots, trial.context("generate"))
    columns = sorted({name for _, columns in made.values() for name in columns})
    yield f"{len(made)} slots: (B, 3, {RESOLUTION}, {RESOLUTION}) uint8, labels in slot order, columns {', '.join(columns) or 'none'}"
    compare(trial, made, generate(trial, slots, trial.context("generate")), "differs when the same slots are generated again")
    yield "the same slots again: the same images"
    yield check_independence(trial, slots, made)
    if traits.enrolls:
        yield check_enroll(trial, slots, made)
    if traits.trains:
        yield check_resumed_images(trial, slots, made)
    if not traits.finite:
        yield check_seed(trial, slots, made)
    yield "nothing was written outside context.out"


def tiny_generator(kind: type[Generator], name: str, settings: Layer) -> Generator:
    """The generator with its defaults, its file, the protocol's changes, `tiny` and `--set`, later ones winning."""
    from synthbench.pipeline.loading import load_generator

    generator = load_generator(
        name, load_protocol("demo"), Layer(dict(kind.tiny), {(part,): f"{kind.__name__}.tiny" for part in kind.tiny}), settings
    )
    try:
        content_key(generator.config.model_dump(mode="json"))
    except ValueError as error:
        raise UserError(f"{registry.short_name(name)}: its settings have no text form for the key ({error})") from None
    return generator


def check_train(trial: Trial) -> str:
    """Trains to the end, and again with a Ctrl-C half-way, continued by a new process: the same weights."""
    steps: list[int] = []
    context = trial.context("train", progress=lambda done, total: steps.append(done))
    with trial.confined(context):
        trial.plugin.train(context)
    if len(steps) < 2:
        raise trial.fault("train calls context.progress(done, total) less than twice; call it at every step, so that a run can be watched")
    stop, calls = max(1, len(steps) // 2), itertools.count(1)

    def interrupt(done: int, total: int) -> None:
        if next(calls) == stop:
            raise KeyboardInterrupt

    again: list[int] = []
    context = trial.context("train-interrupted", progress=interrupt)
    try:
        with hurried():
            trial.again().train(context)
        raise trial.fault("train swallows KeyboardInterrupt; Ctrl-C must stop it")
    except KeyboardInterrupt:
        pass
    trial.again().train(trial.context("train-interrupted", progress=lambda done, total: again.append(done)))
    for whole in sorted((trial.root / "train").rglob("*.safetensors")):
        other = trial.root / "train-interrupted" / whole.relative_to(trial.root / "train")
        if not other.is_file() or not filecmp.cmp(whole, other, shallow=False):
            raise trial.fault(f"{whole.name} differs after train was interrupted at step {steps[stop - 1]} and run again; it must not")
    trial.inputs["train"] = trial.root / "train"
    went_on = "continued there" if again and again[0] > steps[0] else "began again"
    return f"train: {len(steps)} steps; interrupted at {steps[stop - 1]}, it {went_on} to the same weights"


@contextmanager
def hurried() -> Iterator[None]:
    """Every look at time.monotonic() finds a minute gone, so that what is saved every so often is saved at every step."""
    real, minutes = time.monotonic, itertools.count()
    start = real()
    time.monotonic = lambda: start + 60.0 * next(minutes)
    try:
        yield
    finally:
        time.monotonic = real


def check_enroll(trial: Trial, slots: Sequence[Slot], made: Made) -> str:
    """The first identities of a larger enrolment are those of a smaller one."""
    small, large = (Volume.parse(text).identities for text in (SMALLER, VOLUME))
    whole = trial.inputs["enroll"]
    enroll(trial, small, "enroll-smaller")
    first = [slot for slot in slots if slot.identity < small]
    compare(trial, made, generate(trial, first, trial.context("generate")), f"depends on how many are enrolled, {small} or {large}")
    trial.inputs["enroll"] = whole
    return f"enroll: the first {small} of {large} identities are those of {small}"


def enroll(trial: Trial, count: int, out: str, seed: int = 0) -> None:
    """Enroll `count` identities into the folder `out`, which becomes the input of what follows."""
    context = trial.context(out, seed)
    with trial.confined(context):
        trial.again().enroll(count, context)
    if (context.out / "inquiries").is_dir():
        from synthbench.data.faces import open_faces

        inquiries = open_faces(context.out / "inquiries")
        if inquiries.identity.tolist() != list(range(count)) or inquiries.resolution != RESOLUTION:
            raise trial.fault(f"enroll({count}): inquiries/ must hold one {RESOLUTION} px image per identity, 0 to {count - 1}, in order")
    trial.inputs["enroll"] = context.out


def check_slots(trial: Trial) -> list[Slot]:
    """The slots that the following checks generate. A larger volume starts with the smaller; only a finite generator answers `all`."""
    context = trial.context("generate")
    everything = Volume.parse("all")
    if trial.plugin.traits.finite:
        slots = trial.plugin.slots(everything, context)
        return slots[:: max(1, len(slots) // FINITE)][:FINITE]
    try:
        trial.plugin.slots(everything, context)
    except UserError:
        pass
    else:
        raise trial.fault("answers volume `all`, though traits.finite is False")
    small, slots = (trial.plugin.slots(Volume.parse(text), context) for text in (SMALLER, VOLUME))
    if slots[: len(small)] != small:
        raise trial.fault(f"the slots of volume {VOLUME} do not start with those of {SMALLER}")
    if len(set(slots)) < len(slots):
        raise trial.fault(f"volume {VOLUME} has a slot twice")
    return slots


def generate(trial: Trial, slots: Sequence[Slot], context: Context) -> Made:
    """What a fresh generator makes of `slots`, checked for shape, type, labels and columns."""
    made: Made = {}
    with trial.confined(context):
        for batch in batches_of(trial.again().generate(slots, context), trial.name):
            made |= opened(trial, batch, slots[len(made) :], next(iter(made.values()))[1] if made else None)
    if len(made) < len(slots):
        raise trial.fault(f"made {len(made)} images for {len(slots)} slots; the first one missing is {tuple(slots[len(made)])}")
    return made


def opened(trial: Trial, batch: FaceBatch, slots: Sequence[Slot], columns: dict[str, float] | None) -> Made:
    """The images of a batch by slot. `slots`: those that are still to come. `columns`: of the batches before."""
    import torch

    images, count = batch.images, len(batch.images)
    at = f"the batch that begins at slot {tuple(slots[0])}" if slots else "the last batch"
    if images.dtype != torch.uint8 or tuple(images.shape[1:]) != (3, RESOLUTION, RESOLUTION):
        raise trial.fault(
            f"{at}: images are {tuple(images.shape)} {images.dtype}; (B, 3, {RESOLUTION}, {RESOLUTION}) torch.uint8 is needed"
        )
    if not 1 <= count <= len(slots):
        raise trial.fault(f"{at}: it has {count} images, but {len(slots)} are still to come")
    if batch.identity.dtype != torch.int64 or batch.identity.tolist() != [slot.identity for slot in slots[:count]]:
        raise trial.fault(f"{at}: identity must be (B,) torch.int64 and name the identity of each slot, in the order of the slots")
    if wrong := {"image", "label"} & set(batch.columns):
        raise trial.fault(f"{at}: a column may not be called {min(wrong)}")
    for name, values in batch.columns.items():
        if tuple(values.shape) != (count,):
            raise trial.fault(f"{at}: column {name} is {tuple(values.shape)}; ({count},) is needed")
    if columns is not None and set(columns) != set(batch.columns):
        raise trial.fault(f"{at}: it has the columns {sorted(batch.columns)}, the batches before {sorted(columns)}")
    rows = [{name: values[i].item() for name, values in batch.columns.items()} for i in range(count)]
    return {Slot(*slot): (images[i].cpu().clone(), rows[i]) for i, slot in enumerate(slots[:count])}


def compare(trial: Trial, one: Made, other: Made, what: str) -> None:
    """Raise UserError unless the slots of `other` look as in `one`."""
    for slot, (image, columns) in other.items():
        before, columns_before = one[slot]
        apart = (image.int() - before.int()).abs()
        if apart.any():
            size = f"{int((apart > 0).sum())} of {apart.numel()} values, by up to {int(apart.max())} of 255"
            raise trial.fault(f"the image of slot {tuple(slot)} {what} ({size}). It may depend on settings, weights, seed and slot only")
        for name, value in columns.items():
            if not (math.isclose(value, columns_before[name], rel_tol=1e-4, abs_tol=1e-4) or value != value != columns_before[name]):
                raise trial.fault(f"column {name} of slot {tuple(slot)} {what}: {columns_before[name]} and {value}")


def check_independence(trial: Trial, slots: Sequence[Slot], made: Made) -> str:
    """A subset, other batch sizes, and shards in any order give the images of the whole."""
    subset = [*slots[1::3], slots[0]]
    compare(trial, made, generate(trial, subset, trial.context("generate")), "depends on which other slots are generated with it")
    compare(trial, made, generate(trial, slots[-1:], trial.context("generate")), "differs when it is generated alone")
    for size in (1, 5):
        compare(
            trial, made, generate(trial, slots, trial.context("generate", batch_size=size)), f"depends on the batch size (64 or {size})"
        )
    third = -(-len(slots) // 3)
    worker = trial.again()
    for first in reversed(range(0, len(slots), third)):
        context = trial.context("generate")
        batches = list(worker.generate(slots[first : first + third], context))
        part: Made = {}
        for batch in batches:
            part |= opened(trial, batch, slots[first + len(part) : first + third], None)
        compare(trial, made, part, "depends on what the same process generated before")
    return "any subset, batch size and order of shards: the same images"


def check_resumed_images(trial: Trial, slots: Sequence[Slot], made: Made) -> str:
    """Weights of the interrupted training give the images of the uninterrupted one."""
    whole = trial.inputs["train"]
    trial.inputs["train"] = trial.root / "train-interrupted"
    compare(trial, made, generate(trial, slots, trial.context("generate")), "differs when train was interrupted and run again")
    trial.inputs["train"] = whole
    return "images from the resumed weights: the same"


def check_seed(trial: Trial, slots: Sequence[Slot], made: Made) -> str:
    """Another seed gives other images, and so does another slot. Photographs (column `real`) and copies are what they are."""
    if trial.plugin.traits.enrolls:
        enroll(trial, Volume.parse(VOLUME).identities, "enroll-seed-1", seed=1)
    other = generate(trial, slots, trial.context("generate", seed=1))
    synthetic = [slot for slot in made if slot.sample >= 0 and not made[slot][1].get("real")]
    if alike := coinciding([(made[slot][0], other[slot][0]) for slot in synthetic]):
        slot = tuple(synthetic[alike[0]])
        raise trial.fault(f"the image of slot {slot} is the same with seeds 0 and 1; draw from seeds.derive(context.seed, ...)")
    pairs = list(itertools.combinations(synthetic, 2))
    of_one = [pair for pair in pairs if pair[0].identity == pair[1].identity]
    for some in (of_one, pairs):
        if alike := coinciding([(made[one][0], made[two][0]) for one, two in some]):
            one, two = map(tuple, some[alike[0]])
            raise trial.fault(f"slots {one} and {two} have the same image")
    return "another seed or another slot: another image"


def coinciding(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[int]:
    """The numbers of the pairs of images that are the same, unless that may be chance.

    What hardly trained networks paint is nearly grey, and two of their images may round to the same bytes: images of so little contrast are
    the same for another reason only when most pairs are.
    """
    same = [i for i, (one, other) in enumerate(pairs) if one.equal(other)]
    return same if 2 * len(same) > len(pairs) else [i for i in same if pairs[i][0].float().std() > GREY]
