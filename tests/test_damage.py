"""Damaged images: they end a run unless somebody chose to leave them out; then they are counted, named, and part of key and result."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_context import context
from fake_protocol import PROTOCOL, RECIPE
from PIL import Image

from synthbench.data import damage, sources
from synthbench.data.faces import import_faces, open_faces
from synthbench.generators import cemiface, vec2face
from synthbench.generators.folder import Folder, FolderConfig
from synthbench.identities import inquiries
from synthbench.models.unet import TINY
from synthbench.pipeline import run
from synthbench.pipeline.steps import import_step
from synthbench.store import Store
from synthbench.testing.world import tiny_encoder
from synthbench.types import UserError


def png(seed: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


CUT = {"p1/2.png": png(6)[:200], "p3/0.png": b""}


@pytest.fixture
def faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six people with four images each; two images are damaged."""
    monkeypatch.setenv("SYNTHBENCH_DATA", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for number in range(24):
        name = f"p{number // 4}/{number % 4}.png"
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(CUT.get(name, png(number)))
    return tmp_path / "set"


def test_a_run_without_them(faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("recipe.yaml").write_text(RECIPE.replace("epochs: 2", "epochs: 1"))
    world, plain = "real: {world: train, identities: 6, images: 4}", PROTOCOL.partition("  verification")[0] + "  separability: {}\n"
    Path("tiny.yaml").write_text(plain.replace(world, "real: {source: mine}"))
    Path("skip.yaml").write_text(plain.replace(world, "real: {source: mine, skip_damaged: true}"))
    assert "2 of 24 images that were tried cannot be decoded" in sources.add("mine", faces, "faces").note
    with pytest.raises(UserError, match=r"p1/2\.png: the image cannot.*`skip_damaged: true` beside `source: mine`.*data verify mine"):
        run.run(run.Request("real", Path("r"), protocol="tiny.yaml", until="real", tracking=False))
    wish = run.Request("folder", Path("r"), protocol="skip.yaml", settings=("sample.path=set",), until="generate", tracking=False)
    with pytest.raises(UserError, match=r"p1/2\.png.*--set sample\.skip_damaged=true"):
        run.run(wish)
    capsys.readouterr()
    chosen = ("sample.path=set", "sample.skip_damaged=true")
    result = run.run(run.Request("folder", Path("r"), protocol="skip.yaml", settings=chosen, tracking=False))
    assert result and capsys.readouterr().err.count("2 of 24 images are damaged and left out") == 1  # the real set was there
    told = json.loads((Path(result["artifacts"]["folder"]) / "run.json").read_text())["left_out"]
    assert set(told) == {"real", "generate"}
    for part in told.values():
        assert (part["damaged"], part["of"]) == (2, 24)
        assert all(name in why for name, why in zip(CUT, part["images"]))
    assert result["config"]["protocol"]["real"]["skip_damaged"] and result["settings"]["sample"]["skip_damaged"]


def test_the_choice_is_in_the_key_and_nothing_else_is(faces: Path) -> None:
    store, entry = Store(faces.parent / "r"), sources.add("mine", faces, "faces")
    plain, refused, skipped = (import_step(store, 16, "real", entry, skip_damaged=choice).stage.key for choice in (None, False, True))
    assert plain == refused != skipped
    assert "skip_damaged" not in FolderConfig().for_key()["sample"]
    assert FolderConfig(sample={"skip_damaged": True}).for_key()["sample"]["skip_damaged"]


def test_the_set_is_that_of_the_whole_images_and_goes_on_after_a_stop(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = import_faces(faces, "a", 16, skip_damaged=True)
    for name in CUT:
        (faces / name).unlink()
    whole = import_faces(faces, "b", 16)
    assert found.digest == whole.digest and len(found) == 22
    for name, data in CUT.items():
        (faces / name).write_bytes(data)

    def stopped(done: int, total: int) -> None:
        if total == 22 and done == 22:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_faces(faces, "c", 16, skip_damaged=True, rows_per_shard=5, progress=stopped)
    assert len(list(Path("c").glob("part-*.parquet"))) == 4
    monkeypatch.setattr(damage, "find", None)  # what is known is not looked for again
    assert import_faces(faces, "c", 16, skip_damaged=True, rows_per_shard=5).digest == whole.digest


def test_an_entry_of_a_zip_that_cannot_be_unpacked_and_too_few_that_are_left(faces: Path) -> None:
    with zipfile.ZipFile("set.zip", "w") as archive:
        for file in sorted(faces.rglob("*.png")):
            archive.write(file, file.relative_to(faces).as_posix())
        place = archive.getinfo("p0/0.png").header_offset
    data = bytearray(Path("set.zip").read_bytes())
    data[place + 60] ^= 255
    Path("set.zip").write_bytes(data)
    found = import_faces("set.zip", "a", 16, skip_damaged=True)
    assert len(found) == 21 and "p0/0.png" in json.loads(Path("a/damaged.json").read_text())["images"]["0"]
    for file in sorted(faces.rglob("*.png"))[4:]:
        file.write_bytes(b"no image")
    with pytest.raises(UserError, match="4 images of one identity"):
        import_faces(faces, "b", 16, skip_damaged=True)


def test_slots_are_counted_without_them(faces: Path) -> None:
    from types import SimpleNamespace

    from synthbench.types import Volume

    maker = Folder(FolderConfig(sample={"path": str(faces), "skip_damaged": True}))
    context = SimpleNamespace(out=Path("out"), progress=lambda done, total: None)
    assert len(maker.slots(Volume.parse("4x4"), context)) == 16  # type: ignore[arg-type]
    with pytest.raises(UserError, match="has 4 that large"):
        maker.slots(Volume.parse("5x4"), context)  # type: ignore[arg-type]


def test_sets_that_are_learnt_from_and_inquired(faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("recipe.yaml").write_text(RECIPE.replace("epochs: 2", "epochs: 1"))
    Path("tiny.yaml").write_text(PROTOCOL.partition("  verification")[0] + "  separability: {}\n")
    sources.add("mine", faces, "faces")
    small = (*(f"train.unet.{name}={value}" for name, value in TINY.items()), "train.steps=2", "train.batch_size=4", "sample.steps=1")

    def made(*settings: str) -> dict | None:
        sets = ("train.faces=[real, mine]", "enroll.source=mine", "enroll.threshold=1", *settings)
        return run.run(run.Request("cemiface", Path("r"), "6x2", "tiny.yaml", settings=(*small, *sets), tracking=False))

    with pytest.raises(UserError, match=r"p1/2\.png: the image cannot.*--set train\.skip_damaged=true.*data verify mine"):
        made()
    with pytest.raises(UserError, match=r"p3/0\.png.*--set enroll\.skip_damaged=true"):
        made("train.skip_damaged=true")
    capsys.readouterr()
    result = made("train.skip_damaged=true", "enroll.skip_damaged=true")
    assert result and capsys.readouterr().err.count("2 of 24 images are damaged and left out") == 1  # what is learnt from was there
    assert result["learnt_from"] == {"real": 24, "mine": 22}
    told = json.loads((Path(result["artifacts"]["folder"]) / "run.json").read_text())["left_out"]
    assert {name: (part["damaged"], part["of"]) for name, part in told.items()} == {"train-faces mine": (2, 24), "enroll": (2, 24)}
    enroll = next(stage for stage in result["stages"] if stage["name"] == "enroll")
    shown = open_faces(Path("r/stages/enroll") / enroll["key"] / "inquiries")
    assert shown.names == [f"p{i}" for i in range(6)]
    wanted = np.asarray(Image.open(faces / "p3" / "1.png"))  # the first image of p3 that is whole
    assert np.array_equal(shown.images([3])[0].permute(1, 2, 0).numpy(), wanted)


def test_the_choice_is_for_sets_that_are_read_and_in_no_key_unless_made(faces: Path) -> None:
    with pytest.raises(ValueError, match="skip_damaged is for a registered source or a path, and source is world"):
        cemiface.Config(enroll={"skip_damaged": True, "source": "world"})
    with pytest.raises(UserError, match=r"train\.skip_damaged is for other sets that train\.faces names"):
        run.run(run.Request("cemiface", Path("r"), protocol="demo", settings=("train.skip_damaged=true",), tracking=False))
    assert all("skip_damaged" not in cemiface.Config().for_key()[part] for part in ("train", "enroll"))
    assert vec2face.Enroll(source="mine", skip_damaged=True).for_key()["skip_damaged"] and "skip_damaged" not in vec2face.Enroll().for_key()
    store = Store(faces.parent / "r")
    entry = sources.add("mine", faces, "faces")
    keys = {choice: import_step(store, 16, "train-faces", entry, labelled=False, skip_damaged=choice).stage.key for choice in (False, True)}
    assert keys[False] != keys[True]


def test_features_of_the_whole_images_alone_are_imitated(faces: Path, tmp_path: Path) -> None:
    real = import_faces(faces, "real", 32, skip_damaged=True)  # the side of `tiny_encoder`
    encoder = tiny_encoder(real, 1)
    found = [inquiries.mean_codes(vec2face.Enroll(source=source, skip_damaged=source != "real"), context(tmp_path / "out", real, encoder))
             for source in ("real", str(faces))]  # fmt: skip
    torch.testing.assert_close(found[1], found[0])  # which has the whole images
    with pytest.raises(UserError, match=r"p1/2\.png.*--set enroll\.skip_damaged=true"):
        inquiries.mean_codes(vec2face.Enroll(source=str(faces)), context(tmp_path / "out", real, encoder))
    for file in faces.rglob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(UserError, match="every image is damaged"):
        inquiries.mean_codes(vec2face.Enroll(source=str(faces), skip_damaged=True), context(tmp_path / "other", real, encoder))
