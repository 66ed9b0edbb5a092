"""From a document of the benchmark, as `--json` prints it, to its page; speed and cost are here."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from imlctl.bench.page import Table, amount, duration, headline, megabytes, percentage, tabulate
from imlctl.bench.pages_accuracy import accuracy_page, calibration_page, peer_page, robustness_page

if TYPE_CHECKING:
    from imlctl.bench.page import Block, Document

_BUSY = (
    "Other programs were using this machine. Times are too long and ratios rough: measure again"
    " when it is idle."
)


def page_of(document: Document) -> list[Block]:
    """Return the page of a document: what was measured with, and what was found."""
    page = {
        "accuracy": accuracy_page,
        "robustness": robustness_page,
        "calibration": calibration_page,
        "peer": peer_page,
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
    clock = "unknown" if machine["clock"] is None else f"{machine['clock']:.0f} MHz"
    later = "" if during is None else f", {percentage(during)} during the run"
    return (
        f"{machine['device']}; {machine['cpu']}; cores: {machine['cores']},"
        f" threads: {machine['threads']}, clock: {clock}\n"
        f"idle threads: {machine['waiting'] or 'as OpenMP has it'}; other programs used"
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
