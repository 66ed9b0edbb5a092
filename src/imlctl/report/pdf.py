"""The printed report as PDF, made by a Chromium or Chrome that is installed, without its window."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from imlctl import atomic
from imlctl.errors import OutputError, UsageError

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


def find_browser() -> str:
    """Return the path of a browser that prints.

    Raises:
        UsageError: There is none; says how to print without it.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    found = found or next(filter(os.path.exists, _APPLICATIONS), None)
    if found is None:
        raise UsageError(
            "needs Chromium or Chrome, and neither is on this machine",
            source="--pdf",
            remedy="Install one, or open report.html in any browser and choose Print.",
        )
    return found


def write_pdf(path: Path, page: Path, browser: str, *, overwrite: bool = False) -> None:
    """Print a page to a file that appears when it is whole.

    Args:
        path: Of the PDF.
        page: HTML, as `html.write_report` makes it for paper.
        browser: From `find_browser`.
        overwrite: Replace an older one.

    Raises:
        OutputError: The browser fails, or the file cannot be written.
    """
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
        atomic.write(path, printed.read_bytes(), overwrite=overwrite)
