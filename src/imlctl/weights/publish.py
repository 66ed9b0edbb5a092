"""Publishing trained weights on the Hub, with their model card."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from imlctl.errors import WeightsError
from imlctl.weights import hub
from imlctl.weights.files import sha256_of
from imlctl.weights.load import load
from imlctl.weights.registry import Entry
from imlctl.weights.selftest import attach

if TYPE_CHECKING:
    from imlctl.weights.reference import HubReference


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What to publish, where, and as what.

    Attributes:
        weights: A file that imlctl wrote.
        card: The model card, Markdown; it becomes the repository's README.md.
        repo: ``owner/name``; made if there is none.
        name: What the registry will call the weights, and the file's name in the repository.
        licence: SPDX identifier.
        private: Make the repository private, if it has to be made.
    """

    weights: Path
    card: Path
    repo: str
    name: str
    licence: str
    private: bool = False


def push(publication: Publication) -> Entry:
    """Publish weights and card in one commit.

    The published file carries a self-test; if the given one has none, a copy is given it.

    Returns:
        The entry that a registry needs to pull exactly this.

    Raises:
        WeightsError: The weights are not valid, nobody is logged in, or the Hub refuses.
    """
    loaded = load(publication.weights)
    try:
        text = publication.card.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"the model card cannot be read ({error})", source=str(publication.card)
        ) from error
    draft = _draft(publication, loaded.card.architecture)  # before anything is sent
    _check_login(draft.reference)
    with TemporaryDirectory(prefix="imlctl-push-") as folder:
        copy = Path(folder) / draft.file
        copy.write_bytes(publication.weights.read_bytes())
        if not loaded.card.self_test:
            attach(copy)
        commit = _commit(draft.reference, copy, text, private=publication.private)
        size = copy.stat().st_size
        return replace(draft, revision=commit, sha256=sha256_of(copy), size=size)


def _draft(publication: Publication, architecture: str) -> Entry:
    """Return the entry, as far as it is known before the commit."""
    try:
        return Entry(
            name=publication.name,
            source="hub",
            repo=publication.repo,
            file=f"{publication.name}.safetensors",
            licence=publication.licence,
            architecture=architecture,
            card=f"https://huggingface.co/{publication.repo}",
        )
    except ValueError as error:
        raise WeightsError(f"cannot be published so: {error}", source="push") from error


def _check_login(target: HubReference) -> None:
    from huggingface_hub import get_token

    if get_token() is None:
        raise WeightsError(
            "nobody is logged in, and only who is may publish",
            source=str(target),
            remedy="Log in with `hf auth login` or set HF_TOKEN, with a token that may write.",
        )


def _commit(target: HubReference, file: Path, card: str, *, private: bool) -> str:
    """Upload both files; return the commit, 40 hexadecimal digits."""
    from huggingface_hub import CommitOperationAdd, HfApi

    try:
        with warnings.catch_warnings():
            # Remarks on the card's front matter; what is wrong with it is an error all the same.
            warnings.filterwarnings("ignore", "Warnings while validating metadata", UserWarning)
            api = HfApi(library_name="imlctl")
            api.create_repo(target.repo, private=private, exist_ok=True)
            commit = api.create_commit(
                target.repo,
                operations=[
                    CommitOperationAdd(target.file, str(file)),
                    CommitOperationAdd("README.md", card.encode()),
                ],
                commit_message=f"Publish {target.file}",
            )
    except Exception as error:  # the client's HTTP library is its own choice, and so are its errors
        raise hub.explain(error, target) from error
    return commit.oid
