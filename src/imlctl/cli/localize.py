"""`imlctl localize`: one photograph, many, or folders."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import typer

from imlctl import resources
from imlctl.cli import localize_options as its
from imlctl.cli.console import complain, note
from imlctl.cli.interrupts import Interrupts
from imlctl.cli.options import Device, Force, chosen_threshold
from imlctl.cli.report import followed, write_reports
from imlctl.errors import Exit, UsageError
from imlctl.record import FAILED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imlctl.cli.scan_printer import ScanPrinter, StageLine
    from imlctl.scan.analysis import Options
    from imlctl.scan.find import Discovery
    from imlctl.scan.folder import Outputs
    from imlctl.scan.naming import Job
    from imlctl.scan.processes import Limits
    from imlctl.scan.run import Engine
    from imlctl.settings import Fusion


def localize(
    inputs: its.Inputs = None,
    example: its.Example = False,
    out: its.Out = None,
    recursive: its.Recursive = False,
    include: its.Include = None,
    exclude: its.Exclude = None,
    files_from: its.FilesFrom = None,
    null: its.Null = False,
    max_pixels: its.MaxPixels = 2**28,
    timeout: its.Timeout = 120.0,
    everything: its.All = False,
    soft: its.Soft = False,
    overlay: its.Overlay = False,
    heatmap: its.Heatmap = False,
    views: its.Views = False,
    reliability: its.Reliability = False,
    json: its.Json = False,
    jsonl: its.Jsonl = False,
    csv: its.Csv = False,
    report: its.Report = False,
    manifest: its.Manifest = False,
    force: Force = False,
    quiet: its.Quiet = False,
    verbose: its.Verbose = False,
    model: its.Model = "",
    weights: its.Weights = None,
    device: Device = "auto",
    threshold: its.Threshold = None,
    check: its.Check = None,
    resume: its.Resume = False,
    shard: its.ShardOf = None,
    jobs: its.Jobs = None,
    ray: its.Ray = False,
    tile: its.Tile = 1024,
    tta: its.Tta = False,
    tta_fusion: its.TtaFusion = None,
    steps: its.Steps = None,
    ensemble: its.Ensemble = None,
    seed: its.Seed = None,
) -> None:
    """Mark the manipulated pixels of photographs.

    Exit status: 0 when every picture was analysed, 1 with --check when any is manipulated (with
    --check=any: or inconclusive), 2 for wrong usage or weights, 3 when some pictures failed (the
    others are done), 70 for an internal error, 130 when interrupted; --resume continues the scan.
    """
    from imlctl.scan.analysis import Options
    from imlctl.scan.find import Patterns, discover
    from imlctl.scan.folder import Outputs
    from imlctl.scan.naming import Kind, Shard
    from imlctl.scan.processes import Limits
    from imlctl.settings import MEMBERS, STEPS, Sampling, Settings

    _refuse_ignored(
        ("--tta-fusion", tta_fusion is not None and not tta, "Add --tta."),
        ("--model", bool(model and weights), "Give either --model or --weights."),
        ("--null", null and files_from is None, "Add --files-from."),
        ("--soft", soft and out is None, "Add -o with a file or folder."),
        ("--force", force and out is None, "Add -o with a file or folder."),
    )
    overlay, heatmap, csv = overlay or everything, heatmap or everything, csv or everything
    report, manifest = report or everything, manifest or everything
    chosen = {"mask": out is not None, "overlay": overlay, "heatmap": heatmap, "views": views}
    chosen |= {"reliability": reliability, "json": everything or (json and out is not None)}
    kinds = tuple(kind for kind in Kind if chosen[kind])
    found = discover(
        [*(inputs or []), *([str(resources.example())] if example else [])],
        recursive=recursive,
        out=out,
        kinds=kinds,
        patterns=Patterns(tuple(include or ()), tuple(exclude or ())),
        listed=_listed(files_from, inputs or [], zero=null),
    )
    part = None if shard is None else Shard.parse(shard)
    outputs = Outputs(out, found.many, force=force, resume=resume, shard=part)
    wanted = {"report": report, "jsonl": jsonl, "csv": csv, "manifest": manifest}
    _need_folder(outputs, all=everything, resume=resume, **wanted)
    drawn = {"--steps": steps, "--ensemble": ensemble, "--seed": seed}
    fusion = cast("Fusion", tta_fusion or "mean")
    sampling = Sampling(steps or STEPS, ensemble or MEMBERS, tta, fusion, seed or 0)
    settings = Settings(
        model=model,
        weights=weights,
        device=device,
        tile=tile,
        threshold=chosen_threshold(threshold, model, weights, sampling),
        sampling=sampling,
        max_pixels=max_pixels,
    )
    options = Options(
        settings,
        kinds,
        soft=soft,
        previews=report,
        threads=1 if found.many else None,
        sampled=tuple(name for name, value in drawn.items() if value is not None),
    )
    limits = Limits(timeout, max_pixels)
    say = {"json": json and out is None, "quiet": quiet, "verbose": verbose}
    _run(_Scan(found, outputs, options, limits, jobs, ray, check, **say, **wanted))


@dataclass(frozen=True, slots=True)
class _Scan:
    """Everything that the command line asks for."""

    found: Discovery
    outputs: Outputs
    options: Options
    limits: Limits
    jobs: int | None
    ray: bool
    check: its.CheckFor | None
    json: bool  # printed
    quiet: bool
    verbose: bool
    report: bool
    jsonl: bool
    csv: bool
    manifest: bool


def _run(wanted: _Scan) -> None:
    """Analyse, write, and exit with what came of it."""
    command = ["imlctl", *sys.argv[1:]]
    with ExitStack() as stack:
        printer, total = _analyse(wanted, command, stack)
        case = wanted.outputs.case()
        if printer.seen < total:
            if case:  # of a scan that was stopped they say so, and are written in no time
                write_reports(case, page=False, jsonl=wanted.jsonl, csv=wanted.csv)
            remedy = "; the same command with --resume continues" if case else ""
            complain(f"interrupted after {printer.seen} of {total} pictures{remedy}")
            raise typer.Exit(Exit.INTERRUPTED)
        kinds = {"page": wanted.report, "jsonl": wanted.jsonl, "csv": wanted.csv}
        reports = write_reports(case, **kinds, quiet=wanted.quiet) if case else []  # type: ignore[arg-type]
        changed = wanted.outputs.write_manifest(command, also=reports) if wanted.manifest else []
        for finding in changed:
            complain(f"{finding.path}: {finding.problem}")
    if wanted.check and printer.found(wanted.check):
        raise typer.Exit(Exit.FOUND)
    if printer.counts[FAILED] or changed:
        raise typer.Exit(Exit.SOME_FAILED)


def _analyse(wanted: _Scan, command: Sequence[str], stack: ExitStack) -> tuple[ScanPrinter, int]:
    """Analyse all pictures, or those until an interrupt; return the printer, and their number."""
    from imlctl.cli.scan_printer import ScanPrinter
    from imlctl.scan.run import scan

    found, outputs, options = wanted.found, wanted.outputs, wanted.options
    planned = outputs.plan(found, options.kinds, stack)
    _say_what_is_missing(found, quiet=wanted.quiet, verbose=wanted.verbose)
    printer = ScanPrinter(
        len(planned),
        many=found.many,
        as_json=wanted.json,
        silent=wanted.quiet or outputs.out == "-",
        live=not wanted.quiet,
        verbose=wanted.verbose,
        until_the_end=outputs.out is not None or wanted.check is not None,
        outputs=outputs.out is not None,
    )
    stack.enter_context(printer.stages)
    engine = _start(wanted, planned, stack, printer.stages)
    ledger = outputs.begin(planned, found, command, stack)
    interrupts = Interrupts(ignore_hangup=outputs.folder is not None)
    if found.many:  # a single picture stops at once
        stack.enter_context(interrupts)
    outcomes = scan(
        planned,
        engine,
        options,
        ledger=ledger,
        resume=outputs.resume,
        overwrite=outputs.force,
        stdin=getattr(sys.stdin, "buffer", None),
        stdout=getattr(sys.stdout, "buffer", None),
        stopped=lambda: interrupts.requested,
    )
    printer.follow(followed(outcomes, outputs) if wanted.jsonl else outcomes)
    printer.counts[FAILED] += len(found.problems)
    if ledger and printer.seen == len(planned):
        ledger.end()
    if found.many and not wanted.quiet:
        printer.summarize(planned=len(planned) + len(found.problems))
    return printer, len(planned)


def _listed(files_from: str | None, inputs: Sequence[str], *, zero: bool) -> Sequence[str]:
    from imlctl.scan.find import read_names

    if files_from is None:
        return ()
    if files_from == "-" and "-" in inputs:
        raise UsageError("standard input cannot be both a picture and a list", source="-")
    return read_names(files_from, zero=zero)


def _need_folder(outputs: Outputs, **options: bool) -> None:
    for option, given in options.items():
        if given:
            outputs.needs_folder(f"--{option}")


def _refuse_ignored(*options: tuple[str, bool, str]) -> None:
    """Refuse options that would have no effect: the name of each, whether so, and what to do."""
    for name, in_vain, remedy in options:
        if in_vain:
            raise UsageError("would have no effect here", source=name, remedy=remedy)


def _say_what_is_missing(found: Discovery, *, quiet: bool, verbose: bool) -> None:
    from imlctl.scan.find import summarize

    if not quiet:
        for sentence in summarize(found.left_out, most=10**6 if verbose else 3):
            note(sentence)
    for problem in found.problems:
        complain(str(problem))


def _start(wanted: _Scan, planned: Sequence[Job], stack: ExitStack, stages: StageLine) -> Engine:
    """Start what decodes and analyses, here or on a cluster."""
    options, limits = wanted.options, wanted.limits
    if any(job.picture.path is None for job in planned):
        if wanted.ray:
            raise UsageError(
                "standard input cannot be read by a cluster",
                source="--ray",
                remedy="Name a file or folder, or leave --ray out.",
            )
        if sys.stdin is None:
            raise UsageError("standard input is closed", source="-", remedy="Name a file.")
    if wanted.ray:
        from imlctl.scan.ray_pool import start_ray

        return start_ray(options, limits, stack, decoders=wanted.jobs, tell=note)
    from imlctl.scan.pool import start_engine

    stages("loading the model")
    engine = start_engine(
        options, len(planned), limits, stack, jobs=wanted.jobs, progress=stages.tile
    )
    stages("analysing")
    return engine
