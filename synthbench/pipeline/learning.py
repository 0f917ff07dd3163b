"""What a generator or an encoder learns from: the protocol's real set, or more photographs than those (`faces`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from synthbench.config import Layer, merge
from synthbench.data import sources
from synthbench.pipeline.steps import Step, import_step
from synthbench.protocol import Protocol, SourceFaces
from synthbench.store import Store, content_key
from synthbench.types import UserError

if TYPE_CHECKING:
    from synthbench.data.faces import FaceSet
    from synthbench.plugin import Generator
    from synthbench.training.loop import Unlabelled

REAL = "real"


def refuse_labels(name: str, kind: type[Generator[Any]], layers: Sequence[Layer]) -> None:
    """Raises UserError where a generator that needs labels is to learn from more than the real set."""
    given = merge(layers)
    train = given.data.get("train")
    faces = train.get("faces") if isinstance(train, dict) else None
    if kind.traits.needs_labels and isinstance(faces, (str, list)) and faces != [REAL]:  # a number is a plugin's own setting
        raise UserError(
            f"{given.origin.get(('train', 'faces'), 'train.faces')}: {name} learns who is on each image and paints or mixes the people of "
            "the protocol's real set, so it learns from that alone; train.faces is for generators that need no labels. Leave it out, or "
            "give a protocol whose `real` has the people"
        )


def steps(generator: Generator[Any], protocol: Protocol, store: Store, real: Step) -> dict[str, Step]:
    """The sets of faces that the train stage learns from, by their names in `train.faces`; none for a generator that does not train.

    Raises UserError for a set that is named twice under two names, and where images are to be left out of none; DataMissing for one that
    is not registered.
    """
    if not generator.traits.trains:
        return {}
    train = _unlabelled(generator)
    if train and train.skip_damaged and train.faces == (REAL,):
        raise UserError(
            "train.skip_damaged is for other sets that train.faces names; of the real set the protocol says it, beside `source`"
        )
    return named(train.faces, "train", protocol, store, real, train.skip_damaged) if train else {REAL: real}


def named(
    names: Iterable[str], what: str, protocol: Protocol, store: Store, real: Step, skip_damaged: bool | None = None
) -> dict[str, Step]:
    """The sets of faces called `names` at the protocol's resolution, for the stage `what`; `real` is the protocol's real set.

    skip_damaged: of the others, as for `import_step`.
    """
    found: dict[str, Step] = {}
    digests = {sources.find(protocol.real.source, "faces").digest: REAL} if isinstance(protocol.real, SourceFaces) else {}
    for name in names:
        if name == REAL:
            found[name] = real
            continue
        source = sources.find(name, "faces")
        if (same := digests.setdefault(source.digest, name)) != name:
            is_real = "is the protocol's real set, with the people that it leaves out" if same == REAL else f"has the same files as {same}"
            raise UserError(f"{what}.faces: {name} {is_real}; name {same} instead")
        found[name] = import_step(store, protocol.resolution, f"{what}-faces", source, labelled=False, skip_damaged=skip_damaged)
    return found


def _unlabelled(generator: Generator[Any]) -> Unlabelled | None:
    from synthbench.training.loop import Unlabelled

    train = getattr(generator.config, "train", None)
    return train if isinstance(train, Unlabelled) else None


def follows_encoder(generator: Generator[Any]) -> bool:
    """Whether its loss has a term on the encoder's embedding of what it paints."""
    train = getattr(generator.config, "train", None)
    return any(getattr(train, name, 0) for name in ("similarity_weight", "identity_weight"))


def key(learnt: Mapping[str, Step]) -> dict[str, Any]:
    """What enters the key of the train stage, beside the real set; nothing where it learns from that alone."""
    return {} if list(learnt) == [REAL] else {"faces": content_key({"sets": [step.stage.key for step in learnt.values()]})}


def told(learnt: Mapping[str, Step]) -> str:
    """`the real set`, or `real + aaf-112, 6,292 + 10,544 images`."""
    if list(learnt) == [REAL]:
        return "the real set"
    return f"{' + '.join(learnt)}, {' + '.join(f'{step.images:,}' for step in learnt.values())} images"


def faces(learnt: Mapping[str, Step]) -> FaceSet:
    """The sets as one."""
    from synthbench.data.faces import open_faces
    from synthbench.data.joined import Joined

    sets = {name: open_faces(step.stage.folder) for name, step in learnt.items()}
    return Joined(sets) if len(sets) > 1 else next(iter(sets.values()))


def others(learnt: Mapping[str, Step]) -> FaceSet | None:
    """What is learnt from besides the real set; None where that is nothing."""
    rest = {name: step for name, step in learnt.items() if name != REAL}
    return faces(rest) if rest else None


def sizes(learnt: Mapping[str, Step]) -> dict[str, int]:
    """Images of each set, as they were imported."""
    from synthbench.data.faces import open_faces

    return {name: len(open_faces(step.stage.folder)) for name, step in learnt.items()}
