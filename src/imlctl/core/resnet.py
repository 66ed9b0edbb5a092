"""ResNet-50 and ResNet-101 as encoders, with the parameter names of torchvision's files.

He et al. 2016 (arXiv 1512.03385), Table 1 and Fig. 5 right, in the form that everybody publishes
weights for ("v1.5"): a block halves the resolution in its 3x3 convolution, not in the first 1x1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, cast

from torch import Tensor, nn
from torch.nn import functional as F

from imlctl.core.layers import fold, fuse_all

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imlctl.core.mit import Four

_EXPANSION = 4  # how much wider a block's output is than its 3x3 convolution
_CLASSIFIER = frozenset({"fc.weight", "fc.bias"})


@dataclass(frozen=True, slots=True)
class ResNetConfig:
    """Shape of the encoder.

    Attributes:
        depths: Blocks of each of the four stages.
        width: Channels after the stem; the stages widen from it.
    """

    depths: Four = (3, 4, 6, 3)
    width: int = 64

    @property
    def dims(self) -> Four:
        """Channels that each stage returns."""
        first = self.width * _EXPANSION
        return first, first * 2, first * 4, first * 8


SIZES = {
    "50": ResNetConfig(depths=(3, 4, 6, 3)),
    "101": ResNetConfig(depths=(3, 4, 23, 3)),
}


class Bottleneck(nn.Module):
    """Narrow, look around, widen; added to what came in, projected where shapes differ."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * _EXPANSION
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2: nn.Module = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3: nn.Module = nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.downsample.append(nn.Conv2d(inputs, outputs, 1, stride, bias=False))
            self.downsample.append(nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, 4 * width, H / stride, W / stride), rounded up."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x), inplace=True)

    def fuse(self) -> None:
        """Fold the norms into their convolutions; does nothing when done."""
        self.bn1 = fold(self.conv1, self.bn1)
        self.bn2 = fold(self.conv2, self.bn2)
        self.bn3 = fold(self.conv3, self.bn3)
        if len(self.downsample):
            self.downsample[1] = fold(cast("nn.Conv2d", self.downsample[0]), self.downsample[1])


class ResNet(nn.Module):
    """The encoder: a stem at a quarter of the resolution, then four stages of blocks."""

    def __init__(self, config: ResNetConfig | None = None) -> None:
        super().__init__()
        self.config = config or SIZES["50"]
        width = self.config.width
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(width)
        inputs = width
        stages = []
        for stage, (outputs, depth) in enumerate(
            zip(self.config.dims, self.config.depths, strict=True)
        ):
            blocks = []
            for block in range(depth):
                stride = 2 if stage and not block else 1
                blocks.append(Bottleneck(inputs, outputs // _EXPANSION, stride))
                inputs = outputs
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the features of the four stages, (B, dims[i], H / STRIDES[i], W / STRIDES[i]).

        Args:
            image: (B, 3, H, W) of any size, normalised; sizes of features are rounded up.
        """
        x = F.relu(self.bn1(self.conv1(image)), inplace=True)  # (B, width, H / 2, W / 2)
        x = F.max_pool2d(x, 3, 2, 1)  # (B, width, H / 4, W / 4)
        first = self.layer1(x)
        second = self.layer2(first)
        third = self.layer3(second)
        return first, second, third, self.layer4(third)

    def load_torchvision(self, tensors: Mapping[str, Tensor]) -> None:
        """Load a file in torchvision's layout; only its classifier, ``fc``, is left aside.

        Files from before norms counted their batches, torchvision's first ones among them, load as
        well; the counters, which inference does not read, then stay as they are.

        Raises:
            RuntimeError: Any other tensor is missing, unknown or of another shape.
        """
        # A plain dictionary carries no version, which is what lets a norm lack its counter.
        self.load_state_dict({k: v for k, v in tensors.items() if k not in _CLASSIFIER})

    def fuse(self) -> Self:
        """Fold every norm into its convolution, for inference. Returns self."""
        fuse_all(self.eval())
        self.bn1 = fold(self.conv1, self.bn1)
        return self
