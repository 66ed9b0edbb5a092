"""Tables of the README and the docs: what is written there is what was measured."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

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


def test_every_table_is_what_its_command_prints(tables: Any) -> None:
    commands = []
    for page in tables.pages():
        text = page.read_text("utf-8")
        commands += [found[2] for found in tables.MARKED.finditer(text)]
        assert text.count("<!-- imlctl ") == text.count("<!-- end -->")
        assert tables.filled(text) == text, "run: python scripts/make_tables.py"
    shown = " ".join(commands)
    assert all(f"docs/measured/{path.name}" in shown for path in KEPT)
    assert "docs/measured/f1-efficientiml.json" in shown


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_what_is_kept_is_of_the_weights_that_ship(path: Path) -> None:
    document = json.loads(path.read_text("utf-8"))
    models = document.get("models") or document.get("arms") or [document]
    for model in models:
        assert model["weights_sha256"] == load_registry().entries[model["model"]].sha256


def test_a_report_is_kept_under_its_name(
    tables: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    report = tmp_path / "report.json"
    report.write_text(
        json.dumps({"kind": "accuracy", "model": "m", "pictures": [1, 2], "sets": [1 / 3, None]})
    )
    kept = tables.keep(report)
    assert kept == tmp_path / "docs" / "measured" / "f1-m.json"
    assert json.loads(kept.read_text()) == {
        "kind": "accuracy",
        "model": "m",
        "sets": [0.333333, None],
    }
    ablation = {"kind": "ablation", "what": "steps", "arms": [{"model": "m"}]}
    assert tables.name_of(ablation) == "ablation-steps-m"
    assert tables.name_of({"kind": "speed", "models": []}) == "speed"


def test_a_table_is_replaced_and_the_rest_kept(tables: Any) -> None:
    start = "<!-- imlctl bench --markdown --compare -->\n"
    text = f"before\n\n{start}old\n<!-- end -->\n\nafter\n"
    once = tables.filled(text)
    assert once.startswith(f"before\n\n{start}\n**PUBLISHED, not measured here: Table 2**\n")
    assert once.endswith("<!-- end -->\n\nafter\n")
    assert tables.filled(once) == once
