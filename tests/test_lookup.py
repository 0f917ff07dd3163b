"""Names in a runs folder: `latest` is what the user asked for last, a beginning is unique or refused, photographs are asked for."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import fake_pages
import pytest
from fake_runs import make_run

from synthbench.cli import app
from synthbench.pipeline import compare
from synthbench.results import lookup
from synthbench.store import Store, write_json
from synthbench.types import UserError


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["synthbench", *words])
    return app._guarded()


@pytest.fixture
def compared(tmp_path: Path) -> Path:
    """Runs that only a comparison asked for, as `synthbench compare real cemiface` leaves them."""
    for name in ("cemiface", "real"):
        result = make_run(tmp_path, name)
        write_json(tmp_path / "results" / result["run"] / "run.json", {**result, "command": "synthbench compare real cemiface"})
    compare.compare(compare.Request((), tmp_path, name="both", tracking=False))
    return tmp_path


def test_rows_of_a_comparison_were_asked_for_by_nobody(compared: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    code = command(monkeypatch, "export", "latest", "--to", "rec", "-o", str(compared / "out"), "--runs", str(compared))
    told = capsys.readouterr().err
    assert code == 2 and "no run was asked for by itself; there are 2 runs: cemiface-20x4-demo-abc2, real-all-demo-abc2" in told
    assert not (compared / "out").exists()
    assert lookup.find(Store(compared), "latest").name == "both"
    assert "latest is comparison both: cemiface 20x4, real; protocol demo, 2 seeds" in capsys.readouterr().err


def test_asking_again_makes_it_the_latest_whatever_the_files_dates(compared: Path) -> None:
    store = Store(compared)
    lookup.asked(store, "comparison", "both")
    lookup.asked(store, "run", "real-all-demo-abc2")  # answered from the cache: no file changed
    lookup.asked(store, "run", "cemiface-20x4-demo-abc2")
    os.utime(compared / "results/real-all-demo-abc2/run.json")  # as a copy would
    os.utime(compared / "comparisons/both/comparison.json")
    with open(compared / "asked.jsonl", "a") as file:
        file.write('{"time": 1')  # cut short by a full disk
    assert lookup.find(store, "latest").name == "cemiface-20x4-demo-abc2"
    assert lookup.find(store, "latest", ("comparison",)).name == "both"


def test_a_folder_of_an_older_version_goes_by_date(tmp_path: Path) -> None:
    for second, (name, words) in enumerate((("dcface", "run dcface"), ("cemiface", "--quiet run cemiface"), ("digiface", "sweep x"))):
        result = make_run(tmp_path, name)
        path = tmp_path / "results" / result["run"] / "run.json"
        write_json(path, {**result, "command": f"synthbench {words}"})
        os.utime(path, (second, second))
    assert lookup.find_run(Store(tmp_path), "latest")["generator"] == "cemiface"


def test_a_beginning_of_several_kinds_is_refused_and_a_kind_tells_apart(tmp_path: Path) -> None:
    fake_pages.make_all(tmp_path)
    store = Store(tmp_path)
    (tmp_path / "comparisons" / "m-sweep").mkdir()
    write_json(tmp_path / "comparisons" / "m-sweep" / "comparison.json", {})
    with pytest.raises(UserError, match="'m-sweep' is the name of 2 things: comparison m-sweep, sweep m-sweep"):
        lookup.find(store, "m-sweep")
    assert lookup.find_words(store, ("sweep", "m-sweep")).kind == "sweep"
    with pytest.raises(UserError, match="'cemi' is the beginning of 2 runs: cemiface-6x6-demo-a, cemiface-6x6-demo-b"):
        lookup.find(store, "cemi", ("run",))
    with pytest.raises(UserError, match="no run ''"):
        lookup.find(store, "", ("run",))
    with pytest.raises(UserError, match="'m-s' is the beginning of 2 things"):
        lookup.find(store, "m-s")
    assert [row["run"] for row in compare.wanted(compare.Request(("m-sw",), tmp_path), store)] == [
        "cemiface-6x6-demo-a",
        "cemiface-6x6-demo-b",
    ]  # type: ignore[index]


def test_photographs_are_exported_only_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    fake_pages.make(tmp_path, tag="x", real="casia: 6 people")
    path = tmp_path / "results/cemiface-6x6-demo-x/run.json"
    result = json.loads(path.read_text())
    call = ("export", "cemiface-6x6-demo-x", "--to", "imagefolder", "--runs", str(tmp_path), "-o")
    cases = (  # traits, whether the real set is rendered, whether there are photographs
        ({"real_photographs": "the inquiry of each identity", "new_identities": True}, True),
        ({"real_photographs": "all", "new_identities": False}, True),
        ({"real_photographs": "", "new_identities": True}, False),
        ({}, True),  # not known
    )
    for number, (traits, photographs) in enumerate(cases):
        write_json(path, {**result, "traits": traits})
        code = command(monkeypatch, *call, str(tmp_path / f"out{number}"))
        told = capsys.readouterr().err
        assert code == (2 if photographs else 0) and ("photographs of real people" in told)
        assert (tmp_path / f"out{number}").exists() != photographs
    write_json(path, {**result, "traits": cases[1][0]})
    assert command(monkeypatch, *call, str(tmp_path / "out"), "--photographs") == 0
    told = capsys.readouterr().err
    assert "36 images of 6 identities, 32 px, of run cemiface-6x6-demo-x" in told and "photographs of real people: all" in told


def test_people_of_a_rendered_set_are_no_photographs(tmp_path: Path) -> None:
    result = {**fake_pages.make(tmp_path), "traits": {"real_photographs": "all", "new_identities": False}}
    assert lookup.photographs(Store(tmp_path), result) == ""
    copied = {**result, "traits": {"real_photographs": "the inquiries", "new_identities": True}}  # of people from elsewhere
    assert lookup.photographs(Store(tmp_path), copied) == "the inquiries"
