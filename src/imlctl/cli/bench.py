"""`imlctl bench`: how fast, how costly, and how right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imlctl.cli import bench_options as its
from imlctl.cli import options
from imlctl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from imlctl.cli.bench_show import Measured


def bench(
    fps: its.Fps = False,
    flops: its.Flops = False,
    f1: its.F1 = None,
    robustness: its.Robustness = None,
    scan: its.Scan = None,
    bars: its.Bars = False,
    calibrate: its.Calibrate = None,
    ablate: its.Ablate = "",
    peer: its.Peer = "",
    compare: its.Compare = False,
    read: its.Read = None,
    model: its.Models = None,
    weights: its.Weights = None,
    size: its.Size = None,
    device: options.Device = "auto",
    against: its.Against = False,
    end_to_end: its.EndToEnd = False,
    threshold: options.Threshold = None,
    steps: its.Steps = None,
    ensemble: its.Ensemble = None,
    tta: its.Tta = None,
    tta_fusion: options.TtaFusion = "mean",
    seed: options.Seed = 0,
    tile: its.Tile = 1024,
    full: its.Full = False,
    runs: its.Runs = 5,
    budget: its.Budget = 20.0,
    split: its.Split = "",
    resamples: its.Resamples = 1000,
    json: its.Json = False,
    markdown: its.Markdown = False,
    out: its.Out = None,
    force: options.Force = False,
) -> None:
    """Measure this machine and these weights: --fps for speed and cost, --f1 for accuracy.

    One thing is measured at a time: --fps, --flops, --f1, --robustness, --scan, --bars or
    --calibrate; --f1 also with --ablate or --peer. --compare shows published figures beside it, or
    alone.
    """
    from imlctl.cli import (
        bench_bars,
        bench_pictures,
        bench_run,
        bench_scan,
        bench_show,
        bench_speed,
    )

    common = bench_run.Common(
        models=model or (),
        weights=weights or (),
        device=device,
        threshold=threshold,
        steps=steps or (),
        ensemble=ensemble or (),
        tta=tta,
        fusion=tta_fusion,
        seed=seed,
        tile=tile,
        runs=runs,
        budget=budget,
        resamples=resamples,
        split=split,
        pictures=out is not None,
    )
    ways: dict[str, Callable[[], Measured]] = {}
    if fps:
        ways["--fps"] = lambda: bench_speed.speed(
            common, size or (), full=full, against=against, end_to_end=end_to_end
        )
    if flops:
        ways["--flops"] = lambda: bench_speed.flops(common, size or ())
    if robustness is not None:
        ways["--robustness"] = lambda: bench_pictures.robustness(common, robustness)
    if scan is not None:
        ways["--scan"] = lambda: bench_scan.throughput(common, scan)
    if bars:
        ways["--bars"] = lambda: bench_bars.bars(common)
    if calibrate is not None:
        ways["--calibrate"] = lambda: bench_pictures.calibrate(common, calibrate)
    if read:
        ways["--read"] = lambda: bench_show.read(read, compare=compare)
    if f1 is not None:
        ways["--f1"] = lambda: bench_pictures.on_pictures(common, f1, ablate=ablate, peer=peer)
    if compare and not ways:
        ways["--compare"] = bench_pictures.published
    _check(list(ways), both=json and markdown, beside=bool(ablate or peer))
    (way,) = ways.values()
    output = bench_show.Output(json, markdown, out, force)
    output.check()  # before anything takes long
    output.show(way(), compare=compare)


def _check(ways: list[str], *, both: bool, beside: bool) -> None:
    if beside and "--f1" not in ways:
        raise UsageError("needs pictures", source="--ablate or --peer", remedy="Add --f1 PATH.")
    if len(ways) != 1:
        given = f"{' and '.join(ways)} are two" if ways else "nothing is chosen"
        raise UsageError(
            f"measures one thing at a time, and {given}",
            source="bench",
            remedy="Give one of --fps, --flops, --f1, --robustness, --scan, --bars, --calibrate or"
            " --read.",
        )
    if both:
        raise UsageError("cannot print both", source="--json and --markdown")
