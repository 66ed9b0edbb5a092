"""`imlctl weights pull | push | convert`: weights that come, go, or change their form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imlctl.cli import options
from imlctl.cli.console import note, printable

PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def pull(
    wanted: Annotated[
        list[str],
        typer.Argument(help="Names, or hf://owner/repo[@revision]/file.", show_default=False),
    ],
    trust_on_first_use: Annotated[
        bool,
        typer.Option(
            "--trust-on-first-use",
            help="Where no hash is known, accept the file that arrives and record its hash.",
        ),
    ] = False,
    sha256: Annotated[
        str, typer.Option(help="Expected hash, from a source that you trust.", show_default=False)
    ] = "",
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Fetch again, even if it is installed.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Fetch weights from the Hugging Face Hub, and check their hash.

    HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_OFFLINE and HTTPS_PROXY work as for every client of the
    Hub.
    """
    from imlctl.errors import UsageError
    from imlctl.weights import trust

    if sha256 and len(wanted) > 1:
        raise UsageError("belongs to one file", source="--sha256", remedy="Pull them one by one.")
    for name in wanted:
        pulled = trust.pull(
            name,
            trust_on_first_use=trust_on_first_use,
            sha256=sha256,
            force=force,
            quiet=quiet,
            notice=note,
        )
        typer.echo(f"{printable(name)}: {printable(pulled.path)}")
        typer.echo(f"  sha256 {pulled.sha256} (checked: {pulled.checked})")
        if pulled.revision:
            typer.echo(f"  commit {pulled.revision}")
        if pulled.path.suffix in PICKLES:
            note(f"{name} is a pickle; convert it with: imlctl weights convert")


def push(
    weights: Annotated[
        Path, typer.Argument(help="Safetensors file written by imlctl.", show_default=False)
    ],
    repo: Annotated[
        str, typer.Argument(help="Repository on the Hub, as owner/name.", show_default=False)
    ],
    name: Annotated[str, typer.Option(help="Name for the registry.", show_default=False)],
    card: Annotated[Path, typer.Option(help="Model card (Markdown).", show_default=False)],
    licence: Annotated[
        str, typer.Option(help="Licence, as an SPDX identifier.", show_default=False)
    ],
    private: Annotated[
        bool, typer.Option("--private", help="If the repository is new, make it private.")
    ] = False,
) -> None:
    """Publish trained weights with their model card.

    Prints their entry for a registry.
    """
    from imlctl.weights import publish
    from imlctl.weights.user_registry import to_toml

    publication = publish.Publication(
        weights=weights, card=card, repo=repo, name=name, licence=licence, private=private
    )
    entry = publish.push(publication)
    note(f"published as {entry.reference}; its entry for weights.toml:")
    typer.echo(to_toml(f"[weights.{name}]", entry.to_dict()), nl=False)


def convert(
    source: Annotated[
        Path, typer.Argument(help="Pickle written by torch.save.", show_default=False)
    ],
    target: Annotated[Path, typer.Argument(help="Safetensors file to write.", show_default=False)],
    part: Annotated[
        str,
        typer.Option(help="Set of tensors to take, where there are several.", show_default=False),
    ] = "",
    force: options.Force = False,
) -> None:
    """Convert a pickle to safetensors.

    A separate process opens it, and runs no code from the file.
    """
    from imlctl.weights import convert as converting

    done = converting.convert(source, target, part=part, overwrite=force)
    if done.left_out:
        note(f"left out, because they are not tensors: {', '.join(done.left_out)}")
    typer.echo(f"{printable(done.path)}: {done.tensors} tensors, sha256 {done.sha256}")
