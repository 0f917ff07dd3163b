"""The shape of the house: imports point one way, plugins know nobody, the command line is light. Imports are read, not run."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "synthbench"

# From the ground up: a room imports from those above it in this list, also inside functions and for types.
ROOMS = (
    "types seeds system",
    "config console device store files",
    "models",
    "data",
    "plugin protocol",
    "registry training world",
    "diffusion evaluators",
    "identities recognition",
    "generators results",
    "tracking",
    "pipeline",
    "inventory sweep testing report",
    "reproduce api leaderboard",
    "cli",
    "__main__",
)
WORDS = {"config", "console", "device", "store", "plugin", "protocol"}
LAYER = {name: number for number, names in enumerate(ROOMS) for name in names.split()}
FILES = {
    path.relative_to(PACKAGE.parent).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def top(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


POINTS = re.findall(r'^\w+ = "(synthbench\.\w+\.\w+):', (PACKAGE.parent / "pyproject.toml").read_text("utf-8"), re.M)
PLUGINS = {module for module in POINTS if top(module) in ("generators", "evaluators")}


def imports(path: Path) -> set[str]:
    """Modules that a file imports, in functions and for type checkers too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write synthbench.… out"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in FILES else name.rpartition(".")[0] for name in names}
    return found


IMPORTS = {module: imports(path) for module, path in FILES.items()}
INNER = {module: {name for name in found if name in FILES and name != "synthbench"} for module, found in IMPORTS.items()}


def test_every_room_has_its_place_and_says_what_lives_there() -> None:
    assert {top(module) for module in FILES} - {""} == set(LAYER)
    rooms = [path for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))]
    silent = [room.name for room in rooms if not ast.get_docstring(ast.parse((room / "__init__.py").read_text("utf-8")))]
    assert len(rooms) > 10 and not silent
    assert len(list(PACKAGE.glob("*.py"))) <= 16  # words and doors: a newcomer can hold about a dozen names


def test_imports_between_rooms_point_one_way() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, found in INNER.items()
        for other in found
        if top(module) and top(other) and top(module) != top(other) and LAYER[top(other)] >= LAYER[top(module)]
        if not {top(module), top(other)} <= WORDS  # single files on one step, without a circle (below)
    ]
    assert not wrong


def test_no_two_modules_need_each_other() -> None:
    """Not even inside functions, or for types."""
    graphlib.TopologicalSorter({module: found - {module, "synthbench"} for module, found in INNER.items()}).prepare()  # raises CycleError


@pytest.mark.parametrize("module", sorted(m for m in FILES if top(m) in ("generators", "evaluators")))
def test_plugins_know_neither_each_other_nor_the_pipeline(module: str) -> None:
    other_kind = {"generators": "evaluators", "evaluators": "generators"}[top(module)]
    known = INNER[module]
    assert not [name for name in known if top(name) == other_kind or name in PLUGINS]


def test_heavy_and_peculiar_packages_have_one_door() -> None:
    doors = {"mlflow": {"tracking"}, "optuna": {"sweep"}, "click": {"cli"}}
    wrong = [
        f"{module} imports {name}"
        for module, found in IMPORTS.items()
        for name in found
        if (package := name.split(".")[0]) in doors and top(module) not in doors[package]
    ]
    assert not wrong
    assert {module for module, found in IMPORTS.items() if any(name.split(".")[0] == "ray" for name in found)} == {
        "synthbench.pipeline.cluster"
    }
    assert not [module for module, path in FILES.items() if top(module) != "device" and "torch.cuda" in path.read_text("utf-8")]
    knows = [module for module, path in FILES.items() if "torch.distributed" in path.read_text("utf-8")]
    assert knows == ["synthbench.training.crew"]


def test_tracking_is_entered_through_the_mirror() -> None:
    inside = {name for name in FILES if top(name) == "tracking"} - {"synthbench.tracking.mirror"}
    assert not [module for module, found in INNER.items() if top(module) != "tracking" for name in found & inside]


@pytest.mark.parametrize("module", sorted(FILES))
def test_a_file_is_short_and_says_what_it_is(module: str) -> None:
    text = FILES[module].read_text("utf-8")
    assert len(text.splitlines()) <= 400
    assert not text.strip() or ast.get_docstring(ast.parse(text))


def test_the_command_line_is_light() -> None:
    code = """
import sys
from synthbench import cli
from click.testing import CliRunner
for command in (["--help"], ["run", "--help"], ["data", "--help"], ["--version"]):
    result = CliRunner().invoke(cli.cli, command)
    assert result.exit_code == 0 and "synthbench" in result.output, result.output
print([name for name in ("torch", "mlflow", "numpy", "pandas", "pyarrow", "PIL", "pydantic") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_answer_from_the_cache_needs_no_torch() -> None:
    code = "import sys; from synthbench.pipeline import run; from synthbench.protocol import load_protocol; load_protocol('demo')"
    code += "; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_nothing_unpickles_or_loads_unsafely() -> None:
    """Untrusted files are data: pickle only behind the restricted unpickler of pairs, torch.load with weights_only=True, safe YAML."""
    wrong = []
    for module, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            call = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            keywords = {word.arg: ast.unparse(word.value) for word in node.keywords} if isinstance(node, ast.Call) else {}
            if call in ("pickle.load", "pickle.loads", "pd.read_pickle", "eval", "exec", "os.system", "yaml.unsafe_load", "yaml.full_load"):
                wrong.append(f"{module}: {call}")
            if call == "torch.load" and keywords.get("weights_only") != "True":
                wrong.append(f"{module}:{node.lineno}: torch.load without weights_only=True")
            if call in ("np.load", "numpy.load") and keywords.get("allow_pickle", "False") != "False":
                wrong.append(f"{module}:{node.lineno}: np.load with pickle")
            if call.endswith("Image.open") and module != "synthbench.data.pixels":
                wrong.append(f"{module}:{node.lineno}: an image opened beside the one door, pixels.opened, which names the formats")
            if call.endswith(".extractall"):
                wrong.append(f"{module}:{node.lineno}: extractall follows paths out of the folder")
            if "shell" in keywords:
                wrong.append(f"{module}:{node.lineno}: a shell")
    assert not wrong


def test_every_environment_variable_has_its_line_in_the_table() -> None:
    root = PACKAGE.parent
    text = "\n".join(path.read_text("utf-8") for path in PACKAGE.rglob("*.py"))
    found = set(re.findall(r"\b(?:SYNTHBENCH|MLFLOW|CUBLAS)_[A-Z_]+\b", text)) - {"MLFLOW_BACKEND_STORE_URI"}  # told to a server, not read
    found |= set(re.findall(r"\bSYNTHBENCH_TEST_[A-Z]+\b", "".join(path.read_text("utf-8") for path in root.glob("tests/*.py"))))
    assert len(found) > 8
    assert not found - set(re.findall(r"`(\w+)`", (root / "docs" / "environment.md").read_text("utf-8")))


def test_no_path_of_a_machine_is_written_down() -> None:
    root = PACKAGE.parent
    texts = [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.yaml"), *root.glob("docs/**/*.md"), *root.glob("*.md"), *root.glob("examples/*.py")]
    assert not [path.name for path in texts if re.search(r"(?<![\w.])/(root|home|work|tmp|mnt|Users)/\w", path.read_text("utf-8"))]
