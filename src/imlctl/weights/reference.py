"""Where weights are on the Hub: ``hf://owner/repo[@revision]/file``."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote

from imlctl.errors import WeightsError

SCHEME = "hf://"
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_commit(revision: str) -> bool:
    """Whether a revision is a commit, 40 hexadecimal digits, and so cannot move."""
    return bool(_COMMIT.fullmatch(revision))


@dataclass(frozen=True, slots=True)
class HubReference:
    """One file of a repository at one revision.

    Attributes:
        repo: ``owner/name``.
        file: Path within the repository.
        revision: A commit, a tag or a branch.
    """

    repo: str
    file: str
    revision: str = "main"

    def __post_init__(self) -> None:
        """Refuse what could name anything but a file of a repository."""
        if not _REPO.fullmatch(self.repo) or ".." in self.repo or "--" in self.repo:
            raise ValueError(f"{self.repo!r} is no repository of the form owner/name")
        if not _REVISION.fullmatch(self.revision) or ".." in self.revision:
            raise ValueError(f"{self.revision!r} is no commit, tag or branch")
        parts = self.file.split("/")
        if not self.file.isprintable() or "\\" in self.file or {"", ".", ".."} & set(parts):
            raise ValueError(f"{self.file!r} is no path within a repository")

    def at(self, revision: str) -> HubReference:
        """Return the same file at another revision."""
        return replace(self, revision=revision)

    def __str__(self) -> str:
        """Return the reference as `parse` reads it, with its revision spelled out."""
        return f"{SCHEME}{self.repo}@{quote(self.revision, safe='')}/{self.file}"


def parse(text: str) -> HubReference:
    """Read ``hf://owner/repo[@revision]/file``; a slash in a revision is written ``%2F``.

    Raises:
        WeightsError: The text has another form.
    """
    owner, _, rest = text.removeprefix(SCHEME).partition("/")
    head, _, file = rest.partition("/")
    name, at, revision = head.partition("@")
    try:
        return HubReference(f"{owner}/{name}", file, unquote(revision) if at else "main")
    except ValueError as error:
        raise WeightsError(
            f"is no reference to the Hub: {error}",
            source=text,
            remedy="Write hf://owner/repo/file or hf://owner/repo@revision/file.",
        ) from error
