"""YAML 1.2 scalars, layers, `--set`, and errors that name the place and the nearest right word."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from fake_protocol import write_protocol
from pydantic import Field

from synthbench import config
from synthbench.config import Layer, Settings, build, did_you_mean, in_full, load_yaml, merge, parse_set, read_layer
from synthbench.protocol import PublicNetwork, load_protocol
from synthbench.types import UserError


class Sample(Settings):
    m: float = Field(0.0, ge=-1, le=1)
    steps: int = 20
    grid: tuple[float, ...] = ()


class Config(Settings):
    sample: Sample = Sample()
    name: str = "x"


def write(folder: Path, text: str) -> Path:
    path = folder / "file.yaml"
    path.write_text(text, "utf-8")
    return path


def refused(folder: Path, text: str) -> str:
    with pytest.raises(UserError) as error:
        read_layer(write(folder, text))
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),  # a word in YAML 1.1
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("5.", 5.0),
        ("+3", 3),
        ("10_000", 10_000),
        ("010", 10),  # octal in YAML 1.1
        ("no", "no"),
        ("off", "off"),
        ("on", "on"),
        ("yes", "yes"),
        ("true", True),
        ("False", False),
        ("1:30", "1:30"),  # 90 in YAML 1.1
        ("2024-01-02", "2024-01-02"),  # a date in YAML 1.1
        ("~", None),
        ("null", None),
        ("", None),
        ("-", "-"),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("0.5M", "0.5M"),
        ("200x20", "200x20"),
        ("[-1, 1]", [-1, 1]),
        ("'1'", "1"),
        ("{a: 1e3}", {"a": 1000.0}),
        ("=", "="),
        ("<<", "<<"),
    ],
)
def test_scalars(tmp_path: Path, text: str, value: Any) -> None:
    if text != "-":  # in a file, a lone dash begins a list
        found = load_yaml(write(tmp_path, f"key: {text}\n"))["key"]
        assert found == value and type(found) is type(value)
        found = parse_set([f"key={text}"]).data["key"]
        assert found == value and type(found) is type(value)


def test_nan_is_a_number_here_and_refused_by_settings(tmp_path: Path) -> None:
    assert math.isnan(load_yaml(write(tmp_path, "sample: {m: .nan}"))["sample"]["m"])
    for text in (".nan", ".inf", "1e999"):
        with pytest.raises(UserError, match=r"file.yaml:1: sample.m = "):
            build(Config, read_layer(write(tmp_path, f"sample: {{m: {text}}}")))


def test_every_key_knows_its_line(tmp_path: Path) -> None:
    layer = read_layer(write(tmp_path, "# a comment\nsample:\n  m: 0.5\n\n  steps: 3\n"))
    assert {keys: place.rpartition(":")[2] for keys, place in layer.origin.items()} == {
        ("sample",): "2",
        ("sample", "m"): "3",
        ("sample", "steps"): "5",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", ["file.yaml:3", "'a' is given twice", "file.yaml:1"]),
        ("s:\n  a: 1\n  a: 2\n", ["file.yaml:3", "given twice"]),
        ("list:\n  - a: 1\n    a: 2\n", ["file.yaml:3", "given twice"]),
        ("a: [1, 2\nb: 3\n", ["file.yaml:2"]),
        ("a:\t- 1\n\tb: 2", ["file.yaml:"]),
        ("- 1\n- 2\n", ["file.yaml:1", "found list"]),
        ("just words", ["file.yaml:1", "found str"]),
        ("a: 1\n---\nb: 2\n", ["file.yaml", "document"]),
        ("a: *nowhere", ["file.yaml:1"]),
        ("a: &a [1]\nb: *a\n", ["file.yaml:2", "alias"]),
        ("a: &a {b: *a}\n", ["file.yaml:1", "alias"]),  # contains itself
        ("x: !!python/object/apply:os.system ['touch OWNED']", ["file.yaml:1", "python/object"]),
        ("x: !!python/name:os.system", ["file.yaml:1"]),
        ("x: !own {a: 1}", ["file.yaml:1", "!own"]),
        ("x: " + "[" * 1500, ["file.yaml"]),
        ("x: " + "9" * 5000, ["file.yaml"]),
        ("? [1, 2]\n: 3\n", ["file.yaml:1"]),
    ],
)
def test_bad_files_are_refused_with_file_and_line(tmp_path: Path, text: str, words: list[str]) -> None:
    message = refused(tmp_path, text)
    assert all(word in message for word in words), message[:300]
    assert not list(tmp_path.glob("OWNED"))


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent.yaml"):
        read_layer(tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UserError, match=r"binary.yaml"):
        read_layer(tmp_path / "binary.yaml")
    (tmp_path / "zero.yaml").write_bytes(b"a: \x00")
    with pytest.raises(UserError, match=r"zero.yaml"):
        read_layer(tmp_path / "zero.yaml")
    assert read_layer(write(tmp_path, "# nothing\n")).data == {}


def test_set_nests_and_later_wins() -> None:
    layer = parse_set(["sample.m=0.2", "sample.grid=[-1, 0.5, 1e0]", "name=a=b", "sample.m=0.3"])
    assert layer.data == {"sample": {"m": 0.3, "grid": [-1, 0.5, 1.0]}, "name": "a=b"}
    assert build(Config, layer).sample == Sample(m=0.3, grid=(-1, 0.5, 1.0))


@pytest.mark.parametrize(
    "text", ["", "m", "=3", ".m=3", "sample..m=3", "sample.=3", "m=[1", "m={a: 1", "m=!!python/name:os.system", "m=" + "9" * 5000]
)
def test_bad_assignments_are_refused(text: str) -> None:
    with pytest.raises(UserError) as error:
        parse_set([text])
    assert "--set" in str(error.value)


def test_a_value_cannot_also_be_a_part() -> None:
    with pytest.raises(UserError, match="already has a value"):
        parse_set(["sample=3", "sample.m=1"])


def test_layers_merge_key_by_key_and_lists_whole() -> None:
    merged = merge([Layer({"a": {"x": 1, "y": [1, 2]}, "b": 1}), Layer({"a": {"y": [3]}}), Layer({"b": {"z": 1}})])
    assert merged.data == {"a": {"x": 1, "y": [3]}, "b": {"z": 1}}


def test_merging_leaves_the_layers_as_they_were() -> None:
    first = Layer({"a": {"x": 1}})
    merge([first, Layer({"a": {"x": 2}})])
    assert first.data == {"a": {"x": 1}}


def test_errors_name_place_value_and_nearest_word(tmp_path: Path) -> None:
    file = read_layer(write(tmp_path, "sample:\n  m: 0.5\n  step: 3\n"))
    with pytest.raises(UserError, match=r"file.yaml:3: unknown setting 'sample.step'; did you mean 'sample.steps'\?"):
        build(Config, file)
    with pytest.raises(UserError, match=r"--set sample.m=1.5: sample.m = 1.5: input should be less than or equal to 1"):
        build(Config, parse_set(["sample.m=1.5"]))
    with pytest.raises(UserError, match=r"--set smaple.m=1: unknown setting 'smaple'; did you mean 'sample.m'\?"):
        build(Config, parse_set(["smaple.m=1"]))
    with pytest.raises(UserError, match=r"unknown setting 'stps'; did you mean 'sample.steps'\?"):
        build(Config, parse_set(["stps=1"]))
    with pytest.raises(UserError, match=r"unknown setting 'zzz'; there is name, sample"):
        build(Config, parse_set(["zzz=1"]))
    with pytest.raises(UserError, match=r"--set sample=3: sample = 3"):
        build(Config, parse_set(["sample=3"]))
    with pytest.raises(UserError, match=r"--set sample.m=hot"):
        build(Config, read_layer(write(tmp_path, "sample: {m: 0.1}")), parse_set(["sample.m=hot"]))


class Drawn(Settings):
    world: str
    people: int = Field(ge=2)


class Read(Settings):
    source: str


class Several(Settings):
    faces: Drawn | Read
    m: float | tuple[float, ...] | Sample = 0.0


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("faces: {world: a, people: 1}", ["file.yaml:1: faces.people = 1: input should be greater than or equal to 2"]),
        ("faces: {world: a, peopel: 3}", ["file.yaml:1: faces.people is missing",
                                          "file.yaml:1: unknown setting 'faces.peopel'; did you mean 'faces.people'?"]),
        ("faces: {sorce: a}", ["file.yaml:1: faces.source is missing",
                               "file.yaml:1: unknown setting 'faces.sorce'; did you mean 'faces.source'?"]),
        ("faces: {source: a}\nm: {m: 3}", ["file.yaml:2: m.m = 3: input should be less than or equal to 1"]),
        ("faces: {source: a}\nm: [0, x]", ["file.yaml:2: m.1 = 'x': input should be a valid number, unable to parse string as a number"]),
        ("faces: 3", ["file.yaml:1: faces = 3: should be {name: value, ...}"]),
    ],
)  # fmt: skip
def test_of_several_kinds_the_nearest_is_explained(tmp_path: Path, text: str, lines: list[str]) -> None:
    with pytest.raises(UserError) as error:
        build(Several, read_layer(write(tmp_path, text)))
    assert [line.replace(str(tmp_path) + "/", "") for line in str(error.value).splitlines()] == lines


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(UserError) as error:
        build(Config, parse_set(["sample.m=7", "sample.steps=many", "nme=x"]))
    assert len(str(error.value).splitlines()) == 3


class Range(Settings):
    low: float
    high: float


class Deep(Settings):
    values: float | list[float | Range] | None = None
    inner: Config = Config()


class Deeper(Settings):
    train: Deep = Deep()
    sample: Deep = Deep()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train.inner.sample.stps=1", "unknown setting 'train.inner.sample.stps'; did you mean 'train.inner.sample.steps'?"),
        ("train.values=[{low: 1, hgh: 2}]", "unknown setting 'train.values.0.hgh'; did you mean 'train.values.0.high'?"),
        ("train.steps=1", "'train.steps'; did you mean 'train.inner.sample.steps' or 'sample.inner.sample.steps'?"),
        ("train.zzz=1", "unknown setting 'train.zzz'; there is train.inner, train.values"),
    ],
)
def test_a_hint_is_a_name_that_can_be_typed(text: str, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        build(Deeper, parse_set([text]))


def test_short_names_stand_for_the_one_setting_they_may_mean() -> None:
    class Mine(Settings):
        train: Range = Range(low=0, high=1)
        sample: Sample = Sample()

    full = in_full(Mine, parse_set(["m=0.5", "train.low=-1", "high=3"]))
    assert full.data == {"sample": {"m": 0.5}, "train": {"low": -1, "high": 3}}
    assert full.origin[("sample", "m")] == "--set m=0.5"
    with pytest.raises(UserError, match=r"--set m=7: sample.m = 7: input should be"):
        build(Mine, in_full(Mine, parse_set(["m=7"])))
    with pytest.raises(UserError, match=r"--set values=1: 'values' may be train.values or sample.values; name it in full"):
        in_full(Deeper, parse_set(["values=1"]))
    assert in_full(Mine, parse_set(["zzz=1"])).data == {"zzz": 1}  # refused later, with a hint


def test_settings_are_frozen() -> None:
    with pytest.raises(Exception, match="frozen"):
        Config().sample.m = 1.0  # type: ignore[misc]


def test_did_you_mean() -> None:
    assert did_you_mean("cemifce", ["real", "cemiface"]) == "; did you mean 'cemiface'?"
    assert did_you_mean("qqq", ["real", "cemiface"]) == "; there is cemiface, real"
    assert did_you_mean("qqq", []) == ""


@pytest.mark.parametrize("kind", ["protocols", "recipes", "generators"])
def test_every_shipped_file_reads(kind: str) -> None:
    for name in config.config_names(kind):
        assert read_layer(config.config_path(kind, name)).data


def test_unknown_config_names_and_paths(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown protocol 'dmo'; did you mean 'demo'\?"):
        config.config_path("protocols", "dmo")
    with pytest.raises(UserError, match=r"absent.yaml does not exist"):
        config.config_path("protocols", str(tmp_path / "absent.yaml"))
    for name in ("../protocols/demo", "/etc/passwd", ""):
        with pytest.raises(UserError, match="unknown recipe"):
            config.config_path("recipes", name)


def test_options_and_papers_words_are_known_as_settings_hints() -> None:
    class Some(Settings):
        m: float | tuple[float, ...] = 0.0
        similarity_weight: float = 0.1

    for text, said in (
        ("seed=3", "unknown setting 'seed'; that is the option --seeds"),
        ("volume=3x3", "that is the option --volume"),
        ("lamda=1", "did you mean 'lambda'?"),
        ("m=abc", "m = 'abc': should be a number or a list"),
    ):
        with pytest.raises(UserError) as error:
            build(Some, parse_set([text]))
        assert said in str(error.value) and "\n" not in str(error.value), error.value


def test_a_protocol_extends_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hard, demo = load_protocol("demo-hard"), load_protocol("demo")
    same = {"name", "title", "version", "benchmarks", "templates", "evaluators"}
    assert hard.model_dump(exclude=same) == demo.model_dump(exclude=same)
    assert hard.benchmarks == (*demo.benchmarks, "world-groups", "world-twins")
    assert list(hard.evaluators) == [*demo.evaluators, "groups", "templates", "quality"] and hard.templates == ("world-templates",)
    (tmp_path / "base").mkdir()
    write_protocol(tmp_path / "base")
    (tmp_path / "mine.yaml").write_text(
        "extends: base/tiny.yaml\nname: mine\njudge: {weights: mine}\nevaluators: {separability: {fmr: 0.1}, leakage: {}}\n"
    )
    (tmp_path / "ours.yaml").write_text("extends: mine.yaml\nname: ours\nresolution: 32\n")
    monkeypatch.chdir(tmp_path.parent)
    found = load_protocol(str(tmp_path / "ours.yaml"))
    assert (found.name, found.title, found.resolution, found.volume) == ("ours", "six people", 32, "6x4")
    assert found.judge == PublicNetwork(weights="mine") and Path(found.recipe) == tmp_path / "base" / "recipe.yaml"  # replaced whole
    assert found.evaluators == {"verification": {}, "gap_to_real": {}, "separability": {"fmr": 0.1}, "leakage": {}}  # added to
    for text, said in (
        ("extends: loop.yaml\nname: loop", r"loop\.yaml:1: .*extends itself"),
        ("extends: [demo]", r"loop\.yaml:1: extends = \['demo'\]: should be the name of a protocol"),
        ("extends: dmo", "unknown protocol 'dmo'; did you mean 'demo'"),
        ("extends: demo\nresolutoin: 16", r"loop\.yaml:2: unknown setting 'resolutoin'; did you mean 'resolution'"),
    ):
        (tmp_path / "loop.yaml").write_text(text)
        with pytest.raises(UserError, match=said):
            load_protocol(str(tmp_path / "loop.yaml"))


def test_paths_in_a_protocol_are_relative_to_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    for place in ("home/faces.zip", "protocols/recipe.yaml", "protocols/sets/people.zip", "protocols/real", "here/x"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    write_protocol(tmp_path / "protocols")
    with open(tmp_path / "protocols" / "tiny.yaml", "a") as file:
        file.write(
            "generators:\n  cemiface: {enroll: {source: sets/people.zip}}\n  vec2face: {enroll: {source: real}}\n"
            "  folder: {sample: {path: ~/faces.zip}}\n  dcface: {enroll: {source: sets/none.zip}}\n"
        )
    monkeypatch.chdir(tmp_path / "here")
    for name in ("../protocols/tiny.yaml", "~/../protocols/tiny.yaml"):
        found = load_protocol(name)
        sources = {generator: settings.get("enroll", {}).get("source") for generator, settings in found.generators.items()}
        assert Path(found.recipe).resolve() == tmp_path / "protocols" / "recipe.yaml"
        assert Path(sources["cemiface"]).resolve() == tmp_path / "protocols" / "sets" / "people.zip"
        assert sources["vec2face"] == "real" and sources["dcface"] == "sets/none.zip"  # nothing of that name is beside the file
        assert found.generators["folder"]["sample"]["path"] == str(tmp_path / "home" / "faces.zip")
    monkeypatch.chdir(tmp_path / "protocols")
    assert load_protocol("tiny.yaml").recipe == "recipe.yaml"  # as it was, and so in no new key
    assert parse_set(["sample.path=~/faces.zip"]).data == {"sample": {"path": str(tmp_path / "home" / "faces.zip")}}
