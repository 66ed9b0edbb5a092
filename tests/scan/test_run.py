import gc
import io
import os
import weakref
from pathlib import Path, PurePath

import pytest

from imlctl.errors import DecodeError, NumericalError, OutputError, WeightsError
from imlctl.scan import atomic
from imlctl.scan.discover import Picture, discover
from imlctl.scan.naming import Job, Kind, plan
from imlctl.scan.run import Outcome, scan


def read(source):
    """Stand in for the analysis: the result is what the file holds."""
    return source if isinstance(source, bytes) else source.read_bytes()


def render(result, kind):
    return str(kind).encode() + b":" + result


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        Path(name).write_bytes(name.encode())
    discovery = discover(["a.jpg", "b.jpg", "c.jpg"])
    return plan(discovery.pictures, "out", (Kind.JSON,), many=discovery.many)


def written():
    return sorted(path.name for path in Path("out").glob("*"))


def failing_on(name, error):
    def localize(source):
        if source.name == name:
            raise error
        return read(source)

    return localize


def test_every_picture_is_written_and_reported_in_order(jobs):
    outcomes = list(scan(jobs, read, render, len))
    assert [str(outcome.job.picture) for outcome in outcomes] == ["a.jpg", "b.jpg", "c.jpg"]
    assert [outcome.summary for outcome in outcomes] == [5, 5, 5]
    assert all(outcome.error is None and outcome.seconds >= 0 for outcome in outcomes)
    assert Path("out/b.jpg.mask.png").read_bytes() == b"mask:b.jpg"
    assert Path("out/b.jpg.json").read_bytes() == b"json:b.jpg"
    assert len(written()) == 6


def test_pictures_are_analysed_only_as_outcomes_are_asked_for(jobs):
    outcomes = scan(jobs, read, render, len)
    next(outcomes)
    assert written() == ["a.jpg.json", "a.jpg.mask.png"]


def test_a_bad_picture_does_not_stop_the_others_and_gets_no_mask(jobs):
    error = DecodeError("it is truncated", source="b.jpg")
    one, bad, three = scan(jobs, failing_on("b.jpg", error), render, len)
    assert bad.error is error
    assert (bad.summary, bad.trace) == (None, "")
    assert one.summary
    assert three.summary
    assert not any(name.startswith("b.jpg") for name in written())


def test_an_error_without_a_name_gets_that_of_the_picture(jobs):
    outcomes = list(scan(jobs, failing_on("b.jpg", NumericalError("it is NaN")), render, len))
    assert str(outcomes[1].error) == "b.jpg: it is NaN"


def test_a_picture_that_vanished_costs_one_picture(jobs):
    Path("b.jpg").unlink()
    outcomes = list(scan(jobs, read, render, len))
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    assert str(outcomes[1].error).startswith("b.jpg: it cannot be read (No such file")
    assert outcomes[1].trace == ""


class OutOfMemoryError(RuntimeError):
    """Called as torch's."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("CUDA says no"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("MPS backend out of memory"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_too_little_memory_costs_one_picture_and_names_the_remedy(jobs, error):
    outcomes = list(scan(jobs, failing_on("b.jpg", error), render, len))
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    assert "not enough memory" in str(outcomes[1].error)
    assert "--tile" in outcomes[1].error.remedy
    assert outcomes[1].trace == ""


def test_an_unforeseen_exception_costs_one_picture_and_is_called_a_bug(jobs):
    localize = failing_on("b.jpg", ZeroDivisionError("by zero,\nof all things"))
    outcomes = list(scan(jobs, localize, render, len))
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    said = str(outcomes[1].error)
    assert said.startswith("b.jpg: internal error, ZeroDivisionError: by zero, of all things")
    assert "bug" in said
    assert "Traceback" in outcomes[1].trace
    assert "in localize" in outcomes[1].trace


def test_what_fails_while_rendering_leaves_no_half_set_of_outputs(jobs):
    def fails(result, kind):
        if kind is Kind.JSON and result == b"b.jpg":
            raise ValueError("NaN")
        return render(result, kind)

    outcomes = list(scan(jobs, read, fails, len))
    assert outcomes[1].trace
    assert not any(name.startswith("b.jpg") for name in written())


def test_an_output_that_cannot_be_written_stops_the_scan(jobs, monkeypatch):
    real = os.fsync
    outcomes = scan(jobs, read, render, len)
    next(outcomes)

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"b\.jpg\.mask\.png.*No space left.*Free some space"):
        next(outcomes)
    monkeypatch.setattr(os, "fsync", real)
    assert written() == ["a.jpg.json", "a.jpg.mask.png"]
    assert list(outcomes) == []


def test_wrong_weights_stop_the_scan(jobs):
    with pytest.raises(WeightsError):
        list(scan(jobs, failing_on("a.jpg", WeightsError("wrong sha256")), render, len))


def test_an_interrupt_stops_the_scan(jobs):
    outcomes = scan(jobs, failing_on("b.jpg", KeyboardInterrupt()), render, len)
    next(outcomes)
    with pytest.raises(KeyboardInterrupt):
        next(outcomes)
    assert written() == ["a.jpg.json", "a.jpg.mask.png"]


def test_an_output_that_appeared_meanwhile_is_kept_unless_overwriting(jobs):
    atomic.write(Path("out/a.jpg.mask.png"), b"theirs")
    with pytest.raises(OutputError, match="already there"):
        list(scan(jobs, read, render, len))
    assert Path("out/a.jpg.mask.png").read_bytes() == b"theirs"
    assert len(list(scan(jobs, read, render, len, overwrite=True))) == 3
    assert Path("out/a.jpg.mask.png").read_bytes() == b"mask:a.jpg"


def test_from_the_standard_input_to_the_standard_output():
    job = Job(Picture(None, PurePath("stdin")), {Kind.MASK: None})
    stdout = io.BytesIO()
    (outcome,) = scan([job], read, render, len, stdin=io.BytesIO(b"bytes"), stdout=stdout)
    assert outcome.summary == 5
    assert stdout.getvalue() == b"mask:bytes"


def test_a_closed_standard_output_is_an_output_error():
    class Closed(io.BytesIO):
        def write(self, _data):
            raise BrokenPipeError(32, "Broken pipe")

    job = Job(Picture(None, PurePath("stdin")), {Kind.MASK: None})
    with pytest.raises(OutputError, match="standard output: cannot be written: Broken pipe"):
        list(scan([job], read, render, len, stdin=io.BytesIO(b"x"), stdout=Closed()))


def test_only_a_verdict_writes_nothing(jobs):
    bare = [Job(job.picture, {}) for job in jobs]
    assert len(list(scan(bare, read, render, len))) == 3
    assert not Path("out").exists()


def test_neither_results_nor_errors_keep_pictures_in_memory(jobs):
    class Photo:
        pass

    alive = []

    def localize(source):
        photo = Photo()
        alive.append(weakref.ref(photo))
        if source.name == "b.jpg":
            try:
                raise KeyError("inner")
            except KeyError as inner:
                raise DecodeError("it is truncated") from inner
        if source.name == "c.jpg":
            raise ZeroDivisionError
        return photo

    outcomes = list(scan(jobs, localize, lambda _photo, _kind: b"", lambda _photo: 1))
    gc.collect()
    assert len(outcomes) == len(alive) == 3
    assert [photo() for photo in alive] == [None, None, None]


def test_an_outcome_is_either_a_success_or_a_failure(jobs):
    with pytest.raises(ValueError, match="either"):
        Outcome(jobs[0], 0.0)
    with pytest.raises(ValueError, match="either"):
        Outcome(jobs[0], 0.0, summary=1, error=DecodeError("x"))
