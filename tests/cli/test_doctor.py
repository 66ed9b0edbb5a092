"""`imlctl doctor`: what it says of a sound machine, and of each thing that can be broken."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from huggingface_hub import constants

from imlctl.cli.doctor import Requirement
from imlctl.weights import registry

doctor_checks = sys.modules["imlctl.cli.doctor"]  # whose name is also that of the command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Run = Callable[..., Any]

GROUPS = {"packages", "machine", "weights", "storage", "extras"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def untested(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the weights aside, which take longest."""
    monkeypatch.setattr(doctor_checks, "weights", lambda: ())


def by_name(run: Run, code: int = 0) -> dict[str, Any]:
    ran = run("doctor", "--json")
    assert (ran.code, ran.err) == (code, "")
    document = json.loads(ran.out)
    assert (document["kind"], document["version"]) == ("doctor", 1)
    assert document["well"] == (code == 0)
    return {check["name"]: check for check in document["checks"]}


def test_a_sound_machine_is_said_to_be_well_in_one_screen(run: Run, home: Path) -> None:
    ran = run("doctor")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[-1] == "All is well."
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in ran.out  # no colours in a pipe
    for word in ("torch", "efficientiml", "diffiml", "self-test passed", "[heif]", "cpu"):
        assert word in ran.out
    assert list(home.iterdir()) == []  # it changes nothing


def test_narrow_terminals_lose_nothing(
    run: Run, untested: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    ran = run("doctor")
    assert max(map(len, ran.out.splitlines()[1:])) <= 40
    assert torch.__version__ in "".join(ran.out.split())


def test_json_holds_the_facts(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = home / "cache" / "imlctl"
    cache.mkdir(parents=True)
    (cache / "some.json").write_bytes(b"x" * 1234)
    (cache / "link.json").symlink_to(cache / "some.json")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = by_name(run)
    assert {check["group"] for check in found.values()} == GROUPS
    assert found["torch"]["facts"] == {"version": torch.__version__}
    assert found["cache"]["facts"] == {"path": str(cache), "bytes": 1234}
    assert found["device"]["facts"]["device"] in ("cpu", "cuda", "mps", "xpu")
    assert found["device"]["facts"]["available"][-1] == "cpu"
    free = shutil.disk_usage(Path.cwd()).free
    assert found["disk"]["facts"]["free_bytes"] == pytest.approx(free, rel=0.2)
    assert found["network"]["facts"] == {"offline": True}
    known = registry.load_registry().entries
    assert found["efficientiml"]["facts"] == {"sha256": known["efficientiml"].sha256}
    assert found["registry"]["facts"]["known"] == len(known)


def test_a_package_that_is_missing_or_too_old_is_named_with_its_remedy(
    run: Run, untested: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = [Requirement("no-such-package", "1.2", ""), Requirement("numpy", "99.0", "")]
    monkeypatch.setattr(doctor_checks, "requirements", lambda: needed)
    found = by_name(run, code=2)
    assert "ModuleNotFoundError" in found["no-such-package"]["says"]
    assert found["no-such-package"]["remedy"] == 'pip install "no-such-package>=1.2"'
    assert found["numpy"]["says"].endswith("is older than 99.0")
    ran = run("doctor")
    assert ran.code == 2
    assert ran.out.splitlines()[-1] == "Broken: no-such-package, numpy."
    assert 'pip install "numpy>=99.0"' in ran.out


def test_an_extra_that_is_missing_is_no_fault_and_says_how_to_add_it(
    run: Run, untested: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = [Requirement("no-such-package", "1.2", "wings")]
    monkeypatch.setattr(doctor_checks, "requirements", lambda: needed)
    check = by_name(run)["wings"]
    assert (check["state"], check["remedy"]) == ("note", 'pip install "imlctl[wings]"')
    assert 'add it with: pip install "imlctl[wings]"' in run("doctor").out


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of what is bundled, which may be damaged."""
    copy = tmp_path / "package"
    shutil.copytree(registry._PACKAGE / "bundled", copy / "bundled")
    shutil.copy(Path(__file__).parents[2] / "weights.toml", copy)
    monkeypatch.setattr(registry, "_PACKAGE", copy)
    registry.load_registry.cache_clear()
    yield copy
    registry.load_registry.cache_clear()


def test_damaged_weights_are_found(run: Run, home: Path, package: Path) -> None:
    file = package / "bundled" / "diffiml.safetensors"
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)
    found = by_name(run, code=2)
    assert found["diffiml"]["state"] == "broken"
    assert found["efficientiml"]["state"] == "ok"


def test_a_model_that_computes_wrongly_is_found(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imlctl.weights import selftest

    right = selftest.answer
    monkeypatch.setattr(selftest, "answer", lambda *given: right(*given) * 1.5)
    found = by_name(run, code=2)
    assert "fails its self-test" in found["efficientiml"]["says"]


def test_a_registry_that_cannot_be_read_is_found(run: Run, home: Path, package: Path) -> None:
    mine = home / "config" / "imlctl" / "weights.toml"
    mine.parent.mkdir(parents=True)
    mine.write_text("[weights", "utf-8")
    assert str(mine) in by_name(run, code=2)["registry"]["says"]
    registry.load_registry.cache_clear()
    (package / "weights.toml").write_text("default = 3", "utf-8")
    assert by_name(run, code=2)["registry"]["remedy"] == "Install imlctl again."


def test_a_device_that_computes_wrongly_is_found(
    run: Run, untested: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "equal", lambda *_: False)
    assert "--device cpu" in by_name(run, code=2)["device"]["remedy"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_folder_that_cannot_be_written_is_a_note(run: Run, home: Path, untested: None) -> None:
    home.chmod(0o500)
    try:
        check = by_name(run)["cache"]
    finally:
        home.chmod(0o700)
    assert check["state"] == "note"
    assert "XDG_CACHE_HOME" in check["remedy"]


def test_little_room_is_a_note(run: Run, untested: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_checks, "_LITTLE_SPACE", 2**70)
    check = by_name(run)["disk"]
    assert (check["state"], check["remedy"]) == ("note", "Free some space on that disk.")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("torch>=2.4", Requirement("torch", "2.4", "")),
        ('pillow-heif>=0.21; extra == "heif"', Requirement("pillow-heif", "0.21", "heif")),
        ("Ray[default]<3,>=2.9 ; extra == 'ray'", Requirement("ray", "2.9", "ray")),
        ("numpy", Requirement("numpy", "", "")),
    ],
)
def test_requirements_are_read(
    line: str, expected: Requirement, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_checks.metadata, "requires", lambda _: [line])
    assert doctor_checks.requirements() == [expected]


def test_sources_without_a_package_are_a_note(
    run: Run, untested: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> list[str]:
        raise doctor_checks.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor_checks.metadata, "requires", absent)
    assert by_name(run)["imlctl"]["state"] == "note"


COLOUR = re.compile(rb"\x1b\[[0-9;]*3[1-6]m")
UNWELL = """
import sys
from imlctl.cli import main
doctor_checks = sys.modules["imlctl.cli.doctor"]
Requirement = doctor_checks.Requirement
doctor_checks.machine = doctor_checks.weights = doctor_checks.storage = lambda: ()
doctor_checks.requirements = lambda: [Requirement("no-such-package", "1.2", "")]
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such terminals")
@pytest.mark.parametrize(("variable", "coloured"), [("", True), ("1", False)])
def test_colours_are_for_terminals_and_no_color_turns_them_off(
    variable: str, coloured: bool
) -> None:
    spawn = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"
    ran = subprocess.run(
        [sys.executable, "-c", spawn, sys.executable, "-c", UNWELL, "doctor"],
        env=os.environ | {"TERM": "xterm-256color", "NO_COLOR": variable},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert ran.returncode == 2
    assert b"Broken: no-such-package." in ran.stdout
    assert bool(COLOUR.search(ran.stdout)) == coloured
