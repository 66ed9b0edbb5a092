from __future__ import annotations

from pathlib import Path

import pytest

from imlctl import resources
from imlctl.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]


def test_presets_and_example_are_those_of_the_checkout() -> None:
    names = {path.stem for path in (ROOT / "configs").glob("*.toml")}
    assert set(resources.presets()) == names
    assert {"efficientiml", "diffiml", "distill"} <= names
    assert resources.example().samefile(ROOT / "examples" / "launchpad.jpg")
    assert resources.example().with_name("launchpad_mask.png").is_file()


def test_in_a_wheel_they_lie_in_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "imlctl"
    (package / "configs").mkdir(parents=True)
    (package / "configs" / "only.toml").write_text("")
    monkeypatch.setattr(resources, "__file__", str(package / "resources.py"))
    assert resources.presets() == {"only": package / "configs" / "only.toml"}


def test_a_preset_is_found_by_path_before_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resources.find_preset("diffiml").samefile(ROOT / "configs" / "diffiml.toml")
    Path("starter").mkdir()
    assert resources.find_preset("starter").samefile(ROOT / "configs" / "starter.toml")
    Path("diffiml").write_text("")
    assert resources.find_preset(Path("diffiml")) == Path("diffiml")


def test_an_unknown_preset_is_answered_with_the_known_names() -> None:
    with pytest.raises(ConfigError, match="no built-in preset") as raised:
        resources.find_preset("no-such")
    assert "no-such" in str(raised.value)
    assert "efficientiml" in raised.value.remedy
