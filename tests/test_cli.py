"""The command line: exit codes, words to the user, what goes where; and small runs from end to end."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from fake_protocol import PROTOCOL, RECIPE
from PIL import Image

from synthbench import registry, store
from synthbench.cli import app
from synthbench.config import CONFIGS
from synthbench.data.faces import open_faces
from synthbench.pipeline.steps import run_evaluators
from synthbench.types import UserError

EXAMPLE = Path(__file__).parents[1] / "examples" / "my_generator.py"


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def synthbench(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """`synthbench(...)` as a shell would run it, in this process."""

    def call(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["synthbench", *arguments])
        capsys.readouterr()
        code = app._guarded()
        result = Result(code, *capsys.readouterr())
        assert "Traceback" not in result.out + result.err
        return result

    return call


RUN = ("run", "procedural", "--protocol", "tiny.yaml", "--no-tracking")

# command, exit code, words on stderr
MISTAKES = [
    ("run procedual", 2, "unknown generator 'procedual'; did you mean 'procedural'?"),
    ("run nowhere.py", 2, "nowhere.py does not exist"),
    ("run procedural --protocol dmo", 2, "unknown protocol 'dmo'; did you mean 'demo'?"),
    ("run procedural --protocol nowhere.yaml", 2, "nowhere.yaml does not exist"),
    (
        "run procedural --set sample.dificulty=1",
        2,
        "--set sample.dificulty=1: unknown setting 'sample.dificulty'; did you mean 'sample.difficulty'?",
    ),
    ("run procedural --set sample.difficulty=9", 2, "sample.difficulty = 9: input should be less than or equal to 2"),
    ("run procedural --set sample.difficulty", 2, "expected NAME=VALUE"),
    ("run cemiface --protocol demo --set sample.m=1.5", 2, "m is a cosine similarity; 1.5 is outside [-1, 1]"),
    ("run cemiface --protocol demo --set sample.m=[0,-7]", 2, "-7.0 is outside [-1, 1]"),
    ("run cemiface --protocol demo --set sample.m=hot", 2, "--set sample.m=hot: sample.m"),
    ("run procedural --volume 3by4", 2, "volume '3by4' is not understood"),
    ("run procedural --volume 1x20", 2, "volume 1x20 has one identity"),
    ("run cemiface --protocol demo --set sample.steps=5000", 2, "error: settings: sample.steps 5000 is more than"),
    ("run procedural --volume all", 2, "makes any number of images; give --volume"),
    ("run procedural --protocol demo --volume 900000000x9000", 2, "Take a smaller --volume"),
    ("run procedural --seeds 0", 2, "--seeds 0: must be between 1 and 100"),
    ("run procedural --seeds two", 2, "'two' is not a valid integer"),
    ("run procedural --device tpu", 2, "device 'tpu' is not known"),
    ("run procedural --volume 0.5M", 2, "--protocol demo"),
    ("run cemiface --protocol demo --set m=2", 2, "--set m=2: sample.m = 2: m is a cosine similarity; 2.0 is outside [-1, 1]"),
    ("run cemiface --protocol demo --set lambda=-1", 2, "train.similarity_weight = -1: input should be greater than or equal to 0"),
    ("run cemiface --protocol demo --set sample.m=[0, 1]", 2, "quote it: --set 'sample.m=[0, 1]'"),
    ("sweep m --values [0, 1]", 2, "quote it: --values '[0, 1]'"),
    ("run procedural --volume 2 x 3", 2, "A value with spaces, brackets or braces stands in quotes"),
    ("compare cemiface sample.m=0", 2, 'in one pair of quotes: "cemiface sample.m=0"'),
    ("run tiny", 2, "unknown generator 'tiny'; did you mean the file 'tiny.yaml'?"),
    ("run procedural --protocol tiny", 2, "unknown protocol 'tiny'; did you mean the file 'tiny.yaml'?"),
    ("data remove lfw", 2, "nothing is registered as 'lfw'"),
    ("data show lwf", 2, "did you mean 'lfw'?"),
    ("data status --protocol dmo", 2, "did you mean 'demo'?"),
    ("run procedural --until nothing", 2, "--until nothing: this run has no such stage; it has real, "),
    ("run procedural --force nothing", 2, "--force nothing: this run has no such stage"),
    ("run folder --set sample.path=/dev/null", 2, "/dev/null is neither a file nor a folder"),
    ("ui --port 0", 2, "0 is not in the range 1<=x<=65535"),
    ("run folder", 2, "say which set: --set sample.path=DIR"),
    ("run union", 2, "say which sets, two or more: --set 'sample.parts=[real, cemiface]'"),
    ("run cleaned", 2, "say which set: --set sample.of=cemiface"),
    ("run real+nothing", 2, "part 'nothing' of union: no generator, no registered set, no path and no run in "),
    ("run cleaned --set of=real --set people_fmr=2", 2, "people_fmr = 2: input should be less than or equal to 1"),
    ("run folder --set sample.path=nowhere", 2, "nowhere does not exist"),
    ("run real --protocol paper", 3, "nothing is ever downloaded"),
    ("data verify lfw", 3, "synthbench data add lfw PATH"),
    ("data add lfw nowhere.bin", 2, "nowhere.bin does not exist"),
    ("data add nothing-of-this-name tiny.yaml", 2, "nothing-of-this-name"),
    ("show nothing-of-this-name", 2, "nothing is called 'nothing-of-this-name'"),
    ("export nothing --to rec", 2, "no run 'nothing'"),
    ("test procedual", 2, "no generator or evaluator is called 'procedual'; did you mean 'procedural'?"),
    ("list things", 2, "'things' is not one of"),
    ("show recipe nothing", 2, "no recipe is called 'nothing'"),
    ("show recipes demo", 2, "'recipes' is no kind of thing; did you mean 'recipe'?"),
    ("show recipe cemiface demo", 2, "not 3 words"),
    ("report nothing", 2, "no run, comparison or sweep 'nothing'"),
    ("runs rm nothing", 2, "no run, comparison, sweep or evaluation 'nothing'"),
    ("ui --optuna", 2, "there is no sweep"),
    ("run", 2, "Missing argument 'GENERATOR'"),
    ("rn procedural", 2, "No such command 'rn'"),
]


@pytest.mark.parametrize(("command", "code", "words"), MISTAKES, ids=[command for command, _, _ in MISTAKES])
def test_a_mistake_is_named_and_nothing_is_begun(synthbench, here: Path, command: str, code: int, words: str) -> None:
    result = synthbench(*command.split(), *(["--runs", "r"] if command.startswith(("run ", "export")) else []))
    assert (result.code, result.out) == (code, "")
    assert words in result.err and result.err.startswith("error: ")  # first, and without what would be done
    assert not list(here.glob("r/**/manifest.json"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("resolution: 16", "resolution: 8"), "tiny.yaml:5: resolution = 8: input should be greater than or equal to 16"),
        (("recipe: recipe.yaml\nb", "recipe: recpie.yaml\nb"), "recpie.yaml does not exist"),
        (("[world-mixed]", "[]"), "benchmarks"),
        (("  separability: {}", "  separability: {a: .nan}"), "names must be words and numbers finite"),
        (("[world-mixed]", "[world-mixed, world-mixed]"), "a benchmark is named twice"),
        (("[world-mixed]", "[lfw]"), "lfw (pairs): LFW. Licence"),
        ((", seed: 2, faces: {world: judge, identities: 6, images: 4}}", ", seed: 1}"), "are the same network"),
        (("  separability: {}", "  separabilty: {}"), "unknown evaluator 'separabilty'; did you mean 'separability'?"),
        (("  separability: {}", "  separability: {pair: 3}"), "unknown setting 'pair'"),
        (("identities: 6, images: 4}\nenc", "identities: 1, images: 4}\nenc"), "tiny.yaml:7"),
        (("name: tiny", "name: tiny\nname: again"), "'name' is given twice"),
        (("title: six people", "titel: six people"), "tiny.yaml:4: unknown setting 'titel'; did you mean 'title'?"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_protocol_is_named_with_its_line(synthbench, here: Path, change: tuple[str, str], words: str) -> None:
    assert change[0] in PROTOCOL
    (here / "tiny.yaml").write_text(PROTOCOL.replace(*change))
    result = synthbench(*RUN)
    assert result.code in (2, 3) and result.out == "" and words in result.err, result.err


def test_listings(synthbench) -> None:
    for what in ("generators", "evaluators", "protocols", "recipes", "volumes", "runs"):
        assert synthbench("list", what).code == 0
        rows = json.loads(synthbench("list", what, "--json").out)
        assert rows or what == "runs"
    assert "difficulty: 1.0" in synthbench("show", "procedural").out
    shown = synthbench("show", "cemiface").out
    assert "  steps: 20  # demo = 8; DDIM steps" in shown and yaml.safe_load(shown)["train"]["unet"]["multipliers"] == [1, 1, 2, 2, 4, 4]
    assert "resolution: 32" in synthbench("show", "demo").out
    assert synthbench("data", "status").code == 0 and json.loads(synthbench("data", "status", "--json").out)
    assert "torch" in synthbench("doctor").out
    for shell in ("bash", "zsh", "fish"):
        assert "_SYNTHBENCH_COMPLETE" in synthbench("completion", shell).out
    assert synthbench("list", "protocols", "--csv").code == 2
    assert synthbench("--version").out.startswith("synthbench, version ")


def test_a_tab_completes_settings_stages_and_what_is_registered(synthbench, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.shell_completion import ShellComplete

    from synthbench.cli import cli
    from synthbench.cli.complete import STAGES

    def offered(*words: str) -> list[str]:
        *before, begun = words
        return [item.value for item in ShellComplete(cli, {}, "synthbench", "_").get_completions(before, begun)]

    assert offered("run", "cemiface", "--set", "train.similarity_w") == ["train.similarity_weight="]
    assert {"sample.m=", "train.unet.channels="} <= set(offered("run", "cemiface", "--set", ""))
    assert offered("run", "cemiface", "--until", "ge") == ["generate"]
    planned = json.loads(synthbench("run", "cemiface", "--protocol", "tiny.yaml", "--dry-run", "--json").out)["stages"]
    assert {stage["name"] for stage in planned} == set(STAGES) - {"train-faces", "encoder-faces"}
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        (here / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16)).save(here / "set" / name)
    monkeypatch.setenv("SYNTHBENCH_DATA", str(here / "registry"))
    assert synthbench("data", "add", "mine", "set", "--kind", "faces").code == 0
    assert offered("data", "show", "m") == ["mine"] and offered("data", "remove", "x") == []


def test_data_by_command(synthbench, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for person, shade in (("a", 10), ("a", 60), ("b", 200)):
        (here / "set" / person).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (shade,) * 3).save(here / "set" / person / f"{shade}.png")
    assert "registered celeba-subset: 2 people, 3 images" in synthbench("data", "add", "celeba-subset", "set", "--kind", "faces").err
    needs = json.loads(synthbench("data", "status", "--protocol", "photos", "--json").out)
    assert {row["name"]: (row["kind"], row["for"], row["state"]) for row in needs} == {
        "celeba-subset": ("faces", "real set", "registered"),
        "aaf": ("faces", "encoder's faces; training of cemiface, vec2face, idiffface, synface", "missing"),
        "mobilefacenet": ("weights", "encoder's teacher", "missing"),
        "edgeface-xxs": ("weights", "judge", "missing"),
        "lfw": ("pairs", "benchmark", "missing"),
        "lfw-unpaired": ("faces", "inquiries of cemiface, idiffface, dcface", "missing"),
    }
    assert len(needs) == 6
    lines = synthbench("data", "status", "--protocol", "photos").out.splitlines()
    assert [line for line in lines if line.startswith("synthbench")] == [
        "synthbench data add mobilefacenet PATH --kind weights --colour COLOUR",
        "synthbench data add aaf PATH --kind faces",
        "synthbench data add edgeface-xxs PATH --kind weights --colour COLOUR",
        "synthbench data add lfw PATH",
        "synthbench data add lfw-unpaired PATH --kind faces",
    ]
    text = (CONFIGS / "protocols" / "photos.yaml").read_text()
    (here / "mine.yaml").write_text(text.replace("      faces: [real, aaf] ", "      faces: [real, celeba-subset, ffhq] ", 1))
    monkeypatch.setenv("COLUMNS", "80")
    said = {name: synthbench("data", "status", "--protocol", name) for name in ("photos", "paper", "mine.yaml")}
    assert all(len(line) <= 80 for one in said.values() for line in f"{one.out}{one.err}".splitlines())
    assert "ask for it at\n# https://github.com/mk-minchul/AdaFace\nsynthbench data add adaface-ir50-casia PATH\n" in said["paper"].out
    assert re.search(r"^celeba-subset +real set;.* 2 people, 3", said["mine.yaml"].out, re.M)
    assert re.search(r"^ffhq +training of cemiface +missing", said["mine.yaml"].out, re.M)
    assert "\nsynthbench data add ffhq PATH --kind faces\n" in said["mine.yaml"].out
    assert "needs no data" in synthbench("data", "status", "--protocol", "demo").err
    assert re.search(r"^holds +2 people, 3 images", synthbench("data", "show", "celeba-subset").out, re.M)
    assert "its files stay at" in synthbench("data", "remove", "celeba-subset").err and (here / "set").is_dir()
    assert synthbench("data", "verify", "celeba-subset").code == 2


def test_plugin_contract_by_command(synthbench) -> None:
    result = synthbench("test", str(EXAMPLE))
    assert result.code == 0 and result.err.count("ok: ") == 8


def test_a_dry_run_does_nothing(synthbench, here: Path) -> None:
    result = synthbench(*RUN, "--dry-run")
    assert result.code == 0 and not (here / "runs").exists()
    for stage in ("real", "judge", "benchmarks", "generate", "recognizer", "evaluate"):
        assert stage in result.out
    planned = json.loads(synthbench(*RUN, "--dry-run", "--json").out)["stages"]
    assert {row["name"] for row in planned} >= {"real", "evaluate"} and {row["state"] for row in planned} == {"run"}
    names = [row["name"] for row in planned]
    assert names.index("benchmarks") < min(names.index("judge"), names.index("recognizer"))  # may be refused: before anything is trained
    stopped = synthbench(*RUN, "--until", "real", "--json")
    assert json.loads(stopped.out) == {"run": None, "until": "real"}


def test_from_end_to_end(synthbench, here: Path) -> None:
    """A run, the same from the cache, other seeds, a changed recipe, `show`, `export`: one story, because stages cost seconds."""
    first = synthbench(*RUN, "--json")
    assert first.code == 0, first.err
    result = json.loads(first.out)  # one object and nothing else on stdout
    assert (result["generator"], result["volume"], result["protocol"], result["seeds"]) == ("procedural", "6x4", "tiny", [0])
    metrics = {score["metric"] for score in result["scores"]}
    assert {"verification/world-mixed/accuracy", "verification/avg/accuracy", "gap_to_real/points"} <= metrics
    for score in result["scores"]:
        assert set(score) == {"metric", "value", "stderr", "n", "higher_is_better", "seed"}
    for stage in result["stages"]:
        assert set(stage) >= {"name", "key", "state", "seconds"}
    assert Path(result["artifacts"]["samples"]).is_file()
    assert len(open_faces(result["artifacts"]["faces"])) == 24

    again = synthbench(*RUN, "--json")
    assert json.loads(again.out)["scores"] == result["scores"]
    assert {stage["state"] for stage in json.loads(again.out)["stages"]} == {"cached"} and "judge: recipe" not in again.err
    shutil.rmtree(here / "runs" / "requests")  # so that it is put together again
    anew = json.loads(synthbench(*RUN, "--json").out)
    assert anew["cost"] == result["cost"] and result["cost"]["wall_seconds"] > 0  # of the stages, whenever they were made
    assert anew["config"]["protocol"]["name"] == "tiny" and "generators" not in anew["config"]["protocol"]
    assert anew["config"]["protocol"]["evaluators"]["verification"]["folds"] == 10  # every default
    assert anew["config"]["recipes"]["recipe.yaml"]["margin"] == 0.1
    table = synthbench(*RUN)
    assert "procedural 6x4" in table.out and "real 6x4" in table.out  # six people x four images, both
    assert f"answered from the cache, made on {time.strftime('%Y-%m-%d', time.gmtime())}" in table.err and "--force STAGE" in table.err
    assert f"next:\n  synthbench report {result['run']}\n  synthbench compare real {result['run']} --protocol tiny.yaml\n" in table.err
    assert table.err.count("not measured; run.json and the report say why") == 1 and max(map(len, table.err.splitlines())) < 200
    assert json.loads(synthbench("show", result["run"], "--json").out)["run"] == result["run"]
    shown = synthbench("show", "latest")
    assert f"latest is run {result['run']}: procedural 6x4" in shown.err  # and not the real run, whose stages are younger
    assert "procedural 6x4" in shown.out and len(shown.out.splitlines()) < 30 and "settings: as they ship" in shown.out
    assert result["artifacts"]["faces"] in shown.out and "--protocol tiny.yaml" in shown.out
    listed = list(csv.DictReader(synthbench("list", "runs", "--csv").out.splitlines()))
    assert {row["metric"] for row in listed if row["run"] == result["run"]} == metrics
    average = next(row for row in listed if row["run"] == result["run"] and row["metric"] == "verification/avg/accuracy")
    own = next(score for score in result["scores"] if score["metric"] == "verification/avg/accuracy")
    assert (float(average["value"]), float(average["stderr"]), average["between_seeds"]) == (own["value"], own["stderr"], "")
    silent = synthbench(*RUN, "--quiet")
    assert silent.err == "" and "procedural 6x4" in silent.out
    harder = synthbench(*RUN, "--set", "sample.difficulty=0.5")
    assert "settings other than procedural's own: sample.difficulty=0.5\n" in harder.err and "from the cache" not in harder.err
    hard = json.loads(synthbench(*RUN, "--json", "-q", "--set", "sample.difficulty=0.5").out)
    shown = synthbench("show", "latest").out
    assert re.search(r"sample\.difficulty +0\.5 +1\.0", shown) and synthbench("show", hard["run"]).out == shown
    assert synthbench("runs", "rm", hard["run"], "--yes").code == 0
    assert synthbench("export", "latest", "--to", "imagefolder", "-o", "out").code == 0
    assert len(list((here / "out").rglob("*.png"))) == 24

    larger = json.loads(synthbench(*RUN, "--json", "--volume", "8x4").out)
    small, large = open_faces(result["artifacts"]["faces"]), open_faces(larger["artifacts"]["faces"])
    assert torch.equal(large.images(slice(0, 24)), small.images(slice(0, 24)))  # volumes are nested
    states = {stage["name"]: stage["state"] for stage in larger["stages"]}
    assert states["judge"] == states["benchmarks"] == "cached" and states["generate"] == "run"

    (here / "recipe.yaml").write_text(RECIPE.replace("margin: 0.1", "margin: 0.2"))
    changed = json.loads(synthbench(*RUN, "--json").out)
    states = {stage["name"]: stage["state"] for stage in changed["stages"]}
    assert states["recognizer"] == "run" and states["generate"] == "cached"
    assert changed["run"] != result["run"]


def test_the_example_runs(synthbench) -> None:
    arguments = ("--protocol", "tiny.yaml", "--no-tracking", "--json", "--set", "train.components=8")
    result = json.loads(synthbench("run", str(EXAMPLE), *arguments).out)
    assert {stage["name"] for stage in result["stages"]} >= {"encoder", "train", "generate", "recognizer", "evaluate"}
    other = json.loads(synthbench("run", str(EXAMPLE), *arguments, "--set", "sample.variation=0.9").out)
    states = {stage["name"]: stage["state"] for stage in other["stages"]}
    assert (states["train"], states["generate"]) == ("cached", "run")  # a sampling setting never trains again


SLOW = """
import os, signal, sys
from synthbench import cli
from synthbench.recognition import trainer as recognition
real = recognition.update
count = iter(range(10**9))
def update(*arguments):
    if next(count) == 10:  # judge: 0 to 5, recognizer of the real baseline: 6 to 11
        os.kill(os.getpid(), signal.{signal})
    return real(*arguments)
recognition.update = update
recognition.REPORT, recognition.loop.EVERY = 1, -1.0  # a checkpoint after every step
sys.argv = ["synthbench", *sys.argv[1:]]
cli.main()
"""


def test_the_samples_of_a_finite_set_are_its_own_and_not_the_baselines(synthbench) -> None:
    made = json.loads(synthbench(*RUN, "--json").out)
    assert synthbench("export", "latest", "--to", "imagefolder", "-o", "out").code == 0
    command = ("run", "folder", "--set", "sample.path=out", "--protocol", "tiny.yaml", "--no-tracking", "--json")
    again = json.loads(synthbench(*command).out)
    ours, theirs = (open_faces(Path(result["artifacts"]["faces"])) for result in (made, again))
    assert torch.equal(ours.images(slice(None)), theirs.images(slice(None)))
    assert again["digests"]["faces"] == theirs.digest


def test_stopped_in_the_middle_the_same_command_continues_to_the_same_scores(synthbench, here: Path) -> None:
    whole = json.loads(synthbench(*RUN, "--json", "--runs", "whole").out)
    for name, code in (("SIGINT", 130), ("SIGTERM", 143), ("SIGKILL", -9)):
        command = [sys.executable, "-c", SLOW.format(signal=name), *RUN, "--json", "--runs", name]
        stopped = subprocess.run(command, capture_output=True, text=True)
        assert stopped.stdout == "" and "Traceback" not in stopped.stderr
        assert stopped.returncode == code
        assert (f"Continue with: synthbench {' '.join(RUN)} --json --runs {name}" in stopped.stderr) == (code > 0)
        continued = json.loads(synthbench(*RUN, "--json", "--runs", name).out)
        assert continued["scores"] == whole["scores"]
        assert [stage["key"] for stage in continued["stages"]] == [stage["key"] for stage in whole["stages"]]
        assert [stage["state"] for stage in continued["stages"] if stage["name"] == "recognizer"] == ["resume", "run"]


def test_a_file_where_the_runs_folder_should_be(synthbench) -> None:
    result = synthbench(*RUN, "--runs", "recipe.yaml")
    assert result.code == 2 and "Directory 'recipe.yaml' is a file" in result.err and "Continue with" not in result.err


def test_faults_of_ours_and_of_the_disk(synthbench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "runs/x")

    monkeypatch.setattr(store.Stage, "building", full)
    result = synthbench(*RUN)
    assert result.code == 2 and "cannot write runs/x: No space left on device" in result.err
    assert "With more room, continue with: synthbench run" in result.err

    def read_only(*_: object) -> None:
        raise OSError(30, "Read-only file system", "runs/x")

    monkeypatch.setattr(store.Stage, "building", read_only)
    result = synthbench(*RUN)
    assert result.code == 2 and "cannot write runs/x: Read-only file system. Nothing is lost" in result.err and "see --runs" in result.err
    monkeypatch.setattr("synthbench.inventory.machine.os.access", lambda _, mode: mode != os.W_OK)
    assert "it cannot be written" in synthbench("doctor").out

    def broken(*_: object) -> None:
        raise EOFError("half a file")

    monkeypatch.setattr(store.Stage, "building", broken)
    result = synthbench(*RUN)
    assert result.code == 1 and "EOFError: half a file" in result.err and "details are in" in result.err


PLUGIN = """
import torch
from synthbench.plugin import Generator
from synthbench.types import FaceBatch

class Mine(Generator):
    "Grey squares."
    def generate(self, slots, context):
        identity = torch.tensor([slot.identity for slot in slots])
        images = torch.full((len(slots), 3, context.resolution, context.resolution), 9, dtype=torch.uint8)
        BODY
        yield FaceBatch(images, identity, columns)
"""


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ("1 / 0", 1, "mine.py:11; the details"),
        ("images, columns = images[:, :2], {}", 2, "images are (24, 2, 16, 16) torch.uint8; they must be (24, 3, 16, 16)"),
        ("images, columns = images * float('nan'), {}", 2, "torch.float32; they must be (24, 3, 16, 16) torch.uint8"),
        ("images, identity, columns = images[:9], identity[:9], {}", 2, "made 9 images for 24 slots"),
        ("images, identity, columns = images.repeat(2, 1, 1, 1), identity.repeat(2), {}", 2, "are not those of the slots"),
        ("identity, columns = identity + 1, {}", 2, "are not those of the slots"),
        ("yield 3", 2, "generate must yield FaceBatch, not int"),
        ("images, columns = images.numpy(), {}", 2, "must be tensors"),
        ("columns = {'label': identity}", 2, "a column may not be called label"),
        ("columns = {'m': torch.zeros(3)}", 2, "column 'm' is (3,); it must be (24,)"),
    ],
)
def test_a_plugin_that_breaks_its_word_is_told_so(
    synthbench, here: Path, tmp_path_factory: pytest.TempPathFactory, body: str, code: int, words: str
) -> None:
    runs = str(tmp_path_factory.getbasetemp() / "runs-of-plugins")  # shared: what comes before the plugin is made once
    (here / "mine.py").write_text(PLUGIN.replace("BODY", body))
    result = synthbench("run", "mine.py", *RUN[2:], "--runs", runs, "--until", "generate")
    assert result.code == code and words in result.err, result.err


EVALUATOR = """
from synthbench.plugin import Evaluator
from synthbench.types import Score

class Mine(Evaluator):
    "Nothing."
    def evaluate(self, subject, context):
        return RETURNED
"""


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ("None", "evaluator mine returned NoneType; it must return a list of Score and Skipped"),
        ("[3]", "evaluator mine returned int; it must return Score and Skipped"),
        ("[Score('a/b', float('nan'), None, 1, True)]", "evaluator mine: a/b is nan (error None), not a finite number"),
    ],
)
def test_an_evaluator_that_breaks_its_word_is_told_so(tmp_path: Path, returned: str, words: str) -> None:
    (tmp_path / "mine.py").write_text(EVALUATOR.replace("RETURNED", returned))
    mine = registry.load("evaluator", str(tmp_path / "mine.py"))
    with pytest.raises(UserError, match=re.escape(words)):
        run_evaluators({"mine": mine(mine.Config())}, None, None, lambda done, total: None)  # type: ignore[arg-type]


def test_a_damaged_result_is_no_result(synthbench, here: Path) -> None:
    (here / "r" / "results" / "run-1").mkdir(parents=True)
    for text in ("{", "{}", "[]", json.dumps({key: [{}] for key in ("run", "seeds", "scores", "stages", "artifacts", "baseline")})):
        (here / "r" / "results" / "run-1" / "run.json").write_text(text)
        listed = synthbench("list", "runs", "--runs", "r")
        assert listed.code == 0 and "run-1/run.json is not a whole result" in listed.err
        exported = synthbench("export", "run-1", "--to", "rec", "--runs", "r")
        assert exported.code == 2 and "run-1/run.json is not a whole result" in exported.err


def test_damaged_files_of_finished_stages_are_made_again(synthbench, here: Path) -> None:
    call = (*RUN, "--runs", "r", "--json")
    whole = json.loads(synthbench(*call).out)
    for pattern in ("*/*/weights.safetensors", "*/*/packed.u8", "benchmarks/*/*/images.u8", "evaluate/*/scores.json", "*/*/part-*.parquet"):
        files = list((here / "r" / "stages").glob(pattern))
        assert files
        for path in files:
            path.write_bytes(path.read_bytes()[:-1])
        again = synthbench(*call)
        assert again.code == 0, again.err
        assert json.loads(again.out)["scores"] == whole["scores"]
        assert any(stage["state"] == "resume" for stage in json.loads(again.out)["stages"])


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_threads_wait_briefly_unless_the_user_has_chosen(given, spins, monkeypatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # restored after the test
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    app.wait_briefly()
    assert os.environ.get("GOMP_SPINCOUNT") == spins
