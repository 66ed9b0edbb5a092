from __future__ import annotations

import pytest
import torch

from imlctl.core.windows import block_mean, box_mean


@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (5, 9), (13, 13), (1, 17)])
def test_box_mean_equals_the_mean_of_what_lies_inside(rows: int, columns: int) -> None:
    values = torch.randn(2, 14, 20, dtype=torch.float64)
    means = box_mean(values, rows, columns)
    for y in range(14):
        for x in range(20):
            box = values[
                :,
                max(0, y - rows // 2) : y + rows // 2 + 1,
                max(0, x - columns // 2) : x + columns // 2 + 1,
            ]
            torch.testing.assert_close(means[:, y, x], box.mean((1, 2)))


def test_block_mean_equals_pooling() -> None:
    values = torch.randn(2, 12, 20, dtype=torch.float64)
    expected = torch.nn.functional.avg_pool2d(values[:, None], 4)[:, 0]
    torch.testing.assert_close(block_mean(values, 4), expected)
