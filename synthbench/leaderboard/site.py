"""`synthbench leaderboard`: bundles that agree as a folder of pages without a server. Rows that were measured alike stand in one table; no
number is set beside one that was measured otherwise.

    index.html        a table for each group, and which bundles were verified, or refused
    rows/ROW.html     one run: scores, curves, images, what was verified and what could not be, licences, settings, digests
"""

from __future__ import annotations

import contextlib
import itertools
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthbench import __version__, console
from synthbench.data import pixels
from synthbench.data.catalogue import WORLD
from synthbench.data.export import appearing
from synthbench.leaderboard import show, verify
from synthbench.leaderboard.archive import Altered, Bundle, unpacked
from synthbench.leaderboard.verify import HOSTILE, Check
from synthbench.report import facts, parts, verdict
from synthbench.report.blocks import Block, Code, Document, Facts, Fold, Grid, Image, Images, Results, Section, Text, write_file
from synthbench.report.data import AVERAGE, Run, run_table
from synthbench.report.documents import limits
from synthbench.report.page import page
from synthbench.results import comparable, comparison, published, tables
from synthbench.results.comparison import Entry
from synthbench.results.record import Result, values
from synthbench.types import UserError

HONEST = show.HONEST[:1].upper() + show.HONEST[1:] + "."
COUNTERPARTS = (
    "The benchmarks are rendered: each asks what a public one asks (world-mixed what LFW does), and none of them is that one. No number "
    "here may be set beside one on photographs."
)
APART = "Tables stand apart because their rows were measured differently: a row of one is not above or below a row of another."
PAPERS = "As their authors printed them, measured under other recipes. Nobody verified them here, and they are not to be ranked with ours."


@dataclass(frozen=True)
class Row:
    """A run of a bundle that agrees."""

    bundle: Bundle
    checks: Sequence[Check]  # of the whole bundle
    name: str  # of the run in its bundle
    entry: Entry  # under a name that no other row has

    @property
    def place(self) -> str:
        return f"rows/{self.entry.run}.html"

    @property
    def run(self) -> Run:
        return Run(self.entry.result, self.bundle.store, self.entry.label)

    @property
    def own(self) -> list[Check]:
        """The checks of this run and of the data it needed."""
        return [check for check in self.checks if check.run in (self.name, "")]

    @property
    def average(self) -> float:
        return statistics.fmean([score["value"] for score in values(self.entry.result, AVERAGE)] or [0.0])


def build(files: Sequence[Path], out: Path, device: str = "auto") -> Path:
    """Write the pages of the bundles `files` into the new folder `out`; returns the path of index.html.

    A file that is damaged, hostile or does not agree is named on the page and has no row. Raises UserError when none is left.
    """
    rows: list[Row] = []
    refused: list[tuple[str, str]] = []
    day = time.strftime("%Y-%m-%d", time.gmtime())
    pages: dict[str, str] = {}
    with contextlib.ExitStack() as stack, appearing(out) as tmp:
        for file in files:
            try:
                bundle = stack.enter_context(unpacked(file))
                made = list(_rows(bundle, verify.checks(bundle, device), rows))
                drawn = {row.place: page(_row_document(row, day)) for row in made}
                page(_index(made, [], day)) if made else None  # what cannot be shown alone shall not spoil the page of all
            except (UserError, *HOSTILE) as error:
                refused.append((file.name, str(error).removeprefix(f"{file}: ")))
                console.warn(f"{file.name} is left out: {refused[-1][1]}")
                continue
            rows, pages = rows + made, pages | drawn
        if not rows:
            raise Altered(f"none of {console.counted(len(files), 'bundle')} agrees, so there is no leaderboard")
        pages["index.html"] = page(_index(rows, refused, day))
        (tmp / "rows").mkdir()
        for place, text in pages.items():
            write_file(tmp / place, text.encode())
    return out / "index.html"


def _rows(bundle: Bundle, checks: Sequence[Check], before: Sequence[Row]) -> Iterator[Row]:
    """The rows of a bundle that are not there yet. Raises Altered when something in it differs."""
    if any(check.agrees is False for check in checks):
        odd = next(check for check in checks if check.agrees is False)
        raise Altered(f"{show.sentence(checks)}: first {odd.what}, {odd.stated or '-'} stated, {odd.found} found")
    taken = {row.entry.run.casefold() for row in before}
    for result in bundle.results:
        if any(_content(bundle, result) == _content(row.bundle, row.entry.result, row.name) for row in before):
            continue  # the same run in another bundle
        name = plain = re.sub(r"[^A-Za-z0-9.+_-]", "_", result["run"])[:120]
        numbers = itertools.count(2)
        while name.casefold() in taken:
            name = f"{plain}-{next(numbers)}"
        taken.add(name.casefold())
        (label,) = comparable.labels([result])
        yield Row(bundle, checks, result["run"], comparison.entry(bundle.store, {**result, "run": name}, label))


def _content(bundle: Bundle, result: Result, name: str = "") -> Any:
    """What makes a run of a bundle the same as one of another: all that was said of it, and what happened to its pairs."""
    own = [f"stages/evaluate/{key}/" for key in comparable.keys(comparable.sides(result)["own"], "evaluate")]
    files = {place: digest for place, digest in bundle.about["files"].items() if place.startswith(tuple(own))}
    return {**result, "run": name or result["run"], "artifacts": None}, files


# ------------------------------------------------------------------------------------------------------------ all rows


def _index(rows: Sequence[Row], refused: Sequence[tuple[str, str]], day: str) -> Document:
    groups = _groups(rows)
    sections = [_group(number, group, groups[0]) for number, group in enumerate(groups)]
    benchmarks = {name for row in rows for name in row.run.benchmarks}
    papers = published.beside([row.entry.result["volume"] for row in rows], benchmarks, max(map(_resolution, rows)))
    if papers:
        columns = [{"metric": f"verification/{name}/accuracy", "title": name} for name in benchmarks]
        grid = Grid("Published numbers.", *tables.published({"columns": columns, "published": papers}))
        sections.append(Section("published", "Published numbers", [Text(PAPERS), grid]))
    bundles = {row.bundle.digest: row for row in rows}
    header = ["bundle", "what it holds", "checked", "SHA-256"]
    told = [[row.bundle.file, row.bundle.about["name"], show.sentence(row.checks), row.bundle.digest[:16]] for row in bundles.values()]
    caption = f"Verified by synthbench {__version__} on {day}; the pages of the rows say what could not be checked."
    blocks: list[Block] = [Grid(caption, header, told)]
    if refused:
        blocks.append(Grid("Left out, because it is damaged or does not agree.", ["file", "why"], [list(row) for row in refused]))
    sections.append(Section("bundles", "Bundles", blocks))
    again = sum(_seen(row) for row in rows)
    count = f"{console.counted(len(rows), 'row')} in {console.counted(len(groups), 'group')}"
    what = f"of {console.counted(again, 'row')} the distances were made again by the recognizers" if again else "no distance was made again"
    return Document(
        kind="leaderboard",
        title="Leaderboard",
        about=f"{count}, verified on {day}",
        verdict=f"{count}: every accuracy follows from the distances in its bundle; {what}.",
        remarks=[HONEST, APART],
        tiles=[],
        sections=sections,
        comparison={},
        command="synthbench leaderboard",
        made=f"synthbench {__version__}",
    )


def _resolution(row: Row) -> int:
    return int((row.entry.result.get("config") or {}).get("protocol", {}).get("resolution", 0))


def _seen(row: Row) -> bool:
    """Whether the distances of all benchmarks were made again by the recognizers."""
    found = [check for check in row.own if check.what.startswith("distances")]
    return bool(found) and all(check.agrees for check in found)


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows that may be compared, together, the best first; those of more rows before others."""
    of = {row.entry.run: row for row in rows}
    found = []
    for group in comparable.groups([row.entry.result for row in rows]):
        apart: dict[Any, list[Row]] = {}  # by their pairs: rendered on two kinds of processors, some may differ
        for row in (of[result["run"]] for result in group):
            pairs = row.entry.own[0] if row.entry.own else {}
            apart.setdefault(tuple((name, results.digest, results.same.tobytes()) for name, results in pairs.items()), []).append(row)
        found += [sorted(part, key=lambda row: row.average, reverse=True) for part in apart.values()]
    return sorted(found, key=len, reverse=True)


def _group(number: int, group: Sequence[Row], first: Sequence[Row]) -> Section:
    """Rows that were measured alike, with the differences between them."""
    results = [row.entry.result for row in group]
    entries = [Entry(row.entry.result, label, row.entry.own, row.entry.real) for row, label in zip(group, comparable.labels(results))]
    base = next((result["run"] for result in results if result["generator"] == "real"), results[0]["run"])
    stores = {row.entry.run: row.bundle.store for row in group}
    table = comparison.side_by_side(entries, stores, "leaderboard", base, "", papers=False)
    # what a run costs depends on the machine, and these were not made on one
    table["columns"] = [column for column in table["columns"] if column["group"] != "cost"]
    table["notes"] = [note for note in table["notes"] if not note.startswith("hours")]
    blocks: list[Block] = [Text(f"{results[0]['title'][:1].upper()}{results[0]['title'][1:]}.")]
    if all(name.startswith(WORLD) for name in group[0].run.benchmarks):
        blocks.append(Text(COUNTERPARTS))
    if number:
        why = comparable.differing(first[0].entry.result, results[0])
        told = "; ".join(f"{name} {one[:40]} there, {other[:40]} here" for name, (one, other) in why.items()) or "the pairs themselves"
        blocks.append(Text(f"Apart from the first table, for these differ: {told}.", quiet=True))
    blocks += [Text(verdict.comparison_verdict(table)), Results(table, {row.entry.run: row.place for row in group})]
    header, differences = tables.differences(table)
    if differences:
        blocks.append(Fold("Paired differences", [Grid("In percentage points, over the same pairs.", header, differences)]))
    held = results[0].get("config")
    if held:
        settings = [Code(facts.as_yaml(settings)) for settings in (held["protocol"], *held["recipes"].values())]
        blocks.append(Fold("What was held fixed", settings))
    return Section(f"group-{number + 1}", f"Protocol {results[0]['protocol']}", blocks)


# -------------------------------------------------------------------------------------------------------------- one row


def _row_document(row: Row, day: str) -> Document:
    run, result = row.run, row.entry.result
    table = run_table(run)
    real = {"real": row.entry.real} if row.entry.real else {}

    def results() -> Iterator[Block]:
        yield Results(table)
        yield from parts.accuracy(table)
        yield from parts.roc({run.label: row.entry.own, **real})
        yield from parts.groups({str(line["label"]): item for line, item in zip(table["rows"], _sides(result))})

    sections = [
        parts.section("results", "Results", results),
        parts.section("verified", "Verified", lambda: _verified(row, day)),
        parts.section("images", "Images", lambda: _images(row)),
        parts.section("provenance", "Licences and data", lambda: _provenance(row)),
        parts.section("configuration", "Configuration", lambda: facts.configuration([run]) if result.get("config") else ()),
        parts.section("digests", "Digests", lambda: _digests(row)),
        parts.section("scores", "All scores", lambda: facts.scores(run)),
    ]
    seeds = console.counted(len(result["seeds"]), "seed")
    return Document(
        kind="leaderboard row",
        title=run.label,
        about=f"Protocol {result['protocol']}, {seeds}. {row.name}",
        verdict=_says(row, table),
        remarks=limits(result),
        tiles=verdict.tiles(run, table),
        sections=[section for section in sections if section],
        comparison=table,
        command=str(result.get("command", "")),
        made=f"verified by synthbench {__version__} on {day}; made by synthbench {result.get('synthbench', 'of an unknown version')}",
        home="../index.html",
    )


def _sides(result: Result) -> list[Result]:
    return [result["baseline"], result] if result["baseline"] else [result]


def _says(row: Row, table: dict[str, Any]) -> str:
    if not comparable.foreign(row.entry.result):
        return verdict.run_verdict(row.run, table)
    return f"{row.entry.label}, a network that was trained elsewhere, is right on {row.average:.1f} % of the pairs."


def _verified(row: Row, day: str) -> Iterator[Block]:
    yield Text(f"By synthbench {__version__} on {day}: {show.sentence(row.own)}.")
    yield Text(HONEST, quiet=True)
    tried = [[check.what, check.stated, check.found, check.verdict] for check in row.own if check.agrees is not None]
    yield Fold(f"All {len(tried)} that were checked", [Grid("What the bundle says, and what follows.", ["", "stated", "found", ""], tried)])
    if left := show.unchecked(row.own):
        yield Facts([("Not checked", line) for line in left])


def _images(row: Row) -> Iterator[Block]:
    """The contact sheet of the bundle, drawn anew from its pixels."""
    place, side = row.bundle.root / "results" / row.name / "contact.png", _resolution(row)
    if comparable.foreign(row.entry.result):
        return
    if not place.is_file() or not side:
        yield Text(
            "The bundle has no images of the set: it holds photographs of real people, may hold some, or was not there any more.",
            quiet=True,
        )
        return
    sheet = pixels.decode(place.read_bytes(), "contact.png")
    down, across = len(sheet) // side, sheet.shape[1] // side
    rows = []
    for y in range(min(down, 12)):
        tiles = [sheet[y * side : (y + 1) * side, x * side : (x + 1) * side] for x in range(min(across, 12))]
        rows.append((str(y + 1), [Image(tile, f"identity {y + 1}, sample {x + 1}") for x, tile in enumerate(tiles)]))
    caption = "As the bundle has it, and not verified: identities in rows, samples in columns."
    yield Images("contact", caption, [str(x + 1) for x in range(min(across, 12))], rows)


def _provenance(row: Row) -> Iterator[Block]:
    traits = row.entry.result.get("traits", {})
    words = {"licence": "Licence", "paper": "Paper", "pretrained": "Pretrained networks", "real_photographs": "Real photographs in the set"}
    yield Facts([(title, facts.say(traits[name])) for name, title in words.items() if name in traits])
    inputs = [[item["name"], item["role"], item["licence"], item["digest"][:16]] for item in row.bundle.about["inputs"]]
    if inputs:
        yield Grid("Data and networks that the runs of the bundle needed.", ["name", "what for", "licence", "SHA-256"], inputs)
    else:
        yield Text("No registered data and no registered network was needed.")


def _digests(row: Row) -> Iterator[Block]:
    about, digests = row.bundle.about, row.entry.result.get("digests", {})
    yield Facts([(f"The bundle, {row.bundle.file}", row.bundle.digest), *((name, str(value)) for name, value in digests.items() if value)])
    yield Facts([("Made", str(about["made"])), *((name, version) for name, version in about["versions"].items())])
    yield Fold(f"All {len(about['files'])} files of the bundle", [Facts(list(about["files"].items()))])
