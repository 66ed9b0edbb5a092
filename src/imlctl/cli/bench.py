"""`imlctl bench`: how fast, how costly, and how right."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imlctl.cli import options
from imlctl.cli.console import printable

if TYPE_CHECKING:
    from rich.table import Table

    from imlctl.bench.accuracy import SetScore
    from imlctl.bench.bars import Bar
    from imlctl.bench.speed import SpeedReport
    from imlctl.pipeline import Localizer

_JSON_VERSION = 1


def bench(
    fps: Annotated[
        bool, typer.Option("--fps", help="Measure speed and cost of the model alone.")
    ] = False,
    f1: Annotated[
        Path | None,
        typer.Option(
            "--f1",
            help="Measure accuracy on a folder of <set>/tampered, masks, authentic.",
            show_default=False,
        ),
    ] = None,
    model: options.Model = "",
    weights: options.Weights = None,
    size: Annotated[
        list[int] | None,
        typer.Option(
            help="Side of the picture in pixels; may be repeated.", show_default="512, 1024, 2048"
        ),
    ] = None,
    device: options.Device = "auto",
    against: Annotated[
        bool,
        typer.Option(
            "--against-mit-b3",
            help="Time SegFormer's MiT-B3 encoder in the same run, and give the ratio.",
        ),
    ] = False,
    threshold: options.Threshold = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs of each size.")] = 5,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure this machine and these weights: --fps for speed and cost, --f1 for accuracy."""
    from imlctl.device import reuse_memory
    from imlctl.errors import UsageError
    from imlctl.pipeline import Localizer, Settings

    if fps == (f1 is not None):
        raise UsageError("needs one of --fps and --f1", source="bench")
    reuse_memory()
    localizer = Localizer(
        Settings(model=model, weights=weights, device=device, threshold=threshold)
    )
    if f1 is not None:
        _accuracy(localizer, f1, json)
    else:
        _speed(localizer, size or [512, 1024, 2048], runs, against, json)


def _speed(localizer: Localizer, sizes: list[int], runs: int, against: bool, as_json: bool) -> None:
    from tqdm import tqdm

    from imlctl.bench.speed import measure

    with tqdm(
        bar_format="{desc} [{elapsed}]", disable=None, leave=False, dynamic_ncols=True
    ) as bar:
        report = measure(
            localizer,
            sizes=sizes,
            tile=localizer.settings.tile,
            runs=runs,
            against_mit_b3=against,
            progress=bar.set_description_str,
        )
    if as_json:
        _print_json("speed", localizer, report.to_json())
    else:
        _print(localizer, *_speed_page(report))


def _accuracy(localizer: Localizer, folder: Path, as_json: bool) -> None:
    from dataclasses import asdict

    from tqdm import tqdm

    from imlctl.bench.accuracy import Answer, evaluate, find_cases, summarize

    def detect(picture: Path) -> Answer:
        result = localizer.localize(picture)
        return Answer(result.probability, result.score)

    cases = find_cases(folder)
    scores = evaluate(cases, detect, threshold=localizer.threshold)
    progress = tqdm(
        scores, total=len(cases), unit="picture", disable=None, leave=False, dynamic_ncols=True
    )
    pictures = list(progress)
    rule = {"threshold": localizer.threshold, "min_share": localizer.card.min_share}
    sets = summarize(pictures, min_share=localizer.card.min_share)
    if as_json:
        values = {"sets": map(asdict, sets), "pictures": map(asdict, pictures)}
        _print_json("accuracy", localizer, rule | {k: _known(v) for k, v in values.items()})
    else:
        _print(localizer, *_accuracy_page(sets, rule))


def _known(rows: Any) -> list[dict[str, Any]]:
    """Rows without NaN, which JSON does not have: null where there is no value."""
    return [{k: v if v == v else None for k, v in row.items()} for row in rows]


def _print_json(kind: str, localizer: Localizer, values: dict[str, Any]) -> None:
    from json import dumps

    about = {key: localizer.provenance[key] for key in ("model", "weights_sha256", "device")}
    document = {"kind": kind, "version": _JSON_VERSION, **about, **values}
    typer.echo(dumps(document, indent=2, allow_nan=False))


def _print(localizer: Localizer, *parts: Table | str) -> None:
    from rich.console import Console

    about = localizer.provenance
    console = Console(markup=False, highlight=False, emoji=False)
    sha256 = str(about["weights_sha256"])
    console.print(f"{printable(about['model'])} (weights {sha256[:12]}) on {about['device']}")
    for part in parts:
        console.print(part)


def _table(title: str, first: str, *others: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _speed_page(report: SpeedReport) -> list[Table | str]:
    here, rival = report.environment, report.rival
    load = "unknown" if here.load is None else f"{here.load:.2f}"
    page: list[Table | str] = [
        f"{here.cpu}; cores: {here.cores}, threads: {here.threads}, load before: {load}",
        f"torch {here.torch}, Python {here.python}, {here.system}",
        _speed_table(report),
        _cost_table(report),
    ]
    if rival is not None:
        page.append(
            f"{rival.name} at {rival.size}: {_duration(rival.timing.median)}; the model takes "
            f"{rival.share:.3f} of that, pair by pair ({1 / rival.share:.1f} times as fast).\n"
        )
    page.append(_bar_table(report.bars))
    if here.busy:
        page.append(
            "This machine was busy before the first pass. Times are too long and ratios rough:\n"
            "measure again when it is idle."
        )
    return page


def _speed_table(report: SpeedReport) -> Table:
    table = _table("Speed, model alone", "picture", "fps", "median", "p95", "time", "memory")
    for row in report.rows:
        table.add_row(
            f"{row.size} x {row.size}" + (f", {row.tiles} tiles" if row.tiles > 1 else ""),
            f"{row.fps:.3g}",
            _duration(row.timing.median),
            _duration(row.timing.p95),
            f"{row.growth:.2f} x",
            "unknown" if row.memory is None else f"{row.memory / 1e6:.1f} MB",
        )
    return table


def _cost_table(report: SpeedReport) -> Table:
    cost = report.cost
    title = f"Cost at {cost.size} x {cost.size}"
    table = _table(title, "part", "parameters", "multiply-accumulates", "share")
    for part in cost.parts:
        share = f"{part.macs / cost.macs:.1%}"
        table.add_row(part.name, _count(part.parameters), _count(part.macs), share)
    table.add_row("all", _count(cost.parameters), _count(cost.macs), "100.0%")
    if report.rival is not None:
        theirs = report.rival.cost
        table.add_row(report.rival.name, _count(theirs.parameters), _count(theirs.macs))
    return table


def _bar_table(bars: tuple[Bar, ...]) -> Table:
    table = _table("Bars", "what", "at most", "here", "")
    for bar in bars:
        verdict = "met" if bar.passed else "NOT MET"
        table.add_row(bar.name, _count(bar.limit), _count(bar.measured), verdict)
    return table


def _accuracy_page(sets: list[SetScore], rule: dict[str, float]) -> list[Table | str]:
    columns = ("pictures", "F1", "IoU", "AUC", "best\nF1*", "flagged", "found")
    table = _table("Accuracy", "set", *columns)
    for row in sets:
        values = (row.f1, row.iou, row.auc, row.best_f1)  # NaN, unequal to itself, is a gap
        table.add_row(
            printable(row.name),
            f"{row.tampered} + {row.authentic}",
            *(f"{v:.3f}" if v == v else "-" for v in values),
            *(f"{v:.0%}" if v == v else "-" for v in (row.flagged, row.found)),
        )
    return [
        table,
        "pictures: tampered + authentic. F1, IoU, AUC: of pixels, mean over tampered pictures.\n"
        f"Threshold {rule['threshold']:g}. flagged, found: authentic and tampered pictures with "
        f"more than {rule['min_share']:.1%} of their pixels over it.\n"
        "* at each picture's own best threshold: optimistic, no one threshold is that good.",
    ]


def _duration(seconds: float) -> str:
    return f"{seconds:.4g} s" if seconds >= 1 else f"{1000 * seconds:.4g} ms"


def _count(value: float) -> str:
    """A number with three digits that count: 1.93 M, 0.167."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g} {letter}"
    return f"{value:.3g}"
