from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from imlctl.bench.accuracy import answer_of, parse_peer, read_map, run
from imlctl.errors import InputError, UsageError
from imlctl.mask.decide import Verdict

if TYPE_CHECKING:
    from pathlib import Path

COPY = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2])"


class TestCommand:
    def test_places_are_filled_and_no_shell_runs(self, tmp_path: Path) -> None:
        image, out = tmp_path / "a $(touch x); b.png", tmp_path / "out.png"
        Image.new("L", (4, 4)).save(image)
        run(parse_peer(f"{sys.executable} -c '{COPY}' {{image}} {{out}}"), image, out)
        assert out.read_bytes() == image.read_bytes()

    @pytest.mark.parametrize("text", ["detect {image}", "detect {out}", "detect '{image} {out}"])
    def test_commands_that_cannot_work(self, text: str) -> None:
        with pytest.raises(UsageError, match="--peer"):
            parse_peer(text)

    @pytest.mark.parametrize(
        ("program", "seconds", "says"),
        [
            ("raise SystemExit('no weights')", 60, r"status 1 and no map: no weights"),
            ("pass", 60, r"status 0 and no map"),
            ("import time; time.sleep(60)", 0.1, r"the peer failed: .*timed out"),
        ],
    )
    def test_failures_are_told(
        self, tmp_path: Path, program: str, seconds: float, says: str
    ) -> None:
        words = (sys.executable, "-c", program, "{image}", "{out}")
        with pytest.raises(InputError, match=says):
            run(words, tmp_path / "a.png", tmp_path / "out.png", seconds)

    def test_a_program_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="the peer failed"):
            run(("no-such-program", "{image}", "{out}"), tmp_path, tmp_path / "out.png")


class TestReadMap:
    def test_depths(self, tmp_path: Path) -> None:
        levels = np.array([[0.0, 0.2, 1.0]])
        for depth, dtype in ((255, np.uint8), (65535, np.uint16)):
            path = tmp_path / f"{depth}.png"
            Image.fromarray(np.rint(levels * depth).astype(dtype)).save(path)
            assert read_map(path, (1, 3))[0].tolist() == pytest.approx([0, 0.2, 1.0], abs=1e-3)

    def test_another_size(self, tmp_path: Path) -> None:
        Image.new("L", (4, 4)).save(tmp_path / "m.png")
        with pytest.raises(InputError, match=r"m.png: the peer's map is \(4, 4\), not \(5, 4\)"):
            read_map(tmp_path / "m.png", (5, 4))

    def test_no_picture(self, tmp_path: Path) -> None:
        (tmp_path / "m.png").write_text("nothing")
        with pytest.raises(InputError, match="cannot be read"):
            read_map(tmp_path / "m.png", (5, 4))


def test_a_map_gives_its_own_score_and_verdict() -> None:
    probability = np.full((20, 20), 0.1, np.float32)
    probability.ravel()[:3] = (0.9, 0.8, 0.7)
    answer = answer_of(probability)
    assert answer.decision.score == pytest.approx(0.7)  # half a percent are two pixels
    assert (answer.decision.verdict, answer.decision.threshold) == (Verdict.MANIPULATED, 0.5)
    assert answer_of(probability / 2).decision.verdict is Verdict.NOTHING_FOUND
