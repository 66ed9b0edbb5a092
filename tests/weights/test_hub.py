"""Fetching from a Hub, with everything that may go wrong on the way."""

from __future__ import annotations

import errno
import random
import resource
import shutil
import socket
from typing import TYPE_CHECKING, Any

import pytest

from imlctl.errors import WeightsError
from imlctl.weights.hub import cached, fetch
from imlctl.weights.registry import HubReference

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = random.Random(0).randbytes(200_000)
KEY = "hf_ofthelab"
REFERENCE = HubReference("lab/model", "w.safetensors")


@pytest.fixture
def commit(hub: Any) -> str:
    return hub.repo("lab/model").commit({"w.safetensors": CONTENT, "README.md": b"a model"})


def partial(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.name.endswith((".incomplete", ".tmp"))]


def test_fetched_once_and_then_from_the_cache(hub: Any, commit: str) -> None:
    assert cached(REFERENCE) is None
    assert hub.log == []
    fetched = fetch(REFERENCE)
    assert fetched.path.read_bytes() == CONTENT
    assert fetched.revision == commit
    hub.log.clear()
    assert cached(REFERENCE) == cached(REFERENCE.at(commit)) == fetched
    assert fetch(REFERENCE.at(commit)) == fetched
    assert hub.log == []  # a commit cannot move, so nothing is asked
    assert fetch(REFERENCE) == fetched
    assert [a.method for a in hub.log] == ["HEAD"]


def test_files_in_folders_and_revisions_with_slashes(hub: Any) -> None:
    commit = hub.repo("lab/model").commit({"a b/c/w.safetensors": CONTENT}, ref="refs/pr/1")
    fetched = fetch(HubReference("lab/model", "a b/c/w.safetensors", "refs/pr/1"))
    assert (fetched.path.read_bytes(), fetched.revision) == (CONTENT, commit)


@pytest.mark.parametrize("redirect", [True, False])
def test_small_and_large_files_are_served_differently(
    redirect: bool, hub: Any, commit: str
) -> None:
    hub.redirect = redirect
    assert fetch(REFERENCE).path.read_bytes() == CONTENT
    assert bool(hub.asked(server="store")) == redirect


def test_a_cut_transfer_goes_on_where_it_ended(hub: Any, hub_server: Any, commit: str) -> None:
    hub.faults.append(hub_server.Fault("cut", after=150_000))
    assert fetch(REFERENCE).path.read_bytes() == CONTENT
    first, second = hub.asked("GET")
    assert "range" not in first.headers
    start = int(second.headers["range"].removeprefix("bytes=").rstrip("-"))
    assert 100_000 < start <= 150_000
    assert second.status == 206


def test_a_silent_server_is_asked_again(
    hub: Any, hub_server: Any, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    hub.faults.append(hub_server.Fault("stall", after=150_000))
    assert fetch(REFERENCE).path.read_bytes() == CONTENT
    assert [a.status for a in hub.asked("GET")] == [200, 206]


def test_a_server_that_stays_silent_is_given_up(
    hub: Any, hub_server: Any, commit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.1)
    monkeypatch.setattr("huggingface_hub.file_download._ETAG_RETRY_TIMEOUT", 0.1)
    hub.faults.append(hub_server.Fault("stall", method="HEAD", times=99))
    with pytest.raises(WeightsError, match="did not answer in time") as caught:
        fetch(REFERENCE)
    assert "HF_HUB_ETAG_TIMEOUT" in caught.value.remedy
    assert partial(tmp_path) == []


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_too_many_requests_are_tried_again(
    method: str, hub: Any, hub_server: Any, commit: str
) -> None:
    wait = {"Retry-After": "1"}
    hub.faults.append(hub_server.Fault("status", method=method, status=429, times=2, headers=wait))
    assert fetch(REFERENCE).path.read_bytes() == CONTENT
    assert [a.status for a in hub.asked(method)][:3] == [429, 429, 302 if method == "HEAD" else 200]


def test_too_many_requests_for_good(hub: Any, hub_server: Any, commit: str) -> None:
    hub.faults.append(hub_server.Fault("status", method="HEAD", status=429, times=99))
    with pytest.raises(WeightsError, match=r"429.*still after waiting") as caught:
        fetch(REFERENCE)
    assert "few minutes" in caught.value.remedy


def test_trouble_at_the_hub(hub: Any, hub_server: Any, commit: str) -> None:
    hub.faults.append(hub_server.Fault("status", method="HEAD", status=503, times=99))
    with pytest.raises(WeightsError, match=r"trouble of its own \(HTTP 503\)"):
        fetch(REFERENCE)


@pytest.mark.parametrize("status", [400, 403, 410, 451])
def test_a_request_that_is_refused(status: int, hub: Any, hub_server: Any, commit: str) -> None:
    hub.faults.append(hub_server.Fault("status", method="HEAD", status=status, times=99))
    with pytest.raises(WeightsError, match=rf"the Hub refused .*\(HTTP {status}\)"):
        fetch(REFERENCE)


def test_private_and_missing_repositories_look_the_same(hub: Any, commit: str) -> None:
    with pytest.raises(WeightsError, match="no such repository, or it is private") as missing:
        fetch(HubReference("lab/other", "w.safetensors"))
    hub.repo("lab/model").token = KEY
    with pytest.raises(WeightsError, match="no such repository, or it is private") as private:
        fetch(REFERENCE)
    assert hub.log[-1].status == 401
    assert missing.value.remedy == private.value.remedy
    assert "hf auth login" in private.value.remedy


def test_a_token_opens_a_private_repository_and_is_told_to_nobody_else(
    hub: Any, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repo("lab/model").token = KEY
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(WeightsError) as caught:
        fetch(REFERENCE)
    assert "hf_wrong" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", KEY)
    assert fetch(REFERENCE).path.read_bytes() == CONTENT
    (stored,) = hub.asked(server="store")
    assert KEY not in str(stored.headers)


def test_gated(hub: Any, commit: str) -> None:
    hub.repo("lab/model").token, hub.repo("lab/model").gated = KEY, True
    with pytest.raises(WeightsError, match="is gated") as caught:
        fetch(REFERENCE)
    assert f"{hub.url}/lab/model" in caught.value.remedy


def test_unknown_revision_and_unknown_file(hub: Any, commit: str) -> None:
    with pytest.raises(WeightsError, match="no revision 'v9'"):
        fetch(REFERENCE.at("v9"))
    with pytest.raises(WeightsError, match=r"no file 'v\.safetensors'"):
        fetch(HubReference("lab/model", "v.safetensors"))


def test_a_server_that_is_no_hub(hub: Any, hub_server: Any, commit: str) -> None:
    hub.faults.append(hub_server.Fault("status", method="HEAD", status=200, times=9))
    with pytest.raises(WeightsError, match="does not answer as a Hub does") as caught:
        fetch(REFERENCE)
    assert "HF_ENDPOINT" in caught.value.remedy


def test_offline(hub: Any, commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set"):
        fetch(REFERENCE)
    assert hub.log == []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    fetched = fetch(REFERENCE)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.log.clear()
    assert fetch(REFERENCE) == fetched
    assert hub.log == []


def test_nobody_answers(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    template = f"http://127.0.0.1:{port}" + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    with pytest.raises(WeightsError, match=r"connection to .* failed") as caught:
        fetch(REFERENCE)
    assert "HF_ENDPOINT" in caught.value.remedy


def test_a_proxy_and_a_mirror_are_used_where_they_are_named(
    hub: Any, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mirror's name means nothing to this machine: only the proxy could know it."""
    mirror = "http://mirror.invalid"
    template = mirror + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setenv("HTTP_PROXY", hub.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    hub.redirect = False
    assert fetch(REFERENCE).path.read_bytes() == CONTENT
    assert {a.path for a in hub.log} == {f"{mirror}/lab/model/resolve/main/w.safetensors"}


def test_a_disk_too_small_is_noticed_before_it_is_full(
    hub: Any, commit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type(shutil.disk_usage("/"))(10**9, 10**9, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(WeightsError, match="does not fit on the disk") as caught:
        fetch(REFERENCE)
    assert "HF_HOME" in caught.value.remedy
    assert hub.asked("GET") == []
    assert partial(tmp_path) == []


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Writes beyond 100,000 bytes fail, as on a disk that has run full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_disk")
def test_a_disk_that_runs_full_keeps_nothing_partial(hub: Any, commit: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"does not fit on the disk .*too large"):
        fetch(REFERENCE)
    assert partial(tmp_path) == []
    assert cached(REFERENCE) is None


def test_a_full_disk_is_told_from_other_errors(
    hub: Any, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(number: int) -> Any:
        def raise_it(*_: object, **__: object) -> None:
            raise OSError(number, "as the system says it")

        return raise_it

    for number, words in (
        (errno.ENOSPC, "does not fit on the disk"),
        (errno.EROFS, "cannot be written to the cache"),
        (errno.EIO, "the connection to the Hub failed"),
    ):
        monkeypatch.setattr("huggingface_hub.file_download.http_get", fail(number))
        with pytest.raises(WeightsError, match=rf"{words} .*as the system says it"):
            fetch(REFERENCE)


def test_force_fetches_again(hub: Any, commit: str) -> None:
    first = fetch(REFERENCE)
    first.path.resolve().write_bytes(b"damaged")
    assert fetch(REFERENCE.at(commit)).path.read_bytes() == b"damaged"
    assert fetch(REFERENCE.at(commit), force=True).path.read_bytes() == CONTENT


@pytest.mark.parametrize("quiet", [True, False])
def test_progress_is_shown_on_a_terminal_only(
    quiet: bool,
    hub: Any,
    commit: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    fetch(REFERENCE, quiet=quiet)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert ("w.safetensors" in captured.err) == (not quiet)
