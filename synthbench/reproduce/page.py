"""What a reproduction says: the table `ours | published`, its figures, and one page in front of the comparison's or sweep's own report."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from synthbench import console, report
from synthbench.protocol import WorldFaces, load_protocol
from synthbench.report import figures, parts
from synthbench.report.blocks import Block, Document, Figure, Grid, Image, Images, Results, Section, Text, markdown, write_file
from synthbench.report.data import Run, cell, open_run
from synthbench.report.documents import made as made_by
from synthbench.report.page import page as as_html
from synthbench.report.verdict import comparison_verdict
from synthbench.reproduce.definition import Column, Table, published_row
from synthbench.reproduce.rows import Item, Request
from synthbench.results import published, samples, tables
from synthbench.results.comparison import AVG
from synthbench.store import Store, read_json
from synthbench.types import UserError

EDGES = (0.1, 0.2, 0.3, 0.4, 0.5)  # of the histogram of CemiFace's table 7
RENDERED = "ours are rendered faces and cannot be compared with the published numbers; at most the order of the rows can"
PHOTOGRAPHS = (
    "ours is the last epoch of the recipe as docs/protocol.md reads it; the papers' numbers are their own runs, of which epoch is unknown "
    "unless it is said"
)


def record(name: str, table: Table, request: Request, made: Sequence[Item], groups: Sequence[Path], command: str) -> dict[str, Any]:
    """reproduction.json: every row with what came out and what was published."""
    store, scale = Store(request.runs.absolute()), getattr(table, str(request.scale))
    rows = []
    for item in made:
        theirs = {**published_row(item.row, table), **{key: f"{value:g}" for key, value in item.row.numbers.items()}}
        remarks = [f"not run: {item.reason}"] if item.reason else []
        remarks += [text] if (text := published.remark(theirs)) else []
        about = {"label": item.label, "run": item.run, "remark": "; ".join(remarks)}
        rows.append({**about, "ours": measured(item, store), "published": theirs})
    columns = list(table.columns)
    if AVG in {column.metric for column in columns}:  # at full scale its parts were published too
        parts_of = [Column(metric=f"verification/{item}/accuracy", title=f"{item} %", published=item) for item in published.BENCHMARKS]
        columns += [column for column in parts_of if any(column.metric in row["ours"] for row in rows)]
    protocol = load_protocol(request.protocol or scale.protocol)
    notes = [f"{request.seeds} seed{'s' * (request.seeds > 1)} a row", RENDERED if isinstance(protocol.real, WorldFaces) else PHOTOGRAPHS]
    return {
        "reproduction": name,
        **{key: getattr(table, key) for key in ("content", "camera_ready", "v1", "asks")},
        "scale": request.scale,
        "protocol": protocol.name,
        "title": protocol.title,
        "seeds": list(range(request.seeds)),
        "columns": [column.model_dump() for column in columns],
        "rows": rows,
        "says": [said(path) for path in groups],
        "notes": [*(notes if groups else []), *([scale.note] if scale.note else []), *table.notes],
        "made_of": [f"{path.parent.name}/{path.name}" for path in groups],
        "command": command,
    }


def said(folder: Path) -> str:
    """The sentence of a sweep or a comparison."""
    if swept := read_json(folder / "sweep.json"):
        return str(swept.get("statement", ""))
    found = read_json(folder / "comparison.json")
    return f"Under {found['protocol']}: {comparison_verdict(found)}"


def measured(item: Item, store: Store) -> dict[str, Any]:
    """Every metric of a row that was run, with its errors; those of the identities' similarity too."""
    if not item.run:
        return {}
    one = open_run(store, item.run)
    names = dict.fromkeys(score["metric"] for score in one.result["scores"])
    found = {name: cell(one.result, name) for name in names}
    return {**found, **{name: value for name, value in item.cells.items() if value}, **similarity_of(one)}


def similarity_of(one: Run) -> dict[str, Any]:
    """Mean and std over identities of the mean similarity to the inquiry, and how many of 10,000 identities lie in each bin of EDGES."""
    try:
        found = by_identity(one)
    except (UserError, OSError):
        found = np.empty(0)
    if len(found) < 2:
        return {}
    counts = np.bincount(np.digitize(found, EDGES), minlength=len(EDGES) + 1) * 10_000 / len(found)
    values = {"mean": found.mean(), "std": found.std(ddof=1), **{str(i): count for i, count in enumerate(counts)}}
    return {f"identities/similarity/{name}": {"value": float(value), "n": len(found)} for name, value in values.items()}


def by_identity(one: Run) -> np.ndarray:
    """Mean similarity to the inquiry of the generated images of each identity; empty when the set records none."""
    faces = one.faces()
    inquiries = any((manifest["folder"] / "inquiries").is_dir() for manifest in one.stages("enroll"))
    if "similarity" not in faces.columns or not inquiries:  # to a centre, then, or to a prototype
        return np.empty(0)
    kept = faces.made
    counts = np.bincount(faces.identity[kept], minlength=faces.identities)
    sums = np.bincount(faces.identity[kept], faces.columns["similarity"][kept].astype(float), faces.identities)
    return sums[counts > 0] / counts[counts > 0]


# ----------------------------------------------------------------------------------------------------------------- table


def grid(found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: each column of ours, then what was published of it."""
    header, some = [""], any(row["remark"] for row in found["rows"])
    for column in found["columns"]:
        header += [f"{column['title']}, ours"] + [f"{column['title']}, published"] * bool(column["published"])
    rows = []
    for row in found["rows"]:
        line = [row["label"]]
        for column in found["columns"]:
            line.append(shown(row["ours"].get(column["metric"]), column))
            if column["published"]:
                line.append(row["published"].get(column["published"]) or "-")
        rows.append([*line, row["remark"]] if some else line)
    return [*header, *(["remark"] if some else [])], rows


def shown(item: Mapping[str, Any] | None, column: Mapping[str, Any]) -> str:
    """`76.94 [75.10, 78.75]`."""
    if not item or item.get("value") is None:
        return "-"
    known = [item[part] for part in ("value", "low", "high") if item.get(part) is not None]
    value, *interval = [tables.number(number * column["scale"], column["digits"]) for number in known]
    return value + (f" [{', '.join(interval)}]" if interval else "")


def show(found: Mapping[str, Any]) -> None:
    """The table to stdout, what a reader must know to stderr."""
    if found["columns"]:
        console.table(title(found), *grid(found), sentences=("remark",))
    for text in found["says"]:
        print(text)
    for note in found["notes"]:
        console.note(note)


def title(found: Mapping[str, Any]) -> str:
    number = found["camera_ready"] + ("" if found["v1"] in (found["camera_ready"], "none") else f" (v1: {found['v1']})")
    return f"{found['reproduction'].partition('/')[0]}, {number}: {found['content']}; {found['scale']} scale"


# ------------------------------------------------------------------------------------------------------------------ page


def write(found: Mapping[str, Any], table: Table, made: Sequence[Item], groups: Sequence[Path], store: Store, folder: Path) -> None:
    """table.csv, table.tex, report.md and report.html into `folder`; samples.png where one noise is shown."""
    header, rows = grid(found)
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows([header, *rows])
    write_file(folder / "table.csv", lines.getvalue().encode())
    cells = [[tables.latex_text(text) for text in row] for row in [header, *rows]]
    label = found["reproduction"].replace("/", "-")
    notes = [tables.latex_text(note) for note in found["notes"]]
    write_file(folder / "table.tex", tables.latex_grid(cells[0], cells[1:], tables.latex_text(title(found)), label, notes).encode())
    document = _document(found, table, made, groups, store, folder)
    write_file(folder / "report.md", markdown(document, folder).encode())
    write_file(folder / "report.html", as_html(document).encode())


def _document(found: Mapping[str, Any], table: Table, made: Sequence[Item], groups: Sequence[Path], store: Store, folder: Path) -> Document:
    header, rows = grid(found)
    beside = [Grid(title(found) + ".", header, rows)] if found["columns"] else []
    notes = [Text(note[:1].upper() + note[1:].rstrip(".") + ".", quiet=True) for note in found["notes"]]
    own: list[Section | None] = [Section("beside", "Ours and the published numbers", [Text(found["asks"]), *beside, *notes])]
    ran = [item for item in made if item.request and not item.reason]
    heading = found["content"][:1].upper() + found["content"][1:]
    drawn = {"tsne": _tsne, "similarity": _similarity, "one-noise": _one_noise}
    for name in table.shows:
        own.append(parts.section(f"shows-{name}", heading, functools.partial(drawn[name], ran, store, folder)))
    documents = [report.document(path, store) for path in groups]
    apart = [(f"results-{i}", f"Results under {item.comparison['protocol']}", item) for i, item in enumerate(documents, 1)]
    whole = [Section(anchor, text, [Text(item.verdict), Results(item.comparison)]) for anchor, text, item in apart]
    whole = list(documents[0].sections) if len(documents) == 1 else whole
    text = found["title"][:1].upper() + found["title"][1:] + "."
    base = documents[0] if documents else Document("", "", "", found["asks"], [text], [], [], {}, "", made_by([]))
    return replace(
        base,
        kind="reproduction",
        title=title(found),
        verdict=" ".join(found["says"]) or found["asks"],
        about=f"Protocol {found['protocol']}. " + ", ".join(found["made_of"]),
        sections=[*(section for section in own if section), *whole],
        command=found["command"],
    )


def _runs(ran: Sequence[Item], store: Store) -> list[Run]:
    return [open_run(store, item.run, item.label) for item in ran if item.row.generator != "real"]


def _tsne(ran: Sequence[Item], store: Store, folder: Path) -> Iterator[Block]:
    for number, one in enumerate(_runs(ran, store)):
        for block in parts.embedding(one):
            if isinstance(block, Figure):
                name = f"tsne-{number}"
                yield Figure(name, block.svg.replace("tsne-", f"{name}-"), block.alt, f"{one.label}. {block.caption}")


def _similarity(ran: Sequence[Item], store: Store, folder: Path) -> Iterator[Block]:
    known = {one.label: values for one in _runs(ran, store) if len(values := by_identity(one))}
    if not known:
        return

    def paint(axis: Any) -> None:
        edges = np.arange(-0.2, 1.001, 0.05)
        for label, (colour, _, dashes) in zip(known, figures.looks(known).values()):
            axis.stairs(np.histogram(known[label], edges, density=True)[0], edges, color=colour, linestyle=dashes, label=label)
        axis.set_xlabel("mean similarity of an identity to its inquiry, by the encoder")
        axis.set_ylabel("density")
        figures.legend(axis)

    told = "; ".join(f"{label}: mean {values.mean():.3f}, standard deviation {values.std(ddof=1):.3f}" for label, values in known.items())
    svg = figures.draw("identities", paint)
    yield Figure("identities", svg, f"Histogram over identities. {told}.", f"Similarity that came out. {told}.")


def _one_noise(ran: Sequence[Item], store: Store, folder: Path) -> Iterator[Block]:
    """One identity per row, one setting per column, always sample 0: the noise is the same, only the setting differs."""
    from synthbench.data.faces import open_faces

    stages = [{step.stage.name: step.stage.folder for step in item.steps} for item in ran]
    sets = [open_faces(folders["generate"]) for folders in stages]
    inquiries = stages[0].get("enroll", Path()) / "inquiries"
    request = ran[0].request
    assert request and request.protocol
    rendered = isinstance(load_protocol(request.protocol).real, WorldFaces)  # else an inquiry is a photograph
    first = open_faces(inquiries) if rendered and inquiries.is_dir() else None
    rows, sheet = [], []
    for identity in range(min(faces.identities for faces in sets)):
        line: list[Image | None] = (
            [parts.picture(first.images([identity])[0], f"identity {identity + 1}, inquiry", "inquiry")] if first else []
        )
        for item, faces in zip(ran, sets):
            row = int(faces.shown(identity)[0])
            told = f"{float(faces.columns['similarity'][row]):.2f}" if "similarity" in faces.columns else ""
            line.append(parts.picture(faces.images([row])[0], f"identity {identity + 1}, {item.label}", told))
        rows.append((str(identity + 1), line))
        pixels = np.stack([image.pixels for image in line if image])
        sheet.append(_tensor(pixels))
    caption = "Identities in rows; one noise per row, so that only the setting differs. Below each image: its similarity to the inquiry."
    below = [[image.label for image in line if image] for _, line in rows]
    columns = ", ".join([*(["the inquiry"] if first else []), *(item.label for item in ran)])
    samples.grid(sheet, folder / "samples.png", [f"Columns: {columns}.", caption], below)
    yield Images("one-noise", caption, [*([""] if first else []), *(item.label for item in ran)], rows)


def _tensor(pixels: np.ndarray) -> Any:
    """(N, R, R, 3) to what samples.grid takes."""
    import torch

    return torch.from_numpy(pixels).permute(0, 3, 1, 2)
