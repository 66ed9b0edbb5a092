"""`imlctl weights`: list, show, verify, pull, push, convert and export."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imlctl.cli import options
from imlctl.cli.console import note, printable
from imlctl.cli.options import option
from imlctl.errors import Exit

if TYPE_CHECKING:
    from imlctl.weights.pull import Item

_JSON_VERSION = 1
_NARROW = 72  # columns; below this a table would break its words
Licence = Annotated[str, option("Licence, as an SPDX identifier.")]
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")

weights = typer.Typer(help="List, fetch, check and publish weights.", no_args_is_help=True)


@weights.callback()
def _weights() -> None:
    """List, fetch, check and publish weights."""


@weights.command("list")
def list_(json: options.Json = False) -> None:
    """List known weights, and whether they are installed."""
    from imlctl.weights.pull import inventory

    _print(inventory(), json)


@weights.command()
def show(
    name: Annotated[str, typer.Argument(help="A name, or hf://owner/repo[@revision]/file.")],
    json: options.Json = False,
) -> None:
    """Show everything about some weights, and the card in their file."""
    from imlctl.weights.pull import State, card_of, inventory

    (item,) = inventory((name,))
    values = _row(item) | (item.entry.to_dict() if item.entry else {})
    if item.state is State.HERE and (item.entry is None or item.entry.kind == "model"):
        values["holds"] = card_of(item)
    if json:
        _print_json({"weights": values})
        return
    for key, value in values.items():
        for line_key, line in _lines(key, value):
            if line_key.startswith("holds.training."):  # long, and in the JSON
                continue
            typer.echo(f"{line_key}: {printable(line)}")


@weights.command()
def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Names or references; without any, all that are installed."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Check installed weights against their recorded hashes (offline).

    Exit status: 2 when a file was changed, cannot be read, or was named and is not installed.
    """
    from imlctl.weights import pull as inv

    chosen = tuple(names or ())
    items = tuple(inv.verify(item) for item in inv.inventory(chosen))
    _print(items if chosen else tuple(i for i in items if i.state is not inv.State.ABSENT), json)
    bad = {inv.State.CHANGED, inv.State.UNREADABLE} | ({inv.State.ABSENT} if chosen else set())
    if any(item.state in bad for item in items):
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
def push(
    weights: Annotated[Path, typer.Argument(help="Safetensors file written by imlctl.")],
    repo: Annotated[str, typer.Argument(help="Repository on the Hub, as owner/name.")],
    name: Annotated[str, option("Name for the registry.")],
    card: Annotated[Path, option("Model card (Markdown).")],
    licence: Licence,
    private: Annotated[
        bool, option("If the repository is new, make it private.", "--private")
    ] = False,
) -> None:
    """Publish trained weights with their model card.

    Prints their entry for a registry.
    """
    from imlctl.weights import hub
    from imlctl.weights.registry import to_toml

    entry = hub.push(weights, card, repo=repo, name=name, licence=licence, private=private)
    note(f"published as {entry.reference}; its entry for weights.toml:")
    typer.echo(to_toml(f"[weights.{name}]", entry.to_dict()), nl=False)


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

    Needs pip install "imlctl[onnx]", and takes minutes.
    """
    from dataclasses import asdict
    from typing import cast

    from imlctl.core.efficient_iml import EfficientIML
    from imlctl.weights.export import export_onnx
    from imlctl.weights.open import open_weights

    loaded = open_weights(weights)
    rule = {key: f"{value:g}" for key, value in asdict(loaded.card.rule).items()}
    about = {"weights": loaded.name, "weights_sha256": loaded.sha256, **rule}
    model = cast("EfficientIML", loaded.model.eval())
    export_onnx(model, out, height=height, width=width, about=about, overwrite=force)
    typer.echo(out)


def _row(item: Item) -> dict[str, Any]:
    entry = item.entry
    size = entry.size if entry else 0
    if not size and item.path is not None and item.path.is_file():
        size = item.path.stat().st_size
    return {
        "name": item.name,
        "kind": entry.kind if entry else None,
        "licence": entry.licence if entry else None,
        "size": size or None,
        "state": str(item.state),
        "trust": None if item.sha256 else "no hash verified: pull with --trust-on-first-use",
        "sha256": item.sha256 or None,
        "found_sha256": item.found or None,
        "path": str(item.path) if item.path else None,
    }


def _print(items: tuple[Item, ...], as_json: bool) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from imlctl.weights.registry import load_registry

    rows = [_row(item) for item in items]
    default = load_registry().default
    if as_json:
        _print_json({"default": default, "weights": rows})
        return
    console = Console(markup=False, highlight=False, emoji=False)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for title in ("name", "kind", "licence", "size", "state", "sha256"):
        table.add_column(title, overflow="fold", justify="right" if title == "size" else "left")
    for row in rows:
        cells = (
            printable(row["name"]) + (" (default)" if row["name"] == default else ""),
            row["kind"] or "-",
            printable(row["licence"] or "-"),
            f"{row['size'] / 1e6:.1f} MB" if row["size"] else "-",
            row["state"],
            (row["sha256"] or "not known")[:12],
        )
        table.add_row(*cells)
        if console.width < _NARROW:
            console.print(f"{cells[0]}\n  {', '.join(cells[1:])}", overflow="fold")
    if console.width >= _NARROW:
        console.print(table)
    for row in rows:
        if row["found_sha256"] and row["found_sha256"] != row["sha256"]:
            expected = row["sha256"] or "not known"
            lines = (row["path"], f"  has      {row['found_sha256']}", f"  expected {expected}")
            console.print("\n".join(map(printable, lines)), soft_wrap=True)


def _lines(key: str, value: Any) -> list[tuple[str, Any]]:
    """A value as lines of a page: tables become dotted names, gaps become nothing."""
    if isinstance(value, dict):
        return [line for k, v in value.items() for line in _lines(f"{key}.{k}", v)]
    return [] if value in (None, "") else [(key, value)]


def _print_json(values: dict[str, Any]) -> None:
    typer.echo(dumps({"kind": "weights", "version": _JSON_VERSION, **values}, indent=2))
