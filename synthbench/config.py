"""YAML and `--set` become frozen settings; a mistake is answered with file, line and the nearest right word."""

from __future__ import annotations

import difflib
import functools
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, SerializationInfo, SerializerFunctionWrapHandler, ValidationError, model_serializer

from synthbench.types import UserError


class Settings(BaseModel):
    """Base of every config class: immutable, unknown keys refused, numbers finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    late: ClassVar[tuple[str, ...]] = ()  # own fields that came later than the keys of users' stages: at their default they are in no key

    def for_key(self) -> dict[str, Any]:
        """The settings as plain data, as they enter keys."""
        return self.model_dump(mode="json", context={"for_key": True})

    @model_serializer(mode="wrap")
    def _serialize(self, plain: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        fields = type(self).model_fields
        late = [name for kind in type(self).__mro__ for name in vars(kind).get("late", ())]  # of parts that are mixed in too
        left_out = [name for name in late if info.context and getattr(self, name) == fields[name].default]
        return {name: value for name, value in plain(self).items() if name not in left_out}


S = TypeVar("S", bound=Settings)
Keys = tuple[str, ...]


# ---------------------------------------------------------------------------------------------------------------- YAML


class _Loader(yaml.SafeLoader):
    """Safe YAML with the scalars of YAML 1.2: `1e-4` is a number, `no` and `on` are words, `1:30` is not 90. No aliases."""

    yaml_implicit_resolvers: dict = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):  # a few lines of them unfold to gigabytes, or into themselves
            raise yaml.MarkedYAMLError(problem="an alias (*name); write the value out", problem_mark=self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        return int(node.value.replace("_", ""))

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        return float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan"))


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9][0-9_]*", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", "~nN"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), [*_first, ""] if _tag == "null" else [*_first]
    )


@dataclass(frozen=True)
class Layer:
    """Settings from one place, with the place of every key: `origin[("sample", "m")]` is "cemiface.yaml:12"."""

    data: dict[str, Any] = field(default_factory=dict)
    origin: dict[Keys, str] = field(default_factory=dict)

    def below(self, *keys: str) -> Layer:
        """The part under `keys`; empty when it is not there."""
        data: Any = self.data
        for key in keys:
            data = (data or {}).get(key)
        origin = {path[len(keys) :]: place for path, place in self.origin.items() if path[: len(keys)] == keys}
        return Layer(data or {}, origin)


def read_layer(path: Path) -> Layer:
    """A YAML mapping with the line of every key. Raises UserError with file and line when it is not one."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    return _parse(path, text)


@functools.lru_cache(maxsize=256)
def _parse(path: Path, text: str) -> Layer:
    """The same file with the same text is parsed once: the points of a sweep share four of them."""
    try:
        node = yaml.compose(text, _Loader)
        origin: dict[Keys, str] = {}
        _places(node, (), path, origin)
        data = yaml.load(text, _Loader)  # _Loader is a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}:{line}: {error.problem or 'not valid YAML'}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, a thousand brackets
        raise UserError(f"{path}: cannot be read: {error}") from None
    if data is not None and not isinstance(data, dict):
        raise UserError(f"{path}:1: expected `name: value` lines, found {type(data).__name__}")
    return Layer(data or {}, origin)


def _places(node: yaml.Node | None, keys: Keys, path: Path, origin: dict[Keys, str]) -> None:
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            inner = (*keys, str(i))
            origin[inner] = f"{path}:{item.start_mark.line + 1}"
            _places(item, inner, path, origin)
    if not isinstance(node, yaml.MappingNode):
        return
    for key_node, value_node in node.value:
        place = f"{path}:{key_node.start_mark.line + 1}"
        inner = (*keys, str(key_node.value))
        if inner in origin:
            raise UserError(f"{place}: {key_node.value!r} is given twice, first at {origin[inner]}")
        origin[inner] = place
        _places(value_node, inner, path, origin)


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, when the places of its keys do not matter."""
    return read_layer(Path(path)).data


def parse_set(assignments: Iterable[str]) -> Layer:
    """`["sample.m=0.2", "train.lr=1e-4"]` as a layer; values are YAML, so `[-1, 1]`, `true` and `1e-4` mean what they say."""
    data: dict[str, Any] = {}
    origin: dict[Keys, str] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        keys = tuple(name.strip().split("."))
        if not equals or not all(keys):
            raise UserError(f"--set {text!r}: expected NAME=VALUE, such as --set sample.m=0.2")
        try:
            parsed = yaml.load(os.path.expanduser(value) if value.startswith("~/") else value, _Loader)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise UserError(f"--set {text!r}: the value is not valid YAML; quote it") from None
        target = data
        for i, key in enumerate(keys[:-1]):
            origin[keys[: i + 1]] = f"--set {text}"
            target = target.setdefault(key, {})
            if not isinstance(target, dict):
                raise UserError(f"--set {text!r}: {'.'.join(keys[: i + 1])} already has a value")
        target[keys[-1]] = parsed
        origin[keys] = f"--set {text}"
    return Layer(data, origin)


def merge(layers: Iterable[Layer]) -> Layer:
    """Later layers win, key by key; lists are replaced whole."""
    data: dict[str, Any] = {}
    origin: dict[Keys, str] = {}
    for layer in layers:
        _merge_into(data, layer.data)
        origin.update(layer.origin)
    return Layer(data, origin)


def _merge_into(target: dict[str, Any], source: Mapping[str, Any]) -> None:
    for key, value in source.items():
        if isinstance(value, Mapping):
            child = dict(target[key]) if isinstance(target.get(key), Mapping) else {}
            _merge_into(child, value)
            target[key] = child
        else:
            target[key] = value


# ------------------------------------------------------------------------------------------------------------ settings


def build(kind: type[S], *layers: Layer) -> S:
    """The settings of `layers`, later ones winning. Raises UserError naming place, value and nearest name."""
    merged = merge(layers)
    try:
        return kind.model_validate(merged.data)
    except ValidationError as error:
        items = _nearest_alternatives(merged.data, error.errors())
        by_keys: dict[Keys, list[Any]] = {}
        for keys, item in items:
            by_keys.setdefault(keys, []).append(item)
        raise UserError("\n".join(_explain(kind, merged, keys, _joined(same)) for keys, same in by_keys.items())) from None


def _joined(errors: list[Any]) -> Any:
    """The errors of one setting as one: what it may be, where it may be of several kinds, in words that are not pydantic's."""
    if len(errors) == 1:
        return errors[0]
    words = {"a valid tuple": "a list", "a valid list": "a list"}
    found = [item["msg"].removeprefix("Input should be ").partition(",")[0] for item in errors]
    found = ["{name: value, ...}" if text.startswith("a valid dictionary") else words.get(text, text) for text in found]
    return errors[0] | {"msg": f"should be {' or '.join(dict.fromkeys(text.replace('a valid ', 'a ') for text in found))}"}


def _nearest_alternatives(data: Any, errors: list[Any]) -> list[tuple[Keys, Any]]:
    """Errors with the keys they are about. Where a setting may be one of several kinds, those of the kind that was most likely meant."""
    found = [(*_locate(data, item), item) for item in errors]
    kept = []
    for keys, kinds, item in found:
        rivals: dict[str, list[Keys]] = {}
        for other, others, _ in found:
            if kinds and others and kinds[0][0] == others[0][0]:
                rivals.setdefault(others[0][1], []).append(other)
        # a kind that fails inside is nearer than one that fails as a whole; of those, the one with the fewest mistakes
        rank = {name: (min(len(path) for path in paths) <= len(kinds[0][0]), len(paths)) for name, paths in rivals.items()}
        if not kinds or rank[kinds[0][1]] == min(rank.values()):
            kept.append((keys, item))
    return kept


def _locate(data: Any, item: Any) -> tuple[Keys, list[tuple[Keys, str]]]:
    """The keys of an error as the user wrote them, and (keys, name) of the kinds that pydantic tried on the way."""
    keys: list[str] = []
    kinds: list[tuple[Keys, str]] = []
    for i, part in enumerate(item["loc"]):
        inside = isinstance(data, Mapping) and part in data
        if inside or (isinstance(data, (list, tuple)) and isinstance(part, int) and part < len(data)):
            data = data[part]
            keys.append(str(part))
        elif i + 1 == len(item["loc"]) and item["type"] == "missing":
            keys.append(str(part))
        else:
            kinds.append((tuple(keys), str(part)))
    return tuple(keys), kinds


def _explain(kind: type[Settings], layer: Layer, keys: Keys, item: Any) -> str:
    known = max((path for path in layer.origin if keys[: len(path)] == path), key=len, default=())
    place = f"{layer.origin[known]}: " if known in layer.origin else ""
    name = ".".join(keys) or "settings"
    if item["type"] == "extra_forbidden":
        typed = place.removeprefix("--set ").partition("=")[0] if place.startswith("--set ") else name
        return f"{place}unknown setting {name!r}" + _meant(kind, keys, typed)
    if item["type"] == "missing":
        return f"{place}{name} is missing"
    message = item["msg"].removeprefix("Value error, ")
    shown = f"{name} = {item['input']!r}" if len(repr(item["input"])) <= 80 else name  # the place tells the rest
    return f"{place}{shown}: {message[:1].lower() + message[1:]}"


def _meant(kind: type[BaseModel], keys: Keys, typed: str) -> str:
    """The nearest setting beside the unknown one `keys`, else the nearest anywhere, by its whole name; else what there is.

    typed: the whole name that was given, of which `keys` may be the beginning.
    """
    if typed in OPTIONS:
        return f"; that is the option {OPTIONS[typed]}"
    if near := difflib.get_close_matches(typed, ALIASES, n=1, cutoff=0.75):
        return f"; did you mean {near[0]!r}?"
    if typed.startswith(".".join(keys) + ".") and (whole := difflib.get_close_matches(typed, _all_names(kind), n=1, cutoff=0.75)):
        return f"; did you mean {whole[0]!r}?"
    level: list[type[BaseModel]] = [kind]
    for key in keys[:-1]:
        level = [part for one in level for part in ([one] if key.isdigit() else _parts(one, key))]
    here = [".".join((*keys[:-1], name)) for one in level for name in one.model_fields]
    for known in (here, _all_names(kind)):
        near = difflib.get_close_matches(keys[-1], {path.rpartition(".")[2] for path in known}, n=1, cutoff=0.6)
        if found := [path for path in dict.fromkeys(known) if near and path.rpartition(".")[2] == near[0]]:
            return f"; did you mean {' or '.join(map(repr, found[:4]))}?"
    return f"; there is {', '.join(sorted(here))}" if here else ""


def _parts(kind: type[BaseModel], name: str) -> list[type[BaseModel]]:
    """The kinds of settings that the field `name` may hold: of `Interval | float` and of lists of them too."""

    def inside(annotation: Any) -> Iterator[type[BaseModel]]:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield annotation
        for item in get_args(annotation):
            yield from inside(item)

    return list(inside(kind.model_fields[name].annotation)) if name in kind.model_fields else []


def _all_names(kind: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of all settings, sections included; of settings of several kinds, those of every kind."""
    found = []
    for name in kind.model_fields:
        inner = [item for part in _parts(kind, name) for item in _all_names(part, f"{prefix}{name}.")]
        found += [prefix + name, *inner]
    return found


# ---------------------------------------------------------------------------------------------------------- short names

ALIASES = {"lambda": "similarity_weight"}  # names that papers use
OPTIONS = {"seed": "--seeds", "seeds": "--seeds", "volume": "--volume", "protocol": "--protocol", "device": "--device", "runs": "--runs"}


def leaves(kind: type[BaseModel], prefix: str = "", sections: bool = False) -> Iterator[str]:
    """Dotted names of all settings of a Config, parts of parts included; with `sections`, the names of the parts themselves too."""
    for name, info in kind.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            if sections:
                yield prefix + name
            yield from leaves(inner, f"{prefix}{name}.", sections)
        else:
            yield prefix + name


def named(word: str, paths: Iterable[str]) -> list[str]:
    """Those of the dotted `paths` that `word` may mean: itself, else those that end with it. `m` is sample.m, `lambda` a paper's word."""
    wanted, paths = ALIASES.get(word, word), list(paths)
    return [path for path in paths if path == wanted] or [path for path in paths if path.endswith("." + wanted)]


def in_full(kind: type[BaseModel], layer: Layer) -> Layer:
    """`layer`, of `--set`, with short names written out: `m` as sample.m. Raises UserError for one that means several settings."""
    whole = []
    for key in layer.data:
        found = [] if key in kind.model_fields else named(key, leaves(kind, sections=True))
        if len(found) > 1:
            raise UserError(f"{layer.origin.get((key,), '--set')}: {key!r} may be {' or '.join(found)}; name it in full")
        path = tuple(found[0].split(".")) if found else (key,)
        data: Any = layer.data[key]
        for name in reversed(path):
            data = {name: data}
        origin = {(*path, *keys[1:]): place for keys, place in layer.origin.items() if keys[0] == key}
        whole.append(Layer(data, {path[:i]: origin[path] for i in range(1, len(path)) if path in origin} | origin))
    return merge(whole)


def did_you_mean(word: str, known: Iterable[str], show_all: bool = False) -> str:
    """`; did you mean 'x'?`, or the list of what there is, to be appended to an error."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there is {', '.join(known)}" if known and (show_all or len(known) <= 12) else ""


def file_beside(name: str, *suffixes: str) -> str:
    """`; did you mean the file 'mine.py'?` where a name without its suffix was given and the file is there; else empty."""
    found = [name + suffix for suffix in suffixes if Path(name + suffix).is_file()]
    return f"; did you mean the file {' or '.join(map(repr, found))}?" if found else ""


# --------------------------------------------------------------------------------------------------------------- files

FILES = (".yaml", ".yml", ".py", ".zip", ".rec", ".parquet", ".tar", ".lmdb", ".safetensors", ".pt", ".pth", ".ckpt", ".onnx")

CONFIGS = Path(str(resources.files("synthbench") / "configs"))


def located(value: Any, folder: Path) -> Any:
    """`value`, of a YAML file in `folder`, with its paths as they are from here: `~` is the home, others are relative to the file.

    A text is a path where something of that name is beside the file, and it has a `/` or an ending of FILES.
    """
    if isinstance(value, Mapping):
        return {_located_text(name, folder) if str(name).endswith(".py") else name: located(item, folder) for name, item in value.items()}
    if isinstance(value, list):
        return [located(item, folder) for item in value]
    return _located_text(value, folder) if isinstance(value, str) else value


def _located_text(text: str, folder: Path) -> str:
    if text.startswith("~/"):
        return os.path.expanduser(text)
    a_path = len(text) < 1000 and "\n" not in text and ("/" in text or text.lower().endswith(FILES))
    return str(folder / text) if a_path and folder != Path() and (folder / text).exists() else text


def config_names(kind: str) -> list[str]:
    """Names of the shipped files of a kind: `protocols`, `recipes`, `generators`."""
    return sorted(path.stem for path in (CONFIGS / kind).glob("*.yaml"))


def config_path(kind: str, name: str) -> Path:
    """The YAML file called `name`: a shipped one, or a path that ends in .yaml. Raises UserError with the nearest name."""
    if name.endswith((".yaml", ".yml")):
        if not (path := Path(name).expanduser()).is_file():
            raise UserError(f"{name} does not exist")
        return path
    if name not in config_names(kind):
        hint = file_beside(name, ".yaml", ".yml") or did_you_mean(name, config_names(kind), show_all=True)
        raise UserError(f"unknown {kind.removesuffix('s')} {name!r}{hint}")
    return CONFIGS / kind / f"{name}.yaml"
