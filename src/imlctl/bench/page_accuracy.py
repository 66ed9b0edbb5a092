"""Pages about how right a model is: accuracy, robustness, ablations, calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imlctl.bench.page import Block, Table, amount, fraction, interval, percentage, sampling_line
from imlctl.bench.page import duration as _duration

if TYPE_CHECKING:
    from collections.abc import Mapping

Document = dict[str, Any]


def accuracy_page(document: Document) -> list[Block]:
    """Pixel and picture metrics of each set, and what they mean."""
    sets = document["sets"]
    page: list[Block] = [_pixel_table(sets), _picture_table(sets)]
    copies = [row for row in sets if row["f1_both"] is not None]
    if copies:
        page.append(_copy_move_table(copies))
    return [*page, _legend(document)]


def _pixel_table(sets: list[Document]) -> Table:
    keys = ("f1", "iou", "auc", "ap", "precision", "recall", "best_f1")
    return Table(
        "Accuracy of pixels",
        ("set", "F1 [95 %]", "IoU", "AUC", "AP", "prec.", "recall", "best F1*"),
        tuple(
            (row["name"], interval(row, "f1"), *(fraction(row[key]) for key in keys[1:]))
            for row in sets
        ),
    )


def _picture_table(sets: list[Document]) -> Table:
    return Table(
        "Verdicts on pictures",
        ("set", "pictures", "found", "flagged [95 %]", "F1", "AUC [95 %]"),
        tuple(
            (
                row["name"],
                f"{row['tampered']} + {row['authentic']}",
                percentage(row["found"]),
                _flagged(row),
                fraction(row["image_f1"]),
                interval(row, "image_auc"),
            )
            for row in sets
        ),
    )


def _flagged(row: Document) -> str:
    bounds = row.get("intervals", {}).get("flagged")
    shown = percentage(row["flagged"])
    return shown if bounds is None else f"{shown} [{bounds[0]:.0%}, {bounds[1]:.0%}]"


def _copy_move_table(sets: list[Document]) -> Table:
    return Table(
        "Copy-moves with a known source, F1 of pixels",
        ("set", "copy only", "copy and source"),
        tuple((row["name"], fraction(row["f1_copy"]), fraction(row["f1_both"])) for row in sets),
    )


def _legend(document: Document) -> str:
    strict = max(document["threshold"], document["verdict_threshold"])
    return (
        "Of pixels: mean over tampered pictures, at the threshold"
        f" {document['threshold']:g}; nothing is permuted or inverted.\n"
        "pictures: tampered + authentic. found, flagged: tampered and authentic pictures with more"
        f" than {document['min_share']:.1%} of their pixels at {strict:g} or over; flagged is the"
        " false-positive rate.\n"
        f"[95 %]: bootstrap over pictures, {document['resamples']} resamples, seed"
        f" {document['seed']}.\n"
        f"Drawn with {sampling_line(document['settings'])}.\n"
        "* at each picture's own best threshold: optimistic, no one threshold is that good."
    )


def calibration_page(document: Document) -> list[Block]:
    """Thresholds for false-positive rates."""
    table = Table(
        f"Thresholds on {document['pictures']} authentic pictures",
        ("false-positive rate", "threshold [95 %]", "flagged here", "rate, at most (95 %)"),
        tuple(
            (
                f"{row['rate']:g}",
                f"{row['threshold']:.4f} [{row['interval'][0]:.3f}, {row['interval'][1]:.3f}]",
                percentage(row["flagged"]),
                f"{row['upper']:.1%}",
            )
            for row in document["rates"]
        ),
    )
    lines = [
        "threshold [95 %]: bootstrap over pictures. rate, at most: the true rate lies below, with"
        " 95 % confidence, if the pictures are like yours.",
        f"Drawn with {sampling_line(document['settings'])}.",
        "Kept for these weights: use --threshold fpr=RATE, with any rate.",
    ]
    few = [f"{row['rate']:g}" for row in document["rates"] if not row["resolved"]]
    if few:
        lines.append(f"Too few pictures to tell a rate of {', '.join(few)}: add more.")
    own = document["verdict_threshold"]
    if any(row["threshold"] < own for row in document["rates"]):
        lines.append(
            f"The weights' own verdict threshold is {own:g}: a lower one marks more pixels, and"
            " the verdict stays as strict as the weights ask."
        )
    return [table, "\n".join(lines)]


def robustness_page(document: Document) -> list[Block]:
    """F1 after each degradation."""
    table = Table(
        "Robustness",
        ("degradation", "level", "F1 [95 %]", "of clean", "AUC", "flagged"),
        tuple(
            (
                row["kind"],
                row["level"],
                interval(row, "f1"),
                "-" if row["kept"] is None else f"{row['kept']:.0%}",
                fraction(row["auc"]),
                percentage(row["flagged"]),
            )
            for row in document["rows"]
        ),
    )
    return [table, "\n".join((*document["notes"], f"Drawn with {_drawn(document)}."))]


def _drawn(document: Document) -> str:
    return sampling_line(document["settings"])


def ablation_page(document: Document) -> list[Block]:
    """One row for each arm."""
    table = Table(
        f"Ablation: {document['what']}",
        (document["what"], "F1 [95 %]", "spread", "AUC", "flagged", "s / picture"),
        tuple(
            (
                row["arm"],
                interval(row, "f1"),
                "-" if row["spread"] is None else f"{row['spread']:.4f}",
                fraction(row["auc"]),
                percentage(row["flagged"]),
                _duration(row["seconds"]),
            )
            for row in document["rows"]
        ),
    )
    note = (
        f"Over {document['pictures']} pictures. spread: standard deviation of F1 over"
        f" {document['seeds']} seeds of the noise."
    )
    return [table, note]


def peer_page(document: Document) -> list[Block]:
    """Ours and the peer, side by side."""
    rows = document["rows"]
    table = Table(
        "Beside a peer, on the same pictures in the same run",
        ("detector", "pixel F1", "AUC", "found", "flagged", "s / picture"),
        tuple(
            (
                row["name"],
                interval(row, "f1"),
                fraction(row["auc"]),
                percentage(row["found"]),
                percentage(row["flagged"]),
                _duration(row["seconds"]),
            )
            for row in rows
        ),
    )
    ratio: Mapping[str, Any] = document["ratio"]
    text = (
        f"Time of ours over the peer's, pair by pair: median {ratio['median']:.3g}, from"
        f" {ratio['low']:.3g} to {ratio['high']:.3g}, {amount(ratio['pairs'])} pairs. Both ran"
        " as a process of their own for each picture, in turns, so both include starting up.\n"
        f"F1 of ours minus the peer's, picture by picture: mean {document['f1_gain']:+.3f}."
        if document["f1_gain"] is not None
        else "No pair was scored."
    )
    failed = document["failed"]
    notes = [text]
    if failed:
        notes.append(f"The peer failed on {len(failed)} pictures, which count for neither.")
    return [table, "\n".join(notes)]
