"""Sample entries of reports, and a headless Chromium to look at them with."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from imlctl.image.facts import FormatFacts
from imlctl.image.views import gradient, noise_residual
from imlctl.mask.decide import Rule, Verdict, decide
from imlctl.mask.rates import measured
from imlctl.mask.regions import find_regions
from imlctl.record import FAILED, Failure, Record
from imlctl.report.html import ReportEntry
from imlctl.report.preview import make_preview

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--remote-debugging-pipe", "--hide-scrollbars", "--force-color-profile=srgb"),
)
# Chromium reads its commands from descriptor 3 and answers on 4.
LAUNCH = (
    "import fcntl, os, sys\n"
    "ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]\n"
    "os.dup2(ends[0], 3); os.dup2(ends[1], 4); os.execv(sys.argv[3], sys.argv[3:])"
)


RATES = measured(
    "of a test",
    [(Verdict.MANIPULATED, 0.2)] * 9 + [(Verdict.NOTHING_FOUND, 0.001)] * 11,
    [Verdict.NOTHING_FOUND] * 48 + [Verdict.MANIPULATED, Verdict.INCONCLUSIVE],
)


def blob(height: int = 120, width: int = 160, peak: float = 0.98) -> NDArray[np.float32]:
    """A map with one round hill left of the middle, highest at its centre."""
    rows, columns = np.mgrid[0:height, 0:width]
    distance = np.hypot(rows - height * 0.5, columns - width * 0.35) / (0.3 * height)
    return (peak * np.clip(1.2 - distance, 0, 1)).astype(np.float32)


def picture(height: int = 120, width: int = 160, seed: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 200, (height // 8, width // 8, 3))
    return np.kron(coarse, np.ones((8, 8, 1))).astype(np.uint8)


def record_of(path: str, probability: NDArray[np.float32], **changes: Any) -> Record:
    """The record that the pipeline would write of a map."""
    decision = decide(probability, float(probability.max()), Rule(0.9, 0.5), threshold=0.5)
    regions = find_regions(decision.mask, probability)
    height, width = probability.shape
    values: dict[str, Any] = {
        "path": path,
        "verdict": decision.verdict,
        "model": "efficientiml",
        "weights_sha256": "ab" * 32,
        "settings": {"tile": 1024},
        "seed": 0,
        "device": "cpu",
        "seconds": 0.5,
        "sha256": hashlib.sha256(os.fsencode(path)).hexdigest(),
        "facts": FormatFacts("PNG", width, height, "RGB", 8),
        "bytes": 12_345,
        "score": decision.score,
        "share": decision.share,
        "threshold": decision.threshold,
        "rule": decision.rule,
        "rates": {"pictures": "of a test", **RATES[decision.verdict]},
        "regions": regions.listed,
        "regions_not_listed": {"count": regions.rest_count, "area": regions.rest_area},
    }
    return Record(**(values | changes))


def failed(path: str) -> Record:
    return Record(
        path=path,
        verdict=FAILED,
        model="efficientiml",
        weights_sha256="ab" * 32,
        settings={},
        seed=0,
        device="cpu",
        seconds=0.0,
        sha256="ef" * 32,
        bytes=9876,
        error=Failure("DecodeError", "the file is truncated", "Get the original again."),
    )


@pytest.fixture(scope="session")
def entry() -> Callable[..., ReportEntry]:
    """Makes an entry: `entry(path, peak=0.98, size=(120, 160), seed=0, **record_fields)`."""

    def make(
        path: str,
        *,
        peak: float = 0.98,
        size: tuple[int, int] = (120, 160),
        seed: int = 0,
        crops: bool = False,
        views: bool = False,
        **changes: Any,
    ) -> ReportEntry:
        probability = blob(*size, peak)
        record = record_of(path, probability, **changes)
        boxes = [region["box"] for region in record.regions] if crops else []
        pixels = picture(*size, seed)
        shown = [("noise", noise_residual(pixels)), ("gradient", gradient(pixels))] if views else []
        return ReportEntry(
            record.to_dict(), make_preview(pixels, probability, boxes=boxes, views=shown)
        )

    return make


@pytest.fixture(scope="session")
def failed_record() -> Callable[[str], Record]:
    """Makes the record of a picture that could not be decoded."""
    return failed


class Page:
    """One page in a Chromium of its own, driven over its debugging pipe.

    Attributes:
        problems: Whatever its console, its log or an uncaught exception said.
    """

    def __init__(self, profile: Path) -> None:
        ours, theirs = os.pipe(), os.pipe()
        command = [sys.executable, "-SE", "-c", LAUNCH, str(ours[0]), str(theirs[1])]
        self._process = subprocess.Popen(
            [*command, str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(ours[0], theirs[1]),
            stderr=subprocess.DEVNULL,
        )
        os.close(ours[0])
        os.close(theirs[1])
        self._to, self._from = os.fdopen(ours[1], "wb", 0), os.fdopen(theirs[0], "rb", 0)
        self._rest, self._number, self._session = b"", 0, ""
        self.problems: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> Any:
        """Give a command and return its answer; events that come meanwhile are looked through."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        self._to.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _read(self) -> Any:
        while b"\0" not in self._rest:
            piece = self._from.read(1 << 16)
            assert piece, "Chromium ended"
            self._rest += piece
        text, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(text)
        if message.get("method") in (
            *("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"),
            "Network.requestWillBeSent",
        ):
            self._note(message["method"], message["params"])
        return message

    def _note(self, method: str, event: Any) -> None:
        if method == "Network.requestWillBeSent":
            url = event["request"]["url"]
            if not url.startswith(("file:", "data:", "about:")):
                self.problems.append(f"request for {url}")
        else:
            self.problems.append(json.dumps(event)[:2000])

    def open(self, path: Path, *, width: int = 1440, height: int = 900, wait: bool = True) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        self.send("Page.navigate", url=path.as_uri())
        if wait:
            self.until("document.readyState === 'complete'", 60)

    def run(self, script: str) -> Any:
        """Evaluate an expression, awaiting promises, and return its value."""
        answer = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, condition: str, seconds: float = 120) -> float:
        """Wait until an expression is true; return how long that took, in seconds."""
        start = time.monotonic()
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() - start < seconds, f"not within {seconds} s: {condition}"
            time.sleep(0.05)
        return time.monotonic() - start

    def press(self, key: str, text: str = "") -> None:
        """Press and release a key as a person does."""
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, text=text)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key)

    def close(self) -> None:
        self.send("Browser.close")
        self._process.wait(30)
        self._to.close()
        self._from.close()


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """One browser for all tests; each opens its own page in it."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine: apt-get install chromium")
    page = Page(tmp_path_factory.mktemp("profile"))
    yield page
    page.close()


@pytest.fixture
def page(chromium: Page) -> Iterator[Page]:
    """A browser that must not have complained of anything when the test ends."""
    chromium.problems.clear()
    yield chromium
    assert chromium.problems == []
