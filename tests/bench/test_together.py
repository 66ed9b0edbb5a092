from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imlctl.bench.page import Table
from imlctl.bench.published import published_tables
from imlctl.bench.scatter import Point, Series, scatter
from imlctl.bench.together import check, cost_plot, together_page
from imlctl.errors import ConfigError


def accuracy(model: str, f1: float, sha256: str = "a", **settings: Any) -> dict[str, Any]:
    rows = [
        {
            "name": name,
            "tampered": 3,
            "authentic": 2,
            "f1": value,
            "auc": 0.8,
            "found": 0.5,
            "false_alarms": None,
            "intervals": {"f1": [0.25, 0.75]},
        }
        for name, value in (("one", 0.1), ("two", 0.9), ("mean over sets", f1))
    ]
    about = {"model": model, "weights_sha256": sha256, "threshold": 0.5, "settings": settings}
    return {"kind": "accuracy", **about, "sets": rows}


def cost(sha256: str, kind: str = "speed") -> dict[str, Any]:
    shares = [
        {"steps": None, "members": None, "share": 0.15},
        {"steps": 8, "members": 5, "share": 1.4},
    ]
    model = {
        "model": "m",
        "weights_sha256": sha256,
        "cost": {"size": 512, "parameters": 2e6, "macs": 1.8e9},
        "against": {"shares": shares},
    }
    if kind == "flops":
        del model["against"]
    return {"kind": kind, "models": [model]}


def together(*documents: dict[str, Any]) -> dict[str, Any]:
    check(documents)
    return {"kind": "together", "documents": list(documents)}


def first_table(document: dict[str, Any]) -> Table:
    table = together_page(document)[0]
    assert isinstance(table, Table)
    return table


def test_sets_side_by_side() -> None:
    table = first_table(together(accuracy("x", 0.4), accuracy("y", 0.5, "b")))
    assert table.columns[:4] == ("set", "pictures", "F1, x", "F1, y")
    assert [row[:4] for row in table.rows] == [
        ("one", "3 + 2", "0.100", "0.100"),
        ("two", "3 + 2", "0.900", "0.900"),
        ("mean over sets", "3 + 2", "0.400", "0.500"),
    ]


def test_a_set_that_only_one_model_saw() -> None:
    other = accuracy("y", 0.5, "b")
    other["sets"][0]["name"] = "three"
    rows = first_table(together(accuracy("x", 0.4), other)).rows
    assert [row[2:4] for row in rows if row[0] in ("one", "three")] == [
        ("0.100", "-"),
        ("-", "0.100"),
    ]


def test_accuracy_beside_the_cost_of_the_same_weights() -> None:
    sampled = accuracy("y", 0.5, "a", steps=8, ensemble=5)
    table = first_table(together(accuracy("x", 0.4), sampled, accuracy("z", 0.3, "b"), cost("a")))
    assert [row[:5] for row in table.rows] == [
        ("x", "2 M", "1.8 G", "0.150", "0.400 [0.25, 0.75]"),
        ("y", "2 M", "1.8 G", "1.400", "0.500 [0.25, 0.75]"),
        ("z", "-", "-", "-", "0.300 [0.25, 0.75]"),
    ]
    counted = first_table(together(accuracy("x", 0.4), cost("a", "flops")))
    assert counted.rows[0][2:4] == ("1.8 G", "-")  # never timed
    other_way = accuracy("y", 0.5, "a", steps=3, ensemble=5)
    assert first_table(together(other_way, cost("a"))).rows[0][3] == "-"


@pytest.mark.parametrize(
    ("documents", "says"),
    [
        ([cost("a"), cost("b")], "hold no accuracy"),
        ([accuracy("x", 0.4), {"kind": "peer"}], "of kind peer stand alone"),
        ([accuracy("x", 0.4, "a"), cost("b")], "of different weights"),
    ],
)
def test_what_does_not_belong_together(documents: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check(documents)


def as_array(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def orange(picture: Any) -> int:
    return int(((picture[..., 0] - picture[..., 2]) > 100).sum())


def blue(picture: Any) -> Any:
    return (picture[..., 2] - picture[..., 0]) > 120


def test_published_figures_are_a_series_of_their_own() -> None:
    document = together(accuracy("x", 0.4), cost("a"))
    alone, beside = (cost_plot(document, published=shown) for shown in (False, True))
    assert alone is not None
    assert beside is not None
    assert orange(as_array(alone)) == 0
    assert orange(as_array(beside)) > 500
    assert as_array(beside).shape[0] > as_array(alone).shape[0]  # the source is named below


def test_methods_with_both_figures_are_published() -> None:
    tables = {t.number: t for t in published_tables()}
    names = {name for name, _ in tables["Table 4"].rows}
    assert {"DiffIML (LightVAE, N=5)", "TruFor", "IML-ViT"} <= names
    assert tables["Table 3"].figure("DiffIML", "average") == 0.652


def test_nothing_to_plot() -> None:
    assert cost_plot(together(accuracy("x", 0.4), accuracy("y", 0.5)), published=True) is None


class TestScatter:
    @staticmethod
    def marks(*points: Point, published: bool = False) -> Any:
        return as_array(scatter("t", "x", [Series("s", points, published)]))

    def test_more_is_higher_and_dearer_is_further_right(self) -> None:
        places = []
        for across, up in ((1e9, 0.2), (9e9, 0.8)):
            # A point with no label of its own; the frame below the legend.
            frame = blue(self.marks(Point("", across, up)))[60:]
            rows, columns = np.nonzero(frame)
            places.append((rows.mean(), columns.mean()))
        assert places[1][0] < places[0][0]
        assert places[1][1] > places[0][1]

    def test_what_was_published_is_hollow(self) -> None:
        point = Point("", 3e9, 0.5)
        ours, theirs = self.marks(point), self.marks(point, published=True)
        assert blue(ours)[60:].sum() > 40
        assert blue(theirs).sum() == 0
        rows, columns = np.nonzero((theirs[60:, :, 0] - theirs[60:, :, 2]) > 100)
        middle = theirs[60 + round(rows.mean()), round(columns.mean())]
        assert middle.min() > 245  # but for what resampling spreads

    def test_labels_keep_clear_of_each_other(self) -> None:
        apart = self.marks(Point("word", 2e9, 0.3), Point("word", 2e9, 0.8))
        close = self.marks(Point("word", 2e9, 0.5), Point("word", 2e9, 0.5))
        # Two labels at one place are drawn at two, so about as much ink is seen as apart,
        # less one mark that lies on the other.
        one = self.marks(Point("", 2e9, 0.5))
        mark = blue(one)[60:].sum()
        assert blue(close)[60:].sum() == pytest.approx(blue(apart)[60:].sum() - mark, rel=0.1)

    def test_points_and_series_are_checked(self) -> None:
        for across, up in ((0.0, 0.5), (1.0, 1.5)):
            with pytest.raises(ValueError, match="a point lies"):
                Point("p", across, up)
        with pytest.raises(ValueError, match="has points"):
            Series("s", ())
