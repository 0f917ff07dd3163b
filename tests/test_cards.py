"""What is known of plugins without importing them: as the classes say, at once, and for others' plugins too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
import yaml

from synthbench import registry
from synthbench.cli import complete
from synthbench.inventory import cards, describe, listing
from synthbench.pipeline.loading import load_generator
from synthbench.protocol import load_protocol


@pytest.mark.skipif(torch.__version__ < (2, 10), reason="torch before 2.10 counts memory only where there is a GPU")
def test_the_cards_that_ship_are_those_of_the_classes() -> None:
    """After a change of a plugin: python -m synthbench.inventory.cards."""
    shipped = json.loads(cards.FILE.read_text("utf-8"))
    assert shipped["follows"] == cards.follows(), "make cards.json anew: python -m synthbench.inventory.cards"
    demo = load_protocol("demo")
    for name in ("id3pm", "folder", "vec2face"):  # a preset, a plain one, one whose traits the config decides
        made = json.loads(json.dumps(cards.make("generator", name, [demo])))
        made["under"] = {**shipped["cards"]["generator"][name]["under"], **made["under"]}
        assert made == shipped["cards"]["generator"][name]
    assert set(shipped["cards"]["generator"]) == {n for n, p in registry.names("generator").items() if p.value.startswith("synthbench.")}
    assert vars(load_generator("cemiface", demo).traits) == cards.card("generator", "cemiface", demo)["traits"]


LIGHT = ["list", "list evaluators", "list protocols", "show cemiface", "show verification", "show demo", "run cemifce"]
LIGHT += ["export cemifce --to rec", "report cemifce", "compare cemifce", "sweep m --generator cemifce", "test cemifce"]


@pytest.mark.parametrize("words", LIGHT)
def test_tables_and_typing_errors_import_no_torch(words: str, tmp_path: Path) -> None:
    code = f"import sys; sys.argv = ['synthbench', *{words.split()}]\nfrom synthbench.cli import app\napp._guarded()\n"
    code += "print([name for name in ('torch', 'mlflow', 'optuna', 'pandas', 'matplotlib', 'scipy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_what_is_listed_holds_under_the_protocol_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    protocol, _, found = listing.generators()
    by_name = {item["name"]: item for item in found}
    assert protocol.name == "demo"
    assert by_name["cemiface"]["new_identities"] and not by_name["cemiface"]["real_photographs"]  # rendered inquiries
    assert not by_name["real"]["new_identities"] and not by_name["real"]["real_photographs"]
    assert by_name["cemiface"]["runs_here"] == "yes" and by_name["arc2face"]["runs_here"] == "needs arc2face"
    assert "sample.path" in by_name["folder"]["runs_here"]
    _, _, found = listing.generators("paper")
    by_name = {item["name"]: item for item in found}
    assert by_name["cemiface"]["runs_here"].startswith("needs casia-webface") and by_name["real"]["real_photographs"] == "all"
    rows = {row[0]: row[3] for row in listing.listing("protocols", tmp_path)[1]}
    assert rows["demo"] == "yes" and rows["paper"].endswith("more")


class Broken(metadata.EntryPoint):
    def load(self):
        raise ImportError("no such thing")


def test_a_plugin_of_others_is_imported_and_one_that_is_broken_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    (tmp_path / "theirs.py").write_text(
        'from synthbench.plugin import Generator\nclass Theirs(Generator):\n    "Theirs."\n'
        "    def generate(self, slots, context):\n        yield\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    real = registry.names

    def names(kind: str) -> dict:
        theirs = {"theirs": metadata.EntryPoint("theirs", "theirs:Theirs", ""), "broken": Broken("broken", "broken:Broken", "")}
        return real(kind) | (theirs if kind == "generator" else {})

    monkeypatch.setattr(registry, "names", names)
    _, _, found = listing.generators()
    assert next(item for item in found if item["name"] == "theirs")["summary"] == "Theirs."
    assert "generator broken is left out: " in capsys.readouterr().err and "broken" not in {item["name"] for item in found}


def test_an_edited_checkout_has_no_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    cards._shipped.cache_clear()
    monkeypatch.setattr(cards, "follows", lambda: "edited")
    assert cards._shipped() == {}
    cards._shipped.cache_clear()


def test_settings_are_yaml_with_what_the_protocol_changes_behind(tmp_path: Path) -> None:
    demo = load_protocol("demo")
    lines = list(describe.generator("cemiface", demo, "as asked"))
    shown = yaml.safe_load("\n".join(lines))
    assert shown == json.loads(cards.FILE.read_text())["cards"]["generator"]["cemiface"]["settings"]
    assert next(line for line in lines if line.startswith("  m: ")).startswith("  m: 0.0  # demo = 0.5")
    preset = list(describe.generator("id3pm", demo, "as asked"))
    assert "demo" not in next(line for line in preset if line.startswith("  m: 1.0"))  # its own m stands above the protocol's
    assert next(line for line in preset if line.startswith("  steps: 20")).startswith("  steps: 20  # demo = 8")


@pytest.mark.parametrize(
    ("words", "kind", "others"),
    [
        (("cemiface",), "generator", ["recipe"]),
        (("recipe", "cemiface"), "recipe", []),
        (("demo",), "protocol", ["recipe"]),
        (("recipe", "demo"), "recipe", []),
        (("verification",), "evaluator", []),
        (("volume", "200x20"), "volume", []),
    ],
)
def test_a_name_of_several_things(words: tuple[str, ...], kind: str, others: list[str], tmp_path: Path, capsys) -> None:
    assert describe.find(words, tmp_path).kind == kind
    told = capsys.readouterr().err
    assert told.count("there is also") == len(others) and all(f"synthbench show {other}" in told for other in others)


def test_completion_knows_names_and_imports_no_plugin(tmp_path: Path) -> None:
    (tmp_path / "results" / "cemiface-1").mkdir(parents=True)
    (tmp_path / "results" / "cemiface-1" / "run.json").write_text("{}")
    cases = (
        ("synthbench run cemi", {"cemiface", "cemiface_gpu"}, 2),
        ("synthbench run id", {"id3pm", "idiffface"}, 2),
        ("synthbench run cemiface --protocol d", {"demo", "demo-hard", "demo-unbalanced"}, 4),
        ("synthbench export ", {"latest", "cemiface-1"}, 2),
        ("synthbench show rec", {"recipe"}, 2),
    )
    code = "import sys; sys.argv = ['synthbench']\nfrom synthbench.cli import app\ntry:\n    app._guarded()\nfinally:\n"
    code += "    print([n for n in ('torch', 'pydantic', 'numpy') if n in sys.modules], file=sys.stderr)"
    for line, expected, word in cases:
        about = {"_SYNTHBENCH_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(word), "SYNTHBENCH_RUNS": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **about})
        assert {item.split(",")[1] for item in done.stdout.split()} == expected, done.stderr
        assert done.stderr.strip().endswith("[]")
    assert set(complete.KINDS) == set(describe.KINDS)
