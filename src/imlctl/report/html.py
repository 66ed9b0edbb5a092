"""A report that a person reads: one page that holds everything it shows."""

from __future__ import annotations

import base64
import hashlib
import shutil
from collections import Counter
from collections.abc import Sized
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any

from imlctl import __version__, atomic
from imlctl.errors import UsageError
from imlctl.mask.decide import Verdict
from imlctl.mask.rates import in_words
from imlctl.record import FAILED, Record
from imlctl.report.preview import Preview, shrunk

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jinja2 import Environment, Template

TITLE = "Localization report"
PAGE_BYTES = 200_000_000  # what a browser opens in seconds; the pictures are made to fit
_TEMPLATES = Path(__file__).parent / "templates"
_SCRIPTS = ("data", "contour", "viewer", "detail", "table", "main")  # one after another
_MAX_REGIONS = 200  # listed for a picture; the record has them all
_UNKNOWN_COUNT = 10_000
_PICTURES = "<!-- pictures -->"  # cannot come from a title or a name, which are escaped
_FOUND_WEIGHT = 4  # a picture with a finding may take that many times the bytes of another
_FOUND = frozenset({Verdict.MANIPULATED, Verdict.INCONCLUSIVE})
# Bytes on the page of a preview whose longer side is so many pixels, as measured on photographs.
_COSTS = ((640, 85_000), (480, 58_000), (320, 31_000), (240, 19_000), (160, 10_000))


@dataclass(frozen=True, slots=True)
class ReportEntry:
    """One picture of a report.

    Attributes:
        record: What is known of it, or the same as read from JSON.
        preview: What is shown of it; None where it failed or none was kept.
    """

    record: Record | Mapping[str, Any]
    preview: Preview | None = None


def require_jinja() -> None:
    """Check that a report can be written, before the work that it is to report.

    Raises:
        UsageError: The package jinja2 is missing; says how to install it.
    """
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "writing report.html needs the optional package jinja2",
            remedy='Install it with: pip install "imlctl[report]"',
        ) from error


def write_report(
    path: Path,
    entries: Iterable[ReportEntry],
    *,
    title: str = TITLE,
    settings: Mapping[str, str] | None = None,
    created: datetime | None = None,
    count: int | None = None,
    overwrite: bool = False,
) -> int:
    """Write the page; one picture at a time is in memory, besides a line of the table for each.

    The table comes first in the file and the pictures after it, those with a finding before
    others, so that a browser shows the page at once and reads the rest behind it.

    Args:
        path: Where to; it has that name only when it is whole.
        entries: The pictures, in any order; the page sorts them.
        title: Such as the name of a case.
        settings: More facts for the head of the page, such as the command line.
        created: Stands on the page; now if None.
        count: How many entries there will be, where they have no length: previews are made
            smaller where there are many.
        overwrite: Replace an older report.

    Returns:
        How many pictures the report has.

    Raises:
        UsageError: The package jinja2 is missing.
        OutputError: The page cannot be written; nothing is left behind.
    """
    require_jinja()
    if count is None:
        count = len(entries) if isinstance(entries, Sized) else _UNKNOWN_COUNT
    created = created or datetime.now(UTC)
    style, script = _style(), _script()
    context = {
        "title": title,
        "created": created.strftime("%Y-%m-%d %H:%M %Z").strip(),
        "version": __version__,
        "policy": _policy(script, style),
        "style": style,
        "script": script,
        "settings": dict(settings or {}),
    }
    templates = _templates()
    with (
        atomic.opened(path, overwrite=overwrite) as file,
        TemporaryFile(dir=path.parent) as found,
        TemporaryFile(dir=path.parent) as others,
    ):
        summary = _write_pictures(
            entries, _Budget(count), templates.get_template("picture.html"), found, others
        )
        page = templates.get_template("report.html").render(context, summary=summary.to_dict())
        head, _, foot = page.partition(_PICTURES)
        file.write(_encoded(head))
        for spool in (found, others):
            spool.seek(0)
            shutil.copyfileobj(spool, file)
        file.write(_encoded(foot))
    return len(summary.rows)


def _write_pictures(
    entries: Iterable[ReportEntry],
    budget: _Budget,
    template: Template,
    found: IO[bytes],
    others: IO[bytes],
) -> _Summary:
    """Write what the page holds of each picture, and return what it holds of all."""
    summary = _Summary()
    for entry in entries:
        record = entry.record
        values = record.to_dict() if isinstance(record, Record) else dict(record)
        preview, finding = entry.preview, values["verdict"] in _FOUND
        if preview is not None:
            preview = budget.fit(preview, finding=finding)
        text = template.render(
            number=len(summary.rows),
            details=_details(values, preview.curve if preview else ()),
            photo=base64.b64encode(preview.photo).decode() if preview else "",
            soft=base64.b64encode(preview.soft).decode() if preview else "",
        )
        (found if finding else others).write(_encoded(text))
        summary.add(values)
    return summary


def _encoded(text: str) -> bytes:
    """Encode text; what is not valid in it is shown as an escape."""
    return text.encode("utf-8", "backslashreplace")


@dataclass(slots=True)
class _Budget:
    """How large previews may be, so that the page stays small whatever the number of pictures."""

    count: int
    left: float = PAGE_BYTES

    def fit(self, preview: Preview, *, finding: bool) -> Preview:
        share = self.left / max(self.count, 1) * (_FOUND_WEIGHT if finding else 1)
        side = next((side for side, cost in _COSTS if cost <= share), _COSTS[-1][0])
        preview = shrunk(preview, side)
        self.left = max(0.0, self.left - (len(preview.photo) + len(preview.soft)) * 4 / 3)
        self.count -= 1
        return preview


@dataclass(slots=True)
class _Summary:
    """What the page knows of all pictures at once."""

    rows: list[list[Any]] = field(default_factory=list)
    models: Counter[str] = field(default_factory=Counter)
    rules: Counter[tuple[float, float]] = field(default_factory=Counter)
    rates: dict[str, str] = field(default_factory=dict)

    def add(self, record: Mapping[str, Any]) -> None:
        """Take a picture's line of the table from its record."""
        width, height = _upright_size(record)
        facts = record.get("facts") or {}
        self.rows.append(
            [
                record["path"],
                record["verdict"],
                record.get("share"),
                record.get("score"),
                len(record.get("regions") or ()),
                width,
                height,
                facts.get("format"),
                _keywords(record),
            ]
        )
        self.models[f"{record['model']} ({record['weights_sha256'][:12]})"] += 1
        if record["verdict"] != FAILED:
            self.rules[(record["rule"]["manipulated"], record["rule"]["inconclusive"])] += 1
            if record["rates"] is not None:
                said = in_words(record["verdict"], record["rates"])
                self.rates[record["verdict"]] = f"{said} ({record['rates']['pictures']})"

    def to_dict(self) -> dict[str, Any]:
        """Return what the page's script begins with."""
        return {
            "rows": self.rows,
            "models": list(self.models),
            "rules": [list(rule) for rule in self.rules],
            "rates": self.rates,
        }


def _details(record: dict[str, Any], curve: Iterable[float]) -> dict[str, Any]:
    """Return the record without outlines, which the page draws from the map."""
    regions = record.get("regions") or []
    listed = [
        {key: value for key, value in region.items() if key != "polygon"}
        for region in regions[:_MAX_REGIONS]
    ]
    short = [float(f"{share:.4g}") for share in curve]
    size = _upright_size(record)
    rates = record.get("rates")
    return record | {
        "regions": listed,
        "regions_found": len(regions),
        "curve": short,
        "size": size,
        "rates_in_words": None if rates is None else in_words(record["verdict"], rates),
    }


def _upright_size(record: Mapping[str, Any]) -> tuple[int, int] | tuple[None, None]:
    facts = record.get("facts")
    if not facts:
        return None, None
    width, height = facts["width"], facts["height"]
    return (height, width) if facts.get("orientation", 1) >= 5 else (width, height)


def _keywords(record: Mapping[str, Any]) -> str:
    """Return what the filter also finds a picture by."""
    provenance = (record.get("facts") or {}).get("provenance") or {}
    exif = provenance.get("exif") or {}
    words = [record.get("sha256"), *(exif.get(key) for key in ("make", "model", "software"))]
    words += ["c2pa"] if provenance.get("c2pa") else []
    return " ".join(filter(None, words)).lower()


def _templates() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # `tojson` escapes <, >, & and ' besides, so that nothing in a record can end its element.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment


def _style() -> str:
    return (_TEMPLATES / "report.css").read_text("utf-8")


def _script() -> str:
    parts = [(_TEMPLATES / f"{name}.js").read_text("utf-8") for name in _SCRIPTS]
    return '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"


def _policy(script: str, style: str) -> str:
    """Return a content security policy under which only our own script and style run."""
    hashes = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (script, style)
    ]
    return (
        f"default-src 'none'; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}';"
        " img-src data:; base-uri 'none'; form-action 'none';"
        " require-trusted-types-for 'script'; trusted-types 'none'"
    )
