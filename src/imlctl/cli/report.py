"""`imlctl report`: write the report of a scan from its ledger, for people and for programs."""

from __future__ import annotations

import dataclasses
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imlctl.cli import localize_options as its
from imlctl.cli.console import note, plural, printable
from imlctl.record import FAILED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from imlctl.report.html import Case
    from imlctl.scan.folder import CaseFolder, Outputs
    from imlctl.scan.ledger import Coverage
    from imlctl.scan.run import Outcome


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="CASE", help="Folder that was given to localize with -o.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder to write into, such as when the case may not be written to.",
            show_default="the case itself",
        ),
    ] = None,
    title: Annotated[
        str | None, typer.Option(help="Heading.", show_default="Image manipulation report")
    ] = None,
    case: Annotated[str, typer.Option(help="Number of the case.")] = "",
    examiner: Annotated[str, typer.Option(help="Who examined it.")] = "",
    notes: Annotated[str, typer.Option(help="Free text for the cover.")] = "",
    pdf: Annotated[
        bool,
        typer.Option("--pdf", help="Also write report.pdf, with an installed Chromium or Chrome."),
    ] = False,
    jsonl: its.Jsonl = False,
    csv: its.Csv = False,
    quiet: its.Quiet = False,
) -> None:
    """Write report.html into the folder of a scan.

    Pictures are shown if the scan was run with --report; their records in any case. The same
    ledger and options give the same bytes.
    """
    from imlctl.report.html import TITLE, Case, find_browser
    from imlctl.scan import custody
    from imlctl.scan.folder import CaseFolder

    browser = find_browser() if pdf else ""
    head = Case(title or TITLE, case, examiner, notes)
    with ExitStack() as stack:
        opened = CaseFolder.opened(folder, stack)
        written = write_reports(
            opened, head, out=out, page=True, browser=browser, jsonl=jsonl, csv=csv, quiet=quiet
        )
    # The manifest of a case lists what lies in it.
    kept = None if out else custody.add_reports(folder, written, ["imlctl", *sys.argv[1:]])
    if quiet:
        return
    for path in written:
        note(f"wrote {printable(path)}")
    if kept:
        note(f"added to {printable(folder / 'SHA256SUMS')}; the previous one is {kept.name}")


def followed(outcomes: Iterable[Outcome], outputs: Outputs) -> Iterator[Outcome]:
    """Pass on each outcome once its record is in records.jsonl.

    The file begins with what earlier scans noted in the ledger, so that whoever follows it sees
    every picture once; only one that is analysed again comes again. At the end of the scan,
    `write_reports` puts it in order.
    """
    from imlctl.report.tables import JsonLines
    from imlctl.scan.naming import JSONL, report_name

    if outputs.folder is None or outputs.ledger is None:
        raise ValueError("records are followed only in a folder of outputs")
    known = (row.record for row in outputs.ledger.rows(previews=False))
    with JsonLines(outputs.folder / report_name(JSONL, outputs.shard), known) as lines:
        for outcome in outcomes:
            if not outcome.resumed:
                lines.append(outcome.record)
            yield outcome


def write_reports(
    case: CaseFolder,
    head: Case | None = None,
    *,
    out: Path | None = None,
    page: bool,
    browser: str = "",
    jsonl: bool,
    csv: bool,
    quiet: bool = False,
) -> list[Path]:
    """Write what is wanted of a scan, each file whole or not at all, and replace older ones.

    They go into the case's own folder if `out` is None; the browser, if named, prints the PDF.
    Unless quiet, say how many pictures the page lacks. Return the files.
    """
    from imlctl.scan.naming import CSV, JSONL, PAGE, PDF, report_name

    def records() -> Iterator[Mapping[str, Any]]:
        return (row.record for row in case.rows(previews=False))

    coverage = case.coverage()
    out = out or case.folder
    written = []
    if jsonl:
        from imlctl.report.tables import write_jsonl

        written.append(out / report_name(JSONL, case.shard))
        write_jsonl(written[-1], (*records(), *_scan_line(coverage)), overwrite=True)
    if csv:
        from imlctl.report.tables import write_csv

        written.append(out / report_name(CSV, case.shard))
        write_csv(written[-1], (*records(), *_rows_without_record(coverage)), overwrite=True)
    if page:
        written.append(out / report_name(PAGE, case.shard))
        lacking = _write_page(written[-1], case, coverage, head)
        if lacking and not quiet:
            note(_lacking(lacking))
    if browser:
        from tempfile import TemporaryDirectory

        from imlctl.report.html import write_pdf

        written.append(out / report_name(PDF, case.shard))
        with TemporaryDirectory(prefix="imlctl-paper-") as folder:
            paper = Path(folder, "paper.html")
            _write_page(paper, case, coverage, head, paper=True)
            write_pdf(written[-1], paper, browser, overwrite=True)
    return written


def _scan_line(coverage: Coverage) -> Iterator[dict[str, Any]]:
    """Yield a last line about the scan, for whatever its records do not say."""
    from imlctl.record import SCHEMA_VERSION

    if coverage.incomplete or coverage.left_out:
        yield {
            "schema_version": SCHEMA_VERSION,
            "kind": "scan",
            "status": coverage.incomplete or "complete",
            "planned": coverage.planned,
            "done": coverage.done,
            "pending": [printable(path) for path in coverage.pending],
            "left_out": [
                {"path": printable(each.path), "reason": each.reason} for each in coverage.left_out
            ],
        }


def _rows_without_record(coverage: Coverage) -> Iterator[dict[str, Any]]:
    if coverage.incomplete:
        yield {"path": coverage.incomplete, "verdict": "incomplete"}
    for path in coverage.pending:
        yield {"path": printable(path), "verdict": "not analysed"}
    for each in coverage.left_out:
        error = {"what": each.reason}
        yield {"path": printable(each.path), "verdict": "left out", "error": error}


def _write_page(
    path: Path, case: CaseFolder, coverage: Coverage, head: Case | None, *, paper: bool = False
) -> int:
    """Write the page; return how many pictures it has no preview of, besides failed ones."""
    from imlctl.report.html import Case, ReportEntry, Run, write_report

    lacking = 0

    def entries() -> Iterator[ReportEntry]:
        nonlocal lacking
        for row in case.rows():
            lacking += row.preview is None and row.record["verdict"] != FAILED
            yield ReportEntry(row.record, row.preview)

    runs = tuple(
        Run(
            _in_words(run.began),
            _in_words(run.ended or ""),
            printable(run.command),
            run.folder,
            run.version,
        )
        for run in coverage.runs
    )
    head = dataclasses.replace(
        head or Case(),
        incomplete=coverage.incomplete,
        pending=tuple(map(str, coverage.pending)),
        left_out=tuple((str(each.path), each.reason) for each in coverage.left_out),
        runs=runs,
    )
    count = sum(1 for _ in case.rows(previews=False))
    write_report(path, entries(), head, count=count, paper=paper, overwrite=True)
    return lacking


def _in_words(time: str) -> str:
    """Say a time of ISO 8601 in UTC as people write it."""
    return time.replace("T", " ").replace("Z", " UTC")


def _lacking(count: int) -> str:
    return (
        f"{plural(count, 'picture')} analysed without --report: the page has the record"
        f"{'' if count == 1 else 's'} but no image; to see them, scan again with --report --force"
    )
