"""`imlctl distill`: a small autoencoder of masks, from a teacher or from nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imlctl.cli import options
from imlctl.cli.console import note
from imlctl.cli.progress import Progress, saving_interrupts, stopped, train_line

if TYPE_CHECKING:
    import torch

    from imlctl.train.teacher import Teacher


def distill(
    config: options.Preset,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder of the run; an interrupted one is continued."),
    ],
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Id on the Hub, a folder in its layout, an ONNX encoder, or none.",
            show_default="what the preset says",
        ),
    ] = None,
    changes: options.Changes = None,
    device: options.Device = "auto",
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress on standard error.")
    ] = False,
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
        _tell(best, master, where)
    typer.echo(best)


def _tell(best: Path, teacher: Teacher | None, device: torch.device) -> None:
    """Say how good the kept weights are, and how fast next to the teacher."""
    from imlctl.weights.load import load

    loaded = load(best)
    found = loaded.card.training["round_trip"]
    note(
        f"round trip of held-out masks at step {loaded.card.training['steps']}: "
        f"F1 {found['f1']:.4f} ({_kinds(found['masks'])}; worst {found['worst']:.4f}), "
        f"edge maps {_kinds(found['edges'])}"
    )
    if teacher is not None:
        model: Any = loaded.model
        note(_latency(model.fuse().to(device), teacher, device))


def _kinds(scores: dict[str, float]) -> str:
    return ", ".join(f"{kind} {score:.4f}" for kind, score in scores.items())


def _latency(model: Any, teacher: Teacher, device: torch.device) -> str:
    """Time both in turns on one 512x512 map: encode and decode, or encode if that is all."""
    import torch

    from imlctl.bench.timing import Subject, take_turns, timer_for

    maps = torch.ones(1, 1, 512, 512, device=device)
    decode = teacher.decode

    def theirs() -> object:
        latents = teacher.encode(maps)
        return decode(latents) if decode else latents

    def ours() -> object:
        latents = model.encode(maps)
        return model.decode(latents) if decode else latents

    with torch.inference_mode():
        subjects = (Subject("LightVAE", ours, passes=5), Subject("teacher", theirs))
        mine, other = take_turns(subjects, 3, timed=timer_for(device))
    what = "encode + decode" if decode else "encode"
    return (
        f"{what} of one 512x512 map: {mine.median * 1e3:.1f} ms, teacher {teacher.name} "
        f"{other.median * 1e3:.0f} ms, {other.over(mine):.0f} times as long"
    )


def _line(event: dict[str, Any]) -> str:
    if event["event"] != "round trip":
        return train_line(event)
    return (
        f"step {event['step']}: round trip F1 {event['f1']:.4f}, "
        f"with noise {event['f1_noisy']:.4f} ({_kinds(event['masks'])})"
    )
