"""From a document of the benchmark, as `--json` prints it, to its page."""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from imlctl.bench.page import (
    Table,
    amount,
    called_manipulated,
    duration,
    headline,
    interval,
    megabytes,
    percentage,
    proportion,
    sampling_line,
    tabulate,
)
from imlctl.mask.decide import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from imlctl.bench.page import Block, Column, Document

    Columns = tuple[str, Sequence[Document], Mapping[str, Column]]  # title, rows, and what of them

_BUSY = (
    "Other programs were using this machine. Times are too long and ratios rough: measure again"
    " when it is idle."
)


def page_of(document: Document) -> list[Block]:
    """Return the page of a document: what was measured with, and what was found."""
    page = {
        "accuracy": _accuracy_page,
        "robustness": _robustness_page,
        "calibration": _calibration_page,
        "speed": _speed_page,
        "scan": _scan_page,
        "flops": _flops_page,
    }[document["kind"]](document)
    return [*page, _BUSY] if document.get("busy") else page


def _speed_page(document: Document) -> list[Block]:
    """Conditions, then all about each model."""
    page: list[Block] = [_conditions(document["machine"], document["others_during"])]
    for model in document["models"]:
        page += _model_page(model, document)
    return [*page, f"Peak memory of the whole process: {megabytes(document['resident'])}."]


def _conditions(machine: Document, during: float | None = None) -> str:
    later = "" if during is None else f", {percentage(during)} during the run"
    return (
        f"{machine['device']}; {machine['cpu']}; cores: {machine['cores']},"
        f" threads: {machine['threads']}; other programs used"
        f" {percentage(machine['others'])} of the cores before{later}\n"
        f"torch {machine['torch']}, Python {machine['python']}, {machine['system']}"
    )


def _model_page(model: Document, document: Document) -> list[Block]:
    rival, floor = model["against"], model["floor"]
    speed = tabulate(
        "Speed, model alone",
        model["speed"],
        {
            "picture": lambda row: f"{_square(row)}{_way(row)}{'*' if row['short'] else ''}",
            "fps": lambda row: f"{row['fps']:.3g}",
            "median": lambda row: duration(row["median"]),
            "p95": lambda row: duration(row["p95"]),
            "time": lambda row: f"{row['growth']:.2f} x",
            "memory": lambda row: megabytes(row["memory"]),
        },
    )
    ends = tabulate(
        "End to end: JPEG to mask on disk",
        model["end_to_end"],
        {
            "picture": _square,
            "fps": lambda row: f"{1 / row['median']:.3g}",
            "median": lambda row: duration(row["median"]),
            "p95": lambda row: duration(row["p95"]),
            "model's share": lambda row: percentage(row["model_share"]),
        },
    )
    lines = [
        f"{rival['name']} at {rival['size']}: {duration(rival['median'])}; the model"
        f"{_way(each).replace(',', ' with', 1)} takes {each['share']:.3f} of that, pair by pair"
        f" ({1 / each['share']:.3g} times as fast)."
        for each in rival["shares"]
    ]
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
    costs = _cost_table(model["cost"], rival)
    return [headline(model), speed, ends, costs, "\n".join(lines)]


def _square(row: Document) -> str:
    return f"{row['size']} x {row['size']}"


def _way(row: Document) -> str:
    parts = [] if row["steps"] is None else [f"N={row['members']}", f"{row['steps']} steps"]
    parts += ["flips"] if row["tta"] else []
    parts += ["tiles"] if row.get("tiled") else []
    return "".join(f", {part}" for part in parts)


def _cost_table(cost: Document, rival: Document | None = None) -> Table:
    """Parameters and multiply-accumulates by part."""
    rows = [*cost["parts"], cost | {"name": "all"}]
    if cost["wkv"]:
        rows.append({"name": "of it the WKV operator", "parameters": None, "macs": cost["wkv"]})
    if rival is not None:
        rows.append(rival["cost"] | {"name": rival["name"], "other": True})
    return tabulate(
        f"Cost at {_square(cost)}",
        rows,
        {
            "part": "name",
            "parameters": lambda row: (
                "" if row["parameters"] is None else amount(row["parameters"])
            ),
            "multiply-accumulates": lambda row: amount(row["macs"]),
            "share": lambda row: "" if "other" in row else f"{row['macs'] / cost['macs']:.1%}",
        },
    )


def _flops_page(document: Document) -> list[Block]:
    """Cost by part, and both ways of counting an ensemble."""
    page: list[Block] = []
    for model in document["models"]:
        page += [f"{headline(model)}, {model['way']}", _cost_table(model["cost"])]
        if model["counts"]:
            counts = tabulate(
                "Multiply-accumulates by way of counting",
                model["counts"],
                {
                    "prediction": lambda row: f"N={row['members']}, {row['steps']} steps",
                    "all steps": lambda row: amount(row["all"]),
                    "as the paper counts": lambda row: amount(row["paper"]),
                },
            )
            words = (
                "all steps: every step of every member, as computed; used everywhere else too.\n"
                "as the paper counts: one call of the denoiser for each member, though each makes"
                " one a step. Its table 4 compares with this column only."
            )
            page += [counts, words]
    return page


def _scan_page(document: Document) -> list[Block]:
    """Pictures per second of the bare model and of a scan, and the share."""
    rounds, count, at_once = document["rounds"], document["pictures"], document["at_once"]
    many = at_once > 1
    ways = [("model alone" + (", one thread" if many else ""), "model", 1)]
    ways += [(f"the same on {at_once} cores, ideally", "model", at_once)] if many else []
    ways += [("scan, files to masks", "scan", 1), ("decoding alone, one process", "decode", 1)]
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
    ideal = f"{at_once} times the model's rate on one thread" if many else "the model's rate"
    words = (
        f"The scan reaches {document['share']:.1%} of {ideal}, median of {len(rounds)} rounds in"
        f" turns.\nModel processes: {document['jobs']}, started before the clock."
    )
    return [headline(document), _conditions(document["machine"]), table, words]


_F1, _IMAGE_AUC = partial(interval, key="f1"), partial(interval, key="image_auc")
_CALLED: dict[str, Column] = {
    "found": partial(called_manipulated, kind="forgeries"),
    "alarms": partial(called_manipulated, kind="authentic"),
}


def _accuracy_page(document: Document) -> list[Block]:
    """Scores of each model, and of several a table that compares them."""
    models = document["models"]
    if len(models) > 1:
        return [_side_by_side(models), _legend(models), *_peer_words(document)]
    (model,) = models
    tables = (*_verdict_tables(model["sets"]), *_pixel_tables(model))
    shown = [tabulate(title, rows, columns) for title, rows, columns in tables if rows]
    return [headline(model), *shown, _legend(models)]


def _verdict_tables(sets: Sequence[Document]) -> Iterator[Columns]:
    for what, count, kind in (
        ("forgeries", "tampered", "forgeries"),
        ("authentic pictures", "authentic", "authentic"),
    ):
        yield (
            f"Verdicts on {what} [95 %]",
            [row for row in sets if row["rates"] and row[count]],
            {"set": "name", "pictures": count, **{v: _rate(v, kind) for v in Verdict}},
        )
    yield (
        "Forgeries ranked against authentic pictures by their scores",
        [row for row in sets if row["image_auc"] is not None],
        {
            "set": "name",
            "forgeries": "tampered",
            "authentic": "authentic",
            "image AUC [95 %]": _IMAGE_AUC,
        },
    )


def _pixel_tables(model: Document) -> Iterator[Columns]:
    sets, rates = model["sets"], model["sets"][-1]["rates"]
    yield (
        "Pixels of forgeries",
        [row for row in sets if row["tampered"]],
        {
            "set": "name",
            "F1 [95 %]": _F1,
            "F1, own mask": "f1_verdict",
            "AUC": "auc",
            "AP": "ap",
            "best F1*": "best_f1",
        },
    )
    yield (
        "Forgeries by the share of the picture that was edited [95 %]",
        model["sizes"] if sets[-1]["tampered"] else [],
        {
            "edit": "size",
            "pictures": "pictures",
            **{v: _rate_by_size(rates, v) for v in list(Verdict)[:2]},
            "F1": "f1",
            "F1, own mask": "f1_verdict",
        },
    )
    yield (
        "Copy-moves with a known source, F1 of pixels",
        [row for row in sets if row["f1_both"] is not None],
        {"set": "name", "copy only": "f1_copy", "copy and source": "f1_both"},
    )
    yield (
        "Reliability of the score",
        model["reliability"],
        {
            "score": lambda row: f"{row['low']:.1f} to {row['high']:.1f}",
            "tampered": "tampered",
            "authentic": "authentic",
            "mean score": "score",
            "tampered, observed": lambda row: percentage(row["observed"]),
        },
    )


def _rate(verdict: str, kind: str) -> Callable[[Document], str]:
    return lambda row: proportion(row["rates"][verdict][kind])


def _rate_by_size(rates: Document, verdict: str) -> Callable[[Document], str]:
    return lambda row: proportion(rates[verdict]["by_size"][row["size"]])


def _side_by_side(models: Sequence[Document]) -> Table:
    """One row for each model or setting, over all pictures."""
    columns: dict[str, Column] = {"model": "model", "drawn": _drawn, "F1 [95 %]": _F1, **_CALLED}
    columns |= {"image AUC": "image_auc", "time": lambda row: duration(row["seconds"])}
    rows = [model | model["sets"][-1] for model in models]
    return tabulate("Side by side, all pictures", rows, columns)


def _peer_words(document: Document) -> Iterator[str]:
    if "failed" in document:
        yield (
            "The peer is judged by its maps alone, at 0.5, and its time includes starting up."
            f" Pictures that it failed on, left out for all: {len(document['failed'])}."
        )


def _drawn(model: Document) -> str:
    settings = model["settings"]
    parts = (
        [f"N={settings['ensemble']}", f"{settings['steps']} steps"] if "steps" in settings else []
    )
    return ", ".join([*parts, *(["flips"] if settings["tta"] != "none" else [])]) or "-"


def _legend(models: Sequence[Document]) -> str:
    first = "found, alarms: forgeries and authentic pictures called manipulated. time: of one."
    if len(models) == 1:
        rule, settings = models[0]["rule"], models[0]["settings"]
        first = (
            f"manipulated: score {rule['manipulated']:.3g} or more. inconclusive:"
            f" {rule['inconclusive']:.3g} or more. Sampling: {sampling_line(settings)}."
        )
    return (
        f"{first}\nF1, AUC, AP: of pixels, mean over forgeries, then over sets; nothing is permuted"
        " or inverted. F1: of the pixels at 0.5 or more. F1, own mask: of the mask that goes with"
        " the verdict.\n"
        "Intervals: exact for shares (Clopper-Pearson), bootstrap over pictures for means,"
        " Newcombe's for image AUC.\n"
        "* at each picture's own best threshold: optimistic, no one threshold is that good."
    )


def _calibration_page(document: Document) -> list[Block]:
    """Verdicts on authentic pictures, and thresholds of masks that mark few of them."""
    verdicts = tabulate(
        f"Verdicts on {document['pictures']} authentic pictures",
        [row | {"name": name} for name, row in document["verdicts"].items()],
        {"verdict": "name", "pictures": "count", "share [95 %]": proportion},
    )
    table = tabulate(
        "Thresholds of masks by how many authentic pictures they mark",
        document["thresholds"],
        {
            "share of pictures": lambda row: f"{row['rate']:g}",
            "threshold": lambda row: f"{row['threshold']:.4f}",
            "marked here [95 %]": lambda row: proportion(row["marked"]),
        },
    )
    words = (
        "A picture is marked if more than half a percent of its pixels reach the threshold. The"
        " true share lies in the interval with 95 % confidence, if these pictures are like yours.\n"
        f"Sampling: {sampling_line(document['settings'])}.\n"
        "Kept for these weights: use imlctl localize --threshold fpr=RATE, with any rate. A"
        " threshold changes the mask, never the verdict."
    )
    few = [f"{row['rate']:g}" for row in document["thresholds"] if not row["resolved"]]
    if few:
        words += f"\nThere are too few pictures to measure a share of {', '.join(few)}."
    return [headline(document), verdicts, table, words]


def _robustness_page(document: Document) -> list[Block]:
    """F1 and verdicts after each degradation."""
    columns: dict[str, Column] = {"degradation": "kind", "level": "level", "F1 [95 %]": _F1}
    columns |= {"kept": lambda row: percentage(row["kept"]), "AUC": "auc", **_CALLED}
    words = (
        "kept: F1 as a share of that of the clean files. found, alarms: forgeries and authentic"
        f" pictures called manipulated. Sampling: {sampling_line(document['settings'])}."
    )
    table = tabulate("Robustness", document["rows"], columns)
    return [headline(document), table, "\n".join((*document["notes"], words))]
