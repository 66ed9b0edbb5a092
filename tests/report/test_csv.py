from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imlctl.image.facts import ExifSummary, FormatFacts, Provenance
from imlctl.image.jpeg_facts import JpegFacts
from imlctl.report.tables import HEADINGS, row, write_csv

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imlctl.record import Record
    from imlctl.report.html import ReportEntry


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_for_each_picture_with_what_a_spreadsheet_can_use(
    tmp_path: Path, entry: Callable[..., ReportEntry], failed_record: Callable[[str], Record]
) -> None:
    jpeg = JpegFacts((), 92, True, "4:2:0", False)
    traces = Provenance(1234, "ef" * 32, jpeg, ExifSummary(make="Canon", gps=True), c2pa=True)
    facts = FormatFacts("JPEG", 160, 120, "RGB", 8, provenance=traces)
    found = entry('in/a,\n"b".jpg', facts=facts, warnings=("one", "two")).record
    path = tmp_path / "records.csv"
    write_csv(path, [found, failed_record("in/broken.jpg").to_dict()])
    assert path.read_bytes().startswith(b"\xef\xbb\xbfpath,")
    first, second = table(path)
    assert tuple(first) == HEADINGS
    assert len(set(HEADINGS)) == len(HEADINGS)
    assert first["path"] == 'in/a,\n"b".jpg'
    assert (first["verdict"], first["regions"]) == ("manipulated", "1")
    assert int(first["largest_region_area"]) > 100
    assert float(first["share"]) == pytest.approx(found["share"])
    assert (first["format"], first["bytes"], first["jpeg_quality"]) == ("JPEG", "12345", "92")
    assert (first["jpeg_tables_standard"], first["exif_make"]) == ("yes", "Canon")
    assert (first["exif_gps"], first["c2pa"], first["alpha"]) == ("yes", "yes", "no")
    assert first["warnings"] == "one; two"
    assert (second["verdict"], second["error"]) == ("failed", "the file is truncated")
    assert float(first["forgeries_with_this_verdict"]) == 0.45
    assert second["share"] == second["format"] == second["jpeg_quality"] == ""


@given(name=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
def test_no_name_is_a_formula_and_every_name_can_be_had_back(
    failed_record: Callable[[str], Record], name: str
) -> None:
    cell = row(failed_record(name).to_dict())[HEADINGS.index("path")]
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert cell.removeprefix("'") == name


def test_numbers_below_zero_stay_numbers(failed_record: Callable[[str], Record]) -> None:
    values: dict[str, Any] = failed_record("a.jpg").to_dict() | {"seed": -5}
    assert row(values)[HEADINGS.index("seed")] == "-5"
