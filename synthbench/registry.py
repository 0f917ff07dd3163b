"""Names to plugin classes: entry points, or the path of a .py file. A class is imported when it is used."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from synthbench.config import did_you_mean
from synthbench.plugin import Evaluator, Generator
from synthbench.types import UserError

KINDS: dict[str, Any] = {"generator": Generator, "evaluator": Evaluator}
PLUGIN_FILE = "synthbench_plugin_"  # and the stem of the file: the module of a plugin given as a file


def names(kind: str) -> dict[str, metadata.EntryPoint]:
    """Registered plugins of `kind` (generator or evaluator) by name."""
    return dict(_installed(metadata.entry_points, f"synthbench.{kind}s"))


@functools.cache
def _installed(scan: Callable[..., Iterable[metadata.EntryPoint]], group: str) -> dict[str, metadata.EntryPoint]:
    """One scan a process: it opens a file of every installed package, and a sweep asks hundreds of times."""
    return {point.name: point for point in scan(group=group)}


def load(kind: str, name: str) -> Any:
    """The plugin class called `name`, or the one in the file `name`. Raises UserError when there is none, or several."""
    if name.endswith(".py"):
        return _from_file(kind, Path(name))
    points = names(kind)
    if name not in points:
        raise UserError(f"unknown {kind} {name!r}" + did_you_mean(name, points, show_all=True))
    try:
        found = points[name].load()
    except Exception as error:  # of somebody else's package
        raise UserError(f"{kind} {name!r} ({points[name].value}) cannot be imported: {type(error).__name__}: {error}") from error
    if not (inspect.isclass(found) and issubclass(found, KINDS[kind])):
        raise UserError(f"{kind} {name!r} ({points[name].value}) is not a class derived from synthbench.plugin.{KINDS[kind].__name__}")
    return found


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
        raise UserError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
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


def file_digest(name: str) -> str:
    """SHA-256 of a plugin given as a file; "" for a registered one, whose `version` counts."""
    path = Path(name)
    return hashlib.sha256(path.read_bytes()).hexdigest() if name.endswith(".py") and path.is_file() else ""


def short_name(name: str) -> str:
    """The name a plugin goes by in folders and tables: itself, or the stem of its file."""
    return Path(name).stem if name.endswith(".py") else name
