"""The report in a real browser: what it shows, what it lets one do, and what it refuses to run."""

from __future__ import annotations

import base64
import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from imlctl.report import html
from imlctl.report.html import Case, ReportEntry, write_report
from imlctl.report.preview import Preview

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

EVIL = "in/<script>window.hacked = 1</script><img src=x onerror=window.hacked=2>\u202egpj.jpg"
# The picture that is open is drawn, and nothing is being drawn.
DRAWN = (
    "!document.querySelector('.waiting') && document.getElementById('canvas').ariaBusy === 'false'"
)
# A copy of what the canvas shows, once it is drawn: the page's own canvas is not made for reading.
COPY = """
  await new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)));
  const c = document.getElementById('canvas'), copy = document.createElement('canvas');
  copy.width = c.width; copy.height = c.height;
  const g = copy.getContext('2d', { willReadFrequently: true });
  g.drawImage(c, 0, 0);
"""
INK = f"""(async () => {{ {COPY}
  const d = g.getImageData(0, 0, c.width, c.height).data;
  let sum = 0, yellow = 0;
  for (let i = 0; i < d.length; i += 4) {{
    sum = (sum * 31 + d[i] + 7 * d[i + 1] + 13 * d[i + 2]) % 1000003;
    if (d[i] > 240 && d[i + 1] > 215 && d[i + 1] < 245 && d[i + 2] < 60) yellow++;
  }}
  return [sum, yellow];
}})()"""
# Where the yellow of the outline begins and ends: left, top, right, bottom as fractions.
BOX = f"""(async () => {{ {COPY}
  const d = g.getImageData(0, 0, c.width, c.height).data, xs = [], ys = [];
  for (let i = 0; i < d.length; i += 4) {{
    if (d[i] < 240 || d[i + 1] < 215 || d[i + 2] > 60) continue;
    xs.push(i / 4 % c.width); ys.push(Math.floor(i / 4 / c.width));
  }}
  const ends = (values, size) => [Math.min(...values) / size, (Math.max(...values) + 1) / size];
  const [left, right] = ends(xs, c.width), [top, bottom] = ends(ys, c.height);
  return [left, top, right, bottom];
}})()"""
ROWS_IN_ORDER = (
    "[...document.querySelectorAll('#rows .row')].sort((a, b) => a.ariaRowIndex - b.ariaRowIndex)"
)
NAMES = f"{ROWS_IN_ORDER}.map((r) => r.querySelector('.file').textContent)"


@pytest.fixture(scope="module")
def report(
    tmp_path_factory: pytest.TempPathFactory,
    entry: Callable[..., ReportEntry],
    failed_record: Callable[[str], Any],
) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    entries = [
        entry("in/b10.jpg", peak=0.95, seed=1),
        entry("in/b9.jpg", peak=0.7, seed=2),
        entry("in/tall.png", peak=0.99, size=(200, 120), seed=3),
        entry("in/faint.png", peak=0.2, seed=4),
        entry(EVIL, seed=5, warnings=("<b>bold</b>",)),
        ReportEntry(failed_record("in/broken.jpg").to_dict()),
    ]
    write_report(path, entries, Case("A <b>title</b> & more", notes="<i>x</i>"), len(entries))
    return path


def set_slider(page: Any, name: str, value: float) -> None:
    page.run(
        f"(() => {{ const s = document.getElementById('{name}'); s.value = {value};"
        " s.dispatchEvent(new Event('input')); })()"
    )


def select(page: Any, name: str) -> None:
    page.run(
        "[...document.querySelectorAll('#rows .row')].find((r) =>"
        f" r.querySelector('.file').textContent === '{name}').click()"
    )
    page.until(f"document.getElementById('name').textContent.endsWith('{name}') && {DRAWN}")


def search(page: Any, text: str) -> None:
    page.run(
        "(() => { const s = document.getElementById('search');"
        f" s.value = '{text}'; s.dispatchEvent(new Event('input')); }})()"
    )


def test_the_page_loads_without_a_word_on_the_console(page: Any, report: Path) -> None:
    page.open(report)
    page.until(DRAWN)
    assert page.run("document.querySelectorAll('#rows .row').length") == 6
    assert page.run("document.title") == "A <b>title</b> & more"
    assert page.run("document.querySelector('h1').textContent") == "A <b>title</b> & more"
    assert page.run("document.querySelector('.notes').textContent") == "<i>x</i>"
    assert "6 pictures" in page.run("document.querySelector('.made').textContent")


def test_a_name_with_markup_is_only_text(page: Any, report: Path) -> None:
    page.open(report)
    search(page, "hacked")
    page.press("j", "j")
    page.until("document.getElementById('name').textContent.includes('hacked')")
    page.until(DRAWN)
    assert page.run("window.hacked") is None
    assert (
        page.run("document.querySelectorAll('#main script, #main b b, #main img[src=x]').length")
        == 0
    )
    shown = page.run("document.getElementById('facts').textContent")
    assert "<script>window.hacked = 1</script>" in shown
    assert "\\u{202e}gpj.jpg" in shown  # what would turn the letters around is spelled out
    assert "\u202e" not in shown
    assert "<b>bold</b>" in shown


def test_the_policy_runs_no_other_script(page: Any, report: Path, tmp_path: Path) -> None:
    tampered = tmp_path / "tampered.html"
    evil = (
        "<script>window.hacked = 3</script><img src=x onerror='window.hacked = 4'>"
        "<script src='https://imlctl.invalid/x.js'></script><b style='color: red'>x</b></body>"
    )
    tampered.write_text(report.read_text("utf-8").replace("</body>", evil), "utf-8")
    page.open(tampered)
    page.until(DRAWN)
    page.run("(() => { try { document.body.innerHTML = '<b>x</b>'; } catch {} })()")
    assert page.run("window.hacked") is None
    assert page.run("document.querySelectorAll('#rows .row').length") == 6
    complaints = " ".join(page.problems)
    for directive in ("script-src", "img-src", "style-src", "TrustedHTML"):
        assert directive in complaints
    page.problems.clear()  # these were meant


def test_the_threshold_slider_redraws_the_outline(page: Any, report: Path) -> None:
    page.open(report)
    select(page, "tall.png")
    first, wide_outline = page.run(INK)
    assert wide_outline > 50
    share = page.run("document.getElementById('share-now').textContent")
    set_slider(page, "threshold", 0.9)
    second, small_outline = page.run(INK)
    assert second != first
    assert 0 < small_outline < wide_outline  # a hill is smaller further up
    assert page.run("document.getElementById('share-now').textContent") != share
    assert (
        page.run("document.getElementById('threshold-value').textContent")
        == "p\u00a0\u2265\u00a00.90"
    )
    page.run("document.getElementById('reset').click()")
    assert page.run(INK)[0] == first
    assert page.run("document.getElementById('share-now').textContent") == share


def test_the_opacity_slider_changes_pixels_in_both_views(page: Any, report: Path) -> None:
    page.open(report)
    select(page, "b10.jpg")
    seen = {page.run(INK)[0]}
    set_slider(page, "opacity", 80)
    seen.add(page.run(INK)[0])
    page.press("3", "3")
    seen.add(page.run(INK)[0])
    set_slider(page, "opacity", 30)
    seen.add(page.run(INK)[0])
    page.press("4", "4")
    original, outline = page.run(INK)
    seen.add(original)
    assert len(seen) == 5
    assert outline == 0


def test_heat_and_outline_stand_where_the_map_is_high(page: Any, report: Path) -> None:
    page.open(report)
    select(page, "b10.jpg")
    page.press("3", "3")
    page.run(INK)
    pixel = "[...g.getImageData(c.width * {}, c.height * {}, 1, 1).data]"
    points = f"{pixel.format(0.35, 0.5)}, {pixel.format(0.95, 0.05)}"
    centre, corner = page.run(f"(async () => {{ {COPY} return [{points}]; }})()")
    assert centre[0] > 240  # inferno at 0.95 is pale yellow
    assert centre[1] > 200
    assert max(corner[:3]) - min(corner[:3]) <= 8  # p 0: a dim grey photograph
    assert max(corner[:3]) < 128


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_the_outline_runs_where_the_map_reaches_the_threshold(
    page: Any, report: Path, threshold: float
) -> None:
    page.open(report)
    select(page, "b10.jpg")
    set_slider(page, "opacity", 0)
    set_slider(page, "threshold", threshold)
    left, top, right, bottom = page.run(BOX)
    # The hill of `blob`: its height is 0.95 * (1.2 - distance), in units of 0.3 of the height.
    radius = 0.3 * (1.2 - threshold / 0.95)
    across = radius * 120 / 160
    expected = (0.35 - across, 0.5 - radius, 0.35 + across, 0.5 + radius)
    assert (left, top, right, bottom) == pytest.approx(expected, abs=0.012)


def test_filters_find_by_verdict_and_by_word(page: Any, report: Path) -> None:
    page.open(report)
    page.run("document.querySelector('[data-verdict=failed]').click()")
    assert page.run(NAMES) == ["broken.jpg"]
    page.run("document.querySelector('[data-verdict=\"\"]').click()")
    search(page, "PNG faint")
    assert page.run(NAMES) == ["faint.png"]
    search(page, "no such picture")
    assert page.run(NAMES) == []
    assert page.run("document.getElementById('empty').hidden") is False
    page.run("document.getElementById('clear').click()")
    assert len(page.run(NAMES)) == 6


def test_columns_sort_both_ways_and_numbers_in_names_count(page: Any, report: Path) -> None:
    page.open(report)
    verdicts = page.run(f"{ROWS_IN_ORDER}.map((r) => r.querySelector('.chip').textContent)")
    words = ["Manipulated"] * 3 + ["Inconclusive", "Failed", "Nothing found"]
    assert verdicts == words
    page.run("document.querySelector('[data-key=name] button').click()")
    names = page.run(NAMES)
    assert names.index("b9.jpg") < names.index("b10.jpg") < names.index("faint.png")
    page.run("document.querySelector('[data-key=name] button').click()")
    assert page.run(NAMES) == names[::-1]
    assert page.run("document.querySelector('[data-key=name]').ariaSort") == "descending"
    page.run("document.querySelector('[data-key=score] button').click()")
    assert page.run(NAMES)[0] == "tall.png"
    assert page.run(NAMES)[-1] == "broken.jpg"


def test_keys_lead_through_the_pictures(page: Any, report: Path) -> None:
    page.open(report)
    names = page.run(NAMES)
    title = "document.querySelector('#name bdi:last-child').textContent"
    page.until(f"{title} === '{names[0]}'" if "script" not in names[0] else "true")
    page.press("End")
    page.until(f"{title} === '{names[-1]}'")
    page.press("ArrowUp")
    page.until(f"{title} === '{names[-2]}'")
    page.press("k", "k")
    page.until(f"{title} === '{names[-3]}'")
    assert page.run("document.querySelector('[aria-selected=true] .file').textContent") == names[-3]
    page.press("/", "/")
    assert page.run("document.activeElement.id") == "search"
    page.press("j", "j")  # is a letter here
    assert page.run(f"{title}") == names[-3]
    page.press("Escape")
    page.press("?", "?")
    assert page.run("document.getElementById('help').open") is True


def test_a_failed_picture_says_why(page: Any, report: Path) -> None:
    page.open(report)
    page.run("document.querySelector('[data-verdict=failed]').click()")
    page.press("j", "j")
    page.until("document.getElementById('name').textContent.includes('broken')")
    page.until("document.getElementById('problem').hidden === false")
    assert page.run("document.getElementById('what').textContent") == "The file is truncated."
    assert page.run("document.getElementById('viewer').hidden") is True


def test_regions_are_listed_and_shown(page: Any, report: Path) -> None:
    page.open(report)
    select(page, "b10.jpg")
    before = page.run(INK)[0]
    assert page.run("document.querySelectorAll('#region-rows tr').length") == 1
    page.run("document.querySelector('#region-rows tr').focus()")
    assert page.run(INK)[0] != before


def test_the_page_never_calls_a_picture_authentic(page: Any, report: Path) -> None:
    page.open(report)
    text = page.run("document.body.innerText").lower()
    assert "nothing found\u201d does not mean authentic" in text
    assert "not a probability of guilt" in text
    for green in ("#0f0", "green", "lime"):
        assert green not in report.read_text("utf-8").split("</style>")[0].replace(
            "green never", ""
        )


@pytest.mark.parametrize("width", [1440, 900, 390])
def test_nothing_is_wider_than_the_screen(page: Any, report: Path, width: int) -> None:
    page.open(report, width=width)
    assert page.run("document.documentElement.scrollWidth") <= width
    page.run("document.querySelector('#rows .row').click()")
    page.until(DRAWN)
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run("document.getElementById('detail').scrollWidth") <= width
    visible = "getComputedStyle(document.getElementById('detail')).display"
    assert page.run(visible) == "block"
    if width < 1100:
        page.press("Escape")
        page.until(f"{visible} === 'none'")


def test_the_theme_follows_the_system_or_the_button(page: Any, report: Path) -> None:
    page.open(report)
    ground = "getComputedStyle(document.body.parentElement).backgroundColor"
    page.run("localStorage.clear()")
    colours = {}
    for scheme in ("light", "dark"):
        page.send(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )
        colours[scheme] = page.run(ground)
    assert colours["light"] != colours["dark"]
    page.press("t", "t")
    assert page.run(ground) == colours["light"]
    page.press("t", "t")
    page.send("Emulation.setEmulatedMedia", features=[])
    assert page.run(ground) == colours["dark"]
    page.open(report)
    assert page.run(ground) == colours["dark"]  # kept
    page.run("localStorage.clear()")


def test_it_prints_a_sheet_for_each_picture_that_is_listed(page: Any, report: Path) -> None:
    page.open(report)
    page.until(DRAWN)
    drawn = "[...document.querySelectorAll('.pair img')].filter((i) => i.naturalWidth).length"
    page.until(f"{drawn} === 10")  # two for each picture that has any
    search(page, "b9")
    page.run("dispatchEvent(new Event('beforeprint'))")
    sheets = "[...document.querySelectorAll('.sheet')].filter((s) => !s.hidden)"
    assert page.run(f"{sheets}.map((s) => s.querySelector('h2').textContent)") == ["in/b9.jpg"]
    page.run("dispatchEvent(new Event('afterprint'))")
    pdf = base64.b64decode(page.send("Page.printToPDF", printBackground=True)["data"])
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) == 2  # the cover and that sheet


def test_sheets_of_paper_have_crops_of_regions(
    page: Any, tmp_path: Path, entry: Callable[..., ReportEntry]
) -> None:
    path = tmp_path / "report.html"
    write_report(path, [entry("large.png", size=(1200, 1600), crops=True)], Case(), 1)
    page.open(path)
    page.until("document.querySelector('[data-crop]').naturalWidth === 640")


def test_after_another_filter_the_open_picture_is_one_of_those_listed(
    page: Any, report: Path
) -> None:
    page.open(report)
    select(page, "b10.jpg")
    position = "document.getElementById('position').textContent"
    assert page.run(position) == "3 of 6"
    search(page, "tall")
    page.until(f"document.getElementById('name').textContent === 'in/tall.png' && {DRAWN}")
    assert page.run(position) == "1 of 1"
    search(page, "no such picture")
    assert page.run("document.getElementById('detail').hidden")
    search(page, "faint")
    page.until("document.getElementById('name').textContent === 'in/faint.png'")
    assert not page.run("document.getElementById('detail').hidden")
    assert page.run(position) == "1 of 1"


def test_a_failed_picture_shows_its_hash_and_no_empty_fields(page: Any, report: Path) -> None:
    page.open(report)
    page.run(f"{ROWS_IN_ORDER}.find((r) => r.textContent.includes('broken')).click()")
    page.until("document.getElementById('name').textContent === 'in/broken.jpg'")
    shown = page.run("document.getElementById('facts').innerText")
    assert "ef" * 32 in shown
    assert "9.88 kB (9,876 bytes)" in shown
    assert "null" not in shown
    assert page.run("[...document.querySelectorAll('#facts h3')].length") == 1
    values = page.run("[...document.querySelectorAll('#facts dd')].map((d) => d.textContent)")
    assert all(values)


def test_a_region_is_shown_at_full_size(
    page: Any, tmp_path: Path, entry: Callable[..., ReportEntry]
) -> None:
    path = tmp_path / "report.html"
    write_report(path, [entry("large.png", size=(1200, 1600), crops=True)], Case(), 1)
    page.open(path)
    page.until(DRAWN)
    assert page.run(
        "[...document.querySelectorAll('#parts button')].map((b) => b.textContent)"
    ) == [
        "Whole picture",
        "Region 1",
    ]
    before = page.run(INK)[0]
    page.run("document.querySelector('#region-rows tr').click()")
    pressed = "document.querySelector('[data-part=\"1\"]').ariaPressed === 'true'"
    page.until(f"{pressed} && {DRAWN}")
    assert page.run(INK)[0] != before
    # The crop's middle is the map's peak, and the pointer says where in the picture it is.
    page.run(
        "(() => { const c = document.getElementById('canvas'), b = c.getBoundingClientRect();"
        " c.dispatchEvent(new PointerEvent('pointermove', { bubbles: true,"
        " clientX: b.left + b.width / 2, clientY: b.top + b.height / 2 })); })()"
    )
    probed = page.run("document.getElementById('probe').textContent")
    p, x, y = map(float, re.findall(r"[\d.]+", probed))
    assert p > 0.9
    assert (x, y) == pytest.approx((0.35 * 1600, 0.5 * 1200), abs=12)


def test_a_region_larger_than_a_crop_says_that_it_is_reduced(
    page: Any, tmp_path: Path, entry: Callable[..., ReportEntry]
) -> None:
    path = tmp_path / "report.html"
    write_report(path, [entry("huge.png", size=(2400, 3200), crops=True)], Case(), 1)
    page.open(path)
    page.until(DRAWN)
    page.run("document.querySelector('[data-part=\"1\"]').click()")
    page.until(f"document.querySelector('[data-part=\"1\"]').ariaPressed === 'true' && {DRAWN}")
    shown = page.run("document.querySelector('[data-part=\"1\"]').textContent")
    assert re.fullmatch("Region 1, at [3-6][0-9](\\.\\d)?.% of its size", shown), shown


def test_views_are_chosen_and_flicker(
    page: Any, tmp_path: Path, entry: Callable[..., ReportEntry]
) -> None:
    path = tmp_path / "report.html"
    write_report(path, [entry("a.png", views=True), entry("b.png")], Case(), 2)
    page.open(path)
    page.until(DRAWN)
    page.press("4", "4")
    original = page.run(INK)[0]
    page.press("5", "5")
    chosen = "[...document.querySelectorAll('#view-name option')].map((o) => o.value)"
    assert page.run(chosen) == ["noise", "gradient"]
    assert "smoother or grainier" in page.run("document.getElementById('look-for').textContent")
    inks = [original]
    for name in ("noise", "gradient"):
        page.run(
            f"(() => {{ const s = document.getElementById('view-name'); s.value = '{name}';"
            " s.dispatchEvent(new Event('change')); })()"
        )
        page.until(f"document.getElementById('look-for').textContent && {DRAWN}")
        inks.append(page.run(INK)[0])
    assert len(set(inks)) == 3
    page.press("f", "f")
    deadline = time.monotonic() + 120
    seen = set()
    while len(seen) < 2:  # the view and the picture, in turns
        seen.add(page.run(INK)[0])
        assert time.monotonic() < deadline
    assert seen == {original, inks[-1]}
    page.press("1", "1")
    page.press("j", "j")
    page.until(f"document.getElementById('name').textContent === 'b.png' && {DRAWN}")
    assert page.run("document.getElementById('views-mode').hidden")


def test_side_by_side_is_twice_as_wide(page: Any, report: Path) -> None:
    page.open(report)
    select(page, "tall.png")
    aspect = "(() => { const c = document.getElementById('canvas'); return c.width / c.height; })()"
    page.run(INK)
    alone = page.run(aspect)
    page.press("2", "2")
    page.run(INK)
    assert page.run(aspect) == pytest.approx(2 * alone, rel=0.02)
    page.press("1", "1")


def test_small_pictures_are_outlined(page: Any, report: Path) -> None:
    page.open(report)
    page.until("[...document.querySelectorAll('#rows img')].length === 5")
    yellow = """(async () => {
      let outlined = 0;
      for (const image of document.querySelectorAll('#rows img')) {
        const c = document.createElement('canvas');
        c.width = image.naturalWidth; c.height = image.naturalHeight;
        const g = c.getContext('2d');
        g.drawImage(image, 0, 0);
        const d = g.getImageData(0, 0, c.width, c.height).data;
        let found = 0;
        for (let i = 0; i < d.length; i += 4) {
          found += d[i] > 200 && d[i + 1] > 180 && d[i + 2] < 110;
        }
        outlined += found > 50;
      }
      return outlined; })()"""
    deadline = time.monotonic() + 120
    while page.run(yellow) != 4:  # the faint one has no mark
        assert time.monotonic() < deadline


def test_the_slider_stands_at_the_recorded_threshold(
    page: Any, tmp_path: Path, entry: Callable[..., ReportEntry]
) -> None:
    path = tmp_path / "report.html"
    write_report(path, [entry("a.png", threshold=0.397, regions=())], Case(), 1)
    page.open(path)
    page.until(DRAWN)
    assert page.run("document.getElementById('threshold').value") == "0.397"
    assert page.run("document.getElementById('reset').hidden")
    page.press("]", "]")
    assert page.run("document.getElementById('threshold').value") == "0.407"
    page.press("0", "0")
    assert page.run("document.getElementById('reset').hidden")


ROWS = 10_000


@pytest.mark.timeout(900)
def test_ten_thousand_pictures_are_all_there(
    page: Any, entry: Callable[..., ReportEntry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = entry("sample.png", size=(120, 160), seed=9)
    assert sample.preview is not None
    monkeypatch.setattr(html, "shrunk", lambda preview, *_, **__: preview)  # small enough already
    # As large as previews are among ten thousand: 9 kB of photograph, 4 kB of map.
    heavy = Preview(
        sample.preview.photo + bytes(max(0, 9_000 - len(sample.preview.photo))),
        sample.preview.soft + bytes(max(0, 4_000 - len(sample.preview.soft))),
        sample.preview.curve,
    )
    base = dict(sample.record)

    def entries() -> Iterator[ReportEntry]:
        for number in range(ROWS):
            verdict = "manipulated" if number % 20 == 0 else "nothing found"
            changes = {"path": f"card/IMG_{number:05}.jpg", "verdict": verdict}
            yield ReportEntry(base | changes | {"share": number / ROWS}, heavy)

    path = tmp_path / "report.html"
    assert write_report(path, entries(), Case(), ROWS) == ROWS
    assert path.stat().st_size > 150_000_000
    page.open(path, wait=False)
    page.until("document.querySelector('#rows .row')", 120)
    page.until(DRAWN, 120)  # the first picture can be seen before the last is read
    assert page.run("document.querySelectorAll('#rows .row').length") < 60
    page.until("document.readyState === 'complete'", 400)

    page.run("document.querySelector('[data-key=name] button').click()")
    assert page.run(NAMES)[0] == "IMG_00000.jpg"
    search(page, "img_0777")
    assert len(page.run(NAMES)) == 10
    page.run("document.getElementById('clear').click()")
    page.run("document.getElementById('grid').scrollTop = 300000")
    page.until(f"{NAMES}.some((name) => name > 'IMG_05000')")
    page.press("End")
    page.until("document.getElementById('name').textContent.endsWith('IMG_09999.jpg')")
