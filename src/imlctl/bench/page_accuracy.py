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
        (
            "set",
            "pictures",
            "found",
            "suspected",
            "false alarms [95 %]",
            "false susp.",
            "AUC [95 %]",
        ),
        tuple(
            (
                row["name"],
                f"{row['tampered']} + {row['authentic']}",
                percentage(row["found"]),
                percentage(row["suspected"]),
                _false_alarms(row),
                percentage(row["false_suspicions"]),
                interval(row, "image_auc"),
            )
            for row in sets
        ),
    )


def _false_alarms(row: Document) -> str:
    bounds = row.get("intervals", {}).get("false_alarms")
    shown = percentage(row["false_alarms"])
    return shown if bounds is None else f"{shown} [{bounds[0]:.0%}, {bounds[1]:.0%}]"


def _copy_move_table(sets: list[Document]) -> Table:
    return Table(
        "Copy-moves with a known source, F1 of pixels",
        ("set", "copy only", "copy and source"),
        tuple((row["name"], fraction(row["f1_copy"]), fraction(row["f1_both"])) for row in sets),
    )


def _legend(document: Document) -> str:
    rule, threshold = document["rule"], document["threshold"]
    chosen = "that goes with each verdict" if threshold is None else f"{threshold:g}"
    return (
        f"Of pixels: mean over tampered pictures, at the threshold {chosen}; nothing is permuted or"
        " inverted.\n"
        "pictures: tampered + authentic. found, false alarms: tampered and authentic pictures that"
        f" are called manipulated (score {rule['manipulated']:g} or more); suspected, false susp.:"
        f" called manipulated or inconclusive (score {rule['inconclusive']:g} or more).\n"
        f"[95 %]: bootstrap over pictures, {document['resamples']} resamples, seed"
        f" {document['seed']}.\n"
        f"Drawn with {sampling_line(document['settings'])}.\n"
        "* at each picture's own best threshold: optimistic, no one threshold is that good."
    )


def calibration_page(document: Document) -> list[Block]:
    """Thresholds for false-positive rates."""
    table = Table(
        f"Thresholds on {document['pictures']} authentic pictures",
        ("share of pictures", "threshold [95 %]", "marked here", "share, at most (95 %)"),
        tuple(
            (
                f"{row['rate']:g}",
                f"{row['threshold']:.4f} [{row['interval'][0]:.3f}, {row['interval'][1]:.3f}]",
                percentage(row["marked"]),
                f"{row['upper']:.1%}",
            )
            for row in document["rates"]
        ),
    )
    lines = [
        "At the threshold, that share of the pictures has more than half a percent of its pixels"
        " marked. threshold [95 %]: bootstrap over pictures. share, at most: the true one lies"
        " below, with 95 % confidence, if the pictures are like yours.",
        f"Drawn with {sampling_line(document['settings'])}.",
        "Kept for these weights: use --threshold fpr=RATE, with any rate.",
    ]
    few = [f"{row['rate']:g}" for row in document["rates"] if not row["resolved"]]
    if few:
        lines.append(f"Too few pictures to tell a rate of {', '.join(few)}: add more.")
    lines.append("A threshold changes what is marked, never the verdict.")
    return [table, "\n".join(lines)]


def robustness_page(document: Document) -> list[Block]:
    """F1 after each degradation."""
    table = Table(
        "Robustness",
        ("degradation", "level", "F1 [95 %]", "of clean", "AUC", "found", "false alarms"),
        tuple(
            (
                row["kind"],
                row["level"],
                interval(row, "f1"),
                "-" if row["kept"] is None else f"{row['kept']:.0%}",
                fraction(row["auc"]),
                percentage(row["found"]),
                percentage(row["false_alarms"]),
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
        (document["what"], "F1 [95 %]", "spread", "AUC", "false alarms", "s / picture"),
        tuple(
            (
                row["arm"],
                interval(row, "f1"),
                "-" if row["spread"] is None else f"{row['spread']:.4f}",
                fraction(row["auc"]),
                percentage(row["false_alarms"]),
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
        ("detector", "pixel F1", "AUC", "found", "false alarms", "s / picture"),
        tuple(
            (
                row["name"],
                interval(row, "f1"),
                fraction(row["auc"]),
                percentage(row["found"]),
                percentage(row["false_alarms"]),
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
