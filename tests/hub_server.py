"""A small Hub on this machine: what the client asks of the real one, and the faults it may meet.

Files are served as the real Hub serves large ones: their address answers with the commit, the size
and the hash, and redirects to another server, which honours ranges and must never see a token.
"""

from __future__ import annotations

import hashlib
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest

PATIENCE = 10  # seconds that a handler waits for a test at the most


def commit_of(*parts: object) -> str:
    return hashlib.sha1(repr(parts).encode(), usedforsecurity=False).hexdigest()


@dataclass
class Repo:
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    token: str = ""  # who has not this one is sent away
    gated: bool = False

    def commit(self, files: dict[str, bytes], ref: str = "main") -> str:
        name = commit_of(len(self.commits), sorted(files))
        self.commits[name] = files
        self.refs[ref] = name
        return name


@dataclass
class Fault:
    """What goes wrong with the next `times` requests of this method.

    Kinds: ``status`` answers with `status`; ``cut`` closes after `after` bytes; ``stall`` goes
    silent after `after` bytes; ``corrupt`` changes the bytes and keeps their number; ``hold``
    answers only once `until` is set.
    """

    kind: str
    method: str = "GET"
    times: int = 1
    after: int = 0
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    until: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Asked:
    server: str  # "hub" or "store"
    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    status: int


@dataclass
class Hub:
    repos: dict[str, Repo] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    log: list[Asked] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    changed: threading.Condition = field(default_factory=threading.Condition)
    url: str = ""
    store: str = ""
    redirect: bool = True
    answers_with: str = ""  # a commit to answer with, whatever was asked for

    def repo(self, name: str) -> Repo:
        return self.repos.setdefault(name, Repo())

    def next_fault(self, method: str) -> Fault | None:
        with self.changed:
            for fault in self.faults:
                if fault.method == method and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None

    def note(self, asked: Asked) -> None:
        with self.changed:
            self.log.append(asked)
            self.changed.notify_all()

    def asked(self, method: str = "", server: str = "") -> list[Asked]:
        with self.changed:
            return [a for a in self.log if method in ("", a.method) and server in ("", a.server)]

    def wait_for(self, method: str, count: int) -> None:
        with self.changed:
            self.changed.wait_for(
                lambda: sum(a.method == method for a in self.log) >= count, PATIENCE
            )


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        """Stay silent."""

    @property
    def hub(self) -> Hub:
        return self.server.hub

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True  # the client has gone, as it may

    def do_HEAD(self) -> None:
        self._resolve()

    def do_GET(self) -> None:
        if self.server.kind == "store":
            self._stored(self.path.strip("/"))
        else:
            self._resolve()

    def _stored(self, digest: str) -> None:
        commits = [c for r in self.hub.repos.values() for c in r.commits.values()]
        for name, data in (file for commit in commits for file in commit.items()):
            if hashlib.sha256(data).hexdigest() == digest:
                return self._body(data, {"Content-Disposition": f'inline; filename="{name}";'})
        return self._answer(404, {}, 0)

    def _resolve(self) -> None:
        path = urlsplit(self.path).path  # a proxy is asked for whole addresses
        owner, name, what, revision, *parts = path.strip("/").split("/", 4) + [""] * 5
        repo = self.hub.repos.get(f"{owner}/{name}")
        if what != "resolve" or repo is None:
            self._refuse(404 if what == "resolve" else 400, "RepoNotFound")
            return
        if not self._allowed(repo):
            return
        commit = repo.refs.get(unquote(revision), unquote(revision))
        if commit not in repo.commits:
            self._refuse(404, "RevisionNotFound")
            return
        if unquote(parts[0]) not in repo.commits[commit]:
            self._refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
            return
        data = repo.commits[commit][unquote(parts[0])]
        facts = {
            "X-Repo-Commit": self.hub.answers_with or commit,
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
        }
        if self.hub.redirect:
            digest = hashlib.sha256(data).hexdigest()
            facts |= {
                "X-Linked-Etag": f'"{digest}"',
                "X-Linked-Size": str(len(data)),
                "Location": f"{self.hub.store}/{digest}",
            }
            fault = self.hub.next_fault(self.command)
            if fault is not None and not self._fails(fault):
                return
            self._answer(302, facts, 0)
        else:
            self._body(data, facts)

    def _allowed(self, repo: Repo) -> bool:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not repo.token or repo.token == token:
            return True
        if repo.gated:
            self._refuse(403, "GatedRepo")
        else:
            self._refuse(401, "RepoNotFound")
        return False

    def _refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self._answer(status, {"X-Error-Code": code, **(headers or {})}, 0)

    def _fails(self, fault: Fault) -> bool:
        """Play a fault that needs no body; return whether to go on."""
        if fault.kind == "status":
            self._answer(fault.status, fault.headers, 0)
            return False
        if fault.kind == "hold":
            fault.until.wait(PATIENCE)
        elif fault.kind == "stall" and self.command == "HEAD":
            self.hub.released.wait(PATIENCE)
        return True

    def _body(self, data: bytes, facts: dict[str, str] | None = None) -> None:
        fault = self.hub.next_fault(self.command)
        if fault is not None and not self._fails(fault):
            return
        wanted = self.headers.get("Range", "")
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        headers = {"Accept-Ranges": "bytes", **(facts or {})}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._answer(206 if start else 200, headers, len(data) - start)
        if self.command == "HEAD":
            return
        rest = data[start:]
        if fault is None or fault.kind == "hold":
            self.wfile.write(rest)
        elif fault.kind == "corrupt":
            self.wfile.write(rest[:-1] + bytes([rest[-1] ^ 1]))
        else:
            self.wfile.write(rest[: fault.after])
            self.wfile.flush()
            if fault.kind == "stall":
                self.hub.released.wait(PATIENCE)
            self.close_connection = True

    def _answer(self, status: int, headers: dict[str, str], length: int) -> None:
        self.hub.note(
            Asked(
                self.server.kind,
                self.command,
                self.path,
                {k.lower(): v for k, v in self.headers.items()},
                status,
            )
        )
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, hub: Hub, kind: str) -> None:
        self.hub, self.kind = hub, kind
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a Hub and its store, each on a port of its own."""
    hub = Hub()
    with Server(hub, "hub") as front, Server(hub, "store") as store:
        hub.url, hub.store = front.url, store.url
        for server in (front, store):
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield hub
        finally:
            hub.released.set()
            front.shutdown()
            store.shutdown()


def environment(hub: Hub, folder: Path) -> dict[str, str]:
    """Variables that send a client to this Hub, and keep its files in `folder`."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "XDG_CONFIG_HOME": str(folder / "config"),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }


@contextmanager
def client_of(hub: Hub, folder: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Send the client in this process, which has read its variables long ago, to this Hub.

    It waits nowhere, and asks for small pieces, so that a cut leaves some of them.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    for key, value in environment(hub, folder).items():
        patch.setenv(key, value)
    patch.delenv("HF_TOKEN", raising=False)
    patch.setattr(constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(constants, "HF_HUB_CACHE", str(folder / "hf" / "hub"))
    patch.setattr(constants, "HF_TOKEN_PATH", str(folder / "hf" / "token"))
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
    patch.setattr(time, "sleep", lambda _: None)
    yield
    close_session()
