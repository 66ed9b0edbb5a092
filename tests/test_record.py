import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imlctl.errors import DecodeError, NumericalError
from imlctl.mask.decide import Verdict
from imlctl.record import FAILED, SCHEMA_VERSION, Failure, Record, software_versions


@dataclasses.dataclass(frozen=True)
class Facts:
    format: str
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Spot:
    polygon: tuple[tuple[int, int], ...]
    area: int


def record(**changes):
    values = {
        "path": "photos/a.jpg",
        "verdict": Verdict.MANIPULATED,
        "model": "efficient-iml-tiny",
        "weights_sha256": "ab" * 32,
        "settings": {"tile": None, "max_pixels": 10},
        "seed": 0,
        "device": "cpu",
        "seconds": 0.25,
        "sha256": "cd" * 32,
        "bytes": 1234,
        "facts": Facts("JPEG", ("alpha channel ignored",)),
        "score": 0.75,
        "share": 0.03,
        "threshold": 0.5,
        "rule": {"manipulated": 0.7, "inconclusive": 0.4},
        "rates": None,
        "unreliable_share": 0.25,
        "cautions": ("a single colour throughout",),
        "timings": {"decode": 0.125},
        "regions": (Spot(((1, 2), (3, 4)), 9),),
        "regions_not_listed": {"count": 2, "area": 5},
        "warnings": ("something",),
    }
    return Record(**(values | changes))


def strictly(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_record_says_everything_once():
    written = strictly(record().to_json())
    versions = written.pop("versions")
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert written == {
        "schema_version": SCHEMA_VERSION,
        "path": "photos/a.jpg",
        "path_bytes": None,
        "sha256": "cd" * 32,
        "bytes": 1234,
        "verdict": "manipulated",
        "score": 0.75,
        "share": 0.03,
        "threshold": 0.5,
        "rule": {"manipulated": 0.7, "inconclusive": 0.4},
        "rates": None,
        "unreliable_share": 0.25,
        "cautions": ["a single colour throughout"],
        "regions": [{"polygon": [[1, 2], [3, 4]], "area": 9}],
        "regions_not_listed": {"count": 2, "area": 5},
        "facts": {"format": "JPEG", "notes": ["alpha channel ignored"]},
        "model": "efficient-iml-tiny",
        "weights_sha256": "ab" * 32,
        "settings": {"tile": None, "max_pixels": 10},
        "seed": 0,
        "device": "cpu",
        "seconds": 0.25,
        "timings": {"decode": 0.125},
        "warnings": ["something"],
        "error": None,
    }


def test_a_failed_picture_has_its_reason_and_no_findings():
    error = DecodeError("it is truncated", source="a.jpg", remedy="Get the original again.")
    failed = record(
        verdict=FAILED,
        error=Failure.of(error),
        **dict.fromkeys(("sha256", "bytes", "facts", "score", "share", "threshold", "rule")),
        regions=(),
    )
    written = strictly(failed.to_json())
    assert written["verdict"] == "failed"
    assert written["error"] == {
        "kind": "DecodeError",
        "what": "it is truncated",
        "remedy": "Get the original again.",
    }
    assert written["share"] is None


@pytest.mark.parametrize(
    "changes",
    [
        {"score": float("nan")},
        {"share": float("inf")},
        {"seconds": float("nan")},
        {"timings": {"model": float("inf")}},
        {"facts": {"deep": [{"er": float("-inf")}]}},
        {"regions": ({"mean_probability": float("nan")},)},
    ],
)
def test_nan_and_infinity_never_enter_a_record(changes):
    with pytest.raises(NumericalError, match=r"photos/a\.jpg"):
        record(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": FAILED},
        {"error": Failure("DecodeError", "it is truncated")},
        {"share": None},
        {"sha256": None},
        {"score": 1.5},
        {"threshold": -0.5},
        {"unreliable_share": 5},
        {"rule": None},
        {"settings": {"model": object()}},
    ],
)
def test_a_record_that_contradicts_itself_is_refused(changes):
    with pytest.raises(ValueError, match=r"verdict|outside|cannot hold"):
        record(**changes)


def test_a_record_stays_as_it_was_made():
    settings = {"tile": 512}
    made = record(settings=settings)
    settings["tile"] = 1
    made.to_dict()["settings"]["tile"] = 2
    assert made.to_dict()["settings"] == {"tile": 512}
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.seed = 1


@given(st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name))
def test_every_file_name_can_be_had_back_from_the_json(name):
    written = strictly(record(path=os.fsdecode(name)).to_json())
    exact = written["path_bytes"]
    assert (bytes.fromhex(exact) if exact else written["path"].encode()) == name
    assert written["path"].encode()  # is text, whatever the bytes were


def test_a_name_that_is_not_utf_8_is_shown_and_kept():
    written = record(path=os.fsdecode(b"caf\xe9.jpg")).to_dict()
    assert written["path"] == "caf\\xe9.jpg"
    assert written["path_bytes"] == b"caf\xe9.jpg".hex()


def test_texts_with_undecodable_bytes_are_still_json():
    odd = os.fsdecode(b"b\xff.jpg")
    text = record(warnings=(odd,), settings={odd: Path(odd)}).to_json()
    assert strictly(text)["warnings"] == ["b\\udcff.jpg"]
    assert "\\ud" not in text.replace("\\\\ud", "")


def test_markup_and_control_characters_are_only_text():
    name = 'a\n<script>alert("x")</script>\u202egpj.jpg'
    text = record(path=name).to_json()
    assert text.isascii()
    assert "\n" not in text
    assert strictly(text)["path"] == name


def test_versions_name_what_a_result_depends_on():
    assert {"imlctl", "python", "torch", "pillow", "numpy"} <= set(software_versions())
    assert software_versions()["pillow"][0].isdigit()


def test_the_module_needs_nothing_but_python():
    code = (
        "import sys, imlctl.record;"
        "print(sorted({'torch', 'cv2', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
