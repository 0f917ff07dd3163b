"""What a run takes of a set is said; sets that were written over are refused, although everything made of them is cached."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_protocol import PROTOCOL, RECIPE

from synthbench.data import pixels, sources
from synthbench.generators.folder import Folder, FolderConfig
from synthbench.pipeline import run
from synthbench.types import UserError, Volume


def face(seed: int) -> bytes:
    return pixels.encode(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHBENCH_DATA", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def people(counts: list[int], copies: int = 0) -> Path:
    """A folder of people with so many images; the last `copies` of the first are copies of their first ones."""
    for who, count in enumerate(counts):
        for number in range(count):
            file = Path("set") / f"p{who}" / f"{number:02d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            copy = who == 0 and number >= count - copies
            file.write_bytes(face(100 * who + (number - (count - copies) if copy else number)))
            os.utime(file, (1e9, 1e9))
    return Path("set")


def made(folder: Path, volume: str) -> tuple[int, list]:
    maker = Folder(FolderConfig(sample={"path": str(folder)}))
    context = SimpleNamespace(out=Path("out"), progress=lambda done, total: None, resolution=16, batch_size=7)
    slots = maker.slots(Volume.parse(volume), context)  # type: ignore[arg-type]
    return len(slots), list(maker.generate(slots, context))  # type: ignore[arg-type]


def test_what_was_taken_and_what_was_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    folder = people([11, 11, 11], copies=5)
    assert made(folder, "3x10")[0] == 30
    said = capsys.readouterr().err
    assert (
        "set: 30 of 33 images are taken, the first of each identity in the order of the set (of a folder: of names); 3 are left out" in said
    )
    assert "set: 4 of the images that were taken are there twice, byte for byte, as p0/06.png = p0/00.png" in said
    made(folder, "2x6")
    said = capsys.readouterr().err
    assert "12 of 33 images are taken, the first of 2 of 3 identities" in said and "twice" not in said
    assert made(folder, "all")[0] == 33
    said = capsys.readouterr().err
    assert "taken, the first" not in said and "5 of the images" in said


def test_what_is_cached_of_a_set_that_was_written_over_is_no_answer(capsys: pytest.CaptureFixture[str]) -> None:
    Path("recipe.yaml").write_text(RECIPE.replace("epochs: 2", "epochs: 1"))
    plain = PROTOCOL.partition("  verification")[0] + "  separability: {}\n"
    Path("mine.yaml").write_text(plain.replace("real: {world: train, identities: 6, images: 4}", "real: {source: mine}"))
    sources.add("mine", people([4] * 6).absolute(), "faces")
    wish = run.Request("real", Path("r"), protocol="mine.yaml", tracking=False)
    first = run.run(wish)
    assert first and run.run(wish) == {**first, "stages": [{**row, "state": "cached", "seconds": 0.0} for row in first["stages"]]}
    before = Path("set/p3/01.png").read_bytes()
    assert sources.stamp_of(sources.find("mine")) == sources.find("mine").stamp
    Path("set/p3/01.png").write_bytes(face(999))
    assert sources.stamp_of(sources.find("mine")) == sources.find("mine").stamp  # what is on top does not show it
    for how in (wish, run.Request("real", Path("r"), protocol="mine.yaml", until="real", tracking=False)):
        with pytest.raises(
            UserError, match=r"mine at .* has changed since it was registered.*1 file of 24 written since, such as .*p3/01\.png"
        ):
            run.run(how)
    with pytest.raises(UserError, match="has changed since it was registered"):
        run.plan(wish)
    Path("set/p3/01.png").write_bytes(before)
    again = run.run(wish)  # the same bytes, of another time
    assert again and [row["state"] for row in again["stages"]] == ["cached"] * len(first["stages"])


def test_a_folder_of_runs_is_no_set() -> None:
    from synthbench.cli.data import data_group

    for place in ("r/stages/real/x", "r/results/y", "one/p0"):
        Path(place).mkdir(parents=True)
    for file in ("r/results/y/samples.png", "one/p0/0.png"):
        Path(file).write_bytes(face(0))
    for name, message in (("r", "own runs; `synthbench list runs`"), ("one", "one: read as a set of 1 image, which is none")):
        with pytest.raises(UserError, match=message):
            data_group.main(["convert", name, "--to", "imagefolder", "-o", "out"], standalone_mode=False)
