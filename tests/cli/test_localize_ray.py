"""`imlctl localize --ray`, held against the same scan without it, on clusters on this machine."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import imlctl
from imlctl.errors import Exit
from imlctl.scan.folder import open_case

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason='needs Ray: pip install "imlctl[ray]"'
)
# A cluster is a dozen processes, which takes a busy machine a while.
pytestmark = pytest.mark.timeout(1200)
COUNT = 16
PROGRAM = (sys.executable, "-P", "-c", "from imlctl.cli import main; main()")
# Says where it is, and lives until its standard input ends.
CLUSTER = """
import sys, ray
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
         _node_ip_address="127.0.0.1", _temp_dir=sys.argv[1])
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


def rows(folder):
    with open_case(folder) as case:
        yield from case.rows()


@pytest.fixture(scope="module")
def environment():
    """For programs that compute in one thread, whichever engine runs them."""
    hidden = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN")
    here = {key: value for key, value in os.environ.items() if key not in hidden}
    return {**here, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(imlctl.__file__).parents[1])}


@dataclass
class Cluster:
    """One with room for two workers, and what joins it."""

    pid: int
    environment: dict[str, str]

    def workers(self):
        """The processes that have a picture in hand, by what `ps` says."""
        listed = subprocess.run(
            ["ps", "-eo", "pid=,ppid=,args="], check=True, capture_output=True, text=True
        ).stdout.splitlines()
        parents, names = {}, {}
        for line in listed:
            pid, parent, *name = line.split(maxsplit=2)
            parents[int(pid)], names[int(pid)] = int(parent), "".join(name)
        found = [pid for pid, name in names.items() if name.startswith("ray::analyse")]
        return [pid for pid in found if self.pid in ancestors(pid, parents)]


def ancestors(pid, parents):
    while pid in parents:
        pid = parents[pid]
        yield pid


@pytest.fixture(scope="module")
def cluster(environment):
    # Names of sockets are limited, and those of tests are long.
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        joining = {**environment, "RAY_AUTH_TOKEN": "0" * 64, "RAY_worker_niceness": "0"}
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", CLUSTER, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=joining,
            text=True,
            cwd=folder,
        )
        with process:
            address = process.stdout.readline().strip()
            # As for a cluster of somebody else, whoever joins must say that it asks for a token.
            joined = {**joining, "RAY_ADDRESS": address, "RAY_AUTH_MODE": "token"}
            yield Cluster(process.pid, joined)
            process.stdin.close()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Sixteen pictures, a damaged one, and one whose name is no text."""
    folder = tmp_path_factory.mktemp("scans") / "photos"
    (folder / "deep").mkdir(parents=True)
    for seed in range(COUNT):
        pixels = np.random.default_rng(seed).integers(0, 256, (500, 516, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / ("deep" if seed % 2 else "") / f"{seed}.png")
    (folder / "bad.png").write_bytes((folder / "0.png").read_bytes()[:-40])
    try:
        (folder / os.fsdecode(b"\xff.png")).write_bytes((folder / "2.png").read_bytes())
    except OSError:  # this file system takes only names in UTF-8
        (folder / "odd.png").write_bytes((folder / "2.png").read_bytes())
    return folder


@dataclass
class Scans:
    """Scans of the same folder, with everything that can be wanted of one."""

    folder: Path
    weights: Path
    here: dict[str, str]

    @contextmanager
    def started(self, out, *arguments, environment=None):
        with subprocess.Popen(
            [
                *(*PROGRAM, "localize", "photos", "-r", "-o", out, "--weights", self.weights),
                *("--soft", "--json", "--overlay", "--report", *arguments),
            ],
            cwd=self.folder,
            env=environment or self.here,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            yield process

    def run(self, out, *arguments, environment=None):
        with self.started(out, *arguments, environment=environment) as process:
            said, remarks = process.communicate()
        return process.returncode, said, remarks


@pytest.fixture(scope="module")
def scans(photos, weights, environment):
    return Scans(photos.parent, weights, environment)


@pytest.fixture(scope="module")
def here(scans):
    """The folder of the scan without a cluster, its status and what it said."""
    return scans.folder / "here", *scans.run("here")


def files(folder):
    """Every output; of records, all but how long it took."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith(("imlctl-ledger", "report", "SHA256SUMS")):
            data = path.read_bytes()
            found[str(path.relative_to(folder))] = (
                untimed(json.loads(data)) if path.suffix == ".json" else data
            )
    return found


def untimed(record):
    return {key: value for key, value in record.items() if key not in ("seconds", "timings")}


def noted(folder):
    """What the ledger holds, but for how long it took."""
    return [
        (row.path, row.sha256, {p.name for p in row.outputs}, row.preview, untimed(row.record))
        for row in rows(folder)
    ]


def masks(folder):
    return sorted(folder.rglob("*.mask.png"))


def wait_for_masks(folder, process, count=2):
    while len(masks(folder)) < count and process.poll() is None:
        time.sleep(0.002)


@needs_ray
def test_a_cluster_computes_the_same_though_a_worker_is_killed(scans, cluster, here):
    folder, code, said, remarks = here
    there = scans.folder / "there"
    with scans.started("there", "--ray", environment=cluster.environment) as process:
        wait_for_masks(there, process)
        while not (at_work := cluster.workers()) and process.poll() is None:
            time.sleep(0.002)
        os.kill(at_work[0], signal.SIGKILL)
        done = len(masks(there))
        said_there, remarks_there = process.communicate()
    assert done < COUNT  # it was in the middle of it
    assert code == process.returncode == Exit.SOME_FAILED, remarks_there
    assert len(files(folder)) == 3 * (COUNT + 1)
    assert files(there) == files(folder)
    assert noted(there) == noted(folder)
    lines = said_there.replace(b"there/", b"here/").splitlines()
    assert sorted(lines) == sorted(said.splitlines())
    timed = b" pictures in "
    assert [line for line in remarks_there.splitlines() if timed not in line] == [
        line for line in remarks.splitlines() if timed not in line
    ]


@needs_ray
def test_an_interrupted_scan_finishes_what_is_in_hand_and_goes_on(scans, cluster, here):
    folder = scans.folder / "out"
    with scans.started("out", "--ray", environment=cluster.environment) as process:
        wait_for_masks(folder, process)
        process.send_signal(signal.SIGINT)
        _, remarks = process.communicate()
    assert process.returncode == Exit.INTERRUPTED, remarks
    assert b"--resume continues" in remarks
    assert all(line.startswith(b"imlctl: ") for line in remarks.splitlines() if line), remarks
    begun = masks(folder)
    assert 2 <= len(begun) <= COUNT
    dates = {path: path.stat().st_mtime_ns for path in begun}
    begun[0].unlink()
    going_on = ("--ray", "--resume", "--manifest", "--check")
    code, _, remarks = scans.run("out", *going_on, environment=cluster.environment)
    assert code in (Exit.FOUND, Exit.SOME_FAILED)
    assert b"%d done by an earlier scan" % (len(begun) - 1) in remarks
    assert all(path.stat().st_mtime_ns == dates[path] for path in begun[1:])
    assert files(folder) == files(here[0])
    assert (folder / "SHA256SUMS").read_bytes().count(b"photos/") == COUNT + 2
    assert not list(folder.rglob(".imlctl-*"))


@needs_ray
def test_a_cluster_of_its_own_is_quiet_and_imports_nothing_from_here(
    weights, tmp_path, environment
):
    """As a user runs it, in a folder whose Python files are evidence."""
    for name in ("numpy.py", "torch.py", "ray.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    pixels = np.random.default_rng(1).integers(0, 256, (70, 66, 3), dtype=np.uint8)
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "home").mkdir()
    ran = subprocess.run(
        [*PROGRAM, "localize", "a.png", "b.png", "--ray", "-o", "out/", "--weights", weights],
        cwd=tmp_path,
        env={**environment, "HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == Exit.OK, ran.stderr
    assert [line.split()[0] for line in ran.stderr.splitlines()] == ["imlctl:"] * 4
    assert len(ran.stdout.splitlines()) == 2
    assert (tmp_path / "out" / "a.png.mask.png").is_file()
    assert not (tmp_path / "ran").exists()
    assert not list((tmp_path / "home").iterdir())


def test_the_standard_input_is_no_place_for_a_cluster_to_read(run):
    ran = run("localize", "-", "--ray")
    assert ran.code == Exit.USAGE
    assert "leave --ray out" in ran.err


def test_wrong_weights_show_before_a_cluster_is_asked_for(run, photos):
    ran = run("localize", photos, "--ray", "--weights", "gone.safetensors")
    assert ran.code == Exit.USAGE
    assert "gone.safetensors" in ran.err
