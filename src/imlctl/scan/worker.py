"""The process that decodes, so that a crash, a hang or a bomb costs one picture and not the scan.

It runs `serve`: reads requests from its standard input and answers on its standard output until the
input ends, which it does when the scan ends, however it ends.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
import time
from dataclasses import dataclass, field, fields
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from imlctl.image.decode import Photo, read
from imlctl.scan.failures import Failed, failed
from imlctl.scan.hashing import all_match

if TYPE_CHECKING:
    from collections.abc import Mapping

HELLO = b"imlctl\n"  # says that the process could be started
_LENGTH = struct.Struct("<Q")
_LONGEST = 2**26  # bytes of a message without its pixels
_TRUSTED = ("imlctl.image.", "imlctl.errors", "imlctl.scan.worker", "imlctl.scan.failures")


@dataclass(frozen=True, slots=True)
class Request:
    """One file to decode.

    Attributes:
        path: Of the file.
        max_pixels: See `image.decode.read`.
        done: If all these files, name to sha256, are as they were, nothing is left to do.
    """

    path: str
    max_pixels: int
    done: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture, and the seconds that reading and decoding took."""

    photo: Photo
    seconds: float


@dataclass(frozen=True, slots=True)
class Same:
    """The picture and all its outputs are as an earlier scan left them."""


Reply = Decoded | Same | Failed


def answer(request: Request) -> Reply:
    """Read and decode a file, unless it and its outputs are known and unchanged.

    Raises:
        ImlctlError: Of any kind but `InputError`: a setting is wrong.
    """
    began = time.perf_counter()
    try:
        if request.done and all_match(request.done):
            return Same()
        photo = read(request.path, max_pixels=request.max_pixels)
    except Exception as error:
        return failed(error, request.path)
    return Decoded(photo, time.perf_counter() - began)


def send(stream: IO[bytes], message: Request | Reply) -> None:
    """Write one message; pixels follow it as they lie in memory."""
    pixels = None
    body: Any = message
    if isinstance(message, Decoded):
        pixels = np.ascontiguousarray(message.photo.pixels)
        rest = {f.name: getattr(message.photo, f.name) for f in fields(Photo)}
        rest["pixels"] = (pixels.shape, pixels.dtype.str)
        body = (rest, message.seconds)
    head = pickle.dumps(body)
    stream.write(_LENGTH.pack(len(head)) + head)
    if pixels is not None:
        stream.write(pixels.data)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Read one message: a `Request` or a `Reply`.

    What decodes hostile files is not trusted: from it, only data of our own classes is accepted.

    Raises:
        EOFError: The other side has gone.
        pickle.UnpicklingError: The message is not one of ours.
    """
    (length,) = _LENGTH.unpack(_exactly(stream, bytearray(_LENGTH.size)))
    if length > _LONGEST:
        raise pickle.UnpicklingError(f"a message of {length} bytes")
    body = _Loader(io.BytesIO(_exactly(stream, bytearray(length)))).load()
    if not isinstance(body, tuple):
        return body
    rest, seconds = body
    shape, kind = rest.pop("pixels")
    pixels = np.empty(shape, np.dtype(kind))
    _exactly(stream, pixels.data.cast("B"))
    return Decoded(Photo(pixels=pixels, **rest), seconds)


def _exactly(stream: IO[bytes], buffer: bytearray | memoryview) -> bytearray | memoryview:
    rest = memoryview(buffer)
    while rest:
        count = stream.readinto(rest)  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        rest = rest[count:]
    return buffer


class _Loader(pickle.Unpickler):
    """Builds objects of our own data classes and errors, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith(_TRUSTED) and "." not in name:
            found = super().find_class(module, name)
            if isinstance(found, type) and found.__module__ == module:
                return found
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a message")


def _limit_memory(size: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return
    for kind, limit in ((resource.RLIMIT_AS, size), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(kind)
        soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        try:
            resource.setrlimit(kind, (soft, hard))
        except (OSError, ValueError):  # macOS does not limit the address space
            continue


def serve(memory: int) -> None:
    """Answer requests until there are no more.

    Args:
        memory: Most bytes that this process may ask for.
    """
    # Libraries that print must not disturb the answers.
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _limit_memory(memory)
    channel.write(HELLO)
    channel.flush()
    while True:
        try:
            request = receive(sys.stdin.buffer)
        except EOFError:
            return
        send(channel, answer(request))
