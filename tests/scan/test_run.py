import gc
import hashlib
import io
import os
import weakref
from pathlib import Path, PurePath

import pytest

from imlctl import atomic
from imlctl.errors import DecodeError, NumericalError, OutputError, WeightsError
from imlctl.scan.find import Picture
from imlctl.scan.messages import Finished
from imlctl.scan.naming import Job, Kind
from imlctl.scan.run import scan


def digest(name):
    return hashlib.sha256(Path(name).read_bytes()).hexdigest()


def written():
    return sorted(path.name for path in Path("out").glob("*"))


def failing_on(analysis, name, error):
    real = analysis.finish

    def finish(decoded):
        if decoded.photo.source == name:
            raise error
        return real(decoded)

    analysis.finish = finish
    return analysis


def test_every_picture_is_written_and_reported_in_order(jobs, analysis, engine, options):
    outcomes = list(scan(jobs, engine(analysis), options))
    assert [str(outcome.job.picture) for outcome in outcomes] == ["a.png", "b.png", "c.png"]
    assert [o.record["sha256"] for o in outcomes] == [digest(o.job.picture.path) for o in outcomes]
    assert not any(o.error or o.trace or o.resumed for o in outcomes)
    assert Path("out/b.png.mask.png").read_bytes() == b"mask:" + digest("b.png").encode()
    assert Path("out/b.png.json").read_bytes() == b"json:" + digest("b.png").encode()
    assert len(written()) == 6


def test_pictures_are_analysed_only_as_outcomes_are_asked_for(jobs, analysis, run_scan):
    outcomes = run_scan(jobs, analysis)
    next(outcomes)
    assert written() == ["a.png.json", "a.png.mask.png"]


def test_a_bad_picture_does_not_stop_the_others_and_gets_no_mask(jobs, analysis, engine, options):
    Path("b.png").write_bytes(Path("b.png").read_bytes()[:-20])
    one, bad, three = scan(jobs, engine(analysis), options)
    assert isinstance(bad.error, DecodeError)
    assert str(bad.error).startswith("b.png: ")
    assert bad.record["error"]["what"] == bad.error.what
    assert (bad.record["sha256"], bad.record["bytes"]) == (
        digest("b.png"),
        len(Path("b.png").read_bytes()),
    )
    assert not one.error
    assert not three.error
    assert not any(name.startswith("b.png") for name in written())


def test_an_error_without_a_name_gets_that_of_the_picture(jobs, analysis, run_scan):
    outcomes = list(run_scan(jobs, failing_on(analysis, "b.png", NumericalError("it is NaN"))))
    assert str(outcomes[1].error) == "b.png: it is NaN"


def test_a_picture_that_vanished_costs_one_picture(jobs, analysis, run_scan):
    Path("b.png").unlink()
    outcomes = list(run_scan(jobs, analysis))
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    assert str(outcomes[1].error).startswith("b.png: there is no such file")


def test_an_unforeseen_exception_costs_one_picture_and_is_called_a_bug(
    jobs, analysis, engine, options
):
    broken = failing_on(analysis, "b.png", ZeroDivisionError("by zero,\nof all things"))
    outcomes = list(scan(jobs, engine(broken), options))
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    said = str(outcomes[1].error)
    assert said.startswith("b.png: internal error, ZeroDivisionError: by zero, of all things")
    assert "in finish" in outcomes[1].trace


def test_an_output_that_cannot_be_written_stops_the_scan(
    jobs, analysis, engine, options, monkeypatch
):
    real = os.fsync
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 4:  # file and folder, for each output of the first picture
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    outcomes = scan(jobs, engine(analysis), options)
    assert next(outcomes).job is jobs[0]
    with pytest.raises(OutputError, match=r"b\.png\.mask\.png.*No space left.*Free some space"):
        list(outcomes)
    assert written() == ["a.png.json", "a.png.mask.png"]
    assert list(outcomes) == []


def test_wrong_weights_stop_the_scan(jobs, analysis, run_scan):
    with pytest.raises(WeightsError):
        list(run_scan(jobs, failing_on(analysis, "a.png", WeightsError("wrong sha256"))))


def test_an_interrupt_stops_the_scan(jobs, analysis, engine, options):
    with pytest.raises(KeyboardInterrupt):
        list(scan(jobs, engine(failing_on(analysis, "c.png", KeyboardInterrupt())), options))
    assert not any(name.startswith("c.png") for name in written())


def test_a_request_to_stop_finishes_what_is_in_hand(jobs, analysis, engine, options):
    stopped = lambda: len(analysis.seen) >= 2  # noqa: E731
    outcomes = list(scan(jobs, engine(analysis), options, stopped=stopped))
    assert sorted(str(outcome.job.picture) for outcome in outcomes) == sorted(analysis.seen)
    assert len(analysis.seen) == 2
    assert len(written()) == 4


def test_an_output_that_appeared_meanwhile_is_kept_unless_overwriting(jobs, analysis, run_scan):
    atomic.write(Path("out/a.png.mask.png"), b"theirs")
    with pytest.raises(OutputError, match="already there"):
        list(run_scan(jobs, analysis))
    assert Path("out/a.png.mask.png").read_bytes() == b"theirs"
    for path in Path("out").glob("*.json"):
        path.unlink()
    assert len(list(run_scan(jobs, analysis, overwrite=True))) == 3
    assert Path("out/a.png.mask.png").read_bytes() != b"theirs"


def test_overwriting_leaves_no_mask_of_what_the_picture_was_before(jobs, analysis, run_scan):
    list(run_scan(jobs, analysis))
    Path("b.png").write_bytes(b"not a picture any more")
    list(run_scan(jobs, analysis, overwrite=True))
    assert not any(name.startswith("b.png") for name in written())
    assert len(written()) == 4


def test_from_the_standard_input_to_the_standard_output(analysis, engine, options, picture):
    job = Job(Picture(None, PurePath("stdin")), {Kind.MASK: None, Kind.JSON: None})
    stdin, stdout = io.BytesIO(picture()), io.BytesIO()
    (outcome,) = scan([job], engine(analysis), options, stdin=stdin, stdout=stdout)
    assert outcome.error is None
    assert stdout.getvalue().startswith(b"mask:" + hashlib.sha256(picture()).hexdigest().encode())


def test_a_closed_standard_output_is_an_output_error(analysis, run_scan, picture):
    class Closed(io.BytesIO):
        def write(self, _data):
            raise BrokenPipeError(32, "Broken pipe")

    job = Job(Picture(None, PurePath("stdin")), {Kind.MASK: None, Kind.JSON: None})
    with pytest.raises(OutputError, match="standard output: cannot be written: Broken pipe"):
        list(run_scan([job], analysis, stdin=io.BytesIO(picture()), stdout=Closed()))


def test_a_set_of_outputs_that_cannot_be_finished_leaves_none_of_it(
    jobs, analysis, run_scan, monkeypatch
):
    """The disk is full in the middle: the message says that an output is not there."""
    real = atomic.write

    def full(path, data, **options):
        if path.suffix == ".json":
            raise OutputError("cannot be written: No space left on device", source=str(path))
        real(path, data, **options)

    monkeypatch.setattr(atomic, "write", full)
    with pytest.raises(OutputError, match="No space left"):
        list(run_scan(jobs, analysis))
    assert written() == []


def test_only_a_verdict_writes_nothing(jobs, analysis, run_scan):
    bare = [Job(job.picture, {}) for job in jobs]
    analysis.finish = lambda decoded: Finished({}, analysis.record(decoded.photo.sha256))
    assert len(list(run_scan(bare, analysis))) == 3
    assert not Path("out").exists()


def test_neither_results_nor_errors_keep_pictures_in_memory(jobs, analysis, engine, options):
    alive = []

    def finish(decoded):
        alive.append(weakref.ref(decoded.photo.pixels))
        if decoded.photo.source == "b.png":
            try:
                raise KeyError("inner")
            except KeyError as inner:
                raise DecodeError("it is truncated") from inner
        if decoded.photo.source == "c.png":
            raise ZeroDivisionError
        return Finished({}, {"verdict": "nothing found"})

    analysis.finish = finish
    outcomes = list(scan(jobs, engine(analysis), options))
    gc.collect()
    assert len(outcomes) == len(alive) == 3
    assert [pixels() for pixels in alive] == [None, None, None]
