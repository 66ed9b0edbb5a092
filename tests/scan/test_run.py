import gc
import hashlib
import io
import os
import weakref
from pathlib import Path, PurePath

import pytest

from imlctl import atomic
from imlctl.errors import DecodeError, NumericalError, OutputError, WeightsError
from imlctl.scan.ahead import DecodeAhead
from imlctl.scan.discover import Picture
from imlctl.scan.naming import Job, Kind
from imlctl.scan.run import scan


@pytest.fixture(params=["here", "ahead"])
def engine(request):
    """Both ways of doing the same: everything here, or decoders before and a writer behind."""
    if request.param == "here":
        yield {}
    else:
        with DecodeAhead(1) as ahead:
            yield {"ahead": ahead}


def digest(name):
    return hashlib.sha256(Path(name).read_bytes()).hexdigest()


def written():
    return sorted(path.name for path in Path("out").glob("*"))


def failing_on(work, name, error):
    real = work.localize

    def localize(source):
        if source.photo.source == name:
            raise error
        return real(source)

    work.localize = localize
    return work


def test_every_picture_is_written_and_reported_in_order(jobs, work, engine):
    outcomes = list(scan(jobs, work, **engine))
    assert [str(outcome.job.picture) for outcome in outcomes] == ["a.png", "b.png", "c.png"]
    assert [o.record["sha256"] for o in outcomes] == [digest(o.job.picture.path) for o in outcomes]
    assert not any(o.error or o.trace or o.resumed for o in outcomes)
    assert Path("out/b.png.mask.png").read_bytes() == b"mask:" + digest("b.png").encode()
    assert Path("out/b.png.json").read_bytes() == b"json:" + digest("b.png").encode()
    assert len(written()) == 6


def test_pictures_are_analysed_only_as_outcomes_are_asked_for(jobs, work):
    outcomes = scan(jobs, work)
    next(outcomes)
    assert written() == ["a.png.json", "a.png.mask.png"]


def test_a_bad_picture_does_not_stop_the_others_and_gets_no_mask(jobs, work, engine):
    Path("b.png").write_bytes(Path("b.png").read_bytes()[:-20])
    one, bad, three = scan(jobs, work, **engine)
    assert isinstance(bad.error, DecodeError)
    assert str(bad.error).startswith("b.png: ")
    assert bad.record == work.failure(bad.job, bad.error)
    assert not one.error
    assert not three.error
    assert not any(name.startswith("b.png") for name in written())


def test_an_error_without_a_name_gets_that_of_the_picture(jobs, work):
    outcomes = list(scan(jobs, failing_on(work, "b.png", NumericalError("it is NaN"))))
    assert str(outcomes[1].error) == "b.png: it is NaN"


def test_a_picture_that_vanished_costs_one_picture(jobs, work):
    Path("b.png").unlink()
    outcomes = list(scan(jobs, work))
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    assert str(outcomes[1].error).startswith("b.png: there is no such file")


def test_an_unforeseen_exception_costs_one_picture_and_is_called_a_bug(jobs, work, engine):
    broken = failing_on(work, "b.png", ZeroDivisionError("by zero,\nof all things"))
    outcomes = list(scan(jobs, broken, **engine))
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    said = str(outcomes[1].error)
    assert said.startswith("b.png: internal error, ZeroDivisionError: by zero, of all things")
    assert "in localize" in outcomes[1].trace


def test_what_fails_while_rendering_leaves_no_half_set_of_outputs(jobs, work, engine):
    bad = digest("b.png")
    real = work.render

    def fails(result, kind):
        if kind is Kind.JSON and result == bad:
            raise ValueError("NaN")
        return real(result, kind)

    work.render = fails
    outcomes = list(scan(jobs, work, **engine))
    assert outcomes[1].trace
    assert not any(name.startswith("b.png") for name in written())


def test_an_output_that_cannot_be_written_stops_the_scan(jobs, work, engine, monkeypatch):
    real = os.fsync
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 4:  # file and folder, for each output of the first picture
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    outcomes = scan(jobs, work, **engine)
    assert next(outcomes).job is jobs[0]
    with pytest.raises(OutputError, match=r"b\.png\.mask\.png.*No space left.*Free some space"):
        list(outcomes)
    assert written() == ["a.png.json", "a.png.mask.png"]
    assert list(outcomes) == []


def test_wrong_weights_stop_the_scan(jobs, work):
    with pytest.raises(WeightsError):
        list(scan(jobs, failing_on(work, "a.png", WeightsError("wrong sha256"))))


def test_an_interrupt_stops_the_scan(jobs, work, engine):
    with pytest.raises(KeyboardInterrupt):
        list(scan(jobs, failing_on(work, "c.png", KeyboardInterrupt()), **engine))
    assert not any(name.startswith("c.png") for name in written())


def test_a_request_to_stop_finishes_what_is_in_hand(jobs, work, engine):
    outcomes = list(scan(jobs, work, stopped=lambda: len(work.seen) >= 2, **engine))
    assert [str(outcome.job.picture) for outcome in outcomes] == ["a.png", "b.png"]
    assert len(written()) == 4


def test_an_output_that_appeared_meanwhile_is_kept_unless_overwriting(jobs, work):
    atomic.write(Path("out/a.png.mask.png"), b"theirs")
    with pytest.raises(OutputError, match="already there"):
        list(scan(jobs, work))
    assert Path("out/a.png.mask.png").read_bytes() == b"theirs"
    for path in Path("out").glob("*.json"):
        path.unlink()
    assert len(list(scan(jobs, work, overwrite=True))) == 3
    assert Path("out/a.png.mask.png").read_bytes() != b"theirs"


def test_overwriting_leaves_no_mask_of_what_the_picture_was_before(jobs, work):
    list(scan(jobs, work))
    Path("b.png").write_bytes(b"not a picture any more")
    list(scan(jobs, work, overwrite=True))
    assert not any(name.startswith("b.png") for name in written())
    assert len(written()) == 4


def test_from_the_standard_input_to_the_standard_output(work):
    job = Job(Picture(None, PurePath("stdin")), {Kind.MASK: None})
    stdout = io.BytesIO()
    (outcome,) = scan([job], work, stdin=io.BytesIO(b"bytes"), stdout=stdout)
    assert outcome.error is None
    assert stdout.getvalue() == b"mask:bytes 5"


def test_a_closed_standard_output_is_an_output_error(work):
    class Closed(io.BytesIO):
        def write(self, _data):
            raise BrokenPipeError(32, "Broken pipe")

    job = Job(Picture(None, PurePath("stdin")), {Kind.MASK: None})
    with pytest.raises(OutputError, match="standard output: cannot be written: Broken pipe"):
        list(scan([job], work, stdin=io.BytesIO(b"x"), stdout=Closed()))


def test_only_a_verdict_writes_nothing(jobs, work):
    bare = [Job(job.picture, {}) for job in jobs]
    assert len(list(scan(bare, work))) == 3
    assert not Path("out").exists()


def test_neither_results_nor_errors_keep_pictures_in_memory(jobs, work, engine):
    alive = []

    def localize(source):
        alive.append(weakref.ref(source.photo.pixels))
        if source.photo.source == "b.png":
            try:
                raise KeyError("inner")
            except KeyError as inner:
                raise DecodeError("it is truncated") from inner
        if source.photo.source == "c.png":
            raise ZeroDivisionError
        return source.photo

    work.localize = localize
    work.render = lambda _photo, _kind: b""
    work.record = lambda _photo: {"verdict": "nothing found"}
    outcomes = list(scan(jobs, work, **engine))
    gc.collect()
    assert len(outcomes) == len(alive) == 3
    assert [pixels() for pixels in alive] == [None, None, None]
