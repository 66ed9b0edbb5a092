"""The score of a whole picture: pooling against sums written out, tiles against the whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from imlctl.core.picture_score import (
    PictureScore,
    Pooled,
    feature_vector,
    merge,
    pool,
    told_by_copies,
)

WIDTH = 5


def seen(rows: int, columns: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, finest and coarsest features, and reliability of a picture of so many cells."""
    some = torch.Generator().manual_seed(seed)
    return (
        torch.randn(1, 1, rows, columns, generator=some) * 4,
        torch.rand(1, WIDTH, rows, columns, generator=some),
        torch.rand(1, WIDTH, rows // 4, columns // 4, generator=some),
        torch.rand(1, rows, columns, generator=some),
    )


def test_pooling_is_what_it_says() -> None:
    fine, finest, coarsest, reliability = seen(8, 12)
    inside = torch.zeros(8, 12)
    inside[:7, :10] = 1
    pooled = pool(fine, finest, coarsest, reliability, inside)
    cells = [(y, x) for y in range(7) for x in range(10)]
    p, r, f = torch.sigmoid(fine[0, 0].double()), reliability[0].double(), finest[0].double()
    for place, weight in enumerate((torch.ones_like(p), p)):
        total = sum(weight[c] for c in cells)
        assert pooled.weights[0, 0, place] == pytest.approx(float(total), rel=1e-5)
        wanted = sum(weight[c] * f[:, c[0], c[1]] for c in cells)
        torch.testing.assert_close(pooled.sums[0, 0, place].double(), wanted, rtol=1e-5, atol=1e-5)
    products = (p, p * p, r, r * r, p * r, torch.ones_like(p))
    sums = torch.stack([sum(v[c] for c in cells) for v in products])
    torch.testing.assert_close(pooled.map_sums[0].double(), sums, rtol=1e-5, atol=1e-5)
    # Spots of 4x4 cells, of which at least half lie inside.
    spots = [
        [c for c in cells if c[0] // 4 == i and c[1] // 4 == j] for i in range(2) for j in range(3)
    ]
    means = [sum(p[c] for c in spot) / len(spot) for spot in spots if len(spot) >= 8]
    assert pooled.map_largest[0, 0] == pytest.approx(float(max(means)), rel=1e-5)


def test_copies_count_by_their_strongest_spot() -> None:
    copied = torch.zeros(1, 1, 8, 12)
    copied[0, 0, :4, 4:8] = 3.0
    copied[0, 0, 6, 10] = 40.0  # a lone cell: 2.5 over its spot
    pooled = pool(*seen(8, 12), torch.ones(8, 12), copied)
    plain = pool(*seen(8, 12), torch.ones(8, 12))
    assert told_by_copies(pooled) == 3.0
    assert told_by_copies(plain) == 0.0
    assert torch.equal(feature_vector(pooled), feature_vector(plain))
    head = PictureScore(WIDTH).eval()
    torch.testing.assert_close(head(pooled), head(plain) + 3.0)


def test_tiles_make_the_whole() -> None:
    fine, finest, coarsest, reliability = seen(16, 24, seed=1)
    inside = torch.ones(16, 24)
    inside[15:] = 0
    whole = pool(fine, finest, coarsest, reliability, inside)
    parts = []
    for top in (0, 8):
        for left in (0, 8, 16):
            rows, columns = slice(top, top + 8), slice(left, left + 8)
            few, little = slice(top // 4, top // 4 + 2), slice(left // 4, left // 4 + 2)
            parts.append(
                pool(
                    fine[..., rows, columns],
                    finest[..., rows, columns],
                    coarsest[..., few, little],
                    reliability[:, rows, columns],
                    inside[rows, columns],
                )
            )
    torch.testing.assert_close(Pooled(*merge(parts)), whole, rtol=1e-5, atol=1e-5)


def test_padding_does_not_count() -> None:
    fine, finest, coarsest, reliability = seen(8, 8)
    inside = torch.zeros(8, 8)
    inside[:4, :4] = 1
    other = [each.clone() for each in (fine, finest, coarsest, reliability)]
    for each in other:
        each[..., each.shape[-2] // 2 :, :] = 7.0
        each[..., :, each.shape[-1] // 2 :] = 7.0
    for ours, theirs in zip(
        pool(fine, finest, coarsest, reliability, inside), pool(*other, inside), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_certain_maps_have_finite_scores() -> None:
    head = PictureScore(WIDTH).eval()
    _, finest, coarsest, reliability = seen(8, 8)
    for level in (-1e4, 1e4):
        fine = torch.full((1, 1, 8, 8), level)
        pooled = pool(fine, finest, coarsest, reliability, torch.ones(8, 8))
        assert feature_vector(pooled).isfinite().all()
        assert head(pooled).isfinite().all()


def test_a_picture_has_the_same_score_in_any_batch() -> None:
    head = PictureScore(WIDTH).eval()
    each = [pool(*seen(8, 8, seed=k), torch.ones(8, 8)) for k in range(3)]
    several = Pooled(*(torch.cat(parts) for parts in zip(*each, strict=True)))
    assert torch.equal(head(several), torch.cat([head(one) for one in each]))
