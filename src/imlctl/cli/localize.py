"""`imlctl localize`: one photograph, many, or folders."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imlctl.cli import options
from imlctl.cli.console import complain, note, printable
from imlctl.errors import Exit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imlctl.pipeline import Localizer, Result
    from imlctl.report.record import Record
    from imlctl.scan.naming import Job, Kind
    from imlctl.scan.run import Outcome


def localize(
    inputs: Annotated[
        list[str],
        typer.Argument(help="Photographs, folders, or - for standard input.", show_default=False),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="Mask to write (PNG), a folder for many, or - for standard output."
            " Without it only the verdict is printed.",
            show_default=False,
        ),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Go into folders within folders.")
    ] = False,
    soft: Annotated[
        bool,
        typer.Option(
            "--soft", help="Write the probability map (16-bit) instead of the binary mask."
        ),
    ] = False,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write the photograph with the mask outlined.")
    ] = False,
    heatmap: Annotated[
        bool, typer.Option("--heatmap", help="Also write the probability as colours.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Also write the whole record; without -o, print it.")
    ] = False,
    model: options.Model = "",
    weights: options.Weights = None,
    device: options.Device = "auto",
    threshold: options.Threshold = None,
    tile: Annotated[
        int, typer.Option(help="Side of a tile for large pictures; smaller needs less memory.")
    ] = 1024,
    seed: Annotated[int, typer.Option(help="Seed of models that draw noise.")] = 0,
    force: options.Force = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", help="Say more, and show where an internal error came from."
        ),
    ] = False,
) -> None:
    """Mark the manipulated pixels of photographs.

    Exit status: 0 when every picture was analysed, 2 for wrong usage or weights, 3 when some
    pictures failed (the others are done), 130 when interrupted.
    """
    from imlctl.scan.discover import discover
    from imlctl.scan.naming import Kind, plan
    from imlctl.scan.run import scan

    found = discover(inputs, recursive=recursive, out=out)
    kinds = [
        k
        for k, wanted in ((Kind.OVERLAY, overlay), (Kind.HEATMAP, heatmap), (Kind.JSON, json))
        if wanted
    ]
    if out is None and json:
        kinds.remove(Kind.JSON)  # goes to standard output
    jobs = plan(found.pictures, out, kinds, many=found.many, force=force)
    for remark in found.notes if verbose else ():
        note(remark)
    for problem in found.problems:
        complain(str(problem))

    localizer = _load(model, weights, device, threshold, tile, seed)
    outcomes = scan(
        jobs,
        lambda source: localizer.localize(source, name="standard input"),
        lambda result, kind: _render(result, kind, soft),
        lambda result: result.record(),
        overwrite=force,
        stdin=sys.stdin.buffer,
        stdout=sys.stdout.buffer,
    )
    counts = _follow(
        outcomes,
        jobs,
        as_json=json and out is None,
        silent=quiet or out == "-",
        quiet=quiet,
        verbose=verbose,
    )
    counts["failed"] += len(found.problems)
    if found.many and not quiet:
        note(
            f"{counts.total()} pictures: "
            + ", ".join(f"{n} {what}" for what, n in counts.items() if n)
        )
    if counts["failed"]:
        raise typer.Exit(Exit.SOME_FAILED)


def _load(
    model: str, weights: Path | None, device: str, threshold: float | None, tile: int, seed: int
) -> Localizer:
    from imlctl.device import reuse_memory
    from imlctl.pipeline import Localizer, Settings

    reuse_memory()
    return Localizer(
        Settings(
            model=model, weights=weights, device=device, threshold=threshold, tile=tile, seed=seed
        )
    )


def _render(result: Result, kind: Kind, soft: bool) -> bytes:
    from imlctl.scan.naming import Kind

    if kind is Kind.MASK:
        return result.soft_png() if soft else result.mask_png()
    if kind is Kind.OVERLAY:
        return result.overlay_png()
    if kind is Kind.HEATMAP:
        return result.heatmap_png()
    return (result.record().to_json(indent=2) + "\n").encode()


def _follow(
    outcomes: Iterable[Outcome[Record]],
    jobs: tuple[Job, ...],
    *,
    as_json: bool,
    silent: bool,
    quiet: bool,
    verbose: bool,
) -> Counter[str]:
    """Print each outcome as it comes, and count verdicts."""
    from tqdm import tqdm

    counts: Counter[str] = Counter()
    hidden = quiet or len(jobs) < 2 or not sys.stderr.isatty()
    with tqdm(
        outcomes, total=len(jobs), unit="picture", disable=hidden, dynamic_ncols=True, leave=False
    ) as bar:
        for outcome in bar:
            with bar.external_write_mode(file=sys.stderr):
                counts[_tell(outcome, as_json=as_json, silent=silent, verbose=verbose)] += 1
    return counts


def _tell(outcome: Outcome[Record], *, as_json: bool, silent: bool, verbose: bool) -> str:
    """Print one outcome; return its verdict."""
    record = outcome.summary
    if record is None:
        complain(str(outcome.error))
        if verbose and outcome.trace:
            sys.stderr.write(outcome.trace)
        return "failed"
    if as_json:
        typer.echo(record.to_json())
    elif not silent:
        typer.echo(_line(outcome, record))
    for warning in record.warnings if verbose else ():
        note(f"{record.path}: {warning}")
    return str(record.verdict)


def _line(outcome: Outcome[Record], record: Record) -> str:
    from imlctl.mask.render import percent

    name = printable(outcome.job.picture)
    written = ", ".join(printable(p) for p in outcome.job.outputs.values() if p is not None)
    verdict = (
        f"{record.verdict} ({percent(record.share or 0.0)} of pixels, score {record.score:.2f})"
    )
    return f"{name}: {verdict}" + (f" -> {written}" if written else "")
