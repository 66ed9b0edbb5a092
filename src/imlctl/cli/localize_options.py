"""Options of `imlctl localize`, in the groups that its help shows."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from typer import Argument
from typer.core import TyperCommand

from imlctl.cli.options import option

_GROUPS = {  # of the help, by the names of parameters
    "Input": "example recursive include exclude files_from null max_pixels timeout",
    "Output": "out everything soft overlay heatmap views reliability json jsonl csv report"
    " manifest force quiet verbose",
    "Model": "model weights device threshold",
    "Scan": "check resume shard jobs ray",
    "Advanced": "tile tta tta_fusion steps ensemble seed",
}


Inputs = Annotated[
    list[str] | None, Argument(help="Photographs, folders, or - for standard input.")
]
Example = Annotated[
    bool, option("Analyse the example that comes with imlctl: a forgery.", "--example")
]
Recursive = Annotated[bool, option("Search folders within folders.", "--recursive", "-r")]
Include = Annotated[
    list[str] | None,
    option("In folders, take only pictures that match, as 'IMG_*' or 'case-7/*'. Repeatable."),
]
Exclude = Annotated[
    list[str] | None, option("In folders, leave out pictures and folders that match. Repeatable.")
]
FilesFrom = Annotated[
    str | None,
    option("Also take the files listed in this file, one per line; - for standard input."),
]
Null = Annotated[bool, option("Names in --files-from end in a zero byte.", "--null", "-0")]
MaxPixels = Annotated[int, option("Refuse larger pictures; none is ever shrunk.", min=1)]
Timeout = Annotated[
    float,
    option("Give up on a picture whose decoding takes longer than this, in seconds.", min=0.1),
]

Out = Annotated[
    str | None,
    option(
        "Mask to write (PNG), a folder for many, or - for standard output."
        " Without it, only verdicts are printed.",
        *("--out", "-o"),
    ),
]
All = Annotated[
    bool, option("Write overlay, heat map, JSON, CSV, report and manifest, into a folder.", "--all")
]
Soft = Annotated[
    bool, option("Write the probability map (16-bit) instead of the binary mask.", "--soft")
]
Overlay = Annotated[bool, option("Also write the photograph with the mask outlined.", "--overlay")]
Heatmap = Annotated[bool, option("Also write the probabilities as colours.", "--heatmap")]
Views = Annotated[
    bool,
    option(
        "Also write error levels, JPEG ghost, noise and gradient, for your own eyes; with"
        " --report, show them there. They do not enter the verdict.",
        "--views",
    ),
]
Reliability = Annotated[
    bool, option("Also write where the map can be believed, if the model says.", "--reliability")
]
Json = Annotated[bool, option("Also write the full record; without -o, print it.", "--json")]
Jsonl = Annotated[
    bool, option("Also write all records to records.jsonl, each as soon as it is there.", "--jsonl")
]
Csv = Annotated[bool, option("Also write the main facts to records.csv.", "--csv")]
Report = Annotated[
    bool, option("Also write report.html, one file that loads nothing from elsewhere.", "--report")
]
Manifest = Annotated[
    bool, option("Also write SHA256SUMS of inputs and outputs, for `imlctl verify`.", "--manifest")
]
Quiet = Annotated[bool, option("Print only errors.", "--quiet", "-q")]
Verbose = Annotated[
    bool, option("Print sizes, times, warnings, traces of internal errors.", "--verbose", "-v")
]


def _models() -> list[str]:
    """Names offered by tab completion for `--model`; reads the registries, and no weights."""
    from imlctl.weights.registry import known_weights

    return [name for name, entry in known_weights().entries.items() if entry.kind == "model"]


Model = Annotated[
    str,
    option(
        "Name in the registry of weights.",
        show_default="the registry's default",
        autocompletion=_models,
    ),
]
Weights = Annotated[
    str | None,
    option("Other weights: a name, a safetensors file, or hf://owner/repo[@revision]/file."),
]
Threshold = Annotated[
    float | None,
    option(
        "Mark pixels from this probability, between 0 and 1.", show_default="depends on the verdict"
    ),
]


class CheckFor(StrEnum):
    """The verdicts that --check looks for."""

    MANIPULATED = "manipulated"
    ANY = "any"


class LocalizeCommand(TyperCommand):
    """Command with its options in groups, and a `--check` whose value may be left out."""

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
    option(
        "Exit with status 1 if any picture is manipulated; with --check=any also if one is"
        " inconclusive.",
        metavar="[=any]",
    ),
]
Resume = Annotated[
    bool,
    option(
        "Continue an interrupted scan: skip pictures that the hashes of inputs and outputs"
        " prove to be done with the same weights and settings.",
        "--resume",
    ),
]
Shard = Annotated[
    str | None,
    option("Analyse one of several parts, such as 2/8; a picture's name alone decides its part."),
]
Jobs = Annotated[
    int | None,
    option(
        "Processes: on a CPU those that analyse, with one thread each; on a graphics card those"
        " that decode. 0 does everything in this process.",
        min=0,
        max=256,
        show_default="as many as cores and memory allow",
    ),
]
Ray = Annotated[
    bool,
    option("Analyse on the Ray cluster of RAY_ADDRESS, or one of this machine's own.", "--ray"),
]

Tile = Annotated[int, option("Side of a tile for large pictures; smaller needs less memory.")]
Tta = Annotated[bool, option("Analyse the mirrored picture too.", "--tta")]
TtaFusion = Annotated[
    str | None,
    option(
        "How to combine the two maps of --tta: mean, or max, which marks more of everything.",
        show_default="mean",
        autocompletion=lambda: ["mean", "max"],
    ),
]
_STEPS = {"min": 1, "max": 1000, "show_default": "8"}
Steps = Annotated[int | None, option("Denoising steps, for models that sample.", **_STEPS)]
Ensemble = Annotated[
    int | None, option("Samples to average, for models that sample.", min=1, show_default="5")
]
Seed = Annotated[int | None, option("Seed of the noise, for models that sample.", show_default="0")]
