"""`synthbench reproduce`: every YAML is checked against the code and the published numbers; names, rows, the table; a tiny one for real."""

from __future__ import annotations

import csv
import dataclasses
import difflib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from fake_runs import make_run

from synthbench import registry, sweep
from synthbench.cli.app import cli
from synthbench.config import parse_set
from synthbench.pipeline import compare, run
from synthbench.pipeline.loading import load_generator
from synthbench.protocol import load_protocol
from synthbench.recognition.trainer import load_recipe
from synthbench.reproduce import SCALES, Request, definition, find, page, reproduce, rows, tables, work
from synthbench.reproduce.definition import Part, published_row
from synthbench.results import published
from synthbench.store import write_json
from synthbench.sweep.settings import leaves
from synthbench.types import DataMissing, UserError

TABLES = tables()
SPEC = Path(__file__).parents[2] / "shared" / "specs" / "cemiface_dcface.md"
EACH_ROW = [pytest.param(name, row, id=f"{name} {row.label}") for name, table in TABLES.items() for row in table.rows]


# ---------------------------------------------------------------------------------------------------------- the YAML files


def test_all_that_the_paper_has_is_there() -> None:
    tables_of_v2 = {f"table {n}" for n in (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14)}
    numbers = {number for table in TABLES.values() for number in table.camera_ready.split(", ")}
    assert numbers == tables_of_v2 | {"figure 4", "figure 5", "figure 7"}
    assert {number for table in TABLES.values() for number in table.v1.split(", ")} >= {f"table {n}" for n in range(1, 13)}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("name", "row"), EACH_ROW)
def test_a_row_asks_for_settings_that_are(name: str, row: definition.Row, scale: str, tmp_path: Path) -> None:
    table, part = TABLES[name], getattr(row, scale)
    generator = row.generator or table.generator
    known = registry.names("generator")
    assert generator in known or not difflib.get_close_matches(generator, known), f"is it the name of a generator? {generator}"
    assert (row.value is not None) == bool(table.sweep)
    if generator not in known or row.missing or isinstance(part, str):
        return
    whole = getattr(table, scale)
    path = rows.changed(whole.protocol, {**whole.change, **part.change}, tmp_path)
    protocol = load_protocol(path)
    load_recipe(protocol.recipe)
    settings = {**table.settings, **whole.settings, **row.settings, **part.settings} | ({table.sweep: row.value} if table.sweep else {})
    assert set(settings) <= set(leaves(registry.load("generator", generator).Config))
    load_generator(generator, protocol, parse_set(rows.texts(settings)))


@pytest.mark.parametrize(("name", "row"), EACH_ROW)
def test_published_numbers_are_in_the_csv_or_the_specification(name: str, row: definition.Row) -> None:
    table = TABLES[name]
    found = published_row(row, table)
    columns = {column.published for column in table.columns} - {""}
    assert not row.published or columns <= found.keys()
    assert not row.numbers or set(row.numbers) == columns
    if row.numbers:
        if not SPEC.is_file():
            pytest.skip("the specification is not here")
        text = SPEC.read_text("utf-8")
        assert not [value for value in row.numbers.values() if not re.search(rf"(?<![\d.]){value:g}(?![\d.]*\d)", text)]


def test_every_ablation_of_the_paper_is_in_a_table() -> None:
    named = [published_row(row, table) for table in TABLES.values() for row in table.rows if row.published]
    wanted = [row for row in published.read() if row["kind"] == "ablation" and re.search(r"CemiFace (v2 )?T\d", row["source"])]
    assert len(wanted) > 50 and not [row["setting"] for row in wanted if row not in named]


def test_a_row_of_the_csv_is_found_once_or_refused() -> None:
    table = TABLES["cemiface/m"]
    assert published_row(table.rows[0], table)["avg_printed"] == "84.13"
    for wrong in ({"setting": "m 7"}, {"source": "CemiFace T6"}):
        with pytest.raises(UserError, match=r"rows of published\.csv"):
            published_row(table.rows[0].model_copy(update={"published": wrong}), table)


# ------------------------------------------------------------------------------------------------------------------- names


def test_names_and_numbers() -> None:
    for word in ("cemiface/comparison", "cemiface/table-6", "cemiface/table-6-v1", "cemiface/table-6-v2"):
        assert find(word)[0] == "cemiface/comparison"
    assert find("cemiface/table-8-v1")[0] == "cemiface/backbones" and find("cemiface/table-8-v2")[0] == "cemiface/inquiry-centres"
    assert find("cemiface/figure-4")[0] == "cemiface/m" and find("cemiface/table-14")[0] == "cemiface/lambda"


def test_a_number_with_two_meanings_is_asked_about() -> None:
    with pytest.raises(UserError, match="is cemiface/inquiry-centres in the camera-ready version and cemiface/backbones in v1"):
        find("cemiface/table-8")


@pytest.mark.parametrize(("word", "meant"), [("cemiface/backbone", "cemiface/backbones"), ("cemiface/table6", "cemiface/table-6")])
def test_a_wrong_name_is_told_the_nearest(word: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"did you mean '{meant}'"):
        find(word)


# -------------------------------------------------------------------------------------------------------------------- rows


def items(tmp_path: Path, name: str, scale: str = "demo", **options) -> list[rows.Item]:
    return rows.items(find(name)[1], Request(name, tmp_path, scale, **options), tmp_path / "files")


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if these were all generators there are."""
    points = registry.names("generator")
    few = {name: points[name] for name in ("real", "cemiface", "procedural")}
    monkeypatch.setattr(rows, "registry", SimpleNamespace(names=lambda kind: few))


def test_what_cannot_be_run_is_listed_with_the_reason(tmp_path: Path, three: None) -> None:
    found = {item.label: item for item in items(tmp_path, "cemiface/comparison")}
    assert [label for label, item in found.items() if item.request] == [
        "real",
        "CemiFace 200 x 20",
        "CemiFace 400 x 20",
        "CemiFace 400 x 20 + 800 x 2",
        "procedural 200 x 20 (rendered, not in the paper)",
    ]
    assert "no generator dcface yet" in str(found["DCFace 0.5M"].reason)
    assert not (tmp_path / "stages").exists()


def test_a_row_is_run_as_soon_as_its_generator_is_there(tmp_path: Path) -> None:
    found = {item.label: item for name in ("comparison", "fid", "tsne") for item in items(tmp_path, f"cemiface/{name}")}
    for item in found.values():
        there = (item.row.generator or "cemiface") in registry.names("generator")
        assert bool(item.request) == there or isinstance(item.row.demo, str) or isinstance(item.reason, DataMissing)


def test_another_volume_is_said(tmp_path: Path, three: None) -> None:
    found = {item.label: item for item in items(tmp_path, "cemiface/comparison", volume="20x4")}
    assert found["CemiFace 400 x 20, at 20x4"].request.volume == "20x4" and "real" in found
    assert "CemiFace 200 x 20" in {item.label for item in items(tmp_path, "cemiface/comparison", volume="200x20")}
    assert "cosine" in {item.label for item in items(tmp_path, "cemiface/distance", volume="20x4")}  # it says no volume


def test_full_scale_without_data_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHBENCH_DATA", str(tmp_path / "none"))
    with pytest.raises(
        DataMissing,
        match=r"no row of cemiface/lambda can be run at full scale: it needs 9 sources that are not registered(?s:.)*CASIA-WebFace",
    ):
        reproduce(Request("cemiface/lambda", tmp_path, "full"))


def test_when_no_row_can_be_run_the_reason_is_one_that_can_be_mended(tmp_path: Path) -> None:
    (tmp_path / "damaged.yaml").write_text("name: [")
    with pytest.raises(UserError, match=r"no row of cemiface/inquiry-centres can be run at demo scale: .*damaged.yaml:1"):
        reproduce(Request("cemiface/inquiry-centres", tmp_path, "demo", str(tmp_path / "damaged.yaml")))


def test_backbones_are_protocols_of_their_own_with_a_real_row_each(tmp_path: Path) -> None:
    found = items(tmp_path, "cemiface/backbones")
    reals = ["real under demo-width-16", "real", "real under demo-width-48"]
    assert [item.label for item in found if item.request][::2] == reals
    paths = [item.request.protocol for item in found if item.request][1::2]
    small, base, large = (load_protocol(str(path)) for path in paths)
    assert base == load_protocol("demo") and small.name == "demo-width-16" and "width-48" in large.title
    assert load_recipe(small.recipe).backbone.width == 16 and load_recipe(small.recipe).backbone.blocks == (0, 2, 2)
    keys = [{step.stage.name: step.stage.key for step in item.steps if step.stage.name != "recognizer"} for item in found if item.request]
    assert keys[1]["generate"] == keys[3]["generate"] and small.judge == large.judge == base.judge  # only recognizer and evaluation differ
    assert keys[1]["evaluate"] != keys[3]["evaluate"]


def test_another_real_set_replaces_the_old_one(tmp_path: Path) -> None:
    protocol = load_protocol(rows.changed("demo", {"real": {"source": "vggface2"}}, tmp_path))
    assert protocol.sources() == ["vggface2"] and protocol.name == "demo-source-vggface2"


def test_images_alone_need_no_recognizer(tmp_path: Path) -> None:
    names = {step.stage.name for item in items(tmp_path, "cemiface/samples-over-m") for step in item.steps}
    assert names == {"real", "train", "enroll", "generate"}


def test_rows_that_share_a_stage_count_it_once(tmp_path: Path) -> None:
    found = items(tmp_path, "cemiface/samples-over-m")
    total = rows.work(found, work.Store(tmp_path))
    assert (total.stages, total.todo) == (12, 12)  # real, train, enroll, and nine times generate


# --------------------------------------------------------------------------------------------------------- a reproduction


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[run.Request]:
    """Answers requests with fabricated runs, a recipe of its own for each protocol; records them."""
    asked: list[run.Request] = []

    def answer(wish: run.Request) -> dict:
        asked.append(wish)
        name = load_protocol(str(wish.protocol)).name
        recipe = "" if name == "demo" else name
        return make_run(wish.runs, wish.generator, seeds=wish.seeds, protocol=name, recipe=recipe, tag=f"t{len(asked)}")

    monkeypatch.setattr(run, "run", answer)
    monkeypatch.setattr(rows, "steps", lambda wish, images_only: ([], {}))
    monkeypatch.setattr(compare, "announce", lambda wanted, store: None)
    return asked


def wish(tmp_path: Path, name: str, **options) -> Request:
    return Request(name, tmp_path, **{"scale": "demo", "tracking": False, **options})


def test_a_comparison_beside_the_published_numbers(tmp_path: Path, three: None, fake: list[run.Request]) -> None:
    made = reproduce(wish(tmp_path, "cemiface/table-6", seeds=2))
    assert [item.volume for item in fake] == [None, "200x20", "400x20", "400x20+800x2", "200x20"]
    by_label = {row["label"]: row for row in made["rows"]}
    ours = by_label["CemiFace 200 x 20"]
    assert ours["published"]["avg_printed"] == "92.30" and ours["published"]["gap_points"] == "1.96"
    assert ours["ours"]["verification/avg/accuracy"]["low"] is not None and ours["ours"]["gap_to_real/points"]["n"] == 2
    assert by_label["DCFace 0.5M"]["ours"] == {} and by_label["DCFace 0.5M"]["published"]["avg_printed"] == "90.18"
    assert made["made_of"] == ["comparisons/cemiface-comparison-demo"] and made["folder"] == "cemiface-comparison-demo"
    folder = tmp_path / "reproductions" / made["folder"]
    assert json.loads((folder / "reproduction.json").read_text()) == json.loads(json.dumps(made))
    header, *lines = csv.reader((folder / "table.csv").open())
    assert header == ["", "AVG %, ours", "AVG %, published", "gap to real, ours", "gap to real, published", "remark"]
    assert lines[0][:3] == ["real", *lines[0][1:2], "94.26"] and re.fullmatch(r"[\d.]+ \[[\d.]+, [\d.]+\]", lines[0][1])
    assert next(line for line in lines if line[0] == "DCFace 0.5M")[1::4] == ["-", "not run: synthbench has no generator dcface yet"]
    html = (folder / "report.html").read_text()
    assert "Ours and the published numbers" in html and "cannot be compared" in html and "92.30" in html
    assert r"\toprule" in (folder / "table.tex").read_text() and "92.30" in (folder / "report.md").read_text()


def test_recipes_are_compared_apart(tmp_path: Path, fake: list[run.Request]) -> None:
    made = reproduce(wish(tmp_path, "cemiface/backbones"))
    assert [item.generator for item in fake] == ["real", "cemiface"] * 3
    assert [name.rpartition("-")[2] for name in made["made_of"]] == ["1", "2", "3"]
    assert made["rows"][2]["label"] == "real" and made["rows"][3]["published"]["avg_printed"] == "91.64"
    html = (tmp_path / "reproductions" / made["folder"] / "report.html").read_text()
    assert "Results under demo-width-16" in html and "Results under demo-width-48" in html


def test_a_row_that_fails_is_named_and_the_others_go_on(
    tmp_path: Path, fake: list[run.Request], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    answer = run.run

    def fails(wanted: run.Request) -> dict:
        if wanted.volume == "400x20":
            raise UserError("too few people")
        return answer(wanted)

    monkeypatch.setattr(run, "run", fails)
    made = reproduce(wish(tmp_path, "cemiface/comparison"))
    assert {row["label"]: row["remark"] for row in made["rows"]}["CemiFace 400 x 20"] == "not run: too few people"
    assert "warning: CemiFace 400 x 20: too few people" in capsys.readouterr().err


def test_a_sweep_beside_the_published_numbers(tmp_path: Path, fake: list[run.Request], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[sweep.Request] = []

    def swept(wanted: sweep.Request) -> dict:
        asked.append(wanted)
        values = [0.01, 0.05, 0.1, 0.5]
        points = []
        for i, value in enumerate(values):
            one = make_run(tmp_path, tag=f"p{i}", seeds=1)
            scores = {"verification/avg/accuracy": {"value": 80.0 + i, "low": 79.0, "high": 82.5, "n": 1}}
            state = "failed" if value == 0.1 else "complete"
            points.append({"values": {"train.similarity_weight": value}, "runs": [one["run"]], "state": state, "scores": scores})
        data = {"sweep": "s", "generator": "cemiface", "volume": "20x4", "protocol": "demo", "title": "t", "seeds": [0], "best": 1}
        data |= {"parameters": ["train.similarity_weight"], "points": points, "statement": "AVG rises.", "command": "c"}
        (tmp_path / "sweeps" / "s").mkdir(parents=True)
        write_json(tmp_path / "sweeps" / "s" / "sweep.json", data)
        return data

    monkeypatch.setattr(sweep, "sweep", swept)
    made = reproduce(wish(tmp_path, "cemiface/lambda"))
    assert asked[0].parameters == ("train.similarity_weight",) and asked[0].values == ("0.01,0.05,0.1,0.5",) and not asked[0].settings
    header, lines = page.grid(made)
    assert header == ["", "AVG %, ours", "AVG %, published", "remark"]
    assert lines[1][:3] == ["lambda = 0.05", "81.00 [79.00, 82.50]", "91.64"]
    assert lines[2][1] == "-" and "this point of the sweep failed" in lines[2][3]
    assert "AVG rises." in (tmp_path / "reproductions" / made["folder"] / "report.html").read_text()


def test_the_sweep_over_m_has_the_runs_of_synthbench_sweep(tmp_path: Path) -> None:
    """So that they are shared: the same points, nothing else set."""
    table = TABLES["cemiface/m"]
    ours = sweep.design(sweep.Request((table.sweep,), tmp_path, values=(",".join(str(row.value) for row in table.rows),), protocol="demo"))
    theirs = sweep.design(sweep.Request(("m",), tmp_path, ranges=("-1:1:0.1",), protocol="demo"))
    assert sorted(ours.run(point, 1).settings for point in ours.points) == sorted(theirs.run(point, 1).settings for point in theirs.points)
    assert not table.settings and table.demo == Part(protocol="demo", note=table.demo.note)


def test_similarity_by_identity(tmp_path: Path) -> None:
    import numpy as np
    import torch

    from synthbench.data.faces import FaceSet

    identity = np.array([0, 0, 0, 1, 1, 2])
    columns = {
        "m": np.array([0, 0, np.nan, 0, 0, 0]),
        "similarity": np.array([0.1, 0.3, 1.0, 0.45, 0.45, 0.7]),
        "real": np.array([0, 0, 1, 0, 0, 0]),
    }
    faces = FaceSet.from_arrays(torch.zeros(6, 3, 4, 4, dtype=torch.uint8), identity, columns=columns)
    one = SimpleNamespace(faces=lambda: faces, stages=lambda name: [{"folder": tmp_path}])
    assert not len(page.by_identity(one))  # similarity to a centre, not to an inquiry
    (tmp_path / "inquiries").mkdir()
    assert page.by_identity(one) == pytest.approx([0.2, 0.45, 0.7])


# ------------------------------------------------------------------------------------------------------------ command line


def call(*words: str) -> tuple[str, str]:
    done = CliRunner().invoke(cli, ["reproduce", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout, done.stderr


def test_dry_run_shows_rows_and_reasons_and_does_nothing(tmp_path: Path, three: None) -> None:
    out, err = call("cemiface/table-6", "--scale", "demo", "--dry-run", "--runs", str(tmp_path))
    assert "CemiFace 400 x 20" in out and "synthbench has no generator dcface yet" in out and "5 runs" in err
    assert not list(tmp_path.iterdir())


def test_list_shows_all_with_both_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHBENCH_DATA", str(tmp_path / "none"))
    few = {name: TABLES[name] for name in ("cemiface/backbones", "cemiface/samples-over-m")}
    monkeypatch.setattr(rows, "tables", lambda: few)
    out, _ = call("--list", "--runs", str(tmp_path))
    lines = [line for line in out.splitlines() if "cemiface/" in line]
    assert len(lines) == 4 and "table 10" in lines[0] and "table 8" in lines[0] and " 6 " in lines[0]
    assert "needs casia-webface" in lines[1] and not list(tmp_path.iterdir())


TABLE = """
content: one procedural set, two recipes
camera_ready: table 1
v1: table 2
asks: Does the tiny one work?
generator: procedural
demo: {protocol: tiny.yaml}
full: {protocol: paper}
rows:
  - label: as it is
  - {label: wider, demo: {change: {recipe: {backbone: {width: 12}}}}}
  - {label: never, missing: for a reason}
"""


@pytest.mark.slow
def test_a_tiny_one_for_real(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "tables" / "mine").mkdir(parents=True)
    (here / "tables" / "mine" / "two.yaml").write_text(TABLE)
    monkeypatch.setattr(definition, "FOLDER", here / "tables")
    request = Request("mine/table-1", here / "runs", "demo", seeds=1, device="cpu", tracking=False)
    made = reproduce(request)
    assert [bool(row["run"]) for row in made["rows"]] == [True, True, True, True, False]  # a real row for each recipe
    assert len(made["made_of"]) == 2
    again = reproduce(dataclasses.replace(request))
    assert [row["run"] for row in again["rows"]] == [row["run"] for row in made["rows"]]
