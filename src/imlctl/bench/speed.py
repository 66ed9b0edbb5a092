"""Speed and cost of models as `localize` runs them, beside another network in the same run."""

from __future__ import annotations

import io
import tempfile
from dataclasses import asdict, dataclass, replace
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
    OtherPrograms,
    hardware_floor,
    observe,
    peak_memory,
    resident_peak,
)
from imlctl.bench.timing import Subject, take_turns, timer_for
from imlctl.core.diff_iml import MEMBERS
from imlctl.core.mit import MixTransformer
from imlctl.core.model import STEPS
from imlctl.errors import UsageError
from imlctl.image.decode import decode
from imlctl.image.prepare import prepare
from imlctl.inference import predict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from imlctl.bench.timing import Timing
    from imlctl.core.model import Model
    from imlctl.pipeline import Localizer
    from imlctl.settings import Sampling

    Progress = Callable[[str], object]

COST_SIZE = 512  # side of the picture whose operations are counted
SIZES = (512, 1024, 2048, 4096)
BUDGET = 20.0  # seconds for the timed passes of each row
_SMALLEST = 64  # pixels a side that the models take
_MOST_PASSES = 4  # of one turn
_QUALITY = 92  # of the JPEG that is localized


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings of a measurement.

    Attributes:
        sizes: Sides of square pictures in pixels.
        runs: Timed rounds, at least one.
        steps: Denoising steps of models that sample; each at the smallest size.
        members: Of their ensemble, likewise.
        tta: Mirror the picture too; None for both at the smallest size.
        budget: Seconds for the timed passes of each row; see `take_turns`.
    """

    sizes: Sequence[int] = SIZES
    runs: int = 5
    steps: Sequence[int] = (STEPS, 1)
    members: Sequence[int] = (MEMBERS, 1)
    tta: bool | None = None
    budget: float = BUDGET


def measure(
    localizers: Sequence[Localizer], plan: Plan, *, progress: Progress = lambda _: None
) -> dict[str, Any]:
    """Time each model alone and from file to mask, all on one device; count its cost.

    Returns:
        Plain values, free of NaN; seconds and bytes.

    Raises:
        UsageError: A size does not suit a model.
    """
    machine = observe(localizers[0].device)
    others = OtherPrograms()
    models = [_measure_model(each, plan, progress) for each in localizers]
    during = others.share()
    shares = [share for share in (machine.others, during) if share is not None]
    return {
        "runs": plan.runs,
        "budget": plan.budget,
        "machine": asdict(machine),
        "others_during": during,
        "busy": max(shares, default=0.0) > BUSY_SHARE,
        "models": models,
        "resident": resident_peak(),
    }


@torch.inference_mode()
def _measure_model(localizer: Localizer, plan: Plan, progress: Progress) -> dict[str, Any]:
    model, device = localizer.model, localizer.device
    sizes = checked_sizes(plan.sizes, model.multiple)
    ways = _ways(model, localizer.settings.sampling, plan)
    # The usual way at every size, the others at the smallest.
    cells = [(size, ways[0]) for size in sizes] + [(sizes[0], way) for way in ways[1:]]
    name = "MiT-B3 encoder"
    progress(f"building {name}")
    encoder = MixTransformer().eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    noise = noise_picture(sizes[0], device)
    with tempfile.TemporaryDirectory(prefix="imlctl-bench-") as folder:
        alone = [_model_alone(localizer, size, way) for size, way in cells]
        whole = [_to_disk(localizer, size, Path(folder)) for size in sizes]
        subjects = [
            *(
                Subject(_title(s, w), run, _passes(sizes[-1], s))
                for (s, w), run in zip(cells, alone, strict=True)
            ),
            *(Subject(f"{s} px, end to end", r) for s, r in zip(sizes, whole, strict=True)),
            Subject(f"{sizes[0]} px, {name}", lambda: encoder(noise)),
        ]
        *ours, theirs = take_turns(
            subjects, plan.runs, timed=timer_for(device), budget=plan.budget, progress=progress
        )
    models, ends = ours[: len(cells)], ours[len(cells) :]
    rows = []
    for (size, way), run, timing in zip(cells, alone, models, strict=True):
        memory = None
        if timing.median <= plan.budget:  # watching memory takes another pass
            progress(f"memory: {_title(size, way)}")
            memory = peak_memory(run, device)
        tiled = size > localizer.settings.tile
        short = len(timing.rounds) < plan.runs
        more = {"main": way == ways[0], "tiled": tiled, "short": short, "memory": memory}
        rows.append({"size": size, **_drawn(model, way), **more, **_times(timing, models[0])})
    main = ways[0]
    cost = flops.count_model(model, COST_SIZE, steps=main.steps, members=main.ensemble)
    macs = cost.macs * (sizes[0] / cost.size) ** 2
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    floor = hardware_floor(device, macs, weights + 4 * 4 * sizes[0] ** 2)  # 3 colours in, 1 map out
    at_its_size = [(w, t) for (s, w), t in zip(cells, models, strict=True) if s == sizes[0]]
    return {
        **{key: localizer.provenance[key] for key in ("model", "weights_sha256")},
        "cost": cost.to_json(),
        "speed": rows,
        "end_to_end": [
            {"size": s, "median": t.median, "p95": t.p95, "model_share": m.over(t)}
            for s, t, m in zip(sizes, ends, models, strict=False)
        ],
        "against": {
            "name": name,
            "size": sizes[0],
            "median": theirs.median,
            "shares": [_drawn(model, way) | {"share": t.over(theirs)} for way, t in at_its_size],
            # Counted without computing, which takes a while for this one.
            "cost": flops.count(encoder.to("meta"), COST_SIZE, flops.MIX_TRANSFORMER).to_json(),
        },
        "floor": {"size": sizes[0], "seconds": floor, "times": models[0].median / floor},
    }


def _times(timing: Timing, first: Timing) -> dict[str, Any]:
    return {
        "passes": len(timing.passes),
        "fps": 1 / timing.median,
        "median": timing.median,
        "p95": timing.p95,
        "growth": timing.over(first),
    }


def checked_sizes(sizes: Sequence[int], multiple: int) -> tuple[int, ...]:
    """Return the sizes in order, once each.

    Raises:
        UsageError: One does not suit the model.
    """
    for size in sizes:
        if size < _SMALLEST or size % multiple:
            fitting = max(_SMALLEST, round(size / multiple) * multiple)
            raise UsageError(
                f"the model takes multiples of {multiple} from {_SMALLEST}, not {size}",
                source="--size",
                remedy=f"Use {fitting}, for instance.",
            )
    return tuple(sorted(set(sizes)))


def noise_picture(size: int, device: torch.device) -> Tensor:
    """Return a picture (1, 3, size, size) of noise in [0, 1), as a network sees pictures."""
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    return image.to(device, memory_format=torch.channels_last)


def photograph(width: int, height: int = 0) -> bytes:
    """Make a JPEG that compresses about as well as photographs do; square without a height."""
    rng = np.random.default_rng(0)
    height = height or width
    coarse = rng.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3)).astype(np.uint8)
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


def _drawn(model: Model, way: Sampling) -> dict[str, Any]:
    samples = model.samples
    return {
        "steps": way.steps if samples else None,
        "members": way.ensemble if samples else None,
        "tta": way.tta,
    }


def _title(size: int, way: Sampling) -> str:
    return f"{size} px, N={way.ensemble}, {way.steps} steps{', flips' if way.tta else ''}"


def _passes(largest: int, size: int) -> int:
    """Passes of one turn: a smaller picture more often, since it takes less."""
    return min(_MOST_PASSES, max(1, largest // size))


def _model_alone(localizer: Localizer, size: int, way: Sampling) -> Callable[[], object]:
    """Return the call that `localize` makes of a decoded and prepared photograph."""
    image, _ = prepare(decode(photograph(size)))
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

    def run() -> None:
        mask = localizer.localize(data, name="bench").mask_png()
        atomic.write(target, mask, overwrite=True)

    return run
