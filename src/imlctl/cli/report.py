"""`imlctl report` and `imlctl verify`: what is done with the folder of a scan afterwards."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imlctl.cli import localize_options as its
from imlctl.cli.console import complain, echo, note, plural, printable
from imlctl.cli.options import option
from imlctl.errors import Exit
from imlctl.record import FAILED, SCHEMA_VERSION

if TYPE_CHECKING:
    from imlctl.report.html import Case
    from imlctl.scan.folder import CaseFolder, Outputs
    from imlctl.scan.ledger import Coverage
    from imlctl.scan.run import Outcome

Folder = Annotated[
    Path, typer.Argument(metavar="CASE", help="Folder that was given to localize with -o.")
]


def report(
    folder: Folder,
    out: Annotated[
        Path | None, option("Folder to write into.", "--out", "-o", show_default="the case itself")
    ] = None,
    title: Annotated[str, option("Heading.", show_default="Image manipulation report")] = "",
    case: Annotated[str, option("Number of the case.")] = "",
    examiner: Annotated[str, option("Who examined it.")] = "",
    notes: Annotated[str, option("Free text for the cover.")] = "",
    pdf: Annotated[
        bool, option("Also write report.pdf, with an installed Chromium or Chrome.", "--pdf")
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
    from imlctl.scan.folder import open_case

    browser = find_browser() if pdf else ""
    head = Case(title or TITLE, case, examiner, notes)
    wanted = ["report", *(["jsonl"] if jsonl else []), *(["csv"] if csv else [])]
    with open_case(folder) as opened_case:
        written = write_reports(opened_case, wanted, head, out=out, browser=browser, quiet=quiet)
    # The manifest of a case lists what lies in it.
    kept = None if out else custody.add_reports(folder, written, ["imlctl", *sys.argv[1:]])
    if quiet:
        return
    for path in written:
        note(f"wrote {printable(path)}")
    if kept:
        note(f"added to {printable(folder / 'SHA256SUMS')}; the previous one is {kept.name}")


def followed(outcomes: Iterable[Outcome], outputs: Outputs) -> Iterator[Outcome]:
    """Pass on each outcome once its record is in records.jsonl, until `write_reports` sorts that.

    The file begins with what earlier scans noted, so that whoever follows it sees every picture
    once.
    """
    from imlctl.report.tables import JsonLines
    from imlctl.scan.naming import JSONL, report_name

    case = outputs.case
    assert case  # noqa: S101 - the option needs a folder
    with JsonLines(case.folder / report_name(JSONL, case.shard), _records(case)) as lines:
        for outcome in outcomes:
            if not outcome.resumed:
                lines.append(outcome.record)
            yield outcome


def write_reports(
    case: CaseFolder,
    wanted: Collection[str],
    head: Case | None = None,
    *,
    out: Path | None = None,
    browser: str = "",
    quiet: bool = False,
) -> list[Path]:
    """Write what is wanted ("jsonl", "csv", "report") of a scan, and return the files, each whole.

    They go into the case's own folder if `out` is None; the browser, if named, prints the PDF.
    Unless quiet, say how many pictures the page lacks.
    """
    from imlctl.report.tables import write_csv, write_jsonl
    from imlctl.scan.naming import CSV, JSONL, PAGE, PDF, report_name

    coverage = case.coverage()
    written: list[Path] = []

    def place(name: str) -> Path:
        written.append((out or case.folder) / report_name(name, case.shard))
        return written[-1]

    if "jsonl" in wanted:
        write_jsonl(place(JSONL), chain(_records(case), _scan_line(coverage)))
    if "csv" in wanted:
        write_csv(place(CSV), chain(_records(case), _rows_without_record(coverage)))
    if "report" in wanted:
        lacking = _write_page(place(PAGE), case, coverage, head)
        if lacking and not quiet:
            them = "it" if lacking == 1 else "them"
            note(
                f"{plural(lacking, 'picture')} analysed without --report: the page has no image"
                f" of {them}; to see {them}, scan again with --report --force"
            )
    if browser:
        from imlctl.report.html import write_pdf

        with TemporaryDirectory(prefix="imlctl-paper-") as folder:
            paper = Path(folder, "paper.html")
            _write_page(paper, case, coverage, head, paper=True)
            write_pdf(place(PDF), paper, browser)
    return written


def _records(case: CaseFolder) -> Iterator[Mapping[str, Any]]:
    return (row.record for row in case.rows(previews=False))


def _scan_line(coverage: Coverage) -> Iterator[dict[str, Any]]:
    """Yield a last line about the scan, for whatever its records do not say."""
    if coverage.incomplete or coverage.left_out:
        left_out = [{"path": printable(e.path), "reason": e.reason} for e in coverage.left_out]
        yield {
            "schema_version": SCHEMA_VERSION,
            "kind": "scan",
            "status": coverage.incomplete or "complete",
            "planned": coverage.planned,
            "done": coverage.done,
            "pending": [printable(path) for path in coverage.pending],
            "left_out": left_out,
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
    from imlctl.report.html import Case, ReportEntry, write_report

    lacking = 0

    def entries() -> Iterator[ReportEntry]:
        nonlocal lacking
        for row in case.rows():
            lacking += row.preview is None and row.record["verdict"] != FAILED
            yield ReportEntry(row.record, row.preview)

    head = replace(
        head or Case(),
        incomplete=coverage.incomplete,
        pending=tuple(map(str, coverage.pending)),
        left_out=tuple((str(each.path), each.reason) for each in coverage.left_out),
        runs=tuple(replace(run, command=printable(run.command)) for run in coverage.runs),
    )
    count = sum(1 for _ in case.rows(previews=False))
    write_report(path, entries(), head, count, paper=paper)
    return lacking


def verify(folder: Folder, quiet: its.Quiet = False) -> None:
    """Check the inputs and outputs of a scan against its SHA256SUMS.

    `localize --manifest` writes it; files that `report` wrote again since are named.

    Exit status: 0 when all files are unchanged, 2 without a manifest, 3 when a file changed, is
    missing, or cannot be read.
    """
    from imlctl.atomic import sha256_of
    from imlctl.scan.custody import check, manifests

    right = wrong = 0
    for manifest in manifests(folder):
        for finding in check(manifest):
            if finding.problem:
                wrong += 1
                complain(f"{finding.path}: {finding.problem}")
                continue
            right += 1
            if finding.remark and not quiet:
                note(f"{finding.path}: {finding.remark}")
        if not quiet:
            # To be kept where it cannot be changed together with the manifest.
            echo(f"{sha256_of(manifest)}  {printable(manifest)}")
    if not quiet:
        note(f"{plural(right, 'file')} unchanged, {wrong} not")
    if wrong:
        raise typer.Exit(Exit.SOME_FAILED)
