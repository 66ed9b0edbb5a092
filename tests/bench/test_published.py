from __future__ import annotations

import pytest

from imlctl.bench.page import Table
from imlctl.bench.published import published_page, published_tables


def test_every_table_says_where_it_is_from() -> None:
    tables = published_tables()
    assert [table.number for table in tables] == ["Table 2", "Table 3", "Table 4", "Table 7"]
    for table in tables:
        assert "Score-based Model" in table.source
        assert "RTX 3090" in table.hardware
        assert table.settings


@pytest.mark.parametrize("table", published_tables()[:2], ids=lambda table: table.number)
def test_averages_are_those_of_their_rows(table: object) -> None:
    """A slip in copying would show."""
    for name, figures in table.rows:  # type: ignore[attr-defined]
        *each, average = figures
        assert sum(each) / len(each) == pytest.approx(average, abs=0.00051), name


def test_a_figure_is_found_however_its_set_is_written() -> None:
    mvss, cat, *_ = published_tables()
    assert mvss.figure("DiffIML", "CASIAv1") == mvss.figure("DiffIML", "casia_v1") == 0.746
    assert cat.figure("DiffIML", "columbia") == 0.939
    assert cat.figure("DiffIML", "IMD2020") is None
    assert cat.figure("Nobody", "columbia") is None


def test_published_figures_never_share_a_column_with_ours() -> None:
    sets = [{"name": "Columbia", "f1": 0.123}, {"name": "ours", "f1": 0.456}]
    page = published_page({"kind": "accuracy", "sets": sets})
    beside, *others = [block for block in page if isinstance(block, Table)]
    assert beside.rows == (("Columbia", "0.123", "0.859", "0.939"),)
    assert beside.columns[1] == "measured here"
    assert all(column.startswith("published") for column in beside.columns[2:])
    for table in others:
        assert table.title.startswith("PUBLISHED, not measured here")
        assert "0.123" not in str(table.rows)
    assert [table.title[-7:] for table in others] == ["Table 2", "Table 3"]


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [("speed", "4"), ("flops", "4"), ("ablation", "7"), ("published", "2347")],
)
def test_each_measurement_has_its_tables(kind: str, numbers: str) -> None:
    tables = [b for b in published_page({"kind": kind}) if isinstance(b, Table)]
    assert "".join(table.title[-1] for table in tables) == numbers
    notes = [b for b in published_page({"kind": kind}) if isinstance(b, str)]
    assert all("RTX 3090" in note and "Source: " in note for note in notes)
