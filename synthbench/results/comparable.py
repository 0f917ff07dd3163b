"""A run seen from outside: which stages are its own, what was held fixed when it was measured, what it cost, what to call it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from synthbench import console
from synthbench.results.record import Result, called
from synthbench.store import Store
from synthbench.types import UserError, Volume

FIXED = {"real": "real set", "encoder": "encoder", "judge": "judge", "benchmarks": "benchmarks"}  # stage -> what it fixes
Rows = list[dict[str, Any]]


def foreign(result: Result) -> bool:
    """Whether it is of a network that was trained elsewhere (`synthbench evaluate`), and not of a generator's set."""
    return "weights" in result


def sides(result: Result) -> dict[str, Rows]:
    """The stages of a run: `own`, those of its `parts` if it is made of other sets, those of its `real` baseline, and `shared` by all runs
    of a protocol; each in order, seed by seed.

    Raises UserError when its run.json does not tell them apart.
    """
    found: dict[str, Rows] = {"own": [], "parts": [], "real": [], "shared": []}
    faces, evaluated, trained = Path(result["artifacts"].get("faces", "")).name, 0, 0
    for row in result["stages"]:
        side = "own"
        if row.get("part"):
            side = "parts"
        elif row["name"] == "evaluate":  # the baseline's comes before the run's own
            side, evaluated = "real" if result["baseline"] and evaluated % 2 == 0 else "own", evaluated + 1
        elif row["name"] == "recognizer":
            side, trained = "real" if result["baseline"] and trained % 2 == 0 else "own", trained + 1
        elif row["name"] == "generate":  # the real faces come before the first evaluation, beside those of a finite generator
            side = "real" if result["baseline"] and not evaluated and row["key"] != faces else "own"
        elif row["name"] not in ("train-faces", "train", "enroll"):
            side = "shared"
        found[side].append(row)
    if evaluated != len(result["seeds"]) * (2 if result["baseline"] else 1):
        seeds = console.counted(len(result["seeds"]), "seed")
        raise UserError(f"{result['run']}: its run.json names {evaluated} evaluations for {seeds}; make it again")
    return found


def keys(rows: Rows, name: str) -> list[str]:
    """Keys of the stages called `name`; of evaluate and recognizer one for each seed."""
    return [row["key"] for row in rows if row["name"] == name]


def held_fixed(result: Result) -> dict[str, str]:
    """The keys of what a run was measured with, by name. The real run of each seed stands for recipe, evaluators and their settings."""
    found = sides(result)
    fixed = {"protocol": str(result["protocol"])}
    fixed |= {FIXED[row["name"]]: row["key"] for row in found["shared"] if row["name"] in FIXED}
    real = found["real"] if result["baseline"] else found["own"] if result["volume"] == "all" else []
    for seed, recognizer, evaluation in zip(result["seeds"], keys(real, "recognizer"), keys(real, "evaluate")):
        fixed |= {f"recipe (seed {seed})": recognizer, f"evaluators (seed {seed})": evaluation}
    return fixed


def settings_held_fixed(result: Result) -> dict[str, dict[str, Any]]:
    """The settings that a run was measured with, by what they are of; empty for a run.json of an older version, which has none."""
    config, traits = result.get("config"), result.get("traits", {})
    if not config:
        return {}
    protocol, recipes = config["protocol"], config["recipes"]
    found = {"recipe": recipes[protocol["recipe"]], "evaluators": protocol["evaluators"]}
    for name in ("encoder", "judge"):
        if name == "judge" or traits.get("trains") or traits.get("enrolls"):  # others use no encoder
            network = protocol[name]
            found[name] = {**network, "recipe": recipes[network["recipe"]]} if "recipe" in network else network
    return {name: dict(flat(settings)) for name, settings in found.items()}


def differing(a: Result, b: Result) -> dict[str, tuple[str, str]]:
    """What was held fixed and differs, with both values: settings by name, and the keys of what no setting explains.

    Empty when the two may be compared. What only one of them has does not count.
    """
    mine, yours = settings_held_fixed(a), settings_held_fixed(b)
    found: dict[str, tuple[str, str]] = {}
    explained = [part for part in mine if part in yours and mine[part] != yours[part]]
    for part in explained:
        names = [name for name in {**mine[part], **yours[part]} if mine[part].get(name) != yours[part].get(name)]
        found |= {f"{part} {name}": (str(mine[part].get(name)), str(yours[part].get(name))) for name in names}
    one, other = held_fixed(a), held_fixed(b)
    keys_ = {name: (one[name], other[name]) for name in one if name in other and one[name] != other[name]}
    follows = ("evaluators", "recipe") if "real set" in keys_ else ("evaluators",)  # their keys cover the others
    unexplained = {name: both for name, both in keys_.items() if name.partition(" (seed")[0] not in explained}
    cause = found | {name: both for name, both in unexplained.items() if not name.startswith(follows)}
    short: dict[str, tuple[str, str]] = {}
    for name, both in (cause or unexplained).items():
        short.setdefault(name.partition(" (seed")[0], both)
    return short


def groups(results: Iterable[Result]) -> list[list[Result]]:
    """Runs that may be compared, together; in order of appearance."""
    found: list[list[Result]] = []
    for result in results:
        home = next((group for group in found if not any(differing(result, member) for member in group)), None)
        if home is None:
            found.append([result])
        else:
            home.append(result)
    return found


def labels(results: Sequence[Result]) -> list[str]:
    """A name for every row: generator and volume, and the settings that tell runs of one generator apart."""
    plain = [
        called(item) if foreign(item) or (item["generator"] == "real" and size == "all") else f"{called(item)} {size}"
        for item in results
        for size in [str(item.get("size", "all")) if item["volume"] == "all" else item["volume"]]
    ]
    names = list(plain)
    for name in [name for name, count in Counter(plain).items() if count > 1]:
        rows = [i for i, other in enumerate(plain) if other == name]
        settings = [dict(flat(results[i].get("settings", {}))) for i in rows]
        keys = [key for key in dict.fromkeys(itertools.chain(*settings)) if len({repr(item.get(key)) for item in settings}) > 1]
        for i, item in zip(rows, settings):
            names[i] += "".join(f" {key}={item.get(key)}".replace("'", "") for key in keys[:3])
    for i, name in enumerate(names):
        if names.count(name) > 1:
            names[i] = f"{name} {results[i]['run'].rpartition('-')[2]}"
    return names


def flat(settings: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings by their dotted names."""
    if not isinstance(settings, dict):
        return [(prefix[:-1], settings)]
    return [pair for name, value in settings.items() for pair in flat(value, f"{prefix}{name}.")]


def cost(store: Store, result: Result) -> dict[str, Any]:
    """What one seed of a run made and took, without the stages that it shares with others: images, copies of inquiries besides them,
    hours, speed of generation, bytes."""
    about, found = result.get("cost", {}), sides(result)
    manifests = [store.stage(row["name"], row["key"]).manifest() for row in [*found["own"], *found["parts"]]]
    known, seeds = [item for item in manifests if item], len(result["seeds"])
    whole = len(known) == len(manifests) and not foreign(result)  # what it took to train such a network is not known
    images = next((item.get("images") for item in known if item["name"] == "generate"), None)
    promised = Volume.parse(result["volume"]).images if not foreign(result) else None
    copies = max(0, images - promised) if images and promised else 0
    return {
        "images": images - copies if images else images,
        "copies": copies or None,
        "hours": sum(item["seconds"] for item in known) / 3600 / seeds if whole else None,
        "images_per_second": about.get("images_per_second") or None,
        "disk_bytes": sum(sum(item["files"].values()) for item in known) / seeds if whole else None,
        "device": about.get("device"),
    }
