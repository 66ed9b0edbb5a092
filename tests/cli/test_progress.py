from __future__ import annotations

import pytest

from imlctl.cli.train import Progress, train_line

STEP = {
    "event": "step",
    "step": 20,
    "of": 80,
    "loss": 0.25,
    "per_second": 9.6,
    "eta": 7,
    "waiting": 0.1,
    "forward": 0.4,
    "backward": 0.5,
    "update": 0.0,
}
PACE = "loss 0.2500, 9.6 a second, waiting 10%, forward 40%, backward 50%, update 0%, 0:00:07 left"


def test_into_a_file_go_lines_and_of_steps_only_some(capsys):
    with Progress(False) as progress:
        for _ in range(5):
            progress(STEP)
        progress({"event": "regenerated", "done": 1, "total": 5})
        progress({"event": "validation", "step": 20, "auc": 0.51234})
    assert capsys.readouterr().err == f"step 20 of 80: {PACE}\nstep 20: auc 0.512\n"


def test_a_live_line_says_how_far_how_fast_and_where_the_time_goes(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    with Progress(False) as progress:
        progress(STEP)
        assert (progress.bar.n, progress.bar.total) == (20, 80)
    err = capsys.readouterr().err
    assert "20/80" in err
    assert PACE in err


def test_quiet_says_nothing(capsys):
    with Progress(True) as progress:
        progress(STEP)
        progress({"event": "validation", "step": 20})
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("event", "line"),
    [
        ({"event": "resumed", "step": 40, "of": 90}, "going on from step 40 of 90"),
        ({"event": "stopped", "step": 3, "of": 9}, "stopped at step 3 of 9"),
        ({"event": "skipped", "what": "a.jpg: empty"}, "left out: a.jpg: empty"),
        (
            {
                "event": "calibration",
                "photos": 9,
                "marked": 0.0123,
                "by_source": {"a": [1]},
                "rule": {"manipulated": 0.91, "inconclusive": 0.5},
            },
            "calibrated on 9 authentic photographs: manipulated from 0.910,"
            " inconclusive from 0.500, 1.23% of their pixels marked",
        ),
        (
            {"event": "round trip", "edges": {"thin": 0.5}, "latents": (0.25, 0.5), "x": None},
            "round trip: edges thin 0.500, latents 0.250 0.500",
        ),
    ],
)
def test_no_line_shows_a_raw_table(event, line):
    assert train_line(event) == line
