"""docs/record.schema.json describes what is written, no more and no less."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator

import imlctl
from imlctl.image.decode import decode
from imlctl.record import SCHEMA_VERSION, Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from imlctl.report.html import ReportEntry

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "docs" / "record.schema.json").read_text("utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)


def faults(record: Any) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(record)]


@pytest.fixture(scope="module")
def real() -> dict[str, Any]:
    """What the pipeline writes of the example."""
    result = imlctl.load().localize(ROOT / "examples" / "launchpad.jpg")
    written: dict[str, Any] = json.loads(result.record().to_json())
    return written


def test_the_schema_is_one_and_of_this_version() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["schema_version"]["const"] == SCHEMA_VERSION


def test_a_real_record_keeps_to_it_and_leaves_nothing_out(real: dict[str, Any]) -> None:
    assert faults(real) == []
    assert set(real) == set(SCHEMA["properties"]) == set(SCHEMA["required"])
    assert real["regions"]
    assert set(real["regions"][0]) == set(SCHEMA["$defs"]["region"]["properties"])
    found = real["facts"]["provenance"]
    assert set(found) == set(SCHEMA["$defs"]["provenance"]["properties"])
    assert set(found["jpeg"]) == set(SCHEMA["$defs"]["jpeg"]["properties"])
    assert found["jpeg"]["quality"] == 92


def test_records_of_every_format_keep_to_it(makers: Any, entry: Callable[..., ReportEntry]) -> None:
    for name, data in makers.samples().items():
        photo = decode(data)
        record = entry("a.png", facts=photo.facts, sha256=photo.sha256).record
        assert faults(json.loads(json.dumps(record, allow_nan=False))) == [], name


def test_a_failed_record_and_a_name_that_is_not_utf_8_keep_to_it(
    failed_record: Callable[[str], Record],
) -> None:
    written = json.loads(failed_record("caf\udce9.jpg").to_json())
    assert written["path_bytes"]
    assert faults(written) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"schema_version": 1},
        {"verdict": "authentic"},
        {"verdict": "failed"},
        {"share": None},
        {"score": 1.5},
        {"sha256": "abc"},
        {"surprise": 1},
        {"error": {"kind": "A", "what": "b", "remedy": ""}},
        {"regions": [{"area": 3}]},
        {"timings": {"model": "fast"}},
    ],
    ids=str,
)
def test_what_is_no_record_is_told_apart(real: dict[str, Any], changes: dict[str, Any]) -> None:
    assert faults(real | changes)


def test_every_key_is_required(real: dict[str, Any]) -> None:
    for key in real:
        assert faults({k: v for k, v in real.items() if k != key}), key
