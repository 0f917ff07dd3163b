"""What run.json, comparison.json and sweep.json must be for whoever reads them; more than this may be there, of older versions less."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from synthbench.results import leak
from synthbench.store import is_name
from synthbench.types import UserError, Volume

Number = Annotated[float, Field(allow_inf_nan=False, gt=-1e300, lt=1e300)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Mapping = dict[str, Any]


def _a_name(name: str) -> str:
    if not is_name(name):
        raise ValueError("leads elsewhere")
    return name


Name = Annotated[str, AfterValidator(_a_name)]  # of a folder in a folder of ours
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Shape(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class Score(Shape):
    metric: str = Field(pattern="^[^/]+/")
    value: Number
    stderr: Number | None
    seed: Seed
    n: Count | None = None
    higher_is_better: bool | None = None


class Skip(Shape):
    metric: str
    reason: str


class StageRow(Shape):
    name: Name
    key: Name
    state: str = ""
    seconds: Number = 0


class Side(Shape):
    """A run, or its real baseline."""

    generator: str
    volume: str
    protocol: str
    seeds: list[Seed] = Field(min_length=1)
    scores: list[Score]
    title: str = ""
    size: str = ""

    @field_validator("size")
    @classmethod
    def _a_size(cls, size: str) -> str:
        """As `samples.size` writes it: a volume, or how many people and images; and copies apart."""
        own = re.sub(r" \+ [\d,]+ copies$", "", size)
        if not re.fullmatch(r"[\d,]+ people, [\d,]+ images", own):
            cls._a_volume(own)
        return size

    @field_validator("volume")
    @classmethod
    def _a_volume(cls, volume: str) -> str:
        try:
            Volume.parse(volume or "all")
        except UserError as error:
            raise ValueError(str(error)) from None
        return volume


class ProtocolSettings(Shape):
    name: str
    recipe: str
    evaluators: dict[str, Mapping]
    resolution: Count = 0
    benchmarks: list[str] = []
    real: Mapping = {}
    encoder: Mapping | None = None
    judge: Mapping


class Config(Shape):
    protocol: ProtocolSettings
    recipes: dict[str, Mapping]

    @model_validator(mode="after")
    def _all_recipes(self) -> Config:
        networks = [self.protocol.judge, self.protocol.encoder or {}]
        wanted = [self.protocol.recipe, *(network["recipe"] for network in networks if "recipe" in network)]
        if not all(isinstance(name, str) and name in self.recipes for name in wanted):
            raise ValueError("a recipe is missing")
        return self


class Cost(Shape):
    wall_seconds: Number | None = None
    images_per_second: Number | None = None
    device: str | None = None


class Part(Shape):
    images: Count
    people: Count
    photographs: str
    rendered: bool


class Run(Side):
    run: Name
    skipped: list[Skip]
    stages: list[StageRow]
    artifacts: dict[str, str]
    baseline: Side | None
    settings: Mapping = {}
    changed: Mapping = {}
    learnt_from: Mapping = {}
    parts: dict[str, Part] = {}
    cleaned: Mapping = {}
    config: Config | Annotated[Mapping, Field(max_length=0)] | None = None
    traits: dict[str, str | bool | None] = {}
    digests: dict[str, str | None] = {}
    cost: Cost = Cost()
    weights: Mapping = {}
    benchmarks: list[str] = []
    command: str = ""


class Cell(Shape):
    value: Number | None
    sampling_stderr: Number | None = None
    seed_std: Number | None = None
    low: Number | None = None
    high: Number | None = None
    n: Count = 1


def _told(cells: dict[str, Cell | None]) -> dict[str, Cell | None]:
    """A leak that chance hides has a cell without a value (`leak.beside`), and nothing else has."""
    if empty := [metric for metric, cell in cells.items() if cell and cell.value is None and metric != leak.SHARE]:
        raise ValueError(f"{empty[0]} has no value")
    return cells


Cells = Annotated[dict[str, Cell | None], AfterValidator(_told)]  # by metric


class Column(Shape):
    metric: str = Field(pattern="^[^/]+/")
    title: str
    unit: str = ""
    digits: Annotated[int, Field(ge=0, le=20)] = 2
    scale: Number = 1.0
    group: str = "data"
    higher_is_better: bool | None = None


class Row(Shape):
    run: str
    label: str
    generator: str
    volume: str
    cells: Cells


class CardLine(Shape):
    """Of a scorecard."""

    requirement: str
    measure: str
    value: str
    real: str


class RunRow(Row):
    seeds: Count
    scorecard: list[CardLine] = []
    parts: dict[str, Part] = {}
    rank: tuple[Count, Count] | None = Field(None, strict=False)
    traits: dict[str, str | bool | None] = {}
    cost: dict[str, Number | str | None] = {}


class Difference(Shape):
    a: str
    b: str
    metric: str
    points: Number
    low: Number
    high: Number
    p: Number


class Comparison(Shape):
    comparison: str
    protocol: str
    title: str = ""
    volume: str
    seeds: list[Seed]
    runs: list[str]
    baseline: str
    floor: Row | None = None
    columns: list[Column]
    rows: list[RunRow] = Field(min_length=1)
    differences: list[Difference]
    detectable_points: Number | None = None
    notes: list[str] = []
    skipped: list[Any] = []
    command: str = ""

    @model_validator(mode="after")
    def _of_its_rows(self) -> Comparison:
        runs, metrics = {row.run for row in self.rows}, {column.metric for column in self.columns}
        if not {self.baseline, *self.runs, *(run for row in self.differences for run in (row.a, row.b))} <= runs:
            raise ValueError("a run without a row")
        if not all(metrics <= row.cells.keys() for row in self.rows):
            raise ValueError("a row without a cell")
        return self


class SweepPoint(Shape):
    values: Mapping
    state: str
    scores: Cells = {}
    run: str | None = None
    runs: list[str] = []


class Confirmed(Shape):
    values: Mapping
    run: str | None = None
    runs: list[str] = []
    scores: Cells


class Sweep(Shape):
    sweep: str
    generator: str
    volume: str
    protocol: str
    title: str = ""
    seeds: list[Seed]
    parameters: list[str] = Field(min_length=1)
    points: list[SweepPoint]
    best: Count | None
    confirmed: list[Confirmed] | None = None
    statement: str = ""
    command: str = ""

    @model_validator(mode="after")
    def _of_its_points(self) -> Sweep:
        if self.best is not None and self.best >= len(self.points):
            raise ValueError("the best is no point")
        if not all(set(self.parameters) <= point.values.keys() for point in self.points):
            raise ValueError("a point without a value")
        return self


class Input(Shape):
    """Registered data or weights that a run needed."""

    name: str
    kind: str
    role: str
    digest: str
    licence: str


class Bundle(Shape):
    """bundle.json, see leaderboard/bundle.py."""

    bundle: Annotated[int, Field(ge=1, le=1)]  # version of the form
    kind: Literal["run", "comparison"]
    name: Name
    runs: list[Name] = Field(min_length=1)
    made: str
    weights: bool
    inputs: list[Input]
    versions: dict[str, str]
    files: dict[str, Digest]


class Pairs(Shape):
    """pairs.json of a benchmark: what is told of it besides its images."""

    name: Name
    digest: str
    groups: list[str] = []


SHAPES: dict[str, type[Shape]] = {"run": Run, "comparison": Comparison, "sweep": Sweep, "bundle": Bundle, "pairs": Pairs}


def whole(kind: str, found: Any) -> bool:
    """Whether `found`, read from a JSON file, is a whole run, comparison, sweep, bundle or list of pairs."""
    try:
        SHAPES[kind].model_validate(found)
    except (ValidationError, OverflowError, RecursionError):
        return False
    return True
