"""`imlctl weights export`: a model for runtimes without Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imlctl.cli.options import Force


def export(
    weights: Annotated[str, typer.Argument(help="A name, or a safetensors file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="ONNX file to write.")],
    height: Annotated[int, typer.Option(help="Height of the pictures, in pixels.")] = 512,
    width: Annotated[int, typer.Option(help="Width of the pictures, in pixels.")] = 512,
    force: Force = False,
) -> None:
    """Export an EfficientIML to ONNX, for pictures of one size.

    Needs pip install "imlctl[onnx]", and takes minutes.
    """
    from dataclasses import asdict
    from typing import cast

    from imlctl.core.efficient_iml import EfficientIML
    from imlctl.weights.export import export_onnx
    from imlctl.weights.use import open_weights

    loaded = open_weights(weights)
    card = loaded.card
    export_onnx(
        cast("EfficientIML", loaded.model.eval()),
        out,
        height=height,
        width=width,
        about={
            "weights": loaded.name,
            "weights_sha256": loaded.sha256,
            **{key: f"{value:g}" for key, value in asdict(card.rule).items()},
        },
        overwrite=force,
    )
    typer.echo(out)
