from __future__ import annotations

import math

from imlctl.bench import page
from imlctl.bench.page import Table, to_markdown
from imlctl.bench.pages import page_of
from imlctl.mask.rates import counted_share


def test_markdown() -> None:
    table = Table("Speed | of *it*", ("a", "b\nc"), (("x|y", "1"), ("<z>", "2")))
    assert to_markdown([table, "some_words"]) == (
        "**Speed \\| of \\*it\\***\n\n"
        "| a | b c |\n| --- | ---: |\n| x\\|y | 1 |\n| \\<z\\> | 2 |\n\n"
        "some\\_words\n"
    )


def test_numbers() -> None:
    assert page.fraction(None) == page.percentage(None) == "-"
    assert (page.fraction(0.12345), page.percentage(0.126)) == ("0.123", "13%")
    assert (page.fraction(0.99997), page.fraction(1.0)) == ("0.999", "1.000")
    shares = (0.0, 0.001, 0.994, 0.999, 1.0, 1.02)
    assert [page.percentage(v) for v in shares] == ["0%", "<1%", "99%", ">99%", "100%", "102%"]
    assert (page.duration(0.01234), page.duration(12.3)) == ("12.34 ms", "12.3 s")
    assert [page.amount(v) for v in (0.5, 1500, 2e6, 3e9, 4e12)] == [
        "0.5",
        "1.5 k",
        "2 M",
        "3 G",
        "4 T",
    ]
    assert (page.megabytes(None), page.megabytes(2.5e6)) == ("unknown", "2.5 MB")
    row = {"f1": 0.5, "auc": None, "intervals": {"f1": [0.25, 0.75]}}
    assert page.interval(row, "f1") == "0.500 [0.25, 0.75]"
    assert page.interval(row, "auc") == "-"


def test_proportions_have_their_interval() -> None:
    rates = counted_share(0, 18)
    assert page.proportion(rates) == "0% [0, 19]"
    assert page.proportion(counted_share(0, 0)) == "-"


def test_how_it_was_drawn() -> None:
    assert page.sampling_line({"tile": 5, "tta": "none"}) == "no flips"
    drawn = {"steps": 8, "ensemble": 5, "tta": "max"}
    assert page.sampling_line(drawn) == "8 steps, 5 members, flips fused by max"


def test_json_has_no_nan() -> None:
    assert page.without_nan({"a": [math.nan, 1.0], "b": {"c": (math.nan, "x")}}) == {
        "a": [None, 1.0],
        "b": {"c": [None, "x"]},
    }


def test_a_system_that_does_not_say_what_else_runs_is_named() -> None:
    keys = ("device", "cpu", "cores", "threads", "waiting", "torch", "python", "system")
    machine = dict.fromkeys(keys, "x") | {"others": None}
    document = {"kind": "speed", "machine": machine, "others_after": None, "busy": False}
    conditions, _ = page_of(document | {"models": [], "resident": None})
    assert "this system does not say what other programs used" in str(conditions)
    assert "%" not in str(conditions)
