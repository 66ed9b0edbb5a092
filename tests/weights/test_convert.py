"""Pickles: refused everywhere, and converted in a process of their own."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from imlctl.errors import OutputError, WeightsError
from imlctl.weights import convert as converting
from imlctl.weights.convert import convert

if TYPE_CHECKING:
    from pathlib import Path

SHARED = torch.arange(6.0)
STATE = OrderedDict(
    {
        "a.weight": SHARED.view(2, 3),
        "tied": SHARED.view(2, 3),
        "turned": SHARED.view(2, 3).T,
        "half": torch.ones(2, dtype=torch.bfloat16),
        "count": torch.tensor(3),
    }
)


def in_process(source: Path, target: Path, part: str = "") -> dict[str, Any]:
    return converting.unpickle(str(source), str(target), part)


def saved(folder: Path, content: Any) -> Path:
    path = folder / "w.pt"
    torch.save(content, path)
    return path


def same(path: Path) -> bool:
    found = load_file(path)
    return found.keys() == STATE.keys() and all(
        torch.equal(found[k], STATE[k]) and found[k].dtype == STATE[k].dtype for k in STATE
    )


class Harm:
    """What a hostile pickle does when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, int]]:
        return os.mkdir, (str(self.path), 0o700)


def test_end_to_end(tmp_path: Path) -> None:
    source, target = saved(tmp_path, STATE), tmp_path / "w.safetensors"
    done = convert(source, target)
    assert same(target)
    assert (done.tensors, done.left_out) == (len(STATE), ())
    assert done.sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
    with safe_open(target, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    with pytest.raises(OutputError, match="already there"):
        convert(source, target)


def test_a_hostile_pickle_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = tmp_path / "harmed"
    source = tmp_path / "w.bin"
    source.write_bytes(pickle.dumps({"weight": Harm(mark)}))
    monkeypatch.setattr("sys.argv", ["unpickle", str(source), str(tmp_path / "w.safetensors"), ""])
    converting.main()
    assert "cannot be read as tensors" in json.loads(capsys.readouterr().out)["error"]
    assert not mark.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["w.bin"]
    pickle.loads(source.read_bytes())  # noqa: S301 - it would have been done
    assert mark.exists()


def test_the_process_has_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def run(command: list[str], **options: Any) -> Any:
        seen.update(options, command=command)
        raise RuntimeError("enough")

    monkeypatch.setenv("HF_TOKEN", "hf_ofmine")
    monkeypatch.setattr("subprocess.run", run)
    with pytest.raises(RuntimeError, match="enough"):
        convert(saved(tmp_path, STATE), tmp_path / "w.safetensors")
    assert "HF_TOKEN" not in seen["env"]
    assert "PATH" in seen["env"]
    assert "-P" in seen["command"]  # no module of the current folder is taken for torch


def test_what_is_no_file_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converting, "_run", pytest.fail)
    pipe = tmp_path / "pipe.pt"
    os.mkfifo(pipe)
    for path, words in (
        (pipe, "not a regular file"),
        (tmp_path, "not a regular file"),
        (tmp_path / "gone.pt", "No such file"),
    ):
        with pytest.raises(WeightsError, match=f"{path}: cannot be read .{words}"):
            convert(path, tmp_path / "w.safetensors")


def test_a_process_that_dies_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(WeightsError, match=r"ended the process that read it \(status 1") as caught:
        convert(saved(tmp_path, STATE), tmp_path / "w.safetensors")
    assert "Nothing was written" in caught.value.remedy
    assert [p.name for p in tmp_path.iterdir()] == ["w.pt"]


@pytest.mark.parametrize("key", ["state_dict", "model", "anything"])
def test_a_checkpoint_with_one_set_of_tensors(key: str, tmp_path: Path) -> None:
    source = saved(tmp_path, {key: STATE, "epoch": 3, "settings": {"rate": 0.1}})
    in_process(source, tmp_path / "w.safetensors")
    assert same(tmp_path / "w.safetensors")


def test_a_checkpoint_with_several(tmp_path: Path) -> None:
    source, target = saved(tmp_path, {"model": STATE, "ema": STATE}), tmp_path / "w.safetensors"
    with pytest.raises(converting.ContentError, match="'ema', 'model'; choose with --part"):
        in_process(source, target)
    with pytest.raises(converting.ContentError, match="no set of tensors 'best'"):
        in_process(source, target, "best")
    in_process(source, target, "ema")
    assert same(target)


def test_what_is_no_tensor_is_left_out_and_named(tmp_path: Path) -> None:
    source = saved(
        tmp_path, {"w": torch.ones(2), "deep": {"v": torch.zeros(1), "note": "x"}, "n": 3}
    )
    report = in_process(source, tmp_path / "w.safetensors")
    assert report == {"tensors": 2, "left_out": ["deep.note", "n"]}
    assert load_file(tmp_path / "w.safetensors").keys() == {"w", "deep.v"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.ones(1)], "holds a list"),
        ({"epoch": 3}, "holds no tensors"),
        ({}, "holds no tensors"),
        ({"w": torch.eye(2).to_sparse()}, "'w' in a layout"),
    ],
)
def test_what_cannot_be_written(content: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(converting.ContentError, match=words):
        in_process(saved(tmp_path, content), tmp_path / "w.safetensors")


def test_a_single_tensor(tmp_path: Path) -> None:
    in_process(saved(tmp_path, torch.ones(2)), tmp_path / "w.safetensors")
    assert load_file(tmp_path / "w.safetensors").keys() == {"tensor"}


def test_the_report_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = str(tmp_path / "w.safetensors")
    for content, words in (({"n": 1}, '"holds no tensors"'), (STATE, '"tensors": 5')):
        monkeypatch.setattr("sys.argv", ["unpickle", str(saved(tmp_path, content)), target, ""])
        converting.main()
        assert words in capsys.readouterr().out
    (tmp_path / "w.pt").write_bytes(b"no pickle")
    converting.main()
    assert "cannot be read as tensors" in capsys.readouterr().out


def test_the_target_must_say_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"must end in \.safetensors"):
        convert(saved(tmp_path, STATE), tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"gone\.pt: cannot be read"):
        convert(tmp_path / "gone.pt", tmp_path / "w.safetensors")
