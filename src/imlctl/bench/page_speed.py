"""Pages about speed and cost."""

from __future__ import annotations

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
        page.append(
            "This machine was busy before the first pass. Times are too long and ratios rough:\n"
            "measure again when it is idle."
        )
    return page


def _model_page(model: Document, document: Document) -> list[Block]:
    cost, rival = model["cost"], model["against"]
    page: list[Block] = [
        f"{model['model']} (weights {model['weights_sha256'][:12]})",
        _speed_table(model["speed"]),
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
                _picture(row),
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
                f"{'at least' if bar['least'] else 'at most'} {amount(bar['limit'])}",
                amount(bar["measured"]),
                "met" if bar["passed"] else "NOT MET",
            )
            for bar in bars
        ),
    )


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
