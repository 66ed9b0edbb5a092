"""What must hold of any bytes that are decoded, bytes to try it on, and a process to do it in.

    python target.py CORPUS SEED START PROGRESS

decodes the inputs of a seed from number START on, for ever, and writes each number to the file
PROGRESS before it begins; whoever started it watches that file, see `hunt`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import mmap
import os
import pickle
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imlctl.errors import InputError
from imlctl.image.decode import decode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imlctl.image.decode import Photo

MAX_PIXELS = 1_000_000
MEMORY = 1 << 30  # bytes that a process may take for pictures of `MAX_PIXELS`, libraries included
SECONDS = 20.0  # of work on one input; a busy machine takes longer for it
_ASLEEP = 300.0  # seconds without progress, working or not
_NO_MEMORY = "there is not enough memory"
_PROGRESS = struct.Struct("<qq")  # number of the input, and of those that were decoded


def outcome(data: bytes) -> Photo | None:
    """Decode, and check what can be said of any photo; None for a proper refusal.

    Raises:
        AssertionError: Something does not hold.
        Exception: What `decode` should have turned into an `InputError`.
    """
    answer: Photo | InputError
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            answer = decode(data, source="evidence", max_pixels=MAX_PIXELS)
        except InputError as error:
            answer = error
    assert answer.source == "evidence"
    if isinstance(answer, InputError):
        assert answer.what
        assert answer.remedy
        assert not answer.what.startswith(_NO_MEMORY)
        return None
    assert answer.pixels.dtype in (np.uint8, np.uint16)
    assert answer.pixels.shape == (answer.facts.height, answer.facts.width, 3)
    assert answer.pixels.size <= 3 * MAX_PIXELS
    assert not answer.pixels.flags.writeable
    assert answer.sha256 == hashlib.sha256(data).hexdigest()
    json.dumps(dataclasses.asdict(answer.facts), allow_nan=False)
    assert all(note and note.isprintable() for note in answer.facts.notes)
    return answer


def mutated(samples: Mapping[str, bytes], seed: int, number: int) -> bytes:
    """Return one bad file: a sample, changed in one to eight ways, mostly in few."""
    draw = random.Random(f"{seed} {number}")
    names = sorted(samples)
    data = bytearray(samples[draw.choice(names)])
    for _ in range(min(8, 1 + int(draw.expovariate(0.6)))):
        _change(data, samples[draw.choice(names)], draw)
    return repaired(bytes(data)) if draw.random() < 0.7 else bytes(data)


def _change(data: bytearray, other: bytes, draw: random.Random) -> None:
    """Change a file in one way, often near its start, where the headers are."""
    at = draw.randrange(max(1, len(data) if draw.random() < 0.4 else min(len(data), 400)))
    length = draw.choice((1, 2, 4, 8, draw.randint(1, 64), draw.randint(1, 4096)))
    match draw.randrange(8):
        case 0:
            data[at : at + 1] = bytes([(data[at] if data else 0) ^ 1 << draw.randrange(8)])
        case 1:
            data[at : at + 1] = draw.randbytes(1)
        case 2:  # a number that is at the edge of something
            kind = draw.choice("BHIQ")
            top = (1 << 8 * struct.calcsize(kind)) - 1
            value = draw.choice((0, 1, top, top // 2, top // 2 + 1, len(data) & top, 65500 & top))
            packed = struct.pack(draw.choice("<>") + kind, value)
            data[at : at + len(packed)] = packed
        case 3:
            del data[at : at + length]
        case 4:
            data[at:at] = data[at : at + length]
        case 5:
            data[at:at] = draw.randbytes(length)
        case 6:
            start = draw.randrange(max(1, len(other)))
            data[at : at + length] = other[start : start + length]
        case _:
            del data[draw.randrange(len(data) + 1) :]


def repaired(data: bytes) -> bytes:
    """Set right the checksums and lengths by which a container would be refused at its door."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png_repaired(data)
    if data[8:12] == b"WEBP":
        return data[:4] + struct.pack("<I", len(data) - 8 & 0xFFFFFFFF) + data[8:]
    if data.startswith(b"\xff\xd8"):
        return data + b"\xff\xd9"
    if data.startswith(b"GIF8"):
        return data + b"\0;"
    return data


def _png_repaired(data: bytes) -> bytes:
    fixed, at = bytearray(data), 8
    while at + 12 <= len(fixed):
        stop = at + 8 + int.from_bytes(fixed[at : at + 4], "big")
        if stop + 4 > len(fixed):
            break
        fixed[stop : stop + 4] = struct.pack(">I", zlib.crc32(fixed[at + 4 : stop]))
        at = stop + 4
    end = b"IEND"
    return bytes(fixed) + struct.pack(">I", 0) + end + struct.pack(">I", zlib.crc32(end))


@dataclasses.dataclass
class Hunt:
    """What a hunt for bad inputs came to."""

    tried: int = 0
    decoded: int = 0
    found: list[tuple[bytes, str]] = dataclasses.field(default_factory=list)


def hunt(samples: Mapping[str, bytes], *, seed: int, seconds: float, most: int = 10) -> Hunt:
    """Decode changed samples in a process of limited memory until the time is up.

    Args:
        samples: What to change.
        seed: Of the changes.
        seconds: How long, without the time that processes take to start.
        most: Findings to stop at.

    Returns:
        How many were tried, and each input that broke a promise with what it did.
    """
    left, result, number = seconds, Hunt(), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "corpus").write_bytes(pickle.dumps(dict(samples)))
        while left > 0 and len(result.found) < most:
            (folder / "progress").write_bytes(_PROGRESS.pack(-1, 0))
            said, spent, last, decoded = _watched(folder, seed, number, left)
            left -= spent
            result.tried += last - number
            result.decoded += decoded
            if said:
                result.found.append((mutated(samples, seed, last), said))
            number = last + 1
    return result


def _watched(folder: Path, seed: int, start: int, most: float) -> tuple[str, float, int, int]:
    """Run one process, at most so many seconds.

    Returns:
        What was wrong with its last input, if anything, how many seconds it decoded, the number of
        its last input, and how many it decoded.
    """
    places = folder / "corpus", folder / "progress"
    command = [sys.executable, __file__, str(places[0]), str(seed), str(start), str(places[1])]
    with (folder / "said").open("w+b") as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        last, since, spent, hangs = (-1, 0), time.monotonic(), 0.0, False
        while process.poll() is None and not hangs and spent < most:
            time.sleep(0.05)
            now, clock = _PROGRESS.unpack(places[1].read_bytes()), time.monotonic()
            if last[0] < 0 <= now[0]:
                began = clock
            spent = clock - began if now[0] >= 0 else 0.0
            since = clock if now != last else since
            last, hangs = now, clock - since > _ASLEEP
        last = _PROGRESS.unpack(places[1].read_bytes())
        if process.poll() is None:
            process.kill()
            process.wait()
            return f"no progress for {_ASLEEP:g} seconds" if hangs else "", spent, *last
        said.seek(0)
        text = said.read().decode("utf-8", "replace")[-4000:]
        if last[0] < 0:
            raise RuntimeError(f"the process did not start\n{text}")
        if process.returncode == -signal.SIGPROF:
            text = f"worked for {SECONDS:g} seconds"
        return f"ended with status {process.returncode}\n{text}", spent, *last


def _serve(corpus: str, seed: int, start: int, progress: str) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    samples = pickle.loads(Path(corpus).read_bytes())  # noqa: S301 - our own
    decoded = 0
    with Path(progress).open("r+b") as file, mmap.mmap(file.fileno(), 0) as shared:
        for number in itertools.count(start):
            data = mutated(samples, seed, number)
            shared[:] = _PROGRESS.pack(number, decoded)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)  # whose signal ends this process
            try:
                decoded += outcome(data) is not None
            except BaseException:
                traceback.print_exc()
                os._exit(1)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
