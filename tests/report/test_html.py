"""What stands in the page's file; test_page.py looks at it in a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import tracemalloc
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from imlctl.report import html
from imlctl.report.html import Case, ReportEntry, write_report
from imlctl.scan.ledger import ScanRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from imlctl.record import Record

EVIL = "</script><script>alert(1)</script><!--'\"&.jpg"


class Reader(HTMLParser):
    """Collects elements, and the content of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.content: dict[str, str] = {}
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = dict(attrs).get("id") or tag

    def handle_endtag(self, _: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        self.content[self._inside] = self.content.get(self._inside, "") + data

    def json(self, name: str) -> Any:
        return json.loads(self.content[name])


@pytest.fixture
def written(
    tmp_path: Path, entry: Callable[..., ReportEntry], failed_record: Callable[[str], Record]
) -> Reader:
    path = tmp_path / "report.html"
    entries = [
        entry("in/plain.png", peak=0.2),
        entry(EVIL, warnings=("<b>", EVIL)),
        ReportEntry(failed_record("in/broken.jpg").to_dict()),
    ]
    case = Case(
        f"Case {EVIL}", "<7>", EVIL, f"<b>\n{EVIL}", EVIL, (EVIL,), ((EVIL, "<i>"),),
        (ScanRun("1", "2", EVIL, "<u>", "3"),),
    )  # fmt: skip
    assert write_report(path, entries, case, 3) == 3
    return Reader(path.read_text("utf-8"))


def test_markup_in_names_adds_no_element(written: Reader) -> None:
    tags = [tag for tag, _ in written.elements]
    blocks = [a for tag, a in written.elements if tag == "script"]
    assert tags.count("img") == 4  # two on each sheet of paper that has pictures
    assert {"b", "i", "u"} & set(tags) == {"b", "i"}  # of our own
    assert [a.get("type") for a in blocks].count(None) == 1  # our own script
    assert {a["id"] for a in blocks if "id" in a} == {
        *("summary", "r0", "p0", "m0", "r1", "p1", "m1", "r2")
    }
    assert written.json("r1")["path"] == EVIL
    notes = written.json("r1")["groups"][0]
    assert (notes["title"], notes["facts"]) == ("Notes", [["", "<b>", ""], ["", EVIL, ""]])
    assert written.json("summary")["rows"][1][0] == EVIL


def test_nothing_comes_from_elsewhere(written: Reader) -> None:
    for tag, attributes in written.elements:
        for name, value in attributes.items():
            assert name not in {"src", "srcset", "style", "action"}, tag
            assert not name.startswith("on"), tag
            assert name != "href" or value == "data:,"
    style = written.content["style"]
    assert "url(" not in style
    assert "@import" not in style


def test_the_policy_names_exactly_our_script_and_style(written: Reader) -> None:
    policy = next(
        str(attributes["content"])
        for _, attributes in written.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    for kind in ("script", "style"):
        digest = hashlib.sha256(written.content[kind].encode()).digest()
        assert f"{kind}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "http" not in policy


def test_the_page_holds_pictures_maps_and_records(
    written: Reader, entry: Callable[..., ReportEntry]
) -> None:
    preview = entry("in/plain.png", peak=0.2).preview
    assert preview is not None
    assert base64.b64decode(written.content["p0"]) == preview.photo
    assert base64.b64decode(written.content["m0"]) == preview.soft
    details = written.json("r1")
    assert details["curve"] == pytest.approx(entry(EVIL).preview.curve, rel=1e-3)  # type: ignore[union-attr]
    assert details["regions_found"] == len(details["regions"]) == 1
    assert "polygon" not in details["regions"][0]
    summary = written.json("summary")
    assert [row[1] for row in summary["rows"]] == ["nothing found", "manipulated", "failed"]


def test_pictures_with_a_finding_come_before_the_others(written: Reader) -> None:
    ids = [a["id"] for tag, a in written.elements if tag in ("script", "article") and "id" in a]
    assert ids == ["summary", "p1", "m1", "r1", "s1", "p0", "m0", "r0", "s0", "r2", "s2"]


def test_the_size_is_that_of_the_upright_picture(
    tmp_path: Path, entry: Callable[..., ReportEntry]
) -> None:
    values: Any = entry("turned.jpg", size=(160, 120)).record
    values["facts"] |= {"width": 160, "height": 120, "orientation": 6}
    path = tmp_path / "report.html"
    write_report(path, [ReportEntry(values)], Case(), 1)
    page = Reader(path.read_text("utf-8"))
    assert page.json("r0")["size"] == [120, 160]
    assert page.json("summary")["rows"][0][5:7] == [120, 160]


def test_the_same_entries_give_the_same_page(
    tmp_path: Path, entry: Callable[..., ReportEntry]
) -> None:
    pages = []
    for name in ("one.html", "two.html"):
        write_report(tmp_path / name, [entry("a.png"), entry("b.png")], Case(), 2)
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1]


def test_a_name_with_lone_surrogates_and_an_empty_report_are_written(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    assert write_report(path, [], Case("caf\udce9"), 0) == 0
    assert "caf\\udce9" in path.read_text("utf-8")


def test_hundreds_of_megabytes_are_not_held_in_memory(
    tmp_path: Path, entry: Callable[..., ReportEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        html, "shrunk", lambda preview, _, **__: preview
    )  # tested elsewhere, and slow
    sample = entry("sample.png")
    assert sample.preview is not None
    base, padding = dict(sample.record), bytes(40_000)

    def entries() -> Iterator[ReportEntry]:
        for number in range(2000):
            large = html.Preview(padding, padding, sample.preview.curve)  # type: ignore[union-attr]
            yield ReportEntry(base | {"path": f"{number}.png"}, large)

    path = tmp_path / "report.html"
    tracemalloc.start()
    assert write_report(path, entries(), Case(), 2000) == 2000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 200_000_000
    assert peak < 20_000_000


def test_many_pictures_have_smaller_previews_and_those_with_a_finding_larger() -> None:
    sides: list[int] = []

    class Measured(html.Preview):
        pass

    def measure(count: int, *, finding: bool) -> int:
        budget = html._Budget(count)
        seen: list[int] = []
        original, html.shrunk = html.shrunk, lambda preview, side, **_: seen.append(side) or preview
        try:
            budget.fit(Measured(b"", b"", (0.0,) * 101), finding=finding)
        finally:
            html.shrunk = original
        return seen[0]

    sides = [measure(count, finding=False) for count in (10, 2_000, 5_000, 10_000, 100_000)]
    assert sides == [1024, 640, 320, 240, 160]
    assert measure(10_000, finding=True) == 480


def test_paper_has_crops_at_full_resolution_of_the_largest_regions_alone(
    tmp_path: Path, entry: Callable[..., ReportEntry]
) -> None:
    path = tmp_path / "paper.html"
    entries = [entry("large.png", size=(1200, 1600), crops=True), entry("small.png", crops=True)]
    write_report(path, entries, Case(), 2, paper=True)
    crops = [a for tag, a in Reader(path.read_text("utf-8")).elements if "data-crop" in a]
    assert [crop["alt"] for crop in crops] == ["Region 1"]  # of a small picture it is all of it
    data = base64.b64decode(str(crops[0]["src"]).partition(",")[2])
    drawn = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert drawn.shape == (640, 640, 3)
    assert (np.abs(drawn.astype(int) - (255, 230, 0)).max(2) < 60).any()  # the outline
    assert "px at 240, 280, at full resolution" in path.read_text("utf-8")


def test_an_older_report_stays_until_the_next_is_whole(tmp_path: Path) -> None:
    def broken() -> Iterator[ReportEntry]:
        yield from ()
        raise RuntimeError("the source broke")

    path = tmp_path / "report.html"
    write_report(path, [], Case("first"), 0)
    with pytest.raises(RuntimeError, match="the source broke"):
        write_report(path, broken(), Case("second"), 0)
    assert "first" in path.read_text("utf-8")
    write_report(path, [], Case("second"), 0)
    assert "second" in path.read_text("utf-8")
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_importing_the_writers_imports_no_jinja() -> None:
    code = "import sys, imlctl.report.html; print('jinja2' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_heat_colours_are_those_of_heatmap_png() -> None:
    script = (html._TEMPLATES / "viewer.js").read_text("utf-8")
    block = script.split("INFERNO = Uint8Array.from((")[1].split(")")[0]
    found = bytes.fromhex("".join(re.findall(r'"([0-9a-f]+)"', block)))
    ramp = np.arange(256, dtype=np.uint8)[:, None]
    expected = cv2.applyColorMap(ramp, cv2.COLORMAP_INFERNO)[:, 0, ::-1]
    assert found == expected.tobytes()
