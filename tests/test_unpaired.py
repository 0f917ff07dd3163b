"""People who are in no pair of a benchmark."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
from click.testing import CliRunner

from synthbench.cli.app import cli
from synthbench.data import pixels
from synthbench.data.readers import read_source
from synthbench.types import UserError


@pytest.fixture
def lfw(tmp_path):
    """Five people with two images each below an extra folder, and pairs of two of them."""
    for number, person in enumerate("ABCDE"):
        for image in (1, 2):
            path = tmp_path / "lfw" / "all" / person / f"{person}_{image:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pixels.encode(np.full((8, 8, 3), 40 * number + image, np.uint8)))
    (tmp_path / "pairs.txt").write_text("1\t1\nB\t1\t2\nB\t1\tD\t2\n")
    return tmp_path


@pytest.mark.parametrize("packed", [False, True])
def test_who_is_in_a_pair_is_left_out(lfw, packed):
    images = lfw / "lfw"
    if packed:
        images = lfw / "lfw.zip"
        with zipfile.ZipFile(images, "w") as archive:
            for path in (lfw / "lfw").rglob("*.png"):
                archive.write(path, path.relative_to(lfw / "lfw"))
    out = lfw / "rest.zip"
    done = CliRunner().invoke(cli, ["data", "unpaired", str(images), str(lfw / "pairs.txt"), str(out)])
    assert done.exit_code == 0, done.output
    assert "3 people, 6 images; 2 people of pairs left out" in done.output and "synthbench data add" in done.output
    again = lfw / "again.zip"
    with zipfile.ZipFile(out) as archive:
        assert {item.date_time for item in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert CliRunner().invoke(cli, ["data", "unpaired", str(images), str(lfw / "pairs.txt"), str(again)]).exit_code == 0
    assert again.read_bytes() == out.read_bytes()  # its digest enters keys
    source = read_source(out)
    assert source.names == ["A", "C", "E"]
    assert pixels.decode(source.encoded(0), "first")[0, 0, 0] == 1 and pixels.decode(source.encoded(5), "last")[0, 0, 0] == 162


def test_what_cannot_be_meant_is_refused(lfw):
    from synthbench.data.unpaired import copy_unpaired

    (lfw / "others.txt").write_text("X\t1\t2\n")
    for pairs, out, text in (
        ("others.txt", "rest.zip", "nobody in"),
        ("pairs.txt", "rest.tar", "must end in .zip"),
        ("pairs.txt", "old.zip", "already"),
    ):
        (lfw / "old.zip").touch()
        with pytest.raises(UserError, match=text):
            copy_unpaired(lfw / "lfw", lfw / pairs, lfw / out)
    with pytest.raises(UserError, match="one folder per person is needed"):
        copy_unpaired(lfw / "lfw" / "all" / "A", lfw / "pairs.txt", lfw / "rest.zip")
    assert not (lfw / "rest.zip").exists()
