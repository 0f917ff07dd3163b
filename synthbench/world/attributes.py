"""What the embedded world knows of everyone: skin tone, sex-like traits, age and glasses, as groups; and people drawn in other shares.

An attribute is one column of PERSON (the same on all images of a person) or of NUISANCE (of the image). A group is an interval of that
column. Other shares move each draw along its column: who was among the lightest 80 % of people is in `light` where that has a share of 0.8,
and all else about him stays. So nothing is drawn anew, order is kept, and the shares that a column has anyway change nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from synthbench.data.catalogue import WORLD_GROUPS
from synthbench.types import Groups
from synthbench.world import renderer

Shares = Mapping[str, Mapping[str, float]]  # attribute: {group: share}


@dataclass(frozen=True)
class Attribute:
    """Groups of a column, from its lowest values to its highest."""

    column: str
    edges: tuple[float, ...]  # between the groups; a value on an edge is in the upper group
    of_person: bool = True  # else of the image

    @property
    def drawn(self) -> tuple[str, float, float]:
        """How the column is drawn: as in PERSON and NUISANCE."""
        return renderer.PERSON[self.column] if self.of_person else renderer.NUISANCE[self.column]


ATTRIBUTES = {  # the groups are those of WORLD_GROUPS
    "skin": Attribute("tone", (0.25, 0.5, 0.75)),
    "sex": Attribute("male", (0.0,)),  # of traits: jaw, brows, beard, length of hair
    "age": Attribute("age", (36.0,), of_person=False),  # years
    "glasses": Attribute("glasses", (renderer.GLASSES,), of_person=False),
}


def drawn(part: str, identity: Tensor, sample: Tensor, seed: int = 0, shares: Shares | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """People (B, len(PERSON)) and nuisance (name -> (B,)) of images, what `renderer.render` takes, with groups in the given `shares`."""
    identity, sample = torch.as_tensor(identity).long(), torch.as_tensor(sample).long()
    people, scene = renderer.people_of(part, identity, seed), renderer.nuisance(part, identity, sample, seed)
    for name, wanted in (shares or {}).items():
        attribute = ATTRIBUTES[name]
        share = torch.tensor([wanted[group] for group in WORLD_GROUPS[name]], dtype=torch.float64)
        if attribute.of_person:
            column = list(renderer.PERSON).index(attribute.column)
            people[:, column] = _moved(people[:, column], attribute, share)
        else:
            scene[attribute.column] = _moved(scene[attribute.column], attribute, share)
    return people, scene


def groups(people: Tensor, scene: Mapping[str, Tensor]) -> dict[str, Groups]:
    """The groups that people under nuisance, as `renderer.render` takes them, are in: by attribute."""
    found = {}
    for name, attribute in ATTRIBUTES.items():
        value = people[:, list(renderer.PERSON).index(attribute.column)] if attribute.of_person else scene[attribute.column]
        found[name] = Groups(WORLD_GROUPS[name], torch.bucketize(value.contiguous(), torch.tensor(attribute.edges), right=True).numpy())
    return found


def _moved(value: Tensor, attribute: Attribute, share: Tensor) -> Tensor:
    """Draws (B,) of a column moved along it, so that its groups have `share` (G,) of them."""
    kind, first, second = attribute.drawn
    inner = _quantile(torch.tensor(attribute.edges, dtype=torch.float64), kind, first, second)
    old = torch.cat([inner.new_zeros(1), inner, inner.new_ones(1)])
    new = torch.cat([share.new_zeros(1), share.cumsum(0)])
    new[-1] = 1.0
    at = _quantile(value.double(), kind, first, second)
    group = torch.bucketize(at, new[1:-1].contiguous(), right=True)  # never an empty one
    at = old[group] + (at - new[group]) * (old[group + 1] - old[group]) / (new[group + 1] - new[group])
    moved = torch.special.ndtri(at).clamp(-2.5, 2.5) * second + first if kind == "normal" else first + (second - first) * at
    return _within(moved.float(), group, attribute)


def _quantile(value: Tensor, kind: str, first: float, second: float) -> Tensor:
    return torch.special.ndtr((value - first) / second) if kind == "normal" else (value - first) / (second - first)


def _within(value: Tensor, group: Tensor, attribute: Attribute) -> Tensor:
    """Rounding may have put a value on the other side of an edge: back into its group."""
    edges = torch.tensor(attribute.edges)
    below, infinite = torch.nextafter(edges, torch.full_like(edges, -torch.inf)), edges.new_full((1,), torch.inf)
    return value.maximum(torch.cat([-infinite, edges])[group]).minimum(torch.cat([below, infinite])[group])
