from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from PIL import Image

from imlctl.forge.jpeg import (
    SUBSAMPLINGS,
    Encoding,
    _bank,
    compress,
    jpeg,
    mozjpeg,
    random_encoding,
)
from imlctl.image.jpeg_facts import jpeg_facts

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]


class TestJpeg:
    def test_is_libjpeg_s_own_of_the_colours_in_their_order(
        self, photo: Callable[..., Any]
    ) -> None:
        pixels = np.ascontiguousarray(photo(3, 90, 70)[::-1])
        settings = [cv2.IMWRITE_JPEG_QUALITY, 77, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x221111]
        data = cv2.imencode(".jpg", pixels[..., ::-1], settings)[1]
        expected = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]  # type: ignore[index]
        found = jpeg(pixels, 77)
        assert np.array_equal(found, expected)
        assert found.flags.c_contiguous

    def test_keeps_colours_in_their_channels(self) -> None:
        red = np.zeros((32, 32, 3), np.uint8)
        red[..., 0] = 200
        assert np.abs(jpeg(red, 95).astype(int) - red).max() < 6

    def test_lower_quality_costs_more(self, photo: Callable[..., Any]) -> None:
        pixels = photo(0, 64, 64)
        errors = [np.abs(jpeg(pixels, q).astype(int) - pixels).mean() for q in (98, 80, 40)]
        assert 0 < errors[0] < errors[1] < errors[2]

    @pytest.mark.parametrize("offset", [(0, 0), (3, 5)])
    def test_works_on_the_grid_that_is_asked_for(
        self, offset: tuple[int, int], photo: Callable[..., Any]
    ) -> None:
        """Encoding again on the same grid changes little; on a shifted grid, more."""
        once = jpeg(photo(0, 72, 72), 60, offset=offset)
        same, other = (
            np.abs(jpeg(once, 60, offset=o).astype(int) - once).mean() for o in (offset, (6, 1))
        )
        assert same < 0.5 * other

    def test_subsampling_costs_colour_detail(self) -> None:
        pixels = np.zeros((32, 32, 3), np.uint8)
        pixels[:, ::2] = (200, 60, 60)
        pixels[:, 1::2] = (60, 60, 200)
        full, half = (
            np.abs(jpeg(pixels, Encoding(95, None, s)).astype(int) - pixels).mean()
            for s in ("4:4:4", "4:2:0")
        )
        assert half > 5 * full


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("progressive", [False, True])
def test_a_file_says_what_it_was_encoded_with(
    subsampling: str, progressive: bool, photo: Callable[..., Any]
) -> None:
    tables = _bank().tables[5]
    data = compress(photo(1, 48, 64), Encoding(90, tables, subsampling, progressive))
    facts = jpeg_facts(data)
    assert tuple(t.values for t in facts.tables) == tables
    assert (facts.subsampling, facts.progressive) == (subsampling, progressive)
    assert Image.open(io.BytesIO(data)).size == (64, 48)


class TestBank:
    def test_holds_many_tables_of_cameras_and_those_of_an_editor(self) -> None:
        bank = _bank()
        assert len(bank.tables) == len(set(bank.tables)) >= 60
        assert bank.editor.sum() >= 8
        assert all(len(t) == 64 and 1 <= min(t) <= max(t) <= 255 for p in bank.tables for t in p)

    def test_qualities_are_those_that_are_read_from_files(self, photo: Callable[..., Any]) -> None:
        bank = _bank()
        for number in range(0, len(bank.tables), 9):
            facts = jpeg_facts(compress(photo(0, 32, 32), Encoding(0, bank.tables[number])))
            assert facts.quality == bank.quality[number]
            assert not facts.standard

    def test_the_script_reads_tables_from_photographs(
        self, tmp_path: Path, photo: Callable[..., Any]
    ) -> None:
        spec = importlib.util.spec_from_file_location(
            "make_jpeg_tables", ROOT / "scripts" / "make_jpeg_tables.py"
        )
        assert spec is not None
        assert spec.loader is not None
        script = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(script)
        odd = (tuple(range(3, 67)), tuple(range(5, 69)))
        for name, encoding in (
            ("a", Encoding(0, odd)),
            ("b", Encoding(0, odd)),
            ("c", Encoding(80)),
        ):
            (tmp_path / f"{name}.jpg").write_bytes(compress(photo(0, 32, 32), encoding))
        rows = script.rows([tmp_path])
        cameras = [row for row in rows if row["from"] == "camera"]
        assert [(row["luma"], row["chroma"]) for row in cameras] == [odd]
        assert len(rows) > len(cameras)  # an editor's presets


def test_mozjpeg_scales_as_libjpeg_does() -> None:
    assert mozjpeg(50)[:8] == (16, 16, 16, 18, 25, 37, 56, 85)
    assert mozjpeg(50)[-1] == 255
    assert mozjpeg(75)[:3] == (8, 8, 8)
    assert set(mozjpeg(100)) == {1}


def test_encoders_of_all_kinds_are_drawn_within_the_range() -> None:
    drawn = [random_encoding(np.random.default_rng(seed), 60, 90) for seed in range(500)]
    assert all(60 <= e.quality <= 90 for e in drawn)
    assert {e.subsampling for e in drawn} == set(SUBSAMPLINGS)
    assert 0.4 < np.mean([e.tables is None for e in drawn]) < 0.6
    assert len({e.tables for e in drawn}) > 40
    assert any(e.progressive for e in drawn)
    assert random_encoding(np.random.default_rng(3), 30, 30).quality == 30
