"""Analyse one decoded picture: run the model, make every output and the record."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from threading import TIMEOUT_MAX
from typing import TYPE_CHECKING, Any

from imlctl import __version__
from imlctl.errors import UsageError
from imlctl.mask.decide import Verdict
from imlctl.mask.render import veiled
from imlctl.record import FAILED, Failure, Record
from imlctl.report.preview import FOUND_SIDE, PHOTO_SIDE, make_preview
from imlctl.scan.ledger import Key
from imlctl.scan.messages import Decoded, Failed, Finished, failed
from imlctl.scan.naming import Kind

if TYPE_CHECKING:
    from imlctl.inference import Progress
    from imlctl.pipeline import Result
    from imlctl.report.preview import Preview
    from imlctl.scan.naming import Job
    from imlctl.settings import Settings


@dataclass(frozen=True, slots=True)
class Options:
    """Options for each picture of a scan."""

    settings: Settings  # of the localizer
    kinds: tuple[Kind, ...] = ()  # files that are wanted
    soft: bool = False  # whether the mask is the probability map
    previews: bool = False  # whether small pictures are kept for a report
    # Of a model on a CPU; the last bits of a map depend on them. None for torch's own
    threads: int | None = None
    sampled: tuple[str, ...] = ()  # options that were given and concern only models that sample
    timeout: float = 120.0  # seconds that reading and decoding a picture may take

    def __post_init__(self) -> None:
        if not 0 < self.timeout <= TIMEOUT_MAX:
            what = f"{self.timeout:g} seconds cannot be waited for"
            remedy = "Give a positive and finite number of seconds."
            raise UsageError(what, source="--timeout", remedy=remedy)


class Analysis:
    """A model and all that is made of its results; ImlctlError where it lacks what was asked."""

    def __init__(self, options: Options, progress: Progress = lambda done, total: None) -> None:
        from imlctl.pipeline import Localizer

        if options.threads is not None:
            import torch

            torch.set_num_threads(options.threads)
        self.options = options
        self.progress = progress  # of the tiles of a large picture
        self.localizer = Localizer(options.settings)
        self.provenance: dict[str, Any] = self.localizer.provenance
        model = f"the model {self.provenance['model']}"
        if Kind.RELIABILITY in options.kinds and not self.localizer.model.scored:
            what = f"{model} does not say where its map can be believed"
            remedy = "Leave it out, or choose another model."
            raise UsageError(what, source="--reliability", remedy=remedy)
        if options.sampled and not self.localizer.model.samples:
            what = f"{model} draws no samples"
            remedy = "Leave it out, or choose a model that samples, such as --model diffiml."
            raise UsageError(what, source=", ".join(options.sampled), remedy=remedy)

    def __call__(self, decoded: Decoded) -> Finished | Failed:
        """Localize and encode; if any of it fails, all does. Raises what concerns all pictures."""
        result = self.localize(decoded)
        return result if isinstance(result, Failed) else self.finish(result, decoded)

    def localize(self, decoded: Decoded) -> Result | Failed:
        """Run the model over a picture; raises as the call does."""
        try:
            return self.localizer.localize(decoded.photo, progress=self.progress)
        except Exception as error:
            return _failed(error, decoded)

    def localize_together(self, several: Sequence[Decoded]) -> list[Result | Failed]:
        """Run the model over pictures of one size, each alone if that fails for any of them."""
        if len(several) > 1:
            with suppress(Exception):  # whose fault it was shows when each goes alone
                return list(self.localizer.localize_together([each.photo for each in several]))
        return [self.localize(each) for each in several]

    def finish(self, result: Result, decoded: Decoded) -> Finished | Failed:
        """Encode all that is wanted of a result; raises as the call does."""
        timings = {"decode": decoded.seconds, "analyse": result.seconds}
        rounded = {name: round(seconds, 4) for name, seconds in timings.items()}
        seconds = round(sum(timings.values()), 4)
        try:
            record = dataclasses.replace(result.record(), seconds=seconds, timings=rounded)
            return Finished(
                {kind: self._encode(result, record, kind) for kind in self.options.kinds},
                record.to_dict(),
                self._preview(result) if self.options.previews else None,
            )
        except Exception as error:
            return _failed(error, decoded)

    def _preview(self, result: Result) -> Preview:
        """Make what a report shows; more of it where something was found."""
        found = result.verdict is not Verdict.NOTHING_FOUND
        views = result.views() if Kind.VIEWS in self.options.kinds else iter(())
        if result.reliability is not None:
            views = chain(views, [("reliability", veiled(result.pixels, result.reliability))])
        return make_preview(
            result.pixels,
            result.probability,
            side=FOUND_SIDE if found else PHOTO_SIDE,
            boxes=[region.box for region in result.regions.listed] if found else (),
            views=views,
        )

    def _encode(self, result: Result, record: Record, kind: Kind) -> bytes:
        if kind is Kind.JSON:
            return (record.to_json(indent=2) + "\n").encode()
        name = "soft" if kind is Kind.MASK and self.options.soft else kind.value
        png: Callable[[], bytes] = getattr(result, f"{name}_png")
        return png()


def _failed(error: Exception, decoded: Decoded) -> Failed:
    photo = decoded.photo
    return dataclasses.replace(failed(error, photo.source), sha256=photo.sha256)


def key_of(provenance: Mapping[str, Any], options: Options) -> Key:
    """Return what outputs depend on besides the picture."""
    rest = {k: v for k, v in provenance.items() if k != "weights_sha256"}
    settings = {**rest, "soft": options.soft, "imlctl": __version__}
    return Key(str(provenance["weights_sha256"]), json.dumps(settings, sort_keys=True))


def record_of_failure(job: Job, failure: Failed, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a picture that has no result."""
    return Record(
        path=str(job.picture),
        verdict=FAILED,
        seconds=0.0,
        sha256=failure.sha256,
        bytes=failure.size,
        error=Failure.of(failure.error),
        **provenance,
    ).to_dict()
