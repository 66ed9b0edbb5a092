"""What `imlctl bench` prints and writes: one document, as tables, Markdown or JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from imlctl.cli.console import printable
from imlctl.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table as RichTable

    from imlctl.bench.page import Table

VERSION = 4  # of the document
_NAME = 12  # characters of a first cell that stay on one line


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run of the benchmark found.

    Attributes:
        document: Everything, JSON-serialisable and free of NaN.
        pictures: PNG files by name.
    """

    document: dict[str, Any]
    pictures: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Output:
    """Where and how to show it."""

    json: bool
    markdown: bool
    folder: Path | None
    force: bool

    def check(self) -> None:
        """Refuse a folder that holds something, before anything is measured.

        Raises:
            OutputError: It does, and nothing may be replaced.
        """
        folder = self.folder
        if folder is None or self.force or not folder.exists():
            return
        if not folder.is_dir() or any(folder.iterdir()):
            raise OutputError(
                "is there and not an empty folder",
                source=str(folder),
                remedy="Choose another name, or add --force to replace what it holds.",
            )

    def show(self, measured: Measured, *, compare: bool = False) -> None:
        """Print, and write to the folder if there is one.

        Args:
            measured: What was found.
            compare: Show published figures below it.
        """
        from imlctl.bench.page import to_markdown
        from imlctl.bench.pages import page_of

        document = measured.document | ({"compare": True} if compare else {})
        if self.folder is not None:
            kind = document["kind"]
            self._write(f"{kind}.json", f"{_as_json(document)}\n".encode())
            self._write(f"{kind}.md", to_markdown(page_of(document)).encode())
            for name, data in measured.pictures.items():
                self._write(name, data)
        if self.json:
            typer.echo(_as_json(document))
        elif self.markdown:
            typer.echo(to_markdown(page_of(document)), nl=False)
        else:
            _print(document)

    def _write(self, name: str, data: bytes) -> None:
        from imlctl import atomic

        assert self.folder is not None  # noqa: S101 - seen to by `show`
        atomic.write(self.folder / name, data, overwrite=self.force)


def read(paths: Sequence[Path], *, compare: bool) -> Measured:
    """Read what ``--json`` printed; bring together what several runs printed.

    Args:
        paths: At least one.
        compare: Show published figures in what is drawn.

    Raises:
        ConfigError: One cannot be read, or is something else, or they do not belong together.
    """
    from imlctl.bench.together import check, cost_plot

    documents = [_read(path) for path in paths]
    if len(documents) == 1:
        return Measured(documents[0])
    check(documents)
    document = {"kind": "together", "version": VERSION, "documents": documents}
    plot = cost_plot(document, published=compare)
    return Measured(document, {"f1-cost.png": plot} if plot else {})


def _read(path: Path) -> dict[str, Any]:
    import json

    from imlctl.bench.pages import PAGES

    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot be read ({error})", source=str(path)) from error
    if (
        not isinstance(document, dict)
        or document.get("kind") not in PAGES
        or document.get("version") != VERSION
    ):
        raise ConfigError(
            f"is no report of imlctl bench, version {VERSION}",
            source=str(path),
            remedy="Give a file that imlctl bench --json printed.",
        )
    return document


def _as_json(document: dict[str, Any]) -> str:
    from json import dumps

    return dumps(document, indent=2, allow_nan=False)


def _print(document: dict[str, Any]) -> None:
    from rich.console import Console

    from imlctl.bench.pages import page_of

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
            no_wrap=False,
            min_width=widest if number else min(widest, _NAME),
        )
    for row in table.rows:
        drawn.add_row(*map(printable, row))
    return drawn
