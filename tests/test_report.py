"""Reports: what they say, that they escape and degrade, and how Chromium renders them."""

from __future__ import annotations

import html.parser
import re

import fake_pages
import numpy as np
import pytest
from browser import CHROMIUM, Browser
from click.testing import CliRunner

from synthbench import report
from synthbench.cli.app import cli
from synthbench.report import figures, pairs, verdict
from synthbench.report.data import Run
from synthbench.report.page import DARK, LIGHT
from synthbench.store import Store, read_json, write_json
from synthbench.types import UserError

KINDS = {"run": "cemiface-6x6-demo-a", "comparison": "a-and-b", "sweep": "m-sweep"}
SECTIONS = {
    "run": "results elsewhere requirements images similarity separation pairs closest training cost provenance configuration scores",
    "comparison": "results differences images recognition identities similarity pairs cost provenance configuration",
    "sweep": "results images cost provenance configuration",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    fake_pages.make_all(root)
    return root


@pytest.fixture(scope="module")
def pages(runs):
    return {kind: report.report(name, runs) for kind, name in KINDS.items()}


class Reader(html.parser.HTMLParser):
    """Collects elements, and complains of tags that do not nest."""

    VOID = {"meta", "link", "img", "br", "path", "use", "circle", "rect"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.found, self.wrong = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag in self.VOID:
            return
        if not self.open or self.open[-1] != tag:
            self.wrong.append((tag, self.open[-3:]))
        else:
            self.open.pop()


# ------------------------------------------------------------------------------------------------------------ what it says


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_whole_and_needs_nothing_else(pages, kind):
    text = pages[kind].read_text("utf-8")
    reader = Reader(text)
    assert not reader.wrong and not reader.open
    assert [attrs["id"] for tag, attrs in reader.found if tag == "section"] == SECTIONS[kind].split()
    assert "Not shown" not in text
    links = [value for _, attrs in reader.found for name, value in attrs.items() if name in ("src", "href", "xlink:href")]
    assert links and all(value.startswith(("#", "data:")) for value in links)
    ids = [attrs["id"] for _, attrs in reader.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {value[1:] for value in links if value.startswith("#")} <= set(ids)
    assert not [tag for tag, _ in reader.found if tag == "script"]
    assert len(text) < 3e6


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_can_be_heard(pages, kind):
    found = Reader(pages[kind].read_text("utf-8")).found
    assert [tag for tag, _ in found].count("h1") == 1
    assert {"header", "nav", "main", "footer"} <= {tag for tag, _ in found}
    assert all(attrs.get("alt") for tag, attrs in found if tag == "img")
    drawings = [attrs for tag, attrs in found if tag == "svg"]
    assert drawings and all(attrs["role"] == "img" and len(attrs["aria-label"]) > 20 for attrs in drawings)
    assert all("scope" in attrs for tag, attrs in found if tag == "th")
    assert dict(found[0][1]) == {"lang": "en"}


def test_the_files_beside_it(pages, runs):
    folder = pages["run"].parent
    assert folder == runs / "results" / KINDS["run"] / "report"
    assert {path.name for path in folder.iterdir()} == {"report.html", "report.md", "table.tex", "table.csv", "figures"}
    text = (folder / "report.md").read_text("utf-8")
    for figure in re.findall(r"\]\((figures/[^)]+)\)", text):
        assert (folder / figure).stat().st_size > 200
    assert text.count("](figures/") == len(list((folder / "figures").iterdir())) >= 8
    assert "76.0" in text and "f00" in text and "lr: 0.1" in text
    assert "### Protocol demo" in text and "### Recipe demo: recognizers and encoder and judge" in text and "epochs: 8" in text


@pytest.mark.parametrize("kind", KINDS)
def test_the_average_stands_first(pages, kind):
    text = pages[kind].read_text("utf-8")
    first = re.search(r'<table class="results">.*?</th><th scope="col">([^<]+)', text, re.S)
    assert first[1].replace("\N{NO-BREAK SPACE}", " ").startswith("AVG")


def test_likeness_has_one_measure():
    one, other = np.array([1.0, 0.0]), np.array([0.6, 0.8])
    assert pairs.cosine(((one - other) ** 2).sum()) == pytest.approx(one @ other)


def test_the_same_run_gives_the_same_page(pages, runs, tmp_path):
    assert report.report(KINDS["run"], runs, tmp_path).read_bytes() == pages["run"].read_bytes()


def test_names_and_settings_are_text(tmp_path):
    made = fake_pages.make(tmp_path, generator=fake_pages.NASTY)
    text = report.report(made["run"], tmp_path).read_text("utf-8")
    assert "<script" not in text and "<b>&" not in text and "a<b" not in text
    assert "&lt;script&gt;" in text and "a&lt;b" in text
    assert r"\|\_&" in (tmp_path / "results" / made["run"] / "report" / "report.md").read_text("utf-8")


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_is_on_the_page(pages, kind):
    text = pages[kind].read_text("utf-8")
    assert "<summary>Protocol demo</summary>" in text and "folds: 10" in text and "<summary>Recipe demo" in text
    assert "lr: 0.1" in text  # the generator's, in full for the first row
    assert kind == "run" or "What differs in the other rows of cemiface" in text
    assert kind == "run" or "sample.m [1.0]" in text


def test_settings_of_one_model_stand_beside_each_other_with_one_noise(pages):
    text = pages["comparison"].read_text("utf-8")
    assert text.count("one noise per row: only the setting differs") == 1 and text.count('<table class="images') == 3
    assert all(f'alt="identity 1, m\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}[{m}]"' in text for m in ("0.0", "1.0"))


def test_the_verdict_of_a_sweep_is_one_sentence():
    assert verdict.first_sentence("AVG rises from 70.1 to 75. The best is m = 1. n = 3 seeds.") == (
        "AVG rises from 70.1 to 75.",
        "The best is m = 1. n = 3 seeds.",
    )
    assert verdict.first_sentence("AVG falls with m.") == ("AVG falls with m.", "")


def test_runs_of_an_older_version_are_shown_without_the_protocol(tmp_path):
    made = fake_pages.make(tmp_path)
    write_json(tmp_path / "results" / made["run"] / "run.json", {name: value for name, value in made.items() if name != "config"})
    text = report.report(made["run"], tmp_path).read_text("utf-8")
    assert "did not keep the whole protocol" in text and "Recipe of the recognizer" in text and "Not shown" not in text


def test_photographs_stay_out_unless_asked_for(tmp_path):
    made = fake_pages.make(tmp_path, tag="x1", real="casia: 6 people", benchmarks=("lfw", "cfp-fp"))
    text = report.report(made["run"], tmp_path).read_text("utf-8")
    assert "Photographs of real people are left out" in text and text.count("<img") == 36  # the generated ones
    every = report.report(made["run"], tmp_path, photographs=True).read_text("utf-8")
    assert every.count("<img") > 36 + 6 and "left out" not in every


def test_what_is_gone_leaves_a_line(tmp_path):
    made = fake_pages.make(tmp_path)
    (tmp_path / "stages/generate/facesa/packed.u8").unlink()
    (tmp_path / "stages/evaluate/scoresa/separability.npz").write_bytes(b"x" * 10)
    text = report.report(made["run"], tmp_path).read_text("utf-8")
    assert "Not shown: the stage generate of cemiface-6x6-demo-a is not there any more" in text
    assert "76.0" in text  # the result itself is whole


def test_keys_do_not_lead_out_of_the_store(tmp_path):
    made = fake_pages.make(tmp_path)
    made["stages"].append({"name": "judge", "key": "../../secret", "state": "run", "seconds": 0})
    made["stages"].append({"name": "../x", "key": "k", "state": "run", "seconds": 0})
    assert len(Run(made, Store(tmp_path)).manifests) == len(made["stages"]) - 2


def test_half_written_results_are_refused(tmp_path, runs):
    folder = tmp_path / "comparisons" / "half"
    folder.mkdir(parents=True)
    (folder / "comparison.json").write_text('{"comparison": ')
    with pytest.raises(UserError, match=r"not a whole comparison; make it again with synthbench compare"):
        report.report("half", tmp_path)
    with pytest.raises(UserError, match=r"no run, comparison or sweep 'm-swep'.*did you mean"):
        report.report("m-swep", runs)
    made = read_json(runs / "comparisons/a-and-b/comparison.json")
    odd_card = [{**row, "scorecard": [{"requirement": 3}]} for row in made["rows"]]
    for rows in ([{"run": "r"}], odd_card):
        write_json(folder / "comparison.json", {**made, "rows": rows})
        with pytest.raises(UserError, match=r"is not a whole comparison; make it again"):
            report.report("half", tmp_path)
    made = read_json(runs / "sweeps/m-sweep/sweep.json")
    (tmp_path / "sweeps/lost").mkdir(parents=True)
    write_json(tmp_path / "sweeps/lost/sweep.json", made)  # its runs are not in this folder
    assert "there is no whole run" in report.report("lost", tmp_path).read_text("utf-8")


def test_the_command(runs, tmp_path):
    done = CliRunner().invoke(cli, ["report", "m-sweep", "-o", str(tmp_path / "page"), "--runs", str(runs)], catch_exceptions=False)
    assert done.exit_code == 0 and str(tmp_path / "page" / "report.html") in done.output
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the report"):
        report.report("m-sweep", runs, tmp_path / "file")


# ------------------------------------------------------------------------------------------------------------- the verdict


def test_a_gap_is_below_above_or_not_told():
    assert verdict.against({"value": 8.8, "low": 7.5, "high": 10.0}, "real") == "8.8 points below real (95 % interval 7.5 to 10.0)"
    assert verdict.against({"value": -2.0, "low": -3.0, "high": -1.0}, "real") == "2.0 points above real (95 % interval 1.0 to 3.0)"
    assert verdict.against({"value": 0.5, "low": -1.0, "high": 2.0}, "real").startswith("not distinguishable from real (0.5 points below")
    assert verdict.against({"value": 1.0, "low": None, "high": None}, "real") == "1.0 points below real"


def compared(p: float, flip: bool, elsewhere: float = 0.0) -> str:
    rows = [
        {"run": run, "label": run, "generator": run, "volume": volume, "cells": {"verification/avg/accuracy": {"value": value}}}
        for run, value, volume in (("real", 90.0, "all"), ("a", 80.0, "4x5"), ("b", 77.0, "4x5"), ("teacher", elsewhere, ""))
        if value
    ]
    pair = (
        {"a": "b", "b": "a", "points": -3.0, "low": -5.0, "high": -1.0}
        if flip
        else {"a": "a", "b": "b", "points": 3.0, "low": 1.0, "high": 5.0}
    )
    differences = [
        {**pair, "metric": "verification/avg/accuracy", "p": p, "p_holm": p},
        {"a": "real", "b": "a", "metric": "verification/avg/accuracy", "points": 10.0, "low": 8.0, "high": 12.0, "p_holm": 0.0001},
    ]
    return verdict.comparison_verdict({"rows": rows, "baseline": "real", "differences": differences})


@pytest.mark.parametrize("flip", [False, True])
def test_a_generator_is_best_only_where_the_test_says_so(flip):
    assert compared(0.01, flip).startswith(
        "a is best: 80.0 % on average, 3.0 points above b (95 % interval 1.0 to 5.0, p = 0.010 after Holm)"
    )
    assert compared(0.01, flip).endswith("; a is 10.0 points below real (95 % interval 8.0 to 12.0).")
    assert compared(0.2, flip).startswith("The data cannot tell a (80.0 %) from b (77.0 %): +3.0 points")
    assert "p < 0.001 after Holm" in compared(0.0001, flip)
    assert compared(0.2, flip, elsewhere=85.0) == compared(0.2, flip)  # a network trained elsewhere competes with no generator


def test_roc_points_by_counting():
    random = np.random.default_rng(0)
    distance, same = random.random(60).round(2), random.random(60) < 0.5
    far, tar = figures.roc_points(distance, same)
    for rate, share, limit in zip(far, tar, sorted(distance[~same])):
        assert share == pytest.approx(sum(d < limit for d in distance[same]) / same.sum())
        assert rate >= sum(d < limit for d in distance[~same]) / (~same).sum()


# -------------------------------------------------------------------------------------------------------------- the colours


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return sum(w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4) for w, c in zip((0.2126, 0.7152, 0.0722), parts))


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_contrast(scheme):
    """WCAG 2.1: text 4.5 to 1, graphics 3 to 1, on page and tiles."""
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", scheme))
    for ground in ("ground", "raised", "mark"):
        for name, least in (("ink", 7), ("muted", 4.5), ("link", 4.5), *((f"c{i}", 3) for i in range(8))):
            if ground != "mark" or name in ("ink", "muted"):
                one, other = sorted((luminance(colours[name]), luminance(colours[ground])))
                assert (other + 0.05) / (one + 0.05) >= least, (name, ground)


@pytest.mark.parametrize("rows", [8, 20])
def test_rows_look_different(rows):
    found = figures.looks(["real", *(f"maker{i} 6x6" for i in range(rows))])
    assert len({str(look) for look in found.values()}) == rows + 1


# --------------------------------------------------------------------------------------------------------------- rendered


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """The page of a comparison of nine rows."""
    root = tmp_path_factory.mktemp("many")
    fake_pages.make_many(root)
    return report.report("many", root)


def test_many_rows_stay_readable(many):
    text = many.read_text("utf-8")
    assert "Not shown" not in text and len(text) < 6e6
    assert "<h1>maker0, maker1, maker2, maker3, maker4, maker5, maker6, maker7, maker8 at 6x6</h1>" in text
    assert text.count('<table class="images') == 9  # a grid of every row
    assert text.count('<figure class="small">') == 9  # a t-SNE of every row
    assert text.count('<figure class="full">') == 2  # accuracies and histograms in panels
    assert "All 36 differences of the average" in text and "From maker0 6x6, the baseline." in text
    assert "the best of the others" in text and "wrong 9/9" in text


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)")
def test_chromium_shows_it(pages, many, tmp_path):
    with Browser() as browser:
        for kind, path in {**pages, "comparison ": many}.items():
            ground = {}
            for width, scheme in ((1200, "light"), (1200, "dark"), (400, "light")):
                browser.open(path, width, scheme=scheme)
                assert browser.ask("document.documentElement.scrollWidth") <= width, (kind, width)
                assert browser.ask("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
                assert browser.ask("document.images.length") > 5
                text = browser.ask("document.body.innerText")
                assert "76.00" in text and "demo" in text and "SYNTHBENCH " + kind.strip().upper() in text
                sizes = browser.ask("[...document.querySelectorAll('figure svg')].map(s => s.getBoundingClientRect().height)")
                assert sizes and min(sizes) > 60
                ground[scheme] = browser.ask("getComputedStyle(document.body).backgroundColor")
                fill = browser.ask("getComputedStyle(document.querySelector('figure > svg text')).fill")
                assert fill != ground[scheme]
            assert ground["light"] != ground["dark"]
            browser.ask("document.querySelector('.skip').focus()")
            assert browser.ask("document.querySelector('.skip').getBoundingClientRect().left") >= 0
        browser.pdf(tmp_path / "page.pdf")
        assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
        assert not browser.complaints
