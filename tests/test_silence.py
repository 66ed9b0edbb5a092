from __future__ import annotations

import os

import pytest

from imlctl.silence import silent_stderr


def test_drops_what_is_written_past_python_and_gives_the_stream_back(
    capfd: pytest.CaptureFixture[str],
) -> None:
    @silent_stderr()
    def fail() -> None:
        os.write(2, b"within ")
        raise ValueError("raised")

    os.write(2, b"before ")
    with pytest.raises(ValueError, match="raised"):
        fail()
    os.write(2, b"after")
    assert capfd.readouterr().err == "before after"
