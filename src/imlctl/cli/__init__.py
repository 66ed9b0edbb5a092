"""The command line: parse, call, print. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import traceback
from typing import Annotated, Any

import typer

from imlctl import __version__
from imlctl.cli.bench import bench
from imlctl.cli.console import ReaderGoneError, complain
from imlctl.cli.data import data
from imlctl.cli.doctor import doctor
from imlctl.cli.interrupts import terminate_as_interrupt
from imlctl.cli.localize import localize
from imlctl.cli.localize_options import LocalizeCommand
from imlctl.cli.report import report, verify
from imlctl.cli.train import distill, train
from imlctl.cli.weights import weights
from imlctl.errors import Exit, ImlctlError
from imlctl.process import keep_freed_blocks, spin_moderately

_WIDEST, _NARROWEST = 100, 20  # columns

app = typer.Typer(
    name="imlctl",
    help="Mark the manipulated pixels of a photograph.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: in half the time, and it reads on narrow terminals
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=LocalizeCommand)(localize)
app.command()(train)
app.command()(distill)
app.command()(bench)
app.command()(report)
app.command()(verify)
app.command()(doctor)
app.add_typer(data, name="data")
app.add_typer(weights, name="weights")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"imlctl {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Mark the manipulated pixels of a photograph."""
    keep_freed_blocks()
    spin_moderately()


def _command_line(app: typer.Typer) -> Any:
    """Return the command that an application is, with help for narrow terminals.

    Names get a third of the width at most, and what is longer a line of its own: otherwise long
    ones leave a column of broken words for the explanations.
    """
    root: Any = typer.main.get_command(app)

    class Formatter(root.context_class.formatter_class):  # type: ignore[misc]
        def write_dl(self, rows: Any, col_max: int = 30, col_spacing: int = 2) -> None:
            super().write_dl(rows, min(col_max, self.width // 3), col_spacing)

    class Context(root.context_class):  # type: ignore[misc]
        formatter_class = Formatter

    waiting = [root]
    while waiting:
        command = waiting.pop()
        command.context_class = Context
        waiting += getattr(command, "commands", {}).values()
    return root


def main() -> None:
    """Run the command line and exit with a code of `errors.Exit`."""
    _fill_standard_streams()
    terminate_as_interrupt()
    status = _run()
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:  # Python would try again at its end, and make a status of its own
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if error.errno != errno.EPIPE:
            complain(f"standard output: cannot be written: {error.strerror}")
            status = status or Exit.USAGE
    sys.exit(status)


def _run() -> int:
    command = _command_line(app)
    # For help: the terminal's columns, also where Click would not go below fifty.
    width = max(_NARROWEST, min(shutil.get_terminal_size().columns, _WIDEST) - 2)
    try:
        return int(command(prog_name="imlctl", terminal_width=width, standalone_mode=False) or 0)
    except ImlctlError as error:
        complain(error.message, error.details)
        return error.exit_code
    except KeyboardInterrupt:
        complain("interrupted")
        return Exit.INTERRUPTED
    except (BrokenPipeError, ReaderGoneError):  # whoever read our output has seen enough
        return Exit.OK
    except SystemExit as end:  # of Typer, which has a status of its own for a broken pipe
        if isinstance(end.__context__, BrokenPipeError):
            return Exit.OK
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as error:
        return _unforeseen(error)


def _unforeseen(error: Exception) -> int:
    """Print what is no error of ours, and return its status, which must not mean "found"."""
    if hasattr(error, "show") and hasattr(error, "exit_code"):  # Typer's, about wrong usage
        error.show()
        return int(error.exit_code)
    if isinstance(error, OSError) and error.filename is None and error.errno == errno.ENOSPC:
        complain(f"standard output: cannot be written: {error.strerror}")
        return Exit.USAGE
    if sys.stderr is not None:
        traceback.print_exc()
    complain(f"internal error ({type(error).__name__}); this is a bug in imlctl, please report it")
    return Exit.INTERNAL


def _fill_standard_streams() -> None:
    """Open closed standard streams on nothing, or the next file that is opened would be one."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
