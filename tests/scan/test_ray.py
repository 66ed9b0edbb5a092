"""What `--ray` is made of, each part by itself and without a cluster; that is in tests/cli."""

from __future__ import annotations

import dataclasses
import os
import sys
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from imlctl.atomic import sha256_of
from imlctl.errors import ConfigError, DecodeError, InputError, UsageError, WeightsError
from imlctl.scan import ray_pool
from imlctl.scan.analysis import Analysis, Options
from imlctl.scan.messages import Failed, Finished, Request, Unchanged
from imlctl.scan.naming import Kind
from imlctl.scan.processes import decode_file
from imlctl.scan.ray_pool import analyse, gist, ray_cluster, received, start_ray
from imlctl.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

OPTIONS = Options(Settings(device="cpu"), (Kind.MASK, Kind.JSON), threads=1)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Workers go to the folder they are told, which here is that of this process."""
    monkeypatch.chdir(tmp_path)


class WorkerCrashedError(Exception):
    """Stands for Ray's."""


@dataclasses.dataclass(eq=False)
class Task:
    """Stands for Ray's reference to the answer."""

    function: Callable[..., Any]
    given: tuple[Any, ...]


@pytest.fixture(autouse=True)
def ray(monkeypatch, one_thread):
    """Stands for the library, which these tests do without: tasks run here, when they are got.

    A worker dies of the picture in hand if its name says so. Decoding takes place here as well.
    """
    stub = SimpleNamespace(shares=[], has={"CPU": 2.0})
    errors = ("NodeDiedError", "OutOfMemoryError", "RayError")
    named = {name: type(name, (Exception,), {}) for name in errors}
    stub.exceptions = SimpleNamespace(**named, WorkerCrashedError=WorkerCrashedError)

    def get(task):
        if "fatal" in getattr(task.given[2], "path", ""):
            raise WorkerCrashedError
        return task.function(*task.given)

    def remote(**share):
        stub.shares.append(share)
        return lambda function: SimpleNamespace(remote=lambda *given: Task(function, given))

    stub.get, stub.remote = get, remote
    stub.wait = lambda pending, **_: (pending[:1], pending[1:])
    stub.cluster_resources = lambda: stub.has
    monkeypatch.setitem(sys.modules, "ray", stub)
    monkeypatch.setitem(sys.modules, "ray.exceptions", stub.exceptions)
    monkeypatch.setattr(ray_pool, "ray_cluster", nullcontext)
    monkeypatch.setattr(ray_pool, "Decoder", lambda options: decode_file)
    yield stub
    ray_pool._prepared.cache_clear()


def ask(path, done=None, options=OPTIONS):
    return analyse(options, ".", Request(path, 2**20, done or {}))[0]


def test_a_worker_does_all_but_the_writing(picture, tmp_path):
    Path("a.png").write_bytes(picture(1, (70, 66)))
    Path("bad.png").write_bytes(picture(2)[:-20])
    found = ask("a.png")
    here = Analysis(OPTIONS)(decode_file(Request("a.png", 2**20)))
    assert isinstance(found, Finished)
    assert found.outputs[Kind.MASK] == here.outputs[Kind.MASK]
    assert set(found.outputs) == {Kind.MASK, Kind.JSON}
    untimed = [{**r, "seconds": 0, "timings": {}} for r in (found.record, here.record)]
    assert untimed[0] == untimed[1]
    bad = ask("bad.png")
    assert isinstance(bad.error, DecodeError)
    assert bad.sha256 == sha256_of("bad.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "bad.png"]


def test_a_worker_says_whether_it_can_read_what_failed(picture):
    Path("bad.png").write_bytes(picture(2)[:-20])
    for name, reads in (("bad.png", True), ("gone.png", False)):
        answer, _, found = analyse(OPTIONS, ".", Request(name, 2**20, {}))
        assert isinstance(answer, Failed)
        assert found is reads, name


def test_a_worker_skips_what_is_proven_done(picture):
    Path("a.png").write_bytes(picture(1))
    assert ask("a.png", {"a.png": sha256_of("a.png")}) == Unchanged()


def test_names_need_not_be_text(picture):
    name = os.fsdecode(b"\xff\xfe.png")
    try:
        Path(name).write_bytes(picture(1, (70, 66)))
    except OSError:
        pytest.skip("this file system takes only names in UTF-8")
    assert ask(name).record["path_bytes"] == "fffe2e706e67"


def test_a_machine_with_other_weights_or_settings_ends_the_scan(picture):
    Path("a.png").write_bytes(picture(1, (70, 66)))
    provenance = analyse(OPTIONS, ".", None)[0]
    answer = ask("a.png")
    assert received(answer, "node7", provenance, reads=True) is answer
    for name, other in (("device", "cuda Other"), ("weights_sha256", "0" * 64)):
        said = f"node7 gives other results: {name} is .*, not '{other}'"
        with pytest.raises(ConfigError, match=said):
            received(answer, "node7", {**provenance, name: other}, reads=True)


def test_a_worker_without_the_weights_lives_and_says_so():
    missing = dataclasses.replace(OPTIONS.settings, weights=Path("gone.safetensors"))
    options = dataclasses.replace(OPTIONS, settings=missing)
    error = ask("a", options=options)
    assert isinstance(error, WeightsError)
    with pytest.raises(WeightsError, match=r"gone\.safetensors \(on node7\)"):
        received(error, "node7", {}, reads=True)


@pytest.fixture
def engine():
    with ExitStack() as stack:
        yield start_ray(OPTIONS, stack, tell=pytest.fail)


def run(engine, *names, stopped=lambda: False):
    return engine.run(((name, Request(name, 2**20)) for name in names), stopped)


def test_every_picture_is_answered_once(engine, picture, ray):
    names = [f"{n}.png" for n in range(7)]
    for seed, name in enumerate(names):
        Path(name).write_bytes(picture(seed, (66, 70)))
    assert sorted(name for name, _ in run(engine, *names)) == names
    assert ray.shares == [{"num_cpus": 1, "max_retries": 2, "max_calls": 0}]
    assert list(run(engine)) == []


def test_a_picture_that_kills_its_workers_has_failed(engine, picture):
    names = ["a.png", "fatal.png", "b.png", "c.png"]
    for name in names:
        Path(name).write_bytes(picture(1, (70, 66)))
    found = dict(run(engine, *names))
    assert sorted(found) == sorted(names)
    assert [name for name, answer in found.items() if isinstance(answer, Failed)] == ["fatal.png"]
    assert "3 workers died" in str(found["fatal.png"].error)
    assert found["fatal.png"].sha256 == sha256_of("fatal.png")


def test_a_stop_lets_workers_finish_what_they_have(engine, picture):
    names = [f"{n}.png" for n in range(9)]
    for name in names:
        Path(name).write_bytes(picture(1, (70, 66)))
    seen = []
    answers = run(engine, *names, stopped=lambda: bool(seen))
    seen.extend(iter(lambda: next(answers, None), None))
    assert 1 <= len(seen) <= 4


def test_cards_are_used_where_the_cluster_has_any(ray, monkeypatch):
    ray.has = {"CPU": 8.0, "GPU": 2.0}
    devices = []
    monkeypatch.setattr(
        ray_pool, "analyse", lambda options, *_: (devices.append(options.settings.device), "", True)
    )
    for device in ("auto", "cpu"):
        with ExitStack() as stack:
            options = Options(Settings(device=device))
            start_ray(options, stack, tell=pytest.fail)
    assert devices == ["auto", "cpu"]
    assert [share.get("num_gpus") for share in ray.shares] == [0.25, None]


def test_a_machine_that_is_not_there_yet_is_waited_for(ray):
    ray.wait = lambda pending, **_: ([], pending)
    said = []
    with ExitStack() as stack:
        start_ray(OPTIONS, stack, tell=said.append)
    assert said == ["waiting until the cluster has a free worker"]


def test_where_nobody_can_read_a_file_it_failed_as_anywhere(tmp_path):
    failed = Failed(InputError("there is no such file", source=str(tmp_path / "gone.png")))
    assert received(failed, "node7", {}, reads=False) is failed


def test_a_machine_that_cannot_read_what_this_one_can_ends_the_scan(picture, tmp_path):
    (tmp_path / "a.png").write_bytes(picture(1))
    here = Failed(InputError("there is no such file", source=str(tmp_path / "a.png")))
    with pytest.raises(UsageError, match=r"node7 of the cluster cannot read.*same path on all"):
        received(here, "node7", {}, reads=False)


def test_a_file_that_no_reader_survives_costs_one_picture(engine, picture, monkeypatch):
    """Not even its hash is known, though every machine may read it."""
    for name in ("a.png", "b.png"):
        Path(name).write_bytes(picture(1, (70, 66)))
    os.mkfifo("pipe.png")
    found = dict(run(engine, "a.png", "pipe.png", "b.png"))
    assert isinstance(found["pipe.png"], Failed)
    assert found["pipe.png"].sha256 is None
    assert [type(found[name]) for name in ("a.png", "b.png")] == [Finished, Finished]


def test_an_imlctl_that_lacks_a_field_is_told_apart(picture):
    Path("a.png").write_bytes(picture(1, (70, 66)))
    provenance = analyse(OPTIONS, ".", None)[0]
    answer = ask("a.png")
    older = {k: v for k, v in answer.record.items() if k not in ("seed", "versions")}
    said = r"node7 gives other results: seed is None, not 0, imlctl is None.*Install the same"
    with pytest.raises(ConfigError, match=said):
        received(dataclasses.replace(answer, record=older), "node7", provenance, reads=True)


@pytest.mark.parametrize("device", ["mps", "xpu", "cuda:1"])
def test_a_device_that_ray_does_not_hand_out_is_refused(device):
    with ExitStack() as stack, pytest.raises(UsageError, match=f"--device {device}: .*auto, cpu"):
        start_ray(Options(Settings(device=device)), stack, tell=pytest.fail)


def test_what_a_worker_read_and_could_not_analyse_keeps_its_reason(picture, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(picture(1))
    failed = Failed(InputError("there is not enough memory", source=str(path)), sha256="ab" * 32)
    assert received(failed, "node7", {}, reads=True) is failed


def test_a_cluster_elsewhere_is_refused_with_a_remedy(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(UsageError, match=r"ray://head.*ray job submit"), ray_cluster():
        raise AssertionError


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r'pip install "imlctl\[ray\]"'), ray_cluster():
        raise AssertionError


def test_the_gist_of_an_error_is_its_last_line():
    assert gist(ValueError("Ray says\n  much\n\nthe cause: it broke\n")) == "the cause: it broke"
    assert gist(ValueError()) == "ValueError"
