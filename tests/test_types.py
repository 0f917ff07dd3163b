"""The words: what a volume is, in which order its slots come, what it refuses."""

from __future__ import annotations

import pytest

from synthbench.types import DataMissing, Skipped, Slot, UserError, Volume


@pytest.mark.parametrize(
    ("text", "identities", "images"),
    [
        ("0.5M", 10_000, 500_000),
        ("1.0M", 20_000, 1_000_000),
        ("1.2M", 60_000, 1_200_000),  # DCFace and CemiFace, Table 6
        ("200x20", 200, 4_000),
        ("20_000x50+40,000x5", 60_000, 1_200_000),
        (" 3 ", None, None),
    ],
)
def test_volume_sizes(text: str, identities: int | None, images: int | None) -> None:
    if identities is None:
        with pytest.raises(UserError):
            Volume.parse(text)
        return
    volume = Volume.parse(text)
    assert (volume.identities, volume.images) == (identities, images)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("0.5m", "0.5M"),
        ("500k", "0.5M"),
        ("1M", "1.0M"),
        ("ALL", "all"),
        ("7X3", "7x3"),
        ("007x03", "7x3"),
        ("200×20", "200x20"),
        ("200 x 20", "200x20"),
        (" 2 × 3 + 4 X 5 ", "2x3+4x5"),
    ],
)
def test_volume_spellings_share_one_name(text: str, name: str) -> None:
    assert Volume.parse(text).name == name  # the name enters folders, the blocks enter keys


@pytest.mark.parametrize("text", ["", "x", "10", "10x", "x10", "-3x5", "3x-5", "0x5", "5x0", "1e3x5", "3x5+", "2.0M", "3x5x7", "٣x٥"])
def test_nonsense_volumes_are_refused_with_the_word_that_was_given(text: str) -> None:
    with pytest.raises(UserError) as error:
        Volume.parse(text)
    assert repr(text) in str(error.value)


def test_slots_are_as_many_as_the_volume_says_and_never_repeat() -> None:
    volume = Volume.parse("3x2+2x4")
    slots = list(volume.slots())
    assert len(slots) == len(set(slots)) == volume.images == 14
    assert slots[:3] == [Slot(0, 0), Slot(0, 1), Slot(1, 0)]
    assert slots[6] == Slot(3, 0)  # the second block has identities of its own
    assert {slot.identity for slot in slots} == set(range(volume.identities))


def test_a_larger_volume_starts_with_the_smaller_one() -> None:
    small, large = list(Volume.parse("5x3").slots()), list(Volume.parse("9x3").slots())
    assert large[: len(small)] == small
    assert list(Volume.parse("5x3+4x1").slots())[: len(small)] == small


def test_exit_codes_and_reasons() -> None:
    assert (UserError.exit_code, DataMissing.exit_code) == (2, 3)
    skipped = Skipped("no inquiries", "similarity/x")
    assert (str(skipped), skipped.reason, skipped.metric) == ("no inquiries", "no inquiries", "similarity/x")
