"""From a document of the benchmark to its page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imlctl.bench.page_accuracy import (
    ablation_page,
    accuracy_page,
    calibration_page,
    peer_page,
    robustness_page,
)
from imlctl.bench.page_speed import bars_page, flops_page, scan_page, speed_page
from imlctl.bench.published import published_page
from imlctl.bench.together import together_page

if TYPE_CHECKING:
    from collections.abc import Callable

    from imlctl.bench.page import Block

PAGES: dict[str, Callable[[dict[str, Any]], list[Block]]] = {
    "accuracy": accuracy_page,
    "robustness": robustness_page,
    "calibration": calibration_page,
    "ablation": ablation_page,
    "peer": peer_page,
    "speed": speed_page,
    "scan": scan_page,
    "bars": bars_page,
    "flops": flops_page,
    "together": together_page,
    "published": published_page,
}


def page_of(document: dict[str, Any]) -> list[Block]:
    """Return the page of a document: what was measured with, what was found, what is published."""
    page: list[Block] = []
    if "model" in document:
        page.append(
            f"{document['model']} (weights {document['weights_sha256'][:12]})"
            f" on {document['device']}"
        )
    page += PAGES[document["kind"]](document)
    if document.get("compare") and document["kind"] != "published":
        page += published_page(document)
    return page
