"""Leakage beside its chance level: a number only where the judge can tell, never an alarm, in every table."""

from __future__ import annotations

import csv
import io
import json

import pytest
from fake_runs import make_run, score

from synthbench.inventory import listing
from synthbench.report.data import load, open_run, run_table, sweep_table
from synthbench.results import leak, record, shapes, tables
from synthbench.results.comparison import compare
from synthbench.store import Store, write_json


def scores(share: float, strangers: float | None, others: float = 0.224, seed: int = 0, error: float = 0.001) -> list[dict]:
    found = [score(leak.SHARE, share, error, seed, False), score("leakage/identities_with_a_leaked_image", 0.867, 0.02, seed, False)]
    found.append(score(leak.OTHERS, others, error, seed, False))
    return found + ([] if strangers is None else [score(leak.STRANGERS, strangers, error, seed, False)])


def test_a_judge_that_knows_every_fifth_stranger_is_not_asked():
    blind = {"scores": scores(0.174, 0.204)}
    assert leak.text(blind) == "-" == record.cell(blind, leak.SHARE)
    assert leak.notes([("procedural", blind)]) == [
        "leakage cannot be told: the judge takes 20.4 % of strangers for a person of the real set"
    ]


def test_a_share_stands_beside_its_chance_and_words_say_which_is_more():
    kept = {"scores": scores(0.004, 0.003, error=0.001)}
    leaky = {"scores": scores(0.25, 0.003, error=0.001)}
    assert (leak.text(kept), leak.text(leaky)) == ("0.4 ±0.1 (0.3)", "25.0 ±0.1 (0.3)")
    assert leak.notes([("kept", kept)])[0].endswith("no more than strangers'")
    both = leak.notes([("real", {"scores": []}), ("kept", kept), ("leaky", leaky)])
    assert len(both) == 1 and both[0].endswith("more than strangers': leaky")


def test_without_strangers_the_other_real_people_are_the_chance_and_without_either_there_is_no_number():
    assert leak.text({"scores": scores(0.004, None, others=0.002)}) == "0.4 ±0.1 (0.2)"
    alone = {"scores": [score(leak.SHARE, 0.5, 0.01, 0, False)]}
    assert leak.text(alone) == "-" and not leak.notes([("alone", alone)]) and leak.beside({"value": 0.5}, None) is None


def test_seeds_are_averaged_and_the_limit_is_one_percent():
    two = {"scores": scores(0.10, 0.0, seed=0) + scores(0.30, 0.02, seed=1)}
    assert leak.text(two) == "20.0 ±0.1 (1.0)"  # chance of exactly 1 % is allowed
    assert leak.text({"scores": scores(0.10, 0.0101)}) == "-"


@pytest.fixture
def compared(tmp_path):
    """Two generators and the real set, of which the judge knows `strangers`."""

    def make(strangers: float) -> dict:
        rows = [make_run(tmp_path, "real", 2.0), make_run(tmp_path, "kept", 1.0), make_run(tmp_path, "leaky", 1.5)]
        for result, share in zip(rows[1:], (0.004, 0.25)):
            for seed in (0, 1):
                result["scores"] += scores(share, strangers, seed=seed)
            write_json(tmp_path / "results" / result["run"] / "run.json", result)
        return compare(Store(tmp_path), rows, "name", rows[0]["run"], "command")

    return make


def test_a_comparison_shows_chance_and_marks_nobody(compared):
    made = compared(0.003)
    text = tables.results_markdown(made)
    assert "| leak, images % (chance) |" in text and "25.0 ±0.1 (0.3)" in text and "0.4 ±0.1 (0.3)" in text
    assert "more than strangers': leaky 20x4" in text and "86.7" not in text
    shares = [cell for row in made["rows"] if (cell := row["cells"][leak.SHARE])]
    assert len(shares) == 2 and not any(cell["best"] or cell["tied"] for cell in shares)
    assert not any(item["metric"].startswith("leakage") for item in made["differences"])
    assert r"25.0\,{\scriptsize $\pm$0.1 (0.3)}" in tables.table_latex(made)
    cells = [row for row in csv.DictReader(io.StringIO(tables.table_csv(made))) if row["metric"] == leak.SHARE]
    assert [(row["value"], row["chance"]) for row in cells] == [("", ""), ("0.004", "0.003"), ("0.25", "0.003")]


def test_a_comparison_by_a_judge_that_cannot_tell_shows_the_reason_once(compared, capsys):
    from synthbench.results import terminal

    made = compared(0.204)
    text = tables.results_markdown(made)
    assert text.count("20.4") == 1 and "cannot be told" in text and "25.0" not in text
    terminal.show(made)
    out, err = capsys.readouterr()
    assert "25.0" not in out + err and err.count("20.4 %") == 1
    cells = [row for row in csv.DictReader(io.StringIO(tables.table_csv(made))) if row["metric"] == leak.SHARE]
    assert [(row["value"], row["chance"]) for row in cells] == [("", ""), ("", "0.204"), ("", "0.204")]
    written = json.loads(json.dumps(made))
    assert shapes.whole("comparison", written)  # and is read again: a report, `show`, `compare` by its name
    written["rows"][1]["cells"]["verification/avg/accuracy"]["value"] = None
    assert not shapes.whole("comparison", written)


def test_a_list_of_runs_leaves_out_the_distance_of_the_real_set_to_itself(tmp_path):
    made = make_run(tmp_path, "real", 2.0)
    made["scores"].append(score("fd/judge/frechet", 0.0, None, 0, False))
    listed = list(csv.DictReader(io.StringIO(listing.table_csv([made]))))
    assert {row["metric"] for row in listed} == {item["metric"] for item in made["scores"]} - {"fd/judge/frechet"}


def test_the_leaked_identities_of_an_old_comparison_are_not_shown(compared, tmp_path):
    made = compared(0.003)
    old = {"metric": "leakage/identities_with_a_leaked_image", "title": "leaked ids", "unit": "%", "digits": 1, "scale": 100}
    rows = [{**row, "cells": {**row["cells"], old["metric"]: {"value": 0.8}}} for row in made["rows"]]
    write_json(tmp_path / "comparison.json", {**made, "columns": [*made["columns"], old], "rows": rows})
    assert load(tmp_path / "comparison.json")["columns"] == made["columns"]


def test_the_reports_of_a_run_and_of_an_old_sweep_do_the_same(compared, tmp_path):
    made = compared(0.204)
    table = run_table(open_run(Store(tmp_path), made["runs"][2]))
    assert table["rows"][1]["cells"][leak.SHARE]["value"] is None and any("20.4 % of strangers" in note for note in table["notes"])
    cell = {"value": 0.25, "sampling_stderr": 0.01, "seed_std": None, "low": 0.2, "high": 0.3, "n": 1}
    about = {"sweep": "s", "generator": "g", "volume": "2x2", "protocol": "p", "title": "t", "seeds": [0]}
    shown = []
    for strangers in (0.204, 0.003):  # a sweep.json has every score of its points, without chance levels
        point = {"values": {"sample.m": 0.0}, "runs": ["r"], "scores": {leak.SHARE: cell, leak.STRANGERS: {**cell, "value": strangers}}}
        shown.append(tables.results_markdown(sweep_table({**about, "points": [point]})))
    assert "25.0" not in shown[0] and "25.0 ±1.0 (0.3)" in shown[1]
