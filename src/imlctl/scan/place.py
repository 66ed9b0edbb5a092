"""Where a scan writes, what it may replace there, and how it is found again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imlctl import atomic
from imlctl.errors import UsageError
from imlctl.scan import custody
from imlctl.scan.ledger import Ledger, ledger_path
from imlctl.scan.naming import is_folder, plan

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from contextlib import ExitStack

    from imlctl.scan.custody import Finding
    from imlctl.scan.discover import Discovery
    from imlctl.scan.ledger import Row
    from imlctl.scan.naming import Job, Kind
    from imlctl.scan.shard import Shard

    Rows = Callable[..., Iterator[Row]]  # with `previews`, see `Ledger.rows`


@dataclass(slots=True)
class Place:
    """The outputs of one scan, and its ledger if they go into a folder.

    Attributes:
        out: What `-o` says.
        many: Whether several inputs or a folder were given.
        force: Whether existing outputs may be replaced.
        resume: Whether those of an earlier scan may be.
        shard: The part of the scan.
        ledger: Open from `plan` or `begin` on; None if the outputs do not go into a folder.
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

    def needs_folder(self, option: str) -> None:
        """Refuse an option that makes sense only where outputs go into a folder.

        Raises:
            UsageError: They do not.
        """
        if self.folder is None:
            remedy = "Name one with -o; for a single picture, end it in / ."
            raise UsageError("needs a folder of outputs", source=option, remedy=remedy)

    def plan(self, found: Discovery, kinds: Collection[Kind], stack: ExitStack) -> tuple[Job, ...]:
        """Give every picture its outputs; nothing is written yet.

        Raises:
            ImlctlError: Outputs collide or exist, or another scan is writing there.
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

    def begin(self, jobs: Sequence[Job], stack: ExitStack) -> Ledger | None:
        """Open the ledger, if there is a folder for it, and note what will be written.

        Raises:
            OutputError: It cannot be made.
        """
        if self.folder is not None:
            path = ledger_path(self.folder, self.shard)
            self.ledger = self.ledger or stack.enter_context(Ledger(path))
            self.ledger.begin(jobs)
            if self.shard is None:  # reports that a killed scan was writing; nobody else writes any
                atomic.sweep([self.folder], "")
        return self.ledger

    def write_reports(self, write: Callable[[Path, Rows], list[Path]]) -> list[Path]:
        """Call what writes reports with the folder and the ledger's rows, if there is a folder."""
        if self.folder is None or self.ledger is None:
            return []
        return write(self.folder, self.ledger.rows)

    def write_manifest(self, command: Sequence[str], also: Sequence[Path] = ()) -> list[Finding]:
        """Write the manifest, and return the inputs that are not what they were.

        Args:
            command: The command line.
            also: More files to list, such as a report.

        Raises:
            OutputError: It cannot be written.
        """
        if self.folder is None or self.ledger is None:
            raise ValueError("there is no ledger to take the manifest from")
        path = custody.manifest_path(self.folder, self.shard)
        rows = self.ledger.rows(previews=False)
        return custody.write_manifest(path, rows, command, also=also)
