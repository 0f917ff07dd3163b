"""Commands about this machine: plugins tested, MLflow and Optuna shown, what there is for a bug report."""

from __future__ import annotations

from pathlib import Path

import click

from synthbench import console
from synthbench.cli import complete
from synthbench.cli.options import RUNS


@click.command("test", short_help="Check that a plugin keeps the contract.")
@click.argument("plugin", shell_complete=complete.plugins)
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", shell_complete=complete.settings, help="A setting of the plugin; repeatable."
)
def test_command(plugin: str, settings: tuple[str, ...]) -> None:
    """Run the plugin contract on PLUGIN (a name or a .py file): slots, seeds, resume, sharding, shapes."""
    from synthbench import registry

    if not plugin.endswith(".py"):
        registry.kind_of(plugin)  # a wrong name is told before torch is imported
    from synthbench import testing

    for line in testing.check(plugin, settings):
        console.note(f"ok: {line}")


@click.command("ui", short_help="MLflow on the runs folder, or Optuna's dashboard.")
@click.option("--port", type=click.IntRange(1, 65535), help="[default: 5000; with --optuna 8080]")
@click.option(
    "--optuna",
    "sweep",
    is_flag=False,
    flag_value="",
    metavar="[SWEEP]",
    shell_complete=complete.sweeps,
    help="optuna-dashboard of a sweep.  [default: the latest]",
)
@RUNS
def ui_command(port: int | None, sweep: str | None, runs: Path) -> None:
    """Start MLflow, or optuna-dashboard, on loopback and print the link that opens on the runs, or on a sweep."""
    if sweep is not None:
        from synthbench.results import lookup
        from synthbench.store import Store

        folder = lookup.find(Store(runs.absolute()), sweep or "latest", ("sweep",)).folder
        from synthbench.sweep import dashboard

        dashboard.serve(folder, port or 8080)
        return
    from synthbench.tracking import mirror

    mirror.ui(runs.absolute(), port or 5000)


@click.command("sync", short_help="Mirror runs to MLflow that are not there yet.")
@RUNS
def sync_command(runs: Path) -> None:
    """Rebuild the MLflow mirror from the run folders, after a tracking failure or when mlflow.db was deleted."""
    from synthbench.store import Store
    from synthbench.tracking import mirror

    console.note(f"{mirror.synchronise(Store(runs.absolute()))} runs added")


@click.command("doctor", short_help="Versions, devices, disk, data: for a bug report.")
@RUNS
def doctor_command(runs: Path) -> None:
    """What synthbench finds on this machine."""
    from synthbench.inventory import machine

    for name, value in machine.doctor(runs):
        click.echo(f"{name:<14} {value}")


COMMANDS = (test_command, ui_command, sync_command, doctor_command)
