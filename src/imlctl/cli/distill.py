"""`imlctl distill`: a small autoencoder of masks, from a teacher or from nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from imlctl.cli import options
from imlctl.cli.console import note
from imlctl.cli.progress import Progress, saving_interrupts, stopped, train_line


def distill(
    config: options.Preset,
    out: options.Run,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Id on the Hub, a folder in its layout, an ONNX encoder, or none.",
            show_default="what the preset says",
        ),
    ] = None,
    changes: options.Changes = None,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
) -> None:
    """Train LightVAE, DiffIML's autoencoder of masks."""
    from imlctl.device import resolve
    from imlctl.train.config import load_preset
    from imlctl.train.distill import DistillConfig
    from imlctl.train.distill import distill as run
    from imlctl.train.teacher import TeacherConfig, load_teacher

    preset = load_preset(config, DistillConfig, changes or ())
    if teacher is not None:
        chosen = TeacherConfig(source="" if teacher == "none" else teacher)
        preset = replace(preset, teacher=chosen)
    where = resolve(device)
    master = load_teacher(preset.teacher, latent=preset.model.latent, device=where)
    with saving_interrupts() as interrupts, Progress(quiet, _line) as progress:
        best = run(
            preset,
            out,
            device=where,
            teacher=master,
            report=progress,
            stop=lambda: interrupts.requested,
        )
    if best is None:
        raise stopped()
    if not quiet:
        _tell(best)
    typer.echo(best)


def _tell(best: Path) -> None:
    """Say how good the kept weights are."""
    from imlctl.weights.load import load

    loaded = load(best)
    found = loaded.card.training["round_trip"]
    note(
        f"round trip of held-out masks at step {loaded.card.training['steps']}: "
        f"F1 {found['f1']:.4f} ({_kinds(found['masks'])}; worst {found['worst']:.4f}), "
        f"edge maps {_kinds(found['edges'])}"
    )


def _kinds(scores: dict[str, float]) -> str:
    return ", ".join(f"{kind} {score:.4f}" for kind, score in scores.items())


def _line(event: dict[str, Any]) -> str:
    if event["event"] != "round trip":
        return train_line(event)
    return (
        f"step {event['step']}: round trip F1 {event['f1']:.4f}, "
        f"with noise {event['f1_noisy']:.4f} ({_kinds(event['masks'])})"
    )
