"""Checks of `imlctl doctor`: packages, machine, weights, folders, extras; none of them raises."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imlctl.cli.console import printable
from imlctl.errors import ImlctlError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imlctl.weights.registry import Entry


class State(StrEnum):
    """Outcome of a check."""

    WELL = "ok"
    NOTE = "note"  # worth knowing; all that was asked for works
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Check:
    """One check and its outcome.

    Attributes:
        group: ``packages``, ``machine``, ``weights``, ``storage`` or ``extras``.
        name: Of the thing, unique in its group.
        state: How it is.
        says: What was found, as a clause.
        remedy: What to do about it; empty where nothing needs doing.
        facts: The same for machines, JSON-serialisable.
    """

    group: str
    name: str
    state: State
    says: str
    remedy: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def _well(group: str, name: str, says: str, **facts: Any) -> Check:
    return Check(group, name, State.WELL, says, facts=facts)


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
        """Name by which Python imports it."""
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
    return _well("packages", name, version, version=version)


def extras() -> Iterator[Check]:
    """Check optional packages, and say how to install them."""
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
            yield _well("extras", extra, says, **facts)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with: 2.13.0+cpu is (2, 13, 0)."""
    leading = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    return tuple(map(int, leading[0].split("."))) if leading else ()


_LITTLE_SPACE = 2**30  # bytes; below this a scan of any size may fill the disk


def machine() -> Iterator[Check]:
    """The system, its processor and memory, and the device that ``auto`` picks."""
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    yield _well("machine", "system", system, system=system)
    memory = _memory()
    if memory:
        says = " of ".join(_gigabytes(size) for size in reversed(memory))
        facts = dict(zip(("bytes", "available_bytes"), memory, strict=False))
        yield _well("machine", "memory", f"{says} free", **facts)
    yield _guarded("machine", "device", _device)


def _device() -> Check:
    import torch

    from imlctl.bench.machine import processor
    from imlctl.device import available, describe, resolve
    from imlctl.process import cores

    device = resolve()
    facts = {
        "device": str(device),
        "available": list(available()),
        "cpu": processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
    }
    # Numbers that float16 and TF32 hold exactly, so that any device must get the same.
    values = torch.arange(16.0).view(4, 4)
    if not torch.equal((values.to(device) @ values.to(device)).cpu(), values @ values):
        remedy = "Use --device cpu, and look at the driver of the device."
        return Check("machine", "device", State.BROKEN, f"{device} computes wrongly", remedy, facts)
    says = f"{describe(device)}; {facts['cpu']}, cores: {facts['cores']}"
    return _well("machine", "device", f"{says}, threads: {facts['threads']}", **facts)


def _memory() -> tuple[int, ...]:
    """Bytes of memory, and how many of them are free, as far as the system says."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return ()
    try:
        listing = Path("/proc/meminfo").read_text("ascii")
    except OSError:  # macOS
        return (total,)
    free = re.search(r"MemAvailable:\s*(\d+) kB", listing)
    return (total, int(free[1]) * 1024) if free else (total,)


def weights() -> Iterator[Check]:
    """Hash and self-test of the bundled weights, and whether the user's registry can be read."""
    from imlctl.weights.registry import load_registry

    try:
        entries = load_registry().entries
    except ImlctlError as error:
        yield Check("weights", "registry", State.BROKEN, printable(error), "Install imlctl again.")
        return
    yield _guarded("weights", "registry", _registry)
    for entry in entries.values():
        if entry.source == "bundled":
            yield _guarded("weights", entry.name, partial(_tested, entry))


def _registry() -> Check:
    from imlctl.weights.pull import State as Whereabouts
    from imlctl.weights.pull import inventory

    items = inventory()
    here = sum(item.state is Whereabouts.HERE for item in items)
    says = f"{len(items)} weights known, {here} of them installed"
    return _well("weights", "registry", says, known=len(items), here=here)


def _tested(entry: Entry) -> Check:
    from imlctl.weights.load import load
    from imlctl.weights.selftest import check_on_first_use

    loaded = load(entry.path, name=entry.name, expected_sha256=entry.sha256)
    with tempfile.TemporaryDirectory() as nothing_passed_here:
        tested = check_on_first_use(loaded, Path(nothing_passed_here))
    says = f"sha256 {entry.sha256[:12]} verified, self-test {'passed' if tested else 'absent'}"
    return _well("weights", entry.name, says, sha256=entry.sha256)


def storage() -> Iterator[Check]:
    """Our folders and the Hub's, how much is in them, room on their disks, and the network."""
    from imlctl.weights.registry import user_folder

    for kind, folder in (("config", user_folder("config")), ("cache", user_folder("cache"))):
        yield _folder(kind, folder)
    yield _guarded("storage", "hub cache", _hub_cache)
    for name, place in (("disk", Path.cwd()), ("temporary", Path(tempfile.gettempdir()))):
        yield _guarded("storage", name, partial(_room, name, place))
    yield _guarded("storage", "network", _network)


def _folder(kind: str, folder: Path) -> Check:
    size = _size(folder)
    standing = next(p for p in (folder, *folder.parents) if p.exists())
    facts = {"path": str(folder), "bytes": size}
    says = f"{printable(folder)}, {_megabytes(size)}"
    if not standing.is_dir() or not os.access(standing, os.W_OK):
        remedy = f"Set XDG_{kind.upper()}_HOME to a folder that you may write to."
        return Check("storage", kind, State.NOTE, f"{says}, cannot be written", remedy, facts)
    return _well("storage", kind, says, **facts)


def _hub_cache() -> Check:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    size = _size(folder)
    says = f"{printable(folder)}, {_megabytes(size)}"
    return _well("storage", "hub cache", says, path=str(folder), bytes=size)


def _room(name: str, place: Path) -> Check:
    free = shutil.disk_usage(place).free
    facts = {"path": str(place), "free_bytes": free}
    says = f"{_gigabytes(free)} free in {printable(place)}"
    if free < _LITTLE_SPACE:
        return Check("storage", name, State.NOTE, says, "Free some space on that disk.", facts)
    return _well("storage", name, says, **facts)


def _network() -> Check:
    from huggingface_hub import constants

    offline = bool(constants.HF_HUB_OFFLINE)
    says = (
        "HF_HUB_OFFLINE is set: nothing is fetched"
        if offline
        else "HF_HUB_OFFLINE is not set; this command uses no network"
    )
    return _well("storage", "network", says, offline=offline)


def _size(folder: Path) -> int:
    """Bytes of the files below a folder; links, which the Hub's cache is full of, count nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            with suppress(OSError):  # gone in the meantime
                total += 0 if path.is_symlink() else path.stat().st_size
    return total


def _guarded(group: str, name: str, check: Callable[[], Check]) -> Check:
    """Run a check; what it raises is what it found."""
    try:
        return check()
    except ImlctlError as error:
        return Check(group, name, State.BROKEN, printable(error), error.remedy)
    except Exception as error:  # of a library that is broken
        says = printable(f"failed ({type(error).__name__}: {error})")
        return Check(group, name, State.BROKEN, says, "Install imlctl again.")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
