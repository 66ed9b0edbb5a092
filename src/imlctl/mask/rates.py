"""Measured rates of each verdict, on forgeries and on authentic pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from imlctl.mask.decide import Verdict

if TYPE_CHECKING:
    Rates = dict[str, Any]  # of all verdicts, as a card and a record keep them: see `measured`

SIZES = ("under 1 %", "1 to 10 %", "over 10 %")  # of the picture that was edited
_BOUNDS = (0.01, 0.1)
_TAIL = 0.025  # on each side of an interval of 95 %
_HALVINGS = 60


def counted_share(count: int, of: int) -> dict[str, Any]:
    """Return ``count``, ``of``, ``share`` (None of nothing) and its exact 95 % ``interval``."""
    if not 0 <= count <= of:
        raise ValueError(f"a proportion of {count} in {of}")
    share = round(count / of, 5) if of else None
    interval = [round(bound, 5) for bound in exact_interval(count, of)]
    return {"count": count, "of": of, "share": share, "interval": interval}


def measured(
    pictures: str, forgeries: Sequence[tuple[Verdict, float]], authentic: Sequence[Verdict]
) -> Rates:
    """Count the verdicts on forgeries, each with its edited share, and on authentic pictures.

    Returned are ``pictures``, these in words, and by verdict the proportions of ``forgeries``, of
    ``authentic`` pictures and of forgeries ``by_size``, and the ``ratio`` of the first two, None
    where it is infinite.
    """
    by_size: list[list[Verdict]] = [[] for _ in SIZES]
    for verdict, share in forgeries:
        by_size[size_of(share)].append(verdict)
    groups = [[verdict for verdict, _ in forgeries], [*authentic], *by_size]
    given = {v: [(group.count(v), len(group)) for group in groups] for v in Verdict}
    return {"pictures": pictures, **{str(v): _rated(counts) for v, counts in given.items()}}


def checked(rates: Mapping[str, Any]) -> Rates:
    """Return what `measured` returned, with shares, intervals and ratios computed anew.

    Raises a ValueError, TypeError or KeyError for anything else.
    """
    found: Rates = {"pictures": str(rates["pictures"])}
    for verdict in Verdict:
        kept = rates[verdict]
        parts = kept["forgeries"], kept["authentic"], *(kept["by_size"][size] for size in SIZES)
        found[str(verdict)] = _rated([(int(part["count"]), int(part["of"])) for part in parts])
    return found


def _rated(counts: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Return the proportions of one verdict, and the ratio of the first two, None if infinite."""
    forgeries, authentic, *by_size = (counted_share(count, of) for count, of in counts)
    (count, of), (alarms, real) = counts[:2]
    return {
        "forgeries": forgeries,
        "authentic": authentic,
        "by_size": dict(zip(SIZES, by_size, strict=True)),
        "ratio": round(count / of / (alarms / real), 3) if of and alarms else None,
    }


def in_words(verdict: str, rates: Mapping[str, Any]) -> str:
    """Say how often pictures get a verdict, by its own rates, as a clause in brackets behind it."""
    forgeries = _of_pictures(rates["forgeries"])
    if verdict == Verdict.NOTHING_FOUND:
        return f"{forgeries} forgeries get this verdict too"
    authentic = _of_pictures(rates["authentic"])
    verb, what = ("score", "high") if verdict == Verdict.MANIPULATED else ("get", "verdict")
    ending = "s" if authentic.startswith(("1 ", "none")) else ""
    return f"{authentic} authentic pictures {verb}{ending} this {what}, {forgeries} forgeries do"


def _of_pictures(proportion: Mapping[str, Any]) -> str:
    """Say a proportion per hundred, or as one in so many where it is rarer; never as none."""
    count, of = proportion["count"], proportion["of"]
    if count in (0, of):
        return f"{'none' if count == 0 else 'all'} of {of}"
    share = count / of
    if share < 0.01:
        return f"1 in {round(1 / share)}"
    return f"{min(99, round(100 * share))} in 100"


def size_of(share: float) -> int:
    """Return the place in `SIZES` of an edit of this share of its picture."""
    return 0 if share < _BOUNDS[0] else 1 if share <= _BOUNDS[1] else 2


def exact_interval(count: int, of: int) -> tuple[float, float]:
    """Two-sided exact interval of a proportion (Clopper and Pearson 1934); 0 to 1 of nothing."""
    low, high = 0.0, 1.0
    if count:  # the share at which so many or more have a chance of the tail
        low = turning_point(lambda share: 1 - _at_most(count - 1, of, share) < _TAIL)
    if count < of:  # so many or fewer
        high = turning_point(lambda share: _at_most(count, of, share) > _TAIL)
    return low, high


def turning_point(below: Callable[[float], bool]) -> float:
    """Return where `below` turns from true to false, between 0 and 1."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return high


def _at_most(count: int, of: int, share: float) -> float:
    log_odds, start = math.log(share) - math.log1p(-share), of * math.log1p(-share)
    total = 0.0
    for k in range(count + 1):
        ways = math.lgamma(of + 1) - math.lgamma(k + 1) - math.lgamma(of - k + 1)
        total += math.exp(ways + k * log_odds + start)
    return min(total, 1.0)
