"""A stand-in for the analysis that needs no model: what is written depends on the pixels alone."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import imlctl
from imlctl.scan.discover import discover
from imlctl.scan.ledger import Key
from imlctl.scan.naming import Kind, plan
from imlctl.scan.worker import Decoded


class FakeWork:
    """The result of a picture is its sha256."""

    max_pixels = 10_000

    def __init__(self, key=None):
        self.key = key or Key("weights", "settings")
        self.seen = []

    def localize(self, source):
        if isinstance(source, Decoded):
            self.seen.append(Path(source.photo.source).name)
            return source.photo.sha256
        return f"bytes {len(source)}"

    def render(self, result, kind):
        return f"{kind}:{result}".encode()

    def record(self, result):
        return {"verdict": "nothing found", "sha256": result, "warnings": []}

    def preview(self, result):
        return None

    def failure(self, job, error):
        return {"verdict": "failed", "sha256": None, "path": str(job.picture), "error": error.what}


@pytest.fixture
def work():
    return FakeWork()


@pytest.fixture
def fake_work():
    return FakeWork


def png(seed=0, size=(9, 7)):
    rng = np.random.default_rng(seed)
    stream = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def picture():
    """Encodes a small picture that depends on a seed."""
    return png


@pytest.fixture
def planned():
    """Plans the pictures named (or all here) into the folder `out`, with a mask and a record."""

    def call(*names, out="out", **options):
        found = discover(names or ["in"], recursive=True)
        return plan(found.pictures, out, (Kind.JSON,), many=True, **options)

    return call


@pytest.fixture
def jobs(tmp_path, monkeypatch, planned):
    """Three pictures in the current folder."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a.png", "b.png", "c.png")):
        Path(name).write_bytes(png(seed))
    return planned("a.png", "b.png", "c.png")


@pytest.fixture
def child_environment():
    """For Python processes that import this imlctl, whatever the current folder is."""
    return {**os.environ, "PYTHONPATH": str(Path(imlctl.__file__).parents[1])}
