"""What a scan prints, without a scan."""

import errno
import io
import re
import time
from pathlib import Path, PurePath

import pytest

from imlctl.cli.console import ReaderGoneError
from imlctl.cli.localize_options import CheckFor
from imlctl.cli.scan_printer import ScanPrinter
from imlctl.errors import DecodeError
from imlctl.scan.find import Picture
from imlctl.scan.naming import Job
from imlctl.scan.run import Outcome


def outcome(name, verdict="nothing found", more=(), **options):
    """Of a record, `more` tells some more or otherwise."""
    record = {"verdict": verdict, "share": 0.25, "score": 0.5, "rates": None, "cautions": []}
    record |= {"unreliable_share": None, "warnings": ["odd\x1b"], "facts": None, "timings": {}}
    record |= {"settings": {}} | dict(more)
    return Outcome(Job(Picture(Path(name), PurePath("x")), {}), record, **options)


OUTCOMES = (
    outcome("before.jpg", resumed=True),
    outcome("a.jpg"),
    outcome("b.jpg", "manipulated"),
    outcome("c.jpg", "failed", error=DecodeError("it is truncated", source="c.jpg"), trace="Tr"),
)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_tell_what_is_new(capsys):
    printer = ScanPrinter(4)
    printer.follow(OUTCOMES)
    out, err = capsys.readouterr()
    starts = [line.partition(" (")[0] for line in out.splitlines()]
    assert starts == ["nothing found: a.jpg", "manipulated: b.jpg"]
    assert err == "imlctl: error: c.jpg: it is truncated\n"
    assert (printer.seen, printer.resumed) == (4, 1)


RATES = {"authentic": {"count": 1, "of": 100}, "forgeries": {"count": 45, "of": 100}}


@pytest.mark.parametrize(
    ("verdict", "more", "told"),
    [
        ("nothing found", {"share": 0.004}, "(score 0.50; 0.40 % of pixels marked)"),
        ("manipulated", {"score": 0.9999}, "(score 0.99; 25 % of pixels marked)"),
        (
            "manipulated",
            {"rates": RATES},
            "(score 0.50; 1 in 100 authentic pictures scores this high, 45 in 100 forgeries do;"
            " 25 % of pixels marked)",
        ),
        (
            "nothing found",
            {"unreliable_share": 0.61, "cautions": ["too small to judge: 1 x 1 pixels"]},
            "(score 0.50; 25 % of pixels marked; cannot speak here: 61 % of this picture;"
            " caution: too small to judge: 1 x 1 pixels)",
        ),
        ("inconclusive", {"unreliable_share": 0.05}, "(score 0.50; 25 % of pixels marked)"),
    ],
)
def test_a_line_says_verdict_rates_and_cautions(capsys, verdict, more, told):
    ScanPrinter(1).follow([outcome("a.jpg", verdict, more=more)])
    assert capsys.readouterr().out == f"{verdict}: a.jpg {told}\n"


def test_check_looks_for_what_it_is_told_to():
    printer = ScanPrinter(1, silent=True)
    printer.follow([outcome("a.jpg"), outcome("b.jpg", "inconclusive")])
    assert not printer.found(CheckFor.MANIPULATED)
    assert printer.found(CheckFor.ANY)
    printer.follow([outcome("c.jpg", "manipulated")])
    assert printer.found(CheckFor.MANIPULATED)


def test_more_is_told_if_asked(capsys):
    ScanPrinter(4, verbose=True).follow(OUTCOMES)
    out, err = capsys.readouterr()
    assert out.startswith("nothing found: before.jpg ")
    assert "Tr" in err
    assert "a.jpg: odd\\x1b\n" in err


def test_a_terminal_shows_a_live_line(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)

    def slowly():
        for each in OUTCOMES:
            time.sleep(0.15)  # the line is drawn ten times a second
            yield each

    ScanPrinter(4, silent=True).follow(slowly())
    shown = terminal.getvalue()
    assert "3/4 [" in shown
    assert "1 manipulated, 2 nothing found" in shown
    assert "c.jpg: it is truncated" in shown


@pytest.mark.parametrize("total", [0, 1])
def test_one_picture_has_no_live_line(monkeypatch, total):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    ScanPrinter(total, silent=True).follow(OUTCOMES[1:2])
    assert terminal.getvalue() == ""


def test_the_table(capsys):
    printer = ScanPrinter(4)
    printer.follow(OUTCOMES)
    printer.began -= 4000
    capsys.readouterr()
    printer.summarize(planned=4)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("imlctl: 4 pictures in 1:06:40, 0.0 per second")
    assert lines[1:] == [
        "imlctl:   1 manipulated",
        "imlctl:   0 inconclusive",
        "imlctl:   2 nothing found",
        "imlctl:   1 failed",
        "imlctl:   1 done by an earlier scan",
    ]


@pytest.fixture
def terminal(monkeypatch):
    """Makes both streams terminals of some width; returns what is shown."""

    def make(columns):
        monkeypatch.setenv("COLUMNS", str(columns))
        shown = Terminal()
        monkeypatch.setattr("sys.stdout", shown)
        monkeypatch.setattr("sys.stderr", shown)
        return shown

    return make


LONG = "cases/2026/a folder of a friend/" + "IMG_" * 12 + ".jpg"
CAUTION = {"cautions": ["too small to judge: 1 x 1 pixels"], "unreliable_share": 0.61}


@pytest.mark.parametrize("many", [True, False])
@pytest.mark.parametrize("columns", [40, 80, 120])
def test_no_line_is_wider_than_the_terminal_and_the_verdict_comes_first(terminal, columns, many):
    shown = terminal(columns)
    error = DecodeError("it is truncated", source=LONG, remedy="Get the complete original again.")
    printer = ScanPrinter(2, many=many, live=False)
    printer.follow([outcome(LONG, "manipulated", CAUTION), outcome(LONG, "failed", error=error)])
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown.getvalue()).splitlines()
    assert lines[0].startswith("manipulated")
    for line in lines:  # only a name that is longer itself, which is not broken to be copied
        assert len(line) < columns or max(map(len, line.split())) > columns - 25
    assert sum(LONG[-12:] in line for line in lines) == 2  # each path once
    assert any("cannot speak here: 61 %" in line for line in lines)


@pytest.mark.parametrize(("variable", "coloured"), [("", True), ("NO_COLOR", False)])
def test_verdicts_are_coloured_on_terminals_unless_told_otherwise(
    terminal, monkeypatch, variable, coloured
):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    if variable:
        monkeypatch.setenv(variable, "1")
    shown = terminal(80)
    ScanPrinter(2, live=False).follow([outcome("a.jpg", "manipulated"), outcome("b.jpg")])
    assert ("\x1b[1;31mmanipulated\x1b[0m" in shown.getvalue()) is coloured
    assert "\x1b" not in shown.getvalue().splitlines()[1]  # nothing found is never green


def test_a_single_picture_says_what_it_waits_for(terminal):
    shown = terminal(80)
    printer = ScanPrinter(1, many=False)
    with printer.stages as stages:
        stages.set_description_str("tile 3 of 16")
        assert shown.getvalue().endswith("\rtile 3 of 16")
        printer.follow([outcome("a.jpg")])
    assert shown.getvalue().split("\r")[-1].startswith("nothing found  a.jpg")


def test_verbose_says_size_and_seconds(capsys):
    more = {"facts": {"width": 3000, "height": 2250}, "timings": {"decode": 0.2, "analyse": 19.93}}
    ScanPrinter(1, verbose=True).follow([outcome("a.jpg", more=more)])
    said = capsys.readouterr().err
    assert "a.jpg: 3000 x 2250 pixels, decode 0.20 s, analyse 19.93 s" in said


class Gone(io.StringIO):
    def write(self, text):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_a_scan_with_outputs_goes_on_when_nobody_reads(monkeypatch):
    monkeypatch.setattr("sys.stdout", Gone())
    printer = ScanPrinter(4, until_the_end=True)
    printer.follow(OUTCOMES)
    assert printer.seen == 4
    with pytest.raises(ReaderGoneError):
        ScanPrinter(4).follow(OUTCOMES)


def test_closed_streams_are_no_error(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.stderr", None)
    printer = ScanPrinter(4, verbose=True)
    printer.follow(OUTCOMES)
    printer.summarize(planned=4)
    assert printer.seen == 4


def test_an_incomplete_scan_is_called_so(capsys):
    printer = ScanPrinter(63)
    printer.follow(OUTCOMES)
    printer.summarize(planned=63)
    assert "INCOMPLETE: 4 of 63 pictures were analysed" in capsys.readouterr().err
