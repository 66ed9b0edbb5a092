"""`imlctl doctor`: check packages, machine, weights, folders and extras."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from imlctl import __version__
from imlctl.cli.console import printable
from imlctl.errors import ConfigError, Exit, ImlctlError, first_line

if TYPE_CHECKING:
    from imlctl.weights.registry import WeightsEntry

_LITTLE_SPACE = 2**30  # bytes; below this a scan of any size may fill the disk
_MODULES = {"opencv-python-headless": "cv2", "pillow": "PIL"}  # the others are called as they are
_REQUIREMENT = re.compile(r"""([A-Za-z0-9._-]+)[^;]*(?:;.*extra\s*==\s*['"]([^'"]+)['"])?""")


class Check(NamedTuple):
    """One check and its outcome."""

    name: str  # of the thing
    says: str  # what was found, as a clause
    remedy: str = ""  # what to do about it; with one that is not broken, all asked for works
    broken: bool = False


def doctor() -> None:
    """Check this installation, and test the bundled weights.

    Looks at packages, device, memory, folders and extras, offline; changes nothing.

    Exit status: 0 when all is well, 2 when something necessary is broken.
    """
    checks = [*packages(), *machine(), *weights(), *storage(), *extras()]
    _print(checks)
    if broken := [check.name for check in checks if check.broken]:
        typer.echo(f"Broken: {', '.join(broken)}.")
        raise typer.Exit(Exit.USAGE)
    typer.echo("All is well.")


def _print(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False, emoji=False)
    console.print(f"imlctl {__version__} in {printable(Path(__file__).parents[1])}")
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, says, remedy, broken in checks:
        text = f"{says}. {remedy}" if remedy else says
        style = "bold red" if broken else "yellow" if remedy else ""
        table.add_row(name, f"broken: {text}" if broken else text, style=style)
    console.print(table)


def _check(name: str, examine: Callable[..., str | tuple[str, str]], *given: Any) -> Check:
    """Run a check, which returns what it found, perhaps with a remedy; what it raises is broken."""
    try:
        found = examine(*given)
    except ImlctlError as error:
        says = f"{error.source}: {error.what}" if error.source else error.what
        return Check(name, printable(says), error.remedy, broken=True)
    except Exception as error:  # of a library that is broken
        says = printable(f"failed ({type(error).__name__}: {first_line(error)})")
        return Check(name, says, "Install imlctl again.", broken=True)
    return Check(name, found) if isinstance(found, str) else Check(name, *found)


def requirements() -> list[tuple[str, str]]:
    """Return the packages that we require, each with its extra; none if we are not installed."""
    from importlib import metadata

    try:
        lines = metadata.requires("imlctl") or []
    except metadata.PackageNotFoundError:
        return []
    found = filter(None, map(_REQUIREMENT.match, lines))
    return [(each[1].lower(), each[2] or "") for each in found]


def packages() -> Iterator[Check]:
    """Python itself, and whether every package that we cannot do without can be imported."""
    required = [package for package, extra in requirements() if not extra]
    checks = [_check(package, _package, package) for package in required]
    sound = [f"{check.name} {check.says}" for check in checks if not check.broken]
    yield Check("packages", ", ".join([f"python {platform.python_version()}", *sound]))
    yield from (check for check in checks if check.broken)
    if not required:
        yield Check("imlctl", "only its sources are here", "Install it with: pip install imlctl")


def _package(name: str) -> str:
    try:
        module = importlib.import_module(_MODULES.get(name, name.replace("-", "_")))
    except Exception as error:  # a broken library fails in ways of its own
        what = f"cannot be imported ({type(error).__name__}: {error})"
        raise ConfigError(what, remedy=f"pip install {name}") from error
    return _version(name) or str(getattr(module, "__version__", ""))


def extras() -> Iterator[Check]:
    """Check optional packages, and say how to install them."""
    optional = [(package, extra) for package, extra in requirements() if extra]
    for extra, members in groupby(optional, lambda each: each[1]):
        versions = {package: _version(package) for package, _ in members}
        says = ", ".join(f"{name} {version}" for name, version in versions.items())
        remedy = "" if all(versions.values()) else f'Add it with: pip install "imlctl[{extra}]"'
        yield Check(f"[{extra}]", "not installed" if remedy else says, remedy)


def _version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def machine() -> Iterator[Check]:
    """The system, its memory, and the device that ``auto`` picks."""
    from imlctl.process import free_memory

    yield Check("system", f"{platform.system()} {platform.release()} {platform.machine()}")
    if free := free_memory():
        yield Check("memory", f"{free / 1e9:.1f} GB free")
    yield _check("device", _device)


def _device() -> str:
    import torch

    from imlctl.bench.machine import processor
    from imlctl.device import describe, resolve
    from imlctl.process import cores

    device = resolve()
    # Numbers that float16 and TF32 hold exactly, so that any device must get the same.
    values = torch.arange(16.0).view(4, 4)
    if not torch.equal((values.to(device) @ values.to(device)).cpu(), values @ values):
        remedy = "Use --device cpu, and look at the driver of the device."
        raise ConfigError(f"{device} computes wrongly", remedy=remedy)
    threads = torch.get_num_threads()
    return f"{describe(device)}; {processor()}, cores: {cores()}, threads: {threads}"


def weights() -> Iterator[Check]:
    """Hash and self-test of the bundled weights, and whether the user's registry can be read."""
    from imlctl.weights.registry import load_registry

    try:
        entries = load_registry().entries
    except ImlctlError as error:
        yield Check("registry", printable(error), "Install imlctl again.", broken=True)
        return
    yield _check("registry", _registry)
    for entry in entries.values():
        if entry.source == "bundled":
            yield _check(entry.name, _tested, entry)


def _registry() -> str:
    from imlctl.weights.pull import State, inventory

    items = inventory()
    here = sum(item.state is State.HERE for item in items)
    return f"{len(items)} weights known, {here} of them installed"


def _tested(entry: WeightsEntry) -> str:
    from imlctl.weights.load import load
    from imlctl.weights.selftest import check_on_first_use

    loaded = load(entry.path, name=entry.name, expected_sha256=entry.sha256)
    with tempfile.TemporaryDirectory() as nothing_passed_here:
        tested = check_on_first_use(loaded, Path(nothing_passed_here))
    return f"sha256 {entry.sha256[:12]} verified, self-test {'passed' if tested else 'absent'}"


def storage() -> Iterator[Check]:
    """Our folders and the Hub's, room on this disk, and the network."""
    from imlctl.weights.registry import user_folder

    for kind in ("config", "cache"):
        yield _check(kind, _folder, user_folder(kind), f"XDG_{kind.upper()}_HOME")
    yield _check("hub cache", _hub)
    yield _check("disk", _disk)
    yield _check("network", _network)


def _folder(folder: Path, variable: str) -> str | tuple[str, str]:
    says = printable(folder)
    standing = next(path for path in (folder, *folder.parents) if path.exists())
    if not (standing.is_dir() and os.access(standing, os.W_OK)):
        return f"{says}, cannot be written", f"Set {variable} to a folder that you may write to."
    return says


def _hub() -> str | tuple[str, str]:
    from huggingface_hub import constants

    return _folder(Path(constants.HF_HUB_CACHE), "HF_HOME")


def _disk() -> str | tuple[str, str]:
    free = shutil.disk_usage(Path.cwd()).free
    says = f"{free / 1e9:.1f} GB free in {printable(Path.cwd())}"
    return (says, "Free some space on that disk.") if free < _LITTLE_SPACE else says


def _network() -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set: nothing is fetched"
    return "HF_HUB_OFFLINE is not set; this command uses no network"
