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

# From the ground up: a module imports from its own layer and from those below it, also inside functions.
LAYERS = (
    ("types", "seeds"),
    ("config", "console", "store"),
    ("plugin", "registry", "protocol"),
    (
        "device",
        "training",
        "muon",
        "adversarial",
        "data",
        "models",
        "diffusion",
        "sampling",
        "denoising",
        "recognition",
        "procedural",
        "heads",
        "head_paint",
        "world_pairs",
        "augment",
        "distort",
        "inquiries",
        "hypersphere",
        "unconditional",
    ),
    ("generators", "evaluators"),
    ("steps", "inference", "validation"),
    ("pipeline", "plan", "results", "tables"),
    ("tracking", "mlflow_client", "mlflow_server", "mlflow_groups"),
    ("run", "inventory", "testing"),
    ("compare", "compare_table", "comparable", "comparison", "published", "api"),
    ("sweep",),
    ("report",),
    ("reproduce",),
    ("cli_options", "cli_results", "cli"),
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
MLFLOW = {"tracking", "mlflow_client", "mlflow_server", "mlflow_groups"}
FILES = {
    path.relative_to(PACKAGE.parent).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def top(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


POINTS = re.findall(r'^\w+ = "(synthbench\.\w+\.\w+):', (PACKAGE.parent / "pyproject.toml").read_text("utf-8"), re.M)
PLUGINS = {module for module in POINTS if top(module) in ("generators", "evaluators")}


def imports(path: Path, lazy: bool = True) -> set[str]:
    """Modules that a file imports, with `lazy` in functions too; those for type checkers only are left out."""
    found: set[str] = set()
    todo: list[ast.AST] = [ast.parse(path.read_text("utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef) and not lazy:
            continue
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            todo += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write synthbench.… out"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in FILES else name.rpartition(".")[0] for name in names}
        todo += ast.iter_child_nodes(node)
    return found


IMPORTS = {module: imports(path) for module, path in FILES.items()}
INNER = {module: {name for name in found if name in FILES and name != "synthbench"} for module, found in IMPORTS.items()}


def test_every_module_has_its_layer() -> None:
    assert {top(module) for module in FILES} - {""} <= set(LAYER)


def test_imports_point_one_way() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, found in INNER.items()
        for other in found
        if top(module) and top(other) and LAYER[top(other)] > LAYER[top(module)]
    ]
    assert not wrong


def test_no_two_modules_need_each_other() -> None:
    graphlib.TopologicalSorter({module: imports(path, lazy=False) for module, path in FILES.items()}).prepare()  # raises CycleError


@pytest.mark.parametrize("module", sorted(m for m in FILES if top(m) in ("generators", "evaluators")))
def test_plugins_know_neither_each_other_nor_the_pipeline(module: str) -> None:
    other_kind = {"generators": "evaluators", "evaluators": "generators"}[top(module)]
    known = INNER[module]
    assert not [name for name in known if top(name) == other_kind or name in PLUGINS]


def test_heavy_and_peculiar_packages_have_one_door() -> None:
    doors = {"mlflow": MLFLOW, "optuna": {"sweep"}, "click": {"cli_options", "cli_results", "cli"}}
    wrong = [
        f"{module} imports {name}"
        for module, found in IMPORTS.items()
        for name in found
        if (package := name.split(".")[0]) in doors and top(module) not in doors[package]
    ]
    assert not wrong
    assert not [module for module, path in FILES.items() if top(module) != "device" and "torch.cuda" in path.read_text("utf-8")]


def test_the_mlflow_files_are_entered_through_tracking() -> None:
    assert not [m for m, found in INNER.items() if top(m) not in MLFLOW for name in found if top(name) in MLFLOW - {"tracking"}]


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
    code = "import sys; from synthbench import run, results, protocol; protocol.load_protocol('demo'); print('torch' in sys.modules)"
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
            if call.endswith(".extractall"):
                wrong.append(f"{module}:{node.lineno}: extractall follows paths out of the folder")
            if "shell" in keywords:
                wrong.append(f"{module}:{node.lineno}: a shell")
    assert not wrong


def test_no_path_of_a_machine_is_written_down() -> None:
    root = PACKAGE.parent
    texts = [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.yaml"), *root.glob("docs/**/*.md"), *root.glob("*.md"), *root.glob("examples/*.py")]
    assert not [path.name for path in texts if re.search(r"(?<![\w.])/(root|home|work|tmp|mnt|Users)/\w", path.read_text("utf-8"))]
