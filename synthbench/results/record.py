"""Run folders: what `synthbench run` leaves behind, prints and answers with `--json`. Files are the truth.

results/<run>/run.json       the JSON contract of README.md, for all seeds of the run
results/<run>/samples.png    identities x samples, see samples.py
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from synthbench import console
from synthbench.results import further, leak, shapes
from synthbench.store import Stage, Store, content_key, is_inside, is_name, read_json, write_json
from synthbench.types import UserError

Result = dict[str, Any]  # the JSON contract

SHORT = {
    "world-mixed": "mixed",
    "world-profile": "profile",
    "world-agegap": "agegap",
    "world-crossage": "xage",
    "world-crosspose": "xpose",
    "world-groups": "groups",
    "world-twins": "twins",
}

ERROR = "± is the sampling error over pairs (one standard error)"
CHANCE = "accuracies: 50 is chance"
UNTRAINED = "untrained network"  # the row of what the recognizer reaches before it learns: the floor, where it was measured


def run_name(generator: str, volume: str, protocol: str, evaluate_keys: Iterable[str]) -> str:
    """A folder name that tells what the run is and cannot collide."""
    safe = re.sub(r"[^A-Za-z0-9.+_-]", "_", f"{generator}-{volume}-{protocol}")
    return f"{safe}-{content_key({'evaluate': sorted(evaluate_keys)})[:8]}"


def called(result: Mapping[str, Any]) -> str:
    """The generator, and behind it the sets that its own is made of."""
    parts = result.get("parts")
    return f"{result['generator']} ({' + '.join(parts)})" if parts else str(result["generator"])


def made_of(result: Result) -> str:
    """`real, 6,000 images of 300 people (60 %), photographs: all; ...`; empty for a set that is not made of others."""
    parts = result.get("parts") or {}
    total = max(1, sum(part["images"] for part in parts.values()))
    return "; ".join(
        f"{text}, {part['images']:,} images of {part['people']:,} people ({100 * part['images'] / total:.0f} %)"
        + (f", photographs of real people: {part['photographs']}" if part["photographs"] else "")
        for text, part in parts.items()
    )


def values(result: Result, metric: str) -> list[dict[str, Any]]:
    """The scores called `metric`, one per seed. None for a distance of the real set to itself, an identity, not a measurement."""
    distance = metric.startswith("fd/") or (metric.startswith("demographics/") and metric.endswith("/distance"))
    if distance and result["generator"] == "real" and result["volume"] == "all":
        return []
    return [score for score in result["scores"] if score["metric"] == metric]


def cell(result: Result, metric: str, digits: int = 2, scale: float = 1.0) -> str:
    """Mean over seeds ± sampling error, or `-` when it was not measured."""
    if metric == leak.SHARE:
        return leak.text(result)
    scores = values(result, metric)
    if not scores:
        return "-"
    mean = statistics.fmean(score["value"] for score in scores) * scale
    errors = [score["stderr"] * scale for score in scores if score["stderr"] is not None]
    # The seeds are scored on the same pairs, so their sampling errors do not average out.
    level = further.chance(result, metric)
    error = f" ±{statistics.fmean(errors):.{digits}f}" if errors else ""
    return f"{mean:.{digits}f}" + error + ("" if level is None else f" ({level:.{digits}f})")


COLUMNS: tuple[tuple[str, str, int, float], ...] = (  # heading, metric, digits, factor; after one column per benchmark
    ("AVG %", "verification/avg/accuracy", 2, 1.0),
    ("gap to real", "gap_to_real/points", 2, 1.0),
    ("FD (judge)", "fd/judge/frechet", 3, 1.0),
    ("intra-class sim.", "separability/intra_class_similarity", 2, 1.0),
    ("d'", "separability/d_prime", 2, 1.0),
    (leak.TITLE, leak.SHARE, 1, 100.0),
)


def floor(metric: str) -> str:
    """The name of what a recognizer that learnt nothing has where a trained one has `metric`; empty: there is no such thing."""
    kind, _, rest = metric.partition("/")
    if kind == "templates":
        name, _, measure = rest.partition("/")
        return f"templates/{name}/untrained/{measure}"
    return f"untrained/{rest}" if kind == "verification" else ""


def show(results: list[Result], benchmarks: Iterable[str]) -> None:
    """The table of the runs, to stdout, with what a reader must know below it."""
    sets = [(SHORT.get(name, name), f"verification/{name}/accuracy", 1, 1.0) for name in benchmarks]
    apart = [(title, metric, 2, 1.0) for metric, title in further.metrics(results).items()]
    every = [*COLUMNS[:2], *sets, *apart, *COLUMNS[2:]]  # the average in front: a narrow terminal has room for it
    columns = [column for column in every if any(cell(item, *column[1:]) != "-" for item in results)]
    names = [f"{called(item)} {item.get('size', item['volume'])}" for item in results]
    rows = [[name, *(cell(item, *column[1:]) for column in columns)] for name, item in zip(names, results)]
    lowest = [cell(results[-1], floor(metric), digits, scale) for _, metric, digits, scale in columns]
    rows[:0] = [[UNTRAINED, *lowest]] if any(item != "-" for item in lowest) else []
    title, header = f"{results[-1]['protocol']}: {results[-1]['title']}", ["", *(column[0] for column in columns)]
    console.table(title, header, rows, breaks=("gap to real", *(name for name, *_ in sets[-1:])))
    if people := further.people(results):
        rows = [[name, *(cell(item, metric, 1) for metric in people)] for name, item in zip(names, results)]
        console.table("people of the set by group, %", ["", *people.values()], rows)
    seeds = results[-1]["seeds"]
    for note in further.notes(metric for _, metric, *_ in apart):
        console.note(note)
    if len(seeds) > 1:
        console.note(f"{ERROR}; {CHANCE}")
        for item in results:
            averages = [score["value"] for score in values(item, "verification/avg/accuracy")]
            if len(averages) > 1:
                spread = statistics.stdev(averages)
                console.note(f"{item['generator']}: AVG varies by ±{spread:.2f} (standard deviation) over {len(seeds)} seeds")
    else:
        console.note(f"{ERROR}; n = 1 seed, so the spread between seeds is not known; {CHANCE}")


def save(store: Store, result: Result) -> Path:
    """Write the run folder; returns it."""
    folder = store.root / "results" / result["run"]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "run.json", result)
    return folder


def read_run(path: Path) -> Result | None:
    """The result in a run.json; None when it is absent, not whole or of another kind. The runs folder may have moved since.

    What it names is in its runs folder, wherever that is: none of its names leads elsewhere.
    """
    result, path = read_json(path), path.absolute()
    if not shapes.whole("run", result):
        return None
    result["artifacts"] = _moved(result["artifacts"], path)
    places, root = map(Path, result["artifacts"].values()), path.parents[2]  # which may be /here/../runs
    if not all(place.is_relative_to(root) and is_inside(str(place.relative_to(root))) for place in places):
        return None
    return result  # type: ignore[no-any-return]


def training_log(folder: Path) -> Path:
    """The log of the training that made the stage in `folder`; of VIGFace's, which has two, that of its diffusion model."""
    path = folder / "metrics.jsonl"
    return path if path.is_file() else folder / "diffusion" / path.name


def _moved(artifacts: dict[str, str], path: Path) -> dict[str, str]:
    """Paths below the runs folder, wherever it is now that the run.json in it is `path`."""
    before = next(iter(Path(artifacts.get("folder", "")).parents[1:2]), None)
    if before is None or before == path.parents[2]:
        return artifacts
    places = {name: Path(place) for name, place in artifacts.items()}
    return {name: str(path.parents[2] / p.relative_to(before) if p.is_relative_to(before) else p) for name, p in places.items()}


def damaged(path: Path) -> UserError:
    return UserError(f"{path} is not a whole result; run the command that made it again")


# ------------------------------------------------------------------------------------------------ answers from the cache


def remembered(store: Store, request: str) -> Result | None:
    """The result of an earlier identical request, if all its stages are still whole. Imports nothing heavy."""
    memory = read_json(store.root / "requests" / f"{request}.json")
    if not isinstance(memory, dict) or not is_name(memory.get("run")):
        return None
    result = read_run(store.root / "results" / memory["run"] / "run.json")
    if not result or not (store.root / "results" / result["run"] / "samples.png").is_file():
        return None
    if any(not store.stage(stage["name"], stage["key"]).manifest() for stage in result["stages"]) or not _follows(store, result):
        return None
    for stage in result["stages"]:
        stage.update(state="cached", seconds=0.0)
    return result


def _follows(store: Store, result: Result) -> bool:
    """Whether the scores of a run.json are those of its evaluate stages, which have digests where it has none."""
    found = [
        read_json(store.stage(row["name"], row["key"]).folder / "scores.json") for row in result["stages"] if row["name"] == "evaluate"
    ]
    try:
        each = len(found) // len(result["seeds"])  # of a seed: the baseline's stage, if there is one, and the run's own
        parts = [(result, found[each - 1 :: each]), *([(result["baseline"], found[::each])] if result["baseline"] else [])]
        told = [[{**score, "seed": seed} for seed, item in zip(result["seeds"], own) for score in item["scores"]] for _, own in parts]
        return bool(told == [part["scores"] for part, _ in parts] and result["skipped"] == found[each - 1]["skipped"])
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError):
        return False


def begin(store: Store, request: str, stages: Iterable[Stage]) -> None:
    """Note what a request will do, so that nothing of it is pruned before it is done: see `end`."""
    folder = store.root / "requests"
    folder.mkdir(parents=True, exist_ok=True)
    plan = sorted({(stage.name, stage.key) for stage in stages})
    write_json(folder / f"{request}.json", {"command": console.command_line(), "stages": plan})


def end(store: Store, request: str, run: str, remembered: bool) -> None:
    """The request is done: its note becomes the answer to the same request, or goes when no answer may be `remembered`."""
    path = store.root / "requests" / f"{request}.json"
    if remembered:
        write_json(path, {"run": run})
    else:
        path.unlink(missing_ok=True)


def fingerprint() -> str:
    """Changes whenever a file of the package does, so that an edited synthbench never answers from an older one's memory."""
    package = Path(__file__).parents[1]
    files = sorted(path for path in package.rglob("*") if path.suffix in {".py", ".yaml", ".csv"})
    return content_key({str(path.relative_to(package)): [path.stat().st_size, path.stat().st_mtime_ns] for path in files})
