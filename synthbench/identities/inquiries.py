"""Inquiries: the images that define new identities, chosen so that no two look alike (CemiFace, arXiv 2409.18876, section 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from safetensors.torch import save_file
from torch import Tensor

from synthbench import console
from synthbench.config import Settings
from synthbench.data import damage
from synthbench.data import faces as data
from synthbench.data.catalogue import Entry
from synthbench.data.labelled import Source as LabelledSet
from synthbench.data.pixels import Damaged
from synthbench.data.shards import ShardWriter
from synthbench.device import send
from synthbench.identities import sampling, unconditional
from synthbench.models.encoder import CODES, read_tensors
from synthbench.plugin import C, Context, Generator, Traits
from synthbench.protocol import OWN
from synthbench.store import remove, write_json, writing
from synthbench.types import FaceBatch, Slot, UserError, Volume

BLOCK = 256  # candidates embedded and compared at a time
PAINTED = "painted"  # scratch of a stage: candidates that cost many passes of a network each, by block
ENDLESS = ("world", "unconditional")  # sources with a next candidate for ever


class FromSource(Settings):
    """The `enroll` part of a config, as far as it tells whose faces are taken or imitated."""

    late = ("skip_damaged",)
    source: str = "real"
    skip_damaged: bool = Field(
        False, description="leave out images of the source that cannot be decoded; else the first of them ends the run"
    )

    @model_validator(mode="after")
    def _of_a_source(self) -> FromSource:
        if self.skip_damaged and self.source in OWN:
            raise ValueError(f"skip_damaged is for a registered source or a path, and source is {self.source}")
        return self


class Inquiries(FromSource):
    """The `enroll` part of a generator's config."""

    source: str = Field(
        "real",
        description="real: people of the real set, then not new | world | a registered source | path of images or of a generated set",
    )
    threshold: float = Field(0.3, ge=-1, le=1, description="highest cosine between two inquiries under the encoder (CemiFace: below 0.3)")
    tries: int = Field(20, ge=1, description="candidates looked at per identity wanted, where there is no end of them")

    @property
    def photographs(self) -> bool:
        """Whether inquiries are taken for photographs of real people."""
        return self.source not in ENDLESS

    @model_validator(mode="after")
    def _own_model(self) -> Inquiries:
        if self.source == "unconditional" and not isinstance(self, NewPeople):
            raise ValueError("source unconditional: this generator trains no such model; give another source")
        return self


class NewPeople(Inquiries):
    """The `enroll` part of a generator that may train a source of inquiries of its own, with `unconditional.train`."""

    source: str = Field("unconditional", description="unconditional: the model of train.unconditional | as in Inquiries")
    sampler: unconditional.Sample = unconditional.Sample()


def refuse_model(settings: NewPeople, model: unconditional.Train | None) -> None:
    """Raise ValueError when the source is the generator's own model, and that is not trained or has fewer steps than are to be sampled."""
    if settings.source != "unconditional":
        return
    if model is None:
        raise ValueError("enroll.source unconditional needs the model of train.unconditional, which is null")
    if settings.sampler.steps > model.T:
        raise ValueError(f"enroll.sampler.steps {settings.sampler.steps} is more than train.unconditional.T {model.T}")


class Codes(NamedTuple):
    """What `enroll` chose."""

    codes: Tensor  # (N, dim) float32, raw embeddings by the encoder; their directions are the identity centres
    faces: data.FaceSet | None  # the inquiries, one image each, in the same order; None for identities that are vectors alone


class ByInquiry(Generator[C]):
    """A generator whose identities are inquiries: what its config says of them in `enroll`, and of their copies in `sample.copies`."""

    def about(self, config: Any) -> Traits:
        """People of the real set are not new, copies of inquiries are photographs where those are, and a flow learns from labels."""
        photographs = self.traits.real_photographs if self._copies(config) and config.enroll.photographs else ""
        labels = self.traits.needs_labels or getattr(config.sample, "directions", "any") == "flow"
        return replace(self.traits, new_identities=config.enroll.source != "real", real_photographs=photographs, needs_labels=labels)

    def sources(self, resolution: int) -> dict[str, str]:
        return digests(self._inquiries)

    def check(self, volume: Volume, people: int | None) -> None:
        check(self._inquiries, volume, people)

    def enroll(self, count: int, context: Context) -> None:
        enroll(count, self._inquiries, context)

    def names(self, context: Context) -> Sequence[str]:
        inquired = load(context.inputs["enroll"]).faces if self._inquiries.photographs else None
        return inquired.names if inquired else ()

    def slots(self, volume: Volume, context: Context) -> list[Slot]:
        return sampling.with_copies(super().slots(volume, context), self._copies(self.config))

    @property
    def _inquiries(self) -> Inquiries:
        return self.config.enroll  # type: ignore[attr-defined, no-any-return]

    @staticmethod
    def _copies(config: Any) -> int:
        return getattr(config.sample, "copies", 0)


def check(settings: Inquiries, volume: Volume, people: int | None) -> None:
    """Raises UserError when the real set (see Generator.check), or a registered one, has fewer people than are wanted of it."""
    from synthbench.data import sources

    if settings.source != "real":
        if is_path(settings.source) or settings.source not in sources.names_registered():
            return
        people = sources.find(settings.source).identities
    if people and volume.identities > people:
        raise UserError(
            f"enroll.source {settings.source!r}: the set has {people:,} people, but {volume.identities:,} identities are wanted. Ask for a "
            f"volume of at most {people:,} identities, or give another enroll.source"
        )


def enroll(count: int, settings: Inquiries, context: Context, fits: Callable[[Tensor], Tensor] | None = None) -> None:
    """Write `count` inquiries into context.out: `inquiries/` (shards, one image per identity), codes.safetensors, enroll.json.

    Candidates come in a fixed order and each is kept when it resembles none kept before, so the first k of n are the same k.
    fits: what else is asked of a candidate: unit embeddings (B, dim) on the CPU -> (B,) bool.
    Raises UserError when too few fit.
    """
    limit, batches = candidates(settings, context, settings.tries * count)
    encoder = context.encoder
    kept = torch.empty(count, encoder.dim)
    codes, names, tried, n = [], [], 0, 0
    writer = ShardWriter(context.out / "inquiries", afresh=True)  # images and codes are of one run
    for images, labels in batches:
        with torch.no_grad():
            raw = encoder(images.to(context.device).float() / 127.5 - 1).float().cpu()
        unit = torch.nn.functional.normalize(raw, dim=1)
        fit = torch.arange(len(unit)) if fits is None else fits(unit).nonzero()[:, 0]
        chosen = fit[choose(unit[fit], kept[:n], settings.threshold, count - n)]
        kept[n : n + len(chosen)] = unit[chosen]
        writer.write(FaceBatch(images[chosen], torch.arange(n, n + len(chosen))))
        n += len(chosen)
        codes.append(raw[chosen])
        names += [labels[i] for i in chosen]
        tried += len(images) if n < count else (int(chosen[-1]) + 1 if len(chosen) else 0)
        context.progress(n, count)
        if n == count:
            break
    if n < count:
        also = " and the other conditions of enroll" if fits else ""
        raise UserError(
            f"enroll.source {settings.source!r}: {tried:,} of {limit:,} candidates tried, {n:,} fit with every two below cosine "
            f"{settings.threshold}{also}, but {count:,} identities are wanted. Ask for a volume of at most {n:,} identities, raise "
            "enroll.threshold, or give a source with more people" + ("; or raise enroll.tries" if settings.source in ENDLESS else "")
        )
    console.note(f"inquiries: {tried:,} candidates tried, {n:,} kept (pairwise cosine below {settings.threshold})")
    writer.finish(names)
    data.open_faces(context.out / "inquiries")  # packs them
    save(torch.cat(codes), context.out, source=settings.source, tried=tried, kept=n, threshold=settings.threshold)
    remove(context.out / PAINTED)


def save(codes: Tensor, out: Path, **facts: Any) -> None:
    """What every enrolment leaves in `out`: codes.safetensors (N, dim), and enroll.json with the `facts`."""
    with writing(out / CODES) as temporary:
        save_file({"codes": codes.contiguous()}, temporary)
    write_json(out / "enroll.json", facts)


def choose(unit: Tensor, kept: Tensor, threshold: float, most: int) -> Tensor:
    """Indices (k,) of the rows of `unit` (B, dim) that stay below `threshold` to all of `kept` (N, dim) and to those chosen before."""
    free = (unit @ kept.T).amax(1) < threshold if len(kept) else torch.ones(len(unit), dtype=torch.bool)
    alike = unit @ unit.T
    chosen: list[int] = []
    for i in range(len(unit)):
        if len(chosen) == most:
            break
        if free[i] and (not chosen or bool((alike[i, chosen] < threshold).all())):
            chosen.append(i)
    return torch.tensor(chosen, dtype=torch.long)


def candidates(settings: Inquiries, context: Context, most: int) -> tuple[int, Iterator[tuple[Tensor, list[str]]]]:
    """(how many there are, blocks of (images (B, 3, R, R) uint8, names)), always in the same order."""
    if settings.source in ENDLESS:
        most = -(-most // BLOCK) * BLOCK  # whole blocks only: the last bits of an embedding depend on the size of its batch
    if settings.source == "unconditional":
        assert isinstance(settings, NewPeople)
        paint = _kept(context.out / PAINTED, unconditional.sampler(context.inputs["train"], settings.sampler, context))
        return most, _blocks(most, paint, lambda row: f"unconditional {row}")
    if settings.source == "world":
        return most, _blocks(most, lambda rows: _world(rows, context.resolution), lambda row: f"inquiry {row}")
    if settings.source == "real":
        faces = context.faces
        if not faces.identities:  # without labels every image
            return len(faces), _blocks(len(faces), faces.images, lambda row: f"image {row}")
        rows = np.unique(faces.identity, return_index=True)[1]  # the first image of each identity
        return len(rows), _blocks(len(rows), lambda some: faces.images(rows[some]), lambda row: faces.names[row])
    source, whole = read(settings, context)
    rows = whole[np.unique(source.label[whole], return_index=True)[1]] if source.names else whole  # without labels every image

    def shown(some: np.ndarray) -> Tensor:
        return _pixels(source, rows[some], context)

    return len(rows), _blocks(len(rows), shown, lambda row: source.names[source.label[rows[row]]] if source.names else f"image {row}")


def mean_codes(settings: FromSource, context: Context) -> Tensor:
    """(N, dim): the mean raw embedding of each identity of the source, `real` or another; of each face when faces have no labels."""
    label = context.faces.identity
    show: Callable[[np.ndarray], Tensor] = context.faces.images
    if settings.source != "real":
        other, whole = read(settings, context)
        label, show = other.label[whole], lambda rows: _pixels(other, whole[rows], context)
    identity = torch.arange(len(label)) if label.max() < 0 else torch.from_numpy(np.unique(label, return_inverse=True)[1])
    total = torch.zeros(int(identity.max()) + 1, context.encoder.dim)
    with torch.inference_mode():
        for rows in np.array_split(np.arange(len(label)), -(-len(label) // BLOCK)):
            codes = context.encoder(send(show(rows), context.device).float() / 127.5 - 1).float().cpu()
            total.index_add_(0, identity[rows[0] : rows[-1] + 1], codes)
            context.progress(int(rows[-1]) + 1, len(label))
    return total / identity.bincount()[:, None]


def is_path(source: str) -> bool:
    """Whether `source` names files of its own; a path that is there comes before a registered name."""
    return "/" in source or "\\" in source or Path(source).exists()


def locate(source: str) -> Entry | Path:
    """The registered source, or the path when `source` is one. Raises UserError or DataMissing when neither."""
    from synthbench.data import sources

    return Path(source) if is_path(source) else sources.find(source, "faces")


def read(settings: FromSource, context: Context) -> tuple[LabelledSet, np.ndarray]:
    """(The faces of the source, their rows, without damaged ones where that is chosen); what may have been meant otherwise is told.

    Raises UserError where no image is left.
    """
    from synthbench.data import sources

    found = sources.open_set(locate(settings.source))
    for doubt in found.doubts:
        console.warn(f"{settings.source}: {doubt}")
    rows = np.arange(len(found))
    if settings.skip_damaged:
        rows = damage.without(found, rows, context.out, context.progress)
        if not len(rows):
            raise UserError(f"enroll.source {settings.source!r}: every image is damaged")
    return found, rows


def _pixels(source: LabelledSet, rows: np.ndarray, context: Context) -> Tensor:
    """The images of `rows` as (B, 3, R, R) uint8."""
    try:
        return data.read_pixels(source, rows, context.resolution)
    except Damaged as error:
        raise UserError(f"{error}; or have what is damaged left out, --set enroll.skip_damaged=true") from None


def digests(settings: Inquiries) -> dict[str, str]:
    """The digest of what inquiries are read from, for the key of the stage."""
    from synthbench.data import sources

    return {} if settings.source in ("real", *ENDLESS) else {"inquiries": sources.digest_of(locate(settings.source))}


def load(folder: Path) -> Codes:
    """What `enroll` wrote into `folder`."""
    pictures = folder / "inquiries"
    return Codes(read_tensors(folder / CODES)["codes"], data.open_faces(pictures) if pictures.is_dir() else None)


def _blocks(count: int, read: Callable[[np.ndarray], Tensor], name: Callable[[int], str]) -> Iterator[tuple[Tensor, list[str]]]:
    for first in range(0, count, BLOCK):
        rows = np.arange(first, min(first + BLOCK, count))
        yield read(rows), [name(int(row)) for row in rows]


def _kept(folder: Path, paint: Callable[[np.ndarray], Tensor]) -> Callable[[np.ndarray], Tensor]:
    """`paint`, which keeps what it made of every block of rows in `folder`: a killed stage goes on behind those."""
    folder.mkdir(exist_ok=True)

    def block(rows: np.ndarray) -> Tensor:
        path = folder / f"{rows[0]:09d}.npy"
        with suppress(OSError, ValueError, EOFError):  # not there, or damaged: painted again
            found = np.load(path, allow_pickle=False)
            if found.dtype == np.uint8 and found.ndim == 4 and len(found) == len(rows):
                return torch.from_numpy(found)
        images = paint(rows)
        with writing(path) as temporary, open(temporary, "wb") as file:
            np.save(file, images.numpy())
        return images

    return block


def _world(rows: np.ndarray, resolution: int) -> Tensor:
    from synthbench.world import renderer

    people = torch.from_numpy(rows)
    return renderer.faces("inquiry", people, torch.zeros_like(people), resolution, frontal=True)
