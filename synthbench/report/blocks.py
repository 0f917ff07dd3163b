"""What a report is made of, independent of how it is written: sections of text, tables, figures and images; and their Markdown.

All text is plain text. Each way of writing escapes it in its own way, because names of files, settings and identities are untrusted.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from synthbench.report.figures import standalone
from synthbench.results.tables import Comparison, markdown_grid, markdown_text, results_markdown
from synthbench.store import writing


@dataclass(frozen=True)
class Text:
    text: str
    quiet: bool = False  # a remark


@dataclass(frozen=True)
class Facts:
    """Terms and what they are."""

    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Grid:
    """A plain table."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    beside: bool = False  # may stand beside figures


@dataclass(frozen=True)
class Results:
    """The table of results."""

    comparison: Comparison
    links: Mapping[str, str] = field(default_factory=dict)  # pages of its rows, by run; such a table can be sorted


@dataclass(frozen=True)
class Code:
    text: str


@dataclass(frozen=True)
class Figure:
    name: str
    svg: str
    alt: str  # what it shows, for those who do not see it
    caption: str
    size: str = ""  # half a page; `small`: a third, `wide`: alone, `full`: the width of the page


@dataclass(frozen=True)
class Image:
    pixels: np.ndarray  # (R, R, 3) uint8
    alt: str
    label: str = ""  # a word below it

    def png(self) -> bytes:
        return encode(self.pixels)


@dataclass(frozen=True)
class Images:
    """A table of images with a heading for every row and column; None where there is none."""

    name: str
    caption: str
    header: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Image | None]]]


@dataclass(frozen=True)
class Pairs:
    """Rows of image pairs, each with a line of text."""

    name: str
    caption: str
    rows: Sequence[tuple[str, Sequence[tuple[Image, Image, str]]]]


@dataclass(frozen=True)
class Fold:
    """Blocks that are shown on demand."""

    title: str
    blocks: Sequence[Block]


Block = Text | Facts | Grid | Results | Code | Figure | Images | Pairs | Fold


@dataclass(frozen=True)
class Section:
    anchor: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    kind: str  # run, comparison, sweep, reproduction, leaderboard or row of one
    title: str
    about: str  # protocol, volume, seeds: one line
    verdict: str  # one sentence
    remarks: Sequence[str]  # what limits it
    tiles: Sequence[tuple[str, str, str]]  # label, number, what it means
    sections: Sequence[Section]
    comparison: Comparison  # the table, for LaTeX and CSV
    command: str
    made: str  # synthbench's version, and when the newest result was made
    home: str = ""  # the page that this one is of


def write_file(path: Path, content: bytes) -> None:
    with writing(path) as tmp:
        tmp.write_bytes(content)


def encode(pixels: np.ndarray) -> bytes:
    """PNG of (H, W, 3) uint8."""
    from PIL import Image as Picture

    out = io.BytesIO()
    Picture.fromarray(np.ascontiguousarray(pixels)).save(out, "PNG")
    return out.getvalue()


def sheet(rows: Sequence[Sequence[np.ndarray | None]], gap: int = 2, side: int = 64) -> np.ndarray:
    """Images, each scaled up to at least `side` pixels by whole steps, on one white sheet."""
    size = max(len(image) for row in rows for image in row if image is not None)
    factor = max(1, round(side / size))
    cell = size * factor + gap
    out = np.full((len(rows) * cell - gap, max(map(len, rows)) * cell - gap, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            if image is not None:
                tile = image.repeat(factor, 0).repeat(factor, 1)
                out[y * cell : y * cell + len(tile), x * cell : x * cell + len(tile)] = tile
    return out


# ---------------------------------------------------------------------------------------------------------------- Markdown


def markdown(document: Document, folder: Path) -> str:
    """The document as Markdown; figures and image sheets are written into `folder`/figures."""
    parts = [f"# {markdown_text(document.title)}", markdown_text(document.about), f"**{markdown_text(document.verdict)}**"]
    parts += [markdown_text(remark) for remark in document.remarks]
    if document.tiles:
        header, rows = ["", "", ""], [[markdown_text(cell) for cell in tile] for tile in document.tiles]
        parts.append(markdown_grid(header, rows))
    (folder / "figures").mkdir(exist_ok=True)
    for section in document.sections:
        parts += [f"## {markdown_text(section.title)}", *(_block(block, folder) for block in section.blocks)]
    parts += [
        "---",
        f"`{document.command}`" if "`" not in document.command else markdown_text(document.command),
        markdown_text(document.made),
    ]
    return "\n\n".join(parts) + "\n"


def _block(block: Block, folder: Path) -> str:
    match block:
        case Text(text=text, quiet=quiet):
            return f"*{markdown_text(text)}*" if quiet else markdown_text(text)
        case Facts(rows=rows):
            return "\n".join(f"- {markdown_text(term)}: {markdown_text(value)}" for term, value in rows)
        case Grid(caption=caption, header=header, rows=rows):
            cells = [[markdown_text(cell) for cell in row] for row in rows]
            return f"{markdown_text(caption)}\n\n" + markdown_grid([markdown_text(name) for name in header], cells)
        case Results(comparison=comparison):
            return results_markdown(comparison).rstrip()
        case Code(text=text):
            fence = "```" + "`" * max((len(run) for run in text.split("\n") if run.startswith("```")), default=0)
            return f"{fence}\n{text}\n{fence}"
        case Figure(name=name, svg=svg, alt=alt, caption=caption):
            write_file(folder / "figures" / f"{name}.svg", standalone(svg).encode())
            return f"![{markdown_text(alt)}](figures/{name}.svg)\n\n{markdown_text(caption)}"
        case Images(name=name, caption=caption, header=header, rows=grid):
            pixels = [[image.pixels if image else None for image in images] for _, images in grid]
            write_file(folder / "figures" / f"{name}.png", encode(sheet(pixels)))
            alt = f"{caption} Columns: {', '.join(header)}. Rows: {', '.join(label for label, _ in grid)}."
            return f"![{markdown_text(alt)}](figures/{name}.png)\n\n{markdown_text(alt)}"
        case Pairs(name=name, caption=caption, rows=rows):
            pixels = [[image.pixels for pair in pairs for image in pair[:2]] for _, pairs in rows]
            write_file(folder / "figures" / f"{name}.png", encode(sheet(pixels)))
            lines = [f"- {markdown_text(label)}: " + "; ".join(markdown_text(text) for *_, text in pairs) for label, pairs in rows]
            return f"![{markdown_text(caption)}](figures/{name}.png)\n\n{markdown_text(caption)}\n\n" + "\n".join(lines)
        case Fold(title=title, blocks=blocks):
            inner = "\n\n".join(_block(inside, folder) for inside in blocks)
            return f"### {markdown_text(title)}\n\n{inner}"
    raise TypeError(block)
