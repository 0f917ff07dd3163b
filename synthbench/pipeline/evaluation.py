"""`synthbench evaluate`: recognizers that were trained elsewhere, or by runs, on benchmarks. No generator, no set, no training.

With a protocol the networks see its benchmarks at its resolution, and may stand beside its runs in `compare`; without one every network
sees images of the size that it was trained for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthbench import __version__, console
from synthbench.config import Layer, build, did_you_mean, parse_set
from synthbench.data import sources
from synthbench.pipeline import benchmark_sets, checks
from synthbench.pipeline import plan as plans
from synthbench.pipeline.cost import Cost
from synthbench.pipeline.job import Job
from synthbench.pipeline.steps import Step, execute, run_evaluators, seed_scores
from synthbench.plugin import Context, Subject
from synthbench.protocol import DistilledNetwork, Protocol, load_protocol
from synthbench.results import comparable, lookup, record
from synthbench.results.record import Result
from synthbench.store import Store, content_key, write_json
from synthbench.types import Progress, UserError, Volume

if TYPE_CHECKING:
    import torch

    from synthbench.models.encoder import Encoder
    from synthbench.plugin import Evaluator

    Evaluators = dict[str, Evaluator[Any]]

OWN_SIZE = "own-size"  # in the place of a protocol's name
LENT = ("encoder", "judge")  # networks of a protocol that can be named as weights


@dataclass(frozen=True)
class Request:
    """The command line of `synthbench evaluate`, as given."""

    weights: tuple[str, ...]
    runs: Path
    benchmarks: tuple[str, ...] = ()
    protocol: str | None = None
    colour: str | None = None
    input: str = "auto"
    settings: tuple[str, ...] = ()
    device: str = "auto"


@dataclass(frozen=True)
class Asked:
    """On what networks are scored."""

    pairs: tuple[str, ...]
    templates: tuple[str, ...]


@dataclass(frozen=True)
class Recognizer:
    """Networks of one name: one for each seed of a run, else one."""

    name: str
    networks: dict[int, Encoder]


def evaluate(request: Request) -> list[Result]:
    """Score what was not scored yet; a result for each of the weights, kept as <runs>/evaluations/<name>/evaluation.json.

    Raises UserError for weights that are nothing known or cannot be read, and when there are no benchmarks.
    """
    from synthbench.device import pick_device, set_threads

    store, protocol = Store(request.runs.absolute()), load_protocol(request.protocol) if request.protocol else None
    evaluators = _evaluators(request, protocol)
    set_threads()
    device, why = pick_device(request.device)
    recognizers = [recognizer(text, request, store, device, protocol) for text in request.weights]
    asked = chosen(request, protocol)
    names = (*asked.pairs, *asked.templates)
    for name in set(names) & set(sources.names_registered()):
        sources.recheck(name)
        for doubt in sources.misgivings(name):
            console.warn(f"benchmark {name}: {doubt}")
    console.note(f"device {why}")
    plan = {item.name: _wire(item, store, asked, protocol, evaluators, device) for item in recognizers}
    steps = plans.once([step for pair in found.values() for step in pair] for found in plan.values())
    plans.announce(plans.look(steps, store), f"{', '.join(plan)} on {', '.join(names)}")
    states = {row["key"]: row for row in execute(steps, store)}
    return [_collect(item, plan[item.name], states, store, asked.pairs, protocol) for item in recognizers]


def chosen(request: Request, protocol: Protocol | None) -> Asked:
    """The benchmarks and template sets: those asked for, else the protocol's, else all that are registered."""
    from synthbench.world.templates import WORLD_TEMPLATES

    named = request.benchmarks or ((*protocol.benchmarks, *protocol.templates) if protocol else ())
    known = {row["name"]: row for row in sources.status(every_file=False)}
    names = tuple(dict.fromkeys(named)) or tuple(
        name for name, row in known.items() if row["kind"] in ("pairs", "templates") and row["state"] == "registered"
    )
    if not names:
        raise UserError(
            "no benchmark is registered, and none was asked for. Register one (synthbench data add lfw lfw.bin), or take those of the "
            "embedded world: --benchmarks world-mixed,world-profile"
        )
    templates = tuple(name for name in names if name in WORLD_TEMPLATES or known.get(name, {}).get("kind") == "templates")
    return Asked(tuple(name for name in names if name not in templates), templates)


def teachers(protocol: str, runs: Path, device: str) -> list[Result]:
    """The rows above all that follows from them: E_id, which the protocol lends to generators, and who taught it, where somebody did.

    A generator hands on what its teacher knows; why not use the teacher, asks who reads the table.
    """
    encoder = load_protocol(protocol).encoder
    taught = (encoder.teacher,) if isinstance(encoder, DistilledNetwork) else ()
    return evaluate(Request(("encoder", *taught), runs, protocol=protocol, device=device))


def recognizer(text: str, request: Request, store: Store, device: torch.device, protocol: Protocol | None = None) -> Recognizer:
    """What `text` names: a file or folder of weights, a registered name, a run by a unique beginning of its name, or encoder or judge of
    `protocol`."""
    from synthbench.models.checkpoints import load_checkpoint

    def load(path: Path, **options: Any) -> Encoder:
        return load_checkpoint(path, input=request.input, **options).to(device)

    path = Path(text).expanduser()
    if path.exists():
        sources.look_once(path, request.colour, request.input)
        network = load(path, colour=request.colour)
        return Recognizer(path.stem if path.is_file() else path.name, {0: network})
    if sources.registered(text):
        known = sources.find(text, "weights")
        return Recognizer(
            text, {0: load(known.path, **{**known.options, **({"colour": request.colour} if request.colour else {})}, name=text)}
        )
    if protocol and text in LENT:
        return Recognizer(f"{text} of {protocol.name}", {0: lent(text, protocol, request, store, device)})
    made = lookup.everything(store, ("run",))
    if not any(item.name.startswith(text) for item in made) and text != "latest":
        names = [*sources.names_registered(), *(item.name for item in made)]
        hint = f"; the {text} of a protocol needs --protocol NAME" if text in LENT else did_you_mean(text, names)
        raise UserError(f"{text!r} is no file, no registered weights and no run in {store.root}{hint}")
    result = lookup.read(lookup.find(store, text, ("run",)))
    folders = [store.stage("recognizer", key).folder for key in comparable.keys(comparable.sides(result)["own"], "recognizer")]
    return Recognizer(result["run"], {seed: load(folder) for seed, folder in zip(result["seeds"], folders)})


def lent(which: str, protocol: Protocol, request: Request, store: Store, device: torch.device) -> Encoder:
    """Encoder or judge of the protocol. Raises UserError while it is not trained."""
    job = Job(store, protocol, "real", Volume.parse("all"), device)
    steps = job.network_steps(which, getattr(protocol, which))
    if any(step.stage.state != "cached" for step in steps):
        make = f"synthbench run cemiface --protocol {request.protocol} --until {which} --runs {request.runs}"
        raise UserError(f"the {which} of protocol {protocol.name} is not trained in {request.runs} yet: {make}")
    return job.network(which)


def _evaluators(request: Request, protocol: Protocol | None) -> Evaluators:
    """Those of the protocol that look at no set: verification, templates, and groups of people where it has that."""
    from synthbench.evaluators.groups import Groups, GroupsConfig
    from synthbench.evaluators.templates import TemplatesConfig, TemplateSets
    from synthbench.evaluators.verification import Verification, VerificationConfig

    given = protocol.evaluators if protocol else {}
    config = build(VerificationConfig, Layer(given.get("verification", {})), parse_set(request.settings))
    found: Evaluators = {"verification": Verification(config.model_copy(update={"untrained": 0}))}
    found |= {"groups": Groups(build(GroupsConfig, Layer(given["groups"])))} if "groups" in given else {}
    searching = build(TemplatesConfig, Layer(given.get("templates", {})))
    return found | {"templates": TemplateSets(searching.model_copy(update={"untrained": 0}))}


def _wire(
    item: Recognizer, store: Store, asked: Asked, protocol: Protocol | None, evaluators: Evaluators, device: torch.device
) -> dict[int, tuple[Step, Step]]:
    """For each seed the stages of benchmarks and of scores."""
    found = {}
    for seed, network in item.networks.items():
        r = protocol.resolution if protocol else network.resolution

        def check(folder: Path, network: Encoder = network) -> None:
            checks.colours(benchmark_sets.photographs(folder, asked.pairs), {network.name: network})

        pairs = benchmark_sets.step(store, asked.pairs, r, check, asked.templates)
        found[seed] = pairs, _scores(network, pairs, asked, seed, r, evaluators, store, device)
    return found


def _scores(
    network: Encoder, pairs: Step, asked: Asked, seed: int, r: int, evaluators: Evaluators, store: Store, device: torch.device
) -> Step:
    evaluators = {name: item for name, item in evaluators.items() if name != "templates" or asked.templates}
    settings = [part for item in evaluators.values() for part in (item.version, item.config.model_dump(mode="json"))]
    parts: dict[str, Any] = {"stage": "evaluate weights", "evaluators": settings}
    parts |= {"benchmarks": pairs.stage.key, "weights": network.digest, "seed": seed}
    parts |= {"input": [network.colour, network.gain, network.offset, network.resolution]}

    def score(folder: Path, progress: Progress) -> None:
        from synthbench.data.pairs import open_pairs
        from synthbench.data.templates import open_templates

        sets = [open_pairs(pairs.stage.folder / name) for name in asked.pairs]
        found = [open_templates(pairs.stage.folder / name) for name in asked.templates]
        nothing: Any = None  # no set is looked at
        subject = Subject(nothing, nothing, nothing, recognizer=network, benchmarks=sets, templates=found, progress=progress)
        run_evaluators(evaluators, subject, Context(folder, seed, r, device, nothing, nothing), lambda done, total: None)

    label = f"score {network.name} {r} {device.type}"
    names = (*asked.pairs, *asked.templates)
    return Step(
        store.stage("evaluate", content_key(parts)), f"{network.name}: {', '.join(names)}", score, label, lambda: Cost(pairs.images)
    )


def _collect(
    item: Recognizer,
    steps: dict[int, tuple[Step, Step]],
    states: dict[str, Any],
    store: Store,
    names: tuple[str, ...],
    protocol: Protocol | None,
) -> Result:
    """The result, as the JSON contract of a run has it as far as there is anything to tell, written to its folder."""
    found = {seed: seed_scores(scores) for seed, (_, scores) in steps.items()}
    first = next(iter(item.networks.values()))
    known = protocol.name if protocol else OWN_SIZE
    run = record.run_name(item.name, "weights", known, (scores.stage.key for _, scores in steps.values()))
    folder = store.root / "evaluations" / run
    result = {
        "run": run,
        "generator": item.name,
        "volume": "",
        "protocol": known,
        "title": protocol.title if protocol else "every network at the size of images that it was trained for",
        "seeds": list(steps),
        "scores": [{**score, "seed": seed} for seed, scores in found.items() for score in scores["scores"]],
        "skipped": next(iter(found.values()))["skipped"],
        "stages": [states[step.stage.key] for pair in steps.values() for step in pair],
        "artifacts": {"folder": str(folder)},
        "baseline": None,
        "weights": {
            "resolution": first.resolution,
            "dim": first.dim,
            "colour": first.colour,
            "parameters": first.parameter_count,
            "digests": [network.digest for network in item.networks.values()],
        },
        "benchmarks": list(names),
        "settings": {},
        "synthbench": __version__,
        "command": console.command_line(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "evaluation.json", result)
    lookup.asked(store, "evaluation", run)
    return result
