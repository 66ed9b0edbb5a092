"""Pictures that the benchmark draws: its charts."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from imlctl.bench.page import charts_of


def as_array(data: bytes | None) -> Any:
    assert data is not None
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


class TestCharts:
    ROWS: tuple[dict[str, Any], ...] = (
        {"kind": "clean", "level": "-", "f1": 0.8, "intervals": {}},
        {"kind": "JPEG", "level": "90", "f1": 0.7, "intervals": {"f1": [0.6, 0.8]}},
        {"kind": "JPEG", "level": "50", "f1": 0.3, "intervals": {"f1": [0.1, 0.4]}},
        {"kind": "resize", "level": "0.5", "f1": 0.2, "intervals": {}},
        {"kind": "social network", "level": "1080, 75", "f1": 0.1, "intervals": {}},
    )

    def test_a_panel_for_each_degradation_with_levels(self) -> None:
        charts = charts_of({"kind": "robustness", "rows": self.ROWS})
        assert list(charts) == ["robustness.png"]
        one = as_array(charts_of({"kind": "robustness", "rows": self.ROWS[:3]})["robustness.png"])
        assert as_array(charts["robustness.png"]).shape[0] == 2 * one.shape[0]

    def test_what_has_no_numbers_is_not_drawn(self) -> None:
        rows = [{"kind": "clean", "level": "-", "f1": None}]
        assert charts_of({"kind": "robustness", "rows": rows}) == {}
        assert charts_of({"kind": "accuracy", "models": [{"model": "m", "reliability": []}]}) == {}
        assert charts_of({"kind": "flops"}) == {}
