"""What can be seen of a plugin without running it: settings, traits, version, imports."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

from synthbench import registry
from synthbench.config import Settings
from synthbench.plugin import Evaluator, Generator, Traits
from synthbench.types import UserError

ABOVE = ("cli", "results", "inventory", "testing", "tracking", "pipeline", "sweep", "report", "reproduce")
OUTSIDE = ("mlflow", *(f"synthbench.{name}" for name in ABOVE))


def check_class(kind: type[Generator] | type[Evaluator], name: str) -> str:
    """Raises UserError for a class that cannot keep the contract whatever it computes."""
    name = registry.short_name(name)
    if not (inspect.isclass(kind.Config) and issubclass(kind.Config, Settings)):
        raise UserError(f"{name}: Config must be a class derived from synthbench.config.Settings")
    if not (isinstance(kind.version, int) and kind.version >= 1):
        raise UserError(f"{name}: version is {kind.version!r}; it must be a whole number from 1")
    if not (kind.__doc__ or "").strip():
        raise UserError(f"{name}: {kind.__name__} has no docstring; its first line is what `synthbench list` shows")
    what, others = ("generator", "evaluators") if issubclass(kind, Generator) else ("evaluator", "generators")
    if issubclass(kind, Generator):
        _check_traits(kind, name)
    siblings = {point.value.partition(":")[0] for point in registry.names(what).values()} - {kind.__module__}
    forbidden = tuple(f"{module}." for module in (*OUTSIDE, f"synthbench.{others}", *siblings))
    for module in sorted(imported(kind)):
        if f"{module}.".startswith(forbidden):
            raise UserError(f"{name}: imports {module}; a {what} may know neither {others}, nor other {what}s, the pipeline or MLflow")
    return f"settings, traits and imports of {kind.__name__}, version {kind.version}"


def _check_traits(kind: type[Generator], name: str) -> None:
    if not isinstance(kind.traits, Traits):
        raise UserError(f"{name}: traits must be a synthbench.plugin.Traits")
    for stage, says in (("train", kind.traits.trains), ("enroll", kind.traits.enrolls)):
        if (getattr(kind, stage) is not getattr(Generator, stage)) != says:
            raise UserError(f"{name}: traits.{stage}s is {says}, but the method {stage} is {'not ' if says else ''}defined")
    if kind.traits.trains and not kind.tiny:
        raise UserError(f"{name}: it trains; `tiny` must hold settings with which that takes seconds, such as {{'train': {{'steps': 6}}}}")


def imported(kind: type) -> set[str]:
    """Modules that the file of `kind` imports, inside functions too, but not for type checking only."""
    source = ast.parse(Path(inspect.getfile(kind)).read_text("utf-8"))
    found = set()
    todo: list[ast.AST] = [source]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            todo += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        todo += ast.iter_child_nodes(node)
    return found
