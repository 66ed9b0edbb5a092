"""`imlctl bench`: measure speed, cost and accuracy."""

from __future__ import annotations

import json as json_module
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

from imlctl.cli import options
from imlctl.cli.console import printable
from imlctl.errors import OutputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.table import Table as RichTable

    from imlctl.bench.page import Table
    from imlctl.pipeline import Localizer

    Measured = tuple[dict[str, Any], dict[str, bytes | None]]  # a document, and PNGs by name

_T = TypeVar("_T")
VERSION = 5  # of the document
_NAME = 12  # characters of a first cell that stay on one line
_WAYS = "--fps, --flops, --f1, --robustness, --calibrate or --scan"

F1 = Annotated[
    Path | None,
    typer.Option(
        "--f1",
        help="Measure accuracy on a folder of <set>/tampered, masks, authentic, or on a manifest"
        " (CSV or JSON: image, mask, set, split).",
    ),
]
Robustness = Annotated[
    Path | None,
    typer.Option(
        help="Measure accuracy after compression, blur, noise, resizing and a trip through a"
        " social network; PATH as for --f1."
    ),
]
Calibrate = Annotated[
    Path | None,
    typer.Option(
        help="Measure on your own authentic pictures how often each verdict is given, and keep mask"
        " thresholds for --threshold fpr=RATE; PATH as for --f1, or any folder."
    ),
]
Scan = Annotated[
    Path | None,
    typer.Option(help="Time a scan of a folder, from files to masks, against the bare model."),
]
Peer = Annotated[
    str,
    typer.Option(
        help="With --f1: command of another detector that writes a map of {image} to {out}; both"
        " run in turns."
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="Name in the registry of weights; repeatable with --fps, --flops and --f1.",
        show_default="the registry's default",
    ),
]
Weights = Annotated[
    list[str] | None,
    typer.Option(
        "--weights",
        help="Other weights: a name, a safetensors file, or hf://owner/repo[@revision]/file;"
        " repeatable likewise.",
    ),
]
Size = Annotated[
    list[int] | None,
    typer.Option(
        help="With --fps and --flops: side of the picture in pixels; repeatable.",
        show_default="512, 1024, 2048, 4096",
    ),
]
Steps = Annotated[
    list[int] | None,
    typer.Option(
        "--steps",
        min=1,
        max=1000,
        help="Denoising steps, for models that sample; repeatable, to compare.",
        show_default="8; with --fps 8 and 1",
    ),
]
Ensemble = Annotated[
    list[int] | None,
    typer.Option(
        "--ensemble",
        min=1,
        help="Samples to average, for models that sample; repeatable, to compare.",
        show_default="5; with --fps 5 and 1",
    ),
]
Tta = Annotated[
    bool | None,
    typer.Option(
        "--tta/--no-tta",
        help="Analyse the mirrored picture too.",
        show_default="no; with --fps both",
    ),
]
Runs = Annotated[int, typer.Option(min=1, help="With --fps and --scan: timed rounds.")]
Split = Annotated[str, typer.Option(help="Use only this split of a manifest.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="New folder to write JSON, Markdown and charts to."),
]


def bench(
    fps: Annotated[bool, typer.Option("--fps", help="Measure speed, cost and memory.")] = False,
    flops: Annotated[
        bool, typer.Option("--flops", help="Count parameters and operations, by part.")
    ] = False,
    f1: F1 = None,
    robustness: Robustness = None,
    calibrate: Calibrate = None,
    scan: Scan = None,
    peer: Peer = "",
    model: Models = None,
    weights: Weights = None,
    size: Size = None,
    device: options.Device = "auto",
    steps: Steps = None,
    ensemble: Ensemble = None,
    tta: Tta = None,
    runs: Runs = 5,
    split: Split = "",
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    out: Out = None,
) -> None:
    """Measure speed, cost and accuracy.

    One measurement at a time: --fps, --flops, --f1 (with --peer beside another detector),
    --robustness, --calibrate or --scan.
    """
    paths = {"--f1": f1, "--robustness": robustness, "--calibrate": calibrate, "--scan": scan}
    ways = [way for way, wanted in (("--fps", fps), ("--flops", flops)) if wanted]
    ways += [way for way, path in paths.items() if path is not None]
    if len(ways) != 1:
        given = f"{' and '.join(ways)} were given" if ways else "nothing was chosen"
        raise UsageError(
            f"measures one thing at a time, but {given}", source="bench", remedy=f"Give {_WAYS}."
        )
    (way,) = ways
    if peer and way != "--f1":
        raise UsageError("needs pictures", source="--peer", remedy="Add --f1 PATH.")
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(
            "is there and not an empty folder", source=str(out), remedy="Choose another name."
        )
    named = [*((name, None) for name in model or ()), *(("", name) for name in weights or ())]
    models = _Models(named or [("", None)], device, steps or [], ensemble or [], bool(tta))
    models.varied = bool(steps or ensemble) and len(models.named) == 1
    path = paths.get(way)
    if way == "--fps":
        document, pictures = _speed(models, size or (), runs, tta)
    elif way == "--flops":
        document, pictures = _flops(models, size or ())
    elif way == "--scan":
        from imlctl.bench.scan import throughput

        document = throughput(models.one(), cast("Path", path), runs, _track)
        document, pictures = {"kind": "scan", **document}, {}
    else:
        document, pictures = _on_pictures(way, models, cast("Path", path), split, peer, out)
    _show({"version": VERSION, **document}, pictures, json=json, out=out)


@dataclass(slots=True)
class _Models:
    """Models and settings of the command line, loaded one at a time."""

    named: list[tuple[str, str | None]]  # each in the registry, or other weights
    device: str
    steps: list[int]
    members: list[int]
    tta: bool
    varied: bool = False  # a setting was given for what must be a model that samples

    def one(self) -> Localizer:
        """The only one.

        Raises:
            UsageError: Several models or settings were given.
        """
        if max(len(self.named), len(self.steps), len(self.members)) > 1:
            raise UsageError(
                "measures one model with one setting here, but several were given",
                source="bench",
                remedy="Only --fps, --flops and --f1 without --peer compare.",
            )
        return next(self.every())

    def every(self) -> Iterator[Localizer]:
        """Every model with every setting, each loaded when it is asked for."""
        from itertools import product

        from imlctl.core.diff_iml import MEMBERS
        from imlctl.core.model import STEPS
        from imlctl.pipeline import Localizer
        from imlctl.settings import Sampling, Settings

        drawn = product(self.named, self.members or [MEMBERS], self.steps or [STEPS])
        for (model, weights), members, steps in drawn:
            sampling = Sampling(steps=steps, ensemble=members, tta=self.tta)
            settings = Settings(model=model, weights=weights, device=self.device, sampling=sampling)
            localizer = Localizer(settings)
            if self.varied and not localizer.model.samples:
                raise UsageError(
                    f"{localizer.provenance['model']} does not sample",
                    source="--steps or --ensemble",
                    remedy="Give weights of a DiffIML.",
                )
            yield localizer


def _speed(models: _Models, sizes: Iterable[int], runs: int, tta: bool | None) -> Measured:
    from tqdm import tqdm

    from imlctl.bench.speed import SIZES, Plan, measure
    from imlctl.core.diff_iml import MEMBERS
    from imlctl.core.model import STEPS

    steps, members = tuple(models.steps) or (STEPS, 1), tuple(models.members) or (MEMBERS, 1)
    plan = Plan(tuple(sizes) or SIZES, runs, steps, members, tta)
    models.steps, models.members = [steps[0]], [members[0]]
    with tqdm(bar_format="{desc} [{elapsed}]", disable=None, leave=False) as bar:
        found = measure(list(models.every()), plan, progress=bar.set_description_str)
    return {"kind": "speed", **found}, {}


def _flops(models: _Models, sizes: Iterable[int]) -> Measured:
    from imlctl.bench.flops import compare_counts
    from imlctl.bench.speed import SIZES, checked_sizes
    from imlctl.core.diff_iml import MEMBERS
    from imlctl.core.model import STEPS

    steps, members = models.steps or [STEPS], models.members or [1, MEMBERS]
    models.steps, models.members = steps[-1:], members[-1:]
    rows = []
    for localizer in models.every():
        size = checked_sizes(list(sizes) or SIZES, localizer.model.multiple)[0]
        named = {key: localizer.provenance[key] for key in ("model", "weights_sha256")}
        rows.append(named | compare_counts(localizer.model, size, steps, members))
    return {"kind": "flops", "models": rows}, {}


def _on_pictures(
    way: str, models: _Models, path: Path, split: str, peer: str, out: Path | None
) -> Measured:
    from imlctl.bench import accuracy
    from imlctl.data.manifest import authentic_pictures, evaluation_pictures

    if way == "--calibrate":
        entries = authentic_pictures(path, split=split)
        return {"kind": "calibration", **accuracy.calibrate(models.one(), entries, _track)}, {}
    entries = evaluation_pictures(path, split=split)
    if way == "--robustness":
        return {"kind": "robustness", **accuracy.robustness(models.one(), entries, _track)}, {}
    if peer:
        from imlctl.bench.peer import compare_with_peer

        return {"kind": "peer", **compare_with_peer(models.one(), entries, peer, _track)}, {}
    rows = accuracy.accuracy(models.every(), entries, _track)
    pictures: dict[str, bytes | None] = {}
    if out is not None:
        localizer = next(models.every())
        pictures["cases.png"] = accuracy.cases_png(localizer, entries, rows[0]["pictures"])
    return {"kind": "accuracy", "models": rows}, pictures


def _track(items: Iterable[_T], total: int) -> Iterable[_T]:
    """Pass items on, with a progress bar on a terminal."""
    from tqdm import tqdm

    bar = tqdm(items, total=total, disable=None, leave=False, dynamic_ncols=True)
    return cast("Iterable[_T]", bar)


def _show(
    document: dict[str, Any], pictures: dict[str, bytes | None], *, json: bool, out: Path | None
) -> None:
    """Print the document, and write it to the folder if there is one."""
    from imlctl import atomic
    from imlctl.bench.draw import charts_of
    from imlctl.bench.page import to_markdown, without_nan
    from imlctl.bench.pages import page_of

    document = without_nan(document)
    text = json_module.dumps(document, indent=2, allow_nan=False)
    if out is not None:
        name = document["kind"]
        files = {f"{name}.json": f"{text}\n".encode()}
        files[f"{name}.md"] = to_markdown(page_of(document)).encode()
        files |= charts_of(document)
        files |= {png: data for png, data in pictures.items() if data is not None}
        for file, data in files.items():
            atomic.write(out / file, data)
    if json:
        typer.echo(text)
        return
    from rich.console import Console

    console = Console(markup=False, highlight=False, emoji=False)
    for block in page_of(document):
        if isinstance(block, str):
            console.print("\n".join(map(printable, block.split("\n"))) + "\n")
        else:
            console.print(_rich(block))


def _rich(table: Table) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable

    drawn = RichTable(
        title=printable(table.title),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for number, name in enumerate(table.columns):
        # A heading may be folded, a number never; of a name, a readable part stays.
        widest = max([1, *(len(printable(row[number])) for row in table.rows)])
        drawn.add_column(
            name,
            justify="right" if number else "left",
            overflow="fold",
            min_width=widest if number else min(widest, _NAME),
        )
    for row in table.rows:
        drawn.add_row(*map(printable, row))
    return drawn
