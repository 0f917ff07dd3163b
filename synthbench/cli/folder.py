"""`synthbench runs`: taking runs, and stages that nothing needs, out of the folder of results. `synthbench completion`: for the shell."""

from __future__ import annotations

from pathlib import Path

import click

from synthbench import console
from synthbench.cli import complete
from synthbench.cli.options import RUNS
from synthbench.types import UserError

YES = click.option("--yes", is_flag=True, help="Delete without asking.")
DRY_RUN = click.option("--dry-run", is_flag=True, help="Show what would go, with sizes; delete nothing.")
SHOWN = 40  # stages in a table


@click.group("runs", short_help="Delete runs, and stages that no run needs.")
def runs_group() -> None:
    """Make room in the folder of results. What is there: synthbench list runs."""


@runs_group.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete.made)
@YES
@DRY_RUN
@RUNS
def remove_command(names: tuple[str, ...], yes: bool, dry_run: bool, runs: Path) -> None:
    """Delete runs, comparisons, sweeps and evaluations by name, their beginning, or latest.

    Their stages stay until `synthbench runs prune`, so that the same command would make a run again from the cache. A run that a comparison
    or sweep shows goes only with it. MLflow keeps its copy.
    """
    from synthbench.results import lookup, tidy
    from synthbench.store import Store

    store = Store(runs.absolute())
    doomed = list({item.folder: item for item in (lookup.find(store, name, tuple(lookup.PLACES)) for name in names)}.values())
    tidy.check_free(store, doomed)
    rows = [(item.kind, item.name, console.size(tidy.size(item.folder)), lookup.contents(store, item)) for item in doomed]
    console.table("to delete", ("kind", "name", "size", "what"), rows)
    if dry_run or not _sure(f"delete {len(doomed)} of them?" if len(doomed) > 1 else "delete it?", yes):
        return
    tidy.remove_made(store, doomed)
    console.note("deleted; the disk that stages take is freed by: synthbench runs prune")


@runs_group.command("prune")
@click.option("--unfinished", is_flag=True, help="Also what commands made that were stopped and would continue.")
@YES
@DRY_RUN
@RUNS
def prune_command(unfinished: bool, yes: bool, dry_run: bool, runs: Path) -> None:
    """Delete the cached stages that no run, comparison or sweep needs. What was stopped on the way stays, as the same command continues it.

    \b
    synthbench runs prune --dry-run
    synthbench runs prune --unfinished --yes
    """
    from synthbench.results import tidy
    from synthbench.store import Store

    store = Store(runs.absolute())
    if unfinished and (busy := tidy.at_work(store)):
        raise UserError(f"something is running in {store.root} ({', '.join(busy)} is being built); wait for it, or leave out --unfinished")
    found = tidy.spare(store, unfinished)
    rows = [(item.stage.name, item.work, item.finished or "unfinished", console.size(item.bytes)) for item in found]
    kept = sum(1 for _ in tidy.plans(store))
    if kept and not unfinished:
        console.note(f"kept: the stages of {console.counted(kept, 'command')} that did not end; --unfinished gives them up")
    if not rows:
        console.note(f"nothing to delete in {store.root}")
        return
    total = console.size(sum(item.bytes for item in found))
    more = [("...", f"{len(rows) - SHOWN} smaller ones", "", "")] if len(rows) > SHOWN else []
    console.table(f"stages that nothing needs: {len(rows)}, {total}", ("stage", "work", "finished", "size"), [*rows[:SHOWN], *more])
    if dry_run or not _sure(f"delete {len(rows)} stages, {total}?", yes):
        return
    count, size = tidy.prune(store, found, unfinished)
    stayed = f"; {len(found) - count} stay, as something needs or builds them now" if count < len(found) else ""
    console.note(f"deleted {count} stages, {console.size(size)}{stayed}")


def _sure(question: str, yes: bool) -> bool:
    if yes:
        return True
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        raise UserError("nothing was deleted: nobody answered; --yes deletes without asking") from None


@click.command("completion", short_help="Completion of names and options, for your shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the script that lets SHELL complete commands, options, generators, protocols, runs and the like with Tab.

    \b
    eval "$(synthbench completion bash)"            in ~/.bashrc, for bash 4.4 or later
    eval "$(synthbench completion zsh)"             in ~/.zshrc, after compinit
    synthbench completion fish | source             in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found
    script = found(click.get_current_context().find_root().command, {}, "synthbench", "_SYNTHBENCH_COMPLETE")
    click.echo(script.source_template % script.source_vars())  # `source` would ask bash for its version


COMMANDS = (runs_group, completion_command)
