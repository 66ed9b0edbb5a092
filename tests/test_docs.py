"""The documentation can be typed: every line parses, and each that can run here is run."""

from __future__ import annotations

import importlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import typer
from PIL import Image

from imlctl import __version__
from imlctl.cli import app, main
from imlctl.resources import presets
from imlctl.train.config import load_config
from imlctl.weights.registry import parse_entries

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
MANUAL = ROOT / "scripts" / "man.toml"
UsageError: Any = typer.BadParameter.__base__

BLOCK = re.compile(r"(?ms)^```(sh|bash|console|shell)\n(.*?)^```$")
INLINE = re.compile(r"(?<!`)`(imlctl [^`]+)`(?!`)")
VARIABLE = re.compile(r"\$(?:\w+|\{[^}]*\}|\([^)]*\))")
# README's lines that are parsed and not run, by how they begin, with the reason.
ONLY_PARSED = {
    "pip install ": "fetches packages",
    "pipx install ": "fetches packages",
    "uv tool install ": "fetches packages",
    "make ": "sets up an environment of its own, from a package registry",
    "imlctl weights pull ": "fetches weights",
    "imlctl train ": "takes ten minutes to hours",
    "imlctl localize photo.jpg --weights runs/": "needs what training makes",
    "imlctl bench ": "takes minutes; tests/cli/test_bench.py runs it on small sets",
}
INTERNET = (
    "imlctl connects to the internet only for `imlctl weights pull`, and to download"
    " a model that you name to `imlctl distill --teacher`."
)
ENDS_A_COMMAND = {"|", "||", "&", "&&", ";", "(", ")", "<", ">", ">>", "2>"}


@dataclass(frozen=True)
class Line:
    """One use of imlctl in a shell: where, the whole line, and the words after ``imlctl``."""

    page: str
    text: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {self.text}"


def shell_lines(text: str) -> Iterator[str]:
    for line in text.replace("\\\n", " ").splitlines():
        yield line.strip().removeprefix("$ ")


def uses(page: str, line: str) -> Iterator[Line]:
    """Every time a line calls imlctl, behind wrappers and in pipes too."""
    if "imlctl" not in line:
        return
    lexer = shlex.shlex(VARIABLE.sub("1", line), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    command: list[str] = []
    for word in [*lexer, ";"]:
        if word not in ENDS_A_COMMAND:
            command.append(word)
            continue
        if "imlctl" in command and not {"install", "build", "clone"} & set(command):
            yield Line(page, line, tuple(command[command.index("imlctl") + 1 :]))
        command = []


def documented() -> Iterator[Line]:
    for path in PAGES:
        if path.name.startswith("add-a"):  # `tests/test_contributing.py` does what these say
            continue
        name = path.relative_to(ROOT).as_posix()
        for _, block in BLOCK.findall(path.read_text("utf-8")):
            for line in shell_lines(block):
                yield from uses(name, line)
    for page, table in tomllib.loads(MANUAL.read_text("utf-8"))["page"].items():
        for _, commands in table["examples"]:
            for line in shell_lines(commands):
                yield from uses(f"{page}(1)", line)
    for path in sorted((ROOT / "configs").rglob("*.toml")):
        comments = re.findall(r"(?m)^#(.*)$", path.read_text("utf-8"))
        for line in shell_lines("\n".join(comments)):
            if line.startswith("imlctl "):
                yield from uses(path.name, line)


LINES = list(documented())


@cache
def root() -> Any:
    return typer.main.get_command(app)


def descend(words: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
    """The command that the words name, and the words left over for it."""
    command = root()
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


def parse(words: tuple[str, ...]) -> None:
    """Parse as the command line does, and run nothing.

    Raises:
        UsageError: The command line would refuse it.
    """
    command, rest = descend(words)
    if hasattr(command, "commands"):
        known = {name for param in command.params for name in param.opts} | {"-h", "--help"}
        if not rest or rest[0] not in known:
            raise UsageError(f"no command {' '.join(rest)!r}")
        return
    above = root().make_context("imlctl", [], resilient_parsing=True)
    try:
        command.make_context(command.name, list(rest), parent=above)
    except typer.Exit:  # of an option such as --layouts, which needs nothing else
        return


@pytest.mark.parametrize("line", LINES, ids=str)
def test_every_command_line_parses(line: Line) -> None:
    parse(line.words)
    for word in line.words:  # what comes with the sources must be there
        if word.startswith(("configs/", "examples/", "docs/")):
            assert (ROOT / word).exists()
    command, rest = descend(line.words)
    takes_preset = command.params and command.params[0].name in ("config", "preset")
    if takes_preset and not rest[0].endswith(".toml"):
        assert rest[0] in presets()


def test_every_page_is_read() -> None:
    found = {line.page for line in LINES}
    assert {"README.md", "docs/tutorial.md", "distill.toml", "imlctl-localize(1)"} <= found
    assert len(LINES) > 60


@pytest.mark.parametrize(
    "words",
    [
        "localise photo.jpg",
        "localize photo.jpg --no-such-option",
        "localize photo.jpg --steps many",
        "localize photo.jpg --steps 0",
        "data index",
        "data index folder",
        "weights",
        "weights fetch mit-b0",
        "--no-such-option",
        "verify",
    ],
)
def test_the_parser_refuses_what_the_command_line_does(words: str) -> None:
    with pytest.raises(UsageError):
        parse(tuple(words.split()))


def test_uses_are_found_in_whole_lines() -> None:
    def words(line: str) -> list[tuple[str, ...]]:
        return [use.words for use in uses("page", line)]

    assert words("cat a | imlctl localize - -o - > 'b c.png'") == [("localize", "-", "-o", "-")]
    assert words("torchrun --no-python imlctl train a.toml -o b  # why") == [
        ("train", "a.toml", "-o", "b")
    ]
    assert words('imlctl verify a && X=1 imlctl verify "b c"') == [
        ("verify", "a"),
        ("verify", "b c"),
    ]
    assert words('srun imlctl localize a --shard "$I/8"') == [("localize", "a", "--shard", "1/8")]
    assert words('pip install imlctl; pip install "imlctl[heif]"') == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_and_options_that_prose_speaks_of_exist(path: Path) -> None:
    for text in INLINE.findall(re.sub(r"(?ms)^```.*?^```$", "", path.read_text("utf-8"))):
        for use in uses(path.name, " ".join(text.split())):
            command, rest = descend(use.words)
            options = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
            given = {word.partition("=")[0] for word in rest if re.match("--?[a-z0-9]", word)}
            assert given <= options | {"-h", "--help"}, text
            assert not (hasattr(command, "commands") and set(rest) - given), text


def anchors(page: Path) -> set[str]:
    """Return what links into a page may name, as GitHub makes it of the headings."""
    titles = re.findall(r"(?m)^#+ (.*)$", re.sub(r"(?ms)^```.*?^```$", "", page.read_text("utf-8")))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_within_the_sources_leads_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8")):
        if not re.match("[a-z]+:", link):
            file, _, anchor = link.partition("#")
            target = path.parent / file if file else path
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_source_file_that_prose_speaks_of_exists(path: Path) -> None:
    if path.name.startswith("add-a"):  # which make files of their own
        return
    places = (ROOT, ROOT / "src" / "imlctl")
    for name in re.findall(r"`([\w/.-]+/[\w.-]+\.(?:py|toml|json))`", path.read_text("utf-8")):
        assert any((place / name).exists() for place in places), name


@pytest.mark.parametrize(
    "page",
    ["README.md", "SECURITY.md", "docs/explanation.md", "docs/how-to.md", "scripts/man.toml"],
)
def test_where_the_internet_is_used_is_said_in_the_same_words_everywhere(page: str) -> None:
    text = " ".join((ROOT / page).read_text("utf-8").split())
    assert text.count(INTERNET) == 1
    assert len(re.findall(r"connects? to the internet", text)) == 1


@pytest.mark.parametrize("group", [[], ["data"], ["weights"]], ids=str)
def test_summaries_of_commands_fit_into_80_columns(group: list[str]) -> None:
    command = [sys.executable, "-m", "imlctl", *group, "--help"]
    environment = os.environ | {"COLUMNS": "80"}
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    _, _, commands = said.stdout.partition("Commands:\n")
    assert len(commands.splitlines()) >= 3
    assert "..." not in commands


def test_the_reference_is_not_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    made = importlib.import_module("make_reference").page()
    there = (ROOT / "docs" / "reference.md").read_text("utf-8")
    assert made == there, "run: python scripts/make_reference.py"


@pytest.fixture
def type_in(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    def call(line: Line, folder: Path) -> str:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["imlctl", *line.words])
        capfd.readouterr()
        code = None
        try:
            main()
        except SystemExit as end:
            code = end.code
        ran = capfd.readouterr()
        found = code == 1 and "--check" in line.words
        assert found or not code, f"{line}\n{ran.err}"
        return ran.out

    return call


def test_the_tutorial_can_be_followed(tmp_path: Path, type_in: Any) -> None:
    """In an empty folder: it needs nothing that does not come with the package."""
    lines = [line for line in LINES if line.page == "docs/tutorial.md"]
    said = [type_in(line, tmp_path) for line in lines]
    assert said[0].endswith("All is well.\n")
    for name in ("mask.png", "mask.overlay.png", "mask.heatmap.png", "other.png"):
        assert (tmp_path / "first" / name).is_file()
    made = {path.name for path in (tmp_path / "case").iterdir()}
    promised = set(re.findall(r"`case/([\w.-]+)`", (ROOT / "docs/tutorial.md").read_text("utf-8")))
    assert {"report.html", "SHA256SUMS", "launchpad.jpg.mask.png"} <= promised <= made
    assert said[-2].endswith("case/SHA256SUMS\n")


def readme_blocks() -> list[list[str]]:
    """Lines of README's shell blocks."""
    blocks = BLOCK.findall((ROOT / "README.md").read_text("utf-8"))
    return [[line for line in shell_lines(block) if line] for _, block in blocks]


def reason(line: str) -> str:
    """Return why a line is only parsed; nothing if it is run."""
    return next((why for begins, why in ONLY_PARSED.items() if line.startswith(begins)), "")


RUN = [run for block in readme_blocks() if (run := [line for line in block if not reason(line)])]


def test_every_line_of_the_readme_is_run_or_has_a_reason_not_to_be() -> None:
    lines = [line for block in readme_blocks() for line in block]
    assert {line for block in RUN for line in block} | {x for x in lines if reason(x)} == set(lines)
    assert len([line for block in RUN for line in block]) > 12
    for begins in ONLY_PARSED:
        assert any(line.startswith(begins) for line in lines), f"README has no {begins!r}"


@pytest.mark.parametrize(
    "line", [x for block in readme_blocks() for x in block if not list(uses("README.md", x))]
)
def test_readme_lines_of_other_programs_name_what_is_there(line: str) -> None:
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        target = re.compile(f"(?m)^{re.escape(words[1])}:")
        assert target.search((ROOT / "Makefile").read_text("utf-8"))
        if shutil.which("make"):
            told = subprocess.run(
                ["make", "-n", words[1]], cwd=ROOT, check=True, capture_output=True, text=True
            )
            does = {"demo": "imlctl localize --example -o out/mask.png", "test": "-m pytest"}
            assert does[words[1]] in told.stdout
    elif "torch" not in words:
        assert words[-1] in (".", f"imlctl-{__version__}-py3-none-any.whl")


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with the photographs that README speaks of; small parts of the example."""
    folder = tmp_path / "desk"
    with Image.open(ROOT / "examples" / "launchpad.jpg") as picture:
        for number, name in enumerate(("photo.jpg", "photos/in/a.jpg", "photos/b.jpg")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            picture.crop((300, 40 * number, 556, 40 * number + 192)).save(folder / name)
    return folder


@pytest.mark.parametrize("block", RUN, ids=lambda block: block[0])
def test_the_readme_works(block: list[str], desk: Path, tmp_path: Path, type_in: Any) -> None:
    """Each line is one of several things to do after the first, so each starts where it ended."""
    (first,) = uses("README.md", block[0])
    type_in(first, desk)
    for number, text in enumerate(block[1:]):
        copy = shutil.copytree(desk, tmp_path / f"copy {number}")
        (line,) = uses("README.md", text)
        if "|" not in text:
            type_in(line, copy)
        elif sys.platform != "win32":
            in_a_shell(text, copy)


def in_a_shell(line: str, folder: Path) -> None:
    called = shlex.join([sys.executable, "-c", "from imlctl.cli import main; main()"])
    script = f'imlctl() {{ {called} "$@"; }}\n{line}'
    subprocess.run(["bash", "-ec", script], cwd=folder, check=True, capture_output=True)
    with Image.open(io.BytesIO((folder / "mask.png").read_bytes())) as mask:
        assert mask.mode == "L"


def toml_blocks() -> list[str]:
    found = [re.findall(r"(?ms)^```toml\n(.*?)^```$", page.read_text("utf-8")) for page in PAGES]
    return [block for blocks in found for block in blocks]


def test_the_entry_to_publish_can_be_read() -> None:
    (block,) = (block for block in toml_blocks() if block.startswith("[weights"))
    block = block.replace("COMMIT", "a" * 40).replace("SHA-256", "b" * 64)
    entry = parse_entries(tomllib.loads(block)["weights"])["mine"]
    assert str(entry.reference) == f"hf://me/mine@{'a' * 40}/mine.safetensors"


def test_presets_of_the_docs_can_be_read(tmp_path: Path) -> None:
    blocks = [block for block in toml_blocks() if not block.startswith("[weights")]
    assert blocks
    for number, block in enumerate(blocks):
        preset = tmp_path / f"{number}.toml"
        preset.write_text(block, "utf-8")
        assert load_config(preset).optim.steps > 0


def test_the_python_of_the_readme_works(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    (code,) = re.findall(r"(?ms)^```python\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"))
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102
    result = names["result"]
    assert result.verdict in ("manipulated", "inconclusive", "nothing found")
    assert result.probability.shape == result.decision.mask.shape == (192, 256)
    assert 0 <= result.score <= 1


def test_the_page_on_notebooks_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / "notebook.md").read_text("utf-8")
    rng = np.random.default_rng(0)
    for name in ("photo.jpg", "other.png"):
        Image.fromarray(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"(?ms)^```python\n(.*?)^```$", text)
    assert len(blocks) > 5
    exec("\n".join(blocks), {})  # noqa: S102 - ours
    printed = capsys.readouterr().out
    assert "no file was hashed" in printed
    assert "other.png" in printed
    assert (tmp_path / "overlay.png").stat().st_size > 100
