"""A report that a person reads: one page that holds all it shows, on screen, on paper, as PDF."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import TYPE_CHECKING, Any, NamedTuple

from imlctl import __version__, atomic
from imlctl.errors import OutputError, UsageError
from imlctl.image.views import how_to_read
from imlctl.mask.decide import Verdict
from imlctl.mask.rates import in_words
from imlctl.mask.render import percent, rounded_down
from imlctl.record import FAILED
from imlctl.report.facts import Fact, finding, groups_of, rates_of, warnings_of
from imlctl.report.preview import CROP_SIDE, Preview, figures, shrunk

if TYPE_CHECKING:
    from jinja2 import Environment

TITLE = "Image manipulation report"
PAGE_BYTES = 200_000_000  # what a browser opens in seconds; the pictures are made to fit
ON_PAPER = 300  # pictures that the page itself can print, each on paper of its own
_TEMPLATES = Path(__file__).parent / "templates"
_SCRIPTS = ("data", "contour", "viewer", "detail", "table", "main")  # one after another
_MAX_REGIONS = 200  # listed for a picture; the record has them all
_PRINTED_REGIONS, _PRINTED_CROPS = 8, 2
_PICTURES = "<!-- pictures -->"  # cannot come from a title or a name, which are escaped
_FOUND_WEIGHT = 4  # a picture with a finding may take that many times the bytes of another
_NO_PREVIEW = Preview(b"", b"", ())
_FOUND = frozenset({Verdict.MANIPULATED, Verdict.INCONCLUSIVE})
# Bytes on the page of a preview whose longer side is so many pixels, as measured on photographs.
_COSTS = {1024: 180_000, 640: 85_000, 480: 58_000, 320: 31_000, 240: 19_000, 160: 10_000}
BROWSERS = (
    *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"),
    *("microsoft-edge", "msedge"),
)
_APPLICATIONS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
_PATIENCE = 1800.0  # seconds; thousands of pictures take minutes
_FLAGS = (
    *("--headless", "--disable-gpu", "--no-first-run", "--no-pdf-header-footer"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


class ReportEntry(NamedTuple):
    """One picture of a report."""

    record: Mapping[str, Any]  # as of `Record.to_dict`
    preview: Preview | None = None  # where it failed or none was kept


@dataclass(frozen=True, slots=True)
class Case:
    """Head of a report."""

    title: str = TITLE
    number: str = ""
    examiner: str = ""
    notes: str = ""  # free text; its lines are kept
    incomplete: str = ""  # such as "INCOMPLETE: 15 of 63 pictures were analysed"
    pending: tuple[str, ...] = ()  # pictures that were to be analysed and were not
    left_out: tuple[tuple[str, str], ...] = ()  # files not meant to be, each with the reason
    runs: tuple[Any, ...] = ()  # of a ledger, oldest first


def write_report(
    path: Path, entries: Iterable[ReportEntry], case: Case, count: int, *, paper: bool = False
) -> int:
    """Write the page, or replace it, whole or not at all; return how many pictures it has.

    The table comes first, then the pictures, those with a finding before others; one of them at a
    time is in memory. The same entries and the same case make the same bytes: no clock is read.
    Previews get smaller with the `count` of entries. For `paper`, what is printed is written alone,
    with all pictures drawn and no script. Errors are those of `atomic.write`.
    """
    style = (_TEMPLATES / "report.css").read_text("utf-8")
    parts = [(_TEMPLATES / f"{name}.js").read_text("utf-8") for name in _SCRIPTS]
    script = "" if paper else '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"
    context = {
        "case": case,
        "version": __version__,
        "policy": _policy(script, style),
        "style": style,
        "script": script,
        "paper": paper,
        "on_paper": paper or count <= ON_PAPER,
    }
    templates, budget, summary = _templates(), _Budget(count), _Summary()
    template = templates.get_template("picture.html")
    with (
        atomic.opened(path, overwrite=True) as file,
        TemporaryFile(dir=path.parent) as found,
        TemporaryFile(dir=path.parent) as others,
    ):
        for entry in entries:
            values, preview = entry
            has_finding = values["verdict"] in _FOUND
            if preview is not None:
                preview = budget.fit(preview, finding=has_finding)
            picture = _picture(values, preview, paper=paper)
            text = template.render(context, number=len(summary.rows), **picture)
            (found if has_finding else others).write(_encoded(text))
            summary.add(values)
        page = templates.get_template("report.html").render(context, summary=summary)
        head, _, foot = page.partition(_PICTURES)
        file.write(_encoded(head))
        for spool in (found, others):
            spool.seek(0)
            shutil.copyfileobj(spool, file)
        file.write(_encoded(foot))
    return len(summary.rows)


def _picture(values: Mapping[str, Any], preview: Preview | None, *, paper: bool) -> dict[str, Any]:
    """Return what the template of one picture needs; on paper all figures are drawn."""
    preview = preview or _NO_PREVIEW
    details = _details(values, preview)
    # A crop of a small picture is all of it, which stands there already.
    numbered = enumerate(details["crops"], 1)
    crops = [(number, box) for number, box in numbered if tuple(box[2:]) != details["size"]]
    crops = crops[:_PRINTED_CROPS]
    drawn: list[bytes] = []
    if paper and preview.photo:
        drawn = figures(preview, values["threshold"], [number for number, _ in crops])
    return {
        "details": details,
        "regions": details["regions"][:_PRINTED_REGIONS],
        "photo": _text(preview.photo),
        "soft": _text(preview.soft),
        "crops": [(_text(crop.photo), _text(crop.soft)) for crop in preview.crops],
        "views": [(name, _text(data)) for name, data in preview.views],
        "printed_crops": crops,
        "crop_side": CROP_SIDE,
        "drawn": list(map(_text, drawn)),
    }


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


@dataclass(slots=True)
class _Budget:
    """Bytes that the page may still have, and the pictures to share them."""

    count: int
    left: float = PAGE_BYTES

    def fit(self, preview: Preview, *, finding: bool) -> Preview:
        """Shrink the next preview as far as it takes."""
        share = self.left / max(self.count, 1) * (_FOUND_WEIGHT if finding else 1)
        side = next((side for side, cost in _COSTS.items() if cost <= share), min(_COSTS))
        preview = shrunk(preview, side, extras=max(0.0, share - max(_COSTS.values())) * 3 / 4)
        self.left = max(0.0, self.left - preview.size * 4 / 3)
        self.count -= 1
        return preview


@dataclass(slots=True)
class _Summary:
    """Facts about all pictures together, for the page."""

    rows: list[list[Any]] = field(default_factory=list)
    models: Counter[tuple[str, str]] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    rules: Counter[tuple[float, float]] = field(default_factory=Counter)
    rates: dict[str, str] = field(default_factory=dict)
    rate_facts: dict[str, list[Fact]] = field(default_factory=dict)

    def add(self, record: Mapping[str, Any]) -> None:
        """Take a picture's line of the table from its record."""
        head = [record[key] for key in ("path", "verdict", "share", "score")]
        shape = [len(record["regions"]), *_upright_size(record)]
        shape.append((record["facts"] or {}).get("format"))
        self.rows.append([*head, *shape, _keywords(record), record["threshold"]])
        self.models[record["model"], record["weights_sha256"]] += 1
        self.verdicts[record["verdict"]] += 1
        if record["verdict"] != FAILED:
            self.rules[record["rule"]["manipulated"], record["rule"]["inconclusive"]] += 1
        if rates := record["rates"]:
            said = in_words(record["verdict"], rates)
            self.rates[record["verdict"]] = f"{said} ({rates['pictures']})"
            self.rate_facts[record["verdict"]] = list(rates_of(rates))

    def to_dict(self) -> dict[str, Any]:
        """Return what the page's script begins with."""
        texts = {name: [v.title, v.look_for, v.ignore] for name, v in how_to_read().items()}
        return {"rows": self.rows, "views": texts}

    @property
    def counts(self) -> list[tuple[str, int]]:
        """Pictures by verdict, failed ones last and only if there are any."""
        names = [*map(str, Verdict), *([FAILED] if self.verdicts[FAILED] else [])]
        return [(name, self.verdicts[name]) for name in names]

    @property
    def rule(self) -> tuple[float, float] | None:
        """The two scores that all verdicts were made with; None if there were several rules."""
        return next(iter(self.rules)) if len(self.rules) == 1 else None


def _details(record: Mapping[str, Any], preview: Preview) -> dict[str, Any]:
    """Return what is told of one picture; outlines are drawn from the map."""
    regions = record["regions"]
    copied = ("path", "verdict", "threshold", "error", "regions_not_listed")
    told = ("box", "area", "mean_probability")  # of a region
    return {key: record[key] for key in copied} | {
        "finding": finding(record),
        "warnings": warnings_of(record),
        "size": _upright_size(record),
        "regions": [{key: each[key] for key in told} for each in regions[:_MAX_REGIONS]],
        "regions_found": len(regions),
        "curve": [float(f"{share:.4g}") for share in preview.curve],
        "crops": [crop.box for crop in preview.crops],
        "views": [name for name, _ in preview.views],
        "groups": groups_of(record),
    }


def _upright_size(record: Mapping[str, Any]) -> tuple[int, int] | tuple[None, None]:
    facts = record["facts"]
    if not facts:
        return None, None
    width, height = facts["width"], facts["height"]
    return (height, width) if facts.get("orientation", 1) >= 5 else (width, height)


def _keywords(record: Mapping[str, Any]) -> str:
    """Return what the filter also finds a picture by."""
    provenance = (record["facts"] or {}).get("provenance") or {}
    exif = provenance.get("exif") or {}
    words = [record["sha256"], *(exif.get(key) for key in ("make", "model", "software"))]
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
    ours = {"percent": percent, "rounded_down": rounded_down, "visible": _visible, "when": _when}
    environment.filters |= ours
    # `tojson` escapes <, >, & and ' besides, so that nothing in a record can end its element.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment


def _when(time: str | None) -> str:
    return (time or "").replace("T", " ").replace("Z", " UTC")


def _visible(text: str) -> str:
    """Show what is invisible in a name, and what would turn its letters around."""
    hidden = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "".join(f"\\u{{{ord(c):x}}}" if unicodedata.category(c) in hidden else c for c in text)


def _policy(script: str, style: str) -> str:
    """Return a content security policy under which only our own script and style run."""
    hashes = [_text(hashlib.sha256(text.encode()).digest()) for text in (script, style)]
    return (
        f"default-src 'none'; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}';"
        " img-src data:; base-uri 'none'; form-action 'none';"
        " require-trusted-types-for 'script'; trusted-types 'none'"
    )


def find_browser() -> str:
    """Return the path of a browser that prints; UsageError says how to do without one."""
    for found in (*map(shutil.which, BROWSERS), *filter(os.path.exists, _APPLICATIONS)):
        if found:
            return found
    raise UsageError(
        "needs Chromium or Chrome, and neither is on this machine",
        source="--pdf",
        remedy="Install one, or open report.html in any browser and choose Print.",
    )


def write_pdf(path: Path, page: Path, browser: str) -> None:
    """Print a page that `write_report` made for paper; OutputError where that fails."""
    with TemporaryDirectory(prefix="imlctl-pdf-") as folder:
        printed = Path(folder, "report.pdf")
        # As root, in a container, Chromium starts only without its sandbox; the page is our own.
        root = ("--no-sandbox",) if hasattr(os, "geteuid") and os.geteuid() == 0 else ()
        files = (f"--user-data-dir={folder}", f"--print-to-pdf={printed}")
        try:
            done = subprocess.run(  # noqa: S603 - the browser is a path, and no shell is asked
                [browser, *_FLAGS, *root, *files, page.absolute().as_uri()],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_PATIENCE,
                check=False,
            )
            said = done.stderr.strip().splitlines()
        except (OSError, subprocess.TimeoutExpired) as error:
            said = [str(error)]
        if not printed.is_file() or not printed.read_bytes().startswith(b"%PDF"):
            raise OutputError(
                f"{browser} made no PDF ({said[-1] if said else 'and gave no reason'})",
                source=str(path),
                remedy="Open report.html in a browser and choose Print.",
            )
        atomic.write(path, printed.read_bytes(), overwrite=True)
