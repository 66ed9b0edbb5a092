"""Tables and sentences of `--f1`, `--robustness`, `--calibrate` and `--peer`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imlctl.bench.page import (
    Table,
    duration,
    fraction,
    headline,
    interval,
    percentage,
    proportion,
    sampling_line,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from imlctl.bench.page import Block

Document = dict[str, Any]
VERDICTS = ("manipulated", "inconclusive", "nothing found")


def accuracy_page(document: Document) -> list[Block]:
    """Scores of each model, and of several a table that compares them."""
    models = document["models"]
    if len(models) > 1:
        return [_side_by_side(models), _legend(models)]
    (model,) = models
    sets, every = model["sets"], model["sets"][-1]
    page: list[Block] = [headline(model), *_verdict_tables(sets)]
    if every["image_auc"] is not None:
        page.append(_ranking_table([row for row in sets if row["image_auc"] is not None]))
    if every["tampered"]:
        page.append(_pixel_table([row for row in sets if row["tampered"]]))
        page += [_size_table(model)] if model["sizes"] else []
    copies = [row for row in sets if row["f1_both"] is not None]
    page += [_copy_move_table(copies)] if copies else []
    page += [_reliability_table(model["reliability"])] if model["reliability"] else []
    return [*page, _legend(models)]


def _text(key: str) -> Callable[[Document], str]:
    return lambda row: str(row[key])


def _value(key: str) -> Callable[[Document], str]:
    return lambda row: fraction(row[key])


def _with_interval(key: str) -> Callable[[Document], str]:
    return lambda row: interval(row, key)


def _rate(verdict: str, kind: str) -> Callable[[Document], str]:
    return lambda row: proportion(row["rates"][verdict][kind])


def _verdict_tables(sets: Sequence[Document]) -> list[Block]:
    """Frequency of each verdict among the forgeries and the authentic pictures of each set."""
    tables: list[Block] = []
    for what, count, kind in (
        ("forgeries", "tampered", "forgeries"),
        ("authentic pictures", "authentic", "authentic"),
    ):
        rows = [row for row in sets if row["rates"] and row[count]]
        columns = {"set": _text("name"), "pictures": _text(count)}
        columns |= {verdict: _rate(verdict, kind) for verdict in VERDICTS}
        tables += [Table.of(f"Verdicts on {what} [95 %]", rows, columns)] if rows else []
    return tables


def _ranking_table(sets: Sequence[Document]) -> Table:
    return Table.of(
        "Forgeries ranked against authentic pictures by their scores",
        sets,
        {
            "set": _text("name"),
            "forgeries": _text("tampered"),
            "authentic": _text("authentic"),
            "image AUC [95 %]": _with_interval("image_auc"),
        },
    )


def _pixel_table(sets: Sequence[Document]) -> Table:
    return Table.of(
        "Pixels of forgeries",
        sets,
        {
            "set": _text("name"),
            "F1 [95 %]": _with_interval("f1"),
            "F1, own mask": _value("f1_verdict"),
            "AUC": _value("auc"),
            "AP": _value("ap"),
            "best F1*": _value("best_f1"),
        },
    )


def _size_table(model: Document) -> Table:
    rates = model["sets"][-1]["rates"]

    def at_size(verdict: str) -> Callable[[Document], str]:
        return lambda row: proportion(rates[verdict]["by_size"][row["size"]])

    return Table.of(
        "Forgeries by the share of the picture that was edited [95 %]",
        model["sizes"],
        {
            "edit": _text("size"),
            "pictures": _text("pictures"),
            **{verdict: at_size(verdict) for verdict in VERDICTS[:2]},
            "F1": _value("f1"),
            "F1, own mask": _value("f1_verdict"),
        },
    )


def _copy_move_table(sets: Sequence[Document]) -> Table:
    columns = {
        "set": _text("name"),
        "copy only": _value("f1_copy"),
        "copy and source": _value("f1_both"),
    }
    return Table.of("Copy-moves with a known source, F1 of pixels", sets, columns)


def _reliability_table(rows: Sequence[Document]) -> Table:
    return Table.of(
        "Reliability of the score",
        rows,
        {
            "score": lambda row: f"{row['low']:.1f} to {row['high']:.1f}",
            "tampered": _text("tampered"),
            "authentic": _text("authentic"),
            "mean score": _value("score"),
            "tampered, observed": lambda row: percentage(row["observed"]),
        },
    )


def _side_by_side(models: Sequence[Document]) -> Table:
    """One row for each model or setting, over all pictures."""

    def called(kind: str) -> Callable[[Document], str]:
        return lambda model: percentage(model["sets"][-1]["rates"]["manipulated"][kind]["share"])

    return Table.of(
        "Side by side, all pictures",
        models,
        {
            "model": _text("model"),
            "drawn": lambda model: _drawn(model["settings"]),
            "F1 [95 %]": lambda model: interval(model["sets"][-1], "f1"),
            "found": called("forgeries"),
            "alarms": called("authentic"),
            "image AUC": lambda model: fraction(model["sets"][-1]["image_auc"]),
            "time": lambda model: duration(model["seconds"]),
        },
    )


def _drawn(settings: Document) -> str:
    steps = f"N={settings['ensemble']}, {settings['steps']} steps" if "steps" in settings else ""
    return f"{steps}{'' if settings['tta'] == 'none' else ', flips'}".removeprefix(", ") or "-"


def _legend(models: Sequence[Document]) -> str:
    lines = [
        "F1, AUC, AP: of pixels, mean over forgeries, then over sets; nothing is permuted or"
        " inverted. F1: of the pixels at 0.5 or more. F1, own mask: of the mask that goes with the"
        " verdict.",
        "Intervals: exact for shares (Clopper-Pearson), bootstrap over pictures for means,"
        " Newcombe's for image AUC.",
        "* at each picture's own best threshold: optimistic, no one threshold is that good.",
    ]
    if len(models) == 1:
        rule, settings = models[0]["rule"], models[0]["settings"]
        lines.insert(
            0,
            f"manipulated: score {rule['manipulated']:.3g} or more. inconclusive:"
            f" {rule['inconclusive']:.3g} or more. Sampling: {sampling_line(settings)}.",
        )
    else:
        lines.insert(
            0,
            "found, alarms: forgeries and authentic pictures called manipulated. time: of one.",
        )
    return "\n".join(lines)


def calibration_page(document: Document) -> list[Block]:
    """Verdicts on authentic pictures, and thresholds of masks that mark few of them."""
    verdicts = Table.of(
        f"Verdicts on {document['pictures']} authentic pictures",
        document["verdicts"].items(),
        {
            "verdict": lambda row: row[0],
            "pictures": lambda row: str(row[1]["count"]),
            "share [95 %]": lambda row: proportion(row[1]),
        },
    )
    table = Table.of(
        "Thresholds of masks by how many authentic pictures they mark",
        document["thresholds"],
        {
            "share of pictures": lambda row: f"{row['rate']:g}",
            "threshold": lambda row: f"{row['threshold']:.4f}",
            "marked here [95 %]": lambda row: proportion(row["marked"]),
        },
    )
    lines = [
        "A picture is marked if more than half a percent of its pixels reach the threshold. The"
        " true share lies in the interval with 95 % confidence, if these pictures are like yours.",
        f"Sampling: {sampling_line(document['settings'])}.",
        "Kept for these weights: use imlctl localize --threshold fpr=RATE, with any rate. A"
        " threshold changes the mask, never the verdict.",
    ]
    few = [f"{row['rate']:g}" for row in document["thresholds"] if not row["resolved"]]
    if few:
        lines.append(f"There are too few pictures to measure a share of {', '.join(few)}.")
    return [headline(document), verdicts, table, "\n".join(lines)]


def robustness_page(document: Document) -> list[Block]:
    """F1 and verdicts after each degradation."""

    def called(kind: str) -> Callable[[Document], str]:
        return lambda row: percentage(row["rates"] and row["rates"]["manipulated"][kind]["share"])

    table = Table.of(
        "Robustness",
        document["rows"],
        {
            "degradation": _text("kind"),
            "level": _text("level"),
            "F1 [95 %]": _with_interval("f1"),
            "kept": lambda row: percentage(row["kept"]),
            "AUC": _value("auc"),
            "found": called("forgeries"),
            "alarms": called("authentic"),
        },
    )
    words = (
        "kept: F1 as a share of that of the clean files. found, alarms: forgeries and authentic"
        f" pictures called manipulated. Sampling: {sampling_line(document['settings'])}."
    )
    return [headline(document), table, "\n".join((*document["notes"], words))]


def peer_page(document: Document) -> list[Block]:
    """Ours and the peer, side by side."""
    table = Table.of(
        "Beside a peer, on the same pictures in the same run",
        document["rows"],
        {
            "detector": _text("name"),
            "F1 [95 %]": _with_interval("f1"),
            "AUC": _value("auc"),
            "image AUC [95 %]": _with_interval("image_auc"),
            "s / picture": lambda row: duration(row["seconds"]),
        },
    )
    ratio: Mapping[str, Any] = document["ratio"]
    notes = [
        f"Time of imlctl over the peer's, pair by pair: median {ratio['median']:.3g}, from"
        f" {ratio['low']:.3g} to {ratio['high']:.3g}, {ratio['pairs']} pairs. Each ran as a process"
        " of its own for each picture, in turns, so both times include starting up.",
        "Both are judged by their maps alone, at 0.5.",
    ]
    if document["f1_gain"] is not None:
        notes.append(f"F1 of imlctl minus the peer's: {document['f1_gain']:+.3f} on average.")
    if document["failed"]:
        count = len(document["failed"])
        what = "1 picture, which is" if count == 1 else f"{count} pictures, which are"
        notes.append(f"The peer failed on {what} left out for both.")
    return [headline(document), table, "\n".join(notes)]
