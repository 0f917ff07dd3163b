"""What the user sees. Results go to stdout, everything else to stderr; bars on a terminal, plain lines in a log."""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from synthbench.types import Progress

LINE_EVERY = 60.0  # seconds between progress lines when stderr is not a terminal
QUIET = "SYNTHBENCH_QUIET"
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


def error(text: str) -> None:
    _print(f"error: {text}", style="bold red")


def _print(text: str, style: str = "") -> None:
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


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], wrap: int | None = None) -> None:
    """A table on stdout; columns that hold numbers are right-aligned. Never cut when stdout is not a terminal.

    wrap: for cells that hold sentences, columns of text that the table may be wide; the cells then have several lines.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    width = None if sys.stdout.isatty() else 20 + sum(max(len(str(row[i])) for row in (header, *rows)) + 4 for i in range(len(header)))
    if wrap:
        width = min(wrap, Console(file=sys.stdout).width) if sys.stdout.isatty() else wrap
    grid = Table(box=SIMPLE_HEAD, leading=1 if wrap else 0)
    for i, name in enumerate(header):
        numeric = i > 0 and all(str(row[i])[:1] in "-+0123456789" for row in rows)
        grid.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        grid.add_row(*map(str, row))
    out = Console(file=sys.stdout, width=width, markup=False, emoji=False)  # cells are text: paths may hold brackets
    out.print(title, style="bold", highlight=False, soft_wrap=True)  # a title of the table would be as narrow as the table
    out.print(grid)
