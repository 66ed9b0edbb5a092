from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from imlctl.errors import ConfigError, UsageError
from imlctl.evaluate.metrics import threshold_at
from imlctl.evaluate.thresholds import (
    drawn_with,
    keep,
    kept_in,
    threshold_for,
    thresholds_for,
)
from imlctl.settings import Sampling

if TYPE_CHECKING:
    from pathlib import Path

SHA = "a" * 64
SAMPLED = {"tta": "none", "steps": 8, "ensemble": 5}


@pytest.fixture(autouse=True)
def own_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def spread(count: int = 200) -> list[float]:
    return np.random.default_rng(0).random(count).astype(np.float32).tolist()


class TestThresholdAt:
    @pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.29, 0.5])
    def test_flags_no_more_than_the_rate_and_no_less_would(self, rate: float) -> None:
        values = np.float32(spread(100))
        threshold = threshold_at(values.tolist(), rate)
        # As `decide` compares: a float32 map with a Python number.
        assert np.count_nonzero(values >= threshold) == round(rate * 100)
        lower = float(np.nextafter(np.float32(threshold), np.float32(0)))
        assert np.count_nonzero(values >= lower) > round(rate * 100)

    def test_ties_are_on_the_safe_side(self) -> None:
        threshold = threshold_at([0.5] * 10 + [0.1] * 10, 0.25)
        assert threshold > 0.5

    def test_a_threshold_is_never_reached_by_nothing(self) -> None:
        assert threshold_at([0.0] * 5, 0.2) > 0
        assert not np.any(np.zeros(5, np.float32) >= threshold_at([0.0] * 5, 0.2))


class TestThresholdsFor:
    def test_rows(self) -> None:
        rows = thresholds_for(spread(), (0.001, 0.05, 0.2))
        assert [row["resolved"] for row in rows] == [False, True, True]
        assert [row["marked"]["count"] for row in rows] == [0, 10, 40]
        assert 0.9 < rows[1]["threshold"] < 0.99  # uniform values: 1 - rate
        low, high = rows[0]["marked"]["interval"]
        assert low == 0 < high < 0.03  # of 200 pictures

    def test_more_pictures_are_surer(self) -> None:
        few, many = (thresholds_for(spread(n), (0.1,))[0]["marked"] for n in (50, 5000))
        assert np.ptp(many["interval"]) < np.ptp(few["interval"]) / 4


class TestKeeping:
    def test_any_rate_can_be_asked_for_later(self) -> None:
        keep(SHA, SAMPLED, spread())
        for rate in (0.0, 0.013, 0.3):
            assert threshold_for(SHA, rate, Sampling()) == threshold_at(spread(), rate)

    def test_other_weights_and_settings_stay(self) -> None:
        keep("b" * 64, {"tta": "none"}, [0.1])
        keep(SHA, SAMPLED | {"ensemble": 1}, [0.2])
        keep(SHA, SAMPLED, [0.3])
        keep(SHA, SAMPLED, [0.4])  # in place of the one before
        assert [len(v) for v in json.loads(kept_in().read_text())["weights"].values()] == [2, 1]
        found = [threshold_for(SHA, 0.0, Sampling(ensemble=n)) for n in (1, 5)]
        assert found == pytest.approx([0.2, 0.4])
        # What samples nothing does not ask for steps.
        assert threshold_for("b" * 64, 0.0, Sampling(3, 7)) == pytest.approx(0.1)

    def test_nothing_kept(self) -> None:
        with pytest.raises(UsageError, match=r"aaaaaaaaaaaa.*not calibrated.*bench --calibrate"):
            threshold_for(SHA, 0.01, Sampling())

    def test_kept_for_other_settings(self) -> None:
        keep(SHA, SAMPLED, [0.3])
        with pytest.raises(UsageError, match=r"other settings only: .*steps 8, tta none"):
            threshold_for(SHA, 0.01, Sampling(tta=True))

    @pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
    def test_rates_that_make_no_sense(self, rate: float) -> None:
        with pytest.raises(UsageError, match="false-positive rate"):
            threshold_for(SHA, rate, Sampling())

    def test_no_threshold_is_strict_enough(self) -> None:
        keep(SHA, SAMPLED, [1.0, 0.2])
        with pytest.raises(UsageError, match="no threshold below 1"):
            threshold_for(SHA, 0.01, Sampling())
        assert threshold_for(SHA, 0.5, Sampling()) == pytest.approx(0.2)

    @pytest.mark.parametrize(
        "text", ["{", "[]", "{}", '{"version": 9, "weights": {}}', '{"version": 1, "weights": 5}']
    )
    def test_a_damaged_file_is_named(self, text: str) -> None:
        kept_in().parent.mkdir(parents=True)
        kept_in().write_text(text)
        with pytest.raises(ConfigError, match=r"thresholds.json: .*Move it away"):
            keep(SHA, SAMPLED, [0.3])
        assert kept_in().read_text() == text

    def test_settings_that_matter(self) -> None:
        settings = {"tile": 5, "threshold": 0.5, **SAMPLED}
        assert drawn_with(settings) == SAMPLED
        assert drawn_with({"tile": 5, "tta": "max"}) == {"tta": "max"}
