"""Speed and cost of models as `localize` runs them, beside another network in the same run."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from PIL import Image

from imlctl import atomic
from imlctl.bench import flops
from imlctl.bench.machine import (
    BUSY_SHARE,
    observe,
    others_busy,
    peak_memory,
    resident_peak,
    take_turns,
    timer_for,
)
from imlctl.core.diff_iml import MEMBERS
from imlctl.core.imagenet import MixTransformer
from imlctl.core.model import STEPS
from imlctl.errors import UsageError
from imlctl.image.decode import decode
from imlctl.image.prepare import prepare
from imlctl.inference import predict

if TYPE_CHECKING:
    from imlctl.core.model import Model
    from imlctl.pipeline import Localizer
    from imlctl.settings import Sampling

    Progress = Callable[[str], object]

COST_SIZE = 512  # side of the picture whose operations are counted
SIZES = (512, 1024, 2048, 4096)
_SMALLEST = 64  # pixels a side that the models take
_QUALITY = 92  # of the JPEG that is localized


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings of a measurement.

    Steps and members of models that sample, and `tta` (None: both), are all tried at the smallest
    size, the usual ones at every size.
    """

    sizes: Sequence[int] = SIZES  # sides of square pictures in pixels
    runs: int = 5  # timed rounds, at least one
    steps: Sequence[int] = (STEPS, 1)
    members: Sequence[int] = (MEMBERS, 1)
    tta: bool | None = None
    budget: float = 20.0  # seconds for the timed passes of each row


def measure(
    localizers: Sequence[Localizer], plan: Plan, *, progress: Progress = lambda _: None
) -> dict[str, Any]:
    """Time each model alone and from file to mask, all on one device; count its cost.

    Returns plain values without NaN, in seconds and bytes. Raises as `checked_sizes` does.
    """
    machine = observe(localizers[0].device)
    models = [_measure_model(each, plan, progress) for each in localizers]
    after = others_busy()
    return {
        "runs": plan.runs,
        "budget": plan.budget,
        "machine": machine,
        "others_after": after,
        "busy": max(machine["others"] or 0, after or 0) > BUSY_SHARE,
        "models": models,
        "resident": resident_peak(),
    }


@torch.inference_mode()
def _measure_model(localizer: Localizer, plan: Plan, progress: Progress) -> dict[str, Any]:
    model, device, tile = localizer.model, localizer.device, localizer.settings.tile
    sizes = checked_sizes(plan.sizes, model.multiple)
    least = sizes[0]
    main, *others = _ways(model, localizer.settings.sampling, plan)
    cells = [(size, main) for size in sizes] + [(least, way) for way in others]
    rival = "MiT-B3 encoder"
    progress(f"building {rival}")
    encoder = MixTransformer().eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    picture = torch.rand(1, 3, least, least, generator=torch.Generator().manual_seed(0))
    picture = picture.to(device, memory_format=torch.channels_last)
    with tempfile.TemporaryDirectory(prefix="imlctl-bench-") as folder:
        alone = []
        for size, way in cells:
            name = f"{size} px, N={way.ensemble}, {way.steps} steps{', flips' * way.tta}"
            alone.append((name, _model_alone(localizer, size, way)))
        whole = [(f"{s} px, end to end", _to_disk(localizer, s, Path(folder))) for s in sizes]
        subjects = [*alone, *whole, (f"{least} px, {rival}", lambda: encoder(picture))]
        *ours, theirs = take_turns(
            subjects,
            plan.runs,
            timed=timer_for(device),
            budget=plan.budget,
            progress=progress,
        )
    first, ends = ours[0], ours[len(cells) :]
    rows, shares = [], []
    for (size, way), (name, run), timing in zip(cells, alone, ours, strict=False):
        memory = None
        if timing.median <= plan.budget:  # watching memory takes another pass
            progress(f"memory: {name}")
            memory = peak_memory(run, device)
        steps, members = (way.steps, way.ensemble) if model.samples else (None, None)
        drawn: dict[str, Any] = {"steps": steps, "members": members, "tta": way.tta}
        row = drawn | {"size": size, "main": way == main, "tiled": size > tile, "memory": memory}
        row |= {"growth": timing.over(first), "short": len(timing.passes) < plan.runs}
        row |= {"fps": 1 / timing.median, "passes": len(timing.passes)}
        rows.append(row | {"median": timing.median, "p95": timing.p95})
        shares += [drawn | {"share": timing.over(theirs)}] if size == least else []
    cost = flops.count_model(model, COST_SIZE, steps=main.steps, members=main.ensemble)
    return {
        **{key: localizer.provenance[key] for key in ("model", "weights_sha256")},
        "cost": cost,
        "speed": rows,
        "end_to_end": [
            {"size": s, "median": t.median, "p95": t.p95, "model_share": m.over(t)}
            for s, t, m in zip(sizes, ends, ours, strict=False)
        ],
        "against": {
            "name": rival,
            "size": least,
            "median": theirs.median,
            "shares": shares,
            # Counted without computing, which takes a while for this one.
            "cost": flops.count(encoder.to("meta"), COST_SIZE, flops.MIX_TRANSFORMER),
        },
    }


def checked_sizes(sizes: Sequence[int], multiple: int) -> tuple[int, ...]:
    """Return the sizes in order, once each; UsageError where one does not suit the model."""
    for size in sizes:
        if size < _SMALLEST or size % multiple:
            fitting = max(_SMALLEST, round(size / multiple) * multiple)
            what = f"the model takes multiples of {multiple} from {_SMALLEST}, not {size}"
            remedy = f"Use {fitting}, for instance."
            raise UsageError(what, source="--size", remedy=remedy)
    return tuple(sorted(set(sizes)))


def photograph(width: int, height: int = 0) -> bytes:
    """Make a JPEG that compresses about as well as photographs do; square without a height."""
    height = height or width
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 16, width // 16, 3)).astype(np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    grain = rng.normal(0, 4, smooth.shape)
    pixels = np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _ways(model: Model, usual: Sampling, plan: Plan) -> list[Sampling]:
    """Settings to time, the main ones first: those of `localize`, as far as they are asked for."""
    flips = (False, True) if plan.tta is None else (plan.tta,)
    if not model.samples:
        return [replace(usual, tta=tta) for tta in flips]
    ways = [replace(usual, steps=s, ensemble=n) for n, s in product(plan.members, plan.steps)]
    main = min(ways, key=lambda way: (way.steps != usual.steps, way.ensemble != usual.ensemble))
    mirrored = [replace(main, tta=tta) for tta in flips]
    rest = [replace(way, tta=flips[0]) for way in ways if way != main]
    return list(dict.fromkeys([*mirrored[:1], *rest, *mirrored[1:]]))


def _model_alone(localizer: Localizer, size: int, way: Sampling) -> Callable[[], object]:
    """Return `localize`'s call of the model, on a decoded and prepared photograph."""
    image = prepare(decode(photograph(size)))
    return lambda: predict(
        localizer.model,
        image,
        device=localizer.device,
        tile=localizer.settings.tile,
        overlap=localizer.overlap,
        sampling=way,
    )


def _to_disk(localizer: Localizer, size: int, folder: Path) -> Callable[[], object]:
    """Return a function that localizes the bytes of a photograph and writes its mask."""
    data, target = photograph(size), folder / "mask.png"
    return lambda: atomic.write(
        target, localizer.localize(data, name="bench").mask_png(), overwrite=True
    )
