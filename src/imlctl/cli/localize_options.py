"""Options of `imlctl localize`, in the groups that its help shows."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

_GROUPS = {  # of the help, by the names of parameters
    "Input": "example recursive include exclude files_from null max_pixels timeout",
    "Output": "out everything soft overlay heatmap views reliability json jsonl csv report"
    " manifest force quiet verbose",
    "Model": "model weights device threshold",
    "Scan": "check resume shard jobs ray",
    "Advanced": "tile tta tta_fusion steps ensemble seed",
}


def _flag(name: str, about: str, *short: str) -> Any:
    return typer.Option(name, *short, help=about)


Inputs = Annotated[
    list[str] | None, typer.Argument(help="Photographs, folders, or - for standard input.")
]
Example = Annotated[
    bool, _flag("--example", "Analyse the example that comes with imlctl: a forgery.")
]
Recursive = Annotated[bool, _flag("--recursive", "Search folders within folders.", "-r")]
Include = Annotated[
    list[str] | None,
    typer.Option(
        help="In folders, take only pictures that match, as 'IMG_*' or 'case-7/*'. Repeatable."
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(help="In folders, leave out pictures and folders that match. Repeatable."),
]
FilesFrom = Annotated[
    str | None,
    typer.Option(
        "--files-from",
        help="Also take the files listed in this file, one per line; - for standard input.",
    ),
]
Null = Annotated[bool, _flag("--null", "Names in --files-from end in a zero byte.", "-0")]
MaxPixels = Annotated[
    int, typer.Option("--max-pixels", min=1, help="Refuse larger pictures; none is ever shrunk.")
]
Timeout = Annotated[
    float,
    typer.Option(
        min=0.1, help="Give up on a picture whose decoding takes longer than this, in seconds."
    ),
]

Out = Annotated[
    str | None,
    typer.Option(
        "--out",
        "-o",
        help="Mask to write (PNG), a folder for many, or - for standard output."
        " Without it, only verdicts are printed.",
    ),
]
All = Annotated[
    bool,
    _flag(
        "--all", "Write everything into the folder: overlay, heat map, JSON, CSV, report, manifest."
    ),
]
Soft = Annotated[
    bool, _flag("--soft", "Write the probability map (16-bit) instead of the binary mask.")
]
Overlay = Annotated[bool, _flag("--overlay", "Also write the photograph with the mask outlined.")]
Heatmap = Annotated[bool, _flag("--heatmap", "Also write the probabilities as colours.")]
Views = Annotated[
    bool,
    _flag(
        "--views",
        "Also write error levels, JPEG ghost, noise and gradient, for your own eyes; with"
        " --report, show them there. They do not enter the verdict.",
    ),
]
Reliability = Annotated[
    bool,
    _flag(
        "--reliability", "Also write where the map can be believed (16-bit), if the model says so."
    ),
]
Json = Annotated[bool, _flag("--json", "Also write the full record; without -o, print it.")]
Jsonl = Annotated[
    bool, _flag("--jsonl", "Also write all records to records.jsonl, each as soon as it is there.")
]
Csv = Annotated[bool, _flag("--csv", "Also write the main facts to records.csv.")]
Report = Annotated[
    bool,
    _flag(
        "--report",
        "Also write report.html: one self-contained file, loads nothing from the network.",
    ),
]
Manifest = Annotated[
    bool,
    _flag("--manifest", "Also write SHA256SUMS of all inputs and outputs, for `imlctl verify`."),
]
Quiet = Annotated[bool, _flag("--quiet", "Print only errors.", "-q")]
Verbose = Annotated[
    bool,
    _flag(
        "--verbose",
        "Print sizes, tiles, times and warnings, and where an internal error came from.",
        "-v",
    ),
]


def _models() -> list[str]:
    """Names offered by tab completion for `--model`; reads the registries, and no weights."""
    from imlctl.weights.user_registry import known_weights

    return [name for name, entry in known_weights().entries.items() if entry.kind == "model"]


Model = Annotated[
    str,
    typer.Option(
        help="Name in the registry of weights.",
        show_default="the registry's default",
        autocompletion=_models,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Other weights: a name, a safetensors file, or hf://owner/repo[@revision]/file."
    ),
]
Threshold = Annotated[
    str | None,
    typer.Option(
        metavar="P|fpr=RATE",
        help="Mark pixels from this probability, between 0 and 1; or fpr=0.01 for the one that"
        " flags this share of authentic pictures, as measured by imlctl bench --calibrate.",
        show_default="depends on the verdict",
    ),
]


class CheckFor(StrEnum):
    """The verdicts that --check looks for."""

    MANIPULATED = "manipulated"
    ANY = "any"


class LocalizeCommand(TyperCommand):
    """Command with its options in groups, and a `--check` that may stand without a value.

    A value must follow an equals sign.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give a bare `--check` its value; after `--` there are only names of files."""
        end = args.index("--") if "--" in args else len(args)
        options = [f"--check={CheckFor.MANIPULATED}" if a == "--check" else a for a in args[:end]]
        parsed: list[str] = super().parse_args(ctx, options + args[end:])
        return parsed

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """List the options in their groups."""
        group_of = {name: group for group, names in _GROUPS.items() for name in names.split()}
        groups: dict[str, list[Any]] = {name: [] for name in ("Arguments", *_GROUPS, "Other")}
        for parameter in self.get_params(ctx):
            row = parameter.get_help_record(ctx)
            is_argument = parameter.param_type_name == "argument"
            group = "Arguments" if is_argument else group_of.get(parameter.name, "Other")
            if row is not None:
                groups[group].append(row)
        for name, rows in groups.items():
            if rows:
                with formatter.section(name):
                    formatter.write_dl(rows)


Check = Annotated[
    CheckFor | None,
    typer.Option(
        "--check",
        metavar="[=any]",
        help="Exit with status 1 if any picture is manipulated; with --check=any also if one is"
        " inconclusive.",
    ),
]
Resume = Annotated[
    bool,
    _flag(
        "--resume",
        "Continue an interrupted scan: skip pictures that the hashes of inputs and outputs"
        " prove to be done with the same weights and settings.",
    ),
]
ShardOf = Annotated[
    str | None,
    typer.Option(
        "--shard",
        help="Analyse one of several parts, such as 2/8, for job arrays. The name of a picture"
        " alone decides its part.",
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=256,
        help="Processes: on a CPU those that analyse, with one thread each; on a graphics card, or"
        " for each worker of --ray, those that decode. 0 does everything in this process.",
        show_default="as many as cores and memory allow",
    ),
]
Ray = Annotated[
    bool,
    _flag(
        "--ray",
        "Analyse on a Ray cluster: the one named by RAY_ADDRESS, or else one started on this"
        " machine. Needs imlctl[ray].",
    ),
]

Tile = Annotated[
    int, typer.Option(help="Side of a tile for large pictures; smaller needs less memory.")
]
Tta = Annotated[bool, _flag("--tta", "Analyse the mirrored picture too.")]
TtaFusion = Annotated[
    str | None,
    typer.Option(
        help="How to combine the two maps of --tta: mean, or max, which marks more of everything.",
        show_default="mean",
        autocompletion=lambda: ["mean", "max"],
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        min=1, max=1000, help="Denoising steps, for models that sample.", show_default="8"
    ),
]
Ensemble = Annotated[
    int | None,
    typer.Option(
        min=1, help="Number of samples to average, for models that sample.", show_default="5"
    ),
]
Seed = Annotated[
    int | None, typer.Option(help="Seed of the noise, for models that sample.", show_default="0")
]
