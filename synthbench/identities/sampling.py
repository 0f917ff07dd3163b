"""What samplers share: batches of one size, so that an image does not depend on its neighbours, and copies of the inquiry among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from synthbench.data.faces import FaceSet
from synthbench.device import side_by_side
from synthbench.diffusion import process
from synthbench.models.encoder import Encoder
from synthbench.plugin import Context
from synthbench.seeds import torch_generator
from synthbench.types import FaceBatch, Slot

CPU_CHUNK = 32  # images sampled at a time on a CPU, always: the last bits of a convolution depend on the shape of its batch

Make = Callable[[list[Slot]], tuple[Tensor, dict[str, Tensor]]]


def generate(
    make: Make,
    slots: Sequence[Slot],
    context: Context,
    columns: Sequence[str] = (),
    inquiries: FaceSet | None = None,
    photographs: bool = True,
) -> Iterator[FaceBatch]:
    """The faces of `slots`, in order.

    make: exactly `size` slots -> (images (size, 3, R, R) uint8, the `columns` of each, (size,)), on any device; a last batch that is not
    full is filled up with its last slot. On a CPU two batches are made side by side, so `make` enters inference mode itself.
    inquiries: one image per identity; a slot with a negative sample is a copy of it. Columns there: `similarity` 1, others nan, and `real`,
    which is 1 if inquiries are `photographs` of real people.
    """
    size = CPU_CHUNK if context.device.type == "cpu" else context.batch_size

    def work(part: list[Slot]) -> FaceBatch:
        made = torch.tensor([slot.sample >= 0 for slot in part])
        identity = torch.tensor([slot.identity for slot in part])
        found = {name: torch.full((len(part),), 1.0 if name == "similarity" else torch.nan) for name in columns}
        pictures = torch.empty(len(part), 3, context.resolution, context.resolution, dtype=torch.uint8)
        if inquiries is not None and not made.all():
            pictures[~made] = inquiries.images(identity[~made])
        if count := int(made.sum()):
            wanted = [slot for slot in part if slot.sample >= 0]
            images, values = make((wanted + wanted[-1:] * size)[:size])
            pictures[made] = images[:count].cpu()
            for name in columns:
                value = values[name][:count].cpu()
                if inquiries is None and not value.is_floating_point():
                    found[name] = value
                else:  # among copies, which have nan
                    found[name][made] = value.float()
        copies = {} if inquiries is None else {"real": (~made & photographs).to(torch.uint8)}
        return FaceBatch(pictures, identity, {"sample": torch.tensor([slot.sample for slot in part]), **found, **copies})

    yield from side_by_side(work, chunks(slots, size), context.device)


def noise(slots: Sequence[Slot], shape: tuple[int, ...], context: Context) -> process.Noise:
    """Noise of the images of `slots`."""
    return process.Noise([torch_generator(context.seed, "image", *slot) for slot in slots], shape, context.device)


def similarity(encoder: Encoder, images: Tensor, codes: Tensor) -> Tensor:
    """(B,) cosines of the embeddings of `images` (B, 3, R, R) uint8 to those of their identities, `codes` (B, dim) of any length."""
    return (encoder.embed(images).float() * F.normalize(codes.to(images.device), dim=1)).sum(1)


def chunks(slots: Sequence[Slot], size: int) -> Iterator[list[Slot]]:
    """`slots` in order, cut so that each part has at most `size` images to generate; copies (sample < 0) ride along."""
    part: list[Slot] = []
    made = 0
    for slot in slots:
        if (slot.sample >= 0 and made == size) or len(part) == 4 * size:
            yield part
            part, made = [], 0
        part.append(slot)
        made += slot.sample >= 0
    if part:
        yield part


def with_copies(slots: Sequence[Slot], copies: int | np.ndarray) -> list[Slot]:
    """`slots` with copies of the inquiry, samples -1, -2, ..., behind those of every identity: a slot means the same in every volume.

    copies: how many; or of each identity.
    """
    found: list[Slot] = []
    for place, slot in enumerate(slots):
        found.append(slot)
        if place + 1 == len(slots) or slots[place + 1].identity != slot.identity:
            found += [Slot(slot.identity, -1 - i) for i in range(copies if isinstance(copies, int) else copies[slot.identity])]
    return found
