"""`imlctl weights`: list, show, verify, pull, convert and export."""

from __future__ import annotations

from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imlctl.cli import options
from imlctl.cli.console import note, printable, wrapped
from imlctl.cli.options import option
from imlctl.errors import Exit

if TYPE_CHECKING:
    from imlctl.weights.pull import Item

_PICKLES = (".bin", ".pt", ".pth", ".ckpt")

weights = typer.Typer(help="List, fetch, check and convert weights.", no_args_is_help=True)


@weights.command("list")
def list_() -> None:
    """List known weights, and whether they are installed."""
    from imlctl.weights.pull import inventory

    _print(inventory())


@weights.command()
def show(
    name: Annotated[str, typer.Argument(help="A name, or hf://owner/repo[@revision]/file.")],
) -> None:
    """Show some weights, and the card in their file, as JSON."""
    from imlctl.weights.pull import State, card_of, inventory

    (item,) = inventory((name,))
    values = {
        "name": item.name,
        "state": str(item.state),
        "sha256": item.sha256 or None,
        "trust": None if item.sha256 else "no hash verified: pull with --trust-on-first-use",
        "path": str(item.path) if item.path else None,
        **(item.entry.to_dict() if item.entry else {}),
    }
    if item.state is State.HERE and (item.entry is None or item.entry.kind == "model"):
        values["holds"] = card_of(item)
    typer.echo(dumps(values, indent=2))


@weights.command()
def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Names or references; without any, all that are installed."),
    ] = None,
) -> None:
    """Check installed weights against their recorded hashes (offline).

    Exit status: 2 when a file was changed, cannot be read, or was named and is not installed.
    """
    from imlctl.weights.pull import State, inventory
    from imlctl.weights.pull import verify as verified

    items = [verified(item) for item in inventory(tuple(names or ()))]
    items = [item for item in items if names or item.state is not State.ABSENT]
    _print(items)
    for item in items:
        if item.found != item.sha256 and item.found:
            note(f"{item.path} has sha256 {item.found}, expected {item.sha256 or 'is none'}")
    if any(item.state in (State.CHANGED, State.UNREADABLE, State.ABSENT) for item in items):
        raise typer.Exit(Exit.USAGE)


@weights.command()
def pull(
    wanted: Annotated[list[str], typer.Argument(help="Names, or hf://owner/repo[@revision]/file.")],
    trust_on_first_use: Annotated[
        bool, option("Where no hash is known, record that of what arrives.", "--trust-on-first-use")
    ] = False,
    sha256: Annotated[str, option("Expected hash, from a source that you trust.")] = "",
    force: Annotated[
        bool, option("Fetch again, even if it is installed.", "--force", "-f")
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    """Fetch weights from the Hugging Face Hub, and check their hash.

    HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_OFFLINE and HTTPS_PROXY work as for every client of the
    Hub.
    """
    from imlctl.errors import UsageError
    from imlctl.weights import pull as pulling

    if sha256 and len(wanted) > 1:
        raise UsageError("belongs to one file", source="--sha256", remedy="Pull them one by one.")
    for name in wanted:
        how = {"trust_on_first_use": trust_on_first_use, "force": force, "quiet": quiet}
        pulled = pulling.pull(name, sha256=sha256, notice=note, **how)
        typer.echo(f"{printable(name)}: {printable(pulled.path)}")
        typer.echo(f"  sha256 {pulled.sha256} (checked: {pulled.checked})")
        if pulled.revision:
            typer.echo(f"  commit {pulled.revision}")
        if pulled.path.suffix in _PICKLES:
            note(f"{name} is a pickle; convert it with: imlctl weights convert")


@weights.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Pickle written by torch.save.")],
    target: Annotated[Path, typer.Argument(help="Safetensors file to write.")],
    part: Annotated[str, option("Set of tensors to take, where there are several.")] = "",
    force: options.Force = False,
) -> None:
    """Convert a pickle to safetensors.

    A separate process opens it, and runs no code from the file.
    """
    from imlctl.weights import convert as converting

    done = converting.convert(source, target, part=part, overwrite=force)
    if done.left_out:
        note(f"left out, because they are not tensors: {', '.join(done.left_out)}")
    typer.echo(f"{printable(target)}: {done.tensors} tensors, sha256 {done.sha256}")


@weights.command()
def export(
    weights: Annotated[str, typer.Argument(help="A name, or a safetensors file.")],
    out: Annotated[Path, option("ONNX file to write.", "--out", "-o")],
    height: Annotated[int, option("Height of the pictures, in pixels.")] = 512,
    width: Annotated[int, option("Width of the pictures, in pixels.")] = 512,
    force: options.Force = False,
) -> None:
    """Export an EfficientIML to ONNX, for pictures of one size.

    Needs pip install "imlctl[onnx]", and takes minutes. The file marks what the network sees by
    itself: it does not look for copies that were turned, scaled or stretched.
    """
    from dataclasses import asdict
    from typing import cast

    from imlctl.core.efficient_iml import EfficientIML
    from imlctl.weights.export import export_onnx
    from imlctl.weights.load import open_weights

    loaded = open_weights(weights)
    rule = {key: f"{value:g}" for key, value in asdict(loaded.card.rule).items()}
    about = {"weights": loaded.name, "weights_sha256": loaded.sha256, **rule}
    model = cast("EfficientIML", loaded.model.eval())
    export_onnx(model, out, height=height, width=width, about=about, overwrite=force)
    typer.echo(out)


def _print(items: Sequence[Item]) -> None:
    from imlctl.weights.registry import load_registry

    default = load_registry().default
    for item in items:
        entry, size = item.entry, item.entry.size if item.entry else 0
        if not size and item.path and item.path.is_file():
            size = item.path.stat().st_size
        facts = (
            *((entry.kind, entry.licence) if entry else ()),
            *((f"{size / 1e6:.1f} MB",) if size else ()),
            str(item.state),
            f"sha256 {(item.sha256 or item.found or 'not known')[:12]}",
        )
        typer.echo(printable(item.name) + (" (default)" if item.name == default else ""))
        typer.echo(wrapped(printable(", ".join(facts)), "  ", "    "))
