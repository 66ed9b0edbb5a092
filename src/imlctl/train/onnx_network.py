"""A network in an ONNX file as a function of its one input, through the extra `onnx`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from imlctl.errors import UsageError, WeightsError, first_line

if TYPE_CHECKING:
    from collections.abc import Callable


def open_network(path: str, *, expects: str) -> Callable[[Tensor], Tensor]:
    """Open a network that computes on the CPU, with as many threads as torch has.

    Args:
        path: Of the file.
        expects: What it has to take and return, for messages.

    Returns:
        A function of one float32 tensor; of several outputs it returns the largest.

    Raises:
        UsageError: The extra is not installed.
        WeightsError: The file is no network with one input. The function raises it for an input
            that does not suit.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(
            "this needs the package onnxruntime, which is not installed",
            source=path,
            remedy="Install it with: pip install 'imlctl[onnx]'.",
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (source,) = session.get_inputs()
    except Exception as error:  # onnxruntime's errors have no common class of their own
        raise WeightsError(
            f"cannot be read as an ONNX model with one input ({first_line(error)})",
            source=path,
            remedy=f"Give one that takes {expects}.",
        ) from error

    def run(x: Tensor) -> Tensor:
        array = np.ascontiguousarray(x.detach().cpu().numpy(), np.float32)
        try:
            out = max(session.run(None, {source.name: array}), key=np.size)
        except Exception as error:
            raise WeightsError(
                f"does not take an input of shape {tuple(array.shape)} ({first_line(error)})",
                source=path,
                remedy=f"Give one that takes {expects}, of any size.",
            ) from error
        return torch.from_numpy(np.asarray(out)).to(x.device)

    return run
