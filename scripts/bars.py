"""Measure every speed and size that this project promises, and say which hold on this machine.

    python scripts/bars.py [--device auto] [--runs 5]
    python scripts/bars.py --before OLD/src [--recipes NOW.toml BEFORE.toml]

Times are ratios within one run, on a machine that does nothing else. The exit code is 1 if a
promise is broken. With `--before`, whole commands run in turns with those of an older checkout, and
nothing else is measured; with `--recipes` so do the steps of a training run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from imlctl.bench.machine import take_turns, timer_for
from imlctl.bench.scan import throughput
from imlctl.bench.speed import Plan, measure, photograph
from imlctl.pipeline import Localizer
from imlctl.settings import Settings
from imlctl.train.mask_maps import JudgeConfig, round_trip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    # What was promised, the number here, and the limit; negative for the least.
    Bar = tuple[str, float, float]

SMALL, LARGE = 512, 2048  # sides in pixels
HOST = timer_for(torch.device("cpu"))
FOLDER = 120  # pictures of a scan
OURS = [sys.executable, "-c", "from imlctl.cli import main; main()"]
# A process begins with the peak of the one that started it, and ours is large: a small one between.
WATCH = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def main() -> None:
    """Print one line for each promise."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--before", type=Path, help="sources of an older version")
    parser.add_argument("--recipes", type=Path, nargs=2, help="presets to train: now, before")
    given = parser.parse_args()
    if given.recipes and not given.before:
        parser.error("--recipes needs --before")
    broken = 0
    measured = (
        against(given.before.resolve(), given.recipes, given.runs)
        if given.before
        else bars(given.device, given.runs)
    )
    for name, value, limit in measured:
        met = value >= -limit if limit < 0 else value <= limit
        broken += not met
        word = "at least" if limit < 0 else "at most"
        verdict = "met" if met else "NOT MET"
        print(f"{name:60} {value:12.5g}  {word} {abs(limit):<10.5g} {verdict}", flush=True)
    sys.exit(broken > 0)


def bars(device: str, runs: int) -> Iterator[Bar]:
    """Yield each promise as it is measured."""
    yield from commands(device, runs)
    fast = Localizer(Settings(model="efficientiml", device=device))
    yield from of_efficient_iml(fast, runs)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(24):
            Path(folder, f"{number}.jpg").write_bytes(photograph(640, 480))
        found = throughput(fast, Path(folder), runs, lambda items, _: items)
    yield "scan, share of the model's rate on all cores", found["share"], -0.9
    best = Localizer(Settings(model="diffiml", device=device))
    yield from of_diff_iml(best, runs)
    yield from of_light_vae(best, runs)


def against(before: Path, recipes: list[Path] | None, runs: int) -> Iterator[Bar]:
    """Yield how whole commands compare with those of an older version, on a CPU."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos").mkdir()
        for number in range(FOLDER):
            (folder / "photos" / f"{number}.jpg").write_bytes(photograph(640, 480))
        for size, (width, height) in {"small": (SMALL, SMALL), "large": (4000, 3000)}.items():
            (folder / f"{size}.jpg").write_bytes(photograph(width, height))

        def localize(name: str) -> list[str]:
            out = Path(tempfile.mkdtemp(dir=folder), "out" if name == "photos" else "out.png")
            return [*OURS, "localize", str(folder / name), "-o", str(out), "--device", "cpu"]

        def turns(name: str) -> tuple[float, float]:
            """Median ratio of the new time to the old, and median seconds of the new."""
            new, old = take_turns(
                [
                    ("new", lambda: process(localize(name))()),
                    ("old", lambda: process(localize(name), before)()),
                ],
                runs,
                timed=HOST,
            )
            return new.over(old), new.median

        yield "one small picture, time / before", turns("small.jpg")[0], 1.0
        with neighbours(2):
            ratio = turns("small.jpg")[0]
        yield "one small picture beside two busy programs, time / before", ratio, 2.0
        ratio, seconds = turns("large.jpg")
        yield "12 megapixels, time / before", ratio, 1.0
        yield "12 megapixels, seconds", seconds, 5.5
        yield "12 megapixels, bytes held by the process", peak(localize("large.jpg")), 1.5e9
        yield f"{FOLDER} photographs of 640x480, rate / before", 1 / turns("photos")[0], -2.5
        if recipes:
            ratio = training(before, recipes[0], recipes[1], runs, folder)
            yield "a training step, time / before", ratio, 0.5


def training(before: Path, recipe: Path, former: Path, runs: int, folder: Path) -> float:
    """Return the median ratio of the time of a step of one recipe to that of another before."""
    ratios = []
    for _ in range(runs):
        paces = []
        for preset, sources in ((recipe, None), (former, before)):
            out = Path(tempfile.mkdtemp(dir=folder), "run")
            command = [*OURS, "train", str(preset), "-o", str(out), "--device", "cpu"]
            process(command, sources)()
            paces.append(pace_of(out / "log.jsonl"))
        ratios.append(paces[1] / paces[0])
    return median(ratios)


def pace_of(log: Path) -> float:
    """Return the last pace in a log, in samples a second."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    paces: list[float] = [line["per_second"] for line in lines if line["event"] == "step"]
    return paces[-1]


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Keep that many other programs busy."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for each in busy:
            each.kill()
            each.wait()


def peak(command: list[str]) -> int:
    """Return how many bytes a command and what it starts hold at most."""
    watched = [sys.executable, "-c", WATCH, *command]
    return int(subprocess.run(watched, check=True, stdout=subprocess.PIPE).stdout) * 1024  # noqa: S603


def commands(device: str, runs: int) -> Iterator[Bar]:
    """Yield the promises about processes."""
    with tempfile.TemporaryDirectory() as folder:
        small, large = (Path(folder) / name for name in ("small.jpg", "large.jpg"))
        small.write_bytes(photograph(SMALL))
        large.write_bytes(photograph(6000, 4000))

        def localize(path: Path) -> list[str]:
            return [*OURS, "localize", str(path), "--device", device]

        showing, bare, cold = take_turns(
            [
                ("help", process([*OURS, "--help"])),
                ("torch", process([sys.executable, "-c", "import torch"])),
                ("cold", process(localize(small))),
            ],
            runs,
            timed=HOST,
        )
        yield "imlctl --help, seconds", min(showing.passes), 0.25
        more = median(a - b for a, b in zip(cold.passes, bare.passes, strict=True))
        yield "one 512x512 photo, seconds over import torch", more, 1.5
        yield "24 megapixels, bytes held by the process", peak(localize(large)), 2.5e9


def process(command: list[str], sources: Path | None = None) -> Callable[[], object]:
    """Return a function that runs a command, of other sources if given, and wants it to succeed."""
    environment = os.environ | ({"PYTHONPATH": str(sources)} if sources else {})
    return lambda: subprocess.run(  # noqa: S603
        command,
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def of_efficient_iml(localizer: Localizer, runs: int) -> Iterator[Bar]:
    """Yield the promises about its cost, speed and growth."""
    (model,) = measure([localizer], Plan((SMALL, LARGE), runs, tta=False))["models"]
    yield "EfficientIML: parameters", model["cost"]["parameters"], 5e6
    yield "EfficientIML: multiply-accumulates at 512", model["cost"]["macs"], 8e9
    small, large = model["speed"]
    if localizer.device.type == "cpu":
        yield "time at 512 / MiT-B3 encoder", model["against"]["shares"][0]["share"], 1 / 6
        floor = least_seconds(localizer, model["cost"]["macs"])
        yield "time at 512 / floor of this machine", small["median"] / floor, 3
    yield "time at 2048 / at 512", large["growth"], 17
    yield "memory at 2048 / at 512", large["memory"] / small["memory"], 1.1 * 16


@torch.inference_mode()
def least_seconds(localizer: Localizer, macs: float) -> float:
    """Measure in how little time this processor could analyse a small picture at the best.

    That is its multiply-accumulates at the rate of a large matrix product, or the bytes that it
    moves at the rate of a copy, both measured on the spot in float32.
    """
    timed = timer_for(localizer.device)
    square, source = torch.ones(1024, 1024), torch.zeros(2**24)
    target = torch.empty_like(source)
    product = min(timed(lambda: square @ square) for _ in range(7)) / 1024**3
    copied = min(timed(lambda: target.copy_(source)) for _ in range(7)) / (2 * source.nbytes)
    weights = sum(each.nbytes for each in localizer.model.parameters())
    moved = weights + 4 * 4 * SMALL**2  # 3 colours in, 1 map out
    return max(macs * product, moved * copied)


def of_diff_iml(localizer: Localizer, runs: int) -> Iterator[Bar]:
    """Yield the promises about its speed, all eight steps counted."""
    (model,) = measure([localizer], Plan((SMALL,), runs, (8,), (5, 1), tta=False))["models"]
    limits = {1: 1.0, 5: 1.5} if localizer.device.type == "cpu" else {1: -69.48, 5: -37.28}
    rows = model["against"]["shares"] if localizer.device.type == "cpu" else model["speed"]
    for row in rows:
        what = "time at 512 / MiT-B3 encoder" if "share" in row else "pictures a second at 512"
        value = row.get("share", row.get("fps"))
        yield f"DiffIML, N={row['members']}: {what}", value, limits[row["members"]]


def of_light_vae(localizer: Localizer, runs: int) -> Iterator[Bar]:
    """Yield the promises about the autoencoder of masks."""
    vae: Any = localizer.model.vae
    kept = round_trip(vae, JudgeConfig(masks=16), "canny", localizer.device)
    yield "LightVAE: F1 of masks after a round trip", kept["f1"], -0.997
    try:
        from diffusers import AutoencoderKL
    except ImportError:
        print("LightVAE beside Stable Diffusion's autoencoder: needs the extra teacher")
        return
    # Its weights do not matter for its speed.
    make: Any = AutoencoderKL
    other = make(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
    )
    other = other.eval().to(localizer.device, memory_format=torch.channels_last)
    mask = torch.ones(1, 1, SMALL, SMALL, device=localizer.device)
    colours = mask.repeat(1, 3, 1, 1)
    subjects = [
        ("LightVAE", lambda: vae.decode(vae.encode(mask))),
        ("theirs", lambda: other.decode(other.encode(colours).latent_dist.mean)),
    ]
    with torch.inference_mode():
        light, theirs = take_turns(subjects, runs, timed=timer_for(localizer.device), budget=20.0)
    yield "LightVAE: time / Stable Diffusion's autoencoder", light.over(theirs), 1 / 50


if __name__ == "__main__":
    main()
