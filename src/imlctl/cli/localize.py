"""`imlctl localize`: one photograph, many, or folders."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, cast

import typer

from imlctl import resources
from imlctl.cli import localize_options as its
from imlctl.cli.console import complain, note
from imlctl.cli.interrupts import Interrupts
from imlctl.cli.options import Device, Force
from imlctl.cli.report import followed, write_reports
from imlctl.errors import Exit, UsageError
from imlctl.record import FAILED

if TYPE_CHECKING:
    from imlctl.cli.scan_printer import ScanPrinter
    from imlctl.scan.analysis import Options
    from imlctl.scan.custody import Finding
    from imlctl.scan.find import Discovery
    from imlctl.scan.folder import Outputs
    from imlctl.scan.naming import Job
    from imlctl.scan.pool import Engine
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
    shard: its.Shard = None,
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
    from imlctl.cli.scan_printer import ScanPrinter
    from imlctl.scan.analysis import Options
    from imlctl.scan.find import discover
    from imlctl.scan.folder import Outputs
    from imlctl.scan.naming import Kind, Shard
    from imlctl.settings import MEMBERS, STEPS, Sampling, Settings

    _refuse(
        ("--tta-fusion", tta_fusion is not None and not tta, "Add --tta."),
        ("--model", model and weights, "Give either --model or --weights."),
        ("--jobs", ray and jobs is not None, "A cluster has its own; leave it out with --ray."),
        ("--null", null and files_from is None, "Add --files-from."),
        ("--soft", soft and out is None, "Add -o with a file or folder."),
        ("--force", force and out is None, "Add -o with a file or folder."),
    )
    chosen = {"mask": out is not None, "overlay": overlay or everything, "views": views}
    chosen |= {"heatmap": heatmap or everything, "reliability": reliability}
    chosen |= {"json": everything or (json and out is not None)}
    kinds = tuple(kind for kind in Kind if chosen[kind])
    found = discover(
        [*(inputs or []), *([str(resources.example())] if example else [])],
        recursive=recursive,
        out=out,
        kinds=kinds,
        include=include or (),
        exclude=exclude or (),
        listed=_listed(files_from, inputs or [], zero=null),
    )
    outputs = Outputs(out, found.many, force, resume, None if shard is None else Shard.parse(shard))
    kept = {"report": report, "csv": csv, "manifest": manifest}
    reports = [n for n, wanted in kept.items() if wanted or everything] + ["jsonl"] * jsonl
    outputs.need_a_folder_for(["all"] * everything + ["resume"] * resume + reports)
    drawn = (("--steps", steps), ("--ensemble", ensemble), ("--seed", seed))
    fusion = cast("Fusion", tta_fusion or "mean")
    sampling = Sampling(steps or STEPS, ensemble or MEMBERS, tta, fusion, seed or 0)
    options = Options(
        Settings(model, weights, device, threshold, tile, sampling, max_pixels),
        kinds,
        soft=soft,
        previews="report" in reports,
        threads=1 if found.many else None,
        sampled=tuple(name for name, value in drawn if value is not None),
        timeout=timeout,
    )
    printer = ScanPrinter(
        many=found.many,
        as_json=json and out is None,
        silent=quiet or out == "-",
        live=not quiet,
        verbose=verbose,
        until_the_end=out is not None or check is not None,
        outputs=out is not None,
    )
    raise typer.Exit(_scan(options, found, outputs, printer, reports, check, jobs=jobs, ray=ray))


def _scan(
    options: Options,
    found: Discovery,
    outputs: Outputs,
    printer: ScanPrinter,
    reports: Sequence[str],
    check: its.CheckFor | None,
    *,
    jobs: int | None,
    ray: bool,
) -> Exit:
    """Analyse, print and report; return the exit status."""
    from imlctl.scan.find import describe_left_out
    from imlctl.scan.folder import write_case_checksums
    from imlctl.scan.run import scan

    if outputs.out == "-" and sys.stdout is None:
        raise UsageError("standard output is closed", source="-o -", remedy="Name a file.")
    command: list[str] = ["imlctl", *sys.argv[1:]]
    changed: Sequence[Finding] = ()
    with ExitStack() as stack:
        planned = outputs.plan(found, options.kinds, stack)
        if printer.live:
            for sentence in describe_left_out(found.left_out, most=10**6 if printer.verbose else 3):
                note(sentence)
        for problem in found.problems:
            complain(str(problem))
        stack.enter_context(printer.stages)
        engine = _start(options, planned, stack, printer.stages, jobs=jobs, ray=ray)
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
        printer.total = len(planned)
        printer.follow(followed(outcomes, outputs) if "jsonl" in reports else outcomes)
        printer.counts[FAILED] += len(found.problems)
        complete, case = printer.seen == len(planned), outputs.case
        if ledger and complete:
            ledger.end()
        if found.many and printer.live:
            printer.summarize(planned=len(planned) + len(found.problems))
        if case:  # of a scan that was stopped they say so, and the quick ones are written
            quick = [name for name in reports if complete or name != "report"]
            written = write_reports(case, quick, quiet=not printer.live)
            if complete and "manifest" in reports:
                changed = write_case_checksums(case, command, written)
    for finding in changed:
        complain(f"{finding.path}: {finding.problem}")
    if not complete:
        remedy = "; the same command with --resume continues" if case else ""
        complain(f"interrupted after {printer.seen} of {len(planned)} pictures{remedy}")
        return Exit.INTERRUPTED
    if check and printer.found(check):
        return Exit.FOUND
    return Exit.SOME_FAILED if printer.counts[FAILED] or changed else Exit.OK


def _refuse(*in_vain: tuple[str, object, str]) -> None:
    """Refuse the first option, of (name, whether it is in vain, remedy), that would be ignored."""
    for name, ignored, remedy in in_vain:
        if ignored:
            raise UsageError("would have no effect here", source=name, remedy=remedy)


def _listed(files_from: str | None, inputs: Sequence[str], *, zero: bool) -> Sequence[str]:
    from imlctl.scan.find import read_names

    if files_from is None:
        return ()
    if files_from == "-" and "-" in inputs:
        raise UsageError("standard input cannot be both a picture and a list", source="-")
    return read_names(files_from, zero=zero)


def _start(
    options: Options,
    planned: Sequence[Job],
    stack: ExitStack,
    stages: Any,
    *,
    jobs: int | None,
    ray: bool,
) -> Engine:
    """Start what decodes and analyses, here or on a cluster."""
    if any(job.picture.path is None for job in planned):
        if ray:
            what = "standard input cannot be read by a cluster"
            remedy = "Name a file or folder, or leave --ray out."
            raise UsageError(what, source="--ray", remedy=remedy)
        if sys.stdin is None:
            raise UsageError("standard input is closed", source="-", remedy="Name a file.")
    if ray:
        from imlctl.scan.ray_pool import start_ray

        return start_ray(options, stack, tell=note)
    from imlctl.scan.pool import start_engine

    def progress(done: int, total: int) -> None:
        if total > 1:
            stages.set_description_str(f"tile {min(done + 1, total)} of {total}")

    stages.set_description_str("loading the model")
    engine = start_engine(options, len(planned), stack, jobs=jobs, progress=progress)
    stages.set_description_str("analysing")
    return engine
