"""What a report says of runs in words and numbers: cost, provenance, digests, settings, all scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import yaml

from synthbench import console
from synthbench.report.blocks import Block, Code, Facts, Fold, Grid, Text
from synthbench.report.data import Run, costs, plain
from synthbench.results.comparable import flat
from synthbench.results.record import made_of, values
from synthbench.results.tables import learnt_from
from synthbench.store import read_json

SHOWN = "generated from photographs of people, or photographs where --photographs was given: ask before passing this page on"


def cost(runs: Sequence[Run]) -> Iterator[Block]:
    """Time and disk of every stage; of several runs first the sums."""
    if len(runs) > 1:
        lines = []
        for run in runs:
            disk = sum(sum(manifest["files"].values()) for manifest in run.manifests)
            rate = run.result["cost"].get("images_per_second")
            speed = f"{rate:,.1f}" if isinstance(rate, (int, float)) else "-"
            lines.append(
                [
                    run.label,
                    console.duration(own_seconds(run)),
                    console.duration(all_seconds(run)),
                    speed,
                    console.size(disk),
                    str(run.result["cost"]["device"]),
                ]
            )
        header = ["", "train and generate", "all stages", "images / s", "disk", "device"]
        yield Grid("Time on one device, as it was when the stages were made; stages that runs share are counted in each.", header, lines)
        once = {manifest["key"]: float(manifest.get("seconds", 0)) for run in runs for manifest in run.manifests}
        yield Text(f"All stages of this page, each counted once: {console.duration(sum(once.values()))}.", quiet=True)
    for run in runs:
        header, rows = costs(run)
        device = run.result["cost"]["device"]
        text = f"{run.label}: {console.duration(all_seconds(run))} on one {device} device for all stages"
        own = f", of which {console.duration(own_seconds(run))} train and run the generator"
        text += "." if run.result["generator"] == "real" else f"{own}."
        grid = Grid(
            "Time each stage took when it was made; a cached stage costs nothing again.",
            header[:5],
            [row[:5] for row in rows],
        )
        yield from (Text(text), grid) if len(runs) == 1 else [Fold(f"Stages of {run.label}", [grid])]


def all_seconds(run: Run) -> float:
    return sum(float(manifest.get("seconds", 0)) for manifest in run.manifests)


def own_seconds(run: Run) -> float:
    """Of the generator: what it takes to make the set, without the recognizer and the measuring."""
    every = [*(manifest for name in ("train", "enroll", "generate") for manifest in run.stages(name)), *run.part_stages]
    return sum(float(manifest.get("seconds", 0)) for manifest in every)


def provenance(run: Run) -> Iterator[Block]:
    traits = run.result["traits"]
    words = {
        "paper": "Paper",
        "licence": "Licence",
        "new_identities": "New identities",
        "real_photographs": "Real photographs in the set",
        "pretrained": "Pretrained networks",
        "needs_labels": "Needs identity labels",
    }
    rows = [(title, say(traits[name])) for name, title in words.items() if name in traits]
    rows += [("Real set", run.stages("real")[0].get("work", "")) if run.stages("real") else ("Real set", "its stage is gone")]
    rows += [("Made of", told) for told in [made_of(run.result)] if told]
    rows += [("Cleaned", str(told)) for told in [run.result.get("cleaned", {}).get("said")] if told]
    if learnt := run.result.get("learnt_from"):
        rows.append(("Learnt from", ", ".join(f"{name}: {images:,} images" for name, images in learnt.items())))
    pictures = "rendered; no real person is shown on this page" if run.rendered else SHOWN
    yield Facts([*rows, ("Pictures", pictures)])


def needs(runs: Sequence[Run]) -> Iterator[Block]:
    """What each generator needs, side by side."""
    names = ("new_identities", "real_photographs", "pretrained", "licence", "paper")
    rows = [[run.label, learnt_from(run.result), *(say(run.result["traits"].get(name)) for name in names)] for run in runs]
    header = ["", "learnt from", *(name.replace("_", " ") for name in names)]
    yield Grid("What each generator needs, and under which licence.", header, rows)
    shown = "rendered; no real person is shown on this page" if all(run.rendered for run in runs) else SHOWN
    yield Facts([("Pictures", shown)])


def say(value: Any) -> str:
    return (
        {True: "yes", False: "no", "": "none", None: "none"}.get(value, str(value))
        if isinstance(value, (bool, str, type(None)))
        else plain(value)
    )


def digests(run: Run) -> Iterator[Block]:
    """What would have to be equal for a result to be the same."""
    rows = [(f"{name}", str(value)) for name, value in run.result["digests"].items() if value]
    for stage in ("encoder", "judge", "recognizer"):
        for manifest in run.stages(stage):
            about = read_json(manifest["folder"] / "encoder.json")
            if isinstance(about, dict) and about.get("digest"):
                rows.append((f"{stage}, weights", str(about["digest"])))
    for name in run.benchmarks:
        about = read_json(run.folder("benchmarks") / name / "pairs.json")
        if isinstance(about, dict):
            rows.append((name, str(about.get("digest", ""))))
    yield Fold("Digests", [Facts(rows)])
    keys = [[row[0], row[5], row[1]] for row in costs(run)[1]]
    yield Fold("Stages and their keys", [Grid("A key covers everything that may change a result.", ["stage", "key", "what"], keys)])


def configuration(runs: Sequence[Run]) -> Iterator[Block]:
    """Every setting: of the generators, and once the protocol and its recipes, which the runs share."""
    named: dict[str, list[Run]] = {}
    for run in runs:
        named.setdefault(run.result["generator"], []).append(run)
    for generator, (first, *others) in named.items():
        yield Fold(f"Settings of {first.label}", [Code(as_yaml(first.result["settings"]))])
        if others:
            yield Fold(f"What differs in the other rows of {generator}", [Facts([(run.label, differing(first, run)) for run in others])])
    whole = next((run.result["config"] for run in runs if run.result.get("config")), None)
    if whole:
        protocol = whole["protocol"]
        yield Fold(f"Protocol {protocol['name']}", [Code(as_yaml(protocol))])
        users = {"recognizers": protocol["recipe"], **{name: protocol[name].get("recipe") for name in ("encoder", "judge")}}
        for recipe, settings in whole["recipes"].items():
            who = " and ".join(user for user, name in users.items() if name == recipe)
            yield Fold(f"Recipe {recipe}: {who}", [Code(as_yaml(settings))])
    elif runs:
        yield Text("An older version made these runs and did not keep the whole protocol; the command that made them adds it.", quiet=True)
        yield from trained(runs[0])


def as_yaml(settings: Any) -> str:
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).rstrip()


def differing(first: Run, run: Run) -> str:
    """Settings of `run` that are not those of `first`."""
    one, other = (dict(flat(item.result["settings"])) for item in (first, run))
    return ", ".join(f"{name} {plain(other.get(name))}" for name in {**one, **other} if one.get(name) != other.get(name)) or "nothing"


def trained(run: Run) -> Iterator[Block]:
    """The recipe that was kept with the recognizer."""
    for manifest in run.stages("recognizer")[:1]:
        about = read_json(manifest["folder"] / "encoder.json")
        if isinstance(about, dict) and "recipe" in about:
            kept = {name: about[name] for name in ("recipe", "trained_on", "seed", "parameters", "resolution") if name in about}
            yield Fold("Recipe of the recognizer", [Code(as_yaml(kept))])


def scores(run: Run) -> Iterator[Block]:
    """Every score, and what was not measured, with the reason."""
    rows = []
    for metric in dict.fromkeys(score["metric"] for score in run.result["scores"]):
        if not (found := values(run.result, metric)):
            continue
        errors = [score["stderr"] for score in found if score["stderr"] is not None]
        mean = float(np.mean([score["value"] for score in found]))
        spread = f"{np.std([score['value'] for score in found], ddof=1):.4g}" if len(found) > 1 else "-"
        better = "higher" if found[0]["higher_is_better"] else "lower"
        rows.append([metric, f"{mean:.5g}", f"{np.mean(errors):.2g}" if errors else "-", spread, f"{found[0]['n']:,}", better])
    header = ["metric", "value", "standard error", "std of seeds", "n", "better"]
    text = "Mean over seeds; n: pairs, images or classes. Shares of leakage/ say little alone: leakage/held_out/ has those of strangers."
    yield Fold(f"All {len(rows)} scores", [Grid(text, header, rows)])
    reasons: dict[str, list[str]] = {}
    for skip in run.result["skipped"]:
        reasons.setdefault(str(skip["reason"]), []).append(str(skip["metric"]))
    if reasons:
        yield Fold(
            f"Not measured: {len(run.result['skipped'])}", [Facts([(", ".join(names), reason) for reason, names in reasons.items()])]
        )
