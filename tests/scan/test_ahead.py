"""Decoders that crash, hang, or answer with something else cost one picture each."""

import io
import os
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest

from imlctl.errors import DecodeError, InputError, UsageError
from imlctl.image.decode import read
from imlctl.scan import ahead
from imlctl.scan.ahead import DecodeAhead, Decoder, Limits, suitable_workers
from imlctl.scan.failures import Failed
from imlctl.scan.worker import Decoded, Request, Same, answer, receive, send

# A decoder that does what the name of the file says.
UNRULY = """
import os, time, numpy, imlctl.scan.worker as worker
def read(path, max_pixels, honest=worker.read):
    name = os.path.basename(path)
    if "crash" in name: os.abort()
    if "hang" in name: time.sleep(600)
    if "eat" in name: numpy.ones(1 << 34, numpy.uint8)
    if "bug" in name: raise KeyError("surprise")
    if "lie" in name: os.write(3, b"x" * 4096)
    if "print" in name: print("noise"); os.write(1, b"noise"); os.write(2, b"noise")
    return honest(path, max_pixels=max_pixels)
worker.read = read
worker.serve"""


@pytest.fixture
def folder(tmp_path, picture):
    def grow(*names):
        for seed, name in enumerate(names):
            (tmp_path / name).write_bytes(picture(seed))
        return [(name, Request(str(tmp_path / name), 10_000)) for name in names]

    return grow


def test_every_format_arrives_as_it_is_decoded_here(tmp_path, makers):
    samples = makers.samples()
    requests = []
    for name, data in samples.items():
        (tmp_path / name).write_bytes(data)
        requests.append((name, Request(str(tmp_path / name), 10_000_000)))
    with DecodeAhead(2) as decoders:
        replies = dict(decoders.run(requests))
    assert list(replies) == list(samples)
    for name, reply in replies.items():
        assert isinstance(reply, Decoded), (name, reply)
        here = read(tmp_path / name)
        assert reply.photo.facts == here.facts
        assert (reply.photo.sha256, reply.photo.source) == (here.sha256, here.source)
        assert reply.photo.pixels.dtype == here.pixels.dtype
        assert not reply.photo.pixels.flags.writeable
        np.testing.assert_array_equal(reply.photo.pixels, here.pixels)


def test_refusals_arrive_as_they_are_raised_here(tmp_path, folder):
    requests = [*folder("a.png", "small.png"), ("missing", Request(str(tmp_path / "no"), 10))]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with DecodeAhead(1) as decoders:
        for name, reply in decoders.run(requests):
            if name == "small.png":
                assert isinstance(reply, Decoded)
                continue
            with pytest.raises(InputError) as here:
                read(tmp_path / (name if name == "a.png" else "no"))
            assert isinstance(reply, Failed)
            assert type(reply.error) is type(here.value)
            assert str(reply.error) == str(here.value)


def test_a_crash_costs_one_picture(folder, monkeypatch):
    monkeypatch.setattr(ahead, "_PROGRAM", UNRULY)
    names = ("a.png", "crash.png", "b.png", "eat.png", "bug.png", "lie.png", "c.png", "print.png")
    with DecodeAhead(1, Limits(30, max_pixels=10_000)) as decoders:
        replies = dict(decoders.run(folder(*names)))
    assert list(replies) == list(names)
    good = [name for name, reply in replies.items() if isinstance(reply, Decoded)]
    assert good == ["a.png", "b.png", "c.png", "print.png"]
    assert "crashed (status -6)" in str(replies["crash.png"].error)
    assert "not enough memory" in str(replies["eat.png"].error)
    assert "KeyError: 'surprise'" in str(replies["bug.png"].error)
    assert "surprise" in replies["bug.png"].trace
    assert "crashed" in str(replies["lie.png"].error)


def test_a_hang_costs_one_picture_and_its_time(folder, monkeypatch):
    monkeypatch.setattr(ahead, "_PROGRAM", UNRULY)
    began = time.monotonic()
    with DecodeAhead(1, Limits(0.5)) as decoders:
        replies = dict(decoders.run(folder("a.png", "hang.png", "b.png")))
    assert time.monotonic() - began < 60
    assert isinstance(replies["a.png"], Decoded)
    assert "took longer than 0.5 seconds" in str(replies["hang.png"].error)
    assert "--timeout" in replies["hang.png"].error.remedy
    assert isinstance(replies["b.png"], Decoded)


def test_leaving_does_not_wait_for_a_hang(folder, monkeypatch):
    monkeypatch.setattr(ahead, "_PROGRAM", UNRULY)
    began = time.monotonic()
    with DecodeAhead(1) as decoders:
        replies = decoders.run(folder("a.png", "hang.png", "b.png", "c.png"))
        assert isinstance(next(replies)[1], Decoded)
    assert time.monotonic() - began < 60


def test_nothing_of_a_decoder_reaches_the_terminal(folder, monkeypatch, capfd):
    monkeypatch.setattr(ahead, "_PROGRAM", UNRULY)
    with DecodeAhead(1) as decoders:
        ((_, reply),) = decoders.run(folder("print.png"))
    assert isinstance(reply, Decoded)
    assert capfd.readouterr() == ("", "")


def test_a_decoder_that_cannot_start_is_said_and_not_blamed_on_the_picture(folder, monkeypatch):
    monkeypatch.setattr(ahead, "_PROGRAM", "import nonsense; int")
    with DecodeAhead(1) as decoders, pytest.raises(UsageError, match="--workers 0"):
        list(decoders.run(folder("a.png")))


def test_modules_in_the_current_folder_are_not_imported(folder, monkeypatch, tmp_path):
    (tmp_path / "numpy.py").write_text("raise SystemExit('planted')")
    monkeypatch.chdir(tmp_path)
    with DecodeAhead(1) as decoders:
        ((_, reply),) = decoders.run(folder("a.png"))
    assert isinstance(reply, Decoded)


def test_only_a_few_pictures_are_decoded_ahead(folder):
    taken = []

    def requests():
        for request in folder(*(f"{n}.png" for n in range(12))):
            taken.append(request)
            yield request

    with DecodeAhead(2) as decoders:
        for count, _ in enumerate(decoders.run(requests()), 1):
            assert len(taken) <= count + 2
    assert len(taken) == 12


def test_what_has_no_file_is_passed_on_in_its_place(folder):
    (first, second) = folder("a.png", "b.png")
    with DecodeAhead(1) as decoders:
        order = [(tag, type(reply)) for tag, reply in decoders.run([first, ("-", None), second])]
    assert order == [("a.png", Decoded), ("-", type(None)), ("b.png", Decoded)]


def test_processes_end_with_the_scan_however_it_ends(child_environment):
    script = (
        "import os, sys\nfrom imlctl.scan.ahead import DecodeAhead\n"
        "ahead = DecodeAhead(2)\n"
        "print(*(d._process.pid for d in ahead._decoders), flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=child_environment
    )
    assert child.returncode == -9
    pids = [int(pid) for pid in child.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 20
    while any(map(_lives, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(_lives, pids))


def _lives(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_one_picture_needs_no_process():
    assert suitable_workers(0) == suitable_workers(1) == 0
    assert 1 <= suitable_workers(2) <= 2
    assert suitable_workers(10**6) <= 8


def test_limits_must_be_positive():
    for bad in ((0, 1), (1, 0)):
        with pytest.raises(UsageError):
            Limits(*bad)


def test_what_is_done_is_not_decoded_again(folder, tmp_path):
    from imlctl.scan.hashing import sha256_of

    ((_, request),) = folder("a.png")
    (tmp_path / "mask").write_bytes(b"mask")
    files = {str(p): sha256_of(p) for p in (tmp_path / "a.png", tmp_path / "mask")}
    known = Request(request.path, request.max_pixels, files)
    assert answer(known) == Same()
    with DecodeAhead(1) as decoders:
        assert list(decoders.run([(1, known)])) == [(1, Same())]
    (tmp_path / "mask").write_bytes(b"other")
    assert isinstance(answer(known), Decoded)


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


class SubtlyEvil:
    def __reduce__(self):
        return Decoder, (Limits(),)


@pytest.mark.parametrize("message", [Evil(), SubtlyEvil()])
def test_a_message_can_call_nothing(message):
    body = pickle.dumps(message)
    stream = io.BytesIO(len(body).to_bytes(8, "little") + body)
    with pytest.raises(pickle.UnpicklingError, match="no place"):
        receive(stream)


def test_a_message_cut_short_is_no_message():
    stream = io.BytesIO()
    send(stream, Failed(DecodeError("x")))
    whole = stream.getvalue()
    assert str(receive(io.BytesIO(whole)).error) == "x"
    for length in range(len(whole)):
        with pytest.raises(EOFError):
            receive(io.BytesIO(whole[:length]))
