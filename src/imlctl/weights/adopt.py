"""Making an entry of the user's registry out of a file or a reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from imlctl.errors import WeightsError
from imlctl.weights.files import sha256_of
from imlctl.weights.load import load
from imlctl.weights.reference import SCHEME, is_commit, parse
from imlctl.weights.registry import Entry


def describe(name: str, source: str, *, kind: str, sha256: str = "", **fields: Any) -> Entry:
    """Return an entry for weights of the user's own.

    Args:
        name: What to call them.
        source: A safetensors file, whose hash is taken now, or ``hf://owner/repo[@revision]/file``,
            which is pinned if its revision is a commit.
        kind: ``model``, ``encoder`` or ``teacher``; a file of kind model must load.
        sha256: What the hash must be.
        **fields: Further fields of `Entry`.

    Raises:
        WeightsError: The file is not valid, or the entry would contradict itself.
    """
    try:
        if source.startswith(SCHEME):
            found = parse(source)
            revision = found.revision if is_commit(found.revision) else ""
            if not revision and found.revision != "main":
                raise ValueError(f"{name}: the tag {found.revision!r} can move; give a commit")
            return Entry(
                name=name,
                source="hub",
                repo=found.repo,
                file=found.file,
                revision=revision,
                kind=kind,
                sha256=sha256,
                **fields,
            )
        return _of_file(name, Path(source), kind, sha256, fields)
    except ValueError as error:
        raise WeightsError(
            f"cannot be added: {error}", source=source, remedy="Correct that, and add it again."
        ) from error


def _of_file(name: str, path: Path, kind: str, expected: str, fields: dict[str, Any]) -> Entry:
    found = sha256_of(path)
    if expected and found != expected:
        raise WeightsError(
            f"has sha256 {found}, expected {expected}",
            source=str(path),
            remedy="It was not added; get the right file.",
        )
    if kind == "model":
        loaded = load(path, expected_sha256=found)
        fields["architecture"] = loaded.card.architecture
    return Entry(
        name=name,
        source="file",
        file=str(path.resolve()),
        kind=kind,
        sha256=found,
        size=path.stat().st_size,
        **fields,
    )
