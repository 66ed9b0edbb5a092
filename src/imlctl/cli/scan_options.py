"""Options of a scan over many photographs."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

Inputs = Annotated[
    list[str] | None,
    typer.Argument(help="Photographs, folders, or - for standard input.", show_default=False),
]
Out = Annotated[
    str | None,
    typer.Option(
        "--out",
        "-o",
        help="Mask to write (PNG), a folder for many, or - for standard output."
        " Without it only the verdict is printed.",
        show_default=False,
    ),
]
Recursive = Annotated[
    bool, typer.Option("--recursive", "-r", help="Go into folders within folders.")
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        help="In folders, take only pictures that match, as 'IMG_*' or 'case-7/*'. Repeatable.",
        show_default=False,
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        help="In folders, leave pictures and folders that match. Repeatable.", show_default=False
    ),
]
FilesFrom = Annotated[
    str | None,
    typer.Option(
        "--files-from",
        help="Also take the files that this file lists, one a line; - for standard input.",
        show_default=False,
    ),
]
Null = Annotated[
    bool, typer.Option("--null", "-0", help="Names of --files-from end in a zero byte.")
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with an interrupted scan: skip what is done with the same weights and"
        " settings, as the hashes of inputs and outputs prove.",
    ),
]
ShardOf = Annotated[
    str | None,
    typer.Option(
        "--shard",
        help="Analyse one of several parts, as 2/8; for job arrays. A picture's name alone"
        " decides which part it is in.",
        show_default=False,
    ),
]
Ray = Annotated[
    bool,
    typer.Option(
        "--ray",
        help="Analyse on a Ray cluster: the one that RAY_ADDRESS names, otherwise one that is"
        " started on this machine. Needs imlctl[ray].",
    ),
]


class CheckFor(StrEnum):
    """The verdicts that --check looks for."""

    MANIPULATED = "manipulated"
    ANY = "any"


class BareCheckCommand(TyperCommand):
    """Command whose `--check` may stand without a value, which must follow an equals sign."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give a bare `--check` its value; after `--` there are only names of files."""
        end = args.index("--") if "--" in args else len(args)
        options = [f"--check={CheckFor.MANIPULATED}" if a == "--check" else a for a in args[:end]]
        parsed: list[str] = super().parse_args(ctx, options + args[end:])
        return parsed


Check = Annotated[
    CheckFor | None,
    typer.Option(
        "--check",
        metavar="[=any]",
        help="Exit with status 1 if any picture is manipulated; with --check=any also if one is"
        " inconclusive.",
        show_default=False,
    ),
]
Manifest = Annotated[
    bool,
    typer.Option(
        "--manifest",
        help="Also write SHA256SUMS of all inputs and outputs; `imlctl verify` checks it.",
    ),
]
Report = Annotated[
    bool,
    typer.Option(
        "--report",
        help="Also write report.html, one page with everything, and keep small pictures for it.",
    ),
]
Jsonl = Annotated[
    bool,
    typer.Option(
        "--jsonl", help="Also write all records to records.jsonl, each as it is finished."
    ),
]
Csv = Annotated[bool, typer.Option("--csv", help="Also write the main facts to records.csv.")]
MaxPixels = Annotated[
    int, typer.Option("--max-pixels", min=1, help="Larger pictures are refused, not shrunk.")
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=64,
        help="Processes that decode ahead; 0 decodes in this one. With --ray, of each worker.",
        show_default="as many as cores help; with --ray, 1",
    ),
]
Timeout = Annotated[
    float,
    typer.Option(min=0.1, help="Seconds after which a picture that is still decoded has failed."),
]
