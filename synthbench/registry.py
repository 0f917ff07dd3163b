"""Names to plugin classes: entry points, the path of a .py file, or a preset of one of them. A class is imported when it is used.

A preset is a generator with other settings and a name of its own: a YAML file, shipped or the user's, with a line `generator: NAME`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from synthbench.config import Layer, Settings, build, config_names, config_path, did_you_mean, file_beside, read_layer
from synthbench.plugin import Evaluator, Generator
from synthbench.types import UserError

KINDS: dict[str, Any] = {"generator": Generator, "evaluator": Evaluator}
PLUGIN_FILE = "synthbench_plugin_"  # and the stem of the file: the module of a plugin given as a file


def names(kind: str) -> dict[str, metadata.EntryPoint]:
    """Registered plugins of `kind` (generator or evaluator) by name, and shipped presets with the entry point of their plugin."""
    points = dict(_installed(metadata.entry_points, f"synthbench.{kind}s"))
    bases = _shipped_presets() if kind == "generator" else {}
    return points | {name: points[base] for name, base in bases.items() if base in points and name not in points}


@functools.cache
def _installed(scan: Callable[..., Iterable[metadata.EntryPoint]], group: str) -> dict[str, metadata.EntryPoint]:
    """One scan a process: it opens a file of every installed package, and a sweep asks hundreds of times."""
    return {point.name: point for point in scan(group=group)}


def require(kind: str, name: str) -> None:
    """Raises UserError when no plugin or preset is called `name`, or there is no such file. Imports none, so that it takes no time."""
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise UserError(f"{name} does not exist")
    elif not (kind == "generator" and preset(name)) and name not in (known := names(kind)):
        raise UserError(f"unknown {kind} {name!r}" + hint(name, known))


def kind_of(plugin: str) -> str:
    """`generator` or `evaluator`. Raises UserError when `plugin` is neither."""
    if plugin.endswith(".py"):
        try:
            load("evaluator", plugin)
            return "evaluator"
        except UserError:
            load("generator", plugin)  # what is wrong with the file, in the words of the commoner kind
            return "generator"
    if preset(plugin):
        return "generator"
    known = {name: kind for kind in KINDS for name in names(kind)}
    if plugin not in known:
        raise UserError(f"no generator or evaluator is called {plugin!r}" + did_you_mean(plugin, known, show_all=True))
    return known[plugin]


def load(kind: str, name: str) -> Any:
    """The plugin class called `name`, or the one in the file `name`; of a preset, its plugin with the traits of the preset.

    Raises UserError when there is none, or several.
    """
    if name.endswith(".py"):
        return _from_file(kind, Path(name))
    if kind == "generator" and (found := preset(name)):
        base = load(kind, found.plugin)
        about = {"traits": replace(base.traits, **found.about.model_dump(exclude_unset=True)), "__module__": base.__module__}
        return type(base.__name__, (base,), about | {"__doc__": found.title})
    require(kind, name)
    points = names(kind)
    try:
        found_class = points[name].load()
    except Exception as error:  # of somebody else's package
        raise UserError(f"{kind} {name!r} ({points[name].value}) cannot be imported: {told(error)}") from error
    if not (inspect.isclass(found_class) and issubclass(found_class, KINDS[kind])):
        raise UserError(f"{kind} {name!r} ({points[name].value}) is not a class derived from synthbench.plugin.{KINDS[kind].__name__}")
    return found_class


# -------------------------------------------------------------------------------------------------------------- presets


class About(Settings):
    """The traits that a preset may give: what a reader must know, not what stages there are."""

    paper: str = ""
    licence: str = ""
    needs_labels: bool = False
    new_identities: bool = True
    real_photographs: str = ""
    pretrained: str = ""


@dataclass(frozen=True)
class Preset:
    """What a preset's file says."""

    plugin: str  # name of the generator, or its .py file
    title: str  # first comment line
    settings: Layer
    about: About  # traits that differ from the plugin's


def preset(name: str) -> Preset | None:
    """The preset called `name`, or in the YAML file `name`; None for a plugin. Raises UserError for a preset that names no plugin."""
    if not (_is_yaml(name) or name in _shipped_presets()):
        return None
    path = config_path("generators", name)
    layer = read_layer(path)
    plugin = layer.data.get("generator")
    if not isinstance(plugin, str):
        raise UserError(f"{path}: a preset names its generator in a line such as `generator: cemiface`")
    if path.stem in _installed(metadata.entry_points, "synthbench.generators"):
        raise UserError(f"{path}: {path.stem} is a generator; a preset needs a name of its own, so rename the file")
    if plugin.endswith(".py"):
        plugin = str(path.parent / plugin)
    elif _is_yaml(plugin) or plugin in _shipped_presets():
        raise UserError(f"{layer.origin[('generator',)]}: {plugin} is a preset itself; name the generator that it changes")
    settings = Layer(
        {key: value for key, value in layer.data.items() if key not in ("generator", "traits")},
        {keys: place for keys, place in layer.origin.items() if keys[0] not in ("generator", "traits")},
    )
    first = path.read_text("utf-8").splitlines()[0]
    title = first.lstrip("# ") if first.startswith("#") else f"{plugin} with other settings"
    return Preset(plugin, title, settings, build(About, layer.below("traits")))


def layers(name: str, changed: Callable[[str], Layer] = lambda which: Layer()) -> list[Layer]:
    """The settings of the generator `name` above its defaults, later ones winning: its shipped file, then those of a preset.

    changed: what a protocol changes of a generator, or of a preset, by its short name; above the file of each.
    """
    found, plugin = preset(name), short_name(plugin_name(name))
    shipped = read_layer(config_path("generators", plugin)) if plugin in config_names("generators") else Layer()
    return [shipped, changed(plugin), *((found.settings, changed(short_name(name))) if found else ())]


def plugin_name(name: str) -> str:
    """The plugin behind `name`: of a preset its generator, else `name` itself."""
    found = preset(name)
    return found.plugin if found else name


def _is_yaml(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _shipped_presets() -> dict[str, str]:
    """Shipped files in configs/generators that are presets, with the generator each names. Read as text: names are asked for often."""
    found = {}
    for name in config_names("generators"):
        if line := re.search(r"^generator:\s*(\S+)", config_path("generators", name).read_text("utf-8"), re.M):
            found[name] = line[1]
    return found


# ---------------------------------------------------------------------------------------------------------------- files


def _from_file(kind: str, path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    module_name = PLUGIN_FILE + path.stem
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(f"{path} cannot be loaded: {told(error)}") from error
    found: list[Any] = [
        item for _, item in inspect.getmembers(module, inspect.isclass) if issubclass(item, KINDS[kind]) and item.__module__ == module_name
    ]
    found = [item for item in found if not inspect.isabstract(item)] or found
    if len(found) != 1:
        what = "no" if not found else "more than one"
        raise UserError(f"{path} has {what} {kind}: it must define exactly one class derived from synthbench.plugin.{KINDS[kind].__name__}")
    if missing := sorted(found[0].__abstractmethods__):
        raise UserError(f"{path}: {found[0].__name__} does not define {', '.join(missing)}")
    return found[0]


def hint(name: str, known: Iterable[str]) -> str:
    """What may have been meant by a name that is none of `known`: a plugin or preset in a file of that name, else the nearest name."""
    return file_beside(name, ".py", ".yaml", ".yml") or did_you_mean(name, known, show_all=True)


def plugin_place(error: BaseException) -> str:
    """`mine.py:12` where the code of a plugin, in a file or of somebody's package, raised `error` or called what did; empty for our own."""
    packages = {point.module.split(".")[0] for kind in KINDS for point in names(kind).values()} - {"synthbench"}
    places = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__", "")
        if module.startswith(PLUGIN_FILE) or module.split(".")[0] in packages:
            places = f"{frame.f_code.co_filename}:{line}"
    return places


def told(error: BaseException) -> str:
    """Kind and text of an error, and where in a plugin it was raised."""
    place = plugin_place(error)
    return f"{type(error).__name__}: {error}" + (f" ({place})" if place else "")


def file_digest(name: str) -> str:
    """SHA-256 of a plugin or preset given as a file, a preset's .py file included; "" for a registered one, whose `version` counts."""
    path = Path(name)
    if not (name.endswith(".py") or _is_yaml(name)) or not path.is_file():
        return ""
    digest = hashlib.sha256(path.read_bytes())
    if _is_yaml(name):
        digest.update(file_digest(plugin_name(name)).encode())
    return digest.hexdigest()


def short_name(name: str) -> str:
    """The name a plugin or preset goes by in folders and tables: itself, or the stem of its file."""
    return Path(name).stem if name.endswith(".py") or _is_yaml(name) else name
