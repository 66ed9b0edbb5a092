"""Pages about speed and cost."""

from __future__ import annotations

from statistics import median
from typing import Any

from imlctl.bench.page import Block, Table, amount, duration, megabytes

Document = dict[str, Any]


def speed_page(document: Document) -> list[Block]:
    """Conditions, then all about each model."""
    here = document["environment"]
    load = "unknown" if here["load"] is None else f"{here['load']:.2f}"
    clock = "unknown" if here["clock"] is None else f"{here['clock']:.0f} MHz"
    page: list[Block] = [
        f"{here['device']}; {here['cpu']}; cores: {here['cores']}, threads: {here['threads']},"
        f" clock: {clock}, load before: {load}\n"
        f"torch {here['torch']}, Python {here['python']}, {here['system']}"
    ]
    for model in document["models"]:
        page += _model_page(model, document)
    page.append(f"Most memory of the whole process: {megabytes(document['resident'])}.")
    if here["busy"]:
        page.append(_BUSY)
    return page


def _model_page(model: Document, document: Document) -> list[Block]:
    cost, rival = model["cost"], model["against"]
    page: list[Block] = [
        f"{model['model']} (weights {model['weights_sha256'][:12]})",
        _speed_table(model["speed"]),
        *_remarks(model, document),
    ]
    if model["exponents"]:
        fitted = (f"{what} as pixels ^ {v:.2f}" for what, v in model["exponents"].items())
        page.append(f"Fitted over the sizes: {', '.join(fitted)}.")
    if model["end_to_end"]:
        page.append(_end_table(model["end_to_end"]))
        page += [_stage_table(row) for row in model["end_to_end"] if row["stages"]]
    page.append(cost_table(cost, rival and rival["cost"], rival and rival["name"]))
    if rival:
        page.append("\n".join(_rival_line(rival, each) for each in rival["shares"]))
    page.append(_roofline(model["roofline"], document["ceilings"]))
    if model["bars"]:
        page.append(_bar_table(model["bars"]))
    return page


def _remarks(model: Document, document: Document) -> list[Block]:
    """The best batch, what was timed less often, and what was not timed at all."""
    lines = [*model["left_out"]]
    batches = [row for row in model["speed"] if row["batch"] > 1]
    if batches:
        # By `growth`, which compares turn by turn; the first row is one picture at that size.
        best = min([model["speed"][0], *batches], key=lambda row: float(row["growth"]))
        lines.append(
            f"Best batch at {best['size']} x {best['size']}: {best['batch']} at once,"
            f" {1 / best['growth']:.2f} times the pictures per second of one alone."
        )
    if any(row["short"] for row in model["speed"]):
        lines.append(
            f"* within the {document['budget']:g} s of a cell fewer than {document['runs']} rounds"
            " were timed, of the slowest only the first pass."
        )
    return ["\n".join(lines)] if lines else []


def _way(row: Document) -> str:
    parts = [] if row["steps"] is None else [f"N={row['members']}", f"{row['steps']} steps"]
    parts += ["flips"] if row["tta"] else []
    parts += [f"{row['tiles']} tiles"] if row["tiles"] > 1 else []
    parts += [f"{row['batch']} at once"] if row["batch"] > 1 else []
    return ", ".join(parts)


def _picture(row: Document) -> str:
    return ", ".join(filter(None, [f"{row['size']} x {row['size']}", _way(row)]))


def _speed_table(rows: list[Document]) -> Table:
    return Table(
        "Speed, model alone",
        ("picture", "fps", "median", "p95", "time", "memory"),
        tuple(
            (
                f"{_picture(row)}{'*' if row['short'] else ''}",
                f"{row['fps']:.3g}",
                duration(row["median"]),
                duration(row["p95"]),
                f"{row['growth']:.2f} x",
                megabytes(row["memory"]),
            )
            for row in rows
        ),
    )


def _end_table(rows: list[Document]) -> Table:
    return Table(
        "End to end: a JPEG's bytes to a mask on the disk",
        ("picture", "fps", "median", "p95", "of it the model"),
        tuple(
            (
                f"{row['size']} x {row['size']}",
                f"{1 / row['median']:.3g}",
                duration(row["median"]),
                duration(row["p95"]),
                f"{row['model_share']:.0%}",
            )
            for row in rows
        ),
    )


def _stage_table(row: Document) -> Table:
    stages: dict[str, float] = row["stages"]
    total = sum(stages.values())
    return Table(
        f"By stage at {row['size']} x {row['size']}",
        ("stage", "median", "share"),
        tuple((name, duration(s), f"{s / total:.1%}") for name, s in stages.items()),
    )


def cost_table(cost: Document, rival: Document | None, rival_name: str | None) -> Table:
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


def _rival_line(rival: Document, each: Document) -> str:
    sampled = each["steps"] is not None
    way = f" with N={each['members']}, {each['steps']} steps" if sampled else ""
    share = each["share"]
    return (
        f"{rival['name']} at {rival['size']}: {duration(rival['median'])}; the model{way} takes "
        f"{share:.3f} of that, pair by pair ({1 / share:.3g} times as fast)."
    )


def _roofline(roof: Document, ceilings: Document) -> str:
    return (
        f"Ceilings measured here: {amount(ceilings['macs'])}MAC/s (matrix product),"
        f" {amount(ceilings['bandwidth'])}B/s (copy). They imply at least"
        f" {duration(roof['floor'])} at {roof['size']} x {roof['size']}; the model takes"
        f" {roof['times']:.2f} times that."
    )


def _bar_table(bars: list[Document]) -> Table:
    return Table(
        "Bars",
        ("what", "limit", "here", ""),
        tuple(
            (
                bar["name"],
                f"{'at least' if bar['least'] else 'at most'} {_digits(bar['limit'])}",
                _digits(bar["measured"]),
                "met" if bar["passed"] else "NOT MET",
            )
            for bar in bars
        ),
    )


def scan_page(document: Document) -> list[Block]:
    """Pictures per second of the bare model and of a scan, and the share."""
    rounds, count = document["rounds"], document["pictures"]
    ways = (
        ("model alone", "model"),
        ("scan, files to masks", "scan"),
        ("decoding alone", "decode"),
    )
    seconds = {key: sorted(each[key] / count for each in rounds) for _, key in ways}
    table = Table(
        f"Scan of {count} pictures (of {document['of']}, evenly spread)",
        ("what", "pictures / s", "fastest round", "slowest round"),
        tuple(
            (
                what,
                f"{1 / median(seconds[key]):.3g}",
                f"{1 / seconds[key][0]:.3g}",
                f"{1 / seconds[key][-1]:.3g}",
            )
            for what, key in ways
        ),
    )
    verdict = "met" if document["passed"] else "NOT MET"
    here = document["environment"]
    lines = [
        f"The scan reaches {document['share']:.1%} of the model's pictures per second, median of"
        f" {len(rounds)} rounds in turns. At least {document['least']:.0%} is promised: {verdict}.",
        f"{document['workers']} decoding processes, started before; cores: {here['cores']},"
        f" threads: {here['threads']}.",
        *([_BUSY] if here["busy"] else []),
    ]
    return [table, "\n".join(lines)]


_BUSY = (
    "This machine was busy before the first pass. Times are too long and ratios rough:\n"
    "measure again when it is idle."
)


def bars_page(document: Document) -> list[Block]:
    """Every bar, and what could not be measured."""
    here = document["environment"]
    lines = [
        f"{here['device']}; {here['cpu']}; cores: {here['cores']}, threads: {here['threads']};"
        f" {document['runs']} rounds in turns, fewer of what takes over {document['budget']:g} s.",
        *document["missing"],
        *([_BUSY] if here["busy"] else []),
    ]
    return [_bar_table(document["bars"]), "\n".join(lines)]


def _digits(value: float) -> str:
    """Four digits that count for small numbers: 0.9969 is not 0.997."""
    return amount(value) if value >= 1000 else f"{value:.4g}"


def flops_page(document: Document) -> list[Block]:
    """Cost by part, and both ways of counting an ensemble."""
    page: list[Block] = []
    for model in document["models"]:
        page += [
            f"{model['model']} (weights {model['weights_sha256'][:12]}), {model['way']}",
            cost_table(model["cost"], None, None),
        ]
        if model["counts"]:
            page += [_ways_of_counting(model["counts"]), _COUNTING]
    return page


_COUNTING = (
    "all steps: what is computed, every step of every member; ours, everywhere else too.\n"
    "as the paper counts: one call of the denoiser for each member, though each makes as many as"
    " there are steps. Its table 4 can be compared with this column only."
)


def _ways_of_counting(counts: list[Document]) -> Table:
    return Table(
        "Multiply-accumulates by way of counting",
        ("prediction", "all steps", "as the paper counts"),
        tuple(
            (
                f"N={each['members']}, {each['steps']} steps",
                amount(each["all"]),
                amount(each["paper"]),
            )
            for each in counts
        ),
    )
