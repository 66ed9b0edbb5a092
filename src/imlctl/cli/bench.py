"""`imlctl bench`: measure speed, cost and accuracy."""

from __future__ import annotations

import json as json_module
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar, cast

import typer

from imlctl.cli import options
from imlctl.cli.console import printable
from imlctl.cli.options import option
from imlctl.errors import OutputError, UsageError

if TYPE_CHECKING:
    from rich.console import JustifyMethod
    from rich.table import Table as RichTable

    from imlctl.bench.page import Document, Table
    from imlctl.pipeline import Localizer

_T = TypeVar("_T")
VERSION = 6  # of the document
_NAME = 12  # characters of a first cell that stay on one line
_WAYS = "--fps, --flops, --f1, --robustness, --calibrate or --scan"

_ACCURACY = "folder of <set>/tampered, masks, authentic, or a manifest (CSV or JSON)"
F1 = Annotated[Path | None, option(f"Measure accuracy on a {_ACCURACY}.", "--f1")]
Robustness = Annotated[
    Path | None,
    option("Measure accuracy after compression, blur, noise, resizing and a social network."),
]
Calibrate = Annotated[
    Path | None,
    option(
        "Measure on your own authentic pictures how often each verdict is given; PATH as for"
        " --f1, or any folder."
    ),
]
Scan = Annotated[
    Path | None, option("Time a scan of a folder, from files to masks, against the bare model.")
]
Peer = Annotated[
    str, option("With --f1: command of another detector that writes a map of {image} to {out}.")
]
Models = Annotated[
    list[str] | None,
    option("Name in the registry of weights.", "--model", show_default="the registry's default"),
]
Weights = Annotated[
    list[str] | None,
    option("Other weights: a name, a file, or hf://owner/repo[@revision]/file.", "--weights"),
]
Size = Annotated[
    list[int] | None,
    option("With --fps and --flops: side in pixels.", show_default="512, 1024, 2048, 4096"),
]
_STEPS = {"min": 1, "max": 1000, "show_default": "8; with --fps 8 and 1"}
Steps = Annotated[
    list[int] | None, option("Denoising steps, for models that sample.", "--steps", **_STEPS)
]
_MEMBERS = {"min": 1, "show_default": "5; with --fps 5 and 1"}
Ensemble = Annotated[
    list[int] | None, option("Samples to average, for models that sample.", **_MEMBERS)
]
_TTA = {"show_default": "no; with --fps both"}
Tta = Annotated[bool | None, option("Analyse the mirrored picture too.", "--tta/--no-tta", **_TTA)]
Runs = Annotated[int, option("With --fps and --scan: timed rounds.", min=1)]
Out = Annotated[Path | None, option("New folder to write JSON and Markdown to.", "--out", "-o")]


def bench(
    fps: Annotated[bool, option("Measure speed, cost and memory.", "--fps")] = False,
    flops: Annotated[bool, option("Count parameters and operations.", "--flops")] = False,
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
    split: Annotated[str, option("Use only this split of a manifest.")] = "",
    json: options.Json = False,
    out: Out = None,
) -> None:
    """Measure speed, cost and accuracy.

    One measurement at a time: --fps, --flops, --f1 (with --peer beside another detector),
    --robustness, --calibrate or --scan; PATH is a folder or a manifest throughout.

    With --fps, --flops and --f1, --model, --weights, --size, --steps and --ensemble may be
    repeated, to compare.
    """
    paths = {"--f1": f1, "--robustness": robustness, "--calibrate": calibrate, "--scan": scan}
    ways = ["--fps"] * fps + ["--flops"] * flops + [way for way, path in paths.items() if path]
    if len(ways) != 1:
        given = f"{' and '.join(ways)} were given" if ways else "nothing was chosen"
        what = f"measures one thing at a time, but {given}"
        raise UsageError(what, source="bench", remedy=f"Give {_WAYS}.")
    (way,) = ways
    if peer and way != "--f1":
        raise UsageError("needs pictures", source="--peer", remedy="Add --f1 PATH.")
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        what, remedy = "is there and not an empty folder", "Choose another name."
        raise OutputError(what, source=str(out), remedy=remedy)
    named = [*((name, None) for name in model or ()), *(("", name) for name in weights or ())]
    models = _Models(named or [("", None)], device, steps or [], ensemble or [], bool(tta))
    if way == "--fps":
        document = _speed(models, size or (), runs, tta)
    elif way == "--flops":
        document = _flops(models, size or ())
    else:
        path = cast("Path", paths[way])
        if way != "--f1" and max(len(named), len(models.steps), len(models.members)) > 1:
            what = "measures one model with one setting here, but several were given"
            remedy = "Only --fps, --flops and --f1 compare."
            raise UsageError(what, source="bench", remedy=remedy)
        document = _on_pictures(way, models, path, split, peer, runs)
    _show({"version": VERSION, **document}, json=json, out=out)


@dataclass(frozen=True, slots=True)
class _Models:
    named: list[tuple[str, str | None]]  # each in the registry, or other weights
    device: str
    steps: list[int]
    members: list[int]
    tta: bool

    def each(self, steps: Iterable[int], members: Iterable[int]) -> Iterator[Localizer]:
        """Every model with every setting, each loaded when it is asked for."""
        from imlctl.pipeline import Localizer
        from imlctl.settings import Sampling, Settings

        for (model, weights), count, number in product(self.named, members, steps):
            sampling = Sampling(steps=number, ensemble=count, tta=self.tta)
            settings = Settings(model=model, weights=weights, device=self.device, sampling=sampling)
            localizer = Localizer(settings)
            asked = self.steps or self.members
            if asked and len(self.named) == 1 and not localizer.model.samples:
                what = f"{localizer.provenance['model']} does not sample"
                remedy = "Give weights of a DiffIML."
                raise UsageError(what, source="--steps or --ensemble", remedy=remedy)
            yield localizer


def _speed(models: _Models, sizes: Iterable[int], runs: int, tta: bool | None) -> Document:
    from tqdm import tqdm

    from imlctl.bench.speed import SIZES, Plan, measure
    from imlctl.settings import MEMBERS, STEPS

    steps, members = tuple(models.steps) or (STEPS, 1), tuple(models.members) or (MEMBERS, 1)
    plan = Plan(tuple(sizes) or SIZES, runs, steps, members, tta)
    with tqdm(bar_format="{desc} [{elapsed}]", disable=None, leave=False) as bar:
        localizers = list(models.each(steps[:1], members[:1]))
        found = measure(localizers, plan, progress=bar.set_description_str)
    return {"kind": "speed", **found}


def _flops(models: _Models, sizes: Iterable[int]) -> Document:
    from imlctl.bench.flops import compare_counts
    from imlctl.bench.speed import SIZES, checked_sizes
    from imlctl.settings import MEMBERS, STEPS

    steps, members = models.steps or [STEPS], models.members or [1, MEMBERS]
    rows = []
    for localizer in models.each(steps[-1:], members[-1:]):
        size = checked_sizes(list(sizes) or SIZES, localizer.model.multiple)[0]
        named = {key: localizer.provenance[key] for key in ("model", "weights_sha256")}
        rows.append(named | compare_counts(localizer.model, size, steps, members))
    return {"kind": "flops", "models": rows}


def _on_pictures(
    way: str, models: _Models, path: Path, split: str, peer: str, runs: int
) -> Document:
    from imlctl.bench import accuracy
    from imlctl.data.manifest import authentic_pictures, evaluation_pictures
    from imlctl.settings import MEMBERS, STEPS

    each = models.each(models.steps or [STEPS], models.members or [MEMBERS])
    if way == "--scan":
        from imlctl.bench.scan import throughput

        return {"kind": "scan", **throughput(next(each), path, runs, _track)}
    if way == "--calibrate":
        entries = authentic_pictures(path, split=split)
        return {"kind": "calibration", **accuracy.count_verdicts(next(each), entries, _track)}
    entries = evaluation_pictures(path, split=split)
    if way == "--robustness":
        return {"kind": "robustness", **accuracy.robustness(next(each), entries, _track)}
    if not peer:
        return {"kind": "accuracy", "models": accuracy.accuracy(each, entries, _track)}
    accuracy.parse_peer(peer)
    for _ in models.each([1], [1]):
        pass  # one that does not load is told before the peer runs for hours
    theirs, entries, failed = accuracy.score_peer(entries, peer, _track)
    rows = [*accuracy.accuracy(each, entries, _track), theirs]
    return {"kind": "accuracy", "models": rows, "failed": failed}


def _track(items: Iterable[_T], total: int) -> Iterable[_T]:
    """Pass items on, with a progress bar on a terminal."""
    from tqdm import tqdm

    bar = tqdm(items, total=total, disable=None, leave=False, dynamic_ncols=True)
    return cast("Iterable[_T]", bar)


def _show(document: Document, *, json: bool, out: Path | None) -> None:
    from imlctl import atomic
    from imlctl.bench.page import to_markdown, without_nan
    from imlctl.bench.pages import page_of

    document = without_nan(document)
    text = json_module.dumps(document, indent=2, allow_nan=False)
    if out is not None:
        name = document["kind"]
        files = {f"{name}.json": f"{text}\n".encode()}
        files[f"{name}.md"] = to_markdown(page_of(document)).encode()
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

    title, padding = printable(table.title), (0, 1, 0, 0)
    drawn = RichTable(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=padding)
    for number, name in enumerate(table.columns):
        # A heading may be folded, a number never; of a name, a readable part stays.
        widest = max([1, *(len(printable(row[number])) for row in table.rows)])
        least = widest if number else min(widest, _NAME)
        side: JustifyMethod = "right" if number else "left"
        drawn.add_column(name, justify=side, overflow="fold", min_width=least)
    for row in table.rows:
        drawn.add_row(*map(printable, row))
    return drawn
