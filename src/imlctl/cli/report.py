"""`imlctl report`: what a scan found, for people and for machines, from its ledger."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imlctl.cli import scan_options
from imlctl.cli.console import note, printable
from imlctl.record import FAILED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from imlctl.scan.ledger import Row
    from imlctl.scan.place import Place
    from imlctl.scan.run import Outcome
    from imlctl.scan.shard import Shard

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

    written = write_reports(
        *(out, partial(rows, out)), title=title, page=True, jsonl=jsonl, csv=csv, quiet=quiet
    )
    for path in written:
        if not quiet:
            note(f"wrote {printable(path)}")


def check_reports(*, page: bool) -> None:
    """Fail before a scan rather than after it, if its page could not be written.

    Raises:
        UsageError: The package that writes it is not installed.
    """
    if page:
        pass


def followed(outcomes: Iterable[Outcome], place: Place) -> Iterator[Outcome]:
    """Pass on how each picture went, once its record is in records.jsonl.

    The file begins with what earlier scans noted in the ledger, so that whoever follows it sees
    every picture once; only one that is analysed again comes again. At the end of the scan,
    `write_reports` puts it in order.

    Args:
        outcomes: From `scan`.
        place: Of the scan, with its ledger.

    Raises:
        OutputError: The file cannot be written.
    """
    from imlctl.report.jsonl import JsonLines
    from imlctl.scan.naming import report_name

    if place.folder is None or place.ledger is None:
        raise ValueError("records are followed only in a folder of outputs")
    known = (row.record for row in place.ledger.rows(previews=False))
    with JsonLines(place.folder / report_name(JSONL, place.shard), known) as lines:
        for outcome in outcomes:
            if not outcome.resumed:
                lines.append(outcome.record)
            yield outcome


def write_reports(
    folder: Path,
    rows: Callable[..., Iterator[Row]],
    *,
    title: str = "Localization report",
    page: bool,
    jsonl: bool,
    csv: bool,
    shard: Shard | None = None,
    quiet: bool = False,
) -> list[Path]:
    """Write what is wanted of a scan, each file whole or not at all, and replace older ones.

    Args:
        folder: Of the outputs.
        rows: Gives the ledger's rows from the first on, each time it is called; see `Ledger.rows`.
        title: Heading of the page.
        page: Whether to write the page.
        jsonl: Whether to write records as JSON Lines.
        csv: Whether to write records as a table.
        shard: The part of the scan that they are of, if not the whole.
        quiet: Do not say which pictures the page lacks.

    Returns:
        The files that were written.
    """
    from imlctl.scan.naming import report_name

    def records() -> Iterator[Mapping[str, Any]]:
        return (row.record for row in rows(previews=False))

    written = []
    if jsonl:
        from imlctl.report.jsonl import write_jsonl

        written.append(folder / report_name(JSONL, shard))
        write_jsonl(written[-1], records(), overwrite=True)
    if csv:
        from imlctl.report.csv import write_csv

        written.append(folder / report_name(CSV, shard))
        write_csv(written[-1], records(), overwrite=True)
    if page:
        written.append(folder / report_name(PAGE, shard))
        lacking = _write_page(written[-1], rows, title)
        if lacking and not quiet:
            note(_lacking(lacking))
    return written


def _write_page(path: Path, rows: Callable[..., Iterator[Row]], title: str) -> int:
    """Write the page; return how many pictures it has no preview of, besides failed ones."""
    from imlctl.report.html import Case, ReportEntry, write_report

    lacking = 0

    def entries() -> Iterator[ReportEntry]:
        nonlocal lacking
        for row in rows():
            lacking += row.preview is None and row.record["verdict"] != FAILED
            yield ReportEntry(row.record, row.preview)

    count = sum(1 for _ in rows(previews=False))
    write_report(path, entries(), Case(title), count=count, overwrite=True)
    return lacking


def _lacking(count: int) -> str:
    what = "1 picture was" if count == 1 else f"{count} pictures were"
    return (
        f"{what} analysed without --report, so the page has the records of"
        f" {'it' if count == 1 else 'them'} but nothing to look at; to see them, localize again"
        " with --report --force"
    )
