"""`imlctl bench --fps` and `--flops`: what they run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imlctl.cli.bench_show import VERSION, Measured

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from imlctl.bench.cells import Plan
    from imlctl.bench.roofline import Ceilings
    from imlctl.bench.speed_report import Row, SpeedReport
    from imlctl.cli.bench_run import Common
    from imlctl.pipeline import Localizer

_SIZES = (512, 1024, 2048, 4096)
_BATCHES = (4, 16)


def speed(
    common: Common,
    sizes: Sequence[int],
    *,
    full: bool,
    against: bool,
    end_to_end: bool,
) -> Measured:
    """Speed, cost and memory of each model."""
    from dataclasses import asdict

    from tqdm import tqdm

    from imlctl.bench.cells import Plan
    from imlctl.bench.environment import observe, resident_peak
    from imlctl.bench.roofline import measure_ceilings
    from imlctl.bench.speed import measure
    from imlctl.core.diff_iml import MEMBERS
    from imlctl.core.model import STEPS

    steps, members = tuple(common.steps) or (1, STEPS), tuple(common.ensemble) or (1, MEMBERS)
    usual = {"steps": STEPS if STEPS in steps else steps[0]}
    usual |= {"ensemble": MEMBERS if MEMBERS in members else members[0]}
    localizers = [common.localizer(named, **usual) for named in common.named]
    environment = observe(localizers[0].device)
    ceilings = measure_ceilings(localizers[0].device)
    plan = Plan(
        sizes or _SIZES,
        common.tile,
        common.runs,
        steps,
        members,
        (False, True) if common.tta is None else (common.tta,),
        _BATCHES,
        against,
        full,
        common.budget,
    )
    models = []
    with tqdm(
        bar_format="{desc} [{elapsed}]", disable=None, leave=False, dynamic_ncols=True
    ) as bar:
        for localizer in localizers:
            report = measure(localizer, plan, progress=bar.set_description_str)
            ends = _ends(localizer, report, plan, bar.set_description_str) if end_to_end else []
            models.append(
                {
                    **_about(localizer),
                    **report.to_json(),
                    "end_to_end": ends,
                    "roofline": _roofline(localizer, report, ceilings),
                }
            )
    document = {
        "kind": "speed",
        "version": VERSION,
        "runs": common.runs,
        "budget": common.budget,
        "environment": asdict(environment) | {"busy": environment.busy},
        "ceilings": asdict(ceilings),
        "models": models,
        "resident": resident_peak(),
    }
    return Measured(document, {"speed.png": _plot(models)})


def _plot(models: Sequence[dict[str, Any]]) -> bytes:
    """Draw pictures per second against their size, a panel for each model."""
    from imlctl.bench.plot import Panel, charts, round_top

    panels = []
    for model in models:
        rows = [row for row in model["speed"] if row["main"] and row["tiles"] == 1]
        panels.append(
            Panel(
                f"Pictures per second: {model['model']}"[-52:],
                "side in pixels; model alone",
                [str(row["size"]) for row in rows],
                [row["fps"] for row in rows],
                [None] * len(rows),
                top=round_top([row["fps"] for row in rows]),
            )
        )
    return charts(panels)


def _about(localizer: Localizer) -> dict[str, Any]:
    return {key: localizer.provenance[key] for key in ("model", "weights_sha256")}


def _ends(
    localizer: Localizer, report: SpeedReport, plan: Plan, progress: Callable[[str], object]
) -> list[dict[str, Any]]:
    """Time photographs from bytes to disk at each size, and by stage where one tile holds them."""
    import tempfile
    from pathlib import Path

    from imlctl.bench.passes import noise_picture
    from imlctl.bench.stages import stage_times, to_disk
    from imlctl.bench.timing import Subject, WallTimer, take_turns, waits_for

    tile, device = localizer.settings.tile, localizer.device
    usual = [row for row in report.rows if row.main and (row.tiles > 1) == (row.size > tile)]
    ends = []
    with tempfile.TemporaryDirectory(prefix="imlctl-bench-") as folder:
        for row in usual:
            image = (noise_picture(row.size, _cpu())[0] * 255).byte()
            subjects = [
                Subject(f"{row.size} px, end to end", to_disk(localizer, row.size, Path(folder))),
                Subject(f"{row.size} px", lambda image=image: localizer.predict(image)),  # type: ignore[misc]
            ]
            whole, model = take_turns(
                subjects,
                plan.runs,
                timed=WallTimer(waits_for(device)),  # what the host does counts as well
                budget=plan.budget,
                progress=progress,
            )
            stages = (
                stage_times(localizer.model, row.draw, row.size, device, runs=plan.runs)
                if row.size <= tile
                else {}
            )
            ends.append(
                {
                    "size": row.size,
                    "median": whole.median,
                    "p95": whole.p95,
                    "model_share": model.over(whole),
                    "stages": stages,
                }
            )
    return ends


def _cpu() -> torch.device:
    import torch

    return torch.device("cpu")


def _roofline(localizer: Localizer, report: SpeedReport, ceilings: Ceilings) -> dict[str, Any]:
    """The floor under the first row, and how far above it the model is."""
    row: Row = report.rows[0]
    pixels = (row.size / report.cost.size) ** 2
    weights = sum(p.numel() * p.element_size() for p in localizer.model.parameters())
    moved = weights + 4 * 4 * row.size**2  # three colours in, one map out, float32
    floor = ceilings.floor(report.cost.macs * pixels, moved)
    return {"size": row.size, "floor": floor, "times": row.timing.median / floor}


def flops(common: Common, sizes: Sequence[int]) -> Measured:
    """Parameters and multiply-accumulates of each model, by part, at the first size."""
    from imlctl.bench.flops import count_model
    from imlctl.bench.speed import checked_sizes
    from imlctl.core.diff_iml import MEMBERS
    from imlctl.core.model import STEPS

    steps, members = tuple(common.steps) or (STEPS,), tuple(common.ensemble) or (1, MEMBERS)
    models = []
    for named in common.named:
        localizer = common.localizer(named, steps=steps[-1], ensemble=members[-1])
        model = localizer.model
        size = checked_sizes(list(sizes) or _SIZES, model.multiple)[0]
        samples = model.samples
        counts = [
            {
                "members": n,
                "steps": s,
                "all": count_model(model, size, steps=s, members=n).macs,
                "paper": count_model(model, size, steps=1, members=n).macs,
            }
            for n in (members if samples else ())
            for s in steps
        ]
        cost = count_model(model, size, steps=steps[-1], members=members[-1])
        way = f"N={members[-1]}, {steps[-1]} steps" if samples else "one pass"
        models.append({**_about(localizer), "way": way, "cost": cost.to_json(), "counts": counts})
    return Measured({"kind": "flops", "version": VERSION, "models": models})
