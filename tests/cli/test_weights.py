"""`imlctl weights` as a user meets it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from imlctl.errors import Exit
from imlctl.weights.registry import load_registry, to_toml, user_registry_path

CONTENT = b"of no architecture" * 999
SHA256 = hashlib.sha256(CONTENT).hexdigest()
TEXT = "hf://lab/model@v1/w.bin"


@pytest.fixture
def hub(hub: Any) -> Any:
    hub.repo("lab/model").commit({"w.bin": CONTENT}, ref="v1")
    return hub


def register(name: str, **values: str) -> None:
    """Write an entry into the user's registry, as a person does."""
    path = user_registry_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_toml(f"[weights.{name}]", values), "utf-8")


def test_list(run, hub):
    ran = run("weights", "list")
    assert ran.code == Exit.OK
    for name in load_registry().entries:
        assert name in ran.out
    assert "(default)" in ran.out
    assert hub.log == []


def test_show(run, hub):
    default = load_registry().default
    ran = run("weights", "show", default)
    assert ran.code == Exit.OK
    shown = json.loads(ran.out)
    assert shown["holds"]["architecture"] == "efficient-iml"
    assert shown["holds"]["rule"]["manipulated"] > 0
    restricted = run("weights", "show", "mit-b0").out
    assert "commercial use" in restricted
    assert "no hash verified" in restricted


def test_pull_verify_and_what_a_change_is_called(run, hub):
    refused = run("weights", "pull", TEXT)
    assert refused.code == Exit.USAGE
    assert "--trust-on-first-use" in refused.err
    ran = run("weights", "pull", TEXT, "--trust-on-first-use")
    assert ran.code == Exit.OK
    assert f"sha256 {SHA256} (checked: first use)" in ran.out
    assert "is a pickle" in ran.err
    hub.log.clear()
    assert run("weights", "verify").code == Exit.OK
    assert run("weights", "verify", TEXT).out.count("intact") == 1
    path = Path(ran.out.splitlines()[0].removeprefix(f"{TEXT}: "))
    path.resolve().write_bytes(b"changed")
    changed = run("weights", "verify")
    assert changed.code == Exit.USAGE
    assert "CHANGED" in changed.out
    assert SHA256 in changed.err
    assert hashlib.sha256(b"changed").hexdigest() in changed.err
    assert path.read_bytes() == b"changed"
    assert hub.log == []


def test_verify_what_is_named_and_absent(run, hub):
    assert run("weights", "verify", "taesd").code == Exit.USAGE
    assert run("weights", "verify", load_registry().default).code == Exit.OK


def test_quiet_pull_says_nothing_on_standard_error(run, hub):
    hub.repo("lab/model").commit({"w.safetensors": CONTENT}, ref="v1")
    ran = run("weights", "pull", "hf://lab/model@v1/w.safetensors", "--sha256", SHA256, "-q")
    assert (ran.code, ran.err) == (Exit.OK, "")
    assert "checked: given" in ran.out


def test_one_hash_is_for_one_file(run, hub):
    ran = run("weights", "pull", TEXT, TEXT, "--sha256", SHA256)
    assert ran.code == Exit.USAGE
    assert "belongs to one file" in ran.err


def test_a_restricted_licence_is_told_once(run, hub):
    hub.repo("lab/model").commit({"w.bin": CONTENT})
    where = {"source": "hub", "repo": "lab/model", "file": "w.bin", "kind": "encoder"}
    register("lab", **where, licence="NC", restriction="it forbids trade")
    assert "it forbids trade" in run("weights", "pull", "lab", "--trust-on-first-use").err
    assert "it forbids trade" not in run("weights", "pull", "lab").err


def test_registered_weights_localize_by_name(run, hub, weights, photos):
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    register("mine", source="file", file=str(weights), sha256=digest, licence="MIT")
    ran = run("localize", photos / "a.jpg", "--weights", "mine", "--json")
    assert ran.code == Exit.OK
    assert json.loads(ran.out)["model"] == "mine"


def test_pulled_weights_localize_by_reference_and_without_the_hub(run, hub, weights, photos):
    text = "hf://lab/model@v2/w.safetensors"
    hub.repo("lab/model").commit({"w.safetensors": weights.read_bytes()}, ref="v2")
    before = run("localize", photos / "a.jpg", "--weights", text)
    assert before.code == Exit.USAGE
    assert f"imlctl weights pull {text}" in before.err
    assert run("weights", "pull", text, "--trust-on-first-use").code == Exit.OK
    hub.log.clear()
    ran = run("localize", photos / "a.jpg", "--weights", text, "--json")
    assert json.loads(ran.out)["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert hub.log == []


def test_convert(run, hub, tmp_path, monkeypatch):
    from imlctl.weights import convert as converting

    def in_this_process(source: Path, target: Path, part: str) -> dict[str, Any]:
        return converting.unpickle(str(source), str(target), part)

    monkeypatch.setattr("imlctl.weights.convert._run", in_this_process)
    source, target = tmp_path / "w.pt", tmp_path / "w.safetensors"
    torch.save({"w": torch.ones(2), "epoch": 3}, source)
    ran = run("weights", "convert", source, target)
    assert ran.code == Exit.OK
    assert hashlib.sha256(target.read_bytes()).hexdigest() in ran.out
    assert "epoch" in ran.err


LIGHT = """
import sys
from imlctl.cli import main
sys.argv = ["imlctl", *{arguments}]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = {heavy} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["weights", "--help"], {"torch", "cv2", "numpy", "safetensors", "huggingface_hub"}),
        (["weights", "pull", "--help"], {"torch", "cv2", "numpy", "huggingface_hub"}),
        (["weights", "list"], {"torch", "cv2", "numpy"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_loads_no_model_imports_nothing_heavy(arguments, heavy, tmp_path, hub):
    code = LIGHT.format(arguments=arguments, heavy=heavy)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
