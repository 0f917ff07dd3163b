"""What there is: plugins, protocols, recipes, runs, and the machine. For `list`, `show` and `doctor`."""

from __future__ import annotations

import importlib.util
import json
import platform
import shutil
import textwrap
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from synthbench import __version__, console, registry
from synthbench.config import Layer, Settings, build, config_names, config_path, did_you_mean, read_layer
from synthbench.data import sources
from synthbench.plugin import Generator, Traits
from synthbench.protocol import load_protocol
from synthbench.results.record import cell, damaged, find_run, read_run
from synthbench.store import Store
from synthbench.types import UserError, Volume

WIDTH = 120  # columns of text
Table = tuple[tuple[str, ...], list[tuple[Any, ...]]]


def listing(what: str, runs: Path) -> Table:
    """Header and rows of `synthbench list WHAT`; of generators see `generators`."""
    if what == "evaluators":
        return ("name", "version", "measures"), [
            (name, str(kind.version), _first_line(kind))
            for name, kind in ((n, registry.load("evaluator", n)) for n in registry.names("evaluator"))
        ]
    if what == "protocols":
        loaded = [load_protocol(name) for name in config_names("protocols")]
        return ("name", "resolution", "recipe", "title"), [(p.name, f"{p.resolution} px", p.recipe, p.title) for p in loaded]
    if what == "recipes":
        return ("name", "what"), [
            (name, config_path("recipes", name).read_text().splitlines()[0].lstrip("# ")) for name in config_names("recipes")
        ]
    if what == "volumes":
        return ("name", "identities", "images"), [
            (n, f"{v.identities:,}", f"{v.images:,}") for n in Volume.NAMED if (v := Volume.parse(n)).blocks
        ]
    rows = []
    for path in sorted((Store(runs).root / "results").glob("*/run.json"), key=lambda path: path.stat().st_mtime):
        result = read_run(path)
        if result is None:
            console.warn(f"{path} is not a whole result; ignored")
            continue
        seeds = str(len(result["seeds"]))
        rows.append((result["run"], seeds, cell(result, "verification/avg/accuracy"), cell(result, "gap_to_real/points")))
    return ("run", "seeds", "AVG %", "gap to real"), rows


def generators() -> list[dict[str, Any]]:
    """Every generator and preset with all its traits as it ships: `synthbench list generators --json`."""
    found = []
    for name in sorted(registry.names("generator")):
        kind, preset = registry.load("generator", name), registry.preset(name)
        about = {"name": name, "preset_of": preset.plugin if preset else "", "summary": _first_line(kind), "version": kind.version}
        found.append(about | vars(shipped(name).traits))
    return found


def shipped(name: str) -> Generator[Any]:
    """The generator or preset `name` with the settings of its file."""
    kind, plugin, preset = registry.load("generator", name), registry.plugin_name(name), registry.preset(name)
    layer = read_layer(config_path("generators", plugin)) if plugin in config_names("generators") else Layer()
    return kind(build(kind.Config, layer, preset.settings if preset else Layer()))


def show_generators(found: list[dict[str, Any]]) -> None:
    """What must be known before one is chosen, as a table on stdout."""
    rows = []
    for item in found:
        photographs = item["real_photographs"] or "none"
        rows.append(
            (
                item["name"],
                "yes" if item["needs_labels"] else "no",
                "new" if item["new_identities"] else "real",
                "yes" if item["trains"] else "no",
                photographs if photographs in ("none", "all", "unknown") else "some",
                "yes" if item["pretrained"] else "no",
                f"{item['paper'] or item['summary'].rstrip('.')}\nlicence: {item['licence'] or 'not given'}",
            )
        )
    header = ("generator", "labels", "people", "trains", "photos", "nets", "paper and licence")
    console.table("generators", header, rows, sentences=header[-1:])
    console.note(
        "labels: of the real set, needed; people: new, or those of the real set; trains: on the real set; photos: of real people, "
        "in what it makes; nets: needs networks that it does not train. All of it as shipped: settings such as enroll.source change it. "
        "`synthbench show NAME` says which; --json has all of it"
    )


def _about(name: str, traits: Traits) -> Iterator[str]:
    """The traits of a generator in comment lines, above its settings."""
    preset = registry.preset(name)
    facts = {
        "preset of": preset.plugin if preset else "",
        "paper": traits.paper,
        "licence": traits.licence,
        "labels of the real set": "needed" if traits.needs_labels else "not needed",
        "people": "new" if traits.new_identities else "those of the real set",
        "photographs in the set": traits.real_photographs or "none",
        "pretrained networks": traits.pretrained or "none",
    }
    for what, value in facts.items():
        if value:
            yield from textwrap.wrap(f"{what}: {value}", WIDTH, initial_indent="# ", subsequent_indent="#   ")


def describe(name: str, runs: Path) -> str:
    """The settings of a generator with its defaults, the text of a protocol or recipe, or a run's scores."""
    if name in registry.names("generator") or name.endswith(".py") or registry.preset(name):
        generator = shipped(name)
        head = [
            f"# {_first_line(type(generator))}",
            *_about(name, generator.traits),
            f"# version {generator.version}; set any of these with --set NAME=VALUE",
            *_sizes(generator),
        ]
        return "\n".join([*head, *_explained(generator.config)])
    for folder in ("protocols", "recipes"):
        if name in config_names(folder):
            return config_path(folder, name).read_text().rstrip()
    results = [path.parent.name for path in (runs / "results").glob("*/run.json")]
    if results and (name == "latest" or any(run.startswith(name) for run in results)):
        path = find_run(Store(runs.absolute()), name) / "run.json"
        if (result := read_run(path)) is None:
            raise damaged(path)
        return json.dumps(result, indent=1)
    known = [*registry.names("generator"), *config_names("protocols"), *config_names("recipes"), *results]
    raise UserError(f"nothing is called {name!r}" + did_you_mean(name, known, show_all=True))


def _sizes(generator: Generator[Any]) -> Iterator[str]:
    """The networks of the full size, at the resolution and with the embedding of the published encoders."""
    import torch

    from synthbench.models.size import count

    with torch.device("meta"):
        for name, (network, inputs) in generator.networks(112, 512).items():
            parameters, macs = count(network, *inputs)
            yield f"# {name}, images of 112 px: {parameters / 1e6:.2f} M parameters, {2 * macs / 1e9:.1f} GFLOP a forward pass of one image"


def _explained(settings: Settings, indent: str = "") -> Iterator[str]:
    """Settings as lines of YAML, each with what is said about it."""
    plain = settings.model_dump(mode="json")
    for name, about in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, Settings):
            yield f"{indent}{name}:"
            yield from _explained(value, indent + "  ")
        else:
            text = yaml.safe_dump(plain[name], default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")
            yield f"{indent}{name}: {text}" + (f"  # {about.description}" if about.description else "")


def _first_line(kind: type) -> str:
    return (kind.__doc__ or kind.__name__).strip().splitlines()[0]


def overlap(a: str, b: str | None, judge: str, threshold: float, device: str, runs: Path) -> list[tuple[str, str, str]]:
    """(name in a, name in b, cosine) of people whose centres are more alike than `threshold` under the registered weights `judge`."""
    from synthbench.data.faces import open_faces
    from synthbench.device import pick_device
    from synthbench.evaluators.leakage import shared_people
    from synthbench.pipeline.steps import execute, import_step, public_network

    store = Store(runs.absolute())
    network = public_network(judge).to(pick_device(device)[0])
    steps = [import_step(store, network.resolution, "overlap", _people(name)) for name in (a, b) if name]
    execute(steps, store)
    sets = [open_faces(step.stage.folder) for step in steps]
    with console.progress("overlap") as progress:
        found = shared_people(sets[0], sets[1] if b else None, network, threshold, progress)
    return [(one, other, f"{cosine:.3f}") for one, other, cosine in found]


def _people(name: str) -> sources.Entry:
    """A registered set with a person per image: faces, or the images of a pair list. A .bin does not say who is on its images."""
    entry = sources.find(name)
    if entry.kind == "faces" or "pairs" in entry.options:
        return entry
    what = "a .bin, which does not say who is on its images" if entry.kind == "pairs" else entry.kind
    raise UserError(f"{name} is {what}; people can be compared in sets of faces, and in benchmarks given as images with a list of pairs")


def doctor(runs: Path) -> list[tuple[str, str]]:
    """Name and finding, for a bug report."""
    from synthbench.device import pick_device

    facts = [("synthbench", __version__), ("python", platform.python_version()), ("system", platform.platform())]
    for package in ("torch", "torchvision", "diffusers", "mlflow", "optuna", "pandas", "scipy", "pytorch-fid", "rich"):
        facts.append((package, metadata.version(package)))
    for package, why in (
        ("onnx2torch", "ONNX encoders"),
        ("onnxruntime", "ONNX encoders"),
        ("lmdb", "LMDB sets"),
        ("pynvml", "GPU metrics"),
        ("transformers", "text encoders of published weights"),
    ):
        facts.append((package, "installed" if importlib.util.find_spec(package) else f"not installed (only needed for {why})"))
    facts.append(("device", pick_device("auto")[1]))
    facts.append(("runs", f"{runs.absolute()}, {console.size(shutil.disk_usage(_existing(runs)).free)} free"))
    states = [row["state"] for row in sources.status()]
    facts.append(("data", ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))))
    return facts


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return folder if folder.exists() else _existing(folder.parent)
