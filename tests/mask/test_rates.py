"""Measured rates: counts against loops, exact intervals against scipy and printed tables."""

from __future__ import annotations

import json
from typing import Any

import pytest
from scipy import stats

from imlctl.mask.decide import Verdict
from imlctl.mask.rates import checked, counted_share, exact_interval, in_words, measured

M, I, N = Verdict  # noqa: E741


@pytest.mark.parametrize(("count", "of"), [(0, 18), (1, 18), (6, 186), (75, 245), (186, 186)])
def test_intervals_are_those_of_clopper_and_pearson(count: int, of: int) -> None:
    low, high = exact_interval(count, of)
    theirs = stats.binomtest(count, of).proportion_ci(0.95, "exact")
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_an_interval_of_nothing_says_nothing() -> None:
    assert exact_interval(0, 0) == (0.0, 1.0)
    assert counted_share(0, 0)["share"] is None


@pytest.mark.parametrize(("count", "of"), [(-1, 3), (4, 3)])
def test_an_impossible_proportion_is_refused(count: int, of: int) -> None:
    with pytest.raises(ValueError, match="proportion"):
        counted_share(count, of)


@pytest.fixture
def rates() -> dict[str, Any]:
    forgeries = [(M, 0.005), (N, 0.009), (M, 0.01), (I, 0.05), (M, 0.1), (M, 0.11), (I, 0.9)]
    return measured("seven and five", forgeries, [N, N, I, N, M])


def test_verdicts_are_counted_overall_and_by_the_size_of_the_edit(rates: dict[str, Any]) -> None:
    found = rates[M]
    assert found["forgeries"] == counted_share(4, 7)
    assert found["authentic"] == counted_share(1, 5)
    assert list(found["by_size"].values()) == [
        counted_share(1, 2),
        counted_share(2, 3),
        counted_share(1, 2),
    ]
    assert [each["count"] for each in rates[I]["by_size"].values()] == [0, 1, 1]
    for kind, total in (("forgeries", 7), ("authentic", 5)):
        assert sum(rates[verdict][kind]["count"] for verdict in Verdict) == total


def test_the_ratio_is_how_many_times_as_often_forgeries_get_it(rates: dict[str, Any]) -> None:
    assert rates[M]["ratio"] == pytest.approx((4 / 7) / (1 / 5), abs=1e-3)
    assert measured("", [(M, 0.5)], [N])[M]["ratio"] is None  # no number is infinite


def test_they_travel_as_json(rates: dict[str, Any]) -> None:
    text = json.dumps(rates, allow_nan=False)
    assert checked(json.loads(text)) == rates


def rate(forgeries: tuple[int, int], authentic: tuple[int, int]) -> dict[str, dict[str, int]]:
    both = {"forgeries": forgeries, "authentic": authentic}
    return {kind: {"count": count, "of": of} for kind, (count, of) in both.items()}


@pytest.mark.parametrize(
    ("verdict", "forgeries", "authentic", "said"),
    [
        (M, (45, 100), (1, 100), "1 in 100 authentic pictures scores this high, 45 in 100 forg"),
        (M, (75, 245), (6, 186), "3 in 100 authentic pictures score this high, 31 in 100 forg"),
        (M, (75, 245), (0, 186), "none of 186 authentic pictures scores this high, 31 in 100"),
        (M, (245, 245), (1, 400), "1 in 400 authentic pictures scores this high, all of 245 for"),
        (I, (3, 10), (1, 8), "12 in 100 authentic pictures get this verdict, 30 in 100 forgeries"),
        (N, (999, 1000), (9, 10), "99 in 100 forgeries get this verdict too"),
    ],
)
def test_they_are_said_in_words(
    verdict: str, forgeries: tuple[int, int], authentic: tuple[int, int], said: str
) -> None:
    assert in_words(verdict, rate(forgeries, authentic)).startswith(said)
