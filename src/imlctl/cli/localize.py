"""`imlctl localize`: one photograph, many, or folders."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Annotated, cast

import typer

from imlctl.cli import options, scan_options
from imlctl.cli.console import complain, note
from imlctl.cli.follow import Follower
from imlctl.cli.interrupts import Interrupts
from imlctl.cli.localize_ray import start_ray
from imlctl.cli.report import check_reports, followed, write_reports
from imlctl.errors import Exit, UsageError
from imlctl.record import FAILED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from imlctl.core.sampler import Fusion
    from imlctl.inference import Sampling
    from imlctl.pipeline import Localizer
    from imlctl.scan.ahead import Limits
    from imlctl.scan.discover import Discovery
    from imlctl.scan.naming import Job
    from imlctl.scan.place import Place
    from imlctl.scan.run import Ahead
    from imlctl.scan.work import PhotoWork


def localize(
    inputs: scan_options.Inputs = None,
    out: scan_options.Out = None,
    recursive: scan_options.Recursive = False,
    include: scan_options.Include = None,
    exclude: scan_options.Exclude = None,
    files_from: scan_options.FilesFrom = None,
    null: scan_options.Null = False,
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
    report: scan_options.Report = False,
    jsonl: scan_options.Jsonl = False,
    csv: scan_options.Csv = False,
    manifest: scan_options.Manifest = False,
    model: options.Model = "",
    weights: options.Weights = None,
    device: options.Device = "auto",
    threshold: options.Threshold = None,
    tile: Annotated[
        int, typer.Option(help="Side of a tile for large pictures; smaller needs less memory.")
    ] = 1024,
    steps: options.Steps = 8,
    ensemble: options.Ensemble = 5,
    tta: options.Tta = False,
    tta_fusion: options.TtaFusion = "mean",
    seed: options.Seed = 0,
    max_pixels: scan_options.MaxPixels = 2**28,
    resume: scan_options.Resume = False,
    shard: scan_options.ShardOf = None,
    ray: scan_options.Ray = False,
    check: scan_options.Check = None,
    workers: scan_options.Workers = None,
    timeout: scan_options.Timeout = 120.0,
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

    Exit status: 0 when every picture was analysed, 1 with --check when any is manipulated
    (with --check=any: or inconclusive), 2 for
    wrong usage or weights, 3 when some pictures failed (the others are done), 130 when
    interrupted, and --resume goes on.
    """
    from imlctl.scan.ahead import Limits
    from imlctl.scan.naming import Kind
    from imlctl.scan.place import Place
    from imlctl.scan.run import scan
    from imlctl.scan.shard import Shard

    found = _find(inputs, out, recursive, include, exclude, files_from, null)
    part = None if shard is None else Shard.parse(shard)
    place = Place(out, found.many, force=force, resume=resume, shard=part)
    _need_folder(place, resume=resume, manifest=manifest, report=report, jsonl=jsonl, csv=csv)
    check_reports(page=report)
    wanted = {Kind.OVERLAY: overlay, Kind.HEATMAP: heatmap, Kind.JSON: json and out is not None}

    with ExitStack() as stack:
        jobs = place.plan(found, [kind for kind, yes in wanted.items() if yes], stack)
        _tell_what_was_found(found, verbose=verbose)
        sampling = _sampling(steps, ensemble, tta, tta_fusion, seed)
        load = partial(_load, model, weights, threshold, tile, sampling, max_pixels)
        make = partial(_work, soft=soft, previews=report)
        interrupts = Interrupts()
        start = partial(start_ray, stopped=interrupts) if ray else _start_here
        limits = Limits(timeout, max_pixels)
        ahead, work = start(jobs, load, make, limits, stack, device=device, decoders=workers)
        ledger = place.begin(jobs, stack)
        if found.many:  # one picture alone stops at once
            stack.enter_context(interrupts)
        follow = partial(Follower, as_json=json and out is None, live=not quiet, verbose=verbose)
        follower = follow(len(jobs), silent=quiet or out == "-")
        run = partial(scan, jobs, work, ahead=ahead, ledger=ledger, resume=resume, overwrite=force)
        outcomes = run(
            stdin=sys.stdin.buffer,
            stdout=sys.stdout.buffer,
            stopped=lambda: interrupts.requested and not ray,  # where what is in hand still comes
        )
        follower.follow(followed(outcomes, place) if jsonl else outcomes)
        follower.counts[FAILED] += len(found.problems)
        if found.many and not quiet:
            follower.summarize()
        if follower.seen < len(jobs):
            _say_how_to_go_on(place, follower.seen, len(jobs))
            raise typer.Exit(Exit.INTERRUPTED)
        write = partial(write_reports, page=report, jsonl=jsonl, csv=csv, shard=part, quiet=quiet)
        reports = place.write_reports(write)
        changed = manifest and _write_manifest(place, reports)
    if check and follower.found(check):
        raise typer.Exit(Exit.FOUND)
    if follower.counts[FAILED] or changed:
        raise typer.Exit(Exit.SOME_FAILED)


def _need_folder(place: Place, **options: bool) -> None:
    """Refuse options that write into a folder of outputs where there is none."""
    for name, given in options.items():
        if given:
            place.needs_folder(f"--{name}")


def _find(
    inputs: list[str] | None,
    out: str | None,
    recursive: bool,
    include: list[str] | None,
    exclude: list[str] | None,
    files_from: str | None,
    null: bool,
) -> Discovery:
    from imlctl.scan.discover import discover
    from imlctl.scan.listing import Patterns, read_names

    if files_from == "-" and "-" in (inputs or []):
        raise UsageError("the standard input cannot be both a picture and a list", source="-")
    return discover(
        inputs or [],
        recursive=recursive,
        out=out,
        patterns=Patterns(tuple(include or ()), tuple(exclude or ())),
        listed=read_names(files_from, zero=null) if files_from is not None else (),
    )


def _tell_what_was_found(found: Discovery, *, verbose: bool) -> None:
    for remark in found.notes if verbose else ():
        note(remark)
    for problem in found.problems:
        complain(str(problem))


def _start_here(
    jobs: Sequence[Job],
    load: Callable[[str], Localizer],
    make: Callable[[Localizer], PhotoWork],
    limits: Limits,
    stack: ExitStack,
    *,
    device: str,
    decoders: int | None,
) -> tuple[Ahead | None, PhotoWork]:
    """Do for this machine what `start_ray` does for a cluster."""
    from imlctl.scan.ahead import DecodeAhead, suitable_workers

    count = suitable_workers(len(jobs)) if decoders is None else decoders
    # Started before the model is loaded, so that both happen at the same time.
    ahead = stack.enter_context(DecodeAhead(count, limits)) if count else None
    return ahead, make(load(device))


def _load(
    model: str,
    weights: str | None,
    threshold: str | None,
    tile: int,
    sampling: Sampling,
    max_pixels: int,
    device: str,
) -> Localizer:
    from imlctl.pipeline import Localizer, Settings

    return Localizer(
        Settings(
            model=model,
            weights=weights,
            device=device,
            threshold=options.chosen_threshold(threshold, model, weights, sampling),
            tile=tile,
            sampling=sampling,
            max_pixels=max_pixels,
        )
    )


def _sampling(steps: int, ensemble: int, tta: bool, fusion: str, seed: int) -> Sampling:
    from imlctl.inference import Sampling

    return Sampling(steps, ensemble, tta, cast("Fusion", fusion), seed)


def _work(localizer: Localizer, *, soft: bool, previews: bool) -> PhotoWork:
    from imlctl.scan.work import PhotoWork

    return PhotoWork(localizer, soft=soft, previews=previews)


def _say_how_to_go_on(place: Place, done: int, total: int) -> None:
    remedy = "" if place.folder is None else "; the same command with --resume goes on"
    complain(f"interrupted after {done} of {total} pictures{remedy}")


def _write_manifest(place: Place, reports: Sequence[Path]) -> bool:
    """Write the manifest; return whether an input is not what it was."""
    changed = place.write_manifest(["imlctl", *sys.argv[1:]], also=reports)
    for finding in changed:
        complain(f"{finding.path}: {finding.problem}")
    return bool(changed)
