"""Contents of the packages, sizes of files, imports of the help; tests stay offline."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import tarfile
import tomllib
import urllib.request
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

import imlctl
from imlctl.weights.registry import Registry, load_registry, parse_entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "imlctl"
LONGEST_FILE = 420  # one idea; several are several files
LONGEST_FUNCTION = 60  # lines of its body, docstring included


def build(source: Path, folder: Path, epoch: int = 1_600_000_000) -> dict[str, Path]:
    """Build wheel and source distribution; return them by suffix."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)],
        cwd=source,
        env=os.environ | {"SOURCE_DATE_EPOCH": str(epoch)},
        check=True,
        capture_output=True,
    )
    return {path.suffix: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build(ROOT, tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def wheel(built: dict[str, Path]) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(built[".whl"]) as archive:
        yield archive


@pytest.fixture(scope="module")
def unpacked(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, as somebody who builds from it has it."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(built[".gz"]) as archive:
        archive.extractall(folder, filter="data")
    (root,) = folder.iterdir()
    return root


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert imlctl.__version__ == project["version"]


def test_the_wheel_holds_the_package_its_registry_presets_and_example(
    wheel: zipfile.ZipFile,
) -> None:
    names = set(wheel.namelist())
    for path in SOURCE.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            assert path.relative_to(SOURCE.parent).as_posix() in names
    assert wheel.read("imlctl/weights/weights.toml") == (ROOT / "weights.toml").read_bytes()
    for folder in ("configs", "examples"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file():
                name = f"imlctl/{path.relative_to(ROOT).as_posix()}"
                assert wheel.read(name) == path.read_bytes()
    outside = {name for name in names if not name.startswith("imlctl")}
    assert outside == set()  # neither tests nor scripts land in somebody's site-packages


def test_the_wheel_installs_the_man_pages(wheel: zipfile.ZipFile) -> None:
    place = f"imlctl-{imlctl.__version__}.data/data/share/man/man1/"
    installed = {name.removeprefix(place) for name in wheel.namelist() if name.startswith(place)}
    assert installed == {path.name for path in (ROOT / "man").iterdir()}
    for name in installed:
        assert wheel.read(place + name) == (ROOT / "man" / name).read_bytes()


def test_the_sources_hold_what_tests_and_builds_need(unpacked: Path) -> None:
    folders = ("src", "tests", "configs", "docs", "examples", "man", "scripts")
    for folder in folders:
        there = {p.relative_to(unpacked) for p in (unpacked / folder).rglob("*") if p.is_file()}
        here = {p.relative_to(ROOT) for p in (ROOT / folder).rglob("*") if p.is_file()}
        assert there == {p for p in here if p.suffix != ".pyc"}
    others = {path.name for path in unpacked.iterdir()} - set(folders)
    assert {"weights.toml", "Makefile", "constraints.txt", "LICENSE", "README.md"} <= others
    assert not {"data", "runs", "out"} & others


def test_the_same_sources_give_the_same_bytes(
    built: dict[str, Path], unpacked: Path, tmp_path: Path
) -> None:
    """From another folder, at another time, and by way of the source distribution."""
    for path in unpacked.rglob("*"):
        os.utime(path, (1_234_567_890, 1_234_567_890))
    again = build(unpacked, tmp_path / "again")
    assert again[".whl"].read_bytes() == built[".whl"].read_bytes()
    assert again[".gz"].read_bytes() == built[".gz"].read_bytes()


@pytest.fixture(scope="module")
def site(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed, and nothing else."""
    folder = tmp_path_factory.mktemp("installed") / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target"]
    quiet = ["--quiet", "--disable-pip-version-check", "--root-user-action=ignore"]
    subprocess.run([*pip, folder, *quiet, built[".whl"]], check=True)
    return folder


def run_installed(site: Path, *arguments: str) -> str:
    """Run Python on the installed wheel, in a folder from which no checkout is seen."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=site.parent,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_the_wheel_works_where_it_is_installed(site: Path) -> None:
    """Its own sources, weights and registry are used, and nothing of this checkout."""
    code = "import imlctl.cli; print(imlctl.__file__); imlctl.cli.main()"
    said = run_installed(site, "-c", code, "weights", "verify", "efficientiml", "diffiml")
    assert said.count("intact") == 2
    shown = run_installed(site, "-c", code, "weights", "show", "efficientiml")
    place, _, document = shown.partition("\n")
    assert Path(place).is_relative_to(site)
    assert Path(json.loads(document)["path"]).is_relative_to(site)
    assert (site / "share/man/man1/imlctl.1").is_file()


def test_the_installed_module_runs_and_brings_presets_and_example(site: Path) -> None:
    assert run_installed(site, "-m", "imlctl", "--version") == f"imlctl {imlctl.__version__}\n"
    code = "from imlctl.resources import *; print(*presets().values(), example(), sep='\\n')"
    *presets, example = map(Path, run_installed(site, "-c", code).splitlines())
    assert {path.name for path in presets} == {path.name for path in (ROOT / "configs").glob("*.*")}
    for path in (*presets, example, example.with_name("launchpad_mask.png")):
        assert path.is_file()
        assert path.is_relative_to(site / "imlctl")


def test_the_wheel_carries_licence_and_command(wheel: zipfile.ZipFile) -> None:
    info = f"imlctl-{imlctl.__version__}.dist-info"
    assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert "imlctl = imlctl.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()


def test_the_package_uses_the_registry_at_the_root() -> None:
    values = tomllib.loads((ROOT / "weights.toml").read_text("utf-8"))
    assert load_registry() == Registry(parse_entries(values["weights"]), values["default"])


def test_bundled_weights_are_what_the_registry_says() -> None:
    bundled = [e for e in load_registry().entries.values() if e.source == "bundled"]
    assert bundled
    for entry in bundled:
        data = entry.path.read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry.size, entry.sha256)
        assert (ROOT / entry.card).is_file()


@pytest.mark.parametrize(
    "path", sorted(SOURCE.rglob("*.py")), ids=lambda path: path.relative_to(SOURCE).as_posix()
)
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text("utf-8")
    length = text.count("\n")
    assert length <= LONGEST_FILE
    functions = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lengths = {f.name: (f.end_lineno or 0) - f.body[0].lineno + 1 for f in functions}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FUNCTION} == {}


def test_docstrings_open_with_a_verb_or_a_noun() -> None:
    riddles = re.compile("(What|Where|How|Whether|Why|Which|When|Who)\\b")
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [
        f"{path.relative_to(SOURCE)}: {(ast.get_docstring(node) or '').splitlines()[0]}"
        for path in sorted(SOURCE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, kinds) and riddles.match(ast.get_docstring(node) or "")
    ]
    assert found == []


HELP = """
import sys
from imlctl.cli import main
sys.argv = ["imlctl", *{arguments}]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = {{"torch", "cv2", "numpy", "PIL", "safetensors", "huggingface_hub"}} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["localize", "--help"], ["train", "--help"], ["bench", "--help"]],
    ids=" ".join,
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    run = subprocess.run(
        [sys.executable, "-c", HELP.format(arguments=arguments)], capture_output=True, text=True
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.strip()


def test_every_dependency_is_listed_with_its_licence() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    page = (ROOT / "docs" / "dependencies.md").read_text("utf-8")
    named = page.partition("## Their dependencies")[0]
    rows = re.findall(r"(?m)^\| ([a-z0-9-]+) \| (\d[\w.]*) \| ([^|]+) \| ([^|]+) \|$", page)
    licences = {name: licence for name, _, licence, _ in rows}
    groups = {"imlctl": project["dependencies"]} | {
        f"`[{extra}]`": lines for extra, lines in project["optional-dependencies"].items()
    }
    for group, lines in groups.items():
        for line in lines:
            name = re.split(r"[^A-Za-z0-9._-]", line)[0].lower()
            assert f"| {name} |" in named, "run: python scripts/make_dependencies.py"
            (uses,) = [uses for found, _, _, uses in rows if found == name]
            assert group in uses or "imlctl" in uses
    assert len(licences) == len(rows) > len(project["dependencies"])
    assert "not stated" not in licences.values()
    # Nothing that everybody gets asks more of those who pass it on than naming it.
    core = {licences[name] for name, _, _, uses in rows if "imlctl" in uses}
    assert not [text for text in core if "GPL" in text]


def test_the_example_and_its_mask_belong_together() -> None:
    (photo,) = (ROOT / "examples").glob("*.jpg")
    picture = Image.open(photo)
    picture.load()
    mask = Image.open(photo.with_name(f"{photo.stem}_mask.png"))
    assert mask.mode == "L"
    assert mask.size == picture.size
    values = np.asarray(mask)
    assert set(np.unique(values)) == {0, 255}
    assert 0.01 <= (values == 255).mean() <= 0.20


def _connect() -> None:
    with socket.socket() as plain:
        plain.connect(("192.0.2.1", 80))


def _send() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as plain:
        plain.sendto(b"?", ("192.0.2.1", 53))


def _look_up() -> None:
    socket.gethostbyname("imlctl.invalid")


def _fetch() -> None:
    urllib.request.urlopen("https://imlctl.invalid/", timeout=1)


@pytest.mark.parametrize("call", [_connect, _send, _look_up, _fetch])
def test_no_test_can_reach_the_network(
    call: Callable[[], None], network_attempts: list[str]
) -> None:
    with pytest.raises(RuntimeError, match="may not reach the network"):
        call()
    assert len(network_attempts) == 1
    network_attempts.clear()  # this one was meant


def test_loopback_stays_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()


def test_public_names_mean_one_thing() -> None:
    """Commands may be named like what they call, and kernels like the operator they compute."""
    places: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        part = path.relative_to(SOURCE).as_posix()
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, set()).add(part)
    places["bi_wkv"] = {"core/wkv.py"}
    shared = {
        name: parts
        for name, parts in places.items()
        if len({part for part in parts if not part.startswith(("cli/", "__init__"))}) > 1
    }
    assert shared == {}
