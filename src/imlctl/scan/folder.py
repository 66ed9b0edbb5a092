"""The outputs of one scan: their folder, its ledger, its reports and its manifest."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from imlctl import atomic
from imlctl.errors import OutputError, UsageError
from imlctl.scan import custody
from imlctl.scan.ledger import Coverage, Ledger, absent_parts, ledger_path, ledgers
from imlctl.scan.naming import is_folder, plan_outputs

if TYPE_CHECKING:
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

    def rows(self, *, previews: bool = True) -> Iterator[Row]:
        """Yield all that is done, in byte order of names within each ledger."""
        for ledger in self.ledgers:
            yield from ledger.rows(previews=previews)

    def coverage(self) -> Coverage:
        """Return how much of what was planned is done."""
        found = sum((ledger.coverage() for ledger in self.ledgers), Coverage())
        return found if self.shard else replace(found, absent=absent_parts(self.ledgers))


@contextmanager
def open_case(folder: Path) -> Iterator[CaseFolder]:
    """Open all ledgers of a folder, to read; OutputError if one is missing, damaged or in use."""
    with ExitStack() as stack:
        found = [stack.enter_context(Ledger(path, read_only=True)) for path in ledgers(folder)]
        if not found:
            what = "there is no ledger of a scan in this folder"
            remedy = "Name the folder that was given to localize with -o."
            raise OutputError(what, source=str(folder), remedy=remedy)
        yield CaseFolder(folder, tuple(found))


@dataclass(slots=True)
class Outputs:
    """Files that one scan writes, and its ledger if they go into a folder."""

    out: str | None  # value of `-o`
    many: bool  # whether several inputs or a folder were given
    force: bool = False  # whether existing outputs may be replaced
    resume: bool = False  # whether those of an earlier scan may be
    shard: Shard | None = None  # the part of the scan
    # The folder with its ledger, open from `plan` or `begin` on; None without a folder
    case: CaseFolder | None = None

    @property
    def folder(self) -> Path | None:
        """The folder of the outputs, or None if there is none."""
        return Path(self.out) if self.out and is_folder(self.out, many=self.many) else None

    def need_a_folder_for(self, options: Sequence[str]) -> None:
        """Raise UsageError for the first option, if outputs do not go into a folder."""
        if options and self.folder is None:
            remedy = "Name one with -o; for a single picture, end it in / ."
            raise UsageError("needs a folder of outputs", source=f"--{options[0]}", remedy=remedy)

    def plan(self, found: Discovery, kinds: Collection[Kind], stack: ExitStack) -> tuple[Job, ...]:
        """Give every picture its outputs, unwritten yet; raises as `plan_outputs` or `Ledger`."""
        if self.folder and ledger_path(self.folder, self.shard).exists():
            self._open(self.folder, stack)
        return plan_outputs(
            found.pictures,
            self.out,
            kinds,
            many=self.many,
            force=self.force,
            ours=self.case.ledgers[0].planned() if self.case and self.resume else (),
            shard=self.shard,
        )

    def begin(
        self, jobs: Sequence[Job], found: Discovery, command: Sequence[str], stack: ExitStack
    ) -> Ledger | None:
        """Open the ledger, if there is a folder for it, and note what will be written."""
        if self.folder is None:
            return None
        ledger = self.case.ledgers[0] if self.case else self._open(self.folder, stack)
        ledger.begin(jobs, found.not_analysed, command)
        if self.shard is None:  # reports that a killed scan was writing; nobody else writes any
            atomic.sweep([self.folder], "")
        return ledger

    def _open(self, folder: Path, stack: ExitStack) -> Ledger:
        ledger = stack.enter_context(Ledger(ledger_path(folder, self.shard)))
        self.case = CaseFolder(folder, (ledger,), self.shard)
        return ledger


def write_case_checksums(
    case: CaseFolder, command: Sequence[str], also: Sequence[Path] = ()
) -> list[Finding]:
    """Write the manifest, and return the inputs that are not what they were."""
    coverage = case.coverage()
    remarks = [f"left out: {each.path}: {each.reason}" for each in coverage.left_out]
    remarks += [coverage.incomplete] if coverage.incomplete else []
    path, rows = custody.manifest_path(case.folder, case.shard), case.rows(previews=False)
    return custody.write_checksums(path, rows, command, also=also, remarks=remarks)
