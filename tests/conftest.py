"""What holds for every test: no network, the same random examples in CI, few threads."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imlctl.forge.photos import PhotoPool

# Before anything imports torch: tests compute on small tensors, where more threads only wait for
# each other, and `make test` keeps each core busy with a process of its own. Subprocesses
# inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Examples take as long as the machine needs. In CI they are the same every time, so that a red run
# is due to its change; at a desk they differ from run to run, and so explore.
settings.register_profile("imlctl", deadline=None, max_examples=40, derandomize="CI" in os.environ)
settings.load_profile("imlctl")


# Nothing of the user's own registry and cache is read or written, here or in subprocesses.
_HOME = tempfile.TemporaryDirectory(prefix="imlctl-tests-")
for _name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
    os.environ[_name] = str(Path(_HOME.name, _name))


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as small as they come, untrained."""
    import torch

    from imlctl.core.efficient_iml import EfficientIML, EfficientIMLConfig
    from imlctl.core.efficient_rwkv import SIZES
    from imlctl.weights.load import Card, save

    torch.manual_seed(0)
    model = EfficientIML(EfficientIMLConfig(backbone=SIZES["tiny"], width=16))
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save(path, model, Card("efficient-iml", model.config.to_dict()))
    return path


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute with one thread, as a CPU must to be given batches."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> Iterator[None]:
    """A shell that runs the tests in the background ignores Ctrl-C, and so would its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class NetworkUseError(RuntimeError):
    """A test tried to reach something outside this machine."""


_attempts: list[str] = []
_WATCHED = {
    "socket.connect": 1,  # number of the argument that holds the address
    "socket.sendto": 1,
    "socket.sendmsg": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
    "socket.gethostbyaddr": 0,
}


def _is_local(host: object) -> bool:
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(str(host).partition("%")[0]).is_loopback
    except ValueError:
        return False


def _refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in _WATCHED:
        return
    address = arguments[_WATCHED[event]]
    if event.startswith("socket.get"):
        host = address
    elif isinstance(address, tuple):  # (host, port) or (host, port, flow, scope)
        host = address[0]
    else:  # a Unix socket's path, or a connected socket's absent address
        return
    if not _is_local(host):
        _attempts.append(f"{event} {address!r}")
        raise NetworkUseError(f"tests may not reach the network: {event} {address!r}")


# An audit hook sees every socket of the interpreter, also those that C code opens past `socket.py`.
sys.addaudithook(_refuse_network)


@pytest.fixture(autouse=True)
def network_attempts() -> Iterator[list[str]]:
    """Fail a test that tried to reach the network, even if its own code swallowed the refusal."""
    _attempts.clear()
    yield _attempts
    assert not _attempts, f"reached for the network: {_attempts}"


def _module(*path: str) -> Any:
    """Import a file of tests/ that is no test: without packages there, no import reaches it."""
    file = Path(__file__).parent.joinpath(*path)
    name = f"imlctl_tests_{file.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def makers() -> Any:
    """The module `tests/hostile/makers.py`, which makes pictures and bad files by code."""
    return _module("hostile", "makers.py")


@pytest.fixture(scope="session")
def hub_server() -> Any:
    """The module `tests/hub_server.py`."""
    return _module("hub_server.py")


@pytest.fixture
def hub(hub_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Hub, and this process's client sent to it; cache and registry lie in `tmp_path`."""
    with hub_server.serve() as hub, hub_server.client_of(hub, tmp_path, monkeypatch):
        yield hub


def _photo(seed: int, height: int = 200, width: int = 260) -> Any:
    import cv2
    import numpy as np

    rng = np.random.default_rng(seed)
    coarse = rng.integers(20, 236, (height // 16, width // 16, 3)).astype(np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    grain = rng.normal(0, 3, smooth.shape)
    return np.clip(np.rint(smooth + grain), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def photo() -> Callable[..., Any]:
    """Make a photograph-like array, smooth with some grain: `photo(seed, height, width)`."""
    return _photo


@pytest.fixture(scope="session")
def pool() -> PhotoPool:
    """Four photographs, one object outlined in the second, the third regenerated; all read-only."""
    import cv2
    import numpy as np

    from imlctl.forge.photos import PhotoPool

    photos = tuple(_photo(seed, 180 + 20 * seed, 260) for seed in range(4))
    outline = np.zeros(photos[1].shape[:2], np.uint8)
    cv2.circle(outline, (120, 90), 45, 1, -1)
    regenerated = cv2.GaussianBlur(photos[2], (0, 0), 1.2)
    for array in (*photos, regenerated):
        array.setflags(write=False)
    names = tuple(f"{i}.png" for i in range(4))
    return PhotoPool(names, photos, {1: (outline > 0,)}, {2: regenerated})


@pytest.fixture
def save_photos(tmp_path: Path) -> Callable[..., Path]:
    """Write `count` photographs as PNG into a new folder and return it."""
    from PIL import Image

    def save(count: int, *, folder: str = "photos", side: int = 144) -> Path:
        where = tmp_path / folder
        where.mkdir()
        for seed in range(count):
            Image.fromarray(_photo(seed, side, side)).save(where / f"{seed}.png")
        return where

    return save
