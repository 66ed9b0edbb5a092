"""Tables of the README and the docs: what is written there is what was measured."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from imlctl.mask.decide import Verdict
from imlctl.mask.rates import measured
from imlctl.weights.registry import load_registry

ROOT = Path(__file__).resolve().parents[2]
KEPT = sorted((ROOT / "docs" / "measured").glob("*.json"))


@pytest.fixture(scope="module")
def tables() -> Any:
    path = ROOT / "scripts" / "make_tables.py"
    spec = importlib.util.spec_from_file_location("imlctl_make_tables", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_table_is_what_was_measured(tables: Any) -> None:
    names = set()
    for page in tables.pages():
        text = page.read_text("utf-8")
        names |= {name for found in tables.MARKED.finditer(text) for name in found[2].split()}
        assert text.count("<!-- table ") == text.count("<!-- end -->")
        assert tables.filled(text) == text, "run: python scripts/make_tables.py"
    assert names - {tables.VERDICTS} == {path.stem for path in KEPT}
    assert "f1-efficientiml" in names


@pytest.mark.parametrize("name", ["efficientiml", "diffiml"])
def test_cards_say_which_numbers_are_from_logs_and_which_a_command_repeats(name: str) -> None:
    card = (ROOT / "docs" / "model-cards" / f"{name}.md").read_text("utf-8")
    recipe = " ".join(card.partition("## Recipe\n")[2].partition("\n## ")[0].split())
    assert "come from the logs of training" in recipe
    assert "come from the command that is named there" in recipe
    assert "`imlctl bench --f1" in card.partition("## Accuracy")[2].partition("<!-- table")[0]


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_what_is_kept_is_of_the_weights_that_ship(path: Path) -> None:
    document = json.loads(path.read_text("utf-8"))
    for model in document.get("models", [document]):
        assert model["weights_sha256"] == load_registry().entries[model["model"]].sha256


def test_a_report_is_kept_under_its_name(
    tables: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    report = tmp_path / "report.json"
    model = {"model": "m", "pictures": [1, 2], "sets": [1 / 3, None]}
    report.write_text(json.dumps({"kind": "accuracy", "models": [model]}))
    kept = tables.keep(report)
    assert kept == tmp_path / "docs" / "measured" / "f1-m.json"
    assert json.loads(kept.read_text()) == {
        "kind": "accuracy",
        "models": [{"model": "m", "sets": [0.333333, None]}],
    }
    assert tables.name_of({"kind": "robustness", "model": "m"}) == "robustness-m"
    assert tables.name_of({"kind": "speed", "models": []}) == "speed"


def test_a_table_is_replaced_and_the_rest_kept(tables: Any) -> None:
    start = "<!-- table f1-efficientiml speed -->\n"
    text = f"before\n\n{start}old\n<!-- end -->\n\nafter\n"
    once = tables.filled(text)
    assert once.startswith(f"before\n\n{start}\n**Accuracy and cost**\n")
    assert once.endswith("<!-- end -->\n\nafter\n")
    assert tables.filled(once) == once


def test_rates_of_verdicts_are_a_table_of_their_own(tables: Any) -> None:
    fields = [("manipulated", 0.02), ("inconclusive", 0.4), ("nothing found", 0.9)]
    forgeries, authentic = [(v, share) for v, share in fields for _ in range(4)], ["nothing found"]
    rates = measured(
        "made up", [(Verdict(v), s) for v, s in forgeries], [Verdict(v) for v in authentic]
    )
    every = {"tampered": 12, "authentic": 1, "rates": rates}
    table, words = tables._with_rates(every)
    assert [row[0] for row in table.rows] == list(Verdict)
    assert [row[2].split()[0] for row in table.rows] == ["33%", "33%", "33%"]
    assert [row[-1] for row in table.rows] == ["-", "-", "0.33"]
    assert "1 authentic pictures and of 12 forgeries" in words
    (words,) = tables._with_rates({"rates": None})
    assert "not been measured" in words
