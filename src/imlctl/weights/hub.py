"""The Hugging Face Hub: files fetched into its cache, and plain words when that fails.

The client resumes a cut transfer, waits when the Hub asks it to, writes atomically, and honours
``HF_ENDPOINT``, ``HF_HUB_OFFLINE``, ``HF_HOME``, ``HF_TOKEN`` and proxies. It checks the size of
what arrived, never its hash: `pull` does.
"""

from __future__ import annotations

import errno
import os
import warnings
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from imlctl import __version__
from imlctl.errors import WeightsError, first_line

if TYPE_CHECKING:
    from imlctl.weights.registry import HubReference

_LOG_IN = "Log in with `hf auth login` or set HF_TOKEN"
# What an error means, and the remedy, by the names of its classes, system numbers, and HTTP status;
# the first that fits.
_FINDINGS: tuple[tuple[set[object], str, str], ...] = (
    ({"OfflineModeIsEnabled"},
     "is not in the cache, and HF_HUB_OFFLINE is set, so the Hub was not asked",
     "Unset HF_HUB_OFFLINE, or copy the cache from a machine that has the file."),
    ({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, "UserWarning"},
     "does not fit on the disk ({said})",
     "Free some space, or set HF_HOME to a folder on another disk; nothing partial is left."),
    ({errno.EACCES, errno.EPERM, errno.EROFS},
     "cannot be written to the cache ({said})",
     "Make that folder writable, or set HF_HOME to one that is."),
    ({"GatedRepoError"},
     "is gated: whoever wants it must accept its terms",
     "Accept them at {page}. " + _LOG_IN + " of that account, and pull again."),
    ({"RevisionNotFoundError"},
     "the repository has no revision {revision!r}", "See {page}/commits."),
    ({"EntryNotFoundError"},
     "the repository has no file {file!r} there", "See {page}/tree/main."),
    ({"RepositoryNotFoundError", 401},
     "there is no such repository, or it is private and this login may not see it",
     "Check the name. " + _LOG_IN + " with a token that may read it, and pull again."),
    ({"FileMetadataError"},
     "{hub} does not answer as a Hub does", "Check HF_ENDPOINT, proxies and firewalls."),
    ({403},
     "the Hub refused it (HTTP 403)", _LOG_IN + " with a token that has the right to it."),
    ({429},
     "the Hub has had too many requests from here (HTTP 429), and still after waiting",
     "Try again in a few minutes. " + _LOG_IN + ": the limit is higher then."),
    ({"trouble"},
     "the Hub has trouble of its own (HTTP {status})", "Try again later."),
    ({"any status"},
     "the Hub refused the request (HTTP {status})", "Check HF_ENDPOINT and the reference."),
    ({"TimeoutException", "Timeout", "TimeoutError"},
     "{hub} did not answer in time",
     "Try again; HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT set the patience."),
    ({"NetworkError", "RemoteProtocolError", "ConnectionError", "ProxyError"},
     "the connection to {hub} failed ({said})",
     "Check the connection; HF_ENDPOINT names a mirror, HTTPS_PROXY a proxy."),
    ({"incomplete"},
     "arrived incomplete, so it was not kept", "Pull again."),
)  # fmt: skip


class Fetched(NamedTuple):
    """A file in the Hub's cache, and the commit it is of."""

    path: Path
    revision: str


def fetch(reference: HubReference, *, force: bool = False, quiet: bool = False) -> Fetched:
    """Fetch a file, unless the cache has it; a tag or a branch is resolved to its commit now.

    Raises a `WeightsError` that says why it cannot be had and what to do.
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
        what = f"is {endpoint!r}, which is no web address"
        remedy = f"Write https://{endpoint.split('://')[-1].strip('/')} or unset it."
        raise WeightsError(what, source="HF_ENDPOINT", remedy=remedy)


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
    chain: list[BaseException] = []  # some errors say little, and those behind them more
    behind: BaseException | None = error
    while behind is not None and behind not in chain:
        chain.append(behind)
        behind = behind.__cause__ or behind.__context__
    last = chain[-1]
    what = f"the connection to the Hub failed ({type(last).__name__}: {first_line(last)})"
    unknown = what, "Try again; if it fails again, report this message."
    what, remedy = next(filter(None, (_finding(each, reference) for each in chain)), unknown)
    return WeightsError(what, source=str(reference), remedy=remedy)


def _finding(error: BaseException, reference: HubReference) -> tuple[str, str] | None:
    """Return what an error means and the remedy, by its kinds, system number and HTTP status."""
    from huggingface_hub.constants import ENDPOINT

    kinds = {kind.__name__ for kind in type(error).__mro__}
    number = error.errno if isinstance(error, OSError) else None
    status: int = getattr(getattr(error, "response", None), "status_code", 0)
    known = {
        "page": f"{ENDPOINT}/{reference.repo}",
        "hub": ENDPOINT,
        "revision": reference.revision,
        "file": reference.file,
        "status": status,
        "said": first_line(error),
    }
    signs = kinds | {status, number} | ({"any status"} if status else set())
    signs |= {"trouble"} if status >= 500 else set()
    signs |= {"incomplete"} if "Consistency check failed" in str(error) else set()
    signs -= set() if status else {"EntryNotFoundError"}  # of the cache
    for causes, what, remedy in _FINDINGS:
        if signs & causes:
            return what.format(**known), remedy.format(**known)
    return None
