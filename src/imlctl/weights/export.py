"""A model as an ONNX file, for runtimes without Python and torch; needs the extra `onnx`."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from imlctl import atomic
from imlctl.core import mixers, wkv
from imlctl.core.layers import LEAST_SIDE
from imlctl.errors import UsageError

if TYPE_CHECKING:
    from imlctl.core.efficient_iml import EfficientIML
    from imlctl.core.model import Prediction


class _Plain(nn.Module):
    """The model as a function of tensors alone."""

    def __init__(self, model: EfficientIML) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(1, 3, H, W) in [0, 1] to probabilities (1, 1, H, W) and the picture's score (1,)."""
        prediction = cast("Prediction", self.model(image))
        return torch.sigmoid(prediction.logits), torch.sigmoid(prediction.score_logits)


def export_onnx(
    model: EfficientIML,
    path: Path,
    *,
    height: int,
    width: int,
    about: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a model as ONNX, fused, self-similarity included.

    Copies that were turned or scaled are left out: how many there are, a graph cannot depend on.
    The file has one input, ``image`` (1, 3, height, width) float32 in [0, 1], two outputs,
    ``probability`` (1, 1, height, width) and ``score`` (1,), and `about` in its metadata. Its size
    is fixed, since the decay of the WKV depends on the number of tokens.

    Raises:
        UsageError: The size or the model does not suit, or the extra is not installed.
        OutputError: The file is there, or cannot be written.
    """
    if not overwrite:
        atomic.refuse_taken(path)  # not after the minutes that it takes
    if model.samples:
        what = "only an EfficientIML can be written as ONNX; a DiffIML draws noise for each picture"
        raise UsageError(what, source=str(path))
    multiple = model.multiple
    if height % multiple or width % multiple or min(height, width) < LEAST_SIDE:
        what = f"the model takes multiples of {multiple} from {LEAST_SIDE}, not {height} x {width}"
        raise UsageError(what, source=str(path))
    try:
        import onnxscript  # noqa: F401 - torch asks for it much later, and less clearly
    except ImportError as error:
        remedy = 'pip install "imlctl[onnx]"'
        raise UsageError("needs onnxscript", source=str(path), remedy=remedy) from error
    traced = copy.deepcopy(model).fuse()
    traced.copied = None
    with _traceable():
        program = torch.onnx.export(
            _Plain(traced).eval(),
            (torch.zeros(1, 3, height, width),),
            input_names=["image"],
            output_names=["probability", "score"],
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # noqa: S101 - it is None only where a path was given
    proto = program.model_proto
    for key, value in (about or {}).items():
        proto.metadata_props.add(key=key, value=value)
    atomic.write(path, proto.SerializeToString(), overwrite=overwrite)


@contextmanager
def _traceable() -> Iterator[None]:
    """Let the exporter see through our operator, and keep to itself what it thinks of others."""
    logger = logging.getLogger("torch.onnx")
    calls: Any = mixers  # the module that calls the operator
    level, operator = logger.level, calls.bi_wkv
    logger.setLevel(logging.ERROR)
    calls.bi_wkv = wkv._bi_wkv
    try:
        # Without gradients, since the operator's kernel writes into its result.
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            yield
    finally:
        logger.setLevel(level)
        calls.bi_wkv = operator
