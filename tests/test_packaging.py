"""What is shipped, how large its parts are, what starting it costs, and that tests stay offline."""

from __future__ import annotations

import ast
import hashlib
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

import imlctl
from imlctl.weights.registry import load_registry, parse_registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "imlctl"
LONGEST_FILE = 320  # lines
LONGEST_FUNCTION = 60  # lines of its body, docstring included


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        yield archive


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert imlctl.__version__ == project["version"]


def test_the_wheel_holds_the_package_and_its_registry(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    for path in SOURCE.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            assert path.relative_to(SOURCE.parent).as_posix() in names
    assert wheel.read("imlctl/weights/weights.toml") == (ROOT / "weights.toml").read_bytes()
    outside = {name for name in names if not name.startswith("imlctl")}
    assert outside == set()  # neither tests nor scripts land in somebody's site-packages


def test_the_wheel_carries_licence_and_command(wheel: zipfile.ZipFile) -> None:
    info = f"imlctl-{imlctl.__version__}.dist-info"
    assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert "imlctl = imlctl.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()


def test_the_package_uses_the_registry_at_the_root() -> None:
    values = tomllib.loads((ROOT / "weights.toml").read_text("utf-8"))
    assert load_registry() == parse_registry(values)


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


def seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def test_help_answers_at_once(record_property: Callable[[str, object], None]) -> None:
    """The bar is 0.25 s; on the two cores where this was written it took 0.155 s.

    A slow or busy machine is told from a slow program by `import typer`, which help cannot do
    without and which the same interpreter does in turns with it: 0.063 s there, so help took 2.5
    times as long. A second limit in seconds would say nothing more, and fail on slow machines.
    """
    helping, importing = [], []
    for _ in range(5):  # in turns, so that a burst of load meets both
        helping.append(seconds(HELP.format(arguments=["--help"])))
        importing.append(seconds("import typer"))
    record_property("help_seconds", min(helping))
    record_property("import_typer_seconds", min(importing))
    assert min(helping) <= max(0.25, 3.5 * min(importing))


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
