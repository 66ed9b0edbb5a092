"""Messages between the processes of a scan, and what goes wrong with one picture put into words."""

from __future__ import annotations

import io
import pickle
import struct
import traceback
from dataclasses import dataclass, field, fields
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np

from imlctl.errors import ImlctlError, InputError
from imlctl.image.decode import Photo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imlctl.report.preview import Preview
    from imlctl.scan.naming import Kind

AnyError = TypeVar("AnyError", bound=ImlctlError)

_LENGTH = struct.Struct("<Q")
_LONGEST_REPLY = 2**26  # bytes of what a decoder answers, without the pixels
_FROM_DECODERS = ("imlctl.image.", "imlctl.errors", "imlctl.scan.messages")
_NO_MEMORY = ("out of memory", "allocate memory", "insufficient memory")


@dataclass(frozen=True, slots=True)
class Request:
    """One picture to decode."""

    path: str  # of the file, or the name of `data`
    max_pixels: int  # see `image.decode.read`
    # If all these files, name to sha256, are as they were, nothing is left to do
    done: Mapping[str, str] = field(default_factory=dict)
    # The encoded bytes, where there is no file
    data: bytes | None = field(default=None, repr=False)
    hash_only: bool = False  # whether it killed who decoded it, and must not be decoded again


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture, and the seconds that reading and decoding took."""

    photo: Photo
    seconds: float


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The picture and all its outputs are as an earlier scan left them."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Reason why a picture has no result, with the hash and bytes of a file that could be read.

    The error has no traceback, whose frames would hold pixels; that of a bug of imlctl's is text.
    """

    error: InputError
    trace: str = ""
    sha256: str | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """Outputs, record (as of `Record.to_dict`) and preview of a picture, still to be written."""

    outputs: Mapping[Kind, bytes]
    record: Mapping[str, Any]
    preview: Preview | None = None


def bare(error: AnyError) -> AnyError:
    """Return an error without its traceback and cause, so that it can be sent."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def failed(error: Exception, source: str) -> Failed:
    """Say in plain words what an exception means for one picture; `source` is its name.

    Raises:
        ImlctlError: The error itself, if it concerns more than this picture.
    """
    if isinstance(error, InputError):
        error.source = error.source or source
        return Failed(bare(error))
    if isinstance(error, ImlctlError):
        raise error
    text, trace = " ".join(str(error).split()), ""
    # torch raises a class of its own, or only says so; it is not imported here to find out.
    no_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if no_memory or any(sign in text.lower() for sign in _NO_MEMORY):
        what = "there is not enough memory to analyse it"
        remedy = "Use smaller tiles, such as --tile 512, or fewer processes, such as --jobs 1."
    elif isinstance(error, OSError):
        what = f"it cannot be read ({error.strerror or error})"
        remedy = "Check the file and its disk."
    else:
        what = f"internal error, {type(error).__name__}: {text}"
        remedy = "This is a bug in imlctl; please report it with the output of -v."
        trace = "".join(traceback.format_exception(error))
    return Failed(InputError(what, source=source, remedy=remedy), trace)


def send(stream: IO[bytes], message: Any) -> None:
    """Write one message; the pixels of a decoded picture follow it as they lie in memory."""
    pixels: bytes | memoryview = b""
    if isinstance(message, Decoded):
        array = np.ascontiguousarray(message.photo.pixels)
        rest = {f.name: getattr(message.photo, f.name) for f in fields(Photo)}
        rest["pixels"] = (array.shape, array.dtype.str)
        message, pixels = (rest, message.seconds), array.data
    head = pickle.dumps(message)
    stream.write(_LENGTH.pack(len(head)) + head)
    stream.write(pixels)
    stream.flush()


def receive(stream: IO[bytes], *, trusted: bool = False) -> Any:
    """Read one message.

    What decodes hostile files is not trusted: from it, only data of our own classes is accepted.

    Raises:
        EOFError: The other side has gone.
        pickle.UnpicklingError: The message is not one of ours.
    """
    (length,) = _LENGTH.unpack(_exactly(stream, bytearray(_LENGTH.size)))
    if length > _LONGEST_REPLY and not trusted:
        raise pickle.UnpicklingError(f"a message of {length} bytes")
    data = io.BytesIO(_exactly(stream, bytearray(length)))
    body = pickle.load(data) if trusted else _Loader(data).load()  # noqa: S301
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
        if module.startswith(_FROM_DECODERS) and "." not in name:
            found = super().find_class(module, name)
            if isinstance(found, type) and found.__module__ == module:
                return found
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a message")
