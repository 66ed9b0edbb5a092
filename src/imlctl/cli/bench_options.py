"""Options of `imlctl bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Fps = Annotated[bool, typer.Option("--fps", help="Measure speed, cost and memory.")]
Flops = Annotated[bool, typer.Option("--flops", help="Count parameters and operations, by part.")]
F1 = Annotated[
    Path | None,
    typer.Option(
        "--f1",
        help="Measure accuracy on a folder of <set>/tampered, masks, authentic, or on a manifest"
        " (CSV or JSON lines: image, mask, set, split).",
        show_default=False,
    ),
]
Robustness = Annotated[
    Path | None,
    typer.Option(
        help="Measure accuracy after compression, blur, noise, resizing and a trip through a"
        " social network; PATH as for --f1.",
        show_default=False,
    ),
]
Bars = Annotated[
    bool, typer.Option("--bars", help="Measure every number that this project promises.")
]
Scan = Annotated[
    Path | None,
    typer.Option(
        help="Time a scan of a folder of pictures, from files to masks, against the bare model.",
        show_default=False,
    ),
]
Calibrate = Annotated[
    Path | None,
    typer.Option(
        help="Find thresholds for false-positive rates on authentic pictures, and keep them for"
        " --threshold fpr=RATE; PATH as for --f1, or any folder.",
        show_default=False,
    ),
]
Ablate = Annotated[
    str,
    typer.Option(
        help="With --f1: vary one thing: steps, ensemble, prior, edge, encoder or init.",
        show_default=False,
    ),
]
Peer = Annotated[
    str,
    typer.Option(
        help="With --f1: another detector's command, which writes a map of {image} to {out}; both"
        " run in turns.",
        show_default=False,
    ),
]
Compare = Annotated[
    bool, typer.Option("--compare", help="Show published figures beside, marked as such.")
]
Read = Annotated[
    list[Path] | None,
    typer.Option(
        "--read",
        help="Show what --json printed earlier. Of several files with accuracy, and with cost if"
        " wanted, show the models side by side; with -o also plot F1 against cost.",
        show_default=False,
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="Name in the registry of weights; --fps and --flops take several.",
        show_default="the registry's default",
    ),
]
Weights = Annotated[
    list[str] | None,
    typer.Option(
        "--weights",
        help="Other weights: a name, a safetensors file, or hf://owner/repo[@revision]/file;"
        " --fps, --flops and --ablate take several.",
        show_default=False,
    ),
]
Size = Annotated[
    list[int] | None,
    typer.Option(
        help="Side of the picture in pixels; may be repeated.", show_default="512, 1024, 2048, 4096"
    ),
]
Steps = Annotated[
    list[int] | None,
    typer.Option(
        "--steps",
        min=1,
        max=1000,
        help="Denoising steps, for models that sample; --fps and --ablate take several.",
        show_default="8; with --fps 1 and 8",
    ),
]
Ensemble = Annotated[
    list[int] | None,
    typer.Option(
        "--ensemble",
        min=1,
        help="Samples that are averaged; --fps and --ablate take several.",
        show_default="5; with --fps 1 and 5",
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
Tile = Annotated[int, typer.Option(help="Side of a tile for large pictures.")]
Against = Annotated[
    bool,
    typer.Option(
        "--against-mit-b3",
        help="Time SegFormer's MiT-B3 encoder in the same run, and give the ratio.",
    ),
]
EndToEnd = Annotated[
    bool,
    typer.Option(
        "--end-to-end", help="With --fps: also from a JPEG's bytes to a mask on the disk, by stage."
    ),
]
Runs = Annotated[int, typer.Option(min=1, help="Timed runs of each size.")]
Budget = Annotated[
    float,
    typer.Option(
        min=0.1, help="With --fps: seconds for each size and way; what is slower has fewer runs."
    ),
]
Full = Annotated[
    bool, typer.Option("--full", help="With --fps: every way at every size, not at the smallest.")
]
Split = Annotated[str, typer.Option(help="Take only this split of a manifest.", show_default=False)]
Resamples = Annotated[
    int, typer.Option(min=0, help="Bootstrap resamples for confidence intervals; 0 for none.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print Markdown instead of a table.")]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Folder to write the same to as JSON and Markdown, with pictures.",
        show_default=False,
    ),
]
