"""What `--ray` is made of, each part by itself and without a cluster; that is in tests/cli."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from imlctl.errors import ConfigError, DecodeError, InputError, UsageError, WeightsError
from imlctl.pipeline import Localizer, Settings
from imlctl.scan import on_ray, ray_cluster, ray_worker
from imlctl.scan.ahead import Limits
from imlctl.scan.discover import discover
from imlctl.scan.failures import Failed
from imlctl.scan.naming import Kind, plan
from imlctl.scan.on_ray import OnRay
from imlctl.scan.ray_cluster import Share, gist, joined, share_for
from imlctl.scan.ray_worker import Analyst, Ended, Foreman, Order, OutOfReach, Word
from imlctl.scan.run import Finished
from imlctl.scan.work import PhotoWork
from imlctl.scan.worker import Request, Same


class Handle:
    """Stands for the handle of an actor: calls are made at once."""

    def __init__(self, real):
        self.real = real

    def __getattr__(self, name):
        return SimpleNamespace(remote=getattr(self.real, name))


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Workers go to the folder they are told, which here is that of this process."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def ray(monkeypatch):
    """Stands for the library, which these tests do without."""
    stub = SimpleNamespace(get=lambda value: value, is_initialized=lambda: False)
    monkeypatch.setitem(sys.modules, "ray", stub)
    stub.data = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "ray.data", stub.data)
    return stub


@pytest.fixture
def foreman():
    return Foreman()


@pytest.fixture
def work():
    return PhotoWork(Localizer(Settings(device="cpu")))


@pytest.fixture
def order(work, tmp_path):
    return Order(
        settings=work.localizer.settings,
        key=work.key,
        soft=False,
        previews=False,
        kinds=(Kind.MASK, Kind.JSON),
        limits=Limits(),
        decoders=0,
        threads=1,
        folder=str(tmp_path),
    )


def lot_of(*paths, done=None):
    requests = np.empty(len(paths), dtype=object)
    requests[:] = [pickle.dumps(Request(path, 2**20, done or {})) for path in paths]
    return {"number": np.arange(len(paths)) + 10, "request": requests}


def answers(analyst, lot):
    rows = list(analyst(lot))
    assert all(row.keys() == {"number", "answer"} for row in rows)
    return {int(row["number"][0]): pickle.loads(row["answer"][0]) for row in rows}  # noqa: S301


def test_a_foreman_lets_everybody_go_on(foreman):
    assert foreman.open(0) is Word.GO
    assert [foreman.next(0, picture) for picture in (0, 1)] == [Word.GO, Word.GO]
    foreman.close(0)
    assert foreman.open(2) is Word.GO


def test_a_picture_that_kills_its_workers_is_found_out(foreman):
    said = []
    for _ in range(4):  # each worker dies with picture 1 in hand
        said.append(foreman.open(0))
        assert foreman.next(0, 0) is Word.GO
        said.append(foreman.next(0, 1))
    careful, go, skip = Word.CAREFULLY, Word.GO, Word.SKIP
    assert said == [go, go, careful, go, careful, go, careful, skip]
    assert foreman.next(0, 2) is Word.GO


def test_pictures_that_were_finished_are_not_blamed_for_deaths(foreman):
    for _ in range(5):  # the machine dies each time the lot is done
        foreman.open(0)
        assert foreman.next(0, 0) is Word.GO
        foreman.close(0)


def test_a_stop_lets_others_finish_and_then_ends_it(foreman, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(ray_worker.time, "monotonic", lambda: clock[0])
    foreman.open(0)
    foreman.next(0, 0)
    foreman.stop()
    assert foreman.next(0, 1) is None
    clock[0] += 60
    assert foreman.open(5) is Word.SKIP  # the first is still in hand
    foreman.close(0)
    assert foreman.open(6) is Word.SKIP  # what was finished may be on its way
    clock[0] += 2
    with pytest.raises(Ended):
        foreman.open(7)


@pytest.mark.usefixtures("one_thread")  # as the worker has: another number rounds otherwise
def test_a_worker_does_all_but_the_writing(order, work, foreman, picture, tmp_path):
    Path("a.png").write_bytes(picture(1, (70, 66)))
    Path("bad.png").write_bytes(picture(2)[:-20])
    done = work.localize(ray_worker.decode(Request("a.png", 2**20)))
    found = answers(Analyst(order, Handle(foreman)), lot_of("a.png", "bad.png"))
    assert isinstance(found[10], Finished)
    assert found[10].outputs[Kind.MASK] == work.render(done, Kind.MASK)
    assert set(found[10].outputs) == {Kind.MASK, Kind.JSON}
    untimed = [{**r, "seconds": 0, "timings": {}} for r in (found[10].record, work.record(done))]
    assert untimed[0] == untimed[1]
    assert isinstance(found[11], Failed)
    assert isinstance(found[11].error, DecodeError)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "bad.png"]


def test_a_worker_skips_what_is_proven_done(order, foreman, picture, tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(picture(1))
    from imlctl.scan.hashing import sha256_of

    analyst = Analyst(order, Handle(foreman))
    assert answers(analyst, lot_of(str(file), done={str(file): sha256_of(file)})) == {10: Same()}


def test_names_need_not_be_text(order, work, foreman, picture):
    name = os.fsdecode(b"\xff\xfe.png")
    try:
        Path(name).write_bytes(picture(1, (70, 66)))
    except OSError:
        pytest.skip("this file system takes only names in UTF-8")
    found = answers(Analyst(order, Handle(foreman)), lot_of(name))
    here = work.record(work.localize(ray_worker.decode(Request(name, 2**20))))
    assert [found[10].record[key] for key in ("path", "path_bytes")] == [
        here[key] for key in ("path", "path_bytes")
    ]
    assert here["path_bytes"] == "fffe2e706e67"


def test_a_worker_with_other_weights_or_settings_refuses(order, foreman):
    settings = {**json.loads(order.key.settings), "device": "cuda (Other)"}
    other = dataclasses.replace(
        order, key=dataclasses.replace(order.key, settings=json.dumps(settings, sort_keys=True))
    )
    ((number, error),) = answers(Analyst(other, Handle(foreman)), lot_of("a", "b")).items()
    assert number == 10
    assert isinstance(error, ConfigError)
    assert "device is 'cpu', not 'cuda (Other)'" in str(error)
    weights = dataclasses.replace(order, key=dataclasses.replace(order.key, weights="0" * 64))
    (error,) = answers(Analyst(weights, Handle(foreman)), lot_of("a")).values()
    assert f"not {'0' * 64}" in str(error)


def test_a_worker_without_the_weights_lives_and_says_so(order, foreman):
    missing = dataclasses.replace(order.settings, weights=Path("gone.safetensors"))
    analyst = Analyst(dataclasses.replace(order, settings=missing), Handle(foreman))
    (error,) = answers(analyst, lot_of("a")).values()
    assert isinstance(error, WeightsError)
    assert "gone.safetensors (on " in str(error)


def test_a_worker_that_is_told_to_stop_leaves_the_rest(order, foreman, picture, tmp_path):
    (tmp_path / "a.png").write_bytes(picture(1, (70, 66)))
    real = foreman.next

    def next_one(lot, number):
        word = real(lot, number)
        foreman.stop()
        return word

    foreman.next = next_one
    analyst = Analyst(order, Handle(foreman))
    assert list(answers(analyst, lot_of(*3 * [str(tmp_path / "a.png")]))) == [10]
    assert answers(analyst, lot_of(str(tmp_path / "a.png"))) == {}


def test_a_picture_that_killed_workers_is_given_up(order, foreman, picture, tmp_path):
    (tmp_path / "a.png").write_bytes(picture(1, (70, 66)))
    for _ in range(3):
        foreman.open(10)
        foreman.next(10, 11)
    path = str(tmp_path / "a.png")
    found = answers(Analyst(order, Handle(foreman)), lot_of(path, path, path))
    assert [type(found[number]) for number in (10, 11, 12)] == [Finished, Failed, Finished]
    assert "3 workers died" in str(found[11].error)
    assert str(found[11].error).startswith(path)


def test_where_nobody_can_read_a_file_it_failed_as_anywhere(tmp_path):
    failed = Failed(InputError("there is no such file", source=str(tmp_path / "gone.png")))
    assert on_ray._received(OutOfReach(failed, "node7", folder=False)) is failed


def test_a_file_that_a_worker_cannot_read_names_the_machine(order, foreman, picture, tmp_path):
    (tmp_path / "a.png").write_bytes(picture(1))
    elsewhere = dataclasses.replace(order, folder=str(tmp_path / "nothing"))
    (answer,) = answers(Analyst(elsewhere, Handle(foreman)), lot_of("no/such/a.png")).values()
    assert isinstance(answer, OutOfReach)
    assert not answer.folder
    # The same answer for a file that is here: the folder is not shared, and all would fail.
    here = Failed(InputError("there is no such file", source=str(tmp_path / "a.png")))
    with pytest.raises(UsageError, match=r"node7.*no such folder.*same path on all machines"):
        on_ray._received(OutOfReach(here, "node7", folder=False))
    one = on_ray._received(OutOfReach(here, "node7", folder=True))
    assert isinstance(one, Failed)
    assert "node7 of the cluster cannot read it, though this one can" in str(one.error)


def test_the_standard_input_is_no_request(work, planned):
    found = discover(["-"])
    (job,) = plan(found.pictures, "-", (Kind.MASK,), many=False)
    with pytest.raises(ValueError, match="standard input"):
        list(OnRay(work, Share("cpu", "cpu", 1), Limits()).run([(job, None)]))


def test_no_pictures_are_no_work(work):
    assert list(OnRay(work, Share("cpu", "cpu", 1), Limits()).run([])) == []


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
    monkeypatch.setattr(ray_cluster, "nodes_of", lambda: found)


def test_a_worker_without_a_card_computes_as_this_machine_would(monkeypatch):
    said = []
    monkeypatch.setattr("torch.get_num_threads", lambda: 6)
    machines(monkeypatch, {"CPU": 4.0}, {"CPU": 8.0})
    assert share_for("auto", said.append) == Share("cpu", "cpu", 6, threads=6)
    machines(monkeypatch, {"CPU": 4.0, "GPU": 1.0})  # fewer cores, but as many threads
    assert share_for("cpu", said.append) == Share("cpu", "cpu", 4, threads=6)
    assert not said
    machines(monkeypatch, {"memory": 1.0})
    assert share_for("cpu", said.append).cpus == 6
    assert said == ["waiting until the cluster has a machine with 6 cores"]


def test_all_workers_have_the_same_kind_of_card(monkeypatch, ray):
    machines(monkeypatch, {"CPU": 8.0}, {"CPU": 8.0, "GPU": 2.0, "accelerator_type:H100": 1.0})
    asked = []
    ray.remote = lambda **wanted: asked.append(wanted) or task
    monkeypatch.setattr(ray_cluster, "_look", lambda device: ("cuda (NVIDIA H100)", "1"))
    said = []
    share = share_for("auto", said.append)
    assert share == Share("auto", "cuda (NVIDIA H100)", 1, gpus=1, kind="H100")
    assert (asked[0]["num_cpus"], asked[0]["num_gpus"]) == (1, 1)
    assert not said


def test_a_card_that_is_not_there_yet_is_waited_for(monkeypatch, ray):
    machines(monkeypatch, {"CPU": 8.0})
    ray.remote = lambda **wanted: task
    no_cuda = UsageError("this machine has no usable 'cuda' device")
    monkeypatch.setattr(ray_cluster, "_look", lambda device: (no_cuda, "0"))
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
