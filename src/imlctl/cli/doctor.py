"""`imlctl doctor`: check packages, machine, weights, folders and extras."""

from __future__ import annotations

import importlib
import json as json_module
import os
import platform
import re
import shutil
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from imlctl import __version__
from imlctl.cli.console import printable
from imlctl.errors import ConfigError, Exit, ImlctlError, first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imlctl.weights.registry import Entry

    Answer = tuple[str, dict[str, Any]] | tuple[str, dict[str, Any], str]

_JSON_VERSION = 1
_LITTLE_SPACE = 2**30  # bytes; below this a scan of any size may fill the disk
_MODULES = {"opencv-python-headless": "cv2", "pillow": "PIL"}  # the others are called as they are
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)[^>;]*(?:>=\s*([0-9.]+))?[^;]*(?:;(.*))?")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")


class State(StrEnum):
    """Outcome of a check."""

    WELL = "ok"
    NOTE = "note"  # worth knowing; all that was asked for works
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Check:
    """One check and its outcome."""

    group: str  # ``packages``, ``machine``, ``weights``, ``storage`` or ``extras``
    name: str  # of the thing, unique in its group
    state: State  # how it is
    says: str  # what was found, as a clause
    remedy: str = ""  # what to do about it; empty where nothing needs doing
    facts: dict[str, Any] = field(default_factory=dict)  # the same for machines, JSON-serialisable


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a page.")] = False,
) -> None:
    """Check this installation, and test the bundled weights.

    Looks at packages, device, memory, folders and extras, offline; changes nothing.

    Exit status: 0 when all is well, 2 when something necessary is broken.
    """
    checks = [*packages(), *machine(), *weights(), *storage(), *extras()]
    broken = [check.name for check in checks if check.state is State.BROKEN]
    if json:
        document = {
            "kind": "doctor",
            "version": _JSON_VERSION,
            "imlctl": __version__,
            "well": not broken,
            "checks": [asdict(check) for check in checks],
        }
        typer.echo(json_module.dumps(document, indent=2, allow_nan=False))
    else:
        _print(checks)
        typer.echo(f"Broken: {', '.join(broken)}." if broken else "All is well.")
    if broken:
        raise typer.Exit(Exit.USAGE)


def _print(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False, emoji=False)
    console.print(f"imlctl {__version__} in {printable(Path(__file__).parents[1])}")
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    sound = [c for c in checks if c.group == "packages" and c.state is State.WELL]
    table.add_row("packages", ", ".join(f"{c.name} {c.says}" for c in sound))  # on one line
    for check in (c for c in checks if c not in sound):
        name = f"[{check.name}]" if check.group == "extras" else check.name
        link = "; add it with: " if check.group == "extras" else ". "
        says = f"{check.says}{link}{check.remedy}" if check.remedy else check.says
        if check.state is State.BROKEN:
            table.add_row(name, f"broken: {says}", style="bold red")
        else:
            table.add_row(name, says, style="yellow" if check.state is State.NOTE else "")
    console.print(table)


def _check(group: str, name: str, examine: Callable[..., Answer], *given: Any) -> Check:
    """Run a check: what it raises is broken, what it has a remedy for is a note."""
    try:
        says, facts, *remedy = examine(*given)
    except ImlctlError as error:
        says = f"{error.source}: {error.what}" if error.source else error.what
        return Check(group, name, State.BROKEN, printable(says), error.remedy)
    except Exception as error:  # of a library that is broken
        says = printable(f"failed ({type(error).__name__}: {first_line(error)})")
        return Check(group, name, State.BROKEN, says, "Install imlctl again.")
    state = State.NOTE if remedy else State.WELL
    return Check(group, name, state, says, "".join(remedy), facts)


class Requirement(NamedTuple):
    """A package that we name, with the least version, and the extra that it belongs to."""

    package: str
    least: str
    extra: str


def requirements() -> list[Requirement]:
    """Return what the installed package requires; nothing where only its sources are there."""
    try:
        lines = metadata.requires("imlctl") or []
    except metadata.PackageNotFoundError:
        return []
    found = []
    for line in lines:
        if matched := _REQUIREMENT.match(line):
            extra = _EXTRA.search(line)
            name = matched[1].lower()
            found.append(Requirement(name, matched[2] or "", extra[1] if extra else ""))
    return found


def packages() -> Iterator[Check]:
    """Python itself, and whether every package that we cannot do without can be imported."""
    version = platform.python_version()
    facts = {"version": version, "executable": sys.executable}
    yield Check("packages", "python", State.WELL, version, facts=facts)
    required = [each for each in requirements() if not each.extra]
    if not required:
        yield Check("packages", "imlctl", State.NOTE, "is not installed, only its sources are here")
    for each in required:
        yield _check("packages", each.package, _package, each)


def _package(wanted: Requirement) -> Answer:
    name = wanted.package
    remedy = f'pip install "{name}>={wanted.least}"' if wanted.least else f"pip install {name}"
    try:
        module = importlib.import_module(_MODULES.get(name, name.replace("-", "_")))
    except Exception as error:  # a broken library fails in ways of its own
        what = f"cannot be imported ({type(error).__name__}: {error})"
        raise ConfigError(what, remedy=remedy) from error
    version = _version(name) or str(getattr(module, "__version__", ""))
    if _numbers(version) < _numbers(wanted.least):
        raise ConfigError(f"{version} is older than {wanted.least}", remedy=remedy)
    return version, {"version": version}


def extras() -> Iterator[Check]:
    """Check optional packages, and say how to install them."""
    optional = [each for each in requirements() if each.extra]
    for extra, members in groupby(optional, lambda each: each.extra):
        yield _check("extras", extra, _extra, extra, list(members))


def _extra(extra: str, members: list[Requirement]) -> Answer:
    command = f'pip install "imlctl[{extra}]"'
    versions = {each.package: _version(each.package) for each in members}
    facts = {"versions": versions}
    if not all(versions.values()):
        return "not installed", facts, command
    old = [e.package for e in members if _numbers(versions[e.package]) < _numbers(e.least)]
    if old:
        return f"{', '.join(old)} too old", facts, command
    return ", ".join(f"{name} {version}" for name, version in versions.items()), facts


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with: 2.13.0+cpu is (2, 13, 0)."""
    leading = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    return tuple(map(int, leading[0].split("."))) if leading else ()


def machine() -> Iterator[Check]:
    """The system, its memory, and the device that ``auto`` picks."""
    from imlctl.process import free_memory

    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    yield Check("machine", "system", State.WELL, system, facts={"system": system})
    if free := free_memory():
        facts = {"available_bytes": free}
        yield Check("machine", "memory", State.WELL, f"{free / 1e9:.1f} GB free", facts=facts)
    yield _check("machine", "device", _device)


def _device() -> Answer:
    import torch

    from imlctl.bench.machine import processor
    from imlctl.device import available, describe, resolve
    from imlctl.process import cores

    device, threads = resolve(), torch.get_num_threads()
    # Numbers that float16 and TF32 hold exactly, so that any device must get the same.
    values = torch.arange(16.0).view(4, 4)
    if not torch.equal((values.to(device) @ values.to(device)).cpu(), values @ values):
        remedy = "Use --device cpu, and look at the driver of the device."
        raise ConfigError(f"{device} computes wrongly", remedy=remedy)
    says = f"{describe(device)}; {processor()}, cores: {cores()}, threads: {threads}"
    facts = {"device": str(device), "available": list(available())}
    return says, {**facts, "cpu": processor(), "cores": cores(), "threads": threads}


def weights() -> Iterator[Check]:
    """Hash and self-test of the bundled weights, and whether the user's registry can be read."""
    from imlctl.weights.registry import load_registry

    try:
        entries = load_registry().entries
    except ImlctlError as error:
        yield Check("weights", "registry", State.BROKEN, printable(error), "Install imlctl again.")
        return
    yield _check("weights", "registry", _registry)
    for entry in entries.values():
        if entry.source == "bundled":
            yield _check("weights", entry.name, _tested, entry)


def _registry() -> Answer:
    from imlctl.weights.pull import State as Whereabouts
    from imlctl.weights.pull import inventory

    items = inventory()
    here = sum(item.state is Whereabouts.HERE for item in items)
    says = f"{len(items)} weights known, {here} of them installed"
    return says, {"known": len(items), "here": here}


def _tested(entry: Entry) -> Answer:
    from imlctl.weights.load import load
    from imlctl.weights.selftest import check_on_first_use

    loaded = load(entry.path, name=entry.name, expected_sha256=entry.sha256)
    with tempfile.TemporaryDirectory() as nothing_passed_here:
        tested = check_on_first_use(loaded, Path(nothing_passed_here))
    says = f"sha256 {entry.sha256[:12]} verified, self-test {'passed' if tested else 'absent'}"
    return says, {"sha256": entry.sha256}


def storage() -> Iterator[Check]:
    """Our folders and the Hub's, how much is in them, room on this disk, and the network."""
    from imlctl.weights.registry import user_folder

    for kind in ("config", "cache"):
        yield _check("storage", kind, _folder, user_folder(kind), f"XDG_{kind.upper()}_HOME")
    yield _check("storage", "hub cache", _hub)
    yield _check("storage", "disk", _disk)
    yield _check("storage", "network", _network)


def _folder(folder: Path, variable: str = "") -> Answer:
    """Say how large a folder is; links, which the Hub's cache is full of, count nothing."""
    size = 0
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            with suppress(OSError):  # gone in the meantime
                size += 0 if path.is_symlink() else path.stat().st_size
    facts = {"path": str(folder), "bytes": size}
    says = f"{printable(folder)}, {size / 1e6:.1f} MB"
    standing = next(path for path in (folder, *folder.parents) if path.exists())
    if variable and not (standing.is_dir() and os.access(standing, os.W_OK)):
        remedy = f"Set {variable} to a folder that you may write to."
        return f"{says}, cannot be written", facts, remedy
    return says, facts


def _hub() -> Answer:
    from huggingface_hub import constants

    return _folder(Path(constants.HF_HUB_CACHE))


def _disk() -> Answer:
    free = shutil.disk_usage(Path.cwd()).free
    says, facts = f"{free / 1e9:.1f} GB free in {printable(Path.cwd())}", {"free_bytes": free}
    return (says, facts, "Free some space on that disk.") if free < _LITTLE_SPACE else (says, facts)


def _network() -> Answer:
    from huggingface_hub import constants

    offline = bool(constants.HF_HUB_OFFLINE)
    says = "HF_HUB_OFFLINE is not set; this command uses no network"
    return "HF_HUB_OFFLINE is set: nothing is fetched" if offline else says, {"offline": offline}
