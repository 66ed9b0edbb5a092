"""What the scan does with each photograph: the pipeline, as `scan.run` calls it."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from imlctl import __version__
from imlctl.mask.decide import Verdict
from imlctl.record import FAILED, Failure, Record
from imlctl.report.preview import FOUND_SIDE, PHOTO_SIDE, Preview, make_preview
from imlctl.scan.ledger import Key
from imlctl.scan.naming import Kind

if TYPE_CHECKING:
    from imlctl.errors import InputError
    from imlctl.pipeline import Localizer, Result
    from imlctl.scan.naming import Job
    from imlctl.scan.worker import Decoded


class PhotoWork:
    """Localize photographs, and write what is wanted of them.

    Args:
        localizer: With its model in memory.
        soft: Whether the mask is the probability map instead of the binary one.
        previews: Whether small pictures are kept for a report.
    """

    def __init__(self, localizer: Localizer, *, soft: bool = False, previews: bool = False) -> None:
        self.localizer = localizer
        self.soft = soft
        self.previews = previews
        self.max_pixels = localizer.settings.max_pixels
        rest = {k: v for k, v in localizer.provenance.items() if k != "weights_sha256"}
        settings = {**rest, "soft": soft, "imlctl": __version__}
        self.key = Key(
            str(localizer.provenance["weights_sha256"]), json.dumps(settings, sort_keys=True)
        )

    def localize(self, source: Decoded | bytes) -> Result:
        """Analyse a decoded picture, or the bytes of the standard input."""
        if isinstance(source, bytes):
            return self.localizer.localize(source, name="standard input")
        result = self.localizer.localize(source.photo)
        return dataclasses.replace(result, seconds=result.seconds + source.seconds)

    def render(self, result: Result, kind: Kind) -> bytes:
        """Encode one output of a result."""
        if kind is Kind.MASK:
            return result.soft_png() if self.soft else result.mask_png()
        if kind is Kind.OVERLAY:
            return result.overlay_png()
        if kind is Kind.HEATMAP:
            return result.heatmap_png()
        return (result.record().to_json(indent=2) + "\n").encode()

    def record(self, result: Result) -> dict[str, Any]:
        """Return what is kept of a result."""
        return result.record().to_dict()

    def preview(self, result: Result) -> Preview | None:
        """Return what a report shows of a result, if one is wanted."""
        if not self.previews:
            return None
        found = result.verdict is not Verdict.NOTHING_FOUND
        return make_preview(
            result.pixels,
            result.probability,
            side=FOUND_SIDE if found else PHOTO_SIDE,
            boxes=[region.box for region in result.regions.listed] if found else (),
        )

    def failure(self, job: Job, error: InputError) -> dict[str, Any]:
        """Return what is kept of a picture that has no result."""
        return Record(
            path=str(job.picture),
            verdict=FAILED,
            seconds=0.0,
            error=Failure.of(error),
            **self.localizer.provenance,  # type: ignore[arg-type]
        ).to_dict()
