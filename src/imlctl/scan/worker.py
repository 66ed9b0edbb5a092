"""Child processes of a scan: one kind decodes, the other runs the model.

A crash, a hang or a bomb costs one picture and not the scan. Each process reads messages from its
standard input and answers on its standard output until the input ends, which it does when the scan
ends, however it ends.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from imlctl.errors import ImlctlError, InputError
from imlctl.image.decode import decode, read
from imlctl.scan.custody import all_match, sha256_of
from imlctl.scan.messages import Decoded, Failed, Unchanged, bare, failed, receive, send

if TYPE_CHECKING:
    from imlctl.scan.messages import Request

HELLO = b"imlctl\n"  # of a decoder that could be started


def decode_file(request: Request) -> Decoded | Unchanged | Failed:
    """Read and decode a file, unless it and its outputs are known and unchanged.

    Raises:
        ImlctlError: Of any kind but `InputError`: a setting is wrong.
    """
    began = time.perf_counter()
    try:
        if request.done and all_match(request.done):
            return Unchanged()
        if request.data is None:
            photo = read(request.path, max_pixels=request.max_pixels)
        else:
            photo = decode(request.data, source=request.path, max_pixels=request.max_pixels)
    except Exception as error:
        return failed(error, request.path)
    return Decoded(photo, time.perf_counter() - began)


def identified(failure: Failed) -> Failed:
    """Add the hash and the size of the file, where it can be read."""
    path = failure.error.source
    try:
        size = Path(path).stat().st_size
        return replace(failure, sha256=sha256_of(path), size=size)
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        return failure


def decode_or_hash(request: Request) -> Decoded | Unchanged | Failed:
    """Decode a file as `decode_file` does, or hash one that cannot be decoded."""
    reply = decode_file(request)
    return identified(reply) if isinstance(reply, Failed) else reply


def serve_decoder(memory: int) -> None:
    """Decode what is asked for until there is no more; `memory` is the most bytes it may take."""
    channel = _channel()
    _limit_memory(memory)
    channel.write(HELLO)
    channel.flush()
    while True:
        try:
            request = receive(sys.stdin.buffer, trusted=True)
        except EOFError:
            return
        hashed = Failed(InputError("it is not decoded", source=request.path))
        send(channel, decode_file(request) if request.decoded else identified(hashed))


def serve_model() -> None:
    """Analyse decoded pictures until there are no more.

    The first message holds the options, and is answered by the provenance of all results, or by
    the error that makes all of them impossible.
    """
    channel = _channel()
    options = receive(sys.stdin.buffer, trusted=True)
    try:
        from imlctl.process import keep_freed_blocks
        from imlctl.scan.analysis import Analysis

        keep_freed_blocks()
        _die_first()
        analysis = Analysis(options)
    except ImlctlError as error:
        send(channel, bare(error))
        return
    send(channel, analysis.provenance)
    while True:
        try:
            decoded = receive(sys.stdin.buffer, trusted=True)
        except EOFError:
            return
        try:
            send(channel, analysis(decoded))
        except ImlctlError as error:
            send(channel, bare(error))
        del decoded  # or its pixels would stay until the next picture is there


def _channel() -> IO[bytes]:
    """Return the standard output, and let nothing else write there: libraries print."""
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return channel


def _die_first() -> None:
    """Have the kernel end this process rather than the scan where memory runs out."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:  # noqa: PTH123
        file.write("500")


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
