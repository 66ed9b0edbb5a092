import gc
import io
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imlctl.errors import NumericalError, WeightsError
from imlctl.scan.ahead import DecodeAhead
from imlctl.scan.analyse import analyse
from imlctl.scan.failures import Failed
from imlctl.scan.run import Finished, scan
from imlctl.scan.worker import Request, Same, answer

WINDOW = 4


class Asked:
    """Pictures, and how many of them were asked for so far."""

    def __init__(self, *sources):
        self.sources = sources
        self.count = 0

    def __iter__(self):
        for number, source in enumerate(self.sources):
            self.count += 1
            yield number, f"{number}.png", source


@pytest.fixture
def decoded(tmp_path, picture):
    """Decodes a picture of 8 rows and so many columns; each is another one."""
    made = []

    def call(width):
        made.append(tmp_path / f"{len(made)}.png")
        made[-1].write_bytes(picture(len(made), (8, width)))
        return answer(Request(str(made[-1]), 10_000))

    return call


@pytest.fixture
def batching(work):
    """A stand-in for the model that takes two pictures at once, unless they are 9 wide."""
    real = work.like
    work.batch = 2
    work.like = lambda source: None if source.photo.pixels.shape[1] == 9 else real(source)
    return work


def run(work, asked):
    return list(analyse(work, asked, work.batch))


def test_pictures_of_like_size_go_together_and_results_keep_their_order(batching, decoded):
    sources = [decoded(width) for width in (3, 4, 3, 4, 3)]
    results = run(batching, Asked(*sources))
    assert results == [(n, source.photo.sha256) for n, source in enumerate(sources)]
    assert batching.batches == [["0.png", "2.png"], ["1.png", "3.png"]]  # the last one goes alone


def test_with_batches_of_one_nothing_waits(work, decoded):
    asked = Asked(*(decoded(3) for _ in range(3)))
    answers = analyse(work, asked, work.batch)
    for number in range(3):
        assert next(answers)[0] == number
        assert asked.count == number + 1
    assert work.batches == []


def test_no_picture_waits_for_ever(batching, decoded):
    """One of its own size waits for a few others, however many there are."""
    asked = Asked(decoded(5), *(decoded(3) for _ in range(30)))
    answers = analyse(batching, asked, 2)
    assert next(answers)[0] == 0
    assert asked.count == WINDOW * 2
    assert [number for number, _ in answers] == list(range(1, 31))


def test_one_that_goes_alone_may_be_large_and_waits_for_nobody(batching, decoded):
    asked = Asked(decoded(3), decoded(4), decoded(9), decoded(3))
    answers = analyse(batching, asked, 2)
    assert [next(answers)[0] for _ in range(3)] == [0, 1, 2]
    assert asked.count == 3
    assert batching.batches == []


def test_what_needs_no_model_is_passed_on_in_its_turn(batching, decoded):
    done = (Same(), Failed(NumericalError("it is NaN")), Finished({}, {}))
    results = run(batching, Asked(decoded(3), *done, decoded(3), lambda: b"bytes"))
    assert [result for _, result in results[1:4]] == list(done)
    assert batching.batches == [["0.png", "1.png"]]
    assert results[5] == (5, "bytes 5")


def test_a_bad_picture_in_a_batch_harms_no_other(batching, decoded):
    sources = [decoded(3) for _ in range(4)]
    real = batching.localize

    def localize(source):
        if source is sources[1]:
            raise NumericalError("it is NaN")
        return real(source)

    batching.localize = localize
    results = [result for _, result in run(batching, Asked(*sources))]
    assert isinstance(results[1], Failed)
    assert str(results[1].error) == "1.png: it is NaN"
    assert [results[n] for n in (0, 2, 3)] == [sources[n].photo.sha256 for n in (0, 2, 3)]


def test_what_concerns_all_pictures_stops_the_scan(batching, decoded):
    def localize(_source):
        raise WeightsError("wrong sha256")

    batching.localize = localize
    with pytest.raises(WeightsError):
        run(batching, Asked(decoded(3), decoded(3)))


def test_pixels_go_when_they_were_analysed(batching, decoded):
    alive = []

    def sources():
        for number in range(6):
            source = decoded(3 + number % 2)
            alive.append(weakref.ref(source.photo.pixels))
            yield number, "", source
            del source

    for number, result in analyse(batching, sources(), 2):
        del result
        gc.collect()
        done = alive[: min(number + 1, len(alive) - 1)]  # who made the last one still holds it
        assert not any(pixels() is not None for pixels in done)
    assert len(alive) == 6


@pytest.mark.parametrize("workers", [0, 2])
def test_a_scan_in_batches_writes_the_same_in_the_same_order(
    tmp_path, monkeypatch, planned, fake_work, workers
):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for number in range(11):
        shape = (6, 5 + number % 3, 3)
        pixels = np.full(shape, number, np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        Path(f"in/{number:02}.png").write_bytes(stream.getvalue())
    Path("in/05.png").write_bytes(b"no picture")

    def written(out, batch):
        work = fake_work()
        work.batch = batch
        jobs = planned("in", out=out)
        if not workers:
            outcomes = list(scan(jobs, work))
        else:
            with DecodeAhead(workers, batch=batch) as ahead:
                outcomes = list(scan(jobs, work, ahead=ahead))
        assert [outcome.job for outcome in outcomes] == list(jobs)
        files = {p.name: p.read_bytes() for p in Path(out).rglob("*") if p.is_file()}
        return files, [outcome.record for outcome in outcomes], work.batches

    files, records, _ = written("one", 1)
    again, records_again, batches = written("four", 4)
    assert len(files) == 20
    assert again == files
    assert records_again == records
    assert max(map(len, batches)) > 2


def test_a_request_to_stop_finishes_those_that_wait(batching, decoded, jobs):
    said = iter([False, False, True])
    outcomes = list(scan(jobs, batching, stopped=lambda: next(said)))
    assert [str(outcome.job.picture) for outcome in outcomes] == ["a.png", "b.png"]
