from __future__ import annotations

from imlctl.cli.progress import Progress

STEP = {"event": "step", "step": 20, "of": 80, "loss": 0.25, "per_second": 9.6, "eta": 7}


def test_events_are_lines_and_steps_are_not(capsys):
    with Progress(False) as progress:
        progress(STEP)
        progress({"event": "regenerated", "done": 1, "total": 5})
        progress({"event": "validation", "step": 20, "auc": 0.51234})
    assert capsys.readouterr().err == "validation: step 20, auc 0.512\n"


def test_a_live_line_says_how_far_and_how_fast(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Progress(False, "maps") as progress:
        progress(STEP)
        assert (progress.bar.n, progress.bar.total) == (20, 80)
    err = capsys.readouterr().err
    assert "20/80" in err
    assert "loss 0.2500, 10 maps/s, ETA 7 s" in err


def test_quiet_says_nothing(capsys):
    with Progress(True) as progress:
        progress(STEP)
        progress({"event": "validation", "step": 20})
    assert capsys.readouterr().err == ""


def test_a_line_may_be_one_s_own(capsys):
    with Progress(False, line=lambda event: f"at {event['step']}") as progress:
        progress({"event": "round trip", "step": 4})
    assert capsys.readouterr().err == "at 4\n"
