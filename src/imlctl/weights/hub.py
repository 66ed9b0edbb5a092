"""The Hugging Face Hub: files fetched into its cache or published, and plain words when that fails.

The client resumes a cut transfer, waits when the Hub asks it to, writes atomically, and honours
``HF_ENDPOINT``, ``HF_HUB_OFFLINE``, ``HF_HOME``, ``HF_TOKEN`` and proxies. It checks the size of
what arrived, never its hash: `pull` does.
"""

from __future__ import annotations

import errno
import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from imlctl import __version__
from imlctl.errors import WeightsError, first_line
from imlctl.weights.registry import Entry, sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imlctl.weights.registry import HubReference

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}
_LOG_IN = "Log in with `hf auth login` or set HF_TOKEN"


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file in the Hub's cache.

    Attributes:
        path: Where it is.
        revision: The commit it is of.
    """

    path: Path
    revision: str


def fetch(reference: HubReference, *, force: bool = False, quiet: bool = False) -> Fetched:
    """Fetch a file, unless the cache has it.

    Args:
        reference: Which one; a tag or a branch is resolved to its commit now.
        force: Fetch it again even if the cache has it.
        quiet: Show no progress.

    Raises:
        WeightsError: It cannot be had; says why and what to do.
    """
    from huggingface_hub import hf_hub_download

    _check_endpoint()
    try:
        with warnings.catch_warnings():
            # The client only warns of a disk that is too small, and then fills it.
            warnings.filterwarnings("error", "Not enough free disk space", UserWarning)
            path = hf_hub_download(
                reference.repo,
                reference.file,
                revision=reference.revision,
                force_download=force,
                library_name="imlctl",
                library_version=__version__,
                tqdm_class=_silent() if quiet else None,
            )
    except Exception as error:  # the client's HTTP library is its own choice, and so are its errors
        raise explain(error, reference) from error
    return _in_cache(path, reference)


def _check_endpoint() -> None:
    """Refuse an ``HF_ENDPOINT`` without a scheme, which the client would take for a path."""
    endpoint = os.environ.get("HF_ENDPOINT", "")
    if endpoint and not endpoint.startswith(("https://", "http://")):
        raise WeightsError(
            f"is {endpoint!r}, which is no web address",
            source="HF_ENDPOINT",
            remedy=f"Write https://{endpoint.split('://')[-1].strip('/')} or unset it.",
        )


def _silent() -> type[Any]:
    """Make a progress bar that shows nothing, whatever the terminal."""
    from tqdm.auto import tqdm

    class Silent(tqdm):  # type: ignore[misc]  # which has no types
        def __init__(self, *arguments: Any, **options: Any) -> None:
            options.pop("name", None)  # some versions of the client pass one
            super().__init__(*arguments, **options | {"disable": True})

    return Silent


def cached(reference: HubReference) -> Fetched | None:
    """Return a file if the cache has it; the Hub is not asked."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(reference.repo, reference.file, revision=reference.revision)
    return _in_cache(path, reference) if isinstance(path, str) else None


def _in_cache(path: str, reference: HubReference) -> Fetched:
    """A cached file lies at ``snapshots/<commit>/<file>``."""
    depth = len(PurePosixPath(reference.file).parts)
    return Fetched(Path(path), Path(path).parents[depth - 1].name)


def explain(error: Exception, reference: HubReference) -> WeightsError:
    """Turn what the client raised into what is wrong and what to do."""
    for cause in _chain(error):
        for rule in (_local, _of_the_hub, _of_the_way):
            found = rule(cause, reference)
            if found is not None:
                return WeightsError(found[0], source=str(reference), remedy=found[1])
    *_, last = _chain(error)  # wrappers say less than what they wrap
    return WeightsError(
        f"the connection to the Hub failed ({type(last).__name__}: {first_line(last)})",
        source=str(reference),
        remedy="Try again; if it fails again, report this message.",
    )


_Finding = tuple[str, str] | None  # what is wrong, and the remedy


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those behind it: some that the client raises say little themselves."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        yield error
        error = error.__cause__ or error.__context__


def _local(error: BaseException, reference: HubReference) -> _Finding:
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return (
            "is not in the cache, and HF_HUB_OFFLINE is set, so the Hub was not asked",
            "Unset HF_HUB_OFFLINE, or copy the cache from a machine that has the file.",
        )
    number = error.errno if isinstance(error, OSError) else None
    if number in _NO_ROOM or isinstance(error, UserWarning):
        return (
            f"does not fit on the disk ({first_line(error)})",
            "Free some space, or set HF_HOME to a folder on another disk; nothing partial is left.",
        )
    if number in _NOT_WRITABLE:
        return (
            f"cannot be written to the cache ({first_line(error)})",
            "Make that folder writable, or set HF_HOME to one that is.",
        )
    return None


def _of_the_hub(error: BaseException, reference: HubReference) -> _Finding:
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        FileMetadataError,
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page = f"{constants.ENDPOINT}/{reference.repo}"
    if isinstance(error, GatedRepoError):
        return (
            "is gated: whoever wants it must accept its terms",
            f"Accept them at {page}. {_LOG_IN} of that account, and pull again.",
        )
    if isinstance(error, RevisionNotFoundError):
        return f"the repository has no revision {reference.revision!r}", f"See {page}/commits."
    if isinstance(error, EntryNotFoundError) and isinstance(error, HfHubHTTPError):
        return f"the repository has no file {reference.file!r} there", f"See {page}/tree/main."
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, RepositoryNotFoundError) or status == 401:
        return (
            "there is no such repository, or it is private and this login may not see it",
            f"Check the name. {_LOG_IN} with a token that may read it, and pull again.",
        )
    if isinstance(error, FileMetadataError):
        return (
            f"{constants.ENDPOINT} does not answer as a Hub does",
            "Check HF_ENDPOINT, proxies and firewalls.",
        )
    if status == 403:
        return (
            "the Hub refused it (HTTP 403)",
            f"{_LOG_IN} with a token that has the right to it.",
        )
    if status == 429:
        return (
            "the Hub has had too many requests from here (HTTP 429), and still after waiting",
            f"Try again in a few minutes. {_LOG_IN}: the limit is higher then.",
        )
    if status is None:
        return None
    who = "has trouble of its own" if status >= 500 else "refused the request"
    return f"the Hub {who} (HTTP {status})", "Try again later."


def _of_the_way(error: BaseException, reference: HubReference) -> _Finding:
    from huggingface_hub import constants

    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "ProxyError" in kinds:
        return f"the proxy failed ({first_line(error)})", "Check HTTPS_PROXY and NO_PROXY."
    if kinds & {"TimeoutException", "Timeout", "TimeoutError"}:
        return (
            f"{constants.ENDPOINT} did not answer in time",
            "Try again; HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT set the patience.",
        )
    if kinds & {"NetworkError", "RemoteProtocolError", "ConnectionError"}:
        return (
            f"the connection to {constants.ENDPOINT} failed ({first_line(error)})",
            "Check the connection; HF_ENDPOINT names a mirror, HTTPS_PROXY a proxy.",
        )
    if "Consistency check failed" in str(error):
        return "arrived incomplete, so it was not kept", "Pull again."
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """Weights to publish, with repository, name and card.

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
    from imlctl.weights.load import load  # imports torch, which fetching does not need
    from imlctl.weights.selftest import attach

    _check_endpoint()
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
        raise WeightsError(f"cannot be published: {error}", source="push") from error


def _check_login(target: HubReference) -> None:
    from huggingface_hub import get_token

    if get_token() is None:
        raise WeightsError(
            "publishing needs a login to the Hub",
            source=str(target),
            remedy="Log in with `hf auth login`, or set HF_TOKEN to a token with write access.",
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
        raise explain(error, target) from error
    return commit.oid
