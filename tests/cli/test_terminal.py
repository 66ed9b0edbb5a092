"""The command line on terminals that are narrow, on none at all, and on the Tab key."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import typer

from imlctl.cli import app, main
from imlctl.errors import Exit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Run = Callable[..., Any]

needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")  # noqa: PTH110
COMPLETE = """
import sys
from imlctl.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = {"torch", "cv2", "numpy", "PIL", "rich", "safetensors", "huggingface_hub"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""


def completions(line: str) -> list[str]:
    words = line.split(" ")
    asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    ran = subprocess.run(
        [sys.executable, "-c", COMPLETE],
        env=os.environ | asked | {"_IMLCTL_COMPLETE": "complete_bash"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("imlctl loc", {"localize"}),
        ("imlctl weights p", {"pull"}),
        ("imlctl localize --over", {"--overlay"}),
        ("imlctl localize --model ", {"efficientiml", "diffiml"}),
        ("imlctl train --device c", {"cpu", "cuda"}),
    ],
)
def test_the_tab_key_completes_and_imports_nothing_heavy(line: str, expected: set[str]) -> None:
    """As light as help, whose time `tests/test_packaging.py` measures."""
    assert set(completions(line)) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_every_shell_gets_a_script(shell: str, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setenv("_IMLCTL_COMPLETE", f"source_{shell}")
    ran = run()
    assert (ran.code, ran.err) == (0, "")
    assert f"complete_{shell}" in ran.out


def every_command() -> Iterator[tuple[str, ...]]:
    waiting: list[tuple[tuple[str, ...], Any]] = [((), typer.main.get_command(app))]
    while waiting:
        words, command = waiting.pop()
        yield words
        waiting += [((*words, n), c) for n, c in vars(command).get("commands", {}).items()]


@pytest.mark.parametrize("words", sorted(every_command()), ids=lambda words: " ".join(words))
def test_help_fits_a_narrow_terminal(
    words: tuple[str, ...], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    ran = run(*words, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert max(map(len, ran.out.splitlines())) <= 40
    if words and words[-1] == "localize":
        assert " Repeatable." in ran.out  # no word is broken that fits a line
    assert "\x1b" not in ran.out
    assert not re.search("[\u2500-\u257f]", ran.out)  # no boxes


def test_help_is_not_wider_than_can_be_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert 80 < max(map(len, run("localize", "--help").out.splitlines())) <= 100


@pytest.mark.parametrize("columns", ["40", "80"])
def test_lists_fit_and_lose_nothing(
    columns: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    ran = run("weights", "list")
    assert ran.code == 0
    assert max(map(len, ran.out.splitlines())) <= int(columns)
    for name in ("efficientiml (default)", "sd-vae-ft-mse", "Apache-2.0", "not known"):
        assert name in ran.out


def test_a_pipe_gets_no_colours_and_no_live_line(run: Run, photos: Any, weights: Any) -> None:
    ran = run("localize", photos, "-r", "--weights", weights)
    assert ran.code == 0
    assert len(ran.out.splitlines()) == 2  # a line for each picture, and nothing else
    assert "\x1b" not in ran.out + ran.err
    assert "\r" not in ran.out + ran.err


def test_an_error_is_one_line_that_names_the_remedy(run: Run) -> None:
    ran = run("localize", "absent.jpg")
    assert (ran.code, ran.out) == (3, "")
    assert ran.err.startswith("imlctl: error: absent.jpg: ")
    assert ran.err.count("\n") == 1


def test_wrong_usage_points_at_the_help(run: Run) -> None:
    ran = run("localize", "a.jpg", "--no-such-option")
    assert ran.code == 2
    assert "Usage: imlctl localize" in ran.err
    assert "No such option: --no-such-option" in ran.err


STREAMS = "from imlctl.cli import main; main()"


@pytest.mark.parametrize(
    ("redirection", "status"),
    [
        *(("<&-", 0), (">&-", 0), ("2>&-", 0), ("<&- >&- 2>&-", 0)),
        pytest.param(">/dev/full", 2, marks=needs_full),
        pytest.param("2>/dev/full", 0, marks=needs_full),
    ],
)
@pytest.mark.parametrize("arguments", ["localize --jobs 0 --check PHOTO", "--version"])
def test_closed_and_full_streams_never_exit_as_if_something_was_found(
    photos: Any, weights: Any, redirection: str, status: int, arguments: str
) -> None:
    words = arguments.replace("PHOTO", f"'{photos / 'a.jpg'}' --weights '{weights}'")
    command = f"'{sys.executable}' -c '{STREAMS}' {words} {redirection}"
    ran = subprocess.run(command, shell=True, capture_output=True, check=False)  # noqa: S602
    assert ran.returncode == status, ran.stderr
    assert b"Traceback" not in ran.stderr


def test_a_mask_for_a_closed_standard_output_is_refused(
    run: Run, photos: Any, weights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", None)
    command = ["localize", str(photos / "deep/b.png"), "-o", "-", "--weights", str(weights)]
    monkeypatch.setattr("sys.argv", ["imlctl", *command])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == Exit.USAGE


def test_an_unforeseen_error_is_a_bug_and_never_a_finding(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr("imlctl.scan.custody.manifests", fails)
    ran = run("verify", tmp_path)
    assert ran.code == Exit.INTERNAL == 70
    assert "internal error (ZeroDivisionError)" in ran.err
    assert "surprise" in ran.err


def test_a_reader_that_goes_away_does_not_end_a_scan(
    photos: Any, weights: Any, tmp_path: Any
) -> None:
    """As `| head -1` does."""
    for number in range(9):
        (photos / f"{number}.png").write_bytes((photos / "deep/b.png").read_bytes())
    words = ["localize", "--jobs", "0", photos, "-o", tmp_path / "out", "--weights", weights]
    command = [sys.executable, "-c", STREAMS, *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        process.wait()
    assert process.returncode == 0
    assert len(list((tmp_path / "out").glob("*.mask.png"))) == 10


@pytest.mark.skipif(not hasattr(signal, "SIGTERM"), reason="no signals")
def test_a_request_to_terminate_exits_as_an_interrupt(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(
        "imlctl.scan.custody.manifests", lambda _: os.kill(os.getpid(), signal.SIGTERM) or []
    )
    assert run("verify", tmp_path).code == Exit.INTERRUPTED


def test_the_options_of_localize_are_grouped_and_none_is_forgotten(run: Run) -> None:
    ran = run("localize", "--help")
    groups = re.split(r"^(\w+):$", ran.out, flags=re.MULTILINE)
    found = dict(zip(groups[1::2], groups[2::2], strict=True))
    assert list(found) == ["Arguments", "Input", "Output", "Model", "Scan", "Advanced", "Other"]
    assert "--weights" in found["Model"]
    assert re.findall(r"--[a-z-]+", found["Other"]) == ["--help"]
