"""Streams: fixed for ever, independent of each other, the same on every machine."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
import torch

from synthbench.seeds import derive, numpy_generator, torch_generator


def test_derive_is_sha256_of_the_typed_path() -> None:
    # The oracle is the definition. If it ever changes, every published image changes with it.
    text = b"int:7/str:image/int:3/int:5"
    assert derive(7, "image", 3, 5) == int.from_bytes(hashlib.sha256(text).digest()[:8], "little") // 2
    assert derive(0, "image", 0, 0) == 6375629521275929049


def test_neighbouring_streams_are_all_different() -> None:
    streams = itertools.product(range(3), ["image", "noise"], range(20), range(20))
    seeds = [derive(seed, *rest) for seed, *rest in streams]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)  # torch.Generator takes a signed 64-bit seed


@pytest.mark.parametrize(("one", "other"), [((1, 23), (12, 3)), (("1",), (1,)), (("a", "b"), ("b", "a")), (("a",), ("a", 0))])
def test_paths_that_look_alike_are_different_streams(one: tuple, other: tuple) -> None:
    assert derive(0, *one) != derive(0, *other)


def test_numpy_integers_mean_the_same_as_python_integers() -> None:
    assert derive(np.int64(4), "image", 1) == derive(4, "image", 1)
    assert derive(4, "image", np.int64(1)) == derive(4, "image", 1)


def test_generators_repeat_and_do_not_correlate() -> None:
    one, again, other = (torch.randn(4096, generator=torch_generator(0, "image", i)) for i in (1, 1, 2))
    assert torch.equal(one, again)
    assert abs(torch.corrcoef(torch.stack([one, other]))[0, 1]) < 0.08  # 5 sigma of 1 / sqrt(4096)
    assert numpy_generator(0, "a").integers(2**60) == numpy_generator(0, "a").integers(2**60)
    assert numpy_generator(0, "a").integers(2**60) != numpy_generator(0, "b").integers(2**60)
