"""What a scan says: a line per picture, a live line on terminals, and a table at the end."""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer

from imlctl.cli.console import complain, note, printable
from imlctl.record import FAILED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from imlctl.cli.scan_options import CheckFor
    from imlctl.scan.run import Outcome

_SPEAKS_LITTLE = 0.1  # of a picture: where the map cannot be believed there, the line says so


@dataclass(slots=True)
class Follower:
    """Prints outcomes as they come, and counts them.

    Attributes:
        total: Number of pictures.
        as_json: Print whole records instead of lines.
        silent: Print nothing about pictures that went well.
        live: Show a live line where standard error is a terminal.
        verbose: Print warnings, tracebacks, and what an earlier scan did.
        counts: Pictures by verdict.
        seen: Pictures that were followed.
        resumed: Those of them that an earlier scan did.
    """

    total: int
    as_json: bool = False
    silent: bool = False
    live: bool = True
    verbose: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    seen: int = 0
    resumed: int = 0
    began: float = field(default_factory=time.monotonic)

    def follow(self, outcomes: Iterable[Outcome]) -> None:
        """Print each outcome as it comes."""
        from tqdm import tqdm

        hidden = not self.live or self.total < 2 or not sys.stderr.isatty()
        with tqdm(
            total=self.total, unit="picture", disable=hidden, dynamic_ncols=True, leave=False
        ) as bar:
            for outcome in outcomes:
                with bar.external_write_mode(file=sys.stderr):
                    self._tell(outcome)
                self.seen += 1
                self.counts[outcome.record["verdict"]] += 1
                self.resumed += outcome.resumed
                if outcome.resumed and not hidden:  # must not count towards the rate
                    bar.initial += 1
                bar.set_postfix_str(self._so_far(), refresh=False)
                bar.update()

    def _so_far(self) -> str:
        return ", ".join(f"{self.counts[verdict]} {verdict}" for verdict in _verdicts())

    def _tell(self, outcome: Outcome) -> None:
        record = outcome.record
        if outcome.error is not None:
            complain(str(outcome.error))
            if self.verbose and outcome.trace:
                sys.stderr.write(outcome.trace)
            return
        if outcome.resumed and not self.verbose:
            return
        if self.as_json:
            import json

            typer.echo(json.dumps(record, allow_nan=False))
        elif not self.silent:
            typer.echo(_line(outcome, record))
        for warning in record["warnings"] if self.verbose else ():
            note(f"{outcome.job.picture}: {warning}")

    def found(self, wanted: CheckFor) -> bool:
        """Tell whether any picture has a verdict that --check looks for."""
        from imlctl.cli.scan_options import CheckFor
        from imlctl.mask.decide import Verdict

        alarming = [Verdict.MANIPULATED]
        alarming += [Verdict.INCONCLUSIVE] if wanted is CheckFor.ANY else []
        return any(self.counts[verdict] for verdict in alarming)

    def summarize(self) -> None:
        """Print how many pictures had which verdict, and how long it took."""
        seconds = time.monotonic() - self.began
        done = self.counts.total()
        fresh = done - self.resumed
        rate = f", {fresh / seconds:.1f} a second" if seconds > 0 and fresh else ""
        rows = [(v, self.counts[v]) for v in _verdicts() if v != FAILED or self.counts[FAILED]]
        rows += [("of these done before", self.resumed)] if self.resumed else []
        width = len(f"{done}")
        note(f"{done} {'picture' if done == 1 else 'pictures'} in {_duration(seconds)}{rate}")
        for what, count in rows:
            note(f"  {count:{width}} {what}")


def _verdicts() -> tuple[str, ...]:
    from imlctl.mask.decide import Verdict

    return (*Verdict, FAILED)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _line(outcome: Outcome, record: Mapping[str, Any]) -> str:
    name = printable(outcome.job.picture)
    written = ", ".join(printable(p) for p in outcome.job.outputs.values() if p is not None)
    return f"{name}: {finding(record)}" + (f" -> {written}" if written else "")


def finding(record: Mapping[str, Any]) -> str:
    """Say the verdict of a record that has one, how much it is worth, and what to beware of."""
    from imlctl.mask.rates import in_words
    from imlctl.mask.render import percent, rounded_down

    verdict, rates, unreliable = record["verdict"], record["rates"], record["unreliable_share"]
    facts = [f"score {rounded_down(record['score'])}"]
    facts += [] if rates is None else [in_words(verdict, rates)]
    facts += [f"{percent(record['share'])} of pixels marked"]
    line = f"{verdict} ({'; '.join(facts)})"
    if unreliable is not None and unreliable >= _SPEAKS_LITTLE:
        line += f"; cannot speak here: {percent(unreliable)} of this picture"
    return line + "".join(f"; caution: {caution}" for caution in record["cautions"])
