"""`synthbench compare` from names to files: which runs are meant, what is run, what is refused, what is written."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys

import pytest
from click.testing import CliRunner
from fake_runs import make_run

from synthbench.cli.app import cli
from synthbench.pipeline import compare, run
from synthbench.results import comparison
from synthbench.store import Store, write_json
from synthbench.types import UserError


def request(root, *names, **options):
    return compare.Request(names, root, **{"tracking": False, **options})


@pytest.fixture
def never_run(monkeypatch):
    """`run` must not be asked for anything."""
    monkeypatch.setattr(run, "run", lambda wish: pytest.fail(f"ran {wish}"))


@pytest.fixture
def runner(monkeypatch):
    """Answers requests with fabricated runs; records them."""
    asked = []

    def fake(wish):
        asked.append(wish)
        return make_run(wish.runs, wish.generator, seeds=wish.seeds, settings={"words": " ".join(wish.settings)}, tag=f"t{len(asked)}")

    monkeypatch.setattr(run, "run", fake)
    monkeypatch.setattr(compare, "announce", lambda rows, store: None)
    monkeypatch.setattr(compare, "refuse_early", lambda rows: None)
    return asked


def test_generators_are_run_and_runs_are_read(tmp_path, runner):
    there = make_run(tmp_path, "good", seeds=2)
    (made,) = compare.compare(request(tmp_path, "real", "procedural", there["run"], volume="20x4"))
    assert [(wish.generator, wish.volume, wish.seeds, wish.protocol) for wish in runner] == [
        ("real", None, 2, "demo"),  # the real set has no volume; seeds and protocol of the run that is there
        ("procedural", "20x4", 2, "demo"),
    ]
    assert [row["generator"] for row in made["rows"]] == ["real", "procedural", "good"]
    written = json.loads((tmp_path / "comparisons" / made["comparison"] / "comparison.json").read_text())
    assert written == json.loads(json.dumps(made)) and made["comparison"].startswith("real+procedural+good-demo-")


def test_a_generator_may_carry_settings(tmp_path, runner):
    (made,) = compare.compare(request(tmp_path, "cemiface sample.m=0", "cemiface sample.m=0.5", seeds=1))
    assert [wish.settings for wish in runner] == [("sample.m=0",), ("sample.m=0.5",)]
    assert [row["label"] for row in made["rows"]] == ["cemiface 20x4 words=sample.m=0", "cemiface 20x4 words=sample.m=0.5"]


def test_the_same_rows_have_the_same_name_and_others_another(tmp_path, never_run):
    names = [make_run(tmp_path, name)["run"] for name in ("one", "other", "third")]
    first, again, more = (compare.compare(request(tmp_path, *chosen))[0] for chosen in (names[:2], names[:2], names))
    assert first == again and more["comparison"] != first["comparison"]
    assert compare.compare(request(tmp_path, *names[:2], name="mine"))[0]["comparison"] == "mine"
    with pytest.raises(UserError, match="names a folder"):
        compare.compare(request(tmp_path, *names, name="../mine"))


def test_without_names_all_runs_like_the_latest_are_compared_and_others_named(tmp_path, never_run, capsys):
    make_run(tmp_path, "old", protocol="other")
    names = [make_run(tmp_path, name)["run"] for name in ("one", "two")]
    (tmp_path / "results" / "half").mkdir()
    (tmp_path / "results" / "half" / "run.json").write_text('{"run": "half"')
    (made,) = compare.compare(request(tmp_path))
    assert sorted(made["runs"]) == sorted(names)
    told = capsys.readouterr().err
    assert "half/run.json is not a whole result; skipped" in told and "its protocol" in told and "old-20x4-other" in told


def test_without_names_and_runs(tmp_path, never_run):
    with pytest.raises(UserError, match="synthbench compare real procedural cemiface"):
        compare.compare(request(tmp_path))


def test_runs_measured_differently_are_refused_with_the_fields(tmp_path, never_run):
    names = [make_run(tmp_path, "one")["run"], make_run(tmp_path, "other", judge="judge1")["run"]]
    with pytest.raises(UserError) as refused:
        compare.compare(request(tmp_path, *names))
    text = str(refused.value)
    assert "judge (judge0 there, judge1 here)" in text and names[1] in text and "--force-incomparable" in text
    assert not (tmp_path / "comparisons").exists()


def test_force_prints_them_apart(tmp_path, never_run):
    names = [make_run(tmp_path, name, judge=judge)["run"] for name, judge in (("one", "a"), ("other", "b"), ("third", "a"))]
    made = compare.compare(request(tmp_path, *names, force_incomparable=True, name="both"))
    assert [item["runs"] for item in made] == [[names[0], names[2]], [names[1]]]
    assert [item["comparison"] for item in made] == ["both-1", "both-2"]


def test_a_sweep_stands_for_its_complete_points(tmp_path, never_run, capsys):
    names = [make_run(tmp_path, "cemiface", settings={"m": m}, tag=f"m{m}")["run"] for m in (0, 1)]
    folder = tmp_path / "sweeps" / "m"
    folder.mkdir(parents=True)
    points = [{"runs": [name], "state": "complete", "values": {"m": 0}} for name in (*names, "gone")]
    points.append({"runs": ["never"], "state": "failed", "values": {"m": 0}})
    about = {"generator": "cemiface", "volume": "20x4", "protocol": "demo", "seeds": [0], "parameters": ["m"], "best": None}
    write_json(folder / "sweep.json", {"sweep": "m", "points": points, **about})
    (made,) = compare.compare(request(tmp_path, "m"))
    assert made["runs"] == names and "run gone is missing or not whole" in capsys.readouterr().err
    (folder / "sweep.json").write_text('{"points": 3}')
    (made,) = compare.compare(request(tmp_path, "m", names[0]))
    assert made["runs"] == names[:1] and "is not a whole sweep; skipped" in capsys.readouterr().err


def test_seeds_out_of_range_are_refused_before_anything_is_planned(tmp_path, never_run):
    for seeds in (0, 10**9):
        with pytest.raises(UserError, match="between 1 and 100"):
            compare.compare(request(tmp_path, "procedural", seeds=seeds))


def test_only_what_is_new_is_mirrored(tmp_path, never_run, monkeypatch):
    from synthbench.tracking import mirror

    seen = []
    monkeypatch.setattr(mirror, "mirror_group", lambda store, path: seen.append(path))
    names = [make_run(tmp_path, name)["run"] for name in ("one", "other")]
    for chosen in (names, names, names[:1]):
        compare.compare(request(tmp_path, *chosen, name="mine", tracking=True))
    assert seen == [tmp_path / "comparisons" / "mine" / "comparison.json"] * 2


def test_unknown_names_list_what_there_is(tmp_path, never_run):
    make_run(tmp_path, "one")
    with pytest.raises(UserError, match="did you mean 'procedural'"):
        compare.compare(request(tmp_path, "procedral"))
    with pytest.raises(UserError, match=r"no generator, and no run, sweep or evaluation in .*; there is .*cemiface.*one-20x4"):
        compare.compare(request(tmp_path, "zzz"))
    with pytest.raises(UserError, match="No closing quotation"):
        compare.compare(request(tmp_path, "cemiface 'sample"))
    with pytest.raises(UserError, match="empty name"):
        compare.compare(request(tmp_path, ""))


def test_a_half_written_run_is_refused_by_name(tmp_path, never_run):
    name = make_run(tmp_path, "one")["run"]
    (tmp_path / "results" / name / "run.json").write_text('{"run":')
    with pytest.raises(UserError, match="not a whole result"):
        compare.compare(request(tmp_path, name))


def test_the_baseline_is_real_or_the_one_asked_for(tmp_path, never_run):
    names = [make_run(tmp_path, name)["run"] for name in ("one", "real", "other")]
    assert compare.compare(request(tmp_path, *names))[0]["baseline"] == names[1]
    assert compare.compare(request(tmp_path, names[0], names[2]))[0]["baseline"] == names[0]
    for wish in ("other", "other 20x4", names[2]):
        assert compare.compare(request(tmp_path, *names, baseline=wish))[0]["baseline"] == names[2]
    with pytest.raises(UserError, match="'othre' is none of the rows: one 20x4, real, other 20x4"):
        compare.compare(request(tmp_path, *names, baseline="othre"))


def test_plan_first(tmp_path, monkeypatch, capsys):
    """What is missing is announced, each shared stage once; nothing is done."""
    monkeypatch.setattr(run, "run", lambda wish: None)
    wish = request(tmp_path, "real", "procedural", volume="10x4", protocol="demo", seeds=2)
    rows = compare.wanted(wish, Store(tmp_path))
    compare.announce(rows, Store(tmp_path))
    told = capsys.readouterr().err
    # 3 shared ones (real set twice: as it is and as a set of faces); of each seed 2 of the real run and 3 of the other
    assert "to run: real, procedural: 13 of 13 stages to do, about " in told and "by reference rates" in told
    compare.plan(wish)
    assert capsys.readouterr().out.count("world-mixed") == 1
    assert not (tmp_path / "stages").exists()


@pytest.fixture
def shown(tmp_path, never_run):
    names = [make_run(tmp_path, name, skill, seeds=2)["run"] for name, skill in (("real", 2.0), ("good", 1.5), ("weak", 0.0))]

    def show(*words):
        result = CliRunner().invoke(cli, ["compare", *names, "--runs", str(tmp_path), "--no-tracking", *words], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result

    return show


def test_the_table(shown):
    out = shown().stdout
    assert "AVG (%)" in out and "gap to real" in out and "what each needs" in out and "hours per seed" in out
    line = next(line for line in out.splitlines() if "good 20x4" in line)
    assert "±" in line and "(" in line and "*" in line and " to " in line
    assert "good 20x4 − real" in out and "weak 20x4 − good 20x4" in out.replace("good 20x4 − weak 20x4", "weak 20x4 − good 20x4")
    assert "published numbers" not in out  # neither generator was ever published


def test_notes_go_to_stderr(shown):
    told = shown().stderr
    assert "standard deviation between seeds" in told and "with probability 80%" in told


def test_json_csv_markdown_and_latex(shown):
    assert [row["generator"] for row in json.loads(shown("--format", "json").stdout)["rows"]] == ["real", "good", "weak"]
    rows = list(csv.DictReader(io.StringIO(shown("--format", "csv").stdout)))
    assert {row["metric"] for row in rows} >= {"verification/avg/accuracy", "cost/hours"}
    assert shown("--format", "md").stdout.startswith("| ")
    assert r"\begin{tabular}" in shown("--format", "latex").stdout


def test_html_prints_where_the_page_is(shown, monkeypatch, tmp_path):
    from synthbench import report

    monkeypatch.setattr(report, "report", lambda name, runs, place, kinds: runs / name / "report.html")
    printed = shown("--format", "html").stdout
    (made,) = (tmp_path / "comparisons").glob("*/comparison.json")
    assert printed == f"{tmp_path / made.parent.name / 'report.html'}\n"


def test_terminal_and_files_have_one_sign_and_one_meaning_of_each_mark(shown):
    """The baseline is subtracted, and the dagger says the same of a cell and of a difference: the data cannot tell."""
    out, text = shown().stdout, shown("--format", "md").stdout
    (told,) = (line.split() for line in out.splitlines() if line.startswith("good 20x4 − real"))
    (written,) = (line.split("|") for line in text.splitlines() if "good 20x4 − real" in line and "| AVG " in line)
    assert told[4] == written[3].strip() and told[4].startswith("-")
    assert "†: McNemar p ≥ 0.05" in out and "*:" not in out


def test_comparing_what_is_there_needs_no_torch(tmp_path):
    name = make_run(tmp_path, "one")["run"]
    code = (
        "import sys; from pathlib import Path; from synthbench.pipeline import compare;"
        f"compare.compare(compare.Request(({name!r},), Path({str(tmp_path)!r}), tracking=False)); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_what_could_not_be_compared_is_refused_before_anything_runs(tmp_path, never_run):
    """A run that is there, measured by another judge than the demo's, and a generator that would run under the demo."""
    there = make_run(tmp_path, "good", seeds=1)
    for act in (compare.compare, compare.plan):
        with pytest.raises(UserError, match=r"(?s)measured differently.*procedural @ 20x4, protocol demo 3, 1 seed differs from"):
            act(request(tmp_path, there["run"], "procedural", volume="20x4", protocol="demo"))


def test_a_rendered_real_set_is_no_photographs(tmp_path):
    there = make_run(tmp_path, "real", seeds=1)
    store = Store(tmp_path)
    key = next(row["key"] for row in there["stages"] if row["name"] == "real")
    manifest = store.stage("real", key).folder / "manifest.json"
    there["traits"] = {"new_identities": False, "real_photographs": "all"}
    there["scores"].append(
        {"metric": "leakage/real_photographs", "value": 1.0, "stderr": 0.0, "n": 24, "higher_is_better": False, "seed": 0}
    )
    for work, told in (("embedded world, 6 people x 4", ""), ("celeba, 6 people", "all")):
        write_json(manifest, json.loads(manifest.read_text()) | {"work": work})
        made = comparison.compare(store, [there, make_run(tmp_path, "good", seeds=1)], "both", there["run"], "synthbench compare")
        row = next(row for row in made["rows"] if row["generator"] == "real")
        assert row["traits"]["real_photographs"] == told
        assert row["cells"]["leakage/real_photographs"]["value"] == (1.0 if told else 0.0)
