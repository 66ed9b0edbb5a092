"""`imlctl bench --bars`: every number that this project promises, measured here and now."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from imlctl.cli.bench_show import VERSION, Measured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imlctl.bench.bars import Bar
    from imlctl.cli.bench_run import Common
    from imlctl.core.light_vae import LightVAE
    from imlctl.pipeline import Localizer

    Tell = Callable[[str], object]

_PHOTOS, _PHOTO_SIDE = 8, 1024  # of the scan
_LARGE = (6000, 4000)  # 24 megapixels
_MASKS = 16  # of each kind, for the round trip


def bars(common: Common) -> Measured:
    """Hold the models, the commands and the autoencoder to what is promised of them."""
    from tqdm import tqdm

    from imlctl.bench.environment import observe
    from imlctl.device import resolve

    device = resolve(common.device)
    environment = observe(device)
    rows: list[dict[str, Any]] = []
    missing: list[str] = []
    with tqdm(bar_format="{desc} [{elapsed}]", disable=None, leave=False) as bar:
        tell = bar.set_description_str
        for each in _all(common, tell):
            if isinstance(each, str):
                missing.append(each)
            else:
                rows.append(asdict(each) | {"passed": each.passed})
    document = {
        "kind": "bars",
        "version": VERSION,
        "environment": asdict(environment) | {"busy": environment.busy},
        "runs": common.runs,
        "budget": common.budget,
        "bars": rows,
        "missing": missing,
    }
    return Measured(document)


def _all(common: Common, tell: Tell) -> Iterator[Bar | str]:
    """Yield each bar, or a sentence on why there is none."""
    tell("commands")
    yield from _commands(common)
    given = bool(common.models or common.weights)
    for named in common.named if given else [("efficientiml", None), ("diffiml", None)]:
        localizer = common.localizer(named)
        yield from _of_model(localizer, common, tell)
        if localizer.model.samples:
            yield from _of_light_vae(localizer, common, tell)
        else:
            tell("scan")
            yield _of_scan(localizer, common.runs)


def _commands(common: Common) -> Iterator[Bar | str]:
    from statistics import median

    from imlctl.bench.bars import MOST_COLD_SECONDS, MOST_HELP_SECONDS, MOST_LARGE_BYTES, Bar
    from imlctl.bench.processes import most_memory, own_command, program
    from imlctl.bench.processes import runs as process
    from imlctl.bench.stages import photograph
    from imlctl.bench.timing import Subject, take_turns

    with tempfile.TemporaryDirectory(prefix="imlctl-bench-") as folder:
        small, large = (Path(folder) / name for name in ("small.jpg", "large.jpg"))
        small.write_bytes(photograph(512))
        large.write_bytes(photograph(*_LARGE))
        localize = own_command("localize", str(small), "--device", common.device)
        showing, torch, cold = take_turns(
            [
                Subject("help", process(own_command("--help"))),
                Subject("torch", process(program("import torch"))),
                Subject("cold", process(localize)),
            ],
            common.runs,
            budget=common.budget,
        )
        pairs = zip(cold.rounds, torch.rounds, strict=True)
        more = median(ours[0] - theirs[0] for ours, theirs in pairs)
        yield Bar("imlctl --help, seconds", showing.passes[0], MOST_HELP_SECONDS)
        yield Bar("one 512 x 512 photo, seconds over import torch", more, MOST_COLD_SECONDS)
        held = most_memory(own_command("localize", str(large), "--device", common.device))
        if held is None:
            yield "The memory of another process is not known on this system."
        else:
            yield Bar("24 megapixels, bytes held by the process", held, MOST_LARGE_BYTES)


def _of_model(localizer: Localizer, common: Common, tell: Tell) -> Iterator[Bar]:
    from dataclasses import replace

    from imlctl.bench.bars import BAR_LARGE_SIZE, BAR_SIZE, BAR_STEPS, MOST_OF_MIT_B3_BY_MEMBERS
    from imlctl.bench.cells import Plan
    from imlctl.bench.speed import measure

    plan = Plan(
        (BAR_SIZE,) if localizer.model.samples else (BAR_SIZE, BAR_LARGE_SIZE),
        localizer.settings.tile,
        common.runs,
        steps=(BAR_STEPS,),
        members=tuple(MOST_OF_MIT_B3_BY_MEMBERS),
        flips=(False,),
        against_mit_b3=True,
        budget=common.budget,
    )
    name = localizer.provenance["model"]
    for bar in measure(localizer, plan, progress=tell).bars:
        yield replace(bar, name=f"{name}: {bar.name}")


def _of_scan(localizer: Localizer, runs: int) -> Bar:
    from imlctl.bench.bars import LEAST_SCAN_SHARE, Bar
    from imlctl.bench.stages import photograph
    from imlctl.cli.bench_scan import rounds_of, share_of

    with tempfile.TemporaryDirectory(prefix="imlctl-bench-") as folder:
        for number in range(_PHOTOS):
            Path(folder, f"{number}.jpg").write_bytes(photograph(_PHOTO_SIDE))
        share = share_of(rounds_of(localizer, Path(folder), runs).rounds)
    return Bar(f"scan of {_PHOTOS} photos, share of the model's", share, LEAST_SCAN_SHARE, True)


def _of_light_vae(localizer: Localizer, common: Common, tell: Tell) -> Iterator[Bar | str]:
    from imlctl.bench.bars import LEAST_ROUND_TRIP_F1, Bar
    from imlctl.core.diff_iml import DiffIML
    from imlctl.train.round_trip import JudgeConfig, round_trip

    vae = cast("DiffIML", localizer.model).vae
    tell("LightVAE: round trip")
    kept = round_trip(vae, JudgeConfig(masks=_MASKS), "canny", localizer.device)
    yield Bar("LightVAE, F1 of masks after a round trip", kept["f1"], LEAST_ROUND_TRIP_F1, True)
    tell("LightVAE: beside Stable Diffusion's autoencoder")
    yield _beside_stable_diffusion(vae, localizer, common)


def _beside_stable_diffusion(vae: LightVAE, localizer: Localizer, common: Common) -> Bar | str:
    """Time both in one run; the values of Stable Diffusion's weights do not matter for that."""
    import torch

    from imlctl.bench.bars import BAR_SIZE, MOST_OF_STABLE_DIFFUSION, Bar
    from imlctl.bench.timing import Subject, take_turns, timer_for

    try:
        from diffusers import AutoencoderKL
    except ImportError:
        return 'Stable Diffusion\'s autoencoder: needs pip install "imlctl[teacher]".'
    device = localizer.device
    other: Any = AutoencoderKL(  # type: ignore[no-untyped-call]
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
    )
    other = other.eval().to(device, memory_format=torch.channels_last)
    mask = torch.ones(1, 1, BAR_SIZE, BAR_SIZE, device=device)
    colours = mask.repeat(1, 3, 1, 1)
    subjects = [
        Subject("LightVAE", lambda: vae.decode(vae.encode(mask))),
        Subject("theirs", lambda: other.decode(other.encode(colours).latent_dist.mean)),
    ]
    with torch.inference_mode():
        light, theirs = take_turns(
            subjects, common.runs, timed=timer_for(device), budget=common.budget
        )
    name = f"LightVAE, time at {BAR_SIZE} / Stable Diffusion's autoencoder"
    return Bar(name, light.over(theirs), MOST_OF_STABLE_DIFFUSION)
