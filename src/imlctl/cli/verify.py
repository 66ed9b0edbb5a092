"""`imlctl verify`: check that inputs and outputs have not changed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imlctl.cli.console import complain, echo, note, plural, printable
from imlctl.errors import Exit


def verify(
    out: Annotated[Path, typer.Argument(help="Folder that was given to localize with -o.")],
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")] = False,
) -> None:
    """Check the inputs and outputs of a scan against its SHA256SUMS.

    `localize --manifest` writes it; files that `report` wrote again since are named.

    Exit status: 0 when all files are unchanged, 2 without a manifest, 3 when a file changed, is
    missing, or cannot be read.
    """
    from imlctl.scan.custody import check, digest_of, manifests

    right = wrong = 0
    for manifest in manifests(out):
        for finding in check(manifest):
            if finding.problem:
                wrong += 1
                complain(f"{finding.path}: {finding.problem}")
                continue
            right += 1
            if finding.remark and not quiet:
                note(f"{finding.path}: {finding.remark}")
        if not quiet:
            echo(f"{digest_of(manifest)}  {printable(manifest)}")
    if not quiet:
        note(f"{plural(right, 'file')} unchanged, {wrong} not")
    if wrong:
        raise typer.Exit(Exit.SOME_FAILED)
