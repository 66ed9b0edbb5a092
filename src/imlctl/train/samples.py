"""Samples looked at: a contact sheet of them, and how fast they are made against what is taken."""

from __future__ import annotations

import io
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from imlctl.process import cores
from imlctl.train.batches import batches
from imlctl.train.distributed import Process
from imlctl.train.material import load_split, synthesizer
from imlctl.train.objective import clues_of, make_objective, train_mode
from imlctl.train.step import Learner, fresh_state, take_step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imlctl.forge.synthesizer import Maker, Sample
    from imlctl.train.config import TrainConfig

_BATCH = 8  # a worker makes whole batches; how large they are changes nothing
_COLUMNS = 8
_CAPTION = 18
_LEAST_WIDTH = 140  # that the longest caption takes
_OUTLINE = ((0, 0, 0), (255, 220, 0))  # dark under bright: visible on any ground


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let OpenCV use one thread, as in the processes that make samples."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


@_one_thread()
def sample_cost(make: Maker, count: int) -> tuple[float, dict[str, float]]:
    """Make samples 0 to `count` here; return seconds of a sample, and of one of each kind."""
    make(0)  # what is imported and allocated once
    took: dict[str, list[float]] = {}
    for index in range(count):
        begun = time.perf_counter()
        kind = make(index).kind
        took.setdefault(kind, []).append(time.perf_counter() - begun)
    whole = sum(map(sum, took.values())) / count
    return whole, {kind: sum(each) / len(each) for kind, each in sorted(took.items())}


def loader_rate(make: Maker, workers: int, count: int) -> float:
    """Samples a second of a loader whose workers make `count` each, in whole batches."""
    total = -(-count // _BATCH) * _BATCH * workers
    begun = time.perf_counter()
    for _ in batches(make, start=0, stop=total, batch=_BATCH, workers=workers):
        pass
    return total / (time.perf_counter() - begun)


def usual_workers() -> tuple[int, ...]:
    """Numbers of workers worth a try: doubling, up to the cores this process may use."""
    most = cores()
    return tuple(sorted({*(2**n for n in range(most.bit_length())), most}))


def model_rate(config: TrainConfig, maker: Maker, device: torch.device, steps: int) -> float:
    """Samples a second that training takes when it never waits: `steps` timed ones on one batch."""
    optim, objective = config.optim, make_objective(config)
    state = fresh_state(objective, config, device)
    learner, clues = Learner(state, objective), clues_of(state.model)
    train_mode(state.model)
    count, parts = optim.batch, optim.accumulate
    source = batches(
        maker, start=0, stop=count, batch=count, workers=0, device=device, parts=parts, clues=clues
    )
    made = list(source)
    for step in range(steps + 1):
        if step == 1:
            _finish(device)
            begun = time.perf_counter()
        take_step(state, learner, optim, made, maker, Process())
    _finish(device)
    return steps * optim.batch / (time.perf_counter() - begun)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@_one_thread()
def contact_sheet(config: TrainConfig, *, start: int, count: int) -> tuple[bytes, float]:
    """Draw samples `start` to `start + count` as a PNG; also return the samples made per second."""
    make = synthesizer(config, load_split(config, validation=False), config.optim.size)
    began = time.perf_counter()
    samples = [make(index) for index in range(start, start + count)]
    rate = count / (time.perf_counter() - began)
    tiles = [_tile(sample) for sample in samples]
    width, height = tiles[0].size
    sheet = Image.new("RGB", (_COLUMNS * width, -(-count // _COLUMNS) * height), "white")
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place % _COLUMNS * width, place // _COLUMNS * height))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue(), rate


def _tile(sample: Sample) -> Image.Image:
    """One sample with its mask outlined and its kind named below."""
    canvas = sample.pixels.copy()
    mask = sample.mask.astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    for colour, width in zip(_OUTLINE, (3, 1), strict=True):
        cv2.drawContours(canvas, contours, -1, colour, width)
    side = sample.side or max(mask.shape)
    tile = Image.new("RGB", (max(side, _LEAST_WIDTH), side + _CAPTION), "white")
    tile.paste(Image.fromarray(canvas), (0, 0))
    text = f"{sample.kind.replace('_', '-')}, {100 * sample.mask.mean():.1f} %"
    ImageDraw.Draw(tile).text((4, side + 2), text, "black", ImageFont.load_default(12))
    return tile
