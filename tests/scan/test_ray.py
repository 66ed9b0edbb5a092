"""What `--ray` is made of, each part by itself and without a cluster; that is in tests/cli."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import sys
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from imlctl.errors import ConfigError, DecodeError, InputError, UsageError, WeightsError
from imlctl.scan import ray_pool
from imlctl.scan.analysis import Analysis, Options, key_of
from imlctl.scan.custody import sha256_of
from imlctl.scan.messages import Failed, Finished, Request, Unchanged
from imlctl.scan.naming import Kind
from imlctl.scan.processes import Limits, decode_file
from imlctl.scan.ray_pool import (
    Assignment,
    RayPool,
    Share,
    Worker,
    capacity,
    gist,
    joined,
    received,
    share_for,
)
from imlctl.settings import Settings

OPTIONS = Options(Settings(device="cpu"), (Kind.MASK, Kind.JSON), threads=1)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Workers go to the folder they are told, which here is that of this process."""
    monkeypatch.chdir(tmp_path)


class ActorDiedError(Exception):
    """Stands for Ray's."""


@pytest.fixture(autouse=True)
def ray(monkeypatch):
    """Stands for the library, which these tests do without: actors live here, and answer at once.

    An actor dies with the picture in hand if its name says so.
    """
    stub = SimpleNamespace(is_initialized=lambda: False, started=0, options=[])
    stub.exceptions = SimpleNamespace(RayActorError=ActorDiedError)

    class Actor:
        def __init__(self, assignment):
            stub.started += 1
            self.real = Worker(assignment)
            self.dead = False
            self.analyse = SimpleNamespace(remote=self.call)

        def call(self, request):
            self.dead = self.dead or "fatal" in pickle.loads(request).path  # noqa: S301
            return (self, request)

    def get(reference):
        if not isinstance(reference[0], Actor):  # of a task, which is done at once
            return reference
        actor, request = reference
        if actor.dead:
            raise ActorDiedError
        return actor.real.analyse(request)

    def remote(_class):
        def options(**wanted):
            stub.options.append(wanted)
            return SimpleNamespace(remote=Actor)

        return SimpleNamespace(options=options)

    stub.get, stub.remote = get, remote
    stub.wait = lambda pending, **_: (pending[:1], pending[1:])
    monkeypatch.setitem(sys.modules, "ray", stub)
    return stub


@pytest.fixture
def provenance(one_thread):
    return Analysis(OPTIONS).provenance


@pytest.fixture
def assignment(provenance, tmp_path):
    return Assignment(OPTIONS, key_of(provenance, OPTIONS), Limits(), 0, str(tmp_path))


def ask(worker, path, done=None):
    answer, _, _ = pickle.loads(worker.analyse(pickle.dumps(Request(path, 2**20, done or {}))))  # noqa: S301
    return answer


def test_a_worker_does_all_but_the_writing(assignment, picture, tmp_path):
    Path("a.png").write_bytes(picture(1, (70, 66)))
    Path("bad.png").write_bytes(picture(2)[:-20])
    worker = Worker(assignment)
    found = ask(worker, "a.png")
    here = Analysis(OPTIONS)(decode_file(Request("a.png", 2**20)))
    assert isinstance(found, Finished)
    assert found.outputs[Kind.MASK] == here.outputs[Kind.MASK]
    assert set(found.outputs) == {Kind.MASK, Kind.JSON}
    untimed = [{**r, "seconds": 0, "timings": {}} for r in (found.record, here.record)]
    assert untimed[0] == untimed[1]
    bad = ask(worker, "bad.png")
    assert isinstance(bad.error, DecodeError)
    assert bad.sha256 == sha256_of("bad.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "bad.png"]


def test_a_worker_skips_what_is_proven_done(assignment, picture):
    Path("a.png").write_bytes(picture(1))
    assert ask(Worker(assignment), "a.png", {"a.png": sha256_of("a.png")}) == Unchanged()


def test_names_need_not_be_text(assignment, picture):
    name = os.fsdecode(b"\xff\xfe.png")
    try:
        Path(name).write_bytes(picture(1, (70, 66)))
    except OSError:
        pytest.skip("this file system takes only names in UTF-8")
    assert ask(Worker(assignment), name).record["path_bytes"] == "fffe2e706e67"


def test_a_worker_with_other_weights_or_settings_refuses(assignment):
    settings = {**json.loads(assignment.key.settings), "device": "cuda (Other)"}
    for changed, said in (
        ({"settings": json.dumps(settings)}, "device is 'cpu', not 'cuda (Other)'"),
        ({"weights": "0" * 64}, f"not '{'0' * 64}'"),
    ):
        key = dataclasses.replace(assignment.key, **changed)
        error = ask(Worker(dataclasses.replace(assignment, key=key)), "a")
        assert isinstance(error, ConfigError)
        assert said in str(error)


def test_a_worker_without_the_weights_lives_and_says_so(assignment):
    missing = dataclasses.replace(OPTIONS.settings, weights=Path("gone.safetensors"))
    options = dataclasses.replace(OPTIONS, settings=missing)
    error = ask(Worker(dataclasses.replace(assignment, options=options)), "a")
    assert isinstance(error, WeightsError)
    with pytest.raises(WeightsError, match=r"gone\.safetensors \(on node7\)"):
        received(error, "node7", True)


def test_one_is_decoded_while_another_is_analysed(assignment, picture, monkeypatch):
    """A worker is called from two threads, and holds one model."""
    worker = Worker(dataclasses.replace(assignment, decoders=1))
    Path("a.png").write_bytes(picture(1, (70, 66)))
    found = []
    threads = [threading.Thread(target=lambda: found.append(ask(worker, "a.png"))) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [type(answer) for answer in found] == [Finished, Finished]
    worker.decoders.workers[0].stop()


@pytest.fixture
def pooled(monkeypatch, provenance):
    """Runs pictures through a cluster with room for two workers."""
    machines(monkeypatch, {"CPU": 2.0})

    def call(*names, stopped=lambda: False):
        pool = RayPool(OPTIONS, provenance, Share("cpu", "cpu"), Limits(), decoders=0)
        return pool.run(((name, Request(name, 2**20)) for name in names), stopped)

    return call


def test_every_picture_is_answered_once(pooled, picture, ray):
    names = [f"{n}.png" for n in range(7)]
    for seed, name in enumerate(names):
        Path(name).write_bytes(picture(seed, (66, 70)))
    assert sorted(name for name, _ in pooled(*names)) == names
    assert ray.started == 2
    assert ray.options[0] == {"num_cpus": 1, "num_gpus": 0, "max_concurrency": 2}


def test_a_picture_that_kills_its_workers_is_found_out(pooled, picture, ray):
    names = ["a.png", "fatal.png", "b.png", "c.png"]
    for name in names:
        Path(name).write_bytes(picture(1, (70, 66)))
    found = dict(pooled(*names))
    assert sorted(found) == sorted(names)
    assert [name for name, answer in found.items() if isinstance(answer, Failed)] == ["fatal.png"]
    assert "3 workers died" in str(found["fatal.png"].error)
    assert found["fatal.png"].sha256 == sha256_of("fatal.png")
    assert ray.started >= 4


def test_a_stop_lets_workers_finish_what_they_have(pooled, picture):
    names = [f"{n}.png" for n in range(9)]
    for name in names:
        Path(name).write_bytes(picture(1, (70, 66)))
    seen = []
    answers = pooled(*names, stopped=lambda: bool(seen))
    seen.extend(iter(lambda: next(answers, None), None))
    assert 1 <= len(seen) <= 4


def test_an_error_about_everything_ends_it(provenance, picture, monkeypatch):
    machines(monkeypatch, {"CPU": 2.0})
    Path("a.png").write_bytes(picture(1))
    other = {**provenance, "weights_sha256": "0" * 64}
    pool = RayPool(OPTIONS, other, Share("cpu", "cpu"), Limits(), decoders=0)
    with pytest.raises(ConfigError, match="this worker would give other results"):
        list(pool.run([("a.png", Request("a.png", 2**20))], lambda: False))
    assert list(pool.run([], lambda: False)) == []


def test_where_nobody_can_read_a_file_it_failed_as_anywhere(tmp_path):
    failed = Failed(InputError("there is no such file", source=str(tmp_path / "gone.png")))
    assert received(failed, "node7", False) is failed


def test_a_file_that_a_worker_cannot_read_names_the_machine(assignment, picture, tmp_path):
    (tmp_path / "a.png").write_bytes(picture(1))
    asked = pickle.dumps(Request("no/such/a.png", 2**20))
    answer, _, has_folder = pickle.loads(Worker(assignment).analyse(asked))  # noqa: S301
    assert isinstance(answer, Failed)
    assert not has_folder
    # The same answer for a file that is here: the folder is not shared, and all would fail.
    here = Failed(InputError("there is no such file", source=str(tmp_path / "a.png")))
    with pytest.raises(UsageError, match=r"node7.*no such folder.*same path on all machines"):
        received(here, "node7", False)
    one = received(here, "node7", True)
    assert isinstance(one, Failed)
    assert "node7 of the cluster cannot read it, though this one can" in str(one.error)


def test_what_a_worker_read_and_could_not_analyse_keeps_its_reason(picture, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(picture(1))
    failed = Failed(InputError("there is not enough memory", source=str(path)), sha256="ab" * 32)
    assert received(failed, "node7", True) is failed


def test_a_cluster_elsewhere_is_refused_with_a_remedy(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(UsageError, match=r"ray://head.*ray job submit"), joined():
        raise AssertionError


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r'pip install "imlctl\[ray\]"'), joined():
        raise AssertionError


def task(function):
    return SimpleNamespace(remote=function)


def machines(monkeypatch, *nodes):
    found = {str(number): Counter(node) for number, node in enumerate(nodes)}
    monkeypatch.setattr(ray_pool, "nodes_of", lambda: found)


def test_a_worker_without_a_card_computes_as_this_machine_would(monkeypatch):
    said = []
    machines(monkeypatch, {"CPU": 4.0}, {"CPU": 8.0})
    assert share_for("auto", said.append) == Share("cpu", "cpu")
    assert capacity(Share("cpu", "cpu")) == 12
    machines(monkeypatch, {"CPU": 4.0, "GPU": 1.0})
    assert share_for("cpu", said.append) == Share("cpu", "cpu")
    assert not said
    machines(monkeypatch, {"memory": 1.0})
    share_for("cpu", said.append)
    assert said == ["waiting until the cluster has a machine with a free core"]


def test_all_workers_have_the_same_kind_of_card(monkeypatch, ray):
    machines(monkeypatch, {"CPU": 8.0}, {"CPU": 8.0, "GPU": 2.0, "accelerator_type:H100": 1.0})
    asked = []
    ray.remote = lambda **wanted: asked.append(wanted) or task
    monkeypatch.setattr(ray_pool, "_look", lambda device: ("cuda (NVIDIA H100)", "1"))
    said = []
    share = share_for("auto", said.append)
    assert share == Share("auto", "cuda (NVIDIA H100)", gpus=1, kind="H100")
    assert (asked[0]["num_cpus"], asked[0]["num_gpus"]) == (1, 1)
    assert not said
    assert capacity(share) == 2


def test_a_card_that_is_not_there_yet_is_waited_for(monkeypatch, ray):
    machines(monkeypatch, {"CPU": 8.0})
    ray.remote = lambda **wanted: task
    no_cuda = UsageError("this machine has no usable 'cuda' device")
    monkeypatch.setattr(ray_pool, "_look", lambda device: (no_cuda, "0"))
    said = []
    with pytest.raises(UsageError, match="no usable 'cuda'"):
        share_for("cuda", said.append)
    assert said == ["waiting until the cluster has a machine with a GPU"]


def test_a_device_that_ray_does_not_hand_out_is_refused(monkeypatch):
    machines(monkeypatch, {"CPU": 8.0})
    with pytest.raises(UsageError, match=r"--device mps.*Use auto, cpu, cuda or xpu"):
        share_for("mps", lambda text: None)


def test_the_gist_of_an_error_is_its_last_line():
    assert gist(ValueError("Ray says\n  much\n\nthe cause: it broke\n")) == "the cause: it broke"
    assert gist(ValueError()) == "ValueError"
