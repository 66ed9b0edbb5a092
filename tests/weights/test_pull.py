"""Pulling: what makes weights trusted, and what refuses them."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from imlctl.errors import UsageError, WeightsError
from imlctl.weights import pull as pulling
from imlctl.weights.hub import cached
from imlctl.weights.load import open_weights
from imlctl.weights.pull import find, pull
from imlctl.weights.registry import (
    HubReference,
    WeightsEntry,
    known_weights,
    parse_reference,
    user_registry_path,
)

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = random.Random(1).randbytes(50_000)
OTHER = random.Random(2).randbytes(50_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER_SHA256 = hashlib.sha256(OTHER).hexdigest()
TEXT = "hf://lab/model@v1/w.safetensors"
REFERENCE = parse_reference(TEXT)


@pytest.fixture
def commit(hub: Any) -> str:
    return hub.repo("lab/model").commit({"w.safetensors": CONTENT}, ref="v1")


def entry(**change: Any) -> WeightsEntry:
    values = {"source": "hub", "repo": "lab/model", "file": "w.safetensors", "licence": "MIT"}
    return WeightsEntry(name="lab", **values | change)


def test_without_a_hash_nothing_is_even_asked(hub: Any, commit: str) -> None:
    with pytest.raises(WeightsError, match=r"no hash of .* is known") as caught:
        pull(TEXT)
    assert "--trust-on-first-use" in caught.value.remedy
    assert hub.log == []


def test_trust_on_first_use_is_recorded_and_holds_from_then_on(hub: Any, commit: str) -> None:
    first = pull(TEXT, trust_on_first_use=True)
    assert first.path.read_bytes() == CONTENT
    assert (first.sha256, first.revision, first.checked) == (SHA256, commit, "first use")
    seen = known_weights().seen[str(REFERENCE)]
    assert (seen.revision, seen.sha256, seen.size) == (commit, SHA256, len(CONTENT))
    again = pull(TEXT)
    assert (again.path, again.checked) == (first.path, "earlier pull")
    assert user_registry_path().read_text().count("[[seen]]") == 1
    found = find(TEXT)
    assert (found.path, found.sha256) == (first.path, SHA256)


def test_a_given_hash_needs_no_other_trust(hub: Any, commit: str) -> None:
    assert pull(TEXT, sha256=SHA256).checked == "given"
    assert pull(TEXT).checked == "earlier pull"


@pytest.mark.parametrize("bad", ["abc", SHA256[:-1] + "g", SHA256 + "0"])
def test_a_given_hash_must_be_one(bad: str, hub: Any) -> None:
    with pytest.raises(UsageError, match="64 hexadecimal digits"):
        pull(TEXT, sha256=bad)


def test_wrong_bytes_are_refused_with_both_hashes_and_kept(
    hub: Any, hub_server: Any, commit: str
) -> None:
    hub.faults.append(hub_server.Fault("corrupt"))
    corrupt = hashlib.sha256(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])).hexdigest()
    with pytest.raises(WeightsError, match=f"has sha256 {corrupt}, expected {SHA256}") as caught:
        pull(TEXT, sha256=SHA256)
    here = cached(REFERENCE)
    assert here is not None
    assert str(here.path) in caught.value.remedy
    assert hashlib.sha256(here.path.read_bytes()).hexdigest() == corrupt
    assert known_weights().seen == {}
    with pytest.raises(WeightsError, match="fetched only when asked for"):
        find(TEXT)
    assert pull(TEXT, sha256=SHA256, force=True).path.read_bytes() == CONTENT


def test_a_moved_tag_is_refused_and_the_first_file_stays_in_use(hub: Any, commit: str) -> None:
    first = pull(TEXT, trust_on_first_use=True)
    moved = hub.repo("lab/model").commit({"w.safetensors": OTHER}, ref="v1")
    for trust in (False, True):
        with pytest.raises(WeightsError, match="'v1' was commit") as caught:
            pull(TEXT, trust_on_first_use=trust)
    for part in (commit, moved, SHA256, OTHER_SHA256):
        assert part in caught.value.what
    assert find(TEXT).path == first.path
    assert first.path.read_bytes() == CONTENT
    # The remedy works, and only for who asks for the new commit by name.
    meant = next(word for word in caught.value.remedy.split() if word.startswith("hf://"))
    assert pull(meant, trust_on_first_use=True).path.read_bytes() == OTHER
    assert find(TEXT).path == first.path


def test_a_tag_that_moved_to_the_same_file_is_the_same(hub: Any, commit: str) -> None:
    first = pull(TEXT, trust_on_first_use=True)
    files = {"w.safetensors": CONTENT, "README.md": b"a better text"}
    assert hub.repo("lab/model").commit(files, ref="v1") != commit
    assert pull(TEXT) == first.__class__(TEXT, first.path, SHA256, commit, "earlier pull")


def test_a_changed_commit_is_refused(hub: Any, commit: str, tmp_path: Path) -> None:
    """History rewritten on the server, or a mirror that lies, met with an empty cache."""
    pull(f"hf://lab/model@{commit}/w.safetensors", sha256=SHA256)
    hub.repo("lab/model").commits[commit]["w.safetensors"] = OTHER
    shutil.rmtree(tmp_path / "hf")
    with pytest.raises(WeightsError, match=f"has sha256 {OTHER_SHA256}, expected {SHA256}"):
        pull(f"hf://lab/model@{commit}/w.safetensors")


def test_a_mirror_that_answers_with_another_commit_is_refused(hub: Any, commit: str) -> None:
    hub.answers_with = "9" * 40
    with pytest.raises(WeightsError, match=f"answered with commit {'9' * 40}"):
        pull(f"hf://lab/model@{commit}/w.safetensors", sha256=SHA256)


def test_an_entry_with_a_hash(hub: Any, commit: str, add_entry: Any) -> None:
    add_entry(entry(sha256=SHA256, revision=commit))
    pulled = pull("lab")
    assert (pulled.name, pulled.checked, pulled.revision) == ("lab", "registry", commit)
    assert find("lab").sha256 == SHA256
    with pytest.raises(WeightsError, match="has two hashes") as caught:
        pull("lab", sha256=OTHER_SHA256)
    assert SHA256 in str(caught.value)
    assert OTHER_SHA256 in str(caught.value)


def test_an_entry_with_a_wrong_hash(hub: Any, commit: str, add_entry: Any) -> None:
    add_entry(entry(sha256=OTHER_SHA256, revision=commit))
    with pytest.raises(WeightsError, match=f"has sha256 {SHA256}, expected {OTHER_SHA256}"):
        pull("lab", trust_on_first_use=True)


def test_a_licence_that_restricts_is_shown_before_the_first_fetch(hub: Any, add_entry: Any) -> None:
    hub.repo("lab/model").commit({"w.safetensors": CONTENT})
    add_entry(entry(licence="NC", restriction="it forbids trade"))
    told: list[str] = []
    with pytest.raises(WeightsError, match="no hash"):
        pull("lab", notice=told.append)
    assert told == []
    pull("lab", trust_on_first_use=True, notice=told.append)
    assert told == ["lab has a licence that restricts its use: it forbids trade."]
    pull("lab", notice=told.append)
    assert len(told) == 1


def test_files_of_this_machine_are_checked_where_they_are(tmp_path: Path, add_entry: Any) -> None:
    own = tmp_path / "own.safetensors"
    own.write_bytes(CONTENT)
    add_entry(WeightsEntry(name="own", source="file", file=str(own), sha256=SHA256, licence="MIT"))
    pulled = pull("own")
    assert (pulled.path, pulled.revision) == (own, "")
    own.write_bytes(OTHER)
    with pytest.raises(WeightsError, match=f"own: has sha256 {OTHER_SHA256}, expected {SHA256}"):
        pull("own")
    own.unlink()
    with pytest.raises(WeightsError, match="own: cannot be read"):
        pull("own")


def test_offline_what_was_pulled_is_there(
    hub: Any, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulled = pull(TEXT, trust_on_first_use=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.log.clear()
    assert pull(TEXT).path == find(TEXT).path == pulled.path
    assert hub.log == []


def test_two_processes_at_once_fetch_one_file_and_agree(
    hub: Any, hub_server: Any, commit: str, tmp_path: Path
) -> None:
    """The first transfer is held until both have asked; the second then waits for the first."""
    hold = hub_server.Fault("hold")
    hub.faults.append(hold)
    code = "from imlctl.cli import main; main()"
    command = [sys.executable, "-c", code, "weights", "pull", TEXT, "--trust-on-first-use"]
    variables = os.environ | hub_server.environment(hub, tmp_path)
    both = [
        subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    hub.wait_for("HEAD", 2)
    hold.until.set()
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][0] == said[1][0]
    assert SHA256.encode() in said[0][0]
    assert len(hub.asked("GET")) == 1
    assert user_registry_path().read_text().count("[[seen]]") == 1
    assert find(TEXT).path.read_bytes() == CONTENT


def test_the_slower_of_two_that_saw_different_files_is_refused(
    hub: Any, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both trusted on first use; only the record that was written first counts."""

    real = pulling.hub.fetch

    def overtaken(reference: HubReference, **options: bool) -> Any:
        fetched = real(reference, **options)
        monkeypatch.setattr(pulling.hub, "fetch", real)
        pull(TEXT, trust_on_first_use=True)
        moved = hub.repo("lab/model").commit({"w.safetensors": OTHER}, ref="v1")
        assert fetched.revision != moved
        return real(reference, **options)

    monkeypatch.setattr(pulling.hub, "fetch", overtaken)
    with pytest.raises(WeightsError, match="'v1' was commit"):
        pull(TEXT, trust_on_first_use=True)


def test_a_hash_in_upper_case_is_the_same_hash(hub: Any, commit: str) -> None:
    assert pull(TEXT, sha256=SHA256.upper()).checked == "given"


def test_an_endpoint_without_a_scheme_is_named(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "mirror.example/")
    with pytest.raises(WeightsError, match=r"HF_ENDPOINT: is 'mirror.example/'") as caught:
        pull(TEXT, sha256=SHA256)
    assert "https://mirror.example " in caught.value.remedy


@pytest.mark.parametrize("wanted", ["lab/model", "https://huggingface.co/lab/model"])
def test_a_repository_or_its_page_gets_a_hint(hub: Any, wanted: str) -> None:
    for ask in (pull, open_weights):
        with pytest.raises(WeightsError) as caught:
            ask(wanted)
        assert "hf://owner/repo/FILE" in caught.value.remedy
