"""The outputs of one scan: their folder, its ledger, its reports and its manifest."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imlctl import atomic
from imlctl.errors import OutputError, UsageError
from imlctl.scan import custody
from imlctl.scan.ledger import Coverage, Ledger, ledger_path, ledgers
from imlctl.scan.naming import is_folder, plan

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from typing import Self

    from imlctl.scan.custody import Finding
    from imlctl.scan.find import Discovery
    from imlctl.scan.ledger import Row
    from imlctl.scan.naming import Job, Kind, Shard


@dataclass(frozen=True, slots=True)
class CaseFolder:
    """A folder that scans have written into, and its open ledgers: one, or one for each shard."""

    folder: Path
    ledgers: tuple[Ledger, ...]
    shard: Shard | None = None

    @classmethod
    def opened(cls, folder: Path, stack: ExitStack) -> Self:
        """Open all ledgers of a folder, to read from them.

        Raises:
            OutputError: There is none, one is damaged, or a scan is running.
        """
        found = ledgers(folder)
        if not found:
            raise OutputError(
                "there is no ledger of a scan in this folder",
                source=str(folder),
                remedy="Name the folder that was given to localize with -o.",
            )
        return cls(
            folder, tuple(stack.enter_context(Ledger(path, read_only=True)) for path in found)
        )

    def rows(self, *, previews: bool = True) -> Iterator[Row]:
        """Yield all that is done, in byte order of names within each ledger."""
        for ledger in self.ledgers:
            yield from ledger.rows(previews=previews)

    def coverage(self) -> Coverage:
        """Return how much of what was planned is done."""
        return sum((ledger.coverage() for ledger in self.ledgers), Coverage())


def rows(folder: Path, *, previews: bool = True) -> Iterator[Row]:
    """Yield what all scans into a folder have done; see `CaseFolder`."""
    with ExitStack() as stack:
        yield from CaseFolder.opened(folder, stack).rows(previews=previews)


@dataclass(slots=True)
class Outputs:
    """Files that one scan writes, and its ledger if they go into a folder.

    Attributes:
        out: Value of `-o`.
        many: Whether several inputs or a folder were given.
        force: Whether existing outputs may be replaced.
        resume: Whether those of an earlier scan may be.
        shard: The part of the scan.
        ledger: Open from `plan` or `begin` on.
    """

    out: str | None
    many: bool
    force: bool = False
    resume: bool = False
    shard: Shard | None = None
    ledger: Ledger | None = None

    @property
    def folder(self) -> Path | None:
        """The folder of the outputs, or None if there is none."""
        return Path(self.out) if self.out and is_folder(self.out, many=self.many) else None

    def case(self) -> CaseFolder | None:
        """Return the folder with its ledger, or None if there is none."""
        if self.folder is None or self.ledger is None:
            return None
        return CaseFolder(self.folder, (self.ledger,), self.shard)

    def needs_folder(self, option: str) -> None:
        """Raise UsageError for an option where outputs do not go into a folder."""
        if self.folder is None:
            remedy = "Name one with -o; for a single picture, end it in / ."
            raise UsageError("needs a folder of outputs", source=option, remedy=remedy)

    def plan(self, found: Discovery, kinds: Collection[Kind], stack: ExitStack) -> tuple[Job, ...]:
        """Give every picture its outputs; nothing is written yet.

        Raises:
            ImlctlError: Outputs are inputs or exist, or another scan is writing there.
        """
        ours: frozenset[Path] = frozenset()
        if self.folder is not None:
            path = ledger_path(self.folder, self.shard)
            if path.exists():
                self.ledger = stack.enter_context(Ledger(path))
                ours = self.ledger.planned() if self.resume else ours
        return plan(
            found.pictures,
            self.out,
            kinds,
            many=self.many,
            force=self.force,
            ours=ours,
            shard=self.shard,
        )

    def begin(
        self, jobs: Sequence[Job], found: Discovery, command: Sequence[str], stack: ExitStack
    ) -> Ledger | None:
        """Open the ledger, if there is a folder for it, and note what will be written."""
        if self.folder is not None:
            path = ledger_path(self.folder, self.shard)
            self.ledger = self.ledger or stack.enter_context(Ledger(path))
            self.ledger.begin(jobs, found.not_analysed, command)
            if self.shard is None:  # reports that a killed scan was writing; nobody else writes any
                atomic.sweep([self.folder], "")
        return self.ledger

    def write_manifest(self, command: Sequence[str], also: Sequence[Path] = ()) -> list[Finding]:
        """Write the manifest, and return the inputs that are not what they were."""
        if self.folder is None or self.ledger is None:
            raise ValueError("there is no ledger to take the manifest from")
        path = custody.manifest_path(self.folder, self.shard)
        rows = self.ledger.rows(previews=False)
        coverage = self.ledger.coverage()
        remarks = [f"left out: {each.path}: {each.reason}" for each in coverage.left_out]
        remarks += [coverage.incomplete] if coverage.incomplete else []
        return custody.write_manifest(path, rows, command, also=also, remarks=remarks)
