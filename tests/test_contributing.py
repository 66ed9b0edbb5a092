"""The pages that say how to extend imlctl, each followed to the letter in a copy of the sources."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("add-a*.md"))
FENCE = re.compile(r"(?ms)^```(\w+)\n(.*?)^```$")
PLACE = re.compile(r"`((?:src|tests)/[\w/.-]+)`")


def steps(text: str) -> Iterator[tuple[str, str, str]]:
    """Kind, file and content of each block; a block without a file of its own goes on with it."""
    place, end = "", 0
    for block in FENCE.finditer(text):
        named = PLACE.findall(text[end : block.start()].rpartition("\n#")[2])
        place = named[-1] if named else place
        end = block.end()
        yield block[1], place, block[2]


def edit(path: Path, diff: str) -> None:
    """Make the change that a diff shows, at the one place where its old lines stand."""
    lines = diff.splitlines(keepends=True)
    assert all(line[0] in " +-\n" for line in lines)
    old = "".join(line[1:] for line in lines if line[0] in " -")
    new = "".join(line[1:] for line in lines if line[0] in " +")
    # The last line of context may be the beginning of a longer one.
    old, new = old.rstrip("\n"), new.rstrip("\n")
    text = path.read_text("utf-8")
    assert text.count(old) == 1, f"{path.name} no longer has, once:\n{old}"
    path.write_text(text.replace(old, new), "utf-8")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    for name in ("src", "tests", "examples"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", "weights.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


def run(line: str, folder: Path) -> str:
    words = shlex.split(line)
    if words[0] == "imlctl":
        called = [sys.executable, "-c", "from imlctl.cli import main; main()", *words[1:]]
    else:
        assert words[:3] == ["python", "-m", "pytest"]
        called = [sys.executable, *words[1:], "-q", "-p", "no:cacheprovider"]
    ran = subprocess.run(
        called,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_can_be_followed(page: Path, copy: Path) -> None:
    ran = []
    for kind, place, content in steps(page.read_text("utf-8")):
        if kind == "python":
            assert not (copy / place).exists()
            (copy / place).write_text(content, "utf-8")
        elif kind == "diff":
            edit(copy / place, content)
        else:
            assert kind == "sh"
            ran += [run(line, copy) for line in content.splitlines()]
    assert re.search(r"\d+ passed", ran[0])
    # The page changed the copy, and the copy is what was run.
    where = run_python("import imlctl; print(imlctl.__file__)", copy)
    assert Path(where.strip()).is_relative_to(copy)
    if page.stem == "add-a-writer":
        assert "launchpad.jpg" in (copy / "case" / "summary.txt").read_text("ascii")


def run_python(code: str, folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(folder / "src")}
    called = [sys.executable, "-c", code]
    return subprocess.run(
        called, cwd=folder, env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_every_page_is_reached_from_the_beginning() -> None:
    assert len(PAGES) == 3
    beginning = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    assert {path.name for path in PAGES} <= set(re.findall(r"\(docs/([\w-]+\.md)\)", beginning))


@pytest.mark.parametrize("diff", [" absent\n+new\n", " twice\n+new\n"])
def test_an_edit_that_does_not_fit_is_refused(diff: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("twice\nonce\ntwice\n")
    with pytest.raises(AssertionError, match="no longer has, once"):
        edit(tmp_path / "file", diff)


def test_an_edit_changes_one_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a = 1\nb = 2\nc(3)\n")
    edit(tmp_path / "file", "-b = 2\n+b = 4\n+d = 5\n c(\n")
    assert (tmp_path / "file").read_text() == "a = 1\nb = 4\nd = 5\nc(3)\n"
