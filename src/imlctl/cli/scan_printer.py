"""Terminal output of a scan: a line per picture, a live line, and a table at the end."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from imlctl.cli import console
from imlctl.cli.localize_options import CheckFor
from imlctl.errors import OutputError
from imlctl.mask.decide import Verdict
from imlctl.mask.rates import in_words
from imlctl.mask.render import percent, rounded_down
from imlctl.record import FAILED
from imlctl.report.facts import SILENT

if TYPE_CHECKING:
    from imlctl.scan.run import Outcome

_VERDICTS = (*Verdict, FAILED)
_WIDEST_VERDICT = max(map(len, Verdict))
_ROOMY = 70  # columns that leave room for more than a verdict, a number and a name


@dataclass(slots=True)
class ScanPrinter:
    """Prints outcomes as they come, and counts them by verdict."""

    total: int = 0  # number of pictures
    many: bool = True  # a folder or several inputs were given
    as_json: bool = False  # print whole records instead of lines
    silent: bool = False  # print nothing about pictures that went well
    live: bool = True  # show a live line where standard error is a terminal
    verbose: bool = False  # print sizes, times, warnings, traces, and what an earlier scan did
    until_the_end: bool = False  # go on when nobody reads the output any more
    outputs: bool = False  # go on, too, when it cannot be written, since there are files as well
    counts: Counter[str] = field(default_factory=Counter)
    seen: int = 0
    resumed: int = 0
    began: float = field(default_factory=time.monotonic)
    stages: Any = field(init=False)  # a line that says what a single picture waits for

    def __post_init__(self) -> None:
        from tqdm import tqdm

        hidden = self.many or not self.live or not console.is_terminal(sys.stderr)
        stream = console.Indestructible(sys.stderr)
        self.stages = tqdm(bar_format="{desc}", leave=False, disable=hidden, file=stream)

    def follow(self, outcomes: Iterable[Outcome]) -> None:
        """Print outcomes as they come; ReaderGoneError if nobody reads and nothing else is left."""
        from tqdm import tqdm

        hidden = not self.live or self.total < 2 or not console.is_terminal(sys.stderr)
        stream = console.Indestructible(sys.stderr)
        how = {"disable": hidden, "dynamic_ncols": True, "leave": False, "file": stream}
        with tqdm(total=self.total, unit="picture", **how) as bar:
            for outcome in outcomes:
                if not hidden:
                    bar.clear()
                self._print(outcome)
                self.seen += 1
                self.counts[outcome.record["verdict"]] += 1
                self.resumed += outcome.resumed
                if outcome.resumed and not hidden:  # must not count towards the rate
                    bar.initial += 1
                so_far = ", ".join(f"{self.counts[v]} {v}" for v in _VERDICTS if self.counts[v])
                bar.set_postfix_str(so_far, refresh=False)
                bar.update()

    def _print(self, outcome: Outcome) -> None:
        self.stages.close()
        record = outcome.record
        if outcome.error is not None:
            console.complain(str(outcome.error))
            if self.verbose and outcome.trace and sys.stderr is not None:
                sys.stderr.write(outcome.trace)
            return
        if outcome.resumed and not self.verbose:
            return
        try:
            if self.as_json:
                console.echo(json.dumps(record, allow_nan=False))
            elif not self.silent:
                console.echo(self._lines(outcome))
        except (console.ReaderGoneError, OutputError) as error:
            gone = isinstance(error, console.ReaderGoneError)
            if not (self.outputs or (self.until_the_end and gone)):
                raise
            if isinstance(error, OutputError):
                console.complain(str(error))
            self.silent, self.as_json = True, False
        if self.verbose:
            console.note(f"{outcome.job.picture}: {_particulars(record)}")
            for warning in record["warnings"]:
                console.note(f"{outcome.job.picture}: {warning}")

    def _lines(self, outcome: Outcome) -> str:
        record, name = outcome.record, console.printable(outcome.job.picture)
        verdict: str = record["verdict"]
        coloured = console.styled(verdict, verdict, sys.stdout)
        written = list(map(console.printable, outcome.job.files))
        if not console.is_terminal(sys.stdout):
            line = f"{verdict}: {name} ({'; '.join(_facts(record))})"
            return line if self.many or not written else f"{line} -> {', '.join(written)}"
        if not self.many:
            facts = [*_facts(record), *(f"wrote {path}" for path in written)]
            fits = len(verdict) + len(name) + 2 < console.columns()
            first = f"{coloured}  {name}" if fits else f"{coloured}\n{_indented(name)}"
            return "\n".join([first, *map(_indented, facts)])
        room = console.columns() - 1
        head = f"{verdict:{_WIDEST_VERDICT}}  "
        if room < _ROOMY:
            head += f"{rounded_down(record['score'])}  "
        else:
            share = percent(record["share"]).replace("less than ", "<").replace("more than ", ">")
            head += f"score {rounded_down(record['score'])}  {share:>7} marked  "
        left = max(8, room - len(head))
        line = head + (name if len(name) <= left else f"...{name[3 - left :]}")
        line = line.replace(verdict, coloured, 1)
        return "\n".join([line, *map(_indented, _cautions(record))])

    def found(self, wanted: CheckFor) -> bool:
        """Return whether any picture has a verdict that --check looks for."""
        alarming = [Verdict.MANIPULATED]
        alarming += [Verdict.INCONCLUSIVE] if wanted is CheckFor.ANY else []
        return any(self.counts[verdict] for verdict in alarming)

    def summarize(self, planned: int) -> None:
        """Print how many of the planned pictures had which verdict, and how long it took."""
        seconds = time.monotonic() - self.began
        done = self.counts.total()
        fresh = self.seen - self.resumed
        rate = f", {fresh / seconds:.1f} per second" if seconds > 0 and fresh > 1 else ""
        rows = [(v, self.counts[v]) for v in _VERDICTS if v != FAILED or self.counts[FAILED]]
        rows += [("done by an earlier scan", self.resumed)] if self.resumed else []
        width = len(f"{done}")
        took = f"{seconds:.1f} s" if seconds < 60 else timedelta(seconds=round(seconds))
        if done < planned:
            console.note(f"INCOMPLETE: {done} of {planned} pictures were analysed")
        console.note(f"{console.plural(done, 'picture')} in {took}{rate}")
        for what, count in rows:
            console.note(f"  {count:{width}} {what}")


def _indented(fact: str) -> str:
    return console.wrapped(fact, "  ", "    ")


def _facts(record: Mapping[str, Any]) -> list[str]:
    """Say how much a verdict is worth, and what to beware of."""
    facts = [f"score {rounded_down(record['score'])}"]
    if record["rates"] is not None:
        facts.append(in_words(record["verdict"], record["rates"]))
    facts.append(f"{percent(record['share'])} of pixels marked")
    return facts + _cautions(record)


def _cautions(record: Mapping[str, Any]) -> list[str]:
    unreliable = record["unreliable_share"]
    found = [f"caution: {caution}" for caution in record["cautions"]]
    if unreliable is not None and unreliable >= SILENT:
        found.insert(0, f"cannot speak here: {percent(unreliable)} of this picture")
    return found


def _particulars(record: Mapping[str, Any]) -> str:
    facts = record["facts"] or {}
    sides = [facts[side] for side in ("width", "height") if facts.get(side)]
    parts = [f"{' x '.join(map(str, sides))} pixels"] if sides else []
    parts += [f"{step} {seconds:.2f} s" for step, seconds in record["timings"].items()]
    return ", ".join(parts)
