"""Decoders that crash, hang, or answer with something else cost one picture each."""

import errno
import fcntl
import io
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress

import numpy as np
import pytest
import torch
from PIL import Image

from imlctl.atomic import sha256_of
from imlctl.errors import InputError, NumericalError, UsageError, WeightsError
from imlctl.image.decode import read
from imlctl.scan import processes
from imlctl.scan.analysis import Analysis, Options
from imlctl.scan.messages import Decoded, Failed, Request, Unchanged
from imlctl.scan.naming import Kind
from imlctl.scan.pool import Crew, decoded_by, on_card, one_by_one, start_engine
from imlctl.scan.processes import Decoder, decode_file, suitable_jobs
from imlctl.settings import Settings

# A decoder that does what the name of the file says.
UNRULY = """
import os, time, numpy, imlctl.scan.processes as worker
def read(path, max_pixels, honest=worker.read):
    name = os.path.basename(path)
    if "crash" in name: os.abort()
    if "hang" in name: time.sleep(3600)
    if "eat" in name: numpy.ones(1 << 34, numpy.uint8)
    if "bug" in name: raise KeyError("surprise")
    if "lie" in name: os.write(3, b"x" * 4096)
    if "print" in name: print("noise"); os.write(1, b"noise"); os.write(2, b"noise")
    return honest(path, max_pixels=max_pixels)
worker.read = read
worker.serve_decoder"""


def crew(count, timeout=120.0, max_pixels=2**28):
    options = Options(Settings(max_pixels=max_pixels), timeout=timeout)
    return Crew([Decoder(options) for _ in range(count)])


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
    with crew(2) as decoders:
        replies = dict(decoded_by(decoders, requests))
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
    with crew(1) as decoders:
        for name, reply in decoded_by(decoders, requests):
            if name == "small.png":
                assert isinstance(reply, Decoded)
                continue
            with pytest.raises(InputError) as here:
                read(tmp_path / (name if name == "a.png" else "no"))
            assert isinstance(reply, Failed)
            assert type(reply.error) is type(here.value)
            assert str(reply.error) == str(here.value)
            assert (reply.sha256 is None) is (name == "missing")
            assert reply.size == (None if name == "missing" else 8)


def test_a_crash_costs_one_picture(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_DECODER", UNRULY)
    names = ("a.png", "crash.png", "b.png", "eat.png", "bug.png", "lie.png", "c.png", "print.png")
    with crew(1, 30, max_pixels=10_000) as decoders:
        replies = dict(decoded_by(decoders, folder(*names)))
    assert list(replies) == list(names)
    good = [name for name, reply in replies.items() if isinstance(reply, Decoded)]
    assert good == ["a.png", "b.png", "c.png", "print.png"]
    assert "crashed (SIGABRT)" in str(replies["crash.png"].error)
    assert "not enough memory" in str(replies["eat.png"].error)
    assert "KeyError: 'surprise'" in str(replies["bug.png"].error)
    assert "surprise" in replies["bug.png"].trace
    assert "crashed" in str(replies["lie.png"].error)
    for name in ("crash.png", "eat.png", "bug.png", "lie.png"):
        assert replies[name].sha256 == sha256_of(tmp_path / name), name


def test_a_scan_whose_every_file_crashes_or_hangs_comes_to_its_end(folder, monkeypatch):
    monkeypatch.setattr(processes, "_DECODER", UNRULY)
    names = [f"{kind}{n}.png" for n in range(3) for kind in ("crash", "hang")]
    with crew(2, 1.0) as decoders:
        replies = dict(decoded_by(decoders, folder(*names)))
    assert list(replies) == names
    for name, reply in replies.items():
        assert isinstance(reply, Failed)
        assert ("crashed" if "crash" in name else "took longer than 1 s") in str(reply.error)
        assert reply.sha256


def test_a_hang_costs_one_picture_and_its_time(folder, monkeypatch):
    monkeypatch.setattr(processes, "_DECODER", UNRULY)
    with crew(1, 0.5) as decoders:  # the hang itself would last an hour
        replies = dict(decoded_by(decoders, folder("a.png", "hang.png", "b.png")))
    assert isinstance(replies["a.png"], Decoded)
    assert "took longer than 0.5 s" in str(replies["hang.png"].error)
    assert "--timeout" in replies["hang.png"].error.remedy
    assert isinstance(replies["b.png"], Decoded)


def test_leaving_does_not_wait_for_a_hang(folder, monkeypatch):
    monkeypatch.setattr(processes, "_DECODER", UNRULY)
    with crew(1) as decoders:  # or this test would not end
        replies = decoded_by(decoders, folder("a.png", "hang.png", "b.png", "c.png"))
        assert isinstance(next(replies)[1], Decoded)


def test_leaving_does_not_wait_for_a_process_that_is_being_started_anew(folder, monkeypatch):
    ((_, request),) = folder("a.png")
    decoder = Decoder(Options(Settings()))
    decoder(request)
    died, started, ending = decoder._process, threading.Event(), threading.Event()
    died.kill()
    died.wait()
    real = subprocess.Popen

    def start(command, **how):
        died.kill = ending.set  # whoever leaves knows only this one
        started.set()
        ending.wait(60)
        return real([sys.executable, "-c", "import time; time.sleep(3600)"], **how)

    monkeypatch.setattr(subprocess, "Popen", start)

    def ask():
        with suppress(UsageError):  # which says that it does not start
            decoder(request)

    asking = threading.Thread(target=ask)
    asking.start()
    started.wait()
    leaving = threading.Thread(target=decoder.close, daemon=True)
    leaving.start()
    leaving.join(20)  # a process may take 60 s to say that it is there
    assert not leaving.is_alive()
    asking.join()


def test_pipes_stay_as_they_are_where_the_user_may_not_widen_them(folder, monkeypatch):
    """As for an ordinary user with more than 32 processes."""

    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    with crew(1) as decoders:
        ((_, reply),) = decoded_by(decoders, folder("a.png"))
    assert isinstance(reply, Decoded)


def test_nothing_of_a_decoder_reaches_the_terminal(folder, monkeypatch, capfd):
    monkeypatch.setattr(processes, "_DECODER", UNRULY)
    with crew(1) as decoders:
        ((_, reply),) = decoded_by(decoders, folder("print.png"))
    assert isinstance(reply, Decoded)
    assert capfd.readouterr() == ("", "")


def test_a_decoder_that_cannot_start_is_said_and_not_blamed_on_the_picture(folder, monkeypatch):
    monkeypatch.setattr(processes, "_DECODER", "import nonsense; int")
    with crew(1) as decoders, pytest.raises(UsageError, match="--jobs 0"):
        list(decoded_by(decoders, folder("a.png")))


def test_modules_in_the_current_folder_are_not_imported(folder, monkeypatch, tmp_path):
    (tmp_path / "numpy.py").write_text("raise SystemExit('planted')")
    monkeypatch.chdir(tmp_path)
    with crew(1) as decoders:
        ((_, reply),) = decoded_by(decoders, folder("a.png"))
    assert isinstance(reply, Decoded)


def test_only_a_few_pictures_are_decoded_ahead(folder):
    taken = []

    def requests():
        for request in folder(*(f"{n}.png" for n in range(12))):
            taken.append(request)
            yield request

    with crew(2) as decoders:
        for count, _ in enumerate(decoded_by(decoders, requests()), 1):
            assert len(taken) <= count + 2
    assert len(taken) == 12


def test_processes_end_with_the_scan_however_it_ends(child_environment):
    script = (
        "import os\nfrom imlctl.scan.analysis import Options\n"
        "from imlctl.scan.processes import Decoder\nfrom imlctl.settings import Settings\n"
        "decoders = [Decoder(Options(Settings())) for _ in range(2)]\n"
        "print(*(each._process.pid for each in decoders), flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=child_environment
    )
    assert child.returncode == -9
    pids = [int(pid) for pid in child.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 120
    while any(map(_lives, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(_lives, pids))


def _lives(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_as_many_models_as_cores_and_memory_allow(monkeypatch):
    monkeypatch.setattr(processes, "cores", lambda: 8)
    monkeypatch.setattr(processes, "free_memory", lambda: 2**40)
    assert [suitable_jobs(pictures) for pictures in (1, 3, 100)] == [1, 3, 8]
    monkeypatch.setattr(processes, "free_memory", lambda: 3 * 2**30)
    assert suitable_jobs(100) == 3
    monkeypatch.setattr(processes, "free_memory", lambda: 0)
    assert suitable_jobs(100) == 1
    monkeypatch.setattr(processes, "free_memory", lambda: None)
    assert suitable_jobs(100) == 8
    monkeypatch.undo()
    assert 1 <= processes.cores() <= os.cpu_count()


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
def test_a_timeout_must_be_positive_and_finite(timeout):
    with pytest.raises(UsageError, match="--timeout"):
        Options(Settings(), timeout=timeout)


def test_what_is_done_is_not_decoded_again(folder, tmp_path):
    ((_, request),) = folder("a.png")
    (tmp_path / "mask").write_bytes(b"mask")
    files = {str(p): sha256_of(p) for p in (tmp_path / "a.png", tmp_path / "mask")}
    known = Request(request.path, request.max_pixels, files)
    assert decode_file(known) == Unchanged()
    with crew(1) as decoders:
        assert list(decoded_by(decoders, [(1, known)])) == [(1, Unchanged())]
    (tmp_path / "mask").write_bytes(b"other")
    assert isinstance(decode_file(known), Decoded)


# A model that does what the name of the picture says.
UNRULY_MODEL = """
import os, signal, sys, imlctl.scan.analysis as analysis
from imlctl.errors import WeightsError
from imlctl.scan.messages import Finished
class Fake:
    provenance = {"model": "fake"}
    def __init__(self, options):
        if options.settings.model == "absent": raise WeightsError("there is no such model")
        if options.settings.model == "dead": os.abort()
    def __call__(self, decoded):
        name = os.path.basename(decoded.photo.source)
        if "crash" in name: os.abort()
        if "kill" in name: os.kill(os.getpid(), signal.SIGKILL)
        if "weights" in name: raise WeightsError("they are wrong")
        if "print" in name: print("noise"); os.write(1, b"noise")
        return Finished({}, {"name": name, "pid": os.getpid(), "torch": "torch" in sys.modules})
analysis.Analysis = Fake
from imlctl.scan.processes import serve_model; serve_model"""


@pytest.fixture
def models(monkeypatch):
    """Starts an engine of as many processes, whose models are unruly."""
    monkeypatch.setattr(processes, "_MODEL", UNRULY_MODEL)
    with ExitStack() as stack:

        def start(jobs, model=""):
            options = Options(Settings(model=model, device="cpu"), threads=1)
            return start_engine(options, 9, stack, jobs=jobs)

        yield start


def never():
    return False


def test_pictures_come_in_order_from_all_processes(models, folder):
    names = [f"{n}.png" for n in range(9)]
    engine = models(3)
    assert engine.provenance == {"model": "fake"}
    answers = list(engine.run(folder(*names), never))
    assert [name for name, _ in answers] == names
    assert [answer.record["name"] for _, answer in answers] == names
    assert len({answer.record["pid"] for _, answer in answers}) > 1


def test_a_process_that_dies_costs_the_picture_in_hand(models, folder, tmp_path):
    names = ("a.png", "crash.png", "b.png", "kill.png", "bad.png", "print.png", "c.png")
    requests = folder(*names)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    answers = dict(models(1).run(requests, never))
    assert list(answers) == list(names)
    failed = [name for name, answer in answers.items() if isinstance(answer, Failed)]
    assert failed == ["crash.png", "kill.png", "bad.png"]
    assert "crashed (SIGABRT)" in str(answers["crash.png"].error)
    assert "probably memory ran out" in str(answers["kill.png"].error)
    assert "--jobs 1" in answers["kill.png"].error.remedy
    for name in failed:
        assert answers[name].sha256 == sha256_of(tmp_path / name)


def test_an_error_about_everything_is_raised_here(models, folder):
    with pytest.raises(WeightsError, match="they are wrong"):
        list(models(2).run(folder("a.png", "weights.png", "b.png"), never))
    with pytest.raises(WeightsError, match="no such model"):
        models(2, "absent")
    with pytest.raises(UsageError, match=r"does not start \(SIGABRT\).*--jobs 0"):
        models(2, "dead")


def test_a_process_that_died_with_nothing_in_hand_is_replaced(models, folder):
    engine = models(1)
    (first,) = engine.run(folder("a.png"), never)
    os.kill(first[1].record["pid"], 9)
    while _lives(first[1].record["pid"]):
        time.sleep(0.02)
    (second,) = engine.run(folder("b.png"), never)
    assert second[1].record["name"] == "b.png"


def test_told_to_stop_what_is_in_hand_is_finished(models, folder):
    seen = []
    answers = models(1).run(folder(*(f"{n}.png" for n in range(9))), lambda: len(seen) > 1)
    seen.extend(iter(lambda: next(answers, None), None))
    assert 2 <= len(seen) < 9
    assert [name for name, _ in seen] == [f"{n}.png" for n in range(len(seen))]


def test_told_to_stop_no_more_pictures_are_asked_for(models, folder, analysis):
    asked = []

    def requests():
        for request in folder(*(f"{n}.png" for n in range(40))):
            asked.append(request)
            yield request

    for engine, most in ((one_by_one(decode_file, analysis), 1), (models(1), 9)):
        asked.clear()
        seen = []
        seen.extend(engine.run(requests(), lambda seen=seen: len(seen) > 0))
        assert 1 <= len(seen) <= len(asked) <= most


def test_masks_do_not_depend_on_the_number_of_processes(folder, tmp_path, makers):
    """One thread has one rounding; the library's own result with one thread is the same."""
    names = [f"{n}.png" for n in range(3)]
    requests = folder(*names)
    for seed, name in enumerate(names):
        (tmp_path / name).write_bytes(makers.encode(makers.texture(80, 90, seed=seed), "PNG"))
    options = Options(Settings(device="cpu"), (Kind.MASK,), soft=True, threads=1)
    found = []
    for jobs in (1, 2):
        with ExitStack() as stack:
            engine = start_engine(options, 3, stack, jobs=jobs)
            found.append([answer.outputs for _, answer in engine.run(requests, never)])
            assert engine.provenance["settings"]["threads"] == 1
    before = torch.get_num_threads()
    try:
        engine = one_by_one(decode_file, Analysis(options))
        found.append([answer.outputs for _, answer in engine.run(requests, never)])
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("option", ["--steps", "--ensemble"])
def test_options_of_sampling_are_refused_for_a_model_that_does_not_sample(option):
    options = Options(Settings(device="cpu"), sampled=(option,))
    with pytest.raises(UsageError, match=f"{option}: the model efficientiml draws no samples"):
        Analysis(options)


@pytest.fixture(params=["efficientiml", "diffiml"])
def card(request):
    """Analysis on what stands for a graphics card, and the decoders in front of it."""
    options = Options(Settings(model=request.param, device="cpu"), (Kind.MASK,), soft=True)
    analysis = Analysis(options)
    with crew(1) as decoders:
        yield analysis, on_card(decoders, analysis)


def test_pictures_of_one_size_go_to_a_card_together(card, folder, tmp_path, makers, monkeypatch):
    analysis, engine = card
    sizes = [(80, 90), (64, 64), (80, 90), (80, 90), (64, 64), (70, 71)]
    names = [f"{n}.png" for n in range(len(sizes))]
    requests = folder(*names, "bad.png")
    for seed, (name, size) in enumerate(zip(names, sizes, strict=True)):
        (tmp_path / name).write_bytes(makers.encode(makers.texture(*size, seed=seed), "PNG"))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    real, together = analysis.localizer.localize_together, []
    monkeypatch.setattr(
        analysis.localizer, "localize_together", lambda p: together.append(len(p)) or real(p)
    )
    answers = dict(engine.run(requests, never))
    assert list(answers) == [*names, "bad.png"]
    assert isinstance(answers["bad.png"], Failed)
    assert together == [3, 2]  # the one of another size goes alone
    for name in names:
        alone = analysis.localizer.localize(tmp_path / name)
        found = np.asarray(Image.open(io.BytesIO(answers[name].outputs[Kind.MASK])), float) / 65535
        np.testing.assert_allclose(found, alone.probability, atol=1e-3)
        assert abs(answers[name].record["score"] - alone.score) < 1e-3


def test_a_picture_that_fails_in_a_batch_fails_alone(card, folder, monkeypatch):
    analysis, engine = card
    real = analysis.localizer._decide

    def decide(probability, score):
        if failing and not failing.pop():
            raise NumericalError("it is NaN")
        return real(probability, score)

    failing = [True, False, True, False]  # read from the end: in the batch, then when alone
    monkeypatch.setattr(analysis.localizer, "_decide", decide)
    answers = dict(engine.run(folder("a.png", "b.png", "c.png"), never))
    assert [isinstance(answer, Failed) for answer in answers.values()] == [False, True, False]
    assert str(answers["b.png"].error).endswith("b.png: it is NaN")


def test_one_thread_and_two_give_the_same_mask(makers):
    """And maps that differ by rounding alone, which is why the record says how many there were."""
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            localizer = Analysis(Options(Settings(device="cpu"), threads=threads)).localizer
            found.append(localizer.localize(makers.encode(makers.texture(300, 280), "PNG")))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(found[0].probability, found[1].probability, atol=1e-5)
    np.testing.assert_array_equal(found[0].decision.mask, found[1].decision.mask)
    assert [result.provenance["settings"]["threads"] for result in found] == [1, 2]
