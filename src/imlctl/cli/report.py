"""`imlctl report`: what a scan found, for people and for machines, from its ledger."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imlctl.cli import scan_options
from imlctl.cli.console import note, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imlctl.scan.ledger import Row

PAGE, JSONL, CSV = "report.html", "records.jsonl", "records.csv"


def report(
    out: Annotated[Path, typer.Argument(help="Folder that was given to localize with -o.")],
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Localization report",
    jsonl: scan_options.Jsonl = False,
    csv: scan_options.Csv = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Write report.html into the folder of a scan, again if need be.

    It shows pictures if the scan was asked for --report; their records it has in any case.
    """
    from imlctl.scan.ledger import rows

    for path in write_reports(out, lambda: rows(out), title=title, page=True, jsonl=jsonl, csv=csv):
        if not quiet:
            note(f"wrote {printable(path)}")


def check_reports(*, page: bool) -> None:
    """Fail before a scan rather than after it, if its page could not be written.

    Raises:
        UsageError: The package that writes it is not installed.
    """
    if page:
        from imlctl.report.html import require_jinja

        require_jinja()


def write_reports(
    folder: Path,
    rows: Callable[[], Iterator[Row]],
    *,
    title: str = "Localization report",
    page: bool,
    jsonl: bool,
    csv: bool,
) -> list[Path]:
    """Write what is wanted of a scan, each file whole or not at all, and replace older ones.

    Args:
        folder: Of the outputs.
        rows: Gives the ledger's rows from the first on, each time it is called.
        title: Heading of the page.
        page: Whether to write the page.
        jsonl: Whether to write records as JSON Lines.
        csv: Whether to write records as a table.

    Returns:
        The files that were written.
    """
    written = []
    if jsonl:
        from imlctl.report.jsonl import write_jsonl

        write_jsonl(folder / JSONL, (row.record for row in rows()), overwrite=True)
        written.append(folder / JSONL)
    if csv:
        from imlctl.report.csv import write_csv

        write_csv(folder / CSV, (row.record for row in rows()), overwrite=True)
        written.append(folder / CSV)
    if page:
        from imlctl.report.html import ReportEntry, write_report

        entries = (ReportEntry(row.record, row.preview) for row in rows())
        count = sum(1 for _ in rows())
        write_report(folder / PAGE, entries, title=title, count=count, overwrite=True)
        written.append(folder / PAGE)
    return written
