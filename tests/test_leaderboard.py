"""The leaderboard: what is set side by side and what is not, what is left out, that names are text, and how Chromium shows it."""

from __future__ import annotations

import base64
import json
import re
from hashlib import sha256

import fake_bundles
import pytest
from browser import CHROMIUM, Browser
from click.testing import CliRunner
from fake_bundles import rewritten
from fake_pages import NASTY
from test_report import Reader

from synthbench.cli.app import cli
from synthbench.leaderboard import bundle, site
from synthbench.leaderboard.archive import Altered
from synthbench.types import UserError

AVG = "verification/avg/accuracy"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Bundles of two generators and their comparison, of one under another protocol, of a nasty name, and of one that was altered."""
    root, folder = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("bundles")
    results = [fake_bundles.make(root, name, tag=tag) for tag, name in enumerate(("real", "maker", "other"), 1)]
    fake_bundles.make_comparison(root, results)
    fake_bundles.make(root, "apart", protocol="more", names=("pairs-a",), tag=4)
    fake_bundles.make(root, NASTY, tag=5)
    made = {name: bundle.bundle(name, root, folder / f"{name}.zip") for name in ("maker", "both", "apart")}
    made["nasty"] = bundle.bundle("cemi", root, folder / "nasty.zip")

    def change(files):
        place = next(name for name in files if name.endswith("run.json"))
        files[place] = files[place].replace(b'"value": 5', b'"value": 9')

    made["altered"] = rewritten(made["maker"], folder / "alte<red>.zip", change)
    (folder / "broken.zip").write_bytes(b"PK")
    return made | {"broken": folder / "broken.zip"}


@pytest.fixture(scope="module")
def built(files, tmp_path_factory):
    return site.build(list(files.values()), tmp_path_factory.mktemp("out") / "site").parent


def rows(text: str) -> list[list[str]]:
    """Labels of the rows of each table of results that can be sorted, of the first half of its columns."""
    found = re.findall(r'<table class="results sortable">(.*?)</table>', text, re.S)
    return [re.findall(r'<th scope="row">(?:<a [^>]*>)?([^<]*)', table) for table in found if "AVG" in table]


def test_what_was_measured_alike_stands_in_one_table(built):
    text = (built / "index.html").read_text("utf-8")
    one, other = rows(text)
    assert set(one) == {"untrained network", "real", "maker 6x10", "other 6x10", NASTY_LABEL} and len(one) == 5  # each of them once
    assert other == ["untrained network", "apart 6x10"]
    assert "Apart from the first table, for these differ:" in text and "protocol tiny there, more here" in text
    assert "Published numbers" not in text


NASTY_LABEL = NASTY.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;") + " 6x10"


def test_the_best_comes_first_and_needs_no_script(built):
    text = (built / "index.html").read_text("utf-8")
    table = re.search(r'<table class="results sortable">.*?</table>', text, re.S)[0]
    values = [float(value) for value in re.findall(r"</th><td[^>]*>([\d.]+)", table)]
    assert len(values) == 5 and values[1:] == sorted(values[1:], reverse=True)


def test_every_row_has_a_page(built):
    links = re.findall(r'<a href="(rows/[^"]+)"', (built / "index.html").read_text("utf-8"))
    pages = {path.name for path in (built / "rows").iterdir()}
    assert {f"rows/{name}" for name in pages} == set(links) and len(pages) == 5
    text = (built / "rows" / "maker-tiny-2.html").read_text("utf-8")
    assert 'href="../index.html"' in text and "folds: 10" in text and "note: &lt;b&gt;&amp;&lt;/b&gt;" in text and "<svg" in text
    assert "that were checked agree; " in text and "distances: the recognizers are not in the bundle" in text and "MIT" in text
    assert "Not shown" not in text and text.count("<img") == 48
    sections = ["results", "verified", "images", "provenance", "configuration", "digests", "scores"]
    assert [attrs["id"] for tag, attrs in Reader(text).found if tag == "section"] == sections


def test_pages_fetch_nothing_and_run_one_script_at_most(built):
    for path in built.rglob("*.html"):
        text = path.read_text("utf-8")
        reader = Reader(text)
        assert not reader.wrong and not reader.open
        policy = next(attrs["content"] for tag, attrs in reader.found if attrs.get("http-equiv"))
        scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
        assert len([tag for tag, _ in reader.found if tag == "script"]) == len(scripts) == (path.name == "index.html")
        allowed = [base64.b64encode(sha256(script.encode()).digest()).decode() for script in scripts]
        assert re.findall(r"script-src '(?:sha256-([^']*))'", policy) == allowed and "default-src 'none'" in policy
        links = [value for _, attrs in reader.found for name, value in attrs.items() if name in ("src", "href", "xlink:href")]
        inside = [link for link in links if not link.startswith(("#", "data:"))]
        assert all((path.parent / link).is_file() for link in inside)


def test_what_does_not_agree_is_left_out_and_named(built):
    text = (built / "index.html").read_text("utf-8")
    assert "alte&lt;red&gt;.zip" in text and "that were checked differ" in text
    assert "broken.zip" in text and "its end is not that of a bundle" in text and str(built.parent) not in text


def test_a_run_that_differs_between_two_bundles_stands_there_twice(files, tmp_path):
    def change(files):
        place = next(name for name in files if name.endswith("run.json"))
        files[place] = json.dumps({**json.loads(files[place]), "command": "another"}).encode()

    other = rewritten(files["maker"], tmp_path / "other.zip", change)
    index = site.build([files["maker"], other, files["maker"]], tmp_path / "site")
    assert sorted(path.name for path in (tmp_path / "site" / "rows").iterdir()) == ["maker-tiny-2-2.html", "maker-tiny-2.html"]
    assert len(rows(index.read_text("utf-8"))[0]) == 3
    with pytest.raises(UserError, match="exists"):
        site.build([other], tmp_path / "site")


def test_published_numbers_stand_apart_from_tables_of_photographs(tmp_path):
    fake_bundles.make(tmp_path, "maker", names=("lfw",), resolution=112)
    index = site.build([bundle.bundle("maker", tmp_path, tmp_path / "x.zip")], tmp_path / "site")
    text = index.read_text("utf-8")
    assert [attrs["id"] for tag, attrs in Reader(text).found if tag == "section"] == ["group-1", "published", "bundles"]
    assert "Nobody verified them here" in text and "CemiFace" in text and not [label for label in rows(text)[0] if "CemiFace" in label]


def test_where_nothing_agrees_there_is_no_page(files, tmp_path):
    with pytest.raises(Altered, match="none of 2 bundles agrees"):
        site.build([files["altered"], files["broken"]], tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_the_command(files, tmp_path):
    words = ["leaderboard", str(files["maker"]), str(files["altered"]), "-o", str(tmp_path / "site")]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0 and "is left out" in done.output and (tmp_path / "site" / "index.html").is_file()


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)")
def test_chromium_sorts_the_tables(built):
    labels = "[...document.querySelector('table.sortable').tBodies[0].rows].map(row => row.cells[0].textContent)"
    click = "document.querySelector('table.sortable').tHead.rows[0].cells[{}].firstChild.click()"
    with Browser() as browser:
        for width, scheme in ((400, "dark"), (1400, "light")):
            browser.open(built / "index.html", width, scheme=scheme)
            assert browser.ask("document.documentElement.scrollWidth") <= width
        before = browser.ask(labels)
        browser.ask(click.format(0))
        assert browser.ask(labels) == sorted(before, key=str.casefold)
        browser.ask(click.format(1))
        down = browser.ask(labels)
        browser.ask(click.format(1))
        assert browser.ask(labels) == down[::-1] and sorted(down) == sorted(before)
        assert browser.ask("document.querySelectorAll('[aria-sort=ascending]').length") == 1
        assert not browser.complaints
