"""Messages between the processes of a scan, and what goes wrong with one picture put into words."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from imlctl.errors import ImlctlError, InputError

if TYPE_CHECKING:
    from imlctl.image.decode import Photo
    from imlctl.report.preview import Preview
    from imlctl.scan.naming import Kind

AnyError = TypeVar("AnyError", bound=ImlctlError)

_FROM_DECODERS = ("imlctl.image.", "imlctl.errors", "imlctl.scan.messages")
_NO_MEMORY = ("out of memory", "allocate memory", "insufficient memory")


@dataclass(frozen=True, slots=True)
class Request:
    """One picture to decode."""

    path: str  # of the file, or the name of `data`
    max_pixels: int  # see `image.decode.read`
    # If all these files, name to sha256, are as they were, nothing is left to do
    done: Mapping[str, str] = field(default_factory=dict)
    data: bytes | None = None  # encoded, where there is no file
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

    The error has no traceback, whose frames hold pixels; that of a bug of imlctl's is text.
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
    """Say in words what an error means for one picture; raise it if it concerns all of them."""
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


class Pixels:
    """An array as it is sent: calling the class gives it back, read-only."""

    def __new__(cls, shape: tuple[int, ...], kind: str, data: bytes) -> NDArray[Any]:  # type: ignore[misc]
        """Return the array."""
        return np.frombuffer(data, np.dtype(kind)).reshape(shape)


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return NotImplemented
        array = np.ascontiguousarray(value)
        data = pickle.PickleBuffer(array)  # type: ignore[arg-type]
        return Pixels, (array.shape, array.dtype.str, data)


class _Unpickler(pickle.Unpickler):
    """Builds objects of our own data classes and errors, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith(_FROM_DECODERS) and "." not in name:
            found = super().find_class(module, name)
            if isinstance(found, type) and found.__module__ == module:
                return found
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a message")


def send(stream: IO[bytes], message: Any) -> None:
    """Write one message."""
    _Pickler(stream, protocol=5).dump(message)
    stream.flush()


def receive(stream: IO[bytes], *, trusted: bool = False) -> Any:
    """Read a message, EOFError at the end; unless trusted, one that holds only our own classes."""
    return pickle.load(stream) if trusted else _Unpickler(stream).load()  # noqa: S301
