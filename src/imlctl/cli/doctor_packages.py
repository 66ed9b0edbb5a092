"""The packages that `imlctl doctor` looks at: those that we need, and those of extras."""

from __future__ import annotations

import importlib
import platform
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from imlctl.cli.check import Check, State
from imlctl.cli.console import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

_LEAST_PYTHON = (3, 11)
_MODULES = {"opencv-python-headless": "cv2", "pillow": "PIL"}  # the others are called as they are
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)[^>;]*(?:>=\s*([0-9.]+))?[^;]*(?:;(.*))?")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")


@dataclass(frozen=True, slots=True)
class Requirement:
    """A package that we name, with the least version, and the extra that it belongs to."""

    package: str
    least: str
    extra: str

    @property
    def module(self) -> str:
        """What Python imports it as."""
        return _MODULES.get(self.package, self.package.replace("-", "_"))


def requirements() -> list[Requirement]:
    """Return what the installed package requires; nothing where only its sources are there."""
    try:
        lines = metadata.requires("imlctl") or []
    except metadata.PackageNotFoundError:
        return []
    found = []
    for line in lines:
        matched, extra = _REQUIREMENT.match(line), _EXTRA.search(line)
        if matched:
            name = matched[1].lower()
            found.append(Requirement(name, matched[2] or "", extra[1] if extra else ""))
    return found


def packages() -> Iterator[Check]:
    """Python itself, and whether every package that we cannot do without can be imported."""
    version = platform.python_version()
    old = sys.version_info < _LEAST_PYTHON
    yield Check(
        "packages",
        "python",
        State.BROKEN if old else State.WELL,
        version,
        "Install Python 3.11 or newer." if old else "",
        {"version": version, "executable": sys.executable},
    )
    required = [r for r in requirements() if not r.extra]
    if not required:
        yield Check("packages", "imlctl", State.NOTE, "is not installed, only its sources are here")
    for requirement in required:
        yield _imported(requirement)


def _imported(requirement: Requirement) -> Check:
    name = requirement.package
    remedy = f'pip install "{name}>={requirement.least}"' if requirement.least else ""
    try:
        module = importlib.import_module(requirement.module)
    except Exception as error:  # a broken library fails in ways of its own
        says = f"cannot be imported ({type(error).__name__}: {error})"
        return Check("packages", name, State.BROKEN, printable(says), remedy, {"version": None})
    version = _version(name) or str(getattr(module, "__version__", ""))
    if _numbers(version) < _numbers(requirement.least):
        says = f"{version} is older than {requirement.least}"
        return Check("packages", name, State.BROKEN, says, remedy, {"version": version})
    return Check("packages", name, State.WELL, version, "", {"version": version})


def extras() -> Iterator[Check]:
    """What else can be installed, and how."""
    wanted: dict[str, list[Requirement]] = {}
    for requirement in requirements():
        if requirement.extra:
            wanted.setdefault(requirement.extra, []).append(requirement)
    for extra, members in wanted.items():
        versions = {r.package: _version(r.package) for r in members}
        command = f'pip install "imlctl[{extra}]"'
        facts = {"versions": versions}
        missing = [name for name, version in versions.items() if not version]
        old = [r.package for r in members if _numbers(versions[r.package]) < _numbers(r.least)]
        if missing:
            says = f"not installed; add it with: {command}"
            yield Check("extras", extra, State.NOTE, says, command, facts)
        elif old:
            says = f"{', '.join(old)} is too old; renew it with: {command}"
            yield Check("extras", extra, State.NOTE, says, command, facts)
        else:
            says = ", ".join(f"{name} {version}" for name, version in versions.items())
            yield Check("extras", extra, State.WELL, says, "", facts)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with: 2.13.0+cpu is (2, 13, 0)."""
    leading = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    return tuple(map(int, leading[0].split("."))) if leading else ()
