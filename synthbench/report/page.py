"""A report as one HTML file: no server, no external asset; light, dark, narrow, print, keyboard and screen reader.

The content security policy of the page forbids everything but its own style and data images, so that it cannot fetch anything. The one
script that it allows, by its digest and where there is something to sort, sorts tables: no other is run, whatever a name may hold.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape as escape_html
from itertools import groupby
from pathlib import Path
from typing import Any

from synthbench.report.blocks import Block, Code, Document, Facts, Figure, Fold, Grid, Image, Images, Pairs, Results, Section, Text
from synthbench.report.figures import variables
from synthbench.results.tables import TIED, column_groups, heading, lead, legend, numeric, rows_of, shown, spread

LIGHT = f"--ground: #fdfdfc; --raised: #f4f5f6; --link: #0b5394; --mark: #e7f0f9; {variables(0)}"
DARK = f"--ground: #14171b; --raised: #1d2127; --link: #8ec5f5; --mark: #1c3146; {variables(1)}"
STYLE = (Path(__file__).parent / "page.css").read_text("utf-8").replace("LIGHT", LIGHT).replace("DARK", DARK)

SORT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    const text = row => row.cells[column].textContent, number = row => parseFloat(text(row));
    button.addEventListener("click", () => {
      const up = (head.getAttribute("aria-sort") || (column ? "ascending" : "descending")) === "descending";
      const rows = [...body.rows].sort((a, b) => {
        const [one, other] = [number(a), number(b)];
        const known = isNaN(one) - isNaN(other);  // what was not measured comes last
        return known || (up ? 1 : -1) * (one - other || text(a).localeCompare(text(b)));
      });
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      body.append(...rows);
    });
  });
}
"""
SORTABLE = '<table class="results sortable">'

DIRECTION = {True: ("↑", "higher is better"), False: ("↓", "lower is better"), None: ("", "")}


def escape(text: str) -> str:
    """Text for HTML; a number stays on one line with its unit."""
    return escape_html(text).replace(" %", "\N{NO-BREAK SPACE}%").replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")


def page(document: Document) -> str:
    """The whole file."""
    links = "".join(f'<li><a href="#{escape(section.anchor)}">{escape(section.title)}</a></li>' for section in document.sections)
    links = (f'<li><a href="{escape(document.home)}">All rows</a></li>' if document.home else "") + links
    content = "".join(_section(section) for section in document.sections)
    script = f"<script>{SORT}</script>\n" if SORTABLE in content else ""
    allowed = f"; script-src 'sha256-{base64.b64encode(hashlib.sha256(SORT.encode()).digest()).decode()}'" if script else ""
    remarks = "".join(f"<li>{escape(remark)}</li>" for remark in document.remarks)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'{allowed}">
<meta name="generator" content="synthbench">
<meta name="description" content="{escape(document.verdict)}">
<title>{escape(document.title)} – synthbench</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the results</a>
<header>
<p class="kind">synthbench {escape(document.kind)}</p>
<h1>{escape(document.title)}</h1>
<p class="about">{escape(document.about)}</p>
<p class="verdict">{escape(document.verdict)}</p>
<ul class="remarks">{remarks}</ul>
<ul class="tiles">{"".join(_tile(*tile) for tile in document.tiles)}</ul>
</header>
<nav class="bar" aria-label="Sections"><div><ul>{links}</ul></div></nav>
<main id="content" tabindex="-1">
{content}
</main>
<footer>
<p>Made by <code>{escape_html(document.command)}</code></p>
<p>{escape(document.made)}</p>
</footer>
{script}</body>
</html>
"""


def _tile(label: str, number: str, meaning: str) -> str:
    value, _, error = number.partition(" ±")
    shown_error = f' <span class="error">±{escape(error)}</span>' if error else ""
    return f"<li><span>{escape(label)}</span><b>{escape(value)}{shown_error}</b><small>{escape(meaning)}</small></li>"


def _section(section: Section) -> str:
    name = escape(section.anchor)
    title = f'<h2 id="{name}-title">{escape(section.title)}</h2>'
    return f'<section id="{name}" aria-labelledby="{name}-title">\n{title}\n{_blocks(section.blocks)}\n</section>\n'


def _blocks(blocks: Sequence[Block]) -> str:
    """Blocks below each other, those that may stand beside each other in a grid."""
    parts = []
    for where, group in groupby(blocks, _stands):
        inner = "".join(_block(block) for block in group)
        parts.append(f'<div class="{where}">{inner}</div>' if where else inner)
    return "".join(parts)


def _stands(block: Block) -> str:
    """The class of the grid that a block stands in; empty when it stands alone."""
    if isinstance(block, Figure):
        return {"": "figures", "small": "figures thirds"}.get(block.size, "")
    return "figures" if isinstance(block, Grid) and block.beside else ""


def _block(block: Block) -> str:
    writer: Callable[..., str] = WRITERS[type(block)]
    return writer(block)


def _text(block: Text) -> str:
    return f'<p class="quiet">{escape(block.text)}</p>' if block.quiet else f"<p>{escape(block.text)}</p>"


def _facts(block: Facts) -> str:
    return "<dl>" + "".join(f"<dt>{escape(term)}</dt><dd>{escape(value)}</dd>" for term, value in block.rows) + "</dl>"


def _code(block: Code) -> str:
    return f'<pre tabindex="0">{escape_html(block.text)}</pre>'


def _fold(block: Fold) -> str:
    return f"<details><summary>{escape(block.title)}</summary>{_blocks(block.blocks)}</details>"


def _scroll(label: str, inner: str) -> str:
    """A box that scrolls sideways instead of the page, reachable by keyboard."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">{inner}</div>'


def _grid(block: Grid) -> str:
    kinds = [_kind(block.rows, i) for i in range(len(block.header))]
    head = "".join(f'<th scope="col"{kind}>{escape(name)}</th>' for name, kind in zip(block.header, kinds))
    body = ""
    for row in block.rows:
        cells = "".join(f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row[1:], kinds[1:]))
        body += f'<tr><th scope="row"{kinds[0]}>{escape(row[0])}</th>{cells}</tr>'
    caption = f"<caption><span>{escape(block.caption)}</span></caption>"
    return _scroll(block.caption, f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def _kind(rows: Sequence[Sequence[str]], column: int) -> str:
    """Numbers stand at the right, words at the left, sentences may wrap."""
    longest = max((len(row[column]) for row in rows), default=0)
    return "" if numeric(rows, column) else ' class="text"' if longest < 30 else ' class="text long"'


def _results(block: Results) -> str:
    """The table of results with its marks and notes."""
    comparison = block.comparison
    title = f"Results under protocol {comparison['protocol']}"
    rows = rows_of(comparison)
    parts = [_scroll(title, _result_table(title, rows, lead(columns), block.links)) for columns in column_groups(comparison)]
    return "".join(parts) + "".join(f'<p class="quiet">{escape(note)}</p>' for note in legend(comparison))


def _result_table(title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[Mapping[str, Any]], links: Mapping[str, str]) -> str:
    head = '<th scope="col" class="text"><span class="hidden">generator</span></th>'
    for column in columns:
        arrow, words = DIRECTION[column.get("higher_is_better")]
        mark = f'<span class="unit"><span aria-hidden="true">{arrow}</span><span class="hidden">{words}</span></span>'
        head += f'<th scope="col">{escape(heading(column))}{mark}</th>'
    body = []
    for row in rows:
        cells = []
        for column in columns:
            cell = row["cells"].get(column["metric"]) or {}
            value, error = shown(cell, column)
            scale, digits = column.get("scale", 1.0), column.get("digits", 2)
            known = cell.get("low") is not None and cell.get("high") is not None
            told = f' title="95 % interval {cell["low"] * scale:.{digits}f} to {cell["high"] * scale:.{digits}f}"' if known else ""
            best = ' class="best"' if cell.get("best") else ""
            mark = TIED if cell.get("tied") else ""
            between = spread(cell, column)
            small = (f"±{error}" if error else "") + (f" ({between})" if between else "")
            cells.append(f"<td{best}{told}>{escape(value)}{mark}" + (f"<span>{escape(small)}</span>" if small else "") + "</td>")
        label = escape(row["label"])
        label = f'<a href="{escape(links[row["run"]])}">{label}</a>' if row["run"] in links else label
        body.append(f'<tr><th scope="row">{label}</th>{"".join(cells)}</tr>')
    caption = f'<caption class="hidden">{escape(title)}</caption>'
    table = SORTABLE if links else '<table class="results">'
    return f"{table}{caption}<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _figure(block: Figure) -> str:
    head, _, rest = block.svg.partition(">")
    drawing = f'{head} role="img" aria-label="{escape(block.alt)}">{rest}'
    drawing = _scroll(block.name, drawing) if block.size == "full" else drawing
    kind = f' class="{block.size}"' if block.size else ""
    return f"<figure{kind}>{drawing}<figcaption>{escape(block.caption)}</figcaption></figure>"


def _img(image: Image) -> str:
    data = base64.b64encode(image.png()).decode()
    height, width = image.pixels.shape[:2]
    small = ' class="small"' if width < 80 else ""
    return f'<img{small} src="data:image/png;base64,{data}" width="{width}" height="{height}" alt="{escape(image.alt)}">'


def _images(block: Images) -> str:
    head = '<th scope="col"><span class="hidden">row</span></th>' + "".join(f'<th scope="col">{escape(name)}</th>' for name in block.header)
    body = "".join(
        f'<tr><th scope="row">{escape(label)}</th>'
        + "".join(f"<td>{_img(image)}<span>{escape(image.label)}</span></td>" if image else "<td></td>" for image in images)
        + "</tr>"
        for label, images in block.rows
    )
    count = max(len(images) for _, images in block.rows)
    wide = " wide" if max(len(label) for label, _ in block.rows) > 3 else ""
    start = f'<table class="images{wide}" style="max-width: {min(58, 5.6 * count + 3):g}rem">'
    table = f"{start}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<figure><figcaption>{escape(block.caption)}</figcaption>{table}</figure>"


def _pairs(block: Pairs) -> str:
    def lists() -> Iterator[str]:
        for label, pairs in block.rows:
            items = "".join(f"<li><div>{_img(a)}{_img(b)}</div><span>{escape(text)}</span></li>" for a, b, text in pairs)
            yield f'<h3>{escape(label)}</h3><ul class="pairs">{items}</ul>'

    return f'<p class="quiet">{escape(block.caption)}</p>{"".join(lists())}'


WRITERS: dict[type, Callable[..., str]] = {
    Text: _text, Facts: _facts, Grid: _grid, Results: _results, Code: _code, Figure: _figure, Images: _images, Pairs: _pairs, Fold: _fold,
}  # fmt: skip
