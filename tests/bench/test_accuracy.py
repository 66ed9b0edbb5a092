from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from imlctl.bench.accuracy import (
    Answer,
    Case,
    PictureScore,
    auc_of,
    best_f1_of,
    curve,
    evaluate,
    find_cases,
    pixel_auc,
    pixel_f1,
    pixel_iou,
    summarize,
)
from imlctl.errors import ConfigError, NumericalError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

NAN = float("nan")
SHAPE = (6, 7)
MASKS = hnp.arrays(np.bool_, SHAPE)
# Few distinct values, so that there are many ties.
TIED = hnp.arrays(np.float32, SHAPE, elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]))


def as_mask(*rows: str) -> NDArray[np.bool_]:
    return np.array([[c == "#" for c in row] for row in rows])


class TestF1AndIoU:
    @settings(max_examples=60, deadline=None)
    @given(predicted=MASKS, truth=MASKS)
    def test_against_their_definitions(self, predicted: Any, truth: Any) -> None:
        pairs = list(zip(predicted.ravel(), truth.ravel(), strict=True))
        tp = sum(p and t for p, t in pairs)
        fp, fn = sum(p and not t for p, t in pairs), sum(t and not p for p, t in pairs)
        f1 = 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 1.0
        iou = tp / (tp + fp + fn) if tp + fp + fn else 1.0
        assert pixel_f1(predicted, truth) == pytest.approx(f1)
        assert pixel_iou(predicted, truth) == pytest.approx(iou)

    @pytest.mark.parametrize(
        ("predicted", "truth", "f1", "iou"),
        [
            (as_mask("##.."), as_mask("##.."), 1, 1),
            (as_mask("##.."), as_mask("..##"), 0, 0),
            (as_mask("###."), as_mask("##.."), 0.8, 2 / 3),
            (as_mask("...."), as_mask("...."), 1, 1),
            (as_mask("...."), as_mask("#..."), 0, 0),
            (as_mask("#..."), as_mask("...."), 0, 0),
        ],
    )
    def test_edge_cases(self, predicted: Any, truth: Any, f1: float, iou: float) -> None:
        assert pixel_f1(predicted, truth) == pytest.approx(f1)
        assert pixel_iou(predicted, truth) == pytest.approx(iou)

    def test_the_opposite_of_the_truth_is_no_success(self) -> None:
        truth = as_mask("##..", "##..")
        assert pixel_f1(~truth, truth) == 0


class TestCurve:
    @settings(max_examples=60, deadline=None)
    @given(probability=TIED, truth=MASKS)
    def test_area_is_the_chance_to_rank_a_pair_rightly(self, probability: Any, truth: Any) -> None:
        forged, clean = probability[truth], probability[~truth]
        auc = pixel_auc(probability, truth)
        if not len(forged) or not len(clean):
            assert math.isnan(auc)
            return
        wins = (forged[:, None] > clean).sum() + 0.5 * (forged[:, None] == clean).sum()
        assert auc == pytest.approx(wins / (len(forged) * len(clean)))

    @settings(max_examples=60, deadline=None)
    @given(probability=TIED, truth=MASKS)
    def test_counts_are_those_of_every_threshold(self, probability: Any, truth: Any) -> None:
        true, false = curve(probability, truth)
        thresholds = [np.inf, *np.unique(probability)[::-1]]
        assert true.tolist() == [int((truth & (probability >= t)).sum()) for t in thresholds]
        assert false.tolist() == [int((~truth & (probability >= t)).sum()) for t in thresholds]

    @settings(max_examples=60, deadline=None)
    @given(probability=TIED, truth=MASKS)
    def test_best_f1_is_that_of_the_best_threshold(self, probability: Any, truth: Any) -> None:
        best = best_f1_of(*curve(probability, truth))
        if not truth.any():
            assert math.isnan(best)
            return
        tried = [pixel_f1(probability >= t, truth) for t in np.unique(probability)]
        assert best == pytest.approx(max(tried))

    @pytest.mark.parametrize(("sign", "auc"), [(1, 1.0), (-1, 0.0)])
    def test_perfect_and_inverted(self, sign: int, auc: float) -> None:
        truth = as_mask("##..", "#...")
        assert pixel_auc((0.5 + sign * (truth - 0.5) / 2).astype(np.float32), truth) == auc

    def test_constant_map_knows_nothing(self) -> None:
        truth = as_mask("##..", "#...")
        assert pixel_auc(np.full(truth.shape, 0.3, np.float32), truth) == 0.5

    def test_is_precise_on_many_pixels(self) -> None:
        rng = np.random.default_rng(0)
        truth = rng.random((400, 400)) < 0.01
        probability = rng.random((400, 400)).astype(np.float32)
        assert auc_of(*curve(probability, truth)) == pytest.approx(0.5, abs=0.02)
        assert pixel_auc(probability + truth, truth) == 1.0


def save(path: Path, size: tuple[int, int] = (8, 6), level: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, level).save(path)
    return path


class TestFindCases:
    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        for name in ("one/tampered/b.png", "one/masks/b.png", "one/tampered/a.jpg"):
            save(tmp_path / name)
        for name in ("one/masks/a.png", "one/authentic/c.tif", "two/authentic/d.bmp"):
            save(tmp_path / name)
        (tmp_path / "one" / "tampered" / "notes.txt").touch()
        (tmp_path / "readme.md").touch()
        return tmp_path

    def test_sets_in_order_with_their_masks(self, tree: Path) -> None:
        one, two = tree / "one", tree / "two"
        assert find_cases(tree) == [
            Case("one", one / "tampered" / "a.jpg", one / "masks" / "a.png"),
            Case("one", one / "tampered" / "b.png", one / "masks" / "b.png"),
            Case("one", one / "authentic" / "c.tif", None),
            Case("two", two / "authentic" / "d.bmp", None),
        ]

    def test_one_set_alone(self, tree: Path) -> None:
        assert find_cases(tree / "two") == find_cases(tree)[3:]
        assert find_cases(tree / "one") == find_cases(tree)[:3]

    def test_missing_mask(self, tree: Path) -> None:
        save(tree / "one" / "tampered" / "z.png")
        with pytest.raises(ConfigError, match=r"z.png: has no mask of the same stem"):
            find_cases(tree)

    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"gone: no such folder"):
            find_cases(tmp_path / "gone")

    def test_another_layout(self, tmp_path: Path) -> None:
        save(tmp_path / "pictures" / "a.png")
        with pytest.raises(ConfigError, match=r"no evaluation pictures found.*Expected <set>/"):
            find_cases(tmp_path)


class TestEvaluate:
    @pytest.fixture
    def cases(self, tmp_path: Path) -> list[Case]:
        truth = np.zeros((6, 8), np.uint8)
        truth[:3] = 255
        truth[0, 0] = 127  # masks are cut at the middle of their range
        (tmp_path / "mask.png").parent.mkdir(exist_ok=True)
        Image.fromarray(truth).save(tmp_path / "mask.png")
        image = save(tmp_path / "a.png")
        return [Case("set", image, tmp_path / "mask.png"), Case("set", image, None)]

    @staticmethod
    def answer(_: Path) -> Answer:
        probability = np.full((6, 8), 0.1, np.float32)
        probability[:, :4] = 0.5
        probability[0, 0] = 0.9
        return Answer(probability, 0.7)

    def test_scores(self, cases: list[Case]) -> None:
        forged, clean = evaluate(cases, self.answer)
        assert (forged.set, forged.image, forged.tampered) == ("set", "a.png", True)
        assert forged.share == clean.share == 0.5
        assert forged.score == clean.score == 0.7
        assert forged.f1 == pytest.approx(2 * 11 / (24 + 23))
        assert forged.iou == pytest.approx(11 / 36)
        wins = 11 * 12 + 0.5 * (11 * 12 + 12 * 12) - 0.0
        assert forged.auc == pytest.approx(wins / (23 * 25))
        assert forged.best_f1 == pytest.approx(2 * 23 / (48 + 23))
        assert not clean.tampered
        assert all(math.isnan(x) for x in (clean.f1, clean.iou, clean.auc, clean.best_f1))

    def test_threshold_is_included(self, cases: list[Case]) -> None:
        shares = [next(evaluate(cases, self.answer, threshold=t)).share for t in (0.5, 0.51, 0.05)]
        assert shares == [0.5, 1 / 48, 1.0]

    def test_mask_of_another_size(self, cases: list[Case], tmp_path: Path) -> None:
        wrong = replace(cases[0], mask=save(tmp_path / "wrong.png", (6, 8)))
        with pytest.raises(ConfigError, match=r"wrong.png: is \(8, 6\), its picture \(6, 8\)"):
            next(evaluate([wrong], self.answer))

    def test_damaged_mask(self, cases: list[Case], tmp_path: Path) -> None:
        (tmp_path / "torn.png").write_bytes((tmp_path / "mask.png").read_bytes()[:40])
        torn = replace(cases[0], mask=tmp_path / "torn.png")
        with pytest.raises(ConfigError, match=r"torn.png: is not a readable mask"):
            next(evaluate([torn], self.answer))

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_a_map_that_is_not_finite_is_no_answer(self, value: float, cases: list[Case]) -> None:
        def broken(path: Path) -> Answer:
            answer = self.answer(path)
            answer.probability[2, 2] = value
            return answer

        with pytest.raises(NumericalError, match=r"a.png: its map holds NaN or infinity"):
            next(evaluate(cases, broken))


class TestSummarize:
    @staticmethod
    def score(name: str, tampered: bool, **values: float) -> PictureScore:
        zero = dict.fromkeys(("f1", "iou", "auc", "best_f1"), 0.0 if tampered else NAN)
        rest = {"share": 0.0, "score": 0.0}
        return PictureScore(name, "x.png", tampered, **(zero | rest | values))

    def test_means_within_sets_then_over_sets(self) -> None:
        rows = summarize(
            [
                self.score("b", True, f1=0.2, iou=0.1, auc=0.6, best_f1=0.3, share=0.1),
                self.score("b", True, f1=0.4, iou=0.3, auc=0.8, best_f1=0.5),
                self.score("b", False, share=0.2),
                self.score("a", True, f1=0.9, iou=0.8, auc=1.0, best_f1=1.0, share=0.1),
            ]
        )
        assert [row.name for row in rows] == ["b", "a", "mean over sets"]
        b, a, mean = rows
        assert (b.tampered, b.authentic) == (2, 1)
        assert (b.f1, b.iou, b.auc, b.best_f1) == pytest.approx((0.3, 0.2, 0.7, 0.4))
        assert (b.found, b.flagged) == (0.5, 1.0)
        assert (a.tampered, a.authentic, a.found) == (1, 0, 1.0)
        assert math.isnan(a.flagged)
        assert (mean.tampered, mean.authentic) == (3, 1)
        assert (mean.f1, mean.auc) == pytest.approx((0.6, 0.85))  # not the mean over pictures
        assert mean.found == pytest.approx(0.75)

    def test_sets_without_a_value_do_not_count(self) -> None:
        rows = summarize(
            [
                self.score("forged", True, f1=0.5, auc=0.8),
                self.score("clean", False, share=0.5),
                self.score("calm", False),
            ]
        )
        mean = rows[-1]
        assert (mean.f1, mean.auc, mean.flagged) == (0.5, 0.8, 0.5)

    def test_pictures_without_a_value_do_not_count(self) -> None:
        """A mask that covers the whole picture has no AUC."""
        (row,) = summarize([self.score("s", True, auc=NAN), self.score("s", True, auc=0.6)])
        assert row.auc == 0.6

    def test_flagged_is_more_than_the_least_share(self) -> None:
        scores = [self.score("s", False, share=x) for x in (0.0, 0.005, 0.0051, 0.2)]
        (row,) = summarize(scores)
        assert row.flagged == 0.5
        (row,) = summarize(scores, min_share=0.1)
        assert row.flagged == 0.25

    def test_one_set_needs_no_mean_and_none_has_none(self) -> None:
        assert [row.name for row in summarize([self.score("s", True)])] == ["s"]
        assert summarize([]) == []
