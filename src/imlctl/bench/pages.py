"""From a document of the benchmark, as `--json` prints it, to its page; speed and cost are here."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from imlctl.bench.page import Table, amount, duration, headline, megabytes, percentage
from imlctl.bench.pages_accuracy import accuracy_page, calibration_page, peer_page, robustness_page

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imlctl.bench.page import Block

Document = dict[str, Any]


def page_of(document: Document) -> list[Block]:
    """Return the page of a document: what was measured with, and what was found."""
    return _PAGES[document["kind"]](document)


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
    ends = Table.of(
        "End to end: JPEG to mask on disk",
        model["end_to_end"],
        {
            "picture": lambda row: f"{row['size']} x {row['size']}",
            "fps": lambda row: f"{1 / row['median']:.3g}",
            "median": lambda row: duration(row["median"]),
            "p95": lambda row: duration(row["p95"]),
            "model's share": lambda row: percentage(row["model_share"]),
        },
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
    return Table.of(
        "Speed, model alone",
        rows,
        {
            "picture": lambda row: (
                f"{row['size']} x {row['size']}{_way(row)}{'*' if row['short'] else ''}"
            ),
            "fps": lambda row: f"{row['fps']:.3g}",
            "median": lambda row: duration(row["median"]),
            "p95": lambda row: duration(row["p95"]),
            "time": lambda row: f"{row['growth']:.2f} x",
            "memory": lambda row: megabytes(row["memory"]),
        },
    )


def _way(row: Document) -> str:
    parts = [] if row["steps"] is None else [f"N={row['members']}", f"{row['steps']} steps"]
    parts += ["flips"] if row["tta"] else []
    parts += ["tiles"] if row["tiled"] else []
    return "".join(f", {part}" for part in parts)


def _rival_line(rival: Document, each: Document) -> str:
    ways = _way({**each, "tiled": False}).replace(",", " with", 1)
    share = each["share"]
    return (
        f"{rival['name']} at {rival['size']}: {duration(rival['median'])}; the model{ways} takes"
        f" {share:.3f} of that, pair by pair ({1 / share:.3g} times as fast)."
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
            counts = Table.of(
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
        f"Model processes: {document['jobs']}, started before the clock.",
        *([_BUSY] if document["busy"] else []),
    ]
    return [headline(document), _conditions(document["machine"]), table, "\n".join(lines)]


_PAGES: dict[str, Callable[[Document], list[Block]]] = {
    "accuracy": accuracy_page,
    "robustness": robustness_page,
    "calibration": calibration_page,
    "peer": peer_page,
    "speed": speed_page,
    "scan": scan_page,
    "flops": flops_page,
}
