"""Keep what `imlctl bench --json` printed in docs/measured, and write the tables of the docs.

    imlctl bench --f1 data/val --json > a.json
    python scripts/make_tables.py a.json

Without arguments the tables are written anew from what is kept. A table lies in README.md or
under docs/ between ``<!-- table NAME... -->``, which names files of docs/measured, and
``<!-- end -->``. Of several names the models are shown side by side: on every set, or with their
cost if one of the names is ``speed``. With the word ``verdicts`` behind its name, a report of
accuracy is reduced to how often each verdict is given. A test compares.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imlctl.bench.page import (
    Table,
    amount,
    fraction,
    interval,
    percentage,
    proportion,
    sampling_line,
    to_markdown,
)
from imlctl.bench.pages import page_of
from imlctl.mask.decide import Verdict
from imlctl.mask.rates import SIZES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imlctl.bench.page import Block

    Document = dict[str, Any]

ROOT = Path(__file__).resolve().parents[1]
KEPT = Path("docs", "measured")
VERDICTS = "verdicts"
CALLED = ("forgeries", "authentic")
MARKED = re.compile(r"(<!-- table ([\w -]+?) -->\n).*?(<!-- end -->)", re.DOTALL)
MEANING = (
    "F1 (at 0.5) and AUC: of pixels, mean over forgeries, then over sets. found, alarms: shares of"
    " the forgeries and of the authentic pictures that are called manipulated."
)


def name_of(document: Document) -> str:
    """Return the name under which a report is kept."""
    kind = {"accuracy": "f1"}.get(document["kind"], document["kind"])
    if kind in ("speed", "flops"):  # one report for all models
        return kind
    model = document["models"][0] if "models" in document else document
    return f"{kind}-{model['model']}"


def keep(report: Path) -> Path:
    """Keep a report without its single pictures; return where."""
    document = json.loads(report.read_text("utf-8"))
    for model in document.get("models", ()):
        model.pop("pictures", None)
    path = ROOT / KEPT / f"{name_of(document)}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(_rounded(document), indent=1) + "\n", "utf-8")
    return path


def _rounded(value: Any) -> Any:
    """Six digits that count, so that a report is short and its changes are readable."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value


def pages() -> Iterator[Path]:
    """Yield the files that may hold tables."""
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").rglob("*.md"))


def filled(text: str) -> str:
    """Return a page with all its tables written anew."""
    return MARKED.sub(lambda found: f"{found[1]}\n{table(found[2].split())}\n{found[3]}", text)


def table(names: Sequence[str]) -> str:
    """Return the Markdown of one report, or of several side by side."""
    if names[-1] == VERDICTS:
        (name,) = names[:-1]
        document = json.loads((ROOT / KEPT / f"{name}.json").read_text("utf-8"))
        return to_markdown(_with_rates(document["models"][0]["sets"][-1]))
    documents = [json.loads((ROOT / KEPT / f"{n}.json").read_text("utf-8")) for n in names]
    if len(documents) == 1:
        return to_markdown(page_of(documents[0]))
    models = [m for d in documents if d["kind"] == "accuracy" for m in d["models"]]
    speeds = [d for d in documents if d["kind"] == "speed"]
    return to_markdown(_with_costs(models, speeds[0]) if speeds else _on_every_set(models))


def _with_costs(models: Sequence[Document], speed: Document) -> list[Block]:
    """One row for each model."""
    costs = speed["models"]
    _refuse_other_pictures(models)
    rows = []
    for model in models:
        cost = next(c for c in costs if c["model"] == model["model"])
        drawn = (model["settings"].get("steps"), model["settings"].get("ensemble"))
        shares = {
            (s["steps"], s["members"]): s["share"]
            for s in cost["against"]["shares"]
            if not s["tta"]
        }
        size = cost["cost"]["size"]
        seconds = {
            (s["steps"], s["members"]): s["median"]
            for s in cost["speed"]
            if s["size"] == size and not s["tta"]
        }
        row = _mean(model["sets"])
        rows.append(
            (
                model["model"],
                amount(cost["cost"]["parameters"]),
                amount(cost["cost"]["macs"]),
                f"{seconds[drawn]:.2f} s",
                fraction(shares[drawn]),
                interval(row, "f1"),
                fraction(row["auc"]),
                *(_called(model["sets"][-1], kind) for kind in CALLED),
            )
        )
    size, machine = costs[0]["cost"]["size"], speed["machine"]
    columns = ("model", "parameters", f"MACs at {size}", f"time at {size}", "/ MiT-B3")
    drawn = "; ".join(f"{m['model']}: {sampling_line(m['settings'])}" for m in models)
    every = models[0]["sets"][-1]
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    words = (
        f"{every['tampered']} forgeries, {every['authentic']} authentic pictures. {MEANING} MACs:"
        f" multiply-accumulates, every step of every member. time: one picture of {size}x{size},"
        f" {threads} of {machine['cpu'].replace('(R)', '')}; / MiT-B3: the same as a multiple of"
        f" SegFormer's MiT-B3 encoder in the same run. {drawn}."
    )
    rates = ("F1 [95 %]", "AUC", "found", "alarms")
    return [Table("Accuracy and cost", (*columns, *rates), tuple(rows)), words]


def _on_every_set(models: Sequence[Document]) -> list[Block]:
    """One row for each set."""
    _refuse_other_pictures(models)
    rows = []
    for each in zip(*(model["sets"] for model in models), strict=True):
        cells = [fraction(row[key]) for key in ("f1", "auc") for row in each]
        cells += [_called(row, kind) for kind in CALLED for row in each]
        first = each[0]
        rows.append((first["name"], f"{first['tampered']} + {first['authentic']}", *cells))
    kinds = ("F1", "AUC", "found", "alarms")
    columns = (f"{kind}, {model['model']}" for kind in kinds for model in models)
    words = f"{MEANING} pictures: forgeries + authentic."
    return [Table("Models side by side", ("set", "pictures", *columns), tuple(rows)), words]


def _refuse_other_pictures(models: Sequence[Document]) -> None:
    counts = [[(s["name"], s["tampered"], s["authentic"]) for s in m["sets"]] for m in models]
    if any(each != counts[0] for each in counts):
        raise SystemExit("the reports are of different pictures: measure all models on the same")


def _with_rates(every: Document) -> list[Block]:
    """One row for each verdict."""
    if every["rates"] is None:
        return ["The rates of these weights on real pictures have not been measured yet."]
    rows = []
    for verdict in Verdict:
        rates = every["rates"][verdict]
        ratio = "-" if rates["ratio"] is None else f"{rates['ratio']:.2g}"
        cells = [rates["authentic"], rates["forgeries"], *(rates["by_size"][s] for s in SIZES)]
        rows.append((str(verdict), *map(proportion, cells), ratio))
    columns = ("verdict", "authentic", "forgeries", *(f"edit {size}" for size in SIZES), "ratio")
    words = (
        f"Share of {every['authentic']} authentic pictures and of {every['tampered']} forgeries"
        " that get each verdict, with exact 95 % intervals; then of forgeries by the share of the"
        " picture that was edited. ratio: how many times as often forgeries get it."
    )
    return [Table("How often each verdict is given", columns, tuple(rows)), words]


def _called(row: Document, kind: str) -> str:
    return percentage(row["rates"] and row["rates"]["manipulated"][kind]["share"])


def _mean(sets: Sequence[Document]) -> Document:
    return sets[-2] if len(sets) > 1 else sets[0]


def main() -> None:
    """Keep the reports that are named, then write all tables."""
    for name in sys.argv[1:]:
        print(keep(Path(name)).relative_to(ROOT))
    for page in pages():
        before = page.read_text("utf-8")
        after = filled(before)
        if after != before:
            page.write_text(after, "utf-8")
            print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
