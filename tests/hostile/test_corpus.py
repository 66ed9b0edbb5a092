"""What becomes of every kind of bad file: decoded and labelled, or refused in plain words."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from imlctl.errors import Exit, InputError
from imlctl.image.decode import decode
from imlctl.scan.analysis import Options
from imlctl.scan.messages import Decoded, Failed, Request
from imlctl.scan.pool import Crew, decoded_by
from imlctl.scan.processes import Decoder
from imlctl.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = "from imlctl.cli import main; main()"
KINDS = ("mended", "bombs", "floods", "loops", "metadata", "polyglots")
MAX_PIXELS = 2**20  # with which the decoder may take 1 GiB and 32 MiB
OPTIONS = Options(Settings(max_pixels=MAX_PIXELS), timeout=60)


def test_whole_files_are_decoded_and_cut_ones_are_not(
    makers: Any, target: Any, corpus: Any
) -> None:
    assert all(map(target.outcome, corpus.whole(makers).values()))
    parts = corpus.cut(makers)
    assert len(parts) > 20 * len(makers.samples())
    assert [name for name, data in parts.items() if target.outcome(data)] == []


def test_a_heic_is_no_exception(makers: Any, target: Any) -> None:
    data = makers.heic()
    assert target.outcome(data)
    assert not any(map(target.outcome, makers.cuts(data)))


def test_changed_bytes_never_escape(makers: Any, target: Any, corpus: Any) -> None:
    outcomes = [target.outcome(d) is None for d in corpus.flipped(makers, range(20)).values()]
    assert any(outcomes)
    assert not all(outcomes)


def test_no_kind_crashes_hangs_or_fills_the_memory(makers: Any, corpus: Any, lay_out: Any) -> None:
    """Each in a process that may take about a gigabyte, as a scan has it."""
    for kind in KINDS:
        files = corpus.__dict__[kind](makers)
        folder = lay_out(kind, files)
        requests = [(n, Request(str(folder / n), MAX_PIXELS)) for n in sorted(files)]
        with Crew([Decoder(OPTIONS)]) as decoders:
            answers = dict(decoded_by(decoders, requests))
        assert answers.keys() == files.keys()
        for name, answer in answers.items():
            if isinstance(answer, Failed):
                said = answer.error.what
                assert not answer.trace, name
                assert answer.error.source == str(folder / name)
                assert answer.error.remedy, name
                for bad in ("crashed", "took longer", "memory"):
                    assert bad not in said, (name, said)
            else:
                assert isinstance(answer, Decoded), name


@pytest.mark.parametrize("kind", ["mended", "bombs", "floods"])
def test_nothing_of_these_kinds_is_decoded(makers: Any, corpus: Any, kind: str) -> None:
    for name, data in corpus.__dict__[kind](makers).items():
        with pytest.raises(InputError) as caught:
            decode(data, source=name)
        assert caught.value.source == name
        assert caught.value.remedy


def test_metadata_changes_no_pixel(makers: Any, corpus: Any) -> None:
    grey = decode(makers.samples()["jpeg-grey"]).pixels
    for name, data in corpus.metadata(makers).items():
        pixels = decode(data).pixels
        if name.endswith(".tif"):
            assert not pixels.any()
        else:
            expected = grey if name.endswith(".jpg") else makers.texture()
            assert np.array_equal(pixels, expected), name


def test_a_large_colour_profile_is_noted_and_no_obstacle(makers: Any, corpus: Any) -> None:
    for name in ("icc.png", "icc-large.png"):
        facts = decode(corpus.metadata(makers)[name]).facts
        assert facts.icc_profile
        assert "colour profile not applied" in facts.notes


def test_what_else_a_file_is_gets_noted(makers: Any, corpus: Any) -> None:
    files = corpus.polyglots(makers)
    for name, data in files.items():
        if name in ("script.gif", "page.jpg", "png-named.jpg", "archive-avif.avif"):
            continue
        notes = decode(data).facts.notes
        assert any("bytes after the end of the picture" in note for note in notes), name
    assert decode(files["png-named.jpg"]).facts.format == "PNG"
    with pytest.raises(InputError, match="cut off"):
        decode(files["archive-avif.avif"])


def test_what_cannot_be_checked_is_noted(makers: Any) -> None:
    samples = makers.samples()
    for name, word in (("tiff-fax", "fax"), ("bmp-runs", "run-length")):
        assert any(word in note for note in decode(samples[name]).facts.notes)


def test_a_folder_of_them_gives_a_record_for_each(
    makers: Any, corpus: Any, lay_out: Any, weights: Path, tmp_path: Path
) -> None:
    files = corpus.whole(makers)
    for kind in KINDS:
        files |= {f"{kind}-{n}": data for n, data in corpus.__dict__[kind](makers).items()}
    files |= {f"cut-{name}": data[: len(data) // 2] for name, data in corpus.whole(makers).items()}
    folder, out = lay_out("in", files), tmp_path / "out"
    arguments = ["--max-pixels", 2**20, "--jobs", 1, "--weights", weights, "--jsonl", "--json"]
    ran = subprocess.run(
        [sys.executable, "-c", COMMAND, "localize", folder, "-o", out, *map(str, arguments)],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == Exit.SOME_FAILED, ran.stderr
    records = [json.loads(line) for line in (out / "records.jsonl").read_bytes().splitlines()]
    assert sorted(r["path"].rpartition("/")[2] for r in records) == sorted(files)
    for record in records:
        name = record["path"].rpartition("/")[2]
        failed = record["verdict"] == "failed"
        for output in (f"{name}.mask.png", f"{name}.json"):
            assert (out / output).exists() is not failed, name
        if failed:
            assert record["error"]["what"]
            assert record["error"]["remedy"]
            assert f"{name}: " in ran.stderr
        else:
            assert record["facts"]
            assert name in corpus.whole(makers) or not name.startswith(("cut", "mended", "bombs"))
    assert not list(out.rglob("*.tmp"))
