"""Options that several commands share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from synthbench import console, system
from synthbench.cli import complete
from synthbench.system import launched
from synthbench.types import UserError

if TYPE_CHECKING:
    from synthbench.pipeline import simulated


class _Path(click.Path):
    """One that may begin with ~, which the shell leaves as it is behind `=`, in quotes and in variables of the environment."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        return super().convert(os.path.expanduser(value), parameter, context)


FOLDER = _Path(path_type=Path)
RUNS = click.option(
    "--runs",
    type=_Path(path_type=Path, file_okay=False),
    default=Path("runs"),
    envvar="SYNTHBENCH_RUNS",
    show_default=True,
    help="Folder of results.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout; progress stays on stderr.")
PROTOCOL = click.option(
    "--protocol", shell_complete=complete.protocols, help="Name or .yaml file.  [default: paper when its data are registered, else demo]"
)
VOLUME = click.option("--volume", help="0.5M, 1.0M, 1.2M, all, or identities x images, such as 200x20.  [default: the protocol's]")
SETTINGS = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    shell_complete=complete.settings,
    help="A generator's setting, such as sample.m=0.2; repeatable.",
)
FORMS_WRITTEN = ("imagefolder", "rec", "webdataset", "parquet", "lmdb")
FORM = click.option("--to", "form", type=click.Choice(FORMS_WRITTEN), required=True)
NO_TRACKING = click.option("--no-tracking", is_flag=True, help="Do not mirror to MLflow.")
DRY_RUN = click.option("--dry-run", is_flag=True, help="Show stages, state, time and disk; do nothing.")


def _for_now(context: click.Context, name: str, value: str) -> None:
    """Set a variable of the environment for as long as the command takes."""
    before = os.environ.get(name)
    os.environ[name] = value
    context.call_on_close(lambda: os.environ.pop(name, None) if before is None else os.environ.update({name: before}))


def _spoken(variable: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    """What an option does that stands for a `variable` of the environment and enters no key."""

    def heard(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value is not None:
            _for_now(context, variable, str(value))

    return heard


_COMPILE = click.option(
    "--compile",
    type=click.Choice(["auto", "off"]),
    expose_value=False,
    callback=_spoken(system.COMPILE),
    help="Compile networks where it pays, on CUDA.  [default: auto]",
)
_BATCH = click.option(
    "--batch",
    type=click.IntRange(min=1),
    metavar="N",
    expose_value=False,
    callback=_spoken(system.BATCH),
    help="Images sampled at a time on a GPU.  [default: 64]",
)
_DEVICE = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")


def _devices(context: click.Context, parameter: click.Parameter, value: int | None) -> int | None:
    if value is not None:
        _for_now(context, system.DEVICES, str(value))
    return value


DEVICES = click.option(
    "--devices",
    type=int,
    metavar="N",
    envvar=system.DEVICES,
    callback=_devices,
    help="Work in N processes, a GPU each (without GPUs, some cores each). Under torchrun: its number.",
)


TWO_WAYS = "--on gives stages to machines, one device each; --devices gives a stage several here. Leave one of the two out"
ON = click.option(
    "--on", metavar="WHERE", default="here", show_default=True, help="here, ray (a cluster of this machine), ray://HOST:PORT."
)


CLUSTER = click.option(
    "--cluster", metavar="MACHINESxGPUS", help="With --dry-run --on ray: when what would be done on 4x8, 4x8:H100.  [default: this machine]"
)


def planned_on(dry_run: bool, on: str, cluster: str | None, devices: int | None) -> simulated.Machines | None:
    """The machines for which `--dry-run --on` plans; None where it plans for this command alone. Raises UserError."""
    if cluster is not None and not (dry_run and on != "here"):
        raise UserError("--cluster says on what to simulate a schedule: give it with --dry-run --on ray")
    if not dry_run or on == "here":
        return None
    if (devices or launched()[1]) > 1:
        raise UserError(TWO_WAYS)
    from synthbench.pipeline import simulated

    return simulated.machines(cluster)


def spread(devices: int | None, device: str, jobs: int = 1, on: str = "here", requests: Callable[[], Sequence[Any]] = lambda: ()) -> None:
    """Where `on` asks for it, have a cluster build the stages of `requests`, which the command then finds. Where `devices` asks for it,
    have this command done by several processes, and end with it: it does not return then."""
    several = (devices or launched()[1]) > 1
    if several and jobs > 1:
        raise UserError("--jobs shares the GPUs out, a point each; --devices gives a stage all of them. Leave one of the two out")
    if several and on != "here":
        raise UserError(TWO_WAYS)
    if on != "here":
        from synthbench.pipeline import cluster

        cluster.build(requests, on)
    if devices is not None or launched()[1] > 1:
        from synthbench.training import crew

        code = crew.spread(devices, device)
        if code is not None:
            sys.exit(code)


def DEVICE(command: Any) -> Any:
    """--device, and --compile and --batch, which depend on it."""
    return SCORING(_BATCH(command))


def SCORING(command: Any) -> Any:
    """DEVICE of commands that sample no image: without --batch."""
    return _DEVICE(_COMPILE(command))


def _be_quiet(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not console.quiet():
        os.environ[console.QUIET] = "1"
        context.call_on_close(lambda: os.environ.pop(console.QUIET, None))


QUIET = click.option(  # of every command: see app.py
    "-q", "--quiet", is_flag=True, expose_value=False, callback=_be_quiet, help="Results, warnings and errors only: no notes, no progress."
)
