"""What evaluators are given: embeddings by the judge, each set looked at once."""

from __future__ import annotations

import numpy as np
import pytest
from fake_subject import Projection

from synthbench.data.faces import FaceSet
from synthbench.plugin import Subject
from synthbench.types import Skipped


class Counting(Projection):
    def __init__(self, pixels: int) -> None:
        super().__init__(pixels)
        self.seen = 0

    def embed_all(self, faces, progress=None):
        self.seen += len(faces)
        return super().embed_all(faces)


def faces(seed: int, people: int = 3) -> FaceSet:
    pixels = np.random.default_rng(seed).integers(0, 256, (2 * people, 8, 8, 3)).astype(np.uint8)
    return FaceSet.from_arrays(pixels, np.arange(2 * people) // 2)


def test_a_set_is_looked_at_once_and_the_real_set_in_its_own_row_too():
    judge = Counting(192)
    subject = Subject(faces(0), faces(1, people=4), judge)
    for _ in range(2):
        np.testing.assert_array_equal(subject.embeddings("faces"), Projection(192).embed_all(faces(0)))
        assert subject.embeddings("real").shape == (8, 16)
    assert judge.seen == 6 + 8
    with pytest.raises(Skipped, match="there are no inquiries"):
        subject.embeddings("inquiries")
    own = Subject(faces(0), faces(0), judge)
    np.testing.assert_array_equal(own.embeddings("faces"), own.embeddings("real"))
    assert judge.seen == 6 + 8 + 6
    other = Subject(faces(0, people=3), FaceSet.from_arrays(faces(0).images(slice(None)), [0, 0, 1, 1, 1, 2]), judge)  # labels differ
    other.embeddings("faces"), other.embeddings("real")
    assert judge.seen == 6 + 8 + 6 + 12
