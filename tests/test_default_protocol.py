"""Which protocol holds when none is asked for, and for which requests one must be asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from synthbench import sweep
from synthbench.data import registered, sources
from synthbench.pipeline import compare, default_protocol, run
from synthbench.pipeline.request import read
from synthbench.protocol import load_protocol, missing
from synthbench.reproduce import Request as Reproduction
from synthbench.reproduce import rows
from synthbench.store import Store
from synthbench.types import UserError


@pytest.fixture
def photos(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set of photographs called `photos` in the working directory, and a registry of its own.

    The pictures differ: of a batch of equal ones batch norm leaves exactly zero on some processors, and weights of 1e8 after a step.
    """
    monkeypatch.setenv("SYNTHBENCH_DATA", str(here / "registry"))
    draw = np.random.default_rng(0)
    for person in "ab":
        (here / "photos" / person).mkdir(parents=True)
        Image.fromarray(draw.integers(0, 256, (16, 16, 3), np.uint8)).save(here / "photos" / person / "1.png")
    (here / "mine.yaml").write_text("generator: folder\nsample: {path: photos}\n")
    return here / "photos"


MEANT = [  # generator, settings, volume: what the embedded world is hardly meant for
    ("folder", ("sample.path=photos",), None),
    ("folder", ("path=photos",), None),  # a short name
    ("mine.yaml", (), None),  # in a preset
    ("folder", ("sample.path=people",), None),  # registered
    ("cemiface", ("enroll.source=photos",), None),
    ("vec2face", ("enroll.source=people",), "20x20"),
    ("cemiface", (), "0.5M"),
    ("procedural", (), "10000x50"),
    ("cemiface", (), "200x20+4000x10"),
]
FINE = [
    ("real", (), None),
    ("cemiface", (), None),
    ("cemiface", ("enroll.source=world",), "200×20"),
    ("cemiface", ("enroll.source=real",), "2000x20"),
    ("folder", ("sample.path=nowhere",), None),  # refused by the folder, in its own words
    ("digiface_1m", (), None),  # not registered: that is what is said
]


@pytest.mark.parametrize(("generator", "settings", "volume"), MEANT)
def test_a_request_for_photographs_or_full_scale_must_name_its_protocol(
    photos: Path, generator: str, settings: tuple[str, ...], volume: str | None
) -> None:
    sources.add("people", photos, kind="faces")
    request = run.Request(generator, Path("r"), volume, settings=settings)
    for call in (run.run, run.plan, read):
        with pytest.raises(UserError) as error:
            call(request)
        lines = str(error.value).splitlines()
        names = [line.split(":")[0].strip() for line in lines[1:]]
        assert names == ["--protocol demo", "--protocol demo-hard", "--protocol demo-unbalanced", "--protocol paper", "--protocol photos"]
        assert all("rendered faces" in line and "minutes on two cores" in line for line in lines[1:4]) and "lacks casia-webface" in lines[4]
    assert default_protocol.choose("demo", generator, settings, volume)[0].name == "demo"  # when it is asked for
    assert not Path("r").exists()


@pytest.mark.parametrize(("generator", "settings", "volume"), FINE)
def test_the_demo_needs_no_word(photos: Path, generator: str, settings: tuple[str, ...], volume: str | None) -> None:
    (photos.parent / "world").mkdir()  # a folder that is called as a source of the embedded world
    assert default_protocol.choose(None, generator, settings, volume)[0].name == "demo"


@pytest.mark.parametrize("name", ["digiface-1m", "arc2face"])
def test_registered_sets_and_weights_of_a_generator_are_not_for_the_demo(photos: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    entry = sources.add("people", photos, kind="faces")
    registered.save(name, replace(entry, name=name))
    generator = {"digiface-1m": "digiface_1m"}.get(name, name)
    with pytest.raises(UserError, match=f"={name} is a registered source"):
        default_protocol.choose(None, generator)


def test_paper_is_the_default_when_its_data_are_there(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing(load_protocol("demo")) == [] and len(missing(load_protocol("paper"))) == 8
    own = load_protocol("demo").model_copy(update={"generators": {"idiffface": {"enroll": {"source": "uniform"}}}})
    assert not [need for need in own.needs() if need.generator]  # directions on a sphere are no source to register
    monkeypatch.setattr(sources, "registered", lambda name: True)
    assert missing(load_protocol("paper")) == []
    assert default_protocol.choose(None, "folder", ("sample.path=photos",), "0.5M")[0].name == "paper"


def test_compare_sweep_and_reproduce_ask_too(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for request in (compare.Request(("real", "folder sample.path=photos"), Path("r")), compare.Request(("cemiface",), Path("r"), "0.5M")):
        with pytest.raises(UserError, match="--protocol demo"):
            compare.compare(request)
    for name in ("folder sample.path=photos", "cemiface enroll.source=photos"):  # beside a run that was made under demo
        monkeypatch.setattr(compare, "_made", lambda store, name: [{"protocol": "demo", "seeds": [0]}])
        with pytest.raises(UserError, match="--protocol demo"):
            compare.wanted(compare.Request(("latest", name), Path("r")), Store(Path("r").absolute()))
    for words, options in (
        (("enroll.source",), {"values": ("world,photos",)}),
        (("sample.path",), {"generator": "folder", "values": ("photos",)}),
        (("m",), {"volume": "1M"}),
        (("m",), {"confirm": 1, "confirm_volume": "0.5M"}),
        (("m",), {"settings": ("enroll.source=photos",)}),
    ):
        with pytest.raises(UserError, match="--protocol demo"):
            sweep.sweep(sweep.Request(words, Path("r"), **options))
    with pytest.raises(UserError, match=r"(?s)--scale demo: .*--scale full: .*lacks casia-webface"):
        rows.default_scale(Reproduction("cemiface/lambda", Path("r"), volume="0.5M"))
    assert rows.default_scale(Reproduction("cemiface/lambda", Path("r"), volume="50x5")) == "demo"
    assert not Path("r").exists()


def test_a_folder_of_photographs_is_not_called_free_of_them(photos: Path) -> None:
    """Neither by the title of protocol demo, nor by a report."""
    from synthbench.report.data import Run

    result = run.run(run.Request("folder", Path("r"), None, "tiny.yaml", settings=("sample.path=photos",), tracking=False))
    assert result
    assert not Run(result, Store(Path("r").absolute())).rendered
    assert Run({**result, "generator": "procedural", "traits": {"new_identities": True}}, Store(Path("r").absolute())).rendered
    assert "no real photographs" not in load_protocol("demo").title and json.dumps(result)
