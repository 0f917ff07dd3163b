"""`data inspect`: sets with known faults, made here, and what is said of them."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from synthbench.cli import app
from synthbench.data import damage, inspection, looking, pixels, sources
from synthbench.data.readers import read_source
from synthbench.types import UserError


def face(seed: int, side: int = 32) -> np.ndarray:
    """A reddish picture with contrast, smooth enough for JPEG."""
    noise = np.random.default_rng(seed).uniform(40, 200, (8, 8, 1)) * np.array([1.2, 1.0, 0.8])
    return np.asarray(Image.fromarray(noise.clip(0, 255).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC))


def put(folder: Path, name: str, image: np.ndarray, **options) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    for person in range(4):
        for number in range(3 - (person == 3)):
            put(tmp_path / "set", f"p{person}/{number}.png", face(10 * person + number))
    return tmp_path / "set"


def test_a_clean_set_gives_facts_and_nothing_to_look_after(clean: Path) -> None:
    found = inspection.inspect(read_source(clean))
    assert (found.images, found.people, found.each, found.alone, found.kind) == (11, 4, (2, 3, 3), 0, "folder")
    assert found.sizes == {"32 x 32": 11} and found.grey == 0 and found.looked == 11
    images = np.stack([face(10 * person + number) for person in range(4) for number in range(3 - (person == 3))])
    assert found.red_to_blue == pytest.approx(images[..., 0].mean() / images[..., 2].mean(), rel=0.01)
    assert not [line for line in inspection.lines(found) if "LOOK" in line]


def test_every_fault_is_named(clean: Path) -> None:
    (clean / "p0" / "again.png").write_bytes((clean / "p1" / "0.png").read_bytes())
    out = io.BytesIO()
    Image.fromarray(face(1)).save(out, "JPEG", quality=90, subsampling=0)
    (clean / "p0" / "smaller.jpg").write_bytes(out.getvalue())
    put(clean, "p4/wide.png", face(99, 48)[:32])
    (clean / "p4" / "cut.png").write_bytes((clean / "p1" / "0.png").read_bytes()[:60])
    found = inspection.inspect(read_source(clean))
    (twin,) = found.same
    assert {Path(name).as_posix() for name in twin} == {"p0/again.png", "p1/0.png"} and found.across == 1
    assert [set(pair) for pair in found.alike] == [{"p0/1.png", "p0/smaller.jpg"}]
    assert found.sizes == {"32 x 32": 13, "48 x 32": 1} and len(found.damaged) == 1 and "cut.png" in found.damaged[0]
    text = "\n".join(inspection.lines(found))
    for said in ("same file", "same picture", "1 of them are filed under two people", "sizes differ", "cannot be decoded"):
        assert said in text


def test_one_and_many_are_told_apart(clean: Path) -> None:
    first = inspection.lines(inspection.inspect(read_source(clean)))[0]
    few, half, most = inspection.inspect(read_source(clean)).each
    assert (few < most) == (f"({few} to {most} each, half of them have {half} or fewer)" in first)
    for name in ("a/0.png", "b/0.png"):
        put(clean.parent / "even", name, face(len(name)))
    assert "2 images of 2 people (1 each)" in inspection.lines(inspection.inspect(read_source(clean.parent / "even")))[0]
    (clean.parent / "even/a/0.png").write_bytes(b"none")
    assert any(
        "LOOK: 1 image cannot be decoded" in line for line in inspection.lines(inspection.inspect(read_source(clean.parent / "even")))
    )


def test_all_damaged_images_of_a_registered_set_are_listed_at_once(
    clean: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("p1/0.png", "p2/2.png"):
        data = (clean / name).read_bytes()
        (clean / name).write_bytes(data[:-40])
    monkeypatch.setenv("SYNTHBENCH_DATA", str(clean.parent / "registry"))
    monkeypatch.setattr(looking, "LOOKED", 2)  # the first and the last
    sources.add("mine", clean, "faces")
    monkeypatch.setattr("sys.argv", ["synthbench", "data", "verify", "mine", "--decode"])
    with pytest.raises(SystemExit) as ended:
        app.main()
    heard = capsys.readouterr()
    assert ended.value.code == 2 and "2 of 11 images are damaged" in heard.err
    assert ["p1/0.png" in heard.out, "p2/2.png" in heard.out, heard.out.count("\n")] == [True, True, 2]


def test_blue_skin_is_told(tmp_path: Path) -> None:
    for number in range(6):
        put(tmp_path / "bgr", f"{number % 2}/{number}.png", face(number)[..., ::-1].copy())
    assert any("stored BGR" in line for line in inspection.lines(inspection.inspect(read_source(tmp_path / "bgr"))))


def test_the_hash_knows_a_picture_in_another_size_and_compression_and_no_other() -> None:
    one, other = face(0, 112), face(1, 112)
    small = pixels.decode(pixels.encode(pixels.fit(one, 64), "jpeg", 92), "")
    known = inspection.Pictures()
    hashes = [inspection.difference_hash(image) for image in (one, small, other, small)]
    assert [known.before(hash, row) for row, hash in enumerate(hashes)] == [0, 0, 2, 1]
    flat = inspection.difference_hash(np.full((32, 32, 3), 90, np.uint8))
    assert flat == b"" and [known.before(flat, row) for row in (4, 5)] == [4, 5]


def test_by_command(clean: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (clean / "p0" / "cut.png").write_bytes(b"no image")
    page = tmp_path / "out" / "page.html"
    page.parent.mkdir()
    monkeypatch.setattr("sys.argv", ["synthbench", "data", "inspect", str(clean), "--json", "-o", str(page)])
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["images"], told["people"], len(told["damaged"])) == (12, 4, 1)
    assert page.read_text().count("<img") == 11 and "damaged" in page.read_text()
    with pytest.raises(UserError, match="does not exist"):
        inspection.inspect(read_source(tmp_path / "nothing"))


def test_bytes_are_read_one_after_the_other(clean: Path) -> None:
    """Of a .tar or Parquet they come from one handle, which threads would move under each other's hands."""
    plain, seen = read_source(clean), []

    def encoded(row: int) -> bytes:
        assert threading.current_thread() is threading.main_thread()
        seen.append(row)
        return plain.encoded(row)

    inspection.inspect(replace(plain, encoded=encoded))
    assert damage.find(replace(plain, encoded=encoded), np.arange(11)) == {} and seen == [*range(11), *range(11)]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_page_about_a_folder_of_any_bytes(clean: Path, tmp_path: Path) -> None:
    place = clean.rename(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"Jos\xe9 \xc3\xab")))
    inspection.sheet(read_source(place), tmp_path / "page.html")
    assert "<title>Jos\\xe9 \u00eb: 11 images</title>" in (tmp_path / "page.html").read_bytes().decode("utf-8")
