"""From a document of the benchmark, as ``--json`` prints it, to its tables and sentences."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from imlctl.bench.page import (
    Table,
    amount,
    duration,
    fraction,
    interval,
    megabytes,
    percentage,
    proportion,
    sampling_line,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from imlctl.bench.page import Block

Document = dict[str, Any]
VERDICTS = ("manipulated", "inconclusive", "nothing found")


def page_of(document: Document) -> list[Block]:
    """Return the page of a document: what was measured with, and what was found."""
    return _PAGES[document["kind"]](document)


def _headline(document: Document) -> str:
    return (
        f"{document['model']} (weights {document['weights_sha256'][:12]}) on {document['device']}"
    )


# Accuracy


def accuracy_page(document: Document) -> list[Block]:
    """Scores of each model, and of several a table that compares them."""
    models = document["models"]
    page: list[Block] = []
    for model in models if len(models) == 1 else ():
        sets = model["sets"]
        page += [_headline(model), *_verdict_tables(sets)]
        page += [_ranking_table(sets)] if sets[-1]["image_auc"] is not None else []
        if not sets[-1]["tampered"]:
            continue
        page.append(_pixel_table(sets))
        copies = [row for row in model["sets"] if row["f1_both"] is not None]
        page += [_size_table(model)] if model["sizes"] else []
        page += [_copy_move_table(copies)] if copies else []
        page += [_reliability_table(model["reliability"])] if model["reliability"] else []
    if len(models) > 1:
        page.append(_side_by_side(models))
    return [*page, _legend(models)]


def _verdict_tables(sets: Sequence[Document]) -> list[Block]:
    return [
        Table(
            f"Verdicts on {what} [95 %]",
            ("set", "pictures", *VERDICTS),
            tuple(
                (
                    row["name"],
                    str(row[count]),
                    *(proportion(row["rates"][verdict][key]) for verdict in VERDICTS),
                )
                for row in sets
                if row["rates"] and row[count]
            ),
        )
        for what, count, key in (
            ("forgeries", "tampered", "forgeries"),
            ("authentic pictures", "authentic", "authentic"),
        )
        if any(row["rates"] and row[count] for row in sets)
    ]


def _pixel_table(sets: Sequence[Document]) -> Table:
    return Table(
        "Pixels of forgeries",
        ("set", "F1 [95 %]", "F1, own mask", "IoU", "AUC", "AP", "best F1*"),
        tuple(
            (
                row["name"],
                interval(row, "f1"),
                *(fraction(row[key]) for key in ("f1_verdict", "iou", "auc", "ap", "best_f1")),
            )
            for row in sets
            if row["tampered"]
        ),
    )


def _ranking_table(sets: Sequence[Document]) -> Table:
    return Table(
        "Forgeries ranked against authentic pictures by their scores",
        ("set", "forgeries", "authentic", "image AUC [95 %]"),
        tuple(
            (row["name"], str(row["tampered"]), str(row["authentic"]), interval(row, "image_auc"))
            for row in sets
            if row["image_auc"] is not None
        ),
    )


def _size_table(model: Document) -> Table:
    rates = model["sets"][-1]["rates"]
    return Table(
        "Forgeries by the share of the picture that was edited [95 %]",
        ("edit", "pictures", *VERDICTS[:2], "F1", "F1, own mask"),
        tuple(
            (
                row["size"],
                str(row["pictures"]),
                *(proportion(rates[v]["by_size"][row["size"]]) for v in VERDICTS[:2]),
                fraction(row["f1"]),
                fraction(row["f1_verdict"]),
            )
            for row in model["sizes"]
        ),
    )


def _copy_move_table(sets: Sequence[Document]) -> Table:
    return Table(
        "Copy-moves with a known source, F1 of pixels",
        ("set", "copy only", "copy and source"),
        tuple((row["name"], fraction(row["f1_copy"]), fraction(row["f1_both"])) for row in sets),
    )


def _reliability_table(rows: Sequence[Document]) -> Table:
    return Table(
        "Reliability of the score",
        ("score", "tampered", "authentic", "mean score", "tampered, observed"),
        tuple(
            (
                f"{row['low']:.1f} to {row['high']:.1f}",
                str(row["tampered"]),
                str(row["authentic"]),
                fraction(row["score"]),
                percentage(row["observed"]),
            )
            for row in rows
        ),
    )


def _side_by_side(models: Sequence[Document]) -> Table:
    """One row for each model or setting, over all pictures."""
    rows = []
    for model in models:
        row = model["sets"][-1]
        rates = row["rates"]["manipulated"]
        rows.append(
            (
                model["model"],
                _drawn(model["settings"]),
                interval(row, "f1"),
                percentage(rates["forgeries"]["share"]),
                percentage(rates["authentic"]["share"]),
                fraction(row["image_auc"]),
                duration(model["seconds"]),
            )
        )
    return Table(
        "Side by side, all pictures",
        ("model", "drawn", "F1 [95 %]", "found", "alarms", "image AUC", "time"),
        tuple(rows),
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
    verdicts = Table(
        f"Verdicts on {document['pictures']} authentic pictures",
        ("verdict", "pictures", "share [95 %]"),
        tuple(
            (verdict, str(row["count"]), proportion(row))
            for verdict, row in document["verdicts"].items()
        ),
    )
    table = Table(
        "Thresholds of masks by how many authentic pictures they mark",
        ("share of pictures", "threshold [95 %]", "marked here", "share, at most (95 %)"),
        tuple(
            (
                f"{row['rate']:g}",
                f"{row['threshold']:.4f} [{row['interval'][0]:.3f}, {row['interval'][1]:.3f}]",
                percentage(row["marked"]),
                f"{row['upper']:.1%}",
            )
            for row in document["thresholds"]
        ),
    )
    lines = [
        "A picture is marked if more than half a percent of its pixels reach the threshold."
        " threshold [95 %]: bootstrap over pictures. share, at most: the true share lies below it"
        " with 95 % confidence, if these pictures are like yours.",
        f"Sampling: {sampling_line(document['settings'])}.",
        "Kept for these weights: use imlctl localize --threshold fpr=RATE, with any rate. A"
        " threshold changes the mask, never the verdict.",
    ]
    few = [f"{row['rate']:g}" for row in document["thresholds"] if not row["resolved"]]
    if few:
        lines.append(f"There are too few pictures to measure a share of {', '.join(few)}.")
    return [_headline(document), verdicts, table, "\n".join(lines)]


def robustness_page(document: Document) -> list[Block]:
    """F1 and verdicts after each degradation."""
    table = Table(
        "Robustness",
        ("degradation", "level", "F1 [95 %]", "kept", "AUC", "found", "alarms"),
        tuple(
            (
                row["kind"],
                row["level"],
                interval(row, "f1"),
                percentage(row["kept"]),
                fraction(row["auc"]),
                *(
                    percentage(row["rates"] and row["rates"]["manipulated"][kind]["share"])
                    for kind in ("forgeries", "authentic")
                ),
            )
            for row in document["rows"]
        ),
    )
    words = (
        "kept: F1 as a share of that of the clean files. found, alarms: forgeries and authentic"
        f" pictures called manipulated. Sampling: {sampling_line(document['settings'])}."
    )
    return [_headline(document), table, "\n".join((*document["notes"], words))]


def peer_page(document: Document) -> list[Block]:
    """Ours and the peer, side by side."""
    table = Table(
        "Beside a peer, on the same pictures in the same run",
        ("detector", "F1 [95 %]", "AUC", "image AUC [95 %]", "s / picture"),
        tuple(
            (
                row["name"],
                interval(row, "f1"),
                fraction(row["auc"]),
                interval(row, "image_auc"),
                duration(row["seconds"]),
            )
            for row in document["rows"]
        ),
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
    return [_headline(document), table, "\n".join(notes)]


# Speed


def speed_page(document: Document) -> list[Block]:
    """Conditions, then all about each model."""
    page: list[Block] = [_conditions(document["machine"], document.get("others_during"))]
    for model in document["models"]:
        page += _model_page(model, document)
    page.append(f"Peak memory of the whole process: {megabytes(document['resident'])}.")
    return [*page, _BUSY] if document["busy"] else page


_BUSY = (
    "Other programs were using this machine. Times are too long and ratios rough: measure again"
    " when it is idle."
)


def _conditions(machine: Document, during: float | None = None) -> str:
    clock = "unknown" if machine["clock"] is None else f"{machine['clock']:.0f} MHz"
    return (
        f"{machine['device']}; {machine['cpu']}; cores: {machine['cores']},"
        f" threads: {machine['threads']}, clock: {clock}\n"
        f"idle threads: {machine['waiting'] or 'as OpenMP has it'}; other programs used"
        f" {percentage(machine['others'])} of the cores before"
        + ("" if during is None else f", {percentage(during)} during the run")
        + f"\ntorch {machine['torch']}, Python {machine['python']}, {machine['system']}"
    )


def _model_page(model: Document, document: Document) -> list[Block]:
    rival, floor = model["against"], model["floor"]
    ends = Table(
        "End to end: from a JPEG's bytes to a mask on the disk",
        ("picture", "fps", "median", "p95", "model's share"),
        tuple(
            (
                f"{row['size']} x {row['size']}",
                f"{1 / row['median']:.3g}",
                duration(row["median"]),
                duration(row["p95"]),
                percentage(row["model_share"]),
            )
            for row in model["end_to_end"]
        ),
    )
    lines = [_rival_line(rival, each) for each in rival["shares"]]
    lines.append(
        f"The matrix products and copies of this machine would take {duration(floor['seconds'])} at"
        f" {floor['size']} x {floor['size']} at the least; the model takes {floor['times']:.2f}"
        " times that."
    )
    if any(row["short"] for row in model["speed"]):
        lines.append(
            f"* fewer than {document['runs']} rounds in the {document['budget']:g} s of a row; of"
            " the slowest only the first pass."
        )
    return [
        f"{model['model']} (weights {model['weights_sha256'][:12]})",
        _speed_table(model["speed"]),
        ends,
        cost_table(model["cost"], rival["cost"], rival["name"]),
        "\n".join(lines),
    ]


def _speed_table(rows: Sequence[Document]) -> Table:
    return Table(
        "Speed, model alone",
        ("picture", "fps", "median", "p95", "time", "memory"),
        tuple(
            (
                f"{row['size']} x {row['size']}{_way(row)}{'*' if row['short'] else ''}",
                f"{row['fps']:.3g}",
                duration(row["median"]),
                duration(row["p95"]),
                f"{row['growth']:.2f} x",
                megabytes(row["memory"]),
            )
            for row in rows
        ),
    )


def _way(row: Document) -> str:
    parts = [] if row["steps"] is None else [f"N={row['members']}", f"{row['steps']} steps"]
    parts += ["flips"] if row["tta"] else []
    parts += ["tiles"] if row["tiled"] else []
    return "".join(f", {part}" for part in parts)


def _rival_line(rival: Document, each: Document) -> str:
    ways = f" with N={each['members']}, {each['steps']} steps" if each["steps"] else ""
    share = each["share"]
    return (
        f"{rival['name']} at {rival['size']}: {duration(rival['median'])}; the model{ways}"
        f"{', flips' if each['tta'] else ''} takes {share:.3f} of that, pair by pair"
        f" ({1 / share:.3g} times as fast)."
    )


def cost_table(
    cost: Document, rival: Document | None = None, rival_name: str | None = None
) -> Table:
    """Parameters and multiply-accumulates by part."""
    rows = [
        (
            part["name"],
            amount(part["parameters"]),
            amount(part["macs"]),
            f"{part['macs'] / cost['macs']:.1%}",
        )
        for part in cost["parts"]
    ]
    rows.append(("all", amount(cost["parameters"]), amount(cost["macs"]), "100.0%"))
    if cost["wkv"]:
        share = f"{cost['wkv'] / cost['macs']:.1%}"
        rows.append(("of it the WKV operator", "", amount(cost["wkv"]), share))
    if rival is not None:
        rows.append((str(rival_name), amount(rival["parameters"]), amount(rival["macs"]), ""))
    return Table(
        f"Cost at {cost['size']} x {cost['size']}",
        ("part", "parameters", "multiply-accumulates", "share"),
        tuple(rows),
    )


def flops_page(document: Document) -> list[Block]:
    """Cost by part, and both ways of counting an ensemble."""
    page: list[Block] = []
    for model in document["models"]:
        page += [
            f"{model['model']} (weights {model['weights_sha256'][:12]}), {model['way']}",
            cost_table(model["cost"]),
        ]
        if model["counts"]:
            rows = tuple(
                (
                    f"N={each['members']}, {each['steps']} steps",
                    amount(each["all"]),
                    amount(each["paper"]),
                )
                for each in model["counts"]
            )
            columns = ("prediction", "all steps", "as the paper counts")
            page += [
                Table("Multiply-accumulates by way of counting", columns, rows),
                "all steps: every step of every member, as computed; used everywhere else too.\n"
                "as the paper counts: one call of the denoiser for each member, though each makes"
                " one a step. Its table 4 compares with this column only.",
            ]
    return page


def scan_page(document: Document) -> list[Block]:
    """Pictures per second of the bare model and of a scan, and the share."""
    rounds, count, at_once = document["rounds"], document["pictures"], document["at_once"]
    ways = (
        ("model alone" + (", one thread" if at_once > 1 else ""), "model", 1),
        *([(f"the same on {at_once} cores, ideally", "model", at_once)] if at_once > 1 else []),
        ("scan, files to masks", "scan", 1),
        ("decoding alone, one process", "decode", 1),
    )
    rows = []
    for name, key, times in ways:
        seconds = sorted(each[key] / count / times for each in rounds)
        rates = (1 / median(seconds), 1 / seconds[0], 1 / seconds[-1])
        rows.append((name, *(f"{rate:.3g}" for rate in rates)))
    table = Table(
        f"Scan of {count} pictures (of {document['of']}, evenly spread)",
        ("pictures / s", "median", "fastest round", "slowest round"),
        tuple(rows),
    )
    ideal = f"{at_once} times the model's rate on one thread" if at_once > 1 else "the model's rate"
    lines = [
        f"The scan reaches {document['share']:.1%} of {ideal}, median of {len(rounds)} rounds in"
        " turns.",
        f"Decoding processes: {document['workers']}, already started.",
        *([_BUSY] if document["busy"] else []),
    ]
    return [_headline(document), _conditions(document["machine"]), table, "\n".join(lines)]


_PAGES: dict[str, Callable[[Document], list[Block]]] = {
    "accuracy": accuracy_page,
    "robustness": robustness_page,
    "calibration": calibration_page,
    "peer": peer_page,
    "speed": speed_page,
    "scan": scan_page,
    "flops": flops_page,
}
