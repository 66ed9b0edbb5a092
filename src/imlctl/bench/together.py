"""Several documents brought together: data sets side by side, or accuracy against cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imlctl.bench.page import Block, Table, amount, fraction, interval, percentage, sampling_line
from imlctl.bench.published import published_tables
from imlctl.bench.scatter import Point, Series, scatter
from imlctl.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imlctl.bench.published import PublishedTable

Document = dict[str, Any]

_MEAN = "mean over sets"
_COSTS = ("speed", "flops")
_PROTOCOL = "CAT"  # of the published averages: the protocol with the larger training sets
_COST_WORDS = (
    "MACs: multiply-accumulates, every step of every member. time / MiT-B3: over SegFormer's MiT-B3"
    " encoder in the same run."
)
# What the paper's table of costs calls the method of its tables of accuracy.
_METHODS = {"DiffIML (LightVAE, N=5)": "DiffIML"}


def check(documents: Sequence[Document]) -> None:
    """Refuse documents that have nothing to say together.

    Raises:
        ConfigError: One is of another kind, none is of accuracy, or accuracy and cost are of
            different weights.
    """
    odd = [d["kind"] for d in documents if d["kind"] not in ("accuracy", *_COSTS)]
    accuracies, costs = _sorted(documents)
    if odd or not accuracies:
        raise ConfigError(
            f"of kind {odd[0]} stand alone" if odd else "hold no accuracy",
            source="several reports",
            remedy="Bring together reports of --f1, and if wanted of --fps or --flops.",
        )
    measured = {d["weights_sha256"] for d in accuracies}
    if costs and not measured & {model["weights_sha256"] for model in costs}:
        raise ConfigError("accuracy and cost are of different weights", source="several reports")


def together_page(document: Document) -> list[Block]:
    """One row for each model if costs are known, otherwise one for each data set."""
    accuracies, costs = _sorted(document["documents"])
    if costs:
        return [_models(accuracies, costs), _meaning(accuracies, _COST_WORDS)]
    return [_sets(accuracies), _meaning(accuracies, "pictures: tampered + authentic.")]


def cost_plot(document: Document, *, published: bool) -> bytes | None:
    """Draw F1 against multiply-accumulates.

    Args:
        document: Of kind ``together``.
        published: Show the paper's figures too, as a series of their own.

    Returns:
        A PNG; None where no model has both figures.
    """
    accuracies, costs = _sorted(document["documents"])
    points = []
    for each in accuracies:
        cost, row = _cost_of(each, costs), _overall(each)
        if cost and row["f1"] is not None:
            points.append(Point(each["model"], cost["cost"]["macs"], row["f1"]))
    if not points:
        return None
    series = [Series("measured here, every step counted", tuple(points))]
    notes: list[str] = []
    if published:
        others, notes = _published()
        series.append(others)
    return scatter(
        "Pixel F1 against multiply-accumulates",
        "multiply-accumulates of a picture of 512 x 512",
        series,
        notes,
    )


def _published() -> tuple[Series, list[str]]:
    """The paper's methods that have both figures, and where they are from."""
    by_kind = {(t.kind, t.protocol): t for t in published_tables()}
    scores, costs = by_kind["accuracy", _PROTOCOL], by_kind["speed", ""]
    points = []
    for name, figures in costs.rows:
        method = _METHODS.get(name, name)
        f1, macs = scores.figure(method, "average"), dict(zip(costs.columns, figures, strict=True))
        if f1 is not None:
            points.append(Point(name, 1e9 * macs["FLOPs (G)"], f1))
    return Series("PUBLISHED, not measured here", tuple(points), published=True), [
        f"Squares: {_source(scores)} and {costs.number} of the DiffIML paper; {costs.hardware}.",
        "They are of other pictures and other training, and count one denoiser call per member.",
    ]


def _source(table: PublishedTable) -> str:
    return f"{table.number} (average, {table.protocol} protocol)"


def _sorted(documents: Sequence[Document]) -> tuple[list[Document], list[Document]]:
    """Documents of accuracy, and models of those of cost."""
    accuracies = [d for d in documents if d["kind"] == "accuracy"]
    return accuracies, [m for d in documents if d["kind"] in _COSTS for m in d["models"]]


def _overall(document: Document) -> Document:
    rows: list[Document] = document["sets"]
    return next((row for row in rows if row["name"] == _MEAN), rows[0])


def _cost_of(document: Document, costs: Sequence[Document]) -> Document | None:
    sha256 = document["weights_sha256"]
    return next((model for model in costs if model["weights_sha256"] == sha256), None)


def _models(accuracies: Sequence[Document], costs: Sequence[Document]) -> Table:
    rows = []
    for each in accuracies:
        cost, row = _cost_of(each, costs), _overall(each)
        rows.append(
            (
                each["model"],
                amount(cost["cost"]["parameters"]) if cost else "-",
                amount(cost["cost"]["macs"]) if cost else "-",
                _share(cost, each["settings"]),
                interval(row, "f1"),
                fraction(row["auc"]),
                percentage(row["found"]),
                percentage(row["false_alarms"]),
            )
        )
    size = costs[0]["cost"]["size"]
    return Table(
        "Accuracy and cost",
        (
            "model",
            "parameters",
            f"MACs at {size}",
            "time / MiT-B3",
            "F1 [95 %]",
            "AUC",
            "found",
            "false alarms",
        ),
        tuple(rows),
    )


def _share(cost: Document | None, settings: Document) -> str:
    """Time over that of MiT-B3's encoder, drawn as the accuracy was; a dash if never timed."""
    against = cost and cost.get("against")
    drawn = (settings.get("steps"), settings.get("ensemble"))
    for each in against["shares"] if against else ():
        if (each["steps"], each["members"]) == drawn:
            return fraction(each["share"])
    return "-"


def _sets(accuracies: Sequence[Document]) -> Table:
    """F1, AUC, found and false alarms of each model, set by set."""
    keys = ("f1", "auc", "found", "false_alarms")
    titles = ("F1", "AUC", "found", "false alarms")
    shown = (fraction, fraction, percentage, percentage)
    by_model = [(d["model"], {row["name"]: row for row in d["sets"]}) for d in accuracies]
    names = dict.fromkeys(name for _, sets in by_model for name in sets)
    rows = []
    for name in names:
        first = next(sets[name] for _, sets in by_model if name in sets)
        cells = [
            write(sets[name][key]) if name in sets else "-"
            for key, write in zip(keys, shown, strict=True)
            for _, sets in by_model
        ]
        rows.append((name, f"{first['tampered']} + {first['authentic']}", *cells))
    headings = (f"{title}, {model}" for title in titles for model, _ in by_model)
    return Table("Models side by side", ("set", "pictures", *headings), tuple(rows))


def _meaning(accuracies: Sequence[Document], more: str) -> str:
    ways = dict.fromkeys(
        f"{d['model']}: {_threshold(d)}, {sampling_line(d['settings'])}" for d in accuracies
    )
    return (
        f"{'; '.join(ways)}.\n"
        "F1, AUC: of pixels, mean over tampered pictures, then over sets. found, false alarms:"
        f" tampered and authentic pictures called manipulated. {more}"
    )


def _threshold(document: Document) -> str:
    threshold = document["threshold"]
    return "each verdict's threshold" if threshold is None else f"pixels at {threshold:g}"
