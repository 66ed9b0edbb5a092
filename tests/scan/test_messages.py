import io
import os
import pickle

import pytest

from imlctl.errors import DecodeError, WeightsError
from imlctl.scan.messages import Failed, failed, receive, send
from imlctl.scan.processes import Decoder


class OutOfMemoryError(RuntimeError):
    """Called as torch's."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("CUDA says no"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("MPS backend out of memory"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_too_little_memory_names_the_remedy(error):
    result = failed(error, "b.jpg")
    assert str(result.error).startswith("b.jpg: there is not enough memory")
    assert "--tile" in result.error.remedy
    assert result.trace == ""


def test_an_error_about_the_picture_is_kept_without_its_frames():
    try:
        raise DecodeError("it is truncated") from KeyError("inner")
    except DecodeError as error:
        result = failed(error, "b.jpg")
    assert str(result.error) == "b.jpg: it is truncated"
    assert result.error.__traceback__ is None
    assert result.error.__cause__ is None


def test_an_error_about_everything_is_raised():
    with pytest.raises(WeightsError):
        failed(WeightsError("wrong"), "b.jpg")


def test_a_bug_is_called_one():
    try:
        raise ZeroDivisionError("by zero")
    except ZeroDivisionError as error:
        result = failed(error, "b.jpg")
    assert "bug" in result.error.remedy
    assert "ZeroDivisionError" in result.trace


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


class SubtlyEvil:
    def __reduce__(self):
        return Decoder, (None,)


@pytest.mark.parametrize("message", [Evil(), SubtlyEvil()])
def test_a_message_can_call_nothing(message):
    body = pickle.dumps(message)
    with pytest.raises(pickle.UnpicklingError, match="no place"):
        receive(io.BytesIO(body))


def test_a_message_cut_short_is_no_message():
    stream = io.BytesIO()
    send(stream, Failed(DecodeError("x")))
    whole = stream.getvalue()
    assert str(receive(io.BytesIO(whole)).error) == "x"
    for length in range(len(whole)):
        with pytest.raises((EOFError, pickle.UnpicklingError)):
            receive(io.BytesIO(whole[:length]))
