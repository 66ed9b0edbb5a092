"""Man pages: none stale, none missing, nothing left out, and no complaint from what shows them."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer

from imlctl.cli import app
from imlctl.errors import Exit

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "man"
WORDS = tomllib.loads((ROOT / "scripts" / "man.toml").read_text("utf-8"))
SECTIONS = ["NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS", "ARGUMENTS", "OPTIONS", "EXIT STATUS"]
SECTIONS += ["ENVIRONMENT", "FILES", "EXAMPLES", "SEE ALSO"]
OF_SOME = {"COMMANDS", "ARGUMENTS", "FILES"}  # the others every page has


def commands() -> Iterator[tuple[str, Any]]:
    """Page and command of everything that can be typed, straight from Typer."""
    waiting = [("imlctl", typer.main.get_command(app))]
    while waiting:
        page, command = waiting.pop()
        yield page, command
        waiting += [
            (f"{page}-{name}", each) for name, each in vars(command).get("commands", {}).items()
        ]


COMMANDS = dict(commands())
every_page = pytest.mark.parametrize("page", sorted(COMMANDS))


def text_of(page: str) -> str:
    """A page as somebody reads it: without fonts, its special characters resolved."""
    text = (PAGES / f"{page}.1").read_text("utf-8")
    text = re.sub(r"\\f[BIR]|\\&", "", text)
    for sign, meant in (("\\-", "-"), ("\\(aq", "'"), ("\\(ga", "`"), ("\\(ti", "~")):
        text = text.replace(sign, meant)
    return text


def sections(page: str) -> dict[str, str]:
    parts = re.split(r'(?m)^\.SH "?([A-Z ]+)"?\n', text_of(page))
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_no_page_is_stale_missing_or_left_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    made = importlib.import_module("make_man").pages()
    there = {path.name: path.read_text("utf-8") for path in PAGES.iterdir()}
    assert made.keys() == there.keys() == {f"{page}.1" for page in COMMANDS}
    stale = [name for name in made if made[name] != there[name]]
    assert stale == [], "run: python scripts/make_man.py"


@every_page
def test_every_section_is_there_and_in_order(page: str) -> None:
    found = list(sections(page))
    assert found == [title for title in SECTIONS if title in found]
    assert set(SECTIONS) - OF_SOME <= set(found)
    assert all(text.strip() for text in sections(page).values())


@every_page
def test_every_option_and_argument_is_explained_with_its_default(page: str) -> None:
    found = sections(page)
    heads = found["OPTIONS"].split(".TP\n")[1:] + found.get("ARGUMENTS", "").split(".TP\n")[1:]
    entries = {head.partition("\n")[0]: " ".join(head.split()) for head in heads}
    named = {name: head for head in entries for name in re.findall(r"(?:^|, )(-[^ ,]+)", head)}
    for param in COMMANDS[page].params:
        if param.param_type_name == "argument":
            shown = (param.metavar or param.name).upper()
            head = next(h for h in entries if h.startswith(shown))
        else:
            (head,) = {named[name] for name in (*param.opts, *param.secondary_opts)}
            assert ("[required]" in entries[head]) == param.required
        assert re.search(r"\[(default: [^]]+|required)[^]]*\]$", entries[head]), entries[head]
        if type(param.default) in (int, float, str) and param.default not in ("",):
            shown = param.show_default if isinstance(param.show_default, str) else param.default
            assert f"[default: {shown}" in entries[head]
    assert "--help" in named


@every_page
def test_exit_status_names_only_codes_that_exist(page: str) -> None:
    codes = re.findall(r"(?m)^\.TP\n(\d+)$", sections(page)["EXIT STATUS"])
    assert {Exit.OK, Exit.USAGE, Exit.INTERRUPTED} <= {Exit(int(code)) for code in codes}


@every_page
def test_related_pages_exist(page: str) -> None:
    others = re.findall(r"(imlctl[a-z-]*)\(1\)", sections(page)["SEE ALSO"])
    assert others
    assert set(others) < COMMANDS.keys()
    assert page not in others


def test_every_variable_that_the_sources_know_is_explained() -> None:
    """Those that are read, and those that messages speak of."""
    text = "\n".join(path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py"))
    mentioned = set(re.findall(r"\b(?:HF|XDG|IMLCTL|CUDA)_[A-Z_]*[A-Z]\b|\b[A-Z]+_PROXY\b", text))
    mentioned |= set(re.findall(r"environ(?:\.get\(|\[)\s*\"([A-Z_]+)\"", text))
    # PYTHONPATH is handed on to processes of ours. The others are names of the Hub's own module.
    mentioned -= {"PYTHONPATH", "HF_HUB_CACHE"}
    explained = {name for group in WORDS["environment"].values() for name in group}
    explained |= set(re.findall(r"\b[A-Z]+_PROXY\b", str(WORDS["environment"])))
    assert len(mentioned) > 5
    assert mentioned - explained == set()


def test_every_group_of_words_is_used() -> None:
    pages = WORDS["page"].values()
    assert set(WORDS["files"]) == {name for page in pages for name in page.get("files", [])}
    groups = {name for page in pages for name in page.get("environment", [])}
    assert set(WORDS["environment"]) == groups | {"terminal"}


@pytest.mark.parametrize(
    "check", [["mandoc", "-T", "lint", "-W", "warning"], ["groff", "-ww", "-man", "-Tutf8", "-z"]]
)
def test_formatters_have_nothing_to_complain_about(check: list[str]) -> None:
    if shutil.which(check[0]) is None:
        pytest.skip(f"{check[0]} is not installed")
    run = subprocess.run(
        [*check, *sorted(PAGES.glob("*.1"))], capture_output=True, text=True, check=False
    )
    assert (run.stdout, run.stderr) == ("", "")


def test_a_page_reads_as_it_should() -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("mandoc is not installed")
    show = ["mandoc", "-T", "ascii", "-O", "width=72", str(PAGES / "imlctl-weights-pull.1")]
    shown = subprocess.run(show, capture_output=True, text=True, check=True).stdout
    shown = re.sub(".\b", "", shown)  # bold is a letter over itself
    assert "imlctl weights pull WANTED... [OPTION]..." in shown
    assert "imlctl weights pull resnet50 --trust-on-first-use" in shown
    assert max(map(len, shown.splitlines())) < 100
