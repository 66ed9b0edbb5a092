"""Measured rates of each verdict, on forgeries and on authentic pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imlctl.mask.decide import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SIZES = ("under 1 %", "1 to 10 %", "over 10 %")  # of the picture that was edited
_BOUNDS = (0.01, 0.1)
_CONFIDENCE = 0.95
_HALVINGS = 60


@dataclass(frozen=True, slots=True)
class Proportion:
    """`count` of `of` pictures; ValueError where that cannot be."""

    count: int
    of: int

    def __post_init__(self) -> None:
        if not 0 <= self.count <= self.of:
            raise ValueError(f"a proportion of {self.count} in {self.of}")

    @property
    def share(self) -> float | None:
        """Fraction, 0 to 1; None of no pictures."""
        return self.count / self.of if self.of else None

    @property
    def interval(self) -> tuple[float, float]:
        """Exact 95 % interval."""
        return exact_interval(self.count, self.of)

    def to_dict(self) -> dict[str, Any]:
        """Return count, total, share and interval."""
        share = None if self.share is None else round(self.share, 5)
        interval = [round(bound, 5) for bound in self.interval]
        return {"count": self.count, "of": self.of, "share": share, "interval": interval}


@dataclass(frozen=True, slots=True)
class VerdictRates:
    """Measured rates of one verdict: of forgeries, of authentic pictures, of forgeries by size."""

    forgeries: Proportion
    authentic: Proportion
    by_size: tuple[Proportion, ...]  # see `SIZES`

    @property
    def ratio(self) -> float | None:
        """Rate among forgeries over that among authentic pictures; None where the latter is 0."""
        if not self.authentic.count or self.forgeries.share is None:
            return None
        return self.forgeries.share / (self.authentic.count / self.authentic.of)

    def to_dict(self) -> dict[str, Any]:
        """Return the counts with their intervals, and the ratio."""
        return {
            "forgeries": self.forgeries.to_dict(),
            "authentic": self.authentic.to_dict(),
            "by_size": {n: p.to_dict() for n, p in zip(SIZES, self.by_size, strict=True)},
            "ratio": None if self.ratio is None else round(self.ratio, 3),
        }


@dataclass(frozen=True, slots=True)
class Rates:
    """Measured rates of all verdicts, on real pictures."""

    pictures: str  # which ones, in words
    verdicts: Mapping[Verdict, VerdictRates]  # by the verdict that a picture gets exactly

    @classmethod
    def measured(
        cls,
        pictures: str,
        forgeries: Sequence[tuple[Verdict, float]],
        authentic: Sequence[Verdict],
    ) -> Rates:
        """Count the verdicts on forgeries, each with the edited share of it, and on the others."""
        every, sizes = [each for each, _ in forgeries], range(len(SIZES))
        groups = [[each for each, share in forgeries if size_of(share) == size] for size in sizes]

        def given(verdict: Verdict) -> VerdictRates:
            whole, real, *by_size = (
                Proportion(list(group).count(verdict), len(group))
                for group in (every, authentic, *groups)
            )
            return VerdictRates(whole, real, tuple(by_size))

        return cls(pictures, {verdict: given(verdict) for verdict in Verdict})

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as a card and a record keep them."""
        verdicts = {str(verdict): rates.to_dict() for verdict, rates in self.verdicts.items()}
        return {"pictures": self.pictures, **verdicts}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Rates:
        """Read what `to_dict` returned; shares, intervals and ratios are computed anew.

        Raises:
            ValueError, TypeError, KeyError: It is something else.
        """

        def given(value: Mapping[str, Any]) -> VerdictRates:
            parts = value["forgeries"], value["authentic"], *(value["by_size"][s] for s in SIZES)
            whole, real, *by_size = (Proportion(int(p["count"]), int(p["of"])) for p in parts)
            return VerdictRates(whole, real, tuple(by_size))

        return cls(str(values["pictures"]), {v: given(values[str(v)]) for v in Verdict})


def in_words(verdict: str, rates: Mapping[str, Any]) -> str:
    """Say how often pictures get a verdict, as a clause that can stand in brackets behind it.

    Args:
        verdict: One of `Verdict`.
        rates: As `VerdictRates.to_dict` returns them.
    """
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


def exact_interval(count: int, of: int, confidence: float = _CONFIDENCE) -> tuple[float, float]:
    """Two-sided exact interval of a proportion (Clopper and Pearson 1934); 0 to 1 of nothing."""
    tail = (1 - confidence) / 2
    low = 0.0
    if count:  # the share at which so many or more have a chance of `tail`
        low = turning_point(lambda share: 1 - _at_most(count - 1, of, share) < tail)
    return low, upper_limit(count, of, 1 - tail)


def upper_limit(count: int, of: int, confidence: float = _CONFIDENCE) -> float:
    """Upper one-sided limit: so few or fewer are seen with a chance of 1 - `confidence` there."""
    if count >= of:
        return 1.0
    return turning_point(lambda share: _at_most(count, of, share) > 1 - confidence)


def turning_point(below: Callable[[float], bool]) -> float:
    """Return where `below` turns from true to false, between 0 and 1."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return high


def _at_most(count: int, of: int, share: float) -> float:
    """Return the chance of at most `count` of `of`."""
    log_odds, start = math.log(share) - math.log1p(-share), of * math.log1p(-share)
    total = 0.0
    for k in range(count + 1):
        ways = math.lgamma(of + 1) - math.lgamma(k + 1) - math.lgamma(of - k + 1)
        total += math.exp(ways + k * log_odds + start)
    return min(total, 1.0)
