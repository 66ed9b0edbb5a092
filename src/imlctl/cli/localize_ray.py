"""`imlctl localize --ray`: the same scan, on a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imlctl.cli.console import note
from imlctl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import ExitStack

    from imlctl.cli.interrupts import Interrupts
    from imlctl.pipeline import Localizer
    from imlctl.scan.ahead import Limits
    from imlctl.scan.naming import Job
    from imlctl.scan.on_ray import OnRay
    from imlctl.scan.work import PhotoWork


def start_ray(
    jobs: Sequence[Job],
    load: Callable[[str], Localizer],
    make: Callable[[Localizer], PhotoWork],
    limits: Limits,
    stack: ExitStack,
    *,
    device: str,
    decoders: int | None,
    stopped: Interrupts,
) -> tuple[OnRay, PhotoWork]:
    """Join the cluster, and return what analyses there and what is done with its results here.

    Args:
        jobs: The pictures.
        load: Loads the model onto a device.
        make: Turns a model into what is done with each picture.
        limits: What decoding a picture may cost.
        stack: Leaves the cluster when it is closed.
        device: Of the workers.
        decoders: Processes that decode for one worker.
        stopped: Whether the scan is to end.

    Raises:
        ImlctlError: There is no cluster, it has no such device, or a picture has no file.
    """
    from imlctl.scan.on_ray import OnRay
    from imlctl.scan.ray_cluster import joined, share_for

    if any(job.picture.path is None for job in jobs):
        raise UsageError(
            "the standard input cannot be read by a cluster",
            source="--ray",
            remedy="Name a file or folder, or leave --ray out.",
        )
    # The model is not needed here, but what it says of itself is; and wrong weights show at once.
    localizer = load("cpu")
    stack.enter_context(joined())
    share = share_for(device, note)
    localizer.provenance["device"] = share.name
    work = make(localizer)
    count = 1 if decoders is None else decoders
    ahead = OnRay(work, share, limits, decoders=count, stopped=lambda: stopped.requested)
    return ahead, work
