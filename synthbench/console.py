"""What the user sees. Results go to stdout, everything else to stderr; bars on a terminal, plain lines in a log."""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from synthbench.types import Progress

LINE_EVERY = 60.0  # seconds between progress lines when stderr is not a terminal
QUIET = "SYNTHBENCH_QUIET"
COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
LONG = 3600.0  # seconds; work that will take longer is announced


def quiet() -> bool:
    """Whether only results, warnings and errors are wanted (`--quiet`). In the environment, where the processes of `--jobs` find it."""
    return bool(os.environ.get(QUIET))


def note(text: str) -> None:
    """A line of information on stderr."""
    if not quiet():
        _print(text)


def warn(text: str) -> None:
    _print(f"warning: {text}", style="yellow")


@functools.cache
def once(say: Callable[[str], None], text: str) -> None:
    """`note` or `warn` what every request, or every stage that uses a network, would repeat."""
    say(text)


def error(text: str) -> None:
    _print(f"error: {text}", style="bold red")


def printable(text: str) -> str:
    """`text` without what commands a terminal or turns its letters round: names come from files of others."""
    return COMMANDS.sub(lambda found: repr(found[0])[1:-1], text)


def _print(text: str, style: str = "") -> None:
    text = printable(text)
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.text import Text

        Console(stderr=True).print(Text(text, style=style), soft_wrap=True)
    else:
        print(text, file=sys.stderr, flush=True)


def install(extra: str) -> str:
    """The command that installs packages of pyproject's extras beside this very synthbench."""
    return f"{shlex.quote(sys.executable)} -m pip install 'synthbench[{extra}]'"


def command_line() -> str:
    """The command as it was typed, for the record; without the password of a URL."""
    return "synthbench " + shlex.join(map(hidden, sys.argv[1:]))


def hidden(text: str) -> str:
    """`text` without user and password of the URLs in it: postgresql://***@host/db."""
    text = re.sub(r"://(?:[^:/@\s]*:\S*|[^/\s]*)@", "://***@", text)
    return re.sub(r"([?&]password=)[^&\s]*", r"\1***", text)


def duration(seconds: float | None) -> str:
    """`45 s`, `3 min 20 s`, `2 h 5 min`; `unknown` for None."""
    if seconds is None:
        return "unknown"
    if seconds < 1:
        return "under 1 s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def counted(count: int, word: str) -> str:
    """`1 stage`, `2 stages`, `1,200 images`."""
    return f"{count:,} {word}{'s' * (count != 1)}"


def between(low: int, high: int) -> str:
    """`4 to 1,200`, and `4` where both are the same."""
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def size(count: float) -> str:
    """Bytes as `12 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if round(count) < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """Yields `report(done, total)`. A bar with rate and time left on a terminal, otherwise a line a minute.

    The first estimate that exceeds an hour is announced on a line of its own. Silent with `--quiet`.
    """
    if quiet():
        yield lambda done, total: None
        return
    begun: list[tuple[int, float]] = []  # (done, time) at the first report: preparation and a resumed stage's past are not in the rate
    seen = (0, 0)
    announced = False
    last = time.monotonic()

    def restart(done: int, total: int) -> None:
        """A stage may count several things, one after the other; each has a rate of its own."""
        nonlocal seen
        if done < seen[0] or total != seen[1]:
            begun.clear()
        seen = done, total

    def rate(done: int) -> float:
        if not begun:
            begun.append((done, time.monotonic()))
        return (done - begun[0][0]) / max(time.monotonic() - begun[0][1], 1e-3)

    def left(done: int, total: int) -> float | None:
        return (total - done) / rate(done) if rate(done) > 0 else None

    def announce(done: int, total: int) -> None:
        nonlocal announced
        remaining = left(done, total)
        if not announced and remaining is not None and time.monotonic() - begun[0][1] > 10:
            announced = True
            if remaining > LONG:
                note(f"{title}: about {duration(remaining)} to go; stop it at any time, the same command continues")

    if sys.stderr.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        from rich.console import Console

        with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task(title, total=None, rate="")

            def report(done: int, total: int) -> None:
                restart(done, total)
                announce(done, total)
                bars.update(task, completed=done, total=total, rate=f"{rate(done):.1f}/s")

            yield report
    else:

        def report(done: int, total: int) -> None:
            nonlocal last
            restart(done, total)
            announce(done, total)
            if time.monotonic() - last > LINE_EVERY:
                last = time.monotonic()
                note(f"  {title}: {done:,} of {total:,}, {duration(left(done, total))} left")

        yield report


# ---------------------------------------------------------------------------------------------------------------- tables


def table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], sentences: Sequence[str] = (), breaks: Sequence[str] = ()
) -> None:
    """A table on stdout; columns that hold numbers are right-aligned. No number or name is ever cut, or broken over two lines.

    What is wider than the terminal (or COLUMNS) is printed in parts below each other, each with the first column; a log has no width.
    sentences: headings of columns whose cells may be broken between words. breaks: of those after which a wide table is parted first.
    """
    from rich.console import Console

    out = Console(file=sys.stdout, markup=False, emoji=False, highlight=False)  # cells are text: paths may hold brackets
    out.print(printable(title), style="bold", soft_wrap=True)
    columns = [
        _Column(name, [printable(str(row[i])) for row in rows], i > 0, name in sentences, name in breaks) for i, name in enumerate(header)
    ]
    screen = shutil.get_terminal_size().columns if "COLUMNS" in os.environ or sys.stdout.isatty() else sys.maxsize
    for part in _parts(columns, screen):
        widths = _widths(part, screen)
        names = [column.lines(column.heading, width) for column, width in zip(part, widths)]
        tallest = max(map(len, names))
        names = [[""] * (tallest - len(lines)) + lines for lines in names]  # headings stand on the rule
        out.print("\n".join(_row(part, widths, names)), style="bold", soft_wrap=True)
        print("─" * (sum(widths) + GAP * (len(widths) - 1)))
        for cells in zip(*(column.cells for column in part)):
            print("\n".join(_row(part, widths, [column.lines(cell, width) for column, cell, width in zip(part, cells, widths)])))
        print(flush=True)


GAP = 2  # spaces between columns
SENTENCE = 24  # a column of sentences is at least as wide, where they are


@dataclass(frozen=True)
class _Column:
    heading: str
    cells: list[str]
    may_be_numeric: bool
    sentence: bool
    breaks: bool

    @property
    def numeric(self) -> bool:
        return self.may_be_numeric and all(cell[:1] in "-+−<0123456789" for cell in self.cells)

    @property
    def least(self) -> int:
        """The width below which a word of the heading, a number or a name would be broken."""
        words = [word for text in (self.heading, *(self.cells if self.sentence else ())) for word in text.split()]
        lines = [line for cell in self.cells for line in cell.split("\n")]
        longest = max(map(_length, lines), default=0)
        return max([min(longest, SENTENCE) if self.sentence else longest, *map(_length, words)])

    @property
    def most(self) -> int:
        return max(_length(line) for text in (self.heading, *self.cells) for line in text.split("\n"))

    def lines(self, text: str, width: int) -> list[str]:
        """A heading or a cell in lines; only spaces of headings and sentences are broken at."""
        found = []
        for line in text.split("\n"):
            broken = textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) if _length(line) > width else [line]
            found += broken if self.sentence or text == self.heading else [line]
        return found


def _length(text: str) -> int:
    """Columns of the terminal: some letters take two."""
    from rich.cells import cell_len

    return cell_len(text)


def _parts(columns: Sequence[_Column], screen: int) -> list[list[_Column]]:
    """The columns of each part of a table, the first column in all of them."""
    first = list(columns[:1])
    parts: list[list[_Column]] = [first]
    group: list[_Column] = []
    for column in columns[1:]:
        group.append(column)
        if column.breaks or column is columns[-1]:
            if len(parts[-1]) > 1 and not _fits([*parts[-1], *group], screen):
                parts.append(first)
            for one in group:
                if len(parts[-1]) > 1 and not _fits([*parts[-1], one], screen):
                    parts.append(first)
                parts[-1] = [*parts[-1], one]
            group = []
    return parts


def _fits(columns: Sequence[_Column], screen: int) -> bool:
    return sum(column.least for column in columns) + GAP * (len(columns) - 1) <= screen


def _widths(part: Sequence[_Column], screen: int) -> list[int]:
    """What the screen has left goes to those that would rather be wider, in equal shares."""
    widths = [column.least for column in part]
    left = max(0, screen - sum(widths) - GAP * (len(part) - 1))
    for place, i in enumerate(sorted(range(len(part)), key=lambda i: part[i].most - widths[i])):
        more = min(part[i].most - widths[i], left // (len(part) - place))
        widths[i], left = widths[i] + more, left - more
    return widths


def _row(part: Sequence[_Column], widths: Sequence[int], cells: Sequence[list[str]]) -> list[str]:
    """The lines of a row of cells, each of some lines."""
    found = []
    for i in range(max(map(len, cells))):
        texts = [lines[i] if i < len(lines) else "" for lines in cells]
        spaces = [" " * (width - _length(text)) for width, text in zip(widths, texts)]
        line = (" " * GAP).join(space + text if column.numeric else text + space for column, text, space in zip(part, texts, spaces))
        found.append(line.rstrip())
    return found
