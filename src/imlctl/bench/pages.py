"""From a document of the benchmark, as `--json` prints it, to its page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from imlctl.bench.page import (
    Block,
    Document,
    Table,
    duration,
    headline,
    megabytes,
    percentage,
    sampling_line,
    tabulate,
)
from imlctl.mask.decide import Verdict

# Shares of forgeries and of authentic pictures that are called manipulated.
CALLED = (
    "found=rates.manipulated.forgeries.share:percentage"
    " | alarms=rates.manipulated.authentic.share:percentage"
)
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
    page: list[Block] = [_conditions(document["machine"], document["others_after"])]
    for model in document["models"]:
        page += _model_page(model, document)
    return [*page, f"Peak memory of the whole process: {megabytes(document['resident'])}."]


def _conditions(machine: Document, after: float | None = None) -> str:
    busy = "this system does not say what other programs used"
    if machine["others"] is not None:
        later = "" if after is None else f", {percentage(after)} after the run"
        busy = f"other programs used {percentage(machine['others'])} of the cores before{later}"
    return (
        f"{machine['device']}; {machine['cpu']}; cores: {machine['cores']},"
        f" threads: {machine['threads']} ({machine['waiting'] or 'waiting as OpenMP likes'});"
        f" {busy}\n"
        f"torch {machine['torch']}, Python {machine['python']}, {machine['system']}"
    )


def _model_page(model: Document, document: Document) -> list[Block]:
    rival = model["against"]
    times = "picture | fps:.3g | median:duration | p95:duration"
    rows = [
        row
        | {
            "picture": f"{_square(row)}{_way(row)}{'*' * row['short']}",
            "time": f"{row['growth']:.2f} x",
        }
        for row in model["speed"]
    ]
    speed = tabulate("Speed, model alone", rows, f"{times} | time | memory:megabytes")
    ends = tabulate(
        "End to end: JPEG to mask on disk",
        [row | {"picture": _square(row), "fps": 1 / row["median"]} for row in model["end_to_end"]],
        f"{times} | model's share=model_share:percentage",
    )
    lines = [
        f"{rival['name']} at {rival['size']}: {duration(rival['median'])}; the model"
        f"{_way(each).replace(',', ' with', 1)} takes {each['share']:.3f} of that, pair by pair"
        f" ({1 / each['share']:.3g} times as fast)."
        for each in rival["shares"]
    ]
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
    parts += ["flips"] * row["tta"] + ["tiles"] * row.get("tiled", False)
    return "".join(f", {part}" for part in parts)


def _cost_table(cost: Document, rival: Document | None = None) -> Table:
    """Parameters and multiply-accumulates by part."""
    rows = [*cost["parts"], cost | {"name": "all"}]
    if cost["wkv"]:
        rows.append({"name": "of it the WKV operator", "parameters": None, "macs": cost["wkv"]})
    rows = [row | {"share": f"{row['macs'] / cost['macs']:.1%}"} for row in rows]
    if rival is not None:
        rows.append(rival["cost"] | {"name": rival["name"], "share": ""})
    columns = "part=name | parameters:amount | multiply-accumulates=macs:amount | share"
    return tabulate(f"Cost at {_square(cost)}", rows, columns)


def _flops_page(document: Document) -> list[Block]:
    """Cost by part, and an ensemble counted in both ways."""
    page: list[Block] = []
    for model in document["models"]:
        page += [f"{headline(model)}, {model['way']}", _cost_table(model["cost"])]
        if model["counts"]:
            counts = tabulate(
                "Multiply-accumulates by way of counting",
                [
                    row | {"way": f"N={row['members']}, {row['steps']} steps"}
                    for row in model["counts"]
                ],
                "prediction=way | all steps=all:amount | as the paper counts=paper:amount",
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
    ways = [("model alone" + ", one thread" * many, "model", 1)]
    ways += [(f"the same on {at_once} cores, ideally", "model", at_once)] if many else []
    ways += [("scan, files to masks", "scan", 1), ("decoding alone, one process", "decode", 1)]
    rows = []
    for name, key, times in ways:
        rates = [count * times / each[key] for each in rounds]
        seconds = count * times / median(each[key] for each in rounds)
        rows.append({"way": name, "median": seconds, "best": max(rates), "worst": min(rates)})
    table = tabulate(
        f"Scan of {count} pictures (of {document['of']}, evenly spread)",
        rows,
        "pictures / s=way | median:.3g | fastest round=best:.3g | slowest round=worst:.3g",
    )
    ideal = f"{at_once} times the model's rate on one thread" if many else "the model's rate"
    words = (
        f"The scan reaches {document['share']:.1%} of {ideal}, median of {len(rounds)} rounds in"
        f" turns.\nModel processes: {document['jobs']}, started before the clock."
    )
    return [headline(document), _conditions(document["machine"]), table, words]


def _accuracy_page(document: Document) -> list[Block]:
    """Scores of each model, and of several a table that compares them."""
    models = document["models"]
    if len(models) > 1:
        rows = [model | {"drawn": _drawn(model)} | model["sets"][-1] for model in models]
        columns = f"model | drawn | F1 [95 %]=f1:interval | {CALLED} | image AUC=image_auc"
        table = tabulate("Side by side, all pictures", rows, f"{columns} | time=seconds:duration")
        words = (
            "The peer is judged by its maps alone, at 0.5, and its time includes starting up."
            f" Pictures that it failed on, left out for all: {len(document.get('failed', ()))}."
        )
        return [table, _legend(models), *([words] if "failed" in document else [])]
    (model,) = models
    tables = (*_verdict_tables(model["sets"]), *_pixel_tables(model))
    return [headline(model), *(table for table in tables if table.rows), _legend(models)]


def _verdict_tables(sets: Sequence[Document]) -> Iterator[Table]:
    authentic = ("authentic pictures", "authentic", "authentic")
    for what, count, kind in (("forgeries", "tampered", "forgeries"), authentic):
        rates = " | ".join(f"{verdict}=rates.{verdict}.{kind}:proportion" for verdict in Verdict)
        yield tabulate(
            f"Verdicts on {what} [95 %]",
            [row for row in sets if row["rates"] and row[count]],
            f"set=name | pictures={count} | {rates}",
        )
    yield tabulate(
        "Forgeries ranked against authentic pictures by their scores",
        [row for row in sets if row["image_auc"] is not None],
        "set=name | forgeries=tampered | authentic | image AUC [95 %]=image_auc:interval",
    )


def _pixel_tables(model: Document) -> Iterator[Table]:
    sets, rates = model["sets"], model["sets"][-1]["rates"]
    yield tabulate(
        "Pixels of forgeries",
        [row for row in sets if row["tampered"]],
        "set=name | F1 [95 %]=f1:interval | F1, own mask=f1_verdict | AUC=auc | AP=ap"
        " | best F1*=best_f1",
    )
    some = list(Verdict)[:2]
    yield tabulate(
        "Forgeries by the share of the picture that was edited [95 %]",
        [
            row | {verdict: rates[verdict]["by_size"][row["size"]] for verdict in some}
            for row in model["sizes"]
            if sets[-1]["tampered"]
        ],
        f"edit=size | pictures | {some[0]}:proportion | {some[1]}:proportion | F1=f1"
        " | F1, own mask=f1_verdict",
    )
    yield tabulate(
        "Reliability of the score",
        [row | {"range": f"{row['low']:.1f} to {row['high']:.1f}"} for row in model["reliability"]],
        "score=range | tampered | authentic | mean score=score"
        " | tampered, observed=observed:percentage",
    )


def _drawn(model: Document) -> str:
    settings = model["settings"]
    row = {"steps": None, "members": settings.get("ensemble"), **settings}
    return _way(row | {"tta": settings["tta"] != "none", "tiled": False}).lstrip(", ") or "-"


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
    """Verdicts on authentic pictures."""
    verdicts = tabulate(
        f"Verdicts on {document['pictures']} authentic pictures",
        [{"verdict": name, "share": share} for name, share in document["verdicts"].items()],
        "verdict | pictures=share.count | share [95 %]=share:proportion",
    )
    words = (
        "The true share lies in the interval with 95 % confidence, if these pictures are like"
        f" yours.\nSampling: {sampling_line(document['settings'])}."
    )
    return [headline(document), verdicts, words]


def _robustness_page(document: Document) -> list[Block]:
    """F1 and verdicts after each degradation."""
    columns = (
        f"degradation=kind | level | F1 [95 %]=f1:interval | kept:percentage | AUC=auc | {CALLED}"
    )
    words = (
        "kept: F1 as a share of that of the clean files. found, alarms: forgeries and authentic"
        f" pictures called manipulated. Sampling: {sampling_line(document['settings'])}."
    )
    table = tabulate("Robustness", document["rows"], columns)
    return [headline(document), table, "\n".join((*document["notes"], words))]
