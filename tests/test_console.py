"""Results on stdout, everything else on stderr; nothing that only a terminal understands in a log."""

from __future__ import annotations

import pytest

from synthbench import console


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "unknown"),
        (0, "under 1 s"),
        (0.99, "under 1 s"),
        (45, "45 s"),
        (59.7, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3599.9, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert console.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "2 kB"), (12_000_000, "12 MB"), (999_999, "1 MB"), (3.2e12, "3.2 TB")]
)
def test_size(count: float, text: str) -> None:
    assert console.size(count) == text


def test_words_go_to_stderr_and_tables_to_stdout(capsys: pytest.CaptureFixture) -> None:
    console.note("a note [bold]with[/bold] brackets")
    console.warn("careful")
    console.error("wrong")
    console.table("title", ("", "AVG %"), [("real all", "93.15 ±0.20"), ("[x]" * 40, "1")])
    out, err = capsys.readouterr()
    assert err == "a note [bold]with[/bold] brackets\nwarning: careful\nerror: wrong\n"
    assert "93.15 ±0.20" in out and "[x]" * 40 in out  # neither cut, wrapped, nor read as markup
    console.table("a title of many words over a narrow table", ("a", "b"), [])
    assert capsys.readouterr().out.startswith("a title of many words over a narrow table\n")
    assert "\x1b" not in out + err and "\t" not in out


WIDE = ["AVG (%)", "gap to real", *(f"set {i} (%)" for i in range(6)), "cost"]


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_no_number_or_name_is_broken_however_narrow_the_terminal(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    rows = [[f"generator{i} 200x20", *(f"{70 + i}.{place} ±0.{place}" for place in range(len(WIDE)))] for i in range(3)]
    console.table("title", ["", *WIDE], rows, breaks=("gap to real",))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width and not any(line.endswith(" ") for line in lines)
    for row in rows:
        own = [line for line in lines if line.startswith(row[0])]
        assert [cell for line in own for cell in line.removeprefix(row[0]).replace(" ±", "±").split()] == [
            cell.replace(" ±", "±") for cell in row[1:]
        ]
    parts = [line for line in lines if "─" in line]
    assert (len(parts) == 1) == (width == 200)
    if width == 80:  # parted first where it was asked for
        assert len(next(line for line in lines if line.startswith(rows[0][0])).split()) == 2 + 2 * 2


def test_sentences_are_broken_between_words_and_names_beside_them_never(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    name, url = "a-name-of-a-set-that-is-long", "https://example.org/" + "x" * 70
    console.table("t", ("name", "licence", "where"), [(name, "some words " * 9, url), ("名", "short", "")], sentences=("licence",))
    out = capsys.readouterr().out
    assert out.count(name) == 2 and url in out and out.count("some") == out.count("words") == 9
    told = [line for line in out.splitlines() if "some words" in line]
    assert len(told) > 2 and max(map(len, told)) <= 60


def test_progress_in_a_log_is_a_line_a_minute(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress("train") as report:
        for done in range(1, 131):
            now[0] += 1.0
            report(done, 1300)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "of 1,300" in line] == lines and len(lines) == 2
    assert lines[0].startswith("  train: 61 of 1,300, ")


def test_each_of_several_counts_in_one_stage_has_a_rate_of_its_own(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress("evaluate") as report:
        for done in range(1000):  # a thousand a second
            now[0] += 0.001
            report(done, 1000)
        for done in range(100):  # one a second, of 100: 39 s are left after 61
            now[0] += 1.0
            report(done, 100)
    (line,) = capsys.readouterr().err.splitlines()
    assert line in ("  evaluate: 59 of 100, 41 s left", "  evaluate: 60 of 100, 40 s left")


def test_long_work_is_announced_once_and_a_resumed_stage_has_an_honest_rate(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress("train") as report:
        for done in range(900_000, 900_050):  # resumed at 900,000 of 1,000,000; one a second: 28 hours left, not 5 seconds
            now[0] += 1.0
            report(done, 1_000_000)
    err = capsys.readouterr().err
    assert err.count("to go; stop it at any time") == 1 and "about 27 h" in err


def test_names_from_files_command_no_terminal(capsys: pytest.CaptureFixture) -> None:
    """A folder may be called like the code that clears the screen, sets the window's title, or turns what follows round."""
    name = "\x1b[2J\x1b]0;mine\x07\u202egnp.exe\x9b1m\r"
    shown = r"\x1b[2J\x1b]0;mine\x07\u202egnp.exe\x9b1m\r"
    for say in (console.note, console.warn, console.error):
        say(f"{name}: a\tline\nand one more é")
    console.table(name, ["set", "people"], [[name, "3"]])
    told = capsys.readouterr()
    assert told.err.count(f"{shown}: a\tline\nand one more é") == 3 and told.out.count(shown) == 2
    assert not set(told.err + told.out) & set(name) - set(shown)
