"""Files that travel in the wheel beside the code, and TOML files of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from imlctl.errors import ConfigError


def _folder(name: str) -> Path:
    """Return a folder of the package, or of the checkout that the package runs from."""
    package = Path(__file__).parent
    installed = package / name
    return installed if installed.is_dir() else package.parents[1] / name


def presets() -> dict[str, Path]:
    """Return the built-in training presets by name."""
    return {path.stem: path for path in sorted(_folder("configs").glob("*.toml"))}


def find_preset(wanted: str | Path) -> Path:
    """Return a preset's file, from its path or, if built in, its name; ConfigError for neither."""
    path = Path(wanted)
    if path.exists() and not path.is_dir():
        return path
    known = presets()
    if str(wanted) in known:
        return known[str(wanted)]
    what = "there is no such file, and no built-in preset of this name"
    raise ConfigError(what, source=str(wanted), remedy=f"Built-in presets: {', '.join(known)}.")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; ConfigError if it cannot be read, or is not valid, which says where."""
    import tomllib  # of which most commands need nothing

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})", source=str(path)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"is not valid TOML: {error}", source=str(path)) from error


def example() -> Path:
    """Return the example photograph, a forgery; its true mask lies beside it."""
    return _folder("examples") / "launchpad.jpg"
