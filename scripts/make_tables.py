"""Keep what `imlctl bench --json` printed in docs/measured, and write the tables of the docs.

    imlctl bench --f1 data/val --json > a.json
    python scripts/make_tables.py a.json

Without arguments the tables are written anew from what is kept. A table lies in README.md or
under docs/ between ``<!-- imlctl bench --markdown --read docs/measured/NAME.json -->``, which is
the command that prints it, and ``<!-- end -->``. A test runs the commands and compares.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.testing import CliRunner

from imlctl.cli import app

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
KEPT = Path("docs", "measured")
MARKED = re.compile(r"(<!-- imlctl (bench --markdown .+?) -->\n).*?(<!-- end -->)", re.DOTALL)
_PLACE = re.compile(rf"(?<= ){KEPT.as_posix()}/")


def name_of(document: dict[str, Any]) -> str:
    """Return the name under which a report is kept."""
    kind = {"accuracy": "f1"}.get(document["kind"], document["kind"])
    if "models" in document:  # of speed and cost, one report for all models
        return kind
    about = (kind, document.get("what"), document.get("model") or document["arms"][0]["model"])
    return "-".join(filter(None, about))


def keep(report: Path) -> Path:
    """Keep a report without its single pictures; return where."""
    document = json.loads(report.read_text("utf-8"))
    if document["kind"] == "accuracy":
        document.pop("pictures")
    path = ROOT / KEPT / f"{name_of(document)}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(_rounded(document), indent=1) + "\n", "utf-8")
    return path


def _rounded(value: Any) -> Any:
    """Six digits that count, so that a report is short and its changes are readable."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value


def pages() -> Iterator[Path]:
    """Yield the files that may hold tables."""
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").rglob("*.md"))


def filled(text: str) -> str:
    """Return a page with all its tables written anew."""
    return MARKED.sub(lambda found: f"{found[1]}\n{_table(found[2])}\n{found[3]}", text)


def _table(command: str) -> str:
    words = shlex.split(_PLACE.sub(f"{ROOT / KEPT}/", command))
    run = CliRunner().invoke(app, words)
    if run.exception is not None:
        raise run.exception
    return run.stdout


def main() -> None:
    """Keep the reports that are named, then write all tables."""
    for name in sys.argv[1:]:
        print(keep(Path(name)).relative_to(ROOT))
    for page in pages():
        before = page.read_text("utf-8")
        after = filled(before)
        if after != before:
            page.write_text(after, "utf-8")
            print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
