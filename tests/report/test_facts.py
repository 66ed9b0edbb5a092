"""Facts as a report tells them: all that is known, nothing that is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from imlctl.report.facts import finding, groups_of, warnings_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from imlctl.record import Record
    from imlctl.report.html import ReportEntry

JPEG = {
    "tables": [{"slot": 0, "bits": 8, "values": list(range(64))}],
    "quality": 92,
    "standard": True,
    "subsampling": "4:2:0",
    "progressive": True,
    "order": ["SOI", "APP1", "DQT"],
    "scans": 10,
    "restart_interval": 4,
    "starts": 2,
    "ends": 2,
    "trailing": 1234567,
    "program": "libjpeg",
}
EXIF = {
    "make": "Acme",
    "model": "Acme One",
    "lens": None,
    "software": "Editor 3",
    "taken": "2024:05:17 08:30:00",
    "modified": None,
    "width": 160,
    "height": 100,
    "gps": True,
    "thumbnail": True,
}
TRACES = {
    "bytes": 12_345,
    "pixels_sha256": "ab" * 32,
    "jpeg": JPEG,
    "exif": EXIF,
    "c2pa": True,
    "c2pa_generator": "Acme Signer",
    "thumbnail": {
        "bytes": 900,
        "width": 160,
        "height": 90,
        "same_aspect": False,
        "difference": 0.21,
    },
    "flags": ["an editor is named: Editor 3"],
    "grid": [3, 5],
    "compressions": "twice",
}


@pytest.fixture
def record(entry: Callable[..., ReportEntry]) -> dict[str, Any]:
    values: Any = entry("a.jpg", warnings=("one frame of two",)).record
    values["facts"] |= {"provenance": TRACES, "orientation": 6, "alpha": True}
    return values


def told(record: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {
        group["title"]: {name: value for name, value, _ in group["facts"]}
        for group in groups_of(record)
    }


def test_all_that_is_known_is_told(record: dict[str, Any]) -> None:
    groups = told(record)
    assert groups["Notes"] == {"": "one frame of two"}
    assert groups["To look into"] == {"": "an editor is named: Editor 3"}
    assert groups["File"]["Size"] == "12.3 kB (12,345 bytes)"
    assert groups["Picture"]["Orientation"] == "6; turned upright here"
    history = groups["JPEG history"]
    assert history["Last quality"] == "92, exactly libjpeg\u2019s tables"
    assert history["Tables of"] == "libjpeg"
    assert history["Compressed"] == "at least twice, on two grids"
    assert history["8 \u00d7 8 grid"] == "shifted by 3 columns and 5 rows"
    assert history["Segments"] == "SOI APP1 DQT"
    assert history["More than one picture"] == "2 starts and 2 ends of an image"
    assert history["After the picture"] == "1,234,567 bytes"
    assert history["Quantisation table 0"].splitlines()[1] == "   8   9  10  11  12  13  14  15"
    camera = groups["Camera and software, by EXIF"]
    assert camera["Camera"] == "Acme One"
    assert camera["Size by EXIF"] == "160 \u00d7 100 px; the file has another size"
    assert "Acme Signer" in groups["Content credentials (C2PA)"][""]
    assert groups["Embedded thumbnail"]["Proportions"] == "other than the picture\u2019s"
    assert groups["Embedded thumbnail"]["Difference"].startswith("0.210 of 1")
    rates = groups["Measured rates of this verdict"]
    assert rates["Forgeries"].startswith("9 of 20: 45 % (95 %: 23.1 % to 68.5 %)")
    assert groups["Analysis"]["Threshold"] == "mask at p \u2265 0.5"
    assert groups["Model and versions"]["Rule"] == (
        "manipulated from score 0.9, inconclusive from 0.5"
    )


def test_a_picture_that_was_a_jpeg_has_a_history_too(record: dict[str, Any]) -> None:
    traces = TRACES | {"jpeg": None, "compressions": "once"}
    record["facts"] |= {"provenance": traces}
    assert told(record)["JPEG history"] == {
        "Compressed": "as JPEG before it became this file, perhaps more than once",
        "8 \u00d7 8 grid": "shifted by 3 columns and 5 rows",
    }
    record["facts"] |= {"provenance": traces | {"grid": None}}
    assert "JPEG history" not in told(record)


def test_no_fact_is_empty_and_nothing_says_null(
    record: dict[str, Any], failed_record: Callable[[str], Record]
) -> None:
    bare = record | {"facts": record["facts"] | {"provenance": None}, "rates": None}
    for values in (record, bare, failed_record("b.jpg").to_dict()):
        for group in groups_of(values):
            assert group["facts"]
            for name, value, _ in group["facts"]:
                assert value, name
                assert value not in ("None", "null"), name


def test_a_failed_picture_has_its_file_alone(failed_record: Callable[[str], Record]) -> None:
    values = failed_record("b.jpg").to_dict()
    assert list(told(values)) == ["File"]
    assert told(values)["File"]["SHA-256"] == "ef" * 32
    assert finding(values) == ""


def test_the_finding_has_the_score_its_rates_and_the_share(record: dict[str, Any]) -> None:
    assert finding(record | {"score": 0.9999, "share": 0.053, "threshold": 0.398}) == (
        "score 0.99; 2 in 100 authentic pictures score this high, 45 in 100 forgeries do;"
        " 5.3 % of pixels marked, at p \u2265 0.398"
    )


def test_cautions_and_silence_are_warnings(record: dict[str, Any]) -> None:
    assert warnings_of(record) == []
    doubtful = record | {"cautions": ["a single colour throughout"], "unreliable_share": 0.61}
    assert warnings_of(doubtful) == [
        "Caution: a single colour throughout.",
        "Cannot speak here: 61 % of this picture.",
    ]
