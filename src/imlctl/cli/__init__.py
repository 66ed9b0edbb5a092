"""The command line: parse, call, print. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from imlctl import __version__
from imlctl.cli.bench import bench
from imlctl.cli.console import complain
from imlctl.cli.data import data
from imlctl.cli.distill import distill
from imlctl.cli.doctor import doctor
from imlctl.cli.help import command_line, width
from imlctl.cli.localize import localize
from imlctl.cli.report import report
from imlctl.cli.scan_options import BareCheckCommand
from imlctl.cli.train import train
from imlctl.cli.verify import verify
from imlctl.cli.weights import weights
from imlctl.errors import Exit, ImlctlError
from imlctl.memory import keep_freed_blocks
from imlctl.threads import wait_asleep

app = typer.Typer(
    name="imlctl",
    help="Mark the manipulated pixels of a photograph.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: in half the time, and it reads on narrow terminals
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=BareCheckCommand)(localize)
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
    wait_asleep()


def main() -> None:
    """Run the command line and exit with a code of `errors.Exit`."""
    try:
        command_line(app)(prog_name="imlctl", terminal_width=width())
    except ImlctlError as error:
        complain(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        complain("interrupted")
        sys.exit(Exit.INTERRUPTED)
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stderr.close()
        sys.exit(Exit.OK)
