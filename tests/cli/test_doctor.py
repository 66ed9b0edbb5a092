"""`imlctl doctor`: what it says of a sound machine, and of each thing that can be broken."""

from __future__ import annotations

import importlib.metadata
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

from imlctl.weights import registry

doctor_checks = sys.modules["imlctl.cli.doctor"]  # whose name is also that of the command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Run = Callable[..., Any]

PARTS = ("packages", "machine", "weights", "storage", "extras")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def untested(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the weights aside, which take longest."""
    monkeypatch.setattr(doctor_checks, "weights", lambda: ())


def by_name(well: bool = True) -> dict[str, Any]:
    parts = (getattr(doctor_checks, name) for name in PARTS)
    found = {check.name: check for part in parts for check in part()}
    assert well is not any(check.broken for check in found.values())
    return found


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


def test_a_network_that_is_forbidden_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = {check.name: check for check in doctor_checks.storage()}
    assert found["network"].says == "HF_HUB_OFFLINE is set: nothing is fetched"
    assert found["cache"].says == str(home / "cache" / "imlctl")


def test_a_package_that_is_missing_is_named_with_its_remedy(
    run: Run, untested: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = [("no-such-package", ""), ("numpy", "")]
    monkeypatch.setattr(doctor_checks, "requirements", lambda: needed)
    found = by_name(well=False)
    assert "ModuleNotFoundError" in found["no-such-package"].says
    assert found["no-such-package"].remedy == "pip install no-such-package"
    assert "numpy " in found["packages"].says
    ran = run("doctor")
    assert ran.code == 2
    assert ran.out.splitlines()[-1] == "Broken: no-such-package."
    assert "pip install no-such-package" in ran.out


def test_an_extra_that_is_missing_is_no_fault_and_says_how_to_add_it(
    run: Run, untested: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = [("no-such-package", "wings")]
    monkeypatch.setattr(doctor_checks, "requirements", lambda: needed)
    assert by_name()["[wings]"].remedy == 'Add it with: pip install "imlctl[wings]"'
    assert 'Add it with: pip install "imlctl[wings]"' in run("doctor").out


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


def test_damaged_weights_are_found(home: Path, package: Path) -> None:
    file = package / "bundled" / "diffiml.safetensors"
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)
    found = by_name(well=False)
    assert found["diffiml"].broken
    assert not found["efficientiml"].broken


def test_a_model_that_computes_wrongly_is_found(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imlctl.weights import selftest

    right = selftest.answer
    monkeypatch.setattr(selftest, "answer", lambda *given: right(*given) * 1.5)
    found = by_name(well=False)
    assert "fails its self-test" in found["efficientiml"].says


def test_a_registry_that_cannot_be_read_is_found(home: Path, package: Path) -> None:
    mine = home / "config" / "imlctl" / "weights.toml"
    mine.parent.mkdir(parents=True)
    mine.write_text("[weights", "utf-8")
    assert str(mine) in by_name(well=False)["registry"].says
    registry.load_registry.cache_clear()
    (package / "weights.toml").write_text("default = 3", "utf-8")
    assert by_name(well=False)["registry"].remedy == "Install imlctl again."


def test_a_device_that_computes_wrongly_is_found(
    untested: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "equal", lambda *_: False)
    assert "--device cpu" in by_name(well=False)["device"].remedy


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_folder_that_cannot_be_written_is_a_note(home: Path, untested: None) -> None:
    home.chmod(0o500)
    try:
        check = by_name()["cache"]
    finally:
        home.chmod(0o700)
    assert "XDG_CACHE_HOME" in check.remedy


def test_little_room_is_a_note(untested: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_checks, "_LITTLE_SPACE", 2**70)
    assert by_name()["disk"].remedy == "Free some space on that disk."


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("torch>=2.4", ("torch", "")),
        ('pillow-heif>=0.21; extra == "heif"', ("pillow-heif", "heif")),
        ("Ray[default]<3,>=2.9 ; extra == 'ray'", ("ray", "ray")),
        ("numpy", ("numpy", "")),
    ],
)
def test_requirements_are_read(
    line: str, expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: [line])
    assert doctor_checks.requirements() == [expected]


def test_sources_without_a_package_are_a_note(
    untested: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", absent)
    assert "pip install imlctl" in by_name()["imlctl"].remedy


COLOUR = re.compile(rb"\x1b\[[0-9;]*3[1-6]m")
UNWELL = """
import sys
from imlctl.cli import main
doctor_checks = sys.modules["imlctl.cli.doctor"]
doctor_checks.machine = doctor_checks.weights = doctor_checks.storage = lambda: ()
doctor_checks.requirements = lambda: [("no-such-package", "")]
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
