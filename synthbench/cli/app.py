"""The command line: the group of all commands, and what happens when one fails. --help is instant: no torch, no MLflow."""

from __future__ import annotations

import errno
import io
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import Any

import click

from synthbench import __version__, console
from synthbench.cli import data, folder, leaderboard, machine, results, runs
from synthbench.cli.options import QUIET
from synthbench.system import launched
from synthbench.types import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOLCK)
DISK = FULL + REFUSED
NO_ARGUMENTS: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())  # of click 8.2; before, its help ends with 0


class _Group(click.Group):
    def parse_args(self, context: click.Context, words: list[str]) -> list[str]:
        """A ~ in quotes, which the shell has left, is the home too: of generators in files, say."""
        return super().parse_args(context, [os.path.expanduser(word) if word.startswith("~/") else word for word in words])


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="synthbench")
def cli() -> None:
    """Compare generators of synthetic faces by how well a recognizer trained on their images recognizes real faces.

    \b
    synthbench run cemiface                          the embedded world: no data, no GPU, minutes
    synthbench run cemiface --volume 0.5M            the paper's job, when its data are registered
    synthbench run cemiface --dry-run                what would be done
    """


for command in (*runs.COMMANDS, *results.COMMANDS, *leaderboard.COMMANDS, *folder.COMMANDS, data.data_group, *machine.COMMANDS):
    cli.add_command(command)
    for each in command.commands.values() if isinstance(command, click.Group) else [command]:
        QUIET(each)


class Terminated(KeyboardInterrupt):
    """SIGTERM, as batch systems send it: everything is closed as after Ctrl-C."""


def _terminate(*_: Any) -> None:
    raise Terminated


def main() -> None:
    """Entry point: exit codes 0 done, 1 a stage failed or a bundle differs, 2 wrong command or input, 3 data missing, 130 interrupted,
    143 terminated."""
    signal.signal(signal.SIGTERM, _terminate)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr does: a path may have bytes that are no text
    wait_briefly()
    rank, processes, _ = launched()
    if rank:
        os._exit(_follow())  # nothing is left to close
    code = _guarded()
    if processes > 1:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # of the launcher, when another process has ended: this one ends already
        if not code:
            from synthbench.training import crew

            crew.dismiss()
    sys.exit(code)


def _follow() -> int:
    """What every process but the first does under torch's launcher, in silence. What stops it is said late, when the first one, which the
    same has stopped, would have ended all."""
    for number in (signal.SIGTERM, signal.SIGINT):  # at once: one that waits for another runs no Python
        signal.signal(number, signal.SIG_DFL)
    spoken, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1), os.dup2(null, 2)
    try:
        from synthbench.pipeline import together

        together.follow()
        return 0
    except Exception as error:
        import time
        import traceback

        time.sleep(2)
        said = str(error) if isinstance(error, UserError) else "".join(traceback.format_exception(error))
        os.write(spoken, f"process {launched()[0]}: {said}\n".encode("utf-8", "backslashreplace"))
        return error.exit_code if isinstance(error, UserError) else 1


def wait_briefly() -> None:
    """Let threads of OpenMP that wait for others spin for some microseconds and then sleep, unless the user has chosen; before torch.

    By default they spin for milliseconds: on an idle machine hardly faster, beside another busy process several times slower
    (docs/results/speed.md). The variable is libgomp's, which torch's Linux wheels use; others do not read it.
    """
    if "OMP_WAIT_POLICY" not in os.environ:  # GOMP_SPINCOUNT would override it
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def _guarded() -> int:
    try:
        code = cli.main(standalone_mode=False, prog_name="synthbench")
        return code if isinstance(code, int) else 0  # of an Exit, which click does not raise here
    except UserError as error:
        console.error(split_by_the_shell(sys.argv[1:]) or str(error))
        return error.exit_code
    except NO_ARGUMENTS as error:
        error.show()
        return 2
    except click.ClickException as error:
        console.error(split_by_the_shell(sys.argv[1:]) or _usage(error))
        return 2
    except (KeyboardInterrupt, click.Abort) as error:
        cause = error.__cause__ or error  # click wraps both, and takes the end of any file for Ctrl-D
        if isinstance(cause, EOFError):
            return _unexpected(cause)
        terminated = isinstance(cause, Terminated)
        console.note(f"{'terminated' if terminated else 'interrupted'}; nothing is lost. Continue with: {continue_command()}")
        return 143 if terminated else 130
    except BrokenPipeError:
        return 1
    except OSError as error:
        if error.errno in DISK:
            where = error.filename or "to the disk"
            advice = "With more room, continue with" if error.errno in FULL else "Where it may be written (see --runs), continue with"
            console.error(f"cannot write {where}: {error.strerror}. Nothing is lost.\n{advice}: {continue_command()}")
            return 2
        return _unexpected(error)
    except Exception as error:
        return _unexpected(error)


def _usage(error: click.ClickException) -> str:
    """What click has against a command line, and where its options are explained."""
    text, context = error.format_message(), getattr(error, "ctx", None)
    if "unexpected extra argument" in text:
        text += "\nA value with spaces, brackets or braces stands in quotes, and every NAME=VALUE behind a --set of its own"
    return f"{text}\nSee {context.command_path} --help" if context else text


def split_by_the_shell(arguments: Sequence[str]) -> str:
    """How to quote a value such as [0, 1] that the shell cut at its spaces; empty when there is none."""
    for first in range(len(arguments)):
        joined = (" ".join(arguments[first:end]) for end in range(first + 1, len(arguments) + 1))
        whole = next((text for text in joined if all(text.count(one) <= text.count(other) for one, other in ("[]", "{}"))), "")
        if whole and whole != arguments[first]:
            option = f"{arguments[first - 1]} " if first and arguments[first - 1].startswith("-") else ""
            return f"the shell cut {whole} at its spaces; quote it: {option}{shlex.quote(whole)}"
    return ""


def continue_command() -> str:
    return "synthbench " + shlex.join(sys.argv[1:])


def _unexpected(error: Exception) -> int:
    import tempfile
    import traceback

    from synthbench.registry import plugin_place

    place = plugin_place(error)
    package = (getattr(error, "name", None) or "synthbench").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and package != "synthbench" and not place:
        again = f"{sys.executable} -m pip install --force-reinstall synthbench"
        console.error(f"the package {package} is missing in {sys.prefix}, and synthbench needs it. Install again: `make`, or {again}")
        return 1
    with tempfile.NamedTemporaryFile("w", prefix="synthbench-", suffix=".log", delete=False) as log:
        traceback.print_exception(error, file=log)
    whose = f"It was raised in the plugin, {place}" if place else "This is a fault of synthbench"
    console.error(f"{type(error).__name__}: {error}\n{whose}; the details are in {log.name}")
    return 1
