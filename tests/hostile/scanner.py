"""A whole scan with a stand-in for the model, which kills itself at a chosen line.

    python scanner.py IN OUT WORKERS LINE

LINE counts the lines that are run, in all threads,
of `imlctl.scan`, `imlctl.atomic` and what writes records.jsonl; 0 lets the scan end, and prints
their number. It always resumes.
"""

import itertools
import json
import os
import signal
import sys
import threading
from contextlib import ExitStack
from functools import partial

from imlctl.cli.report import followed, write_reports
from imlctl.report import jsonl  # noqa: F401
from imlctl.scan import ahead, behind, ledger, naming, run, worker  # noqa: F401
from imlctl.scan.ahead import DecodeAhead
from imlctl.scan.discover import discover
from imlctl.scan.ledger import Key
from imlctl.scan.naming import Kind
from imlctl.scan.place import Place

WATCHED = ("/imlctl/scan/", "/imlctl/atomic.py", "/imlctl/report/jsonl.py", "/imlctl/cli/report.py")


class Work:
    """The result of a picture is its sha256; outputs have several kilobytes."""

    max_pixels = 10_000
    key = Key("weights", "settings")

    def localize(self, source):
        return source.photo.sha256

    def render(self, result, kind):
        return f"{kind}:{result}\n".encode() * 100

    def record(self, result):
        return {"schema_version": 1, "verdict": "nothing found", "sha256": result}

    def preview(self, result):
        return None

    def failure(self, job, error):
        return {"schema_version": 1, "verdict": "failed", "sha256": None, "error": error.what}


def watch(last):
    """Count lines of ours; die at `last`."""
    count = itertools.count(1)
    total = [0]

    def local(_frame, event, _argument):
        if event == "line":
            total[0] = next(count)
            if total[0] == last:
                os.kill(os.getpid(), signal.SIGKILL)
        return local

    def trace(frame, _event, _argument):
        name = frame.f_code.co_filename
        return local if any(part in name for part in WATCHED) else None

    threading.settrace(trace)
    sys.settrace(trace)
    return total


def main(source, out, workers, last):
    """Scan everything in a folder."""
    found = discover([source], recursive=True)
    total = watch(last)
    with ExitStack() as stack:
        place = Place(out, many=True, resume=True)
        jobs = place.plan(found, (Kind.JSON,), stack)
        decoders = stack.enter_context(DecodeAhead(workers)) if workers else None
        rows = place.begin(jobs, stack)
        outcomes = run.scan(jobs, Work(), ahead=decoders, ledger=rows, resume=True)
        resumed = sum(outcome.resumed for outcome in followed(outcomes, place))
        place.write_reports(partial(write_reports, page=False, jsonl=True, csv=False))
    sys.settrace(None)
    sys.stdout.write(json.dumps({"lines": total[0], "resumed": resumed}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
