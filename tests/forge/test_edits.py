from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np
import pytest

from imlctl.forge import edits
from imlctl.forge.shapes import random_mask

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from imlctl.forge.shapes import Mask

MATCH, PLAIN = 0.1, 0.9  # first draw of `composite`: colours matched or left
POISSON, HARD, SOFT = 0.05, 0.3, 0.8  # its second draw
REACH = 13  # a feather of 3 pixels ends here


class Scripted:
    """A generator whose `random()` is told what to say; all else is drawn from a seed."""

    def __init__(self, *told: float, seed: int = 0) -> None:
        self.told, self.rng = list(told), np.random.default_rng(seed)

    def random(self) -> float:
        return self.told.pop(0) if self.told else float(self.rng.random())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rng, name)


def scripted(*told: float, seed: int = 0) -> np.random.Generator:
    return cast("np.random.Generator", Scripted(*told, seed=seed))


def box(height: int = 96, width: int = 96) -> Mask:
    mask = np.zeros((height, width), bool)
    mask[30:70, 25:60] = True
    return mask


def grown(mask: Mask, by: int) -> Mask:
    kernel = np.ones((2 * by + 1, 2 * by + 1), np.uint8)
    return np.asarray(cv2.dilate(mask.astype(np.uint8), kernel)) > 0


def eaten(mask: Mask, by: int) -> Mask:
    return ~grown(~mask, by)


@pytest.fixture
def host(photo: Callable[..., Any]) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = photo(0, 96, 96)
    pixels.setflags(write=False)  # a forgery must not touch what it is made from
    return pixels


@pytest.fixture
def donor(photo: Callable[..., Any]) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = photo(1, 96, 96)
    pixels.setflags(write=False)
    return pixels


def test_blending_in_one_array_is_blending() -> None:
    """Bit for bit: samples are the recipe, and must not change when they are made faster."""
    rng = np.random.default_rng(0)
    host, source = (rng.integers(0, 256, (50, 60, 3), dtype=np.uint8) for _ in range(2))
    alpha = rng.random((50, 60), np.float32)
    before = host.copy(), source.copy(), alpha.copy()
    mixed = host + alpha[..., None] * (source.astype(np.float32) - host)
    found = edits.blend(host, source, alpha)
    assert found.dtype == np.uint8
    assert np.array_equal(found, np.rint(mixed).astype(np.uint8))
    assert all(map(np.array_equal, before, (host, source, alpha)))


class TestComposite:
    def test_hard_paste_is_exact(self, host: Any, donor: Any) -> None:
        mask = box()
        out, marked = edits.composite(host, donor, mask, scripted(PLAIN, HARD))
        assert np.array_equal(marked, mask)
        assert np.array_equal(out, np.where(mask[..., None], donor, host))

    def test_feathered_paste_blends_only_near_the_border(self, host: Any, donor: Any) -> None:
        mask = box()
        out, marked = edits.composite(host, donor, mask, scripted(PLAIN, SOFT))
        outside, inside = ~grown(mask, REACH), eaten(mask, REACH)
        assert inside.any()
        assert np.array_equal(out[outside], host[outside])
        assert np.array_equal(out[inside], donor[inside])
        border = grown(mask, 1) & ~eaten(mask, 1)
        assert not np.array_equal(out[border], host[border])
        assert (marked & mask).sum() > 0.97 * (marked | mask).sum()
        low, high = np.minimum(host, donor), np.maximum(host, donor)
        assert ((out >= low) & (out <= high)).all()  # between the two, everywhere

    def test_a_soft_matte_is_marked_where_half_of_it_is_foreign(self, host: Any) -> None:
        mask = np.zeros((96, 96), bool)
        mask[20:76, 20:76] = True
        black, white = np.zeros_like(host), np.full_like(host, 255)
        out, marked = edits.composite(black, white, mask, scripted(PLAIN, 0.95))
        soft = (out[48, :, 0] > 20) & (out[48, :, 0] < 235)
        assert soft.sum() >= 12  # both borders, each wider than a feather of one pixel
        assert np.array_equal(marked, out[..., 0] >= 127)

    def test_matched_colours_are_those_of_the_host(self, host: Any) -> None:
        mask = box()
        dark = np.ascontiguousarray(host // 3)
        out, _ = edits.composite(host, dark, mask, scripted(MATCH, HARD))
        before = np.abs(dark[mask].mean(0) - host[mask].mean(0))
        after = np.abs(out[mask].mean(0) - host[mask].mean(0))
        assert (after < 0.65 * before).all()
        assert np.array_equal(out[~mask], host[~mask])

    def test_poisson_keeps_the_outside_and_takes_the_detail(self, host: Any) -> None:
        mask = box()
        source = np.full_like(host, 40)
        source[44:50, 33:39] = 220  # a spot, to see that nothing shifts
        out, marked = edits.composite(host, source, mask, scripted(PLAIN, POISSON))
        assert np.array_equal(marked, mask)
        outside = ~grown(mask, 1)
        assert np.array_equal(out[outside], host[outside])
        spot = out[40:54, 29:43].astype(int).sum(-1)
        assert spot[4:10, 4:10].min() > spot[:4].max()
        assert spot[4:10, 4:10].min() > spot[:, :4].max()

    def test_poisson_gives_way_where_there_is_no_room(self, host: Any, donor: Any) -> None:
        mask = np.zeros((96, 96), bool)
        mask[40:45, 40:45] = True
        assert edits._poisson(host, donor, mask) is None
        out, marked = edits.composite(host, donor, mask, scripted(PLAIN, POISSON))
        assert np.array_equal(marked, mask)
        assert np.array_equal(out, np.where(mask[..., None], donor, host))

    def test_poisson_accepts_masks_that_touch_the_frame(self, host: Any, donor: Any) -> None:
        mask = np.zeros((96, 96), bool)
        mask[:30, :40] = True
        out, marked = edits.composite(host, donor, mask, scripted(PLAIN, POISSON))
        inner = mask.copy()
        inner[:2] = inner[:, :2] = False  # OpenCV does not clone there
        assert np.array_equal(marked, inner)
        assert np.array_equal(out[~grown(mask, 1)], host[~grown(mask, 1)])
        assert not np.array_equal(out[mask], host[mask])

    def test_a_line_that_feathering_makes_faint_is_still_marked(
        self, host: Any, donor: Any
    ) -> None:
        mask = np.zeros((96, 96), bool)
        mask[40, 20:70] = True
        out, marked = edits.composite(host, donor, mask, scripted(PLAIN, SOFT))
        assert not np.array_equal(out, host)
        assert marked[40, 45]


class TestMatchColour:
    @pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
    def test_moves_the_mean_as_far_as_asked(self, strength: float) -> None:
        rng = np.random.default_rng(0)
        host = rng.normal((120, 90, 150), 12, (64, 64, 3)).astype(np.uint8)
        source = rng.normal((100, 110, 120), 12, (64, 64, 3)).astype(np.uint8)
        mask = np.ones((64, 64), bool)
        out = edits.match_colour(source, host, mask, strength)
        expected = source.mean((0, 1)) * (1 - strength) + host.mean((0, 1)) * strength
        assert np.abs(out.mean((0, 1)) - expected).max() < 0.6

    def test_moves_the_spread(self) -> None:
        rng = np.random.default_rng(0)
        host = rng.normal(128, 24, (64, 64, 3)).clip(0, 255).astype(np.uint8)
        source = rng.normal(128, 20, (64, 64, 3)).clip(0, 255).astype(np.uint8)
        out = edits.match_colour(source, host, np.ones((64, 64), bool), 1.0)
        assert abs(out.std() - host.std()) < 0.7

    def test_flat_colours_do_not_divide_by_zero(self) -> None:
        host, source = (np.full((16, 16, 3), level, np.uint8) for level in (200, 50))
        out = edits.match_colour(source, host, np.ones((16, 16), bool), 1.0)
        assert (out == 200).all()


class TestCopyMove:
    def test_plain_copy_is_another_part_of_the_same_picture(self, host: Any) -> None:
        mask = box()
        for seed in range(3):
            plain_draw, no_history = 0.1, 0.9
            rng = scripted(plain_draw, no_history, PLAIN, HARD, seed=seed)
            out, marked = edits.copy_move(host, mask, rng)
            assert marked[mask].all()
            assert np.array_equal(out[~mask], host[~mask])
            source = marked & ~mask
            assert 0 < source.sum() <= mask.sum()
            assert self.shifts_that_explain(out, host, mask) == 1

    @staticmethod
    def shifts_that_explain(out: Any, host: Any, mask: Mask) -> int:
        """Try every shift of the host, mirrored beyond its borders, against the mask's pixels."""
        wide = np.pad(host, ((96, 96), (96, 96), (0, 0)), mode="reflect")[..., 0]
        ys, xs = (axis[::7] + 96 for axis in np.nonzero(mask))
        wanted = out[..., 0][mask][::7]
        return sum(
            bool((wide[ys - dy, xs - dx] == wanted).all())
            for dy in range(-60, 61)
            for dx in range(-60, 61)
            if (dy, dx) != (0, 0)
        )

    @pytest.mark.parametrize("seed", range(20))
    def test_leaves_the_rest_of_the_picture_alone(
        self, seed: int, host: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(edits, "_MATTE", 3.0)
        rng = np.random.default_rng(seed)
        mask = random_mask(rng, 96, 96)
        out, marked = edits.copy_move(host, mask, rng)
        outside = ~grown(mask, REACH + 3)  # a matte is a little wider
        assert np.array_equal(out[outside], host[outside])
        assert (marked & outside).sum() <= grown(mask, REACH).sum()  # the source, at the most
        assert out.dtype == np.uint8
        assert marked.dtype == bool

    def test_source_is_marked_where_the_copy_came_from(self, host: Any) -> None:
        mask = box()
        rng = scripted(0.1, 0.9, PLAIN, HARD, seed=1)
        out, marked = edits.copy_move(host, mask, rng)
        ys, xs = np.nonzero(marked & ~mask)
        shifts = {
            (dy, dx)
            for dy in range(-60, 61)
            for dx in range(-60, 61)
            if ((ys + dy >= 0) & (ys + dy < 96) & (xs + dx >= 0) & (xs + dx < 96)).all()
            and (out[ys + dy, xs + dx] == host[ys, xs]).all()
            and mask[ys + dy, xs + dx].all()
        }
        assert len(shifts) == 1


class TestClone:
    def test_puts_a_second_copy_beside_the_first(
        self, host: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        outline = np.zeros((96, 96), bool)
        outline[30:46, 40:60] = True
        down, right = 25, -12
        shift = edits._Motion(np.array([[1.0, 0, right], [0, 1, down]]), (down, right))
        monkeypatch.setattr(edits, "_motion", lambda mask, rng: shift)
        no_history = 0.9
        out, marked = edits.clone(host, outline, scripted(no_history, PLAIN, HARD))
        copy = np.roll(outline, (down, right), (0, 1))
        assert np.array_equal(out[copy], host[outline])
        assert np.array_equal(out[~copy], host[~copy])
        assert np.array_equal(marked, outline | copy)

    @pytest.mark.parametrize("seed", range(10))
    def test_whatever_the_motion_only_what_is_marked_changes(self, seed: int, host: Any) -> None:
        outline = np.zeros((96, 96), bool)
        outline[20:50, 30:55] = True
        out, marked = edits.clone(host, outline, np.random.default_rng(seed))
        outside = ~grown(marked, REACH)
        assert np.array_equal(out[outside], host[outside])
        assert marked.any()

    def test_a_thing_too_large_to_go_elsewhere_is_copied_over_all_the_same(self, host: Any) -> None:
        outline = np.ones((96, 96), bool)
        _, marked = edits.clone(host, outline, np.random.default_rng(0))
        assert marked.any()


class TestRemove:
    @pytest.mark.parametrize("seed", range(20))
    def test_changes_only_the_hole_and_its_seam(self, seed: int, host: Any) -> None:
        rng = np.random.default_rng(seed)
        mask = random_mask(rng, 96, 96)
        out, marked = edits.remove(host, mask, rng)
        outside = ~grown(mask, 1 + 4)  # the hole is one pixel larger, its feather four
        assert np.array_equal(marked, mask)
        assert np.array_equal(out[outside], host[outside])

    @pytest.mark.parametrize("diffusion", [0.1, 0.9])
    @pytest.mark.parametrize("seed", range(3))
    def test_what_was_there_is_gone(self, diffusion: float, seed: int) -> None:
        ground = np.random.default_rng(0).normal(120, 2, (96, 96, 3)).astype(np.uint8)
        host = ground.copy()
        cv2.circle(host, (48, 48), 12, (250, 20, 20), -1)
        mask = np.zeros((96, 96), bool)
        mask[34:63, 34:63] = True  # a tenth of the frame: diffusion takes no more
        out, _ = edits.remove(host, mask, scripted(diffusion, seed=seed))
        assert np.abs(out[mask].astype(int).mean(0) - 120).max() < 25
        assert (
            np.abs(out[mask].astype(int) - 120).mean()
            < 0.2 * np.abs(host[mask].astype(int) - 120).mean()
        )

    def test_a_hole_as_large_as_the_frame_is_survived(self, host: Any) -> None:
        out, marked = edits.remove(host, np.ones((96, 96), bool), scripted(0.9))
        assert out.shape == host.shape
        assert marked.all()


class TestRegenerate:
    @pytest.mark.parametrize("seed", range(6))
    def test_puts_the_generated_pixels_inside(self, seed: int, host: Any, donor: Any) -> None:
        mask = box()
        out, marked = edits.regenerate(host, donor, mask, scripted(0.9, seed=seed))
        outside, inside = ~grown(mask, REACH), eaten(mask, REACH)
        assert np.array_equal(out[outside], host[outside])
        assert np.array_equal(out[inside], donor[inside])
        assert (marked & mask).sum() > 0.9 * (marked | mask).sum()


class TestRetouch:
    def test_leaves_the_outside_alone_and_changes_the_inside(self, host: Any) -> None:
        mask = box()
        looks = set()
        for seed in range(40):
            out, marked = edits.retouch(host, mask, np.random.default_rng(seed))
            outside = ~grown(mask, REACH)
            assert np.array_equal(out[outside], host[outside])
            assert not np.array_equal(out[marked], host[marked])
            assert (marked & mask).sum() > 0.9 * (marked | mask).sum()
            looks.add(out.tobytes())
        assert len(looks) > 30


WAYS = {
    "diffuse": edits.fill_by_diffusion,
    "smooth": edits.fill_smoothly,
    "piecewise": edits.fill_piecewise,
}


def stripes(height: int = 96, width: int = 96, period: int = 12) -> NDArray[np.uint8]:
    """Vertical stripes, each row alike."""
    row = (np.sin(2 * np.pi * np.arange(width) / period) * 80 + 120).astype(np.uint8)
    return np.repeat(np.tile(row, (height, 1))[..., None], 3, axis=2)


def a_hole(height: int = 96, width: int = 96) -> NDArray[np.bool_]:
    mask = np.zeros((height, width), bool)
    mask[40:60, 35:62] = True
    return mask


@pytest.mark.parametrize("way", WAYS)
def test_what_was_in_the_hole_is_not_looked_at(way: str, photo: Callable[..., Any]) -> None:
    host = photo(3, 96, 96)
    other = host.copy()
    other[a_hole()] = 255 - other[a_hole()]
    first, second = (
        WAYS[way](np.ascontiguousarray(x), a_hole(), np.random.default_rng(1))
        for x in (host, other)
    )
    if way == "smooth":  # its texture is taken from anywhere in the picture
        assert np.abs(first.astype(int) - second)[a_hole()].mean() < 12
    else:
        assert np.array_equal(first[a_hole()], second[a_hole()])


@pytest.mark.parametrize("seed", range(12))
def test_pieces_are_pixels_of_the_picture(seed: int, photo: Callable[..., Any]) -> None:
    host = photo(seed, 96, 96)
    filled = edits.fill_piecewise(host, a_hole(), np.random.default_rng(seed))
    smooth = edits.fill_smoothly(host, a_hole(), np.random.default_rng(seed))
    known = {tuple(colour) for colour in host[~a_hole()].tolist()}
    copied = (filled != smooth).any(-1) & a_hole()
    share = np.mean([tuple(colour) in known for colour in filled[copied].tolist()])
    assert share > 0.9 or share < 0.6  # the rest were smoothed as they were copied


def test_pieces_continue_a_pattern() -> None:
    """Of the places tried, those in step with the stripes change the surroundings least."""
    errors = []
    for seed in range(20):
        filled = edits.fill_piecewise(stripes(), a_hole(), np.random.default_rng(seed))
        errors.append(np.abs(filled.astype(int) - stripes())[a_hole()].mean())
    assert np.median(errors) < 15  # against 60 for any other phase
    assert np.mean(errors) < 30


def test_a_hole_without_surroundings_is_survived() -> None:
    everything = np.ones((96, 96), bool)
    assert edits.fill_piecewise(stripes(), everything, np.random.default_rng(0)).shape == (
        96,
        96,
        3,
    )
    nothing = np.zeros((96, 96), bool)
    assert edits.fill_piecewise(stripes(), nothing, np.random.default_rng(0)).shape == (96, 96, 3)
