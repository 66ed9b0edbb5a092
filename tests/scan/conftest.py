"""A stand-in for the analysis that needs no model: what is written depends on the pixels alone."""

from __future__ import annotations

import io
import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import imlctl
from imlctl.scan.analysis import Options
from imlctl.scan.find import discover
from imlctl.scan.messages import Finished, failed
from imlctl.scan.naming import Kind, plan_outputs
from imlctl.scan.pool import Crew, on_cores, one_by_one
from imlctl.scan.processes import Decoder, decode_file
from imlctl.scan.run import scan
from imlctl.settings import Settings

OPTIONS = Options(Settings(max_pixels=10_000), (Kind.MASK, Kind.JSON))


class FakeAnalysis:
    """The result of a picture is its sha256."""

    def __init__(self, weights="0" * 64):
        self.provenance = {
            "model": "fake",
            "weights_sha256": weights,
            "settings": {},
            "seed": 0,
            "device": "cpu",
        }
        self.seen = []
        self.preview = None

    def __call__(self, decoded):
        self.seen.append(Path(decoded.photo.source).name)
        try:
            return self.finish(decoded)
        except Exception as error:
            return replace(failed(error, decoded.photo.source), sha256=decoded.photo.sha256)

    def finish(self, decoded):
        digest = decoded.photo.sha256
        outputs = {kind: f"{kind}:{digest}".encode() for kind in (Kind.MASK, Kind.JSON)}
        return Finished(outputs, self.record(digest), self.preview)

    def record(self, digest):
        return {"verdict": "nothing found", "sha256": digest, "warnings": []}


@pytest.fixture
def analysis():
    return FakeAnalysis()


@pytest.fixture
def fake_analysis():
    return FakeAnalysis


@pytest.fixture(params=["here", "pool"])
def engine(request):
    """Makes both engines: everything in one place, and decoders and models beside the writer."""
    with ExitStack() as stack:

        def start(analysis):
            if request.param == "here":
                return one_by_one(decode_file, analysis)
            decoders = stack.enter_context(Crew([Decoder(OPTIONS)]))
            return on_cores(decoders, Crew([analysis]), analysis.provenance)

        yield start


@pytest.fixture
def run_scan():
    """Scans with everything in one place."""

    def call(jobs, analysis, options=OPTIONS, **more):
        return scan(jobs, one_by_one(decode_file, analysis), options, **more)

    return call


@pytest.fixture
def options():
    return OPTIONS


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
        return plan_outputs(found.pictures, out, (Kind.JSON,), many=True, **options)

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
