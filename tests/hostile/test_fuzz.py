"""A short hunt for files that break the decoder; `make fuzz` is the long one."""

from __future__ import annotations

from typing import Any

import pytest

SECONDS = 12.0


def test_a_short_hunt_finds_nothing(makers: Any, target: Any) -> None:
    result = target.hunt(makers.samples(), seed=20, seconds=SECONDS)
    assert result.found == []
    assert result.tried > 20
    assert 0 < result.decoded < result.tried


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("raise ZeroDivisionError", "ZeroDivisionError"),
        ("while True: pass", "worked for"),
        ("import os; os.kill(os.getpid(), 11)", "status -11"),
        ("bytes(2**31)", "MemoryError"),
        ("import warnings; warnings.warn('x')", "UserWarning"),
        ("return None", "AttributeError"),
    ],
)
def test_a_hunt_finds_what_is_broken(
    makers: Any, target: Any, tmp_path: Any, monkeypatch: Any, broken: str, said: str
) -> None:
    """With a decoder that misbehaves as decoders do."""
    source = target.__loader__.get_source(target.__name__)
    wrong = f"def decode(data, *, source, max_pixels):\n    {broken}\n"
    changed = source.replace("from imlctl.image.decode import decode\n", wrong)
    assert changed != source
    changed = changed.replace("SECONDS = 20.0", "SECONDS = 0.2")
    (tmp_path / "target.py").write_text(changed)
    monkeypatch.setattr(target, "__file__", str(tmp_path / "target.py"))
    result = target.hunt(makers.samples(), seed=1, seconds=60, most=1)
    ((data, why),) = result.found
    assert said in why
    assert data == target.mutated(makers.samples(), 1, 0)
