"""Divide a scan among the jobs of an array."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from imlctl.errors import UsageError

if TYPE_CHECKING:
    from pathlib import PurePath


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several parts of a scan that together are the whole.

    A picture belongs to a part by the hash of its name below the folder that was given, so that
    each part finds the same pictures whatever comes or goes beside them, and on every machine.

    Attributes:
        index: Which part, from 1.
        count: How many parts there are.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise UsageError(
                f"there is no part {self.index} of {self.count}",
                source="--shard",
                remedy="Parts are counted from 1: --shard 1/8 to --shard 8/8.",
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``2/8``.

        Raises:
            UsageError: It is something else.
        """
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if match is None:
            raise UsageError(
                f"not a part of a scan: {text!r}", source="--shard", remedy="Write --shard 2/8."
            )
        return cls(int(match[1]), int(match[2]))

    @property
    def label(self) -> str:
        """For names of files: ``2-of-8``."""
        return f"{self.index}-of-{self.count}"

    def holds(self, name: PurePath) -> bool:
        """Return whether a picture belongs to this part."""
        digest = hashlib.sha256(b"/".join(map(os.fsencode, name.parts))).digest()
        return int.from_bytes(digest[:8]) % self.count == self.index - 1
