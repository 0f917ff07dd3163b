"""What was checked of a bundle, on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from synthbench import console
from synthbench.leaderboard.archive import Bundle
from synthbench.leaderboard.verify import Check
from synthbench.results.comparison import AVG, GAP

HONEST = (
    "what agrees follows from the distances in the bundle. Who changes distances and scores alike is found out only where the recognizers "
    "are in it, and that they were trained on this set alone nobody can tell from a file"
)


def show(bundle: Bundle, checks: Sequence[Check]) -> None:
    """The scores that count and all that differs to stdout, with a sentence; what could not be checked below, to stderr."""
    for run in dict.fromkeys(check.run for check in checks):
        rows = [[_short(check.what), check.stated, check.found, check.verdict] for check in checks if check.run == run and _counts(check)]
        if rows:
            console.table(run or bundle.file, ["", "stated", "found", ""], rows)
    print(sentence(checks))
    for line in unchecked(checks):
        console.note(f"not checked: {line}")
    console.note(HONEST)
    console.note(f"SHA-256 of {bundle.file}: {bundle.digest}")


def sentence(checks: Sequence[Check]) -> str:
    """`120 things were checked, and all agree; 40 could not be.`"""
    tried = [check for check in checks if check.agrees is not None]
    wrong = [check for check in tried if not check.agrees]
    what = f"{len(wrong):,} of {len(tried):,} that were checked differ" if wrong else f"all {len(tried):,} that were checked agree"
    rest = len(checks) - len(tried)
    return what + (f"; {rest:,} could not be checked" if rest else "")


def unchecked(checks: Sequence[Check]) -> list[str]:
    """A line for each reason: what could not be checked, and why."""
    reasons: dict[str, list[str]] = {}
    for check in checks:
        if check.agrees is None:
            reasons.setdefault(check.found, []).append(_kind(check.what))
    return [f"{', '.join(_numbered(kinds))}: {why}" for why, kinds in reasons.items()]


def _kind(what: str) -> str:
    """Scores by how their names begin, and other things as they are called."""
    return f"{what.removeprefix('real: ').partition('/')[0]}/" if "/" in what else what.removeprefix("real: ")


def _numbered(kinds: Sequence[str]) -> Iterator[str]:
    for kind in dict.fromkeys(kinds):
        count = kinds.count(kind)
        yield f"{kind} ({count:,} scores)" if kind.endswith("/") else kind


def _counts(check: Check) -> bool:
    """Whether a check has a line of its own: the accuracies and the gap, what is in words, and what differs."""
    row, _, metric = check.what.partition(", seed")[0].rpartition(": ")
    own = metric in (AVG, GAP) or "/" not in metric or (not row and metric.startswith("verification/") and metric.endswith("/accuracy"))
    return check.agrees is False or (check.agrees is True and own and row != "real")


def _short(what: str) -> str:
    return what.replace("verification/", "").replace("/accuracy", "").replace("gap_to_real/points", "gap to real").replace("avg", "AVG")
