"""The long form: python -m tests.fuzz --cases 10000 --seed 0."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

if __package__ != "fuzz":  # python -m tests.fuzz
    sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.cage import FAILURES, Outcome
from fuzz.harness import COMMANDS, READERS, Harness, warm


def cause(outcome: Outcome) -> str:
    """What failures of one kind have in common: the last place in the package, and the error."""
    if outcome.kind != "traceback":
        return f"{outcome.kind}: {re.sub('[0-9]+', 'N', outcome.said)[-160:]}"
    places = re.findall(r'synthbench/(\S+\.py)", line (\d+), in (\w+)', outcome.said)
    last = outcome.said.strip().splitlines()[-1][:140]
    return f"{':'.join(places[-1]) if places else 'harness'}: {last}"


def share(names: list[str], cases: int) -> dict[str, int]:
    """How many cases of each reader: as many of each, fewer of the dear ones."""
    weight = {name: 1 / max(1.0, READERS[name].cost) for name in names}
    return {name: max(1, round(cases * weight[name] / sum(weight.values()))) for name in names}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="over all readers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", action="append", choices=list(READERS), help="a reader; repeatable")
    parser.add_argument("--case", type=int, help="this one alone, with its traceback")
    parser.add_argument("--out", type=Path, help="write the table as Markdown")
    parser.add_argument("--root", type=Path, help="folder to work in, by default a temporary one")
    chosen = parser.parse_args()
    root = chosen.root or Path(tempfile.mkdtemp(prefix="fuzz-"))
    root.mkdir(parents=True, exist_ok=True)
    names = sorted(chosen.only or READERS, key=lambda name: name in COMMANDS)  # a process that has all imported forks slowly
    warm(names[:1])
    harness = Harness(root.resolve(), chosen.seed)
    if chosen.case is not None:
        outcome = harness.case(names[0], chosen.case)
        print(
            f"{outcome.kind}, {outcome.seconds:.2f} s, {outcome.peak / 2**20:.0f} MiB\n{outcome.said}\nfiles in {harness.cage.case / 'in'}"
        )
        return int(outcome.failed)
    began, rows, failed = time.time(), [], 0
    for name, count in share(names, chosen.cases).items():
        warm([name])
        if name != "torch" and (whole := harness.whole(name)).kind != "answered":  # whole ones have 50 MB
            raise SystemExit(f"{name}: its whole files are not read: {whole.kind} {whole.said}")
        started, kinds, causes, worst = time.time(), Counter(), {}, [0.0, 0]
        for number, outcome in enumerate(harness.cases(name, chosen.first, count), chosen.first):
            kinds[outcome.kind] += 1
            worst = [max(worst[0], outcome.seconds), max(worst[1], outcome.peak)]
            if outcome.failed:
                causes.setdefault(cause(outcome), []).append(number)
        bad = sum(kinds[kind] for kind in FAILURES)
        failed += bad
        rows.append(
            (
                name,
                count,
                kinds["answered"],
                kinds["refused"],
                bad,
                f"{worst[0]:.1f}",
                f"{worst[1] / 2**20:.0f}",
                f"{time.time() - started:.0f}",
            )
        )
        print(*rows[-1], sep="\t", flush=True)
        for text, numbers in sorted(causes.items(), key=lambda item: -len(item[1])):
            print(f"    {len(numbers)} x {text}   case {', '.join(map(str, numbers[:4]))}", flush=True)
    total = [sum(row[column] for row in rows) for column in range(1, 5)]
    rows.append(
        ("all", *total, max((row[5] for row in rows), key=float), max((row[6] for row in rows), key=int), f"{time.time() - began:.0f}")
    )
    print(*rows[-1], sep="\t")
    if chosen.out:
        columns = ("reader", "cases", "answered", "refused", "failed", "most computing (s)", "most memory (MiB)", "took (s)")
        head = f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|\n"
        chosen.out.write_text(head + "".join(f"| {' | '.join(map(str, row))} |\n" for row in rows), "utf-8")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
