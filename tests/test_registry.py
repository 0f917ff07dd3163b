"""Names and files to plugin classes, and what is said when there is none."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from synthbench import registry
from synthbench.types import UserError

GENERATOR = """
from synthbench.plugin import Generator
class {name}(Generator):
    def generate(self, slots, context):
        return iter(())
"""


def write(folder: Path, text: str) -> str:
    path = folder / "mine.py"
    path.write_text(text)
    return str(path)


def test_a_file_with_one_generator(tmp_path: Path) -> None:
    path = write(tmp_path, GENERATOR.format(name="Mine"))
    assert registry.load("generator", path).__name__ == "Mine"
    assert registry.short_name(path) == "mine"
    with pytest.raises(
        UserError, match=r"mine.py has no evaluator: it must define exactly one class derived from synthbench.plugin.Evaluator"
    ):
        registry.load("evaluator", path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no generator"),
        (GENERATOR.format(name="One") + GENERATOR.format(name="Two"), "has more than one generator"),
        ("from synthbench.plugin import Generator\nclass Mine(Generator):\n    pass\n", "Mine does not define generate"),
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("def broken(:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("import sys; sys.exit(0)", "SystemExit"),
        ("from synthbench.generators.procedural import Procedural", "has no generator"),  # imported, not defined
    ],
)
def test_files_that_are_no_plugin(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError, match=re.escape(words)) as error:
        registry.load("generator", path)
    assert path in str(error.value)


def test_absent_file_and_unknown_name() -> None:
    with pytest.raises(UserError, match=r"nowhere/mine.py does not exist"):
        registry.load("generator", "nowhere/mine.py")
    with pytest.raises(UserError, match=r"unknown generator 'procedual'; did you mean 'procedural'\?"):
        registry.load("generator", "procedual")
    with pytest.raises(UserError, match=r"unknown evaluator 'qqq'; there is .*verification"):
        registry.load("evaluator", "qqq")


@pytest.mark.parametrize("name", ["mine.py", "mine.yaml"])
def test_a_file_named_without_its_suffix_is_found(here: Path, name: str) -> None:
    (here / name).write_text("")
    with pytest.raises(UserError, match=f"unknown generator 'mine'; did you mean the file '{name}'"):
        registry.load("generator", "mine")


def test_an_error_is_told_with_its_place_in_the_plugin(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ZeroDivisionError: division by zero \(.*:3\)"):
        registry.load("generator", write(tmp_path, "\n\n1 / 0"))
    with pytest.raises(ValueError) as error:
        json.loads("{")
    assert registry.plugin_place(error.value) == ""  # json is nobody's plugin


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("nothing_of_this_name:Mine", "No module named 'nothing_of_this_name'"),
        ("json:Mine", "has no attribute 'Mine'"),
        ("json:JSONDecoder", "is not a class derived from synthbench.plugin.Generator"),
        ("broken_plugin:Mine", "cannot be imported"),
    ],
)
def test_installed_plugins_that_are_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str, words: str) -> None:
    (tmp_path / "broken_plugin.py").write_text("def broken(:")
    monkeypatch.syspath_prepend(str(tmp_path))
    point = metadata.EntryPoint("mine", value, "synthbench.generators")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point])
    with pytest.raises(UserError, match=re.escape(words)):
        registry.load("generator", "mine")


def test_every_registered_plugin_is_registered_in_pyproject() -> None:
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    for kind in registry.KINDS:
        section = text.split(f'[project.entry-points."synthbench.{kind}s"]')[1].split("\n[")[0]
        assert set(re.findall(r"^(\w+) =", section, re.M)) <= set(registry.names(kind)), "install the package again: pip install -e ."


def test_names_are_listed_without_importing_a_plugin() -> None:
    code = "import sys; from synthbench import registry; registry.names('generator'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["cemiface", "dcface", "idiffface", "arc2face"])
def test_the_traits_of_a_run_are_those_of_its_source(name: str) -> None:
    kind = registry.load("generator", name)

    def traits(source: str, copies: int) -> tuple[bool, str]:
        sample = {"copies": copies} if "copies" in kind.Config().sample.model_dump() else {}
        enroll = {"source": source} | ({"novelty": 1} if name == "dcface" else {})
        found = kind(kind.Config(enroll=enroll, sample=sample)).traits
        return found.new_identities, found.real_photographs

    copied = kind.traits.real_photographs
    assert bool(copied) == (name != "arc2face")
    assert traits("real", 1) == (False, copied)
    assert traits("someone/elses", 1) == (True, copied)
    assert traits("someone/elses", 0) == traits("world", 1) == (True, "")
    assert kind.traits.new_identities
